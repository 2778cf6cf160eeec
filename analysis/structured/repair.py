"""Repairing a consumer whose input lost features, in closed form: one affine map of what is left, absorbed into weight
and bias.

A consumer computes y = W x + b. Its columns R belong to removed structures, K to kept ones. Every repair here gives W'
with W'_R = 0 and b' so that W'_K x_K + b' is close to what the layer should give, in mean square over calibration
tokens; they differ in what may move. What it should give is in the `Sums`: the layer's own dense output on the same
inputs (one stream), or the dense model's output while x comes from the pruned model (two streams), which corrects
inherited error too. Write y for it, means with a bar, C for covariances.

    none    nothing moves: W'_K = W_K, b' = b.
    bias    b' = mean of y - W_K x_K, the best constant. In one stream that is b + W_R x_R-bar, FLAP's bias compensation
    (arXiv 2312.11983).
    scale   W'_K = W_K diag(s), one scale per kept structure, the least-squares scales on the layer's output (mask
    tuning, Kwon et al., arXiv 2204.09656).
    liar    all of W'_K and b'. Removed inputs are predicted from kept ones, x_R ~ B x_K + c, by ridge regression,
            B = C_RK (C_KK + penalty)^-1, c = x_R-bar - B x_K-bar; what they would have added, W_R (B x_K + c), is
            absorbed: W'_K = W_K + W_R B, b' = b + W_R c.
            With B = 0 this is `bias`. With penalty 0 no W_K, b is closer to the dense output, since W_R C_RK C_KK^-1 is
            the step of the least-squares refit.
            In two streams the same step from W_K is D = (C_yK - W_K C_KK)(C_KK + penalty)^-1, W'_K = W_K + D, b' =
            y-bar - W'_K x_K-bar; with one
            stream y = W x + b turns D into W_R B. (After Wang et al., arXiv 2407.13331; its full text and code could
            not be had, so this is the least-squares
            formulation that its abstract and figures allow, not a copy.)

Where b shall stay as it is (or not be made), `liar` is the map through the origin: y - b from x_K, second moments in
the place of covariances, the weights alone.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from analysis.errors import NumericalError, UsageError
from analysis.masks.damping import DEPENDENT, attempts, unsolvable
from analysis.masks.notes import FEW_TOKENS, Note
from analysis.models.anatomy import Matrix
from analysis.models.widths import assign_bias
from analysis.streams.moments import Sums

UPDATES = ("none", "bias", "scale", "liar")
SCALES = 10.0  # scales beyond +-10 are no repair (Kwon et al.'s code stops there)
ITERATIONS = 30  # of the power method that estimates a condition


@dataclass(frozen=True, eq=False)
class Repaired:
    """A consumer after removal and repair.

    weight      (out, in) in the dense weight's dtype, zero in removed columns; bias (out,) or None where it has none
    loss_before, loss_after  mean squared difference from the wanted output per feature, of the masked consumer and of
                             this one; loss_after <= loss_before
    held_out    the same of this one on the held-out sums; None without
    scale       mean square of the wanted output
    penalty     the penalty used, as a share of that mean diagonal; None where nothing was solved
    condition   estimated condition number of the matrix solved; None likewise
    notes       the rules that had to be used
    """

    weight: Tensor
    bias: Tensor | None
    loss_before: float
    loss_after: float
    held_out: float | None
    scale: float
    penalty: float | None
    condition: float | None
    notes: tuple[Note, ...]

    def install(self, matrix: Matrix) -> None:
        """Write weight and bias into the consumer; a bias is made where it has none and this has one."""
        matrix.assign(self.weight)
        if self.bias is not None:
            assign_bias(matrix, self.bias)


def repair(
    method: str,
    weight: Tensor,
    bias: Tensor | None,
    kept: Tensor,
    sums: Sums,
    *,
    owner: Tensor | None = None,
    penalty: float | Sequence[float] = 0.0,
    held_out: Sums | None = None,
    create_bias: bool = True,
    name: str,
) -> Repaired:
    """Repair one consumer by a method of `METHODS` (see the module's text for each).

    weight       (out, in) dense weight, bias (out,) or None: any float dtype
    kept         (in,) bool, True where the column stays (`structures.column_mask`)
    sums         one stream or two
    owner        (in,) structure of each column (`structures.structure_of_column`); needed by "scale" alone
    penalty      of "scale" and "liar", as a share of the mean diagonal of the matrix solved (for "liar" of the Gram
                 matrix of the kept inputs): a number, or several of which the one with the smallest held-out loss is
                 taken
    held_out     sums of tokens that the repair does not see
    create_bias  whether a bias may move, and be made where there is none. With False "liar" is kept to the weights: the
                 map through the origin, from the kept inputs to the wanted output less the bias (recorded as "through
                 the origin"); "bias" is refused where there is none
    name         the consumer, for errors and notes

    Solved in float64, one Cholesky factorisation per penalty. A singular matrix (as with fewer tokens than kept
    features and penalty 0) gets a larger penalty ("damping"), the weights of inputs that never vary stay as they are
    ("constant input"), a repair that is worse than none on the calibration tokens is not used ("kept plain mask"): each
    is recorded in `notes`. Raises UsageError for arguments that do not fit, NumericalError naming the consumer for what
    is not finite or cannot be solved.
    """
    penalties = _check(method, weight, bias, kept, sums, owner, penalty, held_out, create_bias, name)
    weight, kept = weight.detach(), kept.to(weight.device)
    plain = weight.masked_fill(~kept, 0)
    base = plain.double()
    old_bias = None if bias is None else bias.detach().double()
    notes: list[Note] = []
    affine = create_bias
    candidates: list[_Attempt] = []
    if method == "none":
        candidates = [_Attempt(base, old_bias)]
    elif method == "bias":
        candidates = [_Attempt(base, (sums.outputs - base @ sums.inputs) / sums.tokens)]
    elif method == "scale":
        assert owner is not None  # by the check above
        candidates = [_scaled(base, old_bias, kept, sums, owner, share, name) for share in penalties]
    else:
        notes += [Note("through the origin", float(len(weight)))] * (not affine)
        notes += [Note(FEW_TOKENS, float(sums.tokens))] * (sums.tokens <= int(kept.sum()))
        candidates = _absorbed(base, old_bias, kept, sums, penalties, affine, name)

    before = sums.loss(plain, old_bias)
    if not math.isfinite(before):
        raise NumericalError(
            f"repair: the weights or sums of {name} are not finite; look at the dense model and the calibration text"
        )
    losses = [(held_out or sums).loss(candidate.weight, candidate.bias) for candidate in candidates]
    best = candidates[losses.index(min(losses))]
    new_weight, new_bias = best.weight.to(weight.dtype), None if best.bias is None else best.bias.to(weight.dtype)
    after = sums.loss(new_weight, new_bias)
    notes += best.notes
    if method != "none" and not after <= before:
        new_weight, new_bias, after = plain, None if bias is None else bias.detach().clone(), before
        notes.append(Note("kept plain mask", float(len(weight))))
    held_out_loss = None if held_out is None else held_out.loss(new_weight, new_bias)
    return Repaired(
        new_weight, new_bias, before, after, held_out_loss, sums.scale, best.penalty, best.condition, tuple(notes)
    )


@dataclass(frozen=True, eq=False)
class _Attempt:
    """One candidate: weight (out, in) and bias (out,) or None in float64, the penalty that was used, the condition, the
    rules.
    """

    weight: Tensor
    bias: Tensor | None
    penalty: float | None = None
    condition: float | None = None
    notes: tuple[Note, ...] = ()


def _check(method, weight, bias, kept, sums, owner, penalty, held_out, create_bias, name) -> list[float]:
    """The penalties as a list; raises UsageError for what does not fit."""
    if method not in UPDATES:
        raise UsageError(f"repair: method={method!r} of {name} is unknown; it is one of {', '.join(UPDATES)}")
    if kept.dtype != torch.bool or kept.shape != (weight.shape[1],) or not bool(kept.any()):
        given = f"{kept.dtype} {tuple(kept.shape)} with {int(kept.sum())} True"
        raise UsageError(f"repair: kept of {name} is {given}; expected bool ({weight.shape[1]},), one True at least")
    if bias is not None and bias.shape != (len(weight),):
        raise UsageError(f"repair: the bias of {name} is {tuple(bias.shape)}; expected ({len(weight)},)")
    for label, part in (("sums", sums), ("held-out sums", held_out)):
        if part is not None and part.cross.shape != weight.shape:
            raise UsageError(
                f"repair: the {label} of {name} are for a weight {tuple(part.cross.shape)}; it is {tuple(weight.shape)}"
            )
    if method == "bias" and bias is None and not create_bias:
        raise UsageError(
            f"repair: {name} has no bias and shall get none, so bias compensation has nothing to change; use 'liar',"
            " which moves weights"
        )
    if method == "scale" and (owner is None or owner.shape != (weight.shape[1],)):
        raise UsageError(f"repair: scales of {name} need owner, the structure of each of its {weight.shape[1]} columns")
    penalties = [float(penalty)] if isinstance(penalty, int | float) else [float(value) for value in penalty]
    if not penalties or not all(0 <= value < float("inf") for value in penalties):
        raise UsageError(f"repair: penalty={penalty!r} of {name}; finite shares >= 0 of the mean diagonal are needed")
    if len(penalties) > 1 and held_out is None:
        raise UsageError(
            f"repair: {len(penalties)} penalties for {name} and no held-out sums to choose by; give held_out or one"
            " penalty"
        )
    return penalties


def _absorbed(
    base: Tensor, bias: Tensor | None, kept: Tensor, sums: Sums, penalties: list[float], affine: bool, name: str
) -> list[_Attempt]:
    """LIAR's step D on the kept columns, with the bias that goes with it or through the origin, for each penalty."""
    gram, cross = sums.gram[kept][:, kept], sums.cross[:, kept]
    means = sums.inputs[kept] / sums.tokens
    if affine:
        gram = gram - sums.tokens * torch.outer(means, means)
        cross = cross - torch.outer(sums.outputs, means)
    elif bias is not None:
        cross = cross - torch.outer(bias, sums.inputs[kept])
    ordinary = sums.gram.diagonal()[kept]
    steady = gram.diagonal() <= 1e-12 * ordinary  # constant inputs, zeros among them: rounding is all that varies
    notes = (Note("constant input", float(steady.sum())),) * bool(steady.any())
    gram = gram.masked_fill(steady[:, None] | steady, 0)
    right = (cross - base[:, kept] @ gram).masked_fill(steady, 0)
    level = float(ordinary.mean())
    candidates = []
    for share in penalties:
        step, penalty, condition, raised = _solve(gram, right, steady, share, level, sums, name)
        weight = base.clone()
        weight[:, kept] += step
        new_bias = (sums.outputs - weight @ sums.inputs) / sums.tokens if affine else bias
        candidates.append(_Attempt(weight, new_bias, penalty, condition, notes + raised))
    return candidates


def _scaled(
    base: Tensor, bias: Tensor | None, kept: Tensor, sums: Sums, owner: Tensor, share: float, name: str
) -> _Attempt:
    """Kwon et al.'s scales: with u_g the part of the output that comes from kept structure g, s minimises sum |y - b -
    sum_g s_g u_g|^2 + penalty |s - 1|^2.
    """
    structures, place = owner.to(kept.device)[kept].unique(return_inverse=True)
    weight = base[:, kept]
    gram = (weight.T @ weight) * sums.gram[kept][:, kept]
    offset = sums.cross if bias is None else sums.cross - torch.outer(bias, sums.inputs)
    pull = (weight * offset[:, kept]).sum(0)
    system = gram.new_zeros(len(structures), len(structures)).index_put_((place[:, None], place), gram, accumulate=True)
    right = pull.new_zeros(len(structures)).index_add_(0, place, pull) - system.sum(1)
    silent = system.diagonal() <= 0
    system = system.masked_fill(silent[:, None] | silent, 0)
    step, penalty, condition, notes = _solve(
        system, right.masked_fill(silent, 0)[None], silent, share, float(system.diagonal().mean()), sums, name
    )
    scales = 1 + step[0]
    if not bool((scales.abs() <= SCALES).all()):
        notes += (Note("scales out of range", float((scales.abs() > SCALES).sum())),)
        scales = torch.ones_like(scales)
    scaled = base.clone()
    scaled[:, kept] *= scales[place]
    return _Attempt(scaled, bias, penalty, condition, notes)


def _solve(
    matrix: Tensor, right: Tensor, silent: Tensor, share: float, level: float, sums: Sums, name: str
) -> tuple[Tensor, float, float, tuple[Note, ...]]:
    """Rows z of z (matrix + share level I) = right, the share that was used, the condition, and "damping" where it had
    to be raised.

    silent  (n,) bool: rows and columns of zeros, whose diagonal is set so that they stay out of the way
    level   what the penalty is a share of; sums: what the matrix was made of
    """
    ladder = attempts(share, matrix.dtype)
    least = max(DEPENDENT, len(matrix)) * torch.finfo(sums.precision).eps
    level = level if level > 0 else 1.0
    for attempt in ladder:
        system = matrix.clone()
        system.diagonal().add_(attempt.share * level)
        system.diagonal().masked_fill_(silent, level)
        lower, failed = torch.linalg.cholesky_ex(system)
        sound = not bool(failed) and bool((lower.diagonal().square() > least * system.diagonal()).all())
        if sound:
            solution = torch.cholesky_solve(right.T, lower).T
            return solution, attempt.share, _condition(system, lower), attempt.notes()
    problem = f"repair: {name} cannot be solved: its matrix has"
    raise unsolvable(problem, matrix, sums.tokens, "penalty", share, ladder[-1].share)


def _condition(system: Tensor, lower: Tensor) -> float:
    """Condition number, its largest and smallest eigenvalues estimated by power iterations with the matrix and with its
    factor.
    """
    start = (
        torch.ones(len(system), 1, dtype=system.dtype, device=system.device)
        + torch.linspace(0, 1, len(system), dtype=system.dtype, device=system.device)[:, None]
    )
    high = low = start / start.norm()
    for _ in range(ITERATIONS):
        high, low = system @ high, torch.cholesky_solve(low, lower)
        largest, smallest = high.norm(), 1 / low.norm()
        high, low = high / largest, low * smallest
    return max(float(largest / smallest), 1.0)
