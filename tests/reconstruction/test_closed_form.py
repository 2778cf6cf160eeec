"""The refit against least squares on explicit tokens in float64, and against SparseGPT; named rules, errors, never
worse.
"""

import pytest
import torch
from torch import Tensor

from analysis.errors import NumericalError, UsageError
from analysis.masks.notes import Note
from analysis.masks.sparsegpt import sparsegpt
from analysis.recipe.parts import Pattern
from analysis.reconstruction import closed_form
from analysis.reconstruction.closed_form import layer_loss, ridge
from analysis.streams.moments import Moments
from tests.helpers.references import correlated, normal, statistics_of

SPARSITIES = [0.2, 0.5, 0.8]


def random_mask(shape: tuple[int, int], sparsity: float, seed: int) -> Tensor:
    """Rows of different counts; the first is empty, the second full."""
    mask = torch.rand(shape, generator=torch.Generator().manual_seed(seed)) >= sparsity
    mask[0], mask[1] = False, True
    return mask


def moments_of(student: Tensor, target: Tensor | None = None, precision: torch.dtype = torch.float64) -> Moments:
    """Moments of rows (tokens, in), by definition."""
    student = student.to(torch.float64)  # float32 products differ from processor to processor
    gram = (student.T @ student).to(precision)
    if target is None:
        return Moments(gram, gram, gram, len(student))
    target = target.to(torch.float64)
    return Moments(gram, (target.T @ student).to(precision), (target.T @ target).to(precision), len(student))


def streams(tokens: int, width: int, seed: int, two: bool) -> tuple[Tensor, Tensor]:
    """Student and target rows: the same tensor, or the target with a quarter of the student's size as difference."""
    student = correlated(tokens, width, seed)
    return student, student + 0.25 * correlated(tokens, width, seed + 100) if two else student


def explicit_loss(weight: Tensor, dense: Tensor, student: Tensor, target: Tensor) -> Tensor:
    return (target @ dense.double().T - student @ weight.double().T).square().mean(0)


def least_squares(dense: Tensor, mask: Tensor, student: Tensor, target: Tensor, penalty: float) -> Tensor:
    """Row by row on the tokens themselves, one more made-up token per kept weight for the penalty."""
    root = (penalty * student.square().sum(0).mean()) ** 0.5
    weight = torch.zeros_like(dense)
    for row, kept in enumerate(mask):
        size = int(kept.sum())
        inputs = torch.cat([student[:, kept], root * torch.eye(size, dtype=dense.dtype)])
        outputs = torch.cat([target @ dense[row], root * dense[row, kept]])
        weight[row, kept] = torch.linalg.lstsq(inputs, outputs[:, None], driver="gelsd").solution[:, 0]
    return weight


def refit(dense, mask, moments, penalty=0.0):
    result = ridge(dense, mask, moments, penalty=penalty, name="m")
    assert result.weight.dtype == dense.dtype and bool(result.weight.isfinite().all())
    assert bool((result.weight[~mask] == 0).all())
    assert 0 <= result.loss_after <= result.loss_before
    return result


@pytest.mark.parametrize("two", [False, True], ids=["one stream", "two streams"])
@pytest.mark.parametrize("penalty", [0, 0.01, 1.0])
@pytest.mark.parametrize("sparsity", SPARSITIES)
def test_equals_least_squares_on_the_tokens(sparsity, penalty, two):
    student, target = streams(150, 40, 1, two)
    dense, mask = normal((9, 40), 2), random_mask((9, 40), sparsity, 3)
    result = refit(dense, mask, moments_of(student, target if two else None), penalty)
    expected = least_squares(dense, mask, student, target, penalty)
    torch.testing.assert_close(result.weight, expected, rtol=1e-8, atol=1e-8)
    assert result.notes == ()
    before, after = (explicit_loss(weight, dense, student, target).mean() for weight in (dense * mask, expected))
    assert result.loss_before == pytest.approx(float(before), rel=1e-10)
    assert result.loss_after == pytest.approx(float(after), rel=1e-10)


@pytest.mark.parametrize("two", [False, True], ids=["one stream", "two streams"])
def test_layer_loss_is_the_mean_squared_difference_on_the_tokens(two):
    student, target = streams(70, 20, 4, two)
    weight, dense = normal((6, 20), 5), normal((6, 20), 6)
    loss = layer_loss(weight.float(), dense, moments_of(student, target if two else None))
    assert loss.dtype == torch.float64
    torch.testing.assert_close(loss, explicit_loss(weight.float(), dense, student, target), rtol=1e-10, atol=0)


def test_layer_loss_of_the_dense_weights_is_zero_in_one_stream_only():
    student, target = streams(70, 20, 4, True)
    dense = normal((6, 20), 6)
    assert float(layer_loss(dense, dense, moments_of(student)).max()) < 1e-12
    assert float(layer_loss(dense, dense, moments_of(student, target)).min()) > 0.01


def test_one_stream_is_two_equal_streams():
    student, _ = streams(90, 24, 1, False)
    dense, mask = normal((8, 24), 2), random_mask((8, 24), 0.5, 3)
    one, two = refit(dense, mask, moments_of(student)), refit(dense, mask, moments_of(student, student.clone()))
    torch.testing.assert_close(one.weight, two.weight, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("pattern", [Pattern(sparsity=0.5, group="block"), Pattern(keep=2, of=4)], ids=str)
@pytest.mark.parametrize("seed", range(5))
def test_sparsegpt_lies_between_the_plain_mask_and_the_refit(seed, pattern):
    inputs = correlated(300, 48, seed) @ normal((48, 48), seed + 10)
    dense, statistics = normal((20, 48), seed + 20), statistics_of(inputs)
    swept = sparsegpt(dense, statistics, pattern, damping=1e-9, columns=128, name="m")
    result = refit(dense, swept.mask, moments_of(inputs))
    loss = float(explicit_loss(swept.weight, dense, inputs, inputs).mean())
    assert result.loss_after < 0.999 * loss and loss < 0.9 * result.loss_before


@pytest.mark.parametrize("damping", [1e-6, 0.01, 0.3])
def test_sparsegpt_is_the_refit_where_every_removed_column_is_left_of_every_kept_one(damping):
    """Then nothing that the sweep froze could have helped: same minimiser, the damping being the penalty."""
    inputs, dense = correlated(300, 40, 1), normal((7, 40), 2)
    dense[:, :20] *= 1e-3
    swept = sparsegpt(
        dense, statistics_of(inputs), Pattern(sparsity=0.5, group="row"), damping=damping, columns=40, name="m"
    )
    assert not bool(swept.mask[:, :20].any())
    result = refit(dense, swept.mask, moments_of(inputs), damping)
    torch.testing.assert_close(result.weight, swept.weight, rtol=1e-9, atol=1e-12)


def test_a_growing_penalty_leads_from_least_squares_back_to_the_plain_mask():
    inputs, dense, mask = correlated(200, 30, 1), normal((8, 30), 2), random_mask((8, 30), 0.5, 3)
    results = [refit(dense, mask, moments_of(inputs), penalty) for penalty in (0, 0.1, 1, 10, 1e9)]
    losses = [result.loss_after for result in results]
    assert losses == sorted(losses) and losses[0] < 0.9 * losses[-1]
    torch.testing.assert_close(results[-1].weight, dense * mask, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("two", [False, True], ids=["one stream", "two streams"])
@pytest.mark.parametrize("sparsity", SPARSITIES)
def test_float32_moments_give_the_float64_solution(sparsity, two):
    student, target = streams(400, 60, 1, two)
    dense, mask = normal((12, 60), 2), random_mask((12, 60), sparsity, 3)
    fine = moments_of(student, target if two else None)
    coarse = moments_of(student, target if two else None, torch.float32)
    result = refit(dense.float(), mask, coarse, 0.01)
    assert result.notes == ()
    torch.testing.assert_close(result.weight.double(), refit(dense, mask, fine, 0.01).weight, rtol=1e-5, atol=1e-5)


def conditioned(smallest: float, width: int = 12, tokens: int = 100, precision: torch.dtype = torch.float64) -> Moments:
    """One stream whose Gram matrix has eigenvalues around 1 and one `smallest`."""
    basis = torch.linalg.qr(normal((width, width), 5)).Q
    values = torch.linspace(1, 2, width, dtype=torch.float64)
    values[0] = smallest
    gram = (basis @ torch.diag(values) @ basis.T).to(precision)
    gram = (gram + gram.T) / 2
    return Moments(gram, gram, gram, tokens)


def normal_equations(weight: Tensor, dense: Tensor, mask: Tensor, moments: Moments, penalty: float) -> Tensor:
    """Gradient of the penalised loss at `weight` on the support, relative to the gradient at the plain mask."""
    gram, dense = moments.gram.double(), dense.double()
    strength = penalty * gram.diagonal().mean()

    def gradient(at):
        return ((at - dense) @ gram + strength * (at - dense))[mask].norm()

    return gradient(weight.double()) / gradient(dense * mask)


@pytest.mark.parametrize("sparsity", SPARSITIES)
def test_rows_that_float32_cannot_solve_are_solved_in_float64(sparsity):
    """Pairs of nearly equal features, condition 6e6: the same minimiser as for the same Gram matrix in float64."""
    width = 64
    inputs = correlated(400, width, 1)
    inputs[:, 1::2] = inputs[:, ::2] + 5e-3 * normal((400, width // 2), 9) * inputs[:, ::2].std(0)
    moments = moments_of(inputs, precision=torch.float32)
    dense, mask = normal((10, width), 2), random_mask((10, width), sparsity, 3)
    result = refit(dense, mask, moments, 0)
    assert [note.rule for note in result.notes] == ["float64"] and 6 <= result.notes[0].value <= 9
    gram = moments.gram.double()
    double = Moments(gram, gram, gram, moments.tokens)
    reference = refit(dense, mask, double, 0)
    assert reference.notes == ()
    torch.testing.assert_close(result.weight, reference.weight, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("precision", [torch.float32, torch.float64])
@pytest.mark.parametrize("penalty", [0, 0.1])
def test_uncorrelated_inputs_leave_the_plain_mask(precision, penalty):
    gram = torch.diag(torch.rand(20, generator=torch.Generator().manual_seed(0)) + 0.1).to(precision)
    dense, mask = normal((7, 20), 1, torch.float32), random_mask((7, 20), 0.5, 2)
    result = refit(dense, mask, Moments(gram, gram, gram, 50), penalty)
    assert torch.equal(result.weight, dense * mask) and result.loss_after == result.loss_before and result.notes == ()


@pytest.mark.parametrize("precision", [torch.float32, torch.float64])
def test_rank_deficient_inputs(precision):
    """16 tokens, 40 inputs. A penalty makes the solution unique; without one the smallest damping that suffices is
    recorded.
    """
    inputs, dense, mask = correlated(16, 40, 1), normal((9, 40), 2), random_mask((9, 40), 0.3, 3)
    moments = moments_of(inputs, precision=precision)
    penalised = refit(dense, mask, moments, 0.01)
    assert all(note.rule == "float64" for note in penalised.notes)
    torch.testing.assert_close(penalised.weight, least_squares(dense, mask, inputs, inputs, 0.01), rtol=1e-4, atol=1e-4)
    damped = refit(dense, mask, moments, 0)
    share = {note.rule: note.value for note in damped.notes}["damping"]
    assert 1e-6 <= share <= 1e-3
    before, after = (layer_loss(weight, dense, moments)[1:] for weight in (dense * mask, damped.weight))
    assert bool((after < 1e-4 * before.mean()).all())
    assert float(damped.weight.abs().max()) < 20
    if precision == torch.float64:
        assert share == pytest.approx(1e-6)
        torch.testing.assert_close(
            damped.weight, least_squares(dense, mask, inputs, inputs, share), rtol=1e-6, atol=1e-6
        )


def test_rows_that_can_be_solved_are_not_damped():
    """Two equal features: only rows that keep both are singular."""
    inputs = correlated(100, 10, 1)
    inputs[:, 9] = inputs[:, 8]
    dense, mask = normal((3, 10), 2), torch.ones(3, 10, dtype=torch.bool)
    mask[:, :4] = False
    mask[0, 8] = mask[1, 9] = False
    result = refit(dense, mask, moments_of(inputs), 0)
    assert [note.rule for note in result.notes] == ["damping"]
    torch.testing.assert_close(
        result.weight[:2], least_squares(dense, mask, inputs, inputs, 0)[:2], rtol=1e-8, atol=1e-8
    )
    shares = result.weight[2, 8:] - dense[2, 8:]
    torch.testing.assert_close(shares[0], shares[1], rtol=1e-4, atol=1e-4)


def test_an_indefinite_gram_matrix_names_matrix_and_eigenvalues():
    mask = torch.ones(4, 12, dtype=torch.bool)
    mask[:, 0] = False
    with pytest.raises(
        NumericalError,
        match=r"rows of m cannot be solved: its Gram matrix has eigenvalues from -0.8 to 2 .* raised up to 0.1",
    ):
        ridge(normal((4, 12), 1), mask, conditioned(-0.8), penalty=1e-6, name="m")


def test_dead_inputs_keep_their_weights():
    student, target = streams(100, 20, 1, True)
    student, target = student.clone(), target.clone()
    student[:, [3, 11]] = 0
    dense, mask = normal((8, 20), 2), random_mask((8, 20), 0.5, 3)
    alive = [column for column in range(20) if column not in (3, 11)]
    for moments, goal in ((moments_of(student), student), (moments_of(student, target), target)):
        result = refit(dense, mask, moments, 0)
        assert result.notes == (Note("dead input", 2.0),)
        assert torch.equal(result.weight[:, [3, 11]], (dense * mask)[:, [3, 11]])
        expected = least_squares(dense, mask & torch.isin(torch.arange(20), torch.tensor(alive)), student, goal, 0)
        torch.testing.assert_close(result.weight[:, alive], expected[:, alive], rtol=1e-8, atol=1e-8)


def test_inputs_that_are_all_dead_change_nothing():
    dense, mask = normal((4, 6), 1), random_mask((4, 6), 0.5, 3)
    result = refit(dense, mask, moments_of(torch.zeros(5, 6, dtype=torch.float64)), 0.01)
    assert torch.equal(result.weight, dense * mask) and result.notes == (Note("dead input", 6.0),)


@pytest.mark.parametrize("penalty", [0, 1e-6])
@pytest.mark.parametrize("precision", [torch.float32, torch.float64])
def test_one_huge_activation(precision, penalty):
    """1e4 times the rest: a Gram matrix of condition 1e8 and more by scale alone, which no factorisation minds."""
    inputs, dense, mask = correlated(300, 30, 1), normal((12, 30), 2), random_mask((12, 30), 0.5, 3)
    inputs[:, 7] *= 1e4
    result = refit(dense, mask, moments_of(inputs, precision=precision), penalty)
    tolerance = 1e-8 if precision == torch.float64 else 0.02  # float32 sums round the cross terms with the huge feature
    optimum = explicit_loss(least_squares(dense, mask, inputs, inputs, penalty), dense, inputs, inputs)
    found, plain = (explicit_loss(weight, dense, inputs, inputs) for weight in (result.weight, dense * mask))
    assert bool((found <= optimum + tolerance * (plain - optimum) + 1e-9).all())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("precision", [torch.float32, torch.float64])
def test_half_precision_weights(dtype, precision):
    student, target = streams(300, 32, 1, True)
    dense, mask = normal((16, 32), 2).to(dtype), random_mask((16, 32), 0.5, 3)
    moments = moments_of(student, target, precision)
    result = refit(dense, mask, moments, 0.001)
    exact = refit(dense.double(), mask, moments, 0.001)
    torch.testing.assert_close(
        result.weight, exact.weight.to(dtype), rtol=1e-5 if dtype == torch.float32 else 1e-2, atol=1e-6
    )
    assert result.loss_after == pytest.approx(exact.loss_after, rel=0.01)
    assert result.loss_after == pytest.approx(float(layer_loss(result.weight, dense, moments).mean()), rel=1e-12)


def test_a_row_that_the_weights_dtype_spoils_keeps_its_masked_weights():
    """The first row's optimum does not fit float16; the others are refitted as if it were not there."""
    inputs = correlated(200, 12, 1)
    inputs[:, 0] = 1e4 * inputs[:, 1]
    dense, mask = (0.1 * normal((5, 12), 2)).half(), torch.ones(5, 12, dtype=torch.bool)
    mask[:, 0] = False
    mask[:, 2] = False
    dense[0, 0] = 100.0  # asks for 1e6 in column 1
    dense[1:, 0] = 0
    result = refit(dense, mask, moments_of(inputs), 0)
    assert result.notes == (Note("kept plain mask", 1.0),)
    assert torch.equal(result.weight[0], dense[0] * mask[0])
    others = refit(dense[1:], mask[1:], moments_of(inputs), 0)
    assert torch.equal(result.weight[1:], others.weight) and others.notes == ()


def test_a_row_that_rounding_to_the_weights_dtype_makes_worse_keeps_its_masked_weights():
    """The optimum moves two nearly equal features apart by 0.9 of 1's spacing in bfloat16; at 3 that rounds to
    nothing.
    """
    spacing, noise = 2**-7, normal((500, 2), 1)
    inputs = torch.stack([noise[:, 0], noise[:, 0] + 0.01 * noise[:, 1], -0.01 * noise[:, 1]], 1)
    dense, mask = torch.tensor([[1, 3, 0.9 * spacing]]), torch.tensor([[True, True, False]])
    fine, coarse = refit(dense, mask, moments_of(inputs)), refit(dense.bfloat16(), mask, moments_of(inputs))
    torch.testing.assert_close(fine.weight, torch.tensor([[1 + 0.9 * spacing, 3 - 0.9 * spacing, 0]]))
    assert fine.notes == () and coarse.notes == (Note("kept plain mask", 1.0),)
    assert torch.equal(coarse.weight, dense.bfloat16() * mask) and coarse.loss_after == coarse.loss_before


@pytest.mark.parametrize("kept", [True, False], ids=["full", "empty"])
def test_all_rows_full_or_empty(kept):
    student, target = streams(100, 16, 1, True)
    dense, mask = normal((5, 16), 2), torch.full((5, 16), kept)
    one = refit(dense, mask, moments_of(student), 0)
    torch.testing.assert_close(one.weight, dense * mask, rtol=1e-10, atol=1e-10)
    two = refit(dense, mask, moments_of(student, target), 0)
    torch.testing.assert_close(two.weight, least_squares(dense, mask, student, target, 0), rtol=1e-8, atol=1e-8)


@pytest.mark.slow
def test_never_worse_than_the_plain_mask_row_by_row():
    """Uncorrelated and correlated inputs, few tokens, dead and huge features, every dtype and penalty, one stream and
    two.
    """
    generator = torch.Generator().manual_seed(0)
    for case in range(150):
        width, tokens = (
            int(torch.randint(1, 24, (), generator=generator)),
            int(torch.randint(1, 60, (), generator=generator)),
        )
        student, target = streams(tokens, width, case, bool(case % 2))
        if case % 3 == 0:
            student, target = student.clone(), target.clone()
            student[:, 0] *= 1e4 if case % 4 else 0
        dtype = (torch.float16, torch.bfloat16, torch.float32, torch.float64)[case % 4]
        dense = normal((6, width), case + 1).to(dtype)
        mask = random_mask((6, width), 0.5, case)
        moments = moments_of(student, target if case % 2 else None, (torch.float32, torch.float64)[case // 4 % 2])
        result = refit(dense, mask, moments, (0, 1e-4, 0.1)[case % 5 % 3])
        before, after = (layer_loss(weight, dense, moments) for weight in (dense * mask, result.weight))
        assert bool((after <= before).all()), case


@pytest.mark.parametrize("sparsity", SPARSITIES)
def test_batches_and_routes_change_nothing(sparsity, monkeypatch):
    """One row at a time or all at once; kept columns solved or removed ones eliminated."""
    student, target = streams(150, 40, 1, True)
    dense, mask, moments = normal((11, 40), 2), random_mask((11, 40), sparsity, 3), moments_of(student, target)
    expected = refit(dense, mask, moments, 1e-3)
    for budget, shorter in ((1, 0.8), (1, 0.0), (2**30, 0.0), (2**30, 100.0)):
        monkeypatch.setitem(closed_form.BUDGET, "cpu", budget)
        monkeypatch.setattr(closed_form, "SHORTER", shorter)
        torch.testing.assert_close(refit(dense, mask, moments, 1e-3).weight, expected.weight, rtol=1e-9, atol=1e-11)


def test_same_inputs_same_bits_and_nothing_given_is_changed():
    student, target = streams(150, 40, 1, True)
    dense, mask, moments = (
        normal((11, 40), 2).float(),
        random_mask((11, 40), 0.5, 3),
        moments_of(student, target, torch.float32),
    )
    copies = [tensor.clone() for tensor in (dense, mask, moments.gram, moments.cross, moments.target)]
    first, second = refit(dense, mask, moments, 1e-3), refit(dense, mask, moments, 1e-3)
    assert torch.equal(first.weight, second.weight) and first.loss_after == second.loss_after
    assert all(
        torch.equal(*pair)
        for pair in zip(copies, (dense, mask, moments.gram, moments.cross, moments.target), strict=True)
    )


def test_wrong_calls():
    dense, mask, moments = normal((4, 10), 1), random_mask((4, 10), 0.5, 2), moments_of(correlated(50, 10, 1))
    with pytest.raises(UsageError, match=r"mask of m is torch.float32 \(4, 10\); expected bool \(4, 10\)"):
        ridge(dense, mask.float(), moments, penalty=0, name="m")
    with pytest.raises(UsageError, match=r"mask of m is torch.bool \(3, 10\)"):
        ridge(dense, mask[:3], moments, penalty=0, name="m")
    with pytest.raises(UsageError, match="moments of m are for 9 inputs; the matrix has 10"):
        ridge(dense, mask, moments_of(correlated(50, 9, 1)), penalty=0, name="m")
    for penalty in (-0.1, float("inf"), float("nan")):
        with pytest.raises(UsageError, match=f"penalty={penalty} of m must be"):
            ridge(dense, mask, moments, penalty=penalty, name="m")
    dense[2, 3] = float("nan")
    with pytest.raises(NumericalError, match="weights or moments of m are not finite"):
        ridge(dense, mask, moments, penalty=0, name="m")
