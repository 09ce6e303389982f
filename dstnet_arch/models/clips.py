"""Test sets as clips: our own data set, and stock BasicSR's."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dstnet_arch.errors import DataError


def as_clips(dataset: Any) -> Any:
    """Return a test set as clips, with the interface of `VideoRecurrentDeblurTestDataset`.

    Items are {'lq': (T, 3, H, W) RGB in [0, 1], 'gt': the same or absent, 'video': name, 'frames': T names, 'keep':
    (start, stop) of the frames that count}. Attributes: `opt`; `videos`, names of the videos and of their frames;
    `num_frames`, the number of frames that count; `has_gt`; `bit_depth`, 8 or 16.

    Args:
        dataset: a set with this interface, or one of stock BasicSR's: `VideoRecurrentTestDataset`, `VideoTestDataset`,
            `PairedImageDataset`, `SingleImageDataset` and their subclasses.

    Raises:
        DataError: another data set.
    """
    if all(hasattr(dataset, name) for name in ('videos', 'num_frames', 'has_gt')):
        return dataset
    if hasattr(dataset, 'data_info') or hasattr(dataset, 'paths'):
        return _StockClips(dataset)
    raise DataError(
        f'{type(dataset).__name__} is not supported for validation and tests. Set the type of the data set to '
        'VideoRecurrentDeblurTestDataset, or to VideoRecurrentTestDataset, VideoTestDataset, PairedImageDataset or '
        'SingleImageDataset of stock BasicSR.'
    )


class _StockClips:
    """A stock BasicSR test set as clips.

    `VideoRecurrentTestDataset` yields complete videos. `VideoTestDataset` yields a window of frames around each frame:
    the middle one counts. Image data sets yield single images: clips of one frame.
    """

    bit_depth = 8

    def __init__(self, dataset: Any) -> None:
        self.opt: dict[str, Any] = dataset.opt
        self._dataset = dataset
        if hasattr(dataset, 'data_info'):
            paths, self.has_gt = dataset.data_info['lq_path'], True
        else:
            self.has_gt = bool(dataset.paths) and isinstance(dataset.paths[0], dict)
            paths = [path['lq_path'] if self.has_gt else path for path in dataset.paths]
        places = [_place(path, Path(self.opt['dataroot_lq'])) for path in paths]
        self.num_frames = len(places)
        self.videos: dict[str, list[str]] = {}
        for video, frame in places:
            self.videos.setdefault(video, []).append(frame)
        self._items = [(video, [frame]) for video, frame in places]  # of each item its video and the frames that count
        if hasattr(dataset, 'folders'):  # complete videos
            video_of = dict(zip(dataset.data_info['folder'], (video for video, _ in places), strict=True))
            self._items = [(video_of[folder], self.videos[video_of[folder]]) for folder in dataset.folders]

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, index: int) -> dict[str, Any]:
        video, frames = self._items[index]
        try:
            item = self._dataset[index]
        except Exception as error:  # stock sets raise any error
            raise DataError(f'{self.opt["name"]}: {video} cannot be loaded: {type(error).__name__}: {error}') from error
        lq = item['lq'] if item['lq'].dim() == 4 else item['lq'][None]
        clip = {'lq': lq, 'video': video, 'frames': frames, 'keep': (0, len(lq))}
        if len(frames) < len(lq):
            middle = len(lq) // 2
            clip |= {'frames': frames * len(lq), 'keep': (middle, middle + 1)}
        if self.has_gt:
            gt = item['gt']
            clip['gt'] = gt if gt.dim() == 4 else gt.expand(len(lq), -1, -1, -1)
        return clip


def _place(path: str | Sequence[str], root: Path) -> tuple[str, str]:
    """Return the video, i.e. the folder, and the name of a frame."""
    # VideoTestVimeo90KDataset stores all paths of a window.
    file = Path(path if isinstance(path, str) else path[len(path) // 2])
    relative = file.relative_to(root) if file.is_relative_to(root) else file  # keys of an LMDB have no root
    folder = relative.parent if relative.parent != Path() else Path(root.absolute().name)
    return folder.as_posix(), relative.stem


class Clip(NamedTuple):
    """A loaded clip of which N frames count.

    Attributes:
        video: its name.
        frames: names of the N frames.
        lq: (1, T, 3, H, W) in [0, 1].
        keep: the N frames among the T.
        inputs: quantised blurry frames, (N, 3, H, W), see `to_levels`; None if they are not scored.
        targets: quantised sharp frames; None without ground truth.
    """

    video: str
    frames: list[str]
    lq: Tensor
    keep: slice
    inputs: Tensor | None
    targets: Tensor | None


def load_clip(dataset: Any, index: int, with_inputs: bool) -> Clip:
    """Load a clip and quantise the frames that are scored, which takes a quarter of the memory of float32.

    Args:
        dataset: result of `as_clips`.
        index: number of the clip.
        with_inputs: True if the blurry frames are scored.
    """
    item = dataset[index]
    keep = slice(*map(int, item['keep']))
    return Clip(
        video=item['video'],
        frames=list(item['frames'])[keep],
        lq=item['lq'].unsqueeze(0),
        keep=keep,
        inputs=to_levels(item['lq'][keep], dataset.bit_depth) if with_inputs else None,
        targets=to_levels(item['gt'][keep], dataset.bit_depth) if dataset.has_gt else None,
    )


@torch.inference_mode()
def to_levels(frames: Tensor, bit_depth: int = 8, truncate: bool = False) -> Tensor:
    """Quantise frames on their device.

    Args:
        frames: any shape; values are clamped to [0, 1].
        bit_depth: 8 or 16.
        truncate: truncate to whole levels instead of rounding.

    Returns:
        uint8 in 0..255, or int32 in 0..65535 for 16 bits (PyTorch supports few operations on uint16).
    """
    levels = frames.clamp(0, 1).mul_(2**bit_depth - 1)
    return (levels if truncate else levels.round_()).to(torch.uint8 if bit_depth == 8 else torch.int32)
