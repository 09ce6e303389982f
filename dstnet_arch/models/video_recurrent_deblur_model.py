"""BasicSR model for video deblurring, for any network that maps a clip (B, T, 3, H, W) to one of the same shape."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from copy import deepcopy
from datetime import date
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import torch
from basicsr.data import build_dataset
from basicsr.losses import build_loss
from basicsr.models.sr_model import SRModel
from basicsr.utils import get_root_logger
from basicsr.utils.dist_util import master_only
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn.parallel import DataParallel, DistributedDataParallel
from torch.optim.swa_utils import get_ema_multi_avg_fn

from dstnet_arch.errors import DataError, OptionsError, TrainingError
from dstnet_arch.memory_errors import memory_explained
from dstnet_arch.metrics.report import Record, ScoreBook
from dstnet_arch.metrics.scorer import Scorer
from dstnet_arch.models.checkpoint_io import load_weights, others_loading_explained, save_checkpoint
from dstnet_arch.models.evaluation import evaluate, image_path
from dstnet_arch.models.loss_watch import LossWatch
from dstnet_arch.models.optimizers import make_optimizer
from dstnet_arch.models.ranks import contact_explained, on_all_ranks
from dstnet_arch.models.reporting import (
    columns_of,
    log_times,
    scores_of,
    uncounted_frames,
    write_result_table,
    write_scores,
)
from dstnet_arch.models.self_ensemble import RESTORATIONS, self_ensemble
from dstnet_arch.models.settings import autocast_dtype, check_metrics, check_streaming, protocol_of
from dstnet_arch.models.training_state import (
    misfit_explained,
    resume_optimizer,
    resume_scheduler,
    rng_states,
    set_rng_states,
    set_torch_rng_states,
)
from dstnet_arch.nonfinite import NonFiniteWatch, first_nonfinite, look_at_gradients, look_at_weights
from dstnet_arch.streaming.streamer import Streamer

_LOSSES = {'l_pix': 'pixel_opt', 'l_freq': 'frequency_opt'}
_LEAST_LOSS_SCALE = 1e-6

T = TypeVar('T')


class VideoRecurrentDeblurModel(SRModel):
    """Train, validate and test a video deblurring network with stock BasicSR's own loops.

    `SRModel` puts network, averaged weights, losses, optimiser and schedule together in the way that BasicSR's users
    know, so this class replaces the steps that fall short and keeps the frame. (`VideoBaseModel` and
    `VideoRecurrentModel` would add a validation that is replaced as well.)

    One iteration is one step of the optimiser. With `train.accum_iter: k` the batch of the data loader is cut into k
    parts and their gradients are averaged, so that iterations, schedule, checkpoints and logs mean the same for every
    k. `datasets.train.batch_size_per_gpu` is the batch of a step, a multiple of k.

    A resumed run takes its progress (moments, learning rate, averaged weights, loss scale, random generators, best
    scores) from the training state, and its settings (weight decay, period of the schedule, …) from the options.

    Attributes:
        lq, gt: the batch that `feed_data` took, (B, T, 3, H, W), RGB in [0, 1].
        output: what `test` made of it, the same shape.

    Args:
        opt: BasicSR's options.

    Raises:
        OptionsError: an option does not suit the network, the data or the machine.
        CheckpointError: `path.pretrain_network_g` cannot be read or does not fit the network; or weights that a network
            or a loss loads by itself cannot be read.
    """

    def __init__(self, opt: dict[str, Any]) -> None:
        if opt['num_gpu'] != 0 and not torch.cuda.is_available():
            raise OptionsError(
                f'num_gpu is {opt["num_gpu"]}, but PyTorch {torch.__version__} sees no GPU here. Set num_gpu to 0 or '
                'auto, or install a PyTorch with CUDA and a driver for it.'
            )
        self.val_opt: dict[str, Any] = opt.get('val') or {}
        self.val_dtype = autocast_dtype(self.val_opt, 'val:amp')
        self.protocol = protocol_of(self.val_opt)
        self.metrics: dict[str, dict[str, Any]] = self.protocol.metrics or self.val_opt.get('metrics') or {}
        check_metrics(self.metrics)
        self._scorer = Scorer(self.metrics)
        # Keyed by data set. The blurry inputs' scores never change, so repeated validations look them up.
        self._input_records: WeakKeyDictionary[Any, list[Record]] = WeakKeyDictionary()
        self._last_validation: WeakKeyDictionary[Any, int | str] = WeakKeyDictionary()
        # Stock BasicSR's best scores are of the metrics that stand here.
        with others_loading_explained():
            super().__init__(
                {**opt, 'val': {**self.val_opt, 'metrics': self.metrics}} if self.protocol.metrics else opt
            )
        if self.val_opt.get('streaming'):
            check_streaming(self.get_bare_model(self.net_g))
        if self.protocol.metrics and self.val_opt.get('metrics'):
            get_root_logger().info(
                f'val:protocol {self.protocol.name} has scores of its own, {" and ".join(self.metrics)}: val:metrics '
                'is not used.'
            )

    # ---- building

    def model_to_device(self, net: nn.Module) -> nn.Module:
        """Move the network to the device and, for training, wrap it for several of them."""
        net = net.to(self.device)
        if not self.is_train:
            return net
        if self.opt['dist']:
            return DistributedDataParallel(
                net,
                device_ids=[torch.cuda.current_device()] if self.device.type == 'cuda' else None,
                find_unused_parameters=self.opt.get('find_unused_parameters', False),
            )
        return DataParallel(net) if self.opt['num_gpu'] > 1 else net

    @master_only
    def print_network(self, net: nn.Module) -> None:
        """Log the network's name and size; its tree of modules would fill pages."""
        net = self.get_bare_model(net)
        count = sum(p.numel() for p in net.parameters())
        get_root_logger().info(f'Network {type(net).__name__}: {count:,} parameters')

    def load_network(
        self, net: nn.Module, load_path: str, strict: bool = True, param_key: str | None = 'params'
    ) -> None:
        """Load weights: our checkpoints, .safetensors and, into a network that converts them, released files.

        Args:
            net: the network, wrapped or not.
            load_path: the file.
            strict: refuse weights that do not all fit; else load those that fit and log the others.
            param_key: which weights of the file; one that is not there falls back to 'params'.

        Raises:
            CheckpointError: the file cannot be read, or its weights do not fit and `strict` is set.
        """
        load_weights(self.get_bare_model(net), load_path, strict, param_key)

    def init_training_settings(self) -> None:
        """Set up everything that only training needs."""
        train_opt = self.opt['train']
        net = self.get_bare_model(self.net_g).train()
        self.train_dtype = autocast_dtype(train_opt, 'train:amp')
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.train_dtype == torch.float16)
        self.accum_iter = int(train_opt.get('accum_iter') or 1)
        self.grad_clip = float(train_opt.get('grad_clip') or 0)
        self.loss_watch = LossWatch()
        self.find_nonfinite = bool(train_opt.get('find_nonfinite'))
        self._rng_of_next_step: dict[str, Any] | None = None
        if train_opt.get('gradient_checkpointing'):
            if not hasattr(net, 'gradient_checkpointing'):
                raise OptionsError(
                    f'train:gradient_checkpointing is on, but {type(net).__name__} cannot do that: it has no attribute '
                    'gradient_checkpointing. Set it to false; a larger train:accum_iter saves memory, too.'
                )
            net.gradient_checkpointing = True

        self.ema_decay = float(train_opt.get('ema_decay') or 0)
        if self.ema_decay > 0:
            self.net_g_ema = deepcopy(net).eval().requires_grad_(False)
            # To resume, BasicSR names the run's own checkpoint here, and 'params' for the other network.
            if load_path := self.opt['path'].get('pretrain_network_g'):
                strict = self.opt['path'].get('strict_load_g', True)
                self.load_network(self.net_g_ema, load_path, strict, 'params_ema')

        self.criteria = {
            name: build_loss(train_opt[key]).to(self.device) for name, key in _LOSSES.items() if train_opt.get(key)
        }
        perceptual_opt = train_opt.get('perceptual_opt')
        self.cri_perceptual = build_loss(perceptual_opt).to(self.device) if perceptual_opt else None
        if not self.criteria and self.cri_perceptual is None:
            raise OptionsError('There is no loss to train with: set train:pixel_opt, or train:frequency_opt, or both.')
        self.setup_optimizers()
        self.setup_schedulers()

    def get_optimizer(self, optim_type: str, params: Any, lr: float, **kwargs: Any) -> torch.optim.Optimizer:
        """See `make_optimizer`."""
        return make_optimizer(optim_type, params, lr, **kwargs)

    # ---- training

    def feed_data(self, data: Mapping[str, Any]) -> None:
        """Take a batch: 'lq' (B, T, 3, H, W) and, where there is ground truth, 'gt' of the same shape.

        Raises:
            DataError: there is no 'lq'.
        """
        if 'lq' not in data:
            raise DataError(f'The data set gives {", ".join(data)}; a video deblurring network needs "lq".')
        self.lq = self._to_device(data['lq'])
        if 'gt' in data:
            self.gt = self._to_device(data['gt'])
        elif hasattr(self, 'gt'):
            del self.gt  # of the batch before

    def _to_device(self, batch: Tensor) -> Tensor:
        batch = batch.to(self.device, non_blocking=True)
        if batch.is_cuda:
            # Stock CUDAPrefetcher copies in a stream of its own, which could reuse this memory too early.
            batch.record_stream(torch.cuda.current_stream())
        # On the CPU, `to` returns the caller's own tensor; a view keeps its shape when the caller squeezes that.
        return batch[:]

    def optimize_parameters(self, current_iter: int) -> None:
        """Make one step of the optimiser on the batch that `feed_data` took.

        Raises:
            DataError: the batch has no ground truth.
            OptionsError: it cannot be cut into `accum_iter` parts, or the network changes the shape.
            TrainingError: a loss is not finite, memory is short, or another rank is gone.
        """
        self._restore_rng()
        advice = 'Try train:accum_iter=2 or more, train:gradient_checkpointing=true or train:amp=bf16.'
        with memory_explained(advice, TrainingError), contact_explained():
            self.optimizer_g.zero_grad(set_to_none=True)
            losses = self._backward_watched(current_iter) if self.find_nonfinite else self._backward()
            if self.opt['dist']:  # every rank learns of a loss that is not finite: all stop, and none waits
                mean = torch.stack(list(losses.values()))
                dist.all_reduce(mean)
                losses = dict(zip(losses, mean / self.opt['world_size'], strict=True))
            self.loss_watch.add(current_iter, losses)
            self._step()

    def _backward(self) -> dict[str, Tensor]:
        """Accumulate the gradients of the mean loss over the parts of the batch; returns the mean of each loss."""
        parts = self._cut_batch()
        means: dict[str, Tensor] = {}
        for i, (lq, gt) in enumerate(parts):
            with self._gradients_exchanged_if(i == len(parts) - 1):
                losses = {name: loss / len(parts) for name, loss in self._losses(lq, gt).items()}
                self.scaler.scale(torch.stack(list(losses.values())).sum()).backward()
            means = {name: means.get(name, 0) + loss.detach() for name, loss in losses.items()}
        return means

    def _backward_watched(self, current_iter: int) -> dict[str, Tensor]:
        """`_backward`, looking for the first that is not finite; where one rank finds it, all stop."""
        net = self.get_bare_model(self.net_g)
        watch = NonFiniteWatch(net)
        look_at_weights(watch, net)
        watch.look('the sharp frames', getattr(self, 'gt', None))
        with watch:
            losses = self._backward()
        if not self.scaler.is_enabled():  # of fp16, gradients may overflow: the scaler leaves out the step
            look_at_gradients(watch, net)
        for finding in self._on_all_ranks(lambda: watch.finding):
            if finding:
                raise TrainingError(
                    f'Training stopped at iteration {current_iter}; the first that is not finite: {finding}. For '
                    'frames, look for damaged ones with `python -m data_prep verify PATH`; for float16, try '
                    'train:amp=bf16; else a lower train:optim_g:lr or train:grad_clip=0.1. Go on with --auto_resume.'
                )
        return losses

    def _cut_batch(self) -> list[tuple[Tensor, Tensor]]:
        if not hasattr(self, 'gt'):
            raise DataError('The training set gives no "gt", but training needs sharp frames. Set its dataroot_gt.')
        if len(self.lq) % self.accum_iter:
            raise OptionsError(
                f'A batch of {len(self.lq)} clips cannot be cut into train:accum_iter={self.accum_iter} equal parts. '
                'Set datasets:train:batch_size_per_gpu, the clips of one step, to a multiple of it.'
            )
        return list(zip(self.lq.chunk(self.accum_iter), self.gt.chunk(self.accum_iter), strict=True))

    def _gradients_exchanged_if(self, last: bool) -> AbstractContextManager[None]:
        """Ranks exchange gradients in a backward pass; of those of one step, only the last needs to."""
        return nullcontext() if last or not isinstance(self.net_g, DistributedDataParallel) else self.net_g.no_sync()

    def _losses(self, lq: Tensor, gt: Tensor) -> dict[str, Tensor]:
        with self._autocast(self.train_dtype):
            output = self.net_g(lq)
        if output.shape != gt.shape:
            raise OptionsError(
                f'{type(self.get_bare_model(self.net_g)).__name__} makes {tuple(output.shape)} of {tuple(lq.shape)}, '
                f'but the sharp frames are {tuple(gt.shape)}. Choose a network_g that keeps the shape.'
            )
        output, gt = output.float(), gt.float()
        losses = {name: criterion(output, gt) for name, criterion in self.criteria.items()}
        if self.cri_perceptual is not None:  # made for pictures, not for clips
            perceptual, style = self.cri_perceptual(output.flatten(0, 1), gt.flatten(0, 1))
            losses |= {name: x for name, x in (('l_percep', perceptual), ('l_style', style)) if x is not None}
        return losses

    def _step(self) -> None:
        if self.grad_clip > 0:
            self.scaler.unscale_(self.optimizer_g)
            nn.utils.clip_grad_norm_(self.net_g.parameters(), self.grad_clip)
        self.scaler.step(self.optimizer_g)
        self.scaler.update()
        if self.ema_decay > 0:
            self.model_ema(self.ema_decay)

    def model_ema(self, decay: float = 0.999) -> None:
        """Move the averaged weights by `1 - decay` towards the network's, and copy its buffers."""
        net = self.get_bare_model(self.net_g)
        average, current = list(self.net_g_ema.parameters()), list(net.parameters())
        get_ema_multi_avg_fn(decay)(average, current, torch.ones(()))
        for mine, theirs in zip(self.net_g_ema.buffers(), net.buffers(), strict=True):
            mine.copy_(theirs)

    def get_current_log(self) -> dict[str, float]:
        """The losses of the latest iteration, means over its batch and the ranks.

        Raises:
            TrainingError: one of them is not finite, or fp16 overflows at every loss scale.
        """
        if self.scaler.is_enabled() and self.scaler.get_scale() < _LEAST_LOSS_SCALE:
            raise TrainingError(
                f'The loss scale of fp16 has fallen to {self.scaler.get_scale():.1e}: the gradients overflow at every '
                'step, and nothing is learnt. Go on from the last checkpoint with train:amp=bf16 or none.'
            )
        return dict(self.loss_watch.read())

    # ---- restoring

    def restore(self, lq: Tensor) -> Tensor:
        """Restore a clip, in training with the averaged weights where there are any.

        Validation, testing and `test` all come through here: override it to restore in another way. With
        `val.streaming` it goes frame by frame, with the same result in memory that does not grow with the clip; with
        `val.self_ensemble`, it is the mean of eight restorations, see `self_ensemble`.

        Args:
            lq: (B, T, 3, H, W), RGB in [0, 1], on any device.

        Returns:
            The restored clip: same shape, float32, on the model's device (as a stream: in main memory), not clamped.

        Raises:
            TrainingError: memory is short.
        """
        lq = lq.cpu() if self.val_opt.get('streaming') else lq.to(self.device)
        return self_ensemble(self._restore_once, lq) if self.val_opt.get('self_ensemble') else self._restore_once(lq)

    def _restore_once(self, lq: Tensor) -> Tensor:
        net = self._restoring_net()
        was_training = net.training
        net.eval()
        streaming = bool(self.val_opt.get('streaming'))
        saving = 'val:amp=bf16' if streaming else 'val:streaming=true, a smaller clip_length or val:amp=bf16'
        try:
            with memory_explained(f'Try {saving}.', TrainingError), torch.inference_mode():
                if streaming:  # it has autocast of its own
                    stream = Streamer(net, autocast=self.val_dtype)(lq.unbind(1))
                    return torch.stack([frame.float().cpu() for frame in stream], dim=1)
                with self._autocast(self.val_dtype):
                    return net(lq).float()
        finally:
            net.train(was_training)

    def _restoring_net(self) -> Any:
        # Without its wrapper, which would wait for ranks that have no clip left.
        return self.net_g_ema if hasattr(self, 'net_g_ema') else self.get_bare_model(self.net_g)

    def test(self) -> None:
        """Restore the clip that `feed_data` took."""
        self.output = self.restore(self.lq)

    def _autocast(self, dtype: torch.dtype | None) -> AbstractContextManager[Any]:
        return torch.amp.autocast(self.device.type, dtype=dtype, enabled=dtype is not None)

    # ---- saving and resuming

    def save(self, epoch: int, current_iter: int) -> None:
        """Save the weights and then the training state, each whole or not at all: a state has its weights beside it.

        Args:
            epoch: current epoch.
            current_iter: current iteration; -1 saves the weights as 'latest', and no state.

        Raises:
            TrainingError: a loss or the weights are not finite; nothing was saved.
            CheckpointError: a file cannot be written; those before are untouched.
        """
        self.loss_watch.read()
        self._check_weights()
        super().save(epoch, current_iter)

    def _check_weights(self) -> None:
        for name, parameter in self.get_bare_model(self.net_g).named_parameters():
            if not torch.isfinite(parameter).all():
                raise TrainingError(
                    f'Training stopped: the weights {name} are no longer finite, so they were not saved. Go on from '
                    'the last checkpoint with --auto_resume and a lower train:optim_g:lr or train:grad_clip=0.1.'
                )

    @master_only
    def save_network(
        self, net: nn.Module | list[nn.Module], net_label: str, current_iter: int, param_key: str | list[str] = 'params'
    ) -> None:
        """Save networks to one file, each under its key."""
        nets = net if isinstance(net, list) else [net]
        keys = param_key if isinstance(param_key, list) else [param_key]
        weights = {key: _on_cpu(self.get_bare_model(net).state_dict()) for key, net in zip(keys, nets, strict=True)}
        label = 'latest' if current_iter == -1 else current_iter
        save_checkpoint(weights, Path(self.opt['path']['models'], f'{net_label}_{label}.pth'))

    def save_training_state(self, epoch: int, current_iter: int) -> None:
        """Save what a resumed run needs beside the weights."""
        if current_iter == -1:
            return
        rng = self._on_all_ranks(rng_states)
        self._rng_of_next_step = rng[self.opt['rank']]
        if self.opt['rank'] != 0:
            return
        state = {
            'epoch': epoch,
            'iter': current_iter,
            'optimizers': [optimizer.state_dict() for optimizer in self.optimizers],
            'schedulers': [scheduler.state_dict() for scheduler in self.schedulers],
            'classes': self._classes(),
            'scaler': self.scaler.state_dict(),
            'rng': rng,
            'best_metric_results': getattr(self, 'best_metric_results', {}),
            'protocol': self.protocol.name,
        }
        save_checkpoint(state, Path(self.opt['path']['training_states'], f'{current_iter}.state'))

    def resume_training(self, resume_state: Mapping[str, Any]) -> None:
        """Go on from a training state; its weights were loaded when the model was made.

        Args:
            resume_state: what `save_training_state` (or stock BasicSR's) saved, on any device.

        Raises:
            CheckpointError: it is of a run with another network, optimiser or schedule, or no training state at all.
        """
        with misfit_explained():
            classes = resume_state.get('classes', self._classes())
            if classes != self._classes():
                raise ValueError(f'it was made with {", ".join(classes)}, they say {", ".join(self._classes())}')
            for optimizer, saved in zip(self.optimizers, resume_state['optimizers'], strict=True):
                resume_optimizer(optimizer, saved)
            for scheduler, saved in zip(self.schedulers, resume_state['schedulers'], strict=True):
                resume_scheduler(scheduler, saved, resume_state['iter'])
            if self.scaler.is_enabled() and resume_state.get('scaler'):
                self.scaler.load_state_dict(resume_state['scaler'])
            self._resume_best(resume_state)
        self._make_up_for_validation(resume_state['iter'])
        with misfit_explained():
            self._resume_rng(resume_state.get('rng', []))

    def _resume_rng(self, rng: list[dict[str, Any]]) -> None:
        if len(rng) == self.opt['world_size']:
            self._rng_of_next_step = rng[self.opt['rank']]
            set_rng_states(self._rng_of_next_step)
        else:
            get_root_logger().warning(
                f'The training state holds random generators of {len(rng)} processes, for {self.opt["world_size"]} '
                'here: they start from manual_seed instead.'
            )

    def _restore_rng(self) -> None:
        """Have the step after a checkpoint draw the same numbers, whether the run was resumed there or not.

        In between, loaders draw a seed from PyTorch's generator whenever they begin an epoch, also the one that a
        resumed run has just made, and metrics may draw. Python's and NumPy's generators may already have been used for
        the data of this step, and so are left alone.
        """
        if self._rng_of_next_step is not None:
            set_torch_rng_states(self._rng_of_next_step)
            self._rng_of_next_step = None

    def _resume_best(self, resume_state: Mapping[str, Any]) -> None:
        # Scores are no longer comparable where the metrics or the protocol were changed meanwhile.
        same_protocol = resume_state.get('protocol', self.protocol.name) == self.protocol.name
        self.best_metric_results = {
            dataset: record
            for dataset, record in resume_state.get('best_metric_results', {}).items()
            if same_protocol and record.keys() == self.metrics.keys()
        }
        for record in self.best_metric_results.values():
            for best in record.values():
                best['val'], best['iter'] = float(best['val']), int(best['iter'])
        # BasicSR saves an iteration before it validates it, so the scores of the last one stand in its tables only.
        iteration = resume_state['iter']
        for dataset, means in scores_of(self._scores_folder(), iteration, self.protocol):
            if means.keys() == self.metrics.keys():
                self._update_best(dataset, means, iteration)

    def _make_up_for_validation(self, iteration: int) -> None:
        """Validate the iteration that the run goes on from, if it was stopped between saving and validating it."""
        freq = self.val_opt.get('val_freq')
        if not freq or not self.metrics or iteration % freq or iteration >= self.opt['train'].get('total_iter', 0):
            return  # after the last iteration, BasicSR validates in any case
        for phase, dataset_opt in self.opt.get('datasets', {}).items():
            if phase.split('_')[0] != 'val' or not dataset_opt.get('dataroot_gt'):
                continue
            name = dataset_opt['name']
            scores = self._scores_folder() / f'{name}_{iteration}_summary.json'
            if self._on_all_ranks(scores.exists)[0]:  # rank 0 writes them
                continue
            get_root_logger().info(f'{name} was not validated at iteration {iteration}: that is made up for.')
            dataset = build_dataset(dataset_opt)
            self.validation(SimpleNamespace(dataset=dataset), iteration, None, self.val_opt.get('save_img', False))

    def _classes(self) -> list[str]:
        return [type(part).__name__ for part in (*self.optimizers, *self.schedulers)]

    # ---- validation and test

    def validation(self, dataloader: Any, current_iter: int | str, tb_logger: Any, save_img: bool = False) -> None:
        """Restore a data set, score it beside its blurry input, save pictures and tables, and log the table.

        Every rank takes its share of the clips, and rank 0 reports. `val.protocol` says which frames count and how they
        are scored. After a test, the scores of a data set that the paper has a table of stand in that table, too.

        Args:
            dataloader: its data set gives clips, see `evaluate`; the loader itself is not used.
            current_iter: iteration; in stock's test the name of the run.
            tb_logger: TensorBoard's writer or None.
            save_img: save the restored frames under the source's own names.

        Raises:
            DataError: a clip cannot be loaded, scored or saved, or by the protocol no frame counts.
            TrainingError: memory is short.
        """
        dataset = dataloader.dataset
        name = dataset.opt['name']
        if self.is_train:
            self.loss_watch.read()
            total = int(self.opt['train'].get('total_iter', current_iter))
            # After the last iteration BasicSR validates once more, its counter being beyond the end.
            if int(current_iter) > total and self._last_validation.get(dataset) == total:
                return
            current_iter = min(int(current_iter), total)
        with_scores = bool(self.metrics) and dataset.has_gt
        if not with_scores and not save_img:
            get_root_logger().info(
                f'{name}: no scores (val:metrics, dataroot_gt) and no pictures (val:save_img) wanted.'
            )
            return

        border = self.protocol.border_frames
        uncounted = uncounted_frames(self.protocol, dataset.videos) if border and with_scores else frozenset()
        folder = Path(self.opt['path']['visualization'], name, str(current_iter) if self.is_train else '')
        known = self._input_records.get(dataset, [])
        show_bar = self.val_opt.get('pbar', True) and self.opt['rank'] == 0
        shares = self._on_all_ranks(
            lambda: evaluate(
                dataset,
                self.restore,
                explain=lambda lq: first_nonfinite(self._restoring_net(), lambda: self.restore(lq)),
                score=self._scorer if with_scores else None,
                score_device=self.device if self.device.type != 'cpu' and self._scorer.on_any_device else None,
                score_input=not known,
                uncounted=uncounted,
                truncate=self.protocol.truncates,
                save_path=partial(image_path, folder, suffix=self.val_opt.get('suffix')) if save_img else None,
                rank=self.opt['rank'],
                world_size=self.opt['world_size'],
                pbar=name if show_bar else None,
            )
        )
        records = known + [record for share in shares for record in share.records]
        if self.is_train:
            self._last_validation[dataset] = current_iter
            self._input_records[dataset] = [record for record in records if record[0] == 'input']
        if self.opt['rank'] == 0:
            log_times(name, shares, folder if save_img else None)
            if with_scores:
                self._report(dataset, current_iter, records, tb_logger)

    def _report(self, dataset: Any, current_iter: int | str, records: list[Record], tb_logger: Any) -> None:
        """Write the tables of a data set, log them, and keep the best scores."""
        name = dataset.opt['name']
        book = ScoreBook(list(self.metrics), name, columns_of(self.metrics), self.protocol)
        try:
            book.merge(records)
        except ValueError as error:
            raise DataError(f'{name}: {error}') from error
        folder, stem = Path(self.opt['path'].get('results_root', '')), name
        if self.is_train:
            folder, stem = self._scores_folder(), f'{name}_{current_iter}'
        provenance = {'frames_restored': dataset.num_frames, **self._provenance(current_iter)}
        frames_csv = write_scores(book, folder, stem, provenance)

        self.metric_results = book.mean('restored')
        lines = [f'Scores of {name}', book.table()]
        if self.val_opt.get('self_ensemble'):
            lines.append(f'self-ensemble: the mean of {RESTORATIONS} restorations of each clip')
        if self.is_train:
            self._update_best(name, self.metric_results, current_iter)
            best = [
                f'{column.label} {record["val"]:.{column.digits}f} (iteration {record["iter"]})'
                for column, record in zip(book.columns.values(), self.best_metric_results[name].values(), strict=True)
            ]
            lines.append(f'best so far: {", ".join(best)}')
        lines.append(f'Frame by frame: {frames_csv}')
        if not self.is_train:
            lines += write_result_table(book, folder, provenance)
        get_root_logger().info('\n'.join(lines))
        if tb_logger:
            for metric, value in self.metric_results.items():
                tb_logger.add_scalar(f'metrics/{name}/{metric}', value, current_iter)

    def _provenance(self, current_iter: int | str) -> dict[str, Any]:
        """What the scores are of, for the summary."""
        weights = {'weights': self.opt['path'].get('pretrain_network_g')}
        return {
            'run': self.opt['name'],
            **({'iteration': current_iter} if self.is_train else weights),
            'network': dict(self.opt['network_g']),
            'amp': self.val_opt.get('amp') or 'none',
            'self_ensemble': bool(self.val_opt.get('self_ensemble')),
            'streaming': bool(self.val_opt.get('streaming')),
            'metrics': {name: dict(opt) for name, opt in self.metrics.items()},
            'date': date.today().isoformat(),
        }

    def _update_best(self, dataset: str, means: Mapping[str, float | None], current_iter: int | str) -> None:
        self._initialize_best_metric_results(dataset)
        for metric, mean in means.items():
            # JSON has no infinity and holds None for it.
            self._update_best_metric_result(dataset, metric, float('inf') if mean is None else mean, current_iter)

    def _scores_folder(self) -> Path:
        return Path(self.opt['path']['experiments_root'], 'scores')

    def _on_all_ranks(self, work: Callable[[], T]) -> list[T]:
        return on_all_ranks(work, self.opt['world_size'] if self.opt['dist'] else None)


def _on_cpu(state_dict: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value.cpu() if isinstance(value, Tensor) else value for name, value in state_dict.items()}
