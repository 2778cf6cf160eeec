"""`analysis check`: replay every block of a model and list its matrices."""

import argparse
import math

from analysis.commands.arguments import add_model, add_verb
from analysis.commands.common import Problems, Report, check_counts, check_model, fingerprints, say, table
from analysis.errors import ReplayError

CHECKED = 8  # windows of a given text that `check` replays


def add(verbs) -> None:
    """The verb and its arguments."""
    verb = add_verb(
        verbs,
        "check",
        check,
        "replay a model block by block, compare with its own forward, and list its prunable matrices",
        "  analysis check lab\n  analysis check ./my-llama --text notes.txt --length 512",
        "The replay error of a block is relative: |replayed - true| / |true| over its outputs. Above the tolerance"
        " (1e-5 in float32)\nthe model would be pruned wrongly, so pruning refuses it too.",
    )
    add_model(verb)
    verb.add_argument("--text", metavar="SOURCE", help="text to replay; default random tokens, some of them padded")
    verb.add_argument("--length", type=int, default=128, metavar="L", help="tokens per window of the text; default 128")


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
    from analysis.models.load import load_model
    from analysis.models.self_check import check as check_model_replay
    from analysis.text.load import load_tokens

    say(f"loading {args.model}")
    dense = load_model(args.model, device=args.device, dtype=args.dtype)
    windows = None
    if args.text:
        windows = load_tokens(args.text, dense, length=args.length, samples=CHECKED)
    result = check_model_replay(dense, windows)
    document = {
        "model": {"name": dense.name, "fingerprint": dense.fingerprint, "dtype": args.dtype},
        "ok": result.ok,
        "tolerance": result.tolerance,
        "replay": result.replay.to_dict("records"),
        "matrices": result.matrices.to_dict("records"),
    }
    failure = None
    if not result.ok:
        worst = max(
            document["replay"], key=lambda row: math.inf if math.isnan(row["relative_error"]) else row["relative_error"]
        )
        failure = ReplayError(
            f"check {args.model}: block {worst['name']} replays with a relative error of {worst['relative_error']}, "
            f"tolerance {result.tolerance:g}; this model cannot be pruned block by block"
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
