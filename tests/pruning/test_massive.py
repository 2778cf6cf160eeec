"""One token whose activations outweigh all others is told of."""

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
