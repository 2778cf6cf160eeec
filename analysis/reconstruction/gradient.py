"""The gradient solver: what a piece may train follows the dense outputs, or, for the whole model, the text itself.

Shin et al. 2024, section 2 (BR, GP, CR) and appendix A (optimiser): mean squared error over all elements, Adam without
weight decay or clipping, learning rate linear to zero within the unit, batches of shuffled windows. Retraining
(2510.14444) is the same loop over the whole model with another loss.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor, nn

from analysis import distributed
from analysis.errors import NumericalError, UsageError
from analysis.models.logits import SplitModel
from analysis.recipe.parts import Solver
from analysis.reconstruction.adapters import MaskLoRA, adapting, mask_lora
from analysis.reconstruction.arithmetic import autocasting, products
from analysis.reconstruction.losses import LOSSES, counted, hidden_states, mse, over_vocabulary, weight
from analysis.reconstruction.schedule import looks
from analysis.reconstruction.targets import Problem
from analysis.reconstruction.units import Piece
from analysis.streams.streams import chunks


@dataclass(frozen=True)
class Step:
    """How far the piece is from its targets after `epoch` epochs; epoch 0 is before the first step.

    error: mean squared error, whatever loss is trained on; for retraining, the loss itself (nats per token; of
    objective=hidden, mixed with the states' mean squared error). relative_error: divided by the target's mean square;
    NaN for retraining. On calibration windows both are means over the epoch's steps, and with select=calibration, like
    everything on other windows, taken at the epoch's end.
    """

    epoch: int
    step: int
    split: str
    error: float
    relative_error: float


@dataclass(frozen=True)
class Trained:
    """What training a piece left to report: the error epoch by epoch, and the bytes held at once for it, see
    `held_bytes`.
    """

    steps: list[Step]
    held: int


@torch.no_grad()
def unit_error(piece: Piece, problem: Problem, objective: str | None = None) -> tuple[float, float]:
    """Mean squared error of a piece on all windows of a problem, and the mean square of its targets.

    With an objective ("ce", "distill" or "hidden"): that loss, and NaN. Raises UsageError where no token counts.
    """
    error = scale = tokens = 0.0
    windows, length = problem.inputs.shape[:2]
    for rows in distributed.own(chunks(windows, length, _device(piece))):
        output, targets, mask = _run(piece, problem, rows)
        count = counted(objective or "mse", problem.mask[rows])
        error += float(_loss(objective or "mse", piece, problem, rows, output, targets, mask)) * count
        scale += math.nan if objective else float(mse(targets, targets.new_zeros(()), mask)) * count
        tokens += count
    error, scale, tokens = distributed.total(error, scale, tokens)
    if not tokens:
        raise UsageError(f"{piece.name}: no real token to compare on in {problem.label!r}; give longer windows")
    return error / tokens, scale / tokens


def reconstruct(
    piece: Piece,
    masks: Mapping[nn.Parameter, Tensor],
    calibration: Problem,
    held_out: Sequence[Problem],
    solver: Solver,
    generator: torch.Generator,
    *,
    validation: Problem | None = None,
    every: int | str = 1,
) -> Trained:
    """Train what `solver.train` names of a piece, in place, on the calibration problem.

    masks: parameter -> bool of the parameter's own shape, True = kept. Pruned entries enter as zero and stay exactly
    zero: their gradient is zeroed, so Adam's moments and steps are zero for them, which equals multiplying by the mask
    in the forward. Arithmetic is float32 whatever the model's dtype,
    its products as `solver.compute` says (`arithmetic.py`). generator: of the windows' order and of MaskLoRA's
    start. With `solver.select` the epoch of the lowest calibration error, or ("held-out") of the lowest error on the
    `validation` problem, is kept, epoch 0 included. every: how often the held-out problems, which decide nothing, are
    looked at (`schedule.looks`). Raises NumericalError when the loss or a result is not finite, UsageError when
    selection has nothing to select on or the rank of MaskLoRA is above a matrix's smaller side.
    """
    if solver.select == "held-out" and validation is None:
        raise UsageError("select=held-out needs windows to select on; give validation windows, or use select=last")
    judged = [] if validation is None else [validation]
    piece = autocasting(piece, solver.compute, _device(piece))
    with _in_float32(piece), products(solver.compute, _device(piece)):
        parameters = piece.trainable(solver.train)
        if not parameters and solver.train == "norms-biases":
            raise UsageError(
                f"train=norms-biases: {piece.name} has neither norms nor biases; choose another unit, or train=masklora"
            )
        adapters = (
            mask_lora(piece.matrices, masks, solver.rank, solver.alpha, generator) if solver.train == "masklora" else []
        )
        for parameter in parameters:
            parameter.requires_grad_(True)
        with adapting(adapters):
            held = held_bytes(piece, adapters, [calibration, *judged, *held_out], solver)
            steps = _train(piece, parameters, adapters, masks, calibration, judged, held_out, solver, generator, every)
    for parameter in piece.parameters():
        if not bool(torch.isfinite(parameter).all()):
            raise NumericalError(
                f"{_work(piece, solver)}: a result is not finite in {parameter.dtype}; lower lr (now {solver.lr:g})"
            )
    return Trained(steps, held)


def held_bytes(piece: Piece, adapters: Sequence[MaskLoRA], problems: Sequence[Problem], solver: Solver) -> int:
    """Bytes that training holds at once, counted rather than measured, so that they mean the same on every device.

    The piece's parameters; gradient and Adam's two moments of what is trained; adapters; everything autograd saves in
    the forward of one batch, with the targets of that batch where they are computed anew; and inputs and targets of all
    windows where they are kept.
    """
    weights = piece.parameters()
    trained = [p for p in weights if p.requires_grad and not any(p is adapter.matrix.parameter for adapter in adapters)]
    low_rank = [tensor for adapter in adapters for tensor in adapter.parameters]
    adapter_tensors = [*low_rank, *(tensor for adapter in adapters for tensor in (adapter.start, adapter.kept))]
    whole_problems = [x for problem in problems for x in (problem.inputs, problem.targets) if isinstance(x, Tensor)]
    activations: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        activations[storage.data_ptr()] = storage.nbytes()
        return tensor.detach()  # an output saved with its own history would keep itself alive for ever

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        rows = slice(0, solver.batch)
        output, targets, mask = _run(piece, problems[0], rows)
        name = solver.objective if solver.name == "retrain" else solver.loss
        loss = _loss(name, piece, problems[0], rows, output, targets, mask)
    for tensor in (*whole_problems, *(x for host in piece.hosts for x in (*host.parameters(), *host.buffers()))):
        activations.pop(tensor.untyped_storage().data_ptr(), None)
    tokens = output.shape[0] * output.shape[1]
    batch = targets.nbytes if callable(problems[0].targets) and problems[0].head is None else 0
    if problems[0].head is not None:
        batch += _logits_nbytes(problems[0].head, tokens)
    if piece.head is not None and tokens > piece.head.portion:  # made portion by portion, nothing of them saved
        batch += _logits_nbytes(piece.head, tokens)
    del output, loss
    return (
        sum(activations.values())
        + batch
        + sum(x.nbytes for x in (*weights, *adapter_tensors, *whole_problems))
        + 3 * sum(x.nbytes for x in (*trained, *low_rank))
    )


def _logits_nbytes(head: SplitModel, tokens: int) -> int:
    return min(tokens, head.portion) * head.vocabulary * torch.float32.itemsize


def learning_rate(solver: Solver, step: int, total: int) -> float:
    """The rate of step 0 ... total - 1: linear up over the first `warmup` share (no step at rate 0), then linear to 0
    after the last.
    """
    rising = round(solver.warmup * total)
    if step < rising:
        return solver.lr * (step + 1) / (rising + 1)
    return solver.lr * (total - step) / (total - rising)


@dataclass(eq=False)
class _Best:
    """The epoch with the lowest error so far, and the parameters it had."""

    parameters: list[nn.Parameter]
    error: float = math.inf
    epoch: int = 0
    values: list[Tensor] = field(default_factory=list)

    def offer(self, epoch: int, error: float) -> None:
        if error < self.error:
            self.error, self.epoch, self.values = (
                error,
                epoch,
                [parameter.detach().clone() for parameter in self.parameters],
            )

    @torch.no_grad()
    def restore(self) -> None:
        for parameter, value in zip(self.parameters, self.values, strict=True):
            parameter.copy_(value)


def _train(
    piece: Piece,
    parameters: list[nn.Parameter],
    adapters: list[MaskLoRA],
    masks: Mapping[nn.Parameter, Tensor],
    calibration: Problem,
    judged: Sequence[Problem],
    held_out: Sequence[Problem],
    solver: Solver,
    generator: torch.Generator,
    every: int | str,
) -> list[Step]:
    """judged: the problem that the epoch is selected on, looked at after every epoch, where there is one."""
    objective = solver.objective if solver.name == "retrain" else None
    optimised = [*parameters, *(tensor for adapter in adapters for tensor in adapter.parameters)]
    changed = [*parameters, *dict.fromkeys(adapter.matrix.parameter for adapter in adapters)]
    pruned = [(parameter, masks[parameter]) for parameter in parameters if parameter in masks]
    fused = _device(piece).type in ("cpu", "cuda")
    optimiser = torch.optim.Adam(
        optimised, lr=solver.lr, betas=(solver.beta1, solver.beta2), eps=solver.eps, fused=fused
    )
    per_epoch = math.ceil(len(calibration) / solver.batch)
    total = per_epoch * solver.epochs

    def update(step: int) -> None:
        for parameter, kept in pruned:
            if parameter.grad is not None:
                parameter.grad.mul_(kept)
        if solver.clip:
            nn.utils.clip_grad_norm_(optimised, solver.clip)
        optimiser.param_groups[0]["lr"] = learning_rate(solver, step, total)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        for adapter in adapters:
            adapter.put()

    def row(epoch: int, problem: Problem, error: float, scale: float) -> Step:
        return Step(epoch, epoch * per_epoch, problem.label, error, error / scale if scale > 0 else math.nan)

    error, scale = unit_error(piece, calibration, objective)
    best, steps = _Best(changed), []
    for epoch in range(solver.epochs + 1):
        if epoch:
            order = (
                torch.randperm(len(calibration), generator=generator)
                if solver.shuffle
                else torch.arange(len(calibration))
            )
            batches, first = order.split(solver.batch), (epoch - 1) * per_epoch
            error = _epoch(piece, calibration, batches, solver, objective, update, first, optimised)
            if not math.isfinite(error):
                raise NumericalError(
                    f"{_work(piece, solver)}: the loss is not finite in epoch {epoch}; lower lr (now {solver.lr:g})"
                )
            if solver.select == "calibration":
                error, _ = unit_error(piece, calibration, objective)
        rows = [
            row(epoch, calibration, error, scale),
            *(row(epoch, problem, *unit_error(piece, problem, objective)) for problem in judged),
        ]
        if solver.select != "last":
            chosen = rows[0 if solver.select == "calibration" else 1]
            best.offer(epoch, chosen.error if math.isnan(chosen.relative_error) else chosen.relative_error)
        last = epoch == solver.epochs or 0 < solver.patience <= epoch - best.epoch
        if looks(every, epoch, last):
            rows += [row(epoch, problem, *unit_error(piece, problem, objective)) for problem in held_out]
        for bad in (found for found in rows if not math.isfinite(found.error)):
            where = f"the error on {bad.split!r} is not finite after epoch {epoch}"
            raise NumericalError(
                f"{_work(piece, solver)}: {where}; look at the unit's inputs and at lr (now {solver.lr:g})"
            )
        steps += rows
        if last:
            break
    if solver.select != "last":
        best.restore()
    return steps


def _epoch(
    piece: Piece,
    problem: Problem,
    batches: Sequence[Tensor],
    solver: Solver,
    objective: str | None,
    update: Callable[[int], None],
    first: int,
    trained: Sequence[Tensor],
) -> float:
    """One pass over the batches with an update of what is trained after each, the first of them step `first`.

    Returns the mean error; NaN or infinity where a loss was not finite.
    """
    train, measure = objective or solver.loss, objective or "mse"
    sums, tokens = torch.zeros(2, device=_device(piece)), 0
    for step, rows in enumerate(batches, first):
        count = counted(measure, problem.mask[rows])
        backward = _backward if distributed.world() == 1 else partial(_shared_backward, trained=trained)
        sums += backward(piece, problem, rows, train, measure) * count
        tokens += count
        update(step)
    loss, error = (sums / tokens).tolist()
    return error if math.isfinite(loss) else loss


def _backward(piece: Piece, problem: Problem, rows: Tensor, train: str, measure: str) -> Tensor:
    """Leave the gradients of the loss `train` on some windows; returns (2,) that loss and the loss `measure`."""
    output, targets, mask = _run(piece, problem, rows)
    loss = _loss(train, piece, problem, rows, output, targets, mask)
    loss.backward()
    with torch.no_grad():
        return torch.stack([loss, loss if train == measure else LOSSES[measure](output, targets, mask)])


def _shared_backward(
    piece: Piece, problem: Problem, rows: Tensor, train: str, measure: str, trained: Sequence[Tensor]
) -> Tensor:
    """`_backward` with the windows split over the ranks: what each finds is weighed by its tokens, so that every rank
    is left with the gradients and losses of all windows. A parameter that no rank's windows reach is left without.
    """
    mine = rows[distributed.rank() :: distributed.world()]
    sums = torch.zeros(4, dtype=torch.float64, device=_device(piece))  # of both losses, and of their weights
    if bool((mask := problem.mask[mine]).any()):
        output, targets, real = _run(piece, problem, mine)
        weights = weight(train, targets, mask), counted(measure, mask)
        loss = _loss(train, piece, problem, mine, output, targets, real)
        (loss * weights[0]).backward()
        with torch.no_grad():
            other = loss if train == measure else LOSSES[measure](output, targets, real)
            both = torch.stack([loss, other]).double()
            sums = torch.cat([both * both.new_tensor(weights), both.new_tensor(weights)])
    reached = torch.tensor([float(tensor.grad is not None) for tensor in trained], device=_device(piece))
    distributed.add_up(sums, reached)
    for tensor, ranks in zip(trained, reached.tolist(), strict=True):
        if ranks:
            tensor.grad = torch.zeros_like(tensor) if tensor.grad is None else tensor.grad
            distributed.add_up(tensor.grad)
            tensor.grad.div_(sums[2])
    return sums[:2] / sums[2:]


def _loss(
    name: str, piece: Piece, problem: Problem, rows, output: Tensor, targets: Tensor, mask: Tensor | None
) -> Tensor:
    """A loss of a piece's output on some windows, which of the whole model is what its head reads."""
    if piece.head is None:
        return LOSSES[name](output, targets, mask)
    if name == "hidden":
        return hidden_states(output, targets, problem.inputs[rows].to(output.device), mask, piece.head, problem.mix)
    return over_vocabulary(name, output, targets, mask, piece.head, problem.head)


def _run(piece: Piece, problem: Problem, rows) -> tuple[Tensor, Tensor, Tensor | None]:
    """Output and targets (B, T, ...) of some windows on the piece's device, and their mask (None where all tokens are
    real).
    """
    device = _device(piece)
    mask = problem.mask[rows]
    with torch.no_grad():
        targets = problem.targets(rows) if callable(problem.targets) else problem.targets[rows]
    inputs, targets = (
        x.to(device, torch.float32 if x.is_floating_point() else x.dtype) for x in (problem.inputs[rows], targets)
    )
    return piece.run(problem.recording, inputs, rows), targets, None if bool(mask.all()) else mask.to(device)


def _device(piece: Piece) -> torch.device:
    return piece.parameters()[0].device


def _work(piece: Piece, solver: Solver) -> str:
    return f"{'retraining' if solver.name == 'retrain' else 'gradient reconstruction'} of {piece.name}"


@contextmanager
def _in_float32(piece: Piece) -> Iterator[None]:
    """While open, the piece's hosts are in float32, nothing of them asking for a gradient; then each tensor gets its
    own dtype back.
    """
    tensors = [
        tensor for host in piece.hosts for tensor in (*host.parameters(), *host.buffers()) if tensor.is_floating_point()
    ]
    dtypes = [tensor.dtype for tensor in tensors]
    for tensor in tensors:
        tensor.requires_grad_(False)
        tensor.data = tensor.data.float()
    try:
        yield
    finally:
        for tensor, dtype in zip(tensors, dtypes, strict=True):
            tensor.requires_grad_(False)
            tensor.grad = None
            tensor.data = tensor.data.to(dtype)
