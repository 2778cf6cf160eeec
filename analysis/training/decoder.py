"""Training of the lab's own models: a byte-level BPE tokenizer and a small decoder on the mixed stream of the lab, a
Llama or, with experts, a Mixtral.

The data of step `n` are a function of `n` alone, so a run that was stopped (a closed laptop, CTRL-C) continues from its
checkpoint and ends bit-equal, on CPU with the same thread count, to one that never stopped. Nothing heavy is imported
before a run starts.
"""

import argparse
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from analysis.errors import UsageError
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


@dataclass(frozen=True)
class ExpertsConfig(TrainConfig):
    """A training whose blocks have, in the place of one MLP, `experts` of them, each of size `intermediate`: a token
    goes to the `experts_per_token` that the block's router chooses, weighted so that they sum to one.

    To the loss, and so to that of the card's curve, `balance` times transformers' load-balancing loss is added: the sum
    over experts of the share of tokens times the mean router probability (both over all blocks at once), times their
    number; it is at least `experts_per_token`, where all experts are chosen equally often.
    """

    experts: int = 0
    experts_per_token: int = 2
    balance: float = 0.01

    @property
    def parameters(self) -> int:
        """Weights of the model, but for a few vectors."""
        more = 3 * self.intermediate * (self.experts - 1) + self.experts
        return super().parameters + self.blocks * self.hidden * more

    def problems(self) -> list[str]:
        """What is impossible in the sizes."""
        few = self.experts <= self.experts_per_token
        problem = f"experts {self.experts} leave no choice to a token that goes to {self.experts_per_token}"
        return [problem] * few + super().problems()


def config_of(values: Mapping[str, Any]) -> TrainConfig:
    """The settings that values by name ask for, those of `ExpertsConfig`: without experts those of a Llama.

    Raises UsageError where something is said of experts and there are none.
    """
    if values["experts"]:
        return ExpertsConfig(**values)
    own = {field.name for field in fields(TrainConfig)}
    if said := [name for name in values if name not in own and values[name] != getattr(ExpertsConfig, name)]:
        option = said[0].replace("_", "-")
        raise UsageError(f"train: --{option} {values[said[0]]} is about experts; say how many with --experts")
    return TrainConfig(**{name: value for name, value in values.items() if name in own})


def build(config: TrainConfig, tokenizer):
    """An untrained `LlamaForCausalLM`, or `MixtralForCausalLM` where there are experts (float32, tied embeddings), of
    the size in `config`; a function of `config.seed`.
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM, MixtralConfig, MixtralForCausalLM

    kind: Any = LlamaConfig
    network: Any = LlamaForCausalLM
    more: dict[str, Any] = {}
    if isinstance(config, ExpertsConfig):
        kind, network = MixtralConfig, MixtralForCausalLM
        more = {
            "num_local_experts": config.experts,
            "num_experts_per_tok": config.experts_per_token,
            "router_aux_loss_coef": config.balance,
            "rope_parameters": LlamaConfig().rope_parameters,
        }
    shape = kind(
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
        **more,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        return network(shape).float()


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
    """Mean next-token loss (nats) of `rows`, shape (rows, length + 1); of experts, with their balance."""
    import torch

    rows = rows.to(model.device)
    balance = getattr(model.config, "router_aux_loss_coef", 0.0)
    output = model(rows[:, :-1], use_cache=False, **({"output_router_logits": True} if balance else {}))
    loss = torch.nn.functional.cross_entropy(output.logits.flatten(0, 1), rows[:, 1:].flatten())
    return loss + balance * output.aux_loss if balance else loss


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
    """Options of `analysis lab train`: the folder, the device, and one per field of `ExpertsConfig`."""
    add_options(
        parser,
        ExpertsConfig(),
        "decoder",
        kv_heads="key-value heads",
        intermediate="MLP size, of each expert where there are any",
        experts="MLPs in each block among which a router chooses for each token; 0: one, and no router",
        experts_per_token="to how many of them a token goes",
        balance="weight of the loss that keeps experts equally busy",
    )
