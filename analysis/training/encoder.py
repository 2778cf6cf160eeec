"""Training of the lab's encoder: a small BERT that fills in masked words of the mixed stream of the lab.

    analysis lab encoder --out data/lab/encoder

Devlin et al. 2019 (section 3.1), with what is known since: whole words are masked, and nothing is asked about pairs of
sentences (Liu et al. 2019). Half of the windows are still two texts, `[CLS] a [SEP] b [SEP]`, so that both token types
are known when a task comes in pairs. A run that was stopped continues as that of the decoder does
(`analysis.training.loop`). Nothing heavy is imported before it starts.
"""

import argparse
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from analysis.lab.documents import REGISTERS, documents
from analysis.training.lab_stream import StreamBatches, mixed_stream, train_bpe
from analysis.training.loop import Training, run
from analysis.training.settings import Windowed, add_options, check_config, options

PAD, CLS, SEP, MASK = "[PAD]", "[CLS]", "[SEP]", "[MASK]"
_IGNORED = -100
_SHARPNESS = 1.7  # of the first block's gaze: a neighbour gets several times the weight of the token beside it


@dataclass(frozen=True)
class EncoderConfig(Windowed):
    """Everything the training of an encoder depends on.

    Lengths are in tokens, special tokens included; the learning rate is that of `TrainConfig`. `masked` is the share of
    tokens that are asked for, in whole words: of these words 80 % become `[MASK]`, 10 % other tokens, 10 % stay.
    `vocabulary` counts the tokens of the byte-level BPE, to which four special ones come.
    """

    tokens: int = 8_000_000
    window: int = 128
    batch: int = 10
    context: int = 160
    vocabulary: int = 1024
    hidden: int = 96
    intermediate: int = 384
    blocks: int = 6
    heads: int = 4
    masked: float = 0.2
    learning_rate: float = 2e-3
    weight_decay: float = 0.1
    warmup: int = 150_000
    decay: float = 0.4
    seed: int = 0
    threads: int = 1

    @property
    def parameters(self) -> int:
        """Weights of the model, but for a few vectors."""
        block = 4 * self.hidden**2 + 2 * self.hidden * self.intermediate
        return (self.vocabulary + self.context) * self.hidden + self.blocks * block

    def problems(self) -> list[str]:
        """What is impossible in the sizes."""
        problems = []
        if self.hidden % self.heads:
            problems.append(f"hidden {self.hidden} is not a multiple of heads {self.heads}")
        if self.vocabulary < 256:
            problems.append(f"vocabulary {self.vocabulary} is below 256, the bytes")
        if self.window < 16:
            problems.append(f"window {self.window} is below 16")
        return problems + super().problems()


def train_tokenizer(vocabulary: int, *, sample: int = 6_000, seed: int = 0):
    """Byte-level BPE of `vocabulary` tokens, and `[PAD] [CLS] [SEP] [MASK]` before them.

    Returns a `transformers.PreTrainedTokenizerFast` that writes `[CLS] a [SEP]` and `[CLS] a [SEP] b [SEP]` with token
    types 0 and 1. A text begins as if a space went before it, so that a word is the same token everywhere; offsets
    leave spaces out.
    """
    from tokenizers import decoders, normalizers, processors
    from transformers import PreTrainedTokenizerFast

    special = [PAD, CLS, SEP, MASK]
    core = train_bpe(vocabulary + len(special), special, sample=sample, seed=seed, normalizer=normalizers.Prepend(" "))
    core.decoder = decoders.Sequence([decoders.ByteLevel(), decoders.Strip(" ", 1, 0)])
    named = [(token, core.token_to_id(token)) for token in (CLS, SEP)]
    core.post_processor = processors.Sequence(
        [
            processors.ByteLevel(trim_offsets=True),
            processors.TemplateProcessing(
                single=f"{CLS} $A {SEP}", pair=f"{CLS} $A {SEP} $B:1 {SEP}:1", special_tokens=named
            ),
        ]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token=PAD,
        cls_token=CLS,
        sep_token=SEP,
        mask_token=MASK,
        clean_up_tokenization_spaces=False,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )


def build(config: EncoderConfig, tokenizer):
    """An untrained `BertForMaskedLM` (float32, tied embeddings, no dropout) of the size in `config`; a function of
    `config.seed`.
    """
    import torch
    from transformers import BertConfig, BertForMaskedLM

    shape = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=config.hidden,
        intermediate_size=config.intermediate,
        num_hidden_layers=config.blocks,
        num_attention_heads=config.heads,
        max_position_embeddings=config.context,
        type_vocab_size=2,
        pad_token_id=tokenizer.pad_token_id,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        initializer_range=config.hidden**-0.5 / 2,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        model = BertForMaskedLM(shape).float()
        _settle(model)
    return model


def _settle(model) -> None:
    """Begin where a small BERT learns at once: otherwise it guesses words by frequency alone for the first millions of
    tokens.

    Positions start as sinusoids (Vaswani et al. 2017, section 3.5) whose fastest turns by pi a token, and the heads of
    the first block look one token back, one ahead, two back ...: queries are positions turned by that distance.
    Matrices that write to the residual stream start 1 / sqrt(2 blocks) as large.
    """
    import torch

    config = model.config
    hidden, size = config.hidden_size, config.hidden_size // config.num_attention_heads
    turn = math.pi * 10_000.0 ** (-torch.arange(0, hidden, 2) / hidden)
    angles = torch.arange(config.max_position_embeddings)[:, None] * turn
    with torch.no_grad():
        table = model.bert.embeddings.position_embeddings.weight
        table[:, 0::2], table[:, 1::2] = angles.sin(), angles.cos()
        table.mul_(config.initializer_range * 2**0.5)
        first = model.bert.encoder.layer[0].attention.self
        first.query.weight.zero_()
        first.key.weight.zero_()
        for head in range(config.num_attention_heads):
            distance = (head // 2 + 1) * (-1 if head % 2 == 0 else 1)
            for pair in range(size // 2):
                rows, columns = slice(head * size + 2 * pair, head * size + 2 * pair + 2), slice(2 * pair, 2 * pair + 2)
                cos, sin = math.cos(distance * turn[pair]), math.sin(distance * turn[pair])
                first.key.weight[rows, columns] = _SHARPNESS * torch.eye(2)
                first.query.weight[rows, columns] = _SHARPNESS * torch.tensor([[cos, sin], [-sin, cos]])
        for block in model.bert.encoder.layer:
            for matrix in (block.attention.output.dense, block.output.dense):
                matrix.weight.mul_((2 * config.num_hidden_layers) ** -0.5)


def train(config: EncoderConfig, out: str | Path, **options: Any) -> Path:
    """Train on the mixed stream into folder `out` and return it; continue from its checkpoint if there is one.

    Options and errors are those of `loop.run`.
    """
    check_config(config, EncoderConfig)
    return run(lambda: _training(config), config, out, reads={"text": mixed_stream()}, **options)


def _training(config: EncoderConfig) -> Training:
    tokenizer = train_tokenizer(config.vocabulary, seed=config.seed)
    return Training(
        config,
        build(config, tokenizer),
        tokenizer,
        MaskedBatches(config, tokenizer),
        loss,
        lambda model: evaluate(model, tokenizer, config.masked),
        command(config),
    )


class MaskedBatches(StreamBatches):
    """Masked windows of the training stream: `batches[n]` is (ids, types, labels), each (rows, length), and depends on
    `n` and the config alone.

    Labels are the tokens asked for, -100 elsewhere.
    """

    def __init__(self, config: EncoderConfig, tokenizer):
        super().__init__(config, tokenizer)
        self.masked = config.masked

    def _load(self, number: int, length: int):
        import torch

        batch = self.config.per_step // length
        rows = self.per_shard * batch
        generator = torch.Generator().manual_seed(number)
        source = documents("mixed", seed=1 + number + 100_000 * self.config.seed)
        ids, types = windows((document.text for document in source), self.tokenizer, rows, length, generator)
        order = torch.randperm(rows, generator=generator)
        masked, labels = mask(ids[order], self.tokenizer, self.masked, generator)
        return list(zip(*(part.view(self.per_shard, batch, length) for part in (masked, types[order], labels))))


def windows(texts, tokenizer, rows: int, length: int, generator):
    """`rows` windows (rows, length) of the texts, joined by `[SEP]`, and their token types: every other one is cut in
    two at a place drawn at random.
    """
    import torch

    stream: list[int] = []
    core, end = tokenizer.backend_tokenizer, tokenizer.sep_token_id
    while len(stream) < rows * (length - 2):
        stream += core.encode(next(texts), add_special_tokens=False).ids + [end]
    body = torch.tensor(stream[: rows * (length - 2)]).view(rows, length - 2)
    edge = torch.full((rows, 1), end)
    ids, types = (
        torch.cat([torch.full_like(edge, tokenizer.cls_token_id), body, edge], 1),
        torch.zeros(rows, length, dtype=torch.long),
    )
    cuts = torch.randint(length // 8, length - length // 8, (rows,), generator=generator)
    for row in range(1, rows, 2):
        cut = int(cuts[row])
        ids[row, cut + 1 : -1] = ids[row, cut:-2].clone()
        ids[row, cut] = end
        types[row, cut + 1 :] = 1
    return ids, types


def mask(ids, tokenizer, share: float, generator):
    """(ids with words masked, labels), both of the shape of `ids`: `share` of the tokens in whole words, special tokens
    never.
    """
    import torch

    starts, special = token_kinds(tokenizer)
    words = starts[ids].cumsum(1)  # number of the word that each token belongs to
    of_word = lambda values: values.gather(1, words)
    chosen = of_word(torch.rand(len(ids), ids.shape[1] + 1, generator=generator)) < share
    chosen &= ~special[ids]
    action = of_word(torch.rand(len(ids), ids.shape[1] + 1, generator=generator))
    random = torch.randint(int(special.sum()), len(tokenizer), ids.shape, generator=generator)
    labels = ids.masked_fill(~chosen, _IGNORED)
    masked = torch.where(chosen & (action < 0.8), torch.full_like(ids, tokenizer.mask_token_id), ids)
    return torch.where(chosen & (action >= 0.9), random, masked), labels


def token_kinds(tokenizer):
    """Two masks over the vocabulary: tokens that begin a word, and special tokens."""
    import torch

    names = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    special = torch.tensor([name in tokenizer.all_special_tokens for name in names])
    return torch.tensor([not name[0].isalpha() or name[0] in "ĠĊ" for name in names]) | special, special


def loss(model, batch):
    """Mean loss (nats) of the tokens that are asked for in `batch` = (ids, types, labels)."""
    import torch

    ids, types, labels = (part.to(model.device) for part in batch)
    chosen = labels != _IGNORED
    hidden = model.bert(input_ids=ids, token_type_ids=types).last_hidden_state
    return torch.nn.functional.cross_entropy(model.cls(hidden[chosen]), labels[chosen])


def evaluate(model, tokenizer, masked: float, *, rows: int = 64) -> dict[str, dict[str, float]]:
    """Per register, over `rows` held-out windows: mean loss (nats) of masked tokens, share of them guessed right, and
    their number.
    """
    import torch

    table = {}
    with torch.no_grad():
        for register in REGISTERS:
            generator = torch.Generator().manual_seed(0)
            texts = (document.text for document in documents(register, split="held-out"))
            ids, types = windows(texts, tokenizer, rows, model.config.max_position_embeddings, generator)
            ids, labels = mask(ids, tokenizer, masked, generator)
            ids, types, labels = (part.to(model.device) for part in (ids, types, labels))
            chosen = labels != _IGNORED
            logits = model.cls(model.bert(input_ids=ids, token_type_ids=types).last_hidden_state[chosen])
            nats = torch.nn.functional.cross_entropy(logits, labels[chosen]).item()
            right = (logits.argmax(-1) == labels[chosen]).double().mean().item()
            table[register] = {"loss_nats_per_masked_token": nats, "accuracy": right, "tokens": int(chosen.sum())}
    return table


def command(config: EncoderConfig) -> str:
    """The shell command that makes this run: only what differs from the defaults is named."""
    return f"analysis lab encoder {options(config)}".rstrip()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `analysis lab encoder`: the folder, the device, and one per field of `EncoderConfig`."""
    add_options(
        parser,
        EncoderConfig(),
        "encoder",
        vocabulary="tokens of the byte-level BPE",
        masked="share of the tokens that are masked",
    )
