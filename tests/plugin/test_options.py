"""Finding, reading and overriding options files, and `dstnet options`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import ROOT
from options_utils import FILES

from dstnet_arch import __main__ as cli
from dstnet_arch.errors import OptionsError
from dstnet_arch.plugin import options as options_module
from dstnet_arch.plugin.options import concerns_us, find_options, force, read_options

OURS = 'model_type: VideoRecurrentDeblurModel\n'

Write = Callable[[str], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(text: str) -> Path:
        path = tmp_path / 'options.yml'
        path.write_text(text, encoding='utf-8')
        return path

    return write


# Packaged files


def test_packaged_file_is_found_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    expected = ROOT / 'options/train_DSTNet_GoPro.yml'
    for name in ('train_DSTNet_GoPro', 'train_DSTNet_GoPro.yml', 'options/train_DSTNet_GoPro.yml'):
        assert find_options(name) == expected
    assert find_options('options/peers/train_EDVR_GoPro.yml') == find_options('train_EDVR_GoPro')
    (tmp_path / 'train_DSTNet_GoPro.yml').touch()
    assert find_options('train_DSTNet_GoPro.yml') == Path('train_DSTNet_GoPro.yml'), 'files here come first'
    with pytest.raises(OptionsError, match=r'Did you mean train_DSTNet_GoPro.*dstnet options copy DIR'):
        find_options('elsewhere/train_DSTNet_GoPo.yml')


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
    copied = sorted(path for path in (tmp_path / 'mine').rglob('*') if path.is_file())
    assert [file.read_bytes() for file in copied] == [file.read_bytes() for file in FILES]
    copied[0].write_text('changed')
    copied[1].unlink()
    capsys.readouterr()
    assert cli.main(['options', 'copy', str(tmp_path / 'mine')]) == 2
    assert f'{copied[0]}. Give another folder' in capsys.readouterr().err
    assert copied[0].read_text() == 'changed'
    assert not copied[1].exists()


def test_options_check(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    files = [str(file) for file in FILES[:3]]
    assert cli.main(['options', 'check', '--no-paths', *files]) == 0
    assert capsys.readouterr().out.splitlines() == [f'{file}: fine' for file in files]
    wrong = str(write(f'{OURS}name: n\nnum_gup: 0\n'))
    assert cli.main(['options', 'check', '--no-paths', 'train_DSTNet_sample', wrong]) == 2
    printed = capsys.readouterr()
    assert printed.out == 'train_DSTNet_sample: fine\n'
    assert printed.err.startswith(f'{wrong}: error: ')
    assert 'num_gup: unknown key. Did you mean num_gpu?' in printed.err
    assert cli.main(['options', 'check', str(write('model_type: SRModel\n'))]) == 0
    assert 'not checked' in capsys.readouterr().out


# Reading


def test_reads_what_basicsr_reads() -> None:
    from basicsr.utils.options import ordered_yaml

    for path in FILES:
        assert read_options(path) == yaml.load(path.read_text('utf-8'), Loader=ordered_yaml()[0])


@pytest.mark.parametrize(
    ('text', 'expected'),
    [
        ('a: [1,\nb: 2\n', 'is not valid YAML: .* line 3'),
        ('a: \x00', 'is not valid YAML'),
        ('a: !!float x\n', 'is not valid YAML: could not convert'),
        ('a: !!map 5\n', 'is not valid YAML'),
        ('[' * 500, 'is not valid YAML'),
        (f'{OURS}a: &a [1, *a]\n', 'is not valid YAML: found unconstructable recursive node'),
        ('&a {b: *a}\n', 'is not valid YAML: found unconstructable recursive node'),
        ('- 1\n- 2\n', 'contains no keys'),
        ('', 'contains no keys'),
        (f'{OURS}train:\n  a: 1\ntrain:\n  b: 2\n', 'train occurs twice in the section that begins in line 1'),
        ('model_type: !!python/name:os.system\n', 'line 1 has the tag tag:yaml.org,2002:python/name'),
        (f'{OURS}a: !!python/object/apply:os.system [exit]\n', 'line 2 has the tag tag:yaml.org,2002:python/object'),
    ],
)
def test_wrong_file_gets_one_error(write: Write, text: str, expected: str) -> None:
    with pytest.raises(OptionsError, match=rf'options\.yml.*({expected})'):
        read_options(write(text))


def test_folder_is_not_an_options_file(tmp_path: Path) -> None:
    with pytest.raises(OptionsError, match='cannot be read: Is a directory'):
        read_options(tmp_path)


def test_tag_in_other_peoples_options_runs_nothing(write: Write, tmp_path: Path) -> None:
    code = f'!!python/object/apply:os.mkdir [{tmp_path / "owned"}]'
    path = write(f'model_type: SRModel\na: {code}\na: 2\n')
    assert read_options(path) == {'model_type': 'SRModel', 'a': 2}
    with pytest.raises(OptionsError, match='has the tag'):
        read_options(path, strict=True)
    assert not (tmp_path / 'owned').exists()


@pytest.mark.parametrize(
    ('opt', 'ours'),
    [
        ({'model_type': 'VideoRecurrentDeblurModel'}, True),
        ({'model_type': 'SRModel', 'datasets': {'val': {'type': 'VideoRecurrentDeblurTestDataset'}}}, True),
        ({'model_type': 'SRModel', 'datasets': {'val': {'type': 'PairedImageDataset'}}}, False),
        ({'model_type': 'VideoRecurrentModel', 'datasets': {'train': {'type': 'GOPRORecurrentDataset'}}}, True),
        ({'model_type': 'VideoRecurrentModel', 'network_g': {'type': 'Deblur'}}, True),
        ({'model_type': 'VideoRecurrentModel', 'network_g': {'type': 'BasicVSR'}}, False),
        ({'datasets': None}, False),
        ({'model_type': ['VideoRecurrentDeblurModel'], 'datasets': {'val': {'type': {}}}}, False),
    ],
)
def test_whose_options_they_are(opt: dict[str, Any], ours: bool) -> None:
    assert concerns_us(opt) is ours


def test_registered_types_with_names_of_the_released_code_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    from basicsr.utils.registry import ARCH_REGISTRY

    monkeypatch.setitem(ARCH_REGISTRY._obj_map, 'Deblur', object)
    assert not concerns_us({'model_type': 'VideoRecurrentModel', 'network_g': {'type': 'Deblur'}})


# --force_yml


def test_forced_values_are_those_of_basicsr(monkeypatch: pytest.MonkeyPatch, write: Write) -> None:
    from basicsr.utils import options

    path = write('model_type: X\nnum_gpu: 0\nname: n\ndatasets: {}\npath: {}\nlogger: {}\ntrain: {optim: {lr: 1}}\n')
    entries = ['train:optim:lr=0.5', 'train:a=[1, 2]', 'train:b=~', 'train:c=True', 'train:d=12', 'train:e=None']
    entries += ['new=a b', 'num_gpu=0']
    monkeypatch.setattr(sys, 'argv', ['train.py', '-opt', str(path), '--force_yml', *entries])
    theirs, _ = options.parse_options('.', is_train=True)
    ours = force(read_options(path), entries)
    assert ours['train'] == theirs['train']
    assert ours['new'] == theirs['new']


@pytest.mark.parametrize(
    ('entry', 'expected'),
    [
        ('train:optim:lr=1', 'has no section train:optim. Did you mean train:optim_g:lr?'),
        ('name:x=1', 'has no section name'),
        ('lr=1=2', 'expected section:key=value'),
        ('train:lr', 'expected section:key=value'),
        ('train:=1', 'expected section:key=value'),
        ('train:betas=[1,', '[1, is not a value'),
        ('train:lr=!!float x', 'is not a value'),
    ],
)
def test_wrong_forced_value_gets_one_error(entry: str, expected: str) -> None:
    with pytest.raises(OptionsError) as error:
        force({'name': 'n', 'train': {'lr': 0, 'optim_g': {'lr': 0}}}, [entry])
    assert expected in str(error.value)
    assert entry in str(error.value)
