"""What a TASK is: multiple-choice questions from `lab:TASK`, `pictures:TASK`, a local file, or `hub:NAME`, or questions
of the lab that are answered in writing. Imports no torch and no lm_eval.

    lab:story-ending   questions.jsonl   hub:boolq

A file holds one JSON object per line: `{"query": "Predators eat", "choices": ["bunnies", "lions"], "gold": 0}`.
"""

import random
import re
from collections.abc import Sequence
from importlib.metadata import version
from itertools import islice

from analysis import storage
from analysis.errors import DataError, UsageError, suggest
from analysis.lab import pictures, versions
from analysis.lab import tasks as lab
from analysis.lab.tasks import Item
from analysis.lab.written import WRITTEN, written
from analysis.text import files
from analysis.text.rows import parse_json, sound

LONGEST = 4096  # characters of a name: no path has more
FILES = (".jsonl", ".ndjson")
TASK_FORMS: dict[str, str] = {
    **{f"lab:{name}": meaning for name, meaning in {**lab.TASKS, **WRITTEN}.items()},
    **{f"pictures:{name}": f"about pictures of the lab: {meaning}" for name, meaning in pictures.TASKS.items()},
    "PATH.jsonl": 'a file of questions, one {"query": ..., "choices": [...], "gold": number} per line; no download',
    "hub:NAME": (
        "a multiple-choice task of lm-evaluation-harness, as hub:boolq; its data set comes from the Hugging Face hub"
    ),
}


def check_tasks(names: Sequence[str]) -> None:
    """Raise unless every name is a task and every file among them can be asked.

    UsageError for an unknown name or one given twice; DataError, with file and line, for a file that `read_task`
    refuses. Whether a hub task exists is known once it is loaded.
    """
    if isinstance(names, str) or not isinstance(names, Sequence):
        raise UsageError(f"tasks: must be a list of names such as ['lab:yes-no'], not {_short(repr(names))}")
    for number, name in enumerate(names):
        if name in names[:number]:
            raise UsageError(f"task {name!r}: given twice")
        if _kind(name) == "file":
            read_task(name)


def _kind(name: str) -> str:
    """ "lab", "written", "pictures", "hub" or "file". Raises UsageError for anything else."""
    if not isinstance(name, str):
        raise UsageError(f"task: must be a text such as 'lab:yes-no', not {type(name).__name__}")
    if len(name) > LONGEST:
        raise UsageError(f"task {_short(name)!r}: has {len(name):,} characters; no name is that long")
    kind, colon, rest = name.partition(":")
    if colon and kind == "lab":
        if rest not in lab.TASKS and rest not in WRITTEN:
            known = [*lab.TASKS, *WRITTEN]
            raise UsageError(f"task {name!r}: the lab has no task {rest!r}; {suggest(rest, known)}")
        return "written" if rest in WRITTEN else "lab"
    if colon and kind == "pictures":
        if rest not in pictures.TASKS:
            raise UsageError(f"task {name!r}: no task about pictures is {rest!r}; {suggest(rest, pictures.TASKS)}")
        return "pictures"
    if colon and kind == "hub":
        if not re.fullmatch(r"[\w.-]+", rest):
            raise UsageError(f"task {name!r}: a hub task is written hub:NAME, as in hub:boolq")
        return "hub"
    if name.lower().endswith(FILES):
        return "file"
    raise UsageError(
        f"task {name!r}: unknown; {suggest(f'lab:{name}', [f'lab:{task}' for task in lab.TASKS])}, a .jsonl file, or"
        " hub:NAME"
    )


def is_pictured(name: str) -> bool:
    """Whether a task asks about pictures."""
    return _kind(name) == "pictures"


def in_writing(name: str) -> bool:
    """Whether a task's questions are answered in writing, to be matched word for word, rather than by a choice."""
    return _kind(name) == "written"


def task_fingerprint(name: str) -> str:
    """What the questions of a task are: equal fingerprints, equal questions. Of a file its content, of the lab its
    writers, of a hub task the harness.
    """
    kind = _kind(name)
    if kind == "lab":
        return f"{name}@{versions.DOCUMENTS}.{versions.TASKS}"
    if kind == "pictures":
        return f"{name}@{versions.PICTURES}"
    if kind == "written":
        return f"{name}@{versions.DOCUMENTS}.written-{versions.WRITTEN}"
    if kind == "hub":
        return f"{name}@lm-eval-{version('lm_eval')}"
    return f"file:{storage.sha256(_read(name))}"


def task_items(name: str, *, documents: int, seed: int = 0) -> list[Item]:
    """The first `documents` items of a lab task or of a file (all it has, if fewer), in the order of the seed; fewer
    are the first of more.

    Raises UsageError for a name that is neither, DataError as `read_task` does.
    """
    kind = _kind(name)
    for what, value, least in (("documents", documents, 1), ("seed", seed, 0)):
        if type(value) is not int or value < least:
            raise UsageError(f"task {name!r}: {what} must be a whole number of at least {least}, not {value!r}")
    if kind in ("hub", "pictures"):
        reader = "by the harness" if kind == "hub" else "with their pictures (measure.pictured)"
        raise UsageError(f"task {name!r}: the questions of a {kind} task are read {reader}")
    if kind == "written":
        return list(islice(written(name.removeprefix("lab:"), seed=seed), documents))
    if kind == "lab":
        return list(islice(lab.task(name.removeprefix("lab:"), seed=seed), documents))
    items = read_task(name)
    return [items[number] for number in chosen(len(items), documents, seed)]


def chosen(available: int, documents: int, seed: int) -> list[int]:
    """Numbers of the documents asked, of so many: a random order of all of them, cut."""
    order = list(range(available))
    random.Random(f"documents {seed}").shuffle(order)
    return order[:documents]


def read_task(path: str) -> list[Item]:
    """Every question of a file, in its order; blank lines are passed over.

    Raises DataError, naming the file and the line, for one that is missing, no UTF-8, holds fewer than two questions,
    or has a line that is no JSON object, lacks a query, has fewer than two choices or an empty one, or whose gold is no
    number of a choice (counted from 0).
    """
    lines = files.decode(_read(path), f"task {path}").split("\n")
    items = [_item(line, f"task {path}, line {number}") for number, line in enumerate(lines, 1) if line.strip()]
    if len(items) < 2:
        raise DataError(
            f"task {path}: holds {len(items)} question{'' if len(items) == 1 else 's'}; an accuracy with its error"
            " needs at least 2"
        )
    return items


def _read(path: str) -> bytes:
    place = f"task {_short(path)}"
    return files.contents(files.find(path, place), place)


def _short(value: object) -> str:
    return text if len(text := str(value)) <= 300 else f"{text[:300]}..."


def _item(line: str, where: str) -> Item:
    row = parse_json(line, where)
    missing = (
        [key for key in ("query", "choices", "gold") if key not in row] if isinstance(row, dict) else ["JSON object"]
    )
    if missing:
        raise DataError(
            f"{where}: has no {' and no '.join(missing)}; " + 'write {"query": ..., "choices": [...], "gold": number}'
        )
    query, choices, gold = row["query"], row["choices"], row["gold"]
    if not isinstance(query, str) or not query.strip():
        raise DataError(f"{where}: the query is {_short(repr(query))}, not a text")
    if (
        not isinstance(choices, list)
        or len(choices) < 2
        or not all(isinstance(choice, str) and choice.strip() for choice in choices)
    ):
        raise DataError(
            f"{where}: the choices are {_short(repr(choices))}; at least two texts are needed, none of them empty"
        )
    if type(gold) is not int or not 0 <= gold < len(choices):
        raise DataError(
            f"{where}: gold is {_short(repr(gold))}; with {len(choices)} choices it is a number from 0 to"
            f" {len(choices) - 1}"
        )
    return Item(sound(query), tuple(map(sound, choices)), gold)
