"""Second moments of a consumer's input x and of the output y that it should give: all that a structured repair needs.

One stream: y is the dense layer's own output on x, so the statistics of x suffice. Two streams: x is the pruned
model's, y the dense model's.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from analysis.errors import DataError, NumericalError, UsageError
from analysis.masks.statistics import Statistics
from analysis.models.anatomy import Block, Matrix
from analysis.models.halves import half_output, matrix_inputs, module_inputs
from analysis.models.replay import Call, run
from analysis.reconstruction.streams import Streams, call_of, chunks


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


@torch.inference_mode()
def two_streams(dense: Block, pruned: Block, matrix: Matrix, streams: Streams) -> Sums:
    """Sums of one consumer whose inputs are the pruned block's on the sparse stream, and whose y is the dense block's
    on the dense stream.

    matrix  the consumer, of either block. The pruned block's earlier half is repaired already; whether its own rows are
    still there does not matter

    Where the block adds the consumer's output to the residual as it is, or before its norm, the difference of the two
    residual streams (dense - sparse) is added to y, so that the repair makes up for the error inherited there too, as
    Kwon et al. do: the block's total error is then what is minimised. Elsewhere (a norm between consumer and residual)
    y is the consumer's output alone.
    """
    device = matrix.module.weight.device
    collector = SumsCollector(matrix.columns, matrix.rows, device)
    adds = None
    for rows in chunks(*streams.mask.shape, device):
        real, true = streams.mask[rows].to(device), streams.dense[rows].to(device)
        call = call_of(streams.recording, dense.index, true, rows)
        student, ours = _student(pruned, matrix, streams.sparse[rows].to(device), call)
        given, residual = _student(dense, matrix, true, call)
        target = dense.module.get_submodule(matrix.name)(given)
        if adds is None:
            after = (
                run(dense.module, true, call) if matrix.half == "mlp" else half_output(dense, "attention", true, call)
            )
            adds = _adds_to(dense, matrix.half, residual, target, after)
        if adds:
            target = target.double() + residual.double() - ours.double()
        collector.add(student[real], target[real])
    return collector.result(f"{dense.name}.{matrix.name}")


def _student(block: Block, matrix: Matrix, hidden: Tensor, call: Call) -> tuple[Tensor, Tensor]:
    """Inputs (B, T, in) of a consumer when its block runs on `hidden` (B, T, H), and the residual stream (B, T, H) that
    its half adds to.
    """
    if matrix.half == "attention":
        return matrix_inputs(block, [matrix.name], hidden, call)[matrix.name], hidden
    if block.parallel:
        return matrix_inputs(block, [matrix.name], hidden, call)[matrix.name], half_output(
            block, "attention", hidden, call
        )
    entry = next(child.name for child in block.children if child.half == "mlp")
    given = module_inputs(block, [entry, matrix.name], hidden, call)
    return given[matrix.name], given[entry]


def _adds_to(block: Block, half: str, residual: Tensor, output: Tensor, after: Tensor) -> bool:
    """Whether a half's result `after` is residual + consumer's output, or one of the half's norms of that sum (norms
    within heads are of another width). All (B, T, H).
    """
    total = residual + output
    norms = (block.attention if half == "attention" else block.mlp).norms
    modules = [block.module.get_submodule(name) for name in norms]
    fitting = [
        module for module in modules if all(parameter.numel() == total.shape[-1] for parameter in module.parameters())
    ]
    candidates = [total, *(module(total) for module in fitting)]
    return any(float((candidate - after).norm()) <= 1e-3 * float(after.norm()) for candidate in candidates)
