"""What is built and installed: source distribution, wheel, start-up hook, options files, and their removal."""

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
from dstnet_arch.errors import DSTNetError
from dstnet_arch.plugin import setup_basicsr

HOOK = {'_dstnet_arch_hook.py', 'dstnet_arch.pth', 'dstnet_arch.start'}


@pytest.fixture(scope='module')
def sdist(run_python: RunPython, root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The unpacked source distribution, made from a copy of the checkout with an old build folder."""
    folder = tmp_path_factory.mktemp('sdist')
    for name in ('data_prep', 'docs', 'dstnet_arch', 'options', 'tests', '.ci'):
        shutil.copytree(root / name, folder / 'source' / name, ignore=shutil.ignore_patterns('__pycache__'))
    for path in root.iterdir():
        if path.is_file() and path.name != '.git':
            shutil.copy(path, folder / 'source')
    done = run_python('-c', 'from setuptools import build_meta; build_meta.build_sdist("..")', cwd=folder / 'source')
    assert done.returncode == 0, done.stderr
    (archive,) = folder.glob('*.tar.gz')
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter='data') if sys.version_info >= (3, 12) else tar.extractall(folder)
    return folder / archive.name.removesuffix('.tar.gz')


@pytest.fixture(scope='module')
def wheel(run_python: RunPython, sdist: Path) -> Path:
    """The wheel made from the source distribution, in which an earlier build has left a module."""
    (sdist / 'build/lib/dstnet_arch').mkdir(parents=True)
    (sdist / 'build/lib/dstnet_arch/removed.py').touch()
    done = run_python('-c', 'from setuptools import build_meta; build_meta.build_wheel("..")', cwd=sdist)
    assert done.returncode == 0, done.stderr
    (path,) = sdist.parent.glob('*.whl')
    return path


def relative_files(root: Path, pattern: str) -> set[str]:
    return {path.relative_to(root).as_posix() for path in root.glob(pattern)}


def test_source_distribution_is_complete(sdist: Path, root: Path) -> None:
    for name in ('LICENSE', 'Makefile', 'CHANGELOG.md', 'CITATION.cff', 'mkdocs.yml', '.ci/run', 'tests/conftest.py'):
        assert (sdist / name).is_file(), name
    assert relative_files(sdist, 'options/**/*.yml') == relative_files(root, 'options/**/*.yml')


def test_wheel_has_packages_options_and_hook(wheel: Path, root: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        files = set(archive.namelist())
        for name in HOOK:
            assert archive.read(name) == (root / 'dstnet_arch' / 'plugin' / 'startup' / name).read_bytes()
    outside = {name for name in files if not name.startswith(('dstnet_arch/', 'data_prep/'))}
    assert {name for name in outside if '.dist-info/' not in name} == HOOK
    assert any('.dist-info/' in name and name.endswith('/LICENSE') for name in outside)
    expected = relative_files(root, 'dstnet_arch/**/*.py') | relative_files(root, 'data_prep/**/*.py')
    expected |= {f'dstnet_arch/{name}' for name in relative_files(root, 'options/**/*.yml')}
    expected |= {name for name in relative_files(root, 'dstnet_arch/**/*.*') if not name.endswith(('.pyc', *HOOK))}
    assert {'dstnet_arch/py.typed', 'dstnet_arch/ops/native.c', 'dstnet_arch/templates/base.html.j2'} <= expected
    assert expected <= files
    assert 'dstnet_arch/removed.py' not in files


@pytest.mark.extended
def test_build_makes_files_that_a_package_index_accepts(sdist: Path, run_python: RunPython, tmp_path: Path) -> None:
    pytest.importorskip('build')
    pytest.importorskip('twine')
    done = run_python('-m', 'build', '--no-isolation', '-o', tmp_path, sdist, cwd=tmp_path, timeout=600)
    assert done.returncode == 0, done.stderr
    files = sorted(tmp_path.iterdir())
    assert [path.suffix for path in files] == ['.whl', '.gz']
    done = run_python('-m', 'twine', 'check', '--strict', *files, cwd=tmp_path)
    assert done.stdout.count('PASSED') == 2, done.stdout


def test_extras_that_errors_name_exist(root: Path) -> None:
    sources = [*(root / 'dstnet_arch').rglob('*.py'), *(root / 'data_prep').glob('*.py')]
    named = {name for path in sources for name in re.findall(r'dstnet-arch\[(\w+)\]', path.read_text('utf-8'))}
    assert {'completion', 'export', 'video'} <= named <= set(metadata('dstnet-arch').get_all('Provides-Extra') or [])


def test_wheel_installs_and_uninstalls_completely(wheel: Path, run_python: RunPython, tmp_path: Path) -> None:
    subprocess.run([sys.executable, '-m', 'venv', '--without-pip', tmp_path / 'env'], check=True)
    python = tmp_path / 'env' / 'bin' / 'python'
    (site,) = (tmp_path / 'env').glob('lib/python*/site-packages')
    code = 'import sys; print([type(finder).__name__ for finder in sys.meta_path].count("BasicSRFinder"))'

    def pip(*arguments: object) -> None:
        done = run_python('-m', 'pip', '--python', python, *arguments, cwd=tmp_path)
        assert done.returncode == 0, done.stderr

    pip('install', '--no-deps', '--no-index', wheel)
    assert subprocess.check_output([python, '-I', '-c', code], text=True) == '1\n'
    (site / '_dstnet_arch_hook.py').rename(site / 'moved.py')
    done = subprocess.run([python, '-I', '-c', 'print(1)'], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ('1\n', ''), 'without its module, the .pth file must be silent'
    (site / 'moved.py').rename(site / '_dstnet_arch_hook.py')
    pip('uninstall', '--yes', 'dstnet-arch')
    assert list(site.glob('*')) == []
    assert not (tmp_path / 'env' / 'bin' / 'dstnet').exists()


def test_metadata() -> None:
    assert metadata('dstnet-arch')['Version'] == dstnet_arch.__version__
    assert metadata('dstnet-arch')['Requires-Python'] == '>=3.10'
    needed = requires('dstnet-arch') or []
    core = {re.split(r'[^\w-]', line)[0]: line for line in needed if 'extra ==' not in line}
    assert core.keys() >= {'torch', 'torchvision', 'av', 'lmdb', 'pyyaml', 'opencv-python', 'scipy', 'numpy', 'tqdm'}
    assert 'python_version < "3.13"' in core['basicsr']
    assert 'python_full_version >= "3.11.4"' in core['basicsr']
    assert not any('mmcv' in name for name in core)
    assert any('mmcv-lite' in line and 'video' in line for line in needed)


def test_citation_has_the_version_of_the_package(root: Path) -> None:
    assert f'\nversion: {dstnet_arch.__version__}\n' in (root / 'CITATION.cff').read_text('utf-8')


# dstnet setup-basicsr


def test_basicsr_builds_on_newer_pythons(run_python: RunPython, tmp_path: Path) -> None:
    # What BasicSR's setup.py does; without the help this fails from Python 3.13 on.
    (tmp_path / 'setup.py').write_text(
        'def get_version():\n'
        '    exec(compile("__version__ = \'1.4.2\'", "version.py", "exec"))\n'
        "    return locals()['__version__']\n"
        'a = 1\n'
        'exec("a += 1; b = a", globals())\n'
        'print(get_version(), b)\n'
    )
    done = run_python('setup.py', cwd=tmp_path, PYTHONPATH=str(setup_basicsr.BUILD_HELP))
    assert (done.stdout, done.stderr) == ('1.4.2 2\n', '')


@pytest.mark.parametrize('installer', ['pip', 'uv', 'none'])
def test_setup_basicsr_runs_the_installer_of_the_environment(monkeypatch: pytest.MonkeyPatch, installer: str) -> None:
    calls: list[list[str]] = []

    def run(command: list[str], env: dict[str, str]) -> subprocess.CompletedProcess[str]:
        calls.append([*command, env.get('PYTHONPATH', '')])
        return subprocess.CompletedProcess(command, int('basicsr==1.4.2' in command))

    def version(name: str) -> str:
        raise setup_basicsr.PackageNotFoundError(name)

    monkeypatch.setattr(setup_basicsr, 'version', version)
    monkeypatch.setattr(setup_basicsr, 'find_spec', lambda name: None if name != 'pip' or installer != 'pip' else name)
    monkeypatch.setattr(setup_basicsr.shutil, 'which', lambda name: '/bin/uv' if installer == 'uv' else None)
    monkeypatch.setattr(setup_basicsr.subprocess, 'run', run)
    expected = 'ensurepip' if installer == 'none' else r'basicsr==1\.4\.2 was not installed'
    with pytest.raises(DSTNetError, match=expected):
        setup_basicsr.command(['--', '--quiet'])
    if installer != 'none':
        start = [sys.executable, '-m', 'pip'] if installer == 'pip' else ['/bin/uv', 'pip']
        assert [call[: len(start)] for call in calls] == [start, start]
        assert {'setuptools', 'wheel', '--quiet'} <= set(calls[0])
        assert {'--no-build-isolation', 'basicsr==1.4.2', '--quiet'} <= set(calls[1])
        assert ('--use-pep517' in calls[1]) == (installer == 'pip')
        assert calls[1][-1] == str(setup_basicsr.BUILD_HELP)


# Continuous integration


@pytest.mark.parametrize('failing', ['', 'test', 'test-extended'])
def test_continuous_integration_fails_if_a_target_fails(root: Path, tmp_path: Path, failing: str) -> None:
    (tmp_path / 'make').write_text(f'#!/bin/sh\necho "$PWD: make $* ($CI)"\n[ "$1" != "{failing}" ]\n')
    (tmp_path / 'make').chmod(0o755)
    done = subprocess.run(
        [root / '.ci' / 'run'],
        cwd=tmp_path,
        env={'PATH': f'{tmp_path}:/usr/bin:/bin'},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert done.stdout == f'{root}: make test (true)\n{root}: make test-extended (true)\n'
    assert (done.returncode != 0) == bool(failing)
