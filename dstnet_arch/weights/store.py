"""Download of released weights into a folder, with a check of their content."""

from __future__ import annotations

import os
from collections.abc import Sequence
from os import PathLike
from pathlib import Path

from dstnet_arch.errors import CheckpointError
from dstnet_arch.progress import Progress
from dstnet_arch.weights.released import REPOSITORY, Released, find_released, identify, names

DEFAULT_FOLDER = 'weights'

_SOURCES = (
    f'{REPOSITORY}/raw/d42c1e3/experiments',
    f'{REPOSITORY}/raw/main/experiments',
)  # the ids' commit, the newest
_TIMEOUT = (10.0, 30.0)  # seconds to wait for a connection, and for the next bytes


def resolve_weights(name_or_path: str | PathLike[str]) -> Path:
    """Return the path of weights, and download them if they are released ones that are not in `DEFAULT_FOLDER`.

    Args:
        name_or_path: Name of released weights (GoPro, GoPro-L, DVD, BSD) or path of any file. Use a path with a folder
            (``./GoPro``) for a file with the name of released weights.

    Raises:
        CheckpointError: unknown name and no such file; or as `get_weights`.
    """
    released = find_released(str(name_or_path))
    if released is not None:
        return get_weights(released)
    path = Path(name_or_path)
    if path.is_file():
        return path
    raise CheckpointError(
        f'Weights {name_or_path} do not exist (seen from {Path.cwd()}), and are not released ones: {names()}.'
    )


def get_weights(released: Released, folder: str | PathLike[str] = DEFAULT_FOLDER, base_url: str | None = None) -> Path:
    """Download a released file unless it is in the folder, and check its content.

    An interrupted download is kept in ``<file>.part`` and resumed. If several processes call this, one downloads.

    Args:
        released: The file.
        folder: Target folder; created if necessary.
        base_url: URL of a folder on a mirror; default: the authors' repository.

    Returns:
        The path of the file.

    Raises:
        CheckpointError: the file cannot be downloaded or written, or another file is in its place; that one is not
            changed.
    """
    from filelock import FileLock
    from requests import HTTPError, RequestException

    path = Path(folder) / released.file
    urls = [f'{folder.rstrip("/")}/{released.file}' for folder in ([base_url] if base_url else _SOURCES)]
    try:
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(path.with_name(f'.{path.name}.lock')):
                if not path.exists():  # another process may have downloaded it
                    _download(released, urls, path)
        if identify(path) != released:
            raise CheckpointError(
                f"{path} is not the authors' {released.file}. Move it away, or choose another folder, to download the "
                'released file; or give its path to use this one.'
            )
    except RequestException as error:
        reason = str(error) if isinstance(error, HTTPError) else type(error).__name__  # other texts are long
        raise CheckpointError(
            f'{urls[-1]} cannot be downloaded ({reason}). Run the command again to resume, or download it by other '
            f'means to {path}.'
        ) from None
    except OSError as error:
        raise CheckpointError(f'{path} cannot be read or written: {error.strerror or error}.') from None
    return path


def _download(released: Released, urls: Sequence[str], path: Path) -> None:
    from requests import HTTPError

    part = path.with_name(f'{path.name}.part')
    for url in urls:
        try:
            _fetch(url, part)
            break
        except HTTPError:
            if url == urls[-1]:
                raise
    if identify(part) != released:
        part.unlink()
        raise CheckpointError(
            f"{url} is not the authors' {released.file}: its content differs. Run the command again, or download the "
            f'file by other means to {path}.'
        )
    os.replace(part, path)


def _fetch(url: str, part: Path) -> None:
    """Download a file, and resume if `part` contains its beginning."""
    import requests

    have = part.stat().st_size if part.exists() else 0
    headers = {'Accept-Encoding': 'identity', 'Range': f'bytes={have}-'}
    with requests.get(url, headers=headers, stream=True, timeout=_TIMEOUT) as response:
        if response.status_code == requests.codes.requested_range_not_satisfiable:
            return  # complete, or of another file
        response.raise_for_status()
        if response.status_code != requests.codes.partial_content:
            have = 0  # the server sends the complete file
        total = have + int(response.headers.get('Content-Length', 0))
        with (
            open(part, 'ab' if have else 'wb') as file,
            Progress(total, 'byte', f'downloading {part.stem}', done=have) as progress,
        ):
            for chunk in response.iter_content(2**16):
                file.write(chunk)
                progress.update(len(chunk))
