"""The sections of an options file: their keys with type, default and description, and the checks across keys."""

from __future__ import annotations

import os
import re
from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field, ValidationInfo, model_validator
from pydantic_core import PydanticCustomError

from dstnet_arch.archs.checkpoint import read_state_dict
from dstnet_arch.errors import CheckpointError
from dstnet_arch.plugin.options_environment import missing_file
from dstnet_arch.plugin.options_schema import Count, Section, fail, problem, run_of, typed

LOSSES = ('pixel_opt', 'frequency_opt', 'perceptual_opt')
# Names become names of files and folders, on Windows too, with dates and numbers added.
_FILE_NAME = r'[^/\\:\x00-\x1f]*[^/\\:\x00-\x1f.][^/\\:\x00-\x1f]*'
_MAX_NAME_BYTES = 200
_PARAM_KEYS = ('params', 'params_ema', 'state_dict')


def _check_name(name: str) -> str:
    if not re.fullmatch(_FILE_NAME, name) or len(os.fsencode(name)) > _MAX_NAME_BYTES:
        raise PydanticCustomError('name', f'text without slashes and colons, at most {_MAX_NAME_BYTES} bytes')
    return name


FileName = Annotated[str, AfterValidator(_check_name)]
FilePath = Annotated[str, Field(min_length=1)]
Loss = Annotated[dict[Any, Any], typed('loss')]


class IoBackend(Section):
    """The section `io_backend` of a data set."""

    type: Literal['auto', 'lmdb', 'disk'] = 'auto'
    """lmdb: databases; disk: folders of clip folders; auto: found out from the data root."""


class TrainDataset(Section):
    """The section `datasets:train`."""

    place: ClassVar[str | None] = 'datasets:train'

    name: FileName
    """Name of the data set in messages."""
    type: Literal['VideoRecurrentDeblurDataset']
    """Another registered data set is possible; its keys are not checked."""
    dataroot_lq: FilePath
    """The blurry frames: an LMDB, or a folder with one folder per clip."""
    dataroot_gt: FilePath
    """The sharp frames, with the same names. The same folder as `dataroot_lq` for data in GoPro's own layout or in
    folders `input` and `target`.
    """
    blur: str = 'blur'
    """Folder of the blurry frames in GoPro's own layout, e.g. blur_gamma."""
    io_backend: IoBackend = IoBackend()
    """How the data roots are read."""
    num_frame: Count = 15
    """Frames in a training clip."""
    interval_list: list[Count] = Field([1], min_length=1)
    """Steps between the frames of a clip; one of them is drawn for each clip."""
    random_reverse: bool = False
    """Reverse half of the clips in time."""
    gt_size: Count = 256
    """Side of the square crop in pixels; at most that of the frames."""
    use_hflip: bool = True
    """Random horizontal flips."""
    use_rot: bool = True
    """Random vertical flips and quarter turns."""
    num_worker_per_gpu: int = Field(ge=0, le=1000)
    """Processes that load data; 0: the training process loads them."""
    batch_size_per_gpu: int = Field(ge=1, le=10000)
    """Clips in the batch of one step, per GPU."""
    dataset_enlarge_ratio: Count = 1
    """Clips drawn in one epoch, as a multiple of the number of start frames."""
    prefetch_mode: Literal['cuda'] | None = None
    """cuda: copy the next batch to the GPU during a step. The mode cpu of BasicSR hangs when a data set fails and is
    refused.
    """
    pin_memory: bool = False
    """Use page-locked memory, from which copies to a GPU are faster."""
    persistent_workers: bool = False
    """Keep the loading processes from epoch to epoch."""

    @model_validator(mode='after')
    def _check(self, info: ValidationInfo) -> TrainDataset:
        run = run_of(info)
        if self.persistent_workers and self.num_worker_per_gpu == 0:
            self.persistent_workers = False
        if self.prefetch_mode and run.on_cpu:
            self.prefetch_mode = None
        if self.prefetch_mode:
            self.pin_memory = True  # BasicSR refuses to prefetch without
        return self


class TestDataset(Section):
    """The sections `datasets:val`, `datasets:test` and further ones such as `datasets:test_2`."""

    __test__ = False  # not a test case for pytest
    place: ClassVar[str | None] = 'datasets:val'

    name: FileName
    """Name of the data set in tables, and of its folder of images."""
    type: Literal['VideoRecurrentDeblurTestDataset']
    """Another registered data set is possible; its keys are not checked."""
    dataroot_lq: FilePath
    """The blurry frames: an LMDB, or a folder with one folder per video."""
    dataroot_gt: FilePath | None = None
    """The sharp frames, with the same names. ~: restore and save, no scores."""
    blur: str = 'blur'
    """Folder of the blurry frames in GoPro's own layout, e.g. blur_gamma."""
    io_backend: IoBackend = IoBackend()
    """How the data roots are read."""
    clip_length: Count | None = 30
    """Frames restored together. The last clip of a video is shifted back to end with it; the frames it repeats count
    once. ~: whole videos.
    """
    pin_memory: bool = False
    """As in training."""


class Paths(Section):
    """The section `path`."""

    place: ClassVar[str | None] = 'path'

    pretrain_network_g: FilePath | None = None
    """Weights to start from or to test: our checkpoints, .safetensors, the released files."""
    param_key_g: str | None = 'params'
    """Which weights of a checkpoint: params, or params_ema for the averaged ones."""
    strict_load_g: bool = True
    """Refuse weights that do not fit the network completely."""
    resume_state: FilePath | None = None
    """Training state to resume (`…/training_states/N.state`); `--auto_resume` uses the last one."""
    ignore_resume_networks: list[str] | None = None
    """Networks that keep `pretrain_network_…` when a run is resumed."""

    @model_validator(mode='after')
    def _check(self, info: ValidationInfo) -> Paths:
        run = run_of(info)
        key = self.param_key_g
        if key not in (None, *_PARAM_KEYS) and (near := get_close_matches(str(key), _PARAM_KEYS, 1, 0.7)):
            fail(problem(f'{key} given, which no checkpoint has. Did you mean {near[0]}?', 'param_key_g'))
        if not run.check_paths:
            return self
        state, weights = self.resume_state, self.pretrain_network_g
        if run.is_train and state and (text := missing_file(state)):
            fail(problem(text, 'resume_state'))
        # A resumed run has its weights beside its state.
        states = Path('experiments', str(run.value('name')), 'training_states')
        resumes = run.is_train and (state or (run.auto_resume and any(states.glob('*.state'))))
        if weights and not resumes:
            if text := missing_file(weights):
                fail(problem(text, 'pretrain_network_g'))
            try:
                read_state_dict(os.path.expanduser(weights), key)
            except CheckpointError as error:
                fail(problem(str(error), 'pretrain_network_g'))
        return self


class _Computing(Section):
    """Keys that training and validation share."""

    precision: Literal['fp32', 'tf32', 'bf16', 'fp16'] | None = None
    """fp32, tf32 (GPUs since A100 and RTX 30), or autocast to bf16 or fp16. ~: tf32 if available, else fp32."""
    amp: Literal['none', 'bf16', 'fp16'] | None = None
    """Former name of `precision`."""
    compile: bool = False
    """Compile the network with `torch.compile`."""

    @model_validator(mode='after')
    def _check_precision(self, info: ValidationInfo) -> _Computing:
        amp = None if self.amp == 'none' else self.amp
        if amp and self.precision not in (None, amp):
            fail(problem(f'{amp} given, but precision is {self.precision}. Remove amp.', 'amp'))
        key, value = ('amp', amp) if amp else ('precision', self.precision)
        if run_of(info).on_cpu and value in ('tf32', 'fp16'):
            fail(problem(f'{value} given for a run on the CPU; allowed: fp32 or bf16', key))
        return self


class Train(_Computing):
    """The section `train`."""

    place: ClassVar[str | None] = 'train'

    total_iter: Count
    """Iterations; each uses one batch per GPU."""
    warmup_iter: int = Field(-1, ge=-1)
    """Iterations in which the learning rate rises from 0; -1: none."""
    optim_g: Annotated[dict[Any, Any], typed('optimizer')]
    """The optimizer."""
    scheduler: Annotated[dict[Any, Any], typed('scheduler')]
    """The learning rate schedule."""
    pixel_opt: Loss | None = None
    """Loss between frames."""
    frequency_opt: Loss | None = None
    """Loss between spectra."""
    perceptual_opt: Loss | None = None
    """Loss between features of a VGG network."""
    accum_iter: Count = 1
    """Parts of a batch that are processed one after the other: less memory, more time, nearly the same result."""
    grad_clip: float = Field(0, ge=0)
    """Maximum norm of the gradient; 0: no clipping."""
    find_nonfinite: bool = False
    """Check the output of every layer and stop with the name of the first non-finite one; slower."""
    gradient_checkpointing: bool = False
    """Recompute the propagation in the backward pass: less memory, more time."""
    ema_decay: float = Field(0, ge=0, lt=1)
    """Average the weights with this decay, e.g. 0.999, and validate with the average; 0: off."""

    @model_validator(mode='after')
    def _check(self, info: ValidationInfo) -> Train:
        run = run_of(info)
        schedule, problems = self.scheduler, []
        parts = 'restarts' if 'restarts' in schedule else 'periods'
        counts = len(schedule.get(parts, [])), len(schedule.get('restart_weights', [1]))
        if parts in schedule and counts[0] != counts[1]:
            text = f'{counts[1]} values for {counts[0]} {parts}. Give one for each.'
            problems.append(problem(text, 'scheduler', 'restart_weights'))
        if sum(schedule.get('periods', [self.total_iter])) < self.total_iter:
            text = (
                f'{schedule["periods"]} end before total_iter {self.total_iter}. Use [{self.total_iter}], for example.'
            )
            problems.append(problem(text, 'scheduler', 'periods'))
        batch = run.value('datasets', 'train', 'batch_size_per_gpu')
        if isinstance(batch, int) and batch % self.accum_iter:
            text = f'{self.accum_iter} does not divide datasets:train:batch_size_per_gpu {batch}. Use a divisor.'
            problems.append(problem(text, 'accum_iter'))
        if not any(getattr(self, key) for key in LOSSES):
            problems.append(problem(f'no loss given; give at least one of {", ".join(LOSSES)}'))
        if problems:
            fail(*problems)
        return self


def _check_metrics(metrics: dict[Any, Any]) -> dict[Any, Any]:
    for name, metric in metrics.items():
        if not isinstance(name, str) or not name.isprintable() or not name.strip():
            raise PydanticCustomError('name', 'text in one line as the name of each metric, such as psnr')
        if metric['type'] == 'calculate_ssim3d' and metric.get('test_y_channel'):
            fail(problem('true given, but SSIM-3D uses all channels; allowed: false', name, 'test_y_channel'))
    return metrics


Metrics = Annotated[dict[Any, Annotated[dict[Any, Any], typed('metric')]], AfterValidator(_check_metrics)]


class Val(_Computing):
    """The section `val`."""

    place: ClassVar[str | None] = 'val'
    filled = frozenset({'save_img'})

    val_freq: Count | None = None
    """Iterations between validations. Required in training."""
    save_img: bool = False
    """Save the restored frames under the names of the blurry ones."""
    suffix: FileName | None = None
    """Appended to the names of saved frames."""
    pbar: bool = True
    """Show a progress bar."""
    protocol: Literal['dstnet', 'basicsr', 'cdvd', 'estrnn'] = 'dstnet'
    """How frames are scored. dstnet: as for the paper's numbers; basicsr, cdvd, estrnn: as stock BasicSR, CDVD-TSP and
    ESTRNN do, with their PSNR and SSIM in place of `metrics`.
    """
    self_ensemble: bool = False
    """Restore each clip in four rotations, forwards and backwards in time, and use the mean: better frames, eight
    times the work.
    """
    streaming: bool = False
    """Restore frame by frame: the same result, and memory that hardly grows with the length of the clip, so that
    `clip_length: ~` is possible. For DSTNet and DSTNetPlus.
    """
    metrics: Metrics | None = None
    """Scores: a name of your choice for each, and below it `type` and the arguments of the metric."""

    @model_validator(mode='after')
    def _check(self, info: ValidationInfo) -> Val:
        if run_of(info).is_train and self.val_freq is None:
            fail(problem('missing. Give the iterations between validations, e.g. 5000.', 'val_freq'))
        return self


class Wandb(Section):
    """The section `logger:wandb`."""

    place: ClassVar[str | None] = 'logger:wandb'

    project: str | None = None
    """Project to log to; ~: no logging to Weights & Biases."""
    resume_id: str | None = None
    """Id of the run to resume."""


class Logger(Section):
    """The section `logger`."""

    place: ClassVar[str | None] = 'logger'
    filled = frozenset({'print_freq', 'save_checkpoint_freq', 'use_tb_logger'})

    print_freq: Count = 100
    """Iterations between lines of the log."""
    save_checkpoint_freq: Count = 5000
    """Iterations between checkpoints."""
    use_tb_logger: bool = False
    """Write curves for TensorBoard to `tb_logger/NAME`."""
    wandb: Wandb | None = None
    """Curves on Weights & Biases; needs `use_tb_logger`."""

    @model_validator(mode='after')
    def _check(self, info: ValidationInfo) -> Logger:
        if not run_of(info).is_train:
            return self
        project = self.wandb and self.wandb.project
        if project and not self.use_tb_logger:
            fail(problem('false given with a project under logger:wandb; allowed: true', 'use_tb_logger'))
        for package, needed in {'tensorboard': self.use_tb_logger, 'wandb': project}.items():
            if needed and not find_spec(package):
                fail(problem(f'needs {package}, which is not installed: pip install {package}', 'use_tb_logger'))
        return self


class DistParams(Section):
    """The section `dist_params`."""

    place: ClassVar[str | None] = 'dist_params'

    backend: Literal['nccl', 'gloo'] = 'nccl'
    """Backend of torch.distributed under Slurm."""
    port: int = Field(29500, ge=1, le=65535)
    """Port of the first process under Slurm."""
