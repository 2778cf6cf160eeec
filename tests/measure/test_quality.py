"""What is measured on which text, and what a study remembers of its dense model."""

from dataclasses import replace

import pandas as pd
import pytest
import torch

from analysis.errors import NumericalError
from analysis.measure.perplexity import perplexity
from analysis.measure.quality import DenseModel, measurable, quality_rows
from analysis.measure.scores import score
from analysis.models.load import LoadedModel
from analysis.pruning.loop import prune
from analysis.recipe.recipe import Recipe
from analysis.streams.streams import unit_output
from tests.helpers.encoders import encoder, examples
from tests.helpers.small import small_llama, windows


@pytest.mark.slow
def test_the_dense_model_is_measured_once_and_the_pruned_one_every_time():
    model, w, held_out = small_llama(), windows(4), windows(4, seed=1)
    dense = DenseModel(model)
    first = prune(dense, Recipe.parse("wanda-50% LR"), w, {"held": held_out})
    assert dense.quality == {w.digest(): perplexity(model, w), held_out.digest(): perplexity(model, held_out)}
    dense.quality[held_out.digest()] = replace(dense.quality[held_out.digest()], perplexity=7.0)
    second = prune(dense, Recipe.parse("magnitude-50% LR"), w, {"held": held_out})
    tables = [result.tables["perplexity"].set_index(["which", "split"]).perplexity for result in (first, second)]
    assert tables[1]["dense", "held"] == 7.0 and tables[1]["dense", "calibration"] == tables[0]["dense", "calibration"]
    assert tables[1]["pruned", "held"] == perplexity(second.model, held_out).perplexity != tables[0]["pruned", "held"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "recipe",
    [
        "wanda-50% BR+GP+CR[epochs=1]",
        "wanda-50% BR[epochs=1]",
        "wanda-50% BR+GP[unit=sub-block,epochs=1]",
        "magnitude-50% IR[epochs=1]",
    ],
)
def test_the_dense_stream_is_computed_once_and_changes_nothing(recipe, monkeypatch):
    model, w, held_out = small_llama(), windows(4), windows(4, seed=1)
    dense = DenseModel(model)
    without = prune(model, Recipe.parse(recipe), w, {"held": held_out})
    first = prune(dense, Recipe.parse(recipe), w, {"held": held_out})
    states = {key: [output.clone() for output in outputs] for key, outputs in dense.outputs.items()}
    ran = []
    monkeypatch.setattr(
        "analysis.measure.block_error.unit_output",
        lambda modules, block, recording, hidden, rows: (
            ran.append(block) or unit_output(modules, block, recording, hidden, rows)
        ),
    )
    second = prune(dense, Recipe.parse(recipe), w, {"held": held_out})
    assert len(ran) == 2 * 2 * 3, (
        "of either text and each of three blocks, the dense block on the sparse stream and the pruned block"
    )
    for result in (first, second):
        for name in ("blocks", "steps", "perplexity", "texts"):
            pd.testing.assert_frame_equal(result.tables[name], without.tables[name])
        assert all(
            torch.equal(ours, theirs)
            for ours, theirs in zip(
                result.model.state_dict().values(), without.model.state_dict().values(), strict=True
            )
        )
    assert all(
        torch.equal(one, other)
        for key, outputs in dense.outputs.items()
        for one, other in zip(outputs, states[key], strict=True)
    ), "nothing was written to"


def test_the_dense_stream_is_not_kept_without_room(monkeypatch):
    monkeypatch.setattr("analysis.measure.quality.free_bytes", lambda device: 1000)
    dense = DenseModel(small_llama())
    prune(dense, Recipe.parse("magnitude-50% LR"), windows(4))
    assert not dense.outputs and len(dense.quality) == 1


@pytest.mark.slow
def test_many_texts_do_not_fill_the_memory(monkeypatch):
    dense, recipe = DenseModel(small_llama()), Recipe.parse("magnitude-50% LR")
    for seed in (0, 1):
        prune(dense, recipe, windows(4, seed=seed))
    taken = sum(output.nbytes for outputs in dense.outputs.values() for output in outputs)
    monkeypatch.setattr("analysis.measure.quality.free_bytes", lambda device: 19 * taken)
    for seed in (2, 0):
        prune(dense, recipe, windows(4, seed=seed))
    assert [len(outputs) for outputs in dense.outputs.values()] == [3, 3], "no room for a third text"
    kept = dense.outputs[windows(4).digest()]
    assert dense.outputs_on(windows(4), kept[0], 3) is kept, "those kept are still known, whatever the room"


def test_room_for_a_text_is_a_fiftieth_of_what_is_free_and_a_twentieth_for_all(monkeypatch):
    hidden = torch.zeros(4, 16, 32)
    for free, room in ((50 * 3 * hidden.nbytes, True), (50 * 3 * hidden.nbytes - 50, False)):
        monkeypatch.setattr("analysis.measure.quality.free_bytes", lambda device, free=free: free)
        assert (DenseModel(small_llama()).outputs_on(windows(4), hidden, 3) is not None) is room
    dense = DenseModel(small_llama(), outputs={"another text": [hidden]})
    for times, room in ((20, True), (19, False)):
        monkeypatch.setattr("analysis.measure.quality.free_bytes", lambda device, times=times: times * hidden.nbytes)
        assert (dense.outputs_on(windows(4), hidden[:0], 3) is not None) is room
        dense.outputs.pop(windows(4).digest(), None)


def test_a_model_that_is_no_dense_model_keeps_no_hidden_states():
    model = small_llama()
    dense = DenseModel.of(model)
    assert dense.model is model and dense.tokenizer is dense.fingerprint is None
    assert dense.outputs_on(windows(4), torch.zeros(1), 3) is None and DenseModel.of(dense) is dense
    loaded = LoadedModel(model, "a tokenizer", "name", "fingerprint")
    assert DenseModel(loaded).model is model and DenseModel(loaded).fingerprint == "fingerprint"
    result = prune(DenseModel(loaded), Recipe.parse("magnitude-50% LR"), windows(4))
    assert result.tokenizer == "a tokenizer" and result.provenance["model"] == "fingerprint"


def test_a_text_is_known_by_all_that_the_model_sees_of_it():
    w = examples("bert")
    others = [
        replace(w, ids=w.ids + 1),
        replace(w, mask=~w.mask),
        replace(w, types=1 - w.types),
        replace(w, types=None),
        replace(w, labelled=None),
    ]
    others.append(replace(w, labelled=replace(w.labelled, labels=1 - w.labelled.labels)))
    assert len({other.digest() for other in (w, *others)}) == 7
    assert replace(w, label="another name").digest() == w.digest()


def test_texts_that_a_head_cannot_answer_are_left_out():
    labelled, plain = examples("bert"), replace(examples("bert"), labelled=None)
    texts = {"labelled": labelled, "plain": plain, "spans": examples("bert_span")}
    assert list(measurable(encoder("bert"), texts)) == ["labelled"]
    assert list(measurable(encoder("bert_span"), texts)) == ["spans"]
    assert list(measurable(small_llama(), texts)) == ["plain"]


def test_rows_of_labelled_examples_are_scores():
    model, w = encoder("bert"), examples("bert")
    rows = quality_rows(DenseModel(model), model, {"set": w})
    assert rows["perplexity"] == [] and [row["which"] for row in rows["scores"]] == ["dense", "pruned"]
    assert pd.Series([row["score"] for row in rows["scores"]]).eq(score(model, w).score).all()
    assert torch.equal(w.labelled.labels, examples("bert").labelled.labels)


def test_whose_logits_overflow_is_said():
    broken, text = small_llama(blocks=1), {"stories": windows(2, label="stories")}
    broken.lm_head.weight.fill_(torch.inf)
    for which, (dense, pruned) in {
        "dense": (broken, small_llama(blocks=1)),
        "pruned": (small_llama(blocks=1), broken),
    }.items():
        with pytest.raises(NumericalError, match=f"^{which} model: perplexity on 'stories'.* overflow in float32"):
            quality_rows(DenseModel.of(dense), pruned, text)
