"""Second moments of activations: sums over real tokens that criteria, closed forms and distances are made of."""

from dataclasses import dataclass

import torch
from torch import Tensor

from analysis.errors import DataError, NumericalError, UsageError
from analysis.streams.collect import PANEL, Statistics


@dataclass(eq=False)
class MomentSum:
    """Sum of h h^T over real tokens, in float64 where the device has it: a product in float32 for each batch, added up
    exactly enough.
    """

    total: Tensor | None = None  # (H, H)
    tokens: int = 0

    def add(self, hidden: Tensor, mask: Tensor) -> None:
        """Count hidden (B, T, H) where mask (B, T) is True."""
        rows = (hidden.flatten(0, 1) if bool(mask.all()) else hidden[mask.to(hidden.device)]).float()
        product = rows.T @ rows
        product = product if product.device.type == "mps" else product.double()
        self.total = product if self.total is None else self.total.add_(product)
        self.tokens += len(rows)

    def mean(self) -> Tensor:
        """S (H, H), float64, on the CPU."""
        return self.total.cpu().double() / self.tokens


def distance(moment: Tensor, reference: Tensor) -> float:
    """||S - S'||_F / ||S'||_F of two second moments (H, H): 0 for equal ones, no unit; not symmetric. Raises
    NumericalError if it is not finite.
    """
    value = float((moment - reference).norm() / reference.norm())
    if not value < float("inf"):
        raise NumericalError(f"distance of second moments: {value}; hidden states are not finite, or zero throughout")
    return value


@dataclass(frozen=True, eq=False)
class Moments:
    """Sums over the same real tokens of the student's input x and the target's input t of one matrix.

    gram    (in, in) sum of x x^T, symmetric
    cross   (in, in) sum of t x^T; the very tensor `gram` where both streams are one
    target  (in, in) sum of t t^T, symmetric; likewise
    tokens  number of real tokens
    """

    gram: Tensor
    cross: Tensor
    target: Tensor
    tokens: int

    @property
    def one_stream(self) -> bool:
        """Whether student and target read the same input."""
        return self.cross is self.gram and self.target is self.gram

    @property
    def nbytes(self) -> int:
        """Bytes of the sums, a shared one counted once."""
        return sum({id(tensor): tensor.nbytes for tensor in (self.gram, self.cross, self.target)}.values())


class MomentsCollector:
    """Accumulates Moments batch by batch, in float32 or float64.

    collector = MomentsCollector(width)
    for student, target in batches:      # real tokens only, (n, in) each
        collector.add(student, target)   # or add(student) where both streams are one
    moments = collector.result(name)
    """

    def __init__(self, width: int, precision: torch.dtype = torch.float32, device: torch.device | str = "cpu"):
        self._gram = torch.zeros(width, width, dtype=precision, device=device)
        self._cross: Tensor | None = None
        self._target: Tensor | None = None
        self._tokens = 0

    def add(self, student: Tensor, target: Tensor | None = None) -> None:
        """Counts rows of real tokens (n, in). Raises UsageError when the rows do not belong together."""
        width = len(self._gram)
        for label, rows in (("student", student), ("target", target)):
            if rows is not None and rows.shape != (len(student), width):
                raise UsageError(
                    f"moments: {label} rows have shape {tuple(rows.shape)}; expected ({len(student)}, {width})"
                )
        if self._tokens and (target is None) != (self._cross is None):
            raise UsageError("moments: one batch came with target rows and another without; give them always or never")
        student = student.detach().to(self._gram)
        _add_products(self._gram, student)
        self._tokens += len(student)
        if target is None:
            return
        if self._cross is None:
            self._cross, self._target = torch.zeros_like(self._gram), torch.zeros_like(self._gram)
        target = target.detach().to(self._gram)
        self._cross.addmm_(target.T, student)
        _add_products(self._target, target)

    def result(self, name: str) -> Moments:
        """The sums so far. Raises DataError without a token, NumericalError naming the matrix when an input was not
        finite.
        """
        if not self._tokens:
            raise DataError(f"moments of {name}: no real token was seen; the masks are all False or nothing was run")
        gram = _mirrored(self._gram)
        moments = Moments(gram, gram, gram, self._tokens)
        if self._cross is not None:
            moments = Moments(gram, self._cross.clone(), _mirrored(self._target), self._tokens)
        _check_finite(moments, name)
        return moments


def _add_products(gram: Tensor, rows: Tensor) -> None:
    """Adds the upper triangle, by panels of columns, of the sum of r r^T over rows r."""
    for start in range(0, len(gram), PANEL):
        stop = start + PANEL
        gram[:stop, start:stop].addmm_(rows[:, :stop].T, rows[:, start:stop])


def _mirrored(gram: Tensor) -> Tensor:
    upper = gram.triu(1)
    return upper + upper.T + torch.diag(gram.diagonal())


def _check_finite(moments: Moments, name: str) -> None:
    for label, sums in (("student's", moments.gram), ("target's", moments.target)):
        bad = (~torch.isfinite(sums.diagonal())).nonzero().flatten().tolist()
        if bad:
            raise NumericalError(
                f"moments: the {label} input of {name} is not finite in {len(bad)} of {len(sums)} features (first:"
                f" {bad[0]}); load the model in float32 or bfloat16, or look at the calibration text"
            )


@dataclass(frozen=True, eq=False)
class Sums:
    """Sums over n real tokens of a consumer's input x and of the output y it should give, float64.

    gram (in, in) sum of x x^T; inputs (in,) sum of x; cross (out, in) sum of y x^T; outputs (out,) sum of y; energy
    (out,) sum of y^2; tokens n.
    precision: what they were summed in, which tells a singular matrix from rounding.
    """

    gram: Tensor
    inputs: Tensor
    cross: Tensor
    outputs: Tensor
    energy: Tensor
    tokens: int
    precision: torch.dtype = torch.float64

    def loss(self, weight: Tensor, bias: Tensor | None) -> float:
        """Mean over tokens of |y - weight x - bias|^2 / out."""
        weight = weight.double()
        bias = torch.zeros_like(self.outputs) if bias is None else bias.double()
        sums = (
            self.energy
            - 2 * (weight * self.cross).sum(1)
            - 2 * bias * self.outputs
            + ((weight @ self.gram) * weight).sum(1)
        )
        sums = sums + 2 * bias * (weight @ self.inputs) + self.tokens * bias.square()
        return float((sums.clamp(min=0) / self.tokens).mean())

    def __add__(self, other: "Sums") -> "Sums":
        """Sums over the tokens of both."""
        parts = (
            getattr(self, name) + getattr(other, name)
            for name in ("gram", "inputs", "cross", "outputs", "energy", "tokens")
        )
        return Sums(*parts, self.precision)

    @property
    def nbytes(self) -> int:
        """Bytes of all sums together."""
        return sum(
            part.numel() * part.element_size()
            for part in (self.gram, self.inputs, self.cross, self.outputs, self.energy)
        )

    @property
    def scale(self) -> float:
        """Mean over tokens of |y|^2 / out: what losses are relative to."""
        return float((self.energy / self.tokens).mean())


def one_stream(weight: Tensor, bias: Tensor | None, statistics: Statistics) -> Sums:
    """Sums whose y is the dense layer's own output on the inputs of `statistics` (with its Gram matrix): nothing more
    has to be run.

    weight (out, in), bias (out,) or None: the dense ones. Raises UsageError where the Gram matrix was not collected.
    """
    if statistics.gram is None:
        raise UsageError("one_stream: the statistics hold no Gram matrix; collect them with want='gram'")
    weight, gram = weight.detach().double(), statistics.gram.double()
    inputs, tokens = statistics.mean.double() * statistics.tokens, statistics.tokens
    bias = torch.zeros_like(weight[:, 0]) if bias is None else bias.detach().double()
    pulled, moved = weight @ gram, weight @ inputs
    cross = pulled + bias[:, None] * inputs
    energy = (pulled * weight).sum(1) + 2 * bias * moved + tokens * bias.square()
    return Sums(gram, inputs, cross, moved + tokens * bias, energy, tokens, statistics.gram.dtype)


class SumsCollector:
    """Accumulates the Sums of two streams batch by batch, in float64.

        collector = SumsCollector(matrix.columns, matrix.rows)
        for student, target in batches:  # real tokens only: inputs (n, in) of the pruned model, outputs (n, out) it
        should give
            collector.add(student, target)
        sums = collector.result(name)

    `two_streams` fills one from a block and its streams.
    """

    def __init__(self, inputs: int, outputs: int, device: torch.device | str = "cpu"):
        made = {"dtype": torch.float64, "device": device}
        self._gram, self._inputs = torch.zeros(inputs, inputs, **made), torch.zeros(inputs, **made)
        self._cross, self._outputs, self._energy = (
            torch.zeros(outputs, inputs, **made),
            torch.zeros(outputs, **made),
            torch.zeros(outputs, **made),
        )
        self._tokens = 0

    def add(self, student: Tensor, target: Tensor) -> None:
        """Counts rows of real tokens. Raises UsageError when they do not belong together."""
        if (
            student.shape[1:] != self._inputs.shape
            or target.shape[1:] != self._outputs.shape
            or len(student) != len(target)
        ):
            expected = f"(n, {len(self._inputs)}) and (n, {len(self._outputs)})"
            raise UsageError(
                f"sums: student rows {tuple(student.shape)} and target rows {tuple(target.shape)}; expected {expected}"
            )
        student, target = student.detach().to(self._gram), target.detach().to(self._gram)
        self._gram.addmm_(student.T, student)
        self._cross.addmm_(target.T, student)
        self._inputs += student.sum(0)
        self._outputs += target.sum(0)
        self._energy += target.square().sum(0)
        self._tokens += len(student)

    def result(self, name: str) -> Sums:
        """The sums so far. Raises DataError without a token, NumericalError naming the consumer when a sum is not
        finite.
        """
        if not self._tokens:
            raise DataError(f"sums of {name}: no real token was seen; the masks are all False or nothing was run")
        for label, sums in (("input", self._gram.diagonal()), ("target", self._energy)):
            if not bool(sums.isfinite().all()):
                raise NumericalError(
                    f"sums: the {label} of {name} is not finite in {int((~sums.isfinite()).sum())} features; load the"
                    " model in float32 or bfloat16"
                )
        return Sums(self._gram, self._inputs, self._cross, self._outputs, self._energy, self._tokens)
