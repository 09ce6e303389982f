"""How options are checked: sections as pydantic models whose errors are complete sentences.

Sections whose keys are the arguments of a class (networks, optimizers, schedulers, losses, metrics) are models made
from the signature of that class, so a new argument needs no entry here.
"""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from typing import Annotated, Any, ClassVar, Literal, NoReturn

import torch
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    create_model,
    field_validator,
    model_validator,
)
from pydantic.functional_validators import ModelWrapValidatorHandler
from pydantic_core import InitErrorDetails, PydanticCustomError

_RELEASED_KEYS = {
    'use_flip': 'use_hflip',
    'num_frame': 'clip_length',
    'fft_opt': 'frequency_opt',
    'use_grad_clip': 'grad_clip',
    'datasets_enlarge_ratio': 'dataset_enlarge_ratio',
    **dict.fromkeys(('meta_info_file_train', 'test_mode', 'use_shuffle', 'cache_data', 'num_overlap', 'flip_seq'), ''),
}
"""Keys of the released code -> their names here; '' for those without a counterpart."""
_UNKNOWN = ('extra_forbidden', 'invalid_key')  # pydantic's errors of keys
_REGISTRIES = {'arch': 'archs', 'dataset': 'data', 'loss': 'losses', 'metric': 'metrics', 'model': 'models'}
_SUPPLIED = frozenset({'params', 'optimizer', 'last_epoch', 'img', 'img2'})  # arguments that BasicSR or PyTorch passes


@dataclass
class Run:
    """The run that options are checked for: the context of every validator.

    Attributes:
        opt: the options as given, for checks across sections. Values may be of any type.
        is_train: True for training, False for a test.
        check_paths: True if the data and weights must exist.
        dist: True if a launcher starts several processes.
        auto_resume: True if the run resumes from its last training state.
    """

    opt: dict[str, Any]
    is_train: bool
    check_paths: bool
    dist: bool
    auto_resume: bool

    @property
    def on_cpu(self) -> bool:
        """True if the run uses no GPU."""
        num_gpu = self.value('num_gpu')
        return num_gpu == 0 or (num_gpu == 'auto' and not torch.cuda.is_available())

    def value(self, *path: str) -> Any:
        """Return the value at a path of keys; None if it does not exist."""
        place: Any = self.opt
        for key in path:
            place = place.get(key) if isinstance(place, dict) else None
        return place


def run_of(info: ValidationInfo) -> Run:
    """Return the run that a validator checks for."""
    assert isinstance(info.context, Run)
    return info.context


def problem(text: str, *keys: Any) -> InitErrorDetails:
    """Describe a problem with a key below the current section; without keys, with the section itself."""
    return {'type': PydanticCustomError('problem', '{text}', {'text': text}), 'loc': keys, 'input': None}


def problems_of(error: ValidationError, *keys: Any) -> list[InitErrorDetails]:
    """Return the problems of a section below the current one."""
    return [problem(entry['msg'], *keys, *entry['loc']) for entry in error.errors(include_url=False)]


def fail(*problems: InitErrorDetails) -> NoReturn:
    """Raise the problems as a ValidationError, which pydantic adds to those of the section above."""
    raise ValidationError.from_exception_data('options', list(problems))


# One level of an options file


class Section(BaseModel):
    """A level of an options file. Unknown keys are errors; quoted numbers are read as numbers."""

    model_config = ConfigDict(
        extra='forbid',
        use_attribute_docstrings=True,
        allow_inf_nan=False,
        coerce_numbers_to_str=True,
        protected_namespaces=(),
    )

    place: ClassVar[str | None] = None
    """Path of the section in an options file, for hints."""
    filled: ClassVar[frozenset[str]] = frozenset()
    """Keys that BasicSR reads without a default: a missing one is set to the default given here."""

    def model_post_init(self, context: Any) -> None:
        """Count the filled keys as given, so that they are written to the options."""
        self.__pydantic_fields_set__.update(self.filled)

    @classmethod
    def key_names(cls) -> dict[str, str]:
        """Field name by key of the options file."""
        return {field.alias or name: name for name, field in cls.model_fields.items()}

    @field_validator('*', mode='wrap')
    @classmethod
    def _read(cls, value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
        try:
            right = handler(value)
        except ValidationError:
            if str(value).lower() != 'none':
                raise
            right = handler(None)  # as BasicSR reads it on the command line
        if isinstance(value, bool) and not isinstance(right, bool):
            raise PydanticCustomError('number', 'a number')  # Python would read true as 1
        return right

    @model_validator(mode='wrap')
    @classmethod
    def _explain(cls, values: Any, handler: ModelWrapValidatorHandler[Any]) -> Any:
        if not isinstance(values, dict):
            fail(problem(f'{show(values)} given; allowed: a section with some of {", ".join(cls.key_names())}'))
        try:
            return handler(values)
        except ValidationError as error:
            fail(*cls._explained(error, values))

    @classmethod
    def _explained(cls, error: ValidationError, values: dict[Any, Any]) -> Iterator[InitErrorDetails]:
        """Turn pydantic's errors of this section into sentences; those of sections below are sentences already."""
        meant = set()
        allowed: dict[Any, list[str]] = {}  # by key: what each alternative of its type accepts
        # Unknown keys come first: those that were meant are not missing, too.
        for entry in sorted(error.errors(include_url=False), key=lambda entry: entry['type'] not in _UNKNOWN):
            key = entry['loc'][0] if entry['loc'] else None
            if entry['type'] == 'problem':
                yield problem(entry['msg'], *entry['loc'])
            elif entry['type'] in _UNKNOWN:
                near, text = cls._unknown_key(key)
                meant.add(near)
                yield problem(text, key)
            elif entry['type'] != 'missing':
                text = re.sub('^(Input|Value) should (be )?', '', entry['msg'])
                allowed.setdefault(key, []).append(text.replace('a valid dictionary', 'a section of keys and values'))
            elif key not in meant:
                yield problem(f'missing.{cls._description(key)}', key)
        for key, texts in allowed.items():
            choices = ' or '.join(dict.fromkeys(texts))
            yield problem(f'{show(values[key])} given; allowed: {choices}.{cls._description(key)}', key)

    @classmethod
    def _description(cls, key: Any) -> str:
        text = cls.model_fields[cls.key_names()[key]].description
        return f' {" ".join(text.split())}' if text else ''

    @classmethod
    def _unknown_key(cls, key: Any) -> tuple[str | None, str]:
        """Return the key that was probably meant, if any, and the text of the problem."""
        known = list(cls.key_names())
        renamed = _RELEASED_KEYS.get(str(key))
        near = next(iter([renamed] if renamed in known else get_close_matches(str(key), known, 1)), None)
        if renamed == '':
            return None, 'unknown key. It is not needed here: remove it.'
        subclasses = [s for base in Section.__subclasses__() for s in (base, *base.__subclasses__())]
        sections = [s for s in subclasses if s.place is not None and s is not cls and key in s.key_names()]
        if sections and renamed not in known:
            return None, f'unknown key. Its place is {f"{sections[0].place}:{key}".lstrip(":")}.'
        if near:
            return near, f'unknown key. Did you mean {near}?'
        return None, f'unknown key. Allowed: {", ".join(known)}'


def yaml_text(value: Any) -> str:
    """Write a value as in an options file."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (list, tuple)):
        return f'[{", ".join(map(yaml_text, value))}]'
    if isinstance(value, dict):
        return f'{{{", ".join(f"{key}: {yaml_text(item)}" for key, item in value.items())}}}'
    return '~' if value is None else str(value)


def show(value: Any) -> str:
    """Write a value as in an options file, shortened."""
    text = ' '.join(yaml_text(value).split())
    return text if len(text) <= 60 else f'{text[:57]}…'


# Sections that are arguments of what `type` names


def targets(kind: str) -> dict[str, Callable[..., Any]]:
    """Return everything of a kind that an options file can name as `type`.

    Args:
        kind: 'arch', 'dataset', 'loss', 'metric', 'model', 'optimizer' or 'scheduler'.
    """
    if kind == 'optimizer':
        found = {name: c for name, c in vars(torch.optim).items() if isinstance(c, type)}
        # LBFGS evaluates the loss several times per step, SparseAdam needs sparse gradients.
        unfit = ('Optimizer', 'LBFGS', 'SparseAdam')
        return {n: c for n, c in found.items() if issubclass(c, torch.optim.Optimizer) and n not in unfit}
    if kind == 'scheduler':
        from basicsr.models.lr_scheduler import CosineAnnealingRestartLR, MultiStepRestartLR

        multi_step = dict.fromkeys(('MultiStepLR', 'MultiStepRestartLR'), MultiStepRestartLR)
        return {'CosineAnnealingRestartLR': CosineAnnealingRestartLR, **multi_step}
    importlib.import_module(f'basicsr.{_REGISTRIES[kind]}')
    registry = importlib.import_module('basicsr.utils.registry')
    return dict(iter(getattr(registry, f'{kind.upper()}_REGISTRY')))


def find(kind: str, name: Any) -> Callable[..., Any] | None:
    """Look up a `type` as BasicSR's registries do; None if it is unknown."""
    found = targets(kind)
    return found.get(str(name)) or found.get(f'{name}_basicsr')


def typed(kind: str) -> AfterValidator:
    """Validate a section whose `type` names something of this kind, and whose other keys are its arguments."""

    def check(values: dict[Any, Any], info: ValidationInfo) -> dict[Any, Any]:
        if 'type' not in values:
            wrong = next(iter(get_close_matches('type', map(str, values), 1, 0.5)), None)
            missing = f'missing. Give the name of a registered {_noun(kind)}.'
            fail(problem('unknown key. Did you mean type?' if wrong else missing, wrong or 'type'))
        target = find(kind, values['type'])
        if target is None:
            fail(problem(_unknown_type(kind, values['type']), 'type'))
        section = arguments_of(kind, target).model_validate(values, context=info.context)
        return section.model_dump(by_alias=True, exclude_unset=True)

    return AfterValidator(check)


def _noun(kind: str) -> str:
    return {'arch': 'network', 'dataset': 'data set'}.get(kind, kind)


def _unknown_type(kind: str, name: Any) -> str:
    known = sorted(targets(kind))
    near = get_close_matches(str(name), known, 1)
    hint = f'Did you mean {near[0]}?' if near else f'Registered: {", ".join(known)}.'
    return f'{show(name)} given, which is not a registered {_noun(kind)}. {hint}'


def _argument(kind: Any, description: str, **limits: Any) -> Any:
    return Annotated[kind, Field(description=description, **limits)]


Count = Annotated[int, Field(ge=1)]
_Natural = Annotated[int, Field(ge=0)]
_Factors = list[Annotated[float, Field(ge=0)]]
_Decays = list[Annotated[float, Field(ge=0, lt=1)]]

ARGUMENTS: dict[str, dict[str, Any]] = {
    'arch': {
        **dict.fromkeys(('num_feat', 'num_frame', 'size_multiple'), Count),
        **dict.fromkeys(('num_block', 'num_kernel_block', 'num_cwgdn'), _Natural),
        'prop_feat': Count | None,
        'network': Annotated[dict[Any, Any], typed('arch')],
    },
    'optimizer': {
        'lr': _argument(float, 'Learning rate.', gt=0),
        'weight_decay': _argument(float, 'Weight decay.', ge=0),
        'betas': _argument(_Decays, 'Decay of the means of the gradient and its square.', min_length=2, max_length=2),
        'eps': _argument(float, 'Added to the denominator.', gt=0),
    },
    'scheduler': {
        'periods': _argument(list[Count], 'Iterations of each period; at least `total_iter` in total.', min_length=1),
        'restart_weights': _argument(_Factors, 'Factor of the learning rate for each period or restart.', min_length=1),
        'eta_min': _argument(float, 'Learning rate at the end of a period.', ge=0),
        'milestones': _argument(list[Count], 'Iterations at which the learning rate is multiplied by `gamma`.'),
        'gamma': _argument(float, 'Factor at each milestone.', gt=0),
        'restarts': _argument(list[_Natural], 'Iterations at which the learning rate restarts.', min_length=1),
    },
    'loss': {
        'loss_weight': _argument(float, 'Weight of this loss in the sum.', ge=0),
        'reduction': _argument(Literal['mean', 'sum'], 'How elements are combined.'),
        'eps': _argument(float, 'Added inside the root: sqrt(d^2 + eps).', gt=0),
        'form': Literal['cho', 'modulus'],
    },
    'metric': {
        'crop_border': _argument(int, 'Pixels left out at each border.', ge=0),
        'input_order': _argument(Literal['HWC', 'CHW'], 'Order of the axes; ours is HWC.'),
        'test_y_channel': _argument(bool, 'Compare luma instead of RGB.'),
    },
}
"""Types and descriptions of arguments by kind. One applies if the default of the argument fits it."""


@cache
def arguments_of(kind: str, target: Callable[..., Any]) -> type[Section]:
    """Make a section from a signature: `type`, and one key for each argument.

    Arguments in `ARGUMENTS` have their type and range from there, others from their annotation or their default.
    Classes that are neither ours nor BasicSR's or PyTorch's: only the names of the arguments are checked.
    """
    ours, known = (target.__module__.partition('.')[0] in names for names in (['dstnet_arch'], ['basicsr', 'torch']))
    parameters = inspect.signature(target, eval_str=ours).parameters
    fields: dict[str, Any] = {'type': (str, Field(alias='type', description=f'`{target.__name__}`.'))}
    if kind == 'metric':
        better = Field('higher', alias='better', description='Direction of better scores, for the best one so far.')
        fields['better'] = (Literal['higher', 'lower'], better)
    for name, parameter in parameters.items():
        if name in _SUPPLIED or parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        default = ... if parameter.default is parameter.empty else parameter.default
        annotation = parameter.annotation if ours else _type_of(default) if known else Any
        if (ours or known) and _fits(ARGUMENTS[kind].get(name), default):
            annotation = ARGUMENTS[kind][name]
        required = default is ... or (kind == 'optimizer' and name == 'lr')
        fields[f'argument_{name}'] = (annotation, Field(... if required else default, alias=name))
    any_key = not (ours or known) and any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    return create_model(target.__name__, __base__=(_AnyKey if any_key else Section), **fields)


class _AnyKey(Section):
    model_config = ConfigDict(extra='allow')


def _fits(known: Any, default: Any) -> bool:
    if known is None or default is ...:
        return known is not None
    try:
        TypeAdapter(known).validate_python(default)
    except ValidationError:
        return False
    return True


def _type_of(default: Any) -> Any:
    """The type of an argument without an annotation."""
    if isinstance(default, (bool, str)):
        return type(default)
    if isinstance(default, (int, float)):
        return int | float  # a default of 0 may be a float
    return list[Any] if isinstance(default, (list, tuple)) else Any
