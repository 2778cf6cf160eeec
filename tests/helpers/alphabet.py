"""A byte tokenizer for tests: one token per byte, so that the expected ids can be written down."""

from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

END = "</s>"


def byte_tokenizer(**special) -> PreTrainedTokenizerFast:
    """Bytes to ids 0-255 in the alphabet's order, special tokens after them; a context so small that everything exceeds
    it.
    """
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(models.BPE(vocab={letter: number for number, letter in enumerate(alphabet)}, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=core, model_max_length=8, **special)
