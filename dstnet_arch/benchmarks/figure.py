"""PSNR against work, as in the paper's Figure 1."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from dstnet_arch.benchmarks.quoted import QUOTED, gopro_psnr
from dstnet_arch.benchmarks.report import written
from dstnet_arch.errors import DSTNetError

_OURS = {'DSTNet', 'DSTNet-L', 'DSTNet+', 'DSTNet+L'}


def require_matplotlib() -> Any:
    """matplotlib's Figure.

    Raises:
        DSTNetError: it is not installed.
    """
    try:
        return import_module('matplotlib.figure').Figure
    except ImportError as error:
        raise DSTNetError(
            f'The plot needs matplotlib, which cannot be imported ({error}). Install it with "pip install matplotlib", '
            'or leave --plot out: its figures are in the table and the JSON file.'
        ) from None


def points(counted: Mapping[str, float | None]) -> list[tuple[str, float, float, bool]]:
    """What the figure shows: (network, multiply-adds for a 256x256 frame, dB on GoPro, counted here).

    A network whose reported work differs by more than a tenth from what was counted here stands there twice.

    Args:
        counted: network -> multiply-adds; None where it could not be counted.
    """
    psnr = gopro_psnr()
    found = []
    for name, quoted in QUOTED.items():
        here, reported = counted.get(name), quoted.gmacs and 1e9 * quoted.gmacs
        if here:
            found.append((name, here, psnr[name], True))
        if reported and (not here or abs(reported / here - 1) > 0.1):
            found.append((f'{name}, reported' if here else name, reported, psnr[name], False))
    return found


def draw(counted: Mapping[str, float | None], path: Path) -> Path:
    """Draw `points` to a PNG file, at once. Returns its path."""
    figure = require_matplotlib()(figsize=(7.2, 4.4), layout='constrained')
    axes = figure.add_subplot()
    shown = points(counted)
    for name, macs, psnr, here in shown:
        colour = 'tab:red' if name in _OURS else 'tab:blue'
        axes.plot(macs / 1e9, psnr, 'o', color=colour, markerfacecolor=colour if here else 'white')
    for label, fill in (('work counted here', 'grey'), ('work as reported', 'white')):
        axes.plot([], [], 'o', color='grey', markerfacecolor=fill, label=label)
    axes.set(xscale='log', xlabel='giga multiply-adds for a 256x256 frame ("GFLOPs" of papers)')
    axes.set_ylabel('PSNR on GoPro, as reported (dB)')
    axes.xaxis.set_major_formatter('{x:g}')
    axes.margins(0.08)
    axes.grid(alpha=0.3, which='both')
    axes.legend(loc='lower left')
    figure.draw_without_rendering()  # settles where things are
    box = import_module('matplotlib.transforms').Bbox.from_bounds
    pixels = axes.transData.transform([(macs / 1e9, psnr) for _, macs, psnr, _ in shown])
    taken = [box(x - 5, y - 5, 10, 10) for x, y in pixels]
    for name, macs, psnr, _ in shown:
        taken.append(_label(axes, name, (macs / 1e9, psnr), taken))
    with written(path) as file:
        figure.savefig(file, format='png', dpi=150)
    return path


def _label(axes: Any, name: str, point: tuple[float, float], taken: Sequence[Any]) -> Any:
    """Write a name beside its point, where nothing is yet if possible. Returns the place that it takes."""
    for x, y in ((7, -3), (-7, -3), (0, 7), (0, -13), (7, 5), (-7, 5), (7, -11), (-7, -11)):
        side = 'left' if x > 0 else 'right' if x < 0 else 'center'
        text = axes.annotate(name, point, (x, y), textcoords='offset points', ha=side, fontsize=8)
        place = text.get_window_extent()
        if place.count_overlaps(taken) == 0 and axes.get_window_extent().containsx(place.x1):
            break
        text.remove()
    else:
        text = axes.annotate(name, point, (7, -3), textcoords='offset points', fontsize=8)
        place = text.get_window_extent()
    return place
