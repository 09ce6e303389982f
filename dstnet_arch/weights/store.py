"""A folder of released weights: what is there, and what has to be fetched into it."""

from __future__ import annotations

import os
from os import PathLike
from pathlib import Path

from dstnet_arch.errors import CheckpointError
from dstnet_arch.weights import released as known
from dstnet_arch.weights.released import Released, find_released, git_ids, identify

DEFAULT_FOLDER = 'weights'


class DownloadError(CheckpointError):
    """Weights could not be fetched: no network, or no such file behind it."""


def resolve_weights(name_or_path: str | PathLike[str], folder: str | PathLike[str] = DEFAULT_FOLDER) -> Path:
    """The file of weights that a user means.

    Args:
        name_or_path: a name of released weights (GoPro, GoPro-L, DVD, BSD), which are fetched if they are not in
            `folder`; or the path of any file. A file that is called like released weights is reached by a path with a
            folder in it: ``./GoPro``.
        folder: where released weights are kept.

    Returns:
        The path of a file that is there; of released weights, with the very bytes that the authors have released.

    Raises:
        CheckpointError: neither such a name nor a file; or another file is in the place of the released one.
        DownloadError: it cannot be fetched.
    """
    name = str(name_or_path)
    released = find_released(name)
    if released is not None:
        return get_weights(released, folder)
    path = Path(name_or_path)
    if path.is_file():
        return path
    of_this_file = next((r for r in known.RELEASED if r.file == path.name), None)
    hint = (
        f' This is the name of a released file: give {of_this_file.name} in place of the path, and it is fetched.'
        if of_this_file
        else known.nearest(name)
    )
    raise CheckpointError(
        f'Weights {name}: no such file, seen from {Path.cwd()}, and none of the released ones, which are '
        f'{known.names()}.{hint}'
    )


def get_weights(released: Released, folder: str | PathLike[str] = DEFAULT_FOLDER, base_url: str | None = None) -> Path:
    """Have a released file in a folder: fetch it if it is not there, and check that it is the authors'.

    What a broken transfer has brought stays in ``<file>.part``, and the next call goes on from there. Several processes
    may call this at once; one of them fetches.

    Args:
        released: which one.
        folder: where to; made if needed.
        base_url: a mirror, the address of a folder with the file in it; by default the authors' repository.

    Returns:
        The file's path, in `folder`.

    Raises:
        CheckpointError: another file is in its place, which is left alone.
        DownloadError: it cannot be fetched or written.
    """
    from filelock import FileLock

    path = Path(folder) / released.file
    try:
        if is_there(released, path):
            return path
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_name(f'.{path.name}.lock')):
            if not is_there(released, path):  # nor has another process fetched it meanwhile
                part = partial_path(path)
                _fetch(released, part, base_url)
                os.replace(part, path)
    except OSError as error:
        raise DownloadError(
            f'{path} cannot be read or written: {error.strerror or error}. Free some space, mend the permissions or '
            'give another folder.'
        ) from None
    return path


def is_there(released: Released, path: Path) -> bool:
    """Whether the released file is at `path`.

    Raises:
        CheckpointError: something else is.
    """
    if not path.exists():
        return False
    if path.is_file() and identify(path) == released:
        return True
    raise CheckpointError(
        f"{path} is not the authors' {released.file}. It was left alone: move it away, or give another folder, and the "
        'released file can be fetched. To use this one as it is, give its path.'
    )


def partial_path(path: Path) -> Path:
    """Where a file grows until it is whole and checked."""
    return path.with_name(f'{path.name}.part')


def _fetch(released: Released, part: Path, base_url: str | None) -> None:
    """Fetch `released` into `part`, from the first address that has it."""
    from dstnet_arch.weights.download import FetchError, NotThereError

    urls = [f'{base.rstrip("/")}/{released.file}' for base in ([base_url] if base_url else known.SOURCES)]
    problems = []
    for url in urls:
        try:
            if _complete(released, part) or _fetch_from(url, released, part):
                return
            problems.append(_describe_wrong(url, released, part))
            part.unlink()
        except NotThereError as error:
            problems.append(str(error))
        except FetchError as error:
            problems.append(str(error))
            break
    raise DownloadError(
        f'{released.file} cannot be fetched: {"; ".join(problems)}. Try again later, or fetch {urls[0]} by other means '
        f'and put it into {part.parent}.'
    )


def _fetch_from(url: str, released: Released, part: Path) -> bool:
    """Fetch `url` into `part`; whether that is the released file."""
    from dstnet_arch.weights.download import fetch

    went_on = part.exists()
    fetch(url, part, released.file)
    if went_on and not _complete(released, part):
        part.unlink()  # the piece that was there may have been of something else
        fetch(url, part, released.file)
    return _complete(released, part)


def _complete(released: Released, part: Path) -> bool:
    return part.is_file() and identify(part) == released


def _describe_wrong(url: str, released: Released, part: Path) -> str:
    return (
        f"{url} is not the authors' file: its {part.stat().st_size} bytes have the git blob id {git_ids(part)[0]}, not "
        f'{released.blob_id}'
    )
