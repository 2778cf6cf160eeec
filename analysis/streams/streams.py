"""The two streams: hidden states of the same windows through the dense model and through what is already pruned.

Hidden states are held as one (N, T, H) tensor per stream where there is room: on the model's device, in main memory, or
in a memory-mapped file without a name, which disappears with the streams or the process.
"""

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from analysis import distributed, memory, storage
from analysis.models.anatomy import Anatomy, Block, Matrix
from analysis.models.block_arguments import Call
from analysis.models.replay import Recording, filled_up, record, run
from analysis.streams.collect import Collector, collect
from analysis.streams.moments import Accumulator, Statistics
from analysis.streams.starved import fed, is_starved
from analysis.windows import Windows

TOKENS_PER_FORWARD = {"cpu": 1024, "cuda": 16384, "mps": 4096}


def free_bytes(device: torch.device) -> int:
    """Bytes a large tensor could still take on `device`."""
    if device.type == "cuda":
        return (
            torch.cuda.mem_get_info(device)[0]
            + torch.cuda.memory_reserved(device)
            - torch.cuda.memory_allocated(device)
        )
    return memory.available()


def allocate(shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> Tensor:
    """An uninitialised tensor where there is room: `device` if it takes under a tenth of what is free there (a run
    holds up to six such tensors besides the model's own work), else main memory, else a temporary memory-mapped file,
    whose room on the disk is taken at once. Raises StoreError where the disk has too little.
    """
    size = torch.Size(shape).numel() * dtype.itemsize
    if device.type != "cpu" and size <= 0.1 * free_bytes(device):
        return torch.empty(shape, dtype=dtype, device=device)
    if size <= 0.1 * free_bytes(torch.device("cpu")):
        return torch.empty(shape, dtype=dtype)
    remedy = f"hidden states need {size / 2**20:,.0f} MiB there; free some, or set TMPDIR to a folder on a larger disk"
    with (
        storage.explained(f"temporary files in {tempfile.gettempdir()}", remedy),
        tempfile.NamedTemporaryFile(prefix="analysis-stream-") as file,  # mapped, it needs its name no longer
    ):
        if hasattr(os, "posix_fallocate") and size:
            os.posix_fallocate(file.fileno(), 0, size)
        return torch.from_file(file.name, shared=True, size=torch.Size(shape).numel(), dtype=dtype).view(shape)


@dataclass(eq=False)
class Streams:
    """Both streams of one set of windows at the input of the next block.

    `dense` and `sparse`: (N, T, H). `label` is "calibration" or the held-out set's name.
    """

    label: str
    recording: Recording
    dense: Tensor
    sparse: Tensor

    def of(self, name: str) -> Tensor:
        """The stream called "dense" or "sparse"."""
        return {"dense": self.dense, "sparse": self.sparse}[name]

    def first(self, count: int) -> "Streams":
        """The streams of the first `count` windows; the recording is that of all."""
        return self if count == len(self.dense) else replace(self, dense=self.dense[:count], sparse=self.sparse[:count])

    @property
    def apart(self) -> bool:
        """Whether there are two streams: where nobody reads the dense one, both are one tensor."""
        return self.dense is not self.sparse

    @property
    def mask(self) -> Tensor:
        """(N, T) bool, True = real token."""
        return self.recording.mask

    @property
    def counts(self) -> Tensor:
        """(N, T) bool, True = token that statistics and losses count."""
        return self.recording.counts

    @property
    def tokens(self) -> int:
        return int(self.mask.sum())


def open_streams(
    model: nn.Module, anatomy: Anatomy, label: str, windows: Windows, *, apart: bool = True, tokens: str = "all"
) -> Streams:
    """Both streams at the first block's input (they are equal there), recorded by running the dense model once.

    apart: False where nobody reads the dense stream: both are then one tensor, which goes where the sparse stream goes.
    tokens: which of them statistics and losses count (`windows.TOKENS`).
    """
    _keep_freed_memory()
    device = next(model.parameters()).device
    recording = record(model, anatomy, windows, store=allocate if device.type == "cpu" else None)
    recording.tokens = tokens
    if device.type != "cpu":
        recording.hidden = _copy(recording.hidden, device)
    dense = recording.hidden
    return Streams(label, recording, dense, _copy(dense, device) if apart else dense)


def _keep_freed_memory() -> None:
    """Let go of a block of nearly 32 MiB, untouched: glibc then keeps what a forward frees for the next one, rather
    than give it back and take it anew page by page (mallopt(3), M_MMAP_THRESHOLD: the largest freed block sets it).
    Other allocators do not mind."""
    torch.empty(2**25 - 2**16, dtype=torch.uint8)


def _copy(hidden: Tensor, device: torch.device) -> Tensor:
    return allocate(hidden.shape, hidden.dtype, device).copy_(hidden)


def chunks(count: int, length: int, device: torch.device) -> Iterator[slice]:
    """Slices of windows that together hold about `TOKENS_PER_FORWARD` tokens, in order: a function of the shape alone,
    so that a resumed run computes the same bits."""
    step = max(1, tokens_per_forward(device) // length)
    for start in range(0, count, step):
        yield slice(start, min(start + step, count))


def tokens_per_forward(device: torch.device) -> int:
    return TOKENS_PER_FORWARD.get(device.type, 1024)


def row_batches(recording: Recording, count: int, device: torch.device) -> list[slice | Tensor]:
    """The first `count` windows of a recording in parts of about `TOKENS_PER_FORWARD` tokens: those of `chunks`, or,
    where padding can be left out, windows of a like length together, the longest first.
    """
    if recording.lengths is None:
        return [*chunks(count, recording.mask.shape[1], device)]
    lengths, room = recording.lengths[:count], tokens_per_forward(device)
    order = lengths.argsort(descending=True, stable=True)
    found: list[slice | Tensor] = []
    start = 0
    while start < count:
        rows = order[start : start + max(1, room // int(lengths[order[start]]))]
        found.append(rows)
        start += len(rows)
    return found


def unit_output(
    modules: Sequence[nn.Module], first: int, recording: Recording, hidden: Tensor, rows: slice | Tensor
) -> Tensor:
    """Output (B, T, H) of consecutive blocks `first`, `first + 1`, ... on `hidden` (B, T, H), the windows `rows` of the
    recording. Padding behind all of them is left out where it can be; zeros stand there then.
    """
    whole, hidden = hidden.shape[1], hidden[:, : recording.longest(rows)]
    for offset, module in enumerate(modules):
        hidden = run(module, hidden, call_of(recording, first + offset, hidden, rows))
    return filled_up(hidden, whole)


@torch.inference_mode()
def input_statistics(
    block: Block,
    matrices: Sequence[Matrix],
    streams: Streams,
    hidden: Tensor,
    want: str,
    precision: torch.dtype,
    *,
    starved: str = "shrink",
    gated: bool = False,
) -> dict[str, Statistics]:
    """Statistics of the inputs of some of a block's matrices, by name, where the block reads `hidden` (N, T, H) of the
    first N windows of the streams.

    starved: the rule for experts that see few tokens (`starved.py`); with "magnitude" theirs are zeros over no token.
    gated: as in `collect`.
    """
    device = next(block.module.parameters()).device

    def collected(matrices: Sequence[Matrix], everyone: bool = False) -> Collector:
        with collect(
            matrices, want=want, precision=precision, block=block.name, gated=gated, everyone=everyone
        ) as collector:
            every = row_batches(streams.recording, hidden.shape[0], device)
            mine = distributed.own(every)
            for rows in mine or every[:1]:  # a rank without a share counts no token, of every input
                counts = streams.counts[rows][:, : streams.recording.longest(rows)]
                collector.mask = counts if mine else torch.zeros_like(counts)
                with collector.inputs_only():
                    unit_output([block.module], block.index, streams.recording, hidden[rows].to(device), rows)
            distributed.reduce(collector, device)
        return collector

    def over_all(few: list[Matrix]) -> dict[str, Accumulator]:
        every = collected(few, everyone=True)
        return {matrix.name: every.sums(matrix) for matrix in few}

    alone = [matrix for matrix in matrices if matrix.expert is None]
    experts = [matrix for matrix in matrices if matrix.expert is not None]
    collector = collected(matrices)
    statistics = collector.result(alone)
    if experts:
        own = {matrix.name: collector.sums(matrix) for matrix in experts}
        seen = {name: sums.tokens for name, sums in own.items()}
        sums = fed(own, experts, starved, over_all, block.name)
        for matrix in experts:
            routed, name = seen[matrix.name], f"{block.name}.{matrix.name}"
            if starved == "magnitude" and is_starved(matrix, routed):
                nothing = torch.zeros(matrix.columns, dtype=precision, device=device)
                statistics[matrix.name] = Statistics(None, nothing, nothing, 0, routed=routed)
            else:
                statistics[matrix.name] = Statistics.of(sums[matrix.name], name, routed)
    return statistics


def call_of(recording: Recording, block: int, hidden: Tensor, rows: slice | Tensor) -> Call:
    """The very arguments the model gave `block` for the windows `rows`, on the device of `hidden` (B, T, H) and for as
    many tokens.

    Where a unit is solved in another precision than the model's, floating arguments (rotary embeddings, additive masks)
    follow the precision of `hidden`.
    """
    call = recording.call(block, rows, hidden.device, length=hidden.shape[1])
    if hidden.dtype != recording.hidden.dtype:
        call = Call(*tree_map(lambda leaf: _to_dtype(leaf, hidden.dtype), (call.args, call.kwargs)))
    return call


def _to_dtype(leaf: Any, dtype: torch.dtype) -> Any:
    return leaf.to(dtype) if isinstance(leaf, Tensor) and leaf.is_floating_point() else leaf


def advance(
    modules: Sequence[nn.Module], first: int, recording: Recording, hidden: Tensor, *, out: Tensor | None = None
) -> Tensor:
    """Run consecutive blocks over a whole stream, chunk by chunk.

    hidden: (N, T, H), inputs of block `first`. Returns the outputs (N, T, H), written to `out` (which may be `hidden`).
    """
    device = next(modules[0].parameters(), hidden).device  # what has no weights runs where its input is
    return stream_through(
        lambda recording, x, rows: unit_output(modules, first, recording, x, rows), recording, hidden, device, out=out
    )


def advance_streams(streams: Streams, dense: nn.Module, pruned: nn.Module, block: int) -> None:
    """Both streams past one block, in place; where they are one tensor, past the pruned block."""
    if streams.apart:
        advance([dense], block, streams.recording, streams.dense, out=streams.dense)
    advance([pruned], block, streams.recording, streams.sparse, out=streams.sparse)


def streams_past(streams: Streams, modules: Mapping[str, nn.Module], block: int, *, fresh: bool) -> Streams:
    """The streams that `modules` names ("dense", "sparse"), each past one block as its module runs it.

    fresh: in new tensors, `streams` left where they are; else in its own. Of the result, a stream that was not named is
    the one that was.
    """
    moved = {
        name: advance([module], block, streams.recording, streams.of(name), out=None if fresh else streams.of(name))
        for name, module in modules.items()
    }
    first, last = next(iter(moved.values())), list(moved.values())[-1]
    return Streams(streams.label, streams.recording, moved.get("dense", last), moved.get("sparse", first))


def stream_through(
    forward: Callable[[Recording, Tensor, slice | Tensor], Tensor],
    recording: Recording,
    hidden: Tensor,
    device: torch.device,
    *,
    out: Tensor | None = None,
) -> Tensor:
    """`forward(recording, x (B, T, in), rows)` over a whole stream (N, T, in), chunk by chunk: (N, T, out), in `out` if
    given. Ranks compute chunks by turns, and all have the whole result, to the bits of one process.
    """
    every, given = row_batches(recording, hidden.shape[0], device), out is not None
    for rows in distributed.own(every):
        with torch.inference_mode():
            part = forward(recording, hidden[rows].to(device), rows)
        out = allocate((len(hidden), *part.shape[1:]), part.dtype, device) if out is None else out
        out[rows] = part.to(out.device)
    if not given:
        form = distributed.from_main(None if out is None else (out.shape, out.dtype))
        assert form is not None, "a stream has windows, and rank 0 the first of them"
        out = allocate(*form, device) if out is None else out
    assert out is not None
    distributed.exchange(out, every, device)
    return out
