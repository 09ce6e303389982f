"""Check an options file as a whole, before anything is created."""

from __future__ import annotations

import importlib
import importlib.util
import os
import re
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from pydantic import ValidationError

from dstnet_arch.archs.checkpoint import read_state_dict
from dstnet_arch.errors import CheckpointError, DataError, OptionsError
from dstnet_arch.metrics.scorer import least_side
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
    parameters_of,
    takes_any_keyword,
    yaml_text,
)
from dstnet_arch.plugin.registration import names
from dstnet_arch.weights.released import RELEASED

if TYPE_CHECKING:
    from dstnet_arch.data.frame_source import FrameSource

MODEL = 'VideoRecurrentDeblurModel'
DATASETS: dict[str, tuple[str, type[Section]]] = {
    'train': ('VideoRecurrentDeblurDataset', TrainDataset),
    'val': ('VideoRecurrentDeblurTestDataset', TestDataset),
    'test': ('VideoRecurrentDeblurTestDataset', TestDataset),
}
# Sides of crops that networks take: multiples of the first number, from the second one on.
_CROPS = {'BasicVSRPlusPlus': (4, 256)}
# Those of BasicSR's networks that take clips.
_CLIP_NETWORKS = ('BasicVSR', 'BasicVSRPlusPlus', 'IconVSR')
_PARAM_KEYS = ('params', 'params_ema', 'state_dict')
LOSSES = ('pixel_opt', 'frequency_opt', 'perceptual_opt')
SECTIONS: dict[str, type[Section]] = {
    '': TopLevel,
    'datasets:train': TrainDataset,
    'datasets:val': TestDataset,
    'network_g': NetworkArguments,
    'path': Paths,
    'train': Train,
    'train:optim_g': OptimizerArguments,
    'train:scheduler': SchedulerArguments,
    'val': Val,
    'logger': Logger,
    'logger:wandb': Wandb,
    'dist_params': DistParams,
}

# Where each kind of named thing is registered, once that part of BasicSR is imported.
_REGISTRIES = {'arch': 'archs', 'dataset': 'data', 'loss': 'losses', 'metric': 'metrics', 'model': 'models'}
# Arguments that BasicSR or PyTorch gives itself.
SUPPLIED = frozenset({'params', 'optimizer', 'last_epoch', 'img', 'img2'})
DATA_COMMANDS = {
    'sample': 'python -m data_prep sample -o {folder}',
    'gopro': 'python -m data_prep gopro SOURCE -o {folder}',
    'dvd': 'python -m data_prep dvd SOURCE -o {folder}',
    'bsd_1ms8ms': 'python -m data_prep bsd SOURCE -o {folder} --exposure 1ms8ms',
    'bsd_2ms16ms': 'python -m data_prep bsd SOURCE -o {folder} --exposure 2ms16ms',
    'bsd_3ms24ms': 'python -m data_prep bsd SOURCE -o {folder} --exposure 3ms24ms',
}


def check_options(opt: dict[str, Any], is_train: bool, *, check_paths: bool = True) -> dict[str, Any]:
    """Check the options of a run that uses our model or our data sets.

    Values that YAML or ``--force_yml`` left as text are replaced by what they stand for, and the few keys that stock
    BasicSR reads without a default are filled in. With another model than ours only the sections of our data sets are
    looked at. Networks, losses and metrics that are neither ours nor BasicSR's keep their arguments as given; only the
    arguments' names are checked.

    Args:
        opt: the options, as BasicSR's ``parse_options`` returns them or as the file has them; changed in place.
        is_train: whether they are for training or for a test.
        check_paths: whether the data, weights and states that the options name must exist (relative paths start at the
            current folder).

    Returns:
        `opt`.

    Raises:
        OptionsError: names every problem at once, with what was given, what is allowed and how to mend it.
    """
    check = _Check(opt, is_train, check_paths)
    check.run()
    if check.problems:
        count = 'one problem' if len(check.problems) == 1 else f'{len(check.problems)} problems'
        raise OptionsError(
            '\n  '.join([f'The options have {count}:', *check.problems])
            + '\nMend the options file, or force single values: --force_yml section:key=value. All keys are explained '
            'in docs/options.md.'
        )
    return opt


class _Check:
    """Goes through the options once and collects the problems."""

    def __init__(self, opt: dict[str, Any], is_train: bool, check_paths: bool) -> None:
        self.opt = opt
        self.is_train = is_train
        self.check_paths = check_paths
        self.problems: list[str] = []
        self.batch_size: int | None = None
        self.scored: list[tuple[int, str]] = []  # `shortest_sides` of what is scored
        self.misspelt: set[str] = set()  # right paths of keys that were found misspelt, and so are not missing too

    def run(self) -> None:
        model_type = self.opt.get('model_type')
        if model_type != MODEL and find('model', model_type) is not None:
            self.datasets(num_gpu=None)
            return
        top = self.section(TopLevel, self.opt, '')
        if model_type not in (None, MODEL):
            self.unknown_type('model', model_type, 'model_type')
        num_gpu = self.gpus(top.get('num_gpu'))
        if 'datasets' in top:
            self.datasets(num_gpu)
        if 'network_g' in top:
            self.network(self.opt['network_g'], 'network_g')
            self.takes_clips(top['network_g'])
        if 'path' in top:
            self.paths()
        if self.wanted('train', self.is_train):
            self.training(num_gpu)
        if self.wanted('val', not self.is_train):
            self.validation(num_gpu)
        if self.wanted('logger', self.is_train):
            self.logger()
        if self.wanted('dist_params', False):
            self.section(DistParams, self.opt['dist_params'], 'dist_params')

    def add(self, path: str, text: str) -> None:
        self.problems.append(f'{path}: {text}')

    # A level of the file

    def section(self, model: type[Section], values: Any, path: str) -> dict[str, Any]:
        """Check one level and write text back as the values it stands for; returns what is right, with the defaults."""
        if not isinstance(values, dict):
            self.add(path, f'{show(values)} given; allowed: a section with some of {", ".join(model.model_fields)}')
            return {}
        right: dict[str, Any] = {}
        probe = model.model_construct()
        for key in [key for key in values if key not in model.added]:
            if key not in model.model_fields:
                self.unknown_key(key, model.model_fields, path)
                continue
            value = values[key]
            try:
                setattr(probe, key, value)
            except ValidationError:
                sentence = model.model_fields[key].description
                self.add(_join(path, key), f'{show(value)} given; allowed: {allowed(model, key)}. {sentence}')
                continue
            right[key] = getattr(probe, key)
            if not isinstance(value, dict) and (type(value) is not type(right[key]) or value != right[key]):
                values[key] = right[key]
        for key, field in model.model_fields.items():
            if key in values or _join(path, key) in self.misspelt:
                continue
            if field.is_required():
                self.missing(model, key, path)
                continue
            right[key] = field.get_default(call_default_factory=True)
            if key in model.filled:
                values[key] = right[key]
        return right

    def typed(self, kind: str, known: type[Section], values: Any, path: str) -> dict[str, Any]:
        """Check a level whose `type` names a class or function and whose other keys are that one's arguments."""
        target = self.type_of(kind, known, values, path)
        if target is None:
            return {}
        if target.__module__.partition('.')[0] in ('dstnet_arch', 'basicsr', 'torch'):
            return self.section(arguments_of(target, known, SUPPLIED), values, path)
        parameters = parameters_of(target, SUPPLIED)
        if not takes_any_keyword(target):
            for key in [key for key in values if key != 'type' and key not in parameters]:
                self.unknown_key(key, parameters, path)
        for key, parameter in parameters.items():
            if parameter.default is parameter.empty and key not in values and _join(path, key) not in self.misspelt:
                self.add(_join(path, key), f'missing; {target.__name__} has no default for it')
        return {}

    def type_of(self, kind: str, known: type[Section], values: Any, path: str) -> Any:
        """What the `type` of a level names; None, and a problem, where it names nothing."""
        if not isinstance(values, dict):
            self.add(path, f'{show(values)} given; allowed: a section with a type')
        elif 'type' not in values:
            near = get_close_matches('type', [str(key) for key in values if key not in known.model_fields], 1, 0.5)
            if near:
                self.unknown_key(near[0], ['type', *known.model_fields], path)
            else:
                self.add(_join(path, 'type'), 'missing; give the name of a class or function')
        elif find(kind, values['type']) is None:
            self.unknown_type(kind, values['type'], _join(path, 'type'))
        else:
            return find(kind, values['type'])
        return None

    def wanted(self, key: str, required: bool) -> bool:
        """Whether there is a section of this name to check; a required one must be there."""
        if required and self.opt.get(key) is None and key not in self.misspelt:
            self.add(key, f'missing; {"training" if self.is_train else "a test"} needs this section')
        return isinstance(self.opt.get(key), dict)

    def missing(self, model: type[Section], key: str, path: str) -> None:
        self.add(_join(path, key), f'missing; give: {allowed(model, key)}. {model.model_fields[key].description}')

    def unknown_key(self, key: Any, known: Iterable[str], path: str) -> None:
        known = list(known)
        near = get_close_matches(str(key), known, 1, 0.5)
        places = [_join(place, key) for place, model in SECTIONS.items() if key in model.model_fields]
        elsewhere = [place for place in places if place != _join(path, key)]  # another network's argument, say
        if elsewhere:
            hint = f'its place is {elsewhere[0]}'
        elif near:
            self.misspelt.add(_join(path, near[0]))
            hint = f'the nearest right one is {_join(path, near[0])}'
        else:
            hint = 'nothing like it is known'
        self.add(_join(path, key), f'unknown key; {hint}. Allowed here: {", ".join(known)}')

    def unknown_type(self, kind: str, name: Any, path: str) -> None:
        names = sorted(targets(kind))
        near = get_close_matches(str(name), names, 1, 0.5)
        hint = f'the nearest right one is {near[0]}' if near else 'import the package that registers it before this run'
        self.add(path, f'{show(name)} given, which is no registered {kind}; {hint}. Known: {", ".join(names)}')

    # The sections

    def gpus(self, given: Any) -> int | None:
        """How many GPUs the run will use; None where that is not clear."""
        if given is None:
            return None
        here = torch.cuda.device_count()
        number = here if given == 'auto' else int(given)
        # Under a launcher the number may count several machines; stock BasicSR then only asks whether it is 0.
        if number > here and (here == 0 or not self.opt.get('dist')):
            self.add(
                'num_gpu', f'{number} given, but PyTorch sees {here} here; allowed: auto, or 0 (the CPU) to {here}'
            )
        return number

    def datasets(self, num_gpu: int | None) -> None:
        datasets = self.opt.get('datasets')
        phases = ('train', 'val') if self.is_train else ('test', 'val')
        tested: dict[str, str] = {}
        for key, values in datasets.items() if isinstance(datasets, dict) else ():
            path = f'datasets:{key}'
            phase = re.sub('_.*', '', str(key))
            if phase not in DATASETS:
                self.unknown_key(key, phases, 'datasets')
                phase = next(iter(get_close_matches(phase, phases, 1, 0.5)), phases[0])
            elif phase not in phases or key.startswith('train_'):
                run = 'training' if self.is_train else 'a test'
                self.add(path, f'not for {run}; allowed: {phases[0]}, {phases[1]}, {phases[1]}_2, …')
                continue
            ours, model = DATASETS[phase]
            given = values.get('type') if isinstance(values, dict) else None
            if given in [name for name, _ in DATASETS.values()]:
                if given != ours:
                    self.add(f'{path}:type', f'{given} given; allowed in this place: {ours}')
                    continue
            elif given is not None and self.type_of('dataset', model, values, path) is not None:
                continue  # somebody else's data set, with keys of its own
            right = self.section(model, values, path)
            if 'io_backend' in right:
                self.section(IoBackend, values.get('io_backend', {}), f'{path}:io_backend')
            sources = self.sources(right, path)
            if phase == 'train':
                self.crop(right, path)
                self.clips(right, sources, path)
                self.batch_size = right.get('batch_size_per_gpu')
                self.loading(right, num_gpu, path)
                if right and 'manual_seed' in self.opt:  # the data set sees its own section only
                    values['manual_seed'] = self.opt['manual_seed']
                if len({os.path.normpath(str(right.get(key, key))) for key in ('dataroot_lq', 'dataroot_gt')}) == 1:
                    self.add(
                        f'{path}:dataroot_gt', 'the same as dataroot_lq given; allowed: where the sharp frames are'
                    )
                continue
            if 'dataroot_gt' in sources:
                self.scored += shortest_sides(sources['dataroot_gt'])
            if 'name' in right and tested.setdefault(right['name'], path) != path:
                self.add(f'{path}:name', f'{right["name"]} given, as in {tested[right["name"]]}; allowed: another name')
        if self.is_train and 'train' not in (datasets or ()) and 'datasets:train' not in self.misspelt:
            self.add('datasets:train', 'missing; training needs its data')
        elif not datasets:
            self.add('datasets', 'empty; give at least one data set under test')

    def sources(self, dataset: Mapping[str, Any], path: str) -> dict[str, FrameSource]:
        """The data roots, opened: names and headers are read, no frame."""
        from dstnet_arch.data.frame_source import open_source

        backend = (dataset.get('io_backend') or {}).get('type', 'auto')
        sources: dict[str, FrameSource] = {}
        for key in ('dataroot_lq', 'dataroot_gt') if self.check_paths else ():
            if dataset.get(key) is None:
                continue
            root = os.path.expanduser(dataset[key])
            if not os.path.exists(root):
                self.add(f'{path}:{key}', f'{_absent(root)}. {_how_to_make(root)}')
                continue
            with suppress(OptionsError):  # a wrong backend was named where it stands
                try:
                    sources[key] = open_source(root, backend)
                except DataError as error:
                    self.add(f'{path}:{key}', str(error))
        return sources

    def crop(self, dataset: Mapping[str, Any], path: str) -> None:
        """Ours take any size; some of BasicSR's networks do not."""
        network, size = self.opt.get('network_g'), dataset.get('gt_size')
        kind = network.get('type') if isinstance(network, dict) else None
        multiple, least = _CROPS.get(str(kind), (1, 1))
        if size is not None and (size % multiple or size < least):
            self.add(
                f'{path}:gt_size',
                f'{size} given, which {kind} does not take; allowed: multiples of {multiple} from {least} on',
            )

    def clips(self, dataset: Mapping[str, Any], sources: Mapping[str, FrameSource], path: str) -> None:
        """What is drawn must fit into every video."""
        size, length, intervals = (dataset.get(key) for key in ('gt_size', 'num_frame', 'interval_list'))
        if size is not None:
            smaller = [(side, place) for source in sources.values() for side, place in shortest_sides(source)]
            if smaller and min(smaller)[0] < size:
                side, place = min(smaller)
                self.add(
                    f'{path}:gt_size',
                    f'{size} given, but frames of {place} have a side of {side}; allowed: at most {side}',
                )
        if not sources or length is None or not intervals:
            return
        lengths = [
            (len(frames), clip, source.root) for source in sources.values() for clip, frames in source.clips.items()
        ]
        span = (length - 1) * min(intervals) + 1
        shortest, clip, root = min(lengths)
        if shortest < span:
            self.add(
                f'{path}:num_frame',
                f'{length} given, which takes {span} frames at interval {min(intervals)}, but {clip} in {root} has '
                f'{shortest}; allowed: at most {(shortest - 1) // min(intervals) + 1}',
            )
        elif (length - 1) * max(intervals) + 1 > (longest := max(lengths)[0]):
            self.add(
                f'{path}:interval_list',
                f'{show(intervals)} given, but {length} frames at interval {max(intervals)} take more than the '
                f'{longest} of the longest video; allowed: at most {(longest - 1) // (length - 1)}',
            )

    def loading(self, dataset: Mapping[str, Any], num_gpu: int | None, path: str) -> None:
        if dataset.get('persistent_workers') and dataset.get('num_worker_per_gpu') == 0:
            self.add(
                f'{path}:persistent_workers',
                f'true given with {path}:num_worker_per_gpu 0, so without a worker to keep; allowed there: false',
            )
        if dataset.get('prefetch_mode') == 'cuda':
            if num_gpu == 0:
                self.add(f'{path}:prefetch_mode', 'cuda given for a run on the CPU; allowed there: ~')
            if not dataset.get('pin_memory'):
                self.add(f'{path}:pin_memory', 'false given with prefetch_mode cuda; allowed there: true')

    def network(self, values: Any, path: str) -> None:
        """A network, and those inside it."""
        self.typed('arch', NetworkArguments, values, path)
        for key, inside in values.items() if isinstance(values, dict) else ():
            if isinstance(inside, dict) and ('type' in inside or str(values.get('type')) in names('ARCH_REGISTRY')):
                self.network(inside, f'{path}:{key}')

    def takes_clips(self, values: Mapping[str, Any]) -> None:
        """A network of BasicSR for single frames would fail at the first of them, deep inside."""
        name = values.get('type')
        network = find('arch', name)
        if network is not None and network.__module__.startswith('basicsr.') and name not in _CLIP_NETWORKS:
            self.add(
                'network_g:type',
                f'{name} given, which does not make a clip of a clip; allowed: a network that does, or, if it restores '
                f'single frames, {{type: SlidingWindow, num_frame: …, network: {{type: {name}, …}}}}',
            )

    def paths(self) -> None:
        path = self.section(Paths, self.opt['path'], 'path')
        key = path.get('param_key_g')
        if key not in (None, *_PARAM_KEYS) and (near := get_close_matches(str(key), _PARAM_KEYS, 1, 0.7)):
            self.add('path:param_key_g', f'{key} given, which no checkpoint has; the nearest right one is {near[0]}')
        states = Path(self.opt['path'].get('training_states') or f'experiments/{self.opt.get("name")}/training_states')
        state, weights = path.get('resume_state'), path.get('pretrain_network_g')
        if not self.check_paths:
            return
        state, weights = (path and os.path.expanduser(path) for path in (state, weights))  # as BasicSR does
        if self.is_train and state is not None and not os.path.isfile(state):
            self.add('path:resume_state', f'{_absent(state)}. {_what_else(state)}')
        # A resumed run takes its weights from where its state is.
        resumes = self.is_train and (state or (self.opt.get('auto_resume') and any(states.glob('*.state'))))
        if not resumes and weights is not None and not os.path.isfile(weights):
            self.add('path:pretrain_network_g', f'{_absent(weights)}. {_what_else(weights)}')
        elif not resumes and weights is not None:
            try:
                read_state_dict(weights, key)
            except CheckpointError as error:
                self.add('path:pretrain_network_g', str(error))

    def training(self, num_gpu: int | None) -> None:
        values = self.opt['train']
        train = self.section(Train, values, 'train')
        self.autocast(train, num_gpu, 'train')
        self.batch(train.get('accum_iter'))
        if train.get('optim_g') is not None:
            self.typed('optimizer', OptimizerArguments, values['optim_g'], 'train:optim_g')
        if train.get('scheduler') is not None:
            self.schedule(train.get('total_iter'))
        for key in LOSSES:
            if train.get(key) is not None:
                self.typed('loss', LossArguments, values[key], f'train:{key}')
        if all(key in train and train[key] is None for key in LOSSES):
            self.add('train', f'no loss given; give at least one of {", ".join(LOSSES)}')

    def batch(self, parts: int | None) -> None:
        if parts is not None and self.batch_size is not None and self.batch_size % parts:
            self.add(
                'train:accum_iter',
                f'{parts} given, which does not divide a batch of {self.batch_size}; allowed: a divisor of it, or '
                'another datasets:train:batch_size_per_gpu',
            )

    def schedule(self, total_iter: int | None) -> None:
        path = 'train:scheduler'
        given = self.typed('scheduler', SchedulerArguments, self.opt['train']['scheduler'], path)
        parts = 'restarts' if 'restarts' in given else 'periods'
        if parts in given and 'restart_weights' in given and len(given[parts]) != len(given['restart_weights']):
            self.add(
                f'{path}:restart_weights',
                f'{len(given["restart_weights"])} values given for {len(given[parts])} {parts}; allowed: one for each',
            )
        if 'periods' in given and total_iter is not None and sum(given['periods']) < total_iter:
            self.add(
                f'{path}:periods',
                f'{given["periods"]} given, which end before train:total_iter {total_iter}; allowed: periods that add '
                f'up to {total_iter} or more, such as [{total_iter}]',
            )

    def validation(self, num_gpu: int | None) -> None:
        values = self.opt['val']
        val = self.section(Val, values, 'val')
        self.autocast(val, num_gpu, 'val')
        if self.is_train and 'val_freq' in val and val['val_freq'] is None:
            self.missing(Val, 'val_freq', 'val')
        for name, metric in values['metrics'].items() if val.get('metrics') else ():
            if not isinstance(name, str) or not name.isprintable() or not name.strip():
                self.add('val:metrics', f'{name!r} given as a name; allowed: text in one line, such as psnr')
                continue
            right = self.typed('metric', MetricArguments, metric, f'val:metrics:{name}')
            if right:
                self.scores(name, right)
            if right.get('type') == 'calculate_ssim3d' and right.get('test_y_channel'):
                self.add(
                    f'val:metrics:{name}:test_y_channel', 'true given, but SSIM-3D takes all channels; allowed: false'
                )

    def scores(self, name: str, metric: Mapping[str, Any]) -> None:
        """The frames must be large enough for a metric."""
        if self.scored and min(self.scored)[0] < (least := least_side(metric)):
            side, place = min(self.scored)
            self.add(
                f'val:metrics:{name}',
                f'{metric["type"]} given, which wants sides of {least} pixels or more, twice the crop_border included, '
                f'but frames of {place} have one of {side}; allowed: a smaller crop_border, or no such entry',
            )

    def autocast(self, section: Mapping[str, Any], num_gpu: int | None, path: str) -> None:
        if section.get('amp') == 'fp16' and num_gpu == 0:
            self.add(f'{path}:amp', 'fp16 given for a run on the CPU; allowed there: none or bf16')

    def logger(self) -> None:
        logger = self.section(Logger, self.opt['logger'], 'logger')
        wandb = {}
        if logger.get('wandb') is not None:
            wandb = self.section(Wandb, self.opt['logger']['wandb'], 'logger:wandb')
        if not self.is_train:
            return
        if wandb.get('project') is not None and not logger.get('use_tb_logger'):
            self.add('logger:use_tb_logger', 'false given with a project under logger:wandb; allowed there: true')
        if logger.get('use_tb_logger') and importlib.util.find_spec('tensorboard') is None:
            self.add('logger:use_tb_logger', 'true given, but TensorBoard is not installed: pip install tensorboard')


def shortest_sides(source: FrameSource) -> list[tuple[int, str]]:
    """For each clip the shorter side of its first frame, in pixels, and where that is."""
    sides = []
    for clip, frames in source.clips.items():
        with suppress(DataError):  # a first frame that is no picture: the data set lists all of those
            sides.append((min(source.shape(clip, frames[0])), f'{clip} in {source.root}'))
    return sides


def targets(kind: str) -> dict[str, Callable[..., Any]]:
    """Everything of one kind that an options file can name as `type`.

    Args:
        kind: 'arch', 'dataset', 'loss', 'metric', 'model', 'optimizer' or 'scheduler'.
    """
    if kind == 'optimizer':
        found = {name: c for name, c in vars(torch.optim).items() if isinstance(c, type)}
        # LBFGS evaluates the loss several times in a step, SparseAdam takes no dense gradients.
        unfit = ('Optimizer', 'LBFGS', 'SparseAdam')
        return {n: c for n, c in found.items() if issubclass(c, torch.optim.Optimizer) and n not in unfit}
    if kind == 'scheduler':
        from basicsr.models.lr_scheduler import CosineAnnealingRestartLR, MultiStepRestartLR

        return {
            'CosineAnnealingRestartLR': CosineAnnealingRestartLR,
            'MultiStepLR': MultiStepRestartLR,
            'MultiStepRestartLR': MultiStepRestartLR,
        }
    importlib.import_module(f'basicsr.{_REGISTRIES[kind]}')
    registry = importlib.import_module('basicsr.utils.registry')
    return dict(iter(getattr(registry, f'{kind.upper()}_REGISTRY')))


def find(kind: str, name: Any) -> Callable[..., Any] | None:
    """What `name` stands for, looked up as BasicSR's registries do; None where it is unknown."""
    found = targets(kind)
    return found.get(str(name)) or found.get(f'{name}_basicsr')


def show(value: Any) -> str:
    """Write a value as an options file has it, shortened."""
    text = yaml_text(value)
    return text if len(text) <= 60 else f'{text[:57]}…'


def _join(path: str, key: Any) -> str:
    return f'{path}:{key}' if path else str(key)


def _absent(path: str) -> str:
    return f'{path} given, which is not there' + ('' if os.path.isabs(path) else f' (seen from {os.getcwd()})')


def _how_to_make(root: str) -> str:
    folder = os.path.dirname(os.path.normpath(root))
    for name, command in DATA_COMMANDS.items():
        if name in os.path.basename(folder).lower():
            return f'To make it: {command.format(folder=folder)}'
    return 'Allowed: an LMDB made by python -m data_prep, or a folder of folders of frames'


def _what_else(path: str) -> str:
    """What there is instead of a missing file of weights or training state, or how to get one."""
    place = Path(path)
    there = sorted((file.name for file in place.parent.glob(f'*{place.suffix}')), key=lambda name: (len(name), name))
    if there:
        return f'There are: {", ".join(there[-5:])}'
    for weights in RELEASED:
        if weights.file == place.name:
            return f"The authors' weights are fetched by: dstnet weights get {weights.name}"
    if place.parent.name in ('models', 'training_states'):
        run = place.parent.parent.name
        return f'Train {run} first, or give another file'
    return 'Allowed: a file that exists, or ~'
