"""Masks and texts asked of tiny models, and how answers are kept."""

from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from analysis.errors import UsageError
from analysis.live import answers, masks, texts
from analysis.pruning.loop import prune
from tests.helpers.small import small_llama, windows


@dataclass(frozen=True)
class Sum:
    numbers: tuple[int, ...]

    def identity(self):
        return list(self.numbers)

    def table(self):
        return pd.DataFrame({"sum": [sum(self.numbers)]})


def test_an_answer_is_made_once_and_again_where_its_file_is_broken(monkeypatch, tmp_path):
    monkeypatch.setenv("ANALYSIS_HOME", str(tmp_path))
    made = []
    ask = SimpleNamespace(ask=lambda function, item: (made.append(item[1]), function(item)))
    monkeypatch.setattr(answers, "worker", lambda: ask)
    assert [answers.answer(Sum((1, 2)))["sum"][0] for _ in range(2)] == [3, 3] and len(made) == 1
    assert answers.answer(Sum((2, 2)))["sum"][0] == 4 and len(made) == 2
    made[0].write_bytes(b"torn")
    assert answers.answer(Sum((1, 2)))["sum"][0] == 3 and len(made) == 3


def test_masks_are_packed_as_they_are_and_structures_lie_where_they_say():
    model = small_llama(blocks=2)
    pruned = prune(model, "wanda-50% LR", windows(2), measure=False)
    rows = pd.DataFrame(masks.mask_rows(model, "w", pruned.masks))
    assert len(rows) == 14 == len(pruned.masks)
    for one in rows.itertuples():
        kept = np.unpackbits(np.frombuffer(one.kept, np.uint8), count=one.rows * one.columns)
        full = next(name for name in pruned.masks if name.endswith(f"layers.{one.block}.{one.matrix}"))
        assert (kept.reshape(one.rows, one.columns).astype(bool) == pruned.masks[full].numpy()).all()
    about = rows[rows["block"] == 0].set_index("matrix")
    assert about.loc["mlp.up_proj", ["side", "kind", "structures"]].tolist() == ["rows", "neurons", 64]
    assert about.loc["self_attn.o_proj", ["side", "kind", "structures"]].tolist() == ["columns", "heads", 2]


def test_too_many_models_and_an_empty_prompt_are_refused():
    ground = answers.Ground("lab/tiny", "lab:stories", 1, 16)
    with pytest.raises(UsageError, match="the prompt is empty"):
        texts.Written(ground, (), "  ").table()
    with pytest.raises(UsageError, match="at most 3"):
        next(texts._models(ground, ("wanda-50% LR",) * 4))


@pytest.mark.slow
def test_the_lab_writes_beside_its_pruned_self_and_knows_facts():
    ground = answers.Ground("lab/tiny", "lab:stories", 1, 16)
    table = texts.Written(ground, ("magnitude-60% LR",), "The baker", tokens=6).table()
    dense, pruned = (table[table["model"] == name] for name in ("dense", "magnitude-60% LR"))
    assert dense["agrees"][~dense["given"]].all() and (dense["nats"].dropna() == dense["dense_nats"].dropna()).all()
    assert "".join(dense["token"]).startswith("<|endoftext|>The baker") and (pruned["dense_nats"].iloc[1:] > 0).all()
    own = texts.OwnText("lab/tiny", ("lab:mixed", "lab:recipes"), 1, 16).table()
    apart = texts.Distances("lab/tiny", ("lab:mixed", "lab:recipes"), 1, 16).table()
    assert len(own) == 30 and (apart[apart["source"] == "lab:mixed"]["distance"] == 0).all()
    assert (apart[apart["source"] == "lab:recipes"]["distance"] > 0).all()
