"""What a model answers: the next token, a class, a score, or a span of a passage; and labelled windows as arguments of
its forward.
"""

from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

from analysis.errors import DataError

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

    from analysis.windows import Windows

ANSWERS = ("next token", "classification", "regression", "span")


def head(model: nn.Module) -> str:
    """One of `ANSWERS`, by the kind of transformers model: a classifier of one output is a regression."""
    name = type(model).__name__
    if name.endswith("ForQuestionAnswering"):
        return "span"
    if name.endswith("ForSequenceClassification"):
        return "regression" if cast("PreTrainedConfig", model.config).num_labels == 1 else "classification"
    return "next token"


def inputs(
    windows: "Windows", rows: slice | Tensor, device: torch.device | str, *, labels: bool = False
) -> dict[str, Tensor]:
    """Keyword arguments of a forward on the windows `rows`: ids, attention mask, token types where there are any.

    labels: also what the model's own loss compares with: the right answers of labelled windows, else the ids
    themselves, padding left out.
    """
    arguments = {"input_ids": windows.ids[rows], "attention_mask": windows.mask[rows].long()}
    if windows.types is not None:
        arguments["token_type_ids"] = windows.types[rows]
    if labels and windows.labelled is None:
        arguments["labels"] = arguments["input_ids"].masked_fill(~windows.mask[rows], -100)
    elif labels and windows.head == "span":
        arguments["start_positions"], arguments["end_positions"] = windows.answers.labels[rows].unbind(1)
    elif labels:
        arguments["labels"] = windows.answers.labels[rows]
    return {name: value.to(device) for name, value in arguments.items()}


def check_answers(model: nn.Module, windows: "Windows", operation: str) -> None:
    """Raise DataError where the model's loss on these windows is not defined: a head that answers something else than
    they ask.
    """
    answered = head(model)
    if windows.head != answered:
        text = "has no labels" if windows.labelled is None else f"asks for {windows.head}"
        raise DataError(
            f"{operation}: {windows.label or 'the text'} {text}, {type(model).__name__} answers with {answered}; give"
            " text that goes with the model"
        )
