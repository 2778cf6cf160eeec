"""The same beginnings continued by several models, side by side: what a loss of perplexity reads like."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import pandas as pd
import torch

from analysis.errors import UsageError, count_problem
from analysis.models.anatomy import evaluating
from analysis.models.context import usable_context
from analysis.models.load import LoadedModel, unwrapped

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedTokenizerBase


def continuations(
    models: "Mapping[str, LoadedModel | nn.Module]",
    prompts: Sequence[str],
    *,
    tokens: int = 40,
    tokenizer: "PreTrainedTokenizerBase | None" = None,
) -> pd.DataFrame:
    """What each model writes after each prompt, greedily: [prompt, one column per model], the prompt not repeated.

    models: by the name of their column. tokenizer: by default that of the first model that was loaded with one. A text
    ends after `tokens` tokens or where the model ends it. Nothing is drawn, so equal models write equal text. Raises
    UsageError where there is no tokenizer, nothing to continue, or more than a model reads.
    """
    known = [one.tokenizer for one in models.values() if isinstance(one, LoadedModel) and one.tokenizer is not None]
    tokenizer = tokenizer or next(iter(known), None)
    if tokenizer is None:
        raise UsageError("continuations: no model comes with a tokenizer; give tokenizer=")
    if problem := count_problem("continuations: tokens", tokens, 1):
        raise UsageError(problem)
    if isinstance(prompts, str) or not prompts or not all(isinstance(one, str) and one.strip() for one in prompts):
        raise UsageError("continuations: prompts must be a list of texts, none of them empty")
    written: dict[str, list[str]] = {"prompt": list(prompts)}
    for name, one in models.items():
        model, context = unwrapped(one), usable_context(unwrapped(one))
        written[name] = []
        for prompt in prompts:
            ids = tokenizer(prompt, return_tensors="pt", add_special_tokens=False)["input_ids"][0]
            if context is not None and len(ids) + tokens > context:
                raise UsageError(
                    f"continuations: a prompt of {len(ids)} tokens and {tokens} more are beyond the {context}"
                    f" that {name} reads; give a shorter prompt or fewer tokens"
                )
            out = go_on(model, ids, tokens, end=tokenizer.eos_token_id)
            text = tokenizer.decode(out[len(ids) :], skip_special_tokens=True)
            written[name].append(str(text).strip())
    return pd.DataFrame(written)


def go_on(
    model: "nn.Module", ids: "Tensor", tokens: int, temperature: float = 0.0, seed: int = 0, end: int | None = None
) -> "Tensor":
    """`ids` (T,) and up to `tokens` more, as many as the model reads, until `end`: the likeliest ones at temperature 0,
    else drawn with noise that is the same for all models of one vocabulary.
    """
    generator = torch.Generator().manual_seed(seed)
    context = usable_context(model)
    for _ in range(tokens if context is None else min(tokens, context - len(ids))):
        scores = torch.log_softmax(_logits(model, ids)[-1], -1)
        if temperature:
            uniform = torch.rand(scores.shape, generator=generator, dtype=torch.float64).clamp(min=1e-12)
            scores = scores / temperature - torch.log(-torch.log(uniform))
        following = int(scores.argmax())
        ids = torch.cat([ids, torch.tensor([following])])
        if following == end:
            break
    return ids


def log_probabilities(model: "nn.Module", ids: "Tensor") -> "Tensor":
    """log p (T, vocabulary), float64 on the CPU, of what follows each of the ids (T,)."""
    return torch.log_softmax(_logits(model, ids), -1)


def _logits(model: "nn.Module", ids: "Tensor") -> "Tensor":
    device = next(model.parameters()).device
    with evaluating(model), torch.inference_mode():
        return model(input_ids=ids[None].to(device), use_cache=False).logits[0].double().cpu()
