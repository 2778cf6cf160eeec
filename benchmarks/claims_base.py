"""What a claim is, and the numbers of one seed it is judged by."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import pandas as pd

from analysis.present import paper
from analysis.recipe.parts import TRAINED
from analysis.recipe.recipe import Recipe
from analysis.study.results import Study

SHIN = ("LR", "BR", "BR+GP", "BR+GP+CR")
CRITERIA = ("magnitude", "wanda", "sparsegpt")
P1, P2, FW, SW, PERP = "2406.15524", "2510.14444", "2510.13713", "2512.10922", "2312.15230"


@dataclass(frozen=True)
class Claim:
    """What is claimed, where, on what evidence, and how much of it there is in one seed's results (above 0: it
    holds).
    """

    text: str
    source: str
    evidence: str
    unit: str
    margin: Callable[["Results"], float]
    guess: str = ""  # why it may not hold on models as small as these
    only: str = ""  # the one model that has what it takes: tasks, other sizes; "" = every model
    known: Mapping[str, float] = field(default_factory=dict)  # the same margin of the paper's own models


@dataclass(frozen=True)
class Results:
    """One seed's numbers, by recipe text without solver options."""

    names: dict[str, str]
    frames: Study
    pattern: str
    high: str
    seed: int
    only: dict[str, object] = field(default_factory=dict)

    def at(self, **only: object) -> "Results":
        """The same seed's numbers among the runs whose job columns have these values."""
        return replace(self, only=self.only | only)

    def _rows(self, table: str, recipe: str) -> pd.DataFrame:
        frame = getattr(self.frames, table)
        chosen = (frame["recipe"] == self.names[recipe]) & (frame["seed"] == self.seed)
        for column, value in self.only.items():
            chosen &= frame[column] == value
        return frame[chosen]

    def error(self, recipe: str, split: str = "calibration") -> float:
        """Total relative error at the last block."""
        rows = self._rows("blocks", recipe).query("kind == 'total' and split == @split")
        return float(rows.loc[rows["block"].idxmax(), "relative_error"])

    def ppl(self, recipe: str, split: str = "held-out", which: str = "pruned") -> float:
        """Perplexity of the pruned model."""
        return float(
            self._rows("perplexity", recipe).query("split == @split and which == @which")["perplexity"].iloc[0]
        )

    def accuracy(self, recipe: str, which: str = "pruned") -> float:
        """Mean accuracy over the tasks in percent."""
        return 100 * float(self._rows("zero_shot", recipe).query("which == @which")["accuracy"].mean())

    def layers(self, recipe: str) -> float:
        """Mean over matrices of the layer error after the refinement over that before."""
        rows = self._rows("layers", recipe)
        return float((rows["error_after"] / rows["error_before"]).mean())

    def memory(self, recipe: str) -> float:
        """MiB the solver holds at most."""
        return float(self._rows("cost", recipe)["solver_memory_mib"].max())


def less(one: float, other: float) -> float:
    """By how many percent `one` lies below `other`."""
    return 100 * (1 - one / other)


def printed(table: pd.DataFrame, column: str, criterion: str, margin: Callable[[dict[str, float]], float]):
    """The margin of every model of a table of `present.paper`: a function of one criterion's column by method."""
    rows = table[table["criterion"] == criterion].pivot(index="model", columns="method", values=column)
    return {str(model): margin(row.to_dict()) for model, row in rows.iterrows()}


def printed_less(method: str, other: str, criterion: str, column: str = "wikitext2") -> dict[str, float]:
    """By how many percent `method` lies below `other` in tables 1 and 3 of 2406.15524."""
    return printed(paper.RESULTS, column, criterion, lambda row: less(row[method], row[other]))


def with_options(text: str, lr: float, epochs: int) -> Recipe:
    recipe = Recipe.parse(text)
    if recipe.solver.name not in TRAINED:
        return recipe
    options = f"epochs={epochs},lr={lr:g}"
    return Recipe.parse(f"{text[:-1]},{options}]" if text.endswith("]") else f"{text}[{options}]")
