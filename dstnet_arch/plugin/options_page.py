"""The reference page of an options file's keys: ``python -m dstnet_arch.plugin.options_page > docs/options.md``."""

from __future__ import annotations

from collections.abc import Iterable

from dstnet_arch.plugin.options_schema import SUPPLIED, targets
from dstnet_arch.plugin.options_sections import (
    DistParams,
    IoBackend,
    Logger,
    LossArguments,
    MetricArguments,
    NetworkArguments,
    OptimizerArguments,
    Paths,
    SchedulerArguments,
    Section,
    TestDataset,
    TopLevel,
    Train,
    TrainDataset,
    Val,
    Wandb,
    allowed,
    arguments_of,
    yaml_text,
)
from dstnet_arch.plugin.registration import PARTS

ARCHS = 'ARCH_REGISTRY'
INTRODUCTION = """\
<!-- Made by: python -m dstnet_arch.plugin.options_page > docs/options.md
     The sentences stand in dstnet_arch/plugin/options_sections.py and in the docstrings of the classes. -->
# Options

An options file is a YAML file as BasicSR reads it:

    python -m basicsr.train -opt options/train_DSTNet_GoPro.yml
    python -m basicsr.test -opt options/test_DSTNet_GoPro.yml

Single values are forced on the command line, by the path of their key; the section must stand in the file:

    --force_yml train:total_iter=1000 train:scheduler:periods=[1000] datasets:train:num_worker_per_gpu=2

`~` is YAML's word for nothing. Relative paths start at the current folder. Numbers may be written as `1e-4`, on the
command line too.

Before anything is created the options are checked as a whole: unknown and missing keys, values out of range, files that
are not there and combinations that cannot work are reported together, each with what is allowed.
"""


def reference_page() -> str:
    """Write the page, as Markdown."""
    return '\n'.join(
        [
            INTRODUCTION,
            _table('Top level', TopLevel),
            _table('datasets:train', TrainDataset, 'The training data: one set.'),
            _table(
                'datasets:val, datasets:test',
                TestDataset,
                'Data to validate with or to test; further sets stand under `val_2`, `test_2`, …',
            ),
            _table('datasets:…:io_backend', IoBackend),
            '## network_g\n\n'
            "Any network in BasicSR's registry that maps a clip (B, T, 3, H, W) to one of the same shape: `type` is "
            'its name there, the other keys are its arguments. Ours:\n',
            *(_arguments('network_g', 'arch', part.name, NetworkArguments) for part in PARTS if part.registry == ARCHS),
            _table('path', Paths),
            _table('train', Train),
            _arguments(
                'train:optim_g',
                'optimizer',
                'AdamW',
                OptimizerArguments,
                'Any optimiser of `torch.optim`: `type` is its name there, the other keys are its arguments. Of these:',
            ),
            _arguments('train:scheduler', 'scheduler', 'CosineAnnealingRestartLR', SchedulerArguments),
            _arguments(
                'train:scheduler', 'scheduler', 'MultiStepRestartLR', SchedulerArguments, 'Also called `MultiStepLR`.'
            ),
            _arguments(
                'train:pixel_opt',
                'loss',
                'CharbonnierLoss',
                LossArguments,
                "Any loss in BasicSR's registry that compares two clips; `L1Loss` and `MSELoss` have the same "
                'arguments but `eps`.',
            ),
            _arguments('train:frequency_opt', 'loss', 'FrequencyLoss', LossArguments),
            _table('val', Val),
            _arguments(
                'val:metrics:…',
                'metric',
                'calculate_psnr',
                MetricArguments,
                "Any metric in BasicSR's registry that compares two frames. `calculate_ssim` has the same arguments.",
            ),
            _arguments('val:metrics:…', 'metric', 'calculate_ssim3d', MetricArguments),
            _table('logger', Logger),
            _table('logger:wandb', Wandb),
            _table('dist_params', DistParams),
        ]
    )


def _arguments(title: str, kind: str, name: str, known: type[Section], text: str = '') -> str:
    section = arguments_of(targets(kind)[name], known, SUPPLIED)
    # PyTorch's further arguments differ from version to version, and this page is to be the same for all of them.
    shown = [
        key for key in section.model_fields if key in known.model_fields or (kind != 'optimizer' and key != 'type')
    ]
    return _table(f'{title}, type: {name}', section, text, shown)


def _table(title: str, section: type[Section], text: str = '', keys: Iterable[str] | None = None) -> str:
    rows = ['| Key | Allowed | Default | |', '|---|---|---|---|']
    for key in section.model_fields if keys is None else keys:
        field = section.model_fields[key]
        default = 'required' if field.is_required() else f'`{yaml_text(field.default)}`'
        cells = f'`{key}`', allowed(section, key), default, field.description or ''
        rows.append(f'| {" | ".join(cell.replace("|", chr(92) + "|") for cell in cells)} |')
    return '\n'.join([f'## {title}\n', *([f'{text}\n'] if text else []), *rows, ''])


if __name__ == '__main__':
    print(reference_page(), end='')
