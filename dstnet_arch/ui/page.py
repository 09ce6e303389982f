"""The page of ``dstnet ui``, made with Gradio."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import ExitStack, closing
from html import escape
from typing import Any
from urllib.parse import quote

import gradio as gr

from dstnet_arch.deblur.preview import to_image
from dstnet_arch.errors import DSTNetError
from dstnet_arch.html import render, slider
from dstnet_arch.precision import PRECISIONS
from dstnet_arch.ui.jobs import FORMATS, Job, Jobs, first_sentence
from dstnet_arch.video.source import Source
from dstnet_arch.video.sources import open_source
from dstnet_arch.weights.released import RELEASED

_DEFAULT_PRECISION = 'default of the device'
_SECONDS_BETWEEN_UPDATES = 0.5
_REPORT_HEIGHT = 900  # pixels
_MARKS = {'waiting': '◷', 'running': '▶', 'finished': '✓', 'stopped': '■', 'failed': '✗'}

STYLE = """
.gradio-container { max-width: 80rem !important; }
.before-after { margin: 0; }
.jobs { width: 100%; border: 0 !important; border-collapse: collapse; }
.jobs tr { border: 0 !important; }
.jobs td {
  padding: 0.3rem 0.6rem; border: 0 !important; border-bottom: 1px solid var(--border-color-primary) !important;
  overflow-wrap: anywhere; vertical-align: top;
}
.jobs td:first-child { white-space: nowrap; }
.jobs progress { width: 100%; }
.report { width: 100%; border: 1px solid var(--border-color-primary); background: #fff; }
"""


class Viewer:
    """Reads frames before and after; the files of the last result stay open.

    Args:
        jobs: the queue, whose finished jobs can be viewed.
    """

    def __init__(self, jobs: Jobs) -> None:
        self._jobs = jobs
        self._lock = threading.Lock()
        self._job: Job | None = None
        self._stack = ExitStack()
        self._sources: list[Source] = []

    def find(self, title: str | None) -> Job | None:
        """Return the finished job whose result has this name."""
        return next((job for job in self._jobs if job.state == 'finished' and _title(job) == title), None)

    def frame(self, title: str | None, number: float) -> str:
        """Return a frame under a slider, as HTML.

        Raises:
            DSTNetError: The input or the result cannot be read.
        """
        job = self.find(title)
        if job is None:
            return ''
        with self._lock:
            if self._job is not job:
                self._stack.close()
                self._job = None  # if opening fails
                names = job.config.input, str(job.config.output)
                self._sources = [
                    self._stack.enter_context(closing(open_source(name, temp_dir=job.config.temp_dir)))
                    for name in names
                ]
                self._job = job
            position = min(int(number), len(self._sources[0]) - 1)
            before, after = (to_image(source[position]) for source in self._sources)
            return slider(self._sources[0].names[position], before, after)

    def close(self) -> None:
        """Close the files."""
        with self._lock:
            self._stack.close()
            self._job = None


def make_page(jobs: Jobs, viewer: Viewer, weights: str) -> gr.Blocks:
    """Return the page.

    Args:
        jobs: the queue that the page shows and controls.
        viewer: reads the frames that the page shows.
        weights: the weights that are chosen at first.
    """
    with gr.Blocks(title='DSTNet: deblur videos', analytics_enabled=False) as page:
        gr.Markdown('# Deblur videos')
        with gr.Row():
            with gr.Column(scale=1, min_width=320):
                files = gr.File(label='Videos, or the frames of one video as pictures', file_count='multiple')
                chosen_weights = gr.Dropdown(
                    [released.name for released in RELEASED],
                    value=weights,
                    allow_custom_value=True,
                    label='Weights',
                    info='released weights, downloaded once, or the path of a file',
                )
                precision = gr.Dropdown([_DEFAULT_PRECISION, *PRECISIONS], value=_DEFAULT_PRECISION, label='Precision')
                save_as = gr.Dropdown(list(FORMATS), value=FORMATS[0], label='Format of the result')
                with gr.Row():
                    start = gr.Button('Start', variant='primary', min_width=80)
                    stop = gr.Button('Stop', min_width=80)
                    clear = gr.Button('Clear', min_width=80)
            with gr.Column(scale=2, min_width=320):
                gr.Markdown(f'### Queue\nResults are in `{jobs.output}`')
                queue = gr.HTML(_queue(jobs), label='Queue')
        result = gr.Dropdown([], label='Result', interactive=True, visible=False)
        with gr.Tabs(visible=False) as tabs:
            with gr.Tab('Before and after'):
                number = gr.Slider(0, 1, 0, step=1, label='Frame')
                frame = gr.HTML()
            with gr.Tab('Profile and report'):
                report = gr.HTML()
            with gr.Tab('Files'):
                downloads = gr.File(label='Download', file_count='multiple', interactive=False)
        seen = gr.State([])

        def add(paths: list[str] | None, weights: str, precision: str, save_as: str) -> tuple[None, str]:
            stopped = any(job.state == 'stopped' for job in jobs)
            if paths or not stopped:
                jobs.add(paths or [], weights, None if precision == _DEFAULT_PRECISION else precision, save_as)
            jobs.start()
            return None, _queue(jobs)

        def control(action: Callable[[], None]) -> Callable[[], str]:
            def act() -> str:
                action()
                return _queue(jobs)

            return act

        def update(known: list[str], chosen: str | None) -> tuple[Any, ...]:
            finished = [_title(job) for job in jobs if job.state == 'finished']
            if finished == known:
                return _queue(jobs), gr.skip(), gr.skip(), known
            if chosen not in finished or len(finished) > len(known):
                chosen = finished[-1] if finished else None
            choice = gr.update(choices=finished, value=chosen, visible=bool(finished))
            return _queue(jobs), choice, gr.update(visible=bool(finished)), finished

        def show(title: str | None) -> tuple[Any, ...]:
            job = viewer.find(title)
            if job is None or job.result is None:
                return gr.skip(), '', '', None
            last = job.result.frames - 1
            outputs = [
                file for path in job.result.paths for file in (sorted(path.iterdir()) if path.is_dir() else [path])
            ]
            slider = gr.update(maximum=max(last, 1), value=0, interactive=last > 0)
            return slider, viewer.frame(title, 0), _report(job), [str(path) for path in outputs]

        start.click(_explained(add), [files, chosen_weights, precision, save_as], [files, queue], api_name='start')
        stop.click(control(jobs.stop), None, queue, api_name='stop')
        clear.click(control(jobs.clear), None, queue, api_name='clear')
        gr.Timer(_SECONDS_BETWEEN_UPDATES).tick(
            update, [seen, result], [queue, result, tabs, seen], show_progress='hidden', api_name='status'
        )
        result.change(_explained(show), result, [number, frame, report, downloads], api_name='show')
        number.change(
            _explained(viewer.frame),
            [result, number],
            frame,
            trigger_mode='always_last',
            show_progress='minimal',
            api_name='frame',
        )
    return page


def style() -> str:
    """Return the style sheet of the page."""
    return render('parts.css') + STYLE


def _explained(function: Callable[..., Any]) -> Callable[..., Any]:
    """Let errors appear as one sentence."""

    def call(*args: Any) -> Any:
        try:
            return function(*args)
        except DSTNetError as error:
            raise gr.Error(first_sentence(error), print_exception=False) from None

    return call


def _title(job: Job) -> str:
    return job.config.output.name


def _queue(jobs: Jobs) -> str:
    rows = []
    for job in jobs:
        bar = f'<br><progress value="{job.fraction:.3f}"></progress>' if job.state == 'running' else ''
        rows.append(
            f'<tr class="{job.state}"><td>{_MARKS[job.state]} {job.state}</td><td>{escape(job.title)}</td>'
            f'<td>{escape(job.message)}{bar}</td></tr>'
        )
    return f'<table class="jobs">{"".join(rows)}</table>' if rows else 'The queue is empty.'


def _report(job: Job) -> str:
    assert job.result is not None
    path = next((path for path in job.result.paths if path.suffix == '.html'), None)
    if path is None:
        return ''
    # The sandbox keeps the page of the report from the page around it.
    return (
        f'<iframe class="report" sandbox="allow-scripts" height="{_REPORT_HEIGHT}" title="Report" '
        f'src="gradio_api/file={escape(quote(str(path)))}#profile"></iframe>'
    )
