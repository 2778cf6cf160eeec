"""Work, counted: operations of matrix products and factorisations, bytes that pass through memory, calls, disk.

What one block costs in a forward, in training steps and in closed forms stands here; what a run makes of it in
`forecast.py`.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from analysis.models.shape import ITEMS, BlockShape, MatrixShape
from analysis.streams.moments import PANEL

HEAD = 64  # width whose rate products of attention scores have
CALLS = 60  # operations that a block's forward launches
BACKWARD_CALLS = 2.5  # calls of a training step, in forwards
HIDDEN_PASSES, HEAD_PASSES, NEURON_PASSES = 24, 12, 5  # numbers a block's simple operations read and write, per token
# and feature of the hidden state, of the heads, and of every matrix that makes neurons
ADAM = 40  # bytes that a step of Adam and the mask of its gradient move for every number trained


@dataclass(frozen=True)
class Work:
    """An amount of work; amounts add up, and can be multiplied by how often.

    products: (dtype, width) -> operations (a multiply-add is two) of matrix products whose smaller side is `width`.
    solves: order -> operations of factorisations of matrices of that order. passes: bytes read and written by simple
    operations. calls: operations launched. selected: numbers among which the k-th largest is found. written, hashed:
    bytes written to disk and digested.
    """

    products: Mapping[tuple[str, int], float] = field(default_factory=dict)
    solves: Mapping[int, float] = field(default_factory=dict)
    passes: float = 0.0
    calls: float = 0.0
    selected: float = 0.0
    written: float = 0.0
    hashed: float = 0.0

    def __add__(self, other: "Work") -> "Work":
        plain = ("passes", "calls", "selected", "written", "hashed")
        return Work(
            _merged(self.products, other.products),
            _merged(self.solves, other.solves),
            *(getattr(self, name) + getattr(other, name) for name in plain),
        )

    def __mul__(self, times: float) -> "Work":
        return Work(
            {key: count * times for key, count in self.products.items()},
            {key: count * times for key, count in self.solves.items()},
            *(getattr(self, name) * times for name in ("passes", "calls", "selected", "written", "hashed")),
        )

    @property
    def operations(self) -> float:
        """Operations of products and factorisations."""
        return sum(self.products.values()) + sum(self.solves.values())


def _merged(one: Mapping[Any, float], other: Mapping[Any, float]) -> dict[Any, float]:
    return {key: one.get(key, 0.0) + other.get(key, 0.0) for key in {**one, **other}}


def total(works: Iterable[Work]) -> Work:
    """All of some work."""
    return sum(works, Work())


def product(dtype: str, rows: int, inner: int, columns: int) -> Work:
    """One matrix product (rows, inner) x (inner, columns)."""
    return Work({(dtype, min(inner, columns)): 2.0 * rows * inner * columns})


@lru_cache(4096)
def forward(
    block: BlockShape,
    hidden: int,
    tokens: int,
    *,
    length: int,
    forwards: float,
    dtype: str,
    compute: str | None = None,
    half: str | None = None,
) -> Work:
    """A block's forward over so many tokens in windows of `length`, in so many `forwards`; half: of that half alone;
    compute: what products are computed in, where that is not the dtype.

    Attention is counted as if every token looked at all of its window.
    """
    matrices, work = block.matrices if half is None else block.half(half), Work()
    for matrix in matrices:
        work += product(compute or dtype, tokens, matrix.columns, matrix.rows) * matrix.share
    numbers = HIDDEN_PASSES * hidden / (1 if half is None else 2)
    if half in (None, "mlp"):
        makers = sum(matrix.share for matrix in block.half("mlp")[:-1])
        numbers += NEURON_PASSES * block.consumer("mlp").columns * makers
    if half in (None, "attention"):
        width = block.consumer("attention").columns
        work += Work({(compute or dtype, HEAD): 4.0 * tokens * length * width})
        numbers += HEAD_PASSES * width
    calls = forwards * CALLS * len(matrices) / len(block.matrices)
    return work + Work(passes=tokens * ITEMS[dtype] * numbers, calls=calls)


def training(once: Work, *, steps: int, parameters: int, tensors: int, weights: bool = True) -> Work:
    """What training costs of which a forward over all its tokens is `once`: forward and backward, the latter for inputs
    and, where `weights` are trained, for them too; and the steps of Adam.
    """
    share = 3 if weights else 2
    through = Work(
        {key: count * share for key, count in once.products.items()},
        passes=once.passes * 3,
        calls=once.calls * (1 + BACKWARD_CALLS),
    )
    return through + Work(passes=ADAM * parameters * steps, calls=3 * tensors * steps)


def gram(tokens: int, width: int, dtype: str = "float32") -> Work:
    """The sum of x x^T over tokens: the upper triangle, by panels of columns."""
    share = min(1.0, 0.5 + 0.5 * PANEL / width)
    return Work({(dtype, width): 2.0 * tokens * width**2 * share})


def selection(matrix: MatrixShape) -> Work:
    """A mask by scores of single weights: made, compared, applied."""
    return Work(passes=40.0 * matrix.weights, calls=30, selected=matrix.weights)


def sweep(matrix: MatrixShape, columns: int) -> Work:
    """SparseGPT's sweep over the columns of a matrix whose factor is there: products between column blocks, and two
    small operations for every column.
    """
    rows, width = matrix.rows, matrix.columns
    return selection(matrix) + Work(
        {("float32", min(columns, rows)): float(rows) * width * (width + columns)},
        passes=130.0 * rows * width,
        calls=2.5 * width,
    )


def inverse_factor(width: int) -> Work:
    """The triangular factor of an inverse of that order."""
    return Work({("float32", width): width**3 / 3}, {width: width**3 / 3}, passes=40.0 * width**2, calls=10)


def least_squares(matrix: MatrixShape, kept: float) -> Work:
    """The ridge solution of a matrix that keeps this share: a factorisation for every row, of the columns it keeps or,
    where those are clearly fewer, of those it loses; and what surrounds it in float64.
    """
    rows, width = matrix.rows, matrix.columns
    fewer = 1 - kept < 0.8 * kept
    order = max(1, round(width * (1 - kept if fewer else kept)))
    outer = {("float32", min(rows, width)): 2 * (14.0 + 4 * fewer) * rows * width**2}  # float64: at half the rate
    whole = {width: 2.0 * width**3} if fewer else {}
    return Work(
        outer,
        _merged({order: rows * order**3 / 3}, whole),
        passes=rows * 4.0 * (2 * order * width + 8 * order**2) + 200.0 * rows * width,
        calls=60 + rows * order**2 / 2**20,
    )
