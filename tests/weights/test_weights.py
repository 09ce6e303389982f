"""dstnet weights: download from a local server, identification, conversion."""

from __future__ import annotations

import hashlib
import json
import math
import pickle
import re
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from ports import free_port
from safetensors import safe_open

from dstnet_arch.__main__ import main
from dstnet_arch.archs.checkpoint import load_checkpoint, read_state_dict
from dstnet_arch.archs.dstnet_arch import DSTNet
from dstnet_arch.archs.dstnet_plus_arch import DSTNetPlus
from dstnet_arch.archs.released_keys import DSTNET, HAAR_KEY, to_released
from dstnet_arch.archs.video_net import VideoNet
from dstnet_arch.errors import CheckpointError, OptionsError
from dstnet_arch.weights import released as known
from dstnet_arch.weights import resolve_weights, store
from dstnet_arch.weights.convert import convert
from dstnet_arch.weights.released import Released, git_blob_id
from dstnet_arch.weights.store import get_weights

CONTENT = bytes(range(256)) * 1200


class Server(ThreadingHTTPServer):
    """Serves `content` at every address; `asked` are the ranges that were requested."""

    def __init__(self) -> None:
        super().__init__(('127.0.0.1', 0), Handler)
        self.url = f'http://127.0.0.1:{self.server_port}'
        self.content = CONTENT
        self.ranges = True
        self.cut: int | None = None
        self.status: int | None = None
        self.asked: list[str] = []

    def handle_error(self, *args: Any) -> None:
        pass  # clients that hang up


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        server = self.server
        server.asked.append(self.headers['Range'])
        start = int(re.findall(r'\d+', self.headers['Range'])[0]) if server.ranges else 0
        if server.status or self.path.startswith('/gone') or start >= len(server.content):
            self.send_error(404 if self.path.startswith('/gone') else server.status or 416)
            return
        self.send_response(206 if server.ranges else 200)
        self.send_header('Content-Length', str(len(server.content) - start))
        self.end_headers()
        self.wfile.write(server.content[start : server.cut])

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv('no_proxy', '127.0.0.1')
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        monkeypatch.setattr(store, '_SOURCES', (f'{server.url}/gone', server.url))
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> Released:
    """The only released file, with the content of the server."""
    blob_id = hashlib.sha1(b'blob %d\0' % len(CONTENT) + CONTENT).hexdigest()
    released = Released('Fast', 'FAST.pth', blob_id, 'DSTNet')
    monkeypatch.setattr(known, 'RELEASED', (released,))
    return released


def visible(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if not path.name.startswith('.')]


def small_net(**kwargs: Any) -> DSTNet:
    torch.manual_seed(3)
    net = DSTNet(num_feat=4, num_block=1, num_cwgdn=1, **kwargs)
    # Bit patterns that arithmetic would change.
    net.reconstruct.bias.data = torch.tensor([-0.0, math.nan, 1e-42])
    return net


def save_released(net: DSTNet, path: Path) -> Path:
    torch.save({'params': to_released(DSTNET, net.state_dict())}, path)
    return path


def as_bytes(weights: dict[str, torch.Tensor]) -> dict[str, tuple[torch.dtype, torch.Size, bytes]]:
    return {k: (v.dtype, v.shape, v.contiguous().view(torch.uint8).numpy().tobytes()) for k, v in weights.items()}


# Released files


def test_git_blob_id(tmp_path: Path) -> None:
    (tmp_path / 'file').write_bytes(b'hello\n')
    assert git_blob_id(tmp_path / 'file') == 'ce013625030ba8dba906f756967f9e9ca394464a'  # of git hash-object


# Downloads


def test_get_weights_downloads_once(tmp_path: Path, server: Server, fast: Released) -> None:
    folder = tmp_path / 'new' / 'weights'
    with ThreadPoolExecutor(3) as pool:
        paths = list(pool.map(lambda _: get_weights(fast, folder), range(3)))
    assert paths == [folder / 'FAST.pth'] * 3
    assert paths[0].read_bytes() == CONTENT
    assert visible(folder) == ['FAST.pth']
    assert server.asked == ['bytes=0-'] * 2  # the first address answers 404


def test_get_weights_resumes(tmp_path: Path, server: Server, fast: Released) -> None:
    server.cut = 200_000
    with pytest.raises(CheckpointError, match=r'cannot be downloaded \(\w*Error\)\. Run the command again to resume'):
        get_weights(fast, tmp_path)
    (part,) = tmp_path.glob('*.part')
    start = part.stat().st_size
    assert 0 < start < len(CONTENT)
    server.cut = None
    assert get_weights(fast, tmp_path).read_bytes() == CONTENT
    assert server.asked[-1] == f'bytes={start}-'
    assert visible(tmp_path) == ['FAST.pth']


@pytest.mark.parametrize(('size', 'ranges'), [(len(CONTENT), True), (1000, False)], ids=['complete', 'no ranges'])
def test_get_weights_finishes_a_part(tmp_path: Path, server: Server, fast: Released, size: int, ranges: bool) -> None:
    (tmp_path / 'FAST.pth.part').write_bytes(CONTENT[:size])
    server.ranges = ranges
    assert get_weights(fast, tmp_path, f'{server.url}/mirror/').read_bytes() == CONTENT
    assert server.asked == [f'bytes={size}-']


def test_get_weights_refuses_wrong_content(tmp_path: Path, server: Server, fast: Released) -> None:
    server.content = b'<!DOCTYPE html><title>Log in</title>'
    with pytest.raises(CheckpointError, match=r"FAST\.pth is not the authors' FAST\.pth: its content differs"):
        get_weights(fast, tmp_path)
    assert visible(tmp_path) == []


def test_weights_get_reports_errors_in_one_line(
    tmp_path: Path, server: Server, fast: Released, capsys: pytest.CaptureFixture[str]
) -> None:
    server.status = 404
    closed = f'http://127.0.0.1:{free_port()}'
    for url, reason in ((server.url, r'404 Client Error.*'), (closed, 'ConnectionError')):
        assert main(['weights', 'get', 'fast', '--folder', str(tmp_path), '--base-url', url]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert re.match(rf'error: {url}/FAST\.pth cannot be downloaded \({reason}\)\. Run', line)


def test_get_weights_leaves_other_files_alone(tmp_path: Path, server: Server, fast: Released) -> None:
    path = tmp_path / 'FAST.pth'
    path.write_bytes(b'trained for a month')
    with pytest.raises(CheckpointError, match=r"FAST\.pth is not the authors' FAST\.pth\. Move it away"):
        get_weights(fast, tmp_path)
    assert path.read_bytes() == b'trained for a month'
    with pytest.raises(CheckpointError, match='cannot be read or written'):
        get_weights(fast, path)
    assert server.asked == []


def test_resolve_weights(tmp_path: Path, server: Server, fast: Released, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert resolve_weights('fast') == Path('weights/FAST.pth')
    Path('Fast').write_bytes(b'')
    assert resolve_weights('Fast') == Path('weights/FAST.pth')
    assert resolve_weights('./Fast') == Path('Fast')
    with pytest.raises(CheckpointError, match=r'Weights Fsat do not exist .*released ones: Fast\.'):
        resolve_weights('Fsat')


# Conversion


@pytest.mark.parametrize('suffix', ['.pth', '.safetensors'])
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
def test_convert_there_and_back_changes_no_bit(tmp_path: Path, suffix: str, dtype: torch.dtype) -> None:
    net = small_net().to(dtype)
    start = save_released(net, tmp_path / 'start.pth')
    middle = tmp_path / 'folder' / f'middle{suffix}'
    end = tmp_path / f'end{suffix}'
    assert convert(start, middle).config == net.config
    convert(middle, end, 'released')
    assert as_bytes(read_state_dict(middle)) == as_bytes(dict(net.state_dict()))
    expected, found = as_bytes(read_state_dict(start)), as_bytes(read_state_dict(end))
    expected.pop(HAAR_KEY), found.pop(HAAR_KEY)  # float32 in ours, whatever the rest is
    assert found == expected
    if suffix == '.safetensors':
        with safe_open(middle, framework='pt') as file:
            assert json.loads(file.metadata()['network']) == {'type': 'DSTNet', **net.config}


@pytest.mark.parametrize('net', [small_net(boundary='paper'), DSTNetPlus(4, 1, 1)])
def test_convert_keeps_every_network(tmp_path: Path, net: VideoNet) -> None:
    torch.save({'params': net.state_dict()}, tmp_path / 'net.pth')
    convert(tmp_path / 'net.pth', tmp_path / 'net.safetensors')
    assert load_checkpoint(tmp_path / 'net.safetensors').config == net.config


def test_convert_param_key_chooses_the_weights(tmp_path: Path) -> None:
    plain, averaged = small_net(), small_net()
    averaged.extract.weight.data += 1
    torch.save({'params': plain.state_dict(), 'params_ema': averaged.state_dict()}, tmp_path / 'both.pth')
    for key, net in ((None, averaged), ('params', plain)):
        convert(tmp_path / 'both.pth', tmp_path / 'out.pth', param_key=key, overwrite=True)
        assert torch.equal(read_state_dict(tmp_path / 'out.pth')['extract.weight'], net.extract.weight)


def test_convert_errors_leave_files_unchanged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    start = save_released(small_net(), tmp_path / 'start.pth')
    torch.save({'params': small_net(boundary='paper').state_dict()}, tmp_path / 'paper.pth')
    out = tmp_path / 'out.pth'
    out.write_bytes(b'precious')
    for target, message in ((out, 'exists'), (tmp_path / 'out.onnx', 'unsupported file type')):
        with pytest.raises(OptionsError, match=message):
            convert(start, target)
    with pytest.raises(CheckpointError, match=r"boundary='paper'.*--to ours"):
        convert(tmp_path / 'paper.pth', tmp_path / 'new.pth', 'released')

    def full_disk(*args: Any) -> None:
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(torch, 'save', full_disk)
    with pytest.raises(CheckpointError, match='No space left'):
        convert(start, out, overwrite=True)
    assert out.read_bytes() == b'precious'
    assert sorted(visible(tmp_path)) == ['out.pth', 'paper.pth', 'start.pth']


# The command


def test_weights_list_get_verify_and_convert(
    tmp_path: Path,
    server: Server,
    fast: Released,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> tuple[int, str, str]:
        status = main(['weights', *arguments])
        printed = capsys.readouterr()
        return status, printed.out, printed.err

    assert 'Fast     DSTNet    weights/FAST.pth: not downloaded\n' in run('list')[1]
    assert run('get', 'all')[1] == "weights/FAST.pth: verified as the authors' FAST.pth\n"
    assert 'FAST.pth: verified\n' in run('list')[1]
    assert run('get', 'Fsat')[::2] == (2, 'error: Fsat is unknown. Allowed: Fast, or all.\n')

    save_released(small_net(), Path('own.pth'))
    assert run('convert', 'own.pth', '-o', 'new.pth', '--to', 'released')[0] == 0
    assert HAAR_KEY in read_state_dict('new.pth')
    status, out, err = run('verify', 'weights/FAST.pth', 'missing.pth', 'new.pth')
    num_parameters = sum(p.numel() for p in small_net().parameters())
    assert status == 2
    assert "FAST.pth: the authors' FAST.pth (Fast, DSTNet), byte for byte\n" in out
    assert re.search(rf'new\.pth: not a released file; DSTNet\(num_feat=4, .*\), {num_parameters:,} parameters\n', out)
    assert len(err.splitlines()) == 1
    assert run('verify', 'new.pth')[0] == 1
    assert run('verify', 'weights/FAST.pth')[0] == 0


def test_verify_runs_nothing_from_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (tmp_path / 'executed',)

    (tmp_path / 'evil.pth').write_bytes(pickle.dumps({'params': Evil()}, protocol=2))
    assert main(['weights', 'verify', str(tmp_path / 'evil.pth')]) == 2
    assert not (tmp_path / 'executed').exists()
    assert 'was not loaded' in capsys.readouterr().err
