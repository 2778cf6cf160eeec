"""What the dense and the pruned model answer to tasks, in the folder of `analysis prune`: asked last, added to a folder
that is complete without.
"""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from analysis.commands import out_folder
from analysis.commands.common import say, table
from analysis.models.dtypes import dtype_word
from analysis.study.job import Job

if TYPE_CHECKING:
    import pandas as pd
    from torch import nn

    from analysis.models.load import LoadedModel

SHARED = ("documents", "choices", "chance", "left_out")
SCORES = ("accuracy", "standard_error", "accuracy_norm", "standard_error_norm")


def questions(request: dict) -> dict[str, dict]:
    """Take the tasks out of a request, for they are no part of what is pruned: task -> what its questions are, and how
    many are wanted.
    """
    contents, documents = request.pop("tasks"), request.pop("documents")
    return {task: {"content": content, "wanted": documents} for task, content in contents}


def add(job: Job, request: dict, asked: dict[str, dict], out: Path) -> dict:
    """The summary of a complete folder, after asking those tasks that it has no answers to."""
    summary = out_folder.read(out / out_folder.SUMMARY)
    held = summary["zero_shot"]
    asked = {
        task: what
        for task, what in asked.items()
        if any(held.get(task, {}).get(name) != value for name, value in what.items())
    }
    if not asked:
        with suppress(OSError):  # of marks left by a kill right after the summary was written
            out_folder.release(out)
        return summary
    from analysis.models.load import load_model

    out_folder.check_writable(out)
    with out_folder.claimed(out, request, "complete"):
        say(f"loading {job.model} and {out / out_folder.MODEL}")
        dense = load_model(job.model, device=job.device, dtype=job.dtype)
        dtype = dtype_word(dense.dtype)
        pruned = load_model(str(out / out_folder.MODEL), device=job.device, dtype=dtype)
        summary = ask(dense, pruned.model, asked, out, summary)
        out_folder.release(out)
    return summary


def ask(dense: "LoadedModel", pruned: "nn.Module", asked: dict[str, dict], out: Path, summary: dict) -> dict:
    """Ask both models tasks and add the answers to a complete folder; returns its summary. Where that fails the folder
    stays as it was.
    """
    import pandas as pd

    from analysis.study.run import answer_tables

    documents = next(iter(asked.values()))["wanted"]
    say(f"asking both models {documents} questions of {', '.join(asked)}")
    cost, bos = pd.read_csv(out / "cost.csv"), summary["job"]["bos"]
    try:
        tables = answer_tables(pruned, dense, list(asked), documents, {}, bos, cost=cost)
    except BaseException:
        say(f"the pruned model and its tables are complete in {out}; the same command without --task shows them")
        raise
    answered = summary["zero_shot"] | by_task(tables["zero_shot"], asked)
    job = summary["job"] | {"tasks": list(answered), "documents": documents}
    summary = summary | {"job": job, "zero_shot": answered} | costs(tables["cost"])
    tables["zero_shot"] = pd.DataFrame(
        [
            {"task": task, "which": which} | {name: entry[name] for name in SHARED} | entry[which]
            for task, entry in answered.items()
            for which in ("dense", "pruned")
        ]
    )[list(tables["zero_shot"].columns)].astype(dict.fromkeys(SCORES, "float64"))
    return out_folder.place_answers(out, {name: out_folder.csv(name, frame) for name, frame in tables.items()}, summary)


def by_task(zero_shot: "pd.DataFrame", asked: dict[str, dict]) -> dict[str, dict]:
    """What summary.json says of the tasks asked, in their order."""
    entries: dict[str, dict] = {}
    for row in zero_shot.itertuples():
        shared = {name: getattr(row, name) for name in SHARED}
        scores = {name: getattr(row, name) for name in SCORES}
        entries.setdefault(row.task, asked[row.task] | shared)[row.which] = scores
    return entries


def costs(cost: "pd.DataFrame") -> dict:
    """What summary.json says of the table `cost`."""
    return {
        "seconds": cost.seconds.sum(),
        "seconds_by_stage": cost.groupby("stage").seconds.sum().to_dict(),
        "peak_memory_mib": cost.peak_memory_mib.max(),
    }


def lines(zero_shot: dict) -> list[str]:
    """The lines on tasks; none where there are none."""
    if not zero_shot:
        return []
    rows = [
        (
            task,
            entry["documents"],
            entry["chance"],
            *(entry[which][name] for which in ("dense", "pruned") for name in SCORES),
        )
        for task, entry in zero_shot.items()
    ]
    header = (
        "task",
        "documents",
        "chance",
        *(w for which in ("dense", "pruned") for w in (f"{which} accuracy", "+-", f"{which} acc_norm", "+-")),
    )
    if len(rows) > 1:
        columns = list(zip(*rows))[2:]
        errors = (2, 4, 6, 8)
        rows.append(
            (
                "mean",
                sum(row[1] for row in rows),
                *(_mean(values, place in errors) for place, values in enumerate(columns)),
            )
        )
    said = [table(header, [["-" if cell is None else cell for cell in row] for row in rows]), ""]
    if long := [f"{entry['left_out']} of {task}" for task, entry in zero_shot.items() if entry["left_out"]]:
        said[1:] = [f"left out, longer than the model's context: {', '.join(long)}", ""]
    return said


def _mean(values: Sequence[float | None], error: bool) -> float | None:
    """Mean of a column, of standard errors that of the mean; None where a task lacks it."""
    numbers = [value for value in values if value is not None]
    if len(numbers) < len(values):
        return None
    return (sum(n**2 for n in numbers) ** 0.5 if error else sum(numbers)) / len(numbers)
