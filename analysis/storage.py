"""Files and folders on disk: whole or not at all, held by one process at a time, recognised by their content.

Everything that is kept goes through here: stored runs, `analysis prune --out`, checkpoints, models, generated text,
figures. The system's errors become messages that name the file and say what to do. No torch.
"""

import errno
import hashlib
import json
import os
import platform
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from safetensors import SafetensorError

from analysis.errors import StoreError, shortened

_UMASK = os.umask(0o077)  # there is no reading it without setting it
os.umask(_UMASK)
OPEN = 0o666 & ~_UMASK  # permissions of a new file
PLACING = ".placing"  # how the temporary folders of `placing` begin
SCHEMA = 7  # what a run means: its identity, its tables, or what any recipe computes; raise by hand when one changes
LIBRARIES = ("torch", "transformers")  # whose minor version decides bits
PACKAGES = ("torch", "transformers", "tokenizers", "numpy", "pandas", "pyarrow", "pruning-analysis")

_REASONS = {
    errno.ENOSPC: "no space left",
    errno.EDQUOT: "no space left",
    errno.EACCES: "permission denied",
    errno.EPERM: "permission denied",
    errno.EROFS: "permission denied",
    errno.EIO: "the disk or its connection failed",
    errno.ESTALE: "the disk or its connection failed",
    errno.ENOLCK: "its file system has no locks to give",
    errno.ENAMETOOLONG: "the name is too long",
    errno.ELOOP: "its links lead in a circle",
    errno.ENOTDIR: "a part of the path is a file",
}
_REMEDIES = {
    "no space left": "free some and repeat the command, which goes on where it stopped if it can",
    "permission denied": "choose a place you may read and write",
    "the disk or its connection failed": "look at it, and repeat the command, which goes on where it stopped if it can",
    "its file system has no locks to give": "choose a folder on a local disk",
    "the name is too long": "choose a shorter one",
}
_SYSTEM_ERROR = re.compile(r"os error (\d+)")


# Content --------------------------------------------------------------------------------------------------------------


def sha256(data: bytes) -> str:
    """Hexadecimal sha256 of some bytes."""
    return hashlib.sha256(data).hexdigest()


def file_sha256(path: Path | str) -> str:
    """Hexadecimal sha256 of a file's content."""
    digest = hashlib.sha256()
    add_file(digest, path)
    return digest.hexdigest()


def add_file(digest: "hashlib._Hash", path: Path | str) -> None:
    """Update a hash with a file's content, read piece by piece."""
    with open(path, "rb") as file:
        while piece := file.read(1 << 22):
            digest.update(piece)


def identity_digest(identity: Any) -> str:
    """sha256 of a JSON-ready value that says everything a result depends on, and of `SCHEMA`: what a stored run, an
    `--out` folder and a checkpoint are recognised by.
    """
    return sha256(json.dumps([SCHEMA, identity], sort_keys=True).encode())


def parse_json(data: bytes | str) -> Any:
    """A JSON text. Raises ValueError for whatever is none, nesting too deep to be read included."""
    try:
        return json.loads(data)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def read_json(path: Path | str) -> Any:
    """The content of a JSON file (UTF-8). Raises ValueError as `parse_json`, OSError where there is no such file; a
    pipe or a device is none.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(errno.ENOENT, "no such file", str(path))
    return parse_json(Path(path).read_bytes())


def versions(*packages: str) -> dict[str, str]:
    """Versions of packages, which are not imported; "not installed" where there is none."""
    return {name: _version(name) for name in packages}


@cache
def _version(package: str) -> str:
    """Looked up once: a process computes with what it began with."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def libraries(installed: Mapping[str, str] | None = None) -> dict[str, str]:
    """Major and minor version of the packages that compute, such as {"torch": "2.13"}: of those here, or those of an
    `environment()` written down elsewhere.
    """
    given = versions(*LIBRARIES) if installed is None else installed
    return {name: ".".join(str(given.get(name, "unknown")).split(".")[:2]) for name in LIBRARIES}


def other_libraries(installed: Mapping[str, str]) -> str:
    """What of an `environment()` written down elsewhere is different from the libraries here, such as "torch 2.12, here
    2.13"; empty where nothing is.
    """
    here, there = libraries(), libraries(installed)
    return "; ".join(f"{name} {there[name]}, here {here[name]}" for name in here if there[name] != here[name])


def environment() -> dict[str, str]:
    """Versions of Python and of the packages that numbers depend on, and the kind of machine."""
    return {"python": platform.python_version(), "machine": platform.machine()} | versions(*PACKAGES)


# Errors of the system -------------------------------------------------------------------------------------------------


def as_store_error(error: OSError, place: object = None, remedy: str | None = None) -> StoreError:
    """Any OSError as one message: `place` (default: the file it names), the reason, and what to do."""
    reason = _REASONS.get(error.errno or 0)
    file = os.fsdecode(error.filename) if isinstance(error.filename, (str, bytes, os.PathLike)) else None
    where = ": ".join(dict.fromkeys(shortened(str(part), 400) for part in (place, file) if part))
    words = reason or error.strerror or next(iter(str(error).strip().splitlines()), type(error).__name__)
    remedy = remedy or _REMEDIES.get(reason or "", "mend that and repeat the command")
    return StoreError(f"{where + ': ' if where else ''}{words}; {remedy}")


@contextmanager
def explained(place: object, remedy: str | None = None) -> Iterator[None]:
    """Turn the OSErrors of the body into StoreErrors (`as_store_error`)."""
    try:
        yield
    except OSError as error:
        raise as_store_error(error, place, remedy) from error


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """OSErrors name `path`, not a temporary file; safetensors' own error for what the system says becomes one."""
    try:
        yield
    except SafetensorError as error:
        if not (number := _SYSTEM_ERROR.search(str(error))):
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from error
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error


# Writing --------------------------------------------------------------------------------------------------------------


@contextmanager
def replacing(path: Path | str) -> Iterator[Path]:
    """A temporary path beside `path` (same suffix) to be written in the body; afterwards it is flushed to the disk and
    renamed, so that `path` holds everything or what it held before. Makes the folder. Raises OSError naming `path`,
    also where a device, a pipe or a socket stands there: renaming would put a file in its place.
    """
    path = Path(path)
    partial = path.with_name(f".{path.stem.lstrip('.')}.{os.getpid()}.partial{path.suffix}")
    with _naming(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and not (path.is_file() or path.is_dir()):
            raise OSError(errno.EEXIST, "is a device, a pipe or a socket, not a file")
        try:
            yield partial
            _settle(partial)
            os.replace(partial, path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise


def write(path: Path | str, content: bytes | str) -> None:
    """Write a file whole or not at all; text as UTF-8. Raises OSError naming `path`."""
    with replacing(path) as partial:
        partial.write_bytes(content.encode() if isinstance(content, str) else content)


@contextmanager
def replacing_folder(folder: Path | str) -> Iterator[Path]:
    """A temporary folder to be filled, and proven, in the body; afterwards it is flushed and takes the place of
    `folder`, which otherwise stays as it was. Raises OSError naming `folder`.
    """
    folder = Path(folder)
    with _naming(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as made:
            fresh = Path(made) / folder.name
            fresh.mkdir()
            yield fresh
            for file in fresh.rglob("*"):
                if file.is_file():
                    _settle(file)
            remove(folder)
            fresh.rename(folder)


@contextmanager
def placing(folder: Path | str, last: str) -> Iterator[Path]:
    """A temporary folder to be filled with files in the body; afterwards all are flushed and moved into `folder`,
    `last` at the end: after an error none is there, and where `last` is, all are. Makes the folder. Raises OSError
    naming it.
    """
    folder = Path(folder)
    with _naming(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=f"{PLACING}-") as made:
            yield Path(made)
            files = sorted(Path(made).iterdir(), key=lambda file: (file.name == last, file.name))
            for file in files:
                if (folder / file.name).is_dir():
                    raise IsADirectoryError(errno.EISDIR, f"{file.name} is a folder there")
                _settle(file)
            for file in files:
                os.replace(file, folder / file.name)


def remove(path: Path) -> None:
    """Remove whatever stands at a path, if anything: a folder with all in it, a file, a pipe, a link itself."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:  # `rmtree` would wait for ever for the other end of a pipe
        path.unlink(missing_ok=True)


def remove_partial_folders(folder: Path) -> None:
    """Remove what killed attempts at `replacing_folder(folder)` left; for a caller who alone writes there."""
    for left in folder.parent.glob(f".{folder.name}-*"):
        remove(left)


def _settle(path: Path) -> None:
    """On the disk, and readable by whom new files of this process are: safetensors makes its for the owner alone."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
    mode = path.stat().st_mode
    if mode != mode | OPEN:
        with suppress(OSError):  # a file system that knows no permissions
            path.chmod(mode | OPEN)


# Locks ----------------------------------------------------------------------------------------------------------------


@contextmanager
def locked(path: Path | str, busy: Callable[[], object]) -> Iterator[None]:
    """Hold the lock file `path` (its folder is made) against other processes. Where one holds it `busy` is called,
    which raises, or says so and returns: then this process waits.
    """
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        busy()
        lock.acquire()
    try:
        yield
    finally:
        lock.release()
