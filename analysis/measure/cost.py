"""What a number cost: seconds, peak memory, tokens, trained parameters, stage by stage."""

import sys
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import torch


def _reset_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
    elif sys.platform == "linux":
        # not permitted in some containers: the peak then is the process's so far, an upper bound
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")


def _peak_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device)
    if sys.platform == "linux":
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return psutil.Process().memory_info().rss


@dataclass
class Meter:
    """Collects rows of the `cost` table.

    Peak memory is what the device's allocator held at most during the stage on CUDA, and the largest resident size of
    the process during the stage elsewhere (Linux: an upper bound where the kernel forbids resetting it; macOS: at the
    stage's end).
    """

    device: torch.device
    rows: list[dict] = field(default_factory=list)

    @contextmanager
    def stage(self, unit: int, stage: str, *, tokens: int = 0, trainable: int = 0):
        """Time one stage of one unit; `tokens` seen by it, `trainable` parameters it trains. A stage that raises leaves
        no row.

        Gives the row, in which a stage may put what it only knows at its end.
        """
        row = {
            "unit": unit,
            "stage": stage,
            "seconds": 0.0,
            "peak_memory_mib": 0.0,
            "solver_memory_mib": 0.0,
            "tokens": tokens,
            "trainable_parameters": trainable,
        }
        _reset_peak(self.device)
        start = time.perf_counter()
        yield row
        peak = _peak_bytes(self.device)
        self.rows.append(row | {"seconds": time.perf_counter() - start, "peak_memory_mib": peak / 2**20})
