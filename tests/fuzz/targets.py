"""The readers of files that are fuzzed, each with good inputs to start from.

A target writes bytes to the files that it reads, and may raise this project's own errors only. `check` also checks that
no thread, process or unfinished file is left.
"""

from __future__ import annotations

import io
import multiprocessing
import os
import shutil
import threading
import zipfile
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import av
import cv2
import lmdb
import numpy as np
import torch
from safetensors.torch import save as save_safetensors
from tqdm import tqdm

from data_prep.verify import verify_lmdb
from dstnet_arch.archs.checkpoint import load_checkpoint
from dstnet_arch.archs.dstnet_arch import DSTNet
from dstnet_arch.archs.dstnet_plus_arch import DSTNetPlus
from dstnet_arch.data.frame_source import open_source
from dstnet_arch.data.image_file import decode, read_header
from dstnet_arch.data.lmdb_format import META_INFO, raw_header, read_meta_info
from dstnet_arch.errors import DataError, DSTNetError, OptionsError
from dstnet_arch.plugin.options import force, read_options
from dstnet_arch.plugin.options_check import check_options
from dstnet_arch.plugin.resume import read_state
from dstnet_arch.video.images import read_header as read_image_header
from dstnet_arch.video.images import read_image, to_frame
from dstnet_arch.video.sources import open_source as open_video
from dstnet_arch.weights.convert import convert

tqdm.monitor_interval = 0  # no thread of its own
ROOT = Path(__file__).resolve().parents[2]
OWN_ERRORS = (DSTNetError, DataError)


@dataclass(frozen=True)
class Target:
    """A reader.

    Attributes:
        seeds: good inputs, to be changed.
        run: reads bytes, with an empty folder for files.
    """

    seeds: Callable[[], list[bytes]]
    run: Callable[[bytes, Path], None]


def check(target: Target, data: bytes, folder: Path) -> None:
    """Try one input in an empty folder, which is empty again afterwards.

    Raises:
        Exception: any exception that is not one of this project's own errors.
        AssertionError: something was left.
    """
    threads, processes = set(threading.enumerate()), set(multiprocessing.active_children())
    try:
        target.run(data, folder)
    except OWN_ERRORS as error:
        if not str(error).strip():
            raise AssertionError('an error without a message') from None
    finally:
        left = [name for name in os.listdir(folder) if 'incomplete' in name or name.endswith('.tmp')]
        for name in os.listdir(folder):
            path = folder / name
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert not left, f'unfinished files stay: {left}'
    running = [thread.name for thread in threading.enumerate() if thread not in threads]
    assert not running, f'threads stay: {running}'
    started = set(multiprocessing.active_children()) - processes
    assert not started, f'processes stay: {started}'


# Options


def _options_seeds() -> list[bytes]:
    names = ('train_DSTNet_sample.yml', 'test_DSTNet_GoPro.yml', 'peers/train_EDVR_GoPro.yml')
    tags = b'model_type: VideoRecurrentDeblurModel\na: &a {b: !!float 1, <<: {c: [*a, 0x1F, 2024-01-01]}}\n? 1\n: ~\n'
    return [tags, *((ROOT / 'options' / name).read_bytes() for name in names)]


def _options(data: bytes, folder: Path) -> None:
    path = folder / 'options.yml'
    path.write_bytes(data)
    opt = read_options(path, strict=True)
    datasets = opt.get('datasets')
    with suppress(OptionsError):
        force(opt, ['train:optim_g:betas=[0.9, 0.9]'])
    check_options(opt, isinstance(datasets, dict) and 'train' in datasets, check_paths=len(data) % 2 == 0)


# Images and LMDBs


def _image(extension: str, shape: tuple[int, ...] = (6, 8, 3), dtype: type = np.uint8) -> bytes:
    values = np.random.default_rng(0).integers(0, np.iinfo(dtype).max, shape).astype(dtype)
    return cv2.imencode(extension, values)[1].tobytes()


def _images() -> list[bytes]:
    shapes = ((6, 8), (6, 8, 3), (6, 8, 4))
    pngs = [_image('.png', shape, dtype) for shape in shapes for dtype in (np.uint8, np.uint16)]
    return [
        raw_header(2, 3) + bytes(18),
        *pngs,
        *(_image(extension) for extension in ('.jpg', '.bmp', '.tif', '.webp')),
        _exif(),
    ]


def _exif() -> bytes:
    from PIL import Image

    exif = Image.Exif()
    exif[0x0112] = 6
    content = io.BytesIO()
    Image.fromarray(np.zeros((6, 8, 3), np.uint8)).save(content, 'jpeg', exif=exif)
    return content.getvalue()


def _read_image_file(data: bytes, folder: Path) -> None:
    path = folder / 'clip/000.png'
    path.parent.mkdir()
    path.write_bytes(data)
    with suppress(ValueError, OSError):
        read_header(io.BytesIO(data))
        decode(np.frombuffer(data, np.uint8))
    source = open_source(folder, 'disk')
    for read in (
        lambda: source.read('clip', '000'),
        lambda: read_image_header(path),
        lambda: to_frame(read_image(path)),
    ):
        try:
            read()
        except OWN_ERRORS as error:
            if str(path) not in str(error):
                raise AssertionError(f'{error} does not name the file') from None


@cache
def _database() -> bytes:
    from tempfile import TemporaryDirectory

    with TemporaryDirectory() as folder:
        with lmdb.open(folder, map_size=2**20) as env, env.begin(write=True) as transaction:
            for i in range(3):
                transaction.put(f'clip/{i}'.encode(), _image('.png'))
            transaction.put(b'clip/2', raw_header(6, 8) + bytes(6 * 8 * 3))
            transaction.put(b'clip/3', _image('.jpg', (64, 64, 3)))  # over several pages
        return Path(folder, 'data.mdb').read_bytes()


_META = ''.join(f'clip/{i}.png ({6 if i < 3 else 64},{8 if i < 3 else 64},3) 1\n' for i in range(4)).encode()


def _read_lmdb(meta: bytes, folder: Path) -> None:
    path = folder / 'x.lmdb'
    path.mkdir()
    (path / 'data.mdb').write_bytes(_database())
    (path / META_INFO).write_bytes(meta)
    with suppress(ValueError, OSError):
        read_meta_info(path)
    verify_lmdb(path, threads=1)
    source = open_source(path)
    for clip, frames in source.clips.items():
        for frame in frames:
            assert not Path(f'{clip}/{frame}').is_absolute()
            assert '..' not in Path(f'{clip}/{frame}').parts
            try:
                source.read(clip, frame)
            except OWN_ERRORS as error:
                if clip not in str(error):
                    raise AssertionError(f'{error} does not name the clip') from None


def _meta_seeds() -> list[bytes]:
    return [
        _META,
        b'clip/0.png (6,8,3)\r\n\n',
        b'/etc/x.png (1,1,1) 1\n',
        b'../x.png (1,1,1) 1\n',
        b'a\\b.png (0,1,9) 1',
    ]


# Videos


@cache
def _videos() -> list[bytes]:
    """Six small frames in several containers and codecs."""
    return [_video(*kind) for kind in (('mp4', 'mpeg4'), ('matroska', 'ffv1'), ('avi', 'mjpeg'), ('mov', 'png'))]


def _video(container: str, codec: str) -> bytes:
    content = io.BytesIO()
    with av.open(content, 'w', container) as file:
        stream = file.add_stream(codec, 24)
        stream.width, stream.height = 32, 16
        stream.pix_fmt = {'mjpeg': 'yuvj420p', 'png': 'rgb24'}.get(codec, 'yuv420p')
        for i in range(6):
            file.mux(stream.encode(av.VideoFrame.from_ndarray(np.full((16, 32, 3), 40 * i, np.uint8), 'rgb24')))
        file.mux(stream.encode())
    return content.getvalue()


def _read_video(data: bytes, folder: Path) -> None:
    path = folder / 'video.bin'
    path.write_bytes(data)
    with closing(open_video(str(path), temp_dir=str(folder))) as source:
        for position in (*range(len(source)), 0):
            frame = source[position]
            assert frame.shape == (3, *source.size)
            assert bool(frame.isfinite().all())


# Weights and states


def _network(kind: type[DSTNet] | type[DSTNetPlus] = DSTNet) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return dict(kind(num_feat=2, num_block=1).state_dict())


def _saved(content: object, zipped: bool = True) -> bytes:
    file = io.BytesIO()
    torch.save(content, file, _use_new_zipfile_serialization=zipped)
    return file.getvalue()


@cache
def _records() -> dict[str, bytes]:
    """The records of a ``.pth`` file, by name."""
    with zipfile.ZipFile(io.BytesIO(_saved({'params': _network(DSTNetPlus)}))) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def _load(data: bytes, path: Path) -> None:
    path.write_bytes(data)
    load_checkpoint(path)
    try:
        convert(path, path.with_name('out.safetensors'))
    except DSTNetError:
        assert not path.with_name('out.safetensors').exists()
        raise


def _load_pickle(data: bytes, folder: Path) -> None:
    """Put a changed pickle into a new archive: in the old one, checksums would reveal most changes."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, 'w') as archive:
        for name, content in _records().items():
            archive.writestr(name, data if name.endswith('data.pkl') else content)
    _load(file.getvalue(), folder / 'weights.pth')


def _load_safetensors(data: bytes, folder: Path) -> None:
    path = folder / 'weights.safetensors'
    path.write_bytes(data)
    _load(data, path)


def _training_state() -> dict[str, object]:
    return {'epoch': 1, 'iter': 5, 'optimizers': [{'state': {0: {'step': torch.ones(())}}}], 'schedulers': [{}]}


def _read_state(data: bytes, folder: Path) -> None:
    path = folder / '5.state'
    path.write_bytes(data)
    state = read_state(path, {'path': {'models': str(folder)}})
    if not isinstance(state['iter'], int) or not isinstance(state['epoch'], int):
        raise AssertionError('a state without its counts')


TARGETS: dict[str, Target] = {
    'options': Target(_options_seeds, _options),
    'image': Target(_images, _read_image_file),
    'meta_info': Target(_meta_seeds, _read_lmdb),
    'video': Target(_videos, _read_video),
    'pth': Target(
        lambda: [_saved({'params': _network()}, zipped) for zipped in (True, False)],
        lambda data, folder: _load(data, folder / 'weights.pth'),
    ),
    'pickle': Target(
        lambda: [content for name, content in _records().items() if name.endswith('data.pkl')],
        _load_pickle,
    ),
    'safetensors': Target(lambda: [save_safetensors(_network(DSTNetPlus), {'format': 'pt'})], _load_safetensors),
    'state': Target(lambda: [_saved(_training_state(), zipped) for zipped in (True, False)], _read_state),
}
