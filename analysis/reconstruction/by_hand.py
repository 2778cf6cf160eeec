"""One small matrix scored, masked and repaired by the functions that the pruning loop calls, as tables to check with a
pencil.

    matrix = one_matrix([[2, 1, -2], [4, 2, 1]], [[1, 3, 2], [1, -3, 2], [-1, 3, 2]], recipe="wanda-33%")
    matrix.scores, matrix.errors
"""

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd
import torch
from torch import Tensor

from analysis.errors import UsageError
from analysis.masks.choose import choose_mask
from analysis.masks.criteria import SCORES
from analysis.recipe.recipe import Recipe
from analysis.reconstruction.closed_form import layer_loss, ridge
from analysis.streams.moments import Accumulator, Moments, Statistics

CRITERIA = ("magnitude", "wanda")
STEPS = ("dense", "masked", "repaired")


@dataclass(frozen=True, eq=False)
class ByHand:
    """The steps of one matrix, each a table of (outputs, inputs).

    weight, scores, mask  as given, as scored, and what is kept
    masked, repaired      the weights with zeros where the mask is False, and the kept ones refitted by least squares
    outputs               (inputs seen, output and step): what the dense, the masked and the repaired matrix answer
    errors                (outputs and their mean, step): squared difference from the dense output, mean over the inputs
    """

    weight: pd.DataFrame
    scores: pd.DataFrame
    mask: pd.DataFrame
    masked: pd.DataFrame
    repaired: pd.DataFrame
    outputs: pd.DataFrame
    errors: pd.DataFrame


def one_matrix(weight: Sequence[Sequence[float]], seen: Sequence[Sequence[float]], *, recipe: str) -> ByHand:
    """A matrix (outputs, inputs) pruned on the inputs it sees (number, inputs), in float64.

    recipe: criterion and pattern, as in "wanda-33%"; of criteria magnitude and Wanda, whose scores are a line of
    arithmetic. The repair is plain least squares, row by row, without a penalty. Raises UsageError for numbers that
    make no matrix, RecipeError for a word that is none, NumericalError where the inputs do not determine the kept
    weights.
    """
    dense, rows = _matrix("weight", weight), _matrix("seen", seen)
    if rows.shape[1] != dense.shape[1]:
        raise UsageError(
            f"one matrix: it reads {dense.shape[1]} inputs and was shown rows of {rows.shape[1]}; give as many"
        )
    parts = Recipe.parse(f"{recipe} LR")
    if parts.criterion.name not in CRITERIA:
        raise UsageError(f"one matrix: {parts.criterion.name} cannot be done by hand; take {' or '.join(CRITERIA)}")
    sums = Accumulator(("x", "xx"), dense.shape[1], precision=torch.float64)
    sums.add(rows)
    statistics, moments = Statistics.of(sums, "the matrix"), Moments.of(sums, "the matrix")
    generator = torch.Generator()
    scores = SCORES[parts.criterion.name](dense, statistics, generator)
    mask = choose_mask(parts.criterion, parts.pattern, dense, statistics, generator, name="the matrix").mask
    masked = dense.masked_fill(~mask, 0)
    repaired = ridge(dense, mask, moments, penalty=0.0, name="the matrix").weight
    weights = dict(zip(STEPS, (dense, masked, repaired)))
    answers = {(f"y{row + 1}", step): rows @ weights[step][row] for row in range(len(dense)) for step in STEPS}
    losses = {step: layer_loss(weights[step], dense, moments).tolist() for step in STEPS[1:]}
    errors = pd.DataFrame(losses, index=_names("y", len(dense)))
    errors.loc["mean"] = errors.mean()
    return ByHand(
        weight=_table(dense),
        scores=_table(scores),
        mask=_table(mask),
        masked=_table(masked),
        repaired=_table(repaired),
        outputs=pd.DataFrame(
            {name: values.tolist() for name, values in answers.items()}, index=_names("token ", len(rows))
        ),
        errors=errors,
    )


def _matrix(name: str, values: Sequence[Sequence[float]]) -> Tensor:
    try:
        made = torch.tensor(values, dtype=torch.float64)
    except (TypeError, ValueError) as error:
        raise UsageError(f"one matrix: {name} must be rows of numbers, all of one length ({error})") from None
    if made.ndim != 2 or not made.numel():
        raise UsageError(f"one matrix: {name} must be rows of numbers, got shape {tuple(made.shape)}")
    return made


def _names(letter: str, count: int) -> list[str]:
    return [f"{letter}{number + 1}" for number in range(count)]


def _table(matrix: Tensor) -> pd.DataFrame:
    return pd.DataFrame(matrix.tolist(), index=_names("y", len(matrix)), columns=_names("x", matrix.shape[1]))
