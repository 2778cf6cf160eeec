"""The one ladder of damping: its steps, what is recorded, and the error at its end."""

import pytest
import torch

from analysis.errors import NumericalError
from analysis.masks.damping import attempts, unsolvable
from analysis.masks.notes import Note
from analysis.reconstruction.closed_form import ridge
from analysis.streams.moments import Moments, Sums
from analysis.structured.repair import repair

SINGLE, DOUBLE = torch.float32, torch.float64


def test_float64_comes_before_more_damping():
    ladder = attempts(0.01, SINGLE, raises=2)
    assert [(attempt.precision, attempt.share) for attempt in ladder] == [
        (SINGLE, 0.01),
        (DOUBLE, 0.01),
        (DOUBLE, 0.01 * 10),
        (DOUBLE, 0.01 * 100),
    ]
    assert [attempt.notes(7) for attempt in ladder] == [
        (),
        (Note("float64", 7.0),),
        (Note("damping", 0.1),),
        (Note("damping", 1.0),),
    ]


def test_what_is_in_float64_already_is_damped_at_once():
    ladder = attempts(0.01, DOUBLE, raises=3)
    assert [attempt.rule for attempt in ladder] == [None, "damping", "damping", "damping"]
    assert {attempt.precision for attempt in ladder} == {DOUBLE}


def test_without_float64_every_attempt_keeps_its_precision():
    ladder = attempts(0.01, SINGLE, raises=3, double=False)
    assert [attempt.rule for attempt in ladder] == [None, "damping", "damping", "damping"]
    assert {attempt.precision for attempt in ladder} == {SINGLE}


@pytest.mark.parametrize("share", [0.0, 1e-9, 1e-7])
def test_little_damping_is_raised_from_the_least_on(share):
    ladder = attempts(share, DOUBLE, raises=3, least=1e-6)
    assert ladder[0].share == share
    assert [attempt.share for attempt in ladder[1:]] == pytest.approx([1e-6, 1e-5, 1e-4])


def test_the_error_shows_the_spectrum_and_what_was_tried():
    matrix = torch.diag(torch.tensor([-0.5, 1.0, 4.0]))
    error = unsolvable("ridge: m has", matrix, 9, "penalty", 0.001, 0.1)
    assert isinstance(error, NumericalError)
    assert str(error) == (
        "ridge: m has eigenvalues from -0.5 to 4 over 9 tokens and 3 inputs, penalty 0.001 raised up to 0.1; use more"
        " calibration tokens or a larger penalty"
    )
    matrix[0, 0] = torch.nan
    assert "ridge: m has entries that are not finite over 9 tokens" in str(
        unsolvable("ridge: m has", matrix, 9, "penalty", 0.001, 0.1)
    )


def indefinite() -> torch.Tensor:
    """(3, 3) with a negative eigenvalue that no step of the ladder makes up for."""
    return torch.tensor([[1.0, 5.0, 0.0], [5.0, 1.0, 0.0], [0.0, 0.0, 1.0]], dtype=DOUBLE)


def test_ridge_and_repair_end_in_the_same_error():
    gram, weight = indefinite(), torch.ones(2, 3, dtype=DOUBLE)
    mask = torch.tensor([[True, True, False]] * 2)
    with pytest.raises(
        NumericalError, match=r"2 rows of m cannot be solved: its Gram matrix has eigenvalues from -4 to 6"
    ):
        ridge(weight, mask, Moments(gram, gram, gram + 100, 10), penalty=0, name="m")
    sums = Sums(gram, torch.zeros(3, dtype=DOUBLE), weight, torch.zeros(2, dtype=DOUBLE), torch.ones(2) * 100, 10)
    with pytest.raises(
        NumericalError,
        match=r"repair: m cannot be solved: its matrix has eigenvalues from -4 to 6 .* raised up to 0.01",
    ):
        repair("liar", weight, None, mask[0], sums, create_bias=False, name="m")
