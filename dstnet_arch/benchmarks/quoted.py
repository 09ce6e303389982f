"""What papers report of the efficiency of networks. Nothing here was measured by this project.

Parameters and seconds: Table 7 of the DSTNet paper; where that has none, the networks' own papers. Multiply-adds: EDVR
and CDVD-TSP: Section 1 of the DSTNet paper, which calls them FLOPs, as papers do; others: their own papers and those
that compare with them.
"""

from __future__ import annotations

from typing import NamedTuple

from dstnet_arch.metrics.tables import published_for


class Quoted(NamedTuple):
    """Reported figures of one network; None where none is known.

    Attributes:
        parameters: in millions.
        gmacs: giga multiply-adds for one 256x256 frame.
        seconds: for one 1280x720 frame on an NVIDIA RTX A6000.
    """

    parameters: float | None = None
    gmacs: float | None = None
    seconds: float | None = None


QUOTED = {
    'DSTNet': Quoted(7.45, 47.9, 0.08),
    'DSTNet-L': Quoted(16.96, None, 0.28),
    'DSTNet+': Quoted(3.90, 44.6),
    'DSTNet+L': Quoted(14.09, 158),
    'BasicVSR++': Quoted(9.46, 38, 0.10),
    'EDVR': Quoted(23.60, 2298.97, 2.70),
    'RVRT': Quoted(13.60, 559, 0.41),
    'FGST': Quoted(9.70, None, 0.72),
    'CDVD-TSP': Quoted(16.19, 357.79, 1.90),
    'DVDSEF': Quoted(75.05, None, 0.52),
    'DVD': Quoted(15.30, None, 0.88),
    'ESTRNN': Quoted(2.22, 10.5),
    'Shift-Net': Quoted(10.51, 147),
}
"""By the names of methods in the result tables."""


def gopro_psnr() -> dict[str, float]:
    """Reported PSNR on GoPro in dB, by method."""
    table = published_for('GoPro')
    assert table is not None
    return {row['method']: row['psnr'] for row in table['rows']}
