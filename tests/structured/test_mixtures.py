"""Whole structures of mixtures of experts, other than their experts."""

import pytest
import torch

from analysis.errors import UnsupportedModel
from analysis.models.anatomy import anatomy
from analysis.models.load import load_model
from analysis.models.placement import copy_model
from analysis.models.replay import last_hidden
from analysis.models.save import save_shrunk
from analysis.pruning.loop import prune
from analysis.structured.depth_criteria import without_parts
from analysis.structured.shrink import footprint
from tests.helpers.families import VOCABULARY, tiny
from tests.helpers.small import windows

TEXT = windows(4, vocabulary=VOCABULARY)


@pytest.mark.parametrize("family", ["qwen2_moe", "gpt_oss"])
def test_a_silenced_half_is_one_whose_weights_are_zero(family):
    model, ids = tiny(family), TEXT.ids[:1]
    zeroed = copy_model(model)
    for matrix in anatomy(zeroed).blocks[1].matrices:
        if matrix.half == "mlp":
            for parameter in matrix.module.parameters(recurse=False):
                parameter.zero_()
    with without_parts(model, anatomy(model), "mlp", [1]):
        silenced = last_hidden(model, ids)
    assert torch.equal(silenced, last_hidden(zeroed, ids))
    assert not torch.equal(silenced, last_hidden(model, ids))


@pytest.mark.slow
def test_blocks_with_experts_are_cut_out_and_heads_too(tmp_path):
    for number, recipe in enumerate(("influence-blocks-1 BR+GP[epochs=1]", "activation-heads-50% LIAR")):
        pruned = prune(tiny("mixtral"), recipe, TEXT, measure=False)
        small = pruned.shrink()
        assert sum(p.numel() for p in small.parameters()) < sum(p.numel() for p in pruned.model.parameters())
        hidden = last_hidden(pruned.model, TEXT.ids)
        torch.testing.assert_close(last_hidden(small, TEXT.ids), hidden, rtol=1e-4, atol=1e-5)
        folder = save_shrunk(small, None, tmp_path / str(number))  # the second has biases that no config describes
        again = load_model(folder, device="cpu", dtype="float32").model
        torch.testing.assert_close(last_hidden(again, TEXT.ids), hidden, rtol=1e-4, atol=1e-5)


def test_what_experts_do_not_allow_is_refused_by_name():
    with pytest.raises(UnsupportedModel, match="mlp half is a mixture of experts, whose neurons cannot be removed"):
        prune(tiny("mixtral"), "flap-neurons-50% LR", TEXT, measure=False)
    with pytest.raises(UnsupportedModel, match="no one projection"):
        prune(tiny("mixtral"), "influence-blocks-1 refit", TEXT, measure=False)


def test_a_token_pays_for_the_experts_it_goes_to():
    model = tiny("mixtral")
    size = footprint(model, 16)
    attention, expert = 2 * 32 * 32 + 2 * 32 * 16, 3 * 32 * 48
    assert size.in_blocks == 2 * (attention + 4 * expert)
    assert size.multiply_adds == 2 * (attention + 2 * expert) + 2 * 2 * 16 * 32 + VOCABULARY * 32
