"""What a training run or a test shows while it is running, and the line after Ctrl-C."""

from __future__ import annotations

import functools
import logging
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from tqdm.contrib.logging import logging_redirect_tqdm

from dstnet_arch.progress import Progress

_shown = ExitStack()


def show_progress(model: Any, opt: dict[str, Any]) -> None:
    """Count the iterations of a model: a bar on a terminal, else lines until BasicSR prints its own."""
    total, print_freq = int(opt['train']['total_iter']), int(opt['logger']['print_freq'])
    optimize = model.optimize_parameters
    progress: Progress | None = None
    last = 0

    @functools.wraps(optimize)
    def optimize_parameters(current_iter: int) -> None:
        nonlocal progress, last
        if progress is None:
            progress = Progress(total, 'iteration', 'training', done=current_iter - 1)
            last = current_iter + print_freq
            _shown.callback(progress.close)
            # The bar stays at the bottom, below the lines of the log.
            _shown.enter_context(logging_redirect_tqdm([logging.getLogger('basicsr')]))
        optimize(current_iter)
        if current_iter < last or sys.stderr.isatty():
            progress.update()
        if current_iter == total:
            _shown.close()

    model.optimize_parameters = optimize_parameters


def interrupted(opt: dict[str, Any]) -> str:
    """Return the line after Ctrl-C: the last checkpoint and how to continue."""
    _shown.close()
    if not opt['is_train']:
        return 'Interrupted. Run the same command again to repeat the test.'
    folder = Path(opt['path']['training_states'])
    iterations = [int(file.stem) for file in folder.glob('*.state') if file.stem.isdigit()]
    if not iterations:
        return 'Interrupted before the first checkpoint. Run the same command again to start from the beginning.'
    newest = folder / f'{max(iterations)}.state'
    return f'Interrupted. The last checkpoint is {newest}. Run the same command with --auto_resume to continue.'
