"""Several processes, one run: the ranks that `torchrun` starts, what each of them does, and what they share.

Every rank holds the model and all windows, and does its share of the work on them: chunks of windows are computed by
turns and handed to all, sums are added up, and what only one can decide is taken from rank 0, the main one. In one
process, and until `join` has met the others, everything here changes nothing. torch is loaded by `join` alone.

The words of the environment are torchrun's: RANK, LOCAL_RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT.
"""

import logging
import os
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from analysis.errors import AnalysisError, RankError, UsageError, first_line

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from torch.distributed import ProcessGroup, Store

WORDS = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
PATIENCE = 1800.0  # seconds that a rank waits for the others by default
T = TypeVar("T")


class Reducible(Protocol):
    """Sums that processes can add up."""

    def reduce(self, group: "ProcessGroup | None") -> None: ...


@dataclass(frozen=True)
class Ranks:
    """The ranks as this process has met them. cards: those that exchange what lies on CUDA devices; None without."""

    rank: int
    world: int
    seconds: float
    store: "Store"
    host: "ProcessGroup"
    cards: "ProcessGroup | None" = None


_ranks: Ranks | None = None


def asked() -> bool:
    """Whether this process was started as one of several."""
    given = os.environ
    return all(word in given for word in WORDS) and given["WORLD_SIZE"].isdecimal() and int(given["WORLD_SIZE"]) > 1


def rank() -> int:
    """The number of this process among those that have joined; 0 in one alone."""
    return _ranks.rank if _ranks is not None else 0


def world() -> int:
    """How many processes have joined; 1 for one alone."""
    return _ranks.world if _ranks is not None else 1


def neighbours() -> int:
    """How many of the processes that have joined run on this machine, this one included."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", _ranks.world)) if _ranks is not None else 1


def main() -> bool:
    """Whether this is the process that speaks and writes: rank 0, or the only one."""
    return not asked() or os.environ["RANK"] == "0"


def tells(error: AnalysisError | None = None) -> bool:
    """Whether this process is the one that says the message with which it ends: of an error that all ranks share the
    main one, else the first of all that ends; of those that have not met, the first of each machine.
    """
    if _ranks is None:
        return not asked() or os.environ.get("LOCAL_RANK", "0") == "0"
    if error is not None and error.shared:
        return _ranks.rank == 0
    try:
        return int(_ranks.store.compare_set("told", "", str(_ranks.rank))) == _ranks.rank
    except (RuntimeError, ValueError):  # whoever keeps the store is gone
        return True


# --- meeting ----------------------------------------------------------------------------------------------------------


def join(device: str, seconds: float = PATIENCE) -> str:
    """Meet the other ranks, if there are any; returns the device of this one, which for "cuda" is the card of its
    number on its machine ("cuda:LOCAL_RANK"). All ranks but the main one are silent from here on.

    seconds: how long a rank waits for the others, here and wherever something is exchanged. Raises UsageError for a
    device that several ranks cannot share, RankError where the others do not come.
    """
    global _ranks
    if not asked():
        return device
    import torch

    os.environ.setdefault("TORCH_NCCL_BLOCKING_WAIT", "1")  # a card that waits in vain then raises an error
    import torch.distributed as dist

    if not main():
        os.environ["ANALYSIS_PROGRESS"] = "0"
        logging.disable(logging.WARNING)
        warnings.simplefilter("ignore")
    wait = timedelta(seconds=seconds)
    with answered(seconds):
        store, number, count = next(dist.rendezvous("env://", timeout=wait))
        dist.init_process_group("gloo", store=store, rank=number, world_size=count, timeout=wait)
    assert dist.group.WORLD is not None
    _ranks = Ranks(number, count, seconds, store, dist.group.WORLD)
    with together():
        device = _own_device(device, torch.cuda.device_count())
    agree({"device": device.partition(":")[0]})
    if device.startswith("cuda"):
        torch.cuda.set_device(torch.device(device))
        with answered():
            _ranks = Ranks(number, count, seconds, store, _ranks.host, dist.new_group(backend="nccl", timeout=wait))
    return device


def _own_device(device: str, cards: int) -> str:
    """The device of this rank, of the `cards` of its machine. Raises UsageError."""
    kind, _, number = device.partition(":")
    if kind == "mps" or number:
        raise UsageError(
            f"--device {device}: several ranks share work on cpu or on one CUDA card each; leave it out, or give cpu or"
            " cuda"
        )
    if kind == "cpu" or (kind == "auto" and not cards):
        return "cpu"
    local = int(os.environ.get("LOCAL_RANK", "0"))
    if local >= cards:
        ranks = os.environ.get("LOCAL_WORLD_SIZE", local + 1)
        raise UsageError(
            f"--device {device}: this machine has {cards} CUDA cards for {ranks} ranks, and each needs its own; start"
            " as many ranks as there are cards, or give --device cpu"
        )
    return f"cuda:{local}"


def leave() -> None:
    """Part with the other ranks: from here on this process is alone."""
    global _ranks
    if _ranks is None:
        return
    import torch.distributed as dist

    _ranks = None
    dist.destroy_process_group()


@contextmanager
def answered(seconds: float | None = None) -> Iterator[None]:
    """Raises RankError where an exchange in the body fails, because a rank has ended or does not answer in time."""
    try:
        yield
    except RuntimeError as error:
        import torch

        if isinstance(error, torch.OutOfMemoryError):
            raise
        limit = seconds if seconds is not None else _ranks.seconds if _ranks is not None else PATIENCE
        problem = re.sub(r"^\[\S+\] ", "", first_line(error)).partition(". ")[0]  # without gloo's line and advice
        number, count = os.environ.get("RANK", "0"), os.environ.get("WORLD_SIZE", "1")
        raise RankError(
            f"rank {number} of {count}: another rank has ended, or gave no answer within {limit:g} s"
            f" ({problem}); finished work is kept: repeat the same command to resume, with any number of"
            " ranks, and give --rank-timeout more seconds where a rank was only slow"
        ) from error


# --- saying the same --------------------------------------------------------------------------------------------------


def everyones(value: T) -> list[T]:
    """What every rank gives, by rank."""
    if _ranks is None:
        return [value]
    import torch.distributed as dist

    values: list[Any] = [None] * _ranks.world
    with answered():
        dist.all_gather_object(values, value, group=_ranks.host)
    return values


def from_main(value: T) -> T:
    """What rank 0 gives, on every rank."""
    if _ranks is None:
        return value
    import torch.distributed as dist

    values: list[Any] = [value if _ranks.rank == 0 else None]
    with answered():
        dist.broadcast_object_list(values, src=0, group=_ranks.host)
    return values[0]


@contextmanager
def together() -> Iterator[None]:
    """An AnalysisError that the body raises on one rank is raised on all of them, where it ends."""
    mine: AnalysisError | None = None
    try:
        yield
    except AnalysisError as error:
        mine = error
    errors = everyones(mine)
    failed = [number for number, one in enumerate(errors) if one is not None]
    if not failed:
        return
    first = mine if mine is not None and failed[0] == rank() else errors[failed[0]]
    assert first is not None
    if len(failed) < len(errors):
        first.args = (f"rank {failed[0]} of {len(errors)}: {first}", *first.args[1:])
    first.shared = len(errors) > 1
    raise first


def on_main(do: Callable[[], T]) -> T:
    """What `do` gives on rank 0, where alone it runs; its AnalysisError is raised on all ranks."""
    value: Any = None
    with together():
        if rank() == 0:
            value = do()
    return from_main(value)


def main_first(do: Callable[[], T]) -> T:
    """What `do` gives, on every rank; the others begin when rank 0 is done, whose AnalysisError is raised on all."""
    value: Any = None
    with together():
        if rank() == 0:
            value = do()
    return do() if rank() else value


def agree(values: Mapping[str, Any]) -> None:
    """Raise UsageError, on every rank, where ranks give other values than rank 0."""
    first, *others = everyones(dict(values))
    for number, theirs in enumerate(others, 1):
        differ = [key for key in sorted({*first, *theirs}) if first.get(key) != theirs.get(key)]
        if differ:
            told = "; ".join(f"{key} is {first.get(key)!r} there, {theirs.get(key)!r} here" for key in differ)
            error = UsageError(
                f"rank {number} of {world()} is not asked for the run of rank 0: {told}; give all ranks the same"
                " command, the same files and the same software"
            )
            error.shared = True
            raise error


# --- shares and sums --------------------------------------------------------------------------------------------------


def own(parts: Iterable[T]) -> list[T]:
    """The parts of some work that fall to this rank, in order: by turns, the first to rank 0."""
    return list(parts)[rank() :: world()]


def group(device: "torch.device") -> "ProcessGroup | None":
    """The ranks as a group that exchanges tensors of a device; None for one process alone."""
    if _ranks is None:
        return None
    return _ranks.cards if device.type == "cuda" else _ranks.host


def add_up(*tensors: "Tensor") -> None:
    """Put the sum over all ranks in the place of each tensor (float or int), on every rank."""
    if _ranks is None:
        return
    import torch
    import torch.distributed as dist

    with answered(), torch.inference_mode():
        for tensor in tensors:
            dist.all_reduce(tensor, group=group(tensor.device))


def reduce(sums: "Reducible", device: "torch.device") -> None:
    """Count what every rank counted in sums that lie on a device, on every rank."""
    if _ranks is None:
        return
    with answered():
        sums.reduce(group(device))


def total(*values: float) -> list[float]:
    """The sum over all ranks of each number, in float64."""
    if _ranks is None:
        return list(values)
    import torch

    sums = torch.tensor(values, dtype=torch.float64)
    add_up(sums)
    return sums.tolist()


def spread(*tensors: "Tensor", source: int = 0) -> None:
    """Put the tensors of rank `source`, bit for bit, in the place of everybody's, of any dtype."""
    if _ranks is None:
        return
    import torch
    import torch.distributed as dist

    with answered(), torch.inference_mode():
        for tensor in tensors:
            whole = tensor.detach().contiguous()
            dist.broadcast(whole.reshape(-1).view(torch.uint8), source, group=group(whole.device))
            if _ranks.rank != source and whole.data_ptr() != tensor.data_ptr():
                tensor.copy_(whole)


def exchange(hidden: "Tensor", parts: "Sequence[slice | Tensor]", device: "torch.device") -> None:
    """Complete a tensor (N, ...) of which every rank has computed its `own` parts; it goes by way of `device`, wherever
    it lies.
    """
    if _ranks is None:
        return
    for number, rows in enumerate(parts):
        source = number % _ranks.world
        there = hidden[rows].to(device)
        spread(there, source=source)
        if _ranks.rank != source:
            hidden[rows] = there.to(hidden.device)
