"""The column sweep against exact elimination in float64; named rules, errors and properties of a fixed mask."""

from dataclasses import replace

import pytest
import torch

from analysis.errors import NumericalError, SparsityError, UsageError
from analysis.masks import sparsegpt as sweep
from analysis.masks.choose import choose_mask
from analysis.masks.notes import Note
from analysis.masks.patterns import choose, column_blocks
from analysis.masks.sparsegpt import inverse_factor, sparsegpt
from analysis.recipe.parts import Criterion, Pattern
from analysis.streams.moments import Statistics
from tests.helpers.references import correlated, damped_hessian, eliminate, normal, output_error, statistics_of


def swept(weight, statistics, pattern=Pattern(sparsity=0.5, group="block"), *, damping=0.01, columns=128, mask=None):
    return sparsegpt(weight, statistics, pattern, damping=damping, columns=columns, name="m", mask=mask)


def exact(weight, statistics, pattern, *, damping=0.01, columns=128):
    """The same by explicit elimination."""
    width = weight.shape[1]
    if pattern.of is not None:
        starts = {start: start + pattern.of for start in range(0, width, pattern.of)}
    else:
        starts = dict(column_blocks(width, width if pattern.group == "matrix" else columns))
    whole = (
        pattern
        if pattern.of is not None or pattern.group == "row"
        else Pattern(sparsity=pattern.sparsity, group="matrix")
    )
    return eliminate(
        weight, damped_hessian(statistics, damping), lambda scores, start: choose(scores, whole, name="m"), starts
    )


PATTERNS = [
    Pattern(sparsity=0.5, group="block"),
    Pattern(sparsity=0.3, group="block"),
    Pattern(sparsity=0.5, group="row"),
    Pattern(sparsity=0.6, group="matrix"),
    Pattern(keep=2, of=4),
    Pattern(keep=4, of=8),
    Pattern(keep=1, of=4),
    Pattern(keep=3, of=4),
]


@pytest.mark.parametrize("pattern", PATTERNS, ids=lambda p: f"{p}-{p.group}")
@pytest.mark.parametrize("columns", [16, 128])
def test_mask_and_weights_equal_exact_elimination(pattern, columns):
    """Each column in turn is removed with the OBS formula and the re-inverted Hessian of the columns left."""
    weight, statistics = normal((6, 72), 1), statistics_of(correlated(300, 72, 2))
    result = swept(weight, statistics, pattern, columns=columns)
    mask, updated = exact(weight, statistics, pattern, columns=columns)
    assert torch.equal(result.mask, mask)
    torch.testing.assert_close(result.weight, updated, rtol=1e-6, atol=1e-9)
    assert result.notes == ()


@pytest.mark.parametrize("columns", [6, 20, 128])
def test_groups_that_do_not_divide_the_column_block(columns):
    weight, statistics = normal((5, 48), 3), statistics_of(correlated(200, 48, 4))
    pattern = Pattern(keep=1, of=3)
    mask, updated = exact(weight, statistics, pattern)
    result = swept(weight, statistics, pattern, columns=columns)
    assert torch.equal(result.mask, mask)
    torch.testing.assert_close(result.weight, updated, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("pattern", [PATTERNS[0], PATTERNS[4]], ids=str)
@pytest.mark.parametrize("shape", [(1, 40), (3, 132), (2, 4)])
def test_float32_agrees_with_float64(shape, pattern):
    weight, statistics = normal(shape, 5), statistics_of(correlated(500, shape[1], 6))
    single = Statistics(
        statistics.gram.float(), statistics.diagonal.float(), statistics.mean.float(), statistics.tokens
    )
    fine, coarse = swept(weight, statistics, pattern), swept(weight.float(), single, pattern)
    assert torch.equal(coarse.mask, fine.mask)
    torch.testing.assert_close(coarse.weight.double(), fine.weight, rtol=1e-3, atol=1e-4)


def test_kept_weights_left_of_every_removed_one_stay():
    """A fixed mask: removing a weight moves weights to its right only, and the last column's removal moves none."""
    weight, statistics = normal((40, 30), 7), statistics_of(correlated(200, 30, 8))
    result = swept(weight, statistics)
    for row in range(40):
        first = int((~result.mask[row]).nonzero()[0]) if not result.mask[row].all() else 30
        torch.testing.assert_close(result.weight[row, :first], weight[row, :first])
        assert first == 30 or bool(
            (result.weight[row, first + 1 :] != weight[row, first + 1 :])[result.mask[row, first + 1 :]].all()
        )


def test_the_update_lowers_the_output_error_of_its_own_mask():
    """Inputs of 200 features that are mixtures of 60: much of what is removed can be made good by the rest."""
    inputs = correlated(800, 60, 10) @ normal((60, 200), 11) + 0.1 * normal((800, 200), 12)
    weight, statistics = normal((30, 200), 9), statistics_of(inputs)
    result = swept(weight, statistics)
    masked, updated = (output_error(weight, other, statistics.gram) for other in (weight * result.mask, result.weight))
    assert updated < 0.5 * masked


def test_uncorrelated_inputs_are_not_compensated():
    """With a diagonal H nothing can be made good: the kept weights stay and the mask is Wanda's score per block."""
    weight, sizes = (
        normal((10, 60), 11),
        torch.rand(60, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) + 0.1,
    )
    result = swept(weight, Statistics(torch.diag(sizes), sizes, torch.zeros(60), 50), damping=1e-12)
    torch.testing.assert_close(result.weight, weight * result.mask)
    assert torch.equal(result.mask, choose(weight.square() * sizes, Pattern(sparsity=0.5, group="matrix"), name="m"))


def test_counting_tokens_twice_changes_nothing():
    weight, statistics = normal((10, 60), 11), statistics_of(correlated(100, 60, 12))
    doubled = Statistics(statistics.gram * 2, statistics.diagonal * 2, statistics.mean, statistics.tokens * 2)
    assert torch.equal(swept(weight, statistics).mask, swept(weight, doubled).mask)
    torch.testing.assert_close(swept(weight, statistics).weight, swept(weight, doubled).weight)


@pytest.mark.parametrize("value", [0.0, 1.0])
@pytest.mark.parametrize("pattern", PATTERNS, ids=lambda p: f"{p}-{p.group}")
def test_equal_and_zero_weights_keep_exact_counts(pattern, value):
    weight = torch.full((3, 200), value)
    result = choose_mask(Criterion("sparsegpt"), pattern, weight, statistics_of(torch.eye(200)), None)
    assert bool((result.weight[~result.mask] == 0).all()) and torch.equal(
        result.weight[result.mask], weight[result.mask]
    )


def test_row_counts_are_exact_over_a_width_that_no_block_divides():
    weight, statistics = normal((7, 300), 1), statistics_of(correlated(400, 300, 2))
    result = swept(weight, statistics, Pattern(sparsity=0.3, group="row"))
    assert result.mask.sum(1).tolist() == [300 - 90] * 7


def test_without_update_the_mask_is_the_same_and_the_weights_are_kept():
    weight, statistics = normal((8, 40), 1), statistics_of(correlated(100, 40, 2))
    with_update, without = (Criterion("sparsegpt", update=update) for update in (True, False))
    updated, plain = (
        choose_mask(criterion, Pattern(sparsity=0.5), weight, statistics, None) for criterion in (with_update, without)
    )
    assert torch.equal(updated.mask, plain.mask) and plain.weight is None and updated.weight is not None


def test_damping_and_columns_are_the_criterion_s():
    weight, statistics = normal((8, 40), 1), statistics_of(correlated(100, 40, 2))
    criterion = Criterion("sparsegpt", damping=0.3, columns=8)
    chosen = choose_mask(criterion, Pattern(sparsity=0.5), weight, statistics, None)
    result = swept(weight, statistics, damping=0.3, columns=8)
    assert torch.equal(chosen.mask, result.mask) and torch.equal(chosen.weight, result.weight)
    assert not torch.equal(chosen.mask, swept(weight, statistics).mask)


@pytest.mark.parametrize("pattern", PATTERNS, ids=lambda p: f"{p}-{p.group}")
@pytest.mark.parametrize("columns", [16, 128])
def test_a_fixed_mask_gets_the_update_of_exact_elimination(pattern, columns):
    """Another mask than the sweep's own, and the sweep's own: the weights that removing column after column by the OBS
    formula gives.
    """
    weight, statistics = normal((6, 72), 1), statistics_of(correlated(300, 72, 2))
    own, mask = (
        swept(weight, statistics, pattern, columns=columns),
        choose(weight.abs(), pattern, name="m", columns=columns),
    )
    assert not torch.equal(own.mask, mask)
    fixed = swept(weight, statistics, pattern, columns=columns, mask=mask)
    _, updated = eliminate(
        weight,
        damped_hessian(statistics, 0.01),
        lambda scores, start: mask[:, start : start + 1],
        {q: q + 1 for q in range(72)},
    )
    assert torch.equal(fixed.mask, mask) and bool((fixed.weight[~mask] == 0).all())
    torch.testing.assert_close(fixed.weight, updated * mask, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(swept(weight, statistics, pattern, columns=columns, mask=own.mask).weight, own.weight)


def test_a_fixed_mask_s_loss_lies_between_least_squares_and_the_mask_alone():
    """Least squares over a row's kept weights is the lowest loss there is, in every row. Below the mask alone lies the
    sum of all rows: the sweep leaves the columns left of a removed one as they are, so that in a single row what it
    moves may be removed later at a higher cost.
    """
    inputs = correlated(800, 30, 10) @ normal((30, 64), 11) + 0.3 * normal((800, 64), 12)
    weight, statistics = normal((20, 64), 9), statistics_of(inputs)
    mask = choose(weight.abs() * statistics.diagonal.sqrt(), Pattern(sparsity=0.5, group="row"), name="m")
    updated = swept(weight, statistics, Pattern(sparsity=0.5, group="row"), damping=1e-6, mask=mask).weight
    best = torch.zeros_like(weight)
    for row, kept in enumerate(mask):
        best[row, kept] = torch.linalg.lstsq(inputs[:, kept], (inputs @ weight[row])[:, None], driver="gelsd").solution[
            :, 0
        ]
        least, ours = (
            output_error(weight[row : row + 1], other[row : row + 1], statistics.gram) for other in (best, updated)
        )
        assert least < ours
    least, ours, plain = (output_error(weight, other, statistics.gram) for other in (best, updated, weight * mask))
    assert least < ours < 0.7 * plain


def test_dead_inputs_are_zeroed_and_noted():
    inputs = correlated(100, 20, 2)
    inputs[:, [3, 11]] = 0
    result = swept(normal((5, 20), 1), statistics_of(inputs))
    assert result.notes == (Note("dead input", 2.0),)
    assert bool((result.weight[:, [3, 11]] == 0).all()) and not bool(result.mask[:, [3, 11]].any())
    alive = [column for column in range(20) if column not in (3, 11)]
    assert int(result.mask[:, alive].sum()) == 50


def test_rank_deficient_inputs_are_compensated_not_replaced_by_magnitude():
    """Half the rank: 1 % damping suffices, no rule is needed, and the error is far below the mask alone."""
    inputs = correlated(16, 32, 2, torch.float32) @ torch.eye(32)
    weight = normal((10, 32), 3, torch.float32)
    result, statistics = swept(weight, statistics_of(inputs)), statistics_of(inputs)
    magnitude = choose(weight.abs(), Pattern(sparsity=0.5, group="matrix"), name="m")
    assert result.notes == ()
    assert output_error(weight, result.weight, statistics.gram) < 0.5 * output_error(
        weight, weight * magnitude, statistics.gram
    )


def with_eigenvalue(smallest: float, width: int = 12) -> Statistics:
    """Statistics whose H has a unit mean diagonal, and one eigenvalue below the others: a Gram matrix spoilt by
    rounding.
    """
    basis = torch.linalg.qr(normal((width, width), 5)).Q
    values = torch.full((width,), (width - smallest) / (width - 1), dtype=torch.float64)
    values[0] = smallest
    hessian = basis @ torch.diag(values) @ basis.T
    return Statistics(hessian * 50, hessian.diagonal() * 50, torch.zeros(width), 100)


def test_a_failed_factorisation_raises_the_damping_and_says_so():
    """Promise 3: the same algorithm with more damping, recorded."""
    weight, statistics = normal((6, 12), 1), with_eigenvalue(-0.05)
    result = swept(weight, statistics, damping=0.001)
    assert result.notes == (Note("damping", pytest.approx(0.1)),)
    wished = swept(weight, with_eigenvalue(-0.05), damping=0.1)
    assert torch.equal(result.mask, wished.mask) and wished.notes == ()
    torch.testing.assert_close(result.weight, wished.weight)


def test_a_hopeless_factorisation_names_matrix_and_condition():
    with pytest.raises(
        NumericalError, match=r"of m's input is not positive definite: eigenvalues from -0.8 to .* raised up to 0.1"
    ):
        swept(normal((6, 12), 1), with_eigenvalue(-0.8), damping=0.0001)


def test_the_factor_is_computed_once_per_input_and_damping(monkeypatch):
    calls = []
    original = sweep._factor_of_inverse
    monkeypatch.setattr(sweep, "_factor_of_inverse", lambda matrix: calls.append(1) or original(matrix))
    statistics = statistics_of(correlated(50, 10, 1))
    for seed, damping in ((1, 0.01), (2, 0.01), (3, 0.1)):
        swept(normal((4, 10), seed), statistics, damping=damping)
    assert len(calls) == 2


def test_the_factor_squares_to_the_inverse():
    statistics = statistics_of(correlated(50, 10, 1))
    upper = inverse_factor(statistics, 0.01, "m").upper
    assert torch.equal(upper, upper.triu())
    torch.testing.assert_close(upper.T @ upper, torch.linalg.inv(damped_hessian(statistics, 0.01)))


def test_wrong_calls():
    statistics = statistics_of(correlated(50, 10, 1))
    with pytest.raises(UsageError, match="needs the Gram matrix of m's input"):
        swept(normal((4, 10), 1), replace(statistics, gram=None))
    with pytest.raises(UsageError, match="its 10 inputs are not divisible by 4"):
        swept(normal((4, 10), 1), statistics, Pattern(keep=2, of=4))
    mask = torch.ones(4, 10, dtype=torch.bool)
    with pytest.raises(SparsityError, match="mask of m: columns 0:10, block 0 keeps 40 weights instead of 20"):
        swept(normal((4, 10), 1), statistics, mask=mask)
    for wrong in (mask[:3], mask.float()):
        with pytest.raises(UsageError, match=r"sparsegpt on m: the mask must be bool of shape \(4, 10\), got"):
            swept(normal((4, 10), 1), statistics, mask=wrong)
    with pytest.raises(NumericalError, match="updated weights of m are not finite in torch.float16"):
        swept((normal((4, 10), 1) * 3e4).half(), statistics, Pattern(sparsity=0.9, group="block"))
