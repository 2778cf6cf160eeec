"""Visits against the list in the paper's released code, and the properties every unit must have."""

import itertools

import pytest

from analysis.errors import UsageError
from analysis.recipe.parts import Unit
from analysis.reconstruction.schedule import every_problem, held_out_epochs, visits


def test_cross_block_windows_are_the_papers():
    """Shin et al. 2024: L + 1 windows {0}, {0,1}, ..., {L-2,L-1}, {L-1}; streams advance by one block, not after the
    first.
    """
    plan = visits(4, Unit(width=2, overlap=1))
    assert [v.blocks for v in plan] == [(0,), (0, 1), (1, 2), (2, 3), (3,)]
    assert [v.advance_to for v in plan] == [0, 1, 2, 3, 4]


def test_single_blocks_in_order():
    assert [(v.blocks, v.advance_to) for v in visits(3, Unit(width=1, overlap=0))] == [((0,), 1), ((1,), 2), ((2,), 3)]


def test_one_block_model_under_cross_block():
    assert [v.blocks for v in visits(1, Unit(width=2, overlap=1))] == [(0,), (0,)]


@pytest.mark.parametrize(
    "n_blocks, width, overlap",
    [c for c in itertools.product((1, 2, 5, 8), (1, 2, 3, 4), (0, 1, 2, 3)) if c[2] < c[1] and (c[1] <= c[0] or c[2])],
)
def test_every_block_is_solved_and_final_once(n_blocks, width, overlap):
    plan = visits(n_blocks, Unit(width=width, overlap=overlap))
    assert {b for v in plan for b in v.blocks} == set(range(n_blocks))
    assert plan[-1].advance_to == n_blocks
    for earlier, later in itertools.pairwise(plan):
        assert earlier.advance_to <= later.advance_to
        assert later.first >= earlier.advance_to, (
            "a visit starts where the streams stand, or later blocks would be skipped"
        )
        assert later.first == earlier.advance_to


def test_the_whole_stack_is_one_visit_and_halves_and_matrices_go_block_by_block():
    assert [(v.blocks, v.advance_to) for v in visits(3, Unit("model"))] == [((0, 1, 2), 3)]
    for name in ("sub-block", "matrix"):
        assert [(v.blocks, v.advance_to) for v in visits(3, Unit(name))] == [((0,), 1), ((1,), 2), ((2,), 3)]


def test_a_width_above_the_model_is_refused():
    with pytest.raises(UsageError, match="width=4: the model has 3 blocks; give a width of at most 3, or unit=model"):
        visits(3, Unit(width=4))
    assert len(visits(3, Unit(width=3))) == 1


@pytest.mark.parametrize(
    "every, trained, held_out, operations, said",
    [
        ("auto", 4096, 2048, 1e9, 1),  # 0.18 of the training
        ("auto", 256, 4096, 2e6, 1),  # more than the training, and next to nothing: the lab
        ("auto", 4608, 12288, 2e8, "end"),  # SmolLM2 on 18 windows of 256
        ("auto", 4608, 0, 2e8, 1),
        (5, 4608, 12288, 2e8, 5),
        ("end", 4608, 1, 1.0, "end"),
    ],
)
def test_held_out_text_is_looked_at_every_epoch_where_that_is_cheap(every, trained, held_out, operations, said):
    assert held_out_epochs(every, 10, trained=trained, held_out=held_out, operations=operations) == said


@pytest.mark.parametrize(
    "every, right", [(1, True), ("end", True), ("auto", True), (0, False), (True, False), ("x", False)]
)
def test_how_often_is_a_number_or_a_word(every, right):
    assert (every_problem(every) is None) == right
