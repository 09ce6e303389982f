"""Metadata of the distribution, and the build step that copies the start-up hook and the options files."""

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


class CopyFiles(Command):
    """Copy what setuptools has no declaration for.

    The start-up hook goes to the top of site-packages (``data_files`` would land elsewhere), the options files go
    into the package as ``dstnet_arch/options``. An editable install reads the options in the checkout.
    """

    user_options: list[tuple[str, str, str]] = []
    editable_mode = False  # set by setuptools

    def initialize_options(self) -> None:
        self.build_lib: Any = None

    def finalize_options(self) -> None:
        self.set_undefined_options('build_py', ('build_lib', 'build_lib'))

    def run(self) -> None:
        for target, source in self._copies().items():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / source, target)

    def get_outputs(self) -> list[str]:
        return [str(target) for target in self._copies()]

    def get_source_files(self) -> list[str]:
        return [str(source) for source in self._copies().values()]

    def _copies(self) -> dict[Path, Path]:
        # The wheel of an editable install is packed from the folder given to `install`, not from build_lib.
        top = Path(self.get_finalized_command('install').install_lib if self.editable_mode else self.build_lib)
        copies = {top / name: STARTUP / name for name in STARTUP_FILES}
        if not self.editable_mode:
            options = (path.relative_to(ROOT) for path in sorted((ROOT / 'options').rglob('*.yml')))
            copies |= {top / 'dstnet_arch' / path: path for path in options}
        return copies


class Build(build):
    """The standard build and the copies, without modules that an earlier build left in the build folder."""

    sub_commands = [*build.sub_commands, ('copy_files', None)]

    def run(self) -> None:
        shutil.rmtree(self.build_lib, ignore_errors=True)
        super().run()


def read_version() -> str:
    source = (ROOT / 'dstnet_arch' / '_version.py').read_text('utf-8')
    found = re.search(r"^__version__ = '(.+)'$", source, re.MULTILINE)
    assert found is not None
    return found.group(1)


EXTRAS = {
    'video': ['mmcv-lite>=2.2.0', 'mmengine>=0.10.7'],  # data_prep synthesize reads videos through mmcv
    'completion': ['shtab>=1.7'],  # makes the scripts of dstnet completion
    'ui': ['gradio>=6'],  # the page of dstnet ui
    'export': ['onnx', 'onnxruntime', 'onnxscript'],
    'test': ['hypothesis', 'pytest', 'pytest-xdist', 'PyWavelets'],
    'dev': [
        'build',
        'codespell',
        'import-linter',
        'mypy',
        'ruff',
        'twine',
        'types-psutil',
        'types-PyYAML',
        'types-requests',
        'types-tqdm',
    ],
    'docs': ['ipykernel', 'mkdocs-material', 'mkdocstrings[python]', 'nbclient'],  # the site; the notebook's test
    'fuzz': ["atheris; sys_platform == 'linux'"],
}
EXTRAS['test'] += EXTRAS['completion'] + EXTRAS['ui'] + EXTRAS['video'] + EXTRAS['export']

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
    package_data={
        'dstnet_arch': ['py.typed', 'templates/*', 'metrics/*.json', 'ops/native.c', 'plugin/basicsr_build/*.py']
    },
    python_requires='>=3.10',
    install_requires=[
        'torch>=2.6',  # before, weights_only=True could be bypassed (CVE-2025-32434)
        'torchvision>=0.21',
        # For train and test, where pip can build it: its setup.py fails on Python 3.13, and with the pip before 23.1
        # that Python up to 3.11.3 brings. There, dstnet setup-basicsr installs it.
        'basicsr>=1.4.2; python_full_version >= "3.11.4" and python_version < "3.13"',
        'av>=17.1,<19',  # reads and writes video files; 19 drops an argument that is used
        'filelock>=3.12',
        'imageio-ffmpeg>=0.6',  # the ffmpeg program, which copies sound and other streams to the deblurred video
        'jinja2>=3.1',  # the HTML reports
        'lmdb>=1.4.1',
        'matplotlib>=3.7',  # the figures of dstnet visualize and dstnet complexity
        'numpy>=1.24',
        'opencv-python>=4.7',
        'pillow>=10.1',  # reads an image's size without decoding it
        'psutil>=5.9',  # free memory
        'pydantic>=2.7',
        'pyyaml>=6.0.1',
        'requests>=2.28',
        'safetensors>=0.4',
        'scikit-image>=0.20',  # its photographs make the sample set
        'scipy>=1.10',
        'setuptools; python_version >= "3.12"',  # BasicSR imports distutils, which Python dropped in 3.12
        'tqdm>=4.64',
        'typing-extensions>=4.10',  # @override, until Python 3.12 is the oldest
    ],
    extras_require=EXTRAS,
    entry_points={'console_scripts': ['dstnet = dstnet_arch.__main__:main']},
    cmdclass={'build': Build, 'copy_files': CopyFiles},
)
