"""`dstnet doctor`."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import pytest
import torch
from conftest import RunPython

from dstnet_arch import doctor
from dstnet_arch.benchmarks import device_checks
from dstnet_arch.benchmarks.device_checks import Check
from dstnet_arch.ops import native

CPU = torch.device('cpu')


def test_doctor_shows_versions_kernels_and_precisions(capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor.command(['--device', 'cpu', '-o', __file__]) == 0  # written with --full only
    shown = capsys.readouterr().out
    assert torch.__version__ in shown
    assert 'compiled CPU kernels' in shown
    assert 'fp32 (float32), the default' in shown
    assert 'not supported: precision tf32 needs an NVIDIA GPU' in shown
    assert 'without tiles' in shown


def test_doctor_fails_if_the_kernels_fail(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def broken() -> bool:
        warnings.warn('results are wrong', native.NativeWarning, stacklevel=1)
        return False

    monkeypatch.setattr(native, 'available', broken)
    assert doctor.command(['--device', 'cpu']) == 1
    shown = capsys.readouterr().out
    assert 'FAIL  compiled CPU kernels: results are wrong' in shown
    assert 'Failed: compiled CPU kernels.' in shown


def test_full_checks_continue_after_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(device: torch.device) -> None:
        raise RuntimeError('no such operator')

    for name in ('_gradients', '_streaming', '_compilation'):
        monkeypatch.setattr(device_checks, name, lambda device: iter([Check('fine', True, '')]))
    monkeypatch.setattr(device_checks, '_parity', fail)
    monkeypatch.setattr(device_checks.torch.cuda, 'is_available', lambda: False)
    checks = list(device_checks.full_checks(CPU))
    assert [check.ok for check in checks] == [False, True, True, True]
    assert checks[0].detail == 'RuntimeError: no such operator'


def test_streaming_check_passes_and_detects_differences() -> None:
    assert all(check.ok for check in device_checks._streaming(CPU))
    assert not device_checks._compare('x', torch.zeros(3), torch.ones(3), 1e-5).ok


@pytest.mark.slow
def test_full_doctor_writes_json_with_pytorch_alone(run_python: RunPython, tmp_path: Path) -> None:
    missing = ('basicsr', 'cv2', 'lmdb', 'mmcv', 'pydantic', 'scipy', 'skimage', 'tqdm', 'yaml', 'psutil', 'av')
    code = (
        f'import sys; sys.modules.update(dict.fromkeys({missing}))\n'
        'from dstnet_arch.benchmarks import device_checks\n'
        'device_checks._compilation = lambda device: iter(())\n'  # its C++ compiler takes a minute
        'from dstnet_arch.__main__ import main\n'
        'sys.exit(main(["doctor", "--device", "cpu", "--full", "-o", "out"]))\n'
    )
    done = run_python('-c', code, cwd=tmp_path, OMP_NUM_THREADS='1')
    assert done.returncode == 0, done.stderr
    (path,) = tmp_path.glob('out/*_doctor_cpu.json')
    checks = json.loads(path.read_text())['results']
    assert all(check['ok'] for check in checks)
    assert 'DSTNet output, fp32' in {check['name'] for check in checks}
    assert list(tmp_path.glob('out/*_forward_cpu.json'))
