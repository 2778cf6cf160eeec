"""How large and how fast a model is: parameters, operations, latency and throughput, two models measured in turn."""

import statistics
import time
from collections.abc import Mapping

import pandas as pd
import torch
from torch import Tensor, nn

from analysis.models.anatomy import evaluating
from analysis.schema import validate
from analysis.structured.shrink import footprint
from analysis.windows import Windows

WINDOWS = 8  # read at once where throughput is measured
ROUNDS = 15  # latencies are medians of as many forwards, throughputs of a third as many, each of which takes longer


def size_table(models: Mapping[str, nn.Module], windows: Windows, rounds: int = ROUNDS) -> pd.DataFrame:
    """The table `size` of models by name ("dense", "pruned"), on real forwards of the windows' ids without a cache.

    latency_ms: the median of `rounds` forwards of the first window alone. tokens_per_second: of a third as many of the
    first windows together, at most `WINDOWS`. The models take turns, after a round that is not counted.
    flops_per_token: at as many keys as a window has tokens.
    """
    one, many = windows.ids[:1], windows.ids[:WINDOWS]
    alone, together = _medians(models, one, rounds), _medians(models, many, max(1, rounds // 3))
    rows = []
    for name, model in models.items():
        footing = footprint(model, windows.length)
        cost = {"parameters": footing.parameters, "flops_per_token": 2 * footing.multiply_adds}
        rows.append(
            {
                "which": name,
                **cost,
                "latency_ms": 1000 * alone[name],
                "tokens_per_second": many.numel() / together[name],
            }
        )
    return validate("size", pd.DataFrame(rows))


def _medians(models: Mapping[str, nn.Module], ids: Tensor, rounds: int) -> dict[str, float]:
    """Seconds of a forward of each model, which take turns; the first round is not counted."""
    times = [[_seconds(model, ids) for model in models.values()] for _ in range(rounds + 1)]
    return dict(zip(models, map(statistics.median, zip(*times[1:], strict=True)), strict=True))


@torch.inference_mode()
def _seconds(model: nn.Module, ids: Tensor) -> float:
    device = next(model.parameters()).device
    ids = ids.to(device)
    with evaluating(model):
        _wait(device)
        start = time.perf_counter()
        model(input_ids=ids, use_cache=False)
        _wait(device)
        return time.perf_counter() - start


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
