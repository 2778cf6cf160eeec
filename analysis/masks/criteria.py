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
