"""The committed options files, their generator, the reference page, and finding and copying the files."""

from __future__ import annotations

import importlib.util
import inspect
import sys
from functools import cache
from pathlib import Path
from types import ModuleType

import pytest
import torch
import yaml
from options_utils import FILES, ROOT, options, problems, section_of

from dstnet_arch import __main__ as cli
from dstnet_arch.archs.propagation import BOUNDARIES
from dstnet_arch.errors import OptionsError
from dstnet_arch.losses.frequency_loss import FORMS, REDUCTIONS
from dstnet_arch.metrics.protocols import PROTOCOLS
from dstnet_arch.plugin import options as options_module
from dstnet_arch.plugin.options import find_options, read_options
from dstnet_arch.plugin.options_schema import arguments_of, targets
from dstnet_arch.plugin.options_sections import Val
from dstnet_arch.plugin.registration import names
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
        made = build_parser().parse_args(data.split()[3:]).output
        assert {Path(dataset['dataroot_lq']).parent for dataset in opt['datasets'].values()} == {made}


@pytest.mark.parametrize('file', [file for file in TRAIN_FILES if 'sample' not in file.name], ids=experiment_of)
def test_recipe_differs_from_the_papers_only_where_the_experiment_says(file: Path) -> None:
    opt, reference = read_options(file), options()
    iterations = 300_000 if file.parent.name == 'ablation' else 600_000
    assert opt['train']['total_iter'] == iterations
    assert opt['train']['scheduler']['periods'] == [iterations]
    assert opt['train']['grad_clip'] == (0.01 if 'Plus-L' in file.name else 0)
    assert 8 * opt['datasets']['train']['batch_size_per_gpu'] == 16
    clip_length = 25 if 'DVD' in file.name else 50 if 'Plus' in file.name and 'GoPro' in file.name else 30
    assert opt['datasets']['val']['clip_length'] == clip_length
    free = ['name', 'network_g', 'train:total_iter', 'train:scheduler:periods', 'train:grad_clip']
    free += ['train:gradient_checkpointing'] if file.parent.name == 'peers' else []
    free += [f'datasets:train:{key}' for key in ('name', 'dataroot_lq', 'dataroot_gt')]
    free += [f'datasets:val:{key}' for key in ('name', 'dataroot_lq', 'dataroot_gt', 'clip_length')]
    for path in free:
        for changed in (opt, reference):
            section, key = section_of(changed, path)
            section[key] = None
    assert opt == reference


# The reference page


def test_reference_page_is_up_to_date_and_complete() -> None:
    page = (ROOT / 'docs/options.md').read_text(encoding='utf-8')
    command = 'python docs/options_reference.py > docs/options.md'
    assert page == script('docs/options_reference.py').reference_page(), f'run: {command}'
    rows = [line.strip('| ').split(' | ') for line in page.splitlines() if line.startswith('| `')]
    assert [row for row in rows if len(row) != 4 or not row[3]] == [], 'every key has a description'


def test_choices_are_those_of_the_code() -> None:
    def choices(section: type, key: str) -> list[str]:
        schema = section.model_json_schema()['properties'][key]
        return next(part['enum'] for part in schema.get('anyOf', [schema]) if 'enum' in part)

    loss = arguments_of('loss', targets('loss')['FrequencyLoss'])
    assert choices(arguments_of('arch', targets('arch')['DSTNet']), 'boundary') == list(BOUNDARIES)
    assert choices(Val, 'protocol') == list(PROTOCOLS)
    assert choices(Val, 'precision') == list(PRECISIONS)
    assert choices(loss, 'form') == list(FORMS)
    assert choices(loss, 'reduction') == list(REDUCTIONS)


@pytest.mark.parametrize('name', sorted(names('ARCH_REGISTRY') | names('LOSS_REGISTRY')))
def test_every_argument_of_our_classes_is_described(name: str) -> None:
    target = (targets('arch') | targets('loss'))[name]
    assert set(script('docs/options_reference.py').argument_texts(target)) >= set(inspect.signature(target).parameters)


# Packaged files


def test_packaged_file_is_found_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    expected = ROOT / 'options/train_DSTNet_GoPro.yml'
    for name in ('train_DSTNet_GoPro', 'train_DSTNet_GoPro.yml', 'options/train_DSTNet_GoPro.yml'):
        assert find_options(name) == expected
    assert find_options('options/peers/train_EDVR_GoPro.yml') == find_options('train_EDVR_GoPro')
    (tmp_path / 'train_DSTNet_GoPro.yml').touch()
    assert find_options('train_DSTNet_GoPro.yml') == Path('train_DSTNet_GoPro.yml'), 'files here come first'
    with pytest.raises(OptionsError, match='Did you mean train_DSTNet_GoPro') as error:
        find_options('elsewhere/train_DSTNet_GoPo.yml')
    assert 'dstnet options copy DIR' in str(error.value)


def test_options_of_a_wheel_are_in_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / 'package/options').mkdir(parents=True)
    (tmp_path / 'package/options/x.yml').touch()
    monkeypatch.setattr(options_module, '__file__', str(tmp_path / 'package/plugin/options.py'))
    assert find_options('x') == tmp_path / 'package/options/x.yml'


def test_list_and_copy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(['options', 'list']) == 0
    assert capsys.readouterr().out.splitlines() == [str(file.relative_to(ROOT / 'options')) for file in FILES]
    for _ in range(2):  # equal files are no obstacle
        assert cli.main(['options', 'copy', str(tmp_path / 'mine')]) == 0
    copied = sorted((tmp_path / 'mine').rglob('*.yml'))
    assert [file.read_bytes() for file in copied] == [file.read_bytes() for file in FILES]
    copied[0].write_text('changed')
    copied[1].unlink()
    capsys.readouterr()
    assert cli.main(['options', 'copy', str(tmp_path / 'mine')]) == 2
    assert f'{copied[0]}. Give another folder' in capsys.readouterr().err
    assert copied[0].read_text() == 'changed'
    assert not copied[1].exists()
