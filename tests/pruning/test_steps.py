"""Choosers, repairs and solvers are entries of plain dicts: what the loop asks of one from outside, and gives it."""

from dataclasses import replace

import pytest
import torch

from analysis.errors import SparsityError
from analysis.pruning.checkpoint import Checkpoint
from analysis.pruning.choosers import CHOOSERS
from analysis.pruning.loop import prune
from analysis.pruning.solvers import REPAIRS, SOLVERS
from analysis.pruning.steps import SolverSteps
from analysis.recipe.recipe import Recipe
from analysis.recipe.words import KIND_WORDS, REPAIR_WORDS, SOLVER_WORDS
from analysis.structured.pairs import element_masks
from tests.helpers.small import small_llama, windows

LR = Recipe.parse("wanda-50% LR")


def test_every_word_of_a_recipe_has_its_steps():
    assert set(CHOOSERS) == set(KIND_WORDS) and set(REPAIRS) == set(REPAIR_WORDS) and set(SOLVERS) == set(SOLVER_WORDS)


def doubling(state, visit, meter):
    """Twice the kept weights of the visit's blocks, and a mark on the model's last norm."""
    with meter.stage(visit.index, "solve"):
        for index in visit.blocks:
            for matrix in state.pruned.blocks[index].matrices:
                matrix.weight().mul_(2)
        state.model.model.norm.weight.data.add_(1)


@pytest.mark.slow
def test_a_solver_from_outside_runs_in_every_visit(monkeypatch):
    plain = prune(small_llama(), LR, windows(4))
    monkeypatch.setitem(SOLVERS, "none", SolverSteps(doubling))
    result = prune(small_llama(), LR, windows(4))
    name = "model.layers.0.self_attn.q_proj"
    assert torch.equal(result.model.get_submodule(name).weight, 2 * plain.model.get_submodule(name).weight)
    assert list(result.tables["cost"].query("stage == 'solve'").unit) == [0, 1, 2]


def test_a_solver_that_breaks_its_masks_is_refused(monkeypatch):
    def fill(state, visit, meter):
        state.pruned.blocks[visit.first].matrices[0].weight().fill_(1)

    monkeypatch.setitem(SOLVERS, "none", SolverSteps(fill))
    with pytest.raises(SparsityError, match=r"layers\.0.*pruned weights are not zero"):
        prune(small_llama(), LR, windows(4))


@pytest.mark.slow
def test_a_solver_says_what_a_checkpoint_keeps_and_what_resuming_needs(monkeypatch, tmp_path):
    called = []

    def keeps(state, visit):
        return dict(state.model.named_parameters())

    steps = SolverSteps(
        doubling, keeps=keeps, prepare=lambda state: called.append("prepare"), resume=lambda _: called.append("resume")
    )
    monkeypatch.setitem(SOLVERS, "none", steps)
    whole, write = prune(small_llama(), LR, windows(4)), Checkpoint.write

    def stop(self, index, tensors, rows):
        write(self, index, tensors, rows)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Checkpoint, "write", stop)
        prune(small_llama(), LR, windows(4), checkpoint=tmp_path)
    called.clear()
    resumed = prune(small_llama(), LR, windows(4), checkpoint=tmp_path)
    assert called == ["prepare", "resume"]
    assert torch.equal(whole.model.model.norm.weight, resumed.model.model.norm.weight), "outside of the visit's blocks"


@pytest.mark.parametrize("reads", [set(), {"dense"}])
def test_the_dense_stream_is_there_for_those_who_read_it(reads, monkeypatch):
    seen = []
    steps = SolverSteps(lambda state, *_: seen.append(state.calibration.apart), reads=lambda recipe: reads)
    monkeypatch.setitem(SOLVERS, "none", steps)
    prune(small_llama(), LR, windows(4), measure=False)
    assert set(seen) == {bool(reads)}


@pytest.mark.slow
def test_a_repair_sees_each_new_block_behind_the_ones_repaired_before_it(monkeypatch):
    """Two blocks in one visit: the streams at the second one's input have passed the first, dense and pruned."""
    entries, remove = [], REPAIRS["none"].solve

    def look(state, visit, meter):
        remove(state, visit, meter)
        entries.append([(s.label, s.dense.clone(), s.sparse.clone()) for s in state.entry])

    looking = replace(
        REPAIRS["none"], solve=look, reads=lambda recipe: {"dense", "sparse"}, validation=lambda recipe: True
    )
    monkeypatch.setitem(REPAIRS, "none", looking)
    dense, w = small_llama(blocks=2), windows(4)
    recipe = Recipe.parse("magnitude-neurons-50% BR[unit=model,epochs=1,lr=1e-12,select=held-out]")
    result = prune(dense, recipe, w, validation=windows(4, seed=1))
    assert [[label for label, *_ in entry] for entry in entries] == [["calibration", "validation"]] * 2
    with torch.no_grad():
        expected = [model.model(w.ids, output_hidden_states=True).hidden_states[1] for model in (dense, result.model)]
    torch.testing.assert_close(entries[1][0][1], expected[0])
    torch.testing.assert_close(entries[1][0][2], expected[1])
    assert torch.equal(entries[0][0][1], entries[0][0][2]), "the run's own streams stay where they are meanwhile"


@pytest.mark.slow
def test_a_chooser_from_outside_chooses(monkeypatch):
    """Structures of a kind of its own: the first half of everything."""

    def first_half(state, visit, meter):
        structures = state.structures_in(visit)
        masks = {s.name: torch.arange(s.count) < s.count // 2 for s in structures}
        state.structure_masks |= masks
        elements, block = element_masks(structures, masks), state.pruned.blocks[visit.first]
        for matrix in block.matrices:
            state.keep(block, matrix, elements[f"{block.name}.{matrix.name}"])

    monkeypatch.setitem(CHOOSERS, "structures", replace(CHOOSERS["structures"], choose=first_half))
    result = prune(small_llama(), Recipe.parse("magnitude-structures-50% LR"), windows(4))
    assert all(
        mask[: len(mask) // 2].all() and mask.sum() == len(mask) // 2 for mask in result.structure_masks.values()
    )
    assert not result.model.model.layers[1].mlp.gate_proj.weight[32:].any()
