"""Kill training, conversion and restoring many times, and see that nothing is lost: minutes, so no part of the tests.

python tests/soak/kills.py --kills 50
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from importlib import import_module
from pathlib import Path

from outcome import Outcome, heading

os.environ.setdefault('OMP_NUM_THREADS', '1')

WHAT = ('training', 'conversion', 'deblur')


def main() -> int:
    """Returns 0 where everything was as it should be."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--kills', type=int, default=50, help='of each kind of work')
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--only', choices=WHAT, nargs='+', default=WHAT)
    parser.add_argument('-o', '--output', type=Path, help='write the results to this JSON file')
    parser.add_argument('--folder', type=Path, help='to work in; by default a temporary one, removed if all is well')
    args = parser.parse_args()

    folder = args.folder or Path(tempfile.mkdtemp(prefix='kills-'))
    start = time.monotonic()

    def say(text: str) -> None:
        print(f'[{time.monotonic() - start:5.0f} s] {text}', flush=True)

    report = heading()
    faults = 0
    for what in args.only:
        soak = getattr(import_module(f'kill_{what}'), f'kill_{what}')
        (folder / what).mkdir(parents=True)
        since, outcome, interrupted = time.monotonic(), Outcome(), False
        try:
            soak(folder / what, args.kills, args.seed, outcome, say)
        except KeyboardInterrupt:
            interrupted = True
        report[what] = {
            'total': outcome.kills.total(),
            **vars(outcome),
            'seconds': round(time.monotonic() - since),
            'interrupted': interrupted,
        }
        faults += len(outcome.faults)
        if args.output:
            args.output.write_text(json.dumps(report, indent=2) + '\n')
    print(json.dumps(report, indent=2))
    if faults:
        print(f'{faults} faults; see {folder}')
    elif not args.folder:
        shutil.rmtree(folder)
    return 1 if faults else 0


if __name__ == '__main__':
    sys.exit(main())
