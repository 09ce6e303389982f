"""Data and weights that options name and that do not exist: one sentence each, with the remedy."""

from __future__ import annotations

import os
from pathlib import Path

from dstnet_arch.weights.released import RELEASED

DATA_COMMANDS = {
    'sample': 'python -m data_prep sample -o {folder}',
    'gopro': 'python -m data_prep gopro SOURCE -o {folder}',
    'dvd': 'python -m data_prep dvd SOURCE -o {folder}',
    'bsd_1ms8ms': 'python -m data_prep bsd SOURCE -o {folder} --exposure 1ms8ms',
    'bsd_2ms16ms': 'python -m data_prep bsd SOURCE -o {folder} --exposure 2ms16ms',
    'bsd_3ms24ms': 'python -m data_prep bsd SOURCE -o {folder} --exposure 3ms24ms',
}
"""Command that makes each data set, by the name of its folder."""


def missing_data(root: str) -> str | None:
    """Return the problem with a data root that does not exist."""
    root = os.path.expanduser(root)
    if os.path.exists(root):
        return None
    folder = os.path.dirname(os.path.normpath(root))
    for name, command in DATA_COMMANDS.items():
        if name in os.path.basename(folder).lower():
            return f'{_not_found(root)} To make it: {command.format(folder=folder)}'
    return f'{_not_found(root)} Give an LMDB made by python -m data_prep, or a folder of frames.'


def missing_file(path: str) -> str | None:
    """Return the problem with a file of weights or training state that does not exist."""
    file = Path(path).expanduser()
    if file.is_file():
        return None
    others = sorted((found.name for found in file.parent.glob(f'*{file.suffix}')), key=lambda name: (len(name), name))
    released = [weights.name for weights in RELEASED if weights.file == file.name]
    if others:
        hint = f'Files in this folder: {", ".join(others[-5:])}'
    elif released:
        hint = f"To get the authors' weights: dstnet weights get {released[0]}"
    elif file.parent.name in ('models', 'training_states'):
        hint = f'Train {file.parent.parent.name} first, or give another file'
    else:
        hint = 'Give a file that exists, or ~'
    return f'{_not_found(path)} {hint}'


def _not_found(path: str) -> str:
    return f'{path} does not exist' + ('.' if os.path.isabs(path) else f' (current folder: {os.getcwd()}).')
