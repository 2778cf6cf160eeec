"""How much memory this process may still take: of the machine, of its container, of its own limit. No torch."""

from collections.abc import Iterator
from pathlib import Path

import psutil

try:
    import resource
except ImportError:  # Windows knows no such limits
    resource = None  # type: ignore[assignment]

CGROUPS = Path("/sys/fs/cgroup")
MEMBERSHIP = Path("/proc/self/cgroup")


def available() -> int:
    """Bytes this process may still take: the least of what the machine has, what is left of the memory limits of the
    control groups it is in (containers, batch systems) and what is left of its address space (`ulimit -v`).
    """
    return max(0, min([psutil.virtual_memory().available, *_control_groups(), *_address_space()]))


def _control_groups() -> Iterator[int]:
    """What is left in every control group around this process that has a limit, in either version of their files."""
    try:
        lines = MEMBERSHIP.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = (line.split(":", 2) + ["none", ""])[:3]
        if controllers == "":
            root, limit, usage = CGROUPS, "memory.max", "memory.current"
        elif "memory" in controllers.split(","):
            root, limit, usage = CGROUPS / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes"
        else:
            continue
        group = root / path.strip("/")
        for folder in (group, *group.parents):
            if folder.is_relative_to(root) and (most := _number(folder / limit)) is not None:
                yield most - max(0, (_number(folder / usage) or 0) - _reclaimable(folder))


def _reclaimable(folder: Path) -> int:
    """Bytes of files that a group has cached and the system takes back before it runs short."""
    try:
        stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        return int(stat.get("inactive_file", 0))
    except (OSError, ValueError):
        return 0


def _number(file: Path) -> int | None:
    """The number in a file; None where there is no such file, or no number ("max")."""
    try:
        return int(file.read_text())
    except (OSError, ValueError):
        return None


def _address_space() -> Iterator[int]:
    if resource is None:
        return
    most = resource.getrlimit(resource.RLIMIT_AS)[0]
    if most != resource.RLIM_INFINITY:
        yield most - psutil.Process().memory_info().vms


def resident() -> int:
    """Bytes of memory that this process holds now."""
    return psutil.Process().memory_info().rss
