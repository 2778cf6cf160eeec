"""The verbs about text: `analysis data describe` and `analysis data generate`."""

import argparse
import json
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

from analysis import paths, storage
from analysis.commands import out_folder
from analysis.commands.arguments import SOURCE_HELP, Parser, add_device, add_model, add_verb, add_windows
from analysis.commands.common import Problems, Report, check_counts, check_model, fingerprints, say, table, unescape
from analysis.errors import StoreError, UsageError
from analysis.progress import bar
from analysis.text.generation import Generation
from analysis.text.sources import named, parse_source

BYTE = re.compile(r"<0x[0-9A-F]{2}>")  # how tokenizers with byte fallback write a byte they know no word for


def add(verbs) -> None:
    """The verb and its arguments."""
    from analysis.text.generation import GENERATION_OPTIONS

    data = verbs.add_parser("data", help="look at texts, and write some", description="Look at texts, and write some.")
    data = data.add_subparsers(metavar="VERB", required=True, parser_class=Parser)
    verb = add_verb(
        data,
        "describe",
        describe,
        "say what a model meets in a text, and how far it is from another one",
        "  analysis data describe lab:recipes --against lab:stories\n  analysis data describe self:temperature=0.8"
        " --model lab --against lab:mixed --json\n  analysis data describe 'notes.txt[:80%]' --model ./my-llama"
        " --against hub:wikitext2 --samples 128 --length 1024",
        "Blocks are compared by the second moments S of their outputs' hidden states: |S - S'| / |S'|, S' of the other"
        ' text.\nA lab register that names no half is read as in `analysis prune`: SOURCE "train", --against'
        ' "held-out".\n\n' + SOURCE_HELP,
    )
    verb.add_argument("source", metavar="SOURCE", help="the text")
    verb.add_argument(
        "--model", default="lab", metavar="MODEL", help="who reads it: a lab model, a folder, or a hub id; default lab"
    )
    add_device(verb)
    verb.add_argument("--against", metavar="SOURCE", help="another text, to compare it with")
    add_windows(verb, "windows of each text; default 64", "which windows are drawn; default 0", length=128)
    verb.set_defaults(samples=64)
    verb = add_verb(
        data,
        "generate",
        generate,
        "let a model write texts, as the source `self` does",
        "  analysis data generate lab --texts 64 --out own.jsonl\n  analysis data generate ./my-llama --texts 512"
        ' --settings "language=en,top-k=50" --seed 1 --out own.jsonl --device cuda',
        "settings, as OPTION=VALUE,...:\n"
        + "\n".join(f"  {name:12} {meaning}" for name, meaning in GENERATION_OPTIONS.items())
        + "\n\nTexts are kept, and an interrupted command goes on when it is repeated.",
    )
    add_model(verb)
    verb.add_argument("--texts", type=int, required=True, metavar="N", help="how many")
    verb.add_argument(
        "--out",
        type=paths.expanded,
        required=True,
        metavar="FILE.jsonl",
        help="one text a line; its provenance is put beside it",
    )
    verb.add_argument(
        "--settings",
        default="",
        metavar="OPTIONS",
        help='such as "temperature=0.8,top-p=0.95"; default those of Shin et al. 2024',
    )
    verb.add_argument("--seed", type=int, default=0, metavar="S", help="of the texts; default 0")


def describe(args: argparse.Namespace) -> Report:
    """What a model meets in a text: windows, tokens, unknown ones, its loss; and how far the text is from another one.

    Raises: AnalysisError if an argument, the model or a text is unusable.
    """
    problems = Problems()
    check_counts(problems, args)
    model = check_model(problems, args.model)
    fingerprints({"text": args.source} | ({} if args.against is None else {"against": args.against}), problems, model)
    problems.raise_any()
    from analysis.measure.perplexity import perplexity
    from analysis.measure.scores import score
    from analysis.models.load import load_model
    from analysis.text.load import load_tokens

    say(f"loading {args.model}")
    dense = load_model(args.model, device=args.device, dtype=args.dtype)
    how = {
        "samples": args.samples,
        "length": args.length,
        "seed": args.seed,
        "separator": unescape(args.separator),
        "mode": args.mode,
        "bos": args.bos,
    }
    windows = load_tokens(args.source, dense, split="train", **how)
    if windows.labelled is None:
        loss = perplexity(dense.model, windows)
        met: dict[str, Any] = {"nats_per_token": loss.nats_per_token, "perplexity": loss.perplexity}
    else:
        met = {"score": asdict(score(dense.model, windows))}
    tokenizer = dense.tokenizer
    assert tokenizer is not None  # `load_tokens` has refused a model without one
    unknown = getattr(tokenizer, "unk_token_id", None)
    fallback = [number for token, number in tokenizer.get_vocab().items() if BYTE.fullmatch(token)]
    document = {
        "model": {"name": dense.name, "fingerprint": dense.fingerprint},
        "source": windows.label,
        "windows": len(windows),
        "tokens": windows.tokens,
        "documents": _documents(windows.provenance),
        "unknown_share": _share(windows, [] if unknown is None else [unknown]),
        "byte_share": _share(windows, fallback) if fallback else None,
        **met,
        "provenance": windows.provenance,
    }
    if args.against is not None:
        document["against"] = _against(dense, windows, load_tokens(args.against, dense, split="held-out", **how))
    return Report(_describe_text(document), document)


def _documents(provenance: dict) -> int:
    """Documents read for some windows; a mixture's are those of its parts."""
    return sum(part.get("documents", 0) for part in provenance.get("parts", [provenance]))


def _share(windows, numbers: list[int]) -> float:
    """Share of the real tokens that are one of these."""
    import torch

    return (
        torch.isin(windows.ids, torch.tensor(numbers, dtype=torch.long)) & windows.mask
    ).sum().item() / windows.tokens


def _against(dense, windows, other) -> dict:
    """How far `windows` are from those of another text: what of it they repeat, and the distance of hidden states'
    second moments.
    """
    from analysis.measure.second_moments import second_moment
    from analysis.streams.moments import distance
    from analysis.windows import repeated

    rows, run = repeated(windows, other)
    moments, reference = second_moment(dense.model, windows), second_moment(dense.model, other)
    return {
        "source": other.label,
        "windows": len(other),
        "repeated_windows": len(rows),
        "repeated_share": len(rows) / len(other),
        "run": run,
        "distance": [distance(one, to) for one, to in zip(moments, reference, strict=True)],
        "provenance": other.provenance,
    }


def _describe_text(document: dict) -> str:
    name, of = document["model"]["name"], document.get("score")
    byte = [] if document["byte_share"] is None else [("byte-fallback tokens", f"{document['byte_share']:.2%}")]
    rows = [
        ("windows", f"{document['windows']:,}"),
        ("tokens", f"{document['tokens']:,}"),
        ("documents read", f"{document['documents']:,}"),
        ("unknown tokens", f"{document['unknown_share']:.2%}"),
        *byte,
        *(
            []
            if of
            else [
                (
                    f"loss of {name}",
                    f"{document['nats_per_token']:.4g} nats per token (perplexity {document['perplexity']:.4g})",
                )
            ]
        ),
        *(
            [(f"{of['metric']} of {name}", f"{of['score']:.4g} +- {of['standard_error']:.2g} (loss {of['loss']:.4g})")]
            if of
            else []
        ),
    ]
    lines = [document["source"], "", table(("quantity", "value"), rows)]
    if "against" in document:
        other = document["against"]
        lines += [
            "",
            (
                f"against {other['source']}: {other['repeated_windows']} of its {other['windows']} windows"
                f" ({other['repeated_share']:.1%}) share {other['run']} or more consecutive tokens with this text"
            ),
            "",
            table(("block", "distance of second moments"), list(enumerate(other["distance"]))),
        ]
    return "\n".join(lines)


def generate(args: argparse.Namespace) -> Report:
    """Texts in a model's own words, as a file of lines {"text": ..., "tokens": ...} with its provenance beside it.

    Raises: AnalysisError if an argument or the model is unusable, or all it writes is rejected; StoreError for a file
    that is there already and is not these texts.
    """
    problems = Problems()
    problems.check_count("--texts", args.texts)
    check_counts(problems, args)
    source = f"self:{args.settings}".removesuffix(":")
    model = check_model(problems, args.model)
    with problems.catch():
        Generation.parse(args.settings)
        if model is not None:
            fingerprints({"text": source}, problems, model)
    with problems.catch():
        if args.out.suffix != ".jsonl" or args.out.is_dir():
            raise UsageError(f"--out {args.out}: must be a file that ends in .jsonl")
        out_folder.check_place(args.out.parent)
        out_folder.check_writable(args.out.parent)
    problems.raise_any()
    from analysis.models.load import load_model
    from analysis.text import generated_files

    say(f"loading {args.model}")
    loaded = load_model(args.model, device=args.device, dtype=args.dtype)
    request = generated_files.file_of(loaded, parse_source(source), seed=args.seed).request | {"asked": args.texts}
    beside = args.out.with_suffix(".provenance.json")
    if (record := _finished(args.out, beside, request)) is None:
        batches, texts = [], 0
        with bar(total=args.texts, desc="texts", unit="text") as progress:
            for batch in generated_files.written(loaded, source, seed=args.seed):
                batches.append(batch)
                progress.update(min(len(batch.texts), args.texts - texts))
                texts += len(batch.texts)
                if texts >= args.texts:
                    break
        chosen = [(text, number) for number, batch in enumerate(batches) for text in batch.texts][: args.texts]
        data = b"".join(generated_files.line(text, number) for text, number in chosen)
        counts = {
            "texts": len(chosen),
            "tokens": sum(text.tokens for text, _ in chosen),
            "rejected": generated_files.tally(batches)["rejected"],
        }
        settings = named(Generation.parse(args.settings), lambda reference: reference.label).to_dict()
        record = request | {"settings": settings, "sha256": storage.sha256(data), **counts}
        record["versions"] = generated_files.versions()
        storage.write(beside, json.dumps(record, indent=2))
        storage.write(args.out, data)  # last: where it is, so is what it is known by
    return Report(_generate_text(args.out, beside, record), {"file": str(args.out), **record})


def _finished(out: Path, beside: Path, request: dict) -> dict | None:
    """The provenance of these very texts where the file holds them, None where there is no file. Raises StoreError
    where it holds others.
    """
    if not out.exists():
        return None
    try:
        record = storage.read_json(beside)
        if {key: record.get(key) for key in request} == request and storage.file_sha256(out) == record["sha256"]:
            return record
    except (OSError, ValueError, KeyError, AttributeError):
        pass
    raise StoreError(
        f"--out {out}: the file is there already and holds something else; name another file, or remove it"
    )


def _generate_text(out: Path, beside: Path, record: dict) -> str:
    from analysis.text.generate import REJECTIONS

    rejected = [
        f"rejected {number:,} for {reason}: {REJECTIONS[reason]}" for reason, number in record["rejected"].items()
    ] or ["rejected none"]
    return "\n".join(
        [
            (
                f"{record['texts']:,} texts of {record['tokens']:,} tokens by {record['model']}"
                f" ({record['source']}, seed {record['seed']})"
            ),
            *rejected,
            "",
            f"texts       {out}",
            f"provenance  {beside}",
        ]
    )
