"""The folder a model is trained into: whose it is, how a training is resumed, and how it becomes complete.

While a training is under way the folder holds `.lock` and `checkpoint.safetensors`, whose record says what is trained
on what. At the end the files of the model are placed, the card `training.json` last: a folder with a card is complete.
Nothing else is ever written over. Loads no torch.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from analysis import paths, storage
from analysis.errors import StoreError, UsageError

CHECKPOINT, CARD, LOCK = "checkpoint.safetensors", "training.json", ".lock"


def out_folder(out: str | Path) -> Path:
    """The folder's path, `~` opened. Raises UsageError for what is no path, or a file."""
    folder = paths.expanded(out)
    with storage.explained(folder):
        if folder.exists() and not folder.is_dir():
            raise UsageError(f"train: {folder} is a file; the model needs a folder")
    return folder


def state(folder: Path, asked: Mapping[str, object], changeable: str = "") -> str:
    """What the folder is to a training: "free", "resume" (a checkpoint of it is there) or "complete".

    Reads only. asked: what decides the result, as JSON-ready values by name, or the part of it that is known yet;
    `changeable` is the name that may differ while there is only a checkpoint.

    Raises: StoreError where it holds another training or anything else, or is complete but a file is missing or
    altered.
    """
    with storage.explained(folder):
        held = {entry.name for entry in folder.iterdir()} if folder.is_dir() else set()
        if CARD in held:
            _refuse_other(folder, "holds a finished model", _card(folder).get("asked"), asked)
            _refuse_altered(folder)
            return "complete"
        if CHECKPOINT in held:
            _refuse_other(folder, "holds an interrupted training", record(folder).get("asked"), asked, changeable)
            return "resume"
    if others := sorted(name for name in held if not _ours(name)):
        shown = ", ".join(others[:3]) + (", ..." if len(others) > 3 else "")
        raise StoreError(f"train: {folder} holds other files ({shown}); name a new or empty folder")
    return "free"


def _ours(name: str) -> bool:
    return name == LOCK or name.startswith((storage.PLACING, f".{Path(CHECKPOINT).stem}."))


def record(folder: Path) -> dict:
    """What the checkpoint says of itself. Raises StoreError where it cannot be read."""
    from safetensors import SafetensorError, safe_open

    path = folder / CHECKPOINT
    try:
        with safe_open(path, framework="numpy") as file:
            read = storage.parse_json(file.metadata()["record"])
        if not isinstance(read, dict):
            raise ValueError("its record is no table")
        return read
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise unreadable(path, error) from error


def unreadable(path: Path, error: Exception) -> StoreError:
    """The error for a checkpoint or card that is torn or altered."""
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    return StoreError(f"train: {path} cannot be read ({reason}); delete it to start again")


def _card(folder: Path) -> dict:
    try:
        card = storage.read_json(folder / CARD)
        if not isinstance(card, dict):
            raise ValueError("it is no table")
        return card
    except ValueError as error:
        raise unreadable(folder / CARD, error) from error


def _refuse_other(folder: Path, holds: str, there: object, asked: Mapping[str, object], changeable: str = "") -> None:
    """Raise StoreError unless what is there was asked for with the same values, `changeable` aside."""
    there = there if isinstance(there, dict) else {}
    if not there:
        raise StoreError(f"train: {folder} {holds} that does not say from what; name another folder, or delete it")
    differ = [name for name in asked if there.get(name) != asked[name] and name != changeable]
    if not differ:
        return
    shown = [
        f"{name} there {there.get(name)!r}, asked {asked.get(name)!r}"
        for name in differ
        if len(f"{there.get(name)}{asked.get(name)}") < 60
    ]
    contents = [name for name in differ if len(f"{there.get(name)}{asked.get(name)}") >= 60]
    shown += [f"another {' and another '.join(contents)}"] if contents else []
    raise StoreError(f"train: {folder} {holds} of other values ({'; '.join(shown)}); name another folder, or delete it")


def _refuse_altered(folder: Path) -> None:
    files = _card(folder).get("files")
    for name, digest in (files if isinstance(files, dict) else {CARD: ""}).items():
        path = folder / name
        if not path.is_file() or storage.file_sha256(path) != digest:
            wrong = "altered" if path.is_file() else "missing"
            raise StoreError(
                f"train: {folder} holds this model already, but {name} is {wrong}; delete the folder to train again"
            )


@contextmanager
def claimed(folder: Path, asked: Mapping[str, object], changeable: str = "") -> Iterator[str]:
    """Hold the folder for one process: makes and locks it, and gives its `state`. Marks of this process, and a folder
    left empty, go at the end.

    Raises: StoreError if another process holds it, or as `state`.
    """

    def busy() -> None:
        raise StoreError(f"train: {folder}: another training is writing this folder; wait for it or name another")

    with storage.explained(folder), storage.locked(folder / LOCK, busy):
        try:
            found = state(folder, asked, changeable)
            for left in [*folder.glob(f"{storage.PLACING}*"), *folder.glob(f".{Path(CHECKPOINT).stem}.*")]:
                storage.remove(left)
            yield found
        finally:
            (folder / LOCK).unlink(missing_ok=True)
            if not any(folder.iterdir()):
                folder.rmdir()


def place(folder: Path, save: Callable[[Path], object], card: dict) -> None:
    """Let `save(temporary folder)` write the model and place its files, then the card with their hashes; the checkpoint
    goes.
    """
    with storage.placing(folder, CARD) as fresh:
        save(fresh)
        files = {file.name: storage.file_sha256(file) for file in sorted(fresh.iterdir())}
        (fresh / CARD).write_text(json.dumps(card | {"files": files}, indent=1, allow_nan=False) + "\n", "utf-8")
    (folder / CHECKPOINT).unlink(missing_ok=True)
