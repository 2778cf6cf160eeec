"""What a model answers: the next token, a class, a score, a span of a passage, or, without a head, the embedding of a
sentence; and labelled windows as arguments of its forward.
"""

from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

from analysis.errors import DataError, ModelError, UnsupportedModel
from analysis.models.embeddings import embeds
from analysis.models.quiet import evaluation_mode
from analysis.models.wrapped import is_wrapped

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

    from analysis.windows import Windows

ANSWERS = ("next token", "classification", "regression", "span", "embedding")


def head(model: nn.Module) -> str:
    """One of `ANSWERS`, by the kind of transformers model, or one made of it: a classifier of one output is a
    regression, an encoder without a head embeds. Whether it does answer so says `prove_head`.
    """
    names = [kind.__name__ for kind in type(model).__mro__]
    if any(name.endswith("ForQuestionAnswering") for name in names):
        return "span"
    if any(name.endswith("ForSequenceClassification") for name in names):
        return "regression" if cast("PreTrainedConfig", model.config).num_labels == 1 else "classification"
    return "embedding" if embeds(model) else "next token"


@torch.no_grad()
def prove_head(model: nn.Module, where: str) -> None:
    """Raise ModelError, saying what is wrong, unless a forward of two rows of three tokens answers as `head` says: with
    a logit for every token id after every token that the tokens behind it do not change, or with one answer a row.

    where: what the message begins with, such as "model 'lab'".
    """
    network, kind = cast("PreTrainedModel", model), type(model).__name__
    try:
        rows = cast(Tensor, network.get_input_embeddings().weight).shape[0]
    except (AttributeError, NotImplementedError) as error:
        raise UnsupportedModel(f"{where}: {kind} has no table of token embeddings; it reads no token ids") from error
    answered = head(model)
    ids = torch.tensor([[0, 0, 0], [0, rows - 1, rows - 1]], device=network.device)
    try:
        with evaluation_mode(model):
            output = network(input_ids=ids, attention_mask=torch.ones_like(ids))
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # whatever the family's forward makes of a config that does not fit together
        if answered in ("classification", "regression") and network.config.pad_token_id is None:
            raise ModelError(
                f"{where}: {kind} finds the end of a text by its padding, and config.json names no pad_token_id; enter"
                " that of the tokenizer, a token that no text ends with"
            ) from error
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ModelError(
            f"{where}: {kind} cannot read three tokens ({type(error).__name__}: {reason}); mend its config.json"
        ) from error
    if answered == "embedding" and getattr(output, "last_hidden_state", None) is None:
        raise ModelError(f"{where}: {kind} gives no last hidden state, which sentences are compared by")
    if answered != "next token":
        return
    logits = getattr(output, "logits", None)
    if logits is None or logits.ndim != 3 or logits.shape[2] < rows:
        raise ModelError(
            f"{where}: {kind} gives {'no logits' if logits is None else f'logits {tuple(logits.shape)}'} for"
            f" {tuple(ids.shape)} tokens of {rows}; what can be pruned answers with {', '.join(ANSWERS)}"
            " (AutoModelForCausalLM, AutoModelForSequenceClassification, AutoModelForQuestionAnswering)"
        )
    short, long = logits[:, 0].cpu().double()
    if (short - long).norm() > torch.finfo(network.dtype).eps ** 0.5 * short.norm():
        if is_wrapped(model):
            raise UnsupportedModel(
                f"{where}: {network.config.model_type} reads the tokens that follow unless it is told which are its"
                " answer (a prefix model), which is not done here; give a model that reads text from left to right"
            )
        raise ModelError(
            f"{where}: {network.config.model_type} reads the tokens that follow, so it is no causal language model; an"
            " encoder must be fine-tuned to a task first, and saved as its SequenceClassification or QuestionAnswering"
            " model (`analysis lab finetune --help`)"
        )


def inputs(
    windows: "Windows", rows: slice | Tensor, device: torch.device | str, *, labels: bool = False
) -> dict[str, Tensor]:
    """Keyword arguments of a forward on the windows `rows` (`Windows.arguments`).

    labels: also what the model's own loss compares with: the right answers of labelled windows (of sentences with the
    pair that each belongs to, for `embeddings.pair_loss`), else the ids themselves, without padding, pictures and what
    would be predicted from padding.
    """
    arguments = windows.arguments(rows)
    if labels and windows.labelled is None:
        predicted = windows.text[rows].clone()
        predicted[:, 1:] &= windows.mask[rows][:, :-1]
        arguments["labels"] = arguments["input_ids"].masked_fill(~predicted, -100)
    elif labels and windows.head == "span":
        arguments["start_positions"], arguments["end_positions"] = windows.answers.labels[rows].unbind(1)
    elif labels:
        arguments["labels"] = windows.answers.labels[rows]
        if windows.answers.pairs is not None:
            arguments["pairs"] = windows.answers.pairs[rows]
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
