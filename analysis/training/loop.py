"""The loop that every training of the lab shares: steps, a checkpoint to continue from, and the card of what was made.

The data of step `n` are a function of `n` alone, so a run that was stopped (a closed laptop, CTRL-C) continues from its
checkpoint and ends bit-equal, on CPU with the same thread count, to one that never stopped. Nothing heavy is imported
before a run starts.
"""

import argparse
import json
import platform
import signal
import threading
import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

from analysis import storage
from analysis.errors import StoreError, UsageError
from analysis.progress import bar

_CHECKPOINT = "checkpoint.safetensors"
MAY_BE_ZERO = ("seed", "weight_decay", "warmup", "dropout")
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


@dataclass(frozen=True)
class Training:
    """One training: a model, what it reads and what it loses by.

    `config` is a frozen dataclass; how much it reads in all may change before the decay. `batches[n]` is what step `n`
    reads, `loss(model, batch)` its mean loss in nats, `scores(model)` what the card says of the trained model, `more`
    what else it says.
    """

    config: Schedule
    model: Any
    tokenizer: Any
    batches: Any
    loss: Callable[[Any, Any], Any]
    scores: Callable[[Any], dict]
    command: str
    more: dict = field(default_factory=dict)


def run(
    make: Callable[[], Training],
    config: Schedule,
    out: Path,
    *,
    device: str = "auto",
    progress: Callable = bar,
    save_every: int = 200,
    stop: Callable[[int], bool] | None = None,
) -> Path:
    """Train what `make` returns into folder `out` and return it; continue from its checkpoint if there is one.

    Writes a checkpoint every `save_every` steps and on CTRL-C (after the step in hand, then raises
    `KeyboardInterrupt`); at the end the model, the tokenizer and the training card `training.json`; the checkpoint then
    goes. `stop(step)` ends the run early, checkpoint kept. Raises `UsageError` for impossible settings, a device that
    is not here or a file in the place of the folder, `StoreError` if the checkpoint is of another configuration.
    """
    check_config(config)
    if out.exists() and not out.is_dir():
        raise UsageError(f"train: {out} is a file; the model needs a folder")
    out.mkdir(parents=True, exist_ok=True)
    device = pick(device)
    with _threads(config.threads if device == "cpu" else None):
        state = _Run(make(), out, device)
        state.load()
        with progress(total=config.steps, desc="train", unit="step") as shown, _interrupts() as interrupted:
            shown.update(state.step)
            while state.step < config.steps:
                stopped = stop is not None and stop(state.step)
                if stopped or interrupted():
                    state.save()
                    if stopped:
                        return out
                    raise KeyboardInterrupt
                loss = state.advance()
                shown.update(1)
                if state.step % 10 == 0:
                    shown.set_postfix(loss=f"{loss:.3f}")
                if state.step % save_every == 0:
                    state.save()
        state.finish()
    return out


class _Run:
    """Model, optimiser and record of a training run: what a checkpoint holds."""

    def __init__(self, training: Training, out: Path, device: str):
        import torch

        self.training, self.config, self.out, self.device = training, training.config, out, device
        self.model = training.model.to(device).train()
        matrices = [p for p in self.model.parameters() if p.dim() > 1]
        vectors = [p for p in self.model.parameters() if p.dim() == 1]
        self.optimizer = torch.optim.AdamW(
            [{"params": matrices, "weight_decay": self.config.weight_decay}, {"params": vectors, "weight_decay": 0.0}],
            lr=self.config.learning_rate,
            betas=(0.9, 0.98),
            fused=True,
        )
        self.step, self.seconds, self._sum = 0, 0.0, 0.0
        self.curve: list[list[float]] = []

    def advance(self) -> float:
        """One optimiser step; returns its loss (nats)."""
        import torch

        started = time.perf_counter()
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.rate(self.step)
        with torch.random.fork_rng(devices=[]):  # dropout, where a model has it, is a function of the step too
            torch.manual_seed(1_000_003 * self.config.seed + self.step)
            loss = self.training.loss(self.model, self.training.batches[self.step])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        self._sum += loss.item()
        every = max(1, min(100, self.config.steps // 20))
        if self.step % every == 0:
            self.curve.append([self.step * self.config.per_step, round(self._sum / every, 4)])
            self._sum = 0.0
        self.seconds += time.perf_counter() - started
        return loss.item()

    def save(self) -> None:
        """Write the checkpoint, whole or not at all."""
        from safetensors.torch import save_file

        optimizer = self.optimizer.state_dict()
        record = {
            "config": asdict(self.config),
            "step": self.step,
            "seconds": self.seconds,
            "curve": self.curve,
            "sum": self._sum,
            "groups": optimizer["param_groups"],
        }
        tensors = {f"model/{name}": tensor for name, tensor in self.model.state_dict().items()} | {
            f"optimizer/{number}/{name}": tensor
            for number, moments in optimizer["state"].items()
            for name, tensor in moments.items()
        }
        copies = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}
        with storage.replacing(self.out / _CHECKPOINT) as partial:
            save_file(copies, partial, metadata={"record": json.dumps(record)})

    def load(self) -> None:
        """Read the checkpoint if there is one."""
        from safetensors import SafetensorError, safe_open

        path, unit = self.out / _CHECKPOINT, self.config.unit
        if not path.exists():
            return
        try:
            with safe_open(path, framework="pt", device=self.device) as file:
                state = json.loads(file.metadata()["record"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}
        except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
            raise StoreError(
                f"train: the checkpoint {path} cannot be read ({error}); delete it to start again"
            ) from error
        config, saved = asdict(self.config), state["config"]
        different = sorted(name for name in config if config[name] != saved.get(name) and name != unit)
        if different:
            raise StoreError(
                f"train: {path} was made with other values of {', '.join(different)}; use another folder or delete it"
            )
        begun = min(self.config.decay_start, replace(self.config, **{unit: saved[unit]}).decay_start) < state["step"]
        if begun and config[unit] != saved[unit]:
            raise StoreError(
                f"train: {path} was made for {saved[unit]} {unit} and is too far on to change to {config[unit]}"
            )
        moments: dict[int, dict[str, Any]] = {}
        for name, tensor in tensors.items():
            if name.startswith("optimizer/"):
                _, number, kind = name.split("/")
                moments.setdefault(int(number), {})[kind] = tensor
        weights = {name.removeprefix("model/"): t for name, t in tensors.items() if name.startswith("model/")}
        self.model.load_state_dict(weights)
        self.optimizer.load_state_dict({"state": moments, "param_groups": state["groups"]})
        self.step, self.seconds, self.curve, self._sum = state["step"], state["seconds"], state["curve"], state["sum"]

    def finish(self) -> None:
        """Write model, tokenizer and training card, and remove the checkpoint."""
        self.model.eval()
        self.model.save_pretrained(self.out)
        self.training.tokenizer.save_pretrained(self.out)
        (self.out / "training.json").write_text(json.dumps(self._card(), indent=1) + "\n")
        (self.out / _CHECKPOINT).unlink(missing_ok=True)

    def _card(self) -> dict:
        """The training card: what was trained, on how much, how well, with what."""
        import torch
        import transformers

        return {
            "command": self.training.command,
            "config": asdict(self.config),
            **self.training.more,
            "parameters": sum(p.numel() for p in self.model.parameters()),
            "vocabulary": len(self.training.tokenizer),
            self.config.unit: self.step * self.config.per_step,
            "seconds": round(self.seconds, 1),
            "held_out": self.training.scores(self.model),
            "loss_curve": {
                "columns": [self.config.unit, "loss_nats_per_token" if self.config.unit == "tokens" else "loss"],
                "points": self.curve,
            },
            "device": self.device,
            "versions": {
                "python": platform.python_version(),
                "torch": torch.__version__,
                "transformers": transformers.__version__,
            },
        }


def pick(device: str) -> str:
    """The device to train on: `cpu`, `cuda`, or for `auto` the better of the two that is here."""
    import torch

    devices = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
    if device != "auto" and device not in devices:
        raise UsageError(f"train: device {device!r}: not here; possible are auto, {', '.join(devices)}")
    return devices[-1] if device == "auto" else device


def check_config(config: Schedule) -> None:
    """Raise one `UsageError` that lists everything impossible in `config`: numbers below zero, zeros, and what
    `config.problems` says where there are none.
    """
    problems = [
        f"{name} is {value}, must be {'0 or more' if name in MAY_BE_ZERO else 'above 0'}"
        for name, value in asdict(config).items()
        if value < 0 or (value == 0 and name not in MAY_BE_ZERO)
    ]
    if not problems:
        problems += config.problems()
    if config.decay > 1:
        problems.append(f"decay {config.decay} is not a share between 0 and 1")
    if problems:
        raise UsageError("train: " + "; ".join(problems))


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
        "--out", type=Path, default=None, help=f"folder of the model (default: {folder}/ under the runs folder)"
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


@contextmanager
def _interrupts():
    """Hold CTRL-C back until the step in hand is done: gives a function that says whether it came. A second one acts at
    once.
    """
    came: list[int] = []

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
