"""Tiny random encoders of the BERT kind, in evaluation mode, float32, from a fixed seed; labelled windows for them."""

import torch
import transformers as tf
from torch import nn

from analysis.windows import Labelled, Windows
from tests.helpers.families import VOCABULARY

LENGTH = 24
HEADS = {
    "bert": "classification",
    "bert_score": "regression",
    "bert_span": "span",
    "roberta": "classification",
    "distilbert": "classification",
}
METRICS = {"classification": "accuracy", "regression": "spearman", "span": "f1"}

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


def examples(name: str, count: int = 16, seed: int = 0, types: bool = True) -> Windows:
    """Random labelled windows of two texts each, the second half of them padded."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(1, 60, (count, LENGTH), generator=generator)
    mask = torch.ones(count, LENGTH, dtype=torch.bool)
    mask[count // 2 :, 15:] = False
    second = ((torch.arange(LENGTH) > 9) & mask).long() if types and name.startswith("bert") else None
    kind = HEADS[name]
    texts, offsets = (), None
    if kind == "span":
        first = torch.randint(10, 13, (count,), generator=generator)
        labels = torch.stack([first, first + 1], 1)
        words = torch.arange(LENGTH)[:, None] * 4 + torch.tensor([0, 3])
        offsets = torch.where((torch.arange(LENGTH) > 9)[:, None], words, 0).expand(count, LENGTH, 2)
        passage = " ".join(f"w{place:02d}" for place in range(LENGTH))
        texts = tuple((passage, passage[4 * start : 4 * start + 7]) for start in first.tolist())
    else:
        labels = (
            torch.randint(0, 2, (count,), generator=generator)
            if kind == "classification"
            else torch.rand(count, generator=generator) * 5
        )
    return Windows(
        ids,
        mask,
        "examples",
        {},
        types=second,
        labelled=Labelled(kind, METRICS[kind], labels, texts=texts, offsets=offsets),
    )


def sentence_pairs(count: int = 8, seed: int = 0) -> Windows:
    """Windows of `count` pairs of random sentences of unequal lengths, two windows each, with scores from 0 to 1."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(1, 60, (2 * count, LENGTH), generator=generator)
    lengths = torch.randint(5, LENGTH + 1, (2 * count,), generator=generator)
    pairs = torch.arange(count).repeat_interleave(2)
    labels = torch.rand(count, generator=generator)[pairs]
    mask = torch.arange(LENGTH) < lengths[:, None]
    return Windows(ids, mask, "pairs", {}, labelled=Labelled("embedding", "spearman", labels, pairs=pairs))
