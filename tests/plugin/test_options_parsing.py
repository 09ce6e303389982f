"""Reading options files, --force_yml, the wrapped parser of BasicSR, and the `dstnet` command."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import RunPython
from options_utils import FILES, ROOT, make_gopro

from dstnet_arch import __main__ as cli
from dstnet_arch import __version__
from dstnet_arch.errors import DataError, OptionsError, message_of
from dstnet_arch.plugin.options import concerns_us, force, read_options
from dstnet_arch.plugin.options_parser import checked_parse_options

OURS = 'model_type: VideoRecurrentDeblurModel\n'
LAUGHS = 'a0: &a0 [1]\n' + ''.join(f'a{i}: &a{i} [{", ".join([f"*a{i - 1}"] * 10)}]\n' for i in range(1, 10))
GOPRO = ROOT / 'options/train_DSTNet_GoPro.yml'

Write = Callable[[str], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(text: str) -> Path:
        path = tmp_path / 'options.yml'
        path.write_text(text, encoding='utf-8')
        return path

    return write


def test_reads_what_basicsr_reads() -> None:
    from basicsr.utils.options import ordered_yaml

    for path in FILES:
        assert read_options(path) == yaml.load(path.read_text('utf-8'), Loader=ordered_yaml()[0])


@pytest.mark.parametrize(
    ('text', 'expected'),
    [
        ('a: [1,\nb: 2\n', 'is not valid YAML: line 3'),
        ('a: 1\n\tb: 2\n', 'is not valid YAML: line 2'),
        ('a: \x00', 'is not valid YAML'),
        ('a: !!float x\n', 'is not valid YAML: could not convert'),
        ('a: !!map 5\n', 'is not valid YAML'),
        ('[' * 500, 'is not valid YAML'),
        ('- 1\n- 2\n', 'contains no keys'),
        ('', 'contains no keys'),
        (f'{OURS}train:\n  a: 1\ntrain:\n  b: 2\n', 'train occurs twice in the section that begins in line 1'),
        (f'{OURS}a: &a [1, *a]\n', 'an alias (*name) refers to its own section'),
        (f'{OURS}{LAUGHS}', 'or is repeated too often'),
        ('model_type: !!python/name:os.system\n', 'line 1 has the tag tag:yaml.org,2002:python/name'),
        (f'{OURS}a: !!python/object/apply:os.system [exit]\n', 'line 2 has the tag tag:yaml.org,2002:python/object'),
    ],
)
def test_wrong_file_gets_one_error(write: Write, text: str, expected: str) -> None:
    with pytest.raises(OptionsError) as error:
        read_options(write(text))
    assert 'options.yml' in str(error.value)
    assert expected in str(error.value)


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
        ({'model_type': 'SRModel', 'network_g': {'type': 'SomebodysNet'}}, False),
        ({'datasets': None}, False),
        ({'model_type': ['VideoRecurrentDeblurModel'], 'datasets': {'val': {'type': {}}}}, False),
        ({'datasets': {'val': None}}, False),
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
    entries = ['train:optim:lr=0.5', 'train:a=[1, 2]', 'train:b=~', 'train:c=True', 'train:d=12']
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
        ('lr=1=2', 'more than one "="'),
        ('train:lr', 'no "=" given'),
        ('train:=1', 'has no section'),
        ('train:betas=[1,', '[1, is not a value'),
        ('train:lr=!!float x', 'is not a value'),
    ],
)
def test_wrong_forced_value_gets_one_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, entry: str, expected: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OptionsError) as error:
        force({'name': 'n', 'train': {'lr': 0, 'optim_g': {'lr': 0}}}, [entry])
    assert expected in str(error.value)
    assert entry in str(error.value)
    code = 'train:betas=[__import__("os").mkdir("owned")]'
    assert force({'train': {}}, [code])['train']['betas'] == ['__import__("os").mkdir("owned")']
    assert not Path('owned').exists()


# The wrapped parse_options


@pytest.fixture
def parse(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Call the wrapped function with a command line; BasicSR's own is a stub."""
    monkeypatch.setattr(sys, 'excepthook', sys.__excepthook__)

    def parse(*arguments: str, stock: Any = lambda root, is_train: ({'from': 'stock'}, argparse.Namespace())) -> Any:
        monkeypatch.setattr(sys, 'argv', ['train.py', *arguments])
        return checked_parse_options(stock)('root', is_train=True)

    return parse


def test_other_peoples_options_pass_through(parse: Any, write: Write) -> None:
    assert parse('-opt', str(write('model_type: SRModel\n')), '--force_yml', 'a:b=1')[0] == {'from': 'stock'}


def test_our_options_are_checked_before_basicsr_reads_them(parse: Any, write: Write) -> None:
    def stock(root: str, is_train: bool) -> Any:
        raise AssertionError

    path = str(write(f'{OURS}name: n\nnum_gpu: 0\ntrian: {{}}\n'))
    with pytest.raises(OptionsError, match='datasets: missing') as error:
        parse('-opt', path, stock=stock)
    assert 'trian: unknown key. Did you mean train?' in str(error.value)
    with pytest.raises(OptionsError, match='no section b'):
        parse('-opt', path, '--force_yml', 'b:c=1', '--force_yml', 'name=n', stock=stock)
    released = f'{OURS}name: n\nnetwork_g: {{type: Deblur}}\n'.replace(
        'VideoRecurrentDeblurModel', 'VideoRecurrentModel'
    )
    with pytest.raises(OptionsError, match='These options are for the released code'):
        parse('-opt', str(write(released)), stock=stock)
    for missing in ('', 'nowhere.yml'):
        with pytest.raises(OptionsError, match='does not exist'):
            parse('-opt', missing, stock=stock)


def test_slurm_launcher_outside_slurm_is_refused(parse: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv('SLURM_PROCID', raising=False)
    with pytest.raises(OptionsError, match=r'needs a Slurm job. Start with srun, or use torchrun'):
        parse('-opt', str(GOPRO), '--launcher', 'slurm')


def test_processes_without_gpus_cannot_use_nccl(parse: Any, write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    from dstnet_arch.plugin import options_parser, run_lock

    monkeypatch.setattr(options_parser, 'check_options', lambda opt, is_train, **_: opt)
    monkeypatch.setattr(run_lock, 'hold_run', lambda opt: None)
    opt = {'dist': True, 'num_gpu': 0, 'is_train': False, 'path': {}, 'datasets': {}}
    for backend, wrong in {'gloo': False, 'nccl': True}.items():
        monkeypatch.setattr('torch.distributed.get_backend', lambda backend=backend: backend)
        with pytest.raises(OptionsError, match='CUDA_VISIBLE_DEVICES') if wrong else nullcontext():
            parse('-opt', str(write(f'{OURS}manual_seed: 0\n')), stock=lambda *_, **__: (opt, argparse.Namespace()))


def test_basicsr_gets_the_corrected_options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from basicsr.utils.options import ordered_yaml, parse_options

    monkeypatch.chdir(tmp_path)
    make_gopro(tmp_path)
    text = GOPRO.read_text(encoding='utf-8')
    root = '\n    dataroot_lq: datasets/GoPro/test'
    for old, new in (
        ('\nmanual_seed: 0', "\nmanual_seed: '10'"),
        ('\n  total_iter: 600000', '\n  total_iter: "600000"'),
        (root, f'\n    <<: {{pin_memory: "true"}}{root}'),
    ):
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    (tmp_path / 'quoted.yml').write_text(text, encoding='utf-8')
    forced = ['logger:print_freq=7', 'train:optim_g:lr=1e-4', 'train:precision=none', 'val:val_freq=1e2']
    forced += ['train:scheduler:periods=[700000]', 'train:warmup_iter=-1']
    monkeypatch.setattr(sys, 'argv', ['train.py', '-opt', 'quoted.yml', '--force_yml', *forced])
    before = ordered_yaml()[0]
    opt, _ = parse_options(str(tmp_path), is_train=True)
    assert (opt['manual_seed'], opt['datasets']['train']['manual_seed']) == (10, 10)
    assert (opt['train']['total_iter'], opt['datasets']['val']['pin_memory']) == (600_000, True)
    assert (opt['logger']['print_freq'], opt['val']['val_freq'], opt['train']['warmup_iter']) == (7, 100, -1)
    assert (opt['train']['optim_g']['lr'], opt['train']['scheduler']['periods']) == (1e-4, [700_000])
    assert opt['train']['precision'] is None
    assert ordered_yaml()[0] is before, "other people's options are read as before"


# Errors and the dstnet command


def test_error_of_this_package_ends_the_program_with_status_2(run_python: RunPython, tmp_path: Path) -> None:
    code = (
        'from dstnet_arch.errors import *; install_excepthook(); install_excepthook()\n'
        'import sys; from dstnet_arch import errors\nraise eval(sys.argv[1])'
    )
    done = run_python('-c', code, 'errors.DataError("this one\\nand that one")', cwd=tmp_path)
    assert (done.returncode, done.stderr) == (2, 'error: this one\nand that one\n')
    done = run_python('-c', code, 'ValueError("another")', cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith('Traceback')


def test_message_without_the_traceback_of_a_loading_process() -> None:
    from torch._utils import ExceptionWrapper

    try:
        raise DataError('clip 3 is damaged: a/b.png')
    except DataError:
        caught = ExceptionWrapper(sys.exc_info(), 'in DataLoader worker process 0')
    with pytest.raises(DataError, match='Traceback') as error:
        caught.reraise()
    assert message_of(error.value) == 'error: clip 3 is damaged: a/b.png'


def test_help_and_version(run_python: RunPython, tmp_path: Path) -> None:
    done = run_python('-X', 'importtime', '-m', 'dstnet_arch', '--help', cwd=tmp_path)
    assert done.returncode == 0
    for name in ('train', 'test', 'options', 'visualize'):
        assert f'\n  {name} ' in done.stdout
    assert 'dstnet_arch' in done.stderr
    assert 'torch' not in done.stderr, 'help does not wait for PyTorch'
    script = Path(sys.executable).with_name('dstnet')
    assert run_python(script, '--version', cwd=tmp_path).stdout == f'dstnet {__version__}\n'


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
