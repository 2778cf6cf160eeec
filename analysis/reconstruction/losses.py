"""What training minimises: local losses compare a unit's output with the dense unit's, global ones look at a model's
logits.

All share one face, `loss(output, target, mask)`: mask (B, T) bool, True = real token (None: all are real), and the mean
runs over real tokens alone, so padding changes nothing. Differentiable in `output`; the result is a scalar in its
precision.
"""

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity, cross_entropy, kl_div, log_softmax
from torch.utils.checkpoint import checkpoint

from analysis.models.logits import SplitModel


def mse(output: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean of (y - t)^2 over hidden units and real tokens; output, target (B, T, H) (2406.15524 section 2)."""
    return _real(output - target, mask).square().mean()


def relative(output: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean over real tokens of |y - t|^2 / |t|^2, norms over hidden units: a few tokens of huge norm do not outweigh
    the rest.

    Zero-target rule: tokens with |t|^2 below the smallest normal number of the precision are left out of the mean.
    """
    size = _real(target, mask).square().sum(-1)
    counts = size >= torch.finfo(size.dtype).tiny
    weight = torch.where(counts, 1 / size, 0) / counts.sum().clamp(min=1)
    return (_real(output - target, mask).square().sum(-1) * weight).sum()


def cosine(output: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean over real tokens of 1 - cos(y, t) over hidden units, blind to length (code of 2510.14444, which leaves out
    the 1).

    Norms below 1e-8 count as 1e-8, so a zero target's cosine is 0.
    """
    return 1 - cosine_similarity(_real(output, mask), _real(target, mask), dim=-1).mean()


def ce(logits: Tensor, ids: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean negative log-likelihood, in nats, of the predicted tokens; logits (B, T, V), ids (B, T).

    A token is predicted where it and the one before are real, as in `measure.perplexity`.
    """
    guesses, answers = _pairs(logits, ids, mask)
    return _nats(guesses.flatten(0, -2), answers.flatten()) / max(answers.numel(), 1)


def distill(logits: Tensor, dense: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean over real tokens of KL(dense || pruned) of the next-token distributions, in nats; both logits (B, T, V)."""
    pruned, reference = _real(logits, mask), _real(dense, mask)
    return _divergence(pruned, reference) / pruned[..., 0].numel()


def over_vocabulary(
    loss: str,
    hidden: Tensor,
    target: Tensor,
    mask: Tensor | None,
    head: SplitModel,
    dense_head: SplitModel | None = None,
) -> Tensor:
    """The loss "ce" or "distill" from what the model's head reads, hidden (B, T, H); target: ids (B, T), or what the
    dense model's head reads (B, T, H').

    Where the logits of all tokens are more than may be held at once, they are made portion by portion, and made again
    in the backward pass: nothing of a portion is kept. Equal to the loss of all logits up to rounding.
    """

    def dense_logits(target: Tensor) -> Tensor:
        assert dense_head is not None, "distillation follows the dense model's logits"
        with torch.no_grad():
            dtype = next(dense_head.model.parameters()).dtype
            return dense_head.logits(target.to(dtype)).float()

    def part(hidden: Tensor, target: Tensor) -> Tensor:
        logits = head.logits(hidden[None])[0]
        return _nats(logits, target) if loss == "ce" else _divergence(logits, dense_logits(target[None])[0])

    if hidden.shape[0] * hidden.shape[1] <= head.portion:
        return LOSSES[loss](head.logits(hidden), target if loss == "ce" else dense_logits(target), mask)
    read, wanted = _pairs(hidden, target, mask) if loss == "ce" else (_real(hidden, mask), _real(target, mask))
    parts = zip(
        read.flatten(0, -2).split(head.portion),
        (wanted.flatten() if loss == "ce" else wanted.flatten(0, -2)).split(head.portion),
        strict=True,
    )
    sums = [checkpoint(part, *pair, use_reentrant=False, preserve_rng_state=False) for pair in parts]
    return torch.stack(sums).sum() / max(read[..., 0].numel(), 1)


def hidden_states(
    hidden: Tensor, dense: Tensor, ids: Tensor, mask: Tensor | None, head: SplitModel, mix: float
) -> Tensor:
    """The loss "hidden": mix * mean of (h - d)^2 + (1 - mix) * nats per token, from what the model's head reads, hidden
    (B, T, H), what the dense model's head reads, dense (B, T, H), and ids (B, T). Both means run over the tokens that
    have a next one to predict (recovery by last hidden states of 2507.20749).
    """
    difference = _real(hidden[:, :-1] - dense[:, :-1], None if mask is None else predicted(mask))
    apart = difference.square().sum() / max(difference.numel(), 1)
    return apart if mix == 1 else mix * apart + (1 - mix) * over_vocabulary("ce", hidden, ids, mask, head)


LOSSES = {"mse": mse, "relative": relative, "cosine": cosine, "ce": ce, "distill": distill}


def predicted(mask: Tensor) -> Tensor:
    """(B, T) -> (B, T - 1): where a token and the one before it are both real."""
    return mask[:, 1:] & mask[:, :-1]


def counted(loss: str, mask: Tensor) -> int:
    """How many tokens the mean of a loss runs over."""
    return int((predicted(mask) if loss in ("ce", "hidden") else mask).sum())


def weight(loss: str, target: Tensor, mask: Tensor) -> int:
    """How many tokens the mean of a loss weighs: those it runs over, but for targets that `relative` leaves out."""
    if loss != "relative":
        return counted(loss, mask)
    size = target[mask.to(target.device)].square().sum(-1)
    return int((size >= torch.finfo(size.dtype).tiny).sum())


def _pairs(x: Tensor, ids: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """What stands at every token that has a next one to predict, and that next one."""
    counts = None if mask is None else predicted(mask)
    return _real(x[:, :-1], counts), _real(ids[:, 1:], counts)


def _nats(logits: Tensor, ids: Tensor) -> Tensor:
    return cross_entropy(logits, ids, reduction="sum")


def _divergence(logits: Tensor, dense: Tensor) -> Tensor:
    pruned, reference = (log_softmax(x, dim=-1) for x in (logits, dense))
    return kl_div(pruned, reference, reduction="sum", log_target=True)


def _real(x: Tensor, mask: Tensor | None) -> Tensor:
    """(B, T, ...) -> (tokens, ...), the real ones; without a mask x as it is."""
    return x if mask is None else x[mask]
