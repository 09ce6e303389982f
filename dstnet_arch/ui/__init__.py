"""The ``dstnet ui`` command: a local page to deblur videos."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import threading
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import Any

from dstnet_arch.arguments import add_device, check_writable, command_parser, whole_number
from dstnet_arch.errors import OptionsError

_DESCRIPTION = """\
Open a page in the browser to deblur videos: drop videos or pictures on it, choose weights, start, compare, download.
It does the same as dstnet deblur. Results are in OUTPUT. Uploads and other temporary files are in OUTPUT, too, and are
deleted when the command ends; unfinished videos are discarded. Ctrl-C ends it.

The page is for this computer only. It has no password: with --host 0.0.0.0, everybody in the network can use it, and
read all files in OUTPUT.
"""
_LOCAL = '127.0.0.1'
_PORTS = 65535
_WORK = '.dstnet-ui-'

# The page loads nothing from elsewhere; Gradio needs inline scripts and styles.
_POLICY = (
    b"default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; connect-src 'self' data: blob:; form-action 'self'"
)


def command(arguments: Sequence[str]) -> None:
    """Run ``dstnet ui`` until Ctrl-C.

    Raises:
        OptionsError: Gradio is not installed, the device or the port cannot be used, or OUTPUT cannot be written.
    """
    parser = command_parser('dstnet ui', _DESCRIPTION)
    add = parser.add_argument
    add('-o', '--output', type=Path, default=Path('results/ui'), help='folder of the results; default: results/ui')
    add('--weights', default='GoPro', metavar='NAME', help='weights that are chosen at first; default: GoPro')
    add_device(parser)
    add('--host', default=_LOCAL, metavar='ADDRESS', help=f'address to listen on; default: {_LOCAL}')
    add('--port', type=whole_number(1, _PORTS), metavar='N', help='default: the first free one from 7860 on')
    add('--browser', action='store_true', help='open the page in the browser')
    args = parser.parse_args(arguments)
    with suppress(ValueError):  # not in the main thread
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    with serve(args.output, args.weights, args.device, args.host, args.port, args.browser) as url:
        print(f'The page is at {url}\nResults are in {args.output}. Ctrl-C ends.', flush=True)
        with suppress(KeyboardInterrupt):
            threading.Event().wait()
    print('Ended. Temporary files are deleted.')


@contextmanager
def serve(
    output: Path,
    weights: str = 'GoPro',
    device: str | None = None,
    host: str = _LOCAL,
    port: int | None = None,
    browser: bool = False,
) -> Iterator[str]:
    """Serve the page; at the end, stop the work and delete temporary files.

    Args:
        output: folder of the results.
        weights: weights that are chosen at first.
        device: PyTorch's name of the device; None: a GPU if there is one.
        host: address to listen on.
        port: port to listen on; None: the first free one from 7860 on.
        browser: open the page in the browser.

    Yields:
        The address of the page.

    Raises:
        OptionsError: Gradio is not installed, the device or the port cannot be used, or the folder cannot be written.
    """
    check_writable(output)
    with _work_folder(output.resolve()) as work:
        try:
            import gradio as gr
        except ImportError:
            raise OptionsError("Gradio is not installed. Install it with: pip install 'dstnet-arch[ui]'") from None
        from dstnet_arch.precision import choose_device
        from dstnet_arch.ui.jobs import Jobs
        from dstnet_arch.ui.page import Viewer, make_page, style

        choose_device(device)  # an error now, and not in each job
        gr.set_static_paths([output.resolve()])  # results are served from there, not copied
        with (
            closing(Jobs(output.resolve(), work, device)) as jobs,
            closing(Viewer(jobs)) as viewer,
            ExitStack() as stack,
        ):
            page = make_page(jobs, viewer, weights)
            stack.callback(page.close, verbose=False)
            try:
                _, url, _ = page.launch(
                    prevent_thread_lock=True,
                    inbrowser=browser,
                    share=False,
                    quiet=True,
                    server_name=host,
                    server_port=port,
                    footer_links=[],
                    ssr_mode=False,
                    pwa=False,
                    css=style(),
                    app_kwargs={'middleware': _middleware(host)},
                )
            except OSError as error:
                raise OptionsError(f'--host {host} --port {port}: {error}') from None
            yield url


@contextmanager
def _work_folder(output: Path) -> Iterator[Path]:
    """Make a folder for all temporary files of this process, and delete those of processes that were killed."""
    import psutil

    for left in output.glob(f'{_WORK}*'):
        process = left.name.removeprefix(_WORK)
        if process.isdigit() and not psutil.pid_exists(int(process)):
            shutil.rmtree(left, ignore_errors=True)
    work = output / f'{_WORK}{os.getpid()}'
    work.mkdir(parents=True)
    os.environ.update({
        'GRADIO_TEMP_DIR': str(work / 'uploads'),
        'GRADIO_ANALYTICS_ENABLED': 'False',
        'GRADIO_RUN_HISTORY': 'False',
        'HF_HUB_DISABLE_TELEMETRY': '1',
    })  # fmt: skip
    before, tempfile.tempdir = tempfile.tempdir, str(work)
    try:
        yield work
    finally:
        tempfile.tempdir = before
        shutil.rmtree(work, ignore_errors=True)


def _middleware(host: str) -> list[Any]:
    from starlette.middleware import Middleware
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    middleware = [Middleware(_Policy)]
    if host == _LOCAL:  # other names of this address would let pages of other sites use this one
        middleware.append(Middleware(TrustedHostMiddleware, allowed_hosts=[_LOCAL, 'localhost']))
    return middleware


class _Policy:
    """Adds the content security policy to all answers except files, whose reports have their own."""

    def __init__(self, app: Callable[..., Awaitable[None]]) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def send_with_policy(message: Any) -> None:
            if message['type'] == 'http.response.start' and '/file=' not in scope['path']:
                message['headers'] = [*message['headers'], (b'content-security-policy', _POLICY)]
            await send(message)

        await self._app(scope, receive, send_with_policy)
