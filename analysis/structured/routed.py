"""Repairs of the sum of a block's experts where its Gram matrix is too large to be made (`experts.LARGEST`).

As in `experts.py`, z (E w,) are the activations that the last projections of E experts read, w each, times the gate
weights; W z is what they make, y what they should. `liar` is the step D of W' = W + D that minimises

    mean |y - (W + D) z|^2 + penalty (mean diagonal of Z'Z) |D|^2 / tokens,

the very ridge regression of `repair.py`. Its normal equations D (Z'Z + shift) = (Y - W Z)'Z are solved by conjugate
gradients, every output a system of its own, preconditioned by the factors of each expert's own Gram matrix (w, w).
Z'Z is never made: a product with it runs over the tokens, and an expert costs only those that go to it. In memory are
the activations, one row for each token and expert it goes to (float32; in a temporary file where they are more than a
tenth of what is free), each expert's own Gram matrix and its factor, and six matrices like W, in float64. `compensate`
is the mean of y - W z and keeps no activations.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from analysis.errors import NumericalError
from analysis.masks.damping import LEAST
from analysis.masks.notes import FEW_TOKENS, Note
from analysis.models.anatomy import Block
from analysis.models.experts import expert_count
from analysis.models.fewer_experts import inner_width
from analysis.models.replay import Recording
from analysis.streams.streams import allocate
from analysis.structured.experts import gated_inputs, visited, weights_side_by_side
from analysis.structured.repair import Repaired

CLOSE = 1e-8  # preconditioned residual of every output, relative to that of no step, at which it is solved
STEPS = 500  # conjugate gradient steps at most
EASE = 1e-8  # of an expert's mean diagonal, added where its own Gram matrix is factorised


@dataclass(frozen=True, eq=False)
class RoutedSums:
    """What is known of e = y - W z over N real tokens, e (H,) what the experts lack, float64, and z itself.

    chunks   of tokens: how many they are, and of each expert the rows (n,) among them that go to it
             with their z (n, w), float32
    cross    (H, E w) sum of e z^T
    own      (E, w, w) sum of z z^T of each expert alone
    missing  (H,) sum of e; energy (H,) sum of e^2; wanted, sum of (y - b)^2 over all
             outputs, b the experts' biases times the gate weights
    away     largest difference of a token's gate weights' sum from one
    """

    chunks: list[tuple[int, list[tuple[Tensor, Tensor]]]]
    cross: Tensor
    own: Tensor
    missing: Tensor
    energy: Tensor
    wanted: float
    tokens: int
    away: float

    @property
    def level(self) -> float:
        """Mean diagonal of Z'Z."""
        return float(self.own.diagonal(dim1=1, dim2=2).mean())

    @property
    def nbytes(self) -> int:
        """Bytes of all that is kept."""
        kept = [part for _, experts in self.chunks for pair in experts for part in pair]
        return sum(part.nbytes for part in (*kept, self.cross, self.own, self.missing, self.energy))

    def times(self, step: Tensor) -> Tensor:
        """D Z'Z of D (H, E w)."""
        out = torch.zeros_like(step)
        for count, experts in self.chunks:
            made = step.new_zeros(count, len(step))
            given = [(place, rows, z.to(step.device).double()) for place, rows, z in self._placed(experts)]
            for place, rows, z in given:
                made[rows] += z @ step[:, place].T
            for place, rows, z in given:
                out[:, place] += made[rows].T @ z
        return out

    def lost(self, step: Tensor) -> float:
        """Sum over tokens and outputs of (e - D z)^2."""
        return float(self.energy.sum() - 2 * (step * self.cross).sum() + (self.times(step) * step).sum())

    def _placed(self, experts: list[tuple[Tensor, Tensor]]) -> Iterator[tuple[slice, Tensor, Tensor]]:
        width = self.own.shape[1]
        for expert, (rows, z) in enumerate(experts):
            if len(rows):
                yield slice(expert * width, (expert + 1) * width), rows, z


@torch.inference_mode()
def routed_sums(
    pruned: Block,
    module: nn.Module,
    dense: Block,
    recording: Recording,
    hidden: Tensor,
    source: Tensor,
    *,
    keep: bool = True,
) -> RoutedSums:
    """The sums of one text; arguments and errors as those of `experts.expert_sums`. keep: False where only means are
    asked for: no activations, no products of them.
    """
    count, width, weight = expert_count(module), inner_width(module), weights_side_by_side(module).double()
    cross, own = (
        torch.zeros_like(weight),
        weight.new_zeros(count, width, width) if keep else weight.new_zeros(count, 0, 0),
    )
    missing, energy = weight.new_zeros(2, len(weight))
    chunks: list[tuple[int, list[tuple[Tensor, Tensor]]]] = []
    wanted, away, tokens, filled, kept = 0.0, 0.0, 0, 0, None
    for call, real, target in visited(pruned, module, dense, recording, hidden, source):
        target, places = target[real], real.cumsum(0) - 1
        if keep and kept is None:
            most = int(recording.counts.sum()) * call.experts.shape[1]
            kept = allocate((most, width), torch.float32, weight.device)
        made, experts = torch.zeros_like(target), []
        for expert in range(count):
            rows, z, fixed = gated_inputs(call, expert, real)
            z, rows = z.float(), places[rows]
            target[rows] -= fixed
            made[rows] += z.double() @ weight[:, expert * width : (expert + 1) * width].T
            if kept is not None:
                stored = kept[filled : filled + len(rows)].copy_(z)
                filled += len(rows)
                experts.append((rows, stored))
        lack = target - made
        for expert, (rows, z) in enumerate(experts):
            exact = z.to(lack.device).double()
            cross[:, expert * width : (expert + 1) * width] += lack[rows].T @ exact
            own[expert] += exact.T @ exact
        chunks += [(len(target), experts)] * keep
        missing += lack.sum(0)
        energy += lack.square().sum(0)
        wanted += float(target.square().sum())
        away = max(away, float((call.weights.sum(1)[real] - 1).abs().max()))
        tokens += len(target)
    if not bool(energy.isfinite().all()):
        raise NumericalError(
            f"repair: what {pruned.name}'s experts lack is not finite; load the model in float32 or bfloat16, or look"
            " at the calibration text"
        )
    return RoutedSums(chunks, cross, own, missing, energy, wanted, tokens, away)


def repair_routed(
    method: str,
    weight: Tensor,
    sums: RoutedSums,
    *,
    penalties: Sequence[float] = (0.0,),
    held_out: Sequence[RoutedSums] = (),
    name: str,
) -> Repaired:
    """Repair W, the last projections side by side (H, E w), by "bias" or "liar"; as `repair.repair` in what comes back,
    chosen by held-out loss, and left as it was where nothing is won.

    Recorded beside what is there: "conjugate gradients" (how many steps), and "not converged" (the largest relative
    residual of an output) where as many as are allowed were not enough.
    """
    outputs, dense = len(weight), weight.double()
    before = _mean(float(sums.energy.sum()), sums)
    if method == "bias":
        bias = sums.missing / sums.tokens
        after = before - float(bias.square().mean())
        return Repaired(weight, bias.to(weight.dtype), before, after, None, _mean(sums.wanted, sums), None, None, ())
    tried = []
    for penalty in penalties:
        damped = penalty == 0 and sums.tokens <= weight.shape[1]  # Z'Z is singular, as `repair.py` would find
        penalty = LEAST if damped else penalty
        step, notes = _solved(sums, penalty * (sums.level or 1.0))
        notes += [Note("damping", penalty)] * damped
        repaired = (dense + step).to(weight.dtype)
        moved = repaired.double() - dense
        after = _mean(sums.lost(moved), sums)
        judged = [_mean(sum(one.lost(moved) for one in held_out), *held_out)] if held_out else []
        tried.append((judged[-1] if judged else after, after, penalty, repaired, notes))
    chosen, after, penalty, repaired, notes = min(tried, key=lambda one: one[0])
    few = [Note(FEW_TOKENS, float(sums.tokens))] * (sums.tokens <= weight.shape[1])
    found = [Note("through the origin", float(outputs)), *few, *notes]
    if not after <= before:
        repaired, after, found = weight, before, [*found, Note("kept plain mask", float(outputs))]
        chosen = _mean(sum(float(one.energy.sum()) for one in held_out), *held_out) if held_out else after
    judged_loss = chosen if held_out else None
    return Repaired(repaired, None, before, after, judged_loss, _mean(sums.wanted, sums), penalty, None, tuple(found))


def _mean(total: float, *sums: RoutedSums) -> float:
    """Per token and output of all the sums."""
    return max(0.0, total) / (sum(one.tokens for one in sums) * len(sums[0].energy))


def _solved(sums: RoutedSums, shift: float) -> tuple[Tensor, list[Note]]:
    """D with D (Z'Z + shift) = e z^T, and the notes of its making."""
    factors = _factors(sums, shift)
    step, left = torch.zeros_like(sums.cross), sums.cross.clone()
    direction = eased = _eased(factors, left)
    size = (left * eased).sum(1)  # of every output
    goal, steps, far = CLOSE**2 * size, 0, size > 0
    while bool(far.any()) and steps < STEPS:
        steps += 1
        pushed = sums.times(direction) + shift * direction
        length = torch.where(far, size / (direction * pushed).sum(1), 0.0)[:, None]
        step += length * direction
        left -= length * pushed
        eased = _eased(factors, left)
        after = (left * eased).sum(1)
        direction = eased + torch.where(far, after / size, 0.0)[:, None] * direction
        size = torch.where(far, after, size)
        far = size > goal
    notes = [Note("conjugate gradients", float(steps))]
    if bool(far.any()):
        notes.append(Note("not converged", CLOSE * float((size / goal)[far].max().sqrt())))
    return step, notes


def _factors(sums: RoutedSums, shift: float) -> Tensor:
    """(E, w, w) triangular factors of each expert's own Gram matrix with the shift, eased until all can be made."""
    mean = sums.own.diagonal(dim1=1, dim2=2).mean(1)
    ease = EASE * torch.where(mean > 0, mean, sums.level or 1.0)
    for times in range(8):
        system = sums.own.clone()
        system.diagonal(dim1=1, dim2=2).add_((shift + ease * 10**times)[:, None])
        factors, failed = torch.linalg.cholesky_ex(system)
        if not bool(failed.any()):
            return factors
    raise NumericalError("repair: the Gram matrix of an expert cannot be factorised; give LIAR a larger penalty")


def _eased(factors: Tensor, left: Tensor) -> Tensor:
    """The residual (H, E w) solved by each expert's own factor."""
    parted = left.view(len(left), len(factors), -1).permute(1, 2, 0)
    return torch.cholesky_solve(parted, factors).permute(2, 0, 1).reshape(left.shape)
