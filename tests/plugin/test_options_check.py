"""The check of options: a corpus of accepted and refused files, messages, values, data, and the environment."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from options_utils import FILES, make_gopro, options, problems, section_of

from dstnet_arch.errors import OptionsError
from dstnet_arch.plugin import options_check
from dstnet_arch.plugin.options import force, read_options
from dstnet_arch.plugin.options_check import check_options

SMALL = {'network_g:num_block': 1, 'network_g:num_cwgdn': 1}  # is constructed fast
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
def test_committed_file_is_accepted_and_its_values_stay(file: Path) -> None:
    def assert_within(values: dict[str, Any], checked: dict[str, Any]) -> None:
        for key, value in values.items():
            if isinstance(value, dict):
                assert_within(value, checked[key])
            else:
                assert checked[key] == value or key == 'num_gpu', key

    checked = check_options(read_options(file), file.name.startswith('train'), check_paths=False)
    assert_within(read_options(file), checked)
    assert checked['num_gpu'] == min(torch.cuda.device_count(), 1)


# Messages


def test_all_problems_are_in_one_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    opt = options({'train:precison': 'bf16', 'train:ema_decay': 1, 'val:val_frq': 5, 'network_g:boundary': 'reflect'})
    del opt['datasets']['val'], opt['train']['optim_g']['type']
    with pytest.raises(OptionsError) as error:
        check_options(opt, True)
    assert str(error.value).splitlines() == [
        'The options have 7 problems:',
        '  datasets:train:dataroot_lq: datasets/GoPro/train_blur.lmdb does not exist. To make it: python -m data_prep '
        'gopro SOURCE -o datasets/GoPro',
        '  datasets:train:dataroot_gt: datasets/GoPro/train_sharp.lmdb does not exist. To make it: python -m data_prep '
        'gopro SOURCE -o datasets/GoPro',
        "  network_g:boundary: reflect given; allowed: 'zeros' or 'paper'",
        '  train:optim_g:type: missing',
        '  train:ema_decay: 1 given; allowed: less than 1',
        '  train:precison: unknown key. Did you mean precision?',
        '  val:val_frq: unknown key. Did you mean val_freq?',
        'Fix the options file or override values with --force_yml section:key=value. Keys: docs/options.md.',
    ]


@pytest.mark.parametrize(
    ('changes', 'text'),
    [
        ({'network_g:type': 'DSTNett'}, 'DSTNett given, which is not a registered network. Did you mean DSTNet?'),
        ({'network_g': {'type': 'EDVR'}}, '{type: SlidingWindow, num_frame: …, network: {type: EDVR, …}}'),
        ({'network_g:num_feat': 0}, 'DSTNet cannot be constructed: DSTNet needs num_feat and prop_feat of at least 1'),
        ({'name': 'a/b'}, 'a/b given; allowed: text without slashes and colons'),
        ({'num_gpu': 1000}, '0 (the CPU)'),
        ({'train:scheduler:periods': [300], 'train:total_iter': 301}, 'Use [301]'),
        ({'num_gpu': 0, 'val:precision': 'tf32'}, 'tf32 needs an NVIDIA GPU'),
        ({'datasets:val:type': 'VideoRecurrentTestDatase'}, "allowed: 'VideoRecurrentDeblurTestDataset'"),
        ({'train:pixel_opt:reduction': 'none'}, 'reduction is none; allowed: mean, sum'),
        ({'logger': 5}, '5 given; allowed: a section with some of print_freq'),
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


ANY_NAME = ('val:metrics:psnr', 'val:metrics:ssim3d', 'val:metrics:ssim')
KEYS = [path for path in _keys(options()) if path not in ANY_NAME]


@pytest.mark.parametrize('path', [path for path in KEYS if 'io_backend:' not in path and 'dist_params:' not in path])
def test_misspelt_key_is_named_with_the_right_spelling(path: str) -> None:
    *_, key = path.split(':')
    at = random.Random(key).randrange(len(key))
    dropped, doubled = key[:at] + key[at + 1 :], key[:at] + key[at] + key[at:]
    replaced = key[:at] + ('x' if key[at] != 'x' else 'y') + key[at + 1 :]
    for wrong in (dropped, doubled, replaced):
        opt = options(SMALL)
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
        ('train:precision', 'none', None),
        ('name', '2025-03-07', '2025-03-07'),
        ('val:suffix', '5', '5'),
        ('val:save_img', 'yes', True),
        ('datasets:val:clip_length', 'None', None),
        ('network_g:num_feat', '"8"', 8),
        ('network_g:prop_feat', '~', None),
    ],
)
def test_text_is_read_as_the_value_it_stands_for(path: str, text: str, value: Any) -> None:
    opt = force(options(), [f'{path}={text}'])
    assert check_options(opt, True, check_paths=False) is opt
    section, key = section_of(opt, path)
    assert section[key] == value
    assert type(section[key]) is type(value)


def test_harmless_values_are_corrected() -> None:
    train = {'num_worker_per_gpu': 0, 'persistent_workers': True, 'prefetch_mode': 'cuda', 'pin_memory': False}
    opt = options({'num_gpu': 0, **{f'datasets:train:{key}': value for key, value in train.items()}})
    checked = check_options(opt, True, check_paths=False)['datasets']['train']
    assert (checked['persistent_workers'], checked['prefetch_mode'], checked['pin_memory']) == (False, None, True)


def test_keys_that_basicsr_reads_without_a_default_are_filled_in() -> None:
    opt = options()
    del opt['val']['save_img'], opt['logger']
    opt['path'] = opt['val']['val_freq'] = None
    check_options(opt, True, check_paths=False)
    assert (opt['val']['save_img'], opt['val']['val_freq'], opt['path']['param_key_g']) == (False, 5000, 'params')
    assert opt['logger'] == {
        'print_freq': 100,
        'save_checkpoint_freq': 5000,
        'use_tb_logger': False,
        'wandb': {'project': None, 'resume_id': None},
    }


@pytest.mark.parametrize(
    ('num_gpu', 'dist', 'expected'), [('auto', False, 1), (1, False, 1), (8, True, 8), (0, False, 0), (2, False, None)]
)
def test_one_process_uses_one_gpu(
    monkeypatch: pytest.MonkeyPatch, num_gpu: Any, dist: bool, expected: int | None
) -> None:
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 4)
    monkeypatch.setattr(options_check, 'resolve_precision', lambda *_: None)
    opt = options({'num_gpu': num_gpu})
    if expected is None:
        with pytest.raises(OptionsError, match='torchrun --nproc_per_node=2'):
            check_options(opt, True, check_paths=False, dist=dist)
    else:
        assert check_options(opt, True, check_paths=False, dist=dist)['num_gpu'] == expected


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.just('\0'),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=5) | st.integers(), inner, max_size=2),
    max_leaves=4,
)


@pytest.mark.filterwarnings('ignore:Initializing zero-element tensors')
@settings(max_examples=100, deadline=None)
@given(path=st.sampled_from([*KEYS, *ANY_NAME]), value=VALUES, is_train=st.booleans(), paths=st.booleans())
def test_any_value_anywhere_is_accepted_or_named(path: str, value: Any, is_train: bool, paths: bool) -> None:
    opt = options({**SMALL, path: value})
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
    assert found == ['network_g:width: missing', 'network_g:dept: unknown key. Did you mean depth?']


def test_image_networks_of_basicsr_fit_into_sliding_window() -> None:
    arguments = {'num_in_ch': 3, 'num_out_ch': 3, 'num_block': 1, 'num_channel': 8, 'with_idt': True, 'scale': 1}
    network = {'type': 'ECBSR', 'act_type': 'relu', **arguments}  # refuses the meta device
    assert problems(options({'network_g': {'type': 'SlidingWindow', 'num_frame': 1, 'network': network}})) == []


def test_options_of_the_released_code_get_the_names_used_here() -> None:
    changes = {
        'model_type': 'VideoRecurrentModel',
        'datasets:train:type': 'GOPRORecurrentDataset',
        'datasets:train:use_flip': True,
        'datasets:train:meta_info_file_train': 'm.txt',
        'datasets:val:type': 'VideoRecurrentSplitClipsTestDataset',
        'datasets:val:num_frame': 10,
        'network_g:type': 'Deblur_L',
        'train:fft_opt': {'type': 'FFT'},
    }
    with pytest.raises(OptionsError) as error:
        check_options(options(changes), True)
    _, *lines, last = str(error.value).splitlines()
    assert last == (
        'These options are for the released code. Begin with options/train_DSTNet_GoPro.yml (dstnet options copy DIR).'
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
    (line,) = problems(options({'datasets:val:dataroot_lq': 'blur'}), check_paths=True)
    assert line.startswith('datasets:val: data set GoPro cannot be used')


def test_weights_and_states_must_exist(gopro: Path) -> None:
    def found(weights: str, run: str = 'train', **more: str) -> list[str]:
        changes = {'path:pretrain_network_g': weights, **{f'path:{key}': value for key, value in more.items()}}
        return problems(options(changes, f'{run}_DSTNet_GoPro.yml'), run == 'train', check_paths=True)

    for run in ('train', 'test'):
        (line,) = found('net.pth', run)
        assert line.startswith('path:pretrain_network_g: net.pth does not exist')
    Path('net.pth').write_bytes(b'no weights')
    assert 'net.pth' in found('net.pth')[0]
    torch.save({'params': {'weight': torch.zeros(1)}}, 'net.pth')
    assert found('net.pth') == found('net.pth', 'test') == []
    assert found('weights/GOPRO.pth')[0].endswith('dstnet weights get GoPro')

    # A resumed run has its weights beside its state and reads no others.
    (line,) = found('gone.pth', resume_state='gone.state')
    assert line.startswith('path:resume_state: gone.state does not exist')
    states = Path('experiments/train_DSTNet_GoPro/training_states')
    states.mkdir(parents=True)
    (states / '5000.state').touch()
    check_options(options({'path:pretrain_network_g': 'gone.pth'}), True, auto_resume=True)


def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    changes = {'logger:use_tb_logger': True, 'logger:wandb:project': 'x'}
    monkeypatch.setattr(options_check, 'find_spec', lambda name: None if name == 'wandb' else object())
    assert problems(options(changes)) == [
        'logger:use_tb_logger: needs wandb, which is not installed: pip install wandb'
    ]


@pytest.mark.filterwarnings('ignore:.*pretrained', 'ignore:Arguments other than a weight enum')
def test_perceptual_loss_without_network_access_is_found_before_the_run(
    gopro: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def offline(*_: object, **__: object) -> None:
        raise OSError('no route to host')

    monkeypatch.setattr('torch.hub.load_state_dict_from_url', offline)
    monkeypatch.setattr('torchvision.models._api.load_state_dict_from_url', offline)
    loss = {'type': 'PerceptualLoss', 'layer_weights': {'conv5_4': 1}}
    (line,) = problems(options({'train:perceptual_opt': loss}), check_paths=True)
    assert line.startswith('train:perceptual_opt: PerceptualLoss cannot be constructed: Weights that network_g')
    assert 'no route to host' in line
