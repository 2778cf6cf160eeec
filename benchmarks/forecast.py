"""Forecasts beside measurements: seconds of every stage, and the most memory held. By hand.

    python benchmarks/forecast.py                       # all rows; --model, --recipe choose among them
    python benchmarks/forecast.py --model lab --json    # for machines

Every run has a process of its own, on one thread. Seconds are those of the table `cost`, as far as the processor was
this process's, so that a busy machine gives about the same rows. Memory is the largest `peak_memory_mib` there, the
resident size of the process, where the kernel lets it be reset between stages. The machine is timed in the same process
just before. Text is that of the lab; the larger models are random ones with the lab's tokenizer, a Llama of 50 million
parameters and a Mixtral of 30 million, whose tokens go to two of eight experts. The goal is a factor of 2 in time and
20 % in memory.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from multiprocessing import get_context
from pathlib import Path

MODELS = {
    "lab": (32, 10),
    "lab/large": (16, 5),
    "llama-50m": (8, 2),
    "mixture": (8, 2),
}  # windows of 128 tokens, epochs
RECIPES = {
    "LR": "wanda-50% LR",
    "SparseGPT": "sparsegpt-50% LR",
    "ridge": "wanda-50% ridge",
    "BR+GP": "wanda-50% BR+GP[epochs={epochs}]",
    "halves": "wanda-50% BR+GP[unit=sub-block,epochs={epochs}]",
    "CR": "wanda-50% BR+GP+CR[epochs={epochs}]",
}
LENGTH = 128
LARGER = {
    "llama-50m": ("Llama", dict(hidden_size=512, intermediate_size=1376, num_hidden_layers=14, num_attention_heads=8)),
    "mixture": (
        "Mixtral",
        dict(
            hidden_size=256,
            intermediate_size=512,
            num_hidden_layers=8,
            num_attention_heads=8,
            num_local_experts=8,
            num_experts_per_tok=2,
        ),
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", action="append", choices=MODELS)
    parser.add_argument("--recipe", action="append", choices=RECIPES)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    chosen = [(model, recipe) for model in arguments.model or MODELS for recipe in arguments.recipe or RECIPES]
    if arguments.one:
        print(json.dumps(compared(*chosen[0])))
        return
    rows = [row(model, recipe) for model, recipe in chosen]
    print(json.dumps(rows, indent=1) if arguments.json else "\n".join(map(line, rows)))


def row(model: str, recipe: str) -> dict:
    """One comparison, in a process of its own."""
    command = [sys.executable, __file__, "--one", "--model", model, "--recipe", recipe]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


def line(row: dict) -> str:
    """A comparison as text, with its stages."""
    parts = "  ".join(
        f"{name} {one['forecast']:.1f}/{one['measured']:.1f} s {one['memory'][0]:.0f}/{one['memory'][1]:.0f} MiB"
        for name, one in row["stages"].items()
    )
    return (
        f"{row['model']:10} {row['recipe']:10} time {row['seconds']['forecast']:6.1f} s forecast,"
        f" {row['seconds']['measured']:6.1f} s measured ({row['seconds']['ratio']:.2f});  memory"
        f" {row['memory']['forecast']:6.0f} MiB, {row['memory']['measured']:6.0f} MiB ({row['memory']['ratio']:.2f})\n"
        f"{'':22}{parts}"
    )


def compared(model: str, recipe: str) -> dict:
    """Forecast and measurement of one run in this process."""
    from analysis.study.run import Bench

    with tempfile.TemporaryDirectory() as folder:
        job, expected = planned(model, recipe, Path(folder))
        bench = Bench(reuse=False)
        inputs = bench.prepare(job)
        wall, processor = time.perf_counter(), time.process_time()
        outcome = bench.carry_out(job, inputs, Path(folder) / "checkpoint")
        share = (time.process_time() - processor) / (time.perf_counter() - wall)
    cost = outcome.tables["cost"]
    measured = (cost.groupby("stage")["seconds"].sum() * share).to_dict()
    foreseen = {stage.name: stage.seconds or 0.0 for stage in expected.stages if stage.name not in ("load", "save")}
    stages = {
        name: {"forecast": foreseen.get(name, 0.0), "measured": measured.get(name, 0.0)}
        for name in dict.fromkeys([*foreseen, *measured])
    }
    held = {stage.name: stage.held.host / 2**20 for stage in expected.stages if stage.name in measured}
    peaks = cost.groupby("stage")["peak_memory_mib"].max().to_dict()
    for name, one in stages.items():
        one["memory"] = [held.get(name, 0.0), peaks.get(name, 0.0)]
    return {
        "model": model,
        "recipe": recipe,
        "seconds": ratio(sum(foreseen.values()), sum(measured.values())),
        "memory": ratio(max(held.values()), max(peaks.values())),
        "stages": stages,
    }


def ratio(forecast: float, measured: float) -> dict[str, float]:
    return {"forecast": forecast, "measured": measured, "ratio": forecast / measured}


def planned(model: str, recipe: str, folder: Path):
    """The job of a row, and its forecast for this machine as it is now."""
    import torch

    from analysis.models.shape import model_shape
    from analysis.study.fit import free_memory
    from analysis.study.forecast import forecast
    from analysis.study.job import Job
    from analysis.study.machine import calibrate

    torch.set_num_threads(1)
    machine = calibrate(torch.device("cpu"))
    samples, epochs = MODELS[model]
    larger = folder / "model"
    if random := model in LARGER:  # in another process, so that this one does not keep what making it took
        making = get_context("spawn").Process(target=make_larger, args=(larger, model))
        making.start()
        making.join()
    job = Job(
        model=str(larger) if random else model,
        recipe=RECIPES[recipe].format(epochs=epochs),
        calibration="lab:stories",
        held_out={"stories": "lab:stories"},
        samples=samples,
        length=LENGTH,
        device="cpu",
    )
    return job, forecast(job, model_shape(job.model), "cpu", machine, room=free_memory("cpu"), saves=False)


def make_larger(folder: Path, model: str) -> None:
    """A random model with the lab's tokenizer."""
    import transformers

    from analysis import paths

    kind, sizes = LARGER[model]
    common = dict(vocab_size=8192, max_position_embeddings=512, num_key_value_heads=4, tie_word_embeddings=False)
    config = getattr(transformers, f"{kind}Config")(**common | sizes)
    getattr(transformers, f"{kind}ForCausalLM")(config).save_pretrained(folder)
    for file in (paths.lab() / "decoder").glob("*token*"):
        shutil.copy(file, folder)


if __name__ == "__main__":
    main()
