"""A tiny model that writes: a random Llama over a few words, so that texts end often and nothing takes long."""

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from analysis.models.load import LoadedModel

WORDS = [
    "the",
    "a",
    "red",
    "blue",
    "old",
    "new",
    "cat",
    "dog",
    "bird",
    "town",
    "hill",
    "river",
    "sees",
    "has",
    "likes",
    "finds",
    "and",
    "but",
]
END = "<eos>"


def word_tokenizer(words: list[str] = WORDS) -> PreTrainedTokenizerFast:
    """One token per word, `<unk>` for others, `<eos>` last."""
    core = Tokenizer(
        models.WordLevel({word: number for number, word in enumerate(["<unk>", *words, END])}, unk_token="<unk>")
    )
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    core.decoder = decoders.WordPiece(prefix="##")
    return PreTrainedTokenizerFast(tokenizer_object=core, unk_token="<unk>", eos_token=END)


def tiny_writer(seed: int = 0, spread: float = 0.3, context: int = 48) -> LoadedModel:
    """`spread`: how far apart the model's logits are; 0 = every word alike."""
    tokenizer = word_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=context,
        initializer_range=spread,
        tie_word_embeddings=False,
        eos_token_id=None,
        bos_token_id=None,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config).eval().requires_grad_(False)
    model.config.use_cache = False
    return LoadedModel(model, tokenizer, "tiny", f"tiny-{seed}-{spread}")


def one_word(word: str):
    """A model that says one word, whatever it reads."""
    loaded = tiny_writer(context=80)
    token = torch.tensor(loaded.tokenizer.convert_tokens_to_ids(word))
    loaded.model.lm_head = torch.nn.Linear(16, len(loaded.tokenizer)).requires_grad_(False)
    loaded.model.lm_head.weight.zero_()
    loaded.model.lm_head.bias.copy_(50.0 * torch.nn.functional.one_hot(token, len(loaded.tokenizer)))
    return loaded
