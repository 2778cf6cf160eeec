"""What a SOURCE of text is: `lab:REGISTER`, a file, or `hub:NAME`, with an optional slice by document. Imports no torch.

    lab:stories   lab:stories/held-out   stories.txt[:80%]   texts.jsonl#body[100:200]   hub:wikitext2   hub:c4:validation[:50%]
"""

import hashlib
import os
import re
from dataclasses import dataclass
from difflib import get_close_matches
from fractions import Fraction
from functools import cache
from pathlib import Path

from analysis.errors import DataError, UsageError
from analysis.lab.documents import REGISTERS, SPLITS

TABLES = (".jsonl", ".ndjson", ".parquet")  # files whose rows are documents
Edge = int | Fraction  # a number of documents, or a share of them


@dataclass(frozen=True)
class Hub:
    """One split of one hub dataset, and how its rows become a stream.

    `file` reads that file of the repository alone. `joiner` joins rows into one text that is tokenised whole (None: every row is a
    document of its own). `rows` and `windows` cut the corpus to its first so many rows, and then windows (None: all).
    """

    dataset: str
    split: str
    revision: str
    config: str | None = None
    column: str = "text"
    file: str | None = None
    joiner: str | None = None
    mode: str = "stream"
    rows: int | None = None
    windows: int | None = None


def _wikitext(split: str) -> Hub:
    return Hub("Salesforce/wikitext", split, "b08601e04326c79dfdd32d625aee71d232d685c3", config="wikitext-2-raw-v1", joiner="\n\n")


def _penn(split: str) -> Hub:
    file = f"penn_treebank/{split}/0000.parquet"
    return Hub("ptb-text-only/ptb_text_only", split, "refs/convert/parquet", column="sentence", file=file, joiner=" ")


_C4 = ("allenai/c4", "1588ec454efa1a09f29cd18ddd04fe05fc8653a2")
# The corpora of Shin et al. 2024 (sections 3.1 and 3.2) as their code reads them; the first split is the one meant by the bare name.
ALIASES: dict[str, dict[str, Hub]] = {
    "wikitext2": {split: _wikitext(split) for split in ("test", "validation", "train")},
    "ptb": {split: _penn(split) for split in ("test", "validation", "train")},
    "c4": {
        "train": Hub(_C4[0], "train", _C4[1], file="en/c4-train.00000-of-01024.json.gz", mode="crop"),
        "validation": Hub(_C4[0], "validation", _C4[1], file="en/c4-validation.00000-of-00008.json.gz", joiner=" ", rows=1100, windows=256),
    },
}

SOURCES: dict[str, str] = {
    **{f"lab:{register}": meaning for register, meaning in REGISTERS.items()},
    "lab:REGISTER/held-out": "the same register, documents the lab's model was not trained on",
    "PATH.txt": "any UTF-8 text file; documents end at the given separator, else at <|endoftext|>, else at blank lines",
    "PATH.jsonl, PATH.parquet": "one document per row, column 'text' or PATH.jsonl#COLUMN",
    "hub:wikitext2": "WikiText-2 raw, test (also :validation, :train), lines joined with a blank line",
    "hub:ptb": "Penn Treebank, test (also :validation, :train), sentences joined with a space",
    "hub:c4": "C4 English, first train shard, random crops: the calibration text of Shin et al. 2024",
    "hub:c4:validation": "C4 English, first 1100 documents of the validation shard, at most 256 windows",
    "hub:ORG/NAME": "any hub dataset, as hub:ORG/NAME/CONFIG:SPLIT@REVISION#COLUMN; what is left out is split train, revision main, column text",
    "SOURCE[A:B]": "documents A to B of any source, in numbers or per cent: [:80%], [80%:], [100:200]",
}


@dataclass(frozen=True)
class Source:
    """A source as typed (`text`) and as understood. `start` and `stop` are documents, in numbers (int) or shares (Fraction), or None."""

    text: str
    kind: str  # "lab", "file" or "hub"
    name: str  # register, path or dataset
    start: Edge | None = None
    stop: Edge | None = None
    split: str | None = None  # lab: "train", "held-out", or None = whoever loads it decides
    column: str | None = None  # .jsonl and .parquet
    hub: Hub | None = None

    @property
    def slice(self) -> str:
        """The slice in canonical form, "" for the whole source."""
        return "" if self.start is None and self.stop is None else f"[{_edge_text(self.start)}:{_edge_text(self.stop)}]"

    @property
    def label(self) -> str:
        """The source without folders, for tables."""
        if self.kind == "lab":
            return f"lab:{self.name}{'/held-out' if self.split == 'held-out' else ''}{self.slice}"
        if self.kind == "hub":
            return self.text
        return Path(self.name).name + (f"#{self.column}" if self.column not in (None, "text") else "") + self.slice

    def select(self, documents: int) -> range:
        """Numbers of the documents the slice selects out of so many. Raises DataError where these are none."""
        chosen = range(_bound(self.start, documents, 0), _bound(self.stop, documents, documents))
        if not chosen:
            raise DataError(
                f"{self.label}: the slice selects none of its {documents} document{'' if documents == 1 else 's'}; "
                "widen the slice, or give a separator that splits the text into more documents"
            )
        return chosen


def _edge_text(edge: Edge | None) -> str:
    return "" if edge is None else f"{float(edge * 100):g}%" if isinstance(edge, Fraction) else str(edge)


def _bound(edge: Edge | None, documents: int, default: int) -> int:
    if edge is None:
        return default
    return min(edge if isinstance(edge, int) else edge.numerator * documents // edge.denominator, documents)


def _split_slice(text: str) -> tuple[str, str]:
    """`name[a:b]` -> ("name", "[a:b]"); a file that is really called so keeps its name."""
    match = re.fullmatch(r"(.+)(\[[^\[\]]*\])", text)
    return (text, "") if match is None or os.path.exists(text) else (match[1], match[2])


def _edge(text: str, source: str) -> Edge | None:
    if text == "":
        return None
    if re.fullmatch(r"\d+", text):
        return int(text)
    if re.fullmatch(r"\d+(\.\d+)?%", text) and (share := Fraction(text[:-1]) / 100) <= 1:
        return share
    raise UsageError(f"source {source!r}: {text!r} is no place in a slice; write a number of documents or 0% to 100%, as in [:80%] or [100:200]")


def _edges(text: str, source: str) -> tuple[Edge | None, Edge | None]:
    places = [place.strip() for place in text[1:-1].split(":")] if text else ["", ""]
    if len(places) != 2:
        raise UsageError(f"source {source!r}: the slice {text} needs one colon, as in [:80%] or [100:200]")
    start, stop = (_edge(place, source) for place in places)
    ordered = start is None or stop is None or type(start) is not type(stop) or start < stop
    if not ordered or stop == 0 or (isinstance(start, Fraction) and start == 1):
        raise UsageError(f"source {source!r}: the slice {text} selects nothing; its end must come after its start")
    return start, stop


def parse_source(text: str) -> Source:
    """Read a source as typed; nothing is opened.

    Raises UsageError for an empty text, an unknown register, alias, split or slice, naming what is possible.
    """
    if not text.strip():
        raise UsageError("source: nothing given; write lab:REGISTER, a file, or hub:NAME")
    name, cut = _split_slice(text.strip())
    start, stop = _edges(cut, text)
    common = {"text": text.strip(), "start": start, "stop": stop}
    if name.startswith("lab:"):
        return _parse_lab(name[4:], common)
    if name.startswith("hub:"):
        hub = _parse_hub(name[4:], text)
        return Source(kind="hub", name=hub.dataset, hub=hub, **common)
    path, mark, column = name.rpartition("#")
    if mark and column and path.endswith(TABLES):
        return Source(kind="file", name=path, column=column, **common)
    return Source(kind="file", name=name, column="text" if name.endswith(TABLES) else None, **common)


def _parse_lab(name: str, common: dict) -> Source:
    text = common["text"]
    register, slash, split = name.partition("/")
    if register not in REGISTERS:
        raise UsageError(f"source {text!r}: unknown register {register!r}; {suggest(register, REGISTERS)}")
    if slash and split not in SPLITS:
        raise UsageError(f"source {text!r}: unknown split {split!r}; {suggest(split, SPLITS)}")
    if isinstance(common["start"], Fraction) or isinstance(common["stop"], Fraction):
        raise UsageError(f"source {text!r}: lab text has no end to take per cent of; slice it by numbers of documents, as in [:1000]")
    return Source(kind="lab", name=register, split=split or None, **common)


def _parse_hub(name: str, text: str) -> Hub:
    rest, _, column = name.partition("#")
    rest, _, revision = rest.partition("@")
    path, _, split = rest.partition(":")
    parts = path.split("/")
    if len(parts) == 1 or parts[0] in ALIASES:
        return _alias(path, split, bool(column or revision), text)
    if len(parts) > 3 or not all(parts):
        raise UsageError(f"source {text!r}: a hub dataset is written hub:ORG/NAME or hub:ORG/NAME/CONFIG:SPLIT@REVISION#COLUMN")
    config = parts[2] if len(parts) == 3 else None
    return Hub("/".join(parts[:2]), split or "train", revision or "main", config=config, column=column or "text")


def _alias(name: str, split: str, changed: bool, text: str) -> Hub:
    if name.split("/")[0] in ALIASES and "/" in name:
        raise UsageError(f"source {text!r}: a split follows a colon: hub:{name.replace('/', ':')}")
    if name not in ALIASES:
        raise UsageError(f"source {text!r}: unknown hub alias {name!r}; {suggest(name, ALIASES)}, or hub:ORG/NAME")
    if changed:
        raise UsageError(f"source {text!r}: hub:{name} has its revision and column fixed; write the dataset out as hub:ORG/NAME@REVISION#COLUMN")
    splits = ALIASES[name]
    if split and split not in splits:
        raise UsageError(f"source {text!r}: hub:{name} has no split {split!r}; {suggest(split, splits)}")
    return splits[split] if split else next(iter(splits.values()))


def suggest(given: str, possible) -> str:
    """ "did you mean 'x'?" where something is near, and the list of what is possible."""
    near = get_close_matches(given, list(possible), 1)
    return (f"did you mean {near[0]!r}? " if near else "") + f"possible: {', '.join(possible)}"


def source_fingerprint(source: str | Source) -> str:
    """What the text of a source is, wherever it lies: equal fingerprints, equal documents.

    A file's is the SHA-256 of its content; the lab's the digest of its generator and world; the hub's the dataset and revision.
    Column and slice are part of it. Raises UsageError and DataError as parsing and opening do.
    """
    source = parse_source(source) if isinstance(source, str) else source
    if source.kind == "lab":
        return f"lab:{source.name}{'/' + source.split if source.split else ''}@{_generator()}{source.slice}"
    if source.kind == "hub":
        hub = source.hub
        return f"hub:{hub.dataset}@{hub.revision}/{hub.config or hub.file or ''}:{hub.split}#{hub.column}{source.slice}"
    digest = hashlib.sha256()
    with open(check_file(source), "rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return f"file:{digest.hexdigest()}{'#' + source.column if source.column else ''}{source.slice}"


@cache
def _generator() -> str:
    """Digest of the code that makes the lab's world and its documents, hence of what they say."""
    import analysis.lab

    files = sorted(Path(analysis.lab.__file__).parent.glob("*.py"))
    return hashlib.sha256(b"\0".join(file.read_bytes() for file in files)).hexdigest()[:16]


def check_file(source: Source) -> Path:
    """The path of a file source. Raises DataError where it is missing or a folder."""
    path = os.path.expanduser(source.name)
    if os.path.isdir(path):
        raise DataError(f"text file {source.name}: is a folder; name a file in it")
    if not os.path.isfile(path):
        known = [f"{kind}:{source.name}" for kind, names in (("lab", REGISTERS), ("hub", ALIASES)) if source.name in names]
        raise DataError(f"text file {source.name}: no such file" + (f"; did you mean {known[0]}?" if known else ""))
    return Path(path)
