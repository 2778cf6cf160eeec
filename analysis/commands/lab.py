"""The verbs around the study: `analysis figures`, `analysis list`, `analysis lab`."""

import argparse
import json
from collections.abc import Callable
from dataclasses import asdict, fields
from pathlib import Path

from analysis import paths
from analysis.commands.common import Report
from analysis.errors import UsageError


def lab_train(args: argparse.Namespace) -> Report:
    """Train a lab model. Raises: UsageError, StoreError."""
    from analysis.training.decoder import TrainConfig, train

    return _trained(train, TrainConfig, args, paths.runs() / "decoder")


def lab_encoder(args: argparse.Namespace) -> Report:
    """Train a lab encoder. Raises: UsageError, StoreError."""
    from analysis.training.encoder import EncoderConfig, train

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
    from analysis.models.hub import fetch
    from analysis.text.examples import load_examples
    from analysis.text.sources import parse_source
    from analysis.training import finetune
    from analysis.training.loop import check_config

    config = _config(finetune.FinetuneConfig, args)
    check_config(config)
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
