"""The verbs that look and change nothing: `analysis check` and `analysis evaluate`."""

import argparse
import math
from dataclasses import asdict

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
from analysis.errors import ReplayError
from analysis.text.tasks import check_tasks, task_fingerprint

CHECKED = 8  # windows of a given text that `check` replays


def check(args: argparse.Namespace) -> Report:
    """Replay every block of a model and compare with its own forward; list the matrices that would be pruned.

    Raises: AnalysisError if the model or the text is unusable. A replay error above the tolerance is the report's
    failure.
    """
    problems = Problems()
    check_counts(problems, args)
    model = check_model(problems, args.model)
    if args.text:
        fingerprints({"text": args.text}, problems, model)
    problems.raise_any()
    from analysis.models.check import check as check_model_replay
    from analysis.models.load import load_model
    from analysis.text.corpora import load_tokens

    say(f"loading {args.model}")
    dense = load_model(args.model, device=args.device, dtype=args.dtype)
    windows = None
    if args.text:
        windows = load_tokens(args.text, dense, length=args.length, samples=CHECKED)
    found = check_model_replay(dense, windows)
    document = {
        "model": {"name": dense.name, "fingerprint": dense.fingerprint, "dtype": args.dtype},
        "ok": found.ok,
        "tolerance": found.tolerance,
        "replay": found.replay.to_dict("records"),
        "matrices": found.matrices.to_dict("records"),
    }
    failure = None
    if not found.ok:
        worst = max(
            document["replay"], key=lambda row: math.inf if math.isnan(row["relative_error"]) else row["relative_error"]
        )
        failure = ReplayError(
            f"check {args.model}: block {worst['name']} replays with a relative error of {worst['relative_error']}, "
            f"tolerance {found.tolerance:g}; this model cannot be pruned block by block"
        )
    return Report(_check_text(document), document, failure)


def _check_text(document: dict) -> str:
    """Replay error per block, then the matrices, alike ones in one row."""
    alike: dict[tuple, list[int]] = {}
    for row in document["matrices"]:
        alike.setdefault((row["matrix"], row["half"], row["rows"], row["columns"]), []).append(row["block"])
    matrices = [(*key, len(blocks), key[2] * key[3] * len(blocks)) for key, blocks in alike.items()]
    total = sum(row[-1] for row in matrices)
    replay = [(row["name"], row["relative_error"]) for row in document["replay"]]
    verdict = "replay is exact" if document["ok"] else "REPLAY IS NOT EXACT"
    return "\n".join(
        [
            table(("block", "replay error"), replay),
            "",
            table(("matrix", "half", "rows", "columns", "blocks", "weights"), matrices),
            "",
            f"{verdict} to the tolerance of {document['tolerance']:g} (relative); {total:,} prunable weights",
        ]
    )


def evaluate(args: argparse.Namespace) -> Report:
    """Perplexity of a model on each text, its score on labelled examples, and its accuracy on each task.

    Raises: AnalysisError if an argument, the model, a text or a task is unusable.
    """
    problems = Problems()
    check_counts(problems, args)
    model = check_model(problems, args.model)
    sources = label_sources("--text", args.text, problems)
    fingerprints(sources, problems, model)
    with problems.catch():
        check_tasks(args.task)
    problems.check_count("--documents", args.documents, least=2)
    if not args.text and not args.task:
        problems.add("nothing to measure; give --text, --task, or both")
    problems.raise_any()
    from analysis.measure.perplexity import perplexity
    from analysis.measure.scores import score
    from analysis.measure.zero_shot import zero_shot
    from analysis.models.load import load_model
    from analysis.text.corpora import load_tokens

    say(f"loading {args.model}")
    dense = load_model(args.model, device=args.device, dtype=args.dtype)
    rows, scores = [], []
    for label, source in sources.items():
        windows = load_tokens(
            source,
            dense,
            samples=args.samples,
            length=args.length,
            seed=args.seed,
            separator=unescape(args.separator),
            mode=args.mode,
            split="held-out",
        )
        say(f"{label}: {len(windows)} windows of {windows.length} tokens")
        if windows.labelled is None:
            rows.append((label, perplexity(dense.model, windows), windows.provenance))
        else:
            scores.append({"text": label, **asdict(score(dense.model, windows)), "provenance": windows.provenance})
    header = ("text", "perplexity", "nats per token", "tokens", "windows", "context")
    cells = [(label, of.perplexity, of.nats_per_token, of.tokens, of.windows, of.context) for label, of, _ in rows]
    document = {
        "model": {"name": dense.name, "fingerprint": dense.fingerprint},
        "perplexity": [dict(zip(header, row), provenance=of[2]) for row, of in zip(cells, rows)],
    }
    tables = [table(header, cells)] if cells else []
    if scores:
        document["scores"] = scores
        tables.append(
            table(("text", "metric", "score", "+-", "loss", "examples"), [tuple(row.values())[:-1] for row in scores])
        )
    if args.task:
        say(f"asking {args.documents} questions of {', '.join(args.task)}")
        asked = [
            asdict(answered)
            for answered in zero_shot(dense.model, dense.tokenizer, args.task, documents=args.documents, seed=args.seed)
        ]
        document["tasks"] = [row | {"fingerprint": task_fingerprint(row["task"])} for row in asked]
        tables.append(table([name.replace("_", " ") for name in asked[0]], [tuple(row.values()) for row in asked]))
    return Report("\n\n".join(tables), document)
