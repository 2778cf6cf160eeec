"""A pruning that takes no time and no torch, so that a study's own business can be tested, also in other processes."""

import contextlib
import json
import os
import signal
import struct
import sys
import time
import types
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class TaskScore:
    """What `measure/zero_shot.py` says of one task."""

    task: str
    documents: int
    choices: float
    chance: float
    accuracy: float
    standard_error: float
    accuracy_norm: float = 0.25
    standard_error_norm: float = 0.05
    left_out: int = 0


SAMPLE = {"int64": 3, "float64": 0.25, "str": "calibration"}


def tables(scale: float = 1.0) -> "dict[str, pd.DataFrame]":
    """One small table of every kind; `steps` is empty, as LR leaves it, and `zero_shot` without tasks."""
    import pandas as pd  # here, since workers that make no table import this file too

    from analysis.schema import TABLES

    made = {}
    for name, columns in TABLES.items():
        rows = [{c.name: c.values[i] if c.values else SAMPLE[c.dtype] for c in columns} for i in range(2)]
        frame = pd.DataFrame(rows)
        for column in columns:
            if column.dtype == "float64":
                frame[column.name] *= scale
        made[name] = frame
    return made | {"steps": pd.DataFrame([]), "zero_shot": pd.DataFrame([])}


def model_folder(path: Path, weights: bytes = bytes(16)) -> Path:
    """A folder that has a model's fingerprint and nothing else of a model."""
    path.mkdir()
    (path / "config.json").write_text('{"model_type": "llama"}')
    header = json.dumps(
        {"w": {"dtype": "F32", "shape": [len(weights) // 4], "data_offsets": [0, len(weights)]}}
    ).encode()
    (path / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + weights)
    return path


def install(
    log: Path, *, seconds: float = 0.0, setitem=None, setattr_=setattr, fail: str = "", die: str = "", slow: str = ""
) -> None:
    """Put fakes in place of loading, tokenising and pruning; each call adds a line to `log`.

    seconds: how long a pruning takes, of the method `slow` alone where one is given. fail: a method that raises; die:
    one that ends its process.
    """
    import analysis.models.load
    import analysis.study.run
    import analysis.text.load
    from analysis.errors import NumericalError

    def note(*words) -> None:
        with log.open("a") as file:
            file.write(" ".join(map(str, words)) + "\n")

    def load_model(name, *, device, dtype, placement):
        note("load", Path(name).name)
        device = types.SimpleNamespace(type="cpu")
        about = {"name": name, "fingerprint": f"that of {name}", "device": device, "dtype": "float32"}
        return types.SimpleNamespace(**about, model="dense", tokenizer=None)

    def load_tokens(source, loaded, **options):
        note("tokens", source.rpartition("/")[2], options["samples"], options["seed"], options["split"])
        return (source, options["samples"])

    def draw(load, calibration, samples, added, added_samples):
        return load(calibration, samples) + (load(added, added_samples) if added_samples else ())

    def zero_shot(model, tokenizer, tasks, *, documents, bos):
        note("tasks", model, *tasks, documents)
        return [TaskScore(task, documents, 4.0, 0.25, 0.5 if model == "dense" else 0.375, 0.05) for task in tasks]

    def prune(dense, recipe, calibration, held_out, *, checkpoint, **options):
        resumed = (checkpoint / "unit-0").exists()
        note("prune", recipe, "resumed" if resumed else "fresh", os.getpid())
        checkpoint.mkdir(exist_ok=True)
        (checkpoint / "unit-0").write_text("done")
        time.sleep(seconds if slow in ("", recipe.method) else 0)
        if recipe.method == die:
            os.kill(os.getpid(), signal.SIGKILL)
        if recipe.method == fail:
            raise NumericalError("block 0 mlp.down_proj: not finite")
        return types.SimpleNamespace(
            model="pruned",
            tables=tables(1 + recipe.seed),
            provenance={"calibration": list(calibration)},
            shrink=lambda: "smaller",
        )

    def check_questions(model, tokenizer, tasks, *, documents, bos):
        pass

    def memory_told(job):
        return contextlib.nullcontext()

    def DenseModel(source):
        return source

    def kept_threads(folder):
        return None

    def computing_with(threads):
        return contextlib.nullcontext()

    fakes = {
        "analysis.pruning.loop": [prune],
        "analysis.pruning.checkpoint": [kept_threads, computing_with],
        "analysis.measure.quality": [DenseModel],
        "analysis.study.fit": [memory_told],
        "analysis.measure.zero_shot": [zero_shot, check_questions],
    }
    for name, functions in fakes.items():
        module = types.ModuleType(name)
        for function in functions:
            setattr(module, function.__name__, function)
        (setitem or (lambda where, key, value: where.__setitem__(key, value)))(sys.modules, name, module)
    setattr_(analysis.study.run, "draw", draw)
    setattr_(analysis.study.run, "check_slices", lambda job: None)
    setattr_(analysis.study.run, "without_shared", lambda job, dense, calibration, held_out: held_out)
    setattr_(analysis.models.load, "load_model", load_model)
    setattr_(analysis.text.load, "load_tokens", load_tokens)


def lines(log: Path, word: str) -> list[str]:
    """Lines of a log that begin with a word."""
    return [line for line in log.read_text().splitlines() if line.startswith(word)]


# What workers are given to do -----------------------------------------------------------------------------------------


def items(log, *wishes) -> list[tuple[str, dict]]:
    """What `act` is asked, one of a number and a wish each."""
    return [(str(log), {"name": number, **wish}) for number, wish in enumerate(wishes)]


def begun(log) -> list[list[str]]:
    """What `act` has noted, in words."""
    return [line.split() for line in Path(log).read_text().splitlines()]


def act(item: tuple[str, dict]) -> None:
    """Wait for `until` lines in the log and `sleep` seconds, add a line (name, process, threads, its bars); then,
    unless there are more than `dies` lines, sleep on, print, raise or die.
    """
    log, do = item
    while len(Path(log).read_text().splitlines()) < do.get("until", 0):
        time.sleep(0.02)
    time.sleep(do.get("sleep", 0))
    with open(log, "a") as file:
        seen = os.environ["OMP_NUM_THREADS"], os.environ["ANALYSIS_PROGRESS"], "ANALYSIS_PROGRESS_FILE" in os.environ
        file.write(" ".join(map(str, (do["name"], os.getpid(), *seen))) + "\n")
    if len(Path(log).read_text().splitlines()) > do.get("dies", 10**6):
        return
    time.sleep(do.get("then_sleep", 0))
    if "print" in do:
        print(do["print"], flush=True)
    if "raise" in do:
        raise do["raise"]
    if "status" in do:
        os._exit(do["status"])
    if "signal" in do:
        os.kill(os.getpid(), do["signal"])


class Unportable(Exception):
    """An error that pickle cannot put together again."""

    def __init__(self, one, two):
        super().__init__(f"{one} and {two}")


def fail_unportably(item) -> None:
    raise Unportable(*item)


def note_gpu(log: str) -> None:
    """Add the GPU that this process is shown to the log, once two processes are there to do so."""
    with open(log, "a") as file:
        file.write(f"{os.getpid()} {os.environ.get('CUDA_VISIBLE_DEVICES')}\n")
    while len({line.split()[0] for line in Path(log).read_text().splitlines()}) < 2:
        time.sleep(0.02)


def troubled(item) -> None:
    """A study's real run elsewhere; but that of magnitude kills its process once its first visit is kept, and that of
    random fails.
    """
    from unittest import mock

    from analysis.errors import NumericalError
    from analysis.pruning.checkpoint import Checkpoint
    from analysis.study.remote import work_elsewhere

    write = Checkpoint.write

    def kill_after_first(self, index, *what):
        write(self, index, *what)
        if index == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    criterion = item[0].recipe.criterion.name
    if criterion == "random":
        raise NumericalError("block 0: not finite")
    with mock.patch.object(Checkpoint, "write", kill_after_first if criterion == "magnitude" else write):
        work_elsewhere(item)
