"""Perplexity over non-overlapping windows, with its context and token count (protocol of Shin et al. 2024, section
3.2).

result = perplexity(model, windows)
print(f"{result.perplexity:.2f} at a context of {result.context} over {result.tokens} tokens")
"""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from analysis.errors import DataError, NumericalError, UsageError
from analysis.models.anatomy import evaluating
from analysis.models.context import usable_context
from analysis.models.load import LoadedModel, embedding_rows, unwrapped
from analysis.models.task_heads import head
from analysis.progress import bar
from analysis.windows import Windows, check_count

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Perplexity:
    """How well a model predicts text; lower is better.

    `nats_per_token` is the mean negative log-likelihood of the `tokens` predicted tokens, `perplexity` its exponential
    (no unit). The first token of each of the `windows` windows is never predicted, nor is padding. `context` is the
    length of a window.
    """

    nats_per_token: float
    perplexity: float
    tokens: int
    windows: int
    context: int


@torch.inference_mode()
def perplexity(model: LoadedModel | nn.Module, windows: Windows, *, batch: int = 8) -> Perplexity:
    """Perplexity of a causal language model, loaded by `load_model` or not, on windows (N, T), `batch` windows per
    forward.

    Every window is read on its own; a token counts where it and its predecessor are real. Windows are weighted by their
    predicted tokens: for windows without padding this equals the papers' mean over chunks. Losses are float32, summed
    in float64; no more than one batch of logits (batch, T, vocabulary) is held. Raises UsageError where the model is no
    language model or the windows do not fit its context or vocabulary, DataError where they predict no token,
    NumericalError where a loss is not finite, naming the window.
    """
    model = unwrapped(model)
    check_count("perplexity", "batch", batch)
    _check_fit(model, windows)
    counted = windows.mask[:, 1:] & windows.mask[:, :-1]  # (N, T - 1)
    tokens = int(counted.sum())
    if not tokens:
        raise DataError(
            f"perplexity on {windows.label!r}: no token to predict in {len(windows)} windows of {windows.length} tokens"
        )
    padded = not bool(windows.mask.all())
    total = 0.0
    with evaluating(model):
        for start in bar(range(0, len(windows), batch), desc=f"perplexity {windows.label}", unit="batch"):
            rows = slice(start, start + batch)
            ids = windows.ids[rows].to(model.device)
            mask = windows.mask[rows].to(model.device) if padded else None
            sums = _window_losses(model, ids, mask, counted[rows].to(model.device))
            if not bool(torch.isfinite(sums).all()):
                first = start + int((~torch.isfinite(sums)).nonzero()[0])
                raise NumericalError(
                    f"perplexity on {windows.label!r}: the loss of window {first} (of {len(windows)}) is not finite"
                )
            total += float(sums.sum())
    nats = total / tokens
    return Perplexity(nats, math.exp(nats) if nats < 709 else math.inf, tokens, len(windows), windows.length)


def _window_losses(model: "PreTrainedModel", ids: Tensor, mask: Tensor | None, counted: Tensor) -> Tensor:
    """Sum of the counted losses of each window: ids (B, T), counted (B, T - 1) -> float64 (B,) on the CPU."""
    logits = model(
        input_ids=ids, attention_mask=None if mask is None else mask.long(), use_cache=False
    ).logits  # (B, T, V)
    sums = []
    for row, targets, counts in zip(logits, ids[:, 1:], counted):  # one window at a time: its float32 copy is small
        losses = cross_entropy(row[:-1].float(), targets, reduction="none")  # (T - 1,)
        sums.append(losses[counts].cpu().double().sum())
    return torch.stack(sums)


def _check_fit(model: "PreTrainedModel", windows: Windows) -> None:
    if (answered := head(model)) != "next token":
        raise UsageError(
            f"perplexity on {windows.label!r}: {type(model).__name__} answers with {answered}, it is no language model;"
            " give it examples:NAME to score"
        )
    context = usable_context(model)
    if context is not None and windows.length > context:
        raise UsageError(
            f"perplexity on {windows.label!r}: windows of {windows.length} tokens are longer than the model's context"
            f" of {context}"
        )
    vocabulary, largest = embedding_rows(model), int(windows.ids.max())
    if largest >= vocabulary:
        raise UsageError(
            f"perplexity on {windows.label!r}: token id {largest} is outside the model's vocabulary of {vocabulary};"
            " use the model's own tokenizer"
        )
