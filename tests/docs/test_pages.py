"""The documentation: the site builds, its commands and examples run, and the messages that it explains exist."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from conftest import ROOT, RunPython
from deblur_utils import make_frames
from video_clips import make_clip

from data_prep.__main__ import main as data_prep
from dstnet_arch.__main__ import COMMANDS
from dstnet_arch.archs.dstnet_arch import DSTNet
from dstnet_arch.archs.dstnet_plus_arch import DSTNetPlus
from dstnet_arch.video.ffmpeg import ffmpeg_program

PAGES = sorted([*(ROOT / 'docs').glob('*.md'), ROOT / 'README.md', ROOT / 'CONTRIBUTING.md', ROOT / 'SECURITY.md'])
FENCE = re.compile(r'^```(\w*)(?: title="([^"]*)")?\n(.*?)^```$', re.MULTILINE | re.DOTALL)
COMMAND = re.compile(r'^\s*(?:python|dstnet|torchrun|srun|pip|uv|ffmpeg|make) ', re.MULTILINE)
INSTALLATION = re.compile(r'^(?:pip install|dstnet setup-basicsr).*\n', re.MULTILINE)
"""Lines that the tests leave out: what they install is there, and test_packaging.py tries them."""

SHORT = {
    r'num_feat: \d+': 'num_feat: 4',
    r'prop_feat: \d+': 'prop_feat: 6',
    r'num_(block|cwgdn|kernel_block): \d+': r'num_\1: 1',
    r'^    num_frame: \d+': '    num_frame: 3',
    r'gt_size: \d+': 'gt_size: 32',
    r'total_iter: \d+': 'total_iter: 2',
    r'periods: \[\d+\]': 'periods: [2]',
    r'batch_size_per_gpu: \d+': 'batch_size_per_gpu: 1',
    r'(num_worker_per_gpu): \d+': r'\1: 0',
    r'(persistent_workers|use_tb_logger): true': r'\1: false',
}
"""Replacements in options files: tiny networks, two iterations."""
SMALLER = {'/path/to/': '', ' FILE': ' weights/plus.pth', '1000': '2', '1280x720': '64x48', '--frames 5': '--frames 2'}
"""Replacements in commands."""

# Read at the start of every Python process of the commands: released weights and packaged options are small ones.
SITECUSTOMIZE = """
from pathlib import Path
import dstnet_arch.plugin.options as options
import dstnet_arch.weights.store as store
options.options_folder = lambda: Path({world!r}, 'options')
store.get_weights = lambda released, folder='weights', base_url=None: Path({world!r}, 'weights', released.file)
"""
# Exit status 1 of reproduce: the scores are not comparable, since the data set is a small one.
PRELUDE = """
set -euo pipefail
dstnet() {
    if [ "$1" = reproduce ]; then command dstnet "$@" || [ $? -eq 1 ]; else command dstnet "$@"; fi
}
"""
# Names that the examples in Python use without defining them.
NAMES = """
import torch
from dstnet_arch import load_checkpoint
frames = list(torch.rand(4, 3, 40, 48))
clip = torch.rand(1, 2, 3, 40, 48)
net = load_checkpoint('weights/GOPRO.pth')
show, camera = print, lambda: iter(frames)
"""


class Block(NamedTuple):
    """A fenced block of a page."""

    language: str
    title: str
    text: str


def blocks_of(page: Path, language: str) -> list[Block]:
    """The blocks in a language that are to be run."""
    blocks = (Block(*match.groups('')) for match in FENCE.finditer(page.read_text('utf-8')))
    return [block for block in blocks if block.language == language and not block.title.startswith('Needs ')]


@pytest.mark.parametrize('page', PAGES, ids=lambda page: page.stem)
def test_commands_are_in_blocks_that_are_run_or_say_what_they_need(page: Path) -> None:
    text = page.read_text('utf-8')
    blocks = [Block(*match.groups('')) for match in FENCE.finditer(text)]
    assert all(block.title.startswith('Needs ') for block in blocks if block.language == 'bash' and block.title)
    assert not any(COMMAND.search(block.text) for block in blocks if block.language != 'bash')
    assert not re.search(r'\n\n    (?:python|dstnet|torchrun|pip) ', FENCE.sub('', text)), 'use a ```bash block'
    for command in re.findall(r'`dstnet ([a-z][a-z-]*)', text):
        assert command in COMMANDS, command


def test_errors_page_quotes_messages_of_the_program() -> None:
    modules = [*(ROOT / 'dstnet_arch').rglob('*.py'), *(ROOT / 'data_prep').glob('*.py')]
    trees = [ast.parse(path.read_text('utf-8')) for path in modules]
    nodes = [node for tree in trees for node in ast.walk(tree)]
    strings = ' '.join(node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str))
    of_basicsr = ('operator torchvision::nms', "No object named 'DSTNet'", 'This experiment')
    rows = re.findall(r'^\| (`.+?`.*?) \|', (ROOT / 'docs/faq.md').read_text('utf-8'), re.MULTILINE)
    assert len(rows) > 20
    for message in (quoted for row in rows for quoted in re.findall(r'`(.+?)`', row)):
        for part in message.split('…'):
            assert message.startswith(of_basicsr) or part.strip(' .:') in strings, message


def test_architecture_page_has_the_layers_of_the_import_rules() -> None:
    settings = (ROOT / 'pyproject.toml').read_text('utf-8')
    layers = re.findall(r"^    '([\w :]+)',$", settings.split('\nlayers = [', 1)[1].split('\n]', 1)[0], re.MULTILINE)
    page = FENCE.search((ROOT / 'docs/architecture.md').read_text('utf-8'))
    assert page is not None
    assert page[3].splitlines() == [layer.replace(' : ', ', ') for layer in layers]


@pytest.mark.extended
def test_site_builds_without_warnings(run_python: RunPython, tmp_path: Path) -> None:
    pytest.importorskip('material')
    pytest.importorskip('mkdocstrings')
    done = run_python('-m', 'mkdocs', 'build', '--strict', '-d', tmp_path / 'site', cwd=ROOT, NO_MKDOCS_2_WARNING='1')
    assert done.returncode == 0, done.stderr
    page = (tmp_path / 'site/api/index.html').read_text('utf-8')
    assert 'Restore videos frame by frame' in page, 'the docstring of Streamer'
    assert 'Nothing on the command line is evaluated' in (tmp_path / 'site/security/index.html').read_text('utf-8')


@pytest.fixture(scope='module')
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with everything that the commands read: checkout, data sets, weights, videos."""
    world = tmp_path_factory.mktemp('world')
    for name in ('docs', 'tests', 'data_prep', 'dstnet_arch'):
        (world / name).symlink_to(ROOT / name)
    shutil.copytree(ROOT / 'options', world / 'options')
    for path in (world / 'options').rglob('*.yml'):
        text = path.read_text('utf-8')
        for pattern, short in SHORT.items():
            text = re.sub(pattern, short, text, flags=re.MULTILINE)
        path.write_text(text, 'utf-8')

    torch.manual_seed(0)
    small = {'num_feat': 4, 'num_block': 1}
    weights = {
        **dict.fromkeys(('GOPRO', 'DVD', 'BSD'), DSTNet(**small, num_cwgdn=1)),
        'GOPRO_Large': DSTNet(**small, num_cwgdn=1, prop_feat=6),
        'plus': DSTNetPlus(**small, num_kernel_block=1),
    }
    for name, net in weights.items():
        (world / 'weights').mkdir(exist_ok=True)
        torch.save({'params': net.state_dict()}, world / f'weights/{name}.pth')
    (world / 'experiments/NAME/models').mkdir(parents=True)
    shutil.copy(world / 'weights/GOPRO.pth', world / 'experiments/NAME/models/net_g_latest.pth')

    sets = ['GOPRO_Large', 'pairs', 'DeepVideoDeblurring_Dataset/quantitative_datasets']
    for root in (*sets, 'BSD/BSD_1ms8ms', 'BSD/BSD_2ms16ms', 'BSD/BSD_3ms24ms'):
        for clip in ('train/A', 'train/B', 'test/C'):
            for side in ('Blur/RGB', 'Sharp/RGB') if 'BSD' in root else ('blur', 'sharp'):
                make_frames(world / root / clip / side, 5, '{:06d}.png', height=40, width=48)
    assert data_prep(['gopro', str(world / 'GOPRO_Large'), '-o', str(world / 'datasets/GoPro')]) == 0
    make_frames(world / 'frames', 3, '{:06d}.png', height=40, width=48)
    for name in ('in.mp4', 'in.mov', 'in.mkv'):
        make_clip(world / name, 64, (40, 48), rate=1)
    for name in ('a', 'b', 'c', 'd', 'e', 'footage'):
        make_clip(world / f'{name}.mp4', 70, (40, 48))

    (world / 'start').mkdir()
    (world / 'start/sitecustomize.py').write_text(SITECUSTOMIZE.format(world=str(world)))
    (world / 'bin').mkdir()
    (world / 'bin/ffmpeg').symlink_to(ffmpeg_program())
    return world


def script_of(page: Path, folder: Path) -> str:
    """The commands of a page, then its examples in Python; modules that the examples define are written to files."""
    examples = NAMES
    for block in blocks_of(page, 'python'):
        if name := re.match(r'# (\w+\.py)\n', block.text):
            (folder / name[1]).write_text(block.text)
        elif 'sys.argv' not in block.text:  # tests/export runs this one
            examples += block.text
    (folder / 'examples.py').write_text(examples.replace("'cuda'", "'cpu'"))
    commands = INSTALLATION.sub('', '\n'.join(block.text for block in blocks_of(page, 'bash')))
    for text, short in SMALLER.items():
        commands = commands.replace(text, short)
    return PRELUDE + commands + ('\npython examples.py\n' if examples != NAMES else '')


@pytest.mark.extended
@pytest.mark.parametrize(
    'page', [page for page in PAGES if blocks_of(page, 'bash') or blocks_of(page, 'python')], ids=lambda page: page.stem
)
def test_commands_and_examples_run(page: Path, world: Path, tmp_path: Path) -> None:
    folder = tmp_path / 'work'
    shutil.copytree(world, folder, symlinks=True)
    environment = {key: value for key, value in os.environ.items() if not key.startswith('PYTHON')}
    environment.setdefault('XDG_CACHE_HOME', str(Path.home() / '.cache'))  # compiled kernels
    environment['HOME'] = str(tmp_path)
    environment['PATH'] = os.pathsep.join([str(world / 'bin'), str(Path(sys.executable).parent), os.environ['PATH']])
    environment['PYTHONPATH'] = str(world / 'start')
    command = ['bash', '-xc', script_of(page, folder)]
    quiet = {'stdin': subprocess.DEVNULL, 'capture_output': True, 'text': True}
    done = subprocess.run(command, cwd=folder, env=environment, timeout=600, **quiet)
    assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-3000:]
