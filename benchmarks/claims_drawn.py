"""What claims on committed figures share: a claim is a margin of one seed's rows of a figure's csv; nothing is run.

The claims themselves: `claims_figures.py` on the papers' methods, `claims_shapes.py` on experts and whole blocks,
`claims_vision.py` on models that read pictures, `claims_real.py` on models that were not made here.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache

import pandas as pd

from analysis import paths
from analysis.errors import UsageError

LAB = "lab"


@dataclass(frozen=True)
class Drawn:
    """One seed's rows of a figure: `at(method="LR")` is the one value whose columns are so."""

    figure: str
    seed: int

    def at(self, **columns: object) -> float:
        """A column given as None has no value there. Raises UsageError where not exactly one row fits."""
        rows = table(self.figure)
        rows = rows[rows["seed"] == self.seed]
        for name, value in columns.items():
            rows = rows[rows[name].isna() if value is None else rows[name] == value]
        if len(rows) != 1:
            raise UsageError(
                f"claims: {len(rows)} rows of {self.figure}, seed {self.seed}, are {columns}; one is needed"
            )
        return float(rows["seed_value"].iloc[0])

    def mean(self, column: str, **columns: object) -> float:
        """Over the values of a column, such as "task"."""
        values = table(self.figure)[column].unique()
        return sum(self.at(**columns | {column: value}) for value in values) / len(values)


@cache
def table(figure: str) -> pd.DataFrame:
    """A figure's csv as committed."""
    return pd.read_csv(paths.ROOT / "figures" / f"{figure}.csv")


def provenance(figure: str) -> dict[str, str]:
    """The columns of a row of `claims.csv` that say where it comes from."""
    said = json.loads((paths.ROOT / "figures" / f"{figure}.json").read_text("utf-8"))
    versions = "; ".join(f"{name} {said['versions'][name]}" for name in ("torch", "transformers", "numpy"))
    return {"options": f"figure {figure}", "commit": said["commit"][:7], "versions": versions}


@dataclass(frozen=True)
class FigureClaim:
    """What is claimed, where and on what evidence, and how much of it there is in one seed's rows of a figure, by the
    model they are of (above 0: it holds).
    """

    text: str
    source: str
    evidence: str
    unit: str
    figure: str
    margins: Mapping[str, Callable[[Drawn], float]]
    guess: str = ""
    known: Mapping[str, float] = field(default_factory=dict)

    def rows(self) -> list[tuple[str, int, float]]:
        """(model, seed, margin) of every seed that the figure has of every model."""
        seeds = sorted({int(seed) for seed in table(self.figure)["seed"].dropna() if seed >= 0})
        return [
            (model, seed, margin(Drawn(self.figure, seed))) for model, margin in self.margins.items() for seed in seeds
        ]


def of_lab(margin: Callable[[Drawn], float]) -> dict[str, Callable[[Drawn], float]]:
    """The margin of a figure of the lab's decoder."""
    return {LAB: margin}


def below(one: float, other: float) -> float:
    """By how many percent a perplexity lies below another one, both given in percent above one dense model's."""
    return 100 * (1 - (100 + one) / (100 + other))
