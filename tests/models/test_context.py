"""The usable context: what the config says, less what tables of learned positions keep for padding."""

import pytest
import torch
import transformers as tf

from analysis.models.context import usable_context
from tests.helpers.encoders import encoder
from tests.helpers.families import VOCABULARY, tiny


@pytest.mark.parametrize(("family", "tokens"), [("llama", 64), ("gpt2", 64), ("opt", 64), ("bloom", None)])
def test_decoders(family, tokens):
    assert usable_context(tiny(family)) == tokens


@pytest.mark.parametrize(("kind", "tokens"), [("bert", 64), ("roberta", 63), ("distilbert", 64)])
def test_encoders_run_at_it_and_not_beyond(kind, tokens):
    model = encoder(kind)
    assert usable_context(model) == tokens
    ids = torch.full((1, tokens + 1), VOCABULARY - 1)
    model(input_ids=ids[:, 1:])
    with pytest.raises((IndexError, RuntimeError)):
        model(input_ids=ids)


def test_another_word_for_it():
    config = tf.MptConfig(vocab_size=20, d_model=16, n_heads=2, n_layers=1, max_seq_len=48)
    with torch.device("meta"):
        assert usable_context(tf.MptForCausalLM(config)) == 48
