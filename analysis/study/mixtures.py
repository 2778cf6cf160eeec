"""The runs of notebook 11, mixtures of experts: lists of words in, patterns and jobs out. No torch."""

from collections.abc import Sequence
from typing import Any

from analysis.recipe.recipe import Recipe
from analysis.study.grids import grids
from analysis.study.job import Job


def ruled(pattern: str, rules: Sequence[str]) -> list[str]:
    """A pattern of single weights with each of the rules for starved experts, such as "50%[starved=magnitude]".

    Raises RecipeError for a rule that is none.
    """
    options = f"{pattern[:-1]}," if pattern.endswith("]") else f"{pattern}["
    patterns = [f"{options}starved={rule}]" for rule in rules]
    for one in patterns:
        Recipe.parse(f"wanda-{one} LR")
    return patterns


def crossed(model: str, beside: str, calibration: Sequence[str], **common: Any) -> list[Job]:
    """Each calibration text on a mixture, which is also asked what became of each expert, and on the model without
    experts `beside` it ("" for none). common: what else `grid` takes.
    """
    jobs = grids("calibration", calibration, model=model, expert_errors=True, **common)
    return [*jobs, *(grids("calibration", calibration, model=beside, **common) if beside else [])]
