"""Datasets of the Hugging Face hub as sources: the corpora of the papers by a short name, any other by its own. Imports
no torch.

hub:wikitext2   hub:c4:validation   hub:ORG/NAME/CONFIG:SPLIT@REVISION#COLUMN
"""

import os
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from analysis.errors import DataError, UsageError, suggest

NAME = re.compile(r"\w[\w.-]*", re.ASCII)  # of an organisation, and of a dataset
COMMIT = re.compile(r"[0-9a-f]{40}")
LOCAL = "PATH.txt, .jsonl or .parquet"


@dataclass(frozen=True)
class Hub:
    """One split of one hub dataset, and how its rows become a stream.

    `file` reads that file of the repository alone. `joiner` joins rows into one text that is tokenised whole (None:
    every row is a document of its own). `rows` and `windows` cut the corpus to its first so many rows, and then windows
    (None: all).
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
    return Hub(
        "Salesforce/wikitext",
        split,
        "b08601e04326c79dfdd32d625aee71d232d685c3",
        config="wikitext-2-raw-v1",
        joiner="\n\n",
    )


def _penn(split: str) -> Hub:
    file = f"penn_treebank/{split}/0000.parquet"
    return Hub("ptb-text-only/ptb_text_only", split, "refs/convert/parquet", column="sentence", file=file, joiner=" ")


_C4 = ("allenai/c4", "1588ec454efa1a09f29cd18ddd04fe05fc8653a2")
# The corpora of Shin et al. 2024 (sections 3.1 and 3.2) as their code reads them; the first split is the one meant by
# the bare name.
ALIASES: dict[str, dict[str, Hub]] = {
    "wikitext2": {split: _wikitext(split) for split in ("test", "validation", "train")},
    "ptb": {split: _penn(split) for split in ("test", "validation", "train")},
    "c4": {
        "train": Hub(_C4[0], "train", _C4[1], file="en/c4-train.00000-of-01024.json.gz", mode="crop"),
        "validation": Hub(
            _C4[0],
            "validation",
            _C4[1],
            file="en/c4-validation.00000-of-00008.json.gz",
            joiner=" ",
            rows=1100,
            windows=256,
        ),
    },
}


def parse_hub(name: str, text: str) -> Hub:
    """The dataset that `name` (what follows `hub:`, without its slice) stands for in the source `text`. Raises
    UsageError.
    """
    rest, _, column = name.partition("#")
    rest, _, revision = rest.partition("@")
    path, _, split = rest.partition(":")
    parts = path.split("/")
    if len(parts) == 1 or parts[0] in ALIASES:
        return _alias(path, split, bool(column or revision), text)
    if len(parts) > 3 or not all(parts) or not all(map(NAME.fullmatch, parts[:2])):
        raise UsageError(
            f"source {text!r}: a hub dataset is written hub:ORG/NAME or hub:ORG/NAME/CONFIG:SPLIT@REVISION#COLUMN"
        )
    config = parts[2] if len(parts) == 3 else None
    return Hub("/".join(parts[:2]), split or "train", revision or "main", config=config, column=column or "text")


def _alias(name: str, split: str, changed: bool, text: str) -> Hub:
    if name.split("/")[0] in ALIASES and "/" in name:
        raise UsageError(f"source {text!r}: a split follows a colon: hub:{name.replace('/', ':')}")
    if name not in ALIASES:
        raise UsageError(f"source {text!r}: unknown hub alias {name!r}; {suggest(name, ALIASES)}, or hub:ORG/NAME")
    if changed:
        raise UsageError(
            f"source {text!r}: hub:{name} has its revision and column fixed; write the dataset out as"
            " hub:ORG/NAME@REVISION#COLUMN"
        )
    splits = ALIASES[name]
    if split and split not in splits:
        raise UsageError(f"source {text!r}: hub:{name} has no split {split!r}; {suggest(split, splits)}")
    return splits[split] if split else next(iter(splits.values()))


def commit(label: str, hub: Hub, gone: str | None = None, offline: str | None = None) -> str:
    """The commit that a dataset's revision means now, the same one throughout a process: that of the local cache, else
    what the hub says.

    gone, offline: what to do where there is no such revision, or no network. Raises DataError, naming the source by
    `label`, where neither cache nor hub knows.
    """
    if COMMIT.fullmatch(hub.revision):
        return hub.revision
    try:
        return _resolved(hub.dataset, hub.revision)
    except Exception as error:  # the library raises errors of a dozen unrelated classes
        raise _unreached(label, hub, error, gone, offline) from error


@cache
def _resolved(dataset: str, revision: str) -> str:
    from huggingface_hub import HfApi, constants

    cached = Path(constants.HF_HUB_CACHE, f"datasets--{dataset.replace('/', '--')}", "refs", revision)
    if cached.is_file() and COMMIT.fullmatch(known := cached.read_text().strip()):
        return known
    return str(HfApi().dataset_info(dataset, revision=revision).sha)


def _unreached(label: str, hub: Hub, error: Exception, gone: str | None, offline: str | None) -> DataError:
    """What an error of the hub's libraries means: no such revision, or no way to the hub."""
    reason = f"{type(error).__name__}: {error}".strip().split("\n")[0]
    if re.search(r"[Rr]evision .* doesn't exist|^RevisionNotFoundError", reason):
        remedy = gone or f"give one it has, as hub:{hub.dataset}@REVISION, or a local file ({LOCAL})"
        return DataError(f"{label}: the hub's {hub.dataset} has no revision {hub.revision!r} (any more); {remedy}")
    remedy = offline or f"give a local file instead ({LOCAL}), or text of the lab such as lab:stories"
    return DataError(
        f"{label}: cannot fetch {hub.dataset} (revision {hub.revision}, split {hub.split}) from the hub: {reason}."
        f" Without network, {remedy}"
    )


def fetch(label: str, hub: Hub, *, gone: str | None = None, offline: str | None = None):
    """The rows of one split of a hub dataset, at the commit that its revision means, whatever folders are called like
    it. With `commit` the only function of this room that uses the network, and the only one that loads `datasets`.

    gone, offline: as in `commit`. Raises DataError, naming the source by `label`, where the rows cannot be had.
    """
    import datasets

    # One file of a repository is fewer rows than its card announces, hence no check of their number; the revision is
    # what is pinned.
    part = {"data_files": {hub.split: hub.file}, "verification_mode": "no_checks"} if hub.file else {}
    name = f"hf://datasets/{hub.dataset}" if os.path.exists(hub.dataset) else hub.dataset
    at = commit(label, hub, gone, offline)
    try:
        rows = datasets.load_dataset(name, hub.config, split=hub.split, revision=at, **part)
    except Exception as error:  # each means that there is no text
        raise _unreached(label, hub, error, gone, offline) from error
    kept = {Path(file["filename"]).parent.name for file in rows.cache_files}
    if others := [folder for folder in kept if COMMIT.fullmatch(folder) and folder != at]:
        raise DataError(
            f"{label}: the local cache holds {hub.dataset} at commit {others[0]}, not at {at}, and the hub cannot be"
            f" reached; name that commit, as hub:{hub.dataset}@{others[0]}, or repeat this with network"
        )
    return rows
