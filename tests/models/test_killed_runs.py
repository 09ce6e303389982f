"""Resuming after a kill between saving, validation and the next step; tests/soak kills real processes."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from basicsr.data import build_dataset
from model_parts import loader, make_model, train, train_options
from soak.project import make_videos

from dstnet_arch.models.video_recurrent_deblur_model import VideoRecurrentDeblurModel


def _options(root: Path, resume_from: int | None = None) -> dict[str, Any]:
    opt = train_options(root)
    opt['network_g']['dropout'] = 0.3
    opt['val']['val_freq'] = 2
    data = {'dataroot_lq': str(root / 'data/blurry'), 'dataroot_gt': str(root / 'data/sharp')}
    opt['datasets'] = {'val': {'name': 'set', 'type': 'VideoRecurrentDeblurTestDataset', 'phase': 'val', **data}}
    if resume_from is not None:
        opt['path']['pretrain_network_g'] = str(Path(opt['path']['models'], f'net_g_{resume_from}.pth'))
    return opt


def _resume(root: Path, iteration: int) -> VideoRecurrentDeblurModel:
    opt = _options(root, iteration)
    state = torch.load(Path(opt['path']['training_states'], f'{iteration}.state'), weights_only=True)
    model = make_model(opt, seed=1)
    model.resume_training(state)
    return model


def test_save_does_not_reset_the_generators_of_the_data(tmp_path: Path) -> None:
    model = make_model(_options(tmp_path))
    train(model, range(1, 2))
    model.save(0, 1)
    drawn = random.random(), np.random.random()  # noqa: NPY002 - by a data set without processes of its own
    train(model, range(2, 3))
    assert drawn != (random.random(), np.random.random())  # noqa: NPY002


def test_interrupted_repetition_of_a_validation_is_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_videos(tmp_path / 'data', num_video=1, num_frame=3, size=(16, 16))
    opt = _options(tmp_path)
    model = make_model(opt)
    train(model, range(1, 3))
    model.save(0, 2)
    data = loader(build_dataset(opt['datasets']['val']))
    model.validation(data, 2, None)
    summary = tmp_path / 'experiments/tiny/scores/set_2_summary.json'
    expected = summary.read_bytes()

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    # The run has continued from an earlier checkpoint and is killed in the second validation of the iteration.
    monkeypatch.setattr(model.validator, 'report', killed)
    with pytest.raises(KeyboardInterrupt):
        model.validation(data, 2, None)
    assert not summary.exists()
    _resume(tmp_path, 2)
    assert summary.read_bytes() == expected


def test_resume_runs_the_missed_validation(tmp_path: Path) -> None:
    make_videos(tmp_path / 'data', num_video=1, num_frame=3, size=(16, 16))
    opt = _options(tmp_path)
    model = make_model(opt)
    train(model, range(1, 3))
    model.save(0, 2)
    resumed = _resume(tmp_path, 2)
    summary = tmp_path / 'experiments/tiny/scores/set_2_summary.json'
    made_up = summary.read_bytes()

    model.validation(loader(build_dataset(opt['datasets']['val'])), 2, None)
    assert summary.read_bytes() == made_up
    assert resumed.best_metric_results == model.best_metric_results
    assert set(model.best_metric_results) == {'set'}

    time = summary.stat().st_mtime_ns
    assert _resume(tmp_path, 2).best_metric_results == model.best_metric_results
    assert summary.stat().st_mtime_ns == time  # what is there is not made again

    train(model, range(3, 4))
    model.save(0, 3)
    _resume(tmp_path, 3)
    assert not summary.with_name('set_3_summary.json').exists()  # none was due
