"""What a matrix's input looks like on the calibration tokens: Gram matrix, squares and mean.

One entry point, `collect`. Matrices fed the same tensor (query, key and value; gate and up) share one `Statistics`, and
only real tokens count: padded positions never enter a sum.

    with collect(block.matrices, want="gram") as collector:
        for rows in batches:
            collector.mask = windows.mask[rows]
            run(block.module, hidden[rows], recording.call(block.index, rows))
    statistics = collector.result()["self_attn.q_proj"]
"""

import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor

from analysis.errors import DataError, ModelError, NumericalError, UsageError
from analysis.models.anatomy import Matrix

PANEL = 256  # columns of the Gram matrix accumulated at once; only its upper triangle of panels is computed


@dataclass(frozen=True, eq=False)
class Statistics:
    """Sums over the real calibration tokens x of one matrix's input.

    gram      (in, in) sum of x x^T, symmetric; None when only the diagonal was wanted
    diagonal  (in,) sum of x^2, the Gram matrix's diagonal
    mean      (in,) mean of x
    tokens    number of real tokens
    factors   triangular factors already computed from the Gram matrix, by damping (`sparsegpt.inverse_factor`)
    """

    gram: Tensor | None
    diagonal: Tensor
    mean: Tensor
    tokens: int
    factors: dict = field(default_factory=dict, repr=False)


class _Enough(Exception):
    """Ends a forward whose every matrix has been seen; never leaves `Collector.inputs_only`."""


class _Sums:
    """Running sums of one distinct input, and a weak reference to the tensor last counted."""

    def __init__(self, width: int, want: str, device: torch.device, precision: torch.dtype):
        self.gram = torch.zeros(width, width, dtype=precision, device=device) if want == "gram" else None
        self.diagonal = torch.zeros(width, dtype=precision, device=device)
        self.total = torch.zeros(width, dtype=precision, device=device)
        self.counted: Callable[[], Tensor | None] | None = None  # None: nothing counted in this batch

    def add(self, rows: Tensor) -> None:
        """Adds real rows (n, in)."""
        self.total += rows.sum(0)
        if self.gram is None:
            self.diagonal += rows.square().sum(0)
            return
        width = rows.shape[1]
        for start in range(0, width, PANEL):
            stop = min(start + PANEL, width)
            self.gram[:stop, start:stop].addmm_(rows[:, :stop].T, rows[:, start:stop])

    def finish(self, tokens: int) -> Statistics:
        if self.gram is None:
            return Statistics(None, self.diagonal, self.total / tokens, tokens)
        upper = self.gram.triu()
        diagonal = upper.diagonal().clone()
        gram = upper + upper.T
        gram.diagonal().copy_(diagonal)
        return Statistics(gram, diagonal, self.total / tokens, tokens)


class Collector:
    """Accumulates while the context of `collect` is open; `result()` gives the statistics by matrix name.

    Set `mask` (bool, (B, T), True = real token) before every forward: it opens a new batch.
    """

    def __init__(self, matrices: Sequence[Matrix], want: str, precision: torch.dtype, block: str):
        self._block = block
        self._matrices = matrices
        self._want = want
        self._precision = precision
        self._sums: dict[str, _Sums] = {}  # by matrix name; the same object where the input is shared
        self._mask: Tensor | None = None
        self._real: Tensor | None = None  # positions of real tokens in the flattened batch, None when all are real
        self._tokens = 0
        self._waiting: set[str] = set()  # matrices not seen yet in this batch
        self._inputs_only = False

    @contextmanager
    def inputs_only(self) -> Iterator[None]:
        """While open, one forward ends as soon as every matrix has seen its input: nobody wants its output.

        Spares the last matrix's product, a quarter of a Llama block. For blocks that call each matrix once.
        """
        self._inputs_only = True
        try:
            yield
        except _Enough:
            pass
        finally:
            self._inputs_only = False

    @property
    def mask(self) -> Tensor | None:
        return self._mask

    @mask.setter
    def mask(self, mask: Tensor) -> None:
        if mask.dtype != torch.bool:
            raise UsageError(f"collect: mask must be boolean (True = real token), not {mask.dtype}")
        self._mask = mask
        real = int(mask.sum())
        self._real = None if real == mask.numel() else mask.flatten().nonzero().squeeze(1)
        self._tokens += real
        self._waiting = {matrix.name for matrix in self._matrices}
        for sums in self._sums.values():
            sums.counted = None

    def _name(self, matrix: Matrix) -> str:
        return f"{self._block}.{matrix.name}" if self._block else matrix.name

    def _see(self, matrix: Matrix, inputs: Tensor) -> None:
        if self._mask is None:
            raise UsageError("collect: set collector.mask before the first forward")
        self._count(matrix, inputs)
        self._waiting.discard(matrix.name)
        if self._inputs_only and not self._waiting:
            raise _Enough

    def _count(self, matrix: Matrix, inputs: Tensor) -> None:
        sums = self._sums.get(matrix.name)
        if sums is None:
            sums = next((other for other in self._sums.values() if other.counted and other.counted() is inputs), None)
            sums = sums or _Sums(inputs.shape[-1], self._want, inputs.device, self._precision)
            self._sums[matrix.name] = sums
        if sums.counted is not None:
            if sums.counted() is inputs:
                return
            raise UsageError(
                f"collect: a second input reached {self._name(matrix)} in one batch; set collector.mask before every"
                " forward"
            )
        rows = inputs.detach().reshape(-1, inputs.shape[-1])
        if len(rows) != self._mask.numel():
            raise UsageError(
                f"collect: {self._name(matrix)} received {len(rows)} tokens, collector.mask covers {self._mask.numel()}"
            )
        if self._real is not None:
            rows = rows.index_select(0, self._real.to(rows.device))
        sums.add(rows.to(self._precision))
        sums.counted = weakref.ref(inputs)

    def result(self) -> dict[str, Statistics]:
        """Matrix name -> Statistics, shared by identity where the input is shared.

        Raises NumericalError naming the matrix when its input was not finite, ModelError when a matrix never ran,
        DataError when there was no real token.
        """
        if self._tokens == 0:
            raise DataError("collect: no real token was seen; the masks are all False or nothing was run")
        finished: dict[int, Statistics] = {}
        result = {}
        for matrix in self._matrices:
            sums = self._sums.get(matrix.name)
            if sums is None:
                raise ModelError(
                    f"collect: {self._name(matrix)} received no input; its module is not called by its block's forward"
                )
            if id(sums) not in finished:
                finished[id(sums)] = sums.finish(self._tokens)
                _check_finite(self._name(matrix), finished[id(sums)])
            result[matrix.name] = finished[id(sums)]
        return result


def _check_finite(name: str, statistics: Statistics) -> None:
    bad = (~torch.isfinite(statistics.diagonal)).nonzero().flatten().tolist()
    if bad:
        raise NumericalError(
            f"collect: the input of {name} is not finite in {len(bad)} of {len(statistics.diagonal)} features (first:"
            f" {bad[0]}); load the model in float32 or bfloat16, or look at the calibration text"
        )


@contextmanager
def collect(
    matrices: Sequence[Matrix], want: str = "gram", precision: torch.dtype = torch.float32, *, block: str = ""
) -> Iterator[Collector]:
    """Hooks on the matrices' modules for as long as the context is open; the forwards are the caller's.

    want       "diagonal" (enough for Wanda, cheap) or "gram" (SparseGPT, least squares, refinement); means always
    precision  dtype of the sums, float32 or float64
    block      name of the matrices' block, for errors

    Raises UsageError when the mask is missing, was not set anew for a forward, or does not fit the tokens that arrive.
    """
    if want not in ("diagonal", "gram"):
        raise UsageError(f"collect: want={want!r} is unknown; it is 'diagonal' or 'gram'")
    collector = Collector(matrices, want, precision, block)

    def hook(matrix: Matrix):
        return lambda module, args: collector._see(matrix, args[0])

    handles = [matrix.module.register_forward_pre_hook(hook(matrix)) for matrix in matrices]
    try:
        yield collector
    finally:
        for handle in handles:
            handle.remove()
