"""A headless Chromium that tests control through the DevTools protocol, over a pipe."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

_FLAGS = '--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking --hide-scrollbars'


class Page:
    """A page in the browser; see `open_page`."""

    def __init__(self, read: int, write: int) -> None:
        self._read, self._write = os.fdopen(read, 'rb'), os.fdopen(write, 'wb')
        self._session: str | None = None
        self._number = 0
        self._rest = b''
        target = self.call('Target.createTarget', url='about:blank')['targetId']
        self._session = self.call('Target.attachToTarget', targetId=target, flatten=True)['sessionId']
        self.requests: list[str] = []
        self.call('Network.enable')

    def call(self, method: str, **params: Any) -> Any:
        """Call a method of the protocol; return its result."""
        self._number += 1
        message = {'id': self._number, 'method': method, 'params': params}
        if self._session:
            message['sessionId'] = self._session
        self._write.write(json.dumps(message).encode() + b'\0')
        self._write.flush()
        while True:
            answer = self._receive()
            if answer.get('method') == 'Network.requestWillBeSent':
                self.requests.append(answer['params']['request']['url'])
            if answer.get('id') == self._number:
                assert 'error' not in answer, answer
                return answer['result']

    def _receive(self) -> Any:
        while b'\0' not in self._rest:
            data = self._read.read1(2**16)
            assert data, 'the browser has ended'
            self._rest += data
        line, _, self._rest = self._rest.partition(b'\0')
        return json.loads(line)

    def open(self, url: str, width: int = 1200, height: int = 900) -> None:
        """Load an address in a window of this size."""
        self.call(
            'Emulation.setDeviceMetricsOverride', width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        self.call('Page.navigate', url=url)
        self.wait('document.readyState === "complete"')

    def run(self, script: str) -> Any:
        """Evaluate JavaScript; return its value."""
        answer = self.call('Runtime.evaluate', expression=script, returnByValue=True, awaitPromise=True)
        assert 'exceptionDetails' not in answer, answer
        return answer['result'].get('value')

    def wait(self, script: str, seconds: float = 60) -> None:
        """Evaluate JavaScript until its value is true."""
        end = time.monotonic() + seconds
        while not self.run(f'Boolean({script})'):
            assert time.monotonic() < end, (
                f'{script} is still false; the page says: {self.run("document.body.innerText")}'
            )
            time.sleep(0.1)

    def click(self, text: str) -> None:
        """Click the first button with this text."""
        buttons = '[...document.querySelectorAll("button:not([tabindex=\\"-1\\"])")]'  # not Gradio's hidden copies
        self.run(f'{buttons}.find(button => button.innerText.trim() === {json.dumps(text)}).click()')

    def choose_files(self, selector: str, *paths: Path) -> None:
        """Choose files in an input."""
        root = self.call('DOM.getDocument')['root']['nodeId']
        node = self.call('DOM.querySelector', nodeId=root, selector=selector)['nodeId']
        self.call('DOM.setFileInputFiles', nodeId=node, files=[str(path) for path in paths])

    def screenshot(self, path: Path) -> None:
        """Save the complete page as a PNG file."""
        data = self.call('Page.captureScreenshot', captureBeyondViewport=True)['data']
        path.write_bytes(base64.b64decode(data))


@contextmanager
def open_browser(folder: Path) -> Iterator[Page]:
    """Start Chromium with its files in a folder; skip the test where there is none."""
    browser = shutil.which('chromium') or shutil.which('chromium-browser') or shutil.which('google-chrome')
    if browser is None:
        pytest.skip('no Chromium or Chrome here')
    for_browser, write = os.pipe()
    read, from_browser = os.pipe()
    process = subprocess.Popen(
        [
            'bash', '-c', f'exec "$@" 3<&{for_browser} 4>&{from_browser}', 'bash',
            browser, *_FLAGS.split(), '--remote-debugging-pipe', f'--user-data-dir={folder}',
        ],
        pass_fds=(for_browser, from_browser),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    os.close(for_browser)
    os.close(from_browser)
    page = None
    try:
        page = Page(read, write)
        yield page
    finally:
        process.terminate()
        process.wait(30)
        if page is not None:
            page._read.close()
            page._write.close()
