"""Writes the options files of all experiments: ``python options/generate.py``.

BasicSR's options files cannot include each other, so each is complete. Every file is ``train_DSTNet_GoPro.yml`` or
``test_DSTNet_GoPro.yml`` with another heading and the values that the table of experiments below gives. After a change
of these two files or of the table, run this script.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from textwrap import indent, wrap

from dstnet_arch.weights.released import RELEASED
from dstnet_arch.weights.store import DEFAULT_FOLDER

FOLDER = Path(__file__).resolve().parent
TEMPLATE = 'DSTNet_GoPro'
WIDTH = 118  # of comments, without '# '


@dataclass(frozen=True)
class Data:
    """A data set as `data_prep` writes it: its name in tables, its folder, and the command that makes it."""

    name: str
    root: str
    command: str
    clip_length: int = 30  # frames restored together in a test, as in the released code
    validation: str = 'test'  # the split that training validates with


@dataclass(frozen=True)
class Experiment:
    """A pair of options files, one for training and one for the test."""

    name: str  # the part of the file names after train_ and test_
    about: str  # what it reproduces
    data: Data
    network: str | None = None  # the section network_g; None: that of the template
    values: Mapping[str, str] = field(default_factory=dict)  # in the training's options, by path
    note: str = ''  # sentences about the training
    weights: str | None = None  # name of the released weights
    folder: str = ''  # subfolder of options/

    def file(self, run: str) -> str:
        """Return the path of the file for `run` ('train' or 'test') in `options/`."""
        return f'{self.folder}{run}_{self.name}.yml'


GOPRO = Data('GoPro', 'datasets/GoPro', 'python -m data_prep gopro SOURCE -o datasets/GoPro')
DVD = Data('DVD', 'datasets/DVD', 'python -m data_prep dvd SOURCE -o datasets/DVD', clip_length=25)
BSD = []
for sharp, blurry in ((1, 8), (2, 16), (3, 24)):
    exposure = f'{sharp}ms{blurry}ms'
    command = f'python -m data_prep bsd SOURCE -o datasets/BSD_{exposure} --exposure {exposure}'
    data = Data(f'BSD{exposure}', f'datasets/BSD_{exposure}', command, validation='valid')
    BSD.append((f'BSD, exposures of {sharp} ms (sharp) and {blurry} ms (blurry)', data))
DSTNET_L = """\
type: DSTNet
num_feat: 64
num_block: 30  # DSTNet: 15
prop_feat: 96  # "96 features and 30 ResBlocks in the DTFF module"
num_cwgdn: 5
boundary: zeros
"""
DSTNET_PLUS = """\
type: DSTNetPlus
num_feat: {features}
num_kernel_block: {kernel_blocks}  # residual blocks at each of the three scales that filters are predicted from
num_block: {blocks}  # residual blocks of each direction
"""
ABLATION = """\
type: DSTNet
num_feat: 64
num_block: 15
prop_feat: ~
num_cwgdn: 5
boundary: zeros
spatial: cwgdn  # cwgdn | gmlp | none (Table 4)
fusion: gated  # gated: Eq. (3) | blend: Eq. (11) | none (Table 5)
pixel_filter: true  # Eq. (4) (Table 5)
propagation: haar  # haar | none | bilinear (Table 6)
"""
ABLATIONS = (
    ('', 'Tables 4, 5 and 6 of the paper, Ours: the full network, 33.33 dB / 0.9611.'),
    ('spatial-gmlp', 'Table 4 of the paper, w/ gMLP instead of the CWGDN, 33.16 dB / 0.9602.'),
    ('spatial-none', 'Table 4 of the paper, w/o CWGDN, 33.18 dB / 0.9602.'),
    ('fusion-blend', 'Table 5 of the paper, w/ the feature fusion [27], Eq. (11), 33.00 dB / 0.9597.'),
    ('fusion-none', 'Table 5 of the paper, w/o the gated fusion, Eq. (3), 33.22 dB / 0.9608.'),
    ('pixel_filter-false', 'Table 5 of the paper, w/o the pixel-wise filters, Eq. (4), 32.55 dB / 0.9504.'),
    ('propagation-none', 'Table 6 of the paper, w/o WaveletFP, 28.57 dB / 0.9057.'),
    ('propagation-bilinear', 'Table 6 of the paper, w/ Bilinear in FP, 32.87 dB / 0.9587.'),
)
BASICVSR_PP = """\
type: BasicVSRPlusPlus
mid_channels: 64
num_blocks: 15
max_residue_magnitude: 10
is_low_res_input: false  # restore frames at their own size; sides are multiples of 4, at least 256
spynet_path: ~  # weights of SPyNet to start from, from BasicSR's model zoo; ~ = random
cpu_cache_length: 100  # longer clips keep their features in main memory
"""
EDVR = """\
type: SlidingWindow  # restore each frame as the middle one of a window
num_frame: 5
ends: reflect  # reflect | replicate: contents of windows beyond the ends of a clip
size_multiple: 16  # EDVR needs such sizes: pad, and crop the result
network:
  type: EDVR
  num_in_ch: 3
  num_out_ch: 3
  num_feat: 128
  num_frame: 5
  deformable_groups: 8
  num_extract_block: 5
  num_reconstruct_block: 40
  center_frame_idx: ~
  hr_in: true  # deblurring: input and output have the same size
  with_predeblur: true
  with_tsa: true
"""


def experiments() -> Iterator[Experiment]:
    """Yield all experiments except the template's and the sample's."""
    yield Experiment('DSTNet_DVD', 'Table 2 of the paper, Ours: DSTNet on DVD, 33.79 dB / 0.9615.', DVD, weights='DVD')
    about = f'Table 3 of the paper, Ours: DSTNet on {BSD[0][0]}, 34.45 dB / 0.9548.'
    yield Experiment('DSTNet_BSD1ms8ms', about, BSD[0][1], weights='BSD')
    for place, data in BSD[1:]:
        about = f'DSTNet on {place}; Table 3 of the paper uses the exposures of 1 ms and 8 ms.'
        yield Experiment(f'DSTNet_{data.name}', about, data)
    about = 'Table 1 of the paper, Ours-L: DSTNet-L on GoPro, 35.05 dB / 0.9733.'
    yield Experiment('DSTNet-L_GoPro', about, GOPRO, DSTNET_L, weights='GoPro-L')

    # The authors of DSTNet+ test GoPro in clips of 50 frames: clips of 30 cost about 0.15 dB.
    places = [('GoPro', replace(GOPRO, clip_length=50)), ('DVD', DVD), *BSD]
    base = ('34.42 dB / 0.9694', '33.93 dB / 0.9618', '34.37 dB', '32.92 dB', '32.76 dB')
    large = ('35.71 dB / 0.9766', '34.63 dB / 0.9669', '35.18 dB', '33.75 dB', '33.48 dB')
    for (place, data), score in zip(places, base, strict=True):
        about = f'DSTNet+ (TPAMI 2025), the base network, on {place}; published: {score}.'
        network = DSTNET_PLUS.format(features=64, kernel_blocks=3, blocks=15)
        yield Experiment(f'DSTNetPlus_{data.name}', about, data, network)
    for (place, data), score in zip(places, large, strict=True):
        yield Experiment(
            f'DSTNetPlus-L_{data.name}',
            f'DSTNet+ (TPAMI 2025), the large network, on {place}; published: {score}.',
            data,
            DSTNET_PLUS.format(features=96, kernel_blocks=5, blocks=25),
            {'train:grad_clip': '0.01  # maximum gradient norm, as released for the large network; 0 = no clipping'},
            'The released options use one clip per GPU, so batches of 8; here they have 16, as for the base network.',
        )

    shorter = {'train:total_iter': "300000  # the paper's ablations", 'train:scheduler:periods': '[300000]'}
    for suffix, about in ABLATIONS:
        key, _, value = suffix.partition('-')
        network = with_values(ABLATION, {key: value} if key else {})
        name = f'DSTNet_ablation_{suffix}'.rstrip('_')
        yield Experiment(name, about, GOPRO, network, shorter, folder='ablation/')

    yield Experiment(
        'BasicVSRPP_GoPro',
        'BasicVSR++ of stock BasicSR on GoPro; Table 1 of the paper quotes 34.01 dB / 0.9520. Without a GPU, BasicSR '
        'builds it without alignment, and the weights of one kind do not fit the other.',
        GOPRO,
        BASICVSR_PP,
        note="Data, losses and schedule are DSTNet's. The authors of BasicVSR++ start its optical flow network from "
        'trained weights (spynet_path), fix it at first, and train it at a lower rate.',
        folder='peers/',
    )
    yield Experiment(
        'EDVR_GoPro',
        'EDVR for deblurring of stock BasicSR on GoPro; Table 1 of the paper quotes 26.83 dB / 0.8426.',
        GOPRO,
        EDVR,
        {'train:gradient_checkpointing': 'true  # otherwise the windows of two clips need about 28 GB'},
        "Data, losses and schedule are DSTNet's, and each frame of a clip is restored.",
        folder='peers/',
    )


def generate() -> dict[str, str]:
    """Return the text of each file by its path in `options/`."""
    texts = {}
    for run in ('train', 'test'):
        template = (FOLDER / f'{run}_{TEMPLATE}.yml').read_text(encoding='utf-8')
        for experiment in experiments():
            values, heading = _train(experiment) if run == 'train' else _test(experiment)
            text = with_values(template, {'name': f'{run}_{experiment.name}', **values})
            if experiment.network is not None:
                section = f'network_g:\n{indent(experiment.network, "  ")}'
                text = re.sub(r'^network_g:\n(  .*\n)+', lambda _, new=section: new, text, flags=re.MULTILINE)
            body = re.sub(r'\A(#.*\n)+', '', text)
            texts[experiment.file(run)] = indent('\n'.join(heading), '# ') + '\n' + body
    return texts


def with_values(text: str, values: Mapping[str, str]) -> str:
    """Replace values in the text of an options file.

    Args:
        text: the options file.
        values: new value by path. A comment after a value replaces the comment in the text.

    Raises:
        KeyError: the text has no such key.
    """
    left = dict(values)
    path: list[str] = []
    lines = text.splitlines()
    for i, line in enumerate(lines):
        found = re.fullmatch(r'( *)(\w+):.*?( *#.*)?', line)
        if not found:
            continue
        spaces, key, comment = found.groups()
        path[len(spaces) // 2 :] = [key]
        value = left.pop(':'.join(path), None)
        if value is not None:
            lines[i] = f'{spaces}{key}: {value}' + ('' if '#' in value else comment or '')
    if left:
        raise KeyError(f'{", ".join(left)}: no such key in the template')
    return '\n'.join(lines) + '\n'


def _data(key: str, split: str, data: Data) -> dict[str, str]:
    values = {
        'name': data.name,
        'dataroot_lq': f'{data.root}/{split}_blur.lmdb',
        'dataroot_gt': f'{data.root}/{split}_sharp.lmdb',
        **({} if key == 'train' else {'clip_length': str(data.clip_length)}),
    }
    return {f'datasets:{key}:{name}': value for name, value in values.items()}


def _train(experiment: Experiment) -> tuple[dict[str, str], list[str]]:
    """Return the values and the heading of the options for training."""
    data = experiment.data
    values = {**_data('train', 'train', data), **_data('val', data.validation, data), **experiment.values}
    different = [
        *(['datasets'] if data != GOPRO else []),
        *(['network_g'] if experiment.network else []),
        *experiment.values,
    ]
    notes = [
        experiment.note,
        'Validated on the validation sequences, not on the test.' if data.validation == 'valid' else '',
        f'Differences from options/train_{TEMPLATE}.yml: {", ".join(different)}. docs/options.md explains every key.',
    ]
    command = f'-m basicsr.train -opt options/{experiment.file("train")}'
    return values, [
        *wrap(experiment.about, WIDTH, break_on_hyphens=False),
        *wrap(' '.join(filter(None, notes)), WIDTH, break_on_hyphens=False),
        f'Make the data first:  {data.command}',
        'Eight GPUs:',
        f'  torchrun --nproc_per_node=8 {command} --launcher pytorch',
        'One GPU, the same batch of 16 clips, two at a time:',
        f'  python {command} --force_yml datasets:train:batch_size_per_gpu=16 train:accum_iter=8',
    ]


def _test(experiment: Experiment) -> tuple[dict[str, str], list[str]]:
    """Return the values and the heading of the options for the test."""
    values = {
        **_data('test', 'test', experiment.data),
        'path:pretrain_network_g': f'experiments/train_{experiment.name}/models/net_g_latest.pth',
    }
    command = f'python -m basicsr.test -opt options/{experiment.file("test")}'
    heading = [
        *wrap(experiment.about, WIDTH, break_on_hyphens=False),
        f'Make the data first:  {experiment.data.command}',
        f'Train with options/{experiment.file("train")}, then:',
        f'  {command}',
    ]
    for weights in RELEASED:
        if weights.name == experiment.weights:
            heading += [
                f"Or test the authors' weights (dstnet weights get {weights.name}):",
                f'  {command} --force_yml path:pretrain_network_g={DEFAULT_FOLDER}/{weights.file}',
            ]
    return values, heading


def main() -> None:
    """Write the files that changed."""
    for name, text in generate().items():
        path = FOLDER / name
        if not path.exists() or path.read_text(encoding='utf-8') != text:
            path.parent.mkdir(exist_ok=True)
            path.write_text(text, encoding='utf-8')
            print(path)


if __name__ == '__main__':
    main()
