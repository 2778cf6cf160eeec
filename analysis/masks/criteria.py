"""How a weight is scored. Every score is (out, in), larger = keep, in float32 (float64 for float64 weights).

SparseGPT has no score of its own here: its mask and its weight update are one sweep (`masks/sparsegpt.py`).
"""

import torch
from torch import Tensor


def _working(weight: Tensor) -> Tensor:
    return weight.detach().to(torch.promote_types(weight.dtype, torch.float32))


def random_scores(shape: tuple[int, int], generator: torch.Generator) -> Tensor:
    """Uniform scores on the generator's device, so that one seed means one mask on every machine."""
    return torch.rand(shape, generator=generator, device=generator.device)


def magnitude_scores(weight: Tensor) -> Tensor:
    """|W|, weight (out, in)."""
    return _working(weight).abs()


def wanda_scores(weight: Tensor, diagonal: Tensor, tokens: int) -> Tensor:
    """|W_ij| * sqrt(mean over tokens of x_j^2) (Wanda, section 3).

    weight    (out, in)
    diagonal  (in,) sum of x_j^2 over `tokens` real tokens
    """
    scores = _working(weight).abs()
    return scores * (diagonal / tokens).sqrt().to(scores.dtype)


def ria_scores(weight: Tensor, diagonal: Tensor, tokens: int, exponent: float) -> Tensor:
    """(|W_ij| / sum of column j of |W| + |W_ij| / sum of row i of |W|) * (sqrt(mean over tokens of x_j^2))^exponent
    (RIA).

    weight    (out, in); a row or column of zeros scores 0
    diagonal  (in,) sum of x_j^2 over `tokens` real tokens
    exponent  RIA's alpha, 0.5 in its code
    """
    sizes = _working(weight).abs()
    tiny = torch.finfo(sizes.dtype).tiny
    share = sizes / sizes.sum(0).clamp(min=tiny) + sizes / sizes.sum(1, keepdim=True).clamp(min=tiny)
    return share * (diagonal / tokens).pow(exponent / 2).to(share.dtype)
