"""Stages of a network for large frames, computed tile by tile, with exactly the result of the whole frame."""

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
from dstnet_arch.memory_errors import out_of_memory
from dstnet_arch.ops.pixel_filter import TAPS, pixel_filter
from dstnet_arch.ops.temporal_conv import gather_weight, temporal_gather
from dstnet_arch.streaming.stages import BlockState, Stages, stages_of, step_block

Maps = Literal['device', 'host']

UNIT = 32
"""Sides of tiles are multiples of this, in pixels of the frame, so that resampling and GMLP's windows align."""

# Margins around a tile, in pixels of the frame.
_MARGIN = 4  # most stages: at most two pixels at half size or one at a quarter
_STATISTICS_MARGIN = 80  # D_c: three convolutions at an eighth of the frame's size and three at a sixteenth
_WINDOW_MARGIN = UNIT  # GMLP: the neighbouring windows
_BLOCK_MARGIN = 4  # each block of the refinement: two 3x3 convolutions at half size

_BLOCKS = 5  # blocks of the refinement in one pass over the tiles
_CHANNELS = 8  # channels that D_p's filters are applied to at a time

Value = TypeVar('Value')
Map = tuple[Tensor | None, int]
"""Features (B, C, H, W) of a whole frame, or None, and the factor by which the frame is larger."""


class Plan(NamedTuple):
    """How frames of one size are processed.

    Attributes:
        tile: size of a tile; None: whole frames.
        maps: where the features of whole frames are kept between the stages.
    """

    tile: Size | None = None
    maps: Maps = 'device'

    def __str__(self) -> str:
        if self.tile is None:
            return 'whole frames'
        return f'tiles of {self.tile}' + (', features in main memory' if self.maps == 'host' else '')


class Tile(NamedTuple):
    """Ranges of a tile without and with its margin, in pixels of the frame."""

    rows: range
    columns: range
    outer_rows: range
    outer_columns: range

    def cut(self, features: Tensor, scale: int, device: torch.device) -> Tensor:
        """Return the tile with its margin, on the device; `features` are `scale` times smaller than the frame."""
        part = features[..., _slice(self.outer_rows, scale), _slice(self.outer_columns, scale)].to(device)
        channels_last = features.is_contiguous(memory_format=torch.channels_last)
        return part.contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)

    def inner(self, part: Tensor, scale: int) -> Tensor:
        """Remove the margin from a tile that `cut` returned, or from features computed from it."""
        top, left = self.rows.start - self.outer_rows.start, self.columns.start - self.outer_columns.start
        bottom, right = top + len(self.rows), left + len(self.columns)
        return part[..., top // scale : bottom // scale, left // scale : right // scale]

    def place(self, features: Tensor, scale: int) -> Tensor:
        """Return the view of the tile, without margin, in the features of a whole frame."""
        return features[..., _slice(self.rows, scale), _slice(self.columns, scale)]


def tiles(height: int, width: int, tile: Size, margin: int) -> Iterator[Tile]:
    """Split a frame into tiles of about the same size.

    Args:
        height: height of the frame in pixels.
        width: width of the frame in pixels.
        tile: largest size of a tile, rounded up to multiples of `UNIT`.
        margin: pixels around a tile; fewer at the borders of the frame.
    """
    for rows in _cuts(height, tile.height):
        for columns in _cuts(width, tile.width):
            yield Tile(rows, columns, _grown(rows, margin, height), _grown(columns, margin, width))


class TiledStages:
    """Stages of a network that process whole frames tile by tile.

    Each stage processes all tiles of a frame before the next one begins, and each tile includes a margin as wide as the
    stage's receptive field. So there are no seams, and little is computed twice. The refinement, a long chain of
    convolutions, runs a few blocks at a time. The CWGDN's mean over the frame is accumulated by a separate pass. The
    pixel-wise filters, which have a large receptive field at an eighth of the features' size, are computed for the
    whole frame and applied to a few channels at a time.

    Args:
        net: a DSTNet or DSTNetPlus.
        choose: returns plans for frames (batch, height, width). The first one is used, and the next one when memory
            runs out.

    Raises:
        TypeError: The network is of another type.
    """

    def __init__(self, net: VideoNet, choose: Callable[[int, int, int], Sequence[Plan]]) -> None:
        self._whole, self._choose = stages_of(net), choose
        self._plans: dict[tuple[int, int, int], list[Plan]] = {}
        self._device = next(net.parameters()).device
        self._net = net

    def plan(self, batch: int, height: int, width: int) -> Plan:
        """Return how frames of this size are processed."""
        key = batch, height, width
        if key not in self._plans:
            self._plans[key] = list(self._choose(*key))
        return self._plans[key][0]

    def uses_whole_frames(self) -> bool:
        """Return whether no frames are processed in tiles at present."""
        return all(plans[0].tile is None for plans in self._plans.values())

    def stages(self) -> Stages:
        """Return the stages."""
        net, whole = self._net, self._whole
        deepest = 4 if isinstance(net, DSTNet) else 2
        stages = whole._replace(
            encode=lambda frame: self._local(whole.encode, [(frame, 1)], to=deepest),
            finish=lambda frame, result: self._local(whole.finish, [(frame, 1), (result, 2)], to=1),
            step_block=self._step_block,
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

    def _local(self, function: Callable[..., Tensor], maps: Sequence[Map], to: int, margin: int = _MARGIN) -> Tensor:
        """Apply a function with a small receptive field; its result is `to` times smaller than the frame."""

        def run(plan: Plan) -> Tensor:
            if plan.tile is None:
                return function(*(features for features, _ in maps))
            (result,) = self._over_tiles(plan, lambda *parts: (function(*parts),), maps, to, margin)
            assert result is not None
            return result

        return self._with_memory(maps, run)

    def _step(self, dtff: nn.Module, current: Tensor, propagated: Tensor) -> Tensor:
        """Run a step of the propagation, `DTFF` or `DTFFPlus`, submodule by submodule."""

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
            fused = self._local(blocks, [(fused, 2)], to=2, margin=_BLOCK_MARGIN * len(blocks))
        return fused

    def _filter_pixels(self, filter_net: nn.Module, fused: Tensor) -> Tensor:
        """Filter the pixels of a whole frame, Eq. (4), a few channels at a time. `fused` may be overwritten."""
        features = fused.to(self._device)
        filters = filter_net(features)
        filters = [filters] if isinstance(filters, Tensor) else filters
        for start in range(0, features.shape[1], _CHANNELS):
            some = slice(start, start + _CHANNELS)
            parts = (f.unflatten(1, (TAPS, -1))[:, :, some].flatten(1, 2) for f in filters)
            features[:, some] = pixel_filter(features[:, some].contiguous(), *parts)
        return features.to(fused.device)

    def _step_block(
        self, block: GatedBlock, state: BlockState | None, frame: Tensor | None
    ) -> tuple[Tensor | None, BlockState]:
        """Run `step_block` tile by tile."""
        maps = [(features, 4) for features in (frame, *(state or [None] * len(BlockState._fields)))]

        def run(plan: Plan) -> tuple[Tensor | None, BlockState]:
            if plan.tile is None:
                return step_block(block, state, frame)
            filters: Tensor | None = None
            if state is not None and isinstance(block, CWGDN):
                filters = self._channel_filters(plan, block, maps[:3])

            def step_tile(frame: Tensor | None, *state: Any) -> tuple[Tensor | None, ...]:
                before = None if state[0] is None else BlockState(*state)
                finished, new_state = step_block(block, before, frame, filters)
                return finished, *new_state

            margin = _MARGIN if isinstance(block, CWGDN) else _WINDOW_MARGIN
            finished, *new_state = self._over_tiles(plan, step_tile, maps, 4, margin)
            return finished, BlockState(*cast(Any, new_state))

        return self._with_memory(maps, run)

    def _channel_filters(self, plan: Plan, block: CWGDN, maps: Sequence[Map]) -> Tensor:
        """Return D_c's filters of a frame; maps: the previous frame, and the normed frame itself and the next one."""
        # The half of the channels that the gate is computed from.
        weight = gather_weight(block.project_in.weight[: block.filter_bias.shape[0]])
        total, count = torch.zeros((), device=self._device), 0
        for tile in _tiles_of(plan, maps, _STATISTICS_MARGIN):
            frame, norm1, norm2 = (None if m is None else tile.cut(m, scale, self._device) for m, scale in maps)
            assert norm1 is not None
            assert norm2 is not None
            norm = torch.zeros_like(norm1) if frame is None else block.norm(frame)
            z1 = temporal_gather(norm, norm1, norm2, weight)
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
        margin: int,
    ) -> list[Tensor | None]:
        """Apply a function to all tiles and assemble its results; a map that is None is passed as None."""
        results: list[Tensor | None] = []
        home = torch.device('cpu') if plan.maps == 'host' and to > 1 else self._device
        height, width = _frame_size(maps)
        for tile in _tiles_of(plan, maps, margin):
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
        """Run with the plan for these maps, and with the next one if memory runs out."""
        key = (next(len(features) for features, _ in maps if features is not None), *_frame_size(maps))
        while True:
            plan = self.plan(*key)
            try:
                return run(plan)
            except (RuntimeError, MemoryError) as error:
                if len(self._plans[key]) == 1 or not out_of_memory(error):
                    raise
            # Outside of the handler, nothing keeps the tensors of the attempt alive.
            del self._plans[key][0]
            torch.cuda.empty_cache()


def _tiles_of(plan: Plan, maps: Sequence[Map], margin: int) -> Iterator[Tile]:
    assert plan.tile is not None
    return tiles(*_frame_size(maps), plan.tile, margin)


def _frame_size(maps: Sequence[Map]) -> tuple[int, int]:
    """Return the height and width of the frame that maps belong to."""
    scale, features = next((scale, features) for features, scale in maps if features is not None)
    return scale * features.shape[-2], scale * features.shape[-1]


def _cuts(side: int, largest: int) -> list[range]:
    """Split a side into ranges of about the same length, all but the last one multiples of `UNIT`."""
    largest = UNIT * -(-largest // UNIT)
    number = -(-side // largest)
    length = UNIT * -(-side // (number * UNIT))
    return [range(start, min(start + length, side)) for start in range(0, side, length)]


def _grown(part: range, margin: int, side: int) -> range:
    return range(max(part.start - margin, 0), min(part.stop + margin, side))


def _slice(pixels: range, scale: int) -> slice:
    return slice(pixels.start // scale, pixels.stop // scale)
