"""What training minimises: local losses compare a unit's output with the dense unit's, global ones look at a model's
logits.

All share one face, `loss(output, target, mask)`: mask (B, T) bool, True = real token (None: all are real), and the mean
runs over real tokens alone, so padding changes nothing. Differentiable in `output`; the result is a scalar in its
precision.
"""

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity, cross_entropy, kl_div, log_softmax


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
    counts = None if mask is None else predicted(mask)
    guesses, answers = _real(logits[:, :-1], counts), _real(ids[:, 1:], counts)
    return cross_entropy(guesses.flatten(0, -2), answers.flatten(), reduction="sum") / max(answers.numel(), 1)


def distill(logits: Tensor, dense: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean over real tokens of KL(dense || pruned) of the next-token distributions, in nats; both logits (B, T, V)."""
    pruned, reference = (log_softmax(_real(x, mask), dim=-1) for x in (logits, dense))
    return kl_div(pruned, reference, reduction="sum", log_target=True) / pruned[..., 0].numel()


LOSSES = {"mse": mse, "relative": relative, "cosine": cosine, "ce": ce, "distill": distill}


def predicted(mask: Tensor) -> Tensor:
    """(B, T) -> (B, T - 1): where a token and the one before it are both real."""
    return mask[:, 1:] & mask[:, :-1]


def counted(loss: str, mask: Tensor) -> int:
    """How many tokens the mean of a loss runs over."""
    return int((predicted(mask) if loss == "ce" else mask).sum())


def _real(x: Tensor, mask: Tensor | None) -> Tensor:
    """(B, T, ...) -> (tokens, ...), the real ones; without a mask x as it is."""
    return x if mask is None else x[mask]
