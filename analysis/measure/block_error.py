"""Block errors: how far the sparse stream is from the dense one at a block's output, and where the distance comes from.

With d and s the dense and the sparse stream at the block's input, g the dense block and h the pruned one:

    total     = mean (g(d) - h(s))^2     the papers' compounding error (Shin et al. 2024, appendix A)
    inherited = mean (g(d) - g(s))^2     what the dense block makes of the error it is given
    local     = mean (g(s) - h(s))^2     what pruning this block adds on the stream it sees
    cross     = total - inherited - local = 2 mean (g(d) - g(s)) (g(s) - h(s))

Means run over real tokens and hidden units. Relative errors are divided by mean g(d)^2.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn

from analysis.errors import NumericalError
from analysis.streams.moments import Accumulator, real_rows
from analysis.streams.streams import Streams, chunks, unit_output

ERROR_KINDS = ("total", "inherited", "local", "cross")
QUANTILES = (0.0, 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 1.0)


def square_sum(x: Tensor, mask: Tensor) -> float:
    """Sum of squares of x (B, T, H) over the tokens where mask (B, T) is True: float32 within a token, float64 over
    tokens.
    """
    squares = x.float().square().sum(dim=-1).cpu().double()
    return float(squares[mask.cpu()].sum())


@torch.inference_mode()
def advance_and_measure(
    dense: nn.Module,
    pruned: nn.Module,
    block: int,
    streams: Streams,
    moment: Accumulator | None = None,
    outputs: list[Tensor] | None = None,
) -> list[dict[str, Any]]:
    """Advance both streams past one final block, in place, and return its rows of the `blocks` table.

    moment: counts the dense block's outputs.
    outputs: the dense stream behind block 0, 1, ... as it is kept; taken from there, or added where this block is next.

    Raises NumericalError if an output is not finite.
    """
    device = next(dense.parameters()).device
    sums = dict.fromkeys(("total", "inherited", "local", "scale"), 0.0)
    dense_output = outputs[block] if outputs is not None and block < len(outputs) else None
    for rows in chunks(streams.dense.shape[0], streams.dense.shape[1], device):
        s, mask = streams.sparse[rows].to(device), streams.mask[rows]
        g_d = (
            unit_output([dense], block, streams.recording, streams.dense[rows].to(device), rows)
            if dense_output is None
            else dense_output[rows].to(device)
        )
        g_s = unit_output([dense], block, streams.recording, s, rows)
        h_s = unit_output([pruned], block, streams.recording, s, rows)
        sums["total"] += square_sum(g_d.float() - h_s.float(), mask)
        sums["inherited"] += square_sum(g_d.float() - g_s.float(), mask)
        sums["local"] += square_sum(g_s.float() - h_s.float(), mask)
        sums["scale"] += square_sum(g_d, mask)
        if moment is not None:
            moment.add(real_rows(g_d, mask))
        streams.dense[rows] = g_d.to(streams.dense.device)
        streams.sparse[rows] = h_s.to(streams.sparse.device)
    if not all(math.isfinite(value) for value in sums.values()):
        raise NumericalError(
            f"block {block} on {streams.label}: its output is not finite (dense or pruned); the model overflows in"
            f" {streams.dense.dtype}"
        )
    if outputs is not None and len(outputs) == block:
        outputs.append(streams.dense.clone())
    elements = streams.tokens * streams.dense.shape[2]
    errors = {kind: sums[kind] / elements for kind in ("total", "inherited", "local")}
    errors["cross"] = errors["total"] - errors["inherited"] - errors["local"]
    scale = sums["scale"] / elements
    return [
        {
            "block": block,
            "split": streams.label,
            "kind": kind,
            "error": errors[kind],
            "relative_error": errors[kind] / scale if scale else math.nan,
        }
        for kind in ERROR_KINDS
    ]


def error_quantiles(streams: Streams) -> list[dict[str, Any]]:
    """How the total error where the streams stand is spread over single real tokens and over windows (means over a
    window's tokens): rows of the `distribution` table. Relative errors are divided by the mean square of the dense
    stream."""
    mask, width = streams.mask.cpu(), streams.dense.shape[2]
    squares, scale = torch.zeros(mask.shape, dtype=torch.float64), 0.0
    for start in range(len(mask)):
        dense, sparse = streams.dense[start].cpu().float(), streams.sparse[start].cpu().float()
        squares[start] = (dense - sparse).square().sum(-1).double() / width
        scale += float(dense[mask[start]].square().sum(dtype=torch.float64)) / (width * streams.tokens)
    levels = torch.tensor(QUANTILES, dtype=torch.float64)
    errors = {"tokens": squares[mask], "windows": (squares * mask).sum(1) / mask.sum(1).clamp(min=1)}
    return [
        {
            "split": streams.label,
            "over": over,
            "quantile": level,
            "error": error,
            "relative_error": error / scale if scale else math.nan,
        }
        for over, values in errors.items()
        for level, error in zip(QUANTILES, values.quantile(levels).tolist(), strict=True)
    ]
