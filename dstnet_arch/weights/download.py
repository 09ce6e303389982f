"""One file over HTTP, going on where an interrupted transfer has stopped."""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import requests
from tqdm import tqdm

from dstnet_arch.weights.released import LFS_VERSION

PAUSES = (1.0, 3.0, 10.0)
"""Seconds to wait before trying again what had begun to work; more bytes renew the patience."""
TIMEOUT = (10.0, 30.0)
"""Seconds to wait for a connection, and for the next bytes."""
LARGEST = 2**28
"""Bytes: no released file comes near, so what is larger is something else and need not fill the disk."""

_CHUNK = 2**16
_PARTIAL, _NOT_SATISFIABLE = 206, 416


class FetchError(Exception):
    """A file could not be fetched; the text says why, as a part of a sentence."""


class NotThereError(FetchError):
    """The server has no such file, or has something else in its place."""


class _InterruptedError(Exception):
    """Worth another try."""


def fetch(url: str, part: Path, name: str) -> None:
    """Complete the file `part` with what `url` holds. Whether that is the right thing is for the caller to check.

    Args:
        url: where the file is, http or https.
        part: the file, whole or in part or not there yet. Whatever has come stays in it if this fails.
        name: what the progress bar, which shows on a terminal only, calls it.

    Raises:
        NotThereError: another address may do: not found, or a web page or a Git LFS pointer in its place.
        FetchError: no address of this host will do now: no network, refused, too slow, broken off again and again.
        OSError: `part` cannot be written.
    """
    pauses, first = iter(PAUSES), True
    with (
        requests.Session() as session,
        tqdm(desc=name, initial=_size(part), unit='B', unit_scale=True, delay=1, disable=None) as bar,
    ):
        while True:
            before = _size(part)
            try:
                _transfer(session, url, part, bar, first)
                return
            except _InterruptedError as error:
                if _size(part) > before:
                    pauses = iter(PAUSES)
                pause = next(pauses, None)
                if pause is None:
                    raise FetchError(_broken_off(str(error), part)) from None
            first = False
            time.sleep(pause)


def _transfer(session: requests.Session, url: str, part: Path, bar: tqdm[Any], first: bool) -> None:
    """One request, and the bytes that it brings."""
    have = _size(part)
    headers = {'Accept-Encoding': 'identity'}  # not packed: positions are those in the file
    if have:
        headers['Range'] = f'bytes={have}-'
    try:
        response = session.get(url, headers=headers, stream=True, timeout=TIMEOUT)
    except requests.RequestException as error:
        # Whoever has no network learns so at once; one that has been there may come back.
        kind = FetchError if first else _InterruptedError
        raise kind(_reason(error, url)) from None
    with response:
        if response.status_code == _NOT_SATISFIABLE and have:
            part.unlink()  # longer than the file there, so it is a piece of something else
            raise _InterruptedError(f'{url} is shorter than what was there of it')
        _check_status(response)
        start = _start(response, have, part)
        length = response.headers.get('Content-Length', '')
        total = start + int(length) if length.isdecimal() else None
        chunks = _chunks(response)
        chunk = next(chunks, b'')
        # Before anything is written, so that the login page of a hotel's network does not cost what came before.
        _check_content(chunk, start, total, response.url)
        bar.total, bar.n = total, start
        with open(part, 'ab' if start else 'wb') as file:
            while chunk and file.tell() <= LARGEST:
                file.write(chunk)
                bar.update(len(chunk))
                chunk = next(chunks, b'')
    if _size(part) > LARGEST:
        part.unlink()
        raise NotThereError(_too_large(url))
    if total is not None and _size(part) < total:
        raise _InterruptedError(f'{_host(url)} has closed the connection')


def _chunks(response: requests.Response) -> Iterator[bytes]:
    try:
        yield from response.iter_content(_CHUNK)
    except requests.RequestException as error:
        raise _InterruptedError(_reason(error, response.url)) from None


def _check_status(response: requests.Response) -> None:
    code, host = response.status_code, _host(response.url)
    answer = f'answers {code} {response.reason}'
    if code >= 500 or code == requests.codes.too_many_requests:
        raise _InterruptedError(f'{host} {answer}')
    if code not in (200, _PARTIAL):
        raise NotThereError(f'{response.url} {answer}')


def _start(response: requests.Response, have: int, part: Path) -> int:
    """At which byte of the file the response begins."""
    if response.status_code != _PARTIAL:
        return 0  # the server cannot go on in the middle
    found = re.match(r'bytes (\d+)-', response.headers.get('Content-Range', ''))
    if not found or int(found[1]) != have:
        part.unlink(missing_ok=True)
        raise _InterruptedError(f'{_host(response.url)} sends another piece than was asked for')
    return have


def _check_content(first: bytes, start: int, total: int | None, url: str) -> None:
    if not start and first.lstrip()[:1] == b'<':
        raise NotThereError(f'{url} is a web page, not the file (does this network want a login?)')
    if not start and first.startswith(LFS_VERSION):
        raise NotThereError(f'{url} is a Git LFS pointer, not the file')
    if total is not None and total > LARGEST:
        raise NotThereError(_too_large(url))


def _reason(error: requests.RequestException, url: str) -> str:
    """What has gone wrong, in words; `requests` gives classes for it, and texts with addresses of objects in them."""
    host = _host(str(error.request.url) if error.request is not None else url)
    causes = list(_causes(error))
    if isinstance(error, (requests.exceptions.ProxyError, requests.exceptions.InvalidProxyURL)):
        return f'the proxy that the environment names for {host} does not let it through'
    if isinstance(error, ValueError):  # what the classes for malformed addresses have in common
        return f'{url} is no http or https address'
    if isinstance(error, requests.exceptions.SSLError):
        return f'the certificate of {host} cannot be verified'
    if isinstance(error, requests.Timeout) or any(isinstance(c, TimeoutError) for c in causes):
        return f'{host} does not answer'
    if any(isinstance(c, socket.gaierror) for c in causes):
        return f'there is no network here, or no host {host}'
    if any(isinstance(c, ConnectionRefusedError) for c in causes):
        return f'{host} refuses the connection'
    if isinstance(error, requests.exceptions.ChunkedEncodingError):
        return f'{host} has closed the connection'
    system = next((c.strerror for c in causes if isinstance(c, OSError) and c.strerror), type(error).__name__)
    return f'{host} cannot be reached ({system})'


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _broken_off(reason: str, part: Path) -> str:
    kept = _size(part)
    return f'{reason}; the {kept / 1e6:.1f} MB that came stay in {part} and need not come again' if kept else reason


def _too_large(url: str) -> str:
    return f'{url} has more than {LARGEST / 1e6:.0f} MB, which no released file has'


def _host(url: str) -> str:
    return urlsplit(url).netloc or url


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
