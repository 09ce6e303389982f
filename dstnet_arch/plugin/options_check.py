"""The sections of an options file, and the check of a file. docs/options.md describes the keys."""

from __future__ import annotations

import os
import re
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import AfterValidator, ConfigDict, Field, ValidationError, ValidationInfo, model_validator

from dstnet_arch.archs.checkpoint import read_state_dict
from dstnet_arch.errors import DSTNetError, OptionsError, counted
from dstnet_arch.plugin.options import RELEASED_TYPES, released_types
from dstnet_arch.plugin.options_schema import Run, Section, fail, find, problem, run_of, targets, typed, unknown_key
from dstnet_arch.plugin.registration import names
from dstnet_arch.precision import resolve_precision
from dstnet_arch.weights.released import RELEASED

_LOSSES = ('pixel_opt', 'frequency_opt', 'perceptual_opt')
_CLIP_NETWORKS = ('BasicVSR', 'BasicVSRPlusPlus', 'IconVSR')  # of BasicSR's networks, those that process clips
_FILE_NAME = r'[^/\\:\x00-\x1f]*[^/\\:\x00-\x1f.][^/\\:\x00-\x1f]*'  # on Windows, too


def _check_name(name: str) -> str:
    if not re.fullmatch(_FILE_NAME, name):
        raise ValueError('text without slashes and colons')
    return name


Count = Annotated[int, Field(ge=1)]
FileName = Annotated[str, AfterValidator(_check_name)]
FilePath = Annotated[str, Field(min_length=1)]
Loss = Annotated[dict[str, Any], typed('loss')]
Metric = Annotated[dict[str, Any], typed('metric')]


class _Dataset(Section):
    name: FileName
    dataroot_lq: FilePath
    blur: str = 'blur'
    io_backend: dict[Literal['type'], Literal['auto', 'lmdb', 'disk']] = {'type': 'auto'}
    pin_memory: bool = False


class TrainDataset(_Dataset):
    """The section `datasets:train`."""

    type: Literal['VideoRecurrentDeblurDataset']
    dataroot_gt: FilePath
    num_frame: Count = 15
    interval_list: list[Count] = Field([1], min_length=1)
    random_reverse: bool = False
    gt_size: Count = 256
    use_hflip: bool = True
    use_rot: bool = True
    num_worker_per_gpu: int = Field(ge=0, le=1000)
    batch_size_per_gpu: int = Field(ge=1, le=10000)
    dataset_enlarge_ratio: Count = 1
    prefetch_mode: Literal['cuda'] | None = None  # BasicSR's mode cpu hangs when a data set fails
    persistent_workers: bool = False

    @model_validator(mode='after')
    def _correct(self) -> TrainDataset:
        self.persistent_workers &= self.num_worker_per_gpu > 0  # PyTorch refuses it otherwise
        self.pin_memory |= self.prefetch_mode is not None  # BasicSR refuses to prefetch without
        return self


class TestDataset(_Dataset):
    """The sections `datasets:val`, `datasets:test` and further ones such as `datasets:test_2`."""

    __test__ = False  # not a test case for pytest

    type: Literal['VideoRecurrentDeblurTestDataset']
    dataroot_gt: FilePath | None = None
    clip_length: Count | None = 30


def _check_datasets(datasets: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
    run = run_of(info)
    known = ('train', 'val', 'val_2') if run.is_train else ('test', 'test_2')
    pattern = 'train|val(_.*)?' if run.is_train else '(test|val)(_.*)?'
    checked, problems = {}, []
    for key, values in datasets.items():
        if not re.fullmatch(pattern, key):
            problems.append(problem(unknown_key(key, known), key))
            continue
        try:
            checked[key] = _check_dataset(values, TrainDataset if key == 'train' else TestDataset, run)
        except ValidationError as error:
            problems += [problem(entry['msg'], key, *entry['loc']) for entry in error.errors(include_url=False)]
    if not problems and not ('train' in datasets if run.is_train else datasets):
        problems.append(problem('missing', known[0]))
    if problems:
        fail(*problems)
    return checked


def _check_dataset(values: Any, section: type[_Dataset], run: Run) -> dict[str, Any]:
    """Check the section of a data set and, if paths are checked, its data: our data sets do that when constructed."""
    kind = find('dataset', values.get('type')) if isinstance(values, dict) else None
    if kind is not None and not kind.__module__.startswith('dstnet_arch.'):
        return dict(values)  # the keys are another package's
    checked = section.model_validate(values, context=run).model_dump()
    if run.check_paths:
        roots = {key: os.path.expanduser(checked[key] or '') for key in ('dataroot_lq', 'dataroot_gt')}
        commands = {key: _data_command(root) for key, root in roots.items() if root and not os.path.exists(root)}
        if commands and all(commands.values()):
            fail(*(problem(f'{checked[key]} does not exist. To make it: {commands[key]}', key) for key in commands))
        try:
            targets('dataset')[checked['type']]({**checked, 'phase': 'train' if section is TrainDataset else 'test'})
        except DSTNetError as error:
            fail(problem(str(error)))
    return checked


def _data_command(root: str) -> str | None:
    """Return the command that makes a data root of the packaged files; None for others."""
    folder = os.path.dirname(os.path.normpath(root))
    bsd = f'bsd SOURCE --exposure {folder.rpartition("_")[2]}'
    kinds = {'sample': 'sample', 'gopro': 'gopro SOURCE', 'dvd': 'dvd SOURCE', 'bsd': bsd}
    kind = next((kinds[name] for name in kinds if name in folder.lower()), None)
    return kind and f'python -m data_prep {kind} -o {folder}'


class Paths(Section):
    """The section `path`."""

    pretrain_network_g: FilePath | None = None
    param_key_g: str | None = 'params'
    strict_load_g: bool = True
    resume_state: FilePath | None = None
    ignore_resume_networks: list[str] | None = None

    @model_validator(mode='after')
    def _check(self, info: ValidationInfo) -> Paths:
        run = run_of(info)
        if not run.check_paths:
            return self
        if run.is_train and self.resume_state and not os.path.isfile(os.path.expanduser(self.resume_state)):
            fail(problem(f'{self.resume_state} does not exist (current folder: {os.getcwd()}).', 'resume_state'))
        # A resumed run has its weights beside its state.
        states = Path('experiments', str(run.name), 'training_states')
        resumes = run.is_train and (self.resume_state or (run.auto_resume and any(states.glob('*.state'))))
        if self.pretrain_network_g and not resumes:
            try:
                read_state_dict(os.path.expanduser(self.pretrain_network_g), self.param_key_g)
            except DSTNetError as error:
                file = os.path.basename(self.pretrain_network_g)
                hint = ''.join(
                    f' Or: dstnet weights get {weights.name}' for weights in RELEASED if weights.file == file
                )
                fail(problem(f'{error}{hint}', 'pretrain_network_g'))
        return self


class _Computing(Section):
    precision: Literal['fp32', 'tf32', 'bf16', 'fp16'] | None = None
    amp: Literal['none', 'bf16', 'fp16'] | None = None
    compile: bool = False


class Train(_Computing):
    """The section `train`."""

    total_iter: Count
    warmup_iter: int = Field(-1, ge=-1)
    optim_g: Annotated[dict[str, Any], typed('optimizer')]
    scheduler: Annotated[dict[str, Any], typed('scheduler')]
    pixel_opt: Loss | None = None
    frequency_opt: Loss | None = None
    perceptual_opt: Loss | None = None
    accum_iter: Count = 1
    grad_clip: float = Field(0, ge=0)
    find_nonfinite: bool = False
    gradient_checkpointing: bool = False
    cuda_graph: bool = True
    ema_decay: float = Field(0, ge=0, lt=1)

    @model_validator(mode='after')
    def _check(self) -> Train:
        periods = self.scheduler.get('periods', [self.total_iter])
        if sum(periods) < self.total_iter:
            text = f'{periods} end before total_iter {self.total_iter}. Use [{self.total_iter}], for example.'
            fail(problem(text, 'scheduler', 'periods'))
        if not any(getattr(self, key) for key in _LOSSES):
            fail(problem(f'no loss given; give at least one of {", ".join(_LOSSES)}'))
        return self


class Val(_Computing):
    """The section `val`."""

    val_freq: Count = 5000
    save_img: bool = False
    suffix: FileName | None = None
    pbar: bool = True
    protocol: Literal['dstnet', 'basicsr', 'cdvd', 'estrnn'] = 'dstnet'
    self_ensemble: bool = False
    streaming: bool = False
    metrics: dict[str, Metric] | None = None


class Wandb(Section):
    """The section `logger:wandb`."""

    project: str | None = None
    resume_id: str | None = None


class Logger(Section):
    """The section `logger`."""

    print_freq: Count = 100
    save_checkpoint_freq: Count = 5000
    use_tb_logger: bool = False
    wandb: Wandb = Wandb()

    @model_validator(mode='after')
    def _check(self, info: ValidationInfo) -> Logger:
        if self.wandb.project and not self.use_tb_logger:
            fail(problem('false given with a project under logger:wandb; allowed: true', 'use_tb_logger'))
        for package, needed in {'tensorboard': self.use_tb_logger, 'wandb': self.wandb.project}.items():
            if needed and run_of(info).is_train and not find_spec(package):
                fail(problem(f'needs {package}, which is not installed: pip install {package}', 'use_tb_logger'))
        return self


def _check_gpus(number: Any, info: ValidationInfo) -> int:
    """Return the number of GPUs. One process uses one: with more, BasicSR would use DataParallel and end too early."""
    here, dist = torch.cuda.device_count(), run_of(info).dist
    if number != 'auto' and not str(number).isdecimal():
        raise ValueError('auto, or a number of GPUs; 0 is the CPU')
    given = here if number == 'auto' else int(number)
    # Under a launcher the number may count several machines; BasicSR only asks whether it is 0.
    if given > here and not (dist and here):
        raise ValueError(f'auto, 0 (the CPU), or at most {here}, the number of GPUs that PyTorch finds')
    if dist or given < 2:
        return given
    how = f'torchrun --nproc_per_node={given} -m basicsr.train -opt … --launcher pytorch'
    if number != 'auto':
        raise ValueError(f'auto, since one process uses one GPU. To use all: {how}')
    print(f'Using one of {here} GPUs. To use all: {how}', flush=True)
    return 1


def _check_clips(network: dict[str, Any]) -> dict[str, Any]:
    """Refuse single-frame networks of BasicSR, which would fail at the first clip."""
    name = network['type']
    if getattr(find('arch', name), '__module__', '').startswith('basicsr.') and name not in _CLIP_NETWORKS:
        wrapped = f'{{type: SlidingWindow, num_frame: …, network: {{type: {name}, …}}}}'
        fail(problem(f'{name} given, which does not process clips; allowed: a network for clips, or {wrapped}', 'type'))
    return network


class Options(Section):
    """The top level of an options file."""

    name: FileName
    model_type: Literal['VideoRecurrentDeblurModel']
    scale: Literal[1] = 1
    num_gpu: Annotated[Any, AfterValidator(_check_gpus)]
    manual_seed: int | None = Field(None, ge=0, lt=2**31)
    find_unused_parameters: bool = False
    datasets: Annotated[dict[str, Any], AfterValidator(_check_datasets)]
    network_g: Annotated[dict[str, Any], typed('arch'), AfterValidator(_check_clips)]
    path: Paths = Paths.model_construct()
    train: Train | None = None
    val: Val | None = None
    logger: Logger = Logger.model_construct()
    dist_params: dict[Literal['backend', 'port'], Any] = {'backend': 'nccl', 'port': 29500}

    @model_validator(mode='after')
    def _check(self) -> Options:
        problems = []
        device = torch.device('cuda' if self.num_gpu else 'cpu')
        for key, section in {'train': self.train, 'val': self.val}.items():
            try:
                resolve_precision(section.precision or section.amp if section else None, device)
            except OptionsError as error:
                problems.append(problem(str(error), key))
        data = self.datasets.get('train', {})
        batch = data.get('batch_size_per_gpu')
        if self.train and isinstance(batch, int) and batch % self.train.accum_iter:
            text = f'{self.train.accum_iter} does not divide datasets:train:batch_size_per_gpu {batch}. Use a divisor.'
            problems.append(problem(text, 'train', 'accum_iter'))
        names = [str(values.get('name')) for key, values in self.datasets.items() if key != 'train']
        if len(set(names)) < len(names):
            problems.append(problem('two data sets have the same name. Use different names.', 'datasets'))
        if problems:
            fail(*problems)
        if data.get('prefetch_mode') == 'cuda' and not self.num_gpu:
            data['prefetch_mode'] = None
        return self


class _TrainOptions(Options):
    train: Train


class _TestOptions(Options):
    val: Val


class _OtherModel(Section):
    model_config = ConfigDict(extra='ignore')

    datasets: Annotated[dict[str, Any], AfterValidator(_check_datasets)]


def check_options(
    opt: dict[str, Any], is_train: bool, *, check_paths: bool = True, dist: bool = False, auto_resume: bool = False
) -> dict[str, Any]:
    """Check the options of a run that uses our model or our data sets, before anything is created.

    Text from YAML or ``--force_yml`` is replaced by the values that it stands for, and missing keys get their defaults.
    With another model than ours only the sections of our data sets are checked.

    Args:
        opt: the options, as the file has them; changed in place.
        is_train: True for training, False for a test.
        check_paths: check that the data, weights and states exist and fit. Relative paths start at the current folder.
        dist: True if a launcher starts several processes.
        auto_resume: True if the run resumes from its last training state.

    Returns:
        `opt`.

    Raises:
        OptionsError: names every problem, with what was given and what is allowed.
    """
    released = released_types(opt)
    problems = [
        f'{path}: {name} is a type of the released code; here: {RELEASED_TYPES[name]}'
        for path, name in released.items()
    ]
    if released:
        opt = _renamed(opt)
    model: type[Section] = _TrainOptions if is_train else _TestOptions
    if str(opt.get('model_type')) not in names('MODEL_REGISTRY') and find('model', opt.get('model_type')):
        model = _OtherModel
    run = Run(opt.get('name'), is_train, check_paths, dist, auto_resume)
    try:
        opt.update(model.model_validate(opt, context=run).model_dump(by_alias=True))
    except ValidationError as error:
        for entry in error.errors(include_url=False):
            path = ':'.join(map(str, entry['loc'])) or 'options'
            problems.append(f'{path}: ' + entry['msg'].rstrip().replace('\n', '\n    '))
    if problems:
        remedy = 'Fix the options file or override values with --force_yml section:key=value. Keys: docs/options.md.'
        if released:
            remedy = (
                'These options are for the released code. Begin with '
                f'options/{"train" if is_train else "test"}_DSTNet_GoPro.yml (dstnet options copy DIR).'
            )
        heading = f'The options have {counted(len(problems), "problem")}:'
        raise OptionsError('\n  '.join([heading, *problems]) + f'\n{remedy}')
    return opt


def _renamed(section: dict[str, Any]) -> dict[str, Any]:
    """Return options with this package's types in place of those of the released code."""
    return {
        key: _renamed(value) if isinstance(value, dict) else RELEASED_TYPES.get(str(value), value)
        for key, value in section.items()
    }
