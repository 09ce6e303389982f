"""VideoRecurrentDeblurModel: checkpoints and resuming."""

from __future__ import annotations

import copy
import json
import os
import random
import resource
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from basicsr.utils import scandir
from model_parts import Clips, assert_equal, loader, logged, make_model, train, train_options, weights

from dstnet_arch.errors import CheckpointError
from dstnet_arch.files import atomic_file
from dstnet_arch.models.checkpoints import rng_states, save_checkpoint, set_rng_states

if os.name != 'posix':
    pytest.skip('limits the size of files by a POSIX call', allow_module_level=True)


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob('*') if path.is_file())


def resume_options(root: Path, iteration: int, **changes: Any) -> dict[str, Any]:
    """Options after BasicSR's check_resume: the run's own checkpoint, key 'params'."""
    opt = train_options(root, **changes)
    opt['path']['pretrain_network_g'] = str(Path(opt['path']['models'], f'net_g_{iteration}.pth'))
    return opt


def read_state(root: Path, iteration: int) -> dict[str, Any]:
    path = train_options(root)['path']['training_states']
    return torch.load(Path(path, f'{iteration}.state'), map_location='cpu', weights_only=True)


@pytest.mark.parametrize(
    'settings',
    [
        {'ema_decay': 0.9},
        {'amp': 'fp16', 'accum_iter': 2, 'grad_clip': 0.1},
        {'optim_g': {'type': 'SGD', 'lr': 0.1, 'momentum': 0.9}},
        {
            'scheduler': {'type': 'MultiStepLR', 'milestones': [2, 5], 'gamma': 0.5},
            'optim_g': {'type': 'AdamW', 'lr': 1e-2, 'foreach': True, 'amsgrad': True},
        },
    ],
    ids=['ema', 'fp16', 'sgd', 'multistep'],
)
def test_resumed_run_equals_uninterrupted_run_bit_for_bit(tmp_path: Path, settings: dict[str, Any]) -> None:
    def options(root: Path, iteration: int | None) -> dict[str, Any]:
        own = copy.deepcopy(settings)
        opt = train_options(root, **own) if iteration is None else resume_options(root, iteration, **own)
        opt['network_g'].update(dropout=0.3, norm=True)
        return opt

    whole = make_model(options(tmp_path / 'whole', None))
    train(whole, range(1, 4))
    whole.save(0, 3)
    torch.rand(1)  # the loader draws a seed for the next epoch
    train(whole, range(4, 7))

    first = make_model(options(tmp_path / 'cut', None))
    train(first, range(1, 4))
    first.save(0, 3)
    second = make_model(options(tmp_path / 'cut', 3), seed=1)
    second.resume_training(read_state(tmp_path / 'cut', 3))
    torch.rand(7)  # BasicSR makes the data loader here, which draws a seed
    train(second, range(4, 7))

    assert_equal(weights(second.net_g), weights(whole.net_g))
    assert second.get_current_learning_rate() == whole.get_current_learning_rate()
    assert second.training.scaler.state_dict() == whole.training.scaler.state_dict()
    if settings.get('ema_decay'):
        assert_equal(weights(second.net_g_ema), weights(whole.net_g_ema))
        assert not torch.equal(second.net_g_ema.first.weight, second.net_g.first.weight)


def test_save_writes_the_files_that_stock_basicsr_expects(tmp_path: Path) -> None:
    model = make_model(train_options(tmp_path, ema_decay=0.9))
    train(model, range(1, 3))
    model.save(4, 2)
    model.save(-1, -1)
    assert files(tmp_path) == ['2.state', 'net_g_2.pth', 'net_g_latest.pth']
    saved = torch.load(tmp_path / 'experiments/tiny/models/net_g_2.pth', weights_only=True)
    assert list(saved) == ['params', 'params_ema']
    assert_equal(saved['params'], weights(model.net_g))
    assert_equal(saved['params_ema'], weights(model.net_g_ema))
    state = read_state(tmp_path, 2)
    assert (state['epoch'], state['iter'], state['precision']) == (4, 2, 'fp32')
    assert len(state['optimizers']) == len(state['schedulers']) == len(state['rng']) == 1


def test_save_checkpoint_removes_remains_of_a_killed_run(tmp_path: Path) -> None:
    with atomic_file(tmp_path / '7.state') as file:
        half_written = Path(file.name)
        assert files(tmp_path) == [half_written.name]
    (tmp_path / '7.state').rename(half_written)  # a kill -9 gives no time to tidy up
    assert list(scandir(str(tmp_path), suffix='state')) == []
    save_checkpoint({'iter': 8}, tmp_path / '8.state')
    assert files(tmp_path) == ['8.state']


def test_save_reports_a_full_disk_and_keeps_earlier_files(tmp_path: Path) -> None:
    model = make_model(train_options(tmp_path))
    train(model, range(1, 2))
    model.save(0, 1)
    before = {path: path.read_bytes() for path in tmp_path.rglob('*') if path.is_file()}
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    for limit in (10, 2000, 4000):  # in different stages of writing
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
        try:
            with pytest.raises(CheckpointError, match=r'Cannot write .*net_g_1\.pth: .*unchanged.* Free some space'):
                model.save(0, 1)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert {path: path.read_bytes() for path in tmp_path.rglob('*') if path.is_file()} == before


def test_save_writes_weights_before_the_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []
    replace = os.replace

    def note(source: str, target: Path) -> None:
        written.append(Path(target).name)
        replace(source, target)

    monkeypatch.setattr(os, 'replace', note)
    make_model(train_options(tmp_path)).save(0, 3)
    assert written == ['net_g_3.pth', '3.state']


def test_set_rng_states_restores_all_generators(tmp_path: Path) -> None:
    def draw() -> list[float]:
        gauss = np.random.normal()  # noqa: NPY002
        return [random.random(), random.gauss(0, 1), gauss, np.random.random(), torch.rand(()).item()]  # noqa: NPY002

    draw()  # leaves half a pair of Gaussian numbers in the generators
    save_checkpoint(rng_states(), tmp_path / 'rng')
    expected = draw()
    assert draw() != expected
    set_rng_states(torch.load(tmp_path / 'rng', weights_only=True))
    assert draw() == expected


def test_resume_takes_settings_from_the_options_and_logs_changes(tmp_path: Path) -> None:
    model = make_model(train_options(tmp_path))
    train(model, range(1, 4))
    model.save(0, 3)
    opt = resume_options(tmp_path, 3)
    opt['train']['optim_g']['weight_decay'] = 0.5
    opt['train']['scheduler']['periods'] = [1000]
    opt['train']['precision'] = 'bf16'
    resumed = make_model(opt)
    with logged() as lines:
        resumed.resume_training(read_state(tmp_path, 3))
    assert lines == [
        'train:optim_g:weight_decay was 0.0001; the resumed run uses 0.5.',
        'train:scheduler:cumulative_period was [10]; the resumed run uses [1000].',
        'train:scheduler:periods was [10]; the resumed run uses [1000].',
        'train:precision was fp32; the resumed run uses bf16 (bfloat16 autocast).',
    ]
    assert resumed.get_current_learning_rate() == model.get_current_learning_rate()
    train(resumed, range(4, 5))
    assert resumed.optimizer_g.param_groups[0]['weight_decay'] == 0.5
    assert resumed.get_current_learning_rate()[0] == pytest.approx(1e-2, rel=1e-3)  # early in the longer schedule


@pytest.mark.parametrize(
    ('changes', 'network', 'message'),
    [
        ({'optim_g': {'type': 'SGD', 'lr': 0.1}}, {}, 'it uses AdamW, Cosine.*, the options SGD, Cosine'),
        ({'scheduler': {'type': 'MultiStepLR', 'milestones': [2]}}, {}, 'AnnealingRestartLR, the options .*MultiStep'),
        ({}, {'norm': True}, "doesn't match the size"),
    ],
    ids=['optimizer', 'scheduler', 'network'],
)
def test_resume_refuses_the_state_of_another_run(
    tmp_path: Path, changes: dict[str, Any], network: dict[str, Any], message: str
) -> None:
    model = make_model(train_options(tmp_path))
    train(model, range(1, 2))
    model.save(0, 1)
    opt = train_options(tmp_path, **changes)
    opt['network_g'].update(network)
    with pytest.raises(CheckpointError, match=message):
        make_model(opt).resume_training(read_state(tmp_path, 1))


def test_resume_refuses_malformed_states(tmp_path: Path) -> None:
    model = make_model(train_options(tmp_path))
    train(model, range(1, 2))
    model.save(0, 1)
    for change in (
        lambda state: state.update(optimizers=None),
        lambda state: state.update(rng=[{'python': 1}]),
        lambda state: state['schedulers'][0].pop('last_epoch'),
        # Of these, PyTorch's kernel would read beyond the end.
        lambda state: state['optimizers'][0]['state'][0].update(exp_avg=torch.zeros(2)),
        lambda state: state['optimizers'][0]['state'][0].update(exp_avg_sq=torch.zeros(())),
    ):
        state = read_state(tmp_path, 1)
        change(state)
        with pytest.raises(CheckpointError, match='The training state does not fit the options'):
            make_model(train_options(tmp_path)).resume_training(state)


@pytest.mark.parametrize('summary', ['[]', '{"mean_over_frames": {"restored": "x"}}', '{"metrics": 1}'])
def test_resume_skips_damaged_summaries(tmp_path: Path, summary: str) -> None:
    model = make_model(train_options(tmp_path))
    train(model, range(1, 2))
    model.save(0, 1)
    folder = tmp_path / 'experiments/tiny/scores'
    folder.mkdir()
    (folder / 'val_1_summary.json').write_text(summary)
    make_model(resume_options(tmp_path, 1)).resume_training(read_state(tmp_path, 1))


def test_resume_accepts_states_of_stock_basicsr(tmp_path: Path) -> None:
    model = make_model(train_options(tmp_path))
    train(model, range(1, 4))
    state = {
        'epoch': 0,
        'iter': 3,
        'optimizers': [model.optimizer_g.state_dict()],
        'schedulers': [model.schedulers[0].state_dict()],
    }
    resumed = make_model(train_options(tmp_path))
    with logged() as lines:
        resumed.resume_training(state)
    assert any('random generators of 0 processes' in line for line in lines)
    assert resumed.get_current_learning_rate() == model.get_current_learning_rate()


def test_ema_can_start_with_a_resumed_run(tmp_path: Path) -> None:
    model = make_model(train_options(tmp_path))
    train(model, range(1, 3))
    model.save(0, 2)
    resumed = make_model(resume_options(tmp_path, 2, ema_decay=0.9))
    resumed.resume_training(read_state(tmp_path, 2))
    assert_equal(weights(resumed.net_g_ema), weights(model.net_g))


def test_resume_reads_best_scores_until_its_iteration(tmp_path: Path) -> None:
    model = make_model(train_options(tmp_path))
    clips = Clips('val', {'a': 3})
    for i in (1, 2, 3):
        train(model, range(i, i + 1))
        model.save(0, i)  # BasicSR saves an iteration first, and validates it then
        model.validation(loader(clips), i, None)
        if i == 2:
            best = copy.deepcopy(model.best_metric_results)
    summary = tmp_path / 'experiments/tiny/scores/val_2_summary.json'
    assert json.loads(summary.read_text())['iteration'] == 2
    resumed = make_model(resume_options(tmp_path, 2))
    resumed.resume_training(read_state(tmp_path, 2))
    assert resumed.best_metric_results == best
    assert {record['iter'] for record in resumed.best_metric_results['val'].values()} <= {1, 2}

    opt = resume_options(tmp_path, 2)
    del opt['val']['metrics']['ssim']
    resumed = make_model(opt)
    resumed.resume_training(read_state(tmp_path, 2))
    assert not hasattr(resumed, 'best_metric_results')
