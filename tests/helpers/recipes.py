"""One recipe for every word, and a model small enough to try them all."""

import torch
from transformers import LlamaConfig, LlamaForCausalLM, MixtralConfig, MixtralForCausalLM

from tests.helpers.small import VOCABULARY

STEPS = "epochs=2,batch=2,lr=1e-2"
MEASURED = f"wanda-50% BR+GP[{STEPS}]"
RECIPES = [
    *(f"{name}-50% LR" for name in ("random", "magnitude", "wanda", "ria")),
    "sparsegpt-50%[columns=8] LR",
    "sparsegpt-2:4[columns=8] LR",
    *(f"{name}-neurons-50% LR" for name in ("random", "magnitude", "activation", "wanda-sp", "flap", "snip", "fisher")),
    "magnitude-heads-50% LR",
    "flap-structures-50%[scope=global] LR",
    *(f"{name}-blocks-50% LR" for name in ("random", "influence", "angular", "perplexity", "gain", "deepest")),
    "influence-attention-1 LR",
    "perplexity-mlp-1 LR",
    "wanda+swaps-50% LR",
    "wanda+fw-50%[iterations=20] LR",
    "wanda-50%[shares=owl] LR",
    "wanda-50% ridge",
    MEASURED,
    f"wanda-50% BR[train=masklora,rank=2,clip=0.1,warmup=0.5,{STEPS}]",
    f"wanda-50% BR+GP+CR[loss=relative,{STEPS}]",
    f"wanda-50% IR[unit=sub-block,train=norms-biases,{STEPS}]",
    f"wanda-50% BR[unit=matrix,loss=cosine,select=calibration,{STEPS}]",
    f"wanda-50% BR[unit=model,{STEPS}]",
    f"wanda-50% retrain[{STEPS}]",
    f"wanda-50% retrain[objective=distill,{STEPS}]",
    f"wanda-50% retrain[objective=hidden,{STEPS}]",
    "flap-neurons-50% compensate",
    "flap-neurons-50% scale",
    "flap-neurons-50% LIAR",
    "flap-heads-50% LIAR+GP",
    "flap-structures-50% LIAR+GP[bias=false]",
    "influence-blocks-1 refit+GP",
    "influence-blocks-1 replace",
    "influence-blocks-1 patch",
    "influence-blocks-1 patch[form=bias]",
    "influence-attention-1 refit",
    "influence-blocks-1 ghost+GP",
]

OF_EXPERTS = [
    *(f"{name}-experts-25% LR" for name in ("random", "frequency", "activation", "reap")),
    "reap-experts-25% LIAR",
    "wanda-50%[starved=magnitude,gated=true] ridge",
]
"""Recipes of words that speak of experts, for `mixture`."""


def model() -> LlamaForCausalLM:
    """Two blocks with biases, in float64: no rounding of a machine turns a choice."""
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=16,
        tie_word_embeddings=False,
        attention_bias=True,
        mlp_bias=True,
    )
    source = torch.Generator().manual_seed(0)
    return _drawn(LlamaForCausalLM(config), source)


def mixture() -> MixtralForCausalLM:
    """Two blocks of four experts, two for a token, in float64."""
    config = MixtralConfig(
        vocab_size=VOCABULARY,
        hidden_size=16,
        intermediate_size=12,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        num_local_experts=4,
        num_experts_per_tok=2,
        max_position_embeddings=16,
    )
    config._experts_implementation = "eager"  # the others have no float64
    return _drawn(MixtralForCausalLM(config), torch.Generator().manual_seed(0))


def _drawn(made, source: torch.Generator):
    made = made.double().eval().requires_grad_(False)
    for parameter in made.parameters():
        parameter.copy_(torch.randn(parameter.shape, generator=source, dtype=torch.float64) * 0.15)
    made.config.use_cache = False
    return made
