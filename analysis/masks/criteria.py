"""How a weight is scored. Every score is (out, in), larger = keep, in float32 (float64 for float64 weights).

A function of `SCORES` takes weight (out, in), the statistics of its input (None where the criterion looks at none), a
generator and, by name, the options of its word (`recipe/words.py`). SparseGPT's mask and weight update are one sweep
(`masks/sparsegpt.py`, in `SWEEPS`); the scores it has here serve what asks a criterion for scores.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from analysis.errors import NumericalError
from analysis.masks.sparsegpt import Swept, sparsegpt
from analysis.streams.moments import Statistics


def _working(weight: Tensor) -> Tensor:
    return weight.detach().to(torch.promote_types(weight.dtype, torch.float32))


def random_scores(weight: Tensor, statistics: Statistics | None, generator: torch.Generator) -> Tensor:
    """Uniform scores, drawn on the generator's device, so that one seed means one mask on every machine."""
    return torch.rand(weight.shape, generator=generator, device=generator.device).to(weight.device)


def magnitude_scores(
    weight: Tensor, statistics: Statistics | None = None, generator: torch.Generator | None = None
) -> Tensor:
    """|W|."""
    return _working(weight).abs()


def wanda_scores(weight: Tensor, statistics: Statistics, generator: torch.Generator | None = None) -> Tensor:
    """|W_ij| * sqrt(mean over tokens of x_j^2) (Wanda, section 3)."""
    scores = _working(weight).abs()
    return scores * (statistics.diagonal / statistics.tokens).sqrt().to(scores.dtype)


def ria_scores(
    weight: Tensor, statistics: Statistics, generator: torch.Generator | None = None, *, exponent: float
) -> Tensor:
    """(|W_ij| / sum of column j of |W| + |W_ij| / sum of row i of |W|) * (sqrt(mean over tokens of x_j^2))^exponent
    (RIA).

    A row or column of zeros scores 0. exponent: RIA's alpha, 0.5 in its code. Raises NumericalError where a norm to
    that power is beyond float32.
    """
    sizes = _working(weight).abs()
    tiny = torch.finfo(sizes.dtype).tiny
    share = sizes / sizes.sum(0).clamp(min=tiny) + sizes / sizes.sum(1, keepdim=True).clamp(min=tiny)
    squares = statistics.diagonal / statistics.tokens
    norms = squares.pow(exponent / 2).to(share.dtype)
    if not bool(norms.isfinite().all()) or bool(((norms == 0) & (squares > 0)).any()):
        least, most = (float(part) for part in squares[squares > 0].sqrt().aminmax())
        raise NumericalError(
            f"exponent={exponent:g} takes the norms of the inputs, from {least:.3g} to {most:.3g}, beyond"
            f" {str(norms.dtype).removeprefix('torch.')}; give a smaller exponent"
        )
    return share * norms


def sparsegpt_scores(
    weight: Tensor, statistics: Statistics, generator: torch.Generator | None = None, **options: object
) -> Tensor:
    """Wanda's, for refinements: the sweep scores each weight when its turn comes, and keeps no score."""
    return wanda_scores(weight, statistics)


SCORES: dict[str, Callable[..., Tensor]] = {
    "random": random_scores,
    "magnitude": magnitude_scores,
    "wanda": wanda_scores,
    "sparsegpt": sparsegpt_scores,
    "ria": ria_scores,
}
"""The scores of every criterion of single weights, by its word."""

SWEEPS: dict[str, Callable[..., Swept]] = {"sparsegpt": sparsegpt}
"""Criteria that choose the mask and update the weights in one sweep: functions of `sparsegpt`'s signature, which take
the mask too where it was refined."""
