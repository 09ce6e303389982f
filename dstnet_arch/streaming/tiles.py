"""Large frames: a stream's stages, run tile by tile, with the result of the whole frame.

Every stage is taken over all tiles of a frame before the next one begins, and each tile is cut with as much around it
as that stage sees. So tiles agree, there are no seams, and the edges that are computed twice are narrow:

* Convolutions see a few pixels. The refinement, a long chain of them, is done a few blocks at a time.
* The filters of the CWGDN are made from a mean over the frame. It is gathered tile by tile, in a pass of its own.
* The pixel-wise filters see far around, at an eighth of the features' size: they are made for the whole frame at once,
  and applied to some channels at a time.

What remains of the whole frame are the features between the stages, which can wait on the device or in main memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple, TypeVar, cast

import torch
from torch import Tensor, nn

from dstnet_arch.archs.cwgdn import CWGDN, GatedBlock
from dstnet_arch.archs.dstnet_arch import DSTNet
from dstnet_arch.archs.dtff import DTFF
from dstnet_arch.archs.propagation import propagate_step
from dstnet_arch.archs.video_net import VideoNet
from dstnet_arch.arguments import Size
from dstnet_arch.ops.channel_filter import channel_filter
from dstnet_arch.ops.pixel_filter import TAPS, pixel_filter
from dstnet_arch.ops.temporal_conv import temporal_gather
from dstnet_arch.streaming.stages import Gate, Held, Stages, advance, stages_of

Maps = Literal['device', 'host']

UNIT = 32
"""Sides of tiles are multiples of this, in pixels of the frame: all resampling, and GMLP's windows, then agree."""

_EDGE = 4  # what most stages see around a tile, in pixels of the frame: at most two at half size or one at a quarter
_STATISTICS_EDGE = 80  # D_c: three convolutions at an eighth of the frame's size and, after pooling, three at half that
_WINDOW_EDGE = UNIT  # GMLP: the windows that are beside
_BLOCKS = 5  # of the refinement in one pass over the tiles
_BLOCK_EDGE = 4  # what each of them sees: two 3x3 convolutions at half size
_CHANNELS = 8  # filtered by D_p's filters at a time

Value = TypeVar('Value')
Map = tuple[Tensor | None, int]
"""Features (B, C, H, W) of a whole frame, or None, and how many times smaller than the frame they are."""


class Plan(NamedTuple):
    """How frames of one size are restored.

    Attributes:
        tile: size of a tile; None: whole frames.
        maps: where the features of whole frames wait between the stages.
    """

    tile: Size | None = None
    maps: Maps = 'device'

    def __str__(self) -> str:
        if self.tile is None:
            return 'whole frames'
        return f'tiles of {self.tile}' + (', features in main memory' if self.maps == 'host' else '')


class Tile(NamedTuple):
    """A part of a frame, and how much around it is seen; ranges in pixels of the frame."""

    rows: range
    columns: range
    outer_rows: range
    outer_columns: range

    def cut(self, features: Tensor, scale: int, device: torch.device) -> Tensor:
        """The tile with what is around it, on the device; `features` are `scale` times smaller than the frame."""
        part = features[..., _slice(self.outer_rows, scale), _slice(self.outer_columns, scale)].to(device)
        channels_last = features.is_contiguous(memory_format=torch.channels_last)
        return part.contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)

    def inner(self, part: Tensor, scale: int) -> Tensor:
        """The tile alone, of what has the size of a cut."""
        top, left = self.rows.start - self.outer_rows.start, self.columns.start - self.outer_columns.start
        bottom, right = top + len(self.rows), left + len(self.columns)
        return part[..., top // scale : bottom // scale, left // scale : right // scale]

    def place(self, features: Tensor, scale: int) -> Tensor:
        """Where the tile belongs in the features of a whole frame."""
        return features[..., _slice(self.rows, scale), _slice(self.columns, scale)]


def tiles(height: int, width: int, tile: Size, edge: int) -> Iterator[Tile]:
    """Cut a frame into tiles of about the same size.

    Args:
        height: of the frame, in pixels.
        width: of the frame.
        tile: the largest size, rounded up to multiples of `UNIT`.
        edge: what is to be seen around a tile; less where the frame ends.
    """
    for rows in _cuts(height, tile.height):
        for columns in _cuts(width, tile.width):
            yield Tile(rows, columns, _grown(rows, edge, height), _grown(columns, edge, width))


class TiledStages:
    """The stages of a network, over tiles. They take and give features of whole frames.

    Args:
        net: a DSTNet or DSTNetPlus.
        choose: plans for frames (batch, height, width). The first is taken, and where the memory of a GPU does not
            suffice for it, the next one.

    Raises:
        TypeError: `net` is another network.
    """

    def __init__(self, net: VideoNet, choose: Callable[[int, int, int], Sequence[Plan]]) -> None:
        self._whole, self._choose = stages_of(net), choose
        self._plans: dict[tuple[int, int, int], list[Plan]] = {}
        self._device = next(net.parameters()).device
        self._net = net

    def plan(self, batch: int, height: int, width: int) -> Plan:
        """How frames of this size are restored."""
        key = batch, height, width
        if key not in self._plans:
            self._plans[key] = list(self._choose(*key))
        return self._plans[key][0]

    def stages(self) -> Stages:
        """What a stream is made of."""
        net, whole = self._net, self._whole
        deepest = 4 if isinstance(net, DSTNet) else 2
        stages = whole._replace(
            encode=lambda frame: self._local(whole.encode, [(frame, 1)], to=deepest),
            finish=lambda frame, result: self._local(whole.finish, [(frame, 1), (result, 2)], to=1),
            advance=self._advance,
        )
        if isinstance(net, DSTNet):
            stages = stages._replace(
                prepare=lambda frame, low2: self._local(whole.prepare, [(frame, 1), (low2, 4)], to=2)
            )
            if net.propagation == 'none':
                return stages
        backward, forward = (partial(self._step, dtff) for dtff in (net.backward_dtff, net.forward_dtff))
        return stages._replace(
            backward=partial(propagate_step, backward, boundary=net.boundary),
            forward=partial(propagate_step, forward, boundary=net.boundary),
        )

    def _local(self, function: Callable[..., Tensor], maps: Sequence[Map], to: int, edge: int = _EDGE) -> Tensor:
        """A function of a few pixels around each one; `to`: how much smaller than the frame its result is."""

        def run(plan: Plan) -> Tensor:
            if plan.tile is None:
                return function(*(features for features, _ in maps))
            (result,) = self._over_tiles(plan, lambda *parts: (function(*parts),), maps, to, edge)
            assert result is not None
            return result

        return self._with_memory(maps, run)

    def _step(self, dtff: nn.Module, current: Tensor, propagated: Tensor) -> Tensor:
        """A step of the propagation: `DTFF` and `DTFFPlus`, their parts one by one."""

        def run(plan: Plan) -> Tensor | None:
            return None if plan.tile else dtff(current, propagated)

        result = self._with_memory([(current, 2)], run)
        if result is not None:
            return result
        modules = cast(DTFF, dtff)
        fused = self._local(modules.fusion, [(current, 2), (propagated, 2)], to=2)
        if modules.filter_net is not None:
            fused = self._filter_pixels(modules.filter_net, fused)
        for start in range(0, len(modules.refine), _BLOCKS):
            blocks = modules.refine[start : start + _BLOCKS]
            fused = self._local(blocks, [(fused, 2)], to=2, edge=_BLOCK_EDGE * len(blocks))
        return fused

    def _filter_pixels(self, filter_net: nn.Module, fused: Tensor) -> Tensor:
        """Eq. (4) for a whole frame, some channels at a time. `fused` is overwritten."""
        features = fused.to(self._device)
        filters = filter_net(features)
        filters = [filters] if isinstance(filters, Tensor) else filters
        for start in range(0, features.shape[1], _CHANNELS):
            some = slice(start, start + _CHANNELS)
            taps = slice(TAPS * some.start, TAPS * some.stop)
            features[:, some] = pixel_filter(features[:, some].contiguous(), *(f[:, taps] for f in filters))
        return features.to(fused.device)

    def _advance(self, block: GatedBlock, held: Held | None, frame: Tensor | None) -> tuple[Tensor | None, Held]:
        """`advance`, tile by tile."""
        maps = [(features, 4) for features in (frame, *(held or [None] * len(Held._fields)))]

        def run(plan: Plan) -> tuple[Tensor | None, Held]:
            if plan.tile is None:
                return advance(block, held, frame)
            gate: Gate | None = None
            if held is not None and isinstance(block, CWGDN):
                filters = self._channel_filters(plan, block, maps[:3])
                gate = partial(channel_filter, filters=filters, bias=block.filter_bias)

            def advance_part(frame: Tensor | None, *known: Any) -> tuple[Tensor | None, ...]:
                finished, now = advance(block, Held(*known) if known[0] is not None else None, frame, gate)
                return finished, *now

            edge = _EDGE if isinstance(block, CWGDN) else _WINDOW_EDGE
            finished, *now = self._over_tiles(plan, advance_part, maps, 4, edge)
            return finished, Held(*cast(Any, now))

        return self._with_memory(maps, run)

    def _channel_filters(self, plan: Plan, block: CWGDN, maps: Sequence[Map]) -> Tensor:
        """D_c's filters for a whole frame, given its features and those of its two neighbours, two of them normed."""
        weight = block.project_in.weight[: block.filter_bias.shape[0]]  # what makes the gate
        total, count = torch.zeros((), device=self._device), 0
        for tile in _tiles_of(plan, maps, _STATISTICS_EDGE):
            frame, norm1, norm2 = (None if m is None else tile.cut(m, scale, self._device) for m, scale in maps)
            assert norm1 is not None
            assert norm2 is not None
            norm = torch.zeros_like(norm1) if frame is None else block.norm(frame)
            z1 = temporal_gather(torch.cat([norm, norm1, norm2]), weight, norm1.shape[0])
            features = tile.inner(block.filter_net.features(z1), 16)
            exact = torch.promote_types(features.dtype, torch.float32)
            total = total + features.sum(dim=(2, 3), keepdim=True, dtype=exact)
            count += features[0, 0].numel()
        return block.filter_net.make_filters((total / count).to(features.dtype))

    def _over_tiles(
        self,
        plan: Plan,
        function: Callable[..., Sequence[Tensor | None]],
        maps: Sequence[Map],
        to: int,
        edge: int,
    ) -> list[Tensor | None]:
        """The results of a function of tiles, put together to whole frames; where a map is None, it gets None."""
        results: list[Tensor | None] = []
        home = torch.device('cpu') if plan.maps == 'host' and to > 1 else self._device
        height, width = _frame_size(maps)
        for tile in _tiles_of(plan, maps, edge):
            parts = function(*(None if m is None else tile.cut(m, scale, self._device) for m, scale in maps))
            if not results:
                results = [
                    None
                    if part is None
                    else torch.empty(
                        (*part.shape[:2], height // to, width // to),
                        dtype=part.dtype,
                        device=home,
                        memory_format=torch.channels_last,
                    )
                    for part in parts
                ]
            for result, part in zip(results, parts, strict=True):
                if result is not None and part is not None:
                    tile.place(result, to).copy_(tile.inner(part, to))
        return results

    def _with_memory(self, maps: Sequence[Map], run: Callable[[Plan], Value]) -> Value:
        """Run by the plan for these maps, and by the next one where memory does not suffice."""
        key = (next(len(features) for features, _ in maps if features is not None), *_frame_size(maps))
        while True:
            plan = self.plan(*key)
            try:
                return run(plan)
            except torch.cuda.OutOfMemoryError:
                if len(self._plans[key]) == 1:
                    raise
            # Out here nothing holds what the attempt has made.
            del self._plans[key][0]
            torch.cuda.empty_cache()


def _tiles_of(plan: Plan, maps: Sequence[Map], edge: int) -> Iterator[Tile]:
    assert plan.tile is not None
    return tiles(*_frame_size(maps), plan.tile, edge)


def _frame_size(maps: Sequence[Map]) -> tuple[int, int]:
    """Height and width of the frame that maps are of."""
    scale, features = next((scale, features) for features, scale in maps if features is not None)
    return scale * features.shape[-2], scale * features.shape[-1]


def _cuts(side: int, largest: int) -> list[range]:
    """A side in ranges of about the same length, all but the last in multiples of `UNIT`."""
    largest = UNIT * -(-largest // UNIT)
    number = -(-side // largest)
    length = UNIT * -(-side // (number * UNIT))
    return [range(start, min(start + length, side)) for start in range(0, side, length)]


def _grown(part: range, edge: int, side: int) -> range:
    return range(max(part.start - edge, 0), min(part.stop + edge, side))


def _slice(pixels: range, scale: int) -> slice:
    return slice(pixels.start // scale, pixels.stop // scale)
