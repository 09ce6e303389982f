"""Options files: find, read and override them, and tell whose they are."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from typing import Any

import yaml

from dstnet_arch.errors import OptionsError
from dstnet_arch.plugin.registration import names

_TRAIN, _TEST = 'VideoRecurrentDeblurDataset', 'VideoRecurrentDeblurTestDataset'
RELEASED_TYPES = {
    'VideoRecurrentModel': 'VideoRecurrentDeblurModel',  # stock BasicSR has a model of that name, too
    'GOPRORecurrentDataset': _TRAIN,
    'DVDRecurrentDataset': _TRAIN,
    'BSDRecurrentDataset': _TRAIN,
    'BSDRecurrentdatasets': _TRAIN,
    'VideoRecurrentSplitClipsTestDataset': _TEST,
    'VideoRecurrentSplitClipsTestdatasets': _TEST,
    'Deblur': 'DSTNet',
    'Deblur_L': 'DSTNet',
    'DSTNetPlus_Final': 'DSTNetPlus',
    'FFT': 'FrequencyLoss',
}
"""Types of the released code, a fork of BasicSR, and their names here."""


def options_folder() -> Path:
    """Return the folder of this package's options files: in the wheel, or in the checkout of an editable install."""
    package = Path(__file__).parents[1]
    return package / 'options' if (package / 'options').is_dir() else package.parent / 'options'


def packaged_files() -> list[Path]:
    """Return the paths of the packaged options files in `options_folder`."""
    folder = options_folder()
    return sorted(path.relative_to(folder) for path in folder.rglob('*.yml'))


def find_options(name: str) -> Path:
    """Return the path of an options file: `name` itself, or else the packaged file of that name.

    Args:
        name: a path, or the name of a packaged file, e.g. 'train_DSTNet_GoPro', with or without 'options/' and '.yml'.

    Raises:
        OptionsError: there is no such file.
    """
    if name and Path(name).exists():
        return Path(name)
    packaged = packaged_files()
    stem = name.removeprefix('options/').removesuffix('.yml')
    for path in packaged:
        if stem in (path.stem, path.with_suffix('').as_posix()):
            return options_folder() / path
    near = get_close_matches(Path(name).stem, [path.stem for path in packaged], 1)
    raise OptionsError(
        f'The options file {name} does not exist (current folder: {Path.cwd()}). '
        + (f'Did you mean {near[0]}? ' if near else '')
        + 'Packaged files can be given by name: dstnet options list. To edit them: dstnet options copy DIR.'
    )


class _Loader(yaml.SafeLoader):
    """Constructs plain values only, and notes what stock BasicSR would execute or drop silently."""

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self.problems: list[str] = []

    def read(self) -> Any:
        node = self.get_single_node()
        return node and self.construct_object(node, deep=True)  # deep: refuses an alias to its own section

    def leave_out(self, node: yaml.Node) -> None:
        self.problems.append(f'line {node.start_mark.line + 1} has the tag {node.tag}, which is not allowed. Remove it')

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        for key in {key for key in keys if keys.count(key) > 1}:
            self.problems.append(f'{key} occurs twice in the section that begins in line {node.start_mark.line + 1}')
        return super().construct_mapping(node, deep)


_Loader.add_constructor(None, _Loader.leave_out)  # every tag that SafeLoader does not know
# YAML 1.1 reads 1e-4 as text, and a run named 2025-03-07 as a date.
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith(':timestamp')]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_FLOAT = re.compile(r'[-+]?\d+(\.\d*)?[eE][-+]?\d+$')
_Loader.add_implicit_resolver('tag:yaml.org,2002:float', _FLOAT, list('-+0123456789'))


def read_options(path: str | Path, strict: bool = False) -> dict[str, Any]:
    """Read an options file as data: no tag in it can run code.

    Args:
        path: the file.
        strict: refuse tags that construct Python objects and duplicate keys in all files. By default, files for other
            packages' models may contain them.

    Raises:
        OptionsError: the file cannot be read, is not valid YAML, does not consist of keys and values, or contains what
            `strict` refuses.
    """
    try:
        loader = _Loader(Path(path).read_text(encoding='utf-8'))
        opt = loader.read()
    except OSError as error:
        raise OptionsError(f'The options file {path} cannot be read: {error.strerror}.') from None
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:  # PyYAML does not convert all of them
        reason = ' '.join(str(error).split())
        raise OptionsError(f'The options file {path} is not valid YAML: {reason}.') from None
    if not isinstance(opt, dict):
        raise OptionsError(f'The options file {path} contains no keys. For an example: dstnet options copy DIR.')
    theirs = isinstance(opt.get('model_type'), str) and not concerns_us(opt)
    if loader.problems and (strict or not theirs):
        raise OptionsError(f'The options file {path}: {"; ".join(loader.problems)}.')
    return opt


def types_in(section: Any, path: str = '') -> Iterator[tuple[str, str]]:
    """Yield the path and the value of each key `type` and `model_type`."""
    for key, value in section.items() if isinstance(section, dict) else ():
        if key in ('type', 'model_type') and isinstance(value, str):
            yield f'{path}{key}', value
        yield from types_in(value, f'{path}{key}:')


def concerns_us(opt: dict[str, Any]) -> bool:
    """Return True if options use this package's model or data sets, or types that exist only in the released code."""
    ours = names('MODEL_REGISTRY') | names('DATASET_REGISTRY')
    return any(name in ours for _, name in types_in(opt)) or bool(released_types(opt))


def released_types(opt: dict[str, Any]) -> dict[str, str]:
    """Return the types of the released code in options that no package has registered, by the path of their key."""
    found = {path: name for path, name in types_in(opt) if name in RELEASED_TYPES}
    if found.keys() <= {'model_type'}:
        return {}
    registries = import_module('basicsr.utils.registry')
    known = {name for kind in ('ARCH', 'DATASET', 'LOSS') for name, _ in getattr(registries, f'{kind}_REGISTRY')}
    found = {path: name for path, name in found.items() if name not in known}
    return {} if found.keys() <= {'model_type'} else found


def force(opt: dict[str, Any], entries: Sequence[str]) -> dict[str, Any]:
    """Apply ``--force_yml`` entries to a copy of the options. Their values are read as in an options file.

    Raises:
        OptionsError: an entry is not of the form ``key=value`` or ``section:key=value``, or names a section that the
            file does not have.
    """
    opt = copy.deepcopy(opt)
    for entry in entries:
        path, equals, text = (part.strip() for part in entry.partition('='))
        *sections, last = path.split(':')
        if not equals or not last or '=' in text:
            raise OptionsError(f'--force_yml {entry}: expected section:key=value, e.g. train:total_iter=1000.')
        place: Any = opt
        for section in sections:
            place = place.get(section) if isinstance(place, dict) else None
        if not isinstance(place, dict):
            near = get_close_matches(path, _paths(opt), 1, 0.5)
            raise OptionsError(
                f'--force_yml {entry}: the options file has no section {":".join(sections)}. '
                + (f'Did you mean {near[0]}?' if near else 'Use a key of the file.')
            )
        place[last] = _forced_value(entry, text)
    return opt


def _forced_value(entry: str, text: str) -> Any:
    if text.lower() == 'none':  # as BasicSR reads it
        return None
    try:
        loader = _Loader(text)
        value = loader.read()
        if not loader.problems:
            return value
    except (yaml.YAMLError, ValueError):
        pass
    raise OptionsError(
        f'--force_yml {entry}: {text} is not a value. Allowed: a number, true, false, ~, text, or a list such as [1,2].'
    )


def _paths(opt: dict[str, Any], prefix: str = '') -> Iterator[str]:
    for key, value in opt.items():
        yield f'{prefix}{key}'
        if isinstance(value, dict):
            yield from _paths(value, f'{prefix}{key}:')
