"""Self-generated text on disk: written once, read back, extended where more is asked for, resumed where it was cut
short.

    <cache>/generated/<16 hex digits>.jsonl   one {"text": ..., "tokens": ..., "batch": ...} per line
    <cache>/generated/<16 hex digits>.json    provenance: model, settings, seed, versions, and of every batch its size,
    hash, rejections
    <cache>/generated/<16 hex digits>.lock

The provenance is written after the lines it speaks of: what lies beyond is of a batch cut short, and dropped. A batch
that is not as it was written is written again, and all after it.
"""

import json
import logging
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

from analysis import paths, storage
from analysis.errors import DataError, UsageError
from analysis.models.dtypes import dtype_word
from analysis.text.generate import Batch, Text, Writer, check_barren
from analysis.text.sources import SELF, Source, parse_source, source_fingerprint
from analysis.text.tokens import specials

if TYPE_CHECKING:
    from analysis.models.load import LoadedModel

TEXT_VERSION = 1  # raise by hand when the same settings come to mean another text
TEXT_PACKAGES = ("torch", "transformers", "tokenizers", "langdetect")

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class File:
    """Where a text is kept, and what it is: everything that decides it."""

    path: Path
    request: dict

    @property
    def provenance(self) -> Path:
        return self.path.with_suffix(".json")


def file_of(loaded: "LoadedModel", source: Source | str, *, seed: int = 0, bos: str = "auto") -> File:
    """The file of a self source under a seed and special tokens (`tokens.specials`).

    Raises UsageError for a source that is no model's own text, or a model without a tokenizer.
    """
    source = parse_source(source) if isinstance(source, str) else source
    if source.kind != SELF:
        raise UsageError(f"{source.label}: is not text a model writes; write self or self:OPTION=VALUE,...")
    if loaded.tokenizer is None:
        raise UsageError(
            f"model {loaded.name}: has no tokenizer to write text with; put its tokenizer files in the model's folder"
        )
    request = {
        "schema": TEXT_VERSION,
        "fingerprint": source_fingerprint(source, loaded.fingerprint),
        "dtype": dtype_word(loaded.model.dtype),
        "seed": seed,
    }
    if before := specials(loaded.tokenizer, bos, model=loaded).start:
        request["before"] = list(before)
    key = storage.sha256(json.dumps(request, sort_keys=True).encode())[:16]
    return File(
        paths.cache() / "generated" / f"{key}.jsonl",
        request | {"source": source.label, "model": Path(loaded.name).name},
    )


def written(loaded: "LoadedModel", source: Source | str, *, seed: int = 0, bos: str = "auto") -> Iterator[Batch]:
    """The batches of a self source, endlessly: those on disk, then new ones, which are put there. Other processes wait
    for each new batch.

    Raises UsageError for settings that do not suit the model, DataError where it writes nothing but what is rejected;
    what was written before stays.
    """
    source = parse_source(source) if isinstance(source, str) else source
    file, writer, texts, barren = file_of(loaded, source, seed=seed, bos=bos), None, 0, 0
    assert source.generation is not None and loaded.tokenizer is not None  # as `file_of` has seen
    for number in count():
        with _explained():
            batch = _read(file, number)
        if batch is None:
            with _explained(), _hold(file):
                if (batch := _read(file, number)) is None:  # another process may have written it while this one waited
                    before = tuple(file.request.get("before", ()))
                    writer = writer or Writer(loaded.model, loaded.tokenizer, source.generation, seed, before)
                    with _naming(source, loaded, texts, file):
                        batch = writer.batch(number)
                    _add(file, number, batch, str(loaded.model.device))
        texts, barren = texts + len(batch.texts), 0 if batch.texts else barren + 1
        with _naming(source, loaded, texts, file):
            check_barren(barren, source.generation, batch.rejected)
        yield batch


def tally(batches: list[Batch]) -> dict:
    """Plain counts of some batches: texts, tokens, and rejections by reason."""
    rejected: Counter[str] = Counter()
    for batch in batches:
        rejected.update(batch.rejected)
    texts = [text for batch in batches for text in batch.texts]
    return {
        "texts": len(texts),
        "tokens": sum(text.tokens for text in texts),
        "rejected": dict(sorted(rejected.items())),
    }


def versions() -> dict[str, str]:
    """Of the packages that have a say in what is written."""
    return storage.versions(*TEXT_PACKAGES)


def line(text: Text, number: int) -> bytes:
    """A text of batch `number` as a line of JSON."""
    return json.dumps({"text": text.text, "tokens": text.tokens, "batch": number}, ensure_ascii=False).encode() + b"\n"


def _state(file: File) -> dict:
    """What the provenance file says, a fresh one where it is missing, broken or of another request."""
    try:
        state = storage.read_json(file.provenance)
        if {key: state[key] for key in file.request} == file.request and isinstance(state["batches"], list):
            return state
        log.warning("generated text %s is of another request; it is written again", file.path.name)
    except FileNotFoundError:
        pass
    except (ValueError, KeyError, TypeError):
        log.warning("the provenance of generated text %s is broken; it is written again", file.path.name)
    return {**file.request, "batches": []}


def _read(file: File, number: int) -> Batch | None:
    """Batch `number` if it is on disk as it was written."""
    batches = _state(file)["batches"]
    if number >= len(batches):
        return None
    record, start = batches[number], sum(batch["bytes"] for batch in batches[:number])
    try:
        with file.path.open("rb") as lines:
            lines.seek(start)
            data = lines.read(record["bytes"])
    except FileNotFoundError:
        data = b""
    if storage.sha256(data) != record["sha256"]:
        log.warning(
            "batch %d of generated text %s is not as it was written; it is written again", number, file.path.name
        )
        return None
    rows = [json.loads(row) for row in data.splitlines()]
    return Batch(tuple(Text(row["text"], row["tokens"]) for row in rows), record["rejected"])


def _add(file: File, number: int, batch: Batch, device: str) -> None:
    """Write batch `number` after those before it, and then the provenance; anything after it goes."""
    state = _state(file)
    before = state["batches"][:number]
    if len(before) < number:  # another process found an earlier batch altered and is at it
        return
    data = b"".join(line(text, number) for text in batch.texts)
    with file.path.open("r+b" if file.path.exists() else "wb") as lines:
        lines.truncate(sum(batch["bytes"] for batch in before))
        lines.seek(0, os.SEEK_END)
        lines.write(data)
        lines.flush()
        os.fsync(lines.fileno())
    record = {"texts": len(batch.texts), "bytes": len(data), "sha256": storage.sha256(data), "rejected": batch.rejected}
    state |= {"batches": [*before, record | {"device": device, "versions": versions()}]}
    storage.write(file.provenance, json.dumps(state, indent=1, ensure_ascii=False))


def _explained() -> AbstractContextManager[None]:
    """What the system refuses while texts are kept, as a StoreError."""
    return storage.explained(
        "self-generated text", "set ANALYSIS_HOME to a folder that can be written, and repeat this"
    )


def _hold(file: File) -> AbstractContextManager[None]:
    """Keep other processes from writing the same text; waits while one does."""

    def busy() -> None:
        source, model = file.request["source"], file.request["model"]
        log.warning("%s of model %s is being written by another process; waiting for it", source, model)

    return storage.locked(file.path.with_suffix(".lock"), busy)


@contextmanager
def _naming(source: Source, loaded: "LoadedModel", texts: int, file: File):
    """Put source and model in front of a DataError, and what is kept behind it."""
    try:
        yield
    except DataError as error:
        kept = f"; the {texts} texts written so far are kept in {file.path}" if texts else ""
        raise DataError(f"{source.label}: model {loaded.name}: {error}{kept}") from error
