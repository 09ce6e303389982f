"""Find and read the training state from which a run is resumed."""

from __future__ import annotations

import functools
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from dstnet_arch.errors import CheckpointError
from dstnet_arch.plugin.options import concerns_us

LoadResumeState = Callable[[dict[str, Any]], Any]


def resuming_anywhere(load: LoadResumeState) -> LoadResumeState:
    """Wrap BasicSR's ``load_resume_state``, which needs CUDA and stops at a damaged state.

    Options for other models and data sets keep the original on CUDA.
    """

    @functools.wraps(load)
    def load_resume_state(opt: dict[str, Any]) -> Any:
        ours = concerns_us(opt)
        if not ours and torch.cuda.is_available():
            return load(opt)
        path = opt['path'].get('resume_state')
        if opt['auto_resume']:
            files = [file for file in Path(opt['path']['training_states']).glob('*.state') if file.stem.isdigit()]
            states = sorted(files, key=lambda file: int(file.stem), reverse=True)
        else:
            states = [Path(path)] if path else []
        if not states:
            return None
        if ours:
            path, state = _first_good(states, opt)
        else:
            path, state = states[0], torch.load(states[0], map_location='cpu', weights_only=True)

        # As BasicSR does: the options name the state, and check_resume sets the paths of its networks.
        from basicsr.utils import check_resume

        opt['path']['resume_state'] = str(path)
        check_resume(opt, state['iter'])
        if ours and 'train' in opt.get('datasets', {}):
            # For the sampler, which is created before the model and does not see the training state.
            opt['datasets']['train']['resume_at'] = {'epoch': state['epoch'], 'iter': state['iter']}
        return state

    return load_resume_state


def _first_good(states: list[Path], opt: dict[str, Any]) -> tuple[Path, Any]:
    for path in states:
        try:
            return path, read_state(path, opt)
        except CheckpointError as error:
            if not opt['auto_resume']:
                raise
            print(f'dstnet_arch: {error} Trying the one before.', file=sys.stderr, flush=True)
    # Starting from the beginning would move the run aside.
    raise CheckpointError(
        f'None of the {len(states)} training states in {states[0].parent} can be read. '
        'Start without --auto_resume to train from the beginning; the former run is kept under another name.'
    )


def read_state(path: Path, opt: dict[str, Any]) -> dict[str, Any]:
    """Read a training state to the CPU, as data only: nothing in the file is executed.

    Args:
        path: the file.
        opt: the options after BasicSR's parser; they name the networks whose weights belong to the state.

    Raises:
        CheckpointError: the file is not a training state, is damaged or contains objects; or the weights that belong to
            it are missing or damaged.
    """
    try:
        state = torch.load(path, map_location='cpu', weights_only=True)
        iteration, epoch = state['iter'], state['epoch']
        if not all(type(count) is int and count >= 0 for count in (iteration, epoch)):
            raise ValueError('iter and epoch are not whole numbers')
    except Exception as error:  # the type depends on where the damage is
        reason = ' '.join(str(error).split()).partition('. ')[0]
        raise CheckpointError(f'The training state {path} cannot be read ({type(error).__name__}: {reason}).') from None
    kept = opt['path'].get('ignore_resume_networks') or ()
    for network in (key for key in opt if key.startswith('network_') and key not in kept):
        weights = Path(opt['path']['models'], f'{network.replace("network_", "net_")}_{iteration}.pth')
        if not zipfile.is_zipfile(weights):  # checks the end of the file, which a crash cuts off
            raise CheckpointError(
                f'The weights {weights}, which belong to {path}, are missing or damaged. '
                'To resume, keep the name of the run.'
            )
    return state
