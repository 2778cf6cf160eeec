"""`analysis prune`: from a model and a recipe to a folder with the pruned model, its tables and a summary.

Everything that can be checked without loading torch is checked first and reported at once; then the model and texts
are loaded, the folder is claimed, and the loop runs with its checkpoint inside the folder.
"""

import argparse
import json
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from analysis import schema, storage
from analysis.commands import out_folder
from analysis.commands.common import (
    Problems,
    Report,
    check_counts,
    check_model,
    fingerprints,
    label_sources,
    say,
    table,
    unescape,
)
from analysis.errors import DataError, ModelError, UsageError
from analysis.pruning.checks import misfits
from analysis.recipe.parts import WHOLE
from analysis.recipe.recipe import Recipe
from analysis.study.answers import with_answers
from analysis.study.calibration import draw
from analysis.text.tasks import check_tasks, task_fingerprint


@dataclass(frozen=True)
class Plan:
    """What was asked, checked as far as it can be without torch."""

    recipe: Recipe
    held_out: dict[str, str]  # label -> source
    request: dict  # everything that decides the result; see out_folder.state
    out: Path
    state: str


def run(args: argparse.Namespace) -> Report:
    """The verb. Raises: AnalysisError of every kind, each before any work where it can be known."""
    plan = make_plan(args)
    if plan.state == "complete":
        say(f"{plan.out} holds these results already")
        out_folder.release(plan.out)  # marks left by a kill right after the summary was written
        return report(plan.out, json.loads((plan.out / out_folder.SUMMARY).read_text(encoding="utf-8")))
    if plan.state == "resume":
        say(f"resuming the run in {plan.out}")
    dense, calibration, held_out = load(args, plan)
    weights = sum(parameter.numel() * parameter.element_size() for parameter in dense.model.parameters())
    out_folder.check_room(
        plan.out, weights * (1 + args.shrink + plan.recipe.unit.width)
    )  # a checkpoint keeps every block as often as it is visited
    with out_folder.claimed(plan.out, plan.request, plan.state):
        summary = work(args, plan, dense, calibration, held_out)
        out_folder.release(plan.out)
    return report(plan.out, summary)


def make_plan(args: argparse.Namespace) -> Plan:
    """Check recipe, counts, names, sources and the folder; collect what is wrong.

    Raises: the one problem, or UsageError listing all of them.
    """
    problems, recipe = Problems(), None
    with problems.catch():
        recipe = read_recipe(args.recipe, args.recipe_file)
        recipe = replace(recipe, seed=recipe.seed or max(args.seed, 0))
    check_counts(problems, args)
    held_out = label_sources("--held-out", args.held_out, problems)
    if "calibration" in held_out:
        problems.add("--held-out: the label 'calibration' is taken by the calibration text; choose another")
    request = {
        "schema": storage.SCHEMA,
        "recipe": str(recipe),
        "model": args.model,
        "model content": check_model(problems, args.model),
    }
    check_added(problems, args, recipe)
    added = {} if args.added is None else {"added": args.added}
    sides = (
        {"calibration": args.calibration} | added | {f"held-out {label}": source for label, source in held_out.items()}
    )
    if recipe is not None and request["model content"] is not None:
        with problems.catch():
            for misfit in misfits(args.model, recipe):
                problems.add(f"recipe {recipe}: {misfit}")
    request |= sides | {
        f"{side} content": mark
        for side, mark in fingerprints(sides, problems, request["model content"] or "unknown").items()
    }
    with problems.catch():
        check_tasks(args.task)
        request["tasks"] = {task: task_fingerprint(task) for task in args.task}
    for name in (
        "samples",
        "added_samples",
        "documents",
        "held_out_samples",
        "length",
        "seed",
        "separator",
        "mode",
        "device",
        "dtype",
    ):
        request[name] = getattr(args, name)
    if args.shrink:
        request["shrink"] = True
        if recipe is not None and not recipe.pattern.whole:
            problems.add(
                f"--shrink: {recipe} removes single weights, so no matrix gets smaller; {', '.join(WHOLE)} do that, as"
                " in flap-neurons-50%"
            )
    with problems.catch():
        out_folder.check_writable(args.out)
    problems.raise_any()
    return Plan(recipe, held_out, request, args.out, out_folder.state(args.out, request))


def check_added(problems: Problems, args: argparse.Namespace, recipe: Recipe | None) -> None:
    """Added windows need a source, a number, and somebody who sees them."""
    problems.check_count("--documents", args.documents, 2)
    problems.check_count("--added-samples", args.added_samples, 0)
    if str(args.added).startswith("examples:"):
        problems.add(
            f"--added {args.added}: labelled examples cannot be added; ask for more of them with --samples, or give"
            " plain text or self"
        )
    if (args.added is None) != (args.added_samples == 0):
        problems.add("--added and --added-samples go together: a source, and how many windows of it")
    elif recipe is not None and args.added is None and recipe.added == "all":
        problems.add(
            f"recipe {recipe}: added=all says who sees added windows, and none are added; give --added and"
            " --added-samples"
        )
    elif recipe is not None and args.added is not None and recipe.added == "solver" and not recipe.changes_weights:
        problems.add(
            f"--added: nothing would see these windows, since {recipe.method} solves nothing; add added=all to the"
            " recipe's first word, or use another method"
        )


def read_recipe(text: str | None, file: Path | None) -> Recipe:
    """A recipe from its short text or from a TOML file; exactly one of them.

    Raises: UsageError, RecipeError.
    """
    if (text is None) == (file is None):
        raise UsageError("give the recipe once: --recipe TEXT or --recipe-file FILE")
    if file is None:
        return Recipe.parse(text)
    try:
        return Recipe.from_toml(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            f"--recipe-file {file}: cannot be read ({getattr(error, 'strerror', None) or error})"
        ) from error


def load(args: argparse.Namespace, plan: Plan):
    """The dense model and both sides' windows, checked to share no text.

    Returns: LoadedModel, Windows, dict label -> Windows.
    """
    from analysis.models.load import load_model
    from analysis.pruning.structures import check_pattern_shrinks
    from analysis.text.load import load_tokens
    from analysis.windows import disjoint

    say(f"loading {args.model}")
    dense = load_model(args.model, device=args.device, dtype=args.dtype)
    if args.shrink:
        check_pattern_shrinks(dense.model, plan.recipe.pattern)
    tokens = partial(
        load_tokens,
        tokenizer=dense,
        length=args.length,
        seed=args.seed,
        separator=unescape(args.separator),
        mode=args.mode,
    )
    calibration = draw(
        lambda source, samples: tokens(source, samples=samples, split="train"),
        args.calibration,
        args.samples,
        args.added,
        args.added_samples,
    )
    held_out = {
        label: tokens(source, samples=args.held_out_samples or args.samples, split="held-out")
        for label, source in plan.held_out.items()
    }
    return dense, calibration, disjoint(calibration, held_out)


def work(args: argparse.Namespace, plan: Plan, dense, calibration, held_out) -> dict:
    """Prune, write every file, the summary last.

    Raises: AnalysisError; a run refused before it started leaves nothing in a folder that was free.
    """
    from analysis.pruning.loop import prune

    added = f" ({calibration.added} of them added)" if calibration.added else ""
    say(f"pruning {args.model}: {plan.recipe}, {len(calibration)} windows{added} of {calibration.length} tokens")
    try:
        pruned = prune(dense, plan.recipe, calibration, held_out, checkpoint=plan.out / out_folder.CHECKPOINT)
    except (ModelError, DataError, UsageError):
        if plan.state == "free":
            out_folder.release(plan.out)
        raise
    if args.task:
        say(f"asking both models {args.documents} questions of {', '.join(args.task)}")
        pruned.tables = with_answers(pruned, dense, args.task, args.documents, {})
    if args.shrink:
        shrink(plan, pruned, dense, calibration)
    out_folder.place_model(plan.out, pruned.save)
    for name in schema.TABLES:
        frame = schema.validate(name, pruned.tables[name])
        storage.write(plan.out / f"{name}.csv", frame.to_csv(index=False, lineterminator="\n"))
    return out_folder.place_summary(plan.out, summarise(args, plan, dense, pruned))


def shrink(plan: Plan, pruned, dense, calibration) -> None:
    """Write the smaller model and put its size and speed beside the dense model's."""
    from analysis.measure.size import size_table
    from analysis.models.save import save_shrunk

    say("cutting out what was removed")
    small = pruned.shrink()
    pruned.tables["size"] = size_table({"dense": dense.model, "pruned": small}, calibration)
    out_folder.place_model(plan.out, lambda path: save_shrunk(small, pruned.tokenizer, path), out_folder.SHRUNK)


def summarise(args: argparse.Namespace, plan: Plan, dense, pruned) -> dict:
    """The content of summary.json: what was asked, what came out, what it cost, where everything came from."""
    matrices, cost, blocks = (pruned.tables[name] for name in ("matrices", "cost", "blocks"))
    weights = (matrices["rows"] * matrices["columns"]).sum()
    last = blocks[(blocks.block == blocks.block.max()) & (blocks.kind == "total")]
    perplexity: dict[str, dict[str, float]] = {}
    for row in pruned.tables["perplexity"].itertuples():
        perplexity.setdefault(row.split, {})[row.which] = row.perplexity
    texts = pruned.tables["texts"]
    scores: dict[str, dict] = {}
    for row in pruned.tables["scores"].itertuples():
        of = scores.setdefault(row.split, {"metric": row.metric, "examples": row.examples})
        of[row.which] = {"score": row.score, "standard_error": row.standard_error, "loss": row.loss}
    zero_shot: dict[str, dict] = {}
    for row in pruned.tables["zero_shot"].itertuples():
        task = zero_shot.setdefault(
            row.task, {"documents": row.documents, "choices": row.choices, "chance": row.chance}
        )
        task[row.which] = {"accuracy": row.accuracy, "standard_error": row.standard_error}
    return {
        "request": plan.request,
        "recipe": {
            "text": str(plan.recipe),
            "method": plan.recipe.method,
            "digest": plan.recipe.digest(),
            **plan.recipe.to_dict(),
        },
        "model": {
            "name": dense.name,
            "fingerprint": dense.fingerprint,
            "device": str(dense.device),
            "dtype": str(dense.dtype).removeprefix("torch."),
        },
        "sparsity": {
            "overall": 1 - matrices.kept.sum() / weights,
            "weights": int(weights),
            "matrices": {name: 1 - mask.sum().item() / mask.numel() for name, mask in pruned.masks.items()},
        },
        "perplexity": perplexity,
        "scores": scores,
        "final_block_error": {
            row.split: {"error": row.error, "relative_error": row.relative_error} for row in last.itertuples()
        },
        "final_block_distance": {
            row.split: row.distance for row in texts[texts.block == texts.block.max()].itertuples()
        },
        "structures": pruned.tables["structures"].groupby("kind")[["structures", "kept"]].sum().to_dict("index"),
        "size": {
            row["which"]: {key: value for key, value in row.items() if key != "which"}
            for row in pruned.tables["size"].to_dict("records")
        },
        "zero_shot": zero_shot,
        "seconds": cost.seconds.sum(),
        "seconds_by_stage": cost.groupby("stage").seconds.sum().to_dict(),
        "peak_memory_mib": cost.peak_memory_mib.max(),
        "provenance": pruned.provenance,
        "versions": storage.environment(),
    }


def report(out: Path, summary: dict) -> Report:
    """The closing tables: per split, perplexity before and after and the final block's error; per task, both
    accuracies.
    """
    perplexity = summary["perplexity"]
    rows = [
        (
            split,
            *([perplexity[split]["dense"], perplexity[split]["pruned"]] if split in perplexity else []),
            error["error"],
            error["relative_error"],
        )
        for split, error in summary["final_block_error"].items()
    ]
    measured = ("dense perplexity", "pruned perplexity") if perplexity else ()
    sparsity = summary["sparsity"]
    lines = [
        (
            f"{summary['recipe']['text']} on {summary['model']['name']}: {sparsity['overall']:.2%} of"
            f" {sparsity['weights']:,} weights removed, {summary['seconds']:.1f} s, peak"
            f" {summary['peak_memory_mib']:,.0f} MiB"
        ),
        "",
        table(("split", *measured, "final-block error", "relative"), rows),
        "",
        *scored(summary.get("scores", {})),
        *answers(summary["zero_shot"]),
        *sizes(summary.get("size", {})),
        f"model    {out / out_folder.MODEL}",
        *([f"shrunk   {out / out_folder.SHRUNK}"] if summary.get("size") else []),
        f"tables   {out}/{{{','.join(schema.TABLES)}}}.csv",
        f"summary  {out / out_folder.SUMMARY}",
    ]
    return Report("\n".join(lines), summary)


def sizes(size: dict) -> list[str]:
    """The lines on size and speed; none where nothing was shrunk."""
    if not size:
        return []
    rows = [
        (
            which,
            f"{of['parameters']:,}",
            f"{of['flops_per_token']:,}",
            of["latency_ms"],
            f"{of['tokens_per_second']:,.0f}",
        )
        for which, of in size.items()
    ]
    return [table(("size", "parameters", "FLOPs per token", "ms per window", "tokens/s"), rows), ""]


def scored(scores: dict) -> list[str]:
    """The lines on labelled examples; none where there are none."""
    if not scores:
        return []
    rows = [
        (
            split,
            of["metric"],
            of["examples"],
            *(of[which][value] for which in ("dense", "pruned") for value in ("score", "standard_error")),
        )
        for split, of in scores.items()
    ]
    return [table(("split", "metric", "examples", "dense score", "+-", "pruned score", "+-"), rows), ""]


def answers(zero_shot: dict) -> list[str]:
    """The lines on tasks; none where there are none."""
    if not zero_shot:
        return []
    rows = [
        (
            task,
            of["documents"],
            of["chance"],
            *(of[which][value] for which in ("dense", "pruned") for value in ("accuracy", "standard_error")),
        )
        for task, of in zero_shot.items()
    ]
    if len(rows) > 1:
        means = [sum(row[place] for row in rows) / len(rows) for place in (2, 3, 5)]
        errors = [sum(row[place] ** 2 for row in rows) ** 0.5 / len(rows) for place in (4, 6)]
        rows.append(("mean", sum(row[1] for row in rows), means[0], means[1], errors[0], means[2], errors[1]))
    return [table(("task", "documents", "chance", "dense accuracy", "+-", "pruned accuracy", "+-"), rows), ""]
