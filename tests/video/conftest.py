"""What the tests of video files share: a pipeline without a network."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch
from video_clips import Copy, Outcome

from dstnet_arch.video.sinks import OutputOptions, open_sink
from dstnet_arch.video.sources import open_source


@pytest.fixture
def copy(tmp_path: Path) -> Copy:
    """Read a video and write its frames unchanged: `copy(source, 'out.mp4', start=2, codec='ffv1')`."""

    def run(
        source: Path | str,
        output: str,
        start: Any = None,
        end: Any = None,
        rate: Any = None,
        resume: bool = False,
        overwrite: bool = False,
        stop: int | None = None,
        **options: Any,
    ) -> Outcome:
        target = tmp_path / output
        with closing(open_source(str(source), start, end, rate, str(tmp_path))) as opened:
            sink = open_sink(target, opened, OutputOptions(**options), {'job': 1}, resume, overwrite)
            with closing(sink):
                for position in range(sink.position, len(opened)):
                    if position == stop:
                        raise KeyboardInterrupt
                    sink.write(position, opened[position])
                    sink.save(position + 1, torch.tensor([position + 1.0]))
                sink.finish()
            return Outcome(target, opened.warnings + sink.warnings, sink.position)

    return run
