"""The settings of a training: what they may be, the learning rate that follows from them, and their options on the
command line.
"""

import argparse
import math
from dataclasses import asdict
from typing import Any, ClassVar

from analysis import memory, paths
from analysis.errors import UsageError

MAY_BE_ZERO = ("seed", "weight_decay", "warmup", "dropout", "aligned", "balance")
LARGEST = {"seed": 10**13, "threads": 4096}  # torch's seeds are of 64 bits, made of ours times a million
BELOW_ONE = ("dropout", "masked")
TRAINING_OPTIONS = {
    "tokens": "tokens to train on",
    "window": "window length before the decay",
    "batch": "windows per step before the decay",
    "context": "longest window of the model, used in the decay",
    "vocabulary": "tokens of the tokenizer",
    "hidden": "hidden size",
    "intermediate": "MLP size",
    "blocks": "transformer blocks",
    "heads": "attention heads",
    "learning_rate": "highest learning rate",
    "weight_decay": "AdamW weight decay of the matrices",
    "warmup": "tokens of rising learning rate",
    "decay": "share of the tokens over which the rate falls to zero",
    "seed": "seed of weights and training stream",
    "threads": "CPU threads of torch",
}
"""What the fields of a pretraining mean, for the command line; every training adds, or says otherwise, what differs."""


class Schedule:
    """What every training's frozen dataclass of settings has, and the learning rate that follows from it.

    The field named by `unit` says how much is read in all; `warmup` counts the same. The rate rises over `warmup`,
    stays, and falls linearly to zero over the last `decay` share.
    """

    __dataclass_fields__: ClassVar[dict[str, Any]]
    unit: ClassVar[str] = "tokens"
    learning_rate: float
    weight_decay: float
    warmup: int
    decay: float
    seed: int
    threads: int

    @property
    def per_step(self) -> int:
        """Units read in one step."""
        raise NotImplementedError

    @property
    def steps(self) -> int:
        """Optimiser steps in all that is read."""
        return getattr(self, self.unit) // self.per_step

    @property
    def decay_start(self) -> int:
        """First step of the decay."""
        return self.steps - int(self.decay * self.steps)

    def rate(self, step: int) -> float:
        """Learning rate of `step`, counted from 0."""
        warmup = max(1, self.warmup // self.per_step)
        left = (self.steps - step) / max(1, self.steps - self.decay_start)
        return self.learning_rate * min(1.0, (step + 1) / warmup, left)

    @property
    def memory(self) -> int:
        """Bytes that the training holds at the very least; 0 where the settings do not say."""
        return 0

    def problems(self) -> list[str]:
        """What is impossible in settings that are numbers of the right sign."""
        return []


class Windowed(Schedule):
    """The settings that pretrainings share: windows of `window` tokens, of `context` once the decay has begun, as many
    tokens a step throughout.
    """

    tokens: int
    window: int
    batch: int
    context: int
    vocabulary: int
    blocks: int

    @property
    def parameters(self) -> int:
        """Weights of the model, but for a few vectors."""
        raise NotImplementedError

    @property
    def memory(self) -> int:
        """Weights, gradients and two moments in float32, what Python keeps of a block, and the logits of a step with
        their gradient.
        """
        return 16 * self.parameters + 50_000 * self.blocks + 8 * self.per_step * self.vocabulary

    @property
    def per_step(self) -> int:
        """Tokens read in one step."""
        return self.batch * self.window

    def length(self, step: int) -> int:
        """Window length of `step`."""
        return self.window if step < self.decay_start else self.context

    def problems(self) -> list[str]:
        """What is impossible in the window lengths."""
        problems = []
        if self.window > self.context:
            problems.append(f"window {self.window} is longer than the context {self.context}")
        if self.per_step % self.context:
            problems.append(
                f"a step of {self.batch} x {self.window} tokens is not a multiple of the context {self.context}"
            )
        if self.steps < 1:
            problems.append(f"tokens {self.tokens} is less than one batch of {self.per_step}")
        return problems


def check_config(config: Schedule, kind: type[Schedule] = Schedule) -> None:
    """Raise one `UsageError` that lists everything impossible in `config`: what is no `kind`, no number, not finite or
    out of range, and what `config.problems` says where there is nothing of that.
    """
    if not isinstance(config, kind):
        raise UsageError(f"train: config must be a {kind.__name__}, got {config!r:.60}")
    problems = [
        f"{name} is {value!r:.60}, must be {valid}"
        for name, value in asdict(config).items()
        if (valid := _misfit(name, value, type(getattr(type(config), name))))
    ]
    problems = problems or config.problems()
    if problems:
        raise UsageError("train: " + "; ".join(problems))


def _misfit(name: str, value: object, kind: type) -> str:
    """What a setting must be, where it is not; "" where it is."""
    if kind not in (int, float):
        return "" if isinstance(value, kind) else f"a {kind.__name__}"
    says = "0 or more" if name in MAY_BE_ZERO else "above 0"
    if isinstance(value, bool) or not isinstance(value, int if kind is int else (int, float)):
        return f"a {'whole ' if kind is int else ''}number, {says}"
    if not abs(value) < (2**63 if kind is int else math.inf):  # nan too
        return f"a {'number below 2^63' if kind is int else 'finite number'}, {says}"
    if value < 0 or (value == 0 and name not in MAY_BE_ZERO):
        return says
    if (name in BELOW_ONE and value >= 1) or (name == "decay" and value > 1):
        return f"a share, {says} and {'at most' if name == 'decay' else 'below'} 1"
    return f"at most {LARGEST[name]:,}" if value > LARGEST.get(name, value) else ""


def check_memory(config: Schedule) -> None:
    """Raise UsageError where the least that `config` needs is more memory than is free."""
    free = memory.available()
    if config.memory > free:
        raise UsageError(
            f"train: a model of these sizes needs at least {config.memory / 2**30:,.1f} GiB of memory,"
            f" {free / 2**30:,.1f} GiB are free; make it smaller (blocks, hidden, intermediate, vocabulary, batch)"
        )


def options(config: Schedule) -> str:
    """The options of the command line that make `config`: only what differs from its defaults is named."""
    default = asdict(type(config)())
    return " ".join(
        f"--{name.replace('_', '-')} {value}" for name, value in asdict(config).items() if value != default[name]
    )


def add_options(parser: argparse.ArgumentParser, config: Schedule, folder: str, **meanings: str) -> None:
    """The folder of the model (by default `folder` under the runs folder), the device, and one option per field of
    `config`, whose value is the default and whose meaning is that of `OPTIONS` where `meanings` has none.
    """
    parser.add_argument(
        "--out",
        type=paths.expanded,
        default=None,
        help=f"folder of the model (default: {folder}/ under the runs folder)",
    )
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda (default: %(default)s)")
    for name, value in asdict(config).items():
        parser.add_argument(
            "--" + name.replace("_", "-"),
            type=type(value),
            default=value,
            metavar="N",
            help=(TRAINING_OPTIONS | meanings)[name] + " (default: %(default)s)",
        )
