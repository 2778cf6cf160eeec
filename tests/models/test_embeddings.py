"""Encoders without a head: pooled states against loops, how the checkpoint pools, and what is refused."""

import json

import pytest
import torch

from analysis.errors import DataError, ModelError, UnsupportedModel
from analysis.models.embeddings import cosines, pair_loss, pooled, pooling
from analysis.models.format import format_of
from analysis.models.load import load_model
from analysis.models.quiet import quiet
from analysis.models.task_heads import inputs
from tests.helpers.encoders import encoder, sentence_pairs


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("embedder")
    with quiet():
        encoder("bert_body").save_pretrained(folder)
    return folder


def pools(folder, modules=("Transformer", "Pooling"), **modes):
    (folder / "1_Pooling").mkdir(exist_ok=True)
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"word_embedding_dimension": 32, **modes}))
    (folder / "modules.json").write_text(json.dumps([{"type": f"sentence_transformers.models.{m}"} for m in modules]))


def by_hand(hidden, mask, kind):
    rows = [states[real] for states, real in zip(hidden, mask)]
    return torch.stack(
        [row[0] if kind == "cls" else row.amax(0) if kind == "max" else sum(row) / len(row) for row in rows]
    )


@pytest.mark.parametrize("kind", ["mean", "cls", "max"])
@pytest.mark.parametrize("left", [False, True])
def test_states_are_pooled_over_real_tokens(kind, left):
    model = encoder("bert_body")
    model.config.sentence_pooling = kind
    hidden, mask = (
        torch.randn(4, 7, 5, generator=torch.Generator().manual_seed(0)),
        torch.arange(7) < torch.tensor([[7], [3], [1], [5]]),
    )
    mask = mask.flip(1) if left else mask
    assert torch.allclose(pooled(model, hidden, mask), by_hand(hidden, mask, kind), atol=1e-6)


def test_the_loss_is_the_squared_error_of_cosines():
    model, windows = encoder("bert_body"), sentence_pairs(3)
    batch = inputs(windows, slice(None), "cpu", labels=True)
    vectors = by_hand(model(windows.ids, windows.mask.long()).last_hidden_state, windows.mask, "mean")
    a, b = vectors[0::2], vectors[1::2]
    cosine = (a * b).sum(1) / a.norm(dim=1) / b.norm(dim=1)
    assert pair_loss(model, batch) == pytest.approx(float((cosine - windows.labelled.labels[::2]).square().mean()))


def test_pairs_are_found_in_any_order_and_whole():
    windows = sentence_pairs(4)
    vectors, order = (
        torch.randn(8, 3, generator=torch.Generator().manual_seed(0)),
        torch.tensor([5, 0, 7, 2, 4, 6, 1, 3]),
    )
    there, _ = cosines(vectors, windows.labelled.pairs, "here")
    assert torch.allclose(cosines(vectors[order], windows.labelled.pairs[order], "here")[0], there)
    for rows in ([0, 1, 2], [0, 1, 2, 4], [0, 0, 1, 1]):
        with pytest.raises(DataError, match="here: sentences stand in pairs, and one has no second"):
            cosines(vectors[rows], windows.labelled.pairs[rows], "here")
    with pytest.raises(DataError, match="has no second"):
        cosines(vectors, None, "here")


@pytest.mark.slow
def test_the_checkpoint_says_how_it_pools(saved):
    assert pooling(load_model(saved, device="cpu").model) == "mean"
    pools(saved, pooling_mode_cls_token=True, pooling_mode_mean_tokens=False)
    model = load_model(saved, device="cpu")
    assert (model.head, pooling(model.model)) == ("embedding", "cls")
    for modules, modes, message in (
        (("Transformer", "Pooling", "Dense"), {"pooling_mode_mean_tokens": True}, "names Dense behind the encoder"),
        ((), {"pooling_mode_lasttoken": True}, "pools hidden states by pooling_mode_lasttoken; possible are mean, cls"),
        ((), {"pooling_mode_mean_tokens": True, "pooling_mode_max_tokens": True}, "pools hidden states by"),
    ):
        pools(saved, modules, **modes)
        with pytest.raises(UnsupportedModel, match=message):
            load_model(saved, device="cpu")
    (saved / "modules.json").write_text("[1]")
    with pytest.raises(ModelError, match="1_Pooling/config.json in .* is broken"):
        load_model(saved, device="cpu")


def test_an_encoder_without_its_pooler_is_whole(tmp_path):
    model = encoder("bert_body")
    model.pooler = None
    with quiet():
        model.save_pretrained(tmp_path)
    loaded = load_model(tmp_path, device="cpu").model
    assert loaded.pooler is None and loaded.state_dict().keys() == model.state_dict().keys()


def test_how_states_are_pooled_goes_along_with_a_saved_model(tmp_path):
    source, fresh, bare = tmp_path / "source", tmp_path / "fresh", tmp_path / "bare"
    with quiet():
        encoder("bert_body").save_pretrained(source)
        pools(source, pooling_mode_max_tokens=True)
        model = load_model(source, device="cpu").model
        for folder in (fresh, bare):
            model.save_pretrained(folder)
    written = format_of(model, source)
    written.finish(fresh)
    assert written.provenance()["carried over"] == ["1_Pooling/config.json", "modules.json"]
    assert (fresh / "1_Pooling" / "config.json").read_text() == (source / "1_Pooling" / "config.json").read_text()
    assert [pooling(load_model(folder, device="cpu").model) for folder in (fresh, bare)] == ["max", "max"]
