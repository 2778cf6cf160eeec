"""A small random Llama and random windows for it: what most tests of the loop need."""

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from analysis.models.anatomy import anatomy
from analysis.windows import Windows

VOCABULARY = 97


def small_llama(
    seed: int = 0, blocks: int = 3, hidden: int = 32, dtype: torch.dtype = torch.float32
) -> LlamaForCausalLM:
    """Grouped-query attention, untied, weights large enough that pruning hurts."""
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=blocks,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        initializer_range=0.15,
        tie_word_embeddings=False,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config).to(dtype).eval()
    model.config.use_cache = False
    return model.requires_grad_(False)


def windows(
    count: int,
    length: int = 16,
    seed: int = 0,
    label: str = "calibration",
    padded: bool = False,
    vocabulary: int = VOCABULARY,
) -> Windows:
    """Random token ids; with `padded`, the second half of every other window is padding."""
    ids = torch.randint(1, vocabulary, (count, length), generator=torch.Generator().manual_seed(seed))
    mask = torch.ones_like(ids, dtype=torch.bool)
    if padded:
        mask[::2, length // 2 :] = False
        ids[~mask] = 0
    return Windows(ids=ids, mask=mask, label=label, provenance={"source": label})


@torch.no_grad()
def block_outputs(model, w: Windows) -> list[torch.Tensor]:
    """Output (N, T, H) of every block, taken by hooks in the model's own forward."""
    outputs = []
    handles = [
        b.module.register_forward_hook(lambda m, a, out: outputs.append(out[0] if isinstance(out, tuple) else out))
        for b in anatomy(model).blocks
    ]
    model(input_ids=w.ids, attention_mask=w.mask.long(), use_cache=False)
    for handle in handles:
        handle.remove()
    return outputs
