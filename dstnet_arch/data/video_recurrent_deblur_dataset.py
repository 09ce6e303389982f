"""The two data sets of video deblurring: random clips to train on, whole videos to test on.

Both take BasicSR's single argument `opt`, the section of the options file with the keys named below. All data are
checked when the data set is made: BasicSR's loaders handle errors that come later badly.
"""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import accumulate
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, get_worker_info

from dstnet_arch.data.augment import Augmentation, draw_augmentation
from dstnet_arch.data.clips import Clip, clip_schedule
from dstnet_arch.data.frame_source import FrameSource, size_text
from dstnet_arch.data.pairing import find_problems, open_sources, raise_problems
from dstnet_arch.data.sampler import VideoDeblurSampler
from dstnet_arch.errors import DataError, OptionsError

_MOST_THREADS = 8  # for reading; beyond, the memory is the limit
_SAMPLE = 1  # marks the random numbers of a sample; those of the sampler are marked otherwise


class VideoRecurrentDeblurDataset(Dataset[dict[str, Any]]):
    """Clips of blurry frames and their sharp partners, cropped and flipped alike.

    An index is a start frame, counted over all clips; starts run as far as the smallest interval leaves room. Of the
    intervals in `interval_list`, those that fit between the start and the end of the clip are drawn from, with equal
    chances.

    An item is {'lq': (T, 3, S, S), 'gt': (T, 3, S, S), 'key': '<clip>/<its first frame>'}, float32 RGB in [0, 1] and
    contiguous.

    `dataset[index, draw]` makes every random choice a function of (`manual_seed`, draw), whatever the process: what
    VideoDeblurSampler asks for, so that a resumed run sees the same samples. `dataset[index]` takes them from torch's
    global random numbers, which a loader seeds differently in each worker.

    Options:
        dataroot_lq, dataroot_gt: LMDB folders, or folders `<clip>/<frame>.png`. Partners have the same names.
        io_backend.type: auto (default), lmdb or disk.
        num_frame: T, frames in an item; default 15.
        interval_list: steps between its frames; default [1].
        gt_size: S, side of the crop in pixels; default 256.
        use_hflip, use_rot: allow horizontal flips; vertical flips and quarter turns; both true by default.
        random_reverse: play half of the items backwards; default false.
        manual_seed: default 0.

    Raises:
        OptionsError: an option is missing or out of range.
        DataError: everything that is wrong with the data, in one message: missing partners either way, unreadable
            headers, sizes that differ within a clip or from the partner's, clips too short for the smallest interval or
            smaller than the crop, intervals that fit in no clip.
    """

    # What the tools draw samples with, in place of stock EnlargedSampler.
    sampler_class = VideoDeblurSampler

    def __init__(self, opt: dict[str, Any]) -> None:
        self.opt = opt
        self.num_frame = _positive(opt, 'num_frame', 15)
        self.gt_size = _positive(opt, 'gt_size', 256)
        self.intervals = _intervals(opt)
        self.manual_seed = int(opt.get('manual_seed') or 0)
        lq, gt = open_sources(opt, gt_required=True)
        assert gt is not None  # for type checkers: it was required
        self.lq, self.gt = lq, gt
        raise_problems(opt, find_problems(lq, gt, self.gt_size) + self._find_short_clips())

        shortest = self._span(self.intervals[0])
        self._clips = list(lq.clips)
        # _first_index[i]: index of the first start in clip i; one more for the end.
        starts = (len(frames) - shortest + 1 for frames in lq.clips.values())
        self._first_index = list(accumulate(starts, initial=0))

    def _span(self, interval: int) -> int:
        return (self.num_frame - 1) * interval + 1

    def _find_short_clips(self) -> list[str]:
        problems = []
        lengths = {clip: len(frames) for clip, frames in self.lq.clips.items()}
        shortest = self._span(self.intervals[0])
        for clip, length in lengths.items():
            if length < shortest:
                problems.append(
                    f'clip {clip} has {length} frames, but num_frame {self.num_frame} at interval {self.intervals[0]} '
                    f'takes {shortest}. Remove the clip, or lower num_frame'
                )
        for interval in self.intervals[1:]:
            if self._span(interval) > max(lengths.values()) >= shortest:
                problems.append(
                    f'interval {interval} takes {self._span(interval)} frames, but the longest clip has '
                    f'{max(lengths.values())}. Remove it from interval_list'
                )
        return problems

    def __len__(self) -> int:
        return self._first_index[-1]

    def __getitem__(self, index: int | tuple[int, int]) -> dict[str, Any]:
        _keep_opencv_in_one_thread()
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
        height, width = self.lq.shape(clip, frames[0])
        augment = draw_augmentation(
            rng, height, width, self.gt_size, self.opt.get('use_hflip', True), self.opt.get('use_rot', True)
        )
        return {
            'lq': read_frames(self.lq, clip, frames, augment),
            'gt': read_frames(self.gt, clip, frames, augment),
            'key': f'{clip}/{frames[0]}',
        }

    def _draw_frames(self, clip: str, start: int, rng: np.random.Generator) -> list[str]:
        frames = self.lq.clips[clip][start:]
        fitting = [interval for interval in self.intervals if self._span(interval) <= len(frames)]
        interval = fitting[int(rng.integers(len(fitting)))]
        frames = frames[: self._span(interval) : interval]
        reverse = bool(rng.integers(2))
        return frames[::-1] if reverse and self.opt.get('random_reverse', False) else frames


class VideoRecurrentDeblurTestDataset(Dataset[dict[str, Any]]):
    """Videos, or clips of them, to restore; with ground truth to score them, or without.

    An item is a clip, read when it is asked for: {'lq': (T, 3, H, W) and, where there is ground truth, 'gt' of the same
    shape, float32 RGB in [0, 1]; 'video': its name; 'frames': the T names of its frames; 'keep': (start, stop), the
    positions in the clip that count; 'lq_path': where the frames come from}. See `clip_schedule` for the clips.

    Options:
        dataroot_lq: an LMDB folder, or a folder `<video>/<frame>.png`.
        dataroot_gt: the same for the ground truth, partners having the same names; absent or null: none.
        io_backend.type: auto (default), lmdb or disk.
        clip_length: frames in a clip; default 30, as the paper's numbers were made; null: whole videos.

    Attributes:
        videos: names of the videos and of their frames, in natural order.
        num_frames: how many frames count, in all videos.
        has_gt: whether items have a 'gt'.

    Raises:
        OptionsError: an option is missing or out of range.
        DataError: everything that is wrong with the data, in one message: missing partners either way, unreadable
            headers, sizes that differ within a video or from the partner's.
    """

    def __init__(self, opt: dict[str, Any]) -> None:
        self.opt = opt
        clip_length = None if opt.get('clip_length', 30) is None else _positive(opt, 'clip_length', 30)
        self.lq, self.gt = open_sources(opt, gt_required=False)
        raise_problems(opt, find_problems(self.lq, self.gt))
        self.has_gt = self.gt is not None
        self.videos = self.lq.clips
        self.num_frames = sum(map(len, self.videos.values()))
        self._clips: list[tuple[str, Clip]] = [
            (video, clip) for video, frames in self.videos.items() for clip in clip_schedule(len(frames), clip_length)
        ]

    def __len__(self) -> int:
        return len(self._clips)

    def __getitem__(self, index: int) -> dict[str, Any]:
        _keep_opencv_in_one_thread()
        if not 0 <= index < len(self):
            raise IndexError(f'index {index} of a data set of {len(self)}')
        video, clip = self._clips[index]
        threads = 1 if get_worker_info() is not None else min(_MOST_THREADS, os.cpu_count() or 1)
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


def read_frames(
    source: FrameSource,
    clip: str,
    frames: list[str],
    augment: Augmentation | None = None,
    threads: int = 1,
) -> Tensor:
    """Frames of a clip, of each only what the augmentation needs: (T, 3, H, W), float32 RGB in [0, 1].

    Decoding leaves Python's lock, so threads help where no other processes read.

    Raises:
        DataError: a frame cannot be read, or there is not enough memory for all of them.
    """
    size = source.shape(clip, frames[0]) if augment is None else (augment.size, augment.size)
    try:
        tensor = torch.empty(len(frames), 3, *size)
    except RuntimeError:  # of more bytes than there are, or than there can be
        raise DataError(
            f'There is not enough memory for {len(frames)} frames of {clip} in {source.root}, said to be of '
            f'{size_text(size)}. See whether that is true, or take a smaller clip_length.'
        ) from None

    def read(number: int) -> None:
        if augment is None:
            image = source.read(clip, frames[number])
        else:
            # A copy in any case: NumPy calls a single row contiguous, whatever its strides; PyTorch does not.
            image = augment.flip(source.read(clip, frames[number], augment.window)).copy()
        tensor[number].copy_(torch.from_numpy(image).permute(2, 0, 1)).div_(255)

    if threads == 1:
        for number in range(len(frames)):
            read(number)
    else:
        with ThreadPoolExecutor(threads, thread_name_prefix='read') as pool:
            list(pool.map(read, range(len(frames))))
    return tensor


def _keep_opencv_in_one_thread() -> None:
    """In a loader's worker: there is one for each core already. Elsewhere OpenCV's threads are not ours to set."""
    if get_worker_info() is not None:
        cv2.setNumThreads(0)


def _positive(opt: Mapping[str, Any], key: str, default: int) -> int:
    value = opt.get(key, default)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise OptionsError(f'{key} is {value!r}; it can be a whole number from 1. The default is {default}.')
    return value


def _intervals(opt: Mapping[str, Any]) -> list[int]:
    intervals = opt.get('interval_list', [1])
    whole = isinstance(intervals, list) and all(isinstance(step, int) and step >= 1 for step in intervals)
    if not whole or not intervals:
        raise OptionsError(f'interval_list is {intervals!r}; it can be a list of whole numbers from 1, such as [1].')
    return sorted(intervals)
