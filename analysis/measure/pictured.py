"""Questions about the lab's pictures, answered by the choice of the highest log-likelihood, as those of text are.

A picture and its question are read once; the choices go on from what the model keeps of them (its cache of keys and
values), so that ten choices cost little more than one.
"""

from collections import defaultdict
from collections.abc import Sequence
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from analysis.lab.pictures import Question, Scene, picture, questions
from analysis.models.anatomy import evaluating
from analysis.models.load import LoadedModel, unwrapped
from analysis.models.quiet import caching
from analysis.text.pictures import IMAGE, image_tokens, pixels

BATCH = 16  # questions of one forward


def drawn(task: str, documents: int, seed: int) -> list[tuple[Scene, Question]]:
    """The first questions of a task, each with what is in its picture."""
    return list(islice(questions(task, seed=seed), documents))


@torch.inference_mode()
def choice_likelihoods(
    model: nn.Module, tokenizer: Any, asked: Sequence[tuple[Scene, Question]], *, batch: int = BATCH
) -> list[tuple[float, ...]]:
    """Log-likelihood (nats) of each choice of each question, summed over its tokens, given picture and question.

    Raises UsageError for a model that does not read pictures of the lab.
    """
    network = unwrapped(model)
    images = check_pictured(model, tokenizer)
    begun = [tokenizer.bos_token_id, *[tokenizer.convert_tokens_to_ids(IMAGE)] * images]
    queries = [begun + tokenizer.encode(question.query, add_special_tokens=False) for _, question in asked]
    alike: dict[tuple[int, tuple[str, ...]], list[int]] = defaultdict(list)
    for number, (_, question) in enumerate(asked):
        alike[len(queries[number]), question.choices].append(number)
    found: dict[int, tuple[float, ...]] = {}
    with evaluating(network), caching(network):
        for (_, choices), numbers in alike.items():
            tokens = [tokenizer.encode(f" {choice}", add_special_tokens=False) for choice in choices]
            for start in range(0, len(numbers), batch):
                rows = numbers[start : start + batch]
                ids = torch.tensor([queries[row] for row in rows], device=network.device)
                seen = pixels(picture(asked[row][0]) for row in rows).to(network.device, network.dtype)
                found |= dict(zip(rows, _likelihoods(network, ids, seen, tokens), strict=True))
    return [found[number] for number in range(len(asked))]


def _likelihoods(network: Any, ids: Tensor, seen: Tensor, choices: list[list[int]]) -> list[tuple[float, ...]]:
    """Of questions of one length, ids (B, T) with pictures (B, 3, side, side), and the tokens of the same choices."""
    first = network(input_ids=ids, pixel_values=seen, use_cache=True, logits_to_keep=1)
    longest = max(map(len, choices))
    rows = torch.tensor([choice + choice[-1:] * (longest - len(choice)) for choice in choices], device=ids.device)
    real = torch.arange(longest, device=ids.device) < torch.tensor([[len(choice)] for choice in choices]).to(ids.device)
    cache, count = first.past_key_values, len(choices)
    cache.batch_repeat_interleave(count)
    mask = torch.ones(len(ids) * count, ids.shape[1] + longest, dtype=torch.long, device=ids.device)
    more = network(
        input_ids=rows.repeat(len(ids), 1), attention_mask=mask, past_key_values=cache, use_cache=True
    ).logits.view(len(ids), count, longest, -1)
    begun = first.logits[:, -1:].unsqueeze(1).expand(-1, count, -1, -1)
    logits = torch.cat([begun, more[:, :, :-1]], dim=2).float().log_softmax(-1)
    chosen = logits.gather(-1, rows.expand(len(ids), -1, -1)[..., None])[..., 0].double()
    return [tuple(row) for row in (chosen * real).sum(-1).tolist()]


def check_pictured(model: nn.Module, tokenizer: Any) -> int:
    """How many tokens a picture of the lab has for a model. Raises UsageError where it does not read them."""
    network = unwrapped(model)
    return image_tokens("tasks about pictures", LoadedModel(network, tokenizer, type(network).__name__, ""))
