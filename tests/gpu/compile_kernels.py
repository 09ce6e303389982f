"""Compile every Triton kernel for GPUs, without a GPU: ``TRITON_INTERPRET=0 python compile_kernels.py 75 90``.

Prints one JSON object a line: kernel, type, compute capability, registers, bytes of spilled registers, atomics,
sizes of frames that are compiled in.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from inspect import signature
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, compile

from dstnet_arch.ops import channel_filter_triton as channel
from dstnet_arch.ops import elementwise_triton as elementwise
from dstnet_arch.ops import haar_triton as haar
from dstnet_arch.ops import pixel_filter_triton as pixel
from dstnet_arch.ops.triton_utils import ELEMENTS, PIXELS

SIZES = (
    'num_pixel',
    'height',
    'width',
    'low_height',
    'low_width',
    'frame_stride',
)  # of frames, which are not compiled in
BLOCK = {'PIXELS': PIXELS, 'CHANNELS': 64}
KERNELS: list[tuple[Any, dict[str, Any], dict[str, int]]] = [
    *(
        (pixel._filter, {'ADD': add, 'TRANSPOSED': transposed, **BLOCK}, {'num_warps': pixel.WARPS})
        for add, transposed in ((False, False), (True, False), (False, True))
    ),
    (pixel._filter_gradient, {'COLUMNS': 16, 'CHANNELS': 64}, {}),
    *(
        case
        for gated in (False, True)
        for case in (
            (channel._forward, {'GATED': gated, **BLOCK}, {'num_warps': channel.WARPS[gated]}),
            (channel._backward, {'GATED': gated, **BLOCK}, {'num_warps': channel.WARPS[gated]}),
            (channel._filter_gradient, {'GATED': gated, 'ROWS': 16, 'PIXELS': 4 * PIXELS, 'CHANNELS': 64}, {}),
        )
    ),
    (elementwise._add_bias, {'LEAKY': True, 'RESIDUAL': False, 'ELEMENTS': ELEMENTS}, {}),
    (elementwise._add_bias, {'LEAKY': False, 'RESIDUAL': True, 'ELEMENTS': ELEMENTS}, {}),
    (elementwise._gated_sum, {'ELEMENTS': ELEMENTS}, {}),
    (elementwise._gated_sum_backward, {'ELEMENTS': ELEMENTS}, {}),
    (elementwise._layer_norm, {'PIXELS': 32, 'CHANNELS': 64}, {}),
    (haar._haar, {'BACKWARD': False, **BLOCK}, {}),
    (haar._haar, {'BACKWARD': True, **BLOCK}, {}),
]


def compile_kernel(
    kernel: Any, constants: dict[str, Any], options: dict[str, int], dtype: str, capability: int
) -> dict[str, Any]:
    types = {n: f'*{dtype}' if n.endswith('_ptr') else 'i32' for n in kernel.arg_names}
    if kernel is channel._filter_gradient:
        types['out_ptr'] = '*fp32'
    types |= {name: 'fp32' for name in ('slope', 'eps') if name in types}
    if 'constexprs' in signature(ASTSource).parameters:
        kinds = {n: 'constexpr' if n in constants else types[n] for n in kernel.arg_names}
        positions = {(kernel.arg_names.index(n),): value for n, value in constants.items()}
        # As Triton specialises at a launch: aligned tensors, multiples of 16 channels.
        aligned = [i for i, n in enumerate(kernel.arg_names) if n.endswith('_ptr') or n in ('num_channel', 'numel')]
        attrs = {(i,): [['tt.divisibility', 16]] for i in aligned}
        source = ASTSource(fn=kernel, signature=kinds, constexprs=positions, attrs=attrs)
    else:  # Triton before 3.3
        kinds = {n: types[n] for n in kernel.arg_names if n not in constants}
        source = ASTSource(fn=kernel, signature=kinds, constants=constants)
    compiled = compile(source, target=GPUTarget('cuda', capability, 32), options=options)
    found = {'kernel': kernel.__name__, 'constants': constants, 'dtype': dtype, 'capability': capability}
    atomics = len(re.findall(r'\b(?:atom|red)\.', compiled.asm['ptx']))
    fixed = [p.name for p in kernel.params if p.name in SIZES and not p.do_not_specialize]
    return {**found, **resources(compiled.asm['cubin']), 'atomics': atomics, 'fixed_sizes': fixed}


def resources(cubin: bytes) -> dict[str, int]:
    """Registers and spilled bytes, by NVIDIA's `cuobjdump`, which Triton contains."""
    program = Path(triton.__file__).parent / 'backends/nvidia/bin/cuobjdump'
    with tempfile.NamedTemporaryFile(suffix='.cubin') as file:
        file.write(cubin)
        file.flush()
        text = subprocess.run([program, '-res-usage', file.name], capture_output=True, text=True, check=True).stdout
    registers, stack, local = (int(re.findall(rf'{name}:(\d+)', text)[-1]) for name in ('REG', 'STACK', 'LOCAL'))
    return {'registers': registers, 'spilled': max(stack, local)}


if __name__ == '__main__':
    for capability in map(int, sys.argv[1:]):
        for dtype in ('fp32', 'fp16', 'bf16'):
            for case in KERNELS:
                print(json.dumps(compile_kernel(*case, dtype, capability)), flush=True)
