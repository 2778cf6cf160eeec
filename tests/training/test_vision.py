"""The training of the lab's model that reads pictures: a stopped run ends the same, tasks are scored right, the shipped
model is as its card says.
"""

import json
from dataclasses import replace

import pytest
import torch

from analysis import paths
from analysis.errors import UsageError
from analysis.lab.pictures import TASKS
from analysis.measure.pictured import choice_likelihoods, drawn
from analysis.measure.zero_shot import answers, zero_shot
from analysis.models.load import load_model
from analysis.text.load import load_tokens
from analysis.text.pictures import IMAGE, pixels
from analysis.text.sources import parse_source, source_fingerprint
from analysis.text.tasks import task_fingerprint
from analysis.training import vision
from analysis.training.vision import VisionConfig
from analysis.windows import disjoint
from tests.helpers.small import small_llama

TINY = VisionConfig(
    pictures=48, aligned=16, batch=4, patch=16, length=40, hidden=16, intermediate=16, blocks=1, heads=2, warmup=4
)


@pytest.fixture(scope="module")
def decoder(tmp_path_factory):
    """A tiny decoder with the lab's tokenizer."""
    folder = tmp_path_factory.mktemp("decoder")
    tokenizer = load_model("lab/tiny", device="cpu").tokenizer
    model = small_llama(blocks=1)
    model.resize_token_embeddings(len(tokenizer))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def train(out, decoder, config=TINY, **options):
    return vision.train(config, out, decoder=decoder, evaluate=lambda *_: {"colour": {}}, device="cpu", **options)


@pytest.fixture(scope="module")
def finished(decoder, tmp_path_factory):
    return train(tmp_path_factory.mktemp("vision"), decoder)


@pytest.fixture(scope="module")
def loaded(finished):
    return load_model(finished, device="cpu")


@pytest.mark.slow
def test_a_stopped_run_ends_as_if_it_had_not_stopped(finished, decoder, tmp_path):
    train(tmp_path / "again", decoder, stop=lambda step: step == 7)
    train(tmp_path / "again", decoder)
    weights = [(folder / "model.safetensors").read_bytes() for folder in (finished, tmp_path / "again")]
    assert weights[0] == weights[1]
    card = json.loads((finished / "training.json").read_text())
    assert card["pictures"] == 48 and card["decoder"] == decoder
    assert card["asked"]["pictures"] == 48 and card["asked"]["text"] == "pictures:shapes@2"


@pytest.mark.slow
def test_the_language_part_begins_as_the_decoder(decoder):
    made = vision._training(TINY, decoder, lambda *_: {})
    begun, whole = load_model(decoder, device="cpu").model, made.model.model
    for name, value in whole.language_model.state_dict().items():
        before = begun.state_dict()[f"model.{name}"]
        assert torch.equal(value[: len(before)], before)
    batch = made.batches[0]
    assert batch.words.shape == (4, 9, 2) and made.batches[4].words is None
    made.loss(made.model, batch).backward()
    assert all(value.grad is None for value in whole.language_model.parameters())  # aligned: tower and projector alone
    assert all(value.grad is not None for value in whole.multi_modal_projector.parameters())


def test_impossible_settings_are_refused(tmp_path):
    for change, said in (
        ({"patch": 7}, "pictures of 48 pixels cannot be cut into patches of 7"),
        ({"heads": 3}, "hidden 16 is not a multiple of heads 3"),
        ({"length": 20}, "length 20 leaves fewer than 24 tokens beside a picture's 9"),
        ({"pictures": 3}, "pictures 3 is less than one batch of 4"),
        ({"length": 10**6}, "lab/tiny reads at most"),
    ):
        with pytest.raises(UsageError, match=said):
            train(tmp_path / "out", "lab/tiny", replace(TINY, **change))


@pytest.mark.slow
def test_windows_of_pictures(loaded):
    windows = load_tokens("pictures:shapes", loaded, samples=6, length=40, seed=3)
    image = loaded.model.config.image_token_id
    assert windows.ids.shape == (6, 40) and torch.equal(windows.pictures.at, windows.ids == image)
    assert windows.pictures.inputs["pixel_values"].shape == (6, 3, 48, 48) and int(windows.pictures.at.sum()) == 6 * 9
    fewer = load_tokens("pictures:shapes", loaded, samples=2, length=40, seed=3)
    assert windows.subset(2).digest() == fewer.digest()
    held_out = load_tokens("pictures:shapes", loaded, samples=6, length=40, seed=3, split="held-out")
    assert held_out.label == "pictures:shapes/held-out"
    (kept,) = disjoint(windows, {"other": held_out}).values()
    assert len(kept) == 6  # equal words about other pictures are no overlap
    part = load_tokens("pictures:shapes[2:4]", loaded, length=40, seed=3)
    assert torch.equal(part.ids, windows.ids[2:4])
    with pytest.raises(Exception, match="overlap"):
        disjoint(windows, {"same": windows})


def test_what_cannot_read_pictures_is_told_so():
    with pytest.raises(UsageError, match="pictures:shapes: is read by a model of Llava's kind .* 'lab/tiny' is none"):
        load_tokens("pictures:shapes", load_model("lab/tiny", device="cpu"), samples=2, length=64)
    assert source_fingerprint("pictures:shapes[:9]") == "pictures:shapes@2[:9]"
    assert parse_source("pictures:shapes/held-out").label == "pictures:shapes/held-out"
    assert task_fingerprint("pictures:colour") == "pictures:colour@2"
    for source, said in (
        ("pictures:dogs", "unknown set of pictures 'dogs'"),
        ("pictures:shapes:0.5+lab:stories:0.5", "pictures:shapes has pictures and is no part of a mixture"),
        ("pictures:shapes[:10%]", "no end to take per cent of"),
    ):
        with pytest.raises(UsageError, match=said):
            parse_source(source)


@pytest.mark.slow
def test_choices_are_scored_as_in_whole_rows(loaded):
    asked = [one for task in ("place", "shape") for one in drawn(task, 3, 0)]
    found = choice_likelihoods(loaded.model, loaded.tokenizer, asked, batch=2)
    image = loaded.tokenizer.convert_tokens_to_ids(IMAGE)
    from analysis.lab.pictures import picture

    for (scene, question), row in zip(asked, found, strict=True):
        encode = lambda text: loaded.tokenizer.encode(text, add_special_tokens=False)
        begun = [loaded.tokenizer.bos_token_id, *[image] * 9, *encode(question.query)]
        for choice, value in zip(question.choices, row, strict=True):
            ids = torch.tensor([begun + encode(f" {choice}")])
            logits = loaded.model(input_ids=ids, pixel_values=pixels([picture(scene)])).logits.double().log_softmax(-1)
            own = logits[0, len(begun) - 1 : -1].gather(1, ids[0, len(begun) :, None]).sum()
            assert value == pytest.approx(float(own), rel=1e-4)


@pytest.mark.slow
def test_tasks_about_pictures_are_answered_beside_others(loaded):
    tasks = ["pictures:count", "lab:facts-easy", "pictures:presence"]
    scores = zero_shot(loaded.model, loaded.tokenizer, tasks, documents=4)
    assert [score.task for score in scores] == tasks and scores[0].choices == 4 and scores[2].chance == 0.5
    rows = answers(loaded.model, loaded.tokenizer, ["pictures:count"], documents=4)["pictures:count"]
    assert scores[0].accuracy == sum(row.right for row in rows) / 4
    with pytest.raises(UsageError, match="tasks about pictures: is read by a model of Llava's kind"):
        zero_shot(small_llama(blocks=1), loaded.tokenizer, ["pictures:count"], documents=2)


@pytest.mark.slow
def test_the_shipped_model_sees_what_its_card_says():
    card = json.loads((paths.lab() / "vision" / "training.json").read_text())
    model = load_model("lab/vision", device="cpu")
    assert set(card["held_out"]) == set(TASKS) and card["command"] == "analysis lab vision"
    for score in zero_shot(model.model, model.tokenizer, ["pictures:colour", "pictures:place"], documents=60):
        said = card["held_out"][score.task.removeprefix("pictures:")]
        spread = 4 * (score.standard_error + said["standard_error"])
        assert abs(score.accuracy - said["accuracy"]) <= spread and score.accuracy > score.chance + 0.4
