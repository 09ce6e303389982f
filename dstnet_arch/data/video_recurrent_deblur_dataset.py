"""Data sets for video deblurring: random clips for training, complete videos for testing.

The constructors check all data, because BasicSR's loaders handle later errors badly. They read names and headers only.
"""

from __future__ import annotations

import os
from bisect import bisect_right
from concurrent.futures import ThreadPoolExecutor
from itertools import accumulate
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, get_worker_info

from dstnet_arch.data.frame_source import FrameSource, size_text
from dstnet_arch.data.image_file import Pixels, Window
from dstnet_arch.data.pairing import find_problems, open_sources, raise_problems
from dstnet_arch.data.sampler import ResumableSampler
from dstnet_arch.errors import DataError, Problems, counted

_MAX_THREADS = 8  # for reading; more only take memory
_SAMPLE = 1  # stream of a sample's random numbers; the sampler uses another one


class VideoRecurrentDeblurDataset(Dataset[dict[str, Any]]):
    """Clips of blurry frames and their sharp partners with the same random crops and flips.

    An index is a start frame, counted over all clips, that leaves room for the smallest interval. The interval is drawn
    uniformly from those in `interval_list` that fit between the start frame and the end of the clip.

    An item is {'lq': (T, 3, S, S), 'gt': (T, 3, S, S), 'key': '<clip>/<first frame>'}, contiguous float32 RGB in [0, 1]
    with the full depth of 8 or 16 bits; T is `num_frame`, S is `gt_size`.

    `dataset[index, draw]`, with the elements of ResumableSampler, makes every random choice a function of
    (`manual_seed`, draw), so a resumed run sees the same samples. `dataset[index]` draws from torch's global random
    numbers, which a loader seeds differently in each worker.

    Args:
        opt: the options, see docs/options.md: dataroot_lq, dataroot_gt, blur (blur), io_backend (auto), num_frame (15),
            interval_list ([1]), gt_size (256), use_hflip and use_rot (true), random_reverse (false), manual_seed (0).

    Attributes:
        lq, gt: the opened frame sources.
        bit_depth: bits per sample, 8 or 16.

    Raises:
        OptionsError: an option is missing or out of range.
        DataError: all problems of the data in one message: see `find_problems`; also clips that are too short for the
            smallest interval, and intervals that fit no clip.
    """

    sampler_class = ResumableSampler  # used instead of stock EnlargedSampler

    def __init__(self, opt: dict[str, Any]) -> None:
        self.opt = opt
        self.num_frame = opt.get('num_frame', 15)
        self.gt_size = opt.get('gt_size', 256)
        self.intervals = sorted(opt.get('interval_list', [1]))
        self.manual_seed = int(opt.get('manual_seed') or 0)
        lq, gt = open_sources(opt, gt_required=True, phase='train')
        assert gt is not None  # for type checkers: it was required
        self.lq, self.gt = lq, gt
        problems = find_problems(lq, gt, self.gt_size)
        self._find_short_clips(problems)
        raise_problems(opt, problems)
        self.bit_depth = max(lq.bit_depth(), gt.bit_depth())

        shortest = self._span(self.intervals[0])
        self._clips = list(lq.clips)
        # _first_index[i]: index of the first start in clip i; one more for the end.
        starts = (len(frames) - shortest + 1 for frames in lq.clips.values())
        self._first_index = list(accumulate(starts, initial=0))

    def _span(self, interval: int) -> int:
        return (self.num_frame - 1) * interval + 1

    def _find_short_clips(self, problems: Problems) -> None:
        lengths = {clip: len(frames) for clip, frames in self.lq.clips.items()}
        shortest = self._span(self.intervals[0])
        for clip, length in lengths.items():
            if length < shortest:
                problems.add(
                    f'clip {clip} has {counted(length, "frame")}, but num_frame {self.num_frame} at interval '
                    f'{self.intervals[0]} needs {shortest}. Remove the clip, or lower num_frame'
                )
        for interval in self.intervals[1:]:
            if self._span(interval) > max(lengths.values()) >= shortest:
                problems.add(
                    f'interval {interval} needs {self._span(interval)} frames, but the longest clip has '
                    f'{max(lengths.values())}. Remove it from interval_list'
                )

    def __len__(self) -> int:
        return self._first_index[-1]

    def __getitem__(self, index: int | tuple[int, int]) -> dict[str, Any]:
        _limit_opencv_threads()
        if isinstance(index, tuple):
            index, draw = index
            rng = np.random.default_rng((self.manual_seed, _SAMPLE, draw))
        else:
            rng = np.random.default_rng(int(torch.randint(2**63 - 1, ())))
        if not 0 <= index < len(self):
            raise IndexError(f'index {index} of a data set of {len(self)}')
        clip_number = bisect_right(self._first_index, index) - 1
        clip = self._clips[clip_number]
        frames = self._draw_frames(clip, index - self._first_index[clip_number], rng)
        augment = self._draw_augmentation(self.lq.shape(clip, frames[0]), rng)
        return {
            'lq': read_frames(self.lq, clip, frames, augment),
            'gt': read_frames(self.gt, clip, frames, augment),
            'key': f'{clip}/{frames[0]}',
        }

    # Every random number is drawn whatever the options are, so that one option does not change the draws of another.

    def _draw_frames(self, clip: str, start: int, rng: np.random.Generator) -> list[str]:
        frames = self.lq.clips[clip][start:]
        fitting = [interval for interval in self.intervals if self._span(interval) <= len(frames)]
        interval = fitting[int(rng.integers(len(fitting)))]
        frames = frames[: self._span(interval) : interval]
        reverse = bool(rng.integers(2))
        return frames[::-1] if reverse and self.opt.get('random_reverse', False) else frames

    def _draw_augmentation(self, shape: tuple[int, int], rng: np.random.Generator) -> Augmentation:
        top, left = (int(rng.integers(side - self.gt_size + 1)) for side in shape)
        hflip, vflip, transpose = (bool(flip) for flip in rng.integers(2, size=3))
        use_hflip, use_rot = self.opt.get('use_hflip', True), self.opt.get('use_rot', True)
        window = slice(top, top + self.gt_size), slice(left, left + self.gt_size)
        return Augmentation(window, use_hflip and hflip, use_rot and vflip, use_rot and transpose)


class VideoRecurrentDeblurTestDataset(Dataset[dict[str, Any]]):
    """Videos, or clips of them, with or without ground truth.

    An item is a clip: {'lq': (T, 3, H, W) and, if there is ground truth, 'gt' of the same shape, float32 RGB in [0, 1]
    with the full depth of 8 or 16 bits; 'video': the name of the video; 'frames': names of the T frames; 'keep':
    (start, stop), the positions in the clip that are used, see `clip_schedule`; 'lq_path': where the frames come from}.

    Args:
        opt: the options, see docs/options.md: dataroot_lq, dataroot_gt (null: no ground truth), blur (blur),
            io_backend (auto), clip_length (30 frames as in the paper; null: complete videos).

    Attributes:
        lq, gt: the opened frame sources; `gt` is None without ground truth.
        videos: frame names by video name, in natural order.
        num_frames: number of frames of all videos.
        has_gt: True if items have a 'gt'.
        bit_depth: bits per sample of the data set, 8 or 16: the largest in it.

    Raises:
        OptionsError: an option is missing or out of range.
        DataError: all problems of the data in one message, see `find_problems`.
    """

    def __init__(self, opt: dict[str, Any]) -> None:
        self.opt = opt
        self.lq, self.gt = open_sources(opt, gt_required=False, phase='test')
        raise_problems(opt, find_problems(self.lq, self.gt))
        self.bit_depth = max(source.bit_depth() for source in (self.lq, self.gt) if source is not None)
        self.has_gt = self.gt is not None
        self.videos = self.lq.clips
        self.num_frames = sum(map(len, self.videos.values()))
        clip_length = opt.get('clip_length', 30)
        self._clips = [
            (video, clip) for video, frames in self.videos.items() for clip in clip_schedule(len(frames), clip_length)
        ]

    def __len__(self) -> int:
        return len(self._clips)

    def __getitem__(self, index: int) -> dict[str, Any]:
        _limit_opencv_threads()
        if not 0 <= index < len(self):
            raise IndexError(f'index {index} of a data set of {len(self)}')
        video, clip = self._clips[index]
        threads = 1 if get_worker_info() is not None else min(_MAX_THREADS, os.cpu_count() or 1)
        frames = self.videos[video][clip.start : clip.stop]
        item = {
            'lq': read_frames(self.lq, video, frames, threads=threads),
            'video': video,
            'frames': frames,
            'keep': (clip.keep_start - clip.start, clip.keep_stop - clip.start),
            'lq_path': f'{self.lq.root}/{video}',
        }
        if self.gt is not None:
            item['gt'] = read_frames(self.gt, video, frames, threads=threads)
        return item


class Clip(NamedTuple):
    """Frames start:stop of a video, of which keep_start:keep_stop are used. All are positions in the video."""

    start: int
    stop: int
    keep_start: int
    keep_stop: int


def clip_schedule(num_frames: int, clip_length: int | None) -> list[Clip]:
    """Return the clips of the released code: no overlap, the last one shifted back to end at the last frame.

    The shifted clip repeats frames; only those not yet restored are used. A video shorter than a clip is one clip.
    `clip_length` None stands for complete videos.

    Raises:
        ValueError: `clip_length` is less than 1.
    """
    if clip_length is None:
        clip_length = max(num_frames, 1)
    if clip_length < 1:
        raise ValueError(f'clip_length is {clip_length}, expected 1 or more, or None for complete videos')
    schedule = []
    for keep_start in range(0, num_frames, clip_length):
        keep_stop = min(keep_start + clip_length, num_frames)
        schedule.append(Clip(max(keep_stop - clip_length, 0), keep_stop, keep_start, keep_stop))
    return schedule


class Augmentation(NamedTuple):
    """A square crop, then flips of columns and rows, then a transposition: the eight symmetries of the square."""

    window: Window
    hflip: bool
    vflip: bool
    transpose: bool

    def flip(self, crop: Pixels) -> Pixels:
        """Apply flips and transposition to the crop (size, size, 3), contiguous."""
        image = crop[:: -1 if self.vflip else 1, :: -1 if self.hflip else 1]
        # Copied always: NumPy calls a single row contiguous whatever its strides are, PyTorch does not.
        return (image.transpose(1, 0, 2) if self.transpose else image).copy()


def read_frames(
    source: FrameSource, clip: str, frames: list[str], augment: Augmentation | None = None, threads: int = 1
) -> Tensor:
    """Read frames of a clip: (T, 3, H, W), float32 RGB in [0, 1].

    Args:
        source: where the frames are.
        clip: name of the clip.
        frames: names of its frames.
        augment: crop and flips; only the crop is read if the source stores pixels.
        threads: number of threads. Decoding releases the GIL.

    Raises:
        DataError: a frame cannot be read, or the memory does not suffice for all of them.
    """
    size = source.shape(clip, frames[0])
    if augment is not None:
        size = tuple(part.stop - part.start for part in augment.window)
    try:
        tensor = torch.empty(len(frames), 3, *size)
    except RuntimeError:
        raise DataError(
            f'Not enough memory for {len(frames)} frames of {size_text(size)} pixels of clip {clip} in {source.root}. '
            'Check the size, or lower clip_length.'
        ) from None

    def read(number: int) -> None:
        image = source.read(clip, frames[number], augment.window if augment else None)
        if augment:
            image = augment.flip(image)
        # PyTorch has few operations for uint16.
        levels = torch.from_numpy(image if image.dtype == np.uint8 else image.astype(np.float32))
        tensor[number].copy_(levels.permute(2, 0, 1)).div_(np.iinfo(image.dtype).max)

    if threads == 1:
        for number in range(len(frames)):
            read(number)
    else:
        with ThreadPoolExecutor(threads, thread_name_prefix='read') as pool:
            list(pool.map(read, range(len(frames))))
    return tensor


def _limit_opencv_threads() -> None:
    """In a worker process there is one per core already; elsewhere OpenCV's threads are left alone."""
    if get_worker_info() is not None:
        cv2.setNumThreads(0)
