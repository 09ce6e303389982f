"""What came of it, and where and when."""

from __future__ import annotations

import os
import platform
import sys
from collections import Counter
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any


@dataclass
class Outcome:
    """What happened to the runs.

    Attributes:
        kills: how many, by the place that was aimed at.
        found: how many, by what was under way according to the disk and the log.
        runs: that were brought to an end.
        fresh: kills of processes that were started anew and not forked.
        begun_anew: starts that found no checkpoint, and began at 0.
        damaged: checkpoints that were cut short between two starts.
        skipped: of these, those that the next start is seen to have passed over with a warning.
        faults: what was not as it should be.
    """

    kills: Counter[str] = field(default_factory=Counter)
    found: Counter[str] = field(default_factory=Counter)
    runs: int = 0
    fresh: int = 0
    begun_anew: int = 0
    damaged: int = 0
    skipped: int = 0
    faults: list[str] = field(default_factory=list)


def heading() -> dict[str, Any]:
    """What each report begins with."""
    return {
        'command': ' '.join(['python', *sys.argv]),
        'date': date.today().isoformat(),
        'machine': f'{_processor()}, {os.cpu_count()} cores, Python {platform.python_version()}',
    }


def _processor() -> str:
    try:
        lines = Path('/proc/cpuinfo').read_text().splitlines()
        return next(line.partition(': ')[2] for line in lines if line.startswith('model name'))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
