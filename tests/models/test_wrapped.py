"""Models that read pictures: found, replayed, pruned and saved like the decoder inside them."""

from dataclasses import replace

import pytest
import torch

from analysis.errors import UnsupportedModel, UsageError
from analysis.measure.perplexity import perplexity
from analysis.models.anatomy import anatomy
from analysis.models.load import load_model
from analysis.models.replay import random_windows, record, replay_error, verify
from analysis.models.wrapped import image_tokens, language_part, projector
from analysis.pruning.loop import prune
from analysis.windows import Pictures
from tests.helpers.pictured import IMAGE, INJECTS, KINDS, pictured
from tests.helpers.small import small_llama

SEEING = [pytest.param(name, marks=[] if name == "llava" else [pytest.mark.slow]) for name in KINDS]
SHORT = "epochs=1,batch=2,lr=1e-3"


@pytest.mark.parametrize("name", SEEING)
def test_text_alone_is_replayed_exactly_and_a_folder_gives_back_the_same_model(name, tmp_path):
    model, _ = pictured(name)
    model.save_pretrained(tmp_path)
    loaded = load_model(tmp_path, device="cpu")
    assert type(loaded.model) is type(model)
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), loaded.model.state_dict().values()))
    windows = random_windows(loaded.model, count=2)
    assert not bool((windows.ids == IMAGE).any())
    verify(loaded.model, anatomy(loaded.model), windows)


@pytest.mark.parametrize("name", SEEING)
def test_windows_with_pictures_are_replayed_exactly_or_refused(name):
    model, windows = pictured(name, padded=True)
    if name in INJECTS:
        with pytest.raises(UnsupportedModel, match="adds what it sees to the hidden states between blocks 0 and 1"):
            record(model, anatomy(model), windows)
        return
    parts = anatomy(model)
    assert replay_error(model, parts, windows, batch=2).relative_error.max() < 1e-5
    other = {
        key: value.flip(0) if value.is_floating_point() else value for key, value in windows.pictures.inputs.items()
    }
    seen = [model(**each.arguments(slice(None))).logits for each in (windows, _with(windows, other))]
    assert not torch.allclose(*seen)  # the picture matters


def _with(windows, inputs):
    return replace(windows, pictures=Pictures(inputs, windows.pictures.at))


def test_rows_of_pictures_go_with_their_windows():
    _, windows = pictured("qwen2_vl")
    values = windows.pictures.inputs["pixel_values"].view(3, 16, -1)
    taken = windows.take(torch.tensor([0, 2])).pictures
    assert torch.equal(taken.inputs["pixel_values"].view(2, 16, -1), values[[0, 2]])
    twice = windows.arguments(torch.tensor([1, 1]))["pixel_values"]
    assert torch.equal(twice.view(2, 16, -1), values[[1, 1]])
    assert windows.trimmed(12).pictures.at.shape == (3, 12)
    assert int(windows.text.sum()) == int(windows.mask.sum()) - 3 * 4 == int(windows.which("text").sum())
    assert int(windows.which("image").sum()) == 12 and windows.which("all") is windows.mask
    assert (
        windows.digest() != _with(windows, {**windows.pictures.inputs, "pixel_values": -values.flatten(0, 1)}).digest()
    )


def test_pictures_that_do_not_fit_are_refused():
    _, windows = pictured("llava")
    pixels = windows.pictures.inputs["pixel_values"]
    with pytest.raises(UsageError, match=r"pixel_values is \(2, 3, 8, 8\), which is not equally much for each of 3"):
        _with(windows, {"pixel_values": pixels[:2]})
    with pytest.raises(UsageError, match=r"the tokens of pictures are \(3, 4\) torch.bool; they must be \(N, T\)"):
        replace(windows, pictures=Pictures({"pixel_values": pixels}, windows.pictures.at[:, :4]))


def test_parts_of_a_wrapped_model():
    model, _ = pictured("llava")
    assert language_part(model) == [model.model.language_model, model.lm_head]
    assert projector(model) == [model.model.multi_modal_projector] and IMAGE in image_tokens(model)
    plain = small_llama(blocks=1)
    assert language_part(plain) == [plain] and projector(plain) == [] and image_tokens(plain) == set()


def test_perplexity_counts_text_alone_and_is_the_model_s_own_loss():
    model, windows = pictured("llava", padded=True)
    result = perplexity(model, windows, batch=2)
    counted = windows.text[:, 1:] & windows.text[:, :-1]
    logits = model(**windows.arguments(slice(None))).logits[:, :-1].double().log_softmax(-1)
    nats = -logits.gather(-1, windows.ids[:, 1:, None])[..., 0]
    assert result.tokens == int(counted.sum())
    assert result.nats_per_token == pytest.approx(float(nats[counted].mean()), rel=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(
    "recipe",
    [
        "wanda-50% LR",
        f"sparsegpt-50% BR+GP[{SHORT}]",
        "flap-neurons-25% LIAR+GP",
        "influence-blocks-1 refit+GP",
        f"wanda-50% retrain[train=projector,{SHORT}]",
    ],
)
def test_a_pruned_model_is_saved_and_read_back_as_its_own_class_with_its_tower_untouched(recipe, tmp_path):
    model, windows = pictured("llava", 4)
    pruned = prune(model, recipe, windows.subset(3), {"other": windows.take(torch.tensor([3]))})
    pruned.save(tmp_path / "out")
    again = load_model(tmp_path / "out", device="cpu").model
    assert type(again) is type(model)
    for name, value in model.state_dict().items():
        trained = "projector" in recipe and "multi_modal_projector" in name
        if ("vision_tower" in name or "multi_modal_projector" in name) and not trained:
            assert torch.equal(again.state_dict()[name], value), name
    own = pruned.shrink() if "blocks" in recipe or "neurons" in recipe else pruned.model
    arguments = windows.arguments(slice(None))
    assert torch.equal(again(**arguments).logits, own(**arguments).logits)


def test_errors_are_told_apart_by_the_tokens_of_text_and_of_pictures():
    model, windows = pictured("llava", 3)
    tables = prune(model, "wanda-50% LR", windows).tables
    at = tables["positions"].pivot_table(index=["block", "kind"], columns="at", values="error")
    blocks = tables["blocks"].set_index(["block", "kind"]).error
    shares = {at: float(windows.which(at).sum() / windows.mask.sum()) for at in ("image", "text")}
    for key, row in at.iterrows():
        assert blocks[key] == pytest.approx(sum(row[at] * share for at, share in shares.items()), rel=1e-6)
    assert (
        prune(small_llama(blocks=1), "magnitude-50% LR", random_windows(small_llama(blocks=1)))
        .tables["positions"]
        .empty
    )
