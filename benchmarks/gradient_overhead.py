"""What block reconstruction costs beside a bare training loop over the same block and batches. By hand, on one thread.

    python benchmarks/gradient_overhead.py

Both train one block of a random Llama (hidden 256, MLP 688, 8/4 heads) at 50 % sparsity for the same epochs on the same 64 x 128
tokens in batches of 8. The bare loop is forward, mean squared error, backward, fused Adam and nothing else: no mask, no learning
rate schedule, no error before the first step, no check. The two take turns in one process; medians are compared.
"""

import argparse
import copy
import statistics
import time

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from analysis.masks.choose import choose_mask
from analysis.models.anatomy import anatomy
from analysis.recipe import Criterion, Pattern, Solver
from analysis.reconstruction.gradient import Problem, reconstruct
from analysis.reconstruction.streams import advance, open_streams
from analysis.text.windows import Windows

WINDOWS, LENGTH, VOCABULARY, BLOCK = 64, 128, 1000, 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    solver = Solver("gradient", epochs=arguments.epochs)
    dense, problem = block_and_problem()
    seconds = {bare: [], ours: []}
    for timed in (False, *[True] * arguments.runs):
        for train in seconds:
            pruned = copy.deepcopy(dense)
            masks = prune_by_magnitude(pruned)
            start, processor = time.perf_counter(), time.process_time()
            train(pruned.blocks[BLOCK].module, masks, problem, solver)
            if timed:
                seconds[train].append((time.perf_counter() - start, time.process_time() - processor))
    report(seconds, arguments.epochs)


def block_and_problem():
    """The dense model's anatomy, and the BR problem of its block 1 on random ids."""
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=256, intermediate_size=688, num_hidden_layers=2,
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
    return dense, Problem("calibration", BLOCK, inputs, targets, streams.recording)


def prune_by_magnitude(dense) -> dict:
    """Prunes block 1 in place; parameter -> mask."""
    masks = {}
    for matrix in dense.blocks[BLOCK].matrices:
        mask, _, _ = choose_mask(Criterion("magnitude"), Pattern(sparsity=0.5), matrix.weight(), None, torch.Generator(), name=matrix.name)
        matrix.assign(matrix.weight() * mask)
        masks[matrix.module.weight] = mask
    return masks


def ours(block, masks: dict, problem: Problem, solver: Solver) -> None:
    reconstruct([block], masks, problem, [], solver, torch.Generator().manual_seed(0))


def bare(block, masks: dict, problem: Problem, solver: Solver) -> None:
    block.requires_grad_(True)
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


def report(seconds: dict, epochs: int) -> None:
    medians = {train: [statistics.median(run[clock] for run in runs) for clock in (0, 1)] for train, runs in seconds.items()}
    print(f"{'loop':<6} {'wall s/epoch':>13} {'of bare':>8} {'processor s/epoch':>18} {'of bare':>8}")
    for train, (wall, processor) in medians.items():
        print(f"{train.__name__:<6} {wall / epochs:13.3f} {wall / medians[bare][0]:8.2f} {processor / epochs:18.3f} {processor / medians[bare][1]:8.2f}")


if __name__ == "__main__":
    main()
