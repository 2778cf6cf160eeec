"""What a SOURCE of text is: `lab:REGISTER`, `pictures:SET`, a file, `hub:NAME`, the model's own text, a mixture of
these, or labelled examples. Imports no torch.

lab:stories   lab:stories/held-out   stories.txt[:80%]   texts.jsonl#body[100:200]   hub:wikitext2
hub:c4:validation[:50%]   pictures:shapes
self   self:temperature=0.8,top-p=0.95   lab:stories:0.7+lab:recipes:0.3
stories.txt[:80%]:1/3+self:2/3 examples:truth   examples:sst2/validation
examples:train.tsv#premise,hypothesis,label[:80%]
"""

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Literal

from analysis.errors import DataError, UsageError, suggest
from analysis.lab import versions
from analysis.lab.documents import REGISTERS, SPLITS
from analysis.lab.examples import EXAMPLES
from analysis.lab.pictures import SETS
from analysis.text import files
from analysis.text.example_sets import HUB_SETS, HUB_SPLITS, parse_examples
from analysis.text.generation import Generation
from analysis.text.hub import ALIASES, Hub, commit, parse_hub
from analysis.text.rows import content_digest, form_of

LONGEST = 10_000  # characters of a source: no path, and no mixture that anybody types, has more
MOST_DIGITS = 18  # of a number in a slice or a share
MOST_MADE = 10**7  # documents, or examples, of the lab in a slice that has an end
Edge = int | Fraction  # a number of documents, or a share of them
Mode = Literal["stream", "crop", "documents"]
MODES: tuple[Mode, ...] = ("stream", "crop", "documents")  # how `cut` makes windows of documents
BOS = ("auto", "every", "none")  # where beginning-of-text tokens stand (`tokens.specials`)
SHARE = r"\d+/[1-9]\d*|\d+(?:\.\d+)?|\.\d+"
PART_END = re.compile(rf":({SHARE})(?:\+(?!$)|$)")
JOINED = re.compile(r"\+(lab:|hub:|examples:|self($|[:+]))")
SELF = "self"
LABELLED = "examples"
PICTURES = "pictures"

SOURCE_FORMS: dict[str, str] = {
    **{f"lab:{register}": meaning for register, meaning in REGISTERS.items()},
    **{f"{PICTURES}:{name}": f"{meaning}, for models that read pictures" for name, meaning in SETS.items()},
    "lab:REGISTER/held-out": "the same register, documents the lab's model was not trained on",
    "PATH.txt": "any UTF-8 text file; documents end at the given separator, else at <|endoftext|>, else at blank lines",
    "PATH.jsonl": (
        "one document per row, column 'text' or PATH.jsonl#COLUMN (#data.text, #turns.0.content for nested ones); also"
        " .json, .csv, .tsv, .parquet, .arrow; rows of messages go through the tokenizer's chat template"
    ),
    "PATH.txt.gz": "any of these packed by gzip, zstd or bzip2",
    "FOLDER": "a data set that datasets' save_to_disk has written, column 'text' or FOLDER#COLUMN",
    "hub:wikitext2": "WikiText-2 raw, test (also :validation, :train), lines joined with a blank line",
    "hub:ptb": "Penn Treebank, test (also :validation, :train), sentences joined with a space",
    "hub:c4": "C4 English, first train shard, random crops: the calibration text of Shin et al. 2024",
    "hub:c4:validation": "C4 English, first 1100 documents of the validation shard, at most 256 windows",
    "hub:ORG/NAME": (
        "any hub dataset, as hub:ORG/NAME/CONFIG:SPLIT@REVISION#COLUMN; what is left out is split train, revision main,"
        " column text"
    ),
    "self": (
        "text that the model of the run writes itself (2406.15524, appendix C), as self:OPTION=VALUE,...: "
        "temperature, top-k, top-p, prefix, start, prompt, language, tokens, batch"
    ),
    **{f"examples:{name}": f"labelled: {task.meaning}" for name, task in EXAMPLES.items()},
    **{f"examples:{name}": f"labelled: {hub_set.task.meaning}" for name, hub_set in HUB_SETS.items()},
    "examples:NAME/SPLIT": (
        "the examples of one split: train, and held-out (lab) or validation (hub); else calibration is train, held-out"
        " text the other"
    ),
    "examples:PATH.tsv": (
        "labelled: any UTF-8 table with a header, .tsv, .csv or .jsonl; columns sentence, or sentence1 and sentence2,"
        " and label or score; or question, context and answer; or as named in PATH.tsv#FIRST,SECOND,LABEL"
    ),
    "SOURCE:SHARE+SOURCE:SHARE": "a mixture by windows; the shares (0.7, 1/3) make 1: lab:stories:0.7+lab:recipes:0.3",
    "SOURCE[A:B]": (
        "documents, or examples, A to B of a file, hub or lab source, in numbers or per cent: [:80%], [80%:], [100:200]"
    ),
}


@dataclass(frozen=True)
class Source:
    """A source as typed (`text`) and as understood.

    kind: "lab", "pictures", "file", "hub", "examples", "self" or "mixture". name: register, set of pictures, path,
    dataset, or set of examples; "" for the last two kinds. start, stop: documents, in numbers (int) or shares
    (Fraction), or None. split: of the lab "train" or "held-out", of examples of the hub "train" or "validation"; None:
    whoever loads it decides. column: of tables; of tables of examples FIRST,LABEL or FIRST,SECOND,LABEL, None: by their
    header. parts: of a mixture, with their shares of the windows. generation: how self-generated text is written.
    """

    text: str
    kind: str
    name: str
    start: Edge | None = None
    stop: Edge | None = None
    split: str | None = None
    column: str | None = None
    hub: Hub | None = None
    parts: tuple[tuple["Source", Fraction], ...] = ()
    generation: Generation | None = None

    @property
    def slice(self) -> str:
        """The slice in canonical form, "" for the whole source."""
        return "" if self.start is None and self.stop is None else f"[{_edge_text(self.start)}:{_edge_text(self.stop)}]"

    @property
    def label(self) -> str:
        """The source without folders, for tables."""
        if self.kind in ("lab", PICTURES):
            return f"{self.kind}:{self.name}{'/held-out' if self.split == 'held-out' else ''}{self.slice}"
        if self.kind == LABELLED and not self.table:
            return f"examples:{self.name}{f'/{self.split}' if self.split not in (None, 'train') else ''}{self.slice}"
        if self.kind == "hub":
            return self.text
        if self.kind == "mixture":
            return "+".join(f"{part.label}:{share_text(share)}" for part, share in self.parts)
        if self.generation is not None:
            return _self_text(named(self.generation, lambda reference: reference.label))
        return (
            ("examples:" if self.kind == LABELLED else "")
            + Path(self.name).name
            + (f"#{self.column}" if self.column not in (None, "text") else "")
            + self.slice
        )

    @property
    def table(self) -> bool:
        """Whether these are labelled examples in a file."""
        return self.kind == LABELLED and self.name not in EXAMPLES and self.name not in HUB_SETS

    @property
    def endless(self) -> bool:
        """Whether documents, or examples, are made as they are asked for, without end."""
        lab = self.kind in ("lab", PICTURES) or (self.kind == LABELLED and self.name in EXAMPLES)
        return self.kind == SELF or (lab and self.stop is None)

    def select(self, documents: int) -> range:
        """Numbers of the documents, or examples, the slice selects out of so many. Raises DataError where these are
        none.
        """
        chosen = range(_bound(self.start, documents, 0), _bound(self.stop, documents, documents))
        if not chosen:
            noun, more = (
                ("example", "")
                if self.kind == LABELLED
                else ("document", ", or give a separator that splits the text into more documents")
            )
            raise DataError(
                f"{self.label}: the slice selects none of its {documents} {noun}{'' if documents == 1 else 's'}; widen"
                f" the slice{more}"
            )
        return chosen

    @property
    def numbers(self) -> tuple[int, int | None]:
        """The slice of what is made without end, whose edges are numbers: where it starts, and where it ends."""
        start, stop = self.start, self.stop
        assert not isinstance(start, Fraction) and not isinstance(stop, Fraction)  # refused where it is parsed
        return start or 0, stop

    def half(self, split: str) -> "Source":
        """This source with the half of its lab registers and of its labelled examples named: `split` is "train" or
        "held-out", where none is. Raises UsageError.
        """
        if split not in SPLITS:
            raise UsageError(f"{self.label}: unknown split {split!r}; {suggest(split, SPLITS)}")
        if self.kind == "mixture":
            return replace(self, parts=tuple((part.half(split), share) for part, share in self.parts))
        if self.kind == LABELLED and self.name in HUB_SETS:
            split = HUB_SPLITS[split]
        return (
            replace(self, split=self.split or split)
            if self.kind in ("lab", PICTURES, LABELLED) and not self.table
            else self
        )


def _edge_text(edge: Edge | None) -> str:
    if not isinstance(edge, Fraction):
        return "" if edge is None else str(edge)
    percent = edge * 100
    short = f"{float(percent):g}"
    return f"{short if Fraction(short) == percent else Decimal(percent.numerator) / Decimal(percent.denominator):}%"


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
    if re.fullmatch(rf"\d{{1,{MOST_DIGITS}}}", text):
        return int(text)
    if re.fullmatch(r"\d{1,9}(\.\d{1,9})?%", text) and (share := Fraction(text[:-1]) / 100) <= 1:
        return share
    shown = text if len(text) <= 40 else f"{text[:40]}..."
    raise UsageError(
        f"source {source!r}: {shown!r} is no place in a slice; write a number of documents or 0% to 100%, as in [:80%]"
        " or [100:200]"
    )


def _edges(text: str, source: str) -> tuple[Edge | None, Edge | None]:
    places = [place.strip() for place in text[1:-1].split(":")] if text else ["", ""]
    if len(places) != 2:
        raise UsageError(f"source {source!r}: the slice {text} needs one colon, as in [:80%] or [100:200]")
    start, stop = (_edge(place, source) for place in places)
    ordered = start is None or stop is None or type(start) is not type(stop) or start < stop
    if not ordered or stop == 0 or (isinstance(start, Fraction) and start == 1):
        raise UsageError(f"source {source!r}: the slice {text} selects nothing; its end must come after its start")
    return start, stop


def parse_source(text: "str | os.PathLike[str] | Source") -> Source:
    """Read a source as typed, or a path; nothing is opened. What is a source already comes back as it is.

    Raises UsageError for what is no text, for an empty text, an unknown register, alias, split, option or slice, naming
    what is possible, and for shares of a mixture that do not make 1.
    """
    if isinstance(text, Source):
        return text
    typed = os.fspath(text) if isinstance(text, os.PathLike) else text
    if not isinstance(typed, str):
        raise UsageError(f"source: must be a text such as 'lab:stories' or a path, not {type(text).__name__}")
    if len(typed) > LONGEST:
        raise UsageError(f"source {typed[:60]!r}...: is {len(typed):,} characters long; at most {LONGEST:,} are read")
    text = typed.strip()
    if not text:
        raise UsageError("source: nothing given; write lab:REGISTER, a file, hub:NAME, examples:NAME or self")
    if (parts := _split_mixture(text)) is not None:
        return _mixture(parts, text)
    if re.match(rf"{SELF}($|[:\[])", text):
        return _parse_self(text)
    name, cut = _split_slice(text)
    start, stop = _edges(cut, text)
    if name.startswith("lab:"):
        return _parse_lab(name[4:], Source(text, "lab", "", start, stop), "register", REGISTERS)
    if name.startswith(f"{PICTURES}:"):
        pictures = Source(text, PICTURES, "", start, stop)
        return _parse_lab(name.removeprefix(f"{PICTURES}:"), pictures, "set of pictures", SETS)
    if name.startswith(f"{LABELLED}:"):
        name, split, column = parse_examples(name.removeprefix(f"{LABELLED}:"), text=text, start=start, stop=stop)
        labelled = Source(text, LABELLED, name, start, stop, split=split, column=column)
        if name in EXAMPLES:
            _check_made(labelled)
        return labelled
    if name.startswith("hub:"):
        hub = parse_hub(name[4:], text)
        return Source(text, "hub", hub.dataset, start, stop, hub=hub)
    path, mark, column = name.rpartition("#")
    if mark and column and (form_of(path) or (_there(path) and not _there(name))):
        return Source(text, "file", path, start, stop, column=column)
    table = form_of(name) is not None or os.path.isdir(os.path.expanduser(name))
    return Source(text, "file", name, start, stop, column="text" if table else None)


def _there(path: str) -> bool:
    return os.path.exists(os.path.expanduser(path))


def _split_mixture(text: str) -> list[tuple[str, str]] | None:
    """(source, share) of each part where a text is a mixture; a file that is really called so is none."""
    if "+" not in text or os.path.exists(text):
        return None
    parts, place, whole = [], 0, False
    for match in PART_END.finditer(text):
        parts.append((text[place : match.start()], match[1]))
        place, whole = match.end(), match.end() == len(text)
    if len(parts) > 1 and whole:
        return parts
    if JOINED.search(text) or (parts and not whole):
        raise UsageError(
            f"source {text!r}: every part of a mixture ends in its share, a slice stands before it:"
            " lab:stories:0.7+stories.txt[:80%]:0.3"
        )
    return None


def _mixture(parts: Sequence[tuple[str, str]], text: str) -> Source:
    if long := next((share for _, share in parts if len(share) > 2 * MOST_DIGITS), None):
        raise UsageError(f"source {text!r}: the share {long[:40]}... has {len(long)} digits; write 0.7 or 1/3")
    sources = tuple((parse_source(source), Fraction(share)) for source, share in parts)
    if labelled := [source.label for source, _ in sources if source.kind == LABELLED]:
        raise UsageError(f"source {text!r}: {labelled[0]} are labelled examples, no part of a mixture; give them alone")
    if seen := [source.label for source, _ in sources if source.kind == PICTURES]:
        raise UsageError(f"source {text!r}: {seen[0]} has pictures and is no part of a mixture; give it alone")
    if any(share == 0 for _, share in sources):
        raise UsageError(f"source {text!r}: a share must be above 0; leave the part out")
    shares = [share for _, share in sources]
    total = sum(shares, Fraction(0))
    if total != 1:
        raise UsageError(
            f"source {text!r}: the shares {' + '.join(map(share_text, shares))} make {share_text(total)}; they"
            " must make 1 (thirds are written 1/3)"
        )
    texts = {replace(source, text="") for source, _ in sources}
    if len(texts) < len(sources):
        raise UsageError(f"source {text!r}: two parts are the same text; name it once, with both shares")
    return Source(text, "mixture", "", parts=sources)


def share_text(share: Fraction) -> str:
    """0.7 or 1/3: a share that reads back as it is."""
    return short if Fraction(short := f"{float(share):g}") == share else str(share)


def _parse_self(text: str) -> Source:
    if "[" in text and not text.startswith(f"{SELF}:"):
        raise UsageError(
            f"source {text!r}: self-generated text has no end to slice; the number of windows says how much of it is"
            " used"
        )
    try:
        generation = Generation.parse(text.removeprefix(SELF).removeprefix(":"))
    except UsageError as error:
        raise UsageError(f"source {text!r}: {error}") from error
    if generation.reference is not None and (kind := parse_source(generation.reference).kind) in (
        SELF,
        "mixture",
        LABELLED,
        PICTURES,
    ):
        raise UsageError(
            f"source {text!r}: start tokens and prompts are taken from a lab, file or hub source, not from"
            f" a{'n' if kind == LABELLED else ''} {kind} source"
        )
    return Source(text, SELF, "", generation=generation)


def named(generation: Generation, name: Callable[[Source], str]) -> Generation:
    """A generation with its reference text called by `name`: by its label, or its fingerprint."""
    if generation.reference is None:
        return generation
    reference = name(parse_source(generation.reference))
    if generation.prompt is None:
        return replace(generation, start=reference)
    return replace(generation, prompt=reference)


def _self_text(generation: Generation) -> str:
    return f"{SELF}:{generation}".removesuffix(":")


def _parse_lab(name: str, source: Source, noun: str, names: Mapping[str, str]) -> Source:
    """The register (or other `noun`) and split that `name` (what follows the colon, without its slice) stands for."""
    text = source.text
    register, slash, split = name.partition("/")
    if register not in names:
        raise UsageError(f"source {text!r}: unknown {noun} {register!r}; {suggest(register, names)}")
    if slash and split not in SPLITS:
        raise UsageError(f"source {text!r}: unknown split {split!r}; {suggest(split, SPLITS)}")
    if isinstance(source.start, Fraction) or isinstance(source.stop, Fraction):
        raise UsageError(
            f"source {text!r}: lab text has no end to take per cent of; slice it by numbers of documents, as in [:1000]"
        )
    _check_made(source)
    return replace(source, name=register, split=split or None)


def _check_made(source: Source) -> None:
    """Raise UsageError for a slice of the lab that would be written for ever."""
    start, stop = source.numbers
    if stop is not None and stop - start > MOST_MADE:
        raise UsageError(
            f"source {source.text!r}: a slice that ends holds at most {MOST_MADE:,} documents or examples of the lab,"
            f" which writes each of them; give a shorter one, or leave its end out: [{start or ''}:]"
        )


def source_fingerprint(source: "str | os.PathLike[str] | Source", model: str | None = None) -> str:
    """What the text of a source is, wherever it lies: equal fingerprints, equal documents.

    A file's is the SHA-256 of its content; the lab's the version of what it writes; the hub's the dataset and commit
    (of labelled examples, their short name and revision); a mixture's those of its parts, with their shares; the
    model's own text's the settings and `model`, the fingerprint of the model that writes it. Column and slice are part
    of it. Raises UsageError and DataError as parsing and opening do, and where self-generated text is given without its
    model.
    """
    source = parse_source(source)
    if source.kind == "mixture":
        return "+".join(f"{source_fingerprint(part, model)}:{share}" for part, share in source.parts)
    if source.generation is not None:
        if model is None:
            raise UsageError(f"{source.label}: is written by a model, so its fingerprint needs that model's")
        return f"{_self_text(named(source.generation, source_fingerprint))}@{model}"
    if source.kind == "lab":
        return f"lab:{source.name}{'/' + source.split if source.split else ''}@{versions.DOCUMENTS}{source.slice}"
    if source.kind == PICTURES:
        split = f"/{source.split}" if source.split else ""
        return f"{PICTURES}:{source.name}{split}@{versions.PICTURES}{source.slice}"
    if source.kind == LABELLED and not source.table:
        version = (
            f"{versions.DOCUMENTS}.{versions.EXAMPLES}" if source.name in EXAMPLES else HUB_SETS[source.name].dataset[1]
        )
        return f"examples:{source.name}{'/' + source.split if source.split else ''}@{version}{source.slice}"
    if source.hub is not None:
        hub = source.hub
        at = commit(source.label, hub)
        return f"hub:{hub.dataset}@{at}/{hub.config or hub.file or ''}:{hub.split}#{hub.column}{source.slice}"
    path = check_file(source)
    try:
        digest = content_digest(path, f"text file {source.name}")
    except OSError as error:
        raise DataError(f"text file {source.name}: cannot be read: {error.strerror or error}") from error
    return f"{source.kind}:{digest}{'#' + source.column if source.column else ''}{source.slice}"


def check_file(source: Source) -> Path:
    """The path of a file source, or of the folder it is. Raises DataError where there is none that can be read."""
    meant = [f"{kind}:{source.name}" for kind, names in (("lab", REGISTERS), ("hub", ALIASES)) if source.name in names]
    place = f"text file {source.name if len(source.name) <= 300 else source.name[:300] + '...'}"
    try:
        return files.find(source.name, place, folders=source.kind == "file")
    except DataError as error:
        if not meant or _there(source.name):
            raise
        raise DataError(f"{error}; did you mean {meant[0]}?") from error


def endless_error(source: Source) -> str:
    """What is wrong with asking for all there is of something without an end."""
    if source.kind == LABELLED:
        return (
            f"{source.label}: the lab's examples have no end; say how many (samples), or slice them, as in"
            f" {source.label}[:1000]"
        )
    if source.kind in ("lab", PICTURES):
        return (
            f"{source.label}: lab text has no end; say how many windows (samples), or how many documents, as in"
            f" {source.label}[:1000]"
        )
    return (
        f"{source.label}: {'a mixture' if source.kind == 'mixture' else 'the text of a model'} has no natural number of"
        " windows; give samples"
    )
