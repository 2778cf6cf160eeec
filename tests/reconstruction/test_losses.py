"""Each loss against its formula, token by token in float64; padding, zero targets, gradients."""

import math
from types import SimpleNamespace

import pytest
import torch

from analysis.reconstruction.losses import LOSSES, ce, cosine, counted, distill, hidden_states, mse, relative

LOCAL = ("mse", "relative", "cosine")


def case(loss: str, padded: bool, seed: int = 0):
    """Output (3, 5, 7) float64, targets for the loss, and a mask: right padding, one window of a single real token."""
    generator = torch.Generator().manual_seed(seed)
    output, target = torch.randn(2, 3, 5, 7, dtype=torch.float64, generator=generator)
    if loss == "ce":
        target = torch.randint(7, (3, 5), generator=generator)
    mask = torch.arange(5) < torch.tensor([[3], [5], [1]])
    return output, target, mask if padded else None


def formula(loss: str, output, target, mask) -> float:
    """The mean over real tokens, in plain Python."""
    mask = torch.ones(output.shape[:2], dtype=torch.bool) if mask is None else mask
    terms = []
    for window in range(output.shape[0]):
        for token in range(output.shape[1]):
            if not mask[window, token]:
                continue
            y, t = output[window, token].tolist(), target[window, token].tolist()
            if loss == "mse":
                terms += [(a - b) ** 2 for a, b in zip(y, t, strict=True)]
            elif loss == "relative":
                terms.append(sum((a - b) ** 2 for a, b in zip(y, t, strict=True)) / sum(b * b for b in t))
            elif loss == "cosine":
                terms.append(1 - sum(a * b for a, b in zip(y, t, strict=True)) / (math.hypot(*y) * math.hypot(*t)))
            elif loss == "ce" and token + 1 < output.shape[1] and mask[window, token + 1]:
                terms.append(math.log(sum(map(math.exp, y))) - y[int(target[window, token + 1])])
            elif loss == "distill":
                ours, theirs = ([math.exp(a) / sum(map(math.exp, x)) for a in x] for x in (y, t))
                terms.append(sum(q * math.log(q / p) for p, q in zip(ours, theirs, strict=True)))
    return sum(terms) / len(terms)


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("loss", LOSSES)
def test_value_and_gradient(loss, padded):
    output, target, mask = case(loss, padded)
    assert float(LOSSES[loss](output, target, mask)) == pytest.approx(formula(loss, output, target, mask), rel=1e-12)
    assert torch.autograd.gradcheck(lambda y: LOSSES[loss](y, target, mask), output.requires_grad_(True))


@pytest.mark.parametrize("loss", LOSSES)
def test_what_stands_on_padding_changes_nothing(loss):
    output, target, mask = case(loss, True)
    spoilt, other = output.clone(), target.clone()
    spoilt[~mask] = math.nan
    other[~mask] = 6 if loss == "ce" else math.inf
    spoilt.requires_grad_(True)
    value = LOSSES[loss](spoilt, other, mask)
    value.backward()
    assert torch.equal(value.detach(), LOSSES[loss](output, target, mask))
    assert bool((spoilt.grad[~mask] == 0).all()) and bool(torch.isfinite(spoilt.grad).all())
    if loss != "ce":  # there each window's last token predicts nothing
        assert bool((spoilt.grad[mask] != 0).all())


@pytest.mark.parametrize("loss", LOSSES)
def test_a_mask_of_real_tokens_only_is_no_mask(loss):
    output, target, _ = case(loss, False)
    masked = LOSSES[loss](output, target, torch.ones(3, 5, dtype=torch.bool))
    torch.testing.assert_close(masked, LOSSES[loss](output, target), rtol=1e-14, atol=0)


def test_relative_leaves_out_tokens_whose_target_is_zero():
    output, target, _ = case("relative", False)
    others = torch.ones(3, 5, dtype=torch.bool)
    target[1, 2], target[0, 0] = 0, 1e-170  # the square of the second is below the smallest normal number
    others[1, 2] = others[0, 0] = False
    output.requires_grad_(True)
    value = relative(output, target)
    assert value.item() == pytest.approx(formula("relative", output, target, others), rel=1e-12)
    value.backward()
    assert bool((output.grad[~others] == 0).all()) and bool((output.grad[others] != 0).all())
    nothing = relative(output, torch.zeros_like(target))
    nothing.backward()
    assert nothing.item() == 0 and bool(torch.isfinite(output.grad).all())


def test_relative_weighs_tokens_alike_and_cosine_ignores_length():
    _, target, _ = case("mse", False)
    target[0, 0] *= 1e4
    assert float(relative(1.1 * target, target)) == pytest.approx(0.01)
    assert float(cosine(1.1 * target, target)) == pytest.approx(0, abs=1e-15) and float(
        cosine(-target, target)
    ) == pytest.approx(2)
    assert float(mse(1.1 * target, target)) > 1000


def test_cosine_of_a_zero_target_is_zero_and_finite():
    output, target, _ = case("cosine", False)
    output.requires_grad_(True)
    value = cosine(output, torch.zeros_like(target))
    value.backward()
    assert value.item() == 1 and bool(torch.isfinite(output.grad).all())


def test_distill_is_zero_with_zero_gradient_at_the_dense_model():
    output, _, mask = case("distill", True)
    output.requires_grad_(True)
    value = distill(output, output.detach().clone(), mask)
    value.backward()
    assert value.item() == 0 and float(output.grad.abs().max()) < 1e-16


def test_ce_predicts_nothing_after_padding_or_in_single_tokens():
    output, ids, _ = case("ce", False)
    left = torch.arange(5) >= torch.tensor([[2], [0], [4]])
    assert float(ce(output, ids, left)) == pytest.approx(formula("ce", output, ids, left), rel=1e-12)
    alone = torch.arange(5) < torch.tensor([[1], [1], [1]])
    assert float(ce(output, ids, alone)) == 0 and counted("ce", alone) == 0


def test_counted_is_what_the_mean_runs_over():
    mask = torch.arange(5) < torch.tensor([[3], [5], [1]])
    assert counted("ce", mask) == 2 + 4 + 0
    assert [counted(loss, mask) for loss in (*LOCAL, "distill")] == [9] * 4


@pytest.mark.parametrize("portion", [100, 2])  # all logits at once, or few at a time
@pytest.mark.parametrize("padded", [False, True])
def test_hidden_states_are_its_formula_over_the_tokens_that_predict(padded, portion):
    output, dense, mask = case("mse", padded)
    ids = torch.randint(7, (3, 5), generator=torch.Generator().manual_seed(1))
    matrix = torch.randn(7, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    head = SimpleNamespace(portion=portion, logits=lambda hidden: hidden @ matrix)
    real = torch.ones(3, 5, dtype=torch.bool) if mask is None else mask
    ahead = torch.zeros_like(real)
    ahead[:, :-1] = real[:, 1:]
    apart = formula("mse", output, dense, real & ahead)
    nats = formula("ce", output @ matrix, ids, mask)
    value = lambda mix, y=output: hidden_states(y, dense, ids, mask, head, mix)
    assert float(value(0.3)) == pytest.approx(0.3 * apart + 0.7 * nats, rel=1e-12)
    assert counted("hidden", real) == counted("ce", real)
    assert hidden_states(output, dense, ids, torch.eye(3, 5, dtype=torch.bool), head, 0.3) == 0  # nothing to predict
    assert torch.autograd.gradcheck(lambda y: value(0.3, y), output.clone().requires_grad_(True))
    head.logits = None  # the states alone need no logits
    assert float(value(1.0)) == pytest.approx(apart, rel=1e-12)
