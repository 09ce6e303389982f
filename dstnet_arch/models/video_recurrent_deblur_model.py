"""BasicSR model for video deblurring, for networks that map a clip (B, T, 3, H, W) to one of the same shape."""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Mapping
from contextlib import suppress
from copy import deepcopy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from basicsr.data import build_dataset
from basicsr.models.sr_model import SRModel
from basicsr.utils import get_root_logger
from basicsr.utils.dist_util import master_only
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import get_ema_multi_avg_fn

from dstnet_arch.archs.checkpoint import read_state_dict
from dstnet_arch.errors import CheckpointError, OptionsError, TrainingError
from dstnet_arch.memory_errors import translate_oom
from dstnet_arch.models import checkpoints
from dstnet_arch.models.clips import as_clips
from dstnet_arch.models.distributed import Ranks, choose_kernels
from dstnet_arch.models.self_ensemble import self_ensemble
from dstnet_arch.models.training import TrainingStep
from dstnet_arch.models.validation import Validator
from dstnet_arch.streaming.stages import stages_of
from dstnet_arch.streaming.streamer import Streamer

_OOM_ADVICE = 'Try val:streaming=true, a smaller clip_length or val:precision=bf16.'


class VideoRecurrentDeblurModel(SRModel):
    """Train, validate and test a video deblurring network with stock BasicSR's pipelines.

    One iteration is one step of the optimiser. With `train.accum_iter: k` the batch of the data loader is split into k
    parts and their gradients are averaged, so iterations, schedule, checkpoints and logs mean the same for every k.
    `datasets.train.batch_size_per_gpu` is the batch of a step, a multiple of k.

    A resumed run takes its progress from the training state, the best scores so far from the files of scores, and its
    settings (weight decay, period of the schedule, …) from the options.

    Attributes:
        lq: the blurry batch set by `feed_data`, (B, T, 3, H, W), RGB in [0, 1].
        gt: the sharp batch, same shape.
        output: result of `test`, same shape.

    Args:
        opt: BasicSR's options.

    Raises:
        OptionsError: an option does not fit the network, the data or the machine.
        CheckpointError: weights cannot be read or do not fit: `path.pretrain_network_g`, or weights that a network or a
            loss loads by itself.
    """

    def __init__(self, opt: dict[str, Any]) -> None:
        self.ranks = Ranks(opt['rank'], opt['world_size'], opt['dist'])
        self.val_opt: dict[str, Any] = opt.get('val') or {}
        device = torch.device('cuda' if opt['num_gpu'] != 0 else 'cpu')
        self._kernels = choose_kernels(self.ranks, device)
        self.validator = Validator(opt, device, self.ranks)
        with checkpoints.translate_weight_errors():
            # Stock BasicSR keeps the best scores of the metrics in the options.
            super().__init__({**opt, 'val': {**self.val_opt, 'metrics': self.validator.metrics}})
        if not self.is_train:
            get_root_logger().info(f'Precision: {self.validator.precision}')
        if self.val_opt.get('streaming'):
            try:
                stages_of(self._net_to_restore())
            except TypeError as error:
                raise OptionsError(f'val:streaming is true, but: {error} Set it to false.') from None
        if self.val_opt.get('compile') and (not self.is_train or self.ema_decay > 0):
            _compile(self._net_to_restore())
        for dataset in self._validation_sets():
            self.validator.check(dataset)

    def model_to_device(self, net: nn.Module) -> nn.Module:
        """Move the network to the device and, for training, wrap it for several devices."""
        net = net.to(self.device)
        if not self.is_train or not self.opt['dist']:
            return net
        return DistributedDataParallel(
            net,
            device_ids=[torch.cuda.current_device()] if self.device.type == 'cuda' else None,
            find_unused_parameters=self.opt.get('find_unused_parameters', False),
        )

    @master_only
    def print_network(self, net: nn.Module) -> None:
        """Log name and size of the network in one line."""
        net = self.get_bare_model(net)
        count = sum(p.numel() for p in net.parameters())
        get_root_logger().info(f'Network {type(net).__name__}: {count:,} parameters')

    def load_network(
        self, net: nn.Module, load_path: str, strict: bool = True, param_key: str | None = 'params'
    ) -> None:
        """Load weights into a network; without `strict`, load those that fit and log the others.

        Args:
            net: the network.
            load_path: a file for `read_state_dict`.
            strict: refuse weights that do not fit completely.
            param_key: key of the weights in the file; 'params' is used if it is missing.

        Raises:
            CheckpointError: the file cannot be read, or its weights do not fit and `strict` is True.
        """
        net = self.get_bare_model(net)
        state_dict = read_state_dict(load_path, param_key, expected=net.state_dict())
        get_root_logger().info(f'Loading {type(net).__name__} from {load_path}.')
        try:
            net.load_state_dict(state_dict, strict=True)
        except RuntimeError as error:  # raised after PyTorch has loaded all weights that fit
            details = ' '.join(textwrap.shorten(line, 200) for line in str(error).splitlines()[1:4])
            problem = f'{load_path} does not fit {type(net).__name__}: {details}'
            if strict:
                raise CheckpointError(
                    f'{problem} Set network_g to the network of this file, choose another file, or set '
                    'path:strict_load_g=false to load the weights that fit.'
                ) from None
            get_root_logger().warning(f'{problem} The other weights were loaded.')

    def init_training_settings(self) -> None:
        """Create what only training needs: losses, averaged weights, optimiser and schedule."""
        train_opt = self.opt['train']
        net = self.get_bare_model(self.net_g).train()
        self.training = TrainingStep(self.net_g, train_opt, self.device, self.ranks)
        get_root_logger().info(
            f'Precision of training: {self.training.precision}, of validation: {self.validator.precision}'
        )
        self._rng = checkpoints.ResumableRng(int(self.opt.get('manual_seed') or 0), self.ranks.rank)
        self.ema_decay = float(train_opt.get('ema_decay') or 0)
        if self.ema_decay > 0:
            self.net_g_ema = deepcopy(net).eval().requires_grad_(False)
            # When a run is resumed, BasicSR sets this path to the run's own checkpoint.
            if load_path := self.opt['path'].get('pretrain_network_g'):
                strict = self.opt['path'].get('strict_load_g', True)
                self.load_network(self.net_g_ema, load_path, strict, 'params_ema')
        if train_opt.get('compile'):  # also used by validation, unless there are averaged weights
            _compile(net)
        self.setup_optimizers()
        self.setup_schedulers()

    def get_optimizer(self, optim_type: str, params: Any, lr: float, **kwargs: Any) -> torch.optim.Optimizer:
        """Create an optimiser of `torch.optim`, with its fused implementation if there is one for the device."""
        kind: Any = getattr(torch.optim, optim_type)
        if 'fused' in inspect.signature(kind).parameters and not {'fused', 'foreach'} & kwargs.keys():
            # One kernel for all parameters; on a CPU, too, it takes a third of the time.
            with suppress(RuntimeError):  # not available on this device
                fused: torch.optim.Optimizer = kind(params, lr=lr, fused=True, **kwargs)
                return fused
        optimizer: torch.optim.Optimizer = kind(params, lr=lr, **kwargs)
        return optimizer

    def feed_data(self, data: Mapping[str, Any]) -> None:
        """Set the batch: 'lq' (B, T, 3, H, W) and, with ground truth, 'gt' of the same shape."""
        for name in ('lq', 'gt'):
            if name in data:
                batch = data[name].to(self.device, non_blocking=True)
                if batch.is_cuda:
                    # Stock CUDAPrefetcher copies in its own stream, which could reuse this memory too early.
                    batch.record_stream(torch.cuda.current_stream())
                setattr(self, name, batch)

    def optimize_parameters(self, current_iter: int) -> None:
        """Make one step of the optimiser on the batch set by `feed_data`; see `TrainingStep.run`."""
        self._rng.before_step()
        self.training.run(self.lq, self.gt, self.optimizer_g, current_iter)
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
        """Return the losses of the latest step; see `TrainingStep.log`."""
        return self.training.log()

    def restore(self, lq: Tensor) -> Tensor:
        """Restore a clip; in training, with the averaged weights if there are any.

        Validation, testing and `test` all use this method: override it to restore differently. `val.streaming`
        restores frame by frame, with the same result and less memory; `val.self_ensemble` returns the mean of eight
        restorations, see `self_ensemble`.

        Args:
            lq: (B, T, 3, H, W), RGB in [0, 1], on any device.

        Returns:
            The restored clip: same shape, float32, on the model's device (with streaming: in main memory), not clamped.

        Raises:
            TrainingError: the memory is not sufficient.
        """
        lq = lq.cpu() if self.val_opt.get('streaming') else lq.to(self.device)
        return self_ensemble(self._restore_once, lq) if self.val_opt.get('self_ensemble') else self._restore_once(lq)

    def _restore_once(self, lq: Tensor) -> Tensor:
        net, precision = self._net_to_restore(), self.validator.precision
        was_training = net.training
        net.eval()
        try:
            with precision.step(), translate_oom(_OOM_ADVICE, TrainingError), torch.inference_mode():
                if self.val_opt.get('streaming'):
                    stream = Streamer(net, autocast=precision.autocast_dtype)(lq.unbind(1))
                    return torch.stack([frame.float().cpu() for frame in stream], dim=1)
                with precision.autocast():
                    return net(lq).float()
        finally:
            net.train(was_training)

    def _net_to_restore(self) -> Any:
        # Without its wrapper, which would wait for ranks that have no clip left.
        return self.net_g_ema if hasattr(self, 'net_g_ema') else self.get_bare_model(self.net_g)

    def test(self) -> None:
        """Restore the clip set by `feed_data`."""
        self.output = self.restore(self.lq)

    def save(self, epoch: int, current_iter: int) -> None:
        """Save the weights and then the training state, each atomically, so a state always has its weights.

        For iteration -1, save the weights as 'latest', without a state.

        Raises:
            TrainingError: a loss or the weights are not finite; nothing was saved.
            CheckpointError: a file cannot be written; earlier files are unchanged.
        """
        self.training.read_losses()
        for name, parameter in self.get_bare_model(self.net_g).named_parameters():
            if not torch.isfinite(parameter).all():
                raise TrainingError(
                    f'Training stopped: the weights {name} are not finite, so they were not saved. Continue from the '
                    'last checkpoint with --auto_resume and a lower train:optim_g:lr or train:grad_clip=0.1.'
                )
        super().save(epoch, current_iter)

    @master_only
    def save_network(
        self, net: nn.Module | list[nn.Module], net_label: str, current_iter: int, param_key: str | list[str] = 'params'
    ) -> None:
        """Save networks to one file, each under its key."""
        nets = net if isinstance(net, list) else [net]
        keys = param_key if isinstance(param_key, list) else [param_key]
        weights = {
            key: {name: value.cpu() for name, value in self.get_bare_model(net).state_dict().items()}
            for key, net in zip(keys, nets, strict=True)
        }
        label = 'latest' if current_iter == -1 else current_iter
        checkpoints.save_checkpoint(weights, Path(self.opt['path']['models'], f'{net_label}_{label}.pth'))

    def save_training_state(self, epoch: int, current_iter: int) -> None:
        """Save everything but the weights that a resumed run needs."""
        if current_iter == -1:
            return
        self._rng.at_checkpoint(current_iter)
        if self.ranks.rank != 0:
            return
        state = {
            'epoch': epoch,
            'iter': current_iter,
            'optimizers': [optimizer.state_dict() for optimizer in self.optimizers],
            'schedulers': [scheduler.state_dict() for scheduler in self.schedulers],
            'classes': self._classes(),
            'scaler': self.training.scaler.state_dict(),
            'precision': self.training.precision.name,
            'kernels': self._kernels,
            'seed': self._rng.seed,
        }
        checkpoints.save_checkpoint(state, Path(self.opt['path']['training_states'], f'{current_iter}.state'))

    def resume_training(self, resume_state: Mapping[str, Any]) -> None:
        """Continue from a training state of this class or of stock BasicSR, loaded to any device.

        Its weights were loaded when the model was created.

        Raises:
            CheckpointError: the state belongs to another network, optimiser or schedule, or is not a training state.
        """
        with checkpoints.translate_state_errors():
            classes = resume_state.get('classes', self._classes())
            if classes != self._classes():
                raise ValueError(f'it uses {", ".join(classes)}, the options {", ".join(self._classes())}')
            for optimizer, saved in zip(self.optimizers, resume_state['optimizers'], strict=True):
                checkpoints.resume_optimizer(optimizer, saved)
            for scheduler, saved in zip(self.schedulers, resume_state['schedulers'], strict=True):
                checkpoints.resume_scheduler(scheduler, saved)
            if self.training.scaler.is_enabled() and resume_state.get('scaler'):
                self.training.scaler.load_state_dict(resume_state['scaler'])
            self._rng.seed = int(resume_state.get('seed', self._rng.seed))
        precision = self.training.precision
        if (before := resume_state.get('precision', precision.name)) != precision.name:
            get_root_logger().warning(f'train:precision was {before}; the resumed run uses {precision}.')
        self._kernels = choose_kernels(self.ranks, self.device, resume_state.get('kernels'))
        if self.ranks.rank == 0:
            for iteration, dataset, means in self.validator.saved_scores(self._scores_folder, resume_state['iter']):
                self._update_best(dataset, means, iteration)
        self._run_missed_validation(resume_state['iter'])
        self._rng.at_checkpoint(resume_state['iter'])

    def _run_missed_validation(self, iteration: int) -> None:
        """Validate the iteration that the run resumes from, if it was stopped between saving and validating it."""
        freq = self.val_opt.get('val_freq')
        if not freq or iteration % freq or iteration >= self.opt['train'].get('total_iter', 0):
            return  # after the last iteration, BasicSR validates in any case
        for dataset in self._validation_sets():
            name = dataset.opt['name']
            if self.validator.metrics_for(as_clips(dataset).has_gt) and not self._is_validated(name, iteration):
                get_root_logger().info(f'{name}: running the missed validation of iteration {iteration}.')
                loader = SimpleNamespace(dataset=dataset)
                self.validation(loader, iteration, None, self.val_opt.get('save_img', False))

    def _validation_sets(self) -> list[Any]:
        datasets = self.opt.get('datasets', {}) if self.is_train and self.val_opt else {}
        return [build_dataset(opt) for phase, opt in datasets.items() if phase.split('_')[0] == 'val']

    def _is_validated(self, dataset: str, iteration: int) -> bool:
        return self.ranks.gather(self._summary(dataset, iteration).exists)[0]  # written by rank 0

    def _summary(self, dataset: str, iteration: int) -> Path:
        return self._scores_folder / f'{dataset}_{iteration}_summary.json'

    def _classes(self) -> list[str]:
        return [type(part).__name__ for part in (*self.optimizers, *self.schedulers)]

    def validation(self, dataloader: Any, current_iter: int | str, tb_logger: Any, save_img: bool = False) -> None:
        """Restore a data set, score it and its blurry input, save images and tables, and log the scores.

        `val.protocol` defines which frames count and how they are scored. Without ground truth, only metrics that need
        none are computed.

        Args:
            dataloader: only its `dataset` is used; see `as_clips` for the supported ones.
            current_iter: iteration; in stock's test the name of the run.
            tb_logger: TensorBoard's writer or None.
            save_img: save the restored frames under the names of the source.

        Raises:
            DataError: a clip cannot be loaded, scored or saved, or no frame counts.
            TrainingError: the memory is not sufficient.
        """
        dataset = dataloader.dataset
        name = dataset.opt['name']
        folder = Path(self.opt['path']['visualization'], name)
        iteration: int | None = None
        if self.is_train:
            self.training.read_losses()
            self.training.release_memory()
            total = int(self.opt['train'].get('total_iter', current_iter))
            # After the last iteration BasicSR validates once more, with a counter beyond the end.
            if int(current_iter) > total and self._is_validated(name, total):
                return
            iteration = min(int(current_iter), total)
            folder /= str(iteration)
            if self.ranks.rank == 0:  # remove that of an earlier attempt: it would mark this iteration as validated
                self._summary(name, iteration).unlink(missing_ok=True)
        book = self.validator.run(dataset, folder, self.restore, save_img)
        if book is None or self.ranks.rank != 0:
            return
        self.metric_results = book.mean('restored')
        if iteration is None:
            self.validator.report(book, dataset, Path(self.opt['path']['results_root']))
        else:
            self._update_best(name, self.metric_results, iteration)
            self.validator.report(book, dataset, self._scores_folder, iteration, self.best_metric_results[name])
        if tb_logger:
            for metric, value in self.metric_results.items():
                tb_logger.add_scalar(f'metrics/{name}/{metric}', value, current_iter)

    def _update_best(self, dataset: str, means: Mapping[str, float], iteration: int) -> None:
        self._initialize_best_metric_results(dataset)
        for metric, mean in means.items():
            self._update_best_metric_result(dataset, metric, mean, iteration)

    @property
    def _scores_folder(self) -> Path:
        return Path(self.opt['path']['experiments_root'], 'scores')


def _compile(net: Any) -> None:
    """Compile a network in place; of our networks, only the step of the propagation."""
    getattr(net, 'compile_steps', net.compile)()
