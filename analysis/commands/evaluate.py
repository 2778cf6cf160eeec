"""`analysis evaluate`: measure a model on texts and tasks."""

import argparse
import math
from dataclasses import asdict
from itertools import islice
from typing import TYPE_CHECKING, Any

from analysis.commands.arguments import SOURCE_HELP, add_model, add_verb, add_windows
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
from analysis.errors import UsageError
from analysis.models.dtypes import dtype_word
from analysis.text.sources import LABELLED, endless_error, parse_source, source_fingerprint
from analysis.text.tasks import check_tasks, task_fingerprint

if TYPE_CHECKING:
    from analysis.measure.perplexity import Perplexity
    from analysis.models.load import LoadedModel

TEXT = ("text", "perplexity", "nats per token", "tokens", "windows", "context")
SCORES = {"text": "text", "metric": "metric", "score": "score", "standard_error": "+-", "pearson": "pearson"}
SCORES |= {"loss": "loss", "examples": "examples"}


def add(verbs) -> None:
    """The verb and its arguments."""
    verb = add_verb(
        verbs,
        "evaluate",
        evaluate,
        "measure the perplexity of a model on texts, and its accuracy on tasks",
        "  analysis evaluate lab --text lab:stories --length 128 --samples 200\n"
        "  analysis evaluate out/wanda/model --text 'notes.txt[80%:]' --text wiki=hub:wikitext2 --length 1024 --json\n"
        "  analysis evaluate lab --task lab:story-ending --task questions.jsonl --documents 200",
        SOURCE_HELP,
    )
    add_model(verb)
    verb.add_argument(
        "--text",
        default=[],
        action="append",
        metavar="[LABEL=]SOURCE",
        help="text to measure on; may be given several times",
    )
    verb.add_argument(
        "--task",
        action="append",
        default=[],
        metavar="NAME",
        help="multiple-choice task (`analysis list tasks`); may be given several times",
    )
    verb.add_argument("--documents", type=int, default=100, metavar="N", help="questions per task; default 100")
    verb.add_argument(
        "--protocol",
        choices=("windows", "rolling"),
        default="windows",
        help=(
            "windows: perplexity over windows (default); rolling: word and byte perplexity over the first N documents"
            " (--samples N; default all), as lm-evaluation-harness sums them, with --length as its max_length"
        ),
    )
    add_windows(verb, "windows per text; default all", "which windows and questions are drawn; default 0", length=128)


def evaluate(args: argparse.Namespace) -> Report:
    """Perplexity of a model on each text, its score on labelled examples, and its accuracy on each task.

    Raises: AnalysisError if an argument, the model, a text or a task is unusable.
    """
    sources = _checked(args)
    from analysis.models.load import load_model

    say(f"loading {args.model}")
    dense = load_model(args.model, device=args.device, dtype=args.dtype)
    document: dict[str, Any] = {
        "model": {
            "name": dense.name,
            "fingerprint": dense.fingerprint,
            "dtype": dtype_word(dense.dtype),
            "notes": list(dense.notes),
        }
    }
    if args.protocol == "windows":
        document |= _on_windows(sources, dense, args)
    else:
        document["perplexity"] = []
        if rolled := [_roll(label, source, dense, args) for label, source in sources.items()]:
            document["rolling"] = rolled
    if args.task:
        document["tasks"] = _asked(dense, args)
    tables = [_shown(name, rows) for name, rows in document.items() if name != "model" and rows]
    return Report("\n\n".join([*tables, *(f"{dense.name}: {note}" for note in dense.notes)]), document)


def _checked(args: argparse.Namespace) -> dict[str, str]:
    """The sources by label. Raises UsageError listing what is wrong with the arguments."""
    problems = Problems()
    check_counts(problems, args)
    model = check_model(problems, args.model)
    sources = label_sources("--text", args.text, problems)
    fingerprints(sources, problems, model)
    with problems.catch():
        check_tasks(args.task)
    if args.protocol == "rolling" and args.mode is not None:
        problems.add(f"--mode {args.mode}: says how windows are cut, and --protocol rolling reads whole documents")
    if not args.text and not args.task:
        problems.add("nothing to measure; give --text, --task, or both")
    problems.raise_any()
    return sources


def _on_windows(sources: dict[str, str], dense: "LoadedModel", args: argparse.Namespace) -> dict[str, list[dict]]:
    """Perplexity on the windows of plain texts, scores on labelled ones."""
    from analysis.measure.perplexity import perplexity
    from analysis.measure.scores import score
    from analysis.text.load import load_tokens

    texts, scores = [], []
    for label, source in sources.items():
        windows = load_tokens(
            source,
            dense,
            samples=args.samples,
            length=args.length,
            seed=args.seed,
            separator=unescape(args.separator),
            mode=args.mode,
            bos=args.bos,
            split="held-out",
        )
        say(f"{label}: {len(windows)} windows of {windows.length} tokens")
        if windows.labelled is not None:
            scores.append({"text": label, **asdict(score(dense.model, windows)), "provenance": windows.provenance})
            continue
        result = perplexity(dense.model, windows)
        _warn_of_guessing(label, result, dense, args.bos)
        cells = (result.perplexity, result.nats_per_token, result.tokens, result.windows, result.context)
        texts.append(dict(zip(TEXT, (label, *cells)), provenance=windows.provenance))
    return {"perplexity": texts, **({"scores": scores} if scores else {})}


def _warn_of_guessing(label: str, result: "Perplexity", dense: "LoadedModel", bos: str) -> None:
    """One line where a model does worse than one that knows nothing."""
    from analysis.models.load import embedding_rows

    if not result.nats_per_token > math.log(embedding_rows(dense.model)):
        return
    begins = dense.tokenizer is not None and dense.tokenizer.bos_token_id is not None
    way = "; a model that reads text only behind a beginning-of-text token, such as Gemma, needs --bos every"
    say(
        f"{label}: a perplexity of {result.perplexity:.3g} is worse than guessing"
        f"{way if begins and bos != 'every' else ''}"
    )


def _asked(dense: "LoadedModel", args: argparse.Namespace) -> list[dict]:
    """Its answers to the tasks."""
    from analysis.measure.zero_shot import zero_shot

    say(f"asking {args.documents} questions of {', '.join(args.task)}")
    answers = zero_shot(dense.model, dense.tokenizer, args.task, documents=args.documents, seed=args.seed, bos=args.bos)
    return [{**asdict(answer), "fingerprint": task_fingerprint(answer.task)} for answer in answers]


def _shown(name: str, rows: list[dict]) -> str:
    """One part of the document as a table."""
    columns = {key: key.replace("_", " ") for key in rows[0] if key not in ("provenance", "fingerprint")}
    if name == "scores":
        correlated = any(row["pearson"] is not None for row in rows)
        columns = {key: word for key, word in SCORES.items() if key != "pearson" or correlated}
    return table(tuple(columns.values()), [["-" if row[key] is None else row[key] for key in columns] for row in rows])


def _roll(label: str, source: str, dense: "LoadedModel", args: argparse.Namespace) -> dict:
    """Word and byte perplexity of the documents of a source, and where they come from."""
    from analysis.measure.rolling import rolling
    from analysis.text.readers import read

    parsed = parse_source(source).half("held-out")
    if parsed.kind not in ("lab", "file", "hub"):
        what = "labelled examples" if parsed.kind == LABELLED else "windows rather than documents"
        raise UsageError(f"{label}: {what} cannot be read whole; give a lab, file or hub source to --protocol rolling")
    if parsed.endless and args.samples is None:
        raise UsageError(endless_error(parsed))
    texts, separated = read(parsed, seed=args.seed, separator=unescape(args.separator), tokenizer=dense.tokenizer)
    documents = list(islice(texts, args.samples))
    result = rolling(dense.model, dense.tokenizer, documents, length=args.length, bos=args.bos, label=label)
    return {
        "text": label,
        "word perplexity": result.word_perplexity,
        "byte perplexity": result.byte_perplexity,
        "bits per byte": result.bits_per_byte,
        **asdict(result),
        "provenance": {
            "source": parsed.label,
            "fingerprint": source_fingerprint(parsed),
            "separator": separated,
            "bos": args.bos,
            "length": args.length,
        },
    }
