"""The check of options: a corpus of accepted and refused files, messages, values, data, and the environment."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from data_utils import put
from hypothesis import given, settings
from hypothesis import strategies as st
from options_utils import FILES, make_gopro, options, problems, section_of, value_at

from dstnet_arch.errors import OptionsError
from dstnet_arch.plugin import options_environment, options_sections
from dstnet_arch.plugin.options import check_options, force, read_options

CORPUS = yaml.safe_load(Path(__file__).with_name('options_corpus.yml').read_text(encoding='utf-8'))


@pytest.mark.parametrize('entry', CORPUS, ids=lambda entry: str(entry['named']))
def test_error_names_exactly_the_wrong_keys(entry: dict[str, Any]) -> None:
    base = entry.get('base', 'train_DSTNet_GoPro.yml')
    if 'Adafactor' in str(entry) and not hasattr(torch.optim, 'Adafactor'):
        pytest.skip('this PyTorch has no Adafactor')
    opt = options(entry.get('change'), base)
    for path in entry.get('delete', []):
        section, key = section_of(opt, path)
        del section[key]
    named = [line.split(': ')[0] for line in problems(opt, 'train' in base)]
    assert sorted(named) == sorted(entry['named'])


@pytest.mark.parametrize('file', FILES, ids=lambda file: file.stem)
def test_committed_file_is_accepted_unchanged(file: Path) -> None:
    opt, given = read_options(file), read_options(file)
    check_options(opt, file.name.startswith('train'), check_paths=False)
    assert opt == given


# Messages


def test_all_problems_are_in_one_message() -> None:
    opt = options({'train:precison': 'bf16', 'train:ema_decay': 1, 'val:val_frq': 5, 'logger:total_iter': 2})
    del opt['val']['val_freq'], opt['network_g']['type']
    with pytest.raises(OptionsError) as error:
        check_options(opt, True, check_paths=False)
    assert str(error.value).splitlines() == [
        'The options have 5 problems:',
        '  network_g:type: missing. Give the name of a registered network.',
        '  train:precison: unknown key. Did you mean precision?',
        '  train:ema_decay: 1 given; allowed: less than 1. Average the weights with this decay, e.g. 0.999, and '
        'validate with the average; 0: off.',
        '  val:val_frq: unknown key. Did you mean val_freq?',
        '  logger:total_iter: unknown key. Its place is train:total_iter.',
        'Fix the options file or override values with --force_yml section:key=value. Keys: docs/options.md.',
    ]


@pytest.mark.parametrize(
    ('changes', 'text'),
    [
        ({'network_g:type': 'DSTNett'}, 'DSTNett given, which is not a registered network. Did you mean DSTNet?'),
        ({'network_g': {'type': 'EDVR'}}, '{type: SlidingWindow, num_frame: …, network: {type: EDVR, …}}'),
        ({'name': 'é' * 101}, 'allowed: text without slashes and colons, at most 200 bytes.'),
        ({'num_gpu': 1000}, '0 (the CPU)'),
        ({'path:param_key_g': 'param_ema'}, 'Did you mean params_ema?'),
        ({'train:scheduler:periods': [300], 'train:total_iter': 301}, 'Use [301]'),
        ({'train:amp': 'bf16', 'train:precision': 'fp16'}, 'bf16 given, but precision is fp16. Remove amp.'),
        ({'num_gpu': 0, 'val:precision': 'tf32'}, 'tf32 given for a run on the CPU; allowed: fp32 or bf16'),
        ({'datasets:val:type': 'VideoRecurrentTestDatase'}, "allowed: 'VideoRecurrentDeblurTestDataset'."),
    ],
)
def test_message_says_what_is_allowed(changes: dict[str, Any], text: str) -> None:
    (line,) = problems(options(changes))
    assert text in line


def _keys(opt: dict[str, Any], prefix: str = '') -> Iterator[str]:
    for key, value in opt.items():
        yield f'{prefix}{key}'
        if isinstance(value, dict):
            yield from _keys(value, f'{prefix}{key}:')


NAMES_OF_METRICS = ('val:metrics:psnr', 'val:metrics:ssim3d', 'val:metrics:ssim')
KEYS = [path for path in _keys(options()) if path not in NAMES_OF_METRICS]


@pytest.mark.parametrize('path', KEYS)
def test_misspelt_key_is_named_with_the_right_spelling(path: str) -> None:
    *_, key = path.split(':')
    at = random.Random(key).randrange(len(key))
    dropped, doubled = key[:at] + key[at + 1 :], key[:at] + key[at] + key[at:]
    replaced = key[:at] + ('x' if key[at] != 'x' else 'y') + key[at + 1 :]
    for wrong in (dropped, doubled, replaced):
        opt = options()
        section, _ = section_of(opt, path)
        section[wrong] = section.pop(key)
        lines = problems(opt)
        (line,) = (line for line in lines if line.startswith(f'{path[: -len(key)]}{wrong}: unknown key. '))
        assert f'Did you mean {key}?' in line or len(key) == 2
        assert not [line for line in lines if line.startswith(f'{path}: missing')] or len(key) == 2


# Values


@pytest.mark.parametrize(
    ('path', 'text', 'value'),
    [
        ('train:optim_g:lr', '1e-4', 1e-4),
        ('train:warmup_iter', '-1', -1),
        ('val:val_freq', '5e3', 5000),
        ('train:total_iter', '300.0', 300),
        ('train:scheduler:periods', '[6e5]', [600000]),
        ('train:precision', 'none', None),
        ('name', '2025-03-07', '2025-03-07'),
        ('val:suffix', '5', '5'),
        ('val:save_img', 'yes', True),
        ('datasets:val:clip_length', 'None', None),
        ('network_g:num_feat', '"8"', 8),
        ('network_g:prop_feat', '~', None),
        ('train:pixel_opt:eps', '"1e-9"', 1e-9),
        ('train:optim_g:amsgrad', '"true"', True),
    ],
)
def test_text_is_read_as_the_value_it_stands_for(path: str, text: str, value: Any) -> None:
    opt = force(options(), [f'{path}={text}'])
    assert check_options(opt, True, check_paths=False) is opt
    assert value_at(opt, path) == value
    assert type(value_at(opt, path)) is type(value)


def test_harmless_values_are_corrected() -> None:
    opt = options({'num_gpu': 0, 'datasets:train:num_worker_per_gpu': 0, 'datasets:train:prefetch_mode': 'cuda'})
    check_options(opt, True, check_paths=False)
    assert opt['datasets']['train']['persistent_workers'] is False
    assert opt['datasets']['train']['prefetch_mode'] is None


def test_keys_that_basicsr_reads_are_filled_in() -> None:
    opt = options()
    del opt['val']['save_img'], opt['logger']['use_tb_logger'], opt['train']['grad_clip']
    check_options(opt, True, check_paths=False)
    assert opt['val']['save_img'] is False
    assert opt['logger']['use_tb_logger'] is False
    assert 'grad_clip' not in opt['train']


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.just('\0'),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=5) | st.integers(), inner, max_size=2),
    max_leaves=4,
)


@settings(max_examples=200, deadline=None)
@given(path=st.sampled_from([*KEYS, *NAMES_OF_METRICS]), value=VALUES, is_train=st.booleans(), paths=st.booleans())
def test_any_value_anywhere_is_accepted_or_named(path: str, value: Any, is_train: bool, paths: bool) -> None:
    opt = options({path: value})
    if not problems(opt, is_train, paths):  # raises no other error
        assert problems(opt, is_train, paths) == [], 'the corrected options are accepted, too'


# Other people's types


class ForeignNet(torch.nn.Module):
    def __init__(self, width: int, depth: int = 3, copy: bool = False) -> None:
        super().__init__()


def test_arguments_of_other_packages_are_checked_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    from basicsr.utils.registry import ARCH_REGISTRY

    monkeypatch.setitem(ARCH_REGISTRY._obj_map, 'ForeignNet', ForeignNet)
    assert problems(options({'network_g': {'type': 'ForeignNet', 'width': 'any', 'depth': '3', 'copy': 1}})) == []
    found = problems(options({'network_g': {'type': 'ForeignNet', 'dept': 3}}))
    assert found == ['network_g:dept: unknown key. Did you mean depth?', 'network_g:width: missing.']


FORK = """
name: baseline
model_type: VideoRecurrentModel
num_gpu: 0
datasets:
  train: {name: g, type: GOPRORecurrentDataset, dataroot_gt: gt, dataroot_lq: blur, meta_info_file_train: m.txt,
          use_flip: true, num_worker_per_gpu: 4, batch_size_per_gpu: 2}
  val: {name: g, type: VideoRecurrentSplitClipsTestDataset, dataroot_gt: gt, dataroot_lq: blur, num_frame: 10}
network_g: {type: Deblur_L, num_feat: 96, num_block: 30}
path: {pretrain_network_g: ~}
train:
  optim_g: {type: AdamW, lr: 2.0e-4}
  scheduler: {type: CosineAnnealingRestartLR, periods: [300], restart_weights: [1]}
  total_iter: 300
  pixel_opt: {type: CharbonnierLoss}
  fft_opt: {type: FFT}
val: {val_freq: 100, flip_seq: false}
logger: {print_freq: 100}
"""


def test_options_of_the_released_code_get_the_names_used_here() -> None:
    with pytest.raises(OptionsError) as error:
        check_options(yaml.safe_load(FORK), True)
    _, *lines, last = str(error.value).splitlines()
    assert last == (
        'These options are for the released code. Begin with options/train_DSTNet-L_GoPro.yml '
        '(dstnet options copy DIR).'
    )
    for line in (
        'model_type: VideoRecurrentModel is a type of the released code; here: VideoRecurrentDeblurModel',
        'datasets:train:type: GOPRORecurrentDataset is a type of the released code; here: VideoRecurrentDeblurDataset',
        'network_g:type: Deblur_L is a type of the released code; here: DSTNet',
        'train:fft_opt:type: FFT is a type of the released code; here: FrequencyLoss',
        'datasets:train:use_flip: unknown key. Did you mean use_hflip?',
        'datasets:val:num_frame: unknown key. Did you mean clip_length?',
        'datasets:train:meta_info_file_train: unknown key. It is not needed here: remove it.',
        'train:fft_opt: unknown key. Did you mean frequency_opt?',
    ):
        assert f'  {line}' in lines


# Data, weights and the environment


@pytest.fixture
def gopro(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    make_gopro(tmp_path)
    return tmp_path


def test_data_sets_check_their_data(gopro: Path) -> None:
    assert problems(options(), check_paths=True) == []
    with pytest.raises(OptionsError) as error:
        check_options(options({'datasets:train:gt_size': 258, 'datasets:train:num_frame': 31}), True)
    assert 'datasets:train: data set GoPro cannot be used' in str(error.value)
    assert '258x258' in str(error.value)
    assert 'num_frame 31' in str(error.value)
    (gopro / 'datasets/GoPro/test_sharp.lmdb/meta_info.txt').write_text('../../x.png (1,1,3)\n')
    (line,) = problems(options(), check_paths=True)
    assert line.startswith('datasets:val: ')


def test_missing_data_are_named_with_the_command_that_makes_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    found = problems(options(), check_paths=True)
    assert [line.split(':')[2] for line in found] == ['dataroot_lq', 'dataroot_gt'] * 2
    assert all('python -m data_prep gopro SOURCE -o datasets/GoPro' in line for line in found)


def test_data_commands_exist() -> None:
    from data_prep.__main__ import build_parser

    for command in options_environment.DATA_COMMANDS.values():
        build_parser().parse_args(command.format(folder='x').removeprefix('python -m data_prep ').split())


@pytest.mark.parametrize(('metric', 'border', 'least'), [('calculate_ssim', 2, 15), ('calculate_psnr', 6, 13)])
def test_metric_that_needs_larger_frames_is_refused(gopro: Path, metric: str, border: int, least: int) -> None:
    for side in ('blur', 'sharp'):
        put(gopro / f'{side}/clip/0.png', size=(least - 1, 40))
    changes = {
        'datasets:val:dataroot_lq': 'blur',
        'datasets:val:dataroot_gt': 'sharp',
        'val:metrics': {'score': {'type': metric, 'crop_border': border}},
    }
    (line,) = problems(options(changes), check_paths=True)
    assert f'{metric} in val:metrics needs sides of at least {least} pixels' in line
    changes['datasets:val:dataroot_gt'] = None  # no scores
    assert problems(options(changes), check_paths=True) == []


def test_weights_and_states_must_exist(gopro: Path) -> None:
    def found(changes: dict[str, Any] | None = None, run: str = 'test') -> list[str]:
        lines = problems(options(changes, f'{run}_DSTNet_GoPro.yml'), run == 'train', check_paths=True)
        return [line for line in lines if line.startswith('path:')]

    assert 'Train train_DSTNet_GoPro first' in found()[0]
    models = gopro / 'experiments/train_DSTNet_GoPro/models'
    models.mkdir(parents=True)
    (models / 'net_g_5000.pth').write_bytes(b'no weights')
    assert 'Files in this folder: net_g_5000.pth' in found()[0]
    assert str(models / 'net_g_5000.pth') in found({'path:pretrain_network_g': str(models / 'net_g_5000.pth')})[0]
    torch.save({'params': {'weight': torch.zeros(1)}}, models / 'net_g_latest.pth')
    assert found() == []
    assert 'dstnet weights get GoPro' in found({'path:pretrain_network_g': 'weights/GOPRO.pth'})[0]

    # A resumed run has its weights beside its state and reads no others.
    gone = {'path:pretrain_network_g': 'gone.pth'}
    assert found(gone, 'train')[0].startswith('path:pretrain')
    assert found({**gone, 'path:resume_state': 'gone.state'}, 'train')[0].startswith('path:resume_state')
    (models.parent / 'training_states').mkdir()
    (models.parent / 'training_states/5000.state').touch()
    check_options(options(gone), True, auto_resume=True)


def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    changes = {'logger:use_tb_logger': True, 'logger:wandb:project': 'x'}
    monkeypatch.setattr(options_sections, 'find_spec', lambda name: None if name == 'wandb' else object())
    assert problems(options(changes)) == [
        'logger:use_tb_logger: needs wandb, which is not installed: pip install wandb'
    ]
