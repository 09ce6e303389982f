"""Download of released weights into a folder, with a check of their content."""

from __future__ import annotations

import os
import time
from os import PathLike
from pathlib import Path
from urllib.parse import urlsplit

from dstnet_arch.errors import CheckpointError
from dstnet_arch.weights import released as known
from dstnet_arch.weights.released import Released, find_released, git_ids, identify

DEFAULT_FOLDER = 'weights'

_PAUSES = (1.0, 3.0)
"""Seconds to wait for a busy server."""
_TIMEOUT = (10.0, 30.0)
"""Seconds to wait for a connection and for the next bytes."""
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
    by_file = next((r for r in known.RELEASED if r.file == path.name), None)
    hint = f' To download it, give {by_file.name} instead.' if by_file else known.suggestion(str(name_or_path))
    raise CheckpointError(
        f'Weights {name_or_path} do not exist (seen from {Path.cwd()}), and are not released ones: '
        f'{known.names()}.{hint}'
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
        if not is_present(released, path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(path.with_name(f'.{path.name}.lock')):
                if not is_present(released, path):  # another process may have downloaded it
                    _download(released, path, base_url)
    except OSError as error:
        raise DownloadError(f'{path} cannot be read or written: {error.strerror or error}.') from None
    return path


def is_present(released: Released, path: Path) -> bool:
    """Return True if the released file is at `path`.

    Raises:
        CheckpointError: another file is at `path`.
    """
    if not path.exists():
        return False
    if path.is_file() and identify(path) == released:
        return True
    raise CheckpointError(
        f"{path} is not the authors' {released.file}. Move it away, or choose another folder, to download the released "
        'file; or give its path to use this one.'
    )


def _download(released: Released, path: Path, base_url: str | None) -> None:
    part = path.with_name(f'{path.name}.part')
    bases = [base_url.rstrip('/')] if base_url else known.SOURCES
    problems = []
    for url in (f'{base}/{released.file}' for base in bases):
        try:
            resumed = part.exists()
            if not resumed or identify(part) != released:
                _fetch(url, part)
            if resumed and identify(part) != released:
                part.unlink()  # the first part may have been of another file
                _fetch(url, part)
        except DownloadError as error:
            problems.append(str(error))
            continue
        if identify(part) == released:
            os.replace(part, path)
            return
        problems.append(f'{url} has the git blob id {git_ids(part)[0]}, not {released.blob_id}')
        part.unlink()
    raise DownloadError(
        f'{released.file} cannot be downloaded: {"; ".join(dict.fromkeys(problems))}. Try again later, or download '
        f'{bases[0]}/{released.file} by other means to {path}.'
    )


def _fetch(url: str, part: Path) -> None:
    """Download a file; what has arrived stays in `part` and is not requested again."""
    import requests

    pauses = iter(_PAUSES)
    while True:
        before = _size(part)
        try:
            _request(url, part)
            return
        except requests.HTTPError as error:
            problem = f'{url} answers {error.response.status_code} {error.response.reason}'
            busy = error.response.status_code >= 500 or error.response.status_code == requests.codes.too_many_requests
            pause = next(pauses, None) if busy else None
        except requests.RequestException as error:
            problem = _describe(error, url)
            pause = _PAUSES[0] if _size(part) > before else None  # without a network, fail at once
        if pause is None:
            raise DownloadError(problem)
        time.sleep(pause)


def _request(url: str, part: Path) -> None:
    import requests
    from tqdm import tqdm

    have = _size(part)
    headers = {'Accept-Encoding': 'identity'} | ({'Range': f'bytes={have}-'} if have else {})
    with requests.get(url, headers=headers, stream=True, timeout=_TIMEOUT) as response:
        if have and response.status_code == requests.codes.requested_range_not_satisfiable:
            return  # nothing is missing, or the part is of another file: the caller compares it
        response.raise_for_status()
        if 'html' in response.headers.get('Content-Type', ''):
            raise DownloadError(f'{url} is a web page, not the file. Does this network need a login?')
        if not response.headers.get('Content-Range', '').startswith(f'bytes {have}-'):
            have = 0  # the server sends the complete file
        length = response.headers.get('Content-Length', '')
        total = have + int(length) if length.isdecimal() else None
        with (
            open(part, 'ab' if have else 'wb') as file,
            tqdm(desc=part.stem, initial=have, total=total, unit='B', unit_scale=True, delay=1, disable=None) as bar,
        ):
            for chunk in response.iter_content(_CHUNK):
                file.write(chunk)
                bar.update(len(chunk))
        if total is not None and _size(part) < total:
            raise requests.ConnectionError


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _describe(error: Exception, url: str) -> str:
    """Describe an error of requests, whose own texts contain addresses of objects."""
    from requests import exceptions

    host = urlsplit(url).netloc
    kinds = (
        (exceptions.ProxyError, f'the proxy does not connect to {host}'),
        (exceptions.SSLError, f'the certificate of {host} cannot be verified'),
        (exceptions.Timeout, f'{host} does not answer'),
        ((exceptions.ConnectionError, exceptions.ChunkedEncodingError), f'no connection to {host}, or it broke off'),
        (ValueError, f'{url} is not an http or https URL'),
    )
    return next((text for kind, text in kinds if isinstance(error, kind)), f'{host}: {type(error).__name__}')
