"""What block reconstruction costs beside a bare training loop over the same block and batches, whatever it trains. By hand, on one thread.

    python benchmarks/gradient_overhead.py

All train one block of a random Llama (hidden 256, MLP 688, 8/4 heads, or wider) at 50 % sparsity for the same epochs on the same 64 x 128
tokens in batches of 8. The bare loop is forward, mean squared error, backward, fused Adam and nothing else: no mask, no learning
rate schedule, no error before the first step, no check. The solver trains all parameters, norms and biases alone, or MaskLoRA of
rank 16 with norms; "sub-blocks" trains all parameters too, the attention half and then the MLP half. They take turns in one process; medians are compared.
"""

import argparse
import copy
import statistics
import time

import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from analysis.models.anatomy import anatomy
from analysis.recipe import Solver, Unit
from analysis.reconstruction.gradient import Problem, reconstruct
from analysis.reconstruction.pieces import Piece, pieces
from analysis.reconstruction.streams import advance, open_streams, stream_through
from analysis.text.windows import Windows

WINDOWS, LENGTH, VOCABULARY, BLOCK, BATCH = 64, 128, 1000, 1, 8
TRAIN = ("all", "norms-biases", "masklora", "sub-blocks")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--hidden", type=int, default=256, help="hidden size; the MLP is 2.6875 times as wide")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    dense, problem = block_and_problem(arguments.hidden)
    halves = half_problems(dense, problem)
    seconds = {name: [] for name in ("bare", *TRAIN)}
    for timed in (False, *[True] * arguments.runs):
        for name, runs in seconds.items():
            solver = Solver("gradient", epochs=arguments.epochs, batch=BATCH, train=name if name in ("norms-biases", "masklora") else "all")
            work = [problem] if name != "sub-blocks" else halves
            unit = Unit("block" if name != "sub-blocks" else "sub-block")
            parts = pieces(copy.deepcopy(dense).blocks[BLOCK : BLOCK + 1], unit)
            masks = [prune_by_magnitude(piece) for piece in parts]
            start, processor = time.perf_counter(), time.process_time()
            if name == "bare":
                bare(parts[0], problem, solver)
            else:
                for piece, kept, given in zip(parts, masks, work, strict=True):
                    reconstruct(piece, kept, given, [], solver, torch.Generator().manual_seed(0))
            if timed:
                runs.append((time.perf_counter() - start, time.process_time() - processor))
    report(seconds, arguments.epochs)


def block_and_problem(hidden: int):
    """The dense model's anatomy, and the BR problem of its block 1 on random ids."""
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=hidden, intermediate_size=round(2.6875 * hidden), num_hidden_layers=2,
        num_attention_heads=8, num_key_value_heads=4, max_position_embeddings=256,
    )  # fmt: skip
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
    optimiser = torch.optim.Adam(block.parameters(), lr=solver.lr, betas=(solver.beta1, solver.beta2), eps=solver.eps, fused=True)
    arguments = problem.recording.call(BLOCK, slice(0, solver.batch)).kwargs
    generator = torch.Generator().manual_seed(0)
    for _ in range(solver.epochs):
        for rows in torch.randperm(WINDOWS, generator=generator).split(solver.batch):
            output = block(problem.inputs[rows], **arguments)
            loss = torch.nn.functional.mse_loss(output, problem.targets[rows])
            loss.backward()
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)


def report(seconds: dict[str, list[tuple[float, float]]], epochs: int) -> None:
    steps = epochs * WINDOWS // BATCH
    medians = {name: [1000 * statistics.median(run[clock] for run in runs) / steps for clock in (0, 1)] for name, runs in seconds.items()}
    print(f"{'loop':<14} {'wall ms/step':>13} {'of bare':>8} {'of all':>7} {'processor ms/step':>18} {'of bare':>8} {'of all':>7}")
    for name, (wall, processor) in medians.items():
        shares = [[clock / medians[other][i] for other in ("bare", "all")] for i, clock in enumerate((wall, processor))]
        print(f"{name:<14} {wall:13.1f} {shares[0][0]:8.2f} {shares[0][1]:7.2f} {processor:18.1f} {shares[1][0]:8.2f} {shares[1][1]:7.2f}")


if __name__ == "__main__":
    main()
