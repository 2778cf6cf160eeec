"""The folder `analysis prune --out` writes: whose it is, how it is resumed, and how it becomes complete.

While a run is under way the folder holds `.request.json` (what was asked), `.lock` and `.checkpoint/`. Results are
written under temporary names and moved into place, `summary.json` last: a folder with a summary is complete. Answers to
tasks are added to a complete folder, through `.answers.json`, which holds every file that changes until all have. A
summary holds a digest of itself and of every file.
"""

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from analysis import storage
from analysis.commands.common import existing_parent, jsonable
from analysis.errors import StoreError, UsageError

if TYPE_CHECKING:
    import pandas as pd

REQUEST, LOCK, CHECKPOINT, SUMMARY, MODEL, SHRUNK, ANSWERS = (
    ".request.json",
    ".lock",
    ".checkpoint",
    "summary.json",
    "model",
    "shrunk",
    ".answers.json",
)
ANSWER_TABLES = ("zero_shot", "cost")  # the tables that asking tasks changes


def check_place(folder: Path, option: str = "--out") -> None:
    """Raise UsageError if the path is, or runs through, a file or a link that leads nowhere; StoreError if it cannot be
    looked at.
    """
    with storage.explained(option):
        parent = existing_parent(folder)
        if not parent.is_dir():
            raise UsageError(f"{option} {folder}: {parent} is a file; name a folder that can be made")
        for path in (folder, *folder.parents):
            if path.is_symlink() and not path.exists():
                raise UsageError(
                    f"{option} {folder}: {path} is a link to {os.readlink(path)}, which is not there; name"
                    " another folder"
                )


def check_writable(folder: Path, option: str = "--out") -> None:
    """Raise StoreError if the folder, or the one it will be made in, may not be written."""
    with storage.explained(option):
        parent = existing_parent(folder)
        if not os.access(parent, os.W_OK | os.X_OK):
            raise StoreError(f"{option} {folder}: no permission to write in {parent}")


def is_complete(folder: Path) -> bool:
    """Whether it holds a summary, readable or not."""
    with storage.explained("--out"):
        return os.path.lexists(folder / SUMMARY)


def state(folder: Path, request: dict) -> str:
    """What the folder is to this request: "free", "resume" (interrupted) or "complete".

    Reads only. `request` is everything that decides the result, as JSON-ready values.

    Raises: StoreError if it holds another request's results or somebody's files, or is complete but a file in it is
    missing or altered.
    """
    with storage.explained("--out"):
        held = sorted(entry.name for entry in folder.iterdir()) if folder.is_dir() else []
    if SUMMARY in held:
        summary = read(folder / SUMMARY)
        _refuse_other(folder, summary.get("request"), request, "holds finished results of another request")
        _refuse_altered(folder, summary)
        return "complete"
    if REQUEST in held:
        earlier = read(folder / REQUEST)
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
    After an error that leaves nothing to resume, the folder is as it was found.

    Raises: StoreError if another process holds it, or changed it since, or it cannot be made.
    """
    made: list[Path] = []
    with ExitStack() as held:
        owned = False
        try:
            with storage.explained("--out"):
                made += [path for path in (folder, *folder.parents) if not path.exists()]
                held.enter_context(_locked(folder))
                if state(folder, request) != seen:
                    raise StoreError(
                        f"--out {folder}: another `analysis prune` has just written this folder; repeat the command to"
                        " see its result"
                    )
                storage.write(folder / REQUEST, json.dumps(request, indent=2))
            owned = True
            yield
        except BaseException:
            with suppress(OSError):
                if owned and not any((folder / CHECKPOINT).rglob("*")):
                    release(folder)
            for path in made:
                with suppress(OSError):  # not there, or not empty
                    path.rmdir()
            raise


def _locked(folder: Path):
    def busy() -> None:
        raise StoreError(
            f"--out {folder}: another `analysis prune` is writing this folder; wait for it or name another"
        )

    return storage.locked(folder / LOCK, busy)


def drop_checkpoint(folder: Path) -> None:
    """Let go of what a finished run would have been resumed from."""
    with suppress(OSError):
        storage.remove(folder / CHECKPOINT)


def release(folder: Path) -> None:
    """Take back the marks of a run that ended or never started; a folder left empty is removed."""
    drop_checkpoint(folder)
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


def csv(name: str, frame: "pd.DataFrame") -> bytes:
    """A table as the folder holds it; letters that are none, from file names of another encoding, as escapes."""
    from analysis import schema

    return schema.validate(name, frame).to_csv(index=False, lineterminator="\n").encode("utf-8", "backslashreplace")


def place_model(folder: Path, save: Callable[[Path], object], name: str = MODEL) -> None:
    """Let `save(folder / name)` write a model (whole or not at all), after removing what a killed attempt left."""
    storage.remove_partial_folders(folder / name)
    save(folder / name)


def place_summary(folder: Path, summary: dict) -> dict:
    """Add the sha256 of every file beside it and write `summary.json`: the folder is complete from here on."""
    files = [
        path for path in folder.rglob("*") if path.is_file() and not path.relative_to(folder).parts[0].startswith(".")
    ]
    digests = {path.relative_to(folder).as_posix(): storage.file_sha256(path) for path in sorted(files)}
    sealed = _sealed(summary | {"files": digests})
    storage.write(folder / SUMMARY, _text(sealed))
    return sealed


def place_answers(folder: Path, tables: Mapping[str, bytes], summary: dict) -> dict:
    """Put the tables that asking changed (by name, as CSV) and their summary in place of the earlier ones, all or none;
    returns the summary. For a caller who holds the folder.
    """
    files = summary["files"] | {f"{name}.csv": storage.sha256(content) for name, content in tables.items()}
    sealed = _sealed(summary | {"files": files})
    texts = {f"{name}.csv": content.decode() for name, content in tables.items()} | {SUMMARY: _text(sealed)}
    storage.write(folder / ANSWERS, json.dumps(texts))
    _settle(folder)
    return sealed


def settle(folder: Path) -> None:
    """Finish what a kill interrupted in `place_answers`."""
    if (folder / ANSWERS).is_file():
        with storage.explained("--out"), _locked(folder):
            _settle(folder)


def _settle(folder: Path) -> None:
    texts = read(folder / ANSWERS)
    for name in (*(f"{table}.csv" for table in ANSWER_TABLES), SUMMARY):
        if isinstance(texts.get(name), str):
            storage.write(folder / name, texts[name])
    (folder / ANSWERS).unlink()


def _text(summary: dict) -> str:
    return json.dumps(summary, indent=2, allow_nan=False) + "\n"


def _sealed(summary: dict) -> dict:
    """A summary, JSON-ready, with the digest of all the rest of it."""
    plain = jsonable({key: value for key, value in summary.items() if key != "digest"})
    return plain | {"digest": storage.sha256(json.dumps(plain, sort_keys=True).encode())}


def read(path: Path) -> dict:
    """The object in a JSON file of the folder. Raises StoreError for anything else."""
    try:
        if not path.is_file():
            raise ValueError("it is no file")
        content = storage.read_json(path)
        if not isinstance(content, dict):
            raise ValueError(f"it holds a {type(content).__name__}, not an object")
        jsonable(content)  # nests no deeper than can be walked
    except (ValueError, RecursionError) as broken:
        raise StoreError(f"{path} is not readable JSON ({broken}); delete the folder or name another") from broken
    return content


def _refuse_other(folder: Path, earlier: object, request: dict, reason: str) -> None:
    if earlier == request:
        return
    earlier = earlier if isinstance(earlier, dict) else {}
    differences = [
        f"{key} there {earlier.get(key)!r}, asked {request.get(key)!r}"
        for key in sorted({*earlier, *request})
        if earlier.get(key) != request.get(key)
    ]
    raise StoreError(f"--out {folder} {reason} ({'; '.join(differences)}); delete the folder or name another")


def _refuse_altered(folder: Path, summary: dict) -> None:
    wrong = f"{SUMMARY} is altered" if _sealed(summary) != summary else _altered(folder, summary["files"])
    if wrong:
        raise StoreError(f"--out {folder} holds these results already, but {wrong}; delete the folder to prune again")


def _altered(folder: Path, files: dict[str, str]) -> str | None:
    """The first file that is not as it was written, or is in a model's folder and was not written with it."""
    for name, digest in files.items():
        path = folder / name
        if not path.is_file() or storage.file_sha256(path) != digest:
            return f"{name} is {'altered' if path.is_file() else 'missing'}"
    for path in (path for name in (MODEL, SHRUNK) for path in (folder / name).rglob("[!.]*")):
        if not path.is_dir() and (name := path.relative_to(folder).as_posix()) not in files:
            return f"{name} has been added"
    return None
