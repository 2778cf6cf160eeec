"""What the papers claim, one by one, on a model at hand: holds or does not, by how much. By hand; minutes per model.

    python benchmarks/claims.py lab --pattern 50% --high 60%
    python benchmarks/claims.py STORIES260K --text TINYSTORIES --wrong C4 --separator "<|endoftext|>" --pattern 30%
    --high 40%
    python benchmarks/claims.py      # what committed figures answer, claims.md and figures/claims.* anew

Claims that the csv of a committed figure answers are in `claims_figures.py`, of experts and whole blocks in
`claims_shapes.py`, of models that read pictures in `claims_vision.py`, of SmolLM2 and MiniLM in `claims_real.py`;
nothing is run for them.

Claims on methods are in `claims_methods.py`, on data, tasks and size in `claims_data.py`, on whole heads and neurons in
`claims_structured.py` (--about runs some of them), those that have no row in `claims_elsewhere.py`. Each claim is one
number per seed, made so that the claim holds where it is above zero: mostly the percentage by which one thing lies
below another. They are written to `claims.csv`, one row for each seed, in place of the rows of that model; the verdicts
are those of `analysis.present.forest`. STORIES260K is the folder of karpathy's tinyllamas model, TINYSTORIES a file of
the text it was trained for, C4 a file of any other text. Runs are kept in the store.
"""

import argparse
import math
from pathlib import Path

import claims_data
import claims_figures
import claims_methods
import claims_real
import claims_shapes
import claims_structured
import claims_vision
import pandas as pd
from claims_base import Claim, Results
from claims_drawn import FigureClaim, provenance
from claims_elsewhere import ELSEWHERE

from analysis import paths, storage
from analysis.present import forest
from analysis.present.footer import commit
from analysis.present.provenance import write_svg
from analysis.present.style import in_style
from analysis.study.results import Study
from analysis.study.sweep import run_study

HERE = Path(__file__).resolve().parent
CLAIMS = {"methods": claims_methods.CLAIMS, "data": claims_data.CLAIMS, "structures": claims_structured.CLAIMS}
DRAWN = {
    "figures": claims_figures.CLAIMS,
    "experts and blocks": claims_shapes.CLAIMS,
    "pictures": claims_vision.CLAIMS,
    "real models": claims_real.CLAIMS,
}
FORESTS = {
    "claims": tuple(CLAIMS),
    "claims_figures": ("figures",),
    "claims_shapes": ("experts and blocks", "pictures"),
    "claims_real": ("real models",),
}
WAITING = "not run yet: `benchmarks/claims.py lab` would"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?")
    parser.add_argument("--about", choices=CLAIMS, action="append", help="default all")
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
    parser.add_argument("--csv", type=Path, default=HERE / "claims.csv", help="default claims.csv, here")
    given = parser.parse_args()
    for about in (given.about or CLAIMS) if given.model else ():
        rows = measured(given, about)
        storage.write(given.csv, in_order(kept(given.csv), rows).to_csv(index=False, lineterminator="\n"))
    storage.write(given.csv, in_order(kept(given.csv), drawn()).to_csv(index=False, lineterminator="\n"))
    if given.csv.parent == HERE:
        draw(kept(given.csv))


def kept(file: Path) -> pd.DataFrame:
    """The table of claims as it is."""
    if not file.is_file():
        return pd.DataFrame(columns=forest.COLUMNS)
    return pd.read_csv(file, keep_default_na=False, na_values={"value": [""], "std": [""]})


def measured(given: argparse.Namespace, about: str) -> pd.DataFrame:
    """Run what the claims of one kind need: a row for each claim and seed that the model can answer."""
    study, names = {"methods": methods, "data": data, "structures": structured}[about](given)
    only = {"samples": given.samples} if about == "methods" else {}
    results = [Results(names, study, given.pattern, given.high, seed, only) for seed in given.seeds]
    ran = {"commit": commit() or "", "versions": said_versions()}
    return pd.DataFrame(
        [
            said(claim, about)
            | {"model": Path(given.model).name, "options": setting(given, about), "kind": forest.SEEDWISE}
            | {"seed": result.seed, "value": claim.margin(result), "std": math.nan, "seeds": 1, **ran}
            for claim in CLAIMS[about]
            if claim.only in ("", given.model)
            for result in results
        ],
        columns=forest.COLUMNS,
    )


def drawn() -> pd.DataFrame:
    """The rows of claims that committed figures answer, by model and seed."""
    return pd.DataFrame(
        [
            said(claim, about)
            | {"model": model, "kind": forest.SEEDWISE, "seed": seed, "value": value, "std": math.nan, "seeds": 1}
            | provenance(claim.figure)
            for about in DRAWN
            for claim in DRAWN[about]
            for model, seed, value in claim.rows()
        ],
        columns=forest.COLUMNS,
    )


def every() -> list[tuple[str, Claim | FigureClaim]]:
    """All claims, each with its kind."""
    ran = [(about, claim) for about in CLAIMS for claim in CLAIMS[about]]
    return [*ran, *((about, claim) for about in DRAWN for claim in DRAWN[about])]


def said(claim: Claim | FigureClaim, about: str) -> dict[str, str]:
    """The words of a claim."""
    text = claim.text.format(pattern="the lower sparsity", high="the higher sparsity")
    words = {"claim": text, "source": claim.source, "evidence": claim.evidence, "unit": claim.unit}
    return {"about": about, **words, "guess": claim.guess}


def in_order(old: pd.DataFrame, new: pd.DataFrame) -> pd.DataFrame:
    """The old rows but for those of the same model and kind of claim, and the new ones; beside them what the papers
    print. Claims are in the order and in the words of their lists; rows of claims that are none any more are dropped.
    """
    words = [said(claim, about) for about, claim in every()]
    same = pd.MultiIndex.from_frame(old[["about", "model"]]).isin(pd.MultiIndex.from_frame(new[["about", "model"]]))
    table = pd.concat([old[~same & (old["kind"] != forest.PAPER)], new, printed()], ignore_index=True)
    places = {entry["claim"]: place for place, entry in enumerate(words)}
    table = table[table["claim"].isin(places)].copy()
    for name in forest.CLAIM:
        table[name] = [words[places[claim]][name] for claim in table["claim"]]
    order, last = table["claim"].map(places), table["kind"] == forest.PAPER
    ordered = table.assign(order=order, last=last).sort_values(["order", "last", "model", "seed"], ignore_index=True)
    return ordered[forest.COLUMNS]


def printed() -> pd.DataFrame:
    """The margins of the papers' own models, where they print the numbers."""
    rows = [
        said(claim, about)
        | {"model": model, "options": "", "kind": forest.PAPER, "seed": -1, "value": value}
        | {"std": math.nan, "seeds": 1, "commit": "", "versions": ""}
        for about, claim in every()
        for model, value in claim.known.items()
    ]
    return pd.DataFrame(rows, columns=forest.COLUMNS)


def draw(table: pd.DataFrame) -> None:
    """claims.md, and figures/claims*.svg and .png."""
    ran = set(table.loc[table["kind"] != forest.PAPER, "claim"])
    waiting = [(said(claim, about)["claim"], claim.source, WAITING) for about in CLAIMS for claim in CLAIMS[about]]
    without = [*ELSEWHERE, *(one for one in waiting if one[0] not in ran)]
    parts = {name: table[table["about"].isin(groups)] for name, groups in FORESTS.items()}
    storage.write(HERE / "claims.md", forest.page(table, without, list(parts)))
    for name, rows in parts.items():
        fig = forest.plot_forest(rows)
        with in_style():
            write_svg(fig, paths.figures() / f"{name}.svg", "Margins of the papers' claims", str(fig.get_label()))
            fig.savefig(paths.figures() / f"{name}.png", metadata={"Software": None})


def said_versions() -> str:
    return "; ".join(f"{name} {number}" for name, number in storage.versions("torch", "transformers", "numpy").items())


def methods(given: argparse.Namespace) -> tuple[Study, dict[str, str]]:
    calibration, held_out = split(given, "lab:stories")
    names, jobs = claims_methods.jobs(
        given.pattern,
        given.high,
        lr=given.lr,
        epochs=given.epochs,
        samples=given.samples,
        model=given.model,
        calibration=calibration,
        held_out=[("held-out", held_out)],
        length=given.length,
        seeds=given.seeds,
        separator=given.separator,
    )
    return run_study(jobs), names


def data(given: argparse.Namespace) -> tuple[Study, dict[str, str]]:
    calibration, held_out = split(given, "lab:mixed")
    common = {"length": given.length, "separator": given.separator, "seeds": given.seeds}
    names, jobs = claims_data.jobs(
        given.model, given.pattern, calibration, held_out, given.wrong, lr=given.lr, epochs=given.epochs, **common
    )
    return run_study(jobs), names


def structured(given: argparse.Namespace) -> tuple[Study, dict[str, str]]:
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
    return run_study(jobs), names


def split(given: argparse.Namespace, lab: str) -> tuple[str, str]:
    """Calibration and held-out source."""
    return (f"{given.text}[:80%]", f"{given.text}[80%:]") if given.text else (lab, f"{lab}/held-out")


def setting(given: argparse.Namespace, about: str) -> str:
    """What the claims of one kind were run with, so far as the command decides."""
    if about == "structures":
        return (
            f"shares as the claims say, {given.samples} windows of {given.length} tokens on the decoder,"
            f" {claims_structured.SEEN} examples of at most {claims_structured.LENGTH} tokens on encoders"
        )
    higher = (
        f' ({given.high} where a claim says "higher sparsity"), {given.samples} windows' if about == "methods" else ""
    )
    return f"{given.pattern} removed{higher}, {given.length} tokens a window, {given.epochs} epochs at {given.lr:g}"


if __name__ == "__main__":
    main()
