"""The keys of an options file: for each one its type, its range and one sentence.

The check of an options file (:mod:`dstnet_arch.plugin.options_schema`) and the reference page ``docs/options.md`` are
both made from these models. Sections whose keys are the arguments of a class (networks, optimisers, schedulers, losses,
metrics) are read off the signature of that class, so that a new argument needs no second entry here.
"""

from __future__ import annotations

import ast
import inspect
import os
import re
from collections.abc import Callable
from functools import cache
from types import NoneType, UnionType
from typing import Annotated, Any, ClassVar, Literal, Union, get_args, get_origin

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    create_model,
    field_validator,
)
from pydantic_core import PydanticCustomError

Count = Annotated[int, Field(ge=1)]
Amp = Literal['none', 'bf16', 'fp16']
# BasicSR's parser works with these before they can be coerced: no numbers.
FilePath = Annotated[str, Field(min_length=1, strict=True)]
# These names become names of folders and files, on Windows too.
FILE_NAME = r'^[^/\\:\x00-\x1f]*[^/\\:\x00-\x1f.][^/\\:\x00-\x1f]*$'
# What is made of them has more in its name: a date, say, or a number.
MOST_NAME_BYTES = 200


def _short(name: str) -> str:
    if len(os.fsencode(name)) > MOST_NAME_BYTES:
        raise PydanticCustomError('length', 'the name is too long')
    return name


FileName = Annotated[str, Field(pattern=FILE_NAME), AfterValidator(_short)]


class Section(BaseModel):
    """One level of an options file; a key that is not a field is an error."""

    model_config = ConfigDict(
        extra='forbid',
        validate_assignment=True,
        allow_inf_nan=False,
        coerce_numbers_to_str=True,
        protected_namespaces=(),
    )

    added: ClassVar[frozenset[str]] = frozenset()
    """Keys that BasicSR itself writes into the section after reading the file."""
    filled: ClassVar[frozenset[str]] = frozenset()
    """Keys that stock BasicSR reads without a default: where they are missing, ours is written into the options."""
    beside: ClassVar[frozenset[str]] = frozenset()
    """Among arguments, those that BasicSR reads itself: allowed whatever the signature."""
    wanted: ClassVar[frozenset[str]] = frozenset()
    """Among arguments, those that BasicSR wants to have: required even where the signature has a default."""

    @field_validator('*', mode='before')
    @classmethod
    def _read_text(cls, value: Any, info: ValidationInfo) -> Any:
        assert info.field_name is not None
        return read_text(value, cls.model_fields[info.field_name].annotation)


class TopLevel(Section):
    added = frozenset({'dist', 'rank', 'world_size', 'auto_resume', 'is_train', 'root_path'})

    # Strict, as for a path: BasicSR's parser works with it before it can be coerced.
    name: Annotated[FileName, Field(strict=True)] = Field(
        description='Name of the run: its outputs go to `experiments/NAME` or `results/NAME`. A name with `debug` '
        'in it logs every iteration, and validates and saves every 8.',
    )
    model_type: str = Field(
        description='`VideoRecurrentDeblurModel`. With another model only the sections of our data sets are checked.'
    )
    scale: int = Field(1, ge=1, le=1, description='Deblurring keeps the size; stock BasicSR knows the key.')
    num_gpu: Literal['auto'] | Annotated[int, Field(ge=0)] = Field(
        description='GPUs of this process. 0: the CPU; auto: every GPU there is, or the CPU where there is none.'
    )
    manual_seed: int | None = Field(
        None,
        ge=0,
        lt=2**31,
        description='Seed of every random choice; ~ draws another one for each run, resumed ones included.',
    )
    find_unused_parameters: bool = Field(
        False, description='For distributed training of a network that does not use all its parameters in every pass.'
    )
    datasets: dict[str, Any] = Field(
        description='`train`, `val`, `val_2`, … in training; `test`, `test_2`, … in a test.'
    )
    network_g: dict[str, Any] = Field(description='The network: its `type` and the arguments of that class.')
    path: dict[str, Any] = Field(description='Weights to start from and states to resume.')
    train: dict[str, Any] | None = Field(None, description='The training; required there.')
    val: dict[str, Any] | None = Field(None, description='Validation during training, or the test; required there.')
    logger: dict[str, Any] | None = Field(None, description='What is logged, and how often; required in training.')
    dist_params: dict[str, Any] | None = Field(None, description='How the processes of a distributed run meet.')


class IoBackend(Section):
    type: Literal['auto', 'lmdb', 'disk'] = Field(
        'auto', description='lmdb: databases; disk: folders of clip folders; auto: by what the data root is.'
    )


class TrainDataset(Section):
    added = frozenset({'phase', 'scale', 'manual_seed'})

    name: FileName = Field(description='Name of the data set in messages.')
    type: str = Field(description='`VideoRecurrentDeblurDataset`; the keys of other data sets are passed on unchecked.')
    dataroot_lq: FilePath = Field(description='The blurry frames: an LMDB, or a folder with one folder a clip.')
    dataroot_gt: FilePath = Field(description='The sharp frames, under the same names.')
    io_backend: dict[str, Any] = Field({'type': 'auto'}, description='How the data roots are read.')
    num_frame: int = Field(15, ge=1, description='Frames in a training clip.')
    interval_list: list[Count] = Field(
        [1], min_length=1, description='Steps between the frames of a clip; one of them is drawn for each clip.'
    )
    random_reverse: bool = Field(False, description='Play half of the clips backwards.')
    gt_size: int = Field(256, ge=1, description='Side of the square crop, pixels; no larger than the frames.')
    use_hflip: bool = Field(True, description='Random horizontal flips.')
    use_rot: bool = Field(True, description='Random vertical flips and quarter turns.')
    num_worker_per_gpu: int = Field(
        ge=0, le=1000, description='Processes that load data; 0 loads in the training process.'
    )
    batch_size_per_gpu: int = Field(ge=1, le=10_000, description='Clips in the batch of one step, for each GPU.')
    dataset_enlarge_ratio: int = Field(
        1, ge=1, description='Clips drawn in one pass over the data = this x the number of start frames.'
    )
    prefetch_mode: Literal['cuda'] | None = Field(
        None,
        description='cuda copies the next batch to the GPU meanwhile and wants `pin_memory`. BasicSR has a '
        'mode cpu, too, which hangs when a data set fails: refused.',
    )
    pin_memory: bool = Field(False, description='Page-locked memory, from which copies to a GPU are faster.')
    persistent_workers: bool = Field(
        False,
        description='Keep the loading processes from one pass to the next; needs `num_worker_per_gpu` of 1 or more.',
    )


class TestDataset(Section):
    __test__ = False  # not a test case, whatever pytest makes of the name
    added = frozenset({'phase', 'scale', 'manual_seed'})

    name: FileName = Field(description='Name of the data set in tables and of its folder of pictures.')
    type: str = Field(
        description='`VideoRecurrentDeblurTestDataset`; the keys of other data sets are passed on unchecked.'
    )
    dataroot_lq: FilePath = Field(description='The blurry frames: an LMDB, or a folder with one folder a video.')
    dataroot_gt: FilePath | None = Field(
        None, description='The sharp frames, under the same names. ~: restore and save, no scores.'
    )
    io_backend: dict[str, Any] = Field({'type': 'auto'}, description='How the data roots are read.')
    clip_length: int | None = Field(
        30,
        ge=1,
        description='Frames restored together; the last clip of a video is shifted back to end with it, and the frames '
        'it repeats count once. ~: whole videos.',
    )
    pin_memory: bool = Field(False, description='As in training.')


class Paths(Section):
    added = frozenset({'experiments_root', 'results_root', 'models', 'training_states', 'log', 'visualization'})

    pretrain_network_g: FilePath | None = Field(
        None, description='Weights to start from or to test: our checkpoints, .safetensors, the released files.'
    )
    param_key_g: str | None = Field(
        'params', description='Which weights of a checkpoint: params, or params_ema for the averaged ones.'
    )
    strict_load_g: bool = Field(True, description='Refuse weights of which some do not fit the network.')
    resume_state: FilePath | None = Field(
        None, description='Training state to go on from (`…/training_states/N.state`); `--auto_resume` finds the last.'
    )
    ignore_resume_networks: list[str] | None = Field(
        None, description='Networks that keep `pretrain_network_…` when a run is resumed.'
    )


class Train(Section):
    total_iter: int = Field(ge=1, description='Iterations; each takes one batch a GPU.')
    warmup_iter: int = Field(-1, ge=-1, description='Iterations in which the learning rate rises from 0; -1: none.')
    optim_g: dict[str, Any] = Field(description='The optimiser.')
    scheduler: dict[str, Any] = Field(description='The course of the learning rate.')
    pixel_opt: dict[str, Any] | None = Field(None, description='The loss between frames; ~: none.')
    frequency_opt: dict[str, Any] | None = Field(None, description='The loss between spectra; ~: none.')
    perceptual_opt: dict[str, Any] | None = Field(
        None, description='The loss between features of a VGG network; ~: none.'
    )
    accum_iter: int = Field(
        1,
        ge=1,
        description='Parts that the batch of a step is cut into: less memory for more time, nearly the same result.',
    )
    amp: Amp = Field('none', description='Autocast. fp16 needs a GPU.')
    grad_clip: float = Field(0, ge=0, description='Largest norm of the gradient; 0: no clipping.')
    find_nonfinite: bool = Field(
        False,
        description='Look at what every layer makes, and stop with the name of the first whose output is not finite; '
        'takes more time.',
    )
    gradient_checkpointing: bool = Field(
        False, description='Recompute the propagation in the backward pass: less memory, more time.'
    )
    ema_decay: float = Field(
        0,
        ge=0,
        lt=1,
        description='Average the weights with this decay, e.g. 0.999, and validate with the average; 0: off.',
    )


class Val(Section):
    filled = frozenset({'save_img'})

    val_freq: int | None = Field(
        None, ge=1, description='Validate every so many iterations, and once after the last. Required in training.'
    )
    save_img: bool = Field(False, description="Save the restored frames under the source's own names.")
    suffix: FileName | None = Field(None, description='Appended to the names of saved frames.')
    pbar: bool = Field(True, description='Show a progress bar.')
    protocol: Literal['dstnet', 'basicsr', 'cdvd', 'estrnn'] = Field(
        'dstnet',
        description="How frames are scored. dstnet: as for the paper's numbers; basicsr, cdvd, estrnn: as stock "
        'BasicSR, CDVD-TSP and ESTRNN do it, with PSNR and SSIM as they have them in place of `metrics`.',
    )
    self_ensemble: bool = Field(
        False,
        description='Restore each clip at four quarter turns, forwards and backwards in time, and take the mean: '
        'better frames for eight times the work.',
    )
    streaming: bool = Field(
        False,
        description='Restore frame by frame: the same result in memory that hardly grows with the clip, so that '
        '`clip_length: ~` can take whole videos. DSTNet and DSTNetPlus alone.',
    )
    amp: Amp = Field('none', description='Autocast; leave it off where scores are made. fp16 needs a GPU.')
    metrics: dict[str, Any] | None = Field(
        None, description="Scores: a name of one's own for each, and under it `type` and the metric's arguments."
    )


class Logger(Section):
    filled = frozenset({'print_freq', 'save_checkpoint_freq', 'use_tb_logger'})

    print_freq: int = Field(100, ge=1, description='Iterations from one line of the log to the next.')
    save_checkpoint_freq: int = Field(5000, ge=1, description='Iterations from one checkpoint to the next.')
    use_tb_logger: bool = Field(False, description='Write curves for TensorBoard to `tb_logger/NAME`.')
    wandb: dict[str, Any] | None = Field(None, description='Curves on Weights & Biases, by way of TensorBoard.')


class Wandb(Section):
    project: str | None = Field(None, description='Project to log to; ~: no logging there.')
    resume_id: str | None = Field(None, description='Id of the run to go on with.')


class DistParams(Section):
    backend: Literal['nccl', 'gloo'] = Field('nccl', description='Of torch.distributed, where slurm starts the run.')
    port: int = Field(29500, ge=1, le=65535, description='Port of the first process, where slurm starts the run.')


class NetworkArguments(Section):
    """Ranges of arguments that networks have in common; which ones a network takes, its signature says."""

    num_feat: int = Field(ge=1)
    num_block: int = Field(ge=0)
    num_kernel_block: int = Field(ge=0)
    prop_feat: int | None = Field(ge=1)
    num_cwgdn: int = Field(ge=0)
    num_frame: int = Field(ge=1)
    size_multiple: int = Field(ge=1)
    boundary: Literal['zeros', 'paper']


class OptimizerArguments(Section):
    wanted = frozenset({'lr'})

    lr: float = Field(gt=0, description='Learning rate.')
    weight_decay: float = Field(ge=0, description='Weight decay.')
    betas: list[Annotated[float, Field(ge=0, lt=1)]] = Field(
        min_length=2, max_length=2, description='Decay of the running means of the gradient and of its square.'
    )
    eps: float = Field(gt=0, description='Added to the denominator.')


class SchedulerArguments(Section):
    periods: list[Count] = Field(
        min_length=1, description='Iterations of each cosine period; together no less than `total_iter`.'
    )
    restart_weights: list[Annotated[float, Field(ge=0)]] = Field(
        min_length=1, description='Factor of the learning rate for each period, or after each restart.'
    )
    eta_min: float = Field(ge=0, description='Learning rate at the end of a period.')
    milestones: list[Count] = Field(description='Iterations at which the learning rate is multiplied by `gamma`.')
    gamma: float = Field(gt=0, description='Factor at a milestone.')
    restarts: list[Annotated[int, Field(ge=0)]] = Field(
        min_length=1, description='Iterations at which the learning rate starts anew.'
    )


class LossArguments(Section):
    loss_weight: float = Field(ge=0, description='Factor of this loss in the sum.')
    reduction: Literal['mean', 'sum'] = Field(description='How the elements are put together.')
    eps: float = Field(gt=0, description='Stands inside the root: sqrt(d^2 + eps).')
    form: Literal['cho', 'modulus']


class MetricArguments(Section):
    beside = frozenset({'better'})

    crop_border: int = Field(ge=0, description='Pixels left out on every side.')
    input_order: Literal['HWC', 'CHW'] = Field(description='Order of the axes; ours is HWC.')
    test_y_channel: bool = Field(description='Compare luma instead of RGB.')
    better: Literal['higher', 'lower'] = Field('higher', description='Which way is better, for the best score so far.')


def read_text(value: Any, annotation: Any) -> Any:
    """Read what YAML 1.1 and ``--force_yml`` leave as text ('1e-4', '-1', 'None', '[300]') as the value it stands for.

    Raises:
        PydanticCustomError: for true or false where a number is wanted, which Python would take for 1 or 0.
    """
    kinds = [_bare(kind) for kind in _alternatives(annotation)]
    choices = {choice for kind in kinds if get_origin(kind) is Literal for choice in get_args(kind)}
    if value is None and 'none' in choices:
        return 'none'  # --force_yml reads the word none as ~
    wants_number = bool({int, float} & set(kinds))
    if isinstance(value, bool) and wants_number and bool not in kinds:
        raise PydanticCustomError('number', 'a number is wanted')
    if isinstance(value, str):
        text = value.strip()
        if NoneType in kinds and text.lower() in ('~', 'none', 'null'):
            return None
        if text.startswith('[') and any(get_origin(kind) is list for kind in kinds):
            value = _literal(text)
        elif text not in choices and (wants_number or Any in kinds) and str not in kinds:
            return _number(text)
    if isinstance(value, (list, tuple)):
        items = [get_args(kind)[0] for kind in kinds if get_origin(kind) is list and get_args(kind)]
        if items:
            return [read_text(item, items[0]) for item in value]
    return value


@cache
def arguments_of(target: Callable[..., Any], known: type[Section], skip: frozenset[str]) -> type[Section]:
    """Make a section out of a signature: `type`, and one key for each argument.

    An argument named in `known` gets its type and range from there, unless the target's own default does not fit them
    (an `eps` that is a pair, say); the others are typed by their annotation, or else by their default. The sentences
    are those of the ``Args:`` block for our own classes, and those in `known` for others.
    """
    ours = _is_ours(target)
    texts = argument_texts(target)
    fields: dict[str, Any] = {'type': (str, Field(description=f'`{target.__name__}`.'))}
    for name, parameter in parameters_of(target, skip).items():
        default = ... if parameter.default is parameter.empty else parameter.default
        text = texts.get(name, '')
        if name in known.model_fields and _takes(known, name, default):
            field = known.model_fields[name]
            text = text if ours and text else field.description or text
            default = ... if name in known.wanted else default
            fields[name] = (Annotated[field.annotation, field], Field(default, description=text))
        else:
            annotation = parameter.annotation if ours else parameter.empty
            fields[name] = (_kind(annotation, default), Field(default, description=text))
    for name in known.beside:
        fields.setdefault(name, (known.model_fields[name].annotation, known.model_fields[name]))
    return create_model(target.__name__, __base__=Section, **fields)


def parameters_of(target: Callable[..., Any], skip: frozenset[str]) -> dict[str, inspect.Parameter]:
    """The arguments that an options file can give to `target`, by name."""
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    parameters = inspect.signature(target, eval_str=_is_ours(target)).parameters
    return {name: p for name, p in parameters.items() if p.kind in named and name not in skip}


def takes_any_keyword(target: Callable[..., Any]) -> bool:
    """Whether `target` has a ``**kwargs``."""
    return any(p.kind is p.VAR_KEYWORD for p in inspect.signature(target).parameters.values())


def argument_texts(target: Callable[..., Any]) -> dict[str, str]:
    """Read the sentences of a docstring's ``Args:`` block, by argument."""
    texts: dict[str, str] = {}
    name = None
    for line in (inspect.getdoc(target) or '').partition('Args:\n')[2].splitlines():
        if line.strip() and not line.startswith(' '):
            break
        start = re.match(r' {1,4}(\w+)(?: \(.*?\))?:\s*(.*)', line)
        if start:
            name, texts[start[1]] = start[1], start[2]
        elif not line.startswith(' ' * 5):
            name = None
        elif name:
            texts[name] = f'{texts[name]} {line.strip()}'.strip()
    return {name: text[:1].upper() + text[1:] for name, text in texts.items()}


def allowed(section: type[Section], key: str) -> str:
    """Say in words what a key may be, e.g. 'number >= 0 and < 1'."""
    return _words(section.model_json_schema()['properties'][key])


def yaml_text(value: Any) -> str:
    """Write a value as an options file has it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (list, tuple)):
        return f'[{", ".join(map(yaml_text, value))}]'
    if isinstance(value, dict):
        return f'{{{", ".join(f"{key}: {yaml_text(item)}" for key, item in value.items())}}}'
    return '~' if value is None else str(value)


def _words(schema: dict[str, Any]) -> str:
    if 'anyOf' in schema:
        return _listed([_words(option) for option in schema['anyOf']])
    if 'enum' in schema:
        return _listed([str(choice) for choice in schema['enum']])
    if 'const' in schema:
        return str(schema['const'])
    kind = schema.get('type')
    if kind == 'array':
        fixed = schema.get('minItems', 'none') == schema.get('maxItems')
        length = f'{schema["minItems"]} values:' if fixed else 'list of'
        return f'{length} {_words(schema.get("items", {})).replace("number", "numbers", 1)}'
    if kind in ('integer', 'number'):
        if schema.get('minimum', 'none') == schema.get('maximum'):
            return _bound(schema['minimum'])
        signs = {'minimum': '>=', 'exclusiveMinimum': '>', 'maximum': '<=', 'exclusiveMaximum': '<'}
        bounds = ' and '.join(f'{sign} {_bound(schema[bound])}' for bound, sign in signs.items() if bound in schema)
        return f'{"whole number" if kind == "integer" else kind} {bounds}'.strip()
    if kind == 'string':
        named = f'text without slashes and colons, at most {MOST_NAME_BYTES} bytes'
        return named if 'pattern' in schema else 'text'
    return {'boolean': 'true or false', 'null': '~', 'object': 'a section'}.get(str(kind), 'any value')


def _bound(value: float) -> str:
    """Some versions of pydantic make 0.0 of a bound of 0."""
    return str(int(value) if value == int(value) else value)


def _listed(choices: list[str]) -> str:
    return ' or '.join(filter(None, [', '.join(choices[:-1]), choices[-1]]))


def _alternatives(annotation: Any) -> tuple[Any, ...]:
    annotation = _bare(annotation)
    return get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)


def _bare(annotation: Any) -> Any:
    return get_args(annotation)[0] if get_origin(annotation) is Annotated else annotation


def _number(text: str) -> Any:
    """The number that a text stands for, whole ones as int (5e3 is 5000); another text as it is."""
    try:
        value = float(text)
    except ValueError:
        return text
    return int(value) if value.is_integer() and abs(value) < 2**53 else value


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def _is_ours(target: Callable[..., Any]) -> bool:
    return target.__module__.partition('.')[0] == 'dstnet_arch'


def _takes(known: type[Section], name: str, default: Any) -> bool:
    if default is ...:
        return True
    try:
        setattr(known.model_construct(), name, default)
    except ValidationError:
        return False
    return True


def _kind(annotation: Any, default: Any) -> Any:
    """The type of an argument: its annotation, or else what its default lets one conclude."""
    if annotation is not inspect.Parameter.empty:
        return annotation
    if isinstance(default, bool):
        return bool
    if isinstance(default, (int, float)):
        return int | float  # a default of 0 says nothing about whole numbers
    if isinstance(default, str):
        return str
    return list[Any] if isinstance(default, (list, tuple)) else Any
