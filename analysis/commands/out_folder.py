"""The folder `analysis prune --out` writes: whose it is, how it is resumed, and how it becomes complete.

While a run is under way the folder holds `.request.json` (what was asked), `.lock` and `.checkpoint/`. Results are
written under temporary names and moved into place, `summary.json` last: a folder with a summary is complete.
"""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from analysis import storage
from analysis.commands.common import existing_parent, jsonable
from analysis.errors import StoreError, UsageError

REQUEST, LOCK, CHECKPOINT, SUMMARY, MODEL, SHRUNK = (
    ".request.json",
    ".lock",
    ".checkpoint",
    "summary.json",
    "model",
    "shrunk",
)


def check_writable(folder: Path) -> None:
    """Raise UsageError if the path is, or runs through, a file; StoreError if it may not be written."""
    parent = existing_parent(folder)
    if not parent.is_dir():
        raise UsageError(f"--out {folder}: {parent} is a file; name a folder that can be made")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise StoreError(f"--out {folder}: no permission to write in {parent}")


def state(folder: Path, request: dict) -> str:
    """What the folder is to this request: "free", "resume" (interrupted) or "complete".

    Reads only. `request` is everything that decides the result, as JSON-ready values.

    Raises: StoreError if it holds another request's results or somebody's files, or is complete but a file in it is
    missing or altered.
    """
    held = sorted(entry.name for entry in folder.iterdir()) if folder.is_dir() else []
    if SUMMARY in held:
        summary = _read(folder / SUMMARY)
        _refuse_other(folder, summary.get("request"), request, "holds finished results of another request")
        _refuse_altered(folder, summary)
        return "complete"
    if REQUEST in held:
        earlier = _read(folder / REQUEST)
        if earlier == request:
            return "resume"
        if any((folder / CHECKPOINT).rglob("*")):
            _refuse_other(folder, earlier, request, "holds an interrupted run of another request")
    elif set(held) - {LOCK}:
        shown = ", ".join(held[:3]) + (", ..." if len(held) > 3 else "")
        raise StoreError(f"--out {folder}: the folder holds other files ({shown}); name a new or empty folder")
    return "free"


@contextmanager
def claimed(folder: Path, request: dict, seen: str) -> Iterator[None]:
    """Hold the folder for one process: makes it, locks it and notes the request. `seen` is the state it was found in.

    Raises: StoreError if another process holds it, or changed it since.
    """

    def busy() -> None:
        raise StoreError(
            f"--out {folder}: another `analysis prune` is writing this folder; wait for it or name another"
        )

    with storage.locked(folder / LOCK, busy):
        if state(folder, request) != seen:
            raise StoreError(
                f"--out {folder}: another `analysis prune` has just written this folder; repeat the command to see its"
                " result"
            )
        storage.write(folder / REQUEST, json.dumps(request, indent=2))
        yield


def release(folder: Path) -> None:
    """Take back the marks of a run that ended or never started; a folder left empty is removed."""
    shutil.rmtree(folder / CHECKPOINT, ignore_errors=True)
    for path in (folder / REQUEST, folder / LOCK, *folder.glob(".*.partial*")):
        path.unlink(missing_ok=True)
    if not any(folder.iterdir()):
        folder.rmdir()


def check_room(folder: Path, needed: int) -> None:
    """Raise StoreError if `needed` bytes, less what the folder holds already, are not free on its disk."""
    held = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) if folder.is_dir() else 0
    free = shutil.disk_usage(existing_parent(folder)).free
    if free < needed - held:
        raise StoreError(
            f"--out {folder}: the pruned model and the checkpoints on the way to it need {(needed - held) / 2**20:,.1f}"
            f" MiB, the disk has {free / 2**20:,.1f} MiB free; free some space or name a folder on another disk"
        )


def place_model(folder: Path, save: Callable[[Path], object], name: str = MODEL) -> None:
    """Let `save(folder / name)` write a model (whole or not at all), after removing what a killed attempt left."""
    storage.remove_partial_folders(folder / name)
    save(folder / name)


def place_summary(folder: Path, summary: dict) -> dict:
    """Add the sha256 of every file beside it and write `summary.json`: the folder is complete from here on."""
    files = [
        path for path in folder.rglob("*") if path.is_file() and not path.relative_to(folder).parts[0].startswith(".")
    ]
    summary = summary | {
        "files": {path.relative_to(folder).as_posix(): storage.file_sha256(path) for path in sorted(files)}
    }
    storage.write(folder / SUMMARY, json.dumps(jsonable(summary), indent=2, allow_nan=False) + "\n")
    return summary


def _read(path: Path) -> dict:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as broken:
        raise StoreError(f"{path} is not readable JSON ({broken}); delete the folder or name another") from broken


def _refuse_other(folder: Path, earlier: dict | None, request: dict, reason: str) -> None:
    if earlier == request:
        return
    earlier = earlier or {}
    differences = [
        f"{key} there {earlier.get(key)!r}, asked {request.get(key)!r}"
        for key in sorted({*earlier, *request})
        if earlier.get(key) != request.get(key)
    ]
    raise StoreError(f"--out {folder} {reason} ({'; '.join(differences)}); delete the folder or name another")


def _refuse_altered(folder: Path, summary: dict) -> None:
    for name, digest in summary.get("files", {}).items():
        path = folder / name
        if not path.is_file() or storage.file_sha256(path) != digest:
            wrong = "altered" if path.is_file() else "missing"
            raise StoreError(
                f"--out {folder} holds these results already, but {name} is {wrong}; delete the folder to prune again"
            )
