"""What block reconstruction costs beside a bare training loop over the same block and batches, whatever it trains. By
hand, on one thread.

    python benchmarks/gradient_overhead.py

All train one block of a random Llama (hidden 256, MLP 688, 8/4 heads, or wider) at 50 % sparsity for the same epochs on
the same 64 x 128 tokens in batches of 8. The bare loop is forward, mean squared error, backward, fused Adam and nothing
else: no mask, no learning rate schedule, no error before the first step, no check. The solver trains all parameters,
norms and biases alone, or MaskLoRA of rank 16 with norms; "sub-blocks" trains all parameters too, the attention half
and then the MLP half. They take turns, each in a process of its own; medians are compared.
"""

import argparse
import copy
import json
import statistics
import subprocess
import sys
import time

import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from analysis.models.anatomy import anatomy
from analysis.recipe.parts import Solver, Unit
from analysis.reconstruction.gradient import reconstruct
from analysis.reconstruction.targets import Problem
from analysis.reconstruction.units import Piece, pieces
from analysis.streams.streams import advance, open_streams, stream_through
from analysis.windows import Windows

WINDOWS, LENGTH, VOCABULARY, BLOCK, BATCH = 64, 128, 1000, 1, 8
LOOPS = ("bare", "all", "norms-biases", "masklora", "sub-blocks")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--hidden", type=int, default=256, help="hidden size; the MLP is 2.6875 times as wide")
    parser.add_argument("--loop", choices=LOOPS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.loop:
        torch.set_num_threads(1)
        print(json.dumps(timed(arguments.loop, arguments)))
        return
    runs = [(name, spawn(name)) for _ in range(arguments.runs) for name in LOOPS]
    report({name: [seconds for other, seconds in runs if other == name] for name in LOOPS}, arguments.epochs)


def spawn(name: str) -> list[float]:
    """Wall and processor seconds of one loop, in a process of its own: where its tensors lie in memory moves a step by
    a few per cent.
    """
    command = [sys.executable, __file__, *sys.argv[1:], "--loop", name]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def timed(name: str, arguments) -> list[float]:
    """Wall and processor seconds of a loop's second turn."""
    dense, problem = block_and_problem(arguments.hidden)
    work = half_problems(dense, problem) if name == "sub-blocks" else [problem]
    solver = Solver(
        "gradient", epochs=arguments.epochs, batch=BATCH, train=name if name in ("norms-biases", "masklora") else "all"
    )
    unit = Unit("sub-block" if name == "sub-blocks" else "block")
    for _ in range(2):
        parts = pieces(copy.deepcopy(dense).blocks[BLOCK : BLOCK + 1], unit)
        masks = [prune_by_magnitude(piece) for piece in parts]
        start, processor = time.perf_counter(), time.process_time()
        if name == "bare":
            bare(parts[0], problem, solver)
        else:
            for piece, kept, given in zip(parts, masks, work, strict=True):
                reconstruct(piece, kept, given, [], solver, torch.Generator().manual_seed(0))
        seconds = [time.perf_counter() - start, time.process_time() - processor]
    return seconds


def block_and_problem(hidden: int):
    """The dense model's anatomy, and the BR problem of its block 1 on random ids."""
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=hidden,
        intermediate_size=round(2.6875 * hidden),
        num_hidden_layers=2,
        num_attention_heads=8,
        num_key_value_heads=4,
        max_position_embeddings=256,
    )
    torch.manual_seed(0)
    model = LlamaForCausalLM(config).eval().requires_grad_(False)
    ids = torch.randint(VOCABULARY, (WINDOWS, LENGTH), generator=torch.Generator().manual_seed(1))
    windows = Windows(ids, torch.ones_like(ids, dtype=torch.bool), "random ids", {"tokens": ids.numel()})
    dense = anatomy(model)
    streams = open_streams(model, dense, "calibration", windows)
    inputs = advance([dense.blocks[0].module], 0, streams.recording, streams.dense)
    targets = advance([dense.blocks[BLOCK].module], BLOCK, streams.recording, inputs)
    return dense, Problem("calibration", inputs, targets, streams.recording)


def half_problems(dense, problem: Problem) -> list[Problem]:
    """The same windows for the attention half and the MLP half of the block."""
    found, inputs = [], problem.inputs
    for piece in pieces(dense.blocks[BLOCK : BLOCK + 1], Unit("sub-block")):
        targets = stream_through(piece.run, problem.recording, inputs, torch.device("cpu"))
        found.append(Problem("calibration", inputs, targets, problem.recording))
        inputs = targets
    return found


def prune_by_magnitude(piece: Piece) -> dict[nn.Parameter, Tensor]:
    """Removes the smaller half of every matrix, in place; parameter -> mask."""
    masks = {}
    for matrix in piece.matrices.values():
        size = matrix.weight().abs()
        mask = size > size.median()
        matrix.assign(matrix.weight() * mask)
        masks[matrix.module.weight] = mask
    return masks


def bare(piece: Piece, problem: Problem, solver: Solver) -> None:
    block = piece.modules[0].requires_grad_(True)
    optimiser = torch.optim.Adam(
        block.parameters(), lr=solver.lr, betas=(solver.beta1, solver.beta2), eps=solver.eps, fused=True
    )
    arguments = problem.recording.call(BLOCK, slice(0, solver.batch)).kwargs
    generator = torch.Generator().manual_seed(0)
    for _ in range(solver.epochs):
        for rows in torch.randperm(WINDOWS, generator=generator).split(solver.batch):
            output = block(problem.inputs[rows], **arguments)
            loss = torch.nn.functional.mse_loss(output, problem.targets[rows])
            loss.backward()
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)


def report(seconds: dict[str, list[list[float]]], epochs: int) -> None:
    """Median ms per step, its ratio to the bare loop's and to training all weights, and the quartiles of the wall
    clock.
    """
    steps = epochs * WINDOWS // BATCH
    wall, processor = (
        {name: [1000 * run[clock] / steps for run in runs] for name, runs in seconds.items()} for clock in (0, 1)
    )
    print(
        f"{'loop':<14} {'wall ms/step':>13} {'quartiles':>15} {'of bare':>8} {'of all':>7} {'processor ms/step':>18}"
        f" {'of bare':>8} {'of all':>7}"
    )
    for name in LOOPS:
        middle = [{other: statistics.median(runs) for other, runs in clock.items()} for clock in (wall, processor)]
        low, _, high = statistics.quantiles(wall[name], n=4, method="inclusive")
        cells = [
            f"{clock[name]:{width}.1f}"
            + quartiles
            + f" {clock[name] / clock['bare']:8.2f} {clock[name] / clock['all']:7.2f}"
            for clock, width, quartiles in zip(middle, (13, 18), (f" {low:7.1f} {high:7.1f}", ""), strict=True)
        ]
        print(f"{name:<14} {' '.join(cells)}")


if __name__ == "__main__":
    main()
