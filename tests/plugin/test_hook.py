"""The start-up hook, registration, and what happens if BasicSR or the plugin is missing, broken or something else."""

from __future__ import annotations

import json
import sys
from importlib.util import find_spec
from pathlib import Path
from textwrap import dedent
from types import ModuleType, SimpleNamespace

import pytest
from conftest import RunPython

from dstnet_arch.plugin import registration

NAMES = {
    'ARCH_REGISTRY': ['DSTNet', 'DSTNetPlus', 'SlidingWindow'],
    'DATASET_REGISTRY': ['VideoRecurrentDeblurDataset', 'VideoRecurrentDeblurTestDataset'],
    'MODEL_REGISTRY': ['VideoRecurrentDeblurModel'],
    'LOSS_REGISTRY': ['FrequencyLoss'],
    'METRIC_REGISTRY': ['calculate_ssim3d'],
}
REPORT = dedent("""
    import json
    from basicsr import train
    from basicsr.data.data_sampler import EnlargedSampler
    from basicsr.utils import mkdir_and_rename, options, registry
    ours = lambda thing: thing.__module__.startswith('dstnet_arch')
    print(json.dumps({
        'names': {
            name: sorted(key for key, value in getattr(registry, name) if ours(value))
            for name in dir(registry) if name.endswith('_REGISTRY')
        },
        'wrapped': [hasattr(f, '__wrapped__') for f in (train.parse_options, options.parse_options,
                    train.load_resume_state, train.mkdir_and_rename, mkdir_and_rename)],
        'sampler': EnlargedSampler.__new__ is not object.__new__,
    }))
""")
BROKEN = "import sys; sys.modules['dstnet_arch.plugin.patches'] = None\n"  # so that importing the patches fails


def fake_basicsr(folder: Path, init: str = '', version: str | None = '1.4.2') -> Path:
    package = folder / 'basicsr'
    package.mkdir()
    (package / '__init__.py').write_text(dedent(init))
    if version:
        (package / 'version.py').write_text(f"__version__ = '{version}'\n")
    return package


def test_interpreter_start_imports_nothing_else(run_python: RunPython, tmp_path: Path) -> None:
    code = 'import sys; print(*sys.modules); print(*(type(finder).__name__ for finder in sys.meta_path))'
    done = run_python('-I', '-c', code, cwd=tmp_path)
    modules, finders = (line.split() for line in done.stdout.splitlines())
    assert '_dstnet_arch_hook' in modules
    assert not {'torch', 'numpy', 'basicsr', 'dstnet_arch', 'pathlib', 're', 'signal'} & set(modules)
    assert 'BasicSRFinder' in finders
    assert 'MovedModuleFinder' not in finders
    assert done.stderr == ''


@pytest.mark.parametrize(
    ('module', 'with_hook'),
    [
        ('basicsr', True),
        pytest.param('dstnet_arch.models.video_recurrent_deblur_model', False, marks=pytest.mark.slow),
        pytest.param('dstnet_arch.archs.sliding_window_arch, basicsr', True, marks=pytest.mark.slow),
    ],
)
def test_importing_any_part_registers_everything(
    run_python: RunPython, tmp_path: Path, module: str, with_hook: bool
) -> None:
    options, start = ['-I'], ''
    if not with_hook:  # nor anything else of site
        options, start = ['-I', '-S'], f'import sys; sys.path += {[entry for entry in sys.path if entry]}'
    done = run_python(*options, '-c', f'{start}\nimport {module}\n{REPORT}', cwd=tmp_path)
    assert done.stderr == ''
    report = json.loads(done.stdout)
    assert {name: sorted(keys) for name, keys in report['names'].items()} == NAMES
    assert all(report['wrapped'])
    assert report['sampler']


def test_importing_the_package_after_basicsr_needs_no_hook(run_python: RunPython, tmp_path: Path) -> None:
    fake_basicsr(tmp_path)
    code = """
        sys.meta_path[:] = [f for f in sys.meta_path if type(f).__name__ != 'BasicSRFinder']
        import basicsr
        print('imported', file=sys.stderr)
        import dstnet_arch
    """
    done = run_python('-c', BROKEN + dedent(code), cwd=tmp_path)
    assert done.stderr.startswith('imported\ndstnet_arch: the plugin is not available')


def test_broken_plugin_does_not_break_basicsr(run_python: RunPython, tmp_path: Path) -> None:
    fake_basicsr(tmp_path, 'value = 1')
    code = 'import importlib, inspect, basicsr\n'
    code += 'print(type(basicsr.__loader__).__name__, inspect.getsource(basicsr), importlib.reload(basicsr).value)'
    done = run_python('-W', 'error', '-c', BROKEN + code, cwd=tmp_path)
    assert done.stdout.split() == ['SourceFileLoader', 'value', '=', '1', '1']
    assert 'the plugin is not available' in done.stderr.splitlines()[0]
    assert 'pip uninstall dstnet-arch' in done.stderr.splitlines()[0]


# Packages called basicsr that are something else


@pytest.mark.parametrize(('init', 'version'), [('', None), ('', '1.3.5'), ('from .version import x', None)])
def test_copy_of_basicsr_in_the_current_folder_is_named(
    run_python: RunPython, tmp_path: Path, init: str, version: str | None
) -> None:
    folder = fake_basicsr(tmp_path, init, version)
    (folder / 'train.py').write_text('print("their training")')
    done = run_python('-m', 'basicsr.train', '-opt', 'x.yml', cwd=tmp_path)
    ours = [line for line in done.stderr.splitlines() if line.startswith('dstnet_arch: ')]
    assert len(ours) == 1
    assert f'{folder} is not stock BasicSR 1.4.2' in ours[0]
    assert 'run the command in another folder' in ours[0]
    assert 'einstall' not in done.stderr
    assert ('their training' in done.stdout) == (done.returncode == 0)
    assert done.returncode == (1 if init else 0)


def test_dstnet_train_in_the_folder_of_a_copy_names_it(run_python: RunPython, tmp_path: Path) -> None:
    fake_basicsr(tmp_path, version=None)
    done = run_python('-m', 'dstnet_arch', 'train', '-opt', 'x.yml', cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith(f'error: {tmp_path}/basicsr is not stock BasicSR')
    assert done.stderr.count('\n') == 1


@pytest.mark.parametrize('command', [['-m', 'dstnet_arch', 'train'], ['-m', 'basicsr.train']])
def test_missing_basicsr_names_the_command_that_installs_it(
    run_python: RunPython, tmp_path: Path, command: list[str]
) -> None:
    hide = """
        import importlib.machinery, runpy, sys
        find = importlib.machinery.PathFinder.find_spec
        def find_spec(name, path=None, target=None):
            return None if name == 'basicsr' else find(name, path, target)
        importlib.machinery.PathFinder.find_spec = find_spec
    """
    (tmp_path / 'sitecustomize.py').write_text(dedent(hide))
    done = run_python(*command, '-opt', 'x.yml', cwd=tmp_path, PYTHONPATH=str(tmp_path))
    assert done.stderr.count('BasicSR is not installed. Install it with: dstnet setup-basicsr\n') == 1
    assert 'Traceback' not in done.stderr
    assert done.returncode in (1, 2)


@pytest.mark.parametrize(
    ('failure', 'expected'),
    [
        ("RuntimeError('operator torchvision::nms does not exist')", 'pip install --upgrade --force-reinstall torch'),
        ("RuntimeError('something else')", 'RuntimeError: something else'),
    ],
)
def test_mismatched_torchvision_is_explained(
    run_python: RunPython, tmp_path: Path, failure: str, expected: str
) -> None:
    fake_basicsr(tmp_path, f'raise {failure}')
    done = run_python('-c', 'import basicsr', cwd=tmp_path)
    assert done.returncode == 1
    assert expected in done.stderr.splitlines()[-1]
    assert 'nms' not in failure or done.stderr.splitlines()[-1].startswith('ImportError')


def test_moved_modules_are_supplied_only_if_they_are_missing(run_python: RunPython, tmp_path: Path) -> None:
    (tmp_path / 'torchvision' / 'transforms').mkdir(parents=True)
    (tmp_path / 'torchvision' / '__init__.py').touch()
    (tmp_path / 'torchvision' / 'transforms' / '__init__.py').touch()
    (tmp_path / 'torchvision' / 'transforms' / 'functional.py').write_text("rgb_to_grayscale = 'moved'")
    fake_basicsr(tmp_path, 'from torchvision.transforms.functional_tensor import rgb_to_grayscale')
    code = f'{BROKEN}import basicsr; print(basicsr.rgb_to_grayscale)'
    assert run_python('-c', code, cwd=tmp_path).stdout == 'moved\n'
    (tmp_path / 'torchvision' / 'transforms' / 'functional_tensor.py').write_text("rgb_to_grayscale = 'still there'")
    assert run_python('-c', code, cwd=tmp_path).stdout == 'still there\n'


@pytest.mark.slow
def test_network_needs_only_pytorch(run_python: RunPython, tmp_path: Path) -> None:
    code = """
        import sys
        for name in ('av', 'basicsr', 'cv2', 'data_prep', 'lmdb', 'mmcv', 'psutil', 'pydantic', 'safetensors', 'scipy',
                     'skimage', 'torchvision', 'tqdm', 'yaml'):
            sys.modules[name] = None  # importing it fails
        import dstnet_arch
        print('torch' in sys.modules)
        import torch
        from dstnet_arch import DSTNet, Streamer, load_checkpoint
        net = DSTNet(num_feat=8, num_block=1)
        torch.save({'params': net.state_dict()}, 'net.pth')
        with torch.no_grad():
            print(load_checkpoint('net.pth')(torch.rand(1, 2, 3, 16, 16)).shape == (1, 2, 3, 16, 16))
    """
    done = run_python('-W', 'error', '-c', dedent(code), cwd=tmp_path)
    assert done.stdout.split() == ['False', 'True'], done.stderr
    assert done.stderr == ''


def test_public_names() -> None:
    import dstnet_arch

    assert {'DSTNet', 'load_checkpoint', '__version__'} <= set(dir(dstnet_arch))
    with pytest.raises(AttributeError, match='no attribute'):
        _ = dstnet_arch.DTSNet


def test_installed_hook_is_current(root: Path) -> None:
    installed = find_spec('_dstnet_arch_hook')
    assert installed is not None
    assert installed.origin is not None
    source = root / 'dstnet_arch' / 'plugin' / 'startup' / '_dstnet_arch_hook.py'
    assert Path(installed.origin).read_text() == source.read_text(), 'the hook has changed: pip install -e . again'


# Registration


def test_missing_part_is_named_and_foreign_objects_are_not_replaced(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from basicsr.utils.registry import Registry

    part = ModuleType('a_part')
    part.Sharpen = type('Sharpen', (), {})  # type: ignore[attr-defined]
    theirs = type('Blur', (), {'__module__': 'their_plugin'})
    part.Blur = type('Blur', (), {})  # type: ignore[attr-defined]
    registry = Registry('arch')
    registry.register(theirs)
    parts = [('ARCH', 'Missing', 'missing_module'), ('ARCH', 'Blur', 'a_part'), ('ARCH', 'Sharpen', 'a_part')]
    monkeypatch.setitem(sys.modules, 'a_part', part)
    monkeypatch.setitem(sys.modules, 'basicsr.utils.registry', SimpleNamespace(ARCH=registry))
    monkeypatch.setattr(registration, 'PARTS', parts)
    for _ in range(2):
        registration.register_all()
        missing, other = capsys.readouterr().err.splitlines()
        assert 'Missing is not available in BasicSR: ModuleNotFoundError' in missing
        assert 'their_plugin has registered another Blur' in other
    assert registry.get('Blur') is theirs
    assert registry.get('Sharpen') is part.Sharpen
