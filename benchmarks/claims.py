"""What the papers claim, one by one, on a model at hand: holds or does not, by how much. By hand; minutes per model.

    python benchmarks/claims.py lab --pattern 50% --high 60%
    python benchmarks/claims.py STORIES260K --text TINYSTORIES --wrong C4 --separator "<|endoftext|>" --pattern 30%
    --high 40%
    python benchmarks/claims.py --write benchmarks/claims.md       # all models' results side by side

Claims on methods are in `claims_methods.py`, on data, tasks and size in `claims_data.py`, on whole heads and neurons in
`claims_structured.py` (--about runs some of them). Each claim is one number per seed, made so that the claim holds
where it is above zero: mostly the percentage by which one thing lies below another. Reported are mean and standard
deviation over seeds; "holds" wants the mean at least two standard errors above zero, "fails" the same below, and
anything between is "undecided". STORIES260K is the folder of karpathy's tinyllamas model, TINYSTORIES a file of the
text it was trained for, C4 a file of any other text. Runs are kept in the store.
"""

import argparse
import json
import math
from pathlib import Path

import claims_data
import claims_methods
import claims_structured
import pandas as pd
from claims_base import Claim, Results, verdict

from analysis import paths
from analysis.study.job import grid
from analysis.study.results import Study
from analysis.study.sweep import run_study

ABOUT = ("methods", "data", "structured")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?")
    parser.add_argument("--about", choices=ABOUT, action="append", help="default all")
    parser.add_argument(
        "--text",
        help=(
            "a text file; its first 80 %% calibrate, the rest is held out (default: the lab's stories, and its mixture"
            " for claims on data)"
        ),
    )
    parser.add_argument("--wrong", default="lab:recipes", help="text of another kind; default lab:recipes")
    parser.add_argument("--separator")
    parser.add_argument("--pattern", default="50%")
    parser.add_argument("--high", default="60%")
    parser.add_argument("--samples", type=int, default=32)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--write", type=Path, help="write the table of all models run so far to this Markdown file")
    given = parser.parse_args()
    kept = paths.runs() / "claims"
    kept.mkdir(parents=True, exist_ok=True)
    for about in (given.about or ABOUT) if given.model else ():
        keep(given, about, kept)
    if given.write:
        given.write.write_text(report(kept), encoding="utf-8")


def keep(given: argparse.Namespace, about: str, kept: Path) -> None:
    """Run what the claims of one kind need, print how they fare, and keep it as JSON."""
    study, names, claims = {"methods": methods, "data": data, "structured": structured}[about](given)
    results = [Results(names, study, given.pattern, given.high, seed) for seed in given.seeds]
    rows = [
        {
            "claim": claim.text.format(pattern="the lower sparsity", high="the higher sparsity"),
            "source": claim.source,
            "evidence": claim.evidence,
            "unit": claim.unit,
            "guess": claim.guess,
            "values": [claim.margin(result) if claim.only in ("", given.model) else math.nan for result in results],
        }
        for claim in claims
    ]
    options = {key: getattr(given, key) for key in ("pattern", "high", "samples", "length", "lr", "epochs", "seeds")}
    name = Path(given.model).name
    (kept / f"{about}-{name}.json").write_text(
        json.dumps({"model": name, **options, "claims": rows}, indent=1), encoding="utf-8"
    )
    for row in rows:
        values = pd.Series(row["values"])
        print(
            f"{verdict(values):12} {values.mean():+9.2f} ± {values.std(ddof=1):6.2f}  {row['unit']:40} {row['claim']}"
        )


def methods(given: argparse.Namespace) -> tuple[Study, dict[str, str], list[Claim]]:
    chosen = claims_methods.recipes(given.pattern, given.high, given.lr, given.epochs)
    calibration, held_out = split(given, "lab:stories")
    study = run_study(
        grid(
            model=given.model,
            recipes=list(chosen.values()),
            calibration=calibration,
            held_out=[("held-out", held_out)],
            samples=given.samples,
            length=given.length,
            seeds=given.seeds,
            separator=given.separator,
        )
    )
    return study, {text: recipe.label for text, recipe in chosen.items()}, claims_methods.CLAIMS


def data(given: argparse.Namespace) -> tuple[Study, dict[str, str], list[Claim]]:
    calibration, held_out = split(given, "lab:mixed")
    common = {"length": given.length, "separator": given.separator, "seeds": given.seeds}
    names, jobs = claims_data.jobs(
        given.model, given.pattern, calibration, held_out, given.wrong, lr=given.lr, epochs=given.epochs, **common
    )
    return run_study(jobs), names, claims_data.CLAIMS


def structured(given: argparse.Namespace) -> tuple[Study, dict[str, str], list[Claim]]:
    calibration, held_out = split(given, "lab:mixed")
    names, jobs = claims_structured.jobs(
        given.model,
        calibration,
        held_out,
        samples=given.samples,
        length=given.length,
        seeds=given.seeds,
        separator=given.separator,
    )
    return run_study(jobs), names, claims_structured.CLAIMS


def split(given: argparse.Namespace, lab: str) -> tuple[str, str]:
    """Calibration and held-out source."""
    return (f"{given.text}[:80%]", f"{given.text}[80%:]") if given.text else (lab, f"{lab}/held-out")


def report(kept: Path) -> str:
    """The Markdown table: one row per claim, one column per model."""
    found = {
        about: [json.loads(file.read_text(encoding="utf-8")) for file in sorted(kept.glob(f"{about}-*.json"))]
        for about in ABOUT
    }
    models = list(dict.fromkeys(d["model"] for documents in found.values() for d in documents))
    lines = ["# Claims of the papers, held against models at hand", ""]
    for about, documents in found.items():
        lines += [
            f"- **{d['model']}**, claims on {'structures' if about == 'structured' else about}: {setting(about, d)},"
            f" {d['length']} tokens a window, seeds {', '.join(map(str, d['seeds']))}"
            for d in documents
        ]
    lines += [
        "",
        (
            "Numbers are margins: above zero the claim holds. Mean ± standard deviation over seeds; *undecided*: within"
            " two standard errors of zero."
        ),
        "",
    ]
    lines += ["| claim | paper's evidence | margin in | " + " | ".join(models) + " |", "|" + "---|" * (3 + len(models))]
    guesses: dict[str, list[str]] = {}
    for documents in found.values():
        for index, first in enumerate(documents[0]["claims"] if documents else ()):
            values = {d["model"]: pd.Series(d["claims"][index]["values"], dtype=float) for d in documents}
            cells = [cell(values.get(model)) for model in models]
            lines.append(
                f"| {first['claim']} ({first['source']}) | {first['evidence']} | {first['unit']} |"
                f" {' | '.join(cells)} |"
            )
            if where := [model for model, some in values.items() if verdict(some) in ("fails", "undecided")]:
                guesses.setdefault(first["guess"] or "No guess.", []).append(f"{first['claim']} ({', '.join(where)})")
    lines += ["", "## Where a claim does not hold, a guess at why", ""]
    lines += [f"- {'; '.join(claims)}. {guess}" for guess, claims in guesses.items()]
    return "\n".join(lines) + "\n"


def setting(about: str, document: dict) -> str:
    """What the claims of one kind were run with, so far as the command decides."""
    if about == "structured":
        return (
            f"shares as the rows say, {document['samples']} windows on the decoder, {claims_structured.SEEN} examples"
            f" of at most {claims_structured.LENGTH} tokens on encoders"
        )
    higher = (
        f' ({document["high"]} where a row says "higher sparsity") with {document["samples"]} windows'
        if about == "methods"
        else ""
    )
    return f"{document['pattern']} removed{higher}, {document['epochs']} epochs at {document['lr']:g}"


def cell(values: pd.Series | None) -> str:
    if values is None or values.isna().all():
        return "not measured"
    return f"**{verdict(values)}** {values.mean():+.1f} ± {values.std(ddof=1):.1f}"


if __name__ == "__main__":
    main()
