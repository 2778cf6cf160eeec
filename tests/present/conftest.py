"""Made-up tables with the columns of a study: error grows with depth, falls with better methods and with more
windows.
"""

import zlib
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from analysis.schema import conform, study_columns
from analysis.study.grids import grids, recipes
from analysis.study.job import grid

METHODS = {"LR": 1.0, "BR": 0.45, "BR+GP": 0.25, "BR+GP+CR": 0.17}
TASKS = ("lab:yes-no", "lab:entailment")
CRITERIA = {"magnitude": 2.2, "wanda": 1.0, "sparsegpt": 0.8}
SIZES = {"lab/small": 100, "lab": 1000, "lab/large": 3000}  # rows of a made-up matrix
SPLITS = {"calibration": 1.0, "stories": 1.3, "entries": 2.1}


def jobs(samples=(8, 32, 128), seeds=(0, 1)):
    """One dict of job columns for every run of a made-up study."""
    for criterion in CRITERIA:
        for method in METHODS:
            for count in samples:
                for seed in seeds:
                    recipe = f"{criterion}-50% {method}"
                    yield {
                        "run": f"{recipe} {count} {seed}",
                        "model": "lab",
                        "recipe": recipe,
                        "criterion": criterion,
                        "refinement": "none",
                        "pattern": "50%",
                        "method": method,
                        "granularity": "2 blocks, overlap 1" if "CR" in method else "1 block",
                        "student": "sparse",
                        "target": "dense" if "GP" in method else "sparse",
                        "calibration": "lab:stories",
                        "samples": count,
                        "added": "",
                        "added_samples": 0,
                        "length": 128,
                        "seed": seed,
                    }


def level(job, split, noise):
    """Size of an error: recipe, overfitting of few windows off the calibration set, and the seed's noise."""
    gap = 1 if split == "calibration" or job["method"] == "LR" else SPLITS[split] * (1 + 12 / job["samples"])
    return 0.04 * CRITERIA[job["criterion"]] * METHODS[job["method"]] * gap * np.exp(noise.normal(0, 0.04))


@pytest.fixture(scope="session")
def blocks() -> pd.DataFrame:
    noise = np.random.default_rng(0)
    rows = []
    for job in jobs():
        for split in SPLITS:
            size = level(job, split, noise)
            for block in range(8):
                for kind, share in {"total": 1.0, "inherited": 0.8 * block / 8, "local": 0.3, "cross": 0.1}.items():
                    error = size * share * (0.08 + (block / 7) ** 1.5)
                    rows.append(
                        {
                            **job,
                            "block": block,
                            "split": split,
                            "kind": kind,
                            "error": 3 * error,
                            "relative_error": error,
                            "relative_error_rest": error,
                            "relative_error_median": error,
                            "energy_first": 0.01,
                            "energy_top": 0.05,
                        }
                    )
    return pd.DataFrame(rows)


@pytest.fixture(scope="session")
def perplexity() -> pd.DataFrame:
    noise = np.random.default_rng(1)
    rows = []
    for job in jobs():
        for split, register in SPLITS.items():
            dense = 9.0 + register
            for which, value in {"dense": dense, "pruned": dense * (1 + 9 * level(job, split, noise))}.items():
                rows.append(
                    {
                        **job,
                        "split": split,
                        "which": which,
                        "nats_per_token": np.log(value),
                        "perplexity": value,
                        "tokens": 4000,
                        "windows": 32,
                        "context": 128,
                    }
                )
    return pd.DataFrame(rows)


@pytest.fixture(scope="session")
def steps() -> pd.DataFrame:
    noise = np.random.default_rng(2)
    rows = []
    for job in jobs():
        if job["method"] == "LR":
            continue
        for unit in range(9 if "CR" in job["method"] else 8):
            for split in SPLITS:
                size = level(job, split, noise)
                for epoch in range(11):
                    overfit = 0 if split == "calibration" else 0.5 * epoch / job["samples"]
                    error = size * (0.5 + 1.5 * np.exp(-epoch / 2) + overfit)
                    rows.append(
                        {
                            **job,
                            "unit": unit,
                            "first_block": max(unit - 1, 0) if "CR" in job["method"] else unit,
                            "last_block": min(unit, 7),
                            "part": "",
                            "epoch": epoch,
                            "step": 4 * epoch,
                            "split": split,
                            "error": 2 * error,
                            "relative_error": error,
                        }
                    )
    return pd.DataFrame(rows)


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


@pytest.fixture(scope="session")
def sizes():
    """Methods by unit, and the closed form in its three kinds."""
    methods = ["LR", "BR", "BR+GP", "IR", "ridge", "ridge[target=dense]", "ridge[student=dense,target=dense]"]
    return study(recipes(["wanda"], "50%", methods, units=["model", "2", "sub-block", "1", "matrix"], epochs=2))


@pytest.fixture(scope="session")
def mixed():
    """Windows added from four sources, calibration on five, both with tasks asked."""
    common = {
        "model": "lab",
        "recipes": recipes(["wanda"], "50%", ["BR+GP", "BR+GP+CR"], epochs=1),
        "samples": 8,
        "length": 128,
        "seeds": (0, 1),
    }
    more = grids(
        "added",
        ["self", "lab:stories", "lab:recipes", "self:top-k=50"],
        added_samples=[0, 8, 32],
        calibration="lab:stories",
        tasks=TASKS,
        **common,
    )
    own = grids("calibration", ["lab:stories", "lab:entries", "lab:news", "self", "lab:recipes"], tasks=TASKS, **common)
    return leave([*more, *own])


@pytest.fixture(scope="session")
def models():
    """Criteria and methods on three sizes of model."""
    chosen = recipes(["magnitude", "wanda"], "50%", ["LR", "BR+GP", "BR+GP+CR"], epochs=1)
    return leave(
        grids(
            "model",
            ["lab/large", "lab", "lab/small"],
            recipes=chosen,
            samples=8,
            length=128,
            seeds=(0, 1),
            calibration="lab:stories",
        )
    )


@pytest.fixture(scope="session")
def asked():
    """Many recipes that were asked tasks, one of them with windows added too."""
    common = {
        "model": "lab",
        "samples": 8,
        "length": 128,
        "seeds": (0, 1),
        "calibration": "lab:stories",
        "tasks": TASKS,
    }
    many = grid(recipes=recipes(["magnitude", "wanda"], ["50%", "2:4"], ["LR", "BR", "BR+GP"], epochs=1), **common)
    return leave(
        [*many, *grid(recipes=recipes(["wanda"], "50%", ["BR+GP"], epochs=1), added="self", added_samples=16, **common)]
    )


@pytest.fixture(scope="session")
def masks():
    """Criteria with refinements, before and after reconstruction."""
    before = recipes(
        ["wanda", "sparsegpt", "ria", "magnitude"], ["60%", "2:4"], ["LR"], refinements=["none", "swaps", "fw"]
    )
    after = recipes(
        ["wanda", "sparsegpt", "ria", "magnitude"], ["60%", "2:4"], ["BR+GP"], refinements=["none", "swaps"], epochs=2
    )
    return study([*before, *after])


@pytest.fixture(scope="session")
def spent():
    """Local reconstruction and retraining over epochs and windows."""
    methods = [
        "LR",
        "BR+GP[unit=sub-block]",
        "BR+GP",
        "retrain",
        "retrain[objective=distill]",
        "retrain[lr=1e-3,train=masklora]",
    ]
    return study(recipes(["wanda"], "50%", methods, epochs=[1, 4]), samples=(8, 32))
