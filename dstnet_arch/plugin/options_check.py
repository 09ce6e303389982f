"""The check of a whole options file: its top level, and the data sets with their data."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import AfterValidator, ConfigDict, Field, ValidationError, ValidationInfo
from pydantic_core import InitErrorDetails, PydanticCustomError

from dstnet_arch.errors import DSTNetError
from dstnet_arch.metrics.scorer import least_side, needs_reference
from dstnet_arch.plugin.options import RELEASED_TYPES
from dstnet_arch.plugin.options_environment import missing_data
from dstnet_arch.plugin.options_schema import Run, Section, fail, find, problem, problems_of, run_of, targets, typed
from dstnet_arch.plugin.options_sections import (
    DistParams,
    FileName,
    Logger,
    Paths,
    TestDataset,
    Train,
    TrainDataset,
    Val,
)

MODEL = 'VideoRecurrentDeblurModel'
_CLIP_NETWORKS = ('BasicVSR', 'BasicVSRPlusPlus', 'IconVSR')  # of BasicSR's networks, those that process clips


def _check_gpus(number: int | str, info: ValidationInfo) -> int | str:
    here = torch.cuda.device_count()
    # Under a launcher the number may count several machines; stock BasicSR only asks whether it is 0.
    if isinstance(number, int) and number > here and (here == 0 or not run_of(info).dist):
        allowed = f'auto, or 0 (the CPU) to {here}' if here else 'auto or 0 (the CPU), since PyTorch finds no GPU'
        raise PydanticCustomError('gpus', '{allowed}', {'allowed': allowed})
    return number


def _check_clips(values: dict[str, Any]) -> dict[str, Any]:
    """Refuse single-frame networks of BasicSR, which would fail at the first clip."""
    network, name = find('arch', values['type']), values['type']
    if network is not None and network.__module__.startswith('basicsr.') and name not in _CLIP_NETWORKS:
        wrapped = f'{{type: SlidingWindow, num_frame: …, network: {{type: {name}, …}}}}'
        fail(problem(f'{name} given, which does not process clips; allowed: a network for clips, or {wrapped}', 'type'))
    return values


def _check_datasets(datasets: dict[Any, Any], info: ValidationInfo) -> dict[Any, Any]:
    run = run_of(info)
    phases = ('train', 'val') if run.is_train else ('test', 'val')
    problems: list[InitErrorDetails] = []
    names: dict[str, str] = {}
    meant: set[str] = set()
    for key, values in datasets.items():
        phase = str(key).partition('_')[0]
        if phase not in phases or str(key).startswith('train_'):
            near = get_close_matches(phase, phases, 1) if phase not in ('train', 'val', 'test') else []
            meant.update(near)
            allowed = 'in training: train, val, val_2, …' if run.is_train else 'in a test: test, test_2, …'
            hint = f'Did you mean {near[0]}?' if near else f'Allowed {allowed}'
            problems.append(problem(f'unknown key. {hint}', key))
            continue
        try:
            datasets[key] = _check_dataset(values, phase, run)
        except ValidationError as error:
            problems += problems_of(error, key)
        else:
            name = str(datasets[key].get('name'))
            if phase != 'train' and names.setdefault(name, key) != key:
                problems.append(problem(f'{name} given, as in datasets:{names[name]}. Use another name.', key, 'name'))
    if run.is_train and not {'train'} & (meant | set(datasets)):
        problems.append(problem('missing; training needs its data', 'train'))
    elif not datasets:
        problems.append(problem('empty; give at least one data set under test'))
    if problems:
        fail(*problems)
    return datasets


def _check_dataset(values: Any, phase: str, run: Run) -> dict[str, Any]:
    """Check the section of a data set and, if paths are checked, its data: our data sets do that when constructed."""
    kind = find('dataset', values.get('type')) if isinstance(values, dict) else None
    if kind is not None and kind.__module__.partition('.')[0] != 'dstnet_arch':
        return values  # the keys are another package's
    section = (TrainDataset if phase == 'train' else TestDataset).model_validate(values, context=run)
    right = section.model_dump(exclude_unset=True)
    if not run.check_paths:
        return right
    roots = ('dataroot_lq', 'dataroot_gt')
    missing = {key: right[key] and missing_data(right[key]) for key in roots if right.get(key)}
    if any(missing.values()):
        fail(*(problem(text, key) for key, text in missing.items() if text))
    try:
        dataset: Any = targets('dataset')[section.type]({**right, 'phase': phase})
    except DSTNetError as error:
        fail(problem(str(error)))
    if phase != 'train':
        _check_frame_sizes(dataset, run.value('val', 'metrics'))
    return right


def _check_frame_sizes(dataset: Any, metrics: Any) -> None:
    """Refuse metrics that cannot score the smallest frames: a training run would end at its first validation."""
    side, clip = min((min(dataset.lq.shape(clip, frames[0])), clip) for clip, frames in dataset.lq.clips.items())
    for metric in metrics.values() if isinstance(metrics, dict) else ():
        if not isinstance(metric, dict) or 'type' not in metric or (dataset.gt is None and needs_reference(metric)):
            continue
        if side < (least := least_side(metric)):
            text = (
                f'{metric["type"]} in val:metrics needs sides of at least {least} pixels, but a frame of {clip} has '
                f'{side}. Remove this metric, or use a smaller crop_border.'
            )
            fail(problem(text))


class Options(Section):
    """The top level of an options file."""

    place: ClassVar[str | None] = ''

    name: FileName
    """Name of the run: its outputs go to `experiments/NAME` or `results/NAME`. A name with `debug` in it logs every
    iteration, and validates and saves every 8.
    """
    model_type: Literal['VideoRecurrentDeblurModel']
    """With another registered model, only the sections of our data sets are checked."""
    scale: Literal[1] = 1
    """Deblurring keeps the size; the key is for stock BasicSR."""
    num_gpu: Annotated[Literal['auto'] | Annotated[int, Field(ge=0)], AfterValidator(_check_gpus)]
    """GPUs of this process. 0: the CPU; auto: every GPU of the machine, or the CPU if there is none."""
    manual_seed: int | None = Field(None, ge=0, lt=2**31)
    """Seed of all random choices; ~: a new one for each start of a run."""
    find_unused_parameters: bool = False
    """For distributed training of a network that does not use all its parameters in every pass."""
    datasets: Annotated[dict[Any, Any], AfterValidator(_check_datasets)]
    """`train`, `val`, `val_2`, … in training; `test`, `test_2`, … in a test."""
    network_g: Annotated[dict[Any, Any], typed('arch'), AfterValidator(_check_clips)]
    """The network: its `type` and the arguments of that class."""
    path: Paths
    """Weights to start from and states to resume."""
    train: Train | None = None
    """The training. Required in training."""
    val: Val | None = None
    """Validation during training, or the test. Required in a test."""
    logger: Logger | None = None
    """What is logged, and how often. Required in training."""
    dist_params: DistParams | None = None
    """How the processes of a distributed run connect."""


class TrainOptions(Options):
    """The top level of an options file for training."""

    train: Train
    """The training."""
    logger: Logger
    """What is logged, and how often."""


class TestOptions(Options):
    """The top level of an options file for a test."""

    __test__ = False
    val: Val
    """The test."""


class _DataOptions(Section):
    """Options for another model."""

    model_config = ConfigDict(extra='ignore')

    datasets: Annotated[dict[Any, Any], AfterValidator(_check_datasets)]
    """The data sets."""


def validate(run: Run, released: Mapping[str, str]) -> tuple[dict[str, Any], list[str]]:
    """Validate options; see `check_options` of `dstnet_arch.plugin.options`.

    Args:
        run: the run with its options.
        released: types of the released code in the options, by path: they are checked as if they were ours.

    Returns:
        The corrected values that were given, and a line for each problem.
    """
    lines: list[str] = []
    run.opt = copy.deepcopy(run.opt)
    for path, name in released.items():
        *sections, key = path.split(':')
        place = run.opt
        for section in sections:
            place = place[section]
        place[key] = RELEASED_TYPES[name][1]
        lines.append(f'{path}: {name} is a type of the released code; here: {place[key]}')
    model: type[Section] = TrainOptions if run.is_train else TestOptions
    if run.opt.get('model_type') != MODEL and find('model', run.opt.get('model_type')):
        model = _DataOptions
    try:
        options = model.model_validate(run.opt, context=run)
    except ValidationError as error:
        for entry in error.errors(include_url=False):
            path = ':'.join(map(str, entry['loc'])) or 'options'
            lines.append(f'{path}: ' + entry['msg'].rstrip().replace('\n', '\n    '))
        return {}, lines
    return options.model_dump(by_alias=True, exclude_unset=True), lines
