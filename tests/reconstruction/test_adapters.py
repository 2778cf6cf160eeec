"""MaskLoRA against autograd through W + s (B A) * M; zeros, rank, layouts, and the whole solver with it."""

import copy
import math

import pytest
import torch
from torch import nn
from torch.func import functional_call
from transformers.pytorch_utils import Conv1D

from analysis.errors import UsageError
from analysis.models.anatomy import Matrix, anatomy
from analysis.models.block_arguments import HIDDEN
from analysis.models.replay import record
from analysis.recipe.parts import Solver
from analysis.reconstruction.adapters import adapting, mask_lora
from analysis.reconstruction.gradient import unit_error
from analysis.reconstruction.targets import Problem
from analysis.streams.streams import advance
from tests.helpers.families import tiny
from tests.helpers.gradient import block_piece, block_problem, case, pruned, solve, weights
from tests.helpers.small import small_llama, windows

ROWS, COLUMNS = 6, 9


def one(transposed: bool, rank: int = 3, seed: int = 0):
    """A pruned float64 matrix (6, 9) with its adapter moved off zero, its mask (out, in), and the weight it had."""
    module = Conv1D(ROWS, COLUMNS) if transposed else nn.Linear(COLUMNS, ROWS)
    module = module.double().requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    matrix = Matrix("m", module, transposed, "mlp")
    kept = torch.rand(ROWS, COLUMNS, generator=generator) > 0.5
    matrix.assign(torch.randn(ROWS, COLUMNS, dtype=torch.float64, generator=generator) * kept)
    start = matrix.weight().clone()
    (adapter,) = mask_lora({"m": matrix}, {module.weight: kept.T if transposed else kept}, rank, 6.0, generator)
    assert torch.equal(matrix.weight(), start) and not adapter.up.any()
    adapter.up.normal_(generator=generator)
    adapter.put()
    return matrix, adapter, kept, start


@pytest.mark.parametrize("transposed", [False, True])
def test_gradients_equal_autograd(transposed):
    matrix, adapter, kept, start = one(transposed)
    x = torch.randn(11, COLUMNS, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    up, down = (tensor.clone().requires_grad_(True) for tensor in adapter.parameters)
    effective = start + 2.0 * (up @ down) * kept  # alpha 6 / rank 3
    torch.testing.assert_close(matrix.weight(), effective.detach(), rtol=1e-14, atol=1e-15)
    (x @ effective.T + matrix.module.bias).sin().sum().backward()
    with adapting([adapter]):
        matrix.module(x).sin().sum().backward()
    torch.testing.assert_close(adapter.up.grad, up.grad, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(adapter.down.grad, down.grad, rtol=1e-12, atol=1e-14)
    assert matrix.module.weight.grad is None and not matrix.module.weight.requires_grad


def test_no_hook_stays_behind():
    matrix, adapter, _, _ = one(False)
    with adapting([adapter]):
        pass
    adapter.up.grad = None
    matrix.module.weight.requires_grad_(True)
    matrix.module(torch.ones(1, COLUMNS, dtype=torch.float64)).sum().backward()
    assert adapter.up.grad is None and matrix.module.weight.grad is not None


@pytest.mark.parametrize("transposed", [False, True])
def test_full_rank_reaches_every_change_of_the_kept_weights(transposed):
    matrix, adapter, kept, start = one(transposed, rank=ROWS)
    wished = torch.randn(ROWS, COLUMNS, dtype=torch.float64, generator=torch.Generator().manual_seed(2)) * kept
    factors = torch.linalg.svd(wished, full_matrices=False)
    adapter.up.copy_(factors.U * factors.S / adapter.scale)
    adapter.down.copy_(factors.Vh)
    adapter.put()
    torch.testing.assert_close(matrix.weight(), start + wished, rtol=0, atol=1e-12)
    assert torch.equal(matrix.weight() != 0, kept)


def test_initialisation_is_loras():
    """B zero; A uniform within 1 / sqrt(inputs), whichever way the module stores its weight."""
    for transposed in (False, True):
        module = Conv1D(200, 400) if transposed else nn.Linear(400, 200)
        matrix = Matrix("m", module.requires_grad_(False), transposed, "mlp")
        (adapter,) = mask_lora({"m": matrix}, {}, 64, 32.0, torch.Generator().manual_seed(0))
        assert adapter.up.shape == (200, 64) and adapter.down.shape == (64, 400) and not adapter.up.any()
        assert 0.049 < float(adapter.down.max()) <= 0.05 and float(adapter.down.std()) == pytest.approx(
            0.05 / math.sqrt(3), rel=0.02
        )
        assert adapter.scale == 0.5 and bool((adapter.kept == 1).all()), "without a mask every weight is kept"


def test_a_rank_above_the_smaller_side_names_the_matrix():
    piece, masks, problem = case()
    before = weights(piece)
    with pytest.raises(
        UsageError, match=r"rank 17 is above 16, the smaller side of model.layers.0.self_attn.k_proj \(16 x 32\)"
    ):
        solve(piece, masks, problem, Solver("gradient", train="masklora", rank=17))
    assert all(torch.equal(value, before[name]) for name, value in weights(piece).items())
    assert not any(p.requires_grad for p in piece.parameters())


@pytest.mark.slow
@pytest.mark.parametrize("clip", [0.0, 0.05])
def test_the_solver_equals_autograd_and_adam_over_the_adapters(clip):
    """float32, the same start: W + s (B A) * M built in the forward, norms trained beside it."""
    piece, masks, problem = case(padded=True)
    solver = Solver("gradient", epochs=3, batch=4, lr=3e-3, train="masklora", rank=4, alpha=6.0, clip=clip)
    (block,) = piece.modules
    reference = copy.deepcopy(block)
    start = {name: p.detach().clone() for name, p in block.named_parameters()}
    kept = {name: masks[p] for name, p in block.named_parameters() if p in masks}
    generator = torch.Generator().manual_seed(5)
    factors = {}
    for matrix in (f"{name.split('layers.0.')[1]}.weight" for name in piece.matrices):
        rows, columns = start[matrix].shape
        down = torch.empty(4, columns).uniform_(-(columns**-0.5), columns**-0.5, generator=generator)
        factors[matrix] = torch.zeros(rows, 4).requires_grad_(True), down.requires_grad_(True)
    norms = {name: value.clone().requires_grad_(True) for name, value in start.items() if name not in kept}
    trained = [*norms.values(), *(factor for pair in factors.values() for factor in pair)]
    optimiser = torch.optim.Adam(trained, lr=solver.lr, betas=(0.9, 0.95), eps=1e-8)

    def effective():
        return norms | {name: start[name] + 1.5 * (up @ down) * kept[name] for name, (up, down) in factors.items()}

    step = 0
    for _ in range(3):
        for rows in torch.randperm(10, generator=generator).split(4):
            call = problem.recording.call(0, rows)
            args = tuple(problem.inputs[rows] if value is HIDDEN else value for value in call.args)
            output = functional_call(reference, effective(), args, call.kwargs)
            output = output[0] if isinstance(output, tuple) else output
            optimiser.zero_grad()
            (output - problem.targets[rows])[problem.recording.mask[rows]].square().mean().backward()
            if clip:
                nn.utils.clip_grad_norm_(trained, clip)
            optimiser.param_groups[0]["lr"] = solver.lr * (9 - step) / 9
            optimiser.step()
            step += 1
    solve(piece, masks, problem, solver, seed=5)
    for name, value in effective().items():
        ours = block.get_parameter(name).detach()
        torch.testing.assert_close(ours, value.detach(), atol=2e-5, rtol=1e-4, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_error_falls_and_no_zero_changes(dtype):
    piece, masks, problem = case(dtype=dtype)
    steps = solve(piece, masks, problem, Solver("gradient", epochs=15, batch=4, lr=1e-2, train="masklora", rank=8))
    assert steps[-1].error < 0.6 * steps[0].error
    for parameter, mask in masks.items():
        assert torch.equal(parameter != 0, mask) and parameter.dtype == dtype
    assert not any(p.requires_grad or p.grad is not None for p in piece.parameters())


@pytest.mark.slow
def test_norms_train_too_and_the_same_seed_gives_the_same_bits():
    results = []
    for seed in (1, 1, 2):
        piece, masks, problem = case()
        before = weights(piece)
        solve(
            piece, masks, problem, Solver("gradient", epochs=1, batch=4, lr=1e-2, train="masklora", rank=2), seed=seed
        )
        results.append(weights(piece))
        assert all(not torch.equal(value, before[name]) for name, value in results[-1].items())
    assert all(torch.equal(value, results[1][name]) for name, value in results[0].items())
    assert not torch.equal(results[0]["mlp.up_proj.weight"], results[2]["mlp.up_proj.weight"])


@pytest.mark.slow
def test_the_best_epoch_is_kept_with_its_merged_weights():
    piece, masks, problem = case(count=4)
    held_out = block_problem(small_llama(), "other", seed=9)
    steps = solve(
        piece,
        masks,
        problem,
        Solver("gradient", epochs=20, batch=2, lr=5e-2, train="masklora", rank=8, select="held-out"),
        validation=held_out,
    )
    errors = [step.error for step in steps if step.split == "other"]
    assert min(errors) < errors[-1]
    assert unit_error(piece, held_out)[0] == pytest.approx(min(errors), rel=1e-6)
    assert all(torch.equal(parameter != 0, mask) for parameter, mask in masks.items())


@pytest.mark.slow
def test_transposed_matrices_of_gpt2():
    """`Conv1D` layouts, biases: masks in the parameter's own layout, no zero changes, the error falls."""
    dense, model = tiny("gpt2"), tiny("gpt2")
    piece = block_piece(model)
    recording = record(dense, anatomy(dense), windows(6, vocabulary=60))
    targets = advance([anatomy(dense).blocks[0].module], 0, recording, recording.hidden)
    masks = pruned(piece)
    problem = Problem("calibration", recording.hidden, targets, recording)
    steps = solve(piece, masks, problem, Solver("gradient", epochs=15, batch=3, lr=1e-2, train="masklora", rank=4))
    assert all(matrix.transposed for matrix in piece.matrices.values())
    assert steps[-1].error < 0.8 * steps[0].error
    assert all(torch.equal(parameter != 0, mask) for parameter, mask in masks.items())
