"""What a matrix's input looks like on the calibration tokens: Gram matrix, squares and mean.

One entry point, `collect`. Matrices fed the same tensor (query, key and value; gate and up) share one `Statistics`, and
only real tokens count: padded positions never enter a sum. A matrix of an expert counts those that go to its expert
(`starved.py` says what becomes of one that sees few).

    with collect(block.matrices, want="gram") as collector:
        for rows in batches:
            collector.mask = windows.mask[rows]
            run(block.module, hidden[rows], recording.call(block.index, rows))
    statistics = collector.result()["self_attn.q_proj"]
"""

import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NoReturn

import torch
import torch.distributed
from torch import Tensor, nn

from analysis.errors import ModelError, UsageError
from analysis.models.anatomy import Matrix
from analysis.models.experts import Routed
from analysis.models.hooks import hooked, stoppable
from analysis.streams.moments import Accumulator, Statistics, no_token


@dataclass(eq=False)
class _Input:
    """The sums of one distinct input, and a weak reference to the tensor last counted; None where none of this batch
    is.
    """

    sums: Accumulator
    counted: Callable[[], Tensor | None] | None = None


class Collector:
    """Accumulates while the context of `collect` is open; `result()` gives the statistics by matrix name.

    Set `mask` (bool, (B, T), True = real token) before every forward: it opens a new batch.
    """

    def __init__(
        self,
        matrices: Sequence[Matrix],
        want: str,
        precision: torch.dtype,
        block: str,
        gated: bool = False,
        everyone: bool = False,
    ):
        self._gated, self._everyone = gated, everyone
        self._block = block
        self._matrices = matrices
        self._parts = Statistics.PARTS[want]
        self._precision = precision
        self._inputs: dict[str, _Input] = {}  # by matrix name; the same object where the input is shared
        self._mask: Tensor | None = None
        self._real: Tensor | None = None  # positions of real tokens in the flattened batch, None when all are real
        self._waiting: set[str] = set()  # matrices not seen yet in this batch
        self._stop: Callable[[], NoReturn] | None = None

    @contextmanager
    def inputs_only(self) -> Iterator[None]:
        """While open, one forward ends as soon as every matrix has seen its input: nobody wants its output.

        Spares the last matrix's product, a quarter of a Llama block. For blocks that call each matrix once.
        """
        try:
            with stoppable() as self._stop:
                yield
        finally:
            self._stop = None

    @property
    def mask(self) -> Tensor | None:
        return self._mask

    @mask.setter
    def mask(self, mask: Tensor) -> None:
        if mask.dtype != torch.bool:
            raise UsageError(f"collect: mask must be boolean (True = real token), not {mask.dtype}")
        self._mask = mask
        self._real = None if bool(mask.all()) else mask.flatten().nonzero().squeeze(1)
        self._waiting = {matrix.name for matrix in self._matrices}
        for source in self._inputs.values():
            source.counted = None

    def _name(self, matrix: Matrix) -> str:
        return f"{self._block}.{matrix.name}" if self._block else matrix.name

    def _see(self, matrix: Matrix, inputs: Tensor) -> None:
        if self._mask is None:
            raise UsageError("collect: set collector.mask before the first forward")
        self._count(matrix, inputs, self._mask.numel())
        self._waiting.discard(matrix.name)
        if self._stop is not None and not self._waiting:
            self._stop()

    def _count(self, matrix: Matrix, inputs: Tensor, tokens: int) -> None:
        source = self._inputs.get(matrix.name)
        if source is None:
            shared = (other for other in self._inputs.values() if other.counted and other.counted() is inputs)
            source = next(shared, None) or _Input(
                Accumulator(self._parts, inputs.shape[-1], precision=self._precision, device=inputs.device)
            )
            self._inputs[matrix.name] = source
        if source.counted is not None:
            if source.counted() is inputs:
                return
            raise UsageError(
                f"collect: a second input reached {self._name(matrix)} in one batch; set collector.mask before every"
                " forward"
            )
        rows = inputs.detach().reshape(-1, inputs.shape[-1])
        if len(rows) != tokens:
            raise UsageError(
                f"collect: {self._name(matrix)} received {len(rows)} tokens, collector.mask covers {tokens}"
            )
        if self._real is not None:
            rows = rows.index_select(0, self._real.to(rows.device))
        source.sums.add(rows)
        source.counted = weakref.ref(inputs)

    def _see_experts(self, matrices: Sequence[Matrix], call: Routed) -> None:
        """Count what one call of a module of experts shows each of these matrices."""
        if self._mask is None:
            raise UsageError("collect: set collector.mask before the first forward")
        if len(call.hidden) != self._mask.numel():
            raise UsageError(
                f"collect: {self._name(matrices[0])} received {len(call.hidden)} tokens, collector.mask covers"
                f" {self._mask.numel()}"
            )
        real = self._mask.flatten().to(call.hidden.device)
        for matrix in matrices:
            assert matrix.expert is not None
            rows = (real if self._everyone else real & call.tokens(matrix.expert)).nonzero()[:, 0]
            read = call.read(matrix.key, matrix.expert, rows).detach()
            if self._gated:
                gate, routed = call.gate(matrix.expert), call.tokens(matrix.expert)
                read = read * torch.where(routed, gate, 1 / call.experts.shape[1])[rows, None].to(read)
            if matrix.name not in self._inputs:
                sums = Accumulator(self._parts, matrix.columns, precision=self._precision, device=read.device)
                self._inputs[matrix.name] = _Input(sums)
            self._inputs[matrix.name].sums.add(read)
            self._waiting.discard(matrix.name)
        if self._stop is not None and not self._waiting:
            self._stop()

    def sums(self, matrix: Matrix) -> Accumulator:
        """The sums of one matrix's input so far. Raises ModelError where a matrix never ran."""
        self._distinct()
        return self._inputs[matrix.name].sums

    def _distinct(self) -> dict[Accumulator, Matrix]:
        """Every distinct input's sums and the first matrix that reads it, in the order of the matrices. Raises
        ModelError where a matrix never ran.
        """
        distinct: dict[Accumulator, Matrix] = {}
        for matrix in self._matrices:
            if matrix.name not in self._inputs:
                raise ModelError(
                    f"collect: {self._name(matrix)} received no input; its module is not called by its block's forward"
                )
            distinct.setdefault(self._inputs[matrix.name].sums, matrix)
        return distinct

    def reduce(self, group: "torch.distributed.ProcessGroup | None") -> None:
        """Count what every process of a torch.distributed group saw; None: this process is alone. Each must have run a
        batch. Raises ModelError where a matrix never ran.
        """
        for sums in self._distinct():
            sums.reduce(group)

    def result(self, matrices: Sequence[Matrix] | None = None) -> dict[str, Statistics]:
        """Matrix name -> Statistics, shared by identity where the input is shared; of all matrices, or of these.

        Raises NumericalError naming the matrix when its input was not finite, ModelError when a matrix never ran,
        DataError when there was no real token.
        """
        if not self._inputs:
            raise no_token(self._block or ", ".join(matrix.name for matrix in self._matrices))
        asked = self._matrices if matrices is None else matrices
        wanted = {self._inputs[matrix.name].sums for matrix in asked if matrix.name in self._inputs}
        finished = {
            sums: Statistics.of(sums, self._name(matrix)) for sums, matrix in self._distinct().items() if sums in wanted
        }
        return {matrix.name: finished[self._inputs[matrix.name].sums] for matrix in asked}


@contextmanager
def collect(
    matrices: Sequence[Matrix],
    want: str = "gram",
    precision: torch.dtype = torch.float32,
    *,
    block: str = "",
    gated: bool = False,
    everyone: bool = False,
) -> Iterator[Collector]:
    """Hooks on the matrices' modules for as long as the context is open; the forwards are the caller's.

    want       "diagonal" (enough for Wanda, cheap) or "gram" (SparseGPT, least squares, refinement); means always
    precision  dtype of the sums, float32 or float64
    block      name of the matrices' block, for errors
    gated      whether what an expert reads counts times the weight of its output (MoE-Pruner, 2410.12013)
    everyone   whether an expert counts all real tokens; gated, those that do not go to it count times 1 / k, k the
               number of experts a token goes to

    Raises UsageError when the mask is missing, was not set anew for a forward, or does not fit the tokens that arrive.
    """
    if want not in Statistics.PARTS:
        raise UsageError(f"collect: want={want!r} is unknown; it is 'diagonal' or 'gram'")
    collector = Collector(matrices, want, precision, block, gated, everyone)
    experts: dict[str, list[Matrix]] = {}
    for matrix in matrices:
        if matrix.expert is not None:
            experts.setdefault(matrix.owner, []).append(matrix)

    def hook(matrix: Matrix):
        def see(module: nn.Module, args: tuple, kwargs: dict) -> None:
            collector._see(matrix, args[0])

        return see

    def expert_hook(own: list[Matrix]):
        def see(module: nn.Module, args: tuple, kwargs: dict) -> None:
            collector._see_experts(own, Routed.of(module, args, kwargs))

        return see

    alone = [(matrix.module, hook(matrix)) for matrix in matrices if matrix.expert is None]
    with hooked([*alone, *((own[0].module, expert_hook(own)) for own in experts.values())]):
        yield collector
