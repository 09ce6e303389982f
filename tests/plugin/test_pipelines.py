"""BasicSR's train and test in processes of their own, from the command line to the files."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import yaml
from conftest import RunPython
from soak.project import make_project, run_folder, train_options

from dstnet_arch import __main__ as cli

SITE = Path(yaml.__file__).resolve().parents[1]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder with data and options for training and for a test with the weights of iteration 5."""
    make_project(tmp_path, total_iter=6, save_freq=2, val_freq=100)
    opt: dict[str, Any] = train_options(6, 2, 100)
    opt |= {'name': 'tiny_test', 'num_gpu': 'auto', 'datasets': {'test': opt['datasets']['val']}}
    opt['path'] = {'pretrain_network_g': 'experiments/tiny/models/net_g_5.pth'}
    del opt['train'], opt['logger'], opt['val']['val_freq']
    (tmp_path / 'test.yml').write_text(yaml.safe_dump(opt))
    return tmp_path


@pytest.mark.slow
def test_train_resume_and_test(run_python: RunPython, project: Path) -> None:
    before = {path.name for path in SITE.iterdir()}
    run = run_folder(project)

    train = ('-m', 'basicsr.train', '-opt', 'train.yml', '--force_yml')
    done = run_python(*train, 'train:total_iter=3', 'logger:use_tb_logger=true', cwd=project)
    assert done.returncode == 0, done.stderr
    assert 'Warning' not in done.stderr, done.stderr
    assert (run / 'training_states' / '2.state').is_file()
    assert list((project / 'tb_logger' / 'tiny').iterdir())

    # The run is found in the current folder and resumed there.
    forced = ('train:total_iter=5', 'logger:print_freq=1', 'logger:save_checkpoint_freq=5')
    done = run_python(*train, *forced, '--auto_resume', cwd=project)
    assert done.returncode == 0, done.stderr
    assert 'Resuming training from epoch: 0, iter: 2.' in done.stderr
    assert 'iter:       3' in done.stderr
    assert sorted(path.name for path in (project / 'experiments').iterdir()) == ['.tiny.lock', 'tiny']
    assert (run / 'models' / 'net_g_5.pth').is_file()

    # The command does not need the start-up hook.
    code = """
import sys
sys.meta_path[:] = [finder for finder in sys.meta_path if type(finder).__name__ != 'BasicSRFinder']
from dstnet_arch.__main__ import main
sys.exit(main() or main(['visualize', 'compare', '-opt', 'test.yml', '--frame', 'video1/001']))
"""
    done = run_python('-c', code, 'test', '-opt', 'test.yml', cwd=project)
    assert done.returncode == 0, done.stderr
    results = project / 'results' / 'tiny_test'
    assert len(list(results.glob('visualization/val/video?/00?.png'))) == 8
    assert json.loads((results / 'val_summary.json').read_text())['mean_over_frames']['restored']['psnr'] > 0
    sheet = cv2.imread(str(project / 'compare.png'))
    assert sheet is not None
    np.testing.assert_array_equal(sheet[-16:, :20], cv2.imread(str(project / 'data/val/blurry/video1/001.png')))

    assert {path.name for path in SITE.iterdir()} == before


@pytest.mark.slow
def test_damaged_data_end_the_run_before_anything_is_created(run_python: RunPython, project: Path) -> None:
    (project / 'data/train/sharp/video1/001.png').unlink()
    done = run_python('-m', 'basicsr.train', '-opt', 'train.yml', '--debug', cwd=project)
    assert done.returncode == 2
    assert 'Traceback' not in done.stderr
    assert 'clip video1: 1 frame' in done.stderr
    assert sorted(path.name for path in project.iterdir()) == ['data', 'test.yml', 'train.yml']


@pytest.mark.slow
def test_train_ignores_the_command_line_of_a_notebook_kernel(run_python: RunPython, project: Path) -> None:
    code = """
import sys
from dstnet_arch.errors import OptionsError
from dstnet_arch.plugin.pipelines import train
before = list(sys.argv)
train(['-opt', 'train.yml', '--force_yml', 'train:total_iter=1'])
try:
    train(['-opt', 'train.yml', '--force_yml', 'train:total_iter=0'])
except OptionsError as error:
    print('caught', 'train:total_iter' in str(error))
print(sys.argv == before)
"""
    done = run_python('-c', code, '-f', 'kernel-1.json', cwd=project)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-2:] == ['caught True', 'True']
    assert (run_folder(project) / 'models' / 'net_g_latest.pth').is_file()


@pytest.mark.parametrize('name', ['train', 'test'])
def test_pipeline_reports_a_missing_file_without_a_traceback(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, 'argv', ['dstnet'])
    monkeypatch.setattr(sys, 'excepthook', sys.__excepthook__)
    assert cli.main([name, '-opt', 'nowhere.yml']) == 2
    assert 'nowhere.yml does not exist' in capsys.readouterr().err
    assert sys.argv == ['dstnet']
    assert not list(tmp_path.iterdir())


def test_broken_basicsr_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, 'basicsr.train', None)
    assert cli.main(['train']) == 2
    assert 'BasicSR cannot be imported' in capsys.readouterr().err
