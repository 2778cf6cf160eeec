"""Tiny random encoders of the BERT kind, in evaluation mode, float32, from a fixed seed."""

import torch
import transformers as tf
from torch import nn

from tests.helpers.families import VOCABULARY

_SIZE = dict(
    vocab_size=VOCABULARY,
    hidden_size=32,
    num_hidden_layers=3,
    num_attention_heads=4,
    intermediate_size=48,
    max_position_embeddings=64,
    pad_token_id=0,
)

KINDS = {
    "bert": lambda: tf.BertForSequenceClassification(tf.BertConfig(**_SIZE)),
    "bert_score": lambda: tf.BertForSequenceClassification(tf.BertConfig(**_SIZE, num_labels=1)),
    "bert_span": lambda: tf.BertForQuestionAnswering(tf.BertConfig(**_SIZE)),
    "bert_body": lambda: tf.BertModel(tf.BertConfig(**_SIZE)),
    "roberta": lambda: tf.RobertaForSequenceClassification(tf.RobertaConfig(**_SIZE)),
    "distilbert": lambda: tf.DistilBertForSequenceClassification(
        tf.DistilBertConfig(
            vocab_size=VOCABULARY,
            dim=32,
            n_layers=3,
            n_heads=4,
            hidden_dim=48,
            max_position_embeddings=64,
            pad_token_id=0,
        )
    ),
}

ENCODERS = tuple(KINDS)


def encoder(name: str, seed: int = 0) -> nn.Module:
    """A random encoder; weights larger than transformers' default, so that structures matter."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = KINDS[name]()
        for parameter in model.parameters():
            if parameter.ndim > 1:
                nn.init.normal_(parameter, std=0.2)
            else:
                parameter.data.add_(torch.randn_like(parameter) * 0.1)
    return model.eval().requires_grad_(False)
