"""Peak memory of a run, and what the backward pass keeps.

On a GPU PyTorch's allocator knows. On the CPU a run is repeated in a fresh process, and the growth of that process's
peak resident memory is taken: an allocator keeps and reuses what earlier runs left behind, so that the process that has
timed them has nothing to tell.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dstnet_arch.errors import DSTNetError
from dstnet_arch.memory_errors import out_of_memory

_STATUS, _CLEAR = Path('/proc/self/status'), Path('/proc/self/clear_refs')
_OUT_OF_MEMORY = 'not enough memory'


def peak_memory(
    run: Callable[[], Any],
    prepare: Callable[..., Callable[[], Any]],
    arguments: Mapping[str, Any],
    device: torch.device,
) -> int:
    """Bytes that a run needs at its peak, on top of what was prepared for it (the network and its input).

    Args:
        run: what `prepare` made; run once more on a GPU, not used on the CPU.
        prepare: a function at the top level of a module; called in a fresh process on the CPU.
        arguments: of `prepare`.
        device: where it runs; of GPUs, PyTorch's current one.

    Raises:
        MemoryError: the fresh process was ended for want of memory.
        DSTNetError: it ended otherwise, or the system does not tell a process its peak memory.
    """
    if device.type != 'cuda':
        return _in_fresh_process(prepare, arguments)
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    run()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


@contextmanager
def saved_for_backward(net: nn.Module) -> Iterator[dict[int, int]]:
    """Note what autograd saves for the backward pass: ``sum(saved.values())`` bytes.

    Memory that several tensors share counts once; the network's own parameters, which are there anyway, do not count.

    Yields:
        Memory block -> bytes.
    """
    own = {_block(tensor) for tensor in (*net.parameters(), *net.buffers())}
    saved: dict[int, int] = {}
    held: list[Tensor] = []  # so that no block is freed and its number given to another

    def pack(tensor: Tensor) -> Tensor:
        if _block(tensor) not in own:
            saved[_block(tensor)] = tensor.untyped_storage().nbytes()
            held.append(tensor.detach())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield saved


def _block(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


def _in_fresh_process(prepare: Callable[..., Any], arguments: Mapping[str, Any]) -> int:
    job = {
        'module': prepare.__module__,
        'function': prepare.__qualname__,
        'arguments': dict(arguments),
        'threads': torch.get_num_threads(),
    }
    # By -c, not by -m: this module must be there under its own name alone.
    code = f'from {__name__} import _answer; _answer()'
    done = subprocess.run([sys.executable, '-c', code], input=json.dumps(job), capture_output=True, text=True)
    answer = (done.stdout.splitlines() or [''])[-1]
    if done.returncode == -signal.SIGKILL or answer == _OUT_OF_MEMORY:  # killed: by the system, for want of memory
        raise MemoryError(_OUT_OF_MEMORY)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f'status {done.returncode}'])[-1]
        raise DSTNetError(f'Memory could not be measured, the process for it failed: {last}')
    return int(answer)


def _answer() -> None:
    """In the fresh process: prepare the job on stdin, run it, print by how many bytes it raised the peak."""
    job = json.load(sys.stdin)
    torch.set_num_threads(job['threads'])
    try:
        run = getattr(import_module(job['module']), job['function'])(**job['arguments'])
        _wake_libraries()
        before = _reset_peak()
        run()
        print(_peak() - before)
    except Exception as error:
        if not out_of_memory(error):
            raise
        print(_OUT_OF_MEMORY)


def _wake_libraries() -> None:
    """Load what PyTorch loads at its first convolution and starts at its first backward pass, small as they can be."""
    x = torch.ones(1, 8, 16, 16, requires_grad=True)
    torch.nn.functional.conv2d(x, torch.ones(8, 8, 3, 3)).sum().backward()


def _reset_peak() -> int:
    """Forget the peak so far; the resident memory that is left."""
    try:
        _CLEAR.write_text('5')
    except OSError:  # not Linux, or not allowed: what lies below the earlier peak stays unseen
        return _peak()
    return _status('VmRSS')


def _peak() -> int:
    # Not getrusage on Linux: its peak is that of the process before exec, too, i.e. of the parent, and is never reset.
    if _STATUS.exists():
        return _status('VmHWM')
    try:
        import resource
    except ImportError:
        raise DSTNetError(f'{sys.platform} does not tell a process its peak memory.') from None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == 'darwin' else 1024 * peak


def _status(key: str) -> int:
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith(f'{key}:'))
    return 1024 * int(line.split()[1])
