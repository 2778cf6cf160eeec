"""Whether a model writes an answer out, word for word, when it always takes the likeliest token (greedy decoding).

Each question is one forward: the tokens of query and answer together. Greedy decoding writes the answer exactly where
at every token of it, the ones before it being those of the answer, that token is the likeliest, so nothing has to be
written to know it.
"""

from collections.abc import Iterator, Sequence
from typing import Any, cast

import torch
from torch import nn

from analysis.errors import NumericalError
from analysis.lab.tasks import Item
from analysis.models.anatomy import evaluating
from analysis.models.context import usable_context
from analysis.models.load import unwrapped
from analysis.models.logits import portion, vocabulary
from analysis.text.tokens import put_around

BATCH = 16


def written_out(model: nn.Module, tokenizer: Any, items: Sequence[Item], *, bos: str = "auto") -> list[bool | None]:
    """Whether greedy decoding goes on from each query, one space behind it, with the item's first choice, token by
    token as the tokenizer writes query and answer together; None for a question longer than the model's context.

    bos: "none" leaves out the special tokens that the tokenizer puts in front by itself. Raises NumericalError where a
    logit is not finite.
    """
    network, context = unwrapped(model), usable_context(model)
    asked = [_tokens(tokenizer, item, bos != "none") for item in items]
    right: list[bool | None] = [None] * len(items)
    fits = [place for place, (ids, _) in enumerate(asked) if context is None or len(ids) <= context]
    with evaluating(network), torch.inference_mode():
        for places in _batches(fits, [len(ids) for ids, _ in asked], portion(vocabulary(network))):
            rows = [asked[place] for place in places]
            length = max(len(ids) for ids, _ in rows)
            ids = torch.tensor([row + [0] * (length - len(row)) for row, _ in rows], device=network.device)
            mask = torch.tensor([[1] * len(row) + [0] * (length - len(row)) for row, _ in rows], device=network.device)
            logits = cast(Any, network)(input_ids=ids, attention_mask=mask, use_cache=False).logits
            for place, (row, start), scores, own in zip(places, rows, logits, ids, strict=True):
                answer = scores[start - 1 : len(row) - 1]
                if not bool(answer.isfinite().all()):
                    raise NumericalError(f"written answers, question {place}: a logit is not finite")
                right[place] = bool((answer.argmax(-1) == own[start : len(row)]).all())
    return right


def _tokens(tokenizer: Any, item: Item, special: bool) -> tuple[list[int], int]:
    """Token ids of query and answer together, without what ends a text, and where the answer begins."""
    behind = len(put_around(tokenizer)[1]) if special else 0
    texts = (item.query, f"{item.query} {item.choices[0]}")
    whole = [list(tokenizer(text, add_special_tokens=special)["input_ids"]) for text in texts]
    query, both = (ids[: len(ids) - behind] for ids in whole)
    shared = next((n for n, pair in enumerate(zip(query, both)) if pair[0] != pair[1]), len(query))
    return both, max(shared, 1)


def _batches(places: list[int], lengths: list[int], logits: int) -> Iterator[list[int]]:
    """Questions of like length together, so many that their logits may be held at once."""
    order = sorted(places, key=lambda place: lengths[place])
    while order:
        count = max(1, min(BATCH, logits // lengths[order[min(BATCH, len(order)) - 1]]))
        yield order[:count]
        order = order[count:]
