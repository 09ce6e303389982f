"""Count what a network does on a GPU, without a GPU: fake CUDA tensors have shapes, strides and devices, but no data.

``python tests/gpu/gpu_trace.py -o trace.json`` writes the figures of `docs/performance.md`.

Kernels are counted as PyTorch launches them: one for each operator that is neither a view nor an allocation, one more
to add the bias of a convolution, and one more to change the layout of a convolution's weight. Bytes are those that the
operators read and write, without caches. The peak is that of live tensors, without the workspace of cuDNN.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from dstnet_arch.archs.dstnet_arch import DSTNet
from dstnet_arch.archs.video_net import VideoNet
from dstnet_arch.ops import fused

ALLOCATIONS = ('empty', 'empty_like', 'empty_strided', 'new_empty', 'new_empty_strided', '_unsafe_view', 'lift_fresh')
CONVOLUTIONS = ('convolution', 'convolution_backward')


@dataclass
class Trace:
    """What was counted."""

    operators: Counter[str] = field(default_factory=Counter)
    bias_additions: int = 0
    weight_relayouts: int = 0
    relayouts: list[str] = field(default_factory=list)  # copies of a map to another layout
    not_channels_last: list[str] = field(default_factory=list)  # convolutions on, or resulting in, other layouts
    channel_slices: list[str] = field(default_factory=list)  # gradients that are filled with zeros
    bytes: int = 0
    convolution_bytes: int = 0
    peak_bytes: int = 0

    @property
    def kernels(self) -> int:
        return sum(self.operators.values()) + self.bias_additions + self.weight_relayouts

    def summary(self, frames: int = 1) -> dict[str, float]:
        return {
            'operators': round(sum(self.operators.values()) / frames, 1),
            'kernels': round(self.kernels / frames, 1),
            'gb': round(self.bytes / frames / 1e9, 2),
            'convolution_gb': round(self.convolution_bytes / frames / 1e9, 2),
            'not_channels_last': round(len(self.not_channels_last) / frames, 1),
            'relayouts': round(len(self.relayouts) / frames, 1),
            'weight_relayouts': round(self.weight_relayouts / frames, 1),
            'peak_mb': round(self.peak_bytes / 1e6, 1),
        }


class Tracer(TorchDispatchMode):
    """Counts operators; `trace` holds the result."""

    def __init__(self) -> None:
        super().__init__()
        self.trace = Trace()
        self._live: dict[int, tuple[StorageWeakRef, int]] = {}

    def hold(self, *tensors: Tensor) -> None:
        """Count tensors that existed before."""
        for tensor in tensors:
            storage = tensor.untyped_storage()
            self._live.setdefault(storage._cdata, (StorageWeakRef(storage), storage.nbytes()))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        inputs = [t for t in tree_leaves((args, kwargs or {})) if isinstance(t, Tensor) and t.is_cuda]
        outputs = [t for t in tree_leaves(result) if isinstance(t, Tensor) and t.is_cuda]
        if not outputs and not inputs:
            return result
        self.hold(*outputs)
        self._live = {k: v for k, v in self._live.items() if not v[0].expired()}
        self.trace.peak_bytes = max(self.trace.peak_bytes, sum(size for _, size in self._live.values()))
        name = func._schema.name.split('::')[1]
        if is_view(func) or name in ALLOCATIONS or func._schema.name.startswith('prim::'):
            return result
        self._count(name, func, inputs, outputs, args)
        return result

    def _count(self, name: str, func: Any, inputs: list[Tensor], outputs: list[Tensor], args: Any) -> None:
        trace = self.trace
        trace.operators[f'{func._schema.name}'] += 1
        moved = sum(map(nbytes, inputs)) + sum(map(nbytes, outputs))
        if name in ('copy_', 'zero_', 'fill_'):
            moved -= nbytes(inputs[0])  # written only
        if name in CONVOLUTIONS:
            maps = [args[0], outputs[0]] if name == 'convolution' else [args[0], args[1]]
            weight = args[1] if name == 'convolution' else args[2]
            if not all(is_channels_last(t) for t in maps):
                shapes = ', '.join(f'{tuple(t.shape)} {t.stride()}' for t in maps)
                trace.not_channels_last.append(f'{name}: {shapes}')
            elif not is_channels_last(weight):
                trace.weight_relayouts += 1
                moved += 2 * nbytes(weight)
            trace.convolution_bytes += moved
            if name == 'convolution' and args[2] is not None:
                trace.bias_additions += 1
                moved += 2 * nbytes(outputs[0])
        if name == 'slice_backward' and args[2] == 1 and is_map(outputs[0]):
            trace.channel_slices.append(f'{tuple(inputs[0].shape)} of {tuple(outputs[0].shape)}')
        if name in ('clone', 'copy_', '_to_copy'):
            source = inputs[-1] if name == 'copy_' else inputs[0]
            if outputs[0].dim() == 4 and source.dim() == 4 and is_map(source) and changes_layout(source, outputs[0]):
                trace.relayouts.append(f'{name}: {tuple(source.shape)} {source.stride()} -> {outputs[0].stride()}')
        trace.bytes += moved


def is_view(func: Any) -> bool:
    returns = func._schema.returns
    return bool(returns) and all(r.alias_info is not None and not r.alias_info.is_write for r in returns)


def nbytes(tensor: Tensor) -> int:
    """Bytes that an operator touches: each element once, repeated ones (stride 0) not again."""
    sizes = [size for size, stride in zip(tensor.shape, tensor.stride(), strict=True) if stride]
    return int(torch.Size(sizes).numel()) * tensor.element_size()


def is_channels_last(tensor: Tensor) -> bool:
    return tensor.dim() != 4 or tensor.is_contiguous(memory_format=torch.channels_last)


def is_map(tensor: Tensor) -> bool:
    """True for features: not a weight, and not a frame (3 channels, or 12 before the pixel shuffle)."""
    return tensor.shape[1] not in (1, 3, 12) and min(tensor.shape[2:]) > 6


def changes_layout(source: Tensor, result: Tensor) -> bool:
    """True if channels are next to each other in one of the two only."""
    return (source.stride(1) == 1) != (result.stride(1) == 1)


@contextmanager
def fake_cuda() -> Iterator[FakeTensorMode]:
    """Tensors on 'cuda' without a GPU, with autocast and the fused kernels."""
    checked = {(0, dtype): True for dtype in (torch.float32, torch.float16, torch.bfloat16)}
    with (
        mock.patch.dict(fused._checked, checked),
        mock.patch('torch.cuda.amp.common.amp_definitely_not_available', return_value=False),
        mock.patch('torch.cuda.is_bf16_supported', return_value=True),
        FakeTensorMode() as mode,
    ):
        yield mode


def make(net: Callable[..., nn.Module], dtype: torch.dtype = torch.float32, **kwargs: Any) -> Any:
    """A network with fake CUDA parameters, as `.to('cuda')` would place them."""
    with torch.device('meta'):
        made = net(**kwargs)
    for module in made.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                layout = {'memory_format': torch.preserve_format}
                module._parameters[name] = nn.Parameter(
                    torch.empty_like(parameter, dtype=dtype, device='cuda', **layout)
                )
    return made


def trace_clip(
    net: VideoNet, shape: tuple[int, ...], train: bool = False, autocast: torch.dtype | None = None
) -> Trace:
    """A clip (B, T, 3, H, W) at once; with its backward pass if `train`."""
    clip = torch.empty(shape, device='cuda')
    tracer = Tracer()
    tracer.hold(clip, *net.parameters())
    context = nullcontext() if train else torch.no_grad()
    with tracer, context:
        with torch.autocast('cuda', dtype=autocast, enabled=autocast is not None):
            out = net(clip)
        del clip
        if train:
            run_backward(out.grad_fn, torch.empty_like(out))
    return tracer.trace


def run_backward(root: Any, grad: Tensor) -> None:
    """Run an autograd graph node by node: PyTorch's engine starts a thread for each CUDA device, and there is none."""
    uses: Counter[Any] = Counter()
    pending, seen = [root], {root}
    while pending:
        for node, _ in pending.pop().next_functions:
            uses[node] += 1
            if node is not None and node not in seen:
                seen.add(node)
                pending.append(node)
    seen.clear()
    ready: list[tuple[Any, dict[int, Tensor]]] = [(root, {0: grad})]
    waiting: dict[Any, dict[int, Tensor]] = {}
    del root, grad
    while ready:
        node, grads = ready.pop()
        if type(node).__name__ == 'AccumulateGrad':
            node.variable.grad = grads[0]
            continue
        count = max(len(getattr(node, '_input_metadata', [0])), max(grads) + 1)
        results = getattr(node, 'apply', node)(*(grads.pop(i, None) for i in range(count)))
        results = results if isinstance(results, tuple) else (results,)
        for result, (following, position) in zip(results, node.next_functions, strict=False):
            if following is None:
                continue
            sums = waiting.setdefault(following, {})
            if result is not None:
                result = result.sum_to_size(following._input_metadata[position].shape)
                sums[position] = sums[position] + result if position in sums else result
            uses[following] -= 1
            if not uses[following]:
                del uses[following]
                ready.append((following, waiting.pop(following)))
        del node, following, result, results, sums


def trace_stream(
    net: VideoNet, size: tuple[int, int], num_frame: int, autocast: torch.dtype | None = None, **settings: Any
) -> Trace:
    """A video of (3, height, width) frames through a `Streamer`."""
    from dstnet_arch.streaming.streamer import Streamer

    # As decoders provide them: (height, width, 3).
    frames = [torch.empty(*size, 3, device='cuda').permute(2, 0, 1) for _ in range(num_frame)]
    tracer = Tracer()
    tracer.hold(*net.parameters())
    with tracer:
        for _ in Streamer(net, autocast=autocast, store='device', cuda_graphs=False, **settings)(frames):
            pass
    return tracer.trace


def per_frame(net: VideoNet, size: tuple[int, int], autocast: torch.dtype | None = None) -> dict[str, float]:
    """Figures of one more frame in a stream: the difference between four frames and three."""
    few, more = (trace_stream(net, size, n, autocast).summary() for n in (3, 4))
    return {key: round(more[key] - few[key], 2) for key in few if key != 'peak_mb'} | {'peak_mb': few['peak_mb']}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('-o', '--output', type=Path, help='write the figures to this JSON file')
    args = parser.parse_args()
    figures: dict[str, Any] = {'torch': torch.__version__}
    with fake_cuda():
        for name, kwargs in (('DSTNet', {}), ('DSTNet-L', {'prop_feat': 96, 'num_block': 30})):
            net = make(DSTNet, **kwargs).eval()
            for precision, dtype in (('fp32', None), ('fp16', torch.float16)):
                figures[f'{name} {precision}, one 1280x720 frame of a stream'] = per_frame(net, (720, 1280), dtype)
                print(name, precision, figures[f'{name} {precision}, one 1280x720 frame of a stream'], flush=True)
        net = make(DSTNet).eval()
        figures['DSTNet fp32, 3 frames of 1280x720 as a clip'] = trace_clip(net, (1, 3, 3, 720, 1280)).summary()
        figures['DSTNet fp32, training step, 2 x 5 frames of 256x256'] = trace_clip(
            net.train(), (2, 5, 3, 256, 256), train=True
        ).summary()
    text = json.dumps(figures, indent=1)
    print(text)
    if args.output:
        args.output.write_text(text + '\n', encoding='utf-8')


if __name__ == '__main__':
    main()
