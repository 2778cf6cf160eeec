"""Content-addressed run folders: what was computed once is read back, and nothing else is ever served.

    <home>/runs/prune-<12 hex digits>/
        job.json         what was asked
        checkpoint/      finished units of a run under way; removed when the run is complete
        blocks.parquet   ... one file per table of `schema.TABLES` that has rows
        provenance.json  where the numbers come from
        manifest.json    schema, digest, sha256 of every file, versions, time: written last, so its presence means
        complete
    <home>/runs/prune-<12 hex digits>.lock

A folder without a manifest is incomplete, one whose files do not match it is altered, one of another schema is foreign;
all three are done again. A run computed with another minor version of torch or transformers is served, with a warning:
it is a result of the same recipe, but its last digits need not be today's. No torch.
"""

import json
import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd

from analysis import paths, schema, storage
from analysis.errors import StoreError

KIND = "prune"
JOB, PROVENANCE, MANIFEST, CHECKPOINT = "job.json", "provenance.json", "manifest.json", "checkpoint"
REMEDY = "free space, mend its permissions, or set ANALYSIS_HOME to a folder that can be written"
FILES = (JOB, PROVENANCE, *(f"{name}.parquet" for name in schema.TABLES))

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class StoredRun:
    """A complete run as read back: its tables, where its numbers come from, and its manifest."""

    tables: dict[str, pd.DataFrame]
    provenance: dict[str, Any]
    manifest: dict[str, Any]


@dataclass(frozen=True)
class RunInfo:
    """One line of `analysis list runs`. state: complete, incomplete (or under way), altered, or foreign."""

    run: str
    state: str
    created: str
    job: dict[str, Any]
    size_mib: float


@dataclass(frozen=True)
class RunFolder:
    """The folder of the run with this digest (sha256, hexadecimal). Reading needs no lock; writing happens inside
    `hold`.
    """

    digest: str

    @property
    def name(self) -> str:
        return f"{KIND}-{self.digest[:12]}"

    @property
    def path(self) -> Path:
        return paths.runs() / self.name

    @property
    def checkpoint(self) -> Path:
        """Where pruning keeps what it has finished."""
        return self.path / CHECKPOINT

    def read(self) -> StoredRun | None:
        """The run if it is complete and exactly as written, else None."""
        state, run = _read(self.path, self.digest)
        if state in ("altered", "foreign"):
            log.warning("run %s is %s; it will be done again", self.name, state)
        if run is not None and (differ := storage.other_libraries(run.manifest["versions"])):
            _warn_once(differ)
        return run

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Keep other processes out of this folder. Waits while another one does the same run, which then is there to
        read.
        """

        def busy() -> None:
            log.warning("run %s is under way in another process; waiting for it", self.name)

        with ExitStack() as stack:
            with _explained(self.path):
                stack.enter_context(storage.locked(self.path.with_name(self.name + ".lock"), busy))
            yield

    def begin(self, job: Mapping[str, Any]) -> None:
        """Make the folder ready for a run: nothing in it but `job.json`, and the checkpoint of the same run where there
        is one.

        Raises StoreError if a file is in the way, or what was there cannot be removed.
        """
        with _explained(self.path):
            if self.path.exists() or self.path.is_symlink():
                before = _loads(_bytes(self.path / JOB))
                same = (before.get("schema"), before.get("digest")) == (storage.SCHEMA, self.digest)
                same = same and not os.path.lexists(self.path / MANIFEST)
                for entry in list(self.path.iterdir()):
                    if not (same and (entry.name == JOB or entry.name == CHECKPOINT and entry.is_dir())):
                        storage.remove(entry)
            self.path.mkdir(parents=True, exist_ok=True)
            storage.write(self.path / JOB, _json({"schema": storage.SCHEMA, "digest": self.digest, "job": dict(job)}))

    def write(self, tables: Mapping[str, pd.DataFrame], provenance: Mapping[str, Any]) -> StoredRun:
        """Write everything, the manifest last, and read it back. Raises StoreError; the folder is complete or has no
        manifest.
        """
        files = {
            f"{name}.parquet": schema.to_parquet(name, tables[name]) for name in schema.TABLES if len(tables[name])
        }
        files[PROVENANCE] = _json(provenance)
        with _explained(self.path):
            for name, data in files.items():
                storage.write(self.path / name, data)
            hashes = {
                name: storage.sha256(data) for name, data in {JOB: (self.path / JOB).read_bytes(), **files}.items()
            }
            manifest = {
                "schema": storage.SCHEMA,
                "kind": KIND,
                "digest": self.digest,
                "files": hashes,
                "versions": storage.environment(),
            }
            storage.write(
                self.path / MANIFEST, _json(manifest | {"created": datetime.now(UTC).isoformat(timespec="seconds")})
            )
            with suppress(OSError):  # complete without it; `read` tries again
                storage.remove(self.checkpoint)
        state, run = _read(self.path, self.digest)
        if run is None:
            raise StoreError(
                f"run folder {self.path}: {state} right after it was written; is another program changing it?"
            )
        return run


def list_runs() -> list[RunInfo]:
    """Every run folder of the store, oldest first, as its manifest and the names of its files tell; their contents are
    verified when a run is served.
    """
    infos = []
    with _explained(paths.runs()):
        folders = (
            [path for path in sorted(paths.runs().glob(f"{KIND}-*")) if path.is_dir()] if paths.runs().is_dir() else []
        )
        for folder in folders:
            record, manifest = _loads(_bytes(folder / JOB)), _loads(_bytes(folder / MANIFEST))
            state = _judged(folder, record.get("digest"), manifest)
            if state == "complete" and set(manifest["files"]) != set(os.listdir(folder)) & set(FILES):
                state = "altered"
            created = manifest["created"] if state == "complete" else ""
            job = record.get("job")
            infos.append(RunInfo(folder.name, state, created, job if isinstance(job, dict) else {}, _mib(folder)))
    return sorted(infos, key=lambda info: (info.created == "", info.created, info.run))


def _read(path: Path, digest: str) -> tuple[str, StoredRun | None]:
    """The folder's state, and the run if that is "complete"."""
    with _explained(path):
        if path.exists() and not path.is_dir():
            raise StoreError(
                f"run folder {path}: a file is in its place; move it away or set ANALYSIS_HOME to another folder"
            )
        manifest = _loads(_bytes(path / MANIFEST))
        if (state := _judged(path, digest, manifest)) != "complete":
            return state, None
        files = {name: _bytes(path / name) for name in FILES}
        if manifest["files"] != {name: storage.sha256(data) for name, data in files.items() if data is not None}:
            return "altered", None
        try:
            tables = {name: schema.from_parquet(name, files[f"{name}.parquet"]) for name in schema.TABLES}
        except StoreError:  # as written, but not by these columns
            return "foreign", None
        with suppress(OSError):
            storage.remove(path / CHECKPOINT)
        return "complete", StoredRun(tables, _loads(files[PROVENANCE]), manifest)


def _judged(path: Path, digest: object, manifest: dict[str, Any]) -> str:
    """The state of a folder by its manifest alone."""
    if not os.path.lexists(path / MANIFEST):
        return "incomplete" if path.exists() else "absent"
    if manifest.get("schema") != storage.SCHEMA or manifest.get("kind") != KIND:
        return "foreign" if manifest else "altered"
    shapes = {"files": dict, "versions": dict, "created": str}
    sound = manifest.get("digest") == digest and all(
        isinstance(manifest.get(key), kind) for key, kind in shapes.items()
    )
    return "complete" if sound and {JOB, PROVENANCE} <= set(manifest["files"]) else "altered"


def _mib(folder: Path) -> float:
    """MiB of all files in a folder."""
    return sum(os.lstat(os.path.join(at, name)).st_size for at, _, names in os.walk(folder) for name in names) / 2**20


@cache
def _warn_once(differ: str) -> None:
    """Say, once in a process, that runs of other versions are among those served."""
    log.warning(
        "stored runs were computed with other libraries (%s) and are taken as they are: last digits may differ from"
        " those computed now; remove their folders, or set ANALYSIS_HOME to a new one, to compute them anew",
        differ,
    )


def _bytes(path: Path) -> bytes | None:
    """Content of a file, None where there is no regular file."""
    try:
        return path.read_bytes() if path.is_file() else None
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return None


def _json(value: Any) -> bytes:
    return (
        json.dumps(
            value,
            indent=1,
            sort_keys=True,
            default=lambda other: other.item() if hasattr(other, "item") else str(other),
        )
        + "\n"
    ).encode()


def _loads(data: bytes | None) -> dict[str, Any]:
    """A JSON object, {} for anything else."""
    try:
        value = storage.parse_json(data or b"{}")
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _explained(path: Path) -> AbstractContextManager[None]:
    return storage.explained(f"run folder {path}", REMEDY)
