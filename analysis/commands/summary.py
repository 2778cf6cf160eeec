"""What `analysis prune` says of a finished run: the content of summary.json, and the closing tables."""

from pathlib import Path
from typing import TYPE_CHECKING

from analysis import storage
from analysis.commands import answers, out_folder
from analysis.commands.common import Report, table
from analysis.models.dtypes import dtype_word
from analysis.study.job import Job

if TYPE_CHECKING:
    from analysis.study.run import Inputs, Outcome


def written_tables() -> list[str]:
    """Those that a run's folder holds."""
    from analysis import schema

    return [name for name in schema.TABLES if name not in schema.OF_STUDIES]


def summarise(job: Job, request: dict, inputs: "Inputs", outcome: "Outcome") -> dict:
    """The content of summary.json: what was asked, what came out, what it cost, where everything came from."""
    tables, dense, recipe = outcome.tables, inputs.dense, job.recipe
    matrices, cost, blocks = (tables[name] for name in ("matrices", "cost", "blocks"))
    weights = (matrices["rows"] * matrices["columns"]).sum()
    last = blocks[(blocks.block == blocks.block.max()) & (blocks.kind == "total")]
    perplexity: dict[str, dict[str, float]] = {}
    for row in tables["perplexity"].itertuples():
        perplexity.setdefault(row.split, {})[row.which] = row.perplexity
    texts = tables["texts"]
    scores: dict[str, dict] = {}
    for row in tables["scores"].itertuples():
        entry = scores.setdefault(row.split, {"metric": row.metric, "examples": row.examples})
        entry[row.which] = {"score": row.score, "standard_error": row.standard_error, "loss": row.loss}
    return {
        "request": request,
        "job": job.to_dict(),
        "recipe": {"text": str(recipe), "method": recipe.method, "digest": recipe.digest(), **recipe.to_dict()},
        "model": {
            "name": dense.name,
            "fingerprint": dense.fingerprint,
            "device": str(dense.device),
            "dtype": dtype_word(dense.dtype),
            "notes": list(dense.notes),
        },
        "sparsity": {
            "overall": 1 - matrices.kept.sum() / weights,
            "weights": int(weights),
            "matrices": {name: 1 - mask.sum().item() / mask.numel() for name, mask in outcome.pruned.masks.items()},
        },
        "perplexity": perplexity,
        "scores": scores,
        "final_block_error": {
            row.split: {"error": row.error, "relative_error": row.relative_error} for row in last.itertuples()
        },
        "final_block_distance": {
            row.split: row.distance for row in texts[texts.block == texts.block.max()].itertuples()
        },
        "structures": tables["structures"].groupby("kind")[["structures", "kept"]].sum().to_dict("index"),
        "size": {
            row["which"]: {key: value for key, value in row.items() if key != "which"}
            for row in tables["size"].to_dict("records")
        },
        "zero_shot": {},
        **answers.costs(cost),
        "provenance": outcome.provenance,
        "versions": storage.environment(),
    }


def report(out: Path, summary: dict) -> Report:
    """The closing tables: per split, perplexity before and after and the final block's error; per task, both
    accuracies.
    """

    perplexity = summary["perplexity"]
    errors = summary["final_block_error"]
    rows = [
        (
            split,
            *([perplexity[split]["dense"], perplexity[split]["pruned"]] if split in perplexity else []),
            error["error"],
            error["relative_error"],
        )
        for split, error in errors.items()
    ]
    measured = ("dense perplexity", "pruned perplexity") if perplexity else ()
    whole = [(split, both["dense"], both["pruned"]) for split, both in perplexity.items() if split not in errors]
    sparsity = summary["sparsity"]
    removed = f"{sparsity['overall']:.2%} of {sparsity['weights']:,} weights removed"
    if experts := summary.get("structures", {}).get("experts"):  # those that stay keep all their weights
        removed = f"{experts['structures'] - experts['kept']} of {experts['structures']} experts removed"
    lines = [
        (
            f"{summary['recipe']['text']} on {summary['model']['name']}: {removed}, {summary['seconds']:.1f} s, peak"
            f" {summary['peak_memory_mib']:,.0f} MiB"
        ),
        *(f"{summary['model']['name']}: {note}" for note in summary["model"].get("notes", [])),
        "",
        table(("split", *measured, "final-block error", "relative"), rows),
        "",
        *([table(("text", *measured), whole), ""] if whole else []),
        *scored(summary.get("scores", {})),
        *answers.lines(summary["zero_shot"]),
        *sizes(summary.get("size", {})),
        f"model    {out / out_folder.MODEL}{stored(summary.get('saved', {}))}",
        *([f"shrunk   {out / out_folder.SHRUNK}"] if summary.get("size") else []),
        f"tables   {out}/{{{','.join(written_tables())}}}.csv",
        f"summary  {out / out_folder.SUMMARY}",
    ]
    return Report("\n".join(lines), summary)


def stored(saved: dict) -> str:
    """What a saved model is stored in, and what came along from the original's folder."""
    if not saved:
        return ""
    carried = saved["carried over"]
    return f" (computed in {saved['computed in']}, stored in {saved['stored in']}" + (
        f"; with the original's {', '.join(carried)})" if carried else ")"
    )


def sizes(size: dict) -> list[str]:
    """The lines on size and speed; none where nothing was shrunk."""
    if not size:
        return []
    rows = [
        (
            which,
            f"{entry['parameters']:,}",
            f"{entry['flops_per_token']:,}",
            entry["latency_ms"],
            f"{entry['tokens_per_second']:,.0f}",
        )
        for which, entry in size.items()
    ]
    return [table(("size", "parameters", "FLOPs per token", "ms per window", "tokens/s"), rows), ""]


def scored(scores: dict) -> list[str]:
    """The lines on labelled examples; none where there are none."""
    if not scores:
        return []
    rows = [
        (
            split,
            entry["metric"],
            entry["examples"],
            *(entry[which][value] for which in ("dense", "pruned") for value in ("score", "standard_error")),
        )
        for split, entry in scores.items()
    ]
    return [table(("split", "metric", "examples", "dense score", "+-", "pruned score", "+-"), rows), ""]
