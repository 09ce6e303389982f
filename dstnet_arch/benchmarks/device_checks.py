"""Checks of ``dstnet doctor --full``: the networks on a device, compared with float64 on the CPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import perf_counter
from typing import NamedTuple

import torch
from torch import Tensor

from dstnet_arch.archs.dstnet_arch import DSTNet
from dstnet_arch.archs.dstnet_plus_arch import DSTNetPlus
from dstnet_arch.archs.video_net import VideoNet
from dstnet_arch.arguments import Size
from dstnet_arch.errors import DSTNetError, first_line
from dstnet_arch.memory_errors import out_of_memory
from dstnet_arch.precision import PRECISIONS, resolve_precision
from dstnet_arch.streaming.memory import device_memory, needed_bytes, tile_plans
from dstnet_arch.streaming.streamer import Streamer
from dstnet_arch.streaming.tiles import Plan

FRAME = Size(1280, 720)


class Check(NamedTuple):
    """Result of one check.

    Attributes:
        name: what was checked.
        ok: False if something is wrong.
        detail: figures, or the reason.
    """

    name: str
    ok: bool
    detail: str


@contextmanager
def _seeded() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def full_checks(device: torch.device) -> Iterator[Check]:
    """Run the networks on the device: parity, streaming, tiles, compilation, memory, time."""
    on_gpu = device.type == 'cuda'
    steps: list[Callable[[torch.device], Iterator[Check]]] = [_parity, _gradients, _streaming, _compilation]
    if on_gpu:
        steps += [_out_of_memory, _peak_memory, _frame_time, _profile]
    for step in steps:
        begin = perf_counter()
        try:
            yield from step(device)
        except Exception as error:
            yield Check(step.__name__.strip('_'), False, f'{type(error).__name__}: {first_line(error)}')
        if on_gpu:
            torch.cuda.empty_cache()
        print(f'      ({perf_counter() - begin:.0f} s)', flush=True)


def _nets() -> list[tuple[str, VideoNet]]:
    with _seeded():
        return [('DSTNet', DSTNet(num_block=3)), ('DSTNet+', DSTNetPlus(num_kernel_block=1, num_block=3))]


def _clip(frames: int = 3, height: int = 90, width: int = 122) -> Tensor:
    with _seeded():
        return torch.rand(1, frames, 3, height, width)


# Largest error relative to the largest value, of output and gradients.
_LIMITS = {'fp32': (1e-5, 1e-4), 'tf32': (5e-3, 5e-2), 'bf16': (5e-2, 3e-1), 'fp16': (1e-2, 1e-1)}


def supported_precisions(device: torch.device) -> Iterator[str]:
    """Yield the names of the precisions that a device supports."""
    for name in PRECISIONS:
        try:
            resolve_precision(name, device)
        except DSTNetError:
            continue
        yield name


def _parity(device: torch.device) -> Iterator[Check]:
    """Outputs in every precision against float64 on the CPU."""
    for label, net in _nets():
        clip = _clip()
        with torch.no_grad():
            expected = net.double()(clip.double())
        net.float().to(device)
        for name in supported_precisions(device):
            policy = resolve_precision(name, device)
            with torch.no_grad(), policy.step(), policy.autocast():
                got = net(clip.to(device))
            yield _compare(f'{label} output, {name}', got, expected, _LIMITS[name][0])


def _gradients(device: torch.device) -> Iterator[Check]:
    """Gradients of all weights in every precision against float64 on the CPU."""
    for label, net in _nets():
        clip = _clip(2, 48, 64)
        net.double()(clip.double()).square().mean().backward()
        expected = torch.cat([p.grad.flatten() for p in net.parameters() if p.grad is not None])
        net.float().to(device)
        for name in supported_precisions(device):
            policy = resolve_precision(name, device)
            net.zero_grad()
            with policy.step():
                with policy.autocast():
                    output = net(clip.to(device))
                output.float().square().mean().backward()
            got = torch.cat([p.grad.flatten() for p in net.parameters() if p.grad is not None])
            error = float((got.cpu().double() - expected).norm() / expected.norm())
            yield Check(f'{label} gradients, {name}', error <= _LIMITS[name][1], f'relative error {error:.1e}')


def _streaming(device: torch.device) -> Iterator[Check]:
    """Streaming (on a GPU with CUDA graphs) and tiles against the complete clip, in float32."""
    policy = resolve_precision('fp32', device)
    for label, net in _nets():
        net.to(device)
        clip = _clip(7)
        with torch.no_grad(), policy.step():
            expected = net(clip.to(device))[0]
            for what, tile in (('streaming', None), ('tiles of 64x64', (64, 64))):
                got = torch.stack([frame.clone() for frame in Streamer(net, tile=tile)(clip[0])])
                yield _compare(f'{label} {what}', got, expected, _LIMITS['fp32'][0])


def _compilation(device: torch.device) -> Iterator[Check]:
    """Compiled propagation steps against eager execution in float32."""
    policy = resolve_precision('fp32', device)
    clip = _clip(3, 64, 96).to(device)
    (label, net), *_ = _nets()
    net.to(device)
    with torch.no_grad(), policy.step():
        expected = net(clip)
        net.compile_steps()
        yield _compare(f'{label} torch.compile', net(clip), expected, 1e-4)


def _out_of_memory(device: torch.device) -> Iterator[Check]:
    """A limit on the allocator has to be recognised as out of memory, and tiles have to work below it."""
    net = DSTNet(num_block=3).to(device)
    frames = [torch.rand(3, FRAME.height, FRAME.width)] * 2
    total = torch.cuda.get_device_properties(device).total_memory
    needed = needed_bytes(net, (1, FRAME.height, FRAME.width), Plan(), device.type)
    try:
        torch.cuda.empty_cache()
        torch.cuda.set_per_process_memory_fraction(min(1.0, 0.4 * needed / total), device)
        try:
            for _ in Streamer(net)(frames):
                pass
            yield Check('out of memory', False, 'no error below the limit')
        except Exception as error:
            yield Check('out of memory', out_of_memory(error), f'{type(error).__name__}: {first_line(error)}')
        torch.cuda.empty_cache()
        torch.cuda.set_per_process_memory_fraction(min(1.0, 0.95 * needed / total), device)
        count = sum(1 for _ in Streamer(net, tile='auto')(frames))
        yield Check('tiles when memory is low', count == len(frames), f'{count} frames of {FRAME}')
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, device)


def _peak_memory(device: torch.device) -> Iterator[Check]:
    """Peak memory of a streamed frame against the estimate that chooses the tiles."""
    net = DSTNet().to(device)
    for side in (720, 1080, 2160):
        width = side * 16 // 9
        estimate = needed_bytes(net, (1, side, width), Plan(), device.type)
        if tile_plans(net, (1, side, width), device_memory(device))[0].tile is not None:
            continue
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        for _ in Streamer(net)([torch.rand(3, side, width)] * 6):  # CUDA graphs are captured and replayed
            pass
        peak = torch.cuda.max_memory_allocated(device) - before
        detail = f'{peak / 1e6:.0f} MB, estimate {estimate / 1e6:.0f} MB'
        yield Check(f'peak memory, {width}x{side}', peak <= estimate, detail)


def _frame_time(device: torch.device) -> Iterator[Check]:
    """Time of a streamed 1280x720 frame in every precision: of a further frame, without the start."""
    frames = [torch.rand(3, FRAME.height, FRAME.width)] * 72
    supported = list(supported_precisions(device))
    precisions = [name for name in supported if name != 'fp32' or 'tf32' not in supported]
    for label, net in (('DSTNet', DSTNet()), ('DSTNet-L', DSTNet(prop_feat=96, num_block=30))):
        net.to(device)
        for name in precisions:
            policy = resolve_precision(name, device)
            streamer = Streamer(net, autocast=policy.autocast_dtype, store='device')
            seconds = []
            with policy.step():
                for few in (frames[:4], frames[:24], frames):
                    begin = perf_counter()
                    for _ in streamer(few):
                        pass
                    torch.cuda.synchronize(device)
                    seconds.append(perf_counter() - begin)
            each = (seconds[2] - seconds[1]) / 48
            detail = f'{1e3 * each:.2f} ms for a further frame, {seconds[1]:.2f} s for a video of 24 frames'
            yield Check(f'{label} streaming {FRAME}, {name}', True, detail)


def _profile(device: torch.device) -> Iterator[Check]:
    """The kernels that take most of a streamed frame."""
    from torch.profiler import ProfilerActivity, profile

    net = DSTNet().to(device)
    policy = resolve_precision(None, device)
    frames = [torch.rand(3, FRAME.height, FRAME.width)] * 2
    with policy.step():
        streamer = Streamer(net, autocast=policy.autocast_dtype, store='device')
        list(streamer(frames))
        with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiler:
            list(streamer(frames))
            torch.cuda.synchronize(device)
    print(profiler.key_averages().table(sort_by='self_cuda_time_total', row_limit=20, max_name_column_width=70))
    yield Check('profile', True, f'{policy}, two frames of {FRAME}')


def _compare(name: str, got: Tensor, expected: Tensor, limit: float) -> Check:
    expected = expected.double().cpu()
    error = got.detach().double().cpu() - expected
    relative = float(error.abs().max() / expected.abs().max())
    mse = float(error.square().mean())
    psnr = f'{-10 * torch.tensor(mse).log10():.1f} dB' if mse else 'identical'
    return Check(
        name, relative <= limit, f'largest error {relative:.1e} of the largest value (limit {limit:g}), {psnr}'
    )
