"""The record of how a clip was synthesized."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from data_prep.layouts import Clip, Layout

RECORD = 'synthesis.json'


def read_record(clip: Path) -> dict[str, Any] | None:
    """Read the record in a clip's folder; None if `synthesize` did not write one."""
    try:
        record = json.loads((clip / RECORD).read_text(encoding='utf-8'))
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) and {'video', 'response'} <= record.keys() else None


def as_synthesized(layout: Layout, clips: Iterable[Clip]) -> Layout:
    """Return GoPro's layout described as synthesized pairs if any clip is one, else `layout`."""
    records = [record for clip in clips if (record := read_record(clip.blur.parent))]
    if not records or layout.choice is None:
        return layout
    responses = ' and '.join(sorted({str(record['response']) for record in records}))
    meaning = f'synthesized with the camera response {responses}, see {RECORD} of each clip'
    choice = replace(layout.choice, values={**layout.choice.values, 'blur': meaning})
    return replace(layout, title='Synthesized pairs', choice=choice, test_clips=(), totals={})
