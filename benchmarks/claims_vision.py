"""Claims on models that read pictures: what is lost when their language part is cut, and what brings it back. They are
judged by the runs of notebook 13 at its published size.
"""

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

from claims_base import Claim, Results, less

from analysis.present.vision import CLOSED, LOCAL, NOTHING, PROJECTOR, STATES, recovery, way
from analysis.study.grids import labelled
from analysis.study.job import Job
from analysis.study.pictured import counted, cut, pictured
from analysis.suite.suite import plan, read_parameters

HUANG = "2507.20749"
NOTEBOOK = "13_vision_language"
FULL = "language"
WAYS = {"depth": "whole blocks", "width": "heads and neurons"}
SMALL, LARGE = ("12.5%", "25%"), ("50%", "62.5%")
SHARE, ENOUGH = "25%", 10.0  # where less data was given; points within which the projector counts as enough
Cell = tuple[str, str, str]  # way, share, recovery


@cache
def parameters() -> dict[str, Any]:
    """The notebook's parameters in the preset `lab`."""
    (one,) = plan("lab", NOTEBOOK)
    return {name: known.default for name, known in read_parameters(one.path).items()} | dict(one.parameters)


def jobs(seeds: Sequence[int]) -> tuple[dict[Cell, str], list[Job]]:
    """The label of the recipe of every cell, and the notebook's runs with these seeds."""
    p = parameters()
    trained = {"lr": p["LEARNING_RATE"], "epochs": p["EPOCHS"]}
    chosen = []
    for name, criterion, repairs in (
        ("depth", p["DEPTH"], p["DEPTH_REPAIRS"]),
        ("width", p["WIDTH"], p["WIDTH_REPAIRS"]),
    ):
        chosen += cut(name, criterion, p["LIGHT"], repairs, p["RETRAINED"], p["LIGHT_RATES"], **trained)
        chosen += cut(name, criterion, p["HEAVY"], repairs, p["RETRAINED"], p["HEAVY_RATES"], **trained)
        chosen += cut(name, criterion, [p["SHARE"]], [], p["MORE"], p["MORE_RATES"], **trained)
    runs = pictured(
        chosen,
        counted=counted(p["MASKS"], p["TOKENS"], p["COUNTED_METHODS"], **trained),
        asked=p["ASKED"],
        tasks=p["TASKS"],
        documents=p["DOCUMENTS"],
        share=p["SHARE"],
        fewer=p["FEWER"],
        fewer_methods=p["FEWER_METHODS"],
        model=p["MODEL"],
        calibration=p["CALIBRATION"],
        held_out=labelled(p["HELD_OUT"]),
        samples=p["SAMPLES"],
        held_out_samples=p["HELD_OUT_SAMPLES"],
        length=p["LENGTH"],
        seeds=list(seeds),
    )
    named = {(way(r.label), str(r.pattern).partition("-")[2], recovery(r.label)): r.label for r in chosen}
    return named, [*runs.recovered, *runs.data]


def lost(r: Results, of: str, share: str, word: str, windows: int | None = None) -> float:
    """Nats per token of held-out pictures above the dense model."""
    p = parameters()
    (text,) = labelled(p["HELD_OUT"])
    rows = r.at(samples=windows or p["SAMPLES"])._rows("perplexity", (of, share, word)).query("split == @text")
    nats = rows.set_index("which")["nats_per_token"]
    return float(nats["pruned"] - nats["dense"])


def back(r: Results, of: str, share: str, word: str, windows: int | None = None) -> float:
    """Per cent of the nats lost without recovery that a recovery gives back."""
    return less(lost(r, of, share, word, windows), lost(r, of, share, NOTHING))


def smallest(shares: Sequence[str], margin: Callable[[Results, str], float]) -> Callable[[Results], float]:
    """The smallest of the margins at several shares."""
    return lambda r: min(margin(r, share) for share in shares)


PAGE = "project page, Key Insights"
TINY = (
    "A model of eight blocks of 64 units and forty windows; the measure is the loss, the study's are benchmark scores."
)
CLAIMS = [
    *(
        Claim(
            f"without recovery width loses less than depth, {share} of the block weights removed",
            HUANG,
            f"project page, Results: mean over nine benchmarks, {evidence}",
            "% fewer nats lost",
            lambda r, s=share: less(lost(r, "width", s, NOTHING), lost(r, "depth", s, NOTHING)),
            TINY,
            only="lab",
        )
        for share, evidence in (
            ("12.5%", "89 against 70 % kept (LLaVA), 90 against 86 % (Bunny) at 15 %"),
            ("25%", "77 against 67 % kept (LLaVA), 72 against 66 % (Bunny) at 30 %"),
        )
    ),
    *(
        Claim(
            f"one eighth of {words} removed: the projector alone gives back as much as the whole language part trained"
            f" towards next token and hidden states, within {ENOUGH:g} points",
            HUANG,
            f"{PAGE} 3: projector-only fine-tuning is sufficient up to 15 %",
            "points within",
            lambda r, w=of: back(r, w, SMALL[0], PROJECTOR) - back(r, w, SMALL[0], STATES) + ENOUGH,
            TINY,
            only="lab",
        )
        for of, words in WAYS.items()
    ),
    *(
        Claim(
            f"next token and hidden states are better than the next token alone, a quarter of {words} removed",
            HUANG,
            f"{PAGE} 4: best across all compression ratios",
            "% fewer nats lost",
            lambda r, w=of: less(lost(r, w, SHARE, STATES), lost(r, w, SHARE, FULL)),
            TINY,
            only="lab",
        )
        for of, words in WAYS.items()
    ),
    *(
        Claim(
            f"with recovery (next token and hidden states) {better} is better {words}",
            HUANG,
            f"{PAGE} 2: depth up to 30 %, width from 45 %",
            "% fewer nats lost, the smallest",
            smallest(shares, lambda r, s, b=better, o=other: less(lost(r, b, s, STATES), lost(r, o, s, STATES))),
            TINY,
            only="lab",
        )
        for better, other, shares, words in (
            ("depth", "width", SMALL, "up to a quarter"),
            ("width", "depth", LARGE, "from one half on"),
        )
    ),
    *(
        Claim(
            f"a quarter of {words} removed: 5 % of the data reach 90 % of what all of them give back",
            HUANG,
            f"{PAGE} 5: more than 90 % of full-data performance below 50 %",
            "points above 90 %",
            lambda r, w=of: 100 * back(r, w, SHARE, STATES, 2) / back(r, w, SHARE, STATES) - 90,
            TINY + " Two windows are also a twentieth of the steps.",
            only="lab",
        )
        for of, words in WAYS.items()
    ),
    *(
        Claim(
            f"{said} is better than the projector trained alone at every share: {words}",
            "ours",
            "not tested by the study",
            "% fewer nats lost, the smallest",
            smallest(SMALL + LARGE, lambda r, s, w=of, m=word: less(lost(r, w, s, m), lost(r, w, s, PROJECTOR))),
            only="lab",
        )
        for word, said in ((CLOSED, "a repair in closed form"), (LOCAL, "reconstruction block by block, equal tokens,"))
        for of, words in WAYS.items()
    ),
]
