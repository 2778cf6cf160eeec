"""Second moments of activations: sums over real tokens that criteria, closed forms and distances are made of.

One `Accumulator`, and what is read off it: `Statistics` of a matrix's input, `Moments` of the student's and the
target's input, `Sums` of an input and a wanted output, and the mean second moment of hidden states.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import ClassVar

import torch
import torch.distributed
from torch import Tensor

from analysis.errors import DataError, NumericalError, UsageError

PANEL = 256  # columns of a symmetric sum that are added to at once; only the upper triangle of panels is computed
PARTS = ("x", "x2", "xx", "y", "y2", "yy", "yx")


class Accumulator:
    """Sums over real tokens of an activation x (in,) and, where a part names it, of a second one y (out,).

        sums = Accumulator(("xx", "yx"), width, outputs, precision=torch.float64)
        for x, y in batches:                    # real tokens only: (n, in) and (n, out)
            sums.add(x, y)
        gram = sums.total("xx", "mlp.up_proj")  # the name is for errors

    parts      which sums: "x" (in,) of x, "x2" (in,) of x^2, "xx" (in, in) of x x^T, "yx" (out, in) of y x^T; "y",
               "y2", "yy" as those of x
    width      in; outputs: out, by default in
    precision  dtype of the sums, float32 or float64
    products   dtype in which a batch's own sums are computed, by default `precision`
    tokens     number of rows counted so far

    A float32 sum loses digits with the number of batches, a float64 sum of float32 products does not, and costs little
    more.
    """

    def __init__(
        self,
        parts: Iterable[str],
        width: int,
        outputs: int | None = None,
        *,
        precision: torch.dtype = torch.float32,
        products: torch.dtype | None = None,
        device: torch.device | str = "cpu",
    ):
        self.parts = tuple(parts)
        unknown = [part for part in self.parts if part not in PARTS]
        if unknown or not self.parts:
            raise UsageError(f"moments: parts {self.parts} must be some of {', '.join(PARTS)}")
        self._letters = [letter for letter in "xy" if any(letter in part for part in self.parts)]
        for letter in self._letters:
            if not set(_own_parts(letter)) & set(self.parts):
                raise UsageError(f"moments: yx needs one of {', '.join(_own_parts(letter))} too, to be checked by")
        self.sizes = {"x": width, "y": width if outputs is None else outputs}
        self.precision, self.device = precision, torch.device(device)
        self.tokens = 0
        self._products = products or precision
        with torch.inference_mode(False):  # so that they can be added to in and out of inference mode
            self._sums = {part: self._zeros(part) for part in self.parts}

    def _zeros(self, part: str) -> Tensor:
        shape = [self.sizes[letter] for letter in part if letter in self.sizes]
        return torch.zeros(shape, dtype=self.precision, device=self.device)

    @torch.no_grad()
    def add(self, x: Tensor, y: Tensor | None = None) -> None:
        """Count rows of real tokens, x (n, in) and y (n, out), of any floating dtype. Raises UsageError where they do
        not belong together, or y is missing or not wanted.
        """
        if (y is not None) != ("y" in self._letters):
            raise UsageError(
                f"moments: the sums {', '.join(self.parts)} need {'x and y' if 'y' in self._letters else 'x alone'};"
                f" {'y is missing' if y is None else 'y was given too'}"
            )
        rows = {}
        for letter, activation in (("x", x), ("y", y)):
            if activation is None:
                continue
            if activation.shape != (len(x), self.sizes[letter]):
                shape, expected = tuple(activation.shape), (len(x), self.sizes[letter])
                raise UsageError(f"moments: rows {letter} have shape {shape}; expected {expected}")
            rows[letter] = activation.detach().to(self.device, self._products)
        for part, total in self._sums.items():
            first, last = rows[part[0]], rows.get(part[-1])
            if len(part) == 1:
                total += first.sum(0)
            elif last is None:
                total += first.square().sum(0)
            elif part == "yx":
                _add_product(total, first, last)
            else:
                for start in range(0, len(total), PANEL):
                    stop = start + PANEL
                    _add_product(total[:stop, start:stop], first[:, :stop], first[:, start:stop])
        self.tokens += len(x)

    @torch.no_grad()
    def merge(self, other: "Accumulator") -> None:
        """Count what `other` counted too. Raises UsageError for sums of other parts, sizes or precision."""
        if (self.parts, self.sizes, self.precision) != (other.parts, other.sizes, other.precision):
            raise UsageError(f"moments: {other} cannot be merged into {self}")
        for part, total in self._sums.items():
            total += other._sums[part].to(self.device)
        self.tokens += other.tokens

    @torch.no_grad()
    def top_up(self, other: "Accumulator", count: int) -> None:
        """Count `count` tokens more, each of them the mean of those that `other` counted. Raises as `merge`, DataError
        where it counted none.
        """
        if (self.parts, self.sizes, self.precision) != (other.parts, other.sizes, other.precision):
            raise UsageError(f"moments: {self} cannot be topped up from {other}")
        if not other.tokens:
            raise no_token(str(other))
        for part, total in self._sums.items():
            total += other._sums[part].to(self.device) * (count / other.tokens)
        self.tokens += count

    @torch.no_grad()
    def reduce(self, group: "torch.distributed.ProcessGroup | None") -> None:
        """Count what every process of a torch.distributed group counted, on every one of them; None: this process is
        alone, nothing changes.

        All processes of the group must call it, with sums of equal parts, sizes and precision (one without a token
        too).
        """
        if group is None:
            return
        for total in self._sums.values():
            torch.distributed.all_reduce(total, group=group)
        tokens = torch.tensor(self.tokens, device=self.device)
        torch.distributed.all_reduce(tokens, group=group)
        self.tokens = int(tokens)

    def total(self, part: str, name: str) -> Tensor:
        """A copy of one sum, whole: "xx" and "yy" exactly symmetric.

        name: what was counted, for errors. Raises DataError without a token; NumericalError where a sum of x or y is
        not finite in some feature (for the squares: where the sum itself overflows its precision).
        """
        if not self.tokens:
            raise no_token(name)
        total = _mirrored(self._sums[part]) if part in ("xx", "yy") else self._sums[part].clone()
        for letter in set(part) & set(self.sizes):
            self._check_finite(letter, name)
        return total

    def mean(self, part: str, name: str) -> Tensor:
        """A sum divided by the number of tokens; raises as `total`."""
        return self.total(part, name) / self.tokens

    def _check_finite(self, letter: str, name: str) -> None:
        """The one rule: every feature's sum of squares is finite (its sum, where no squares are kept). By Cauchy and
        Schwarz the other sums then are, too.
        """
        sums = self._sums[next(part for part in _own_parts(letter) if part in self._sums)]
        sums = sums.diagonal() if sums.ndim == 2 else sums
        bad = (~sums.isfinite()).nonzero().flatten().tolist()
        if bad:
            label = {"x": "input", "y": "target"}[letter]
            raise NumericalError(
                f"moments: the {label} of {name} is not finite in {len(bad)} of {len(sums)} features (first:"
                f" {bad[0]}); load the model in float32 or bfloat16, or look at the calibration text"
            )

    def __repr__(self) -> str:
        return f"Accumulator({', '.join(self.parts)} of {self.sizes['x']} and {self.sizes['y']}, {self.precision})"


def _own_parts(letter: str) -> tuple[str, ...]:
    """The sums of x, or y, alone."""
    return f"{letter}{letter}", f"{letter}2", letter


def no_token(name: str) -> DataError:
    """The error of sums over no token."""
    return DataError(f"moments of {name}: no real token was seen; the masks are all False or nothing was run")


def real_rows(hidden: Tensor, mask: Tensor) -> Tensor:
    """(n, H) of hidden (B, T, H): the real tokens, where mask (B, T) is True, in order."""
    return hidden.flatten(0, 1) if bool(mask.all()) else hidden[mask.to(hidden.device)]


def _add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    """Adds left^T right of rows (n, ...) to a sum of the same or of a higher precision."""
    if total.dtype == left.dtype:
        total.addmm_(left.T, right)
    else:
        total += left.T @ right


def _mirrored(total: Tensor) -> Tensor:
    """A symmetric matrix from its upper triangle."""
    upper = total.triu()
    whole = upper + upper.T
    whole.diagonal().copy_(upper.diagonal())
    return whole


# --- what is read off them --------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Statistics:
    """Sums over the real calibration tokens x of one matrix's input.

    gram      (in, in) sum of x x^T, symmetric; None when only the diagonal was wanted
    diagonal  (in,) sum of x^2, the Gram matrix's diagonal
    mean      (in,) mean of x
    tokens    number of real tokens
    routed    of an expert's matrix: real tokens that went to its expert, whatever the sums are over; else None
    factors   triangular factors already computed from the Gram matrix, by damping (`sparsegpt.inverse_factor`)
    """

    PARTS: ClassVar = {"gram": ("x", "xx"), "diagonal": ("x", "x2")}

    gram: Tensor | None
    diagonal: Tensor
    mean: Tensor
    tokens: int
    factors: dict = field(default_factory=dict, repr=False)
    routed: int | None = None

    @classmethod
    def of(cls, sums: Accumulator, name: str, routed: int | None = None) -> "Statistics":
        """From sums of `PARTS["gram"]` or `PARTS["diagonal"]`; raises as `Accumulator.total`."""
        gram = sums.total("xx", name) if "xx" in sums.parts else None
        diagonal = sums.total("x2", name) if gram is None else gram.diagonal().clone()
        return cls(gram, diagonal, sums.mean("x", name), sums.tokens, routed=routed)


@dataclass(frozen=True, eq=False)
class Moments:
    """Sums over the same real tokens of the student's input x and the target's input t of one matrix.

    gram    (in, in) sum of x x^T, symmetric
    cross   (in, in) sum of t x^T; the very tensor `gram` where both streams are one
    target  (in, in) sum of t t^T, symmetric; likewise
    tokens  number of real tokens
    """

    PARTS: ClassVar = {"one stream": ("xx",), "two streams": ("xx", "yx", "yy")}

    gram: Tensor
    cross: Tensor
    target: Tensor
    tokens: int

    @classmethod
    def of(cls, sums: Accumulator, name: str) -> "Moments":
        """From sums of `PARTS["one stream"]` or `PARTS["two streams"]`; raises as `Accumulator.total`."""
        gram = sums.total("xx", name)
        if "yy" not in sums.parts:
            return cls(gram, gram, gram, sums.tokens)
        return cls(gram, sums.total("yx", name), sums.total("yy", name), sums.tokens)

    @property
    def one_stream(self) -> bool:
        """Whether student and target read the same input."""
        return self.cross is self.gram and self.target is self.gram

    @property
    def nbytes(self) -> int:
        """Bytes of the sums, a shared one counted once."""
        return sum({id(tensor): tensor.nbytes for tensor in (self.gram, self.cross, self.target)}.values())


@dataclass(frozen=True, eq=False)
class Sums:
    """Sums over n real tokens of a consumer's input x and of the output y it should give, float64.

    gram (in, in) sum of x x^T; inputs (in,) sum of x; cross (out, in) sum of y x^T; outputs (out,) sum of y; energy
    (out,) sum of y^2; tokens n.
    precision: what they were summed in, which tells a singular matrix from rounding.
    """

    PARTS: ClassVar = ("xx", "x", "yx", "y", "y2")

    gram: Tensor
    inputs: Tensor
    cross: Tensor
    outputs: Tensor
    energy: Tensor
    tokens: int
    precision: torch.dtype = torch.float64

    @classmethod
    def of(cls, sums: Accumulator, name: str) -> "Sums":
        """From sums of `PARTS`; raises as `Accumulator.total`."""
        gram, inputs, cross, outputs, energy = (sums.total(part, name) for part in cls.PARTS)
        return cls(gram, inputs, cross, outputs, energy, sums.tokens, sums.precision)

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
        return Sums(
            self.gram + other.gram,
            self.inputs + other.inputs,
            self.cross + other.cross,
            self.outputs + other.outputs,
            self.energy + other.energy,
            self.tokens + other.tokens,
            self.precision,
        )

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


# --- hidden states ----------------------------------------------------------------------------------------------------


def hidden_accumulator(width: int, device: torch.device | str) -> Accumulator:
    """An accumulator of h h^T over hidden states h (H,): products in float32, added up in float64 where the device has
    it.
    """
    precision = torch.float32 if torch.device(device).type == "mps" else torch.float64
    return Accumulator(("xx",), width, precision=precision, products=torch.float32, device=device)


def mean_square(sums: Accumulator, name: str) -> Tensor:
    """S (H, H), mean of h h^T, float64 on the CPU; raises as `Accumulator.total`."""
    return sums.total("xx", name).cpu().double() / sums.tokens


def distance(moment: Tensor, reference: Tensor) -> float:
    """||S - S'||_F / ||S'||_F of two second moments (H, H): 0 for equal ones, no unit; not symmetric. Raises
    NumericalError if it is not finite.
    """
    value = float((moment - reference).norm() / reference.norm())
    if not value < float("inf"):
        raise NumericalError(f"distance of second moments: {value}; hidden states are not finite, or zero throughout")
    return value
