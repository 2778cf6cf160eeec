"""`analysis lab`: train the models of the embedded lab."""

import argparse
import json
from collections.abc import Callable
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from analysis import paths
from analysis.commands.arguments import Parser, add_verb
from analysis.commands.common import Report
from analysis.errors import UsageError

SCORED = 300  # held-out questions of each task that a trained model is asked


def add(verbs) -> None:
    """The verb and its arguments."""
    from analysis.training import decoder, encoder, finetune, vision

    lab = verbs.add_parser(
        "lab", help="train the embedded lab's models", description="Train the embedded lab's models."
    )
    lab = lab.add_subparsers(metavar="VERB", required=True, parser_class=Parser)
    resuming = "An interrupted training continues from its checkpoint when the same command is repeated."
    train = add_verb(
        lab,
        "train",
        lab_train,
        "train a lab decoder on the lab's mixed stream and write it with its tokenizer and training card",
        "  analysis lab train --out my-decoder --tokens 5000000\n  analysis lab train --hidden 128 --blocks 12 --device"
        " cuda",
        resuming,
    )
    decoder.add_arguments(train)
    masked = add_verb(
        lab,
        "encoder",
        lab_encoder,
        "train a lab encoder to fill in masked words of the lab's mixed stream",
        "  analysis lab encoder --out my-encoder --tokens 2000000\n  analysis lab encoder --hidden 128 --masked 0.15"
        " --device cuda",
        resuming,
    )
    encoder.add_arguments(masked)
    tune = add_verb(
        lab,
        "finetune",
        lab_finetune,
        "fine-tune an encoder on labelled examples: a class, a score, or a span of a passage",
        "  analysis lab finetune lab/encoder examples:truth --out my-truth --examples 20000\n  analysis lab finetune"
        " ./my-bert 'examples:train.tsv[:90%]' --held-out 'examples:train.tsv[90%:]' --learning-rate 1e-4",
        "Examples without end are read once, a table as often as --examples asks. " + resuming,
    )
    finetune.add_arguments(tune)
    sees = add_verb(
        lab,
        "vision",
        lab_vision,
        "train a lab decoder to read pictures through a small vision tower",
        "  analysis lab vision --out my-vision --pictures 40000\n  analysis lab vision --decoder lab --blocks 4"
        " --device cuda",
        resuming,
    )
    vision.add_arguments(sees)


def lab_train(args: argparse.Namespace) -> Report:
    """Train a lab model. Raises: UsageError, StoreError."""
    from analysis.training.decoder import ExpertsConfig, config_of, train

    config = config_of({field.name: getattr(args, field.name) for field in fields(ExpertsConfig)})
    return _trained(train, config, args, paths.runs() / "decoder")


def lab_encoder(args: argparse.Namespace) -> Report:
    """Train a lab encoder. Raises: UsageError, StoreError."""
    from analysis.training.encoder import EncoderConfig, train

    return _trained(train, _config(EncoderConfig, args), args, paths.runs() / "encoder")


def _trained(train: Callable, config: Any, args: argparse.Namespace, default: Path) -> Report:
    from analysis.training.folder import out_folder

    out = out_folder(args.out or default)
    done = _done(out)
    train(config, out, device=args.device)
    card = _card(out)
    return Report(
        f"{done} {out}: {card['parameters']:,} parameters, {card['tokens']:,} tokens, {card['seconds']:,.0f} s", card
    )


def _done(out: Path) -> str:
    """How the report begins: whether the model was there before, which is read and not trained anew."""
    return "trained before, in" if (out / "training.json").exists() else "trained"


def _config(config: type, args: argparse.Namespace):
    return config(**{field.name: getattr(args, field.name) for field in fields(config)})


def _card(out: Path) -> dict:
    return json.loads((out / "training.json").read_text(encoding="utf-8"))


def lab_finetune(args: argparse.Namespace) -> Report:
    """Fine-tune an encoder on labelled examples. Raises: UsageError, ModelError, DataError, StoreError."""
    from analysis.measure.scores import score
    from analysis.models.hub import fetch, read_config
    from analysis.text.examples import load_examples
    from analysis.text.sources import parse_source
    from analysis.training import finetune
    from analysis.training.folder import out_folder, state
    from analysis.training.loop import pick
    from analysis.training.settings import check_config

    config = _config(finetune.FinetuneConfig, args)
    check_config(config)
    pick(args.device)
    train, held_out = (
        parse_source(args.source).half("train"),
        parse_source(args.held_out or args.source).half("held-out"),
    )
    if train == held_out:
        raise UsageError(
            f"lab finetune: {args.source} has no held-out half; name other examples with --held-out, or slice it, as in"
            f" '{args.source}[:80%]'"
        )
    out = out_folder(args.out or paths.runs() / f"encoder-{Path(train.name).stem}")
    state(out, asdict(config), config.unit)
    done = _done(out)
    folder, _ = fetch(args.model)
    context = read_config(folder, args.model).get("max_position_embeddings")
    if isinstance(context, int) and config.length > context:  # before examples are read
        raise UsageError(f"--length {config.length}: {args.model} reads at most {context} tokens at once")
    tokenizer = finetune.tokenizer(folder)
    given = load_examples(
        train,
        tokenizer=tokenizer,
        samples=config.examples if train.endless else None,
        length=config.length,
        seed=config.seed,
    )
    scored = load_examples(
        held_out,
        tokenizer=tokenizer,
        samples=config.scored if held_out.endless else None,
        length=config.length,
        classes=given.answers.classes or None,
    )
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
    text = f"{done} {out}: {card['parameters']:,} parameters, {card['examples']:,} examples, {card['seconds']:,.0f} s\n"
    return Report(
        text + f"{result['metric']} {result['score']:.3f} +- {result['standard_error']:.3f} over {result['examples']:,}"
        f" examples of {scored.label}",
        card,
    )


def lab_vision(args: argparse.Namespace) -> Report:
    """Train a lab model that reads pictures. Raises: UsageError, ModelError, StoreError."""
    from analysis.training.folder import out_folder
    from analysis.training.vision import VisionConfig, train

    out = out_folder(args.out or paths.runs() / "vision")
    done = _done(out)
    train(_config(VisionConfig, args), out, decoder=args.decoder, evaluate=picture_scores, device=args.device)
    card = _card(out)
    scores = ", ".join(f"{task} {row['accuracy']:.2f}" for task, row in card["held_out"].items())
    text = f"{done} {out}: {card['parameters']:,} parameters, {card['pictures']:,} pictures, {card['seconds']:,.0f} s\n"
    return Report(f"{text}accuracy on questions about pictures: {scores}", card)


def picture_scores(model, tokenizer) -> dict:
    """Accuracy on every task about pictures, over `SCORED` questions each, and that of guessing."""
    from analysis.lab.pictures import TASKS
    from analysis.measure.zero_shot import zero_shot

    scores = zero_shot(model, tokenizer, [f"pictures:{task}" for task in TASKS], documents=SCORED)
    keys = ("accuracy", "standard_error", "chance", "documents")
    return {score.task.removeprefix("pictures:"): {key: getattr(score, key) for key in keys} for score in scores}
