"""Options files and the command line: one clear error each, nothing evaluated, exit status 2."""

from __future__ import annotations

import argparse
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import RunPython

from dstnet_arch import __main__ as cli
from dstnet_arch import __version__
from dstnet_arch.errors import DataError, OptionsError, message_of
from dstnet_arch.plugin.options import checked_parse_options, concerns_us, force, read_options

OURS = 'model_type: VideoRecurrentDeblurModel\n'
LAUGHS = 'a0: &a0 [1]\n' + ''.join(f'a{i}: &a{i} [{", ".join([f"*a{i - 1}"] * 10)}]\n' for i in range(1, 10))


@pytest.fixture
def write(tmp_path: Path) -> Any:
    def write(text: str) -> Path:
        path = tmp_path / 'options.yml'
        path.write_text(text, encoding='utf-8')
        return path

    return write


def test_reads_what_basicsr_reads(root: Path) -> None:
    from basicsr.utils.options import ordered_yaml

    for path in sorted((root / 'options').glob('**/*.yml')):
        assert read_options(path) == yaml.load(path.read_text('utf-8'), Loader=ordered_yaml()[0])


@pytest.mark.parametrize(
    ('text', 'told'),
    [
        ('a: [1,\nb: 2\n', 'is not valid YAML: line 3'),
        ('a: 1\n\tb: 2\n', 'is not valid YAML: line 2'),
        ('a: \x00', 'is not valid YAML'),
        ('a: 2024-13-45\n', 'is not valid YAML: month must be in 1..12'),
        ('a: !!float x\n', 'is not valid YAML: could not convert'),
        ('a: !!map 5\n', 'is not valid YAML'),
        ('[' * 500, 'is not valid YAML'),
        ('- 1\n- 2\n', 'holds no keys'),
        ('', 'holds no keys'),
        (f'{OURS}train:\n  a: 1\ntrain:\n  b: 2\n', 'train stands twice in the section from line 1 on'),
        (f'{OURS}a: &a [1, *a]\n', 'an alias (*name) stands for its own surroundings'),
        (f'{OURS}{LAUGHS}', 'an alias (*name) stands for its own surroundings, or too often'),
        ('model_type: !!python/name:os.system\n', 'line 1 has the tag tag:yaml.org,2002:python/name'),
        (f'{OURS}a: !!python/object/apply:os.system [exit]\n', 'line 2 has the tag tag:yaml.org,2002:python/object'),
    ],
)
def test_a_wrong_file_gets_one_error(write: Any, text: str, told: str) -> None:
    with pytest.raises(OptionsError) as error:
        read_options(write(text))
    assert 'options.yml' in str(error.value)
    assert told in str(error.value)


def test_a_missing_file_gets_one_error(tmp_path: Path) -> None:
    with pytest.raises(OptionsError, match=r'nowhere\.yml cannot be read: No such file'):
        read_options(tmp_path / 'nowhere.yml')
    with pytest.raises(OptionsError, match='cannot be read: Is a directory'):
        read_options(tmp_path)


def test_a_tag_in_other_peoples_options_runs_nothing_here(write: Any, tmp_path: Path) -> None:
    code = f'!!python/object/apply:os.mkdir [{tmp_path / "owned"}]'
    assert read_options(write(f'model_type: SRModel\na: {code}\na: 2\n')) == {'model_type': 'SRModel', 'a': 2}
    assert not (tmp_path / 'owned').exists()


@pytest.mark.parametrize(
    ('opt', 'ours'),
    [
        ({'model_type': 'VideoRecurrentDeblurModel'}, True),
        ({'model_type': 'SRModel', 'datasets': {'val': {'type': 'VideoRecurrentDeblurTestDataset'}}}, True),
        ({'model_type': 'SRModel', 'datasets': {'val': {'type': 'PairedImageDataset'}}}, False),
        ({'datasets': None}, False),
        ({'model_type': ['VideoRecurrentDeblurModel'], 'datasets': {'val': {'type': {}}}}, False),
        ({'datasets': {'val': None}}, False),
    ],
)
def test_whose_options_they_are(opt: dict[str, Any], ours: bool) -> None:
    assert concerns_us(opt) is ours


def test_forced_values_come_out_as_in_basicsr(monkeypatch: pytest.MonkeyPatch, write: Any) -> None:
    from basicsr.utils import options

    path = write('model_type: X\nnum_gpu: 0\nname: n\ndatasets: {}\npath: {}\nlogger: {}\ntrain: {optim: {lr: 1}}\n')
    entries = ['train:optim:lr=0.5', 'train:a=[1, 2]', 'train:b=~', 'train:c=True', 'train:d=1e-4', 'train:e=-1']
    monkeypatch.setattr(sys, 'argv', ['train.py', '-opt', str(path), '--force_yml', *entries, 'new=a b', 'num_gpu=0'])
    theirs, _ = options.parse_options('.', is_train=True)
    ours = force(read_options(path), [*entries, 'new=a b', 'num_gpu=0'])
    assert ours['train'] == theirs['train']
    assert ours['new'] == theirs['new']


@pytest.mark.parametrize(
    ('entry', 'told'),
    [
        ('train:optim:lr=1', 'no section train:optim in the options file. The nearest key is train:optim_g:lr'),
        ('name:x=1', 'no section name'),
        ('lr=1=2', 'more than one "="'),
        ('train:lr', 'no "=" given'),
        ('train:=1', 'no section'),
        ('train:betas=[1,', '[1, is no value'),
        ('train:betas=[__import__("os").mkdir("owned")]', 'is no value'),
        ('train:lr=!!float x', 'is no value'),
    ],
)
def test_a_wrong_forced_value_gets_one_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, entry: str, told: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OptionsError) as error:
        force({'name': 'n', 'train': {'lr': 0, 'optim_g': {'lr': 0}}}, [entry])
    assert told in str(error.value)
    assert entry in str(error.value)
    assert not Path('owned').exists()


# The wrapped parse_options


@pytest.fixture
def parse(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Call the wrapped function with a command line; BasicSR's own reports what it was given."""
    monkeypatch.setattr(sys, 'excepthook', sys.__excepthook__)

    def parse(*arguments: str, stock: Any = lambda root, is_train: ({'from': 'stock'}, argparse.Namespace())) -> Any:
        monkeypatch.setattr(sys, 'argv', ['train.py', *arguments])
        return checked_parse_options(stock)('root', is_train=True)

    return parse


def test_other_peoples_options_pass_through(parse: Any, write: Any) -> None:
    assert parse('-opt', str(write('model_type: SRModel\n')), '--force_yml', 'a:b=1')[0] == {'from': 'stock'}


def test_our_options_are_checked_as_a_whole(parse: Any, write: Any) -> None:
    path = str(write('name: n\nmodel_type: VideoRecurrentDeblurModel\nnum_gpu: 0\ntrian: {}\n'))

    def stock(root: str, is_train: bool) -> Any:
        raise KeyError('datasets')

    with pytest.raises(OptionsError) as error:
        parse('-opt', path, stock=stock)
    assert 'datasets: missing' in str(error.value)
    assert 'train' in str(error.value)

    with pytest.raises(OptionsError, match='no section a'):
        parse('-opt', path, '--force_yml', 'a:b=1', '--launcher', 'none')


def test_forced_values_of_two_places_are_all_taken(parse: Any, write: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(OptionsError, match='no section b'):
        parse('-opt', str(write(OURS)), '--force_yml', 'b:c=1', '--force_yml', 'name=n')


def test_an_empty_name_of_a_file_is_an_error_of_ours(parse: Any) -> None:
    with pytest.raises(OptionsError, match='cannot be read'):
        parse('-opt', '')


def test_processes_without_gpus_cannot_talk_through_them(
    parse: Any, write: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dstnet_arch.plugin import options_schema, run_lock

    monkeypatch.setattr(options_schema, 'check_options', lambda opt, is_train: opt)
    monkeypatch.setattr(run_lock, 'hold_run', lambda opt: None)
    opt = {'dist': True, 'num_gpu': 0, 'is_train': False, 'path': {}}
    for backend, wrong in {'gloo': False, 'nccl': True}.items():
        monkeypatch.setattr('torch.distributed.get_backend', lambda backend=backend: backend)
        with pytest.raises(OptionsError, match='CUDA_VISIBLE_DEVICES') if wrong else nullcontext():
            parse('-opt', str(write(f'{OURS}manual_seed: 0\n')), stock=lambda *_, **__: (opt, argparse.Namespace()))


def test_an_error_of_ours_ends_the_program_with_status_2(run_python: RunPython, tmp_path: Path) -> None:
    code = (
        'from dstnet_arch.errors import *; install_excepthook(); install_excepthook()\n'
        'import sys; from dstnet_arch import errors\nraise eval(sys.argv[1])'
    )
    done = run_python('-c', code, 'errors.DataError("this one\\nand that one")', cwd=tmp_path)
    assert (done.returncode, done.stderr) == (2, 'error: this one\nand that one\n')
    done = run_python('-c', code, 'ValueError("another")', cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith('Traceback')


def test_the_message_without_the_traceback_of_a_loading_process() -> None:
    from torch._utils import ExceptionWrapper

    try:
        raise DataError('clip 3 is damaged: a/b.png')
    except DataError:
        caught = ExceptionWrapper(sys.exc_info(), 'in DataLoader worker process 0')
    with pytest.raises(DataError, match='Traceback') as error:
        caught.reraise()
    assert message_of(error.value) == 'error: clip 3 is damaged: a/b.png'


# The dstnet command


def test_help_and_version(run_python: RunPython, tmp_path: Path, root: Path) -> None:
    done = run_python('-m', 'dstnet_arch', '--help', cwd=tmp_path)
    assert done.returncode == 0
    for name in ('train', 'test', 'options', 'visualize'):
        assert f'\n  {name} ' in done.stdout
    script = Path(sys.executable).with_name('dstnet')
    assert run_python(script, '--version', cwd=tmp_path).stdout == f'dstnet {__version__}\n'
    # Help must not wait for PyTorch.
    imported = run_python('-X', 'importtime', '-m', 'dstnet_arch', '--help', cwd=tmp_path).stderr
    assert 'dstnet_arch' in imported
    assert 'torch' not in imported


@pytest.mark.parametrize(
    ('arguments', 'told'), [([], 'no command given'), (['tran'], 'Did you mean train?'), (['xyz'], 'xyz given')]
)
def test_a_wrong_command(arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(arguments) == 2
    assert told in capsys.readouterr().err


@pytest.mark.parametrize('name', ['train', 'test'])
def test_a_pipeline_reports_without_a_traceback(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, 'argv', ['dstnet'])
    monkeypatch.setattr(sys, 'excepthook', sys.__excepthook__)
    assert cli.main([name, '-opt', 'nowhere.yml']) == 2
    assert 'nowhere.yml cannot be read' in capsys.readouterr().err
    assert sys.argv == [f'dstnet {name}', '-opt', 'nowhere.yml']
    assert not list(tmp_path.iterdir())


def test_a_missing_basicsr_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, 'basicsr.train', None)
    assert cli.main(['train']) == 2
    assert 'pip install --no-build-isolation basicsr==1.4.2' in capsys.readouterr().err


def test_options_check(write: Any, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = sorted(map(str, (root / 'options').glob('*.yml')))
    assert cli.main(['options', 'check', '--no-paths', *files]) == 0
    assert capsys.readouterr().out.splitlines() == [f'{file}: fine' for file in files]
    train = yaml.safe_load((root / 'options/train_DSTNet_sample.yml').read_text(encoding='utf-8'))
    del train['datasets']['train']
    assert cli.main(['options', 'check', '--no-paths', str(write(yaml.safe_dump(train)))]) == 2
    assert 'datasets:train: missing; training needs its data' in capsys.readouterr().err
    wrong = str(write(f'{OURS}name: n\nnum_gup: 0\n'))
    assert cli.main(['options', 'check', '--no-paths', files[0], wrong]) == 2
    told = capsys.readouterr()
    assert told.out == f'{files[0]}: fine\n'
    assert told.err.startswith(f'{wrong}: error: ')
    assert 'num_gpu' in told.err
