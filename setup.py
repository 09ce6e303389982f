"""Metadata of the distribution, and the command that installs the start-up hook (dstnet_arch/plugin/startup)."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

from setuptools import Command, find_packages, setup
from setuptools.command.build import build

ROOT = Path(__file__).resolve().parent
STARTUP = Path('dstnet_arch', 'plugin', 'startup')
STARTUP_FILES = ('_dstnet_arch_hook.py', 'dstnet_arch.pth', 'dstnet_arch.start')


class BuildStartup(Command):
    """Copy the start-up hook to the top of site-packages, in wheels and in editable installs.

    setuptools has no declaration for that: ``data_files`` land elsewhere.
    """

    user_options: list[tuple[str, str, str]] = []
    editable_mode = False  # set by setuptools

    def initialize_options(self) -> None:
        self.build_lib: Any = None

    def finalize_options(self) -> None:
        self.set_undefined_options('build_py', ('build_lib', 'build_lib'))

    def run(self) -> None:
        self._target().mkdir(parents=True, exist_ok=True)
        for name in STARTUP_FILES:
            shutil.copyfile(ROOT / STARTUP / name, self._target() / name)

    def get_outputs(self) -> list[str]:
        return [str(self._target() / name) for name in STARTUP_FILES]

    def get_source_files(self) -> list[str]:
        return [str(STARTUP / name) for name in STARTUP_FILES]

    def _target(self) -> Path:
        # An editable install takes nothing from build_lib; what it packs is the folder given to `install`.
        return Path(self.get_finalized_command('install').install_lib if self.editable_mode else self.build_lib)


class Build(build):
    """The standard build, and the start-up hook."""

    sub_commands = [*build.sub_commands, ('build_startup', None)]


def read_version() -> str:
    source = (ROOT / 'dstnet_arch' / '_version.py').read_text('utf-8')
    found = re.search(r"^__version__ = '(.+)'$", source, re.MULTILINE)
    assert found is not None
    return found.group(1)


EXTRAS = {
    'video': ['mmcv-lite>=2.2.0', 'mmengine>=0.10.7'],  # data_prep synthesize reads videos through mmcv
    'export': ['onnx', 'onnxruntime', 'onnxscript'],
    'plot': ['matplotlib'],  # dstnet complexity --plot, dstnet benchmark growth --plot
    'test': ['hypothesis', 'matplotlib', 'pytest', 'PyWavelets'],
    'dev': ['mypy', 'ruff', 'types-psutil', 'types-PyYAML', 'types-tqdm'],
    'fuzz': ["atheris; sys_platform == 'linux'"],
}
EXTRAS['test'] += EXTRAS['video'] + EXTRAS['export']

setup(
    name='dstnet-arch',
    version=read_version(),
    description='DSTNet (CVPR 2023) video deblurring: train, test and use it on stock BasicSR',
    long_description=(ROOT / 'README.md').read_text('utf-8'),
    long_description_content_type='text/markdown',
    license='Apache-2.0',
    license_files=['LICENSE'],
    keywords=['video deblurring', 'video restoration', 'BasicSR', 'PyTorch'],
    classifiers=[
        'Development Status :: 4 - Beta',
        'Intended Audience :: Science/Research',
        'Operating System :: OS Independent',
        'Programming Language :: Python :: 3',
        'Programming Language :: Python :: 3.10',
        'Programming Language :: Python :: 3.11',
        'Programming Language :: Python :: 3.12',
        'Programming Language :: Python :: 3.13',
        'Topic :: Scientific/Engineering :: Image Processing',
    ],
    # The '.' makes an editable install a plain path, which editors and type checkers follow and which, unlike
    # setuptools' finder module, costs no time at the start of the interpreter.
    package_dir={'': '.'},
    packages=find_packages(include=['dstnet_arch', 'dstnet_arch.*', 'data_prep', 'data_prep.*']),
    package_data={'dstnet_arch': ['py.typed', 'metrics/*.json', 'ops/native.c']},
    python_requires='>=3.10',
    install_requires=[
        'torch>=2.6',  # before, weights_only=True could be broken out of (CVE-2025-32434)
        'torchvision>=0.21',
        'basicsr>=1.4.2',
        'av>=17.1,<19',  # reads and writes video files for dstnet deblur; 19 drops an argument that is used
        'filelock>=3.12',
        'lmdb>=1.4.1',
        'matplotlib>=3.6',  # figures of dstnet visualize and benchmark
        'numpy>=1.24',
        'opencv-python>=4.7',
        'pillow>=10.1',  # reads the size of an image without decoding it, and draws labels
        'psutil>=5.9',  # free memory on every system, from which deblur chooses tiles and where states are kept
        'pydantic>=2.4',
        'pyyaml>=6.0.1',
        'requests>=2.28',
        'safetensors>=0.4',
        'scikit-image>=0.20',  # its photographs make the sample set
        'scipy>=1.10',
        'setuptools; python_version >= "3.12"',  # BasicSR imports distutils, which Python dropped in 3.12
        'tqdm>=4.64',
    ],
    extras_require=EXTRAS,
    entry_points={'console_scripts': ['dstnet = dstnet_arch.__main__:main']},
    cmdclass={'build': Build, 'build_startup': BuildStartup},
)
