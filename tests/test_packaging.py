"""What is built and installed: the source distribution, the wheel made from it, the start-up hook, and its removal."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from importlib.metadata import metadata, requires
from pathlib import Path

import pytest
from conftest import RunPython

import dstnet_arch

HOOK = {'_dstnet_arch_hook.py', 'dstnet_arch.pth', 'dstnet_arch.start'}


@pytest.fixture(scope='module')
def sdist(run_python: RunPython, root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The unpacked source distribution, made from a copy of the checkout, which stays as it is."""
    folder = tmp_path_factory.mktemp('sdist')
    kept = ('data_prep', 'docs', 'dstnet_arch', 'options', 'tests', '.ci')
    for name in kept:
        if (root / name).is_dir():
            shutil.copytree(root / name, folder / 'source' / name, ignore=shutil.ignore_patterns('__pycache__'))
    for path in root.iterdir():
        if path.is_file():
            shutil.copy(path, folder / 'source')
    done = run_python('-c', 'from setuptools import build_meta; build_meta.build_sdist("..")', cwd=folder / 'source')
    assert done.returncode == 0, done.stderr
    (archive,) = folder.glob('*.tar.gz')
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter='data') if sys.version_info >= (3, 12) else tar.extractall(folder)
    return folder / archive.name.removesuffix('.tar.gz')


@pytest.fixture(scope='module')
def wheel(run_python: RunPython, sdist: Path) -> Path:
    """The wheel made from the source distribution."""
    done = run_python('-c', 'from setuptools import build_meta; build_meta.build_wheel("..")', cwd=sdist)
    assert done.returncode == 0, done.stderr
    (path,) = sdist.parent.glob('*.whl')
    return path


def test_source_distribution_is_whole(sdist: Path, root: Path) -> None:
    for name in ('LICENSE', 'Makefile', 'CHANGELOG.md', '.ci/run', '.ci/basicsr/sitecustomize.py', 'tests/conftest.py'):
        assert (sdist / name).is_file(), name
    assert {path.name for path in sdist.glob('options/*.yml')} == {path.name for path in root.glob('options/*.yml')}


def test_wheel_holds_the_packages_and_the_hook(wheel: Path, root: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        files = set(archive.namelist())
        for name in HOOK:
            assert archive.read(name) == (root / 'dstnet_arch' / 'plugin' / 'startup' / name).read_bytes()
    outside = {name for name in files if not name.startswith(('dstnet_arch/', 'data_prep/'))}
    assert {name for name in outside if '.dist-info/' not in name} == HOOK
    sources = {
        str(path.relative_to(root))
        for package in ('dstnet_arch', 'data_prep')
        for path in root.glob(f'{package}/**/*.py')
    }
    assert sources | {'dstnet_arch/py.typed', 'dstnet_arch/metrics/published.json'} <= files
    assert any('.dist-info/' in name and name.endswith('/LICENSE') for name in outside)


def test_installs_and_leaves_nothing_behind(wheel: Path, run_python: RunPython, tmp_path: Path) -> None:
    subprocess.run([sys.executable, '-m', 'venv', '--without-pip', tmp_path / 'env'], check=True)
    python = tmp_path / 'env' / 'bin' / 'python'
    (site,) = (tmp_path / 'env').glob('lib/python*/site-packages')
    code = 'import sys; print([type(finder).__name__ for finder in sys.meta_path].count("BasicSRFinder"))'

    def pip(*arguments: object) -> None:
        done = run_python('-m', 'pip', '--python', python, *arguments, cwd=tmp_path)
        assert done.returncode == 0, done.stderr

    pip('install', '--no-deps', '--no-index', wheel)
    assert subprocess.check_output([python, '-I', '-c', code], text=True) == '1\n'
    assert (tmp_path / 'env' / 'bin' / 'dstnet').is_file()
    pip('uninstall', '--yes', 'dstnet-arch')
    assert list(site.glob('*')) == []
    assert not (tmp_path / 'env' / 'bin' / 'dstnet').exists()


def test_a_hook_whose_module_is_gone_stays_silent(root: Path, tmp_path: Path) -> None:
    subprocess.run([sys.executable, '-m', 'venv', '--without-pip', tmp_path / 'env'], check=True)
    (site,) = (tmp_path / 'env').glob('lib/python*/site-packages')
    shutil.copy(root / 'dstnet_arch' / 'plugin' / 'startup' / 'dstnet_arch.pth', site)
    python = tmp_path / 'env' / 'bin' / 'python'
    done = subprocess.run([python, '-I', '-c', 'print(1)'], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ('1\n', '')


def test_metadata() -> None:
    assert metadata('dstnet-arch')['Version'] == dstnet_arch.__version__
    assert metadata('dstnet-arch')['Requires-Python'] == '>=3.10'
    needed = requires('dstnet-arch') or []
    core = {re.split(r'[^\w-]', line)[0] for line in needed if 'extra ==' not in line}
    assert core >= {'torch', 'torchvision', 'basicsr', 'lmdb', 'pyyaml', 'opencv-python', 'scipy', 'numpy', 'tqdm'}
    assert not any('mmcv' in name for name in core)
    assert any('mmcv-lite' in line and 'video' in line for line in needed)


def test_basicsr_is_built_on_newer_pythons(run_python: RunPython, root: Path, tmp_path: Path) -> None:
    # What BasicSR's setup.py does; without the file this fails from Python 3.13 on.
    (tmp_path / 'setup.py').write_text(
        'def get_version():\n'
        '    exec(compile("__version__ = \'1.4.2\'", "version.py", "exec"))\n'
        "    return locals()['__version__']\n"
        'a = 1\n'
        'exec("a += 1; b = a", globals())\n'
        'print(get_version(), b)\n'
    )
    done = run_python('setup.py', cwd=tmp_path, PYTHONPATH=str(root / '.ci' / 'basicsr'))
    assert (done.stdout, done.stderr) == ('1.4.2 2\n', '')


def test_continuous_integration_runs_make_test(root: Path, tmp_path: Path) -> None:
    (tmp_path / 'make').write_text('#!/bin/sh\necho "$PWD: make $* ($CI)"\n')
    (tmp_path / 'make').chmod(0o755)
    path = f'{tmp_path}:/usr/bin:/bin'
    done = subprocess.check_output([root / '.ci' / 'run'], cwd=tmp_path, env={'PATH': path}, text=True)
    assert done == f'{root}: make test (true)\n'
