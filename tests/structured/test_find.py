"""Heads and neurons: every row and column has one owner, removing a structure is reading its columns as zero, wrong
layouts are found out.
"""

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn

from analysis.errors import UnsupportedModel, UsageError
from analysis.models.anatomy import anatomy, anatomy_of_copy
from analysis.models.widths import head_shape
from analysis.structured.find import KINDS, removal_error, structures
from analysis.structured.pairs import (
    check_masks,
    column_mask,
    element_masks,
    masked,
    remove,
    row_mask,
    structure_of_column,
    structures_of_copy,
)
from tests.helpers.encoders import ENCODERS, encoder
from tests.helpers.families import FAMILIES, REFUSED, tiny, tokens
from tests.helpers.structures import ACROSS_HEADS, half_kept, logits

HEADED = [family for family in FAMILIES if family not in ACROSS_HEADS]
GROUPED = ["llama", "qwen2", "qwen3", "mistral", "gemma2", "gemma3", "phi3", "glm4", "falcon"]


def build(name: str) -> nn.Module:
    return encoder(name) if name in ENCODERS else tiny(name)


def kinds_of(name: str) -> tuple[str, ...]:
    return ("neurons",) if name in ACROSS_HEADS else tuple(KINDS)


@pytest.mark.slow
@pytest.mark.parametrize("name", [*FAMILIES, *ENCODERS])
def test_every_row_and_column_belongs_to_one_structure(name):
    model = build(name)
    removable = structures(model, kinds=kinds_of(name))
    assert [(pair.block, pair.kind) for pair in removable] == [
        (block.index, kind) for block in anatomy(model).blocks for kind in kinds_of(name)
    ]
    for pair in removable:
        assert sorted(pair.columns.flatten().tolist()) == list(range(pair.consumer.columns))
        for producer in pair.producers:
            assert len(producer.rows) == pair.count
            assert sorted(producer.rows.flatten().tolist()) == list(range(producer.matrix.rows))
        assert structure_of_column(pair)[pair.columns].eq(torch.arange(pair.count)[:, None]).all()
    covered = {full for pair in removable for full in (pair.name, *(producer.name for producer in pair.producers))}
    halves = [{"heads": "attention", "neurons": "mlp"}[kind] for kind in kinds_of(name)]
    assert covered == {full for full, matrix in anatomy(model).matrices() if matrix.half in halves}


@pytest.mark.slow
@pytest.mark.parametrize("name", [*FAMILIES, *ENCODERS])
def test_reading_columns_as_zero_is_removing_the_structure(name):
    model = build(name)
    removable = structures(model, kinds=kinds_of(name))
    assert removal_error(model, removable.pairs, seed=7) <= 1e-6
    ids, mask = tokens(4, padding="right")
    masks = half_kept(removable)
    before = copy.deepcopy(model.state_dict())
    dense = logits(model, ids, mask)
    with masked(removable, masks):
        expected = logits(model, ids, mask)
    assert (dense - expected).norm() > 0.01 * dense.norm()
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in before.items()), "no weight was touched"
    remove(removable, masks)
    torch.testing.assert_close(logits(model, ids, mask), expected, rtol=1e-5, atol=1e-5)
    elements = element_masks(removable, masks)
    for full, matrix in anatomy(model).matrices():
        if full in elements:
            assert bool((matrix.weight()[~elements[full]] == 0).all())
            assert 0 < int(elements[full].sum()) < elements[full].numel()


@pytest.mark.slow
@pytest.mark.parametrize("family", GROUPED)
def test_a_kv_group_goes_with_all_its_query_heads(family):
    model = tiny(family)
    pair = structures(model, kinds=["heads"]).pairs[0]
    assert (
        pair.heads == (4, 2, 8)
        and pair.count == pair.units == 2
        and pair.columns.tolist() == [list(range(16)), list(range(16, 32))]
    )
    assert sum(producer.rows.shape[1] for producer in pair.producers) == 2 * 8 + 8 + 8
    alone = structures(model, kinds=["heads"], heads="queries").pairs[0]
    assert alone.count == 4 and alone.units == 2 and alone.groups.tolist() == [0, 0, 1, 1]
    assert [producer.rows.shape[1] for producer in alone.producers] == [8], "keys and values stay with their group"
    assert removal_error(model, structures(model, kinds=["heads"], heads="queries").pairs, seed=3) <= 1e-6


@pytest.mark.slow
@pytest.mark.parametrize("family", ["opt", "gpt2"])
def test_without_groups_a_query_head_is_a_head(family):
    one, other = (structures(tiny(family), kinds=["heads"], heads=heads).pairs[0] for heads in ("groups", "queries"))
    assert one.count == other.count == 4 and not other.groups.any()
    assert all(torch.equal(a.rows, b.rows) for a, b in zip(one.producers, other.producers, strict=True))


def rows_as(pair, rows):
    return replace(pair, producers=(replace(pair.producers[0], rows=rows),))


@pytest.mark.parametrize("family", ["gpt_neox", "bloom", "gpt2", "phi3", "falcon"])
def test_the_wrong_layout_of_a_fused_matrix_is_found_out(family):
    model = tiny(family)
    right = structures(model, kinds=["heads"]).pairs
    wrong = []
    for pair in right:
        rows = torch.arange(pair.producers[0].matrix.rows)
        apart = torch.cat([part.view(pair.count, -1) for part in rows.split([32, *[(len(rows) - 32) // 2] * 2])], dim=1)
        together = rows.view(pair.count, -1)
        assert any(torch.equal(pair.producers[0].rows.sort(1).values, layout) for layout in (apart, together))
        wrong.append(rows_as(pair, together if torch.equal(pair.producers[0].rows.sort(1).values, apart) else apart))
    assert removal_error(model, right) <= 1e-6 < 1e-2 < removal_error(model, wrong)


@pytest.mark.parametrize("family", ["phi3", "glm4"])
def test_a_fused_gate_and_up_gives_each_neuron_two_rows(family):
    model = tiny(family)
    right = structures(model, kinds=["neurons"]).pairs
    assert right[0].producers[0].rows[5].tolist() == [5, 53]
    wrong = [rows_as(pair, torch.arange(96).view(48, 2)) for pair in right]
    assert removal_error(model, right) <= 1e-6 < 1e-2 < removal_error(model, wrong)


@pytest.mark.slow
def test_one_row_given_to_another_head_is_found_out():
    model = tiny("opt")
    pairs = list(structures(model, kinds=["heads"]).pairs)
    rows = pairs[2].producers[2].rows.clone()
    rows[0, 0], rows[1, 0] = rows[1, 0].clone(), rows[0, 0].clone()
    producers = (*pairs[2].producers[:2], replace(pairs[2].producers[2], rows=rows))
    pairs[2] = replace(pairs[2], producers=producers)
    assert max(removal_error(model, pairs, seed) for seed in range(3)) > 1e-4


@pytest.mark.parametrize("family", ACROSS_HEADS)
def test_a_norm_across_heads_is_refused_for_heads_alone(family):
    with pytest.raises(UnsupportedModel, match="removing heads changes what the others compute.*Try neurons"):
        structures(tiny(family))
    assert {pair.kind for pair in structures(tiny(family), kinds=["neurons"])} == {"neurons"}


def test_what_cannot_be_asked_is_refused():
    model = tiny("llama")
    for wrong in ({"kinds": []}, {"kinds": ["blocks"]}, {"heads": "keys"}):
        with pytest.raises(UsageError):
            structures(model, **wrong)
    for family in REFUSED:
        with pytest.raises(UnsupportedModel):
            structures(tiny(family))


def test_an_mlp_of_another_build_is_refused():
    model = tiny("opt")
    block = anatomy(model).blocks[0]
    odd = replace(
        block,
        matrices=(*block.matrices[:4], block.matrices[4], block.matrices[4], block.matrices[4], block.matrices[5]),
    )
    parts = replace(anatomy(model), blocks=(odd,))
    with pytest.raises(UnsupportedModel, match="Its neurons cannot be told apart"):
        structures(model, parts, kinds=["neurons"])
    wide = replace(
        block,
        matrices=(
            *block.matrices[:3],
            replace(block.matrices[4], half="attention", reads="self_attn.q_proj"),
            *block.matrices[3:],
        ),
    )
    with pytest.raises(UnsupportedModel, match="1 or 3"):
        structures(model, replace(parts, blocks=(wide,)), kinds=["heads"])


def test_heads_that_do_not_divide_the_matrices_are_refused():
    model = tiny("llama")
    model.model.layers[1].self_attn.head_dim = 7
    with pytest.raises(UnsupportedModel, match="model.layers.1.*heads of 7"):
        structures(model, anatomy_of_copy(anatomy(tiny("llama")), model), kinds=["heads"])


def test_masks_that_do_not_fit_are_refused():
    removable = structures(tiny("llama"), heads="queries")
    heads, neurons = removable.pairs[:2]
    right = {heads.name: torch.tensor([True, False, False, True]), neurons.name: torch.arange(48) < 5}
    check_masks(removable.pairs, right)
    for wrong, message in [
        ({"lm_head": torch.ones(4, dtype=torch.bool)}, "consumer of no pair"),
        ({neurons.name: torch.ones(48)}, "expected bool"),
        ({neurons.name: torch.ones(47, dtype=torch.bool)}, "expected bool"),
        ({neurons.name: torch.zeros(48, dtype=torch.bool)}, "at least one must stay"),
        ({heads.name: torch.tensor([True, True, False, True])}, r"keeps \[2, 1\] query heads"),
    ]:
        with pytest.raises(UsageError, match=message):
            check_masks(removable.pairs, wrong)


@pytest.mark.slow
def test_costs_are_counted_as_by_hand():
    model = tiny("opt")
    heads, neurons = structures(model).pairs[:2]
    assert heads.parameters() == 3 * 8 * (32 + 1) + 8 * 32 and neurons.parameters() == 32 + 1 + 32
    assert heads.multiply_adds(100) == 4 * 8 * 32 + 2 * 100 * 8 and neurons.multiply_adds(100) == 2 * 32
    group = structures(tiny("llama")).pairs[0]
    assert (
        group.parameters() == (16 + 8 + 8) * 32 + 16 * 32
        and group.multiply_adds(10) == group.parameters() + 2 * 10 * 16
    )


def test_structures_of_a_copy_are_in_the_copy():
    model = tiny("gpt2")
    removable = structures(model)
    twin = copy.deepcopy(model)
    moved = structures_of_copy(removable, anatomy_of_copy(removable.parts, twin))
    remove(moved, half_kept(moved))
    assert removal_error(model, removable.pairs) <= 1e-6
    for pair, other in zip(removable, moved, strict=True):
        assert pair.name == other.name and pair.consumer.module is not other.consumer.module
        mask = half_kept(moved)[pair.name]
        assert bool((other.consumer.weight()[:, ~column_mask(pair, mask)] == 0).all()) and not bool(
            (pair.consumer.weight() == 0).any()
        )
        assert row_mask(pair.producers[0], mask).sum() == pair.producers[0].rows[mask].numel()


def test_the_shape_of_heads_without_a_stated_width_comes_from_the_config():
    model = tiny("opt")
    block = anatomy(model).blocks[0]
    del block.module.self_attn.head_dim
    assert head_shape(block, model.config) == (4, 4, 8)
