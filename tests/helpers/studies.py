"""Tables that the jobs of a study could have left, made up: every number a function of its job and the text alone."""

import zlib
from types import SimpleNamespace

import numpy as np
import pandas as pd

from analysis.schema import conform, study_columns
from analysis.study.job import grid

SIZES = {"lab/small": 100, "lab": 1000, "lab/large": 3000}  # rows of a made-up matrix


def made_up(*words):
    """A number between 0 and 1 that is always the same for the same words."""
    return zlib.crc32(repr(words).encode()) % 1000 / 1000


def study(made, samples=(32,), seeds=(0, 1), blocks=3):
    """`leave` for every recipe of `made` on one model and text."""
    return leave(
        grid(
            model="lab", recipes=made, samples=list(samples), seeds=list(seeds), calibration="lab:stories", length=128
        ),
        blocks,
    )


def leave(jobs, blocks=3):
    """The tables that jobs could have left; every number a function of the job and the split alone."""
    rows = {name: [] for name in ("blocks", "steps", "layers", "matrices", "cost", "perplexity", "texts", "zero_shot")}
    for job in jobs:
        run = f"prune-{zlib.crc32(str(job).encode()):08x}"
        front, solver, unit = job.columns(run), job.recipe.solver, job.recipe.unit
        trained = solver.name in ("gradient", "retrain")
        quality = zlib.crc32(job.recipe.label.encode()) % 1000 / 1000 + 10 / job.samples
        if job.model != "lab" or job.calibration != "lab:stories" or job.added_samples:
            quality += made_up(job.model, job.calibration, job.added, job.added_samples, job.seed)
        for split, shift in {"calibration": 0.0, "lab:stories/held-out": 0.3, "lab:entries/held-out": 0.9}.items():
            value = 2 + shift + 0.5 * quality + 0.01 * job.seed
            for which, number in {"dense": 1.8 + shift, "pruned": value}.items():
                rows["perplexity"].append(
                    {
                        **front,
                        "split": split,
                        "which": which,
                        "nats_per_token": np.log(number),
                        "perplexity": number,
                        "tokens": 4000,
                        "windows": 32,
                        "context": 128,
                    }
                )
            for block in range(blocks):
                rows["blocks"].append(
                    {
                        **front,
                        "block": block,
                        "split": split,
                        "kind": "total",
                        "error": value,
                        "relative_error": 0.01 * value * (block + 1),
                        "relative_error_rest": 0.02 * value * (block + 1),
                        "relative_error_median": 0.03 * value * (block + 1),
                        "energy_first": 0.01,
                        "energy_top": 0.05,
                    }
                )
            for epoch in range(solver.epochs + 1 if trained else 0):
                rows["steps"].append(
                    {
                        **front,
                        "unit": 0,
                        "first_block": 0,
                        "last_block": 0,
                        "part": "",
                        "epoch": epoch,
                        "step": epoch,
                        "split": split,
                        "error": 1.0,
                        "relative_error": 1.0,
                    }
                )
        width = {"matrix": 0.25, "sub-block": 0.5, "model": blocks}.get(unit.name, unit.width)
        stage = {
            **front,
            "seconds": 2.0,
            "peak_memory_mib": 100.0,
            "solver_memory_mib": 0.0,
            "tokens": 128 * job.samples,
            "trainable_parameters": 0,
        }
        rows["cost"].append({**stage, "unit": -1, "stage": "record"})
        for visit in range(blocks if solver.name != "none" else 0):
            epochs = solver.epochs if trained else 1
            rows["cost"].append(
                {
                    **stage,
                    "unit": visit,
                    "stage": "solve",
                    "seconds": 0.1 * epochs * job.samples / width,
                    "solver_memory_mib": 10.0 * width + visit,
                    "tokens": 128 * job.samples * epochs,
                    "trainable_parameters": 1000,
                }
            )
        rows["matrices"] += [
            {
                **front,
                "block": block,
                "matrix": "mlp.up",
                "rows": SIZES[job.model],
                "columns": 100,
                "kept": 50 * SIZES[job.model],
                "sparsity": 0.5,
            }
            for block in range(blocks)
        ]
        for block in range(blocks):
            for split in ("lab:stories/held-out", "lab:entries/held-out"):
                rows["texts"].append(
                    {
                        **front,
                        "block": block,
                        "split": split,
                        "distance": made_up(job.calibration, job.seed, split) + block,
                    }
                )
        for number, task in enumerate(job.tasks):
            for which, accuracy in {
                "dense": 0.8 - 0.1 * number,
                "pruned": (
                    0.4
                    + 0.3
                    * made_up(
                        job.recipe.label, job.calibration, job.added_samples and job.added, job.added_samples, task
                    )
                ),
            }.items():
                rows["zero_shot"].append(
                    {
                        **front,
                        "task": task,
                        "which": which,
                        "documents": 100,
                        "choices": 2.0 + number,
                        "chance": 1 / (2 + number),
                        "accuracy": accuracy,
                        "standard_error": (accuracy * (1 - accuracy) / 100) ** 0.5,
                        "accuracy_norm": float("nan"),
                        "standard_error_norm": float("nan"),
                        "left_out": number,
                    }
                )
        for block in range(blocks if job.recipe.refinement.name != "none" else 0):
            rows["layers"].append(
                {
                    **front,
                    "block": block,
                    "matrix": "mlp.up",
                    "action": job.recipe.refinement.name,
                    "error_before": 2.0,
                    "error_after": 1.0 + 0.1 * block + 0.05 * job.seed,
                    "steps": 3,
                }
            )
    return SimpleNamespace(
        **{name: conform(name, pd.DataFrame(part), study_columns(name)) for name, part in rows.items()}
    )
