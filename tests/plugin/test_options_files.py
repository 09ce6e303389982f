"""The committed options files, their generator, and the reference page."""

from __future__ import annotations

import importlib.util
import sys
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import get_args

import pytest
import torch
import yaml
from conftest import ROOT
from options_utils import FILES, problems, section_of

from dstnet_arch.metrics.protocols import PROTOCOLS
from dstnet_arch.plugin import options_check
from dstnet_arch.plugin.options import read_options
from dstnet_arch.plugin.options_schema import Section, arguments_of, targets
from dstnet_arch.precision import PRECISIONS

TRAIN_FILES = [file for file in FILES if file.name.startswith('train')]
# Parameters of the network of each file, by the beginning of its name after train_ or test_; the longest match counts.
# Those of DSTNet, DSTNet-L and DSTNet+ are the papers', minus the fixed Haar filters of the released files (16 numbers
# per channel).
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


def experiment_of(file: Path) -> str:
    return file.stem.partition('_')[2]


@cache
def script(path: str) -> ModuleType:
    """A script that is not part of the installed package."""
    spec = importlib.util.spec_from_file_location(Path(path).stem, ROOT / path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # for its dataclasses
    spec.loader.exec_module(module)
    return module


@cache
def count_parameters(network: str) -> int:
    arguments = yaml.safe_load(network)
    with torch.device('meta'):
        net = targets('arch')[arguments.pop('type')](**arguments)
    return sum(p.numel() for p in net.parameters())


@pytest.mark.parametrize('file', FILES, ids=lambda file: file.stem)
def test_network_has_the_published_number_of_parameters(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)  # else BasicVSR++ is built without alignment
    expected = max(filter(experiment_of(file).startswith, PARAMETERS), key=len)
    opt = read_options(file)
    assert count_parameters(yaml.safe_dump(opt['network_g'])) == PARAMETERS[expected]
    assert opt['name'] == file.stem


def test_every_experiment_of_the_papers_has_its_files() -> None:
    data = ['GoPro', 'DVD', 'BSD1ms8ms', 'BSD2ms16ms', 'BSD3ms24ms']
    runs = [f'{model}_{name}' for model in ('DSTNet', 'DSTNetPlus', 'DSTNetPlus-L') for name in data]
    runs += ['DSTNet-L_GoPro', 'DSTNet_sample']
    assert {file.name for file in FILES if file.parent.name == 'options'} == {
        f'{run}_{name}.yml' for run in ('train', 'test') for name in runs
    }
    # One full network, two rows of Table 4, three of Table 5, two of Table 6.
    assert len([file for file in FILES if file.parent.name == 'ablation']) == 2 * (1 + 2 + 3 + 2)


def test_generated_files_are_up_to_date() -> None:
    generated = script('options/generate.py').generate()
    by_hand = {f'{run}_DSTNet_{data}.yml' for run in ('train', 'test') for data in ('GoPro', 'sample')}
    assert set(generated) | by_hand == {file.relative_to(ROOT / 'options').as_posix() for file in FILES}
    for name, text in generated.items():
        assert (ROOT / 'options' / name).read_text(encoding='utf-8') == text, 'run: python options/generate.py'


@pytest.mark.parametrize('file', TRAIN_FILES, ids=experiment_of)
def test_test_file_fits_its_train_file(file: Path) -> None:
    train = read_options(file)
    test = read_options(file.with_name(f'test_{experiment_of(file)}.yml'))
    assert test['network_g'] == train['network_g']
    val = train['datasets']['val']
    for key in ('dataroot_lq', 'dataroot_gt'):  # BSD has sequences for validation
        val[key] = val[key].replace('/valid_', '/test_')
    assert test['datasets']['test'] == val
    assert test['val'] | {'save_img': False} == {key: value for key, value in train['val'].items() if key != 'val_freq'}
    assert test['path']['pretrain_network_g'] == f'experiments/{train["name"]}/models/net_g_latest.pth'


@pytest.mark.parametrize('file', FILES, ids=lambda file: file.stem)
def test_commands_in_the_heading_are_right(file: Path) -> None:
    from data_prep.__main__ import build_parser

    opt = read_options(file)
    run, name = file.stem.partition('_')[0], experiment_of(file)
    heading = [line for line in file.read_text(encoding='utf-8').splitlines() if line.startswith('#')]
    commands = [line[line.index(start) :] for line in heading for start in ('python -m', 'torchrun') if start in line]
    own = [command for command in commands if f'basicsr.{run} ' in command]
    assert own
    assert all(f'-opt {file.relative_to(ROOT).as_posix()}' in command for command in own)
    for entry in [entry for command in own for entry in command.partition('--force_yml ')[2].split()]:
        path, _, value = entry.partition('=')
        section, key = section_of(opt, path)
        section[key] = int(value) if value.isdigit() else value
    assert problems(opt, run == 'train') == []
    if run == 'train':
        assert opt['datasets']['train']['batch_size_per_gpu'] == 16 or name == 'DSTNet_sample'
    if name != 'DSTNet_sample' or run == 'train':
        (data,) = [command for command in commands if 'data_prep' in command]
        for root in [Path(dataset['dataroot_lq']) for dataset in opt['datasets'].values()]:
            for command in (data, options_check._data_command(str(root)) or ''):
                assert build_parser().parse_args(command.split()[3:]).output == root.parent


# The reference page


def rows_of_page() -> dict[str, dict[str, str]]:
    """Return the default of each key in docs/options.md, by the heading of its table."""
    rows: dict[str, dict[str, str]] = {}
    heading = ''
    for line in (ROOT / 'docs/options.md').read_text(encoding='utf-8').splitlines():
        if line.startswith('## '):
            heading = line[3:]
        elif line.startswith('| `'):
            key, allowed, default, description = (cell.strip(' `') for cell in line.strip('| ').split(' | '))
            assert allowed, key
            assert description, key
            rows.setdefault(heading, {})[key] = default
    return rows


SECTIONS: dict[str, type[Section]] = {
    'Top level': options_check.Options,
    'datasets:train': options_check.TrainDataset,
    'datasets:val, datasets:test': options_check.TestDataset,
    'path': options_check.Paths,
    'train': options_check.Train,
    'val': options_check.Val,
    'logger': options_check.Logger,
    'logger:wandb': options_check.Wandb,
}
TYPES = {
    'network_g': ('arch', ['DSTNet', 'DSTNetPlus', 'SlidingWindow']),
    'train:frequency_opt': ('loss', ['FrequencyLoss']),
    'val:metrics:…': ('metric', ['calculate_ssim3d']),
}


def test_reference_page_has_all_keys_with_their_defaults() -> None:
    rows = rows_of_page()
    sections = dict(SECTIONS)
    for place, (kind, types) in TYPES.items():
        sections |= {f'{place}, type: {name}': arguments_of(kind, targets(kind)[name]) for name in types}
    for heading, section in sections.items():
        expected = {}
        for name, field in section.model_fields.items():
            default = '~' if field.default is None else str(field.default).lower().replace("'", '')
            in_table = isinstance(field.default, Section) or name == 'dist_params'
            expected[field.alias or name] = 'required' if field.is_required() else 'see below' if in_table else default
        if heading not in SECTIONS:
            del expected['type']
        assert {key: default.lower() for key, default in rows[heading].items()} == expected, heading


def test_choices_are_those_of_the_code() -> None:
    fields = options_check.Val.model_fields
    assert get_args(fields['protocol'].annotation) == tuple(PROTOCOLS)
    assert get_args(get_args(fields['precision'].annotation)[0]) == tuple(PRECISIONS)
