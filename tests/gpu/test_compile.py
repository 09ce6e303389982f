"""The kernels compile for all GPUs; torch.compile captures the networks as one graph."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from gpu_trace import make

from dstnet_arch.archs.dstnet_arch import DSTNet


def compile_kernels(run_python: Callable[..., Any], tmp_path: Path, *capabilities: int) -> list[dict[str, Any]]:
    pytest.importorskip('triton', reason='Triton is not installed: it comes with PyTorch on Linux')
    variables = {'TRITON_CACHE_DIR': str(tmp_path), 'TRITON_INTERPRET': '0'}
    program = Path(__file__).with_name('compile_kernels.py')
    found = run_python('-W', 'ignore', program, *capabilities, cwd=tmp_path, timeout=800, **variables)
    assert found.returncode == 0, found.stderr
    return [json.loads(line) for line in found.stdout.splitlines()]


def assert_efficient(kernels: list[dict[str, Any]]) -> None:
    assert [k for k in kernels if k['spilled'] or k['atomics'] or k['fixed_sizes']] == []


@pytest.mark.slow
def test_kernels_compile_for_a_gpu(run_python: Callable[..., Any], tmp_path: Path) -> None:
    kernels = compile_kernels(run_python, tmp_path, 90)
    assert len(kernels) == 3 * 17
    assert_efficient(kernels)


@pytest.mark.slow
@pytest.mark.extended
def test_kernels_compile_for_all_gpus(run_python: Callable[..., Any], tmp_path: Path) -> None:
    kernels = compile_kernels(run_python, tmp_path, 75, 80, 86, 89)
    assert len(kernels) == 4 * 3 * 17
    assert_efficient(kernels)


@pytest.mark.usefixtures('fake_gpu')
@pytest.mark.parametrize('part', ['step', 'network'])
def test_compiled_network_is_one_graph_with_the_fused_operations(part: str) -> None:
    net = make(DSTNet, num_feat=16, num_block=1, num_cwgdn=1).eval()
    graphs: list[torch.fx.GraphModule] = []

    def backend(graph: torch.fx.GraphModule, inputs: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    if part == 'step':
        x = torch.empty(1, 16, 32, 48, device='cuda').contiguous(memory_format=torch.channels_last)
        run, inputs = net.forward_dtff, (x, x)
    else:
        run, inputs = net, (torch.empty(1, 2, 3, 64, 96, device='cuda'),)
    torch._dynamo.reset()
    with torch.no_grad():
        torch.compile(run, fullgraph=True, backend=backend)(*inputs)
    assert len(graphs) == 1
    called = [str(node.target) for node in graphs[0].graph.nodes if node.op == 'call_function']
    assert any('pixel_filter' in name.lower() or 'autograd' in name for name in called), called
