"""Second moments against a direct sum over real tokens in float64, and their distance against its definition."""

import pytest
import torch

from analysis.errors import NumericalError
from analysis.measure.second_moments import second_moment
from analysis.streams.moments import distance
from tests.helpers.families import FAMILIES, tiny
from tests.helpers.small import block_outputs, small_llama, windows


@pytest.mark.parametrize("padded", [False, True])
def test_second_moments_of_every_block_are_means_over_real_tokens(padded):
    model, w = small_llama(), windows(19, padded=padded)
    found = second_moment(model, w)
    assert len(found) == 3
    for moment, output in zip(found, block_outputs(model, w), strict=True):
        real = output[w.mask].double()
        assert moment.shape == (32, 32) and moment.dtype == torch.float64
        assert torch.allclose(moment, real.T @ real / len(real), rtol=1e-5, atol=1e-6)
        assert torch.allclose(moment.diagonal(), real.square().mean(0), rtol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_has_one_for_each_block(family):
    model = tiny(family)
    found = second_moment(model, windows(2, length=8, vocabulary=50))
    for moment, output in zip(found, block_outputs(model, windows(2, length=8, vocabulary=50)), strict=True):
        real = output.flatten(0, 1).double()
        assert torch.allclose(moment, real.T @ real / len(real), rtol=1e-4, atol=1e-5)


def test_neither_padding_nor_the_model_s_state_matters():
    model, w = small_llama(), windows(4, padded=True)
    model.train()
    first = second_moment(model, w)
    assert model.training, "left as it was"
    other = windows(4, padded=True)
    other.ids[~other.mask] = 5
    model.eval()
    assert all(torch.allclose(a, b, rtol=1e-6) for a, b in zip(first, second_moment(model, other), strict=True))
    assert not any(module._forward_hooks for module in model.modules())


def test_distance_is_relative_to_the_second():
    a, b = torch.diag(torch.tensor([1.0, 2.0, 2.0])), torch.diag(torch.tensor([1.0, 2.0, 5.0]))
    assert distance(a, b) == pytest.approx(3 / 30**0.5) and distance(b, a) == pytest.approx(1.0)
    assert distance(a, a) == 0
    for broken in (torch.zeros(3, 3), torch.full((3, 3), float("nan"))):
        with pytest.raises(NumericalError, match="second moments"):
            distance(a, broken)


def test_another_text_is_farther_than_more_of_the_same():
    """Windows over a tenth of the vocabulary against windows over all of it."""
    model = small_llama()
    near, same, far = (
        second_moment(model, w) for w in (windows(32, seed=1), windows(32, seed=2), windows(32, seed=3, vocabulary=10))
    )
    assert all(distance(near[i], same[i]) < 0.5 * distance(far[i], same[i]) for i in range(3))
