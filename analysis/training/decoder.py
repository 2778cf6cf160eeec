"""Training of the lab's own models: a byte-level BPE tokenizer and a small Llama decoder on the mixed stream of the
lab.

The data of step `n` are a function of `n` alone, so a run that was stopped (a closed laptop, CTRL-C) continues from its
checkpoint and ends bit-equal, on CPU with the same thread count, to one that never stopped. Nothing heavy is imported
before a run starts.
"""

import argparse
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from analysis.training.lab_stream import END, StreamBatches, evaluate, mixed_stream, train_tokenizer
from analysis.training.loop import Training, run
from analysis.training.settings import Windowed, add_options, check_config, options


@dataclass(frozen=True)
class TrainConfig(Windowed):
    """Everything a training run depends on.

    Lengths are in tokens. The learning rate rises over `warmup` tokens, stays, and falls linearly to zero over the last
    `decay` share of `tokens`. Windows are `window` long until the decay begins, then as long as the model's `context`;
    a step is `batch * window` tokens throughout. A run whose decay has not begun can be continued with another value of
    `tokens`.
    """

    tokens: int = 10_000_000
    window: int = 256
    batch: int = 8
    context: int = 512
    vocabulary: int = 1024
    hidden: int = 96
    intermediate: int = 256
    blocks: int = 8
    heads: int = 4
    kv_heads: int = 2
    learning_rate: float = 3e-3
    weight_decay: float = 0.1
    warmup: int = 300_000
    decay: float = 0.25
    seed: int = 0
    threads: int = 1

    @property
    def parameters(self) -> int:
        """Weights of the model, but for a few vectors."""
        attention = 2 * self.hidden * (self.hidden + self.hidden * self.kv_heads // self.heads)
        return self.vocabulary * self.hidden + self.blocks * (attention + 3 * self.hidden * self.intermediate)

    def problems(self) -> list[str]:
        """What is impossible in the sizes."""
        problems = []
        if self.hidden % (2 * self.heads):
            problems.append(f"hidden {self.hidden} is not an even multiple of heads {self.heads}")
        if self.heads % self.kv_heads:
            problems.append(f"heads {self.heads} is not a multiple of kv_heads {self.kv_heads}")
        if self.vocabulary < 257:
            problems.append(f"vocabulary {self.vocabulary} is below 257, the bytes and {END}")
        return problems + super().problems()


def build(config: TrainConfig, tokenizer):
    """An untrained `LlamaForCausalLM` (float32, tied embeddings) of the size in `config`; a function of
    `config.seed`.
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    shape = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=config.hidden,
        intermediate_size=config.intermediate,
        num_hidden_layers=config.blocks,
        num_attention_heads=config.heads,
        num_key_value_heads=config.kv_heads,
        max_position_embeddings=config.context,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        initializer_range=config.hidden**-0.5 / 2,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        return LlamaForCausalLM(shape).float()


def train(config: TrainConfig, out: str | Path, **options: Any) -> Path:
    """Train on the mixed stream into folder `out` and return it; continue from its checkpoint if there is one.

    Options and errors are those of `loop.run`.
    """
    check_config(config, TrainConfig)
    return run(lambda: _training(config), config, out, reads={"text": mixed_stream()}, **options)


def _training(config: TrainConfig) -> Training:
    tokenizer = train_tokenizer(config.vocabulary, seed=config.seed)
    return Training(
        config,
        build(config, tokenizer),
        tokenizer,
        StreamBatches(config, tokenizer),
        _loss,
        lambda model: _held_out(model, tokenizer),
        command(config),
    )


def _loss(model, rows):
    """Mean next-token loss (nats) of `rows`, shape (rows, length + 1)."""
    import torch

    rows = rows.to(model.device)
    logits = model(rows[:, :-1], use_cache=False).logits
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten())


def _held_out(model, tokenizer) -> dict:
    """Per register: loss and perplexity on held-out documents, and the entropy of their source."""
    return {
        register: {
            "loss_nats_per_token": row["loss"],
            "perplexity": math.exp(row["loss"]),
            "source_entropy_nats_per_token": row["source"],
            "tokens": row["tokens"],
        }
        for register, row in evaluate(model, tokenizer).items()
    }


def command(config: TrainConfig) -> str:
    """The shell command that makes this run: only what differs from the defaults is named."""
    return f"analysis lab train {options(config)}".rstrip()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `analysis lab train`: the folder, the device, and one per field of `TrainConfig`."""
    add_options(parser, TrainConfig(), "decoder", kv_heads="key-value heads")
