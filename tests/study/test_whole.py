"""Whole texts beside the windows drawn from them: the papers' protocol in the same run."""

import pytest

from analysis.measure.perplexity import perplexity
from analysis.pruning.loop import prune
from analysis.study.run import whole
from tests.helpers.small import small_llama, windows


def test_whole_texts_are_measured_on_both_models_and_named_apart():
    dense, text = small_llama(blocks=1), windows(9, seed=2)
    result = prune(dense, "wanda-50% LR", windows(4), {"a": text.subset(3)})
    tables = whole(result.model, dense, {"a": text}, result.tables)
    found = tables["perplexity"].set_index(["split", "which"])
    assert set(found.index.get_level_values(0)) == {"calibration", "a", "a, whole"}
    for which, model in (("dense", dense), ("pruned", result.model)):
        row = found.loc[("a, whole", which)]
        assert row.perplexity == pytest.approx(perplexity(model, text).perplexity) and row.windows == 9
        assert found.loc[("a", which)].windows == 3
    assert tables["cost"].iloc[-1].tokens == 2 * text.tokens and "scores" not in tables
