"""A kind of structures is a class and an entry of `KINDS`: everything else goes by what it tells of itself."""

from dataclasses import dataclass, replace
from typing import ClassVar

import pytest
import torch

from analysis.models.widths import Widths, widths
from analysis.structured.budget import cost, select
from analysis.structured.find import KINDS, structures
from analysis.structured.neurons import Neurons
from analysis.structured.pairs import Structure, masked
from analysis.structured.shrink import shrink
from tests.helpers.families import tiny, tokens
from tests.helpers.structures import logits


@dataclass(frozen=True, eq=False)
class Couples(Neurons):
    """Two neighbouring neurons at a time."""

    kind: ClassVar[str] = "couples"

    @classmethod
    def layouts(cls, block, config, heads):
        def two(pair):
            producers = tuple(replace(p, rows=p.rows.reshape(len(p.rows) // 2, -1)) for p in pair.producers)
            columns = pair.columns.view(-1, 2)
            return replace(
                pair, columns=columns, producers=producers, groups=torch.zeros(len(columns), dtype=torch.long)
            )

        return [two(pair) for pair in super().layouts(block, config, heads)]

    def reduced(self, mask, widths):
        return replace(widths, neurons=2 * int(mask.sum()))


@pytest.mark.slow
def test_a_new_kind_is_a_class_and_a_registration(monkeypatch):
    monkeypatch.setitem(KINDS, Couples.kind, Couples)
    model = tiny("llama")
    couples = structures(model, kinds=["couples"])
    assert [pair.contents for pair in couples] == ["24 couples"] * 4
    assert cost(couples) == 4 * 24 * (2 * 3 * 32) == cost(couples, context=100)
    scores = {pair.name: torch.rand(pair.count, generator=torch.Generator().manual_seed(0)) for pair in couples}
    for scope, rule in (("uniform", "sum"), ("global", "sum"), ("global", "threshold")):
        masks = select(couples, scores, 0.5, scope=scope, rule=rule)
        assert sum(int(mask.sum()) for mask in masks.values()) == 48
        small = shrink(model, couples, masks)
        ids, mask = tokens(4)
        with masked(couples, masks):
            torch.testing.assert_close(logits(small, ids, mask), logits(model, ids, mask), rtol=1e-5, atol=1e-5)
        assert [w.neurons for w in widths(small)] == [2 * int(mask.sum()) for mask in masks.values()]


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_structure_removes_are_its_members_and_what_it_cuts_is_gone(kind):
    model = tiny("opt")
    structure: Structure = structures(model, kinds=[kind]).pairs[1]
    mask = torch.arange(structure.count) % 2 == 0
    matrices = dict(structures(model, kinds=[kind]).parts.matrices())
    before = {name: matrices[name].weight().clone() for name in structure.members(mask)}
    structure.remove(mask)
    for name, kept in structure.members(mask).items():
        assert torch.equal(matrices[name].weight(), before[name] * kept)
    size = sum(int(kept.sum()) for kept in structure.members(mask).values())
    left = structure.cut(mask, widths(model)[1])
    assert sum(matrices[name].weight().numel() for name in before) == size
    assert left == (Widths(2, 2, 8, 48) if kind == "heads" else Widths(4, 4, 8, 24))


@pytest.mark.slow
def test_what_heads_there_are_is_said_in_words():
    groups, queries = (
        structures(tiny("llama"), kinds=["heads"], heads=heads).pairs[0] for heads in ("groups", "queries")
    )
    assert groups.contents == "2 KV groups of 2 query heads"
    assert queries.contents == "2 query heads in each of its 2 KV groups"
    assert structures(tiny("opt"), kinds=["heads"]).pairs[0].contents == "4 heads"
