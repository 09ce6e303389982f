"""Restore one video: the work behind ``dstnet deblur``, without a command line."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass
from datetime import date
from functools import partial
from pathlib import Path

import torch
from torch import nn

from dstnet_arch._version import __version__
from dstnet_arch.archs.checkpoint import load_checkpoint
from dstnet_arch.archs.video_net import VideoNet
from dstnet_arch.data.frame_source import size_text
from dstnet_arch.deblur.config import DeblurConfig
from dstnet_arch.deblur.preview import write_previews
from dstnet_arch.errors import DataError, DSTNetError, OptionsError, counted, first_line
from dstnet_arch.memory_errors import translate_oom
from dstnet_arch.nonfinite import first_nonfinite
from dstnet_arch.precision import Precision, choose_device, resolve_precision
from dstnet_arch.streaming.memory import free_memory, peak_memory, place_states
from dstnet_arch.streaming.streamer import Streamer
from dstnet_arch.video.sink import NonfiniteError, Sink
from dstnet_arch.video.sinks import is_complete, open_sink
from dstnet_arch.video.source import Source
from dstnet_arch.video.sources import ReadAhead, open_source
from dstnet_arch.weights import resolve_weights

Progress = Callable[[str, int, int], None]
"""Receives the name of the stage, the number of steps done and that of all steps."""

_MEMORY_ADVICE = (
    'States need less with --interval sqrt or --store disk, a frame with --tile 512x512, with --precision bf16 or on '
    'another --device.'
)


class StoppedError(Exception):
    """The run was cancelled, or interrupted with Ctrl-C.

    Attributes:
        partial: folder of the finished frames, from which a run with `resume` continues; None if there are none.
    """

    def __init__(self, partial: Path | None) -> None:
        super().__init__()
        self.partial = partial


@dataclass(frozen=True)
class DeblurResult:
    """Result of a run.

    Attributes:
        paths: the output, and the comparison and the report if they were written.
        frames: number of frames of the output.
        restored: number of frames that this run restored; others are from an interrupted run.
        seconds: duration of the run.
        peak_memory: bytes of the GPU's memory or of main memory; 0 if unknown.
        warnings: what the user should know about the input and the output.
    """

    paths: list[Path]
    frames: int
    restored: int
    seconds: float
    peak_memory: int
    warnings: list[str]


def run(
    config: DeblurConfig,
    progress: Progress | None = None,
    cancel: Callable[[], bool] = lambda: False,
    log: Callable[[str], None] = lambda line: None,
) -> DeblurResult:
    """Restore a video.

    Args:
        config: the settings.
        progress: called after each step of the work.
        cancel: called after each step; if it returns True, the run ends and keeps what is finished.
        log: receives lines about the run, and warnings, before the work begins.

    Raises:
        DSTNetError: The input cannot be read, the output cannot be written, or a setting is wrong.
        StoppedError: The run was cancelled or interrupted.
    """
    started = time.monotonic()
    config.check()
    device = choose_device(config.device)
    precision = resolve_precision(config.precision, device, '--precision')
    net = load_checkpoint(resolve_weights(config.weights), device)
    if config.compile:
        _compile(net, device)

    def step(stage: str, done: int, total: int) -> None:
        if progress is not None:
            progress(stage, done, total)
        if cancel():
            raise StoppedError(None)

    def warn(new_warnings: list[str]) -> None:
        for warning in new_warnings:
            log(f'warning: {warning}')
        warnings.extend(new_warnings)

    warnings: list[str] = []
    paths, restored = [config.output], 0
    facts: dict[str, str] = {}
    source = open_source(
        config.input, config.start, config.end, config.rate, config.temp_dir, show_progress=progress is not None
    )
    with closing(source):
        warn(source.warnings)
        if config.resume and is_complete(config.output, source):
            log(f'{config.output} is complete: {counted(len(source), "frame")}.')
        else:
            log(f'{config.input}: {counted(len(source), "frame")}, {size_text(source.size)}')
            log(f'Network: {config.weights}, {precision}, {device}{", compiled" if config.compile else ""}')
            restored, facts = _restore(config, source, net, precision, step, warn, log)
        facts = {'duration': f'{time.monotonic() - started:.1f} s for {counted(restored, "frame")}', **facts}
        if config.compare_path or config.report_path:
            facts = {
                'input': config.input,
                'output': str(config.output),
                'frames': f'{len(source)} of {size_text(source.size)}',
                'weights': Path(config.weights).name,
                **facts,
                'made by': f'dstnet-arch {__version__}, PyTorch {torch.__version__}, {date.today()}',
            }
            paths += write_previews(config, source, facts, step)
    return DeblurResult(paths, len(source), restored, time.monotonic() - started, peak_memory(device), warnings)


def _restore(
    config: DeblurConfig,
    source: Source,
    net: VideoNet,
    precision: Precision,
    step: Progress,
    warn: Callable[[list[str]], None],
    log: Callable[[str], None],
) -> tuple[int, dict[str, str]]:
    """Restore the frames that are missing; return their number, and facts for the report."""
    streamer, device = _make_streamer(net, source, precision, config), precision.device
    job = {'input': source.identity()[:16], 'weights': _digest(net)[:16], 'precision': precision.name}
    if config.compile:
        job['compiled'] = 'yes'  # rounds differently
    sink = open_sink(config.output, source, config.encoding, job, config.resume, config.overwrite)
    try:
        with closing(sink):
            first = sink.position
            warn(sink.warnings)
            if config.compile and streamer.plan(*source.size).tile is not None:
                warn(['--compile has no effect, because the frames are processed in tiles.'])
            log(_describe_computation(streamer, source))
            log(f'Output: {sink.description}')
            if first:
                log(f'Continuing after {counted(first, "frame")} of an interrupted run.')
            try:
                if first < len(source):
                    with precision.step():
                        _restore_frames(source, sink, streamer, step)
                step('finishing', 0, 1)
                sink.finish()
            except NonfiniteError as error:
                raise _nonfinite_error(source, error.position, streamer) from None
    except (KeyboardInterrupt, StoppedError):
        raise StoppedError(sink.partial) from None
    return len(source) - first, {
        'precision': str(precision),
        'device': torch.cuda.get_device_name(device) if device.type == 'cuda' else str(device),
        'peak memory': f'{peak_memory(device) / 1e9:.1f} GB',
        'encoding': sink.description,
    }


def _restore_frames(source: Source, sink: Sink, streamer: Streamer, step: Progress) -> None:
    """Restore all frames that the sink does not hold yet."""

    def count(steps: int, total: int) -> None:
        step('backward pass' if 2 * steps <= total else 'restoring', steps, total)

    with (
        translate_oom(_MEMORY_ADVICE),
        closing(ReadAhead(source)) as frames,
        closing(streamer(frames, start=sink.position, state=sink.state, progress=count)) as stream,
    ):
        for frame in stream:
            assert stream.state is not None
            sink.write(stream.position - 1, frame)
            sink.save(stream.position, stream.state)


def _nonfinite_error(source: Source, position: int, streamer: Streamer) -> DataError:
    # Repeat the computation for three frames to find the layer: enough unless the error builds up over many frames.
    first = None
    # Layers inside compiled code cannot be watched.
    with suppress(DSTNetError, RuntimeError, MemoryError), torch.compiler.set_stance('force_eager'):
        frames = [source[t] for t in range(max(0, position - 1), min(position + 2, len(source)))]
        first = first_nonfinite(streamer.net, lambda: list(streamer(frames)))
    return DataError(
        f'Frame {source.names[position]}: the network returned values that are not finite.'
        f'{f" First: {first}." if first else ""} Use --precision fp32 or other weights.'
    )


def _compile(net: VideoNet, device: torch.device) -> None:
    """Let the network compile its steps when they first run; find out now whether anything can be compiled."""
    try:
        torch.compile(lambda x: 2 * x.sin())(torch.ones(64, device=device))
    except Exception as error:  # of Dynamo, Inductor, Triton or the system
        needs = 'Triton and a C compiler' if device.type == 'cuda' else 'a C++ compiler'
        raise OptionsError(
            f'--compile: PyTorch cannot compile here: {first_line(error)}. It needs {needs}. Install what is '
            'missing, or leave --compile out.'
        ) from None
    net.compile_steps()


def _make_streamer(net: VideoNet, source: Source, precision: Precision, config: DeblurConfig) -> Streamer:
    make = partial(Streamer, net, autocast=precision.autocast_dtype, temp_dir=config.temp_dir, tile=config.tile)
    if config.store or config.interval:
        return make(store=config.store or 'host', interval=None if config.interval == 'all' else config.interval)
    store, interval = place_states(make().state_bytes(*source.size), len(source), free_memory())
    return make(store=store, interval=interval)


def _describe_computation(streamer: Streamer, source: Source) -> str:
    where = {'device': 'on the device', 'host': 'in main memory', 'disk': 'on disk'}[streamer.store]
    count = streamer.num_states(len(source))
    size = count * streamer.state_bytes(*source.size)
    plan = streamer.plan(*source.size)
    return f'Computation: {plan}; up to {count} of {len(source)} states {where} ({size / 1e9:.1f} GB)'


def _digest(net: nn.Module) -> str:
    digest = hashlib.sha256()
    for tensor in net.state_dict().values():
        digest.update(tensor.cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
