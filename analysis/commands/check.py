"""`analysis check`: whether a model can be pruned block by block. Replays every block and lists the matrices."""

import argparse
import math
from typing import TYPE_CHECKING

from analysis.commands.arguments import add_model, add_verb
from analysis.commands.common import Problems, Report, check_counts, check_model, fingerprints, say, table
from analysis.errors import ReplayError
from analysis.models.dtypes import dtype_word

if TYPE_CHECKING:
    from analysis.models.load import LoadedModel
    from analysis.windows import Windows

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
    from analysis.text.load import load_tokens

    say(f"loading {args.model}")
    dense = load_model(args.model, device=args.device, dtype=args.dtype)
    for note in dense.notes:
        say(f"{args.model}: {note}")
    windows = None
    if args.text:
        windows = load_tokens(args.text, dense, length=args.length, samples=CHECKED)
    document = {
        "model": {
            "name": dense.name,
            "fingerprint": dense.fingerprint,
            "dtype": dtype_word(dense.dtype),
            "notes": list(dense.notes),
        },
        **replay_and_matrices(dense, windows),
    }
    failure = None
    if not document["ok"]:
        worst = max(
            document["replay"], key=lambda row: math.inf if math.isnan(row["relative_error"]) else row["relative_error"]
        )
        failure = ReplayError(
            f"check {args.model}: block {worst['name']} replays with a relative error of {worst['relative_error']}, "
            f"tolerance {document['tolerance']:g}; this model cannot be pruned block by block"
        )
    return Report(_check_text(document), document, failure)


def replay_and_matrices(dense: "LoadedModel", windows: "Windows | None" = None) -> dict:
    """`ok`: whether the replay on `windows` (None: random tokens) is exact to `tolerance` in every block, nan is not;
    `replay`: a row (block, name, relative_error) per block; `matrices`: a row (block, matrix, half, rows, columns,
    weights) per prunable matrix.

    Raises UnsupportedModel where the model cannot be taken apart. A replay that is not exact is reported, not raised.
    """
    from analysis.models.anatomy import anatomy
    from analysis.models.replay import random_windows, replay_error, tolerance_for

    parts = anatomy(dense.model)
    errors = replay_error(dense.model, parts, random_windows(dense.model) if windows is None else windows)
    tolerance = tolerance_for(dense.dtype)
    matrices = [
        {
            "block": block.index,
            "matrix": matrix.name,
            "half": matrix.half,
            "rows": matrix.rows,
            "columns": matrix.columns,
            "weights": matrix.rows * matrix.columns,
        }
        for block in parts.blocks
        for matrix in block.matrices
    ]
    return {
        "ok": bool((errors.relative_error <= tolerance).all()),
        "tolerance": tolerance,
        "replay": errors.to_dict("records"),
        "matrices": matrices,
    }


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
