"""What a model of the lab's world forgets: its loss on whole documents, apart for names, facts, numbers and other kinds
of word (`lab.kinds.KINDS`).
"""

from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from analysis.errors import ModelError, NumericalError, UsageError
from analysis.lab.kinds import KINDS, told
from analysis.models.anatomy import evaluating
from analysis.models.context import usable_context
from analysis.models.load import unwrapped
from analysis.models.logits import portion, vocabulary
from analysis.models.task_heads import head

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

UNCOUNTED = -1


@dataclass(frozen=True, eq=False)
class ToldDocuments:
    """Documents as token ids (N, T), each after one token for its beginning and padded on the right, and the kind of
    each token (N, T): its place in `KINDS`, or `UNCOUNTED` for beginnings and padding.
    """

    ids: Tensor
    kinds: Tensor


def check_told(model: nn.Module, tokenizer: "PreTrainedTokenizerBase | None") -> "PreTrainedTokenizerBase":
    """The tokenizer. Raises UsageError where the model is no language model, ModelError where it does not say
    which characters a token stands for, or has no token to begin with.
    """
    if (answered := head(model)) != "next token":
        raise UsageError(
            f"token kinds: {type(model).__name__} answers with {answered}, it is no language model; give token_kinds=0"
        )
    if tokenizer is None or not tokenizer.is_fast:
        raise ModelError("token kinds: the model has no tokenizer that says which characters a token stands for (fast)")
    if tokenizer.bos_token_id is None and tokenizer.eos_token_id is None:
        raise ModelError("token kinds: the tokenizer has no token for the beginning or the end of text")
    return tokenizer


def told_documents(
    model: nn.Module, tokenizer: "PreTrainedTokenizerBase | None", *, documents: int, seed: int = 0
) -> ToldDocuments:
    """The first held-out documents of the lab's mixed stream under `seed`, shortest first, cut at the model's context.

    A token is of the kind of its first character, a space of that of the word behind it. Errors are those of
    `check_told`.
    """
    tokenizer = check_told(model, tokenizer)
    begin = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    context, places = usable_context(model), {kind: number for number, kind in enumerate(KINDS)}
    rows = []
    for document, words in islice(told("mixed", split="held-out", seed=seed), documents):
        of_character: list[int] = []
        for _, end, kind in words:
            of_character += [places[kind]] * (end - len(of_character))
        encoded = tokenizer(document.text, add_special_tokens=False, return_offsets_mapping=True)
        kinds = [of_character[start] for start, _ in encoded["offset_mapping"]]
        rows.append(([begin, *encoded["input_ids"]][:context], [UNCOUNTED, *kinds][:context]))
    rows.sort(key=lambda row: len(row[0]))  # documents of one length together need little padding
    longest = len(rows[-1][0])
    padded = [[part + [fill] * (longest - len(part)) for part, fill in zip(row, (begin, UNCOUNTED))] for row in rows]
    return ToldDocuments(*(torch.tensor(part) for part in zip(*padded)))


@torch.inference_mode()
def kind_losses(model: nn.Module, documents: ToldDocuments, *, batch: int = 8) -> dict[str, tuple[float, int]]:
    """Mean negative log-likelihood of a token of each kind, in nats, and the number of tokens; kinds without tokens are
    left out. Raises NumericalError where a loss is not finite.
    """
    model = unwrapped(model)
    total, tokens = torch.zeros(len(KINDS), dtype=torch.float64), torch.zeros(len(KINDS), dtype=torch.int64)
    batch = max(1, min(batch, portion(vocabulary(model)) // documents.ids.shape[1]))
    with evaluating(model):
        for ids, kinds in zip(documents.ids.split(batch), documents.kinds[:, 1:].split(batch)):
            length = int((kinds != UNCOUNTED).any(0).nonzero().max()) + 2
            ids, kinds = ids[:, :length].to(model.device), kinds[:, : length - 1]
            logits = model(input_ids=ids, use_cache=False).logits[:, :-1]
            losses = cross_entropy(logits.float().transpose(1, 2), ids[:, 1:], reduction="none").cpu().double()
            counted = kinds != UNCOUNTED
            total.index_add_(0, kinds[counted], losses[counted])
            tokens += torch.bincount(kinds[counted], minlength=len(KINDS))
    if not bool(torch.isfinite(total).all()):
        raise NumericalError(
            "token kinds: a loss is not finite; the model's logits overflow, or its weights are not finite"
        )
    return {kind: (float(total[i] / tokens[i]), int(tokens[i])) for i, kind in enumerate(KINDS) if tokens[i]}
