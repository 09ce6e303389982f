import cmath
import math

import pytest
import torch

from dstnet_arch.losses.frequency_loss import FrequencyLoss

SIZES = [(4, 6), (5, 7), (4, 5), (3, 4), (1, 1), (1, 6), (1, 5), (2, 1), (5, 1), (2, 2)]
FORMS = ['cho', 'modulus']


def planes(*shape, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.rand(shape, generator=generator, dtype=torch.float64).to(dtype) for _ in range(2))


def naive_spectrum(plane):
    """The transform by its definition: every pair of frequencies, every pixel."""
    height, width = len(plane), len(plane[0])
    return [
        [
            sum(
                plane[y][x] * cmath.exp(-2j * math.pi * (u * y / height + v * x / width))
                for y in range(height)
                for x in range(width)
            )
            for v in range(width)
        ]
        for u in range(height)
    ]


def naive_elements(pred, target, form):
    """All elements that the loss averages: transforms taken apart and subtracted afterwards."""
    elements = []
    for a, b in zip(pred.flatten(0, -3), target.flatten(0, -3), strict=True):
        width = a.shape[-1]
        for row_a, row_b in zip(naive_spectrum(a.tolist()), naive_spectrum(b.tolist()), strict=True):
            differences = [x - y for x, y in zip(row_a, row_b, strict=True)]
            if form == 'cho':
                elements += [abs(part) for z in differences for part in (z.real, z.imag)]
            else:
                elements += [abs(z) for z in differences[: width // 2 + 1]]
    return elements


@pytest.mark.parametrize('form', FORMS)
@pytest.mark.parametrize('size', SIZES)
def test_frequency_loss_equals_the_definition(form, size):
    pred, target = planes(2, 3, *size)
    elements = naive_elements(pred, target, form)
    assert (FrequencyLoss().loss_weight, FrequencyLoss().form) == (0.1, 'cho'), 'as in the paper'
    mean = FrequencyLoss(loss_weight=1.0, form=form)(pred, target)
    total = FrequencyLoss(loss_weight=0.3, reduction='sum', form=form)(pred, target)
    assert mean.item() == pytest.approx(math.fsum(elements) / len(elements), rel=1e-12)
    assert total.item() == pytest.approx(0.3 * math.fsum(elements), rel=1e-12)


@pytest.mark.parametrize('form', FORMS)
@pytest.mark.parametrize('reduction', ['mean', 'sum'])
@pytest.mark.parametrize('size', [(4, 6), (5, 3), (1, 4)])
def test_gradients(form, reduction, size):
    pred, target = planes(2, 3, *size, seed=1)
    pred.requires_grad_()
    target.requires_grad_()
    assert torch.autograd.gradcheck(FrequencyLoss(1.0, reduction, form), (pred, target), eps=1e-7, atol=1e-5)


@pytest.mark.parametrize('form', FORMS)
def test_gradient_of_equal_inputs_is_zero(form):
    pred = torch.full((1, 3, 6, 5), 0.5, requires_grad=True)
    loss = FrequencyLoss(form=form)(pred, pred.detach().clone())
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(pred.grad, torch.zeros_like(pred))


@pytest.mark.parametrize('form', FORMS)
@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16, torch.float32])
def test_float32_inside_autocast(form, dtype):
    pred, target = planes(1, 2, 3, 32, 32, dtype=dtype)
    pred.requires_grad_()
    expected = FrequencyLoss(form=form)(pred.double(), target.double()).item()
    with torch.autocast('cpu', dtype=torch.bfloat16):
        # The network's output is half precision there, the target stays float32.
        loss = FrequencyLoss(form=form)(pred, target.float())
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    loss.backward()
    assert pred.grad.dtype == dtype
    assert pred.grad.isfinite().all()


def test_half_precision_does_not_overflow():
    pred = torch.ones(1, 1, 300, 300, dtype=torch.float16)
    loss = FrequencyLoss(loss_weight=1.0, reduction='sum', form='modulus')(pred, torch.zeros_like(pred))
    assert loss.item() == pytest.approx(300 * 300, rel=1e-5)  # above float16's 65504


@pytest.mark.parametrize(
    ('arguments', 'given', 'choices'),
    [
        ({'form': 'l1'}, "'l1'", 'cho, modulus'),
        ({'reduction': 'none'}, "'none'", 'mean, sum'),
        ({'reduction': None}, 'None', 'mean, sum'),
    ],
)
def test_frequency_loss_refuses_unknown_choices(arguments, given, choices):
    with pytest.raises(ValueError, match=f'{given}.* {choices}'):
        FrequencyLoss(**arguments)


@pytest.mark.parametrize('size', [(1, 3, 4, 5), (3, 4, 4)])
def test_frequency_loss_refuses_different_shapes(size):
    with pytest.raises(ValueError, match=r'\(1, 3, 4, 4\), target .*equal'):
        FrequencyLoss()(torch.zeros(1, 3, 4, 4), torch.zeros(size))
