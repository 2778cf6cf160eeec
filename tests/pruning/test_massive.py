"""One token whose activations outweigh all others: it is told of, and the loss per token does not follow it."""

import pytest
import torch

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


@pytest.mark.slow
@pytest.mark.parametrize("options", ["", ",unit=sub-block", ",unit=matrix", ",width=2", ",train=masklora,rank=4"])
def test_the_loss_per_token_does_not_follow_the_massive_one(options):
    """With it the error of the other tokens falls further than with the mean square, which fits the one."""
    model, own = small_llama(blocks=2), _once(windows(8))
    with torch.no_grad():
        model.get_input_embeddings().weight[0] *= 1000
    rest = {}
    for loss in ("mse", "relative"):
        tables = prune(model, f"wanda-50% BR[loss={loss},epochs=20,batch=4,lr=3e-3{options}]", own).tables
        last = tables["blocks"].query("block == 1 and kind == 'total'").iloc[0]
        rest[loss] = (last.relative_error_rest, last.relative_error_median)
    assert all(relative < mse for relative, mse in zip(rest["relative"], rest["mse"], strict=True)), rest
