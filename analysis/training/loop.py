"""The loop that every training of the lab shares: steps, a checkpoint to continue from, and the card of what was made.

The data of step `n` are a function of `n` alone, so a run that was stopped (a closed laptop, CTRL-C) continues from its
checkpoint and ends bit-equal, on CPU with the same thread count, to one that never stopped. Nothing heavy is imported
before a run starts.
"""

import json
import math
import platform
import signal
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from analysis import storage
from analysis.errors import NumericalError, StoreError, UsageError
from analysis.progress import bar
from analysis.training.folder import CHECKPOINT, claimed, out_folder, place, record, state, unreadable
from analysis.training.settings import Schedule, check_config, check_memory


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
    out: str | Path,
    *,
    reads: Mapping[str, str],
    device: str = "auto",
    progress: Callable = bar,
    save_every: int = 200,
    stop: Callable[[int], bool] | None = None,
) -> Path:
    """Train what `make` returns into folder `out` and return it; continue from its checkpoint if there is one.

    reads: fingerprints, by name, of what the training reads besides `config`. Writes a checkpoint every `save_every`
    steps and on CTRL-C (after the step in hand, then raises `KeyboardInterrupt`); at the end the model, the tokenizer
    and the training card `training.json`; the checkpoint then goes. A folder that holds this very training, finished,
    is left as it is. `stop(step)` ends the run early, checkpoint kept.

    Raises `UsageError` for impossible settings, a device that is not here, more memory than there is, or a file in the
    place of the folder; `StoreError` if the folder holds another training or other files, is being written by another
    process, or cannot be written; `NumericalError` when loss, gradients or weights are no longer finite.
    """
    check_config(config)
    check_memory(config)
    if not isinstance(save_every, int) or save_every < 1:
        raise UsageError(f"train: save_every must be a whole number of at least 1, got {save_every!r}")
    out, device, asked = out_folder(out), pick(device), asdict(config) | dict(reads)
    if state(out, asked, config.unit) == "complete":
        return out
    with _threads(config.threads if device == "cpu" else None), claimed(out, asked, config.unit) as found:
        if found == "complete":  # since
            return out
        run = _Run(make(), asked, out, device)
        if found == "resume":
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

    def __init__(self, training: Training, asked: dict[str, Any], out: Path, device: str):
        import torch

        from analysis.text.tokens import tokenizer_fingerprint

        self.training, self.config, self.asked, self.out, self.device = training, training.config, asked, out, device
        self.tokenizer = tokenizer_fingerprint(training.tokenizer)
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
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        if not math.isfinite(loss.item()) or not math.isfinite(norm.item()):
            raise self._diverged(f"the loss is {loss.item():.3g} and its gradient {norm.item():.3g}")
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        self._sum += loss.item()
        every = max(1, min(100, self.config.steps // 20))
        if self.step % every == 0:
            last = self.curve[-1][0] // self.config.per_step if self.curve else 0  # a longer run has longer intervals
            self.curve.append([self.step * self.config.per_step, round(self._sum / (self.step - last), 4)])
            self._sum = 0.0
        self.seconds += time.perf_counter() - started
        return loss.item()

    def _diverged(self, what: str) -> NumericalError:
        """The error for a training that has left the numbers."""
        return NumericalError(
            f"train: step {self.step + 1} of {self.config.steps}: {what}; begin again, in another folder, with a"
            f" learning rate below {self.config.learning_rate:g}"
        )

    def _check_finite(self) -> None:
        """Raise NumericalError where a weight is not finite."""
        for name, parameter in self.model.named_parameters():
            if not bool(parameter.isfinite().all()):
                raise self._diverged(f"weights of {name} are not finite")

    def save(self) -> None:
        """Write the checkpoint, whole or not at all."""
        from safetensors.torch import save_file

        self._check_finite()
        optimizer = self.optimizer.state_dict()
        saved = {
            "asked": self.asked,
            "tokenizer": self.tokenizer,
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
        with storage.replacing(self.out / CHECKPOINT) as partial:
            save_file(copies, partial, metadata={"record": json.dumps(saved)})

    def load(self) -> None:
        """Read the checkpoint. Raises StoreError where it is torn, of another tokenizer, or too far on for the asked
        length.
        """
        from safetensors import SafetensorError, safe_open

        path, unit, saved = self.out / CHECKPOINT, self.config.unit, record(self.out)
        if saved.get("tokenizer") != self.tokenizer:
            raise StoreError(f"train: {path} was made with another tokenizer; name another folder, or delete it")
        try:
            with safe_open(path, framework="pt", device=self.device) as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}
            before, step = saved["asked"][unit], saved["step"]
            moments: dict[int, dict[str, Any]] = {}
            for name, tensor in tensors.items():
                if name.startswith("optimizer/"):
                    _, number, kind = name.split("/")
                    moments.setdefault(int(number), {})[kind] = tensor
            weights = {name.removeprefix("model/"): t for name, t in tensors.items() if name.startswith("model/")}
            self.model.load_state_dict(weights)
            self.optimizer.load_state_dict({"state": moments, "param_groups": saved["groups"]})
            self.step, self.seconds, self.curve, self._sum = step, saved["seconds"], saved["curve"], saved["sum"]
        except (SafetensorError, OSError, KeyError, TypeError, ValueError, RuntimeError) as error:
            raise unreadable(path, error) from error
        begun = min(self.config.decay_start, replace(self.config, **{unit: before}).decay_start) < step
        if begun and getattr(self.config, unit) != before:
            raise StoreError(
                f"train: {path} was made for {before} {unit} and is too far on to change to"
                f" {getattr(self.config, unit)}"
            )

    def finish(self) -> None:
        """Place model, tokenizer and training card, and remove the checkpoint."""
        self._check_finite()
        self.model.eval()
        try:
            card = self._card()
            json.dumps(card, allow_nan=False)
        except (ValueError, OverflowError) as error:
            raise self._diverged(f"the scores of the trained model are not finite ({error})") from error

        def save(folder: Path) -> None:
            self.model.save_pretrained(folder)
            self.training.tokenizer.save_pretrained(folder)

        place(self.out, save, card)

    def _card(self) -> dict:
        """The training card: what was trained, on how much, how well, with what."""
        import torch
        import transformers

        return {
            "command": self.training.command,
            "config": asdict(self.config),
            **self.training.more,
            "asked": self.asked,
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
