"""A tokenizer of the BERT kind over whole words, and tiny random encoders that answer with it."""

import torch
import transformers as tf
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from analysis.models.load import LoadedModel

WORDS = [
    "a",
    "b",
    "c",
    "d",
    "e",
    "f",
    "g",
    "h",
    "is",
    "was",
    "the",
    "not",
    "red",
    "blue",
    "cat",
    "dog",
    "who",
    "sees",
    "old",
    "?",
    ".",
]
CLASSES = {
    "bert": tf.BertForSequenceClassification,
    "distilbert": tf.DistilBertForSequenceClassification,
    "span": tf.BertForQuestionAnswering,
}


def pair_tokenizer(words: list[str] = WORDS) -> tf.PreTrainedTokenizerFast:
    """One token per word or mark; `[CLS] first [SEP] second [SEP]`, types 0 and 1; [PAD] 0, [CLS] 1, [SEP] 2, [UNK] 3,
    the words from 4.
    """
    core = Tokenizer(
        models.WordLevel(
            {word: number for number, word in enumerate(["[PAD]", "[CLS]", "[SEP]", "[UNK]", *words])},
            unk_token="[UNK]",
        )
    )
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    core.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    names = ["input_ids", "token_type_ids", "attention_mask"]
    return tf.PreTrainedTokenizerFast(
        tokenizer_object=core,
        model_input_names=names,
        pad_token="[PAD]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        unk_token="[UNK]",
    )


def tiny_answerer(
    kind: str = "bert", *, classes: tuple[str, ...] | int = 2, context: int = 48, seed: int = 0, tokenizer=None
) -> LoadedModel:
    """A random encoder; `classes` by name, or their number (1: a regression)."""
    tokenizer = tokenizer or pair_tokenizer()
    size = {
        "vocab_size": len(tokenizer),
        "max_position_embeddings": context,
        "pad_token_id": 0,
        "initializer_range": 0.3,
    }
    if kind == "distilbert":
        config = tf.DistilBertConfig(dim=16, n_layers=2, n_heads=2, hidden_dim=24, **size)
    else:
        config = tf.BertConfig(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24, **size)
    if isinstance(classes, int):
        config.num_labels = classes
    else:
        config.id2label, config.label2id = (
            dict(enumerate(classes)),
            {name: number for number, name in enumerate(classes)},
        )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = CLASSES[kind](config).eval().requires_grad_(False)
    return LoadedModel(model, tokenizer, "tiny", f"tiny-{kind}-{seed}")
