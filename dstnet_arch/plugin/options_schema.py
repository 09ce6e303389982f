"""How sections of an options file are checked: pydantic models whose errors are complete sentences."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from importlib import import_module
from typing import Annotated, Any, Literal, NoReturn

import torch
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    create_model,
    field_validator,
    model_validator,
)
from pydantic.functional_validators import ModelWrapValidatorHandler
from pydantic_core import InitErrorDetails, PydanticCustomError

from dstnet_arch.models.checkpoints import translate_weight_errors

_RELEASED_KEYS = {
    'use_flip': 'use_hflip',
    'num_frame': 'clip_length',
    'fft_opt': 'frequency_opt',
    'use_grad_clip': 'grad_clip',
    'datasets_enlarge_ratio': 'dataset_enlarge_ratio',
    **dict.fromkeys(('meta_info_file_train', 'test_mode', 'use_shuffle', 'cache_data', 'num_overlap', 'flip_seq'), ''),
}
"""Keys of the released code -> their names here; '' for those without a counterpart."""
_PACKAGES = {'arch': 'archs', 'dataset': 'data', 'loss': 'losses', 'metric': 'metrics', 'model': 'models'}
_SUPPLIED = {'params', 'optimizer', 'last_epoch', 'img', 'img2'}  # arguments that BasicSR or PyTorch passes


@dataclass(frozen=True)
class Run:
    """The run that options are checked for: the context of every validator. See `check_options`."""

    name: Any
    is_train: bool
    check_paths: bool
    dist: bool
    auto_resume: bool


def run_of(info: ValidationInfo) -> Run:
    """Return the run that a validator checks for."""
    assert isinstance(info.context, Run)
    return info.context


def problem(text: str, *keys: Any) -> InitErrorDetails:
    """Describe a problem with a key below the current section; without keys, with the section itself."""
    return {'type': PydanticCustomError('problem', '{text}', {'text': text}), 'loc': keys, 'input': None}


def fail(*problems: InitErrorDetails) -> NoReturn:
    """Raise the problems as a ValidationError, which pydantic adds to those of the section above."""
    raise ValidationError.from_exception_data('options', list(problems))


class Section(BaseModel):
    """A section of an options file. Unknown keys are errors; quoted numbers are read as numbers, ~ as the default."""

    model_config = ConfigDict(extra='forbid', allow_inf_nan=False, coerce_numbers_to_str=True, protected_namespaces=())

    @field_validator('*', mode='wrap')
    @classmethod
    def _read(cls, value: Any, handler: ValidatorFunctionWrapHandler, info: ValidationInfo) -> Any:
        try:
            right = handler(value)
        except ValidationError:
            field = cls.model_fields[str(info.field_name)]
            if value is None and not field.is_required():
                return field.get_default()
            raise
        if isinstance(value, bool) and not isinstance(right, bool):
            raise PydanticCustomError('number', 'a number')  # pydantic reads true as 1
        return right

    @model_validator(mode='wrap')
    @classmethod
    def _explain(cls, values: Any, handler: ModelWrapValidatorHandler[Any]) -> Any:
        """Turn pydantic's errors of this section into sentences; those of sections below are sentences already."""
        try:
            return handler(values)
        except ValidationError as error:
            entries = error.errors(include_url=False)
        fields = {field.alias or name: field for name, field in cls.model_fields.items()}
        meant = {meant_key(entry['loc'][0], fields) for entry in entries if entry['type'] == 'extra_forbidden'}
        problems = []
        for entry in entries:
            loc, text = entry['loc'], entry['msg']
            if not loc:
                text = f'{show(values)} given; allowed: a section with some of {", ".join(fields)}'
            elif entry['type'] == 'extra_forbidden':
                text = unknown_key(loc[0], fields)
            elif entry['type'] == 'missing':
                text = 'missing'
            elif entry['type'] != 'problem':
                allowed = re.sub('^(Input|Value) (should|error,) (be )?', '', text)
                loc, text = loc[:1], f'{show(values[loc[0]])} given; allowed: {allowed}'
            if entry['type'] != 'missing' or loc[0] not in meant:
                problems.append(problem(text, *loc))
        fail(*problems)


def meant_key(key: Any, known: Iterable[str]) -> str:
    """Return the key that was probably meant, or ''."""
    renamed = _RELEASED_KEYS.get(str(key), '')
    return renamed if renamed in known else ''.join(get_close_matches(str(key), known, 1))


def unknown_key(key: Any, known: Iterable[str]) -> str:
    """Return the text of the problem with an unknown key."""
    if _RELEASED_KEYS.get(str(key)) == '':
        return 'unknown key. It is not needed here: remove it.'
    near = meant_key(key, known)
    return f'unknown key. Did you mean {near}?' if near else f'unknown key. Allowed: {", ".join(known)}'


def show(value: Any) -> str:
    """Write a value in one line, shortened."""
    text = value if isinstance(value, str) else json.dumps(value, default=str, skipkeys=True, ensure_ascii=False)
    return text if len(text) <= 60 else f'{text[:57]}…'


# Sections that are arguments of what `type` names


def targets(kind: str) -> dict[str, Callable[..., Any]]:
    """Return everything of a kind that an options file can name as `type`.

    Args:
        kind: 'arch', 'dataset', 'loss', 'metric', 'model', 'optimizer' or 'scheduler'.
    """
    if kind == 'optimizer':
        classes = {name: c for name, c in vars(torch.optim).items() if isinstance(c, type)}
        # LBFGS evaluates the loss several times per step, SparseAdam needs sparse gradients.
        unfit = ('Optimizer', 'LBFGS', 'SparseAdam')
        return {n: c for n, c in classes.items() if issubclass(c, torch.optim.Optimizer) and n not in unfit}
    if kind == 'scheduler':
        from basicsr.models.lr_scheduler import CosineAnnealingRestartLR, MultiStepRestartLR

        multi_step = dict.fromkeys(('MultiStepLR', 'MultiStepRestartLR'), MultiStepRestartLR)
        return {'CosineAnnealingRestartLR': CosineAnnealingRestartLR, **multi_step}
    import_module(f'basicsr.{_PACKAGES[kind]}')
    registry = import_module('basicsr.utils.registry')
    return dict(iter(getattr(registry, f'{kind.upper()}_REGISTRY')))


def find(kind: str, name: Any) -> Callable[..., Any] | None:
    """Look up a `type` as BasicSR's registries do; None if it is unknown."""
    found = targets(kind)
    return found.get(str(name)) or found.get(f'{name}_basicsr')


def typed(kind: str) -> AfterValidator:
    """Validate a section whose `type` names something of this kind, and whose other keys are its arguments.

    What it names is constructed, so that its own errors are found as well.
    """
    noun = 'network' if kind == 'arch' else kind

    def check(values: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        if 'type' not in values:
            wrong = ''.join(get_close_matches('type', values, 1, 0.5))
            fail(problem('unknown key. Did you mean type?' if wrong else 'missing', wrong or 'type'))
        name = values['type']
        target = find(kind, name)
        if target is None:
            known = sorted(targets(kind))
            near = get_close_matches(str(name), known, 1)
            hint = f'Did you mean {near[0]}?' if near else f'Registered: {", ".join(known)}.'
            fail(problem(f'{show(name)} given, which is not a registered {noun}. {hint}', 'type'))
        section = arguments_of(kind, target).model_validate(values, context=info.context)
        arguments = section.model_dump(by_alias=True, exclude_unset=True)
        try:
            _construct(kind, target, {key: value for key, value in arguments.items() if key != 'type'}, run_of(info))
        except Exception as error:
            fail(problem(f'{name} cannot be constructed: {error}'))
        return arguments

    return AfterValidator(check)


def _construct(kind: str, target: Any, arguments: dict[str, Any], run: Run) -> None:
    package = target.__module__.partition('.')[0]
    if kind == 'loss' and arguments.get('reduction') == 'none':
        raise ValueError('reduction is none; allowed: mean, sum')
    if package == 'dstnet_arch' and kind in ('arch', 'loss'):
        # BasicSR's networks inside SlidingWindow may read numbers, which the meta device does not have.
        with torch.device('cpu' if 'network' in arguments else 'meta'):
            target(**arguments)
    elif package == 'basicsr' and kind == 'loss' and run.check_paths:  # PerceptualLoss downloads weights
        with translate_weight_errors():
            target(**arguments)
    elif kind == 'optimizer':
        target([torch.zeros(1, 1, 1, 1)], **arguments)
    elif kind == 'scheduler':
        target(torch.optim.SGD([torch.zeros(1)], lr=1), **arguments)


@cache
def arguments_of(kind: str, target: Callable[..., Any]) -> type[Section]:
    """Make a section from a signature: `type`, and a key for each argument; only those of our classes have a type."""
    package = target.__module__.partition('.')[0]
    ours = package == 'dstnet_arch'
    fields: dict[str, Any] = {'type_': (str, Field(alias='type'))}
    if kind == 'metric':
        fields['better_'] = (Literal['higher', 'lower'], Field('higher', alias='better'))
    base: type[Section] = Section
    for name, parameter in inspect.signature(target, eval_str=ours).parameters.items():
        if parameter.kind is parameter.VAR_KEYWORD and package not in ('dstnet_arch', 'basicsr'):
            base = _AnyKey
        elif name not in _SUPPLIED and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            required = parameter.default is parameter.empty or (kind == 'optimizer' and name == 'lr')
            annotation = parameter.annotation if ours else Any
            if name == 'network':  # of SlidingWindow
                annotation = Annotated[dict[str, Any], typed('arch')]
            fields[f'{name}_'] = (annotation, Field(... if required else parameter.default, alias=name))
    return create_model(target.__name__, __base__=base, **fields)


class _AnyKey(Section):
    model_config = ConfigDict(extra='allow')
