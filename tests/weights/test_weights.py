"""dstnet weights: download from well and badly behaved servers, identification, conversion."""

from __future__ import annotations

import hashlib
import json
import math
import pickle
import re
import shutil
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from ports import free_port
from safetensors import safe_open

from dstnet_arch import metrics
from dstnet_arch.__main__ import main
from dstnet_arch.archs.checkpoint import load_checkpoint, read_state_dict
from dstnet_arch.archs.dstnet_arch import DSTNet
from dstnet_arch.archs.dstnet_plus_arch import DSTNetPlus
from dstnet_arch.archs.released_keys import DSTNET, HAAR_KEY, to_released
from dstnet_arch.archs.video_net import VideoNet
from dstnet_arch.errors import CheckpointError
from dstnet_arch.weights import released as known
from dstnet_arch.weights import resolve_weights, store
from dstnet_arch.weights.convert import convert
from dstnet_arch.weights.released import Released, find_released, git_ids, identify
from dstnet_arch.weights.store import DownloadError, get_weights

DATA = Path(__file__).parents[1] / 'data'
CONTENT = bytes(range(256)) * 1200  # several of the pieces that are read at a time
CHUNK = 2**16
HTML = b'\n<!DOCTYPE html><title>Welcome to our network</title>'


def git_blob_id(content: bytes) -> str:
    return hashlib.sha1(b'blob %d\0' % len(content) + content).hexdigest()


class Site:
    """What the server does, changed by the tests, and what it was asked for."""

    def __init__(self) -> None:
        self.content = CONTENT
        self.kind = 'application/octet-stream'
        self.ranges = True
        self.cut: list[int] = []
        """After how many bytes to hang up: one entry a request, then never."""
        self.statuses: list[int] = []
        """What to answer in place of the content: one entry a request, then the content."""
        self.missing: tuple[str, ...] = ()
        """Folders without the file."""
        self.silent = threading.Event()
        """Answers come once it is set."""
        self.silent.set()
        self.asked: list[str | None] = []
        """The Range of each request."""
        self.url = ''


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        site = self.server.site
        wanted = self.headers['Range']
        site.asked.append(wanted)
        site.silent.wait(10)
        if site.statuses:
            self.send_error(site.statuses.pop(0))
        elif self.path.startswith(site.missing or '-'):
            self.send_error(404)
        elif self.path.startswith('/moved'):
            self.send_response(302)
            self.send_header('Location', '/here' + self.path.removeprefix('/moved'))
            self.send_header('Content-Length', '0')
            self.end_headers()
        else:
            self.send_content(site, int(wanted.removeprefix('bytes=').removesuffix('-')) if wanted else 0)

    def send_content(self, site: Site, start: int) -> None:
        start = start if site.ranges else 0
        if start >= len(site.content):
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        if start:
            self.send_header('Content-Range', f'bytes {start}-{len(site.content) - 1}/{len(site.content)}')
        self.send_header('Content-Type', site.kind)
        self.send_header('Content-Length', str(len(site.content) - start))
        self.end_headers()
        self.wfile.write(site.content[start:][: site.cut.pop(0) if site.cut else None])

    def log_message(self, *args: Any) -> None:
        pass


class Server(ThreadingHTTPServer):
    site: Site

    def handle_error(self, *args: Any) -> None:
        pass  # clients that hang up are part of the tests


@pytest.fixture(scope='module')
def server() -> Iterator[Server]:
    with Server(('127.0.0.1', 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def site(server: Server, monkeypatch: pytest.MonkeyPatch) -> Site:
    server.site = Site()
    server.site.url = f'http://127.0.0.1:{server.server_port}'
    for variable in ('http_proxy', 'HTTP_PROXY', 'all_proxy', 'ALL_PROXY'):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(known, 'SOURCES', (f'{server.site.url}/first', f'{server.site.url}/second'))
    monkeypatch.setattr(store, '_BACKOFF', 0.0)
    return server.site


@pytest.fixture
def release(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Released]:
    """Declare files with these Git ids the only ones that the authors have released."""

    def declare(*blob_ids: str) -> Released:
        files = ('FAST.pth', 'SLOW.pth')
        released = tuple(
            Released(Path(f).stem.title(), f, i, 'DSTNet', 10, 30.0, 'Table 0')
            for f, i in zip(files, blob_ids, strict=False)
        )
        monkeypatch.setattr(known, 'RELEASED', released)
        return released[0]

    return declare


@pytest.fixture
def fast(release: Callable[[str], Released]) -> Released:
    return release(git_blob_id(CONTENT))


def small_net(**kwargs: Any) -> DSTNet:
    torch.manual_seed(3)
    net = DSTNet(num_feat=4, num_block=1, num_cwgdn=1, **kwargs)
    # Bit patterns that a detour over arithmetic would change.
    net.reconstruct.bias.data = torch.tensor([-0.0, math.nan, 1e-42])
    return net


def save_released(net: DSTNet, path: Path) -> Path:
    torch.save({'params': to_released(DSTNET, net.state_dict())}, path)
    return path


def as_bytes(weights: dict[str, torch.Tensor]) -> dict[str, tuple[torch.dtype, torch.Size, bytes]]:
    return {k: (v.dtype, v.shape, v.contiguous().view(torch.uint8).numpy().tobytes()) for k, v in weights.items()}


# --- what is released, and how it is recognised


def test_released_files_and_their_values() -> None:
    assert [(r.name, r.file) for r in known.RELEASED] == [
        ('GoPro', 'GOPRO.pth'),
        ('GoPro-L', 'GOPRO_Large.pth'),
        ('DVD', 'DVD.pth'),
        ('BSD', 'BSD.pth'),
    ]
    assert len({r.blob_id for r in known.RELEASED}) == 4
    assert all(re.fullmatch('[0-9a-f]{40}', r.blob_id) for r in known.RELEASED)
    for network, keys in (('DSTNet', 'base'), ('DSTNet-L', 'large')):
        shapes = re.findall(r'\(([^)]*)\)', (DATA / f'checkpoint_keys_{keys}.txt').read_text())
        count = sum(math.prod(int(n) for n in shape.split(',') if n.strip()) for shape in shapes)
        assert {r.num_values for r in known.RELEASED if r.network == network} == {count}


def test_released_scores_are_those_of_the_tables() -> None:
    tables = json.loads((Path(metrics.__file__).parent / 'published.json').read_text())
    printed = {
        (table['dataset'].split()[0], row['method']): (row['psnr'], row['source'])
        for table in tables
        for row in table['rows']
        if row['origin'] == 'paper'
    }
    for r in known.RELEASED:
        assert (r.psnr, r.table) == printed[r.name.split('-')[0], r.network]


def test_find_released_ignores_case_and_separator() -> None:
    by_name = {r.name: r for r in known.RELEASED}
    assert all(find_released(name) is r for name, r in by_name.items())
    assert find_released('gopro') is find_released('GOPRO') is by_name['GoPro']
    assert (
        find_released('gopro_l') is find_released('GOPRO_Large') is find_released('GoPro-large') is by_name['GoPro-L']
    )
    assert find_released('GOPRO.pth') is None


@pytest.mark.skipif(shutil.which('git') is None, reason='needs git')
@pytest.mark.parametrize('content', [b'', b'weights\n', CONTENT])
def test_git_ids_are_those_of_git(tmp_path: Path, content: bytes) -> None:
    def hash_object(content: bytes) -> str:
        command = ['git', 'hash-object', '--stdin', '--no-filters']
        return subprocess.run(command, input=content, capture_output=True, check=True).stdout.decode().strip()

    path = tmp_path / 'file'
    path.write_bytes(content)
    blob, pointer = git_ids(path)
    assert blob == hash_object(content)
    lines = ['version https://git-lfs.github.com/spec/v1', f'oid sha256:{hashlib.sha256(content).hexdigest()}']
    assert pointer == hash_object('\n'.join([*lines, f'size {len(content)}', '']).encode())


def test_identify_accepts_git_lfs_ids_and_not_the_pointer(tmp_path: Path, release: Callable[[str], Released]) -> None:
    path = tmp_path / 'FAST.pth'
    path.write_bytes(CONTENT)
    fast = release(git_ids(path)[1])
    assert identify(path) == fast
    pointer = f'version https://git-lfs.github.com/spec/v1\noid sha256:{hashlib.sha256(CONTENT).hexdigest()}\n'
    path.write_bytes(f'{pointer}size {len(CONTENT)}\n'.encode())
    assert git_ids(path)[0] == fast.blob_id
    assert identify(path) is None


# --- downloads


def test_get_weights_downloads_once(tmp_path: Path, site: Site, fast: Released) -> None:
    folder = tmp_path / 'new' / 'weights'
    path = get_weights(fast, folder)
    assert path == folder / 'FAST.pth'
    assert path.read_bytes() == CONTENT
    assert [p.name for p in folder.iterdir() if not p.name.startswith('.')] == ['FAST.pth']
    assert get_weights(fast, folder) == path
    assert site.asked == [None]  # once


def test_get_weights_keeps_what_arrived_and_resumes(tmp_path: Path, site: Site, fast: Released) -> None:
    site.cut = [2 * CHUNK + 100]
    site.missing = ('/second',)
    with pytest.raises(DownloadError, match=r'cannot be downloaded: http.*: \w*Error; .* Run the command again to res'):
        get_weights(fast, tmp_path)
    part = tmp_path / 'FAST.pth.part'
    assert CHUNK <= part.stat().st_size < len(CONTENT)
    assert CONTENT.startswith(part.read_bytes())
    assert not (tmp_path / 'FAST.pth').exists()
    start = part.stat().st_size
    assert get_weights(fast, tmp_path).read_bytes() == CONTENT
    assert site.asked[-1] == f'bytes={start}-'
    assert not part.exists()


def test_get_weights_finishes_a_complete_part(tmp_path: Path, site: Site, fast: Released) -> None:
    (tmp_path / 'FAST.pth.part').write_bytes(CONTENT)  # killed before it got its name
    assert get_weights(fast, tmp_path).read_bytes() == CONTENT
    assert site.asked == [f'bytes={len(CONTENT)}-']


def test_get_weights_restarts_without_range_support(tmp_path: Path, site: Site, fast: Released) -> None:
    (tmp_path / 'FAST.pth.part').write_bytes(CONTENT[:1000])
    site.ranges = False
    assert get_weights(fast, tmp_path).read_bytes() == CONTENT
    assert len(site.asked) == 1


@pytest.mark.parametrize('size', [1000, 2 * len(CONTENT)])
def test_get_weights_discards_a_part_of_another_file(tmp_path: Path, site: Site, fast: Released, size: int) -> None:
    (tmp_path / 'FAST.pth.part').write_bytes(b'x' * size)
    assert get_weights(fast, tmp_path).read_bytes() == CONTENT
    assert site.asked == [f'bytes={size}-', None]


@pytest.mark.parametrize('content', [CONTENT[:-1], CONTENT[:-1] + b'x', b''])
def test_get_weights_refuses_wrong_content(tmp_path: Path, site: Site, fast: Released, content: bytes) -> None:
    site.content = content or b'PK'
    with pytest.raises(DownloadError) as caught:
        get_weights(fast, tmp_path)
    assert f'has the git blob id {git_blob_id(site.content)}, not {fast.blob_id}' in str(caught.value)
    assert len(site.asked) == 2  # both addresses
    assert [p.name for p in tmp_path.iterdir() if not p.name.startswith('.')] == []


def test_get_weights_refuses_a_web_page(tmp_path: Path, site: Site, fast: Released) -> None:
    part = tmp_path / 'FAST.pth.part'
    part.write_bytes(CONTENT[:1000])
    site.content, site.ranges, site.kind = HTML, False, 'text/html; charset=utf-8'
    with pytest.raises(DownloadError, match='is a web page, not the file'):
        get_weights(fast, tmp_path)
    assert part.read_bytes() == CONTENT[:1000]


def test_get_weights_tries_both_addresses(tmp_path: Path, site: Site, fast: Released) -> None:
    site.missing = ('/first',)
    assert get_weights(fast, tmp_path).read_bytes() == CONTENT
    site.missing = ('/first', '/second')
    with pytest.raises(DownloadError, match=r'/first/FAST\.pth answers 404 Not Found; .*/second/FAST\.pth answers 404'):
        get_weights(fast, tmp_path / 'other')


def test_get_weights_from_a_mirror_with_redirection(tmp_path: Path, site: Site, fast: Released) -> None:
    site.missing = ('/first', '/second')
    (tmp_path / 'FAST.pth.part').write_bytes(CONTENT[:1000])
    assert get_weights(fast, tmp_path, f'{site.url}/moved/').read_bytes() == CONTENT
    assert site.asked == ['bytes=1000-', 'bytes=1000-']
    with pytest.raises(DownloadError, match=r'ftp://mirror/FAST\.pth: InvalidSchema'):
        get_weights(fast, tmp_path / 'other', 'ftp://mirror')


def test_get_weights_retries_busy_servers(tmp_path: Path, site: Site, fast: Released) -> None:
    site.statuses = [503, 429]
    assert get_weights(fast, tmp_path).read_bytes() == CONTENT
    site.statuses = [503] * 8
    with pytest.raises(DownloadError, match=r'answers 503 Service Unavailable; .*503 Service Unavailable\. Run the'):
        get_weights(fast, tmp_path / 'other')


@pytest.mark.parametrize('trouble', ['refused', 'no host', 'no answer'])
def test_weights_get_without_network_fails_at_once_in_one_line(
    tmp_path: Path,
    site: Site,
    fast: Released,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    trouble: str,
) -> None:
    url = site.url
    if trouble == 'refused':
        url = f'http://127.0.0.1:{free_port()}'
    elif trouble == 'no host':
        url = 'http://example.invalid'
        monkeypatch.setattr(socket, 'getaddrinfo', raise_unknown_host)
    else:
        monkeypatch.setattr(store, '_TIMEOUT', (0.1, 0.1))
        site.silent.clear()
    monkeypatch.setattr(store, '_BACKOFF', 60.0)
    assert main(['weights', 'get', 'Fast', '--folder', str(tmp_path), '--base-url', url]) == 2
    site.silent.set()
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f'error: FAST.pth cannot be downloaded: {url}/FAST.pth: ConnectionError. ')
    assert f'by other means to {tmp_path}' in line


def raise_unknown_host(*args: Any, **kwargs: Any) -> Any:
    raise socket.gaierror(socket.EAI_NONAME, 'Name or service not known')


def test_get_weights_in_parallel_downloads_once(tmp_path: Path, site: Site, fast: Released) -> None:
    site.silent.clear()
    paths: list[Path] = []
    threads = [threading.Thread(target=lambda: paths.append(get_weights(fast, tmp_path))) for _ in range(3)]
    for thread in threads:
        thread.start()
    site.silent.set()
    for thread in threads:
        thread.join(20)
    assert paths == [tmp_path / 'FAST.pth'] * 3
    assert site.asked == [None]


def test_get_weights_leaves_other_files_alone(tmp_path: Path, site: Site, fast: Released) -> None:
    path = tmp_path / 'FAST.pth'
    path.write_bytes(b'trained for a month')
    with pytest.raises(CheckpointError, match=r"FAST\.pth is not the authors' FAST\.pth\. Move it away"):
        get_weights(fast, tmp_path)
    assert path.read_bytes() == b'trained for a month'
    assert site.asked == []


def test_get_weights_reports_unusable_folder(tmp_path: Path, site: Site, fast: Released) -> None:
    (tmp_path / 'file').write_bytes(b'')
    with pytest.raises(DownloadError, match='cannot be read or written'):
        get_weights(fast, tmp_path / 'file')


# --- names and paths


def test_resolve_weights(tmp_path: Path, site: Site, fast: Released, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert resolve_weights('fast') == Path('weights/FAST.pth')
    Path('Fast').write_bytes(b'')
    assert resolve_weights('Fast', folder='weights') == Path('weights/FAST.pth')
    assert resolve_weights('./Fast') == Path('Fast')
    assert resolve_weights(tmp_path / 'Fast') == tmp_path / 'Fast'
    with pytest.raises(CheckpointError, match=r'Weights Fsat do not exist .*released ones: Fast\. Did you mean Fast\?'):
        resolve_weights('Fsat')
    with pytest.raises(CheckpointError, match='Did you mean Fast'):
        resolve_weights('elsewhere/FAST.pth')
    with pytest.raises(CheckpointError, match='do not exist'):
        resolve_weights(tmp_path)


# --- converting


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
    assert [p.name for p in middle.parent.iterdir()] == [middle.name]
    assert load_checkpoint(end).config == net.config


def test_convert_writes_metadata_of_safetensors(tmp_path: Path) -> None:
    start = save_released(small_net(), tmp_path / 'start.pth')
    convert(start, tmp_path / 'a.safetensors')
    with safe_open(tmp_path / 'a.safetensors', framework='pt') as file:
        metadata = file.metadata()
    assert metadata['source_git_blob'] == git_ids(start)[0]
    assert metadata['key_names'] == 'ours'
    assert '"num_feat": 4' in metadata['network']


@pytest.mark.parametrize('net', [small_net(boundary='paper'), DSTNetPlus(4, 1, 1)])
def test_convert_keeps_every_network(tmp_path: Path, net: VideoNet) -> None:
    torch.save({'params': net.state_dict()}, tmp_path / 'net.pth')
    convert(tmp_path / 'net.pth', tmp_path / 'net.safetensors')
    assert load_checkpoint(tmp_path / 'net.safetensors').config == net.config


def test_convert_refuses_what_the_released_format_cannot_store(tmp_path: Path) -> None:
    net = small_net(boundary='paper')
    torch.save({'params': net.state_dict()}, tmp_path / 'net.pth')
    with pytest.raises(CheckpointError, match=r"boundary='paper'.*--to ours"):
        convert(tmp_path / 'net.pth', tmp_path / 'out.pth', 'released')
    assert not (tmp_path / 'out.pth').exists()


def test_convert_param_key_chooses_the_weights(tmp_path: Path) -> None:
    plain, averaged = small_net(), small_net()
    averaged.extract.weight.data += 1
    torch.save({'params': plain.state_dict(), 'params_ema': averaged.state_dict()}, tmp_path / 'both.pth')
    for key, net in ((None, averaged), ('params', plain)):
        convert(tmp_path / 'both.pth', tmp_path / 'out.pth', param_key=key, overwrite=True)
        assert torch.equal(read_state_dict(tmp_path / 'out.pth')['extract.weight'], net.extract.weight)


def test_convert_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    start = save_released(small_net(), tmp_path / 'start.pth')
    out = tmp_path / 'out.pth'
    out.write_bytes(b'precious')
    with pytest.raises(CheckpointError, match='exists'):
        convert(start, out)
    with pytest.raises(CheckpointError, match=r'must end in \.safetensors or \.pth'):
        convert(start, tmp_path / 'out.onnx')
    with pytest.raises(CheckpointError, match='does not exist'):
        convert(tmp_path / 'none.pth', tmp_path / 'new.pth')
    with pytest.raises(CheckpointError, match='cannot be written'):
        convert(start, start / 'new.pth')

    def full_disk(*args: Any) -> None:
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(torch, 'save', full_disk)
    with pytest.raises(CheckpointError, match='No space left'):
        convert(start, out, overwrite=True)
    assert out.read_bytes() == b'precious'
    assert sorted(p.name for p in tmp_path.iterdir()) == ['out.pth', 'start.pth']


# --- the command


def test_get_list_and_verify(
    tmp_path: Path,
    site: Site,
    release: Callable[..., Released],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    site.content = save_released(small_net(), tmp_path / 'original').read_bytes()
    release(git_blob_id(site.content), '0' * 40)

    def run(*arguments: str) -> tuple[int, str, str]:
        status = main(['weights', *arguments])
        printed = capsys.readouterr()
        return status, printed.out, printed.err

    assert re.search(r'FAST\.pth +DSTNet +10 +~0 MB +30\.0 \(Table 0\) +-\n', run('list')[1])
    for _ in range(2):
        assert run('get', 'fast')[1] == "weights/FAST.pth: verified as the authors' FAST.pth\n"
    assert len(site.asked) == 1
    assert run('convert', 'weights/FAST.pth', '-o', 'weights/FAST.safetensors')[0] == 0
    (tmp_path / 'weights/SLOW.pth').write_bytes(b'?')
    out = run('list')[1]
    assert re.search(r'FAST\.pth .* verified\n', out)
    assert re.search(r"SLOW\.pth .* not the authors' file\n", out)

    assert run('verify', 'original') == (0, "original: the authors' FAST.pth (Fast, DSTNet), byte for byte\n", '')
    status, out, _ = run('verify', 'original', 'weights/FAST.safetensors')
    assert status == 1
    num_parameters = sum(p.numel() for p in small_net().parameters())
    assert 'not a released file; DSTNet(num_feat=4, num_block=1, ' in out
    assert f'{num_parameters:,} parameters' in out
    status, out, err = run('verify', 'weights/SLOW.pth', 'missing.pth', 'original')
    assert status == 2
    assert 'byte for byte' in out  # the others are looked at nevertheless
    assert len(err.splitlines()) == 2

    assert run('convert', 'original', '-o', 'new.pth')[0] == 0
    status, _, err = run('convert', 'original', '-o', 'new.pth')
    assert status == 2
    assert '--overwrite' in err
    assert run('convert', 'original', '-o', 'new.pth', '--to', 'released', '--overwrite')[0] == 0
    assert HAAR_KEY in read_state_dict('new.pth')
    status, _, err = run('get', 'Fsat')
    assert (status, err) == (2, 'error: Fsat is unknown. Allowed: Fast, Slow, or all. Did you mean Fast?\n')


def test_verify_runs_nothing_from_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (tmp_path / 'executed',)

    (tmp_path / 'evil.pth').write_bytes(pickle.dumps({'params': Evil()}, protocol=2))
    assert main(['weights', 'verify', str(tmp_path / 'evil.pth')]) == 2
    assert not (tmp_path / 'executed').exists()
    assert 'was not loaded' in capsys.readouterr().err


def test_verify_explains_a_git_lfs_pointer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / 'GOPRO.pth'
    path.write_text('version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n')
    assert main(['weights', 'verify', str(path)]) == 2
    assert 'Git LFS pointer' in capsys.readouterr().err
