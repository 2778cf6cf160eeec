"""How fast a machine is, timed in about a second: products per dtype, passes over memory, calls, solves, a disk.

What was timed is kept in the cache for this machine, device and number of threads, or in a file to be taken elsewhere
(`analysis plan --calibrate FILE` there, `analysis plan --like FILE` here).
"""

import json
import math
import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analysis import memory, paths, storage
from analysis.errors import StoreError, UsageError
from analysis.study.work import Work

if TYPE_CHECKING:
    import torch

VERSION = 1  # of what a file holds
TOKENS = 1024  # rows of a timed product
WIDTHS = (64, 128, 256, 512, 1024, 2048, 4096)
BUDGET = 0.15  # seconds after which no wider product is timed
ROUNDS = 3
KINDS = {
    "cpu": ("float32", "medium", "bfloat16"),
    "cuda": ("float32", "tf32", "bfloat16", "float16"),
    "mps": ("float32", "bfloat16", "float16"),
}
"""What is timed of each kind of device: dtypes, and `compute` words of gradient units (`reconstruction/arithmetic`)."""

Curve = tuple[tuple[int, float], ...]


@dataclass(frozen=True)
class Machine:
    """What a device and its host do, and have.

    device: "cpu", or the kind and name of an accelerator; threads: of the host. products: dtype -> (width, operations a
    second) of matrix products with square weights of that width. passes: bytes a second that simple operations on
    tensors read and write. call: seconds of one operation on next to nothing. solves: (order, operations a second) of
    factorisations. selected: numbers a second whose k-th largest is found. disk: bytes a second written and flushed;
    hashed: bytes a second of sha256. interpreter: bytes of the process without a model. device_memory, host_memory:
    bytes that a process may take there; device_memory 0 on a CPU.
    """

    device: str
    threads: int
    products: Mapping[str, Curve]
    passes: float
    call: float
    solves: Curve
    selected: float
    disk: float
    hashed: float
    interpreter: int
    device_memory: int
    host_memory: int

    @property
    def kind(self) -> str:
        """ "cpu", "cuda" or "mps"."""
        return self.device.split()[0]

    def seconds(self, work: Work) -> float:
        """How long some work takes, its parts one after the other."""
        products = sum(
            count / at(self.products.get(dtype, self.products["float32"]), width)
            for (dtype, width), count in work.products.items()
        )
        return (
            products
            + sum(count / at(self.solves, order) for order, count in work.solves.items())
            + work.passes / self.passes
            + work.calls * self.call
            + work.selected / self.selected
            + work.written / self.disk
            + work.hashed / self.hashed
        )

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready; `Machine.of(machine.to_dict())` is the same."""
        return {"version": VERSION, "torch": storage.versions("torch")["torch"]} | asdict(self)

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> "Machine":
        """From `to_dict`. Raises ValueError, KeyError or TypeError for what is no such thing."""
        if data["version"] != VERSION:
            raise ValueError(f"it is of version {data['version']!r}, this program reads {VERSION}")
        values = {key: value for key, value in data.items() if key not in ("version", "torch")}
        values["products"] = {dtype: _curve(curve) for dtype, curve in data["products"].items()}
        machine = cls(**values | {"solves": _curve(data["solves"])})
        rates = [machine.passes, machine.call, machine.selected, machine.disk, machine.hashed, machine.interpreter]
        curves = [*machine.products.values(), machine.solves]
        rates += [rate for curve in curves for point in curve for rate in point]
        if "float32" not in machine.products or not all(curves) or not all(0 < rate < math.inf for rate in rates):
            raise ValueError("its rates are not all above zero")
        return machine


SLOW = Machine(
    device="cpu",
    threads=1,
    products={"float32": ((64, 1e9), (1024, 1e10))},
    passes=1e9,
    call=5e-5,
    solves=((64, 5e8), (1024, 5e9)),
    selected=1e7,
    disk=5e7,
    hashed=2e8,
    interpreter=600 * 2**20,
    device_memory=0,
    host_memory=2**33,
)
"""A machine slower than any that is likely: what is short on it is short everywhere."""


def _curve(points: Sequence[Sequence[float]]) -> Curve:
    return tuple((int(size), float(rate)) for size, rate in points)


def at(curve: Curve, size: float) -> float:
    """The rate at a size, on straight lines between the points in logarithms of both; at the ends as there."""
    if size <= curve[0][0]:
        return curve[0][1] * max(size, 1) / curve[0][0]  # below the first point calls decide, and rates fall with size
    for (left, low), (right, high) in zip(curve, curve[1:]):
        if size <= right:
            share = math.log(size / left) / math.log(right / left)
            return math.exp((1 - share) * math.log(low) + share * math.log(high))
    return curve[-1][1]


def this_machine(device: str = "cpu") -> Machine:
    """This machine with a device, as timed before with as many threads, else timed now. device: as torch names it."""
    import torch

    file = paths.cache() / "machine" / f"{_digest(device)}.json"
    try:
        return Machine.of(storage.read_json(file))
    except (OSError, ValueError, KeyError, TypeError):
        machine = calibrate(torch.device(device))
        keep(machine, device)
        return machine


def keep(machine: Machine, device: str) -> None:
    """Keep what was timed of this machine for later forecasts."""
    file = paths.cache() / "machine" / f"{_digest(device)}.json"
    with storage.explained(file):
        write_machine(file, machine)


def write_machine(file: Path, machine: Machine) -> None:
    """Write a machine's rates. Raises OSError."""
    storage.write(file, json.dumps(machine.to_dict(), indent=1) + "\n")


def check_target(file: Path) -> None:
    """Raise StoreError where a file that holds something else than a machine's rates would be lost."""
    with storage.explained(file):
        if not file.exists():
            return
    try:
        read_machine(file)
    except UsageError as error:
        raise StoreError(
            f"{file}: is there already and holds no rates of a machine; name another file, or remove it first"
        ) from error


def read_machine(file: Path) -> Machine:
    """A machine from a file of `write_machine`. Raises UsageError for another kind of file."""
    try:
        return Machine.of(storage.read_json(file))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(
            f"machine {file}: holds no rates of a machine ({error}); make it there with `analysis plan --calibrate"
            f" {file.name}`"
        ) from error


def _digest(device: str) -> str:
    """What a machine's rates are kept under."""
    import torch

    name = torch.cuda.get_device_name(device) if device.startswith("cuda") else ""
    known = [platform.node(), platform.machine(), os.cpu_count(), torch.get_num_threads(), torch.__version__]
    return storage.identity_digest([VERSION, *known, device.partition(":")[0], name])[:32]


# --- timing -----------------------------------------------------------------------------------------------------------


def calibrate(device: "torch.device") -> Machine:
    """Time a device and its host, about a second where they are idle. Each rate is that of the best of a few rounds, so
    that a moment in which the machine is busy does not count.
    """
    import torch

    interpreter = _interpreter(device)
    with torch.inference_mode():
        products = {word: _products(device, word) for word in KINDS[device.type]}
        values = torch.rand(2**20, device=device)
        tiny, many = torch.rand(1, 8, device=device), 200
        module = torch.nn.Linear(8, 8, device=device)
        passes = 8 * values.nbytes / _best(lambda: torch.nn.functional.silu(values).mul(values).add(values), device)
        call = _best(lambda: [module(tiny) for _ in range(many)], device) / many
        solves = tuple((order, _solved(device, order)) for order in (64, 256, 1024))
        selected = values.numel() / _best(lambda: _select(values), device)
    data = os.urandom(2**24)
    hashed = len(data) / _best(lambda: storage.sha256(data), None)
    kind, have = device.type, 0
    if device.type == "cuda":
        kind, have = f"cuda {torch.cuda.get_device_name(device)}", torch.cuda.mem_get_info(device)[1]
    return Machine(
        kind,
        torch.get_num_threads(),
        products,
        passes,
        call,
        solves,
        selected,
        _disk(data),
        hashed,
        interpreter,
        have,
        memory.available() + memory.resident(),
    )


def _interpreter(device: "torch.device") -> int:
    """Bytes of this process once all that a run uses is loaded and it has no model yet."""
    import torch
    from transformers import AutoTokenizer, LlamaForCausalLM  # noqa: F401  # loaded when they are named

    import analysis.pruning.loop
    import analysis.text.load  # noqa: F401

    weight = torch.nn.Parameter(torch.rand(64, 64, device=device))
    optimiser = torch.optim.Adam([weight])  # loads half of torch
    (weight @ weight).sum().backward()
    optimiser.step()
    return memory.resident()


def _products(device: "torch.device", word: str) -> Curve:
    """Rates of products in a dtype, or of float32 ones under `torch.set_float32_matmul_precision`."""
    import torch

    dtype, before = getattr(torch, word, torch.float32), torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision({"tf32": "high", "medium": "medium"}.get(word, "highest"))
    try:
        return _curve_of(device, dtype)
    finally:
        torch.set_float32_matmul_precision(before)


def _curve_of(device: "torch.device", dtype: "torch.dtype") -> Curve:
    import torch

    curve: list[tuple[int, float]] = []
    spent = 0.0
    for width in WIDTHS:
        if spent > BUDGET:
            break
        x, w = torch.rand(TOKENS, width, device=device).to(dtype), torch.rand(width, width, device=device).to(dtype)
        seconds = _best(partial(torch.matmul, x, w), device)
        spent += seconds * (ROUNDS + 1)
        curve.append((width, 2 * TOKENS * width**2 / seconds))
    return tuple(curve)


def _solved(device: "torch.device", order: int) -> float:
    import torch

    count = max(1, 2**20 // order**2)
    matrices = torch.eye(order, device=device).repeat(count, 1, 1)
    return count * order**3 / 3 / _best(lambda: torch.linalg.cholesky_ex(matrices), device)


def _select(values: "torch.Tensor") -> object:
    import numpy as np

    half = values.numel() // 2
    return np.partition(values.numpy(), half) if values.is_cpu else values.topk(half, sorted=False)


def _disk(data: bytes) -> float:
    file = paths.cache() / "machine" / "timed"
    with storage.explained(file):
        seconds = _best(lambda: storage.write(file, data), None, rounds=2)
        file.unlink(missing_ok=True)
    return len(data) / seconds


def _best(work: Callable[[], object], device: "torch.device | None", rounds: int = ROUNDS) -> float:
    """Seconds of some work, the least of a few rounds after one that does not count; next to nothing at least. On one
    thread of a CPU they are processor seconds, which others on the machine do not lengthen.
    """
    import torch

    alone = device is not None and device.type == "cpu" and torch.get_num_threads() == 1
    clock = time.process_time if alone else time.perf_counter

    def wait() -> None:
        if device is not None and device.type == "cuda":
            torch.cuda.synchronize(device)
        elif device is not None and device.type == "mps":
            torch.mps.synchronize()

    times = []
    for _ in range(rounds + 1):
        wait()
        start = clock()
        work()
        wait()
        times.append(clock() - start)
    return max(min(times[1:]), 1e-9)
