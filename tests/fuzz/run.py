"""Feed damaged files to everything that reads files: python tests/fuzz/run.py --seconds 60.

Atheris (libFuzzer) changes good inputs, guided by the lines of this project that they reach; `targets.py` defines what
must not happen. Each target runs in a process of its own, so that crashes and hangs are found as well; after one, the
target is started again until its time is over. Inputs that fail are kept, the first of each kind of failure.

Exit status: 0 if nothing was found, 1 otherwise, 2 without Atheris (pip install atheris).
"""

from __future__ import annotations

import argparse
import hashlib
import os
import platform
import re
import signal
import subprocess
import sys
import time
import traceback
from datetime import date
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

HANG_SECONDS = 20
MEMORY_MB = 4096
NAMES = ('options', 'image', 'meta_info', 'video', 'pth', 'pickle', 'safetensors', 'state')


def main() -> int:
    """Run the targets that the command line names, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('targets', nargs='*', metavar='TARGET', help=f'{", ".join(NAMES)} (default: all)')
    parser.add_argument('--seconds', type=int, default=60, help='for each target (default: %(default)s)')
    parser.add_argument('--keep', type=Path, default=Path('fuzz_found'), help='for inputs that fail (%(default)s)')
    parser.add_argument('--child', nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if unknown := [name for name in args.targets if name not in NAMES]:
        parser.error(f'unknown target {unknown[0]}; expected {", ".join(NAMES)}')
    if find_spec('atheris') is None:
        print('error: fuzzing needs Atheris (Linux): pip install atheris', file=sys.stderr)
        return 2
    if args.child:
        _child(args.targets[0], args.seconds, Path(args.child[0]), Path(args.child[1]))
        return 0
    rows, found = [], []
    for name in args.targets or NAMES:
        count, kinds = _target(name, args.seconds, args.keep / name)
        rows.append((name, f'{count:,}', str(len(kinds))))
        found += kinds
        print(f'{name}: {count:,} inputs, {len(kinds)} kinds of failure', flush=True)
    print(f'\n{date.today()}, {platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}\n')
    for row in (('target', 'inputs', 'failures'), ('---', '---:', '---:'), *rows):
        print(f'| {" | ".join(row)} |')
    for path in found:
        print(f'{path}: {path.with_suffix(".txt").read_text(errors="replace").rstrip().splitlines()[-1][:160]}')
    return 1 if found else 0


def _target(name: str, seconds: int, kept: Path) -> tuple[int, list[Path]]:
    """Run one target until its time is over. Returns the number of inputs, and the files of those that failed."""
    end = time.monotonic() + seconds
    with TemporaryDirectory(prefix='fuzz_') as folder:
        counter = Path(folder, 'count')
        counter.touch()
        while (left := round(end - time.monotonic())) > 0:
            command = [sys.executable, __file__, name, '--seconds', str(left), '--child', str(counter), str(kept)]
            done = subprocess.run(command, capture_output=True, text=True, errors='replace')
            if done.returncode != 0:
                _keep_crash(done, kept)
        for slow in kept.glob('slow-unit-*'):  # not a failure
            slow.unlink()
        return counter.stat().st_size, sorted(kept.glob('*.bin'))


def _keep_crash(done: subprocess.CompletedProcess[str], kept: Path) -> None:
    """Keep the input that libFuzzer has left of a process that crashed."""
    kept.mkdir(parents=True, exist_ok=True)
    reason = f'exit status {done.returncode}'
    if done.returncode < 0:
        reason = signal.Signals(-done.returncode).name
    elif lines := [line for line in done.stderr.splitlines() if 'ERROR: libFuzzer' in line or 'SUMMARY' in line]:
        reason = lines[-1]
    data = b''
    for artifact in [path for path in kept.iterdir() if path.name.startswith(('crash-', 'oom-', 'timeout-'))]:
        data = artifact.read_bytes()
        artifact.unlink()
    _keep(kept, data, re.sub(r'\d+', 'N', reason), f'{done.stderr[-20_000:]}\n{reason}')


def _keep(folder: Path, data: bytes, kind: str, text: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f'{hashlib.sha256(kind.encode()).hexdigest()[:12]}.bin'
    if not path.exists():
        path.write_bytes(data)
        path.with_suffix('.txt').write_text(text, encoding='utf-8', errors='replace')


def _child(name: str, seconds: int, counter: Path, kept: Path) -> None:
    """Run one target in this process; the size of the file `counter` becomes the number of inputs."""
    import atheris

    with atheris.instrument_imports(include=['dstnet_arch', 'data_prep', 'yaml']):
        import targets
    target = targets.TARGETS[name]
    shared = Path('/dev/shm')
    with (
        TemporaryDirectory(prefix='fuzz_', dir=shared if shared.is_dir() else None) as folder,
        counter.open('ab', buffering=0) as count,
    ):
        corpus, work = Path(folder, 'corpus'), Path(folder, 'work')
        for path in (corpus, work, kept):
            path.mkdir(parents=True, exist_ok=True)
        for i, seed in enumerate(target.seeds()):
            (corpus / str(i)).write_bytes(seed)

        def one(data: bytes) -> None:
            count.write(b'.')
            try:
                targets.check(target, data, work)
            except Exception as error:
                last = traceback.extract_tb(error.__traceback__)[-1]
                kind = f'{type(error).__name__} {last.filename}:{last.lineno}'
                _keep(kept, data, kind, ''.join(traceback.format_exception(error)))

        longest = 2 * max(map(len, target.seeds()))
        limits = [f'-max_total_time={seconds}', f'-max_len={longest}', f'-timeout={HANG_SECONDS}']
        limits += [f'-rss_limit_mb={MEMORY_MB}', f'-artifact_prefix={kept}/']
        atheris.Setup([name, str(corpus), *limits], one)
        atheris.Fuzz()


if __name__ == '__main__':
    sys.exit(main())
