"""The frequency loss of DSTNet's training: a distance between spectra."""

from __future__ import annotations

import torch
from torch import Tensor, nn

FORMS = ('cho', 'modulus')
REDUCTIONS = ('mean', 'sum')


class FrequencyLoss(nn.Module):
    r"""Distance between the 2-D Fourier transforms of a prediction and its target.

    With the un-normalised transform over the last two dimensions, for one plane of H x W pixels,

    .. math:: D[u, v] = \sum_{y=0}^{H-1} \sum_{x=0}^{W-1} (pred - target)[y, x]
                        \exp(-2 \pi i \, (u y / H + v x / W))

    the loss for `reduction='mean'` is:

    - `form='cho'`: the mean of ``|Re D[u, v]|`` and ``|Im D[u, v]|`` over all planes and the full spectrum
      (u < H, v < W), with real and imaginary parts as separate elements: ``sum(|Re D| + |Im D|) / (2 H W)`` for one
      plane. Source: Cho et al., MIMO-UNet, ICCV 2021; the paper uses "the same loss function".
    - `form='modulus'`: the mean of ``sqrt(Re D^2 + Im D^2)`` over all planes and the half spectrum of `rfft2`
      (u < H, v <= W // 2). Source: the released code of DSTNet.

    `reduction='sum'` is the sum of the same elements. The gradient of an element that is zero is zero.

    Args:
        loss_weight: factor of the loss; 0.1 in the paper's training, next to a Charbonnier loss of weight 1.
        reduction: 'mean' or 'sum'. 'none' is not supported, because the elements are frequencies, not pixels.
        form: 'cho' or 'modulus'.

    Raises:
        ValueError: unknown `reduction` or `form`.
    """

    def __init__(self, loss_weight: float = 0.1, reduction: str = 'mean', form: str = 'cho') -> None:
        super().__init__()
        for name, value, allowed in (('form', form, FORMS), ('reduction', reduction, REDUCTIONS)):
            if value not in allowed:
                raise ValueError(f'FrequencyLoss: {name} is {value!r}; allowed: {", ".join(allowed)}')
        self.loss_weight = loss_weight
        self.reduction = reduction
        self.form = form

    def forward(self, pred: Tensor, target: Tensor) -> Tensor:
        """Return the weighted loss, a scalar: float64 if an input is float64, else float32, also under autocast.

        Args:
            pred: (..., H, W), floating point, e.g. (B, T, C, H, W); images in [0, 1].
            target: the same shape.

        Raises:
            ValueError: the shapes differ.
        """
        if pred.shape != target.shape:
            raise ValueError(
                f'FrequencyLoss: pred has shape {tuple(pred.shape)}, target {tuple(target.shape)}; they must be equal'
            )
        # Half precision has neither the range nor the digits for sums over a full plane.
        dtype = torch.float64 if torch.float64 in (pred.dtype, target.dtype) else torch.float32
        with torch.autocast(pred.device.type, enabled=False):
            # The transform is linear, so one transform of the difference is enough.
            spectrum = torch.fft.rfft2(pred.to(dtype) - target.to(dtype))
            if self.form == 'modulus':
                total, count = spectrum.abs().sum(), spectrum.numel()
            else:
                total, count = _cho_sum(spectrum, pred.shape[-1]), 2 * pred.numel()
            return self.loss_weight * (total / count if self.reduction == 'mean' else total)


def _cho_sum(spectrum: Tensor, width: int) -> Tensor:
    """Return the sum of the elements of `form='cho'` over the full spectrum, from the half spectrum of `rfft2`.

    The spectrum of a real plane is Hermitian, D[-u, -v] = conj(D[u, v]): the columns that `rfft2` omits have the same
    absolute values as columns 1, 2, ..., which therefore count twice. Column 0 and, for even widths, the last column
    (the Nyquist frequency) count once.
    """
    per_column = torch.view_as_real(spectrum).abs().sum(-1).flatten(end_dim=-2).sum(0)
    weights = torch.full_like(per_column, 2)
    weights[:1].fill_(1)
    if width % 2 == 0:
        weights[-1:].fill_(1)
    return (per_column * weights).sum()
