"""What a reader expects before a result shows, kept until after it.

    predict.ask("01_compounding_error", "Which method ends lowest?", ["LR", "BR", "BR+GP"])     # above the result
    predict.recall("01_compounding_error")                                                      # below it

A choice is kept in `predictions.json` of the results' folder, so that it outlives the kernel. Where nobody looks (the
suite sets ANALYSIS_HEADLESS) the question is plain text, nothing is read and nothing is kept.
"""

import json
import os
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from analysis import paths, storage
from analysis.errors import UsageError
from analysis.present.finding import Finding

if TYPE_CHECKING:
    from ipywidgets import VBox

VARIABLE = "ANALYSIS_HEADLESS"


def ask(name: str, question: str, choices: Sequence[str]) -> "VBox | Finding":
    """The question with a button for each choice; the one pressed is kept under `name` at once. Headless: the question
    as text. Raises UsageError for fewer than two choices, or two that are the same.
    """
    if isinstance(choices, str) or len(set(choices)) != len(choices) or len(choices) < 2:
        raise UsageError(f"predict {name}: at least two different choices are needed, got {choices!r:.80}")
    if _headless():
        return say_question(question, choices)
    from ipywidgets import HTML, Label, RadioButtons, VBox

    kept = read().get(name, {}).get("choice", "")
    earlier = kept if kept in choices else None  # else the question was another one
    told = Label(_told(earlier) if earlier else "Choose before you read on.")
    buttons = RadioButtons(options=list(choices), value=earlier, layout={"width": "max-content"})

    def chosen(change: dict) -> None:
        keep(name, question, change["new"])
        told.value = _told(change["new"])

    buttons.observe(chosen, "value")
    words = HTML()
    words.value = f"<b>{escape(question)}</b>"
    return VBox([words, buttons, told])


def recall(name: str) -> Finding:
    """What was chosen under `name`, to be compared with what was found."""
    return say_recall({} if _headless() else read().get(name, {}))


def say_question(question: str, choices: Sequence[str]) -> Finding:
    """The question and its choices as a list."""
    return Finding("\n".join([f"**{question}**", "", *(f"- {choice}" for choice in choices)]))


def say_recall(kept: dict[str, str]) -> Finding:
    """One paragraph about a kept prediction; an empty one: that there is none."""
    if not kept:
        return Finding("**Your prediction**: none was made. What did you expect, and why?")
    return Finding(
        f"**Your prediction**: {kept['choice']} (asked: {kept['question']}) Does the result agree? If not, what made"
        " you expect it?"
    )


def keep(name: str, question: str, choice: str, file: Path | None = None) -> None:
    """Keep a choice, in the place of an earlier one of that name. Raises StoreError."""
    file = file or place()
    kept = read(file) | {name: {"question": question, "choice": choice}}
    with storage.explained(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        storage.write(file, json.dumps(kept, indent=2) + "\n")


def read(file: Path | None = None) -> dict[str, dict[str, str]]:
    """All kept choices by name; none where the file is missing or broken, which costs no more than a guess."""
    try:
        kept = json.loads((file or place()).read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return {
        name: one
        for name, one in (kept.items() if isinstance(kept, dict) else ())
        if isinstance(one, dict) and {"question", "choice"} <= set(one)
    }


def place() -> Path:
    """The file of the predictions."""
    return paths.runs() / "predictions.json"


def _told(choice: str) -> str:
    return f"Kept: {choice}. It comes back below the result."


def _headless() -> bool:
    return os.environ.get(VARIABLE, "") not in ("", "0")
