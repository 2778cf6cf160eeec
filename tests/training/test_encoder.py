"""The encoder's trainer: whole words are masked, pairs have two types, a tiny run learns, a stopped run ends as if it
had not stopped.
"""

import argparse
import json
from dataclasses import asdict, replace
from itertools import islice

import pytest

from analysis import paths
from analysis.errors import StoreError, UsageError
from analysis.lab.documents import REGISTERS, documents
from analysis.training import encoder as trainer
from analysis.training.encoder import EncoderConfig

torch = pytest.importorskip("torch")

TINY = EncoderConfig(
    tokens=24 * 4 * 32,
    window=32,
    batch=4,
    context=64,
    vocabulary=300,
    hidden=16,
    intermediate=32,
    blocks=2,
    heads=2,
    learning_rate=1e-2,
    warmup=256,
)


@pytest.fixture(autouse=True, scope="module")
def tokenizer():
    """Short tokenizer samples, shards and evaluations: these tests are about the machinery."""
    patch = pytest.MonkeyPatch()
    whole, made = trainer.evaluate, trainer.train_tokenizer(TINY.vocabulary, sample=60)
    patch.setattr(trainer, "train_tokenizer", lambda vocabulary, seed=0: made)
    patch.setattr(trainer, "evaluate", lambda model, tokenizer, masked: whole(model, tokenizer, masked, rows=2))
    patch.setattr(trainer.StreamBatches, "per_shard", 8)
    yield made
    patch.undo()


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return trainer.train(TINY, tmp_path_factory.mktemp("whole"), device="cpu")


@pytest.fixture(scope="module")
def shipped():
    from transformers import AutoModelForMaskedLM, AutoTokenizer

    folder = paths.lab() / "encoder"
    return (
        AutoModelForMaskedLM.from_pretrained(folder).eval(),
        AutoTokenizer.from_pretrained(folder),
        json.loads((folder / "training.json").read_text()),
    )


def _weights(folder):
    from safetensors.torch import load_file

    return load_file(folder / "model.safetensors")


def test_tokenizer_writes_pairs_and_offsets_without_spaces(tokenizer):
    first, second = "Who has 40 geese?", "Ana\nhas them."
    made = tokenizer(first, second, return_offsets_mapping=True)
    tokens = tokenizer.convert_ids_to_tokens(made["input_ids"])
    cut = tokens.index("[SEP]")
    assert tokens[0] == "[CLS]" and tokens[-1] == "[SEP]" and tokens.count("[SEP]") == 2
    assert made["token_type_ids"] == [0] * (cut + 1) + [1] * (len(tokens) - cut - 1)
    pieces = [second[start:stop] for start, stop in made["offset_mapping"][cut + 1 : -1]]
    assert "".join(pieces) == "Ana\nhasthem." and not any(" " in piece for piece in pieces)
    assert tokenizer(first)["token_type_ids"] == [0] * (cut + 1)
    padded = tokenizer([first, first + first], padding=True)["input_ids"]
    assert padded[0][-1] == tokenizer.pad_token_id == 0 and tokenizer.mask_token == "[MASK]"


def test_a_word_is_the_same_token_everywhere_and_text_comes_back(tokenizer):
    ids = tokenizer("goose goose", add_special_tokens=False)["input_ids"]
    assert ids[: len(ids) // 2] == ids[len(ids) // 2 :]
    for document in islice(documents("mixed", split="held-out", seed=9), 20):
        ids = tokenizer(document.text, add_special_tokens=False)["input_ids"]
        assert tokenizer.decode(ids) == document.text and max(ids) < len(tokenizer) == TINY.vocabulary + 4


def test_windows_are_single_texts_and_pairs_by_turns(tokenizer):
    texts = (document.text for document in documents("stories"))
    ids, types = trainer.windows(texts, tokenizer, 6, 40, torch.Generator().manual_seed(0))
    assert ids.shape == types.shape == (6, 40)
    assert (ids[:, 0] == tokenizer.cls_token_id).all() and (ids[:, -1] == tokenizer.sep_token_id).all()
    assert types[::2].sum() == 0
    for row in (1, 3, 5):
        start = int(types[row].argmax())
        assert types[row, start:].all() and not types[row, :start].any()
        assert ids[row, start - 1] == tokenizer.sep_token_id and 5 <= start <= 36


def test_whole_words_are_masked_and_special_tokens_never(tokenizer):
    texts = (document.text for document in documents("mixed"))
    generator = torch.Generator().manual_seed(0)
    ids, _ = trainer.windows(texts, tokenizer, 200, 64, generator)
    masked, labels = trainer.mask(ids, tokenizer, 0.2, generator)
    asked = labels != -100
    special = torch.isin(ids, torch.tensor(tokenizer.all_special_ids))
    assert (
        not (asked & special).any()
        and torch.equal(labels[asked], ids[asked])
        and torch.equal(masked[~asked], ids[~asked])
    )
    assert 0.15 < asked.double().mean() < 0.25
    share = lambda what: (what & asked).sum().item() / asked.sum().item()
    assert share(masked == tokenizer.mask_token_id) == pytest.approx(0.8, abs=0.05)
    assert share(masked == ids) == pytest.approx(0.1, abs=0.04)
    starts, _ = trainer.token_kinds(tokenizer)
    inside = ~starts[ids[:, 1:]] & ~special[:, :-1]
    assert torch.equal(
        asked[:, 1:][inside], asked[:, :-1][inside]
    )  # a token inside a word is asked for where the one before it is


def test_first_heads_begin_with_their_neighbours(tokenizer):
    """Before any training, each head of the first block looks mostly one or two tokens back or ahead."""
    model = trainer.build(replace(TINY, hidden=96, heads=4, context=64), tokenizer)
    model.set_attn_implementation("eager")
    ids = torch.randint(4, len(tokenizer), (4, 64), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        weights = model.bert(input_ids=ids, output_attentions=True).attentions[0].mean(0)  # (heads, to, from)
    middle = torch.arange(8, 56)
    for head, distance in enumerate((-1, 1, -2, 2)):
        near = {other: weights[head, middle, middle + other].mean().item() for other in range(-6, 7)}
        assert max(near, key=near.get) == distance and near[distance] > 0.1


def test_training_lowers_the_loss(finished):
    card = json.loads((finished / "training.json").read_text())
    losses = [loss for _, loss in card["loss_curve"]["points"]]
    assert losses[-1] < losses[0] - 0.5
    assert card["tokens"] == TINY.tokens and set(card["held_out"]) == set(REGISTERS)
    assert all(0 <= row["accuracy"] <= 1 and row["tokens"] > 0 for row in card["held_out"].values())
    assert not (finished / "checkpoint.safetensors").exists()


@pytest.mark.slow
@pytest.mark.parametrize("stop_at", [5, 21])
def test_resume_is_bit_equal(finished, tmp_path, stop_at):
    """Promise 5, for training: once in the stable phase, once in the decay with its longer windows."""
    trainer.train(TINY, tmp_path, device="cpu", stop=lambda step: step == stop_at)
    assert (tmp_path / "checkpoint.safetensors").exists() and not (tmp_path / "model.safetensors").exists()
    trainer.train(TINY, tmp_path, device="cpu")
    whole, resumed = _weights(finished), _weights(tmp_path)
    assert whole.keys() == resumed.keys() and all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_checkpoint_of_another_run_is_refused(tmp_path):
    trainer.train(TINY, tmp_path, device="cpu", stop=lambda step: step == 1)
    with pytest.raises(StoreError, match="masked"):
        trainer.train(replace(TINY, masked=0.3), tmp_path, device="cpu")


def test_everything_wrong_is_said_at_once(tmp_path):
    with pytest.raises(UsageError, match="heads 3.*vocabulary 100.*window 128"):
        trainer.train(replace(TINY, heads=3, vocabulary=100, window=128, tokens=10_000), tmp_path)
    with pytest.raises(UsageError, match="masked is 1.5, must be a share"):
        trainer.train(replace(TINY, masked=1.5), tmp_path)


def test_command_line_options_are_the_configuration():
    parser = argparse.ArgumentParser()
    trainer.add_arguments(parser)
    args = parser.parse_args(["--tokens", "5000", "--masked", "0.3"])
    assert (args.tokens, args.masked, args.blocks) == (5000, 0.3, EncoderConfig().blocks)
    assert trainer.command(replace(EncoderConfig(), masked=0.3)) == "analysis lab encoder --masked 0.3"


def test_shipped_encoder_is_what_its_card_says(shipped):
    model, tokenizer, card = shipped
    assert sum(p.numel() for p in model.parameters()) == card["parameters"] < 1_000_000
    assert len(tokenizer) == card["vocabulary"] == model.config.vocab_size and model.dtype == torch.float32
    assert card["config"] == asdict(EncoderConfig(**card["config"])) and card["command"] == trainer.command(
        EncoderConfig(**card["config"])
    )


def test_shipped_encoder_fills_in_a_masked_word(shipped):
    """A word of a sentence as the lab writes it, masked: it is among the first three guesses."""
    model, tokenizer, _ = shipped
    asked = [
        ("Ana was born in the year 420.", "born"),
        ("She is terrified of deep water.", "of"),
        ("He was at the market square.", "square"),
        ("It rained all day at the old bridge.", "bridge"),
    ]
    right = 0
    for sentence, word in asked:
        ids = tokenizer(sentence, return_tensors="pt")["input_ids"]
        tokens = tokenizer(word, add_special_tokens=False)["input_ids"]
        place = next(start for start in range(ids.shape[1]) if ids[0, start : start + len(tokens)].tolist() == tokens)
        ids[0, place : place + len(tokens)] = tokenizer.mask_token_id
        with torch.no_grad():
            guessed = model(input_ids=ids).logits[0, place].topk(3).indices.tolist()
        right += tokens[0] in guessed
    assert right >= 3
