"""The gradient solver against a plain reference that multiplies by the mask in the forward."""

import copy
import math

import pytest
import torch
from torch.func import functional_call

from analysis.errors import NumericalError, UsageError
from analysis.models.anatomy import anatomy
from analysis.models.replay import HIDDEN, record, run
from analysis.recipe import Solver
from analysis.reconstruction.gradient import Problem, reconstruct, unit_error
from analysis.reconstruction.streams import advance
from tests.small import small_llama, windows


def _problem(model, label="calibration", seed=0, count=10, padded=False):
    parts = anatomy(model)
    recording = record(model, parts, windows(count, seed=seed, padded=padded))
    targets = advance([parts.blocks[0].module], 0, recording, recording.hidden)
    return Problem(label, 0, recording.hidden, targets, recording)


def _pruned_block(model, seed=3):
    """A copy of block 0 with half of each matrix zeroed, and the masks."""
    block = copy.deepcopy(anatomy(model).blocks[0].module)
    generator = torch.Generator().manual_seed(seed)
    masks = {}
    for module in block.modules():
        if isinstance(module, torch.nn.Linear):
            masks[module.weight] = torch.rand(module.weight.shape, generator=generator) > 0.5
            module.weight.data *= masks[module.weight]
    return block, masks


def _reference(block, masks, problem, solver, seed):
    """Mask times weight in the forward, torch's AdamW without decay, float64."""
    by_name = {name: masks.get(parameter) for name, parameter in block.named_parameters()}
    block = copy.deepcopy(block).double()
    parameters = {name: p.detach().requires_grad_(True) for name, p in block.named_parameters()}
    optimiser = torch.optim.AdamW(parameters.values(), lr=solver.lr, betas=(solver.beta1, solver.beta2), eps=solver.eps, weight_decay=0)
    steps = math.ceil(len(problem) / solver.batch) * solver.epochs
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda k: (steps - k) / steps)
    generator = torch.Generator().manual_seed(seed)
    real = problem.recording.mask
    for _ in range(solver.epochs):
        for rows in torch.randperm(len(problem), generator=generator).split(solver.batch):
            call = problem.recording.call(0, rows)
            kwargs = {k: tuple(t.double() for t in v) if isinstance(v, tuple) else v for k, v in call.kwargs.items()}
            effective = {n: p if by_name[n] is None else p * by_name[n] for n, p in parameters.items()}
            args = tuple(problem.inputs[rows].double() if value is HIDDEN else value for value in call.args)
            output = functional_call(block, effective, args, kwargs)
            output = output[0] if isinstance(output, tuple) else output
            difference = (output - problem.targets[rows].double())[real[rows]]
            optimiser.zero_grad()
            difference.square().mean().backward()
            optimiser.step()
            schedule.step()
    return {n: (p if by_name[n] is None else p * by_name[n]).detach() for n, p in parameters.items()}


@pytest.mark.parametrize("padded", [False, True])
def test_equals_masking_in_the_forward(padded):
    model = small_llama()
    problem = _problem(model, padded=padded)
    block, masks = _pruned_block(model)
    solver = Solver("gradient", epochs=3, batch=4, lr=1e-3)
    expected = _reference(block, masks, problem, solver, seed=5)
    reconstruct([block], masks, problem, [], solver, torch.Generator().manual_seed(5))
    for name, parameter in block.named_parameters():
        # Adam's first steps have size lr whatever the gradient's, so float32 rounding shows at that scale
        torch.testing.assert_close(parameter.double(), expected[name], atol=2e-5, rtol=1e-4, msg=lambda m, n=name: f"{n}: {m}")


def test_error_falls_and_zeros_stay():
    model = small_llama()
    problem = _problem(model)
    block, masks = _pruned_block(model)
    before, _ = unit_error([block], problem)
    steps = reconstruct([block], masks, problem, [], Solver("gradient", epochs=20, batch=4, lr=5e-3), torch.Generator().manual_seed(0))
    after, scale = unit_error([block], problem)
    assert after < 0.5 * before
    assert steps[0].error == pytest.approx(before, rel=1e-5)
    assert steps[-1].relative_error == pytest.approx(steps[-1].error / scale, rel=1e-5)
    for parameter, mask in masks.items():
        assert torch.equal(parameter != 0, mask)
    assert not any(p.requires_grad or p.grad is not None for p in block.parameters())


def test_held_out_selection_keeps_the_best_epoch():
    model = small_llama()
    problem, held_out = _problem(model, count=4), _problem(model, "other", seed=9)
    block, masks = _pruned_block(model)
    solver = Solver("gradient", epochs=30, batch=2, lr=3e-2, select="held-out")
    steps = reconstruct([block], masks, problem, [held_out], solver, torch.Generator().manual_seed(0))
    best = min(step.error for step in steps if step.split == "other")
    assert unit_error([block], held_out)[0] == pytest.approx(best, rel=1e-5)
    assert best < steps[-1].error or steps[-1].split == "other" and best <= steps[-1].error


def test_selection_without_held_out_is_refused():
    model = small_llama()
    block, masks = _pruned_block(model)
    with pytest.raises(UsageError, match="held-out"):
        reconstruct([block], masks, _problem(model), [], Solver("gradient", select="held-out"), torch.Generator())


def test_divergence_is_an_error_that_names_the_unit():
    model = small_llama()
    problem = _problem(model)
    block, masks = _pruned_block(model)
    with pytest.raises(NumericalError, match="blocks 0-0.*lr"):
        reconstruct([block], masks, problem, [], Solver("gradient", epochs=3, lr=1e30), torch.Generator().manual_seed(0))
    assert not any(p.requires_grad for p in block.parameters())


def test_padding_does_not_enter_the_loss():
    model = small_llama()
    problem = _problem(model, padded=True)
    block, _ = _pruned_block(model)
    error, scale = unit_error([block], problem)
    output = run(block, problem.inputs, problem.recording.call(0, slice(None)))
    real = problem.recording.mask
    assert error == pytest.approx(float((output - problem.targets)[real].double().square().mean()), rel=1e-5)
    assert scale == pytest.approx(float(problem.targets[real].double().square().mean()), rel=1e-5)


def test_half_precision_blocks_are_solved_in_float32():
    model = small_llama(dtype=torch.bfloat16)
    problem = _problem(model)
    block, masks = _pruned_block(model)
    before = unit_error([copy.deepcopy(block).float()], problem)[0]
    reconstruct([block], masks, problem, [], Solver("gradient", epochs=10, lr=5e-3), torch.Generator().manual_seed(0))
    assert {p.dtype for p in block.parameters()} == {torch.bfloat16}
    assert unit_error([copy.deepcopy(block).float()], problem)[0] < before
    assert all(bool((parameter[~mask] == 0).all()) for parameter, mask in masks.items())
