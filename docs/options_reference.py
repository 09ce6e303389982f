"""Writes the reference page of all options: ``python docs/options_reference.py > docs/options.md``.

The descriptions are the attribute docstrings in ``dstnet_arch/plugin/options_sections.py`` and ``options_check.py``,
the docstrings of our classes, and ``ARGUMENTS`` in ``options_schema.py``.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from typing import Any

from dstnet_arch.plugin.options_check import Options
from dstnet_arch.plugin.options_schema import ARGUMENTS, Section, arguments_of, targets, yaml_text
from dstnet_arch.plugin.options_sections import (
    DistParams,
    IoBackend,
    Logger,
    Paths,
    TestDataset,
    Train,
    TrainDataset,
    Val,
    Wandb,
)

INTRODUCTION = """\
<!-- Generated: python docs/options_reference.py > docs/options.md -->
# Options

An options file is a YAML file in BasicSR's format:

    python -m basicsr.train -opt options/train_DSTNet_GoPro.yml
    python -m basicsr.test -opt options/test_DSTNet_GoPro.yml

The packaged files can be given by name from any folder (`-opt train_DSTNet_GoPro`). `dstnet options list` lists them,
`dstnet options copy DIR` copies them, and `dstnet options check FILE` checks a file without running anything.

Override values on the command line by the path of their key. The section must exist in the file:

    --force_yml train:total_iter=1000 train:scheduler:periods=[1000] datasets:train:num_worker_per_gpu=2

`~` means no value. Relative paths start at the current folder. Numbers can be written as `1e-4`.

Before anything is created, the options are checked: unknown and missing keys, values out of range, missing files,
data that do not fit and combinations that cannot work are reported together, each with what is allowed. Options that
name types of the authors' released code, a fork of BasicSR, get the same report with the names used here.
"""
SECTIONS: list[tuple[str, type[Section], str]] = [
    ('Top level', Options, ''),
    ('datasets:train', TrainDataset, 'The training data: one data set.'),
    ('datasets:val, datasets:test', TestDataset, 'More data sets are named `val_2`, `test_2`, …'),
    ('datasets:…:io_backend', IoBackend, ''),
    ('path', Paths, ''),
    ('train', Train, ''),
    ('val', Val, ''),
    ('logger', Logger, ''),
    ('logger:wandb', Wandb, ''),
    ('dist_params', DistParams, ''),
]
TYPES = [
    ('network_g', 'arch', 'DSTNet', 'Any registered network that maps a clip (B, T, 3, H, W) to the same shape.'),
    ('network_g', 'arch', 'DSTNetPlus', ''),
    ('network_g', 'arch', 'SlidingWindow', ''),
    ('train:optim_g', 'optimizer', 'AdamW', 'Any optimizer of `torch.optim` with its arguments.'),
    ('train:scheduler', 'scheduler', 'CosineAnnealingRestartLR', ''),
    ('train:scheduler', 'scheduler', 'MultiStepRestartLR', 'Also called `MultiStepLR`.'),
    ('train:pixel_opt', 'loss', 'CharbonnierLoss', 'Any registered loss that compares two clips.'),
    ('train:frequency_opt', 'loss', 'FrequencyLoss', ''),
    ('val:metrics:…', 'metric', 'calculate_psnr', 'Any registered metric. `calculate_ssim` has the same arguments.'),
    ('val:metrics:…', 'metric', 'calculate_ssim3d', ''),
]


def reference_page() -> str:
    """Return the page as Markdown."""
    parts = [INTRODUCTION]
    for title, section, text in SECTIONS:
        parts.append(_table(title, section, text, {}))
        for place, kind, name, about in TYPES:
            if place.partition(':')[0] == title or (place == 'network_g' and title == 'datasets:…:io_backend'):
                target = targets(kind)[name]
                texts = argument_texts(target) if target.__module__.startswith('dstnet_arch') else {}
                parts.append(_table(f'{place}, type: {name}', arguments_of(kind, target), about, texts, kind))
    return '\n'.join(parts)


def argument_texts(target: Callable[..., Any]) -> dict[str, str]:
    """Return the descriptions in the ``Args:`` block of a docstring by argument."""
    block = (inspect.getdoc(target) or '').partition('Args:\n')[2].partition('\n\n')[0]
    found = re.findall(r'^    (\w+)(?: \(.*?\))?: (.*(?:\n {5,}.*)*)', block, re.MULTILINE)
    return {name: text[:1].upper() + ' '.join(text.split())[1:] for name, text in found}


def _table(title: str, section: type[Section], about: str, texts: dict[str, str], kind: str = '') -> str:
    rows = [
        f'## {title}',
        '',
        *([about, ''] if about else []),
        '| Key | Allowed | Default | Description |',
        '|---|---|---|---|',
    ]
    for key, name in section.key_names().items():
        field = section.model_fields[name]
        if kind == 'optimizer' and key not in ARGUMENTS[kind]:
            continue  # PyTorch's other arguments depend on its version
        if kind and key == 'type':
            continue
        default = 'required' if field.is_required() else f'`{yaml_text(_plain(field.default))}`'
        text = texts.get(key) or ' '.join((field.description or '').split())
        cells = f'`{key}`', _words(section.model_json_schema()['properties'][key]), default, text
        rows.append(f'| {" | ".join(cell.replace("|", chr(92) + "|") for cell in cells)} |')
    return '\n'.join([*rows, ''])


def _plain(value: Any) -> Any:
    return value.model_dump() if isinstance(value, Section) else value


def _words(schema: dict[str, Any]) -> str:
    """Describe a JSON schema in words, e.g. 'number >= 0 and < 1'."""
    if 'anyOf' in schema:
        options = schema['anyOf']
        return _listed([text for option in options for text in map(str, option.get('enum', [_words(option)]))])
    if 'enum' in schema:
        return _listed([str(choice) for choice in schema['enum']])
    if 'const' in schema:
        return str(schema['const'])
    kind = schema.get('type', 'object' if '$ref' in schema or 'allOf' in schema else 'any value')
    if kind == 'array':
        length = f'{schema["maxItems"]} values' if 'maxItems' in schema else 'list'
        return f'{length}: {_words(schema.get("items", {}))}'
    signs = {'minimum': '>=', 'exclusiveMinimum': '>', 'maximum': '<=', 'exclusiveMaximum': '<'}
    bounds = ' and '.join(f'{sign} {int(schema[bound])}' for bound, sign in signs.items() if bound in schema)
    words = {
        'boolean': 'true or false',
        'null': '~',
        'object': 'a section',
        'string': 'text',
        'integer': 'whole number',
    }
    return f'{words.get(kind, kind)} {bounds}'.strip()


def _listed(choices: list[str]) -> str:
    return ' or '.join(filter(None, [', '.join(choices[:-1]), choices[-1]]))


if __name__ == '__main__':
    print(reference_page(), end='')
