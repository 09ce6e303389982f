"""Warnings about footage that makes poor training pairs."""

from __future__ import annotations

import math
from collections.abc import Sequence

from data_prep.synthesize_analysis import PAUSE, Analysis, repeated_share
from data_prep.synthesize_footage import Footage
from data_prep.synthesize_plan import ClipPlan, Settings
from dstnet_arch.errors import counted

GHOST_STEP = 2.0
"""Motion between averaged frames above which edges appear as several copies, in pixels."""
REPEATED_SHARE = 0.1
"""Share of repeated frames above which a video counts as converted from a lower rate."""
CLIP_LENGTH = 15
"""Default number of frames per training sample (`num_frame`)."""


def find_warnings(
    footage: Footage, analysis: Analysis, plans: Sequence[ClipPlan], too_short: int, settings: Settings
) -> list[str]:
    """Return what the user should know before pairs are made.

    Args:
        footage: The video.
        analysis: Result of the first pass over it.
        plans: Its clips, at least one.
        too_short: Number of shots that were skipped.
        settings: How pairs are made.
    """
    warnings = []
    if footage.hdr:
        warnings.append(
            f'HDR footage ({footage.hdr}): its stored values are not what --response {settings.response.name} assumes, '
            'so blurry frames get wrong brightness. Film in SDR, convert to SDR with tone mapping, or pass the '
            'measured curve as --response FILE'
        )
    if analysis.times is not None:
        warnings.append(
            f'variable frame rate, nominally {analysis.frame_rate:.4g} frames per second: frames are averaged by their '
            f'times, and gaps above {PAUSE:g} frames begin a new shot. Blur is less even where frames are missing'
        )
    if analysis.unmatched:
        warnings.append(
            'variable frame rate, but the time stamps do not match the decoded frames: all frames are weighted '
            f'equally. Convert it first: ffmpeg -i {footage.path} -fps_mode vfr -c:v libx264 -crf 10 NEW.mp4'
        )
    if too_short:
        warnings.append(f'{counted(too_short, "shot")} too short, skipped')
    if footage.claimed and not 0.98 <= analysis.num_frames / footage.claimed <= 1.02:
        warnings.append(
            f'the file should have {footage.claimed} frames, but {analysis.num_frames} can be read; '
            'the file may be damaged'
        )
    share = repeated_share(analysis.differences)
    if share > REPEATED_SHARE:
        real = f' of about {analysis.frame_rate * (1 - share):.3g}' if analysis.frame_rate else ''
        warnings.append(
            f'{share:.0%} of the frames repeat the previous one, as in a video converted from a lower rate{real}; '
            'the blur would have gaps. Use the original or drop the repeated frames: '
            f'ffmpeg -i {footage.path} -vf mpdecimate -fps_mode vfr -c:v libx264 -crf 10 NEW.mp4'
        )
    longest = max((plan.shutter for plan in plans), key=lambda shutter: shutter.exposure)
    step = analysis.step * settings.geometry.factor(analysis.size) / settings.interpolate
    if step > GHOST_STEP and longest.exposure * settings.interpolate > 1:
        better = min(math.ceil(step * settings.interpolate), 64)
        warnings.append(
            f'the frame rate is low for the motion: fast parts move by {step:.1f} pixels between averaged frames and '
            f'will appear as several copies. Film at a higher rate or add --interpolate {better}'
        )
    if longest.exposure * settings.interpolate <= 1:
        warnings.append('the exposure covers a single frame, so blurry and sharp frames are identical')
    if longest.exposure > longest.stride:
        warnings.append(
            f'the exposure ({longest.exposure:g} frames) is longer than the time between pairs ({longest.stride}), '
            'which no camera can do'
        )
    short = [plan for plan in plans if plan.split == 'train' and len(plan.centres) < CLIP_LENGTH]
    if short:
        warnings.append(
            f'{counted(len(short), "training clip")} with fewer than {CLIP_LENGTH} pairs, the num_frame of the '
            f'options files. Lower num_frame, or skip such clips with --min-pairs {CLIP_LENGTH}'
        )
    return warnings
