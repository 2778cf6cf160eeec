"""Masks of the score-based criteria against their definitions by naive loops, and the dispatch."""

import math

import pytest
import torch

from analysis.errors import NumericalError, UsageError
from analysis.masks.choose import choose_mask, wanted_statistics
from analysis.masks.patterns import check_mask
from analysis.recipe import CRITERIA, Criterion, Pattern
from tests.masks.references import correlated, largest, normal, statistics_of

PATTERNS = [Pattern(sparsity=0.5), Pattern(sparsity=0.3, group="row"), Pattern(sparsity=0.7, group="matrix"), Pattern(keep=2, of=4), Pattern(keep=1, of=4)]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def chosen(name: str, weight, statistics=None, pattern=PATTERNS[0], seed=0):
    return choose_mask(Criterion(name), pattern, weight, statistics, generator(seed), name="m")


def test_magnitude_keeps_the_largest_of_the_whole_matrix():
    weight = normal((6, 10), 1)
    mask, updated, notes = chosen("magnitude", weight)
    assert mask.flatten().tolist() == largest([abs(w) for w in weight.flatten().tolist()], 30)
    assert updated is None and notes == []


def test_wanda_keeps_the_largest_of_every_row():
    """|W_ij| times the root mean square of input j (papers.md 1.5), by loops."""
    weight, inputs = normal((6, 10), 1), correlated(40, 10, 2)
    mask, updated, notes = chosen("wanda", weight, statistics_of(inputs))
    for i in range(6):
        scores = [abs(float(weight[i, j])) * math.sqrt(sum(float(x) ** 2 for x in inputs[:, j]) / 40) for j in range(10)]
        assert mask[i].tolist() == largest(scores, 5)
    assert updated is None and notes == []
    assert not torch.equal(mask, chosen("magnitude", weight, pattern=Pattern(sparsity=0.5, group="row"))[0])


def test_wanda_prunes_inputs_that_are_always_zero_first():
    inputs = correlated(40, 8, 2)
    inputs[:, [1, 3, 4, 6]] = 0
    mask, _, _ = chosen("wanda", normal((5, 8), 1), statistics_of(inputs))
    assert mask.tolist() == [[True, False, True, False, False, True, False, True]] * 5


def test_random_is_a_function_of_the_generator_alone():
    weight = normal((20, 30), 1)
    first, again, other = (chosen("random", weight, seed=seed)[0] for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert int(first.sum()) == 300


@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
@pytest.mark.parametrize("name", CRITERIA)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_every_criterion_keeps_exact_counts_and_leaves_the_weight_alone(name, pattern, dtype):
    weight, statistics = normal((9, 132), 1).to(dtype), statistics_of(correlated(200, 132, 2, torch.float32))
    before = weight.clone()
    mask, updated, _ = chosen(name, weight, statistics, pattern)
    check_mask(mask, pattern.resolve(name), name="m")
    assert torch.equal(weight, before)
    if updated is not None:
        assert updated.dtype == dtype and updated.shape == weight.shape
        assert bool((updated[~mask] == 0).all()) and bool((updated[mask] != 0).all())


@pytest.mark.parametrize("name", [name for name in CRITERIA if name != "random"])
def test_a_pruned_matrix_gets_its_own_mask_again(name):
    """papers.md 1.2: zeros score lowest, so a second visit at 50 % changes no mask, and SparseGPT no weight."""
    weight, statistics = normal((12, 300), 1, torch.float32), statistics_of(correlated(400, 300, 2, torch.float32))
    mask, updated, _ = chosen(name, weight, statistics)
    pruned = (weight if updated is None else updated) * mask
    again, updated, _ = chosen(name, pruned, statistics)
    assert torch.equal(again, mask)
    assert updated is None or torch.equal(updated, pruned)


def test_statistics_wanted():
    assert {name: wanted_statistics(Criterion(name)) for name in CRITERIA} == {
        "random": None, "magnitude": None, "wanda": "diagonal", "sparsegpt": "gram",
    }  # fmt: skip


def test_wrong_calls():
    weight, statistics = normal((4, 8), 1), statistics_of(correlated(20, 8, 2))
    for name in ("wanda", "sparsegpt"):
        with pytest.raises(UsageError, match=f"{name} needs the statistics of m's input"):
            chosen(name, weight)
    with pytest.raises(UsageError, match="its 8 inputs are not divisible by 16"):
        chosen("sparsegpt", weight, statistics, Pattern(keep=4, of=16))
    weight[2, 3] = torch.nan
    with pytest.raises(NumericalError, match="m holds weights that are not finite"):
        chosen("magnitude", weight)


@pytest.mark.gpu
@pytest.mark.parametrize("name", CRITERIA)
def test_a_gpu_chooses_what_a_cpu_chooses(name):
    weight, inputs = normal((32, 256), 1), correlated(500, 256, 2)
    expected, _, _ = chosen(name, weight, statistics_of(inputs))
    mask, _, _ = chosen(name, weight.cuda(), statistics_of(inputs.cuda()))
    assert mask.is_cuda and torch.equal(mask.cpu(), expected)
