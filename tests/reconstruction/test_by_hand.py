"""One matrix by hand: the numbers that notebook 00 works out with a pencil, and NumPy's least squares."""

import numpy as np
import pytest

from analysis.errors import RecipeError, UsageError
from analysis.reconstruction.by_hand import one_matrix

WEIGHT = [[2, 1, -2], [4, 2, 1]]
SEEN = [[1, 3, 2], [1, -3, 2], [-1, 3, 2]]


def test_every_step_is_the_one_on_paper():
    matrix = one_matrix(WEIGHT, SEEN, recipe="wanda-33%")
    assert matrix.scores.to_numpy() == pytest.approx(np.array([[2, 3, 4], [4, 6, 2]]))
    assert matrix.mask.to_numpy().tolist() == [[False, True, True], [True, True, False]]
    assert matrix.masked.to_numpy().tolist() == [[0, 1, -2], [4, 2, 0]]
    assert matrix.repaired.to_numpy() == pytest.approx(np.array([[0, 2 / 3, -3 / 2], [5, 7 / 3, 0]]))
    assert matrix.outputs["y1", "masked"].tolist() == [-1, -7, -1]
    assert matrix.errors["masked"].tolist() == [4, 4, 4]
    assert matrix.errors["repaired"].to_numpy() == pytest.approx(8 / 3)
    assert one_matrix(WEIGHT, SEEN, recipe="magnitude-33%[group=row]").errors.loc["y1"].tolist() == pytest.approx(
        [9, 6]
    )


def test_the_repair_is_least_squares_on_the_kept_weights():
    rng = np.random.default_rng(0)
    weight, seen = rng.normal(size=(5, 8)), rng.normal(size=(40, 8)) @ rng.normal(size=(8, 8))
    matrix = one_matrix(weight.tolist(), seen.tolist(), recipe="wanda-50%")
    for row, mask, repaired in zip(weight, matrix.mask.to_numpy(), matrix.repaired.to_numpy()):
        best = np.linalg.lstsq(seen[:, mask], seen @ row, rcond=None)[0]
        assert repaired[mask] == pytest.approx(best) and (repaired[~mask] == 0).all()
    outputs = matrix.outputs.xs("repaired", axis=1, level=1).to_numpy()
    errors = ((outputs - seen @ weight.T) ** 2).mean(axis=0)
    assert matrix.errors["repaired"].to_numpy() == pytest.approx([*errors, errors.mean()])


@pytest.mark.parametrize(
    ("weight", "seen", "recipe", "error", "message"),
    [
        (WEIGHT, [[1, 2]], "wanda-33%", UsageError, "reads 3 inputs and was shown rows of 2"),
        ([[1, 2], [3]], SEEN, "wanda-33%", UsageError, "weight must be rows of numbers"),
        (WEIGHT, [], "wanda-33%", UsageError, "seen must be rows of numbers"),
        (WEIGHT, SEEN, "sparsegpt-33%", UsageError, "sparsegpt cannot be done by hand; take magnitude or wanda"),
        (WEIGHT, SEEN, "wnada-33%", RecipeError, "wnada"),
    ],
)
def test_what_makes_no_matrix_is_refused(weight, seen, recipe, error, message):
    with pytest.raises(error, match=message):
        one_matrix(weight, seen, recipe=recipe)
