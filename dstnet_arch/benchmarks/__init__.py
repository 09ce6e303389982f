"""Measurements: ``dstnet benchmark KIND`` and ``dstnet complexity``. Our own networks need PyTorch alone for them."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from importlib import import_module

# One module beside this file for each kind, imported when called: add_arguments(parser), run(args).
KINDS = {
    'forward': 'restoring a clip: time and memory, against the plain schedule',
    'train': 'forward and backward: time and memory, against the plain schedule',
    'data': 'making an LMDB, against stock BasicSR, and loading training samples from it',
    'eval': 'what reading, scoring and saving add to a test run',
    'precision': 'what bf16, fp16 and TF32 change in restored videos, in dB, on given pictures',
    'runtimes': 'exported networks in ONNX Runtime, OpenVINO and TorchScript, against PyTorch',
    'growth': 'how time and memory grow with frames, pixels, width and batch',
    'stream': 'streaming: time and memory against the number of frames, and against whole clips',
    'latency': 'live streaming: what a short lookahead costs in PSNR, on given pictures',
}


def command(arguments: Sequence[str]) -> None:
    """``dstnet benchmark``: one kind a module, each with its own arguments."""
    parser = argparse.ArgumentParser(prog='dstnet benchmark', description='Measure, side by side in one process.')
    kinds = parser.add_subparsers(dest='kind', required=True, metavar='KIND')
    parsers = {kind: kinds.add_parser(kind, help=text, description=text) for kind, text in KINDS.items()}
    for kind in parsers.keys() & set(arguments[:1]):
        import_module(f'{__name__}.{kind}').add_arguments(parsers[kind])
    args = parser.parse_args(arguments)
    import_module(f'{__name__}.{args.kind}').run(args)
