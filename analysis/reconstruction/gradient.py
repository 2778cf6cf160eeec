"""Gradient reconstruction of one unit: its kept weights, biases and norms follow the dense unit's outputs.

Shin et al. 2024, section 2 (BR, GP, CR) and appendix A (optimiser): mean squared error over all elements, Adam without weight
decay or clipping, learning rate linear to zero within the unit, batches of shuffled windows.
"""

import copy
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from analysis.errors import NumericalError, UsageError
from analysis.models.replay import Recording
from analysis.recipe import Solver
from analysis.reconstruction.streams import chunks, unit_output


@dataclass(eq=False)
class Problem:
    """Student inputs and target outputs of one unit on one set of windows, each (N, T, H)."""

    label: str
    first: int
    inputs: Tensor
    targets: Tensor
    recording: Recording

    def __len__(self) -> int:
        return self.inputs.shape[0]


@dataclass(frozen=True)
class Step:
    """Error of the unit's output after `epoch` epochs: mean squared error, and relative to the target's mean square.

    On calibration windows it is the mean over the epoch's steps (the training loss); on held-out windows it is taken at the
    epoch's end. Epoch 0 is before the first step.
    """

    epoch: int
    step: int
    split: str
    error: float
    relative_error: float


def mean_square(x: Tensor, mask: Tensor | None) -> Tensor:
    """Mean of squares of x (B, T, H) over hidden units and the tokens where mask (B, T) is True (None: all)."""
    if mask is None:
        return x.square().mean()
    return (x.square().sum(dim=-1) * mask).sum() / (mask.sum() * x.shape[-1])


def _batch(problem: Problem, rows, device: torch.device) -> tuple[Tensor, Tensor, Tensor | None]:
    mask = problem.recording.mask[rows]
    return (
        problem.inputs[rows].to(device, torch.float32),
        problem.targets[rows].to(device, torch.float32),
        None if bool(mask.all()) else mask.to(device),
    )


@torch.no_grad()
def unit_error(modules: Sequence[nn.Module], problem: Problem) -> tuple[float, float]:
    """Mean squared error of the unit's output on all windows of a problem, and the mean square of the target."""
    device = next(modules[0].parameters()).device
    error = scale = elements = 0.0
    for rows in chunks(*problem.inputs.shape[:2], device):
        inputs, targets, mask = _batch(problem, rows, device)
        count = targets.numel() if mask is None else int(mask.sum()) * targets.shape[-1]
        output = unit_output(modules, problem.first, problem.recording, inputs, rows)
        error += float(mean_square(output - targets, mask)) * count
        scale += float(mean_square(targets, mask)) * count
        elements += count
    return error / elements, scale / elements


def trainable(modules: Sequence[nn.Module]) -> list[nn.Parameter]:
    """What the solver trains: every floating parameter of the unit's blocks (weights, biases, norms)."""
    return [p for module in modules for p in module.parameters() if p.is_floating_point()]


def reconstruct(
    modules: Sequence[nn.Module],
    masks: dict[nn.Parameter, Tensor],
    calibration: Problem,
    held_out: Sequence[Problem],
    solver: Solver,
    generator: torch.Generator,
) -> list[Step]:
    """Train the blocks `modules` in place to follow the calibration targets; returns the error epoch by epoch.

    masks: parameter -> bool of the parameter's own shape, True = kept. Pruned entries enter as zero and stay exactly zero:
    their gradient is zeroed, so Adam's moments and steps are zero for them, which equals multiplying by the mask in the forward.
    Arithmetic is float32 whatever the model's dtype. With `solver.select == "held-out"` the epoch of the lowest mean relative
    held-out error is kept (epoch 0 included), which makes those windows a validation set.
    Raises NumericalError when the loss is not finite, UsageError when selection has nothing to select on.
    """
    if solver.select == "held-out" and not held_out:
        raise UsageError("select=held-out needs at least one held-out source to select on; give one, or use select=last")
    dtype = next(modules[0].parameters()).dtype
    parameters = trainable(modules)
    for module in modules:
        module.float()
        module.requires_grad_(True)
    try:
        steps = list(_train(modules, parameters, masks, calibration, held_out, solver, generator))
    finally:
        for module in modules:
            module.requires_grad_(False)
            module.zero_grad(set_to_none=True)
            module.to(dtype)
    return steps


def _train(modules, parameters, masks, calibration, held_out, solver, generator) -> Iterator[Step]:
    device = parameters[0].device
    optimiser = torch.optim.Adam(parameters, lr=solver.lr, betas=(solver.beta1, solver.beta2), eps=solver.eps, fused=device.type in ("cpu", "cuda"))
    per_epoch = math.ceil(len(calibration) / solver.batch)
    total = per_epoch * solver.epochs
    error, scale = unit_error(modules, calibration)
    yield Step(0, 0, calibration.label, error, error / scale)
    best, best_error = None, math.inf

    def held_out_steps(epoch: int) -> list[Step]:
        nonlocal best, best_error
        errors = [(p.label, *unit_error(modules, p)) for p in held_out]
        rows = [Step(epoch, epoch * per_epoch, label, error, error / scale) for label, error, scale in errors]
        if solver.select == "held-out":
            mean = sum(row.relative_error for row in rows) / len(rows)
            if mean < best_error:
                best, best_error = copy.deepcopy([module.state_dict() for module in modules]), mean
        return rows

    yield from held_out_steps(0)
    for epoch in range(1, solver.epochs + 1):
        loss_sum = torch.zeros((), device=device)
        order = torch.randperm(len(calibration), generator=generator)
        for batch, rows in enumerate(order.split(solver.batch)):
            step = (epoch - 1) * per_epoch + batch
            for group in optimiser.param_groups:
                group["lr"] = solver.lr * (total - step) / total
            inputs, targets, mask = _batch(calibration, rows, device)
            loss = mean_square(unit_output(modules, calibration.first, calibration.recording, inputs, rows) - targets, mask)
            loss.backward()
            for parameter, kept in masks.items():
                parameter.grad.mul_(kept)
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
            loss_sum += loss.detach() * len(rows)
        error = float(loss_sum) / len(calibration)
        if not math.isfinite(error):
            last = calibration.first + len(modules) - 1
            raise NumericalError(
                f"gradient reconstruction of blocks {calibration.first}-{last}: the loss is not finite in epoch {epoch}; lower lr (now {solver.lr:g})"
            )
        yield Step(epoch, epoch * per_epoch, calibration.label, error, error / scale)
        yield from held_out_steps(epoch)
    if best is not None:
        for module, state in zip(modules, best, strict=True):
            module.load_state_dict(state)
