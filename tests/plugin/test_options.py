"""The options files, the check of options, and the reference page that is made from the same descriptions."""

from __future__ import annotations

import copy
import inspect
import random
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

import lmdb
import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from prep_parts import put

from dstnet_arch.archs.propagation import BOUNDARIES
from dstnet_arch.errors import OptionsError
from dstnet_arch.losses.frequency_loss import FORMS, REDUCTIONS
from dstnet_arch.metrics.protocols import PROTOCOLS
from dstnet_arch.plugin import options_family
from dstnet_arch.plugin.options import read_options
from dstnet_arch.plugin.options_family import family, with_values
from dstnet_arch.plugin.options_page import reference_page
from dstnet_arch.plugin.options_schema import check_options, targets
from dstnet_arch.plugin.options_sections import LossArguments, NetworkArguments, Val, allowed, argument_texts
from dstnet_arch.plugin.registration import names

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / 'options').rglob('*.yml'))
GOPRO = ROOT / 'options/train_DSTNet_GoPro.yml'
GOPRO_TEST = ROOT / 'options/test_DSTNet_GoPro.yml'
GOPRO_OPTIONS = read_options(GOPRO)

# Parameters of the network of each file, by the beginning of its name after train_ or test_; the longest that fits.
# The counts of DSTNet, DSTNet-L and DSTNet+ are the papers', which are of released files, where the fixed Haar filters
# (16 numbers a channel) stand among the parameters.
PARAMETERS = {
    'DSTNet_': 7_450_819 - 1_024,
    'DSTNet-L_': 16_965_027 - 1_024,
    'DSTNetPlus_': 3_903_811 - 1_024,
    'DSTNetPlus-L_': 14_088_675 - 1_536,
    'DSTNet_ablation_spatial-gmlp': 4_434_435,
    'DSTNet_ablation_spatial-none': 3_673_155,
    'DSTNet_ablation_fusion-none': 7_154_499,
    'DSTNet_ablation_pixel_filter-false': 6_488_643,
    'DSTNet_ablation_propagation-none': 3_830_083,
    'DSTNet_ablation_propagation-bilinear': 7_424_835,
    'DSTNet_sample': 230_803,
    'BasicVSRPP_': 9_760_175,
    'EDVR_': 23_602_019,
}


def set_at(opt: dict[str, Any], path: str, value: Any) -> None:
    *sections, key = path.split(':')
    for section in sections:
        opt = opt[section]
    opt[key] = value


def get_at(opt: dict[str, Any], path: str) -> Any:
    for key in path.split(':'):
        opt = opt[key]
    return opt


def gopro(changes: dict[str, Any] | None = None) -> dict[str, Any]:
    opt = copy.deepcopy(GOPRO_OPTIONS)
    for path, value in (changes or {}).items():
        set_at(opt, path, value)
    return opt


def problems(opt: dict[str, Any], is_train: bool = True, check_paths: bool = False) -> list[str]:
    """The lines of the error, one a problem."""
    try:
        check_options(opt, is_train, check_paths=check_paths)
    except OptionsError as error:
        return [line.strip() for line in str(error).splitlines()[1:-1]]
    return []


def paths_of(opt: dict[str, Any], prefix: str = '') -> Iterator[str]:
    for key, value in opt.items():
        yield f'{prefix}{key}'
        if isinstance(value, dict):
            yield from paths_of(value, f'{prefix}{key}:')


# The options files


@cache
def parameters(network: str) -> int:
    """How many a network has that is given as YAML."""
    arguments = yaml.safe_load(network)
    with torch.device('meta'):
        net = targets('arch')[arguments.pop('type')](**arguments)
    return sum(p.numel() for p in net.parameters())


def name_of(file: Path) -> str:
    return file.stem.partition('_')[2]


@pytest.mark.parametrize('file', FILES, ids=lambda file: file.stem)
def test_file_is_right_and_builds_its_network(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opt = read_options(file)
    given = copy.deepcopy(opt)
    check_options(opt, file.name.startswith('train'), check_paths=False)
    opt['datasets'].get('train', {}).pop('manual_seed', None)
    assert opt == given, 'options files hold values of the right types'
    assert opt['name'] == file.stem
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)  # else BasicVSR++ is built without its alignment
    expected = max(filter(name_of(file).startswith, PARAMETERS), key=len)
    assert parameters(yaml.safe_dump(opt['network_g'])) == PARAMETERS[expected]


def test_every_experiment_of_the_papers_has_its_files() -> None:
    data = ['GoPro', 'DVD', 'BSD1ms8ms', 'BSD2ms16ms', 'BSD3ms24ms']
    runs = [f'{model}_{name}' for model in ('DSTNet', 'DSTNetPlus', 'DSTNetPlus-L') for name in data]
    runs += ['DSTNet-L_GoPro', 'DSTNet_sample']
    assert {file.name for file in FILES if file.parent.name == 'options'} == {
        f'{run}_{name}.yml' for run in ('train', 'test') for name in runs
    }
    # The tables' rows: one full network, two rows of Table 4, three of Table 5, two of Table 6.
    assert len([file for file in FILES if file.parent.name == 'ablation']) == 2 * (1 + 2 + 3 + 2)


def test_generated_files_are_up_to_date(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    written = family(ROOT / 'options')
    by_hand = {f'{run}_DSTNet_{data}.yml' for run in ('train', 'test') for data in ('GoPro', 'sample')}
    assert set(written) | by_hand == {file.relative_to(ROOT / 'options').as_posix() for file in FILES}
    for name, text in written.items():
        committed = (ROOT / 'options' / name).read_text(encoding='utf-8')
        assert committed == text, 'python -m dstnet_arch.plugin.options_family'
    monkeypatch.chdir(ROOT)
    assert (options_family.main(), capsys.readouterr().out) == (0, ''), 'it writes nothing that is up to date'


def test_a_value_that_the_template_does_not_have_is_named() -> None:
    assert with_values('a: 1  # one\nb:\n  c: 2\n', {'b:c': '3'}) == 'a: 1  # one\nb:\n  c: 3\n'
    assert with_values('a: 1  # one\n', {'a': '2'}) == 'a: 2  # one\n'
    assert with_values('a: 1  # one\n', {'a': '2  # two'}) == 'a: 2  # two\n'
    with pytest.raises(KeyError, match='b:d'):
        with_values('a: 1\nb:\n  c: 2\n', {'b:d': '3'})


@pytest.mark.parametrize('file', [file for file in FILES if file.name.startswith('train')], ids=name_of)
def test_test_file_fits_its_train_file(file: Path) -> None:
    train = read_options(file)
    test = read_options(file.with_name(f'test_{name_of(file)}.yml'))
    assert test['network_g'] == train['network_g']
    val = train['datasets']['val']
    for key in ('dataroot_lq', 'dataroot_gt'):  # BSD has sequences for validation
        val[key] = val[key].replace('/valid_', '/test_')
    assert test['datasets']['test'] == val
    assert test['val'] | {'save_img': False} == {key: value for key, value in train['val'].items() if key != 'val_freq'}
    assert test['path']['pretrain_network_g'] == f'experiments/{train["name"]}/models/net_g_latest.pth'


@pytest.mark.parametrize('file', FILES, ids=lambda file: file.stem)
def test_heading_gives_the_commands_of_this_file(file: Path) -> None:
    from data_prep.__main__ import build_parser

    opt = read_options(file)
    run, _, name = file.stem.partition('_')
    heading = [line for line in file.read_text(encoding='utf-8').splitlines() if line.startswith('#')]
    commands = [line[line.index(start) :] for line in heading for start in ('python -m', 'torchrun') if start in line]
    own = [command for command in commands if f'basicsr.{run} ' in command]
    assert own
    assert all(f'-opt {file.relative_to(ROOT).as_posix()}' in command for command in own)
    for entry in [entry for command in own for entry in command.partition('--force_yml ')[2].split()]:
        key, _, value = entry.partition('=')
        set_at(opt, key, int(value) if value.isdigit() else value)
    assert problems(opt, run == 'train') == []
    if run == 'train':
        assert opt['datasets']['train']['batch_size_per_gpu'] == 16 or name == 'DSTNet_sample'
    if name != 'DSTNet_sample' or run == 'train':
        (data,) = [command for command in commands if 'data_prep' in command]
        made = build_parser().parse_args(data.split()[3:]).output
        assert {Path(dataset['dataroot_lq']).parent for dataset in opt['datasets'].values()} == {made}


PAPER_FILES = [file for file in FILES if file.name.startswith('train') and 'sample' not in file.name]


@pytest.mark.parametrize('file', PAPER_FILES, ids=name_of)
def test_recipe_is_the_papers(file: Path) -> None:
    """All runs differ from that of DSTNet on GoPro in what their experiments are about alone."""
    opt = read_options(file)
    iterations = 300_000 if file.parent.name == 'ablation' else 600_000
    assert opt['train']['total_iter'] == iterations
    assert opt['train']['scheduler']['periods'] == [iterations]
    assert opt['train']['grad_clip'] == (0.01 if 'Plus-L' in file.name else 0)
    assert 8 * opt['datasets']['train']['batch_size_per_gpu'] == 16
    clip_length = 25 if 'DVD' in file.name else 50 if 'Plus' in file.name and 'GoPro' in file.name else 30
    assert opt['datasets']['val']['clip_length'] == clip_length
    reference = gopro()
    free = ['name', 'network_g', 'train:total_iter', 'train:scheduler:periods', 'train:grad_clip']
    free += ['train:gradient_checkpointing'] if file.parent.name == 'peers' else []
    free += [f'datasets:train:{key}' for key in ('name', 'dataroot_lq', 'dataroot_gt')]
    free += [f'datasets:val:{key}' for key in ('name', 'dataroot_lq', 'dataroot_gt', 'clip_length')]
    for path in free:
        set_at(opt, path, None)
        set_at(reference, path, None)
    assert opt == reference


# Misspelt, missing and misplaced keys

# Names that the file's author chooses.
FREE = ('val:metrics:psnr', 'val:metrics:ssim3d', 'val:metrics:ssim')
KEYS = [path for path in paths_of(gopro()) if path not in FREE]


def misspellings(key: str) -> list[str]:
    """One letter left out, doubled, replaced, or exchanged with its neighbour."""
    at = random.Random(key).randrange(len(key))
    wrong = [
        key[:at] + key[at + 1 :],
        key[:at] + key[at] + key[at:],
        key[:at] + ('x' if key[at] != 'x' else 'y') + key[at + 1 :],
        key[:at] + key[at : at + 2][::-1] + key[at + 2 :],
    ]
    return [word for word in wrong if word and word != key]


@pytest.mark.parametrize('path', KEYS)
def test_misspelt_key_is_found_and_the_right_one_named(path: str) -> None:
    *sections, key = path.split(':')
    for wrong in misspellings(key):
        opt = gopro()
        section = get_at(opt, ':'.join(sections)) if sections else opt
        section[wrong] = section.pop(key)
        wrong_path = ':'.join([*sections, wrong])
        lines = problems(opt)
        found = [line for line in lines if line.startswith(f'{wrong_path}: ')]
        assert len(found) == 1, wrong_path
        if len(key) > 2 or wrong[0] == key[0]:  # lr written xr is like nothing
            assert f'the nearest right one is {path}.' in found[0]
        assert not [line for line in lines if line.startswith(f'{path}: missing')]


@pytest.mark.parametrize(
    'path',
    [
        'name',
        'num_gpu',
        'datasets',
        'datasets:train',
        'datasets:train:batch_size_per_gpu',
        'datasets:train:dataroot_gt',
        'datasets:train:type',
        'datasets:val:dataroot_lq',
        'network_g',
        'network_g:type',
        'path',
        'train',
        'train:total_iter',
        'train:optim_g',
        'train:optim_g:type',
        'train:optim_g:lr',
        'train:scheduler:periods',
        'train:pixel_opt:type',
        'val:val_freq',
        'val:metrics:psnr:crop_border',
        'logger',
    ],
)
def test_missing_key_is_named(path: str) -> None:
    opt = gopro()
    *sections, key = path.split(':')
    del (get_at(opt, ':'.join(sections)) if sections else opt)[key]
    assert [line for line in problems(opt) if line.startswith(f'{path}: missing')]


def test_key_in_the_wrong_section_is_sent_to_the_right_one() -> None:
    (line,) = problems(gopro({'train:val_freq': 100}))
    assert line.startswith('train:val_freq: unknown key; its place is val:val_freq')


def test_all_problems_come_in_one_message() -> None:
    opt = gopro({'train:amp_mod': 'bf16', 'train:ema_decay': 1, 'datasets:train:gt_size': 0, 'val:amp': 'half'})
    with pytest.raises(OptionsError) as error:
        check_options(opt, True, check_paths=False)
    text = str(error.value)
    assert text.startswith('The options have 4 problems:')
    for part in (
        'train:amp_mod: unknown key; the nearest right one is train:amp.',
        'train:ema_decay: 1 given; allowed: number >= 0 and < 1.',
        'datasets:train:gt_size: 0 given; allowed: whole number >= 1.',
        'val:amp: half given; allowed: none, bf16 or fp16.',
        '--force_yml',
        'docs/options.md',
    ):
        assert part in text


# Values


@pytest.mark.parametrize(
    ('path', 'text', 'value'),
    [
        ('train:optim_g:lr', '1e-4', 1e-4),
        ('train:warmup_iter', '-1', -1),
        ('val:val_freq', '5e3', 5000),
        ('train:total_iter', 300.0, 300),
        ('train:scheduler:periods', '[600000]', [600000]),
        ('train:scheduler:periods', ['6e5'], [600000]),
        ('train:amp', None, 'none'),  # --force_yml train:amp=none
        ('train:ema_decay', '.999', 0.999),
        ('val:suffix', 5, '5'),
        ('val:save_img', 'yes', True),
        ('datasets:val:dataroot_gt', 'None', None),
        ('datasets:val:clip_length', 'none', None),
        ('datasets:train:prefetch_mode', 'none', None),
        ('network_g:num_feat', '8', 8),
        ('network_g:prop_feat', '~', None),
        ('train:pixel_opt:eps', '1e-9', 1e-9),
        ('train:optim_g:amsgrad', 'true', True),
        ('val:metrics:psnr:crop_border', '4', 4),
    ],
)
def test_text_is_written_back_as_the_value_it_stands_for(path: str, text: Any, value: Any) -> None:
    opt = gopro({path: text})
    assert check_options(opt, True, check_paths=False) is opt
    assert get_at(opt, path) == value
    assert type(get_at(opt, path)) is type(value)


@pytest.mark.parametrize(
    ('path', 'value'),
    [
        ('datasets:train:num_frame', True),
        ('datasets:train:num_frame', 2.5),
        ('datasets:train:interval_list', []),
        ('datasets:train:interval_list', [0]),
        ('datasets:train:io_backend:type', 'hdf5'),
        ('datasets:train:prefetch_mode', 'cpu'),
        ('datasets:val:name', 'a/b'),
        ('name', '../elsewhere'),
        ('name', '..'),
        ('name', 'a\0b'),
        ('name', 'C:elsewhere'),
        ('val:suffix', '../x'),
        ('datasets:val:name', '..\\x'),
        ('network_g:boundary', 'reflect'),
        ('network_g:num_feat', 0),
        ('scale', 4),
        ('train:total_iter', 0),
        ('train:accum_iter', 0),
        ('train:ema_decay', 1.0),
        ('train:ema_decay', 'nan'),
        ('train:grad_clip', -1),
        ('train:optim_g:lr', 0),
        ('train:optim_g:betas', [0.9]),
        ('train:scheduler:eta_min', '1e'),
        ('train:frequency_opt:form', 'abs'),
        ('train:pixel_opt', 'CharbonnierLoss'),
        ('val:val_freq', 0),
        ('logger:print_freq', 0),
        ('dist_params:backend', 'mpi'),
        ('path', []),
    ],
)
def test_value_out_of_range_is_one_problem_that_says_what_is_allowed(path: str, value: Any) -> None:
    (line,) = problems(gopro({path: value}))
    assert line.startswith(f'{path}: ')
    assert 'given; allowed: ' in line


def test_missing_keys_that_stock_reads_directly_are_filled_in() -> None:
    opt = gopro()
    del opt['val']['save_img'], opt['logger']['use_tb_logger'], opt['train']['amp']
    check_options(opt, True, check_paths=False)
    assert opt['val']['save_img'] is False
    assert opt['logger']['use_tb_logger'] is False
    assert 'amp' not in opt['train'], 'nothing else is'


def test_train_data_get_the_seed() -> None:
    opt = check_options(gopro({'manual_seed': 7}), True, check_paths=False)
    assert opt['datasets']['train']['manual_seed'] == 7


# Combinations


@pytest.mark.parametrize(
    ('changes', 'path', 'text'),
    [
        ({'train:scheduler:periods': [300], 'train:total_iter': 301}, 'train:scheduler:periods', 'such as [301]'),
        (
            {'train:scheduler:restart_weights': [1, 1]},
            'train:scheduler:restart_weights',
            '2 values given for 1 periods',
        ),
        (
            {'train:scheduler': {'type': 'MultiStepLR', 'milestones': [1], 'restarts': [0, 5]}},
            'train:scheduler:restart_weights',
            '1 values given for 2 restarts',
        ),
        ({'num_gpu': 0, 'train:amp': 'fp16'}, 'train:amp', 'bf16'),
        ({'num_gpu': 0, 'val:amp': 'fp16'}, 'val:amp', 'bf16'),
        ({'num_gpu': 0, 'datasets:train:prefetch_mode': 'cuda'}, 'datasets:train:prefetch_mode', 'CPU'),
        ({'datasets:train:num_worker_per_gpu': 0}, 'datasets:train:persistent_workers', 'allowed there: false'),
        ({'train:accum_iter': 3}, 'train:accum_iter', 'a divisor'),
        ({'train:pixel_opt': None, 'train:frequency_opt': None}, 'train', 'no loss given'),
        ({'logger:use_tb_logger': False, 'logger:wandb:project': 'x'}, 'logger:use_tb_logger', 'wandb'),
        ({'val:metrics:ssim3d:test_y_channel': True}, 'val:metrics:ssim3d:test_y_channel', 'false'),
        ({'datasets:val_2': gopro()['datasets']['val']}, 'datasets:val_2:name', 'another name'),
        ({'datasets:test': gopro()['datasets']['val']}, 'datasets:test', 'not for training'),
        (
            {'network_g': {'type': 'BasicVSRPlusPlus', 'is_low_res_input': False}, 'datasets:train:gt_size': 128},
            'datasets:train:gt_size',
            'multiples of 4 from 256 on',
        ),
        ({'path:param_key_g': 'param_ema'}, 'path:param_key_g', 'the nearest right one is params_ema'),
        ({'num_gpu': 0, 'datasets:train:batch_size_per_gpu': 2, 'train:accum_iter': 4}, 'train:accum_iter', 'of 2'),
        (
            {'datasets:train:type': 'VideoRecurrentDeblurTestDataset'},
            'datasets:train:type',
            'VideoRecurrentDeblurDataset',
        ),
        ({'datasets:train:type': 'VideoDeblurTrainDatase'}, 'datasets:train:type', 'VideoRecurrentDeblurDataset'),
        ({'model_type': 'VideoDeblurModle'}, 'model_type', 'VideoRecurrentDeblurModel'),
        ({'network_g:type': 'DSTNett'}, 'network_g:type', 'DSTNet'),
        ({'train:optim_g:type': 'Adamw'}, 'train:optim_g:type', 'AdamW'),
        ({'train:optim_g:type': 'LBFGS'}, 'train:optim_g:type', 'no registered optimizer'),
        ({'train:optim_g:momentum': 0.9}, 'train:optim_g:momentum', 'unknown key'),
        ({'train:scheduler:type': 'CosineRestartLR'}, 'train:scheduler:type', 'CosineAnnealingRestartLR'),
        ({'val:metrics:psnr:type': 'calculate_psn'}, 'val:metrics:psnr:type', 'calculate_psnr'),
        ({'num_gpu': torch.cuda.device_count() + 1}, 'num_gpu', 'PyTorch sees'),
    ],
)
def test_impossible_combination_is_refused(changes: dict[str, Any], path: str, text: str) -> None:
    found = [line for line in problems(gopro(changes)) if line.startswith(f'{path}: ')]
    assert len(found) == 1
    assert text in found[0]


@pytest.mark.parametrize(
    'changes',
    [
        {'train:scheduler:periods': [400000, 300000], 'train:scheduler:restart_weights': [1, 0.5]},
        {'train:scheduler': {'type': 'MultiStepLR', 'milestones': [300000], 'gamma': 0.5}},
        {'train:optim_g': {'type': 'SGD', 'lr': 0.1, 'momentum': 0.9, 'nesterov': True}},
        pytest.param(
            {'train:optim_g': {'type': 'Adafactor', 'lr': 0.01, 'eps': [1e-30, 1e-3]}},
            marks=pytest.mark.skipif(not hasattr(torch.optim, 'Adafactor'), reason='PyTorch has it from 2.5 on'),
        ),
        {'train:frequency_opt': None},
        {'train:pixel_opt': {'type': 'L1Loss'}},
        {'path:param_key_g': 'weights_of_my_own'},
        {'train:accum_iter': 8, 'datasets:train:batch_size_per_gpu': 16},
        {'val': None},
        {'val:metrics': None},
        {'val:metrics:psnr:better': 'higher'},
        {'datasets:val': {'name': 'other', 'type': 'PairedImageDataset', 'anything': 1}},
        {'num_gpu': 0, 'train:amp': 'bf16'},
    ],
)
def test_possible_combination_is_let_through(changes: dict[str, Any]) -> None:
    assert problems(gopro(changes)) == []


def test_keys_that_basicsr_adds_are_let_through() -> None:
    added = dict.fromkeys(('dist', 'rank', 'world_size', 'auto_resume', 'is_train', 'root_path'))
    added |= {f'path:{key}': 'x' for key in ('experiments_root', 'models', 'training_states', 'log', 'visualization')}
    added |= {'datasets:train:phase': 'train', 'datasets:train:scale': 1, 'datasets:val:phase': 'val'}
    assert problems(gopro(added)) == []


def test_test_run_wants_test_data_and_no_training_section() -> None:
    test = read_options(GOPRO_TEST)
    assert problems(test, is_train=False) == []
    del test['val']
    assert [line.split(';')[0] for line in problems(test, is_train=False)] == ['val: missing']
    assert 'datasets:train: not for a test' in problems(gopro(), is_train=False)[0]


def test_other_peoples_models_are_checked_for_our_data_only() -> None:
    opt = gopro({'model_type': 'VideoRecurrentModel', 'train:fix_flow': 100, 'network_g:whatever': 1})
    assert problems(opt) == []
    opt['datasets']['train']['gt_sizes'] = 64
    (line,) = problems(opt)
    assert line.startswith('datasets:train:gt_sizes: unknown key')


class ForeignNet(torch.nn.Module):
    def __init__(self, width: int, depth: int = 3) -> None:
        super().__init__()


def test_other_peoples_networks_keep_their_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    from basicsr.utils.registry import ARCH_REGISTRY

    monkeypatch.setitem(ARCH_REGISTRY._obj_map, 'ForeignNet', ForeignNet)
    assert problems(gopro({'network_g': {'type': 'ForeignNet', 'width': 'any', 'depth': '3'}})) == []
    found = problems(gopro({'network_g': {'type': 'ForeignNet', 'dept': 3}}))
    assert [line.split(';')[0] for line in found] == ['network_g:dept: unknown key', 'network_g:width: missing']
    stock = {'type': 'BasicVSRPlusPlus', 'mid_channels': 64, 'num_blocks': 7, 'is_low_res_input': False}
    assert problems(gopro({'network_g': stock})) == []


@pytest.mark.parametrize(
    ('path', 'value', 'text'),
    [
        ('network_g:network:num_feats', 64, 'the nearest right one is network_g:network:num_feat.'),
        ('network_g:network:num_feat', 0, '0 given; allowed: whole number >= 1.'),
        ('network_g:network:type', 'EDRV', 'the nearest right one is EDVR.'),
        ('network_g:network', {'num_feat': 64}, ''),
        ('network_g:network', 'EDVR', 'allowed: a section'),
        ('network_g:ends', 'circle', 'allowed: reflect or replicate.'),
    ],
)
def test_networks_inside_networks_are_checked(path: str, value: Any, text: str) -> None:
    opt = read_options(ROOT / 'options/peers/train_EDVR_GoPro.yml')
    assert problems(opt) == []
    set_at(opt, path, value)
    found = [line for line in problems(opt) if line.startswith(path)]
    assert found
    assert text in found[0]


def test_argument_of_another_network_is_not_sent_to_where_it_stands() -> None:
    for network, argument in (('DSTNet', 'size_multiple'), ('DSTNetPlus', 'num_cwgdn'), ('DSTNetPlus', 'boundary')):
        (line,) = problems(gopro({'network_g': {'type': network, argument: 1}}))
        assert line.startswith(f'network_g:{argument}: unknown key; ')
        assert 'its place' not in line


# What is there


def make_lmdb(path: Path, clips: dict[str, int], size: tuple[int, int] = (256, 320)) -> None:
    """An LMDB whose frames are of this size (height, width), as its `meta_info.txt` says; the check reads no frame."""
    keys = [f'{clip}/{i:06d}' for clip, length in clips.items() for i in range(length)]
    path.mkdir(parents=True)
    with lmdb.open(str(path)) as env, env.begin(write=True) as transaction:
        for key in keys:
            transaction.put(key.encode(), b'x')
    (path / 'meta_info.txt').write_text(''.join(f'{key}.png ({size[0]},{size[1]},3) 1\n' for key in keys))


def make_gopro(root: Path, clips: Mapping[str, int] = MappingProxyType({'a': 30}), **size: tuple[int, int]) -> None:
    for split in ('train_blur', 'train_sharp', 'test_blur', 'test_sharp'):
        make_lmdb(root / f'datasets/GoPro/{split}.lmdb', dict(clips), **size)


def save_weights(path: Path) -> None:
    torch.save({'params': {'weight': torch.zeros(1)}}, path)


@pytest.mark.parametrize(
    ('changes', 'path', 'text'),
    [
        ({'datasets:train:gt_size': 258}, 'gt_size', '258 given, but frames of a in datasets/GoPro/train_blur.lmdb'),
        ({'datasets:train:gt_size': 258}, 'gt_size', 'have a side of 256; allowed: at most 256'),
        ({'datasets:train:num_frame': 21}, 'num_frame', '21 given, which takes 21 frames at interval 1, but b in'),
        ({'datasets:train:num_frame': 21}, 'num_frame', 'has 20; allowed: at most 20'),
        ({'datasets:train:num_frame': 15, 'datasets:train:interval_list': [3, 2]}, 'num_frame', 'at most 10'),
        ({'datasets:train:num_frame': 15, 'datasets:train:interval_list': [1, 3]}, 'interval_list', 'at most 2'),
    ],
)
def test_crops_and_clips_must_fit_into_the_videos(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], path: str, text: str
) -> None:
    monkeypatch.chdir(tmp_path)
    make_gopro(tmp_path, {'a': 30, 'b': 20})
    assert problems(gopro(), check_paths=True) == []
    (line,) = problems(gopro(changes), check_paths=True)
    assert line.startswith(f'datasets:train:{path}: ')
    assert text in line
    assert problems(gopro(changes), check_paths=False) == []


def test_folders_of_pictures_are_looked_at_as_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    make_gopro(tmp_path)
    for side in ('blur', 'sharp'):
        for i in range(15):
            put(tmp_path / f'{side}/clip/{i}.png', size=(40, 48))
    roots = {'datasets:train:dataroot_lq': 'blur', 'datasets:train:dataroot_gt': 'sharp'}
    assert problems(gopro({**roots, 'datasets:train:gt_size': 40}), check_paths=True) == []
    (line,) = problems(gopro({**roots, 'datasets:train:gt_size': 41}), check_paths=True)
    assert 'frames of clip in blur have a side of 40' in line
    (line,) = problems(gopro({**roots, 'datasets:train:gt_size': 40, 'datasets:train:num_frame': 16}), check_paths=True)
    assert 'clip in blur has 15; allowed: at most 15' in line
    (line,) = problems(gopro({**roots, 'datasets:train:io_backend:type': 'lmdb'}), check_paths=True)[:1]
    assert line.startswith('datasets:train:dataroot_lq: blur has no meta_info.txt')


def test_damaged_data_are_named_with_their_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    make_gopro(tmp_path)
    (tmp_path / 'datasets/GoPro/train_sharp.lmdb/meta_info.txt').write_text('../../x.png (1,1,3)\n')
    (tmp_path / 'datasets/GoPro/test_blur.lmdb/data.mdb').write_bytes(b'nothing')
    found = problems(gopro(), check_paths=True)
    assert [line.split(': ')[0] for line in found] == ['datasets:train:dataroot_gt', 'datasets:val:dataroot_lq']
    assert 'line 1' in found[0]


def test_weights_that_cannot_be_read_are_named_before_anything_is_created(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """BasicSR moves an earlier run of that name away before the weights are loaded."""
    monkeypatch.chdir(tmp_path)
    make_gopro(tmp_path)
    (tmp_path / 'x.pth').write_bytes(b'no weights')
    weights = {'path:pretrain_network_g': 'x.pth'}
    (line,) = problems(gopro(weights), check_paths=True)
    assert line.startswith('path:pretrain_network_g: x.pth is not a checkpoint, or holds more than tensors')
    assert problems(gopro(weights), check_paths=False) == []


@pytest.mark.parametrize(
    ('metric', 'border', 'least'), [('calculate_ssim', 0, 11), ('calculate_ssim', 2, 15), ('calculate_psnr', 6, 13)]
)
def test_scores_that_frames_are_too_small_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, metric: str, border: int, least: int
) -> None:
    monkeypatch.chdir(tmp_path)
    make_gopro(tmp_path, size=(256, 320))
    for side in ('blur', 'sharp'):
        put(tmp_path / f'{side}/clip/0.png', size=(least - 1, 40))
    roots = {'datasets:val:dataroot_lq': 'blur', 'datasets:val:dataroot_gt': 'sharp'}
    metrics = {'val:metrics': {'score': {'type': metric, 'crop_border': border}}}
    (line,) = problems(gopro({**roots, **metrics}), check_paths=True)
    assert f'{metric} given, which wants sides of {least} pixels or more' in line
    assert f'frames of clip in sharp have one of {least - 1};' in line
    metrics['val:metrics']['score']['crop_border'] = border - 1 if border else 0
    metrics['val:metrics']['score']['type'] = 'calculate_psnr'
    assert problems(gopro({**roots, **metrics}), check_paths=True) == []
    metrics['val:metrics']['score'] = {'type': metric, 'crop_border': border}
    roots['datasets:val:dataroot_gt'] = None  # type: ignore[assignment] # nothing is scored
    assert problems(gopro({**roots, **metrics}), check_paths=True) == []


@pytest.mark.parametrize(
    ('path', 'value', 'text'),
    [
        ('name', 'é' * 101, 'at most 200 bytes'),
        ('datasets:val:name', 'x' * 201, 'at most 200 bytes'),
        ('datasets:train:num_worker_per_gpu', 1001, 'whole number >= 0 and <= 1000'),
        ('datasets:train:batch_size_per_gpu', 10**12, 'whole number >= 1 and <= 10000'),
        ('datasets:train:dataroot_gt', 'datasets/GoPro/./train_blur.lmdb', 'the same as dataroot_lq given'),
        ('val:metrics', {5: {'type': 'calculate_psnr', 'crop_border': 0}}, '5 given as a name; allowed: text'),
        ('val:metrics', {'a\nb': {'type': 'calculate_psnr', 'crop_border': 0}}, 'allowed: text in one line'),
        ('network_g', {'type': 'EDVR'}, 'EDVR given, which does not make a clip of a clip; allowed: a network that'),
        ('network_g', {'type': 'RRDBNet', 'num_in_ch': 3, 'num_out_ch': 3}, '{type: SlidingWindow, num_frame: …'),
    ],
)
def test_what_would_fail_late_or_deep_inside_is_named(path: str, value: Any, text: str) -> None:
    (line,) = problems(gopro({path: value}))
    assert line.startswith(path)
    assert text in line


def test_a_path_from_the_home_folder_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv('HOME', str(tmp_path))
    make_gopro(tmp_path)
    save_weights(tmp_path / 'weights.pth')
    roots = {
        f'datasets:{phase}:dataroot_{key}': f'~/datasets/GoPro/{split}_{side}.lmdb'
        for phase, split in (('train', 'train'), ('val', 'test'))
        for key, side in (('lq', 'blur'), ('gt', 'sharp'))
    }
    assert problems(gopro({**roots, 'path:pretrain_network_g': '~/weights.pth'}), check_paths=True) == []
    (line,) = problems(gopro({**roots, 'path:pretrain_network_g': '~/none.pth'}), check_paths=True)
    assert 'There are: weights.pth' in line


def test_data_that_are_not_there_say_how_to_make_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = problems(gopro(), check_paths=True)
    assert [line.split(':')[2] for line in found] == ['dataroot_lq', 'dataroot_gt'] * 2
    assert all('python -m data_prep gopro SOURCE -o datasets/GoPro' in line for line in found)
    sample = problems(read_options(ROOT / 'options/train_DSTNet_sample.yml'), check_paths=True)
    assert all('python -m data_prep sample -o datasets/sample' in line for line in sample)
    make_gopro(tmp_path)
    assert problems(gopro(), check_paths=True) == []


def test_named_prep_commands_exist() -> None:
    from data_prep.__main__ import build_parser
    from dstnet_arch.plugin.options_schema import DATA_COMMANDS

    for command in DATA_COMMANDS.values():
        build_parser().parse_args(command.format(folder='x').removeprefix('python -m data_prep ').split())


def test_weights_and_states_must_be_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    opt = read_options(GOPRO_TEST)
    line = problems(opt, is_train=False, check_paths=True)[-1]
    assert 'Train train_DSTNet_GoPro first' in line
    models = tmp_path / 'experiments/train_DSTNet_GoPro/models'
    models.mkdir(parents=True)
    (models / 'net_g_5000.pth').touch()
    assert 'There are: net_g_5000.pth' in problems(opt, is_train=False, check_paths=True)[-1]
    save_weights(models / 'net_g_latest.pth')
    assert not [line for line in problems(opt, is_train=False, check_paths=True) if line.startswith('path:')]

    set_at(opt, 'path:pretrain_network_g', 'weights/GOPRO.pth')
    assert 'dstnet weights get GoPro' in problems(opt, is_train=False, check_paths=True)[-1]

    # A resumed run takes its weights from where its state is, and looks at no others.
    weights = {'path:pretrain_network_g': 'gone.pth'}
    assert any(line.startswith('path:pretrain') for line in problems(gopro(weights), check_paths=True))
    found = problems(gopro(weights | {'path:resume_state': 'gone.state'}), check_paths=True)
    assert [line.split(':')[1] for line in found if line.startswith('path:')] == ['resume_state']
    states = tmp_path / 'experiments/train_DSTNet_GoPro/training_states'
    states.mkdir()
    (states / '5000.state').touch()
    found = problems(gopro(weights | {'auto_resume': True}), check_paths=True)
    assert not [line for line in found if line.startswith('path:')]


# The command line, and any input


def test_forced_values_arrive_coerced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from basicsr.utils.options import parse_options

    monkeypatch.chdir(tmp_path)
    make_gopro(tmp_path)
    forced = (
        'train:optim_g:lr=1e-4 train:amp=none train:warmup_iter=-1 val:val_freq=1e2 train:scheduler:periods=[700000]'
    )
    monkeypatch.setattr(sys, 'argv', ['train.py', '-opt', str(GOPRO), '--force_yml', *forced.split()])
    opt, _ = parse_options(str(tmp_path), is_train=True)
    assert opt['train']['optim_g']['lr'] == 1e-4
    assert (opt['train']['amp'], opt['train']['warmup_iter'], opt['val']['val_freq']) == ('none', -1, 100)
    assert opt['train']['scheduler']['periods'] == [700000]
    assert opt['datasets']['train']['manual_seed'] == 0

    monkeypatch.setattr(sys, 'argv', ['train.py', '-opt', str(GOPRO), '--force_yml', 'train:acum_iter=8'])
    with pytest.raises(OptionsError, match='train:acum_iter: unknown key; the nearest right one is train:accum_iter'):
        parse_options(str(tmp_path), is_train=True)


def test_quoted_numbers_and_aliases_reach_basicsr_as_what_they_mean(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from basicsr.utils.options import ordered_yaml, parse_options

    monkeypatch.chdir(tmp_path)
    make_gopro(tmp_path)
    text = GOPRO.read_text(encoding='utf-8')
    for old, new in (
        ('\nmanual_seed: 0', "\nmanual_seed: '10'"),
        ('\n  total_iter: 600000', '\n  total_iter: "600000"'),
        (
            '\n    dataroot_lq: datasets/GoPro/test',
            '\n    <<: {pin_memory: "true"}\n    dataroot_lq: datasets/GoPro/test',
        ),
    ):
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    file = tmp_path / 'quoted.yml'
    file.write_text(text, encoding='utf-8')
    monkeypatch.setattr(sys, 'argv', ['train.py', '-opt', str(file), '--force_yml', 'logger:print_freq=7'])
    before = ordered_yaml()[0]
    opt, _ = parse_options(str(tmp_path), is_train=True)
    assert (opt['manual_seed'], opt['datasets']['train']['manual_seed']) == (10, 10)
    assert (opt['train']['total_iter'], opt['datasets']['val']['pin_memory']) == (600_000, True)
    assert opt['logger']['print_freq'] == 7
    assert ordered_yaml()[0] is before, "other people's options are read as ever"


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.just('\0'),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=5) | st.integers(), inner, max_size=2),
    max_leaves=4,
)


@settings(max_examples=200, deadline=None)
@given(path=st.sampled_from([*KEYS, *FREE]), value=VALUES, is_train=st.booleans(), check_paths=st.booleans())
def test_any_value_anywhere_is_taken_or_named(path: str, value: Any, is_train: bool, check_paths: bool) -> None:
    opt = gopro({path: value})
    found = problems(opt, is_train, check_paths)  # no other error
    if not found:
        assert problems(opt, is_train, check_paths) == [], 'what was written back is right as well'


# The descriptions


def test_reference_page_is_up_to_date() -> None:
    committed = (ROOT / 'docs/options.md').read_text(encoding='utf-8')
    assert committed == reference_page(), 'python -m dstnet_arch.plugin.options_page > docs/options.md'


def test_reference_page_describes_every_key() -> None:
    rows = [line.strip('| ').split(' | ') for line in reference_page().splitlines() if line.startswith('| `')]
    described = {cells[0].strip('`') for cells in rows if len(cells) == 4 and cells[3]}
    assert {path.split(':')[-1] for path in KEYS} <= described
    assert len(rows) == len([cells for cells in rows if len(cells) == 4])


def test_choices_are_those_of_the_classes() -> None:
    assert allowed(NetworkArguments, 'boundary') == ' or '.join(BOUNDARIES)
    assert allowed(Val, 'protocol').replace(' or ', ', ') == ', '.join(PROTOCOLS)
    assert allowed(LossArguments, 'form') == ' or '.join(FORMS)
    assert allowed(LossArguments, 'reduction') == ' or '.join(REDUCTIONS)


@pytest.mark.parametrize('name', sorted(names('ARCH_REGISTRY') | names('LOSS_REGISTRY')))
def test_every_argument_of_our_classes_is_described(name: str) -> None:
    target = (targets('arch') | targets('loss'))[name]
    assert set(argument_texts(target)) >= set(inspect.signature(target).parameters)
