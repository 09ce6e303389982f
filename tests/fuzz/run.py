"""Feed changed files to everything that reads files: ``python tests/fuzz/run.py --seconds 60``.

Atheris (libFuzzer) changes good inputs, guided by which of this project's lines they reach; `targets.py` says what may
come of it. Every target runs in a process of its own, so that a crash of a library or a hang is found as well; then it
is started again until its time is over. Inputs that fail are kept, and one line of each kind of failure is printed.

Exit status: 0 where nothing was found, 1 otherwise, 2 without Atheris: ``pip install atheris``.
"""

from __future__ import annotations

import argparse
import hashlib
import mmap
import os
import platform
import re
import signal
import struct
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

HANG_SECONDS = 20
MOST_MEGABYTES = 4096
NAMES = ('options', 'picture', 'meta_info', 'video', 'pth', 'pickle', 'safetensors', 'state')


def main() -> int:
    """Run the targets that the command line names, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('targets', nargs='*', metavar='TARGET', help=f'{", ".join(NAMES)}; by default all')
    parser.add_argument('--seconds', type=int, default=60, help='for each target (%(default)s)')
    parser.add_argument('--keep', type=Path, default=Path('fuzz_found'), help='for inputs that fail (%(default)s)')
    parser.add_argument('--child', nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if unknown := [name for name in args.targets if name not in NAMES]:
        parser.error(f'{unknown[0]} given; allowed: {", ".join(NAMES)}')
    if find_spec('atheris') is None:
        print('error: fuzzing needs Atheris, on Linux: pip install atheris', file=sys.stderr)
        return 2
    if args.child:
        _child(args.targets[0], args.seconds, Path(args.child[0]), Path(args.child[1]))
        return 0
    rows = []
    found: list[Path] = []
    for name in args.targets or NAMES:
        count, kinds = _target(name, args.seconds, args.keep)
        rows.append((name, f'{count:,}', str(len(kinds))))
        found += kinds
        print(f'{name}: {count:,} inputs, {len(kinds)} kinds of failure', flush=True)
    print(
        f'\n{date.today()}, {platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, '
        f'{args.seconds} s each\n'
    )
    for row in (('target', 'inputs', 'failures'), ('---', '---:', '---:'), *rows):
        print(f'| {" | ".join(row)} |')
    for path in found:
        print(f'{path}: {_last_line(path.with_suffix(".txt"))}')
    return 1 if found else 0


def _target(name: str, seconds: int, keep: Path) -> tuple[int, list[Path]]:
    """Try one target until its time is over: how many inputs, and the files of those that failed."""
    end = time.monotonic() + seconds
    kept = keep / name
    with TemporaryDirectory(prefix='fuzz_') as folder:
        counter = Path(folder, 'count')
        counter.write_bytes(bytes(8))
        while (left := round(end - time.monotonic())) > 0:
            command = [sys.executable, __file__, name, '--seconds', str(left), '--child', str(counter), str(kept)]
            done = subprocess.run(command, capture_output=True, text=True, errors='replace')
            if done.returncode != 0:
                _note_crash(done, kept)
        for slow in kept.glob('slow-unit-*'):  # no failure
            slow.unlink()
        return struct.unpack('q', counter.read_bytes())[0], sorted(kept.glob('*.bin'))


def _note_crash(done: subprocess.CompletedProcess[str], kept: Path) -> None:
    """Keep what libFuzzer left of a process that has ended before its time."""
    kept.mkdir(parents=True, exist_ok=True)
    if done.returncode < 0:
        reason = signal.Signals(-done.returncode).name
    else:
        lines = [line for line in done.stderr.splitlines() if 'ERROR: libFuzzer' in line or 'SUMMARY' in line]
        reason = lines[-1] if lines else f'exit status {done.returncode}'
    for artifact in [path for path in kept.iterdir() if path.name.startswith(('crash-', 'oom-', 'timeout-'))]:
        _keep(kept, artifact.read_bytes(), re.sub(r'\d+', 'N', reason), done.stderr[-20_000:] + f'\n{reason}')
        artifact.unlink()
        return
    _keep(kept, b'', reason, done.stderr[-20_000:] + f'\n{reason}')


def _keep(folder: Path, data: bytes, kind: str, text: str) -> None:
    """Keep an input, the first of its kind."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f'{hashlib.sha256(kind.encode()).hexdigest()[:12]}.bin'
    if not path.exists():
        path.write_bytes(data)
        path.with_suffix('.txt').write_text(text, encoding='utf-8', errors='replace')


def _last_line(path: Path) -> str:
    return path.read_text(encoding='utf-8', errors='replace').rstrip().splitlines()[-1][:160]


# In the process of a target


def _child(name: str, seconds: int, counter: Path, kept: Path) -> None:
    import atheris

    with atheris.instrument_imports(include=['dstnet_arch', 'data_prep', 'yaml']):
        import targets
    target = targets.TARGETS[name]
    shared = Path('/dev/shm')
    with TemporaryDirectory(prefix='fuzz_', dir=shared if shared.is_dir() else None) as folder:
        corpus, work = Path(folder, 'corpus'), Path(folder, 'work')
        corpus.mkdir()
        work.mkdir()
        kept.mkdir(parents=True, exist_ok=True)
        for i, seed in enumerate(target.seeds()):
            (corpus / str(i)).write_bytes(seed)
        with _counting(counter) as count:

            def one(data: bytes) -> None:
                count()
                try:
                    targets.check(target, data, work)
                except (Exception, RecursionError) as error:
                    places = [f'{frame.filename}:{frame.lineno}' for frame in traceback.extract_tb(error.__traceback__)]
                    _keep(
                        kept, data, f'{type(error).__name__} {places[-1]}', ''.join(traceback.format_exception(error))
                    )

            longest = 2 * max(map(len, target.seeds()))
            atheris.Setup(
                [
                    name,
                    str(corpus),
                    f'-max_total_time={seconds}',
                    f'-max_len={longest}',
                    f'-timeout={HANG_SECONDS}',
                    f'-rss_limit_mb={MOST_MEGABYTES}',
                    f'-artifact_prefix={kept}/',
                ],
                one,
            )
            atheris.Fuzz()


@contextmanager
def _counting(path: Path) -> Iterator[object]:
    """A function that counts its calls in a file, which outlives a crash."""
    with open(path, 'r+b') as file, mmap.mmap(file.fileno(), 8) as shared:

        def count() -> None:
            shared[:8] = struct.pack('q', struct.unpack('q', shared[:8])[0] + 1)

        yield count


if __name__ == '__main__':
    sys.exit(main())
