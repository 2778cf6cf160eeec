"""Exact counts whatever the scores, against naive loops; masks that break their pattern are caught."""

import pytest
import torch

from analysis.errors import SparsityError, UsageError
from analysis.masks.patterns import check_mask, choose, kept
from analysis.recipe.parts import Pattern
from tests.helpers.references import largest, normal

SHAPES = [(7, 300), (1, 256), (5, 1), (4, 128)]
SCORES = {
    "distinct": lambda shape: normal(shape, 0).abs(),
    "equal": lambda shape: torch.ones(shape),
    "zeros": lambda shape: torch.zeros(shape),
    "many ties": lambda shape: normal(shape, 1).round().abs(),
    "mostly zeros": lambda shape: normal(shape, 2).clamp_min(1.0) - 1,
    "infinities": lambda shape: (
        normal(shape, 3)
        .round()
        .masked_fill(normal(shape, 4) > 0.5, torch.inf)
        .masked_fill(normal(shape, 5) > 1, -torch.inf)
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("sparsity", [0.0, 0.5, 0.3, 0.999])
@pytest.mark.parametrize("group", ["matrix", "row", "block"])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("scores", SCORES.values(), ids=SCORES)
def test_counts_are_exact_and_the_largest_stay(scores, shape, group, sparsity):
    scores = scores(shape)
    pattern = Pattern(sparsity=sparsity, group=group)
    mask = choose(scores, pattern, name="m")
    check_mask(mask, pattern, name="m")
    rows, width = shape
    groups = {
        "matrix": [(slice(None), slice(None))],
        "row": [(slice(row, row + 1), slice(None)) for row in range(rows)],
        "block": [(slice(None), slice(start, start + 128)) for start in range(0, width, 128)],
    }[group]
    for where in groups:
        values = scores[where].flatten().tolist()
        assert mask[where].flatten().tolist() == largest(values, len(values) - round(sparsity * len(values)))


@pytest.mark.parametrize(("keep", "of"), [(2, 4), (4, 8), (1, 4), (3, 4), (1, 2), (5, 16), (11, 24)])
@pytest.mark.parametrize("scores", SCORES.values(), ids=SCORES)
def test_n_of_every_m_consecutive_inputs_are_kept(scores, keep, of):
    scores = scores((5, 48))
    mask = choose(scores, Pattern(keep=keep, of=of), name="m")
    check_mask(mask, Pattern(keep=keep, of=of), name="m")
    for row in range(5):
        for start in range(0, 48, of):
            assert mask[row, start : start + of].tolist() == largest(scores[row, start : start + of].tolist(), keep)


def test_a_block_of_other_width():
    scores = normal((3, 50), 3).abs()
    pattern = Pattern(sparsity=0.5, group="block")
    mask = choose(scores, pattern, name="m", columns=16)
    check_mask(mask, pattern, name="m", columns=16)
    assert mask[:, 48:].flatten().tolist() == largest(scores[:, 48:].flatten().tolist(), 3)


def test_counts_are_rounded_as_stated():
    assert [kept(5, 0.5), kept(7, 0.5), kept(4, 0.3), kept(10, 0.0)] == [3, 3, 3, 10]


@pytest.mark.parametrize("call", [choose, check_mask])
def test_a_width_that_does_not_fit_names_matrix_and_numbers(call):
    table = torch.ones(3, 10, dtype=torch.bool)
    with pytest.raises(
        UsageError, match="pattern 2:4 does not fit mlp.down_proj: its 10 inputs are not divisible by 4"
    ):
        call(table, Pattern(keep=2, of=4), name="mlp.down_proj")


@pytest.mark.parametrize("call", [choose, check_mask])
def test_an_unresolved_group_is_an_error(call):
    with pytest.raises(UsageError, match="must be resolved first"):
        call(torch.ones(3, 10, dtype=torch.bool), Pattern(sparsity=0.5), name="m")


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        (Pattern(sparsity=0.5, group="matrix"), "matrix 0 keeps 513 weights instead of 512"),
        (Pattern(sparsity=0.5, group="row"), "row 2 keeps 129 weights instead of 128"),
        (Pattern(sparsity=0.5, group="block"), "columns 128:256, block 0 keeps 257 weights instead of 256"),
        (Pattern(keep=2, of=4), "group of 4 178 keeps 3 weights instead of 2"),
    ],
    ids=str,
)
def test_one_weight_too_many_is_found(pattern, message):
    mask = choose(torch.zeros(4, 256), Pattern(keep=2, of=4), name="m")
    check_mask(mask, pattern, name="m")
    mask[2, 202] = True  # the third of its four
    with pytest.raises(SparsityError, match=message):
        check_mask(mask, pattern, name="m")
