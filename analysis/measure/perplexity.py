"""Perplexity over non-overlapping windows, with its context and token count (protocol of Shin et al. 2024, section
3.2).

result = perplexity(model, windows)
print(f"{result.perplexity:.2f} at a context of {result.context} over {result.tokens} tokens")
"""

import math
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from analysis import distributed
from analysis.errors import DataError, NumericalError, UsageError
from analysis.models.anatomy import anatomy, evaluating
from analysis.models.context import usable_context
from analysis.models.dtypes import dtype_word
from analysis.models.held import held
from analysis.models.load import LoadedModel, check_measured, embedding_rows, unwrapped
from analysis.models.logits import Ending, SplitModel, ending, portion, split_model, vocabulary
from analysis.models.placement import skeleton
from analysis.models.replay import record, run
from analysis.models.task_heads import head
from analysis.progress import bar
from analysis.streams.streams import allocate
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
def perplexity(
    model: LoadedModel | nn.Module,
    windows: Windows,
    *,
    batch: int = 8,
    hidden: Tensor | None = None,
    end: Ending | None = None,
) -> Perplexity:
    """Perplexity of a causal language model, loaded by `load_model` or not, on windows (N, T), `batch` windows per
    forward.

    Every window is read on its own; a token counts where it and its predecessor are real, and neither stands for a
    picture. Windows are weighted by their
    predicted tokens: for windows without padding this equals the papers' mean over chunks. Losses are float32, summed
    in float64; no more logits are held than those of a batch, nor more than `logits.LOGITS`.

    hidden: the outputs (N, T, H) of the model's last block on the windows, where they are there already; `end`, the
    model's own (`logits.ending`), goes on from them, and no block runs. Those of a streamed model are computed block by
    block, each read once for all windows. Raises UsageError where the model is no language model or the windows do not
    fit its context or vocabulary, DataError where they predict no token, NumericalError where a loss is not finite,
    naming the window and what overflowed.
    """
    check_measured("perplexity", model, windows)
    model = unwrapped(model)
    check_count("perplexity", "batch", batch)
    _check_fit(model, windows)
    counted = windows.text[:, 1:] & windows.text[:, :-1]  # (N, T - 1)
    tokens = int(counted.sum())
    if not tokens:
        raise DataError(
            f"perplexity on {windows.label!r}: no token to predict in {len(windows)} windows of {windows.length} tokens"
        )
    padded = not bool(windows.mask.all())
    most = portion(vocabulary(model))
    split = split_model(model) if min(batch, len(windows)) * windows.length > most else None
    if split is None:
        batch = min(batch, max(1, most // windows.length))
    if hidden is None and skeleton(model) is not None:
        hidden, end = _block_by_block(model, windows, batch)
    parts, losses = _batches(windows, batch), torch.zeros(len(windows), dtype=torch.float64)
    with evaluating(model):
        for rows in bar(distributed.own(parts), desc=f"perplexity {windows.label}", unit="batch"):
            ids = windows.ids[rows].to(model.device)
            mask = windows.mask[rows].to(model.device) if padded else None
            ended = None if hidden is None or end is None else end.behind(hidden[rows].to(model.device))
            with ended or nullcontext():
                pictures = windows.seen(rows, model.device) if ended is None else {}
                losses[rows] = _window_losses(model, split, ids, mask, pictures, counted[rows].to(model.device))
    distributed.add_up(losses)
    if not bool(torch.isfinite(losses).all()):
        first = int((~torch.isfinite(losses)).nonzero()[0])
        raise NumericalError(
            f"perplexity on {windows.label!r}: the loss of window {first} (of {len(windows)}) is not finite:"
            f" the model's logits there overflow in {dtype_word(model.dtype)}{_way_on(model.dtype)}"
        )
    nats = sum(float(losses[rows].sum()) for rows in parts) / tokens
    return Perplexity(nats, math.exp(nats) if nats < 709 else math.inf, tokens, len(windows), windows.length)


def _batches(windows: Windows, batch: int) -> list[slice]:
    return [slice(start, start + batch) for start in range(0, len(windows), batch)]


def _block_by_block(model: "PreTrainedModel", windows: Windows, batch: int) -> tuple[Tensor, Ending | None]:
    """Outputs (N, T, H) of a streamed model's last block, for the batches of this rank, and its end; None where that
    needs more than these.
    """
    parts = anatomy(model)
    end = ending(model, [block.module for block in parts.blocks])
    recording = record(model, parts, windows, batch=batch, store=allocate)
    with evaluating(model):
        for block in bar(parts.blocks if end else (), desc=f"blocks {windows.label}", unit="block"):
            with held(block.module):
                for rows in distributed.own(_batches(windows, batch)):
                    hidden = recording.hidden[rows].to(model.device)
                    output = run(block.module, hidden, recording.call(block.index, rows, model.device))
                    recording.hidden[rows] = output.to(recording.hidden.device)
    return recording.hidden, end


def _window_losses(
    model: "PreTrainedModel",
    split: SplitModel | None,
    ids: Tensor,
    mask: Tensor | None,
    pictures: Mapping[str, Tensor],
    counted: Tensor,
) -> Tensor:
    """Sum of the counted losses of each window: ids (B, T), counted (B, T - 1) -> float64 (B,) on the CPU.

    split: the model's halves where the logits of all windows are too many to be held at once.
    """
    if split is None:
        real = None if mask is None else mask.long()
        read = model(input_ids=ids, attention_mask=real, **pictures, use_cache=False).logits  # (B, T, V)
    else:
        read = split.hidden(ids, mask, pictures)  # (B, T, H)
    size = ids.shape[1] if split is None else split.portion
    sums = []
    for row, targets, counts in zip(read, ids[:, 1:], counted):  # one window at a time: its float32 copy is small
        parts = row[:-1].split(size), targets.split(size), counts.split(size)
        total = torch.zeros((), dtype=torch.float64)
        for part, target, count in zip(*parts):
            logits = part if split is None else split.logits(part[None])[0]
            total += cross_entropy(logits.float(), target, reduction="none")[count].cpu().double().sum()
        sums.append(total)
    return torch.stack(sums)


def _way_on(dtype: torch.dtype) -> str:
    if dtype == torch.float16:
        return ", which ends at 65,504; run it in bfloat16 or float32 (--dtype)"
    return ", or its weights or the recipe's result are not finite"


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
    known, largest = embedding_rows(model), int(windows.ids.max())
    if largest >= known:
        raise UsageError(
            f"perplexity on {windows.label!r}: token id {largest} is outside the model's vocabulary of {known};"
            " use the model's own tokenizer"
        )
