"""Download of released weights into a folder, with a check of their content."""

from __future__ import annotations

import os
from collections.abc import Sequence
from os import PathLike
from pathlib import Path

from dstnet_arch.errors import CheckpointError
from dstnet_arch.weights import released as known
from dstnet_arch.weights.released import Released, find_released, git_ids, identify

DEFAULT_FOLDER = 'weights'

_RETRIES = 3  # of a busy server
_BACKOFF = 1.0  # seconds before the second retry, doubled for each further one
_TIMEOUT = (10.0, 30.0)  # seconds to wait for a connection, and for the next bytes
_CHUNK = 2**16


class DownloadError(CheckpointError):
    """Weights cannot be downloaded."""


def resolve_weights(name_or_path: str | PathLike[str], folder: str | PathLike[str] = DEFAULT_FOLDER) -> Path:
    """Return the path of weights, and download them if they are released ones that are not in `folder`.

    Args:
        name_or_path: Name of released weights (GoPro, GoPro-L, DVD, BSD) or path of any file. Use a path with a folder
            (``./GoPro``) for a file with the name of released weights.
        folder: Folder of released weights.

    Raises:
        CheckpointError: unknown name and no such file; or another file is in the place of the released one.
        DownloadError: the download failed.
    """
    released = find_released(str(name_or_path))
    if released is not None:
        return get_weights(released, folder)
    path = Path(name_or_path)
    if path.is_file():
        return path
    raise CheckpointError(
        f'Weights {name_or_path} do not exist (seen from {Path.cwd()}), and are not released ones: {known.names()}.'
        f'{known.suggestion(path.stem)}'
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
        CheckpointError: another file is in its place; it is not changed.
        DownloadError: the file cannot be downloaded or written.
    """
    from filelock import FileLock

    path = Path(folder) / released.file
    try:
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(path.with_name(f'.{path.name}.lock')):
                if not path.exists():  # another process may have downloaded it
                    _download(released, path, [base_url] if base_url else known.SOURCES)
        if identify(path) != released:
            raise CheckpointError(
                f"{path} is not the authors' {released.file}. Move it away, or choose another folder, to download the "
                'released file; or give its path to use this one.'
            )
    except OSError as error:
        raise DownloadError(f'{path} cannot be read or written: {error.strerror or error}.') from None
    return path


def _download(released: Released, path: Path, urls: Sequence[str]) -> None:
    from requests import HTTPError, RequestException

    part = path.with_name(f'{path.name}.part')
    problems = []
    for url in (f'{folder.rstrip("/")}/{released.file}' for folder in urls):
        try:
            _fetch(url, part)
        except HTTPError as error:
            problems.append(f'{url} answers {error.response.status_code} {error.response.reason}')
        except RequestException as error:  # their texts contain addresses of objects
            problems.append(f'{url}: {type(error).__name__}')
        else:
            if identify(part) == released:
                os.replace(part, path)
                return
            problems.append(f'{url} has the git blob id {git_ids(part)[0]}, not {released.blob_id}')
            part.unlink()
    raise DownloadError(
        f'{released.file} cannot be downloaded: {"; ".join(problems)}. Run the command again to resume, or download '
        f'{released.file} by other means to {path}.'
    )


def _fetch(url: str, part: Path) -> None:
    """Download a file, and resume if `part` contains its beginning."""
    import requests
    from requests.adapters import HTTPAdapter
    from tqdm import tqdm
    from urllib3 import Retry

    busy = [requests.codes.too_many_requests, *range(500, 600)]
    retries = Retry(_RETRIES, connect=0, read=0, status_forcelist=busy, backoff_factor=_BACKOFF, raise_on_status=False)
    have = part.stat().st_size if part.exists() else 0
    headers = {'Accept-Encoding': 'identity'} | ({'Range': f'bytes={have}-'} if have else {})
    with requests.Session() as session:
        for scheme in ('https://', 'http://'):
            session.mount(scheme, HTTPAdapter(max_retries=retries))
        with session.get(url, headers=headers, stream=True, timeout=_TIMEOUT) as response:
            if have and response.status_code == requests.codes.requested_range_not_satisfiable:
                return  # complete, or of another file
            response.raise_for_status()
            if 'html' in response.headers.get('Content-Type', ''):
                raise DownloadError(f'{url} is a web page, not the file. Does this network need a login?')
            if response.status_code != requests.codes.partial_content:
                have = 0  # the server sends the complete file
            total = have + int(response.headers.get('Content-Length', 0))
            with (
                open(part, 'ab' if have else 'wb') as file,
                tqdm(desc=part.stem, initial=have, total=total, unit='B', unit_scale=True, disable=None) as bar,
            ):
                for chunk in response.iter_content(_CHUNK):
                    file.write(chunk)
                    bar.update(len(chunk))
