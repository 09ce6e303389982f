"""The formats: writing a network's graph, and running what was written."""

from __future__ import annotations

import io
import json
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dstnet_arch.errors import DSTNetError, OptionsError, first_line
from dstnet_arch.export.network import ClipNet, exportable

INPUT, OUTPUT = 'clip', 'restored'
"""Names of the graph's input and output in ONNX."""

METADATA = 'dstnet'
"""Where the metadata stand: in ONNX each under a key of its own that begins so; else in an extra file, as JSON."""

DEFAULT_OPSET = MIN_OPSET = 18  # what PyTorch's exporter writes; for others it converts, and not to older ones

Metadata = Mapping[str, str]
Run = Callable[[Tensor], Tensor]


class Format(NamedTuple):
    """One format.

    Attributes:
        title: as its makers call it.
        suffix: of its files.
        packages: what it needs beside PyTorch.
        write: (network, an example of a clip, path, opset, metadata); the opset is for ONNX alone.
        load: path -> the function that was exported.
    """

    title: str
    suffix: str
    packages: tuple[str, ...]
    write: Callable[[ClipNet, Tensor, Path, int, Metadata], None]
    load: Callable[[Path], Run]

    def check_packages(self) -> None:
        """Raise OptionsError where a package is missing."""
        missing = []
        for package in self.packages:
            try:
                import_module(package)
            except ImportError:
                missing.append(package)
        if missing:
            raise OptionsError(
                f'{self.title} needs {" and ".join(missing)}, which cannot be imported here: '
                f'pip install {" ".join(missing)}'
            )


def _write_onnx(net: ClipNet, clip: Tensor, path: Path, opset: int, metadata: Metadata) -> None:
    import onnx

    program = torch.onnx.export(_export(net, clip), dynamo=True, opset_version=opset, verbose=False)
    assert program is not None
    model = program.model_proto
    graph = model.graph
    for value, name in ((graph.input[0], INPUT), (graph.output[0], OUTPUT)):
        _rename(graph, value.name, name)
        value.name = name
        if net.dynamic:
            for dim, size in zip(value.type.tensor_type.shape.dim[-2:], ('height', 'width'), strict=True):
                dim.dim_param = size
    del graph.value_info[:]  # hints, under the old names
    for node in graph.node:
        del node.metadata_props[:]  # where in our code it comes from, with paths of this machine
    model.producer_name = 'dstnet-arch'
    model.producer_version = metadata['version']
    onnx.helper.set_model_props(model, {f'{METADATA}.{key}': value for key, value in metadata.items()})
    onnx.save(model, path)


def _rename(graph: Any, old: str, new: str) -> None:
    for node in graph.node:
        for names in (node.input, node.output):
            for number, name in enumerate(names):
                if name == old:
                    names[number] = new


def _load_onnx(path: Path) -> Run:
    onnxruntime = import_module('onnxruntime')  # without type information
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(path.read_bytes(), options, providers=['CPUExecutionProvider'])
    return lambda clip: torch.from_numpy(session.run([OUTPUT], {INPUT: clip.numpy()})[0])


def _write_torchscript(net: ClipNet, clip: Tensor, path: Path, opset: int, metadata: Metadata) -> None:
    with exportable():
        traced = torch.jit.trace(net, clip, check_trace=False)
    frozen = torch.jit.freeze(traced)  # weights that are merged from others are computed once, now
    with path.open('wb') as file:
        torch.jit.save(frozen, file, _extra_files={f'{METADATA}.json': json.dumps(dict(metadata))})


def _load_torchscript(path: Path) -> Run:
    with path.open('rb') as file:
        return torch.jit.load(file, map_location='cpu')


def _write_torch_export(net: ClipNet, clip: Tensor, path: Path, opset: int, metadata: Metadata) -> None:
    content = io.BytesIO()  # PyTorch, writing to a disk that is full, would end the process
    torch.export.save(_export(net, clip), content, extra_files={f'{METADATA}.json': json.dumps(dict(metadata))})
    path.write_bytes(content.getbuffer())


def _load_torch_export(path: Path) -> Run:
    with path.open('rb') as file:
        return torch.export.load(file).module()


def _export(net: ClipNet, clip: Tensor) -> torch.export.ExportedProgram:
    sides = {3: torch.export.Dim.DYNAMIC, 4: torch.export.Dim.DYNAMIC} if net.dynamic else None
    with exportable():
        return torch.export.export(net, (clip,), dynamic_shapes=(sides,), strict=False)


@contextmanager
def quiet() -> Iterator[None]:
    """Keep back what exporters have to say to those who write them."""
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        yield


FORMATS: Mapping[str, Format] = {
    'onnx': Format('ONNX', '.onnx', ('onnx', 'onnxscript', 'onnxruntime'), _write_onnx, _load_onnx),
    'torchscript': Format('TorchScript', '.pt', (), _write_torchscript, _load_torchscript),
    'torch_export': Format('torch.export', '.pt2', (), _write_torch_export, _load_torch_export),
}


def root_reason(error: BaseException) -> str:
    """What an error says at the bottom of it: exporters wrap errors in advice to those who write them."""
    while error.__cause__ is not None:
        error = error.__cause__
    return first_line(error)


def write(name: str, net: ClipNet, clip: Tensor, path: Path, opset: int, metadata: Metadata) -> None:
    """Write a network in the format of this name.

    Args:
        name: one of `FORMATS`.
        net: the network.
        clip: an example of what it takes, of the size that the graph is made for if it is made for one.
        path: where to; not yet to be relied on when this raises.
        opset: version of ONNX's operators; ignored by others.
        metadata: what to say about it in the file.

    Raises:
        DSTNetError: PyTorch cannot export this network so, or the file not be written.
    """
    chosen = FORMATS[name]
    try:
        with quiet():
            chosen.write(net, clip, path, opset, metadata)
    except OSError as error:
        raise DSTNetError(
            f'{path.parent} cannot be written to: {error}. Free some space or mend the permissions.'
        ) from None
    except Exception as error:  # exporters raise whatever their parts raise
        reason = root_reason(error)
        hint = ' Leave out --dynamic, and export for one size, or take another format.' if net.dynamic else ''
        raise DSTNetError(
            f'{type(net.net).__name__} cannot be exported as {chosen.title} here: {reason} (PyTorch '
            f'{torch.__version__}).{hint}'
        ) from error
