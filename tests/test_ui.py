"""``dstnet ui``: the queue, the page through its API, and the page in a browser."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from browser import open_browser
from deblur_utils import files, load, make_frames
from video_clips import make_clip

from dstnet_arch.archs.dstnet_arch import DSTNet
from dstnet_arch.deblur.config import DeblurConfig
from dstnet_arch.deblur.run import run
from dstnet_arch.errors import DataError, OptionsError
from dstnet_arch.ui.jobs import FORMATS, PICTURES, Job, Jobs, first_sentence


@pytest.fixture(scope='module')
def weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp('weights') / 'tiny.pth'
    torch.save({'params': DSTNet(num_feat=2, num_block=1, num_cwgdn=1).state_dict()}, path)
    return str(path)


@pytest.fixture
def jobs(tmp_path: Path) -> Iterator[Jobs]:
    output, work = tmp_path / 'out', tmp_path / 'out' / 'work'
    work.mkdir(parents=True)
    with closing(Jobs(output, work, 'cpu')) as queue:
        yield queue


def wait_for(condition: Callable[[], Any], seconds: float = 60) -> Any:
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end, 'nothing happened'
        time.sleep(0.02)
    return value


def finish(jobs: Jobs) -> list[str]:
    jobs.start()
    wait_for(lambda: all(job.state not in ('waiting', 'running') for job in jobs))
    return [job.state for job in jobs]


def frames(folder: Path, count: int) -> list[str]:
    make_frames(folder, count)
    return [str(path) for path in sorted(folder.iterdir())]


def test_queue_restores_several_files_although_one_fails(jobs: Jobs, weights: str, tmp_path: Path) -> None:
    damaged = tmp_path / 'a b.mp4'
    damaged.write_bytes(b'not a video')
    clip = make_clip(tmp_path / 'clip.mp4', 3, (32, 48), rate=12)
    expected = tmp_path / 'expected'
    run(DeblurConfig(str(make_frames(tmp_path / 'blurry', 3)), expected, weights, 'cpu'))
    jobs.add([str(damaged), str(clip), *frames(tmp_path / 'pictures', 3)], weights, None)
    assert [job.title for job in jobs] == ['a b.mp4', 'clip.mp4', '000.png and 2 more']
    assert finish(jobs) == ['failed', 'finished', 'finished']
    assert files(jobs.output) == [
        '000_deblurred', '000_deblurred_report.html', 'clip_deblurred.mp4', 'clip_deblurred_report.html', 'work',
    ]  # fmt: skip
    for name in files(expected):
        np.testing.assert_array_equal(load(jobs.output / '000_deblurred' / name), load(expected / name))
    messages = [job.message for job in jobs]
    assert messages[0].startswith('a b.mp4')
    assert messages[0].count('. ') == 0
    assert messages[1].startswith('3 frames in 0:00:0')
    jobs.clear()
    assert list(jobs) == []
    assert files(jobs.work) == []
    assert 'clip_deblurred.mp4' in files(jobs.output)


def test_stopped_job_continues(jobs: Jobs, weights: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = tmp_path / 'expected'
    run(DeblurConfig(str(make_frames(tmp_path / 'blurry', 6)), expected, weights, 'cpu'))
    step = Job.step

    def stop_after_two_frames(job: Job, stage: str, done: int, total: int) -> None:
        step(job, stage, done, total)
        if done == 8 and job.config.output.name == '000_deblurred':
            assert job.message.startswith('restoring: 8 of 12 steps, 0:00:0')
            jobs.stop()

    first, second = (
        jobs.add(frames(tmp_path / 'pictures', 6), weights, 'fp32'),
        jobs.add([str(make_clip(tmp_path / 'clip.mp4', 2, (32, 48)))], weights, 'fp32', PICTURES),
    )
    monkeypatch.setattr(Job, 'step', stop_after_two_frames)
    assert finish(jobs) == ['stopped', 'stopped']
    assert [entry for entry in files(jobs.output) if 'deblurred' in entry] == ['000_deblurred.partial']
    monkeypatch.undo()
    assert finish(jobs) == ['finished', 'finished']
    assert first[0].result is not None
    assert 0 < first[0].result.restored < first[0].result.frames == 6
    for name in files(expected):
        np.testing.assert_array_equal(load(jobs.output / '000_deblurred' / name), load(expected / name))
    assert files(second[0].config.output) == ['000000.png', '000001.png']


def test_closing_discards_what_is_unfinished(weights: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = Jobs(tmp_path / 'out', tmp_path / 'out', 'cpu')
    (tmp_path / 'out').mkdir()
    begun: list[str] = []
    monkeypatch.setattr(Job, 'step', lambda job, stage, done, total: begun.append(stage) or time.sleep(0.1))
    jobs.add(frames(tmp_path / 'pictures', 4), weights, None)
    jobs.start()
    wait_for(lambda: 'restoring' in begun)
    jobs.close()
    assert files(tmp_path / 'out') == []


def test_results_get_free_names(jobs: Jobs, tmp_path: Path) -> None:
    (jobs.output / 'a_deblurred.mp4').touch()
    (jobs.output / 'b_deblurred_report.html').touch()
    (jobs.output / 'c_deblurred.mkv.partial').mkdir()
    names = []
    for name, save_as in (('a.mp4', FORMATS[0]), ('b.avi', FORMATS[0]), ('c.mov', '.mkv'), ('c.mov', PICTURES)):
        (tmp_path / name).touch()
        dropped = [str(tmp_path / name)] * 2  # such as two videos of one name from different folders
        names += [job.config.output.name for job in jobs.add(dropped, 'GoPro', None, save_as)]
    assert names[:4] == ['a_deblurred_2.mp4', 'a_deblurred_3.mp4', 'b_deblurred_2.mp4', 'b_deblurred_3.mp4']
    assert names[4:] == ['c_deblurred_2.mkv', 'c_deblurred_3.mkv', 'c_deblurred_4', 'c_deblurred_5']


def test_wrong_files_are_refused(jobs: Jobs, tmp_path: Path) -> None:
    with pytest.raises(OptionsError, match='Drop a video or pictures first'):
        jobs.add([], 'GoPro', None)
    with pytest.raises(OptionsError, match=r'gone\.mp4 is no longer available'):
        jobs.add([str(tmp_path / 'gone.mp4')], 'GoPro', None)
    same = frames(tmp_path / 'a', 1) + frames(tmp_path / 'b', 1)
    with pytest.raises(OptionsError, match='Two pictures have the same name'):
        jobs.add(same, 'GoPro', None)
    assert list(jobs) == []


def test_first_sentence_of_an_error() -> None:
    assert first_sentence(DataError('clip.mp4 ends early: 3.5 s. Repair it.\nOr not.')) == 'clip.mp4 ends early: 3.5 s.'
    assert first_sentence(DataError('No \x1b[2Jframes')) == 'No \\x1b[2Jframes'


_SERVE = """
import signal, socket, sys
from dstnet_arch.__main__ import main

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs inherit that it is ignored
connect = socket.socket.connect

def connect_locally(self, address):
    if self.family in (socket.AF_INET, socket.AF_INET6) and address[0] not in ('127.0.0.1', '::1'):
        print('CONNECTS', address, flush=True)
        raise OSError('not local')
    connect(self, address)

socket.socket.connect = connect_locally
sys.exit(main(sys.argv[1:]))
"""


@contextmanager
def serve(output: Path, weights: str) -> Iterator[str]:
    """Run ``dstnet ui``, end it with Ctrl-C, and check that it connects to nothing and ends well."""
    command = [sys.executable, '-c', _SERVE, 'ui', '-o', str(output), '--weights', weights, '--device', 'cpu']
    temporary = output.parent / 'temporary'
    temporary.mkdir()
    process = subprocess.Popen(
        command,
        cwd=output.parent,
        env={**os.environ, 'TMPDIR': str(temporary), 'HOME': str(temporary / 'home')},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith('The page is at http://127.0.0.1:'), line + process.stdout.read()
        yield line.split()[-1]
    finally:
        process.send_signal(signal.SIGINT)
        out = process.communicate(timeout=60)[0]
    assert process.returncode == 0, out
    assert out.endswith('Ended. Temporary files are deleted.\n'), out
    assert 'CONNECTS' not in out
    assert [path.name for path in temporary.rglob('*') if path.is_file() and 'matplotlib' not in str(path)] == []


@pytest.fixture
def clip(tmp_path: Path) -> Any:
    pytest.importorskip('gradio', reason='Gradio is not installed')
    return make_clip(tmp_path / 'a <b> é.mp4', 4, (32, 48))


def restore_in_page(url: str, clip: Path, weights: str) -> tuple[Any, str]:
    """Restore a clip; return a client of the page, and the name of the result."""
    from gradio_client import Client, handle_file

    client = Client(url, verbose=False, download_files=False, analytics_enabled=False)
    client.predict([handle_file(str(clip))], weights, 'fp32', FORMATS[0], api_name='/start')
    updates = (client.predict(None, api_name='/status') for _ in range(1000))
    _, choice = next(update for update in updates if 'finished' in update[0])
    return client, choice['value']


@pytest.mark.extended
@pytest.mark.filterwarnings('ignore')  # of Gradio and its libraries
def test_page_through_its_api(tmp_path: Path, weights: str, clip: Path) -> None:
    import httpx

    (tmp_path / 'out' / '.dstnet-ui-999999999').mkdir(parents=True)  # of a process that was killed
    with serve(tmp_path / 'out', weights) as url:
        assert [name.startswith('.dstnet-ui-') for name in files(tmp_path / 'out')] == [True]
        client, name = restore_in_page(url, clip, weights)
        report_name = f'{Path(name).stem}_report.html'
        with pytest.raises(Exception, match='Drop a video or pictures first'):
            client.predict([], weights, 'fp32', FORMATS[0], api_name='/start')
        number, frame, report, downloads = client.predict(name, api_name='/show')
        assert number['maximum'] == 3
        assert frame.count('data:image/jpeg') == 2
        assert 'Frame 000002' in client.predict(name, 2, api_name='/frame')
        paths = [Path(file['path']) for file in downloads]
        assert paths == [tmp_path / 'out' / name, tmp_path / 'out' / report_name]  # not copied
        assert httpx.get(f'{url}gradio_api/file={paths[0]}').content == paths[0].read_bytes()
        address = report.partition('src="')[2].partition('"')[0]
        assert 'One column over time' in httpx.get(url + address).text
        assert "default-src 'self'" in httpx.get(url).headers['content-security-policy']
        assert httpx.get(url, headers={'Host': 'example.org'}).status_code == 400
        assert httpx.get(f'{url}gradio_api/file={weights}').status_code == 403
        client.close()
    assert set(files(tmp_path / 'out')) == {name, report_name}
    assert files(tmp_path) == sorted([clip.name, 'out', 'temporary'])


@pytest.mark.extended
def test_page_in_a_browser(tmp_path: Path, weights: str, clip: Path) -> None:
    with open_browser(tmp_path / 'browser') as page, serve(tmp_path / 'out', weights) as url:
        page.open(url)
        page.wait('document.querySelector("input[type=file]") !== null')
        page.choose_files('input[type=file]', clip)
        page.wait('document.body.innerText.includes(".mp4")')
        page.click('Start')
        page.wait('document.querySelector(".jobs .finished") !== null')
        image = 'document.querySelector(".before-after img")'
        page.wait(f'{image} && {image}.naturalWidth === 48')
        assert page.run('getComputedStyle(document.querySelectorAll(".before-after img")[1]).clipPath').endswith('50%)')
        page.run("""
            const cut = document.querySelector(".before-after input");
            cut.value = 20;
            cut.dispatchEvent(new Event("input"));
        """)
        assert page.run('getComputedStyle(document.querySelectorAll(".before-after img")[1]).clipPath').endswith('20%)')
        page.run("""
            const number = document.querySelector('input[type=number]');
            number.value = 3;
            number.dispatchEvent(new Event('input', {bubbles: true}));
            number.dispatchEvent(new Event('change', {bubbles: true}));
        """)
        page.wait(f'{image}.alt === "Frame 000003 before"')
        page.click('Profile and report')
        page.wait('document.querySelector("iframe.report")?.getBoundingClientRect().height > 500')
        page.click('Files')
        page.wait("""[...document.querySelectorAll('a')].some(a => a.href.endsWith('_deblurred.mp4'))""")
        page.click('Start')
        page.wait('document.body.innerText.includes("Drop a video or pictures first.")')
        assert [address for address in page.requests if not address.startswith((url, 'data:', 'blob:'))] == []
