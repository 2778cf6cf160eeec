"""Training of the lab's own models: a byte-level BPE tokenizer and a small Llama decoder on the mixed stream of the lab.

The data of step `n` are a function of `n` alone, so a run that was stopped (a closed laptop, CTRL-C) continues from its checkpoint
and ends bit-equal, on CPU with the same thread count, to one that never stopped. Nothing heavy is imported before a run starts.
"""

import argparse
import json
import math
import os
import platform
import signal
import threading
import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from analysis.errors import StoreError, UsageError
from analysis.progress import bar
from analysis.models.pretrain_text import END, Batches, evaluate, train_tokenizer

_CHECKPOINT = "checkpoint.pt"
_MAY_BE_ZERO = ("seed", "weight_decay", "warmup")


@dataclass(frozen=True)
class TrainConfig:
    """Everything a training run depends on.

    Lengths are in tokens. The learning rate rises over `warmup` tokens, stays, and falls linearly to zero over the last
    `decay` share of `tokens`. Windows are `window` long until the decay begins, then as long as the model's `context`; a step
    is `batch * window` tokens throughout. A run whose decay has not begun can be continued with another value of `tokens`.
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
    def steps(self) -> int:
        """Optimiser steps in `tokens`."""
        return self.tokens // (self.batch * self.window)

    @property
    def decay_start(self) -> int:
        """First step of the decay."""
        return self.steps - int(self.decay * self.steps)

    def length(self, step: int) -> int:
        """Window length of `step`."""
        return self.window if step < self.decay_start else self.context

    def rate(self, step: int) -> float:
        """Learning rate of `step`, counted from 0."""
        warmup = max(1, self.warmup // (self.batch * self.window))
        left = (self.steps - step) / max(1, self.steps - self.decay_start)
        return self.learning_rate * min(1.0, (step + 1) / warmup, left)


def build(config: TrainConfig, tokenizer):
    """An untrained `LlamaForCausalLM` (float32, tied embeddings) of the size in `config`; a function of `config.seed`."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    shape = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=config.hidden, intermediate_size=config.intermediate, num_hidden_layers=config.blocks,
        num_attention_heads=config.heads, num_key_value_heads=config.kv_heads, max_position_embeddings=config.context,
        tie_word_embeddings=True, bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, initializer_range=config.hidden ** -0.5 / 2)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        return LlamaForCausalLM(shape).float()


def train(config: TrainConfig, out: Path, *, device: str = "auto", progress: Callable = bar, save_every: int = 200, stop: Callable[[int], bool] | None = None) -> Path:
    """Train on the mixed stream into folder `out` and return it; continue from its checkpoint if there is one.

    Writes a checkpoint every `save_every` steps and on CTRL-C (after the step in hand, then raises `KeyboardInterrupt`); at the
    end the model, the tokenizer and the training card `training.json`; the checkpoint then goes. `stop(step)` ends the run early, checkpoint kept.
    Raises `UsageError` for impossible sizes or devices, `StoreError` if the checkpoint belongs to another configuration.
    """
    _check(config)
    if out.exists() and not out.is_dir():
        raise UsageError(f"train: {out} is a file; the model needs a folder")
    out.mkdir(parents=True, exist_ok=True)
    device = _pick(device)
    tokenizer = train_tokenizer(config.vocabulary, seed=config.seed)
    with _threads(config.threads if device == "cpu" else None):
        run = _Run(config, tokenizer, out, device)
        run.load()
        with progress(total=config.steps, desc="train", unit="step") as shown, _interrupts() as interrupted:
            shown.update(run.step)
            while run.step < config.steps:
                stopped = stop is not None and stop(run.step)
                if stopped or interrupted():
                    run.save()
                    if stopped:
                        return out
                    raise KeyboardInterrupt
                loss = run.advance()
                shown.update(1)
                if run.step % 10 == 0:
                    shown.set_postfix(loss=f"{loss:.3f}")
                if run.step % save_every == 0:
                    run.save()
        run.finish()
    return out


class _Run:
    """Model, optimiser and record of a training run: what a checkpoint holds."""

    def __init__(self, config: TrainConfig, tokenizer, out: Path, device: str):
        import torch

        self.config, self.tokenizer, self.out, self.device = config, tokenizer, out, device
        self.model = build(config, tokenizer).to(device).train()
        matrices = [p for p in self.model.parameters() if p.dim() > 1]
        vectors = [p for p in self.model.parameters() if p.dim() == 1]
        self.optimizer = torch.optim.AdamW([{"params": matrices, "weight_decay": config.weight_decay}, {"params": vectors, "weight_decay": 0.0}],
                                           lr=config.learning_rate, betas=(0.9, 0.98), fused=True)
        self.batches = Batches(config, tokenizer)
        self.step, self.seconds, self.curve, self._sum = 0, 0.0, [], 0.0

    def advance(self) -> float:
        """One optimiser step; returns its loss (nats per token)."""
        import torch

        started = time.perf_counter()
        rows = self.batches[self.step].to(self.device)
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.rate(self.step)
        loss = _loss(self.model, rows)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        self._sum += loss.item()
        every = max(1, min(100, self.config.steps // 20))
        if self.step % every == 0:
            self.curve.append([self.step * self.config.batch * self.config.window, round(self._sum / every, 4)])
            self._sum = 0.0
        self.seconds += time.perf_counter() - started
        return loss.item()

    def save(self) -> None:
        """Write the checkpoint, whole or not at all."""
        import torch

        state = {"config": asdict(self.config), "step": self.step, "seconds": self.seconds, "curve": self.curve, "sum": self._sum,
                 "model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}
        torch.save(state, self.out / (_CHECKPOINT + ".part"))
        os.replace(self.out / (_CHECKPOINT + ".part"), self.out / _CHECKPOINT)

    def load(self) -> None:
        """Read the checkpoint if there is one."""
        import torch

        path = self.out / _CHECKPOINT
        if not path.exists():
            return
        try:
            state = torch.load(path, map_location=self.device, weights_only=True)
        except Exception as error:
            raise StoreError(f"train: the checkpoint {path} cannot be read ({error}); delete it to start again") from error
        mine, theirs = asdict(self.config), state["config"]
        different = sorted(key for key in mine if mine[key] != theirs.get(key) and key != "tokens")
        if different:
            raise StoreError(f"train: {path} was made with other values of {', '.join(different)}; use another folder or delete it")
        begun = min(self.config.decay_start, replace(self.config, tokens=theirs["tokens"]).decay_start) < state["step"]
        if begun and self.config.tokens != theirs["tokens"]:
            raise StoreError(f"train: {path} was made for {theirs['tokens']} tokens and is too far on to change to {self.config.tokens}")
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.seconds, self.curve, self._sum = state["step"], state["seconds"], state["curve"], state["sum"]

    def finish(self) -> None:
        """Write model, tokenizer and training card, and remove the checkpoint."""
        self.model.eval()
        self.model.save_pretrained(self.out)
        self.tokenizer.save_pretrained(self.out)
        card = _card(self)
        (self.out / "training.json").write_text(json.dumps(card, indent=1) + "\n")
        (self.out / _CHECKPOINT).unlink(missing_ok=True)


def _loss(model, rows):
    """Mean next-token loss (nats) of `rows`, shape (rows, length + 1)."""
    import torch

    logits = model(rows[:, :-1], use_cache=False).logits
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten())


def _pick(device: str) -> str:
    """The device to train on: `cpu`, `cuda`, or for `auto` the better of the two that is here."""
    import torch

    here = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
    if device != "auto" and device not in here:
        raise UsageError(f"train: device {device!r}: not here; possible are auto, {', '.join(here)}")
    return here[-1] if device == "auto" else device


@contextmanager
def _interrupts():
    """Hold CTRL-C back until the step in hand is done: gives a function that says whether it came. A second one acts at once."""
    came = []

    def note(number, frame):
        came.append(number)
        signal.signal(signal.SIGINT, before)

    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    before = signal.signal(signal.SIGINT, note)
    try:
        yield lambda: bool(came)
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def _threads(count: int | None):
    """Run torch on `count` CPU threads, and give back the old number (None: leave it)."""
    import torch

    before = torch.get_num_threads()
    if count is not None:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _check(config: TrainConfig) -> None:
    """Raise one `UsageError` that lists everything impossible in `config`."""
    problems = [f"{name} is {value}, must be {'0 or more' if name in _MAY_BE_ZERO else 'above 0'}" for name, value in asdict(config).items()
                if value < 0 or (value == 0 and name not in _MAY_BE_ZERO)]
    if not problems:
        if config.hidden % (2 * config.heads):
            problems.append(f"hidden {config.hidden} is not an even multiple of heads {config.heads}")
        if config.heads % config.kv_heads:
            problems.append(f"heads {config.heads} is not a multiple of kv_heads {config.kv_heads}")
        if config.vocabulary < 257:
            problems.append(f"vocabulary {config.vocabulary} is below 257, the bytes and {END}")
        if config.window > config.context:
            problems.append(f"window {config.window} is longer than the context {config.context}")
        if config.batch * config.window % config.context:
            problems.append(f"a step of {config.batch} x {config.window} tokens is not a multiple of the context {config.context}")
        if config.steps < 1:
            problems.append(f"tokens {config.tokens} is less than one batch of {config.batch * config.window}")
    if config.decay > 1:
        problems.append(f"decay {config.decay} is not a share between 0 and 1")
    if problems:
        raise UsageError("train: " + "; ".join(problems))


def command(config: TrainConfig) -> str:
    """The shell command that makes this run: only what differs from the defaults is named."""
    default = asdict(TrainConfig())
    parts = [f"--{name.replace('_', '-')} {value}" for name, value in asdict(config).items() if value != default[name]]
    return " ".join(["analysis lab train", *parts])


def _card(run: _Run) -> dict:
    """The training card: what was trained, on how much, how well, with what."""
    import torch
    import transformers

    table = evaluate(run.model, run.tokenizer)
    return {
        "command": command(run.config),
        "config": asdict(run.config),
        "parameters": sum(p.numel() for p in run.model.parameters()),
        "vocabulary": len(run.tokenizer),
        "tokens": run.step * run.config.batch * run.config.window,
        "seconds": round(run.seconds, 1),
        "held_out": {register: {"loss_nats_per_token": row["loss"], "perplexity": math.exp(row["loss"]),
                                "source_entropy_nats_per_token": row["source"], "tokens": row["tokens"]} for register, row in table.items()},
        "loss_curve": {"columns": ["tokens", "loss_nats_per_token"], "points": run.curve},
        "device": run.device,
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "transformers": transformers.__version__},
    }


_HELP = {
    "tokens": "tokens to train on", "window": "window length before the decay", "batch": "windows per step before the decay",
    "context": "longest window of the model, used in the decay", "vocabulary": "tokens of the tokenizer", "hidden": "hidden size",
    "intermediate": "MLP size", "blocks": "transformer blocks", "heads": "attention heads", "kv_heads": "key-value heads",
    "learning_rate": "highest learning rate", "weight_decay": "AdamW weight decay of the matrices", "warmup": "tokens of rising learning rate",
    "decay": "share of the tokens over which the rate falls to zero", "seed": "seed of weights and training stream", "threads": "CPU threads of torch",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `analysis lab train`: one per field of `TrainConfig`, plus the folder and the device."""
    parser.add_argument("--out", type=Path, default=None, help="folder of the model (default: decoder/ under the runs folder)")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda (default: %(default)s)")
    for name, value in asdict(TrainConfig()).items():
        option = "--" + name.replace("_", "-")
        parser.add_argument(option, type=type(value), default=value, metavar="N", help=_HELP[name] + " (default: %(default)s)")
