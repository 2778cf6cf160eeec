"""The same beginnings continued by several models, side by side: what a loss of perplexity reads like."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from analysis.errors import UsageError, count_problem
from analysis.models.context import usable_context
from analysis.models.load import LoadedModel, unwrapped
from analysis.models.quiet import evaluation_mode

if TYPE_CHECKING:
    from torch import nn
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
    import torch
    from transformers import GenerationConfig

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
        model: Any = unwrapped(one)  # transformers' types do not say that a decoder can generate
        end, context = tokenizer.eos_token_id, usable_context(model)
        config = GenerationConfig(
            max_new_tokens=tokens, do_sample=False, eos_token_id=end, pad_token_id=0 if end is None else end
        )
        written[name] = []
        with evaluation_mode(model), torch.no_grad():
            for prompt in prompts:
                ids = tokenizer(prompt, return_tensors="pt", add_special_tokens=False)["input_ids"].to(model.device)
                if context is not None and ids.shape[1] + tokens > context:
                    raise UsageError(
                        f"continuations: a prompt of {ids.shape[1]} tokens and {tokens} more are beyond the {context}"
                        f" that {name} reads; give a shorter prompt or fewer tokens"
                    )
                before, model.generation_config = model.generation_config, config
                try:
                    out = model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=config)
                finally:
                    model.generation_config = before
                text = tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True)
                written[name].append(str(text).strip())
    return pd.DataFrame(written)
