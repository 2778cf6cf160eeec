"""Block errors: how far the sparse stream is from the dense one at a block's output, and where the distance comes from.

With d and s the dense and the sparse stream at the block's input, g the dense block and h the pruned one:

    total     = mean (g(d) - h(s))^2     the papers' compounding error (Shin et al. 2024, appendix A)
    inherited = mean (g(d) - g(s))^2     what the dense block makes of the error it is given
    local     = mean (g(s) - h(s))^2     what pruning this block adds on the stream it sees
    cross     = total - inherited - local = 2 mean (g(d) - g(s)) (g(s) - h(s))

Means run over real tokens and hidden units. Relative errors are divided by mean g(d)^2.

In large decoders a few tokens, above all the first of a window, have activations so large that they hold nearly all of
mean g(d)^2 and of the error ("massive activations", Sun et al. 2024, arXiv:2402.17762): the papers' error then follows
them alone. Hence two more readings of each error, `rest`, without the first token of each window, and `median`, of the
tokens' own relative errors; and how much of mean g(d)^2 the first tokens and the largest hundredth of all hold.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from analysis import distributed
from analysis.errors import NumericalError
from analysis.schema import CALIBRATION
from analysis.streams.moments import Accumulator, real_rows
from analysis.streams.streams import Streams, row_batches, unit_output

ERROR_KINDS = ("total", "inherited", "local", "cross")
QUANTILES = (0.0, 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 1.0)


TOP = 0.01  # share of the tokens, those of the largest outputs, whose hold on the mean square is told
MOST = 0.5  # share of the mean square that is more than such a handful of tokens should hold


def token_squares(x: Tensor) -> Tensor:
    """Sum of squares of each token of x (B, T, H), on the CPU: float32 within a token, given as float64 (B, T)."""
    return x.float().square().sum(dim=-1).cpu().double()


def square_sum(x: Tensor, mask: Tensor) -> float:
    """Sum of squares of x (B, T, H) over the tokens where mask (B, T) is True."""
    return float(token_squares(x)[mask.cpu()].sum())


@torch.inference_mode()
def advance_and_measure(
    dense: nn.Module | Sequence[nn.Module],
    pruned: nn.Module | Sequence[nn.Module],
    block: int,
    streams: Streams,
    moment: Accumulator | None = None,
    outputs: list[Tensor] | None = None,
    positions: list[dict[str, Any]] | None = None,
) -> list[dict[str, Any]]:
    """Advance both streams past one final block, in place, and return its rows of the `blocks` table.

    dense, pruned: the block, or several that count as one, the last of them `block`: a block and those removed behind
    it, whose outputs are comparable only there.
    moment: counts the dense block's outputs.
    outputs: the dense stream behind block 0, 1, ... as it is kept; taken from there, or added where this block is next.
    positions: of text with pictures, is given the rows of the table of that name.

    Raises NumericalError if an output is not finite.
    """
    ours, theirs = ([part] if isinstance(part, nn.Module) else list(part) for part in (dense, pruned))
    first, device = block + 1 - len(ours), next(ours[0].parameters()).device
    real = streams.mask.cpu()
    squares = {name: torch.zeros(real.shape, dtype=torch.float64) for name in ("total", "inherited", "local", "scale")}
    dense_output = outputs[block] if outputs is not None and block < len(outputs) else None
    every = row_batches(streams.recording, len(streams.dense), device)
    for rows in distributed.own(every):
        s, mask = streams.sparse[rows].to(device), streams.mask[rows]
        g_d = (
            unit_output(ours, first, streams.recording, streams.dense[rows].to(device), rows)
            if dense_output is None
            else dense_output[rows].to(device)
        )
        g_s = unit_output(ours, first, streams.recording, s, rows)
        h_s = unit_output(theirs, first, streams.recording, s, rows)
        squares["total"][rows] = token_squares(g_d.float() - h_s.float())
        squares["inherited"][rows] = token_squares(g_d.float() - g_s.float())
        squares["local"][rows] = token_squares(g_s.float() - h_s.float())
        squares["scale"][rows] = token_squares(g_d)
        if moment is not None:
            moment.add(real_rows(g_d, mask))
        streams.dense[rows] = g_d.to(streams.dense.device)
        streams.sparse[rows] = h_s.to(streams.sparse.device)
    distributed.add_up(*squares.values())
    distributed.exchange(streams.dense, every, device)
    distributed.exchange(streams.sparse, every, device)
    if moment is not None:
        distributed.reduce(moment, moment.device)
    sums = {name: sum(float(each[rows][real[rows]].sum()) for rows in every) for name, each in squares.items()}
    if not all(math.isfinite(value) for value in sums.values()):
        raise NumericalError(
            f"block {block} on {streams.label}: its output is not finite (dense or pruned); the model overflows in"
            f" {streams.dense.dtype}"
        )
    if outputs is not None and len(outputs) == block:
        outputs.append(streams.dense.clone())
    if positions is not None and streams.recording.windows.pictures is not None:
        positions += _positions(squares, streams, block)
    elements = streams.tokens * streams.dense.shape[2]
    errors = {kind: sums[kind] / elements for kind in ("total", "inherited", "local")}
    errors["cross"] = errors["total"] - errors["inherited"] - errors["local"]
    scale = sums["scale"] / elements
    readings = _readings(squares, real)
    return [
        {
            "block": block,
            "split": streams.label,
            "kind": kind,
            "error": errors[kind],
            "relative_error": errors[kind] / scale if scale else math.nan,
            **readings[kind],
            **_energy(squares["scale"], real),
        }
        for kind in ERROR_KINDS
    ]


def _positions(squares: dict[str, Tensor], streams: Streams, block: int) -> list[dict[str, Any]]:
    """Errors over the tokens of the text and over those of pictures, relative to the dense mean square there."""
    rows = []
    for at in ("text", "image"):
        here = streams.recording.windows.which(at).cpu()
        elements = int(here.sum()) * streams.dense.shape[2]
        scale = float(squares["scale"][here].sum())
        for kind in ("total", "inherited", "local"):
            total = float(squares[kind][here].sum())
            error = {"error": total / elements, "relative_error": total / scale if scale else math.nan}
            rows.append({"block": block, "split": streams.label, "at": at, "kind": kind, **error})
    return rows


def _readings(squares: dict[str, Tensor], real: Tensor) -> dict[str, dict[str, float]]:
    """Of each kind the relative error without the first token of each window, and the median over real tokens of the
    token's own relative error; of `cross`, which a single token may have below zero, only the former."""
    rest = real & ~_firsts(real)
    scale = float(squares["scale"][rest].sum())
    ratio = lambda value: value / scale if scale else math.nan
    without = {kind: ratio(float(squares[kind][rest].sum())) for kind in ("total", "inherited", "local")}
    without["cross"] = without["total"] - without["inherited"] - without["local"]
    own = {kind: (squares[kind][real] / squares["scale"][real]).nanmedian() for kind in without if kind != "cross"}
    return {
        kind: {"relative_error_rest": value, "relative_error_median": float(own.get(kind, torch.tensor(math.nan)))}
        for kind, value in without.items()
    }


def _firsts(real: Tensor) -> Tensor:
    """(N, T) bool: the first real token of each window."""
    return real & (real.cumsum(1) == 1)


def _energy(squares: Tensor, real: Tensor) -> dict[str, float]:
    """Share of the sum of `squares` over real tokens that the windows' first tokens hold, and the largest hundredth of
    all tokens, at least one."""
    values, total = squares[real], float(squares[real].sum())
    if not total:
        return {"energy_first": math.nan, "energy_top": math.nan}
    count = max(1, math.ceil(TOP * len(values)))
    first = float(squares[_firsts(real)].sum())
    return {"energy_first": first / total, "energy_top": float(values.topk(count).values.sum()) / total}


def massive_activations(rows: list[dict[str, Any]]) -> dict[str, Any] | None:
    """Where the largest hundredth of the calibration tokens, or the first of each window, hold most of the mean square
    (over MOST): in how many blocks, and the worst of them with what they hold. rows: of the `blocks` table. None:
    nowhere.
    """
    held = lambda row: max(row["energy_top"], row["energy_first"])
    found = [row for row in rows if row["split"] == CALIBRATION and row["kind"] == "total" and held(row) > MOST]
    if not found:
        return None
    worst = max(found, key=held)
    return {"blocks": len(found), **{key: worst[key] for key in ("block", "energy_top", "energy_first")}}


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
        for level, error in zip(QUANTILES, _quantiles(values, levels).tolist(), strict=True)
    ]


def _quantiles(values: Tensor, levels: Tensor) -> Tensor:
    """`values.quantile(levels)` to the bit, of any number of values: torch takes 2^24 at most."""
    places = levels * (len(values) - 1)
    below, ordered = places.long(), values.sort().values
    return ordered[below].lerp(ordered[places.ceil().long()], places - below)
