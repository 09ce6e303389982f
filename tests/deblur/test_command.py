"""``dstnet deblur``: results, settings, errors before the work, interruptions."""

from __future__ import annotations

import dataclasses
import io
import os
import signal
import subprocess
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from deblur_utils import Deblur, assert_same, files, load_all, make_frames, noise, restore_clip, save

from dstnet_arch.__main__ import main
from dstnet_arch.archs.checkpoint import load_checkpoint
from dstnet_arch.archs.dstnet_arch import DSTNet
from dstnet_arch.deblur.command import parse_arguments
from dstnet_arch.deblur.config import DeblurConfig
from dstnet_arch.deblur.run import StoppedError, run
from dstnet_arch.video.sinks import OutputOptions, open_sink


def test_folder_is_restored_like_a_clip(deblur: Deblur, weights: Path, tmp_path: Path) -> None:
    source = make_frames(tmp_path / 'blurry', 4)
    before = {path: path.read_bytes() for path in source.iterdir()}
    status, out, err = deblur(source, '-o', tmp_path / 'sharp')
    assert (status, err) == (0, '')
    assert files(tmp_path / 'sharp') == ['000.png', '001.png', '002.png', '003.png']
    assert_same(load_all(tmp_path / 'sharp'), restore_clip(weights, [noise(seed=t) for t in range(4)]))
    assert files(tmp_path) == ['blurry', 'sharp']
    assert {path: path.read_bytes() for path in source.iterdir()} == before
    assert f'{source}: 4 frames, 24x16\nNetwork: {weights}, fp32 (float32), cpu\n' in out
    assert 'whole frames; up to 4 of 4 states in main memory (0.0 GB)' in out
    assert f'{tmp_path / "sharp"}: 4 frames, 4 restored in ' in out


@pytest.mark.parametrize(
    'settings',
    [['--store', 'disk'], ['--interval', 'sqrt'], ['--store', 'device', '--interval', '2'], ['--tile', '32x32']],
    ids=' '.join,
)
def test_memory_settings_do_not_change_the_result(deblur: Deblur, tmp_path: Path, settings: list[str]) -> None:
    source = make_frames(tmp_path / 'blurry', 3, height=40, width=70)
    assert deblur(source, '-o', tmp_path / 'plain', '--tile', 'off')[0] == 0
    status, out, _ = deblur(source, '-o', tmp_path / 'other', *settings)
    assert status == 0
    assert ('tiles of 32x32' in out) == ('--tile' in settings)
    assert_same(load_all(tmp_path / 'other'), load_all(tmp_path / 'plain'))


@pytest.mark.parametrize('size', [(1, 1), (33, 17)], ids=str)
def test_part_of_a_video_of_any_size(deblur: Deblur, weights: Path, tmp_path: Path, size: tuple[int, int]) -> None:
    source = make_frames(tmp_path / 'blurry', 5, height=size[0], width=size[1])
    assert deblur(source, '-o', tmp_path / 'sharp', '--start', 2, '--end', 4)[0] == 0
    assert files(tmp_path / 'sharp') == ['002.png', '003.png']
    assert_same(load_all(tmp_path / 'sharp'), restore_clip(weights, [noise(*size, seed=t) for t in (2, 3)]))


def test_sixteen_bits_are_kept(deblur: Deblur, weights: Path, tmp_path: Path) -> None:
    source = make_frames(tmp_path / 'blurry', 2, dtype=np.uint16)
    assert deblur(source, '-o', tmp_path / 'sharp')[0] == 0
    clip = torch.stack([torch.from_numpy(noise(dtype=np.uint16, seed=t) / 65535).permute(2, 0, 1) for t in range(2)])
    with torch.no_grad():
        expected = load_checkpoint(weights).double()(clip[None])[0].clamp(0, 1).permute(0, 2, 3, 1).numpy() * 65535
    for restored, image in zip(load_all(tmp_path / 'sharp'), expected, strict=True):
        assert restored.dtype == np.uint16
        assert np.abs(restored - image).max() < 2


def test_arguments_become_one_configuration() -> None:
    assert parse_arguments(['in', '-o', 'out']) == (['in'], DeblurConfig('in', Path('out')))
    arguments = 'a b -o out --start 3 --end 1:02.5 --fps 30000/1001 --codec ffv1 --tile 64x32 --interval sqrt --compare'
    inputs, config = parse_arguments(arguments.split())
    assert (inputs, config.start, config.end, config.rate) == (['a', 'b'], 3, Fraction('62.5'), Fraction(30000, 1001))
    assert (config.encoding, config.tile) == (OutputOptions(codec='ffv1'), (64, 32))
    assert (config.interval, config.compare) == ('sqrt', 'split')


@pytest.fixture
def no_compiler_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Capture code as `torch.compile` does, and run what was captured without compilation."""
    compile_code = torch.compile
    monkeypatch.setattr(torch, 'compile', lambda function, **_: compile_code(function, backend='eager'))
    torch._dynamo.reset()


@pytest.mark.usefixtures('no_compiler_needed')
def test_compiled_network_gives_the_same_frames(
    deblur: Deblur, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = make_frames(tmp_path / 'blurry', 3)
    assert deblur(source, '-o', tmp_path / 'plain')[0] == 0
    with monkeypatch.context() as patch:
        interrupt(patch, 2)
        assert deblur(source, '-o', tmp_path / 'compiled', '--compile')[0] == 130
    status, _, err = deblur(source, '-o', tmp_path / 'compiled', '--resume')
    assert (status, 'compiled: yes, now None' in err) == (2, True)
    status, out, _ = deblur(source, '-o', tmp_path / 'compiled', '--compile', '--resume')
    assert (status, 'cpu, compiled\n' in out, '1 restored' in out) == (0, True, True)
    assert torch._dynamo.utils.counters['frames']['ok'] >= 2
    assert_same(load_all(tmp_path / 'compiled'), load_all(tmp_path / 'plain'))
    status, _, err = deblur(source, '-o', tmp_path / 'tiles', '--compile', '--tile', '32x32')
    assert (status, err) == (0, 'warning: --compile has no effect, because the frames are processed in tiles.\n')


# Errors before the work


def test_missing_compiler_is_an_error_before_the_work(
    deblur: Deblur, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(function: Any) -> Any:
        raise RuntimeError("InvalidCxxCompiler: No working C++ compiler found: (None, 'g++')\n\nSet TORCH_LOGS")

    monkeypatch.setattr(torch, 'compile', fail)
    status, _, err = deblur(make_frames(tmp_path / 'blurry', 1), '-o', tmp_path / 'sharp', '--compile')
    assert status == 2
    assert "compile here: InvalidCxxCompiler: No working C++ compiler found: (None, 'g++'). It needs a C++ c" in err
    assert files(tmp_path) == ['blurry']


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['http://127.0.0.1:9/a.mp4', '-o', 'out'], 'INPUT http://127.0.0.1:9/a.mp4 is a URL'),
        (['nowhere.mp4', '-o', 'out'], 'INPUT nowhere.mp4 does not exist'),
        (['blurry', '-o', '-'], 'pipes are not supported'),
        (['blurry', '-o', 'blurry'], 'this is the input'),
        (['blurry/*.png', '-o', 'blurry', '--resume'], 'this is the input'),
        (['blurry', '-o', 'out.png'], 'out.png'),
        (['blurry', '-o', 'full'], '--overwrite'),
        (['blurry', '-o', 'out', '--codec', 'ffv1'], 'apply to video files only'),
        (['blurry', '-o', 'out', '--precision', 'tf32'], 'tf32 needs an NVIDIA GPU'),
        (['blurry', '-o', 'out', '--temp-dir', 'nowhere'], '--temp-dir nowhere: there is no such folder'),
        (['blurry', '-o', 'out', '--device', 'gpu'], '--device gpu is not supported'),
        (['blurry', '-o', 'out', '--weights', 'nowhere.pth'], 'nowhere.pth'),
        (['blurry', '-o', 'taken', '--report'], 'taken_report.html exists'),
        (['blurry', '-o', 'taken', '--compare', '--overwrite'], 'notes.txt'),
        (['blurry', 'other', '-o', 'out.mp4'], 'several INPUTs need a folder'),
        (['blurry', 'other/../blurry', '-o', 'out'], 'would both be written to'),
    ],
    ids=lambda value: ' '.join(value[:-1] if value[-2] == '-o' else value) if isinstance(value, list) else '',
)
def test_errors_come_before_the_work(
    weights: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    make_frames(tmp_path / 'blurry', 2)
    save(tmp_path / 'full' / 'mine.png', noise())
    (tmp_path / 'taken_compare').mkdir()
    for name in ('file', 'taken_report.html', 'taken_compare/notes.txt'):
        (tmp_path / name).write_text('mine')
    before = sorted(tmp_path.rglob('*'))
    defaults = [] if '--weights' in arguments else ['--weights', str(weights)]
    assert main(['deblur', *arguments, *defaults]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count('error: ') == 1
    assert sorted(tmp_path.rglob('*')) == before


@pytest.mark.parametrize(
    'arguments',
    [
        ['--interval', '0'],
        ['--resume', '--overwrite'],
        ['--tile', '0x32'],
        ['--start', '1:'],
        ['--fps', '0'],
    ],
    ids=' '.join,
)
def test_wrong_arguments_are_refused(deblur: Deblur, tmp_path: Path, arguments: list[str]) -> None:
    with pytest.raises(SystemExit, match='2'):
        deblur(make_frames(tmp_path / 'blurry', 1), '-o', tmp_path / 'sharp', *arguments)


@pytest.mark.usefixtures('no_compiler_needed')
def test_nonfinite_values_are_an_error(deblur: Deblur, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = make_frames(tmp_path / 'blurry', 2)
    layer = 'the output of forward_dtff.refine.0'
    for cause, flags in (('the weights reconstruct.bias', []), (layer, []), (layer, ['--compile'])):
        net = DSTNet(num_feat=2, num_block=1, num_cwgdn=1).eval()
        if 'weights' in cause:
            net.reconstruct.bias.data[0] = float('nan')
        else:
            for parameter in net.forward_dtff.refine[0].parameters():
                parameter.data *= 1e30
        monkeypatch.setattr('dstnet_arch.deblur.run.load_checkpoint', lambda path, device, net=net: net)
        status, _, err = deblur(source, '-o', tmp_path / 'sharp', *flags)
        assert status == 2
        assert f'Frame 000: the network returned values that are not finite. First: {cause}' in err
    assert files(tmp_path) == ['blurry']


# Interruptions


def interrupt(monkeypatch: pytest.MonkeyPatch, position: int, error: type[BaseException] = KeyboardInterrupt) -> None:
    """Raise an error before a frame is written."""
    from dstnet_arch.deblur import run as run_module

    def open_interrupted(*args: Any, **kwargs: Any) -> Any:
        sink = open_sink(*args, **kwargs)
        write = sink.write

        def write_or_fail(t: int, restored: Any) -> None:
            if t == position:
                raise error
            write(t, restored)

        sink.write = write_or_fail  # type: ignore[method-assign]
        return sink

    monkeypatch.setattr(run_module, 'open_sink', open_interrupted)


@pytest.mark.parametrize('settings', [[], ['--interval', '2']], ids=['', 'interval'])
def test_interrupted_run_is_resumed(
    deblur: Deblur, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: list[str]
) -> None:
    source = make_frames(tmp_path / 'blurry', 6)
    assert deblur(source, '-o', tmp_path / 'complete')[0] == 0
    with monkeypatch.context() as patch:
        interrupt(patch, 3)
        status, _, err = deblur(source, '-o', tmp_path / 'sharp', *settings)
    assert status == 130
    kept = f'Finished frames are in {tmp_path / "sharp"}.partial; run the same command with --resume to continue.'
    assert err == f'Interrupted. {kept}\n'
    assert not (tmp_path / 'sharp').exists()

    for arguments, message in (
        ([], '--resume'),
        (['--resume', '--precision', 'bf16'], 'precision: fp32, now bf16'),
        (['--resume', '--end', 5], 'input: '),
    ):
        status, _, err = deblur(source, '-o', tmp_path / 'sharp', *arguments)
        assert (status, message in err) == (2, True)

    status, out, _ = deblur(source, '-o', tmp_path / 'sharp', '--resume')
    assert status == 0
    assert 'Continuing after 3 frames of an interrupted run.' in out
    assert '6 frames, 3 restored' in out
    assert files(tmp_path) == ['blurry', 'complete', 'sharp']
    for name in files(tmp_path / 'complete'):
        assert (tmp_path / 'sharp' / name).read_bytes() == (tmp_path / 'complete' / name).read_bytes()

    status, out, _ = deblur(source, '-o', tmp_path / 'sharp', '--resume', '--compare')
    assert (status, f'{tmp_path / "sharp"} is complete: 6 frames.' in out) == (0, True)
    assert files(tmp_path) == ['blurry', 'complete', 'sharp', 'sharp_compare']


def test_interruption_before_the_first_frame_names_no_folder(
    deblur: Deblur, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = make_frames(tmp_path / 'blurry', 3)
    with monkeypatch.context() as patch:
        interrupt(patch, 0)
        assert deblur(source, '-o', tmp_path / 'sharp')[::2] == (130, 'Interrupted.\n')
    monkeypatch.setattr('dstnet_arch.deblur.run.open_source', mock.Mock(side_effect=KeyboardInterrupt))
    assert deblur(source, '-o', tmp_path / 'sharp')[::2] == (130, 'Interrupted.\n')
    assert files(tmp_path) == ['blurry']


_KILLED = """
import os, signal, sys
from dstnet_arch.deblur import command, run
from dstnet_arch.video import sink
sink._SAVE_SECONDS = 0.0
open_sink = run.open_sink
def open_killed(*args):
    sink = open_sink(*args)
    save = sink.save
    sink.save = lambda position, state: (save(position, state), position == 4 and os.kill(os.getpid(), signal.SIGKILL))
    return sink
run.open_sink = open_killed
command.command(sys.argv[1:])
"""


@pytest.mark.slow
def test_killed_run_is_resumed(deblur: Deblur, weights: Path, tmp_path: Path) -> None:
    source = make_frames(tmp_path / 'blurry', 7)
    assert deblur(source, '-o', tmp_path / 'complete')[0] == 0
    arguments = [source, '-o', tmp_path / 'sharp', '--weights', weights, '--device', 'cpu']
    killed = subprocess.run([sys.executable, '-c', _KILLED, *map(str, arguments)], cwd=tmp_path, timeout=120)
    assert killed.returncode == -signal.SIGKILL
    assert not (tmp_path / 'sharp').exists()
    status, out, _ = deblur(source, '-o', tmp_path / 'sharp', '--resume')
    assert (status, 'after 4 frames' in out) == (0, True)
    for name in files(tmp_path / 'complete'):
        assert (tmp_path / 'sharp' / name).read_bytes() == (tmp_path / 'complete' / name).read_bytes()


# From Python, and on the terminal


def test_run_reports_progress_and_can_be_cancelled(weights: Path, tmp_path: Path) -> None:
    config = DeblurConfig(str(make_frames(tmp_path / 'blurry', 4)), tmp_path / 'sharp', str(weights), 'cpu')
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.output = tmp_path / 'other'  # type: ignore[misc]
    steps: list[tuple[str, int, int]] = []
    with pytest.raises(StoppedError) as stopped:
        run(config, lambda *step: steps.append(step), lambda: len(steps) == 6)
    assert steps == [
        *(('backward pass', done, 8) for done in range(1, 5)),
        *(('restoring', done, 8) for done in range(5, 7)),
    ]
    assert stopped.value.partial == tmp_path / 'sharp.partial'

    lines: list[str] = []
    config = dataclasses.replace(config, resume=True, report=True)
    result = run(config, lambda *step: steps.append(step), log=lines.append)
    assert [stage for stage, *_ in steps[6:]] == [
        *['backward pass'] * 3, *['restoring'] * 3, 'finishing', *['comparing'] * 4,
    ]  # fmt: skip
    assert result.paths == [tmp_path / 'sharp', tmp_path / 'sharp_report.html']
    assert (result.frames, result.restored, result.warnings) == (4, 3, [])
    assert len(lines) == 5
    with pytest.raises(StoppedError) as stopped:
        run(dataclasses.replace(config, compare='split'), cancel=lambda: True)
    assert stopped.value.partial is None
    assert files(tmp_path) == ['blurry', 'sharp', 'sharp_report.html']


def test_warnings_are_printed_and_returned(deblur: Deblur, weights: Path, tmp_path: Path) -> None:
    source = make_frames(tmp_path / 'blurry', 6)
    (source / '003.png').unlink()
    status, _, err = deblur(source, '-o', tmp_path / 'sharp')
    assert (status, err.count('warning: ')) == (0, 1)
    result = run(DeblurConfig(str(source), tmp_path / 'other', str(weights), 'cpu'))
    assert result.warnings == [err.strip().removeprefix('warning: ')]


def test_progress_without_a_terminal_is_lines(deblur: Deblur, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr('dstnet_arch.progress._SECONDS_BETWEEN_LINES', 0)
    status, _, err = deblur(make_frames(tmp_path / 'blurry', 3), '-o', tmp_path / 'sharp', '--compare')
    lines = [line.rpartition(',')[0] for line in err.splitlines() if not line.startswith('reading')]
    assert (status, '\r' in err) == (0, False)
    assert lines[:5] == [
        *(f'backward pass: {done} of 6 steps' for done in (2, 3)),
        *(f'restoring: {done} of 6 steps' for done in (4, 5, 6)),
    ]
    assert lines[-1] == 'comparing: 3 of 3 steps'
    assert deblur(tmp_path / 'blurry', '-o', tmp_path / 'quiet', '-q') == (0, '', '')


def test_names_that_the_terminal_cannot_encode(weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = make_frames(tmp_path / '映像 \x1b[31m', 2)
    stdout, stderr = (io.TextIOWrapper(io.BytesIO(), 'ascii') for _ in range(2))
    monkeypatch.setattr(sys, 'stdout', stdout)
    monkeypatch.setattr(sys, 'stderr', stderr)
    assert main(['deblur', str(source), '-o', str(tmp_path / 'é'), '--weights', str(weights), '--device', 'cpu']) == 0
    assert main(['deblur', str(source), '-o', str(tmp_path / 'é'), '--weights', str(weights), '--device', 'cpu']) == 2
    stdout.seek(0)
    text = stdout.read()
    assert '\\u6620' in text
    assert '\\x1b[31m: 2 frames' in text  # control characters could command the terminal
    assert os.path.isdir(tmp_path / 'é')
