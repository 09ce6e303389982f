"""The wrapped parser of BasicSR: what it checks first, and what it hands on."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, RunPython
from options_utils import make_gopro

from dstnet_arch.errors import DataError, OptionsError, message_of
from dstnet_arch.plugin.options_parser import checked_parse_options

OURS = 'model_type: VideoRecurrentDeblurModel\nname: n\nnum_gpu: 0\n'
GOPRO = ROOT / 'options/train_DSTNet_GoPro.yml'


@pytest.fixture
def parse(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Call the wrapped function for a file with this text; BasicSR's own is a stub."""
    monkeypatch.setattr(sys, 'excepthook', sys.__excepthook__)

    def stock(root: str, is_train: bool) -> Any:
        return {'from': 'stock'}, argparse.Namespace()

    def parse(text: str, *arguments: str) -> Any:
        (tmp_path / 'o.yml').write_text(text)
        monkeypatch.setattr(sys, 'argv', ['train.py', '-opt', str(tmp_path / 'o.yml'), *arguments])
        return checked_parse_options(stock)('root', is_train=True)

    return parse


def test_other_peoples_options_pass_through(parse: Any) -> None:
    assert parse('model_type: SRModel\n', '--force_yml', 'a:b=1')[0] == {'from': 'stock'}


@pytest.mark.parametrize(
    ('text', 'forced', 'expected'),
    [
        (f'{OURS}trian: {{}}\n', ['name=m'], 'datasets: missing(.|\n)*trian: unknown key. Did you mean train'),
        (OURS, ['b:c=1', 'name=n'], 'no section b'),
        ('model_type: VideoRecurrentModel\nnetwork_g: {type: Deblur}\n', ['name=n'], 'for the released code'),
    ],
)
def test_our_options_are_checked_before_basicsr_reads_them(
    parse: Any, text: str, forced: list[str], expected: str
) -> None:
    with pytest.raises(OptionsError, match=expected):
        parse(text, *(part for entry in forced for part in ('--force_yml', entry)))


def test_basicsr_gets_the_corrected_options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from basicsr.utils.options import parse_options

    monkeypatch.chdir(tmp_path)
    make_gopro(tmp_path)
    text = GOPRO.read_text(encoding='utf-8')
    root = '\n    dataroot_lq: datasets/GoPro/test'
    for old, new in (
        ('\nmanual_seed: 0', "\nmanual_seed: '10'"),
        ('\n  total_iter: 600000', '\n  total_iter: "600000"'),
        (root, f'\n    <<: {{pin_memory: "true"}}{root}'),
    ):
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    (tmp_path / 'quoted.yml').write_text(text, encoding='utf-8')
    forced = ['logger:print_freq=7', 'train:optim_g:lr=1e-4', 'train:precision=none', 'val:val_freq=1e2', 'name=é']
    forced += ['train:scheduler:periods=[700000]', 'train:warmup_iter=-1']
    command_line = ['train.py', '-opt', 'quoted.yml', '--debug', '--force_yml', *forced]
    monkeypatch.setattr(sys, 'argv', command_line)
    opt, args = parse_options(str(tmp_path), is_train=True)
    assert (opt['manual_seed'], opt['datasets']['train']['manual_seed']) == (10, 10)
    assert (opt['train']['total_iter'], opt['datasets']['val']['pin_memory']) == (600_000, True)
    assert (opt['train']['optim_g']['lr'], opt['train']['scheduler']['periods']) == (1e-4, [700_000])
    assert (opt['train']['precision'], opt['train']['warmup_iter'], opt['name']) == (None, -1, 'debug_é')
    assert opt['val']['val_freq'] == 8, 'as BasicSR sets it for --debug'
    assert args.opt == 'quoted.yml'
    assert sys.argv == command_line


# Errors


def test_error_of_this_package_ends_the_program_with_status_2(run_python: RunPython, tmp_path: Path) -> None:
    code = (
        'from dstnet_arch.errors import *; install_excepthook(); install_excepthook()\n'
        'import sys; from dstnet_arch import errors\nraise eval(sys.argv[1])'
    )
    done = run_python('-c', code, 'errors.DataError("this one\\nand that one")', cwd=tmp_path)
    assert (done.returncode, done.stderr) == (2, 'error: this one\nand that one\n')
    done = run_python('-c', code, 'ValueError("another")', cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith('Traceback')


def test_message_without_the_traceback_of_a_loading_process() -> None:
    from torch._utils import ExceptionWrapper

    try:
        raise DataError('clip 3 is damaged: a/b.png')
    except DataError:
        caught = ExceptionWrapper(sys.exc_info(), 'in DataLoader worker process 0')
    with pytest.raises(DataError, match='Traceback') as error:
        caught.reraise()
    assert message_of(error.value) == 'error: clip 3 is damaged: a/b.png'


def test_help_does_not_wait_for_pytorch(run_python: RunPython, tmp_path: Path) -> None:
    done = run_python('-X', 'importtime', '-m', 'dstnet_arch', '--help', cwd=tmp_path)
    assert done.returncode == 0
    assert 'dstnet_arch' in done.stderr
    assert 'torch' not in done.stderr
