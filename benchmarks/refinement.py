"""What one iteration of swaps and of Frank-Wolfe costs beside the bare passes it consists of. By hand, on one thread.

    python benchmarks/refinement.py

Swaps, per row: the correlations' update in float64 (two rows of the Gram matrix), the prices of all weights, which
every update changes, one pass over the costs of all pairs of a kept and a removed weight, their minimum. Frank-Wolfe:
one (out, in) x (in, in) product and the largest gradients of every group. The bare passes are these and nothing else,
on tensors made before and in the same slices of the cache. Ours is the difference of a long and a short run, so that
what is done once does not count; the long swaps are short enough that every row still has some to do. Ours and bare
take turns in one process; medians are compared.
Whole: seconds of the run a recipe would ask for, 100 rounds or 2,000 iterations, as it starts from Wanda's mask.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from analysis.masks.criteria import wanda_scores
from analysis.masks.patterns import choose
from analysis.masks.refine import frank_wolfe, swaps
from analysis.masks.swap_tables import CACHE
from analysis.recipe.parts import Pattern
from analysis.streams.moments import Statistics

SHAPES = [(688, 256), (256, 688), (1024, 1024)]
PATTERNS = [Pattern(sparsity=0.5, group="row"), Pattern(sparsity=0.5, group="matrix"), Pattern(keep=2, of=4)]
SHORT, LONG = 2, 14


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--whole", action="store_true", help="also time whole runs, minutes")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(
        f"{'out x in':>12} {'pattern':>10} {'':>6} {'ours ms':>8} {'bare ms':>8} {'of bare':>8}"
        + f" {'whole s':>8}" * arguments.whole
    )
    for shape in SHAPES:
        for pattern in PATTERNS:
            report(shape, pattern, arguments.runs, arguments.whole)


def report(shape: tuple[int, int], pattern: Pattern, runs: int, whole: bool) -> None:
    weight, inputs, scores = problem(shape)
    wanda, random = (
        choose(s, pattern, name="m") for s in (scores, torch.rand(shape, generator=torch.Generator().manual_seed(3)))
    )
    jobs = {
        "swaps": (
            lambda rounds: swaps(weight, inputs, random, pattern, rounds=rounds, name="m"),
            bare_swap(weight, inputs.gram, random, pattern),
            100,
        ),
        "fw": (
            lambda count: frank_wolfe(weight, inputs, wanda, pattern, scores, iterations=count, protect=0.9, name="m"),
            bare_step(weight, inputs.gram, pattern),
            2000,
        ),
    }
    for what, (ours, bare, usual) in jobs.items():
        times = {"ours": [], "bare": []}
        for timed in (False, *[True] * runs):
            mine = (seconds(lambda: ours(LONG)) - seconds(lambda: ours(SHORT))) / (LONG - SHORT)
            theirs = seconds(lambda: [bare() for _ in range(LONG - SHORT)]) / (LONG - SHORT)
            if timed:
                times["ours"].append(mine)
                times["bare"].append(theirs)
        mine, theirs = (statistics.median(times[who]) for who in ("ours", "bare"))
        start = (
            f"{shape[0]:>5} x {shape[1]:>4} {f'{pattern} ' + (pattern.group if pattern.of is None else ''):>10}"
            f" {what:>6}"
        )
        print(f"{start} {1000 * mine:8.2f} {1000 * theirs:8.2f} {mine / theirs:8.2f}", end="")
        if whole:
            swapped = (
                (lambda: swaps(weight, inputs, wanda, pattern, rounds=usual, name="m"))
                if what == "swaps"
                else lambda: ours(usual)
            )
            print(f" {seconds(swapped):8.2f}", end="")
        print(flush=True)


def problem(shape: tuple[int, int]) -> tuple[Tensor, Statistics, Tensor]:
    """Random weight, statistics of correlated random inputs, four tokens for each, and Wanda's scores."""
    generator = torch.Generator().manual_seed(0)
    width = shape[1]
    weight = torch.randn(shape, generator=generator)
    mixing = torch.eye(width) + torch.randn(width, width, generator=generator) / width**0.5
    tokens = torch.randn(4 * width, width, generator=generator) @ mixing
    gram = tokens.T @ tokens
    inputs = Statistics(gram, gram.diagonal().clone(), tokens.mean(0), len(tokens))
    return weight, inputs, wanda_scores(weight, inputs)


def bare_swap(weight: Tensor, gram: Tensor, mask: Tensor, pattern: Pattern) -> Callable[[], object]:
    """One round over all rows at once, every row with as many kept and removed weights as the mean row."""
    rows, width = weight.shape
    groups = width // pattern.of if pattern.of else 1
    kept = int(mask.sum()) // (rows * groups)
    removed = width // groups - kept
    # many small groups lie along the fastest dimension, one large group has its removed weights there
    shape = (rows, kept, removed, groups) if groups > 1 else (rows, kept, removed)
    pairs, own, signed = torch.randn(shape), torch.randn(rows, width), torch.randn(rows, width)
    least = torch.empty(rows, kept, *shape[3:])
    gram, correlation, factors = gram.double(), torch.randn(rows, width).double(), torch.randn(2, rows, 1).double()
    out, back = torch.randint(width, (rows,)), torch.randint(width, (rows,))
    step = max(CACHE // (4 * pairs[0].numel()), 1)
    costs = torch.empty_like(pairs[:step])

    def iterate() -> Tensor:
        correlation.addcmul_(gram.index_select(0, out), factors[0]).addcmul_(gram.index_select(0, back), factors[1])
        price = torch.addcmul(own, signed, correlation.float())
        prune, revive = price[:, : kept * groups], price[:, kept * groups :].view(rows, 1, removed, *shape[3:])
        for start in range(0, rows, step):
            here = slice(start, min(start + step, rows))
            torch.amin(torch.add(pairs[here], revive[here], out=costs[: here.stop - start]), 2, out=least[here])
        return least.flatten(1).add_(prune).min(1)

    return iterate


def bare_step(weight: Tensor, gram: Tensor, pattern: Pattern) -> Callable[[], object]:
    """The product, and the largest entries of every group of its result."""
    size = pattern.of or (weight.shape[1] if pattern.group == "row" else weight.numel())
    keep = pattern.keep or size // 2
    return lambda: (weight @ gram).view(-1, size).topk(keep, sorted=False)


def seconds(job: Callable[[], object]) -> float:
    """Processor seconds of this process: on one thread the same as wall time, and deaf to its neighbours."""
    start = time.process_time()
    job()
    return time.process_time() - start


if __name__ == "__main__":
    main()
