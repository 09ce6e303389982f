"""Cutting videos into the clips that are restored together."""

from __future__ import annotations

from typing import NamedTuple


class Clip(NamedTuple):
    """Frames start:stop of a video, of which keep_start:keep_stop are used. All are positions in the video."""

    start: int
    stop: int
    keep_start: int
    keep_stop: int


def clip_schedule(num_frames: int, clip_length: int | None) -> list[Clip]:
    """Return the clips of the released code: no overlap, the last one shifted back to end at the last frame.

    The shifted clip repeats frames; only those not yet restored are used. A video shorter than a clip is one clip.

    Args:
        num_frames: length of the video.
        clip_length: frames per clip; None for whole videos.

    Raises:
        ValueError: `clip_length` is less than 1.
    """
    if clip_length is None:
        clip_length = max(num_frames, 1)
    if clip_length < 1:
        raise ValueError(f'clip_length is {clip_length}, expected 1 or more, or None for whole videos')
    schedule = []
    for keep_start in range(0, num_frames, clip_length):
        keep_stop = min(keep_start + clip_length, num_frames)
        schedule.append(Clip(max(keep_stop - clip_length, 0), keep_stop, keep_start, keep_stop))
    return schedule
