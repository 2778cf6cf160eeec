"""What labelled examples a name stands for, and those of the Hugging Face hub: GLUE (Wang et al. 2019), SQuAD 1.1
(Rajpurkar et al. 2016). Imports no torch.

examples:sst2   examples:mnli/validation   examples:squad[:1000]
"""

import os
import re
from dataclasses import dataclass
from fractions import Fraction

from analysis.errors import UsageError, suggest
from analysis.lab.documents import SPLITS
from analysis.lab.examples import EXAMPLES, Example, ExampleSet

GLUE = ("nyu-mll/glue", "bcdcba79d07bc864c1c254ccfcedcce55bcc9a8c")
SQUAD = ("rajpurkar/squad", "7b6d24c440a36b6815f21b70d25016731768db1f")


@dataclass(frozen=True)
class HubSet:
    """A set of examples of the hub: what it asks, where it lies, and the columns of the first and the second text."""

    task: ExampleSet
    dataset: tuple[str, str]  # name and revision
    config: str | None
    first: str
    second: str | None = None
    validation: str = "validation"  # the dataset's own name of that split


@dataclass(frozen=True, slots=True)
class Question(Example):
    """A question with several right answers: `accepted` are the texts of all but the one that `label` marks."""

    accepted: tuple[str, ...] = ()


def _glue(
    config: str,
    meaning: str,
    classes: str,
    first: str,
    second: str | None = None,
    metric: str = "accuracy",
    validation: str = "validation",
) -> HubSet:
    head = "classification" if classes else "regression"
    task = ExampleSet(head, tuple(classes.split()), metric, meaning, None if classes else (0, 5))
    return HubSet(task, GLUE, config, first, second, validation)


_MNLI = ("entailment neutral contradiction", "premise", "hypothesis")
HUB_SETS: dict[str, HubSet] = {
    "sst2": _glue(
        "sst2", "SST-2: is a sentence of a film review positive (GLUE; accuracy)", "negative positive", "sentence"
    ),
    "cola": _glue(
        "cola",
        "CoLA: is a sentence acceptable English (GLUE; Matthews correlation)",
        "unacceptable acceptable",
        "sentence",
        metric="matthews",
    ),
    "mrpc": _glue(
        "mrpc",
        "MRPC: do two sentences say the same (GLUE; accuracy)",
        "not_equivalent equivalent",
        "sentence1",
        "sentence2",
    ),
    "qqp": _glue(
        "qqp",
        "QQP: do two questions ask the same (GLUE; accuracy)",
        "not_duplicate duplicate",
        "question1",
        "question2",
    ),
    "stsb": _glue(
        "stsb",
        "STS-B: how alike are two sentences, 0 to 5 (GLUE; Spearman correlation)",
        "",
        "sentence1",
        "sentence2",
        metric="spearman",
    ),
    "mnli": _glue(
        "mnli",
        "MNLI: does a sentence follow from another; validation of the same genres (GLUE; accuracy)",
        *_MNLI,
        validation="validation_matched",
    ),
    "mnli-mismatched": _glue(
        "mnli",
        "MNLI with the validation split of other genres (GLUE; accuracy)",
        *_MNLI,
        validation="validation_mismatched",
    ),
    "qnli": _glue(
        "qnli",
        "QNLI: does a sentence answer a question (GLUE; accuracy)",
        "entailment not_entailment",
        "question",
        "sentence",
    ),
    "rte": _glue(
        "rte",
        "RTE: does a sentence follow from another (GLUE; accuracy)",
        "entailment not_entailment",
        "sentence1",
        "sentence2",
    ),
    "wnli": _glue(
        "wnli",
        "WNLI: is a pronoun read rightly (GLUE; accuracy)",
        "not_entailment entailment",
        "sentence1",
        "sentence2",
    ),
    "squad": HubSet(
        ExampleSet("span", (), "f1", "SQuAD 1.1: the words of a passage that answer a question (F1)"),
        SQUAD,
        "plain_text",
        "question",
        "context",
    ),
}

HUB_SPLITS = {"train": "train", "validation": "validation", "held-out": "validation"}
"""Names of the splits that have labels, and the split each means."""


def example_set(name: str) -> ExampleSet | None:
    """What a set of the lab or of the hub asks; None for any other name."""
    return HUB_SETS[name].task if name in HUB_SETS else EXAMPLES.get(name)


def parse_examples(
    name: str, *, text: str, start: int | Fraction | None, stop: int | Fraction | None
) -> tuple[str, str | None, str | None]:
    """Name, split and columns of the labelled examples that `name` (what follows `examples:`, without its slice) stands
    for in the source `text`.

    Raises UsageError.
    """
    if table := re.fullmatch(r"(.+?\.(?:[tc]sv|jsonl|ndjson)(?:\.(?:gz|zst|bz2))?)(?:#(.*))?", name, re.IGNORECASE):
        columns = None if table[2] is None else [column.strip() for column in table[2].split(",")]
        if columns is not None and (len(columns) not in (2, 3) or not all(columns)):
            raise UsageError(
                f"source {text!r}: columns are written #FIRST,LABEL or #FIRST,SECOND,LABEL, with the names in the"
                " table's header"
            )
        return table[1], None, ",".join(columns) if columns else None
    set_name, slash, split = name.partition("/")
    if set_name not in EXAMPLES and set_name not in HUB_SETS:
        if "." in os.path.basename(name) or os.path.exists(name):
            unknown, remedy = name, "a table of examples is a file PATH.tsv or PATH.csv, with a header, or PATH.jsonl"
        else:
            unknown, remedy = (
                set_name,
                suggest(set_name, (*EXAMPLES, *HUB_SETS)) + ", or PATH.tsv, PATH.csv, PATH.jsonl",
            )
        raise UsageError(f"source {text!r}: unknown set of labelled examples {unknown!r}; {remedy}")
    splits = SPLITS if set_name in EXAMPLES else HUB_SPLITS
    if slash and split not in splits:
        unlabelled = split.startswith("test") and splits is HUB_SPLITS
        reason = "the test splits of the hub's sets have no labels; " if unlabelled else ""
        raise UsageError(f"source {text!r}: unknown split {split!r}; {reason}{suggest(split, splits)}")
    if set_name in EXAMPLES and (isinstance(start, Fraction) or isinstance(stop, Fraction)):
        raise UsageError(
            f"source {text!r}: examples of the lab have no end to take per cent of; slice them by number, as in [:1000]"
        )
    if not slash:
        return set_name, None, None
    return set_name, HUB_SPLITS[split] if set_name in HUB_SETS else split, None
