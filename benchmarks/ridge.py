"""What the ridge refit costs beside the bare library calls it consists of. By hand, on one thread.

    python benchmarks/ridge.py

One matrix at a sparsity per row, on Gram matrices of random correlated tokens (float32). The bare calls run on
ready-made tensors of the same shapes: gather every row's submatrix, torch.linalg.cholesky_ex, torch.cholesky_solve, and
the product W C; no second thought about precision, no losses, no padding. Bare and ours take turns in one process;
medians are compared.
"""

import argparse
import statistics
import time

import torch
from torch import Tensor

from analysis.masks.patterns import keep_largest, kept
from analysis.reconstruction import closed_form
from analysis.reconstruction.closed_form import ridge
from analysis.streams.moments import Accumulator, Moments

CASES = [
    (688, 256, 0.5, False),
    (256, 688, 0.5, False),
    (688, 256, 0.5, True),
    (256, 688, 0.5, True),
    (688, 256, 0.3, False),
    (256, 688, 0.7, False),
]
PENALTY = 0.01


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{'matrix':>9} {'sparsity':>8} {'streams':>7} {'bare ms':>8} {'ridge ms':>9} {'of bare':>8}  rules used")
    for rows, width, sparsity, two in CASES:
        dense, mask, moments = problem(rows, width, sparsity, two)
        ready = index_and_system(mask, moments)
        calls = {
            "bare": lambda: bare(dense, moments, *ready),
            "ridge": lambda: ridge(dense, mask, moments, penalty=PENALTY, name="m"),
        }
        milliseconds = {name: [] for name in calls}
        for timed in (False, *[True] * arguments.runs):
            for name, call in calls.items():
                start = time.perf_counter()
                result = call()
                if timed:
                    milliseconds[name].append(1e3 * (time.perf_counter() - start))
        plain, ours = (statistics.median(times) for times in milliseconds.values())
        rules = ", ".join(note.rule for note in result.notes) or "none"
        print(
            f"{rows:>5}x{width:<3} {sparsity:8.0%} {1 + two:7d} {plain:8.1f} {ours:9.1f} {ours / plain:8.2f}  {rules}"
        )


def problem(rows: int, width: int, sparsity: float, two: bool) -> tuple[Tensor, Tensor, Moments]:
    """Random weights (rows, width), a mask of the largest per row, moments of 4,096 correlated tokens."""
    generator = torch.Generator().manual_seed(0)
    dense = torch.randn(rows, width, generator=generator)
    student = torch.randn(4096, width, generator=generator) @ torch.randn(width, width, generator=generator)
    sums = Accumulator(Moments.PARTS["two streams" if two else "one stream"], width)
    sums.add(student, student + torch.randn(4096, width, generator=generator) if two else None)
    return dense, keep_largest(dense.abs(), kept(width, sparsity)), Moments.of(sums, "m")


def index_and_system(mask: Tensor, moments: Moments) -> tuple[Tensor, Tensor]:
    """Kept columns (rows, kept) and the penalised Gram matrix."""
    system = moments.gram.clone()
    system.diagonal().add_(PENALTY * system.diagonal().mean())
    return mask.nonzero()[:, 1].view(len(mask), -1), system


def bare(dense: Tensor, moments: Moments, index: Tensor, system: Tensor) -> Tensor:
    right = (dense @ moments.cross).gather(1, index)
    size = index.shape[1]
    rows = max(closed_form.BUDGET["cpu"] // (8 * size**2), 1)
    parts = []
    for here, values in zip(index.split(rows), right.split(rows), strict=True):
        blocks = (
            system.index_select(0, here.flatten())
            .view(len(here), size, -1)
            .gather(2, here[:, None, :].expand(-1, size, -1))
        )
        lower, _ = torch.linalg.cholesky_ex(blocks)
        parts.append(torch.cholesky_solve(values[:, :, None], lower))
    return torch.cat(parts)


if __name__ == "__main__":
    main()
