"""The verbs around the study: `analysis figures`, `analysis list`, `analysis lab`."""

import argparse
import json
from collections.abc import Callable
from dataclasses import asdict, fields
from pathlib import Path

from analysis import paths
from analysis.commands.common import Report, table
from analysis.errors import UsageError


def figures(args: argparse.Namespace) -> Report:
    """Run notebooks and say where their executed copies and figures are. Raises: UsageError, SuiteError."""
    from analysis.suite.runner import figures_folder, run_suite

    overrides = {}
    for setting in args.set:
        name, equals, value = setting.partition("=")
        if not equals or not name:
            raise UsageError(f"--set {setting}: write NAME=VALUE")
        if name in overrides:
            raise UsageError(f"--set {setting}: {name} is set twice")
        overrides[name] = value
    runs = run_suite(args.preset, only=args.only, overrides=overrides, figures_dir=args.figures)
    folder = figures_folder(args.preset, overrides, args.figures)
    rows = [(run.name, run.status, f"{run.seconds:.1f}", str(run.path)) for run in runs]
    text = table(("notebook", "status", "seconds", "executed copy"), rows) + f"\n\nfigures  {folder}"
    return Report(text, {"figures": str(folder), "notebooks": [asdict(run) | {"path": str(run.path)} for run in runs]})


def list_things(args: argparse.Namespace) -> Report:
    """Models, sources, tasks, recipes or runs as a table."""
    header, rows = {"models": _models, "sources": _sources, "tasks": _tasks, "recipes": _recipes, "runs": _runs}[
        args.what
    ]()
    text = table(header, rows) if rows else f"no {args.what} yet"
    return Report(text, {args.what: [dict(zip(header, row)) for row in rows]})


def _models():
    from analysis.models.load import lab_models

    return ("model",), [(name,) for name in lab_models()]


def _sources():
    from analysis.text.sources import SOURCES

    return ("source", "what it is"), list(SOURCES.items())


def _tasks():
    from analysis.text.tasks import TASKS

    return ("task", "what it asks"), list(TASKS.items())


CRITERIA = {
    "random": "random scores: the baseline",
    "magnitude": "keep the largest weights, compared within each matrix; the heads and neurons of the largest norm",
    "wanda": "keep the largest |weight| x norm of its input, within each output row (2306.11695)",
    "sparsegpt": "keep by the OBS error of removing, within each block of columns, and update the others (2301.00774)",
    "ria": (
        "keep the weights that are largest relative to their row and column, times the root of the input's norm (RIA)"
    ),
    "activation": "keep the heads and neurons of the largest activations",
    "wanda-sp": "keep the heads and neurons of the largest |weight| x norm of its input, summed (2312.11983)",
    "flap": (
        "keep the heads and neurons that fluctuate most, seen through their weights, standardised within each layer"
        " (2312.11983)"
    ),
    "snip": "keep the heads and neurons whose removal changes the loss most, to first order (1810.02340)",
    "fisher": "keep the heads and neurons of the largest diagonal Fisher information (2204.09656)",
}
PATTERNS = {
    "50%": "remove this share of the weights",
    "2:4": "keep 2 of every 4 consecutive inputs of each output",
    "heads-50%": "remove this share of the attention heads; criteria random, magnitude and those from activation on",
    "neurons-50%": "remove this share of the MLP neurons",
    "structures-50%": "remove this share of both; with scope=global of all layers together",
}


def _recipes():
    from analysis.presets import PRESETS
    from analysis.recipe import METHODS, REFINEMENTS, REPAIRING, UNITS

    presets = {name: f"{preset.text}: {preset.description} ({preset.source})" for name, preset in PRESETS.items()}
    parts = {
        "criterion": CRITERIA,
        "refinement": REFINEMENTS,
        "pattern": PATTERNS,
        "method": METHODS | REPAIRING,
        "unit": UNITS,
        "recipe": presets,
    }
    return ("part", "word", "meaning"), [
        (part, word, meaning) for part, words in parts.items() for word, meaning in words.items()
    ]


def _runs():
    from analysis.study.store import list_runs

    header = ("run", "state", "created", "model", "recipe", "MiB")
    jobs = [(info, info.job.get("model", ""), info.job.get("recipe", "")) for info in list_runs()]
    return header, [
        (info.run, info.state, info.created, str(model), str(recipe), info.size_mib) for info, model, recipe in jobs
    ]


def lab_train(args: argparse.Namespace) -> Report:
    """Train a lab model. Raises: UsageError, StoreError."""
    from analysis.models.pretrain import TrainConfig, train

    return _trained(train, TrainConfig, args, paths.runs() / "decoder")


def lab_encoder(args: argparse.Namespace) -> Report:
    """Train a lab encoder. Raises: UsageError, StoreError."""
    from analysis.models.pretrain_encoder import EncoderConfig, train

    return _trained(train, EncoderConfig, args, paths.runs() / "encoder")


def _trained(train: Callable, config: type, args: argparse.Namespace, default: Path) -> Report:
    out = args.out or default
    train(_config(config, args), out, device=args.device)
    card = _card(out)
    return Report(
        f"trained {out}: {card['parameters']:,} parameters, {card['tokens']:,} tokens, {card['seconds']:,.0f} s", card
    )


def _config(config: type, args: argparse.Namespace):
    return config(**{field.name: getattr(args, field.name) for field in fields(config)})


def _card(out: Path) -> dict:
    return json.loads((out / "training.json").read_text(encoding="utf-8"))


def lab_finetune(args: argparse.Namespace) -> Report:
    """Fine-tune an encoder on labelled examples. Raises: UsageError, ModelError, DataError, StoreError."""
    from analysis.measure.scores import score
    from analysis.models import finetune
    from analysis.models.files import fetch
    from analysis.text.examples import load_examples
    from analysis.text.sources import parse_source

    config = _config(finetune.FinetuneConfig, args)
    finetune.check(config)
    train, held_out = (
        parse_source(args.source).half("train"),
        parse_source(args.held_out or args.source).half("held-out"),
    )
    if train == held_out:
        raise UsageError(
            f"lab finetune: {args.source} has no held-out half; name other examples with --held-out, or slice it, as in"
            f" '{args.source}[:80%]'"
        )
    folder, _ = fetch(args.model)
    tokenizer = finetune.tokenizer(folder)
    given = load_examples(
        train, tokenizer, samples=config.examples if train.endless else None, length=config.length, seed=config.seed
    )
    scored = load_examples(
        held_out,
        tokenizer,
        samples=config.scored if held_out.endless else None,
        length=config.length,
        classes=given.labelled.classes or None,
    )
    out = args.out or paths.runs() / f"encoder-{Path(train.name).stem}"
    finetune.finetune(
        folder,
        given,
        scored,
        config=config,
        out=out,
        evaluate=lambda model, windows: asdict(score(model, windows)),
        device=args.device,
        command=finetune.command(args.model, args.source, args.held_out, config),
    )
    card = _card(out)
    result = card["held_out"]
    text = (
        f"trained {out}: {card['parameters']:,} parameters, {card['examples']:,} examples, {card['seconds']:,.0f} s\n"
    )
    return Report(
        text + f"{result['metric']} {result['score']:.3f} +- {result['standard_error']:.3f} over {result['examples']:,}"
        f" examples of {scored.label}",
        card,
    )
