"""From criterion to repaired and smaller model: seconds per step beside the bare work it consists of, and what the
repairs bring. By hand, on one thread.

    python benchmarks/structured.py [MODEL] --kinds neurons --removed 0.5

Steps: finding and proving the structures; one pass that gathers every consumer's Gram matrix; scores and masks; repair;
shrinking. Bare work: the same windows through the model's body and nothing else; the bare factorisation (cholesky_ex
and cholesky_solve, float64) of ready-made matrices of the same sizes. "two streams" walks block by block with the dense
and the pruned model side by side, so its floor is one pass through each. They take turns in one process; medians are
compared. Then perplexity of every repair on held-out windows, and size and speed before and after.
"""

import argparse
import copy
import statistics
import time
from collections.abc import Callable

import torch
from torch import nn

from analysis.measure.perplexity import perplexity
from analysis.models.anatomy import anatomy_of_copy, evaluating
from analysis.models.load import load_model
from analysis.recipe.words import STRUCTURED_WORDS
from analysis.streams.moments import Sums, one_stream
from analysis.streams.streams import advance, open_streams
from analysis.structured.budget import select
from analysis.structured.criteria import (
    Evidence,
    consumer_statistics,
    mask_gradients,
    ranking,
    structure_scores,
    token_batches,
)
from analysis.structured.find import KINDS, structures
from analysis.structured.pairs import Structures, column_mask, remove, structure_of_column, structures_of_copy
from analysis.structured.repair import UPDATES, repair
from analysis.structured.shrink import footprint, shrink
from analysis.structured.targets import two_streams
from analysis.text.load import load_tokens
from analysis.windows import Windows

BATCH = 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?", default="lab")
    parser.add_argument("--source", default="lab:mixed")
    parser.add_argument("--held-out", default="lab:mixed")
    parser.add_argument("--kinds", nargs="+", default=["neurons"], choices=list(KINDS))
    parser.add_argument("--heads", default="groups")
    parser.add_argument("--criteria", nargs="+", default=["flap"], choices=list(STRUCTURED_WORDS))
    parser.add_argument("--removed", type=float, default=0.5)
    parser.add_argument("--scope", default="uniform")
    parser.add_argument("--penalty", type=float, default=1e-3)
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--runs", type=int, default=3)
    given = parser.parse_args()
    torch.set_num_threads(1)
    loaded = load_model(given.model)
    windows = load_tokens(given.source, loaded, split="train", samples=given.samples, length=given.length, seed=0)
    held_out = load_tokens(given.held_out, loaded, split="held-out", samples=given.samples, length=given.length, seed=1)
    time_steps(loaded.model, windows, given)
    compare(loaded.model, windows, held_out, given)


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def medians(jobs: dict[str, Callable[[], object]], runs: int) -> dict[str, float]:
    """Median seconds of each job; one round that is not counted, then `runs` in turn."""
    times = {name: [] for name in jobs}
    for timed in (False, *[True] * runs):
        for name, job in jobs.items():
            taken = seconds(job)
            if timed:
                times[name].append(taken)
    return {name: statistics.median(values) for name, values in times.items()}


def time_steps(model: nn.Module, windows: Windows, given) -> None:
    batches = list(token_batches(windows, BATCH))
    found = structures(model, kinds=given.kinds, heads=given.heads)
    gathered = consumer_statistics(model, found, batches, want="gram")
    criterion = given.criteria[0]
    gradients = mask_gradients(model, found, batches) if STRUCTURED_WORDS[criterion].evidence == "gradients" else {}
    masks = chosen(found, criterion, gathered, gradients, given)
    sums = {
        pair.name: one_stream(pair.consumer.weight(), pair.consumer.module.bias, gathered[pair.name]) for pair in found
    }
    systems = [ready(sums[pair.name], column_mask(pair, masks[pair.name]), given.penalty) for pair in found]
    jobs = {
        "bare pass": lambda: bare_pass(model, batches),
        "bare factorisations": lambda: [
            torch.cholesky_solve(right, torch.linalg.cholesky_ex(system)[0]) for system, right in systems
        ],
        "find and prove": lambda: structures(model, kinds=given.kinds, heads=given.heads),
        "gather": lambda: consumer_statistics(model, found, batches, want="gram"),
        "score and select": lambda: chosen(found, criterion, gathered, gradients, given),
        **{
            f"repair: {method}": lambda method=method: repaired(found, masks, gathered, method, given.penalty)
            for method in UPDATES
        },
        "shrink": lambda: shrink(model, found, masks),
        "two streams": lambda: walked(model, found, masks, windows, given.penalty),
    }
    if gradients:
        jobs["gradients"] = lambda: mask_gradients(model, found, batches)
    taken = medians(jobs, given.runs)
    floor = taken["bare pass"] + taken["bare factorisations"]
    whole = sum(
        taken[name] for name in ("find and prove", "gather", "score and select", "repair: liar", "shrink")
    ) + taken.get("gradients", 0)
    print(
        f"{len(windows)} windows of {windows.length} tokens, {sum(mask.numel() for mask in masks.values())} structures,"
        f" {criterion}, {given.removed:.0%} removed"
    )
    for name, value in taken.items():
        print(f"{name:>20} {value:8.3f} s")
    print(
        f"{'all, with liar':>20} {whole:8.3f} s  {whole / floor:.2f} x one pass and one factorisation per layer"
        f" ({floor:.3f} s)"
    )
    both = 2 * taken["bare pass"] + taken["bare factorisations"]
    print(
        f"{'two streams':>20} {taken['two streams']:8.3f} s  {taken['two streams'] / both:.2f} x two passes and one"
        f" factorisation per layer ({both:.3f} s)\n"
    )


def bare_pass(model: nn.Module, batches) -> None:
    with evaluating(model):
        for batch in batches:
            model.base_model(
                input_ids=batch["input_ids"].to(model.device),
                attention_mask=batch["attention_mask"].to(model.device),
                use_cache=False,
            )


def ready(sums: Sums, kept, penalty: float):
    """The matrix that a repair solves and its right-hand side, as tensors."""
    means = sums.inputs[kept] / sums.tokens
    system = sums.gram[kept][:, kept] - sums.tokens * torch.outer(means, means)
    system.diagonal().add_(penalty * sums.gram.diagonal()[kept].mean())
    return system, sums.cross[:, kept].T.contiguous()


def chosen(found: Structures, criterion: str, gathered, gradients, given):
    source = torch.Generator().manual_seed(0)
    scores = {
        pair.name: structure_scores(criterion, pair, Evidence(gathered[pair.name], gradients.get(pair.name)), source)
        for pair in found
    }
    return select(found, scores, given.removed, scope=given.scope, rule=ranking(criterion))


def repaired(found: Structures, masks, gathered, method: str, penalty: float):
    results = {}
    for pair in found:
        weight, bias, kept = pair.consumer.weight(), pair.consumer.module.bias, column_mask(pair, masks[pair.name])
        sums = one_stream(weight, bias, gathered[pair.name])
        results[pair.name] = repair(
            method, weight, bias, kept, sums, owner=structure_of_column(pair), penalty=penalty, name=pair.name
        )
    return results


def copied(model: nn.Module, found: Structures) -> tuple[nn.Module, Structures]:
    twin = copy.deepcopy(model)
    return twin, structures_of_copy(found, anatomy_of_copy(found.parts, twin))


def walked(model: nn.Module, found: Structures, masks, windows: Windows, penalty: float):
    """Two-stream LIAR, block by block: the pruned copy and its structures."""
    twin, ours = copied(model, found)
    streams = open_streams(model, found.parts, "calibration", windows)
    remove(ours, masks)
    for before, after in zip(found.parts.blocks, ours.parts.blocks, strict=True):
        for source, pair in zip(found, ours, strict=True):
            if pair.block == before.index:
                sums = two_streams(before, after, pair.consumer, streams)
                kept = column_mask(pair, masks[pair.name])
                repair(
                    "liar",
                    source.consumer.weight(),
                    source.consumer.module.bias,
                    kept,
                    sums,
                    penalty=penalty,
                    name=pair.name,
                ).install(pair.consumer)
        for block, hidden in ((before, streams.dense), (after, streams.sparse)):
            advance([block.module], block.index, streams.recording, hidden, out=hidden)
    return twin, ours


def compare(model: nn.Module, windows: Windows, held_out: Windows, given) -> None:
    batches = list(token_batches(windows, BATCH))
    found = structures(model, kinds=given.kinds, heads=given.heads)
    gathered = consumer_statistics(model, found, batches, want="gram")
    gradients = mask_gradients(model, found, batches)
    columns = (*UPDATES, "two streams")
    print(
        f"held-out perplexity, dense {perplexity(model, held_out).perplexity:.3f}\n{'':>12}"
        + "".join(f"{name:>13}" for name in columns)
    )
    small = model
    for criterion in given.criteria:
        masks = chosen(found, criterion, gathered, gradients, given)
        values = []
        for method in columns:
            if method == "two streams":
                twin, ours = walked(model, found, masks, windows, given.penalty)
            else:
                twin, ours = copied(model, found)
                results = repaired(found, masks, gathered, method, given.penalty)
                for pair in ours:
                    results[pair.name].install(pair.consumer)
            small = shrink(twin, ours, masks)
            values.append(perplexity(small, held_out).perplexity)
        print(f"{criterion:>12}" + "".join(f"{value:13.3f}" for value in values))
    ids = windows.ids[:BATCH].to(model.device)
    speed = medians(
        {name: lambda net=net: forward(net, ids) for name, net in (("dense", model), ("smaller", small))}, 5
    )
    for name, net in (("dense", model), ("smaller", small)):
        size = footprint(net, windows.length)
        print(
            f"{name:>8}: {size.parameters:,} parameters ({size.in_blocks:,} in blocks), {size.multiply_adds:,}"
            f" multiply-adds per token at {size.context} keys, ",
            end="",
        )
        print(f"{1000 * speed[name]:.1f} ms for {ids.numel()} tokens ({ids.numel() / speed[name]:,.0f} tokens/s)")


def forward(model: nn.Module, ids) -> None:
    with torch.inference_mode():
        model(input_ids=ids, use_cache=False)
        if ids.is_cuda:
            torch.cuda.synchronize()


if __name__ == "__main__":
    main()
