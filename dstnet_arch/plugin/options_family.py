"""The options files of all experiments: ``python -m dstnet_arch.plugin.options_family`` writes them to ``options/``.

BasicSR's options files cannot include one another, so each is complete. These are not kept by hand: a file is
``options/train_DSTNet_GoPro.yml`` or ``options/test_DSTNet_GoPro.yml``, which are, with another heading and the few
lines that the table of experiments below says. A change of those two, or of the table, is followed by one run.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from textwrap import indent, wrap

from dstnet_arch.plugin.options_schema import DATA_COMMANDS
from dstnet_arch.weights.released import RELEASED
from dstnet_arch.weights.store import DEFAULT_FOLDER

TEMPLATE = 'DSTNet_GoPro'
WIDTH = 118  # of comments, without their '# '


@dataclass(frozen=True)
class Data:
    """A data set as `data_prep` leaves it."""

    name: str
    """In names of files and in tables."""
    root: str
    clip_length: int = 30
    """Frames that the released code restores together in a test."""
    validation: str = 'test'
    """The split that training validates with."""

    @property
    def command(self) -> str:
        """What makes it."""
        return DATA_COMMANDS[Path(self.root).name.lower()].format(folder=self.root)


GOPRO = Data('GoPro', 'datasets/GoPro')
DVD = Data('DVD', 'datasets/DVD', clip_length=25)
BSD = {
    'BSD, exposures of 1 ms (sharp) and 8 ms (blurry)': Data('BSD1ms8ms', 'datasets/BSD_1ms8ms', validation='valid'),
    'BSD, exposures of 2 ms (sharp) and 16 ms (blurry)': Data('BSD2ms16ms', 'datasets/BSD_2ms16ms', validation='valid'),
    'BSD, exposures of 3 ms (sharp) and 24 ms (blurry)': Data('BSD3ms24ms', 'datasets/BSD_3ms24ms', validation='valid'),
}


@dataclass(frozen=True)
class Experiment:
    """What a pair of options files, one to train and one to test, has of its own."""

    name: str
    """After ``train_`` and ``test_``."""
    about: str
    """What it reproduces."""
    data: Data = GOPRO
    network: str | None = None
    """What stands under `network_g`; None: DSTNet as in the template."""
    values: Mapping[str, str] = field(default_factory=dict)
    """Path of a key in the training's options -> its value; one without a comment leaves that of the template."""
    training: str = ''
    """What should be known of the training, in sentences."""
    weights: str | None = None
    """Name of released weights."""
    folder: str = ''

    def file(self, run: str) -> str:
        """Path of the options file from ``options/``; `run` is train or test."""
        return f'{self.folder}{run}_{self.name}.yml'


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
num_feat: 64
num_kernel_block: 3  # residual blocks at each of the three scales that filters are predicted from
num_block: 15  # residual blocks of each direction
"""
DSTNET_PLUS_L = """\
type: DSTNetPlus
num_feat: 96
num_kernel_block: 5  # residual blocks at each of the three scales that filters are predicted from
num_block: 25  # residual blocks of each direction
"""
DSTNET_ABLATION = """\
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
BASICVSR_PP = """\
type: BasicVSRPlusPlus
mid_channels: 64
num_blocks: 15
max_residue_magnitude: 10
is_low_res_input: false  # restore frames at their own size; their sides are multiples of 4, 256 and more
spynet_path: ~  # SPyNet's weights to start from, as BasicSR's model zoo has them; ~ = random ones
cpu_cache_length: 100  # clips that are longer keep their features in main memory
"""
EDVR = """\
type: SlidingWindow  # each frame as the middle one of a window
num_frame: 5
ends: reflect  # reflect | replicate: what windows hold beyond the ends of a clip
size_multiple: 16  # EDVR takes no other sizes: pad, and crop the result
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
    """All of them, but the two runs that the templates are, and the sample's."""
    yield Experiment(
        'DSTNet_DVD', 'Table 2 of the paper, Ours: DSTNet on DVD, 33.79 dB / 0.9615 there.', DVD, weights='DVD'
    )
    for place, data in BSD.items():
        if data.name == 'BSD1ms8ms':
            about = f'Table 3 of the paper, Ours: DSTNet on {place}, 34.45 dB / 0.9548 there.'
            yield Experiment(f'DSTNet_{data.name}', about, data, weights='BSD')
        else:
            about = f'DSTNet on {place}; Table 3 of the paper is about those of 1 ms and 8 ms.'
            yield Experiment(f'DSTNet_{data.name}', about, data)
    yield Experiment(
        'DSTNet-L_GoPro',
        'Table 1 of the paper, Ours-L: DSTNet-L on GoPro, 35.05 dB / 0.9733 there.',
        network=DSTNET_L,
        weights='GoPro-L',
    )

    places = {
        'GoPro': replace(GOPRO, clip_length=50),  # its authors: clips of 30 frames cost about 0.15 dB
        'DVD': DVD,
        **BSD,
    }
    scores = ('34.42 dB / 0.9694', '33.93 dB / 0.9618', '34.37 dB', '32.92 dB', '32.76 dB')
    for (place, data), score in zip(places.items(), scores, strict=True):
        about = f'DSTNet+ (TPAMI 2025), the base network, on {place}: {score} there.'
        yield Experiment(f'DSTNetPlus_{data.name}', about, data, DSTNET_PLUS)
    scores = ('35.71 dB / 0.9766', '34.63 dB / 0.9669', '35.18 dB', '33.75 dB', '33.48 dB')
    for (place, data), score in zip(places.items(), scores, strict=True):
        yield Experiment(
            f'DSTNetPlus-L_{data.name}',
            f'DSTNet+ (TPAMI 2025), the large network, on {place}: {score} there.',
            data,
            DSTNET_PLUS_L,
            {'train:grad_clip': '0.01  # largest gradient norm, as released for the large network; 0 = no clipping'},
            'The released options take one clip a GPU, so batches of 8; here they are of 16, as for the base network.',
        )

    shorter = {
        'train:total_iter': "300000  # the paper's ablations",
        'train:scheduler:periods': '[300000]',
    }
    for suffix, about in (
        ('', 'Tables 4, 5 and 6 of the paper, Ours: the full network, 33.33 dB / 0.9611 there.'),
        ('spatial-gmlp', 'Table 4 of the paper, w/ gMLP in place of the CWGDN, 33.16 dB / 0.9602 there.'),
        ('spatial-none', 'Table 4 of the paper, w/o CWGDN, 33.18 dB / 0.9602 there.'),
        ('fusion-blend', 'Table 5 of the paper, w/ the feature fusion [27], Eq. (11), 33.00 dB / 0.9597 there.'),
        ('fusion-none', 'Table 5 of the paper, w/o the gated fusion, Eq. (3), 33.22 dB / 0.9608 there.'),
        ('pixel_filter-false', 'Table 5 of the paper, w/o the pixel-wise filters, Eq. (4), 32.55 dB / 0.9504 there.'),
        ('propagation-none', 'Table 6 of the paper, w/o WaveletFP, 28.57 dB / 0.9057 there.'),
        ('propagation-bilinear', 'Table 6 of the paper, w/ Bilinear in FP, 32.87 dB / 0.9587 there.'),
    ):
        key, _, value = suffix.partition('-')
        yield Experiment(
            '_'.join(filter(None, ('DSTNet_ablation', suffix))),
            about,
            network=with_values(DSTNET_ABLATION, {key: value} if key else {}),
            values=shorter,
            folder='ablation/',
        )

    yield Experiment(
        'BasicVSRPP_GoPro',
        'BasicVSR++ as stock BasicSR ships it, on GoPro; Table 1 of the paper quotes 34.01 dB / 0.9520. Without a GPU, '
        'BasicSR leaves its alignment out, and neither kind fits the weights of the other.',
        network=BASICVSR_PP,
        training="The data, losses and schedule are DSTNet's. Its authors start its optical flow network from trained "
        'weights (spynet_path), fix it at first, and train it more slowly than the rest.',
        folder='peers/',
    )
    yield Experiment(
        'EDVR_GoPro',
        'EDVR for deblurring as stock BasicSR ships it, on GoPro; Table 1 of the paper quotes 26.83 dB / 0.8426.',
        network=EDVR,
        values={'train:gradient_checkpointing': 'true  # the windows of two clips take about 28 GB otherwise'},
        training="The data, losses and schedule are DSTNet's, and each frame of a clip is restored.",
        folder='peers/',
    )


def family(folder: Path) -> dict[str, str]:
    """Write all files.

    Args:
        folder: where the two templates are.

    Returns:
        Path from `folder` -> text.
    """
    templates = {run: (folder / f'{run}_{TEMPLATE}.yml').read_text(encoding='utf-8') for run in ('train', 'test')}
    texts = {}
    for experiment in experiments():
        for run, template in templates.items():
            text = with_values(template, (_train_values if run == 'train' else _test_values)(experiment))
            if experiment.network is not None:
                text = with_section(text, 'network_g', experiment.network)
            heading = _train_heading(experiment) if run == 'train' else _test_heading(experiment)
            body = re.sub(r'\A(#.*\n)+', '', text)
            texts[experiment.file(run)] = indent('\n'.join(heading), '# ') + '\n' + body
    return texts


def with_values(text: str, values: Mapping[str, str]) -> str:
    """Put other values into the text of an options file, and leave the rest of it as it is.

    Args:
        text: the options file.
        values: path of a key -> its value. A comment behind it takes the place of the one that is there.

    Raises:
        KeyError: there is no such key.
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


def with_section(text: str, name: str, body: str) -> str:
    """Replace what stands under a key of the top level."""
    section = f'{name}:\n{indent(body, "  ")}'
    return re.sub(rf'^{name}:\n(  .*\n)+', lambda _: section, text, flags=re.MULTILINE)


def _train_values(experiment: Experiment) -> dict[str, str]:
    return {
        'name': f'train_{experiment.name}',
        **_data_values('train', 'train', experiment.data),
        **_data_values('val', experiment.data.validation, experiment.data),
        **experiment.values,
    }


def _test_values(experiment: Experiment) -> dict[str, str]:
    return {
        'name': f'test_{experiment.name}',
        **_data_values('test', 'test', experiment.data),
        'path:pretrain_network_g': f'experiments/train_{experiment.name}/models/net_g_latest.pth',
    }


def _data_values(place: str, split: str, data: Data) -> dict[str, str]:
    values = {
        'name': data.name,
        'dataroot_lq': f'{data.root}/{split}_blur.lmdb',
        'dataroot_gt': f'{data.root}/{split}_sharp.lmdb',
        **({} if place == 'train' else {'clip_length': str(data.clip_length)}),
    }
    return {f'datasets:{place}:{key}': value for key, value in values.items()}


def _train_heading(experiment: Experiment) -> list[str]:
    different = [
        *(['datasets'] if experiment.data != GOPRO else []),
        *(['network_g'] if experiment.network else []),
        *experiment.values,
    ]
    notes = [
        experiment.training,
        'Validated with the valid sequences, not with those of the test.'
        if experiment.data.validation == 'valid'
        else '',
        f'Differences from options/train_{TEMPLATE}.yml: {", ".join(different)}. docs/options.md explains every key.',
    ]
    command = f'-m basicsr.train -opt options/{experiment.file("train")}'
    return [
        *wrap(experiment.about, WIDTH, break_on_hyphens=False),
        *wrap(' '.join(filter(None, notes)), WIDTH, break_on_hyphens=False),
        f'Make the data first:  {experiment.data.command}',
        'Eight GPUs:',
        f'  torchrun --nproc_per_node=8 {command} --launcher pytorch',
        'One GPU, the same batch of 16 clips, two at a time:',
        f'  python {command} --force_yml datasets:train:batch_size_per_gpu=16 train:accum_iter=8',
    ]


def _test_heading(experiment: Experiment) -> list[str]:
    command = f'python -m basicsr.test -opt options/{experiment.file("test")}'
    released = [
        line
        for weights in RELEASED
        if weights.name == experiment.weights
        for line in (
            f"Or test the authors' weights (dstnet weights get {weights.name}):",
            f'  {command} --force_yml path:pretrain_network_g={DEFAULT_FOLDER}/{weights.file}',
        )
    ]
    return [
        *wrap(experiment.about, WIDTH, break_on_hyphens=False),
        f'Make the data first:  {experiment.data.command}',
        f'Train it with options/{experiment.file("train")}, then:',
        f'  {command}',
        *released,
    ]


def main() -> int:
    """Write the files to ``options/`` of the current folder; unchanged ones are left alone."""
    folder = Path('options')
    try:
        texts = family(folder)
    except OSError as error:
        print(f'error: {error}. Run this in the root of the source tree.', file=sys.stderr)
        return 2
    for name, text in texts.items():
        path = folder / name
        if not path.exists() or path.read_text(encoding='utf-8') != text:
            path.parent.mkdir(exist_ok=True)
            path.write_text(text, encoding='utf-8')
            print(path)
    return 0


if __name__ == '__main__':
    sys.exit(main())
