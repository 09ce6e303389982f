"""Files from elsewhere run no code and write nothing outside: weights, training states, options, names in data."""

from __future__ import annotations

import ast
import io
import json
import os
import pickle
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import yaml
from conftest import ROOT, RunPython
from PIL import Image

from dstnet_arch.archs.checkpoint import load_checkpoint, read_state_dict
from dstnet_arch.archs.dstnet_arch import DSTNet
from dstnet_arch.data.frame_source import open_source
from dstnet_arch.data.lmdb_format import META_INFO, check_key, parse_meta_line
from dstnet_arch.errors import CheckpointError, DataError, OptionsError, message_of
from dstnet_arch.models.checkpoints import translate_weight_errors
from dstnet_arch.models.validation import image_path
from dstnet_arch.plugin.options import force, read_options
from dstnet_arch.plugin.resume import read_state
from dstnet_arch.video.sink import FolderSink
from dstnet_arch.video.sources import open_source as open_video

SOURCES = [path for package in ('dstnet_arch', 'data_prep') for path in sorted((ROOT / package).rglob('*.py'))]


class Evil:
    """Creates a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.folder),)


def evil_files(content: Any) -> dict[str, bytes]:
    """All forms in which a pickle reaches `torch.load`."""
    zipped, legacy = io.BytesIO(), io.BytesIO()
    torch.save(content, zipped)
    torch.save(content, legacy, _use_new_zipfile_serialization=False)
    return {'zipped': zipped.getvalue(), 'legacy': legacy.getvalue(), 'bare': pickle.dumps(content, protocol=2)}


# The source code


def calls(path: Path) -> Iterator[tuple[str, ast.Call]]:
    for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


@pytest.mark.parametrize('package', ['dstnet_arch', 'data_prep'])
def test_source_code_evaluates_nothing_that_it_reads(package: str) -> None:
    forbidden = {'eval', 'exec', 'compile', 'os.system', 'os.popen', 'yaml.load', 'yaml.unsafe_load', 'yaml.full_load'}
    forbidden |= {
        f'{module}.{name}' for module in ('pickle', 'marshal', 'shelve') for name in ('load', 'loads', 'open')
    }
    loads = 0
    for path in (path for path in SOURCES if path.is_relative_to(ROOT / package)):
        for name, call in calls(path):
            given = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
            assert name not in forbidden, f'{path}:{call.lineno}'
            assert given.get('shell', 'False') == 'False', f'{path}:{call.lineno}'
            assert given.get('allow_pickle', 'False') == 'False', f'{path}:{call.lineno}'
            if name == 'torch.load':
                assert given.get('weights_only') == 'True', f'{path}:{call.lineno}'
                loads += 1
    assert (loads > 0) == (package == 'dstnet_arch')


def test_hook_runs_one_documented_line_at_interpreter_start() -> None:
    startup = ROOT / 'dstnet_arch/plugin/startup'
    line = "import sys; exec('try:\\n import _dstnet_arch_hook\\nexcept Exception:\\n pass\\nelse:\\n "
    assert (startup / 'dstnet_arch.pth').read_text(encoding='utf-8') == f"{line}_dstnet_arch_hook.install()')\n"
    assert (startup / 'dstnet_arch.start').read_text(encoding='utf-8') == '_dstnet_arch_hook:install\n'
    hook = ast.parse((startup / '_dstnet_arch_hook.py').read_text(encoding='utf-8'))
    at_start = [node for node in hook.body if not isinstance(node, (ast.FunctionDef, ast.ClassDef))]
    assert [type(node).__name__ for node in at_start] == ['Expr', 'Import', 'Assign']  # docstring, sys, MOVED
    modules = {alias.name for node in at_start if isinstance(node, ast.Import) for alias in node.names}
    assert modules == {'sys'}
    named = {name for name, _ in calls(startup / '_dstnet_arch_hook.py')}
    assert not named & {'open', 'exec', 'eval', 'compile', '__import__', 'print.write'}


# Weights and states


@pytest.mark.parametrize('form', ['zipped', 'legacy', 'bare'])
@pytest.mark.parametrize('name', ['x.pth', 'x.ckpt', 'x.safetensors', 'x'])
def test_weights_run_no_code(tmp_path: Path, form: str, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(evil_files({'params': {'a': torch.zeros(1), 'b': Evil(tmp_path / 'owned')}})[form])
    for read in (load_checkpoint, read_state_dict):
        with pytest.raises(CheckpointError, match='x'):
            read(path)
    assert not (tmp_path / 'owned').exists()


@pytest.mark.parametrize('form', ['zipped', 'legacy', 'bare', 'TorchScript', 'none'])
@pytest.mark.filterwarnings('ignore:.*TorchScript')
def test_error_of_weights_that_basicsr_loads_is_explained(tmp_path: Path, form: str) -> None:
    path = tmp_path / 'flow.pth'
    if form == 'TorchScript':
        torch.jit.save(torch.jit.script(torch.nn.Identity()), path)
    elif form != 'none':
        path.write_bytes(evil_files({'params': Evil(tmp_path / 'owned')})[form])
    told = 'No such file.*flow' if form == 'none' else 'can run code'
    with pytest.raises(CheckpointError, match=told), translate_weight_errors():
        torch.load(path)
    assert not (tmp_path / 'owned').exists()
    with pytest.raises(RuntimeError, match='its own'), translate_weight_errors():
        raise RuntimeError('its own')


@pytest.mark.parametrize('form', ['zipped', 'legacy', 'bare'])
def test_training_and_deblur_states_run_no_code(tmp_path: Path, form: str) -> None:
    state = tmp_path / '5.state'
    state.write_bytes(evil_files({'iter': 5, 'epoch': 0, 'optimizers': Evil(tmp_path / 'owned')})[form])
    with pytest.raises(CheckpointError, match='cannot be read'):
        read_state(state, {'path': {'models': str(tmp_path)}})

    Image.fromarray(np.zeros((2, 2, 3), np.uint8)).save(tmp_path / '0.png')
    source = open_video(str(tmp_path / '*.png'))
    sink = FolderSink(tmp_path / 'out', source, {'job': 1})
    sink.write(0, torch.zeros(3, 2, 2))
    sink.save(1, torch.zeros(1))
    sink.close()
    (tmp_path / 'out.partial/state.pt').write_bytes(
        evil_files({'position': 1, 'state': Evil(tmp_path / 'owned')})[form]
    )
    with pytest.raises(DataError, match='damaged'):
        FolderSink(tmp_path / 'out', source, {'job': 1}, resume=True)
    assert not (tmp_path / 'owned').exists()


@pytest.mark.parametrize(
    'counts', [{'iter': '../../x', 'epoch': 0}, {'iter': -1, 'epoch': 0}, {'iter': 5, 'epoch': None}]
)
def test_counts_of_a_state_are_numbers(tmp_path: Path, counts: dict[str, Any]) -> None:
    torch.save(counts, tmp_path / '5.state')
    with pytest.raises(CheckpointError, match='whole numbers'):
        read_state(tmp_path / '5.state', {'path': {'models': str(tmp_path)}})


def config_of(net: DSTNet, **changes: Any) -> torch.Tensor:
    config = {'type': 'DSTNet', **net.config, **changes}
    return torch.frombuffer(bytearray(json.dumps(config).encode()), dtype=torch.uint8)


@pytest.mark.parametrize('name', ['num_feat', 'num_block', 'prop_feat', 'num_cwgdn'])
def test_small_file_creates_no_large_network(name: str) -> None:
    net = DSTNet(num_feat=2, num_block=1, num_cwgdn=1)
    weights = net.state_dict() | {'_extra_state': config_of(net, **{name: 10**9})}
    with pytest.raises(CheckpointError, match=f'too small or too few for {name}=1000000000'):
        load_checkpoint(weights)


def test_expanded_tensor_is_refused() -> None:
    weights = DSTNet(num_feat=2, num_block=1, num_cwgdn=1).state_dict()
    weights.pop('_extra_state')
    weights['extract.weight'] = torch.zeros(1).expand(10**6, 10**6, 3, 3)
    with pytest.raises(CheckpointError, match=r'holds extract\.weight in a form other than a dense tensor'):
        load_checkpoint(weights)


def test_control_characters_in_names_are_escaped() -> None:
    with pytest.raises(CheckpointError) as error:
        load_checkpoint({'\x1b[2J\x07weights': torch.zeros(1)})
    assert '\x1b' in str(error.value)
    assert '\\x1b[2J\\x07weights' in message_of(error.value)
    assert not set(message_of(error.value)) & {'\x1b', '\x07'}


# Options


TAGS = {
    'apply': '!!python/object/apply:os.mkdir [{owned}]',
    'new': '!!python/object/new:os.mkdir [{owned}]',
    'module': '!!python/module:antigravity',
    'name': '!!python/name:os.system',
}


@pytest.mark.parametrize('tag', TAGS)
@pytest.mark.parametrize(
    'head', ['model_type: VideoRecurrentDeblurModel', 'model_type: {tag}', 'datasets:\n  train: {tag}']
)
def test_options_files_run_no_code(tmp_path: Path, tag: str, head: str) -> None:
    code = TAGS[tag].format(owned=tmp_path / 'owned')
    path = tmp_path / 'options.yml'
    path.write_text(f'{head.format(tag=code)}\na: {code}\n', encoding='utf-8')
    with pytest.raises(OptionsError, match='has the tag'):
        read_options(path)
    assert not (tmp_path / 'owned').exists()


def test_forced_values_run_no_code(tmp_path: Path) -> None:
    code = f'__import__("os").mkdir("{tmp_path / "owned"}")'
    for entry in (f'a=[{code}]', f'a"];{code};opt["b=1', f'a:b"];{code}#=1'):
        with suppress(OptionsError):
            force({'a': 1}, [entry])
    assert not (tmp_path / 'owned').exists()


def test_forced_values_run_no_code_in_basicsr(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With one of our data sets and another model, the keys of the top level are not checked."""
    from basicsr.utils.options import parse_options

    opt = {'model_type': 'SRModel', 'num_gpu': 0, 'name': 'x', 'path': {}}
    opt['datasets'] = {
        'test': {'type': 'VideoRecurrentDeblurTestDataset', 'name': 'x', 'dataroot_lq': str(tmp_path / 'lq')}
    }
    (tmp_path / 'lq/clip').mkdir(parents=True)
    cv2.imwrite(str(tmp_path / 'lq/clip/0.png'), np.zeros((2, 2, 3), np.uint8))
    (tmp_path / 'o.yml').write_text(yaml.safe_dump(opt))
    key = f'a"];__import__("os").mkdir("{tmp_path / "owned"}");opt["b'
    monkeypatch.setattr('sys.argv', ['test.py', '-opt', str(tmp_path / 'o.yml'), '--force_yml', f'{key}=1', 'name=y'])
    monkeypatch.setattr('sys.excepthook', sys.__excepthook__)
    monkeypatch.setenv('TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD', '1')  # as those have it who load old files elsewhere
    read, args = parse_options(str(tmp_path), is_train=False)
    assert (read['name'], read[key], args.force_yml) == ('y', 1, None)
    assert not (tmp_path / 'owned').exists()
    torch.save({'params': {'a': torch.zeros(1)}}, tmp_path / 'net.pth')
    assert list(read_state_dict(tmp_path / 'net.pth')) == ['a']


# The commands, in new processes


@pytest.mark.slow
@pytest.mark.parametrize(
    ('command', 'kind'),
    [('basicsr.test', 'tag'), ('basicsr.test', 'flow'), ('basicsr.test', 'weights'), ('dstnet_arch test', 'foreign')],
)
def test_commands_run_no_code_from_files(tmp_path: Path, run_python: RunPython, command: str, kind: str) -> None:
    (tmp_path / 'blur/clip').mkdir(parents=True)
    cv2.imwrite(str(tmp_path / 'blur/clip/0.png'), np.zeros((16, 16, 3), np.uint8))
    (tmp_path / 'evil.pth').write_bytes(evil_files({'params': {'b': Evil(tmp_path / 'owned')}})['zipped'])
    opt = read_options(ROOT / 'options/test_DSTNet_sample.yml')
    opt |= {'num_gpu': 0, 'network_g': {'type': 'DSTNet', 'num_feat': 2, 'num_block': 1, 'num_cwgdn': 1}}
    opt['datasets']['test'] |= {'dataroot_lq': 'blur', 'dataroot_gt': None}
    opt['path']['pretrain_network_g'] = 'evil.pth' if kind == 'weights' else None
    if kind == 'flow':  # its weights are loaded by BasicSR itself
        opt['network_g'] = {'type': 'BasicVSRPlusPlus', 'mid_channels': 2, 'num_blocks': 1, 'spynet_path': 'evil.pth'}
    text = 'model_type: SRModel\n' if kind == 'foreign' else yaml.safe_dump(opt)
    if kind in ('tag', 'foreign'):
        text += f'evil: !!python/object/apply:os.mkdir [{tmp_path / "owned"}]\n'
    (tmp_path / 'o.yml').write_text(text, encoding='utf-8')
    done = run_python('-m', *command.split(), '-opt', 'o.yml', cwd=tmp_path, OMP_NUM_THREADS='1')
    assert done.returncode == 2, done.stderr
    assert done.stderr.count('error: ') == 1
    assert 'Traceback' not in done.stderr
    assert not (tmp_path / 'owned').exists()


# Names

OUTSIDE = ['../x', '..', 'a/../../x', '/x', 'a//x', '.', '', 'a\0b', '..\\x', 'a\\..\\x', '\\\\server\\x']


@pytest.mark.parametrize('name', OUTSIDE)
def test_names_do_not_lead_out_of_the_results(tmp_path: Path, name: str) -> None:
    for video, frame in ((name, '0'), ('clip', name)):
        with pytest.raises(DataError, match='outside'):
            image_path(tmp_path, video, frame, None)


@pytest.mark.parametrize('name', [*OUTSIDE, 'C:x', 'C:\\x'])
def test_names_do_not_lead_out_of_an_lmdb(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError):
        check_key(f'{name}/0')
    with pytest.raises(ValueError):
        parse_meta_line(f'{name}/0.png (1,1,3) 1')
    (tmp_path / META_INFO).write_text(f'{name}/0.png (1,1,3) 1\n', encoding='utf-8')
    with pytest.raises(DataError):
        open_source(tmp_path, 'lmdb')


def test_link_in_place_of_a_result_is_replaced_and_not_followed(tmp_path: Path) -> None:
    from dstnet_arch.files import atomic_file

    (tmp_path / 'precious').write_text('kept', encoding='utf-8')
    (tmp_path / 'result').symlink_to(tmp_path / 'precious')
    with atomic_file(tmp_path / 'result') as file:
        file.write(b'new')
    assert (tmp_path / 'precious').read_text(encoding='utf-8') == 'kept'
    assert not (tmp_path / 'result').is_symlink()
