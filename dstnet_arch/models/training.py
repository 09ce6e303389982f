"""One training step: losses, gradients and the update of the weights."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

import torch
from basicsr.losses import build_loss
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from dstnet_arch.archs.video_net import VideoNet
from dstnet_arch.errors import OptionsError, TrainingError
from dstnet_arch.memory_errors import translate_oom
from dstnet_arch.models.distributed import Ranks, translate_dist_errors
from dstnet_arch.nonfinite import NonFiniteWatch
from dstnet_arch.ops.cuda_graph import GraphedBackward
from dstnet_arch.precision import resolve_precision

_LOSSES = {'l_pix': 'pixel_opt', 'l_freq': 'frequency_opt'}
_MINIMUM_LOSS_SCALE = 1e-6
_OOM_ADVICE = 'Try train:accum_iter=2 or more, train:gradient_checkpointing=true or train:precision=bf16.'


class TrainingStep:
    """Run training steps as the `train` section of the options defines them.

    Losses on a GPU are copied in the background and checked one iteration late, so neither host nor device waits for
    the other. Losses on a CPU are checked at once.

    Attributes:
        precision: precision of forward and backward pass.
        scaler: scales the loss for fp16; disabled for other precisions.
        criteria: losses by their names in the log.
        perceptual: stock BasicSR's perceptual loss, or None.

    Args:
        net: the network, possibly wrapped for several devices.
        train_opt: the options.
        device: the device of the network.
        ranks: all processes of the run.

    Raises:
        OptionsError: an option does not fit the network or the device.
    """

    def __init__(self, net: nn.Module, train_opt: Mapping[str, Any], device: torch.device, ranks: Ranks) -> None:
        self._net = net
        self._bare_net = net.module if isinstance(net, DistributedDataParallel) else net
        self._ranks = ranks
        precision = train_opt.get('precision') or train_opt.get('amp')
        self.precision = resolve_precision(precision, device, option='train:precision')
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.precision.name == 'fp16')
        self._accum_iter = int(train_opt.get('accum_iter') or 1)
        self._grad_clip = float(train_opt.get('grad_clip') or 0)
        self._find_nonfinite = bool(train_opt.get('find_nonfinite'))
        # Of the latest step: its number, the names and values of the losses, and the event after which they are valid.
        self._losses: tuple[int, list[str], Tensor, torch.cuda.Event | None] | None = None
        if train_opt.get('gradient_checkpointing'):
            if not hasattr(self._bare_net, 'gradient_checkpointing'):
                raise OptionsError(
                    f'train:gradient_checkpointing is true, but {type(self._bare_net).__name__} does not support it. '
                    'Set it to false; a larger train:accum_iter saves memory, too.'
                )
            self._bare_net.gradient_checkpointing = True
        self.criteria: dict[str, Any] = {
            name: build_loss(train_opt[key]).to(device) for name, key in _LOSSES.items() if train_opt.get(key)
        }
        perceptual_opt = train_opt.get('perceptual_opt')
        self.perceptual = build_loss(perceptual_opt).to(device) if perceptual_opt else None
        self._graphed: GraphedBackward | None = None
        # Not for other networks: a graph repeats what Python decided once, for example at random. And not for several
        # devices: they exchange gradients during the backward pass.
        is_suitable = isinstance(net, VideoNet) and device.type == 'cuda' and not self._find_nonfinite
        if is_suitable and train_opt.get('cuda_graph', True):
            self._graphed = GraphedBackward(self._backward, net.parameters())

    def run(self, lq: Tensor, gt: Tensor, optimizer: Optimizer, iteration: int) -> None:
        """Update the weights once.

        Args:
            lq: blurry clips, (B, T, 3, H, W), RGB in [0, 1]; `accum_iter` divides B.
            gt: sharp clips, same shape.
            optimizer: the optimiser of the network.
            iteration: number of the step, for messages.

        Raises:
            OptionsError: the network changes the shape.
            TrainingError: a loss is not finite, the memory is not sufficient, or another rank has ended.
        """
        with self.precision.step(), translate_oom(_OOM_ADVICE, TrainingError), translate_dist_errors():
            optimizer.zero_grad(set_to_none=True)
            if self._find_nonfinite:
                losses = self._backward_watched(lq, gt, iteration)
            else:
                losses = (self._graphed or self._backward)(lq, gt)
            self._check_losses(losses, iteration)
            if self._grad_clip > 0:
                self.scaler.unscale_(optimizer)
                nn.utils.clip_grad_norm_(self._net.parameters(), self._grad_clip)
            self.scaler.step(optimizer)
            self.scaler.update()

    def release_memory(self) -> None:
        """Free memory that is only kept for speed, before other work on the device."""
        if self._graphed is not None:
            self._graphed.release()

    def _backward(self, lq: Tensor, gt: Tensor) -> dict[str, Tensor]:
        """Accumulate the gradients of the mean loss over the parts of the batch; return the mean of each loss."""
        parts = list(zip(lq.chunk(self._accum_iter), gt.chunk(self._accum_iter), strict=True))
        means: dict[str, Tensor] = {}
        for i, part in enumerate(parts):
            # Ranks exchange gradients in the backward pass of the last part only.
            accumulates = i < len(parts) - 1 and isinstance(self._net, DistributedDataParallel)
            with self._net.no_sync() if accumulates else nullcontext():  # type: ignore[operator]
                losses = {name: loss / len(parts) for name, loss in self._compute_losses(*part).items()}
                self.scaler.scale(torch.stack(list(losses.values())).sum()).backward()
            means = {name: means.get(name, 0) + loss.detach() for name, loss in losses.items()}
        return means

    def _backward_watched(self, lq: Tensor, gt: Tensor, iteration: int) -> dict[str, Tensor]:
        """Run `_backward` and stop all ranks if one of them finds a non-finite value."""
        watch = NonFiniteWatch()
        watch.check('the sharp frames', gt)
        with watch.network(self._bare_net):
            losses = self._backward(lq, gt)
        if not self.scaler.is_enabled():  # with fp16, gradients may overflow: the scaler skips the step
            for name, parameter in reversed(list(self._bare_net.named_parameters())):
                watch.check(f'the gradient of {name}', parameter.grad)
        for finding in self._ranks.gather(lambda: watch.finding):
            if finding:
                raise TrainingError(
                    f'Training stopped at iteration {iteration}. The first non-finite value: {finding}. Frames: check '
                    'them with `python -m data_prep verify PATH`; float16: use train:precision=bf16; else try a lower '
                    'train:optim_g:lr or train:grad_clip=0.1. Continue with --auto_resume.'
                )
        return losses

    def _compute_losses(self, lq: Tensor, gt: Tensor) -> dict[str, Tensor]:
        with self.precision.autocast():
            output = self._net(lq)
        if output.shape != gt.shape:
            raise OptionsError(
                f'{type(self._bare_net).__name__} maps {tuple(lq.shape)} to {tuple(output.shape)}, but the sharp '
                f'frames are {tuple(gt.shape)}. Choose a network_g that keeps the shape.'
            )
        output, gt = output.float(), gt.float()
        losses = {name: criterion(output, gt) for name, criterion in self.criteria.items()}
        if self.perceptual is not None:  # it expects images, not clips
            perceptual, style = self.perceptual(output.flatten(0, 1), gt.flatten(0, 1))
            losses |= {name: x for name, x in (('l_percep', perceptual), ('l_style', style)) if x is not None}
        return losses

    def _check_losses(self, losses: Mapping[str, Tensor], iteration: int) -> None:
        """Average losses over the ranks and check those of this iteration (CPU) or the previous one (GPU)."""
        values = torch.stack(list(losses.values()))
        if self._ranks.distributed:  # if a loss is not finite on one rank, all must stop
            dist.all_reduce(values)
            values /= self._ranks.world_size
        host = values.to('cpu', non_blocking=True)
        copied = torch.cuda.current_stream().record_event() if values.is_cuda else None
        if copied is not None:
            self.read_losses()
        self._losses = iteration, list(losses), host, copied
        if copied is None:
            self.read_losses()

    def read_losses(self) -> dict[str, float]:
        """Return the losses of the latest step, averaged over its batch and the ranks; empty before the first.

        Raises:
            TrainingError: one of them is not finite.
        """
        if self._losses is None:
            return {}
        iteration, names, values, copied = self._losses
        if copied is not None:
            copied.synchronize()
        losses = dict(zip(names, values.tolist(), strict=True))
        if bad := [f'{name} is {value}' for name, value in losses.items() if not math.isfinite(value)]:
            raise TrainingError(
                f'Training stopped at iteration {iteration}: {", ".join(bad)}. The checkpoints before it are '
                'valid. Set train:find_nonfinite=true to find the layer, try a lower train:optim_g:lr, '
                'train:grad_clip=0.1 or train:precision=fp32, and check the data with `python -m data_prep verify '
                'PATH`. Continue with --auto_resume.'
            )
        return losses

    def log(self) -> dict[str, float]:
        """Return `read_losses` for the log.

        Raises:
            TrainingError: a loss is not finite, or fp16 overflows at every loss scale.
        """
        if self.scaler.is_enabled() and self.scaler.get_scale() < _MINIMUM_LOSS_SCALE:
            raise TrainingError(
                f'The loss scale of fp16 has fallen to {self.scaler.get_scale():.1e}: gradients overflow at every '
                'step, so nothing is learnt. Continue from the last checkpoint with train:precision=bf16 or fp32.'
            )
        return self.read_losses()
