"""Checkpoints and resuming, also after a kill between saving, validation and the next step.

tests/soak kills real processes.
"""

from __future__ import annotations

import copy
import json
import os
import random
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from basicsr.data import build_dataset
from basicsr.utils import scandir
from model_parts import Clips, assert_equal, loader, logged, make_model, train, train_options, weights
from soak.project import make_videos

from dstnet_arch.errors import CheckpointError
from dstnet_arch.files import atomic_file
from dstnet_arch.models.checkpoints import ResumableRng, save_checkpoint
from dstnet_arch.models.distributed import Ranks, choose_kernels
from dstnet_arch.ops import native


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


def saved_run(root: Path, iterations: int, **changes: Any) -> Any:
    """A model trained and saved for some iterations."""
    model = make_model(train_options(root, **changes))
    train(model, range(1, iterations + 1))
    model.save(0, iterations)
    return model


# ---- saving


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
    assert len(state['optimizers']) == len(state['schedulers']) == 1


def test_save_checkpoint_removes_remains_of_a_killed_run(tmp_path: Path) -> None:
    with atomic_file(tmp_path / '7.state') as file:
        half_written = Path(file.name)
        assert files(tmp_path) == [half_written.name]
    (tmp_path / '7.state').rename(half_written)  # as a kill leaves it
    assert list(scandir(str(tmp_path), suffix='state')) == []
    save_checkpoint({'iter': 8}, tmp_path / '8.state')
    assert files(tmp_path) == ['8.state']


def test_save_reports_a_full_disk_and_keeps_earlier_files(tmp_path: Path) -> None:
    resource = pytest.importorskip('resource')  # POSIX only
    model = saved_run(tmp_path, 1)
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


# ---- resuming


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
    def model(iteration: int | None = None) -> Any:
        own = copy.deepcopy(settings)
        opt = train_options(tmp_path, **own) if iteration is None else resume_options(tmp_path, iteration, **own)
        opt['network_g'].update(dropout=0.3, norm=True)
        return make_model(opt, seed=iteration or 0)

    whole = model()
    train(whole, range(1, 4))
    whole.save(0, 3)
    torch.rand(1)  # the loader draws a seed for the next epoch
    train(whole, range(4, 7))

    second = model(3)
    second.resume_training(read_state(tmp_path, 3))
    torch.rand(7)  # BasicSR makes the data loader here, which draws a seed
    train(second, range(4, 7))

    assert_equal(weights(second.net_g), weights(whole.net_g))
    assert second.get_current_learning_rate() == whole.get_current_learning_rate()
    assert second.training.scaler.state_dict() == whole.training.scaler.state_dict()
    if settings.get('ema_decay'):
        assert_equal(weights(second.net_g_ema), weights(whole.net_g_ema))
        assert not torch.equal(second.net_g_ema.first.weight, second.net_g.first.weight)


def draw() -> list[float]:
    """Numbers of all generators."""
    gauss = np.random.normal()  # noqa: NPY002
    return [random.random(), random.gauss(0, 1), gauss, np.random.random(), torch.rand(()).item()]  # noqa: NPY002


def test_all_generators_continue_from_a_checkpoint(tmp_path: Path) -> None:
    model = saved_run(tmp_path, 1)
    expected = draw()  # by a data set without processes of its own
    train(model, range(2, 3))  # seeds PyTorch's generators only
    assert not set(expected[:-1]) & set(draw()[:-1])
    opt = resume_options(tmp_path, 1)
    opt['manual_seed'] = 7  # as drawn by BasicSR for `manual_seed: ~`
    resumed = make_model(opt)
    draw()  # leaves half a pair of Gaussian numbers in the generators
    resumed.resume_training(read_state(tmp_path, 1))
    assert draw() == expected
    other_rank = ResumableRng(0, rank=1)
    other_rank.at_checkpoint(1)
    assert not set(expected) & set(draw())


def test_resume_takes_settings_from_the_options_and_logs_changes(tmp_path: Path) -> None:
    model = saved_run(tmp_path, 3)
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
    saved_run(tmp_path, 1)
    opt = train_options(tmp_path, **changes)
    opt['network_g'].update(network)
    with pytest.raises(CheckpointError, match=message):
        make_model(opt).resume_training(read_state(tmp_path, 1))


@pytest.mark.parametrize(
    'change',
    [
        lambda state: state.update(optimizers=None),
        lambda state: state.update(seed='x'),
        lambda state: state['schedulers'][0].pop('last_epoch'),
        # Of these, PyTorch's kernel would read beyond the end.
        lambda state: state['optimizers'][0]['state'][0].update(exp_avg=torch.zeros(2)),
        lambda state: state['optimizers'][0]['state'][0].update(exp_avg_sq=torch.zeros(())),
    ],
)
def test_resume_refuses_malformed_states(tmp_path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    saved_run(tmp_path, 1)
    state = read_state(tmp_path, 1)
    change(state)
    with pytest.raises(CheckpointError, match='The training state does not fit the options'):
        make_model(train_options(tmp_path)).resume_training(state)


def test_resume_accepts_states_of_stock_basicsr(tmp_path: Path) -> None:
    model = saved_run(tmp_path, 3)
    state = {key: read_state(tmp_path, 3)[key] for key in ('epoch', 'iter', 'optimizers', 'schedulers')}
    resumed = make_model(train_options(tmp_path))
    resumed.resume_training(state)
    assert resumed.get_current_learning_rate() == model.get_current_learning_rate()


def test_ema_can_start_with_a_resumed_run(tmp_path: Path) -> None:
    model = saved_run(tmp_path, 2)
    with pytest.warns(UserWarning, match='has no params_ema'):
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
    scores = tmp_path / 'experiments/tiny/scores'
    assert json.loads((scores / 'val_2_summary.json').read_text())['iteration'] == 2
    for i, damaged in enumerate(['[]', '{"mean_over_frames": {"restored": "x"}}', '{"metrics": 1}']):
        (scores / f'damaged_{i}_summary.json').write_text(damaged)
    resumed = make_model(resume_options(tmp_path, 2))
    resumed.resume_training(read_state(tmp_path, 2))
    assert resumed.best_metric_results == best

    opt = resume_options(tmp_path, 2)
    del opt['val']['metrics']['ssim']
    resumed = make_model(opt)
    resumed.resume_training(read_state(tmp_path, 2))
    assert not hasattr(resumed, 'best_metric_results')


# ---- validations that a kill has interrupted


@pytest.fixture
def validated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Make models that validate every second iteration: `validated()`, or resumed: `validated(2)`."""
    make_videos(tmp_path / 'data', num_video=1, num_frame=3, size=(16, 16))
    data = {'dataroot_lq': str(tmp_path / 'data/blurry'), 'dataroot_gt': str(tmp_path / 'data/sharp')}

    def make(iteration: int | None = None) -> Any:
        opt = train_options(tmp_path) if iteration is None else resume_options(tmp_path, iteration)
        opt['val']['val_freq'] = 2
        opt['datasets'] = {'val': {'name': 'set', 'type': 'VideoRecurrentDeblurTestDataset', 'phase': 'val', **data}}
        model = make_model(opt)
        if iteration is not None:
            model.resume_training(read_state(tmp_path, iteration))
        return model

    return make


def validate(model: Any) -> None:
    model.validation(loader(build_dataset(model.opt['datasets']['val'])), 2, None)


def test_resume_runs_the_missed_validation(tmp_path: Path, validated: Callable[..., Any]) -> None:
    model = validated()
    train(model, range(1, 3))
    model.save(0, 2)
    resumed = validated(2)
    summary = tmp_path / 'experiments/tiny/scores/set_2_summary.json'
    repeated = summary.read_bytes()
    validate(model)
    assert summary.read_bytes() == repeated
    assert resumed.best_metric_results == model.best_metric_results
    assert set(model.best_metric_results) == {'set'}

    time = summary.stat().st_mtime_ns
    assert validated(2).best_metric_results == model.best_metric_results
    assert summary.stat().st_mtime_ns == time  # an existing one is not repeated

    train(model, range(3, 4))
    model.save(0, 3)
    validated(3)
    assert not summary.with_name('set_3_summary.json').exists()  # none was due


def test_interrupted_repetition_of_a_validation_is_repeated(
    tmp_path: Path, validated: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = validated()
    train(model, range(1, 3))
    model.save(0, 2)
    validate(model)
    summary = tmp_path / 'experiments/tiny/scores/set_2_summary.json'
    expected = summary.read_bytes()

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    # The run has continued from an earlier checkpoint and is killed in the second validation of the iteration.
    monkeypatch.setattr(model.validator, 'report', killed)
    with pytest.raises(KeyboardInterrupt):
        validate(model)
    assert not summary.exists()
    validated(2)
    assert summary.read_bytes() == expected


# ---- CPU kernels; ranks are tested in test_distributed.py


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Start with the compiled kernels enabled, as without a setting in the environment."""
    monkeypatch.delenv(native.VARIABLE, raising=False)
    with native.native(True):
        with warnings.catch_warnings():
            warnings.simplefilter('ignore', native.NativeWarning)
            if not native.available():
                pytest.skip('no C compiler')
        yield


@pytest.mark.parametrize('began', ['native', 'pytorch'])
@pytest.mark.parametrize('forced', [None, '0', '1', 'no compiler'])
def test_resumed_run_uses_the_kernels_it_began_with(
    tmp_path: Path, compiled: None, monkeypatch: pytest.MonkeyPatch, began: str, forced: str | None
) -> None:
    network = {'type': 'DSTNet', 'num_feat': 32, 'num_block': 1, 'num_cwgdn': 1}
    native.set_native(began == 'native')  # as DSTNET_NATIVE does at the start of a process
    model = make_model({**train_options(tmp_path), 'network_g': network})
    train(model, range(1, 3), size=1, frames=2)
    model.save(0, 2)
    train(model, range(3, 4), size=1, frames=2)

    native.set_native(forced != '0')
    if forced in ('0', '1'):
        monkeypatch.setenv(native.VARIABLE, forced)
    elif forced:
        monkeypatch.setattr(native, '_library', lambda: None)
    state = read_state(tmp_path, 2)
    resumed = make_model({**resume_options(tmp_path, 2), 'network_g': network}, seed=1)
    with logged() as lines:
        resumed.resume_training(state)
    used = {None: began, '0': 'pytorch', '1': 'native', 'no compiler': 'pytorch'}[forced]
    assert native.available() == (used == 'native')
    reason = 'they are not available' if forced == 'no compiler' else 'DSTNET_NATIVE is set'
    warned = [f'it began with ({began}), because {reason}' in line for line in lines]
    assert any(warned) is (began != used)
    train(resumed, range(3, 4), size=1, frames=2)
    for name, got in weights(resumed.net_g).items():
        tolerance = 0 if began == used else 1e-2
        torch.testing.assert_close(got, weights(model.net_g)[name], rtol=0, atol=tolerance)
    resumed.save(0, 3)
    assert read_state(tmp_path, 3)['kernels'] == used


@pytest.mark.parametrize('before', [None, [1], 'other'])
def test_states_that_do_not_name_kernels_change_nothing(compiled: None, before: Any) -> None:
    with logged() as lines:
        assert choose_kernels(Ranks(0, 1, False), torch.device('cpu'), before) == 'native'
    assert lines == []
    assert choose_kernels(Ranks(0, 1, False), torch.device('cuda')) is None
