"""What a model answers is what it does, not what its class is called."""

import pytest
import torch
import transformers as tf

from analysis.errors import ModelError, UnsupportedModel
from analysis.models.task_heads import head, prove_head
from tests.helpers.encoders import encoder
from tests.helpers.families import tiny

SIZE = dict(vocab_size=20, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)


def made(kind, config):
    with torch.random.fork_rng():
        return kind(config).eval()


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (lambda: tiny("llama").model, "LlamaModel gives no logits"),
        (
            lambda: made(tf.BertForTokenClassification, tf.BertConfig(**SIZE)),
            "logits \\(2, 3, 2\\) for \\(2, 3\\) tokens",
        ),
        (lambda: made(tf.BertForNextSentencePrediction, tf.BertConfig(**SIZE)), "gives logits \\(2, 2\\)"),
        (lambda: made(tf.BertForMaskedLM, tf.BertConfig(**SIZE)), "bert reads the tokens that follow"),
        (
            lambda: made(tf.LlamaForSequenceClassification, tf.LlamaConfig(**SIZE, pad_token_id=None)),
            "config.json names no pad_token_id",
        ),
    ],
)
def test_a_head_that_answers_something_else_is_refused(model, words):
    with pytest.raises(ModelError, match=f"a model: .*{words}"):
        prove_head(model(), "a model")


def test_a_config_that_no_forward_runs_with():
    model = tiny("llama")
    model.model.layers[0].self_attn.head_dim = 5
    with pytest.raises(ModelError, match="a model: LlamaForCausalLM cannot read three tokens .*mend its config.json"):
        prove_head(model, "a model")


@pytest.mark.parametrize("kind", ["bert", "bert_score", "bert_span", "bert_body"])
def test_heads_that_are_known(kind):
    model = encoder(kind).train()
    prove_head(model, "a model")
    assert model.training


def test_a_class_made_of_a_known_one():
    class Mine(tf.BertForSequenceClassification):
        pass

    assert head(made(Mine, tf.BertConfig(**SIZE, num_labels=1))) == "regression"
    assert head(tiny("llama")) == head(tiny("llama").model) == "next token"
    assert head(encoder("bert_body")) == "embedding" and head(encoder("bert").bert) == "embedding"
    assert head(made(tf.BertModel, tf.BertConfig(**SIZE, is_decoder=True))) == "next token"


def test_a_model_that_reads_no_token_ids_is_refused():
    """Perceiver's input is an array of latents."""
    model = encoder("bert")
    model.get_input_embeddings = lambda: torch.nn.Parameter(torch.zeros(4, 4))
    with pytest.raises(UnsupportedModel, match="a model: BertForSequenceClassification has no table of token embedd"):
        prove_head(model, "a model")
