"""Encoders in the loop: replayed, pruned, repaired, scored, saved and shrunk like decoders, with their padding, token
types and labels.
"""

from dataclasses import replace

import pytest
import torch

from analysis.errors import DataError, ModelError, UsageError
from analysis.measure.scores import score
from analysis.models.anatomy import anatomy
from analysis.models.load import load_model
from analysis.models.replay import record, verify
from analysis.models.save import assert_sparsity, save_shrunk
from analysis.models.task_heads import head, inputs
from analysis.pruning.loop import prune
from analysis.recipe.recipe import Recipe
from tests.helpers.encoders import HEADS, METRICS, encoder, examples, sentence_pairs

NAMES = ("bert", "bert_score", "bert_span", "roberta", "distilbert")
RECIPES = (
    "flap-neurons-50% LIAR",
    "flap-neurons-50% LIAR+GP",
    "snip-neurons-50% compensate",
    "fisher-heads-50% scale",
    "magnitude-structures-50% BR+GP[repair=liar,epochs=2]",
    "wanda-50% BR+GP[epochs=2]",
)


def last(result, split: str = "calibration") -> float:
    blocks = result.tables["blocks"]
    return float(blocks[(blocks.split == split) & (blocks.kind == "total")].sort_values("block").error.iloc[-1])


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_replay_is_exact_with_padding_and_token_types(name):
    model, w = encoder(name), examples(name)
    parts = anatomy(model)
    assert head(model) == HEADS[name]
    assert verify(model, parts, w).relative_error.max() <= 1e-5
    if w.types is not None:
        assert not torch.allclose(record(model, parts, w).hidden, record(model, parts, replace(w, types=None)).hidden)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("recipe", RECIPES)
def test_every_way_of_pruning_gives_scores_and_errors(name, recipe):
    model, calibration, held_out = encoder(name), examples(name), examples(name, seed=1)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    result = prune(model, Recipe.parse(recipe), calibration, {"held": held_out})
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert_sparsity(result.model, result.masks)
    scores = result.tables["scores"]
    assert scores[["split", "which"]].values.tolist() == [
        ["calibration", "dense"],
        ["held", "dense"],
        ["calibration", "pruned"],
        ["held", "pruned"],
    ]
    assert set(scores.metric) == {METRICS[HEADS[name]]} and set(scores.examples) == {16}
    by_hand = score(result.model, held_out)
    assert scores.score.iloc[3] == by_hand.score and scores.loss.iloc[3] == by_hand.loss
    assert result.tables["perplexity"].empty and 0 < last(result) < 10


@pytest.mark.slow
@pytest.mark.parametrize("name", ("bert", "distilbert"))
def test_padding_changes_nothing(name):
    """The same examples, two more columns of padding: the same model."""
    model, w = encoder(name), examples(name)
    wider = replace(
        w,
        ids=torch.nn.functional.pad(w.ids, (0, 2), value=7),
        mask=torch.nn.functional.pad(w.mask, (0, 2)),
        types=None if w.types is None else torch.nn.functional.pad(w.types, (0, 2)),
    )
    for recipe in ("snip-neurons-50% LIAR+GP", "wanda-50% LR", "flap-neurons-50% scale"):
        ours, theirs = (prune(model, Recipe.parse(recipe), windows, measure=False) for windows in (w, wider))
        assert all(torch.equal(mask, theirs.masks[name]) for name, mask in ours.masks.items())
        other = dict(theirs.model.named_parameters())
        assert max(float((p - other[name]).norm() / p.norm()) for name, p in ours.model.named_parameters()) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_two_streams_never_end_further_from_the_dense_model(name):
    """On calibration, where both repair the same single half: the last block's neurons (what comes before is not
    touched).
    """
    model, w = encoder(name), examples(name, 32)
    for criterion in ("flap", "magnitude"):
        one, two = (
            prune(model, Recipe.parse(f"{criterion}-neurons-50% {method}"), w) for method in ("LIAR", "LIAR+GP")
        )
        layers = [result.tables["layers"].set_index("block").error_after for result in (one, two)]
        assert layers[1][0] == pytest.approx(layers[0][0], rel=1e-4)  # nothing is inherited at the first
        assert last(two) <= last(one)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_saved_and_shrunk_models_load_again(name, tmp_path):
    model, w = encoder(name), examples(name)
    result = prune(model, Recipe.parse("flap-structures-50% LIAR+GP"), w, measure=False)
    result.save(tmp_path / "model")
    small = result.shrink()
    save_shrunk(small, None, tmp_path / "small")
    given = inputs(w, slice(0, 8), "cpu")
    with torch.no_grad():
        wanted, cut = result.model(**given)[0], small(**given)[0]
        again, read = (load_model(str(tmp_path / folder)).model(**given)[0] for folder in ("model", "small"))
    real = w.mask[:8] if wanted.shape[:2] == w.mask[:8].shape else slice(None)
    assert torch.equal(again[real], wanted[real]) and torch.equal(read[real], cut[real])
    assert float((cut[real] - wanted[real]).norm() / wanted[real].norm()) <= 1e-5
    assert sum(p.numel() for p in small.parameters()) < sum(p.numel() for p in model.parameters())
    assert load_model(str(tmp_path / "small")).head == HEADS[name]


@pytest.mark.slow
def test_criteria_that_follow_the_loss_need_labels():
    model, w = encoder("bert"), replace(examples("bert"), labelled=None)
    with pytest.raises(
        DataError,
        match=(
            "snip: it follows the loss: examples has no labels, BertForSequenceClassification answers with"
            " classification"
        ),
    ):
        prune(model, Recipe.parse("snip-neurons-50% LIAR"), w)
    result = prune(
        model, Recipe.parse("flap-neurons-50% LIAR"), w, {"held": replace(examples("bert", seed=1), labelled=None)}
    )
    assert result.tables["scores"].empty and len(result.tables["blocks"])


def test_retraining_is_for_language_models():
    with pytest.raises(UsageError, match="retrain follows a language model's loss, and this model answers with span"):
        prune(encoder("bert_span"), Recipe.parse("wanda-50% retrain"), examples("bert_span"))


def test_an_encoder_without_a_task_is_refused(tmp_path):
    import transformers as tf

    config = encoder("bert").config
    tf.BertForMaskedLM(config).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="fine-tuned to a task first"):
        load_model(str(tmp_path))


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["fisher-neurons-50% LIAR", "snip-heads-50% LR", "wanda-50% BR+GP[epochs=1]"])
def test_an_encoder_without_a_head_is_pruned_saved_and_scored_on_pairs(tmp_path, recipe):
    model, held_out = encoder("bert_body"), {"held": sentence_pairs(8, seed=1)}
    result = prune(model, Recipe.parse(recipe), sentence_pairs(8), held_out)
    scores = result.tables["scores"]
    assert set(scores.metric) == {"spearman"} and set(scores.examples) == {8}
    result.save(tmp_path / "model")
    again = load_model(tmp_path / "model", device="cpu")
    assert again.head == "embedding"
    pruned = scores[(scores.which == "pruned") & (scores.split == "held")]
    assert score(again.model, held_out["held"]).score == pytest.approx(pruned.score.item(), abs=1e-6)
