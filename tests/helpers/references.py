"""Slow float64 definitions that the masks are compared with, and made-up inputs for them."""

import torch
from torch import Tensor

from analysis.streams.moments import Statistics


def correlated(tokens: int, width: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """Inputs (tokens, width) whose features are correlated and differ in size."""
    generator = torch.Generator().manual_seed(seed)
    mixing = (
        torch.eye(width, dtype=dtype) + 0.5 * torch.randn(width, width, generator=generator, dtype=dtype) / width**0.5
    )
    sizes = torch.rand(width, generator=generator, dtype=dtype) + 0.2
    return torch.randn(tokens, width, generator=generator, dtype=dtype) @ mixing * sizes


def normal(shape: tuple[int, int], seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def statistics_of(inputs: Tensor) -> Statistics:
    """Statistics of inputs (tokens, width), by definition."""
    gram = inputs.T @ inputs
    return Statistics(gram, gram.diagonal().clone(), inputs.mean(0), len(inputs))


def largest(scores: list[float], keep: int) -> list[bool]:
    """Which of the scores are kept: sorted by score, equal ones by position."""
    order = sorted(range(len(scores)), key=lambda i: (-scores[i], i))
    return [i in set(order[:keep]) for i in range(len(scores))]


def damped_hessian(statistics: Statistics, damping: float) -> Tensor:
    hessian = statistics.gram.double() * 2 / statistics.tokens
    return hessian + damping * hessian.diagonal().mean() * torch.eye(len(hessian), dtype=torch.float64)


def eliminate(weight: Tensor, hessian: Tensor, choose_block, starts: dict[int, int]) -> tuple[Tensor, Tensor]:
    """SparseGPT from the exact OBS formula: columns left to right, the inverse Hessian of the columns that remain each
    time.

    weight (out, in) float64. starts: first column of a group -> one past its last. choose_block(scores, start) gives
    the mask of a group (out, columns) from the scores w_q^2 / [H^-1]_qq, each column's H restricted to itself and what
    is right of it.
    """
    weight = weight.clone()
    mask = torch.ones_like(weight, dtype=torch.bool)
    width = weight.shape[1]
    inverses = [torch.linalg.inv(hessian[q:, q:]) for q in range(width)]
    pivots = torch.stack([inverse[0, 0] for inverse in inverses])
    for q in range(width):
        if q in starts:
            here = slice(q, starts[q])
            mask[:, here] = choose_block(weight[:, here].square() / pivots[here], q)
        for row in range(len(weight)):
            if not mask[row, q]:
                weight[row, q:] -= weight[row, q].clone() / pivots[q] * inverses[q][0]
                weight[row, q] = 0
    return mask, weight


def output_error(weight: Tensor, other: Tensor, gram: Tensor) -> float:
    """Sum of squared differences of the two matrices' outputs on the tokens of a Gram matrix."""
    difference = (weight - other).double()
    return float((difference @ gram.double() * difference).sum())
