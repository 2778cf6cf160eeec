"""Visits against the list in the paper's released code, and the properties every unit must have."""

import itertools

import pytest

from analysis.recipe import Unit
from analysis.reconstruction.units import visits


def test_cross_block_windows_are_the_papers():
    """Shin et al. 2024: L + 1 windows {0}, {0,1}, ..., {L-2,L-1}, {L-1}; streams advance by one block, not after the first."""
    plan = visits(4, Unit(2, 1))
    assert [v.blocks for v in plan] == [(0,), (0, 1), (1, 2), (2, 3), (3,)]
    assert [v.advance_to for v in plan] == [0, 1, 2, 3, 4]


def test_single_blocks_in_order():
    assert [(v.blocks, v.advance_to) for v in visits(3, Unit(1, 0))] == [((0,), 1), ((1,), 2), ((2,), 3)]


def test_one_block_model_under_cross_block():
    assert [v.blocks for v in visits(1, Unit(2, 1))] == [(0,), (0,)]


@pytest.mark.parametrize("n_blocks, width, overlap", [c for c in itertools.product((1, 2, 5, 8), (1, 2, 3, 4), (0, 1, 2, 3)) if c[2] < c[1]])
def test_every_block_is_solved_and_final_once(n_blocks, width, overlap):
    plan = visits(n_blocks, Unit(width, overlap))
    assert {b for v in plan for b in v.blocks} == set(range(n_blocks))
    assert plan[-1].advance_to == n_blocks
    for earlier, later in itertools.pairwise(plan):
        assert earlier.advance_to <= later.advance_to
        assert later.first >= earlier.advance_to, "a visit starts where the streams stand, or later blocks would be skipped"
        assert later.first == earlier.advance_to
