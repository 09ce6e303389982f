"""dstnet export: exported files give the output of the network, or are not written."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torch.torch_version import TorchVersion

from dstnet_arch.__main__ import main
from dstnet_arch.archs.checkpoint import load_checkpoint
from dstnet_arch.archs.dstnet_arch import DSTNet
from dstnet_arch.archs.dstnet_plus_arch import DSTNetPlus
from dstnet_arch.archs.video_net import VideoNet
from dstnet_arch.arguments import Size
from dstnet_arch.errors import DSTNetError
from dstnet_arch.export import FORMATS, OPSET, ClipNet, export

TINY: dict[str, Any] = {'num_feat': 4, 'num_block': 1, 'num_cwgdn': 1}
TINY_PLUS: dict[str, Any] = {'num_feat': 4, 'num_block': 1, 'num_kernel_block': 1}


def randomise(net: VideoNet) -> VideoNet:
    """Weights large enough that every part of the network is seen in its result."""
    generator = torch.Generator().manual_seed(0)
    for parameter in net.parameters():
        parameter.data = 0.1 * torch.randn(parameter.shape, generator=generator)
    return net.eval()


@pytest.fixture(scope='module')
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp('weights') / 'tiny.pth'
    torch.save({'params': randomise(DSTNet(**TINY)).state_dict()}, path)
    return path


def restored(net: VideoNet, clip: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return net(clip)


def assert_same(actual: torch.Tensor, expected: torch.Tensor) -> None:
    assert actual.shape == expected.shape
    assert (actual - expected).abs().max() <= 2e-5 * max(1.0, float(expected.abs().max()))


def noise(*shape: int) -> torch.Tensor:
    return torch.rand(1, *shape, generator=torch.Generator().manual_seed(1))


@pytest.fixture(autouse=True, scope='module')
def no_logging() -> Iterator[None]:
    """Exporters log every step for whoever listens, as pytest does, which makes them many times slower."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


# What is exported


@pytest.mark.parametrize(
    'net',
    [
        DSTNet(**TINY),
        DSTNet(**TINY, prop_feat=6),
        DSTNet(**TINY, boundary='paper'),
        DSTNet(**TINY, spatial='gmlp'),
        DSTNet(**TINY, propagation='none', spatial='none'),
        DSTNet(**TINY, propagation='bilinear', fusion='blend', pixel_filter=False),
        DSTNetPlus(**TINY_PLUS),
    ],
    ids=lambda net: '-'.join(map(str, net.config.values())),
)
@pytest.mark.parametrize('shape', [(3, 3, 32, 48), (2, 3, 21, 37), (1, 3, 5, 1)], ids=str)
def test_clipnet_equals_the_network(net: VideoNet, shape: tuple[int, ...]) -> None:
    randomise(net)
    clip = noise(*shape)
    with torch.enable_grad():
        assert_same(ClipNet(net, shape[0])(clip), restored(net, clip))
        if min(shape[-2:]) >= 17:
            assert_same(ClipNet(net, shape[0], dynamic=True)(clip), restored(net, clip))


def test_clipnet_copies_the_network() -> None:
    net = DSTNet(**TINY).double().train()
    exported = ClipNet(net, 2)
    assert net.training
    assert all(p.requires_grad and p.dtype == torch.float64 for p in net.parameters())
    assert not any(p.requires_grad or p.dtype != torch.float32 for p in exported.parameters())


# Files, through the command


def run_command(weights: Path, *arguments: object) -> int:
    return main(['export', *map(str, arguments), '--weights', str(weights)])


@pytest.mark.slow
def test_export_onnx_of_any_size(weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    onnx = pytest.importorskip('onnx')
    pytest.importorskip('onnxscript')
    path = tmp_path / 'net.onnx'
    status = run_command(weights, 'onnx', '--dynamic', '--frames', 1, '-o', path)
    if TorchVersion(torch.__version__) < (2, 7):
        assert status == 2
        assert 'without --dynamic' in capsys.readouterr().err
        return
    assert status == 0
    out = capsys.readouterr().out
    assert out.count('the largest difference is') == 2
    assert 'ONNX, 1 frames of any size from 17x17' in out
    assert [entry.name for entry in tmp_path.iterdir()] == ['net.onnx']
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    facts = {p.key: p.value for p in model.metadata_props}
    assert json.loads(facts['dstnet.network']) == {'type': 'DSTNet', **DSTNet(**TINY).config}
    assert (facts['dstnet.frames'], facts['dstnet.size']) == ('1', 'any')
    assert str(Path.cwd()) not in str(model)
    assert_runs_any_size(lambda clip: run_onnx(path, clip), weights)


@pytest.mark.slow
def test_torch_export_of_any_size(weights: Path, tmp_path: Path) -> None:
    path = tmp_path / 'net.pt2'
    assert run_command(weights, 'torch_export', '--dynamic', '--frames', 1, '-o', path) == 0
    facts = {'dstnet.json': ''}
    assert_runs_any_size(torch.export.load(path, extra_files=facts).module(), weights)
    assert json.loads(facts['dstnet.json'])['frames'] == '1'


def assert_runs_any_size(run: Any, weights: Path) -> None:
    for size in ((17, 32), (64, 33), (80, 80)):
        clip = noise(1, 3, *size)
        assert_same(run(clip), restored(load_checkpoint(weights), clip))


def run_onnx(path: Path, clip: torch.Tensor) -> torch.Tensor:
    session = pytest.importorskip('onnxruntime').InferenceSession(str(path), providers=['CPUExecutionProvider'])
    return torch.from_numpy(session.run(['restored'], {'clip': clip.numpy()})[0])


@pytest.fixture(scope='module')
def small_onnx(weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two frames of 20x9."""
    pytest.importorskip('onnxruntime')
    pytest.importorskip('onnxscript')
    path = tmp_path_factory.mktemp('onnx') / 'net.onnx'
    assert run_command(weights, 'onnx', '--size', '20x9', '--frames', 2, '-o', path) == 0
    return path


@pytest.mark.slow
def test_export_onnx_of_one_size(weights: Path, small_onnx: Path, tmp_path: Path) -> None:
    assert pytest.importorskip('onnx').load(small_onnx).opset_import[0].version == OPSET
    clip = noise(2, 3, 9, 20)
    assert_same(run_onnx(small_onnx, clip), restored(load_checkpoint(weights), clip))
    # Sides that halve to odd ones. The file is compared with the network.
    export(randomise(DSTNetPlus(**TINY_PLUS)).half(), tmp_path / 'plus.onnx', 'onnx', 1, Size(54, 38))


@pytest.mark.slow
@pytest.mark.parametrize('num_frame', [1, 5])
def test_example_in_the_documentation(
    weights: Path, small_onnx: Path, tmp_path: Path, root: Path, run_python: Any, num_frame: int
) -> None:
    section = (root / 'docs' / 'export.md').read_text('utf-8').split('## ONNX Runtime', 1)[1]
    (tmp_path / 'example.py').write_text(section.split('```python\n', 1)[1].split('```', 1)[0], 'utf-8')
    frames = np.random.default_rng(0).integers(0, 256, (num_frame, 9, 20, 3), dtype=np.uint8)
    (tmp_path / 'frames').mkdir()
    for t, frame in enumerate(frames):
        assert cv2.imwrite(str(tmp_path / 'frames' / f'{t}.png'), frame[..., ::-1])
    done = run_python(tmp_path / 'example.py', small_onnx, 'frames', 'restored', cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    net = load_checkpoint(weights)
    # Which clip each frame has to come from; the one frame of a short video is there twice.
    origins = {1: [((0, 0), 0)], 5: [((0, 1), 0), ((0, 1), 1), ((2, 3), 0), ((2, 3), 1), ((3, 4), 1)]}[num_frame]
    assert len(list((tmp_path / 'restored').iterdir())) == num_frame
    for t, (clip, place) in enumerate(origins):
        blurry = torch.from_numpy(frames[list(clip)]).permute(0, 3, 1, 2)[None] / 255
        wanted = restored(net, blurry)[0, place].clamp(0, 1).permute(1, 2, 0).numpy() * 255
        picture = cv2.imread(str(tmp_path / 'restored' / f'{t}.png'))
        assert picture is not None
        assert np.abs(picture[..., ::-1] - wanted).max() < 0.51


# Errors


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['onnx', '-o', 'net.pt', '--dynamic'], 'unsupported file type. Use one of .onnx'),
        (['torch_export', '-o', 'mine.pt2', '--dynamic'], 'exists'),
        (['onnx', '-o', 'net.onnx', '--dynamic'], 'ONNX needs no_such_package: pip install "dstnet-arch[export]"'),
    ],
    ids=['suffix', 'exists', 'package'],
)
def test_export_checks_arguments_before_the_work(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.setitem(FORMATS, 'onnx', FORMATS['onnx']._replace(packages=('no_such_package',)))
    monkeypatch.chdir(tmp_path)
    Path('mine.pt2').write_text('mine')
    assert run_command(Path('not read.pth'), *arguments) == 2
    assert message in capsys.readouterr().err
    assert [entry.name for entry in tmp_path.iterdir()] == ['mine.pt2']
    assert Path('mine.pt2').read_text() == 'mine'


@pytest.mark.parametrize('sizes', [[], ['--dynamic', '--size', '64x48'], ['--size', '64']], ids=str)
def test_export_needs_one_size(weights: Path, tmp_path: Path, sizes: list[str]) -> None:
    with pytest.raises(SystemExit, match='2'):
        run_command(weights, 'torch_export', '-o', tmp_path / 'net.pt2', *sizes)


@pytest.mark.parametrize(
    ('run', 'message'),
    [
        (lambda clip: clip + 1e-3, 'differs from the network by'),
        (lambda clip: clip * float('nan'), 'differs from the network by nan'),
        (lambda clip: clip[..., 1:], 'differs from the network by inf'),
        (lambda clip: clip.view(-1, 7), 'cannot be exported to ONNX'),
    ],
)
def test_export_keeps_the_older_file_if_the_output_is_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Any, message: str
) -> None:
    net = randomise(DSTNet(**TINY, propagation='none', spatial='none'))
    net.reconstruct.weight.data.zero_()
    net.reconstruct.bias.data.zero_()  # so that the network returns its clip
    broken = FORMATS['onnx']._replace(decode=lambda content: run, encode=lambda *_: b'broken')
    monkeypatch.setitem(FORMATS, 'onnx', broken)
    (tmp_path / 'net.onnx').write_text('older')
    with pytest.raises(DSTNetError) as caught:
        export(net, tmp_path / 'net.onnx', 'onnx', 2, Size(16, 16))
    assert message in str(caught.value)
    assert [entry.name for entry in tmp_path.iterdir()] == ['net.onnx']
    assert (tmp_path / 'net.onnx').read_text() == 'older'


def test_export_reports_the_reason_of_exporters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError('Go and ask') from TypeError('an operator is missing\nand much more')

    monkeypatch.setitem(FORMATS, 'onnx', FORMATS['onnx']._replace(encode=fail))
    with pytest.raises(DSTNetError, match=r'an operator is missing \(PyTorch .*without --dynamic'):
        export(DSTNet(**TINY), tmp_path / 'net.onnx', 'onnx', 1)
    assert list(tmp_path.iterdir()) == []
