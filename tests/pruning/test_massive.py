"""One token whose activations outweigh all others: it is told of, and the loss per token does not follow it."""

import pytest
import torch
from transformers import LlamaForCausalLM

from analysis.measure.block_error import MOST
from analysis.pruning.loop import prune
from analysis.windows import Windows
from tests.helpers.small import small_llama, windows


def _once(own: Windows) -> Windows:
    """The windows with token 0 at the very beginning alone."""
    own.ids[own.ids == 0] = 1
    own.ids[0, 0] = 0
    return own


def test_a_massive_token_is_told_of(caplog):
    """One token that outweighs all others is warned of once, with the readings that do not follow it."""
    model, own = small_llama(), _once(windows(8))
    assert "massive activations" not in prune(model, "wanda-50% LR", own).provenance and not caplog.records
    with torch.no_grad():
        model.get_input_embeddings().weight[0] *= 1000
    told = prune(model, "wanda-50% LR", own).provenance["massive activations"]
    assert told["blocks"] == 3 and told["energy_first"] > 0.9 and told["energy_top"] > MOST
    (record,) = caplog.records
    assert "relative_error follows those alone; read relative_error_median or" in record.getMessage()


def _with_massive_token() -> LlamaForCausalLM:
    """One block in which one neuron answers token 0 alone, with an output a hundred times that of any other token."""
    model = small_llama(blocks=1)
    mlp, width = model.model.layers[0].mlp, model.config.hidden_size
    with torch.no_grad():
        token = model.get_input_embeddings().weight[0].mul_(50)
        for weight in (mlp.gate_proj.weight, mlp.up_proj.weight):
            weight[0] = token * (width**0.5 / token.norm())
    return model


@pytest.mark.slow
@pytest.mark.parametrize("options", ["", ",unit=sub-block", ",train=masklora,rank=4"])
def test_the_loss_per_token_does_not_follow_the_massive_one(options):
    """With it the error of the other tokens falls further than with the mean square, which fits the one."""
    model, own = _with_massive_token(), _once(windows(8))
    found = {}
    for loss in ("mse", "relative"):
        tables = prune(model, f"wanda-50% BR[loss={loss},epochs=10,batch=4,lr=3e-3{options}]", own).tables
        found[loss] = tables["blocks"].query("kind == 'total'").iloc[0]
    assert found["mse"].relative_error < found["relative"].relative_error, "the papers' error is the one token's"
    for reading in ("relative_error_rest", "relative_error_median"):
        assert found["relative"][reading] < 0.8 * found["mse"][reading], found
