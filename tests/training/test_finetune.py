"""Fine-tuning: each head learns a simple task, a stopped run ends as if it had not stopped, everything wrong is said
before the work.
"""

import json
import shutil
from dataclasses import asdict, replace

import pytest
import torch

from analysis import paths
from analysis.cli import main
from analysis.errors import ModelError, StoreError, UsageError
from analysis.lab.examples import EXAMPLES
from analysis.models.task_heads import head
from analysis.training import finetune as trainer
from analysis.training.finetune import FinetuneConfig
from analysis.windows import Labelled, Windows

LENGTH, VOCABULARY = 12, 40
TINY = FinetuneConfig(examples=40 * 8, batch=8, learning_rate=1e-2, warmup=16)


@pytest.fixture(scope="module")
def body(tmp_path_factory):
    """Folder of a tiny untrained encoder and its tokenizer."""
    from analysis.training.encoder import EncoderConfig, build, train_tokenizer

    folder = tmp_path_factory.mktemp("body")
    tokenizer = train_tokenizer(300, sample=60)
    build(EncoderConfig(context=32, hidden=16, intermediate=32, blocks=2, heads=2), tokenizer).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def windows(kind: str, number: int = 128, seed: int = 0) -> Windows:
    """Random ids, some windows shorter: class 1 where token 9 is in it, the score how often, the answer where token 9
    stands.
    """
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(10, VOCABULARY, (number, LENGTH), generator=generator)
    places = torch.randint(0, 6, (number,), generator=generator)
    there = torch.rand(number, generator=generator) < (1.1 if kind == "span" else 0.5)
    ids[there, places[there]] = 9
    mask = torch.arange(LENGTH) < torch.randint(6, LENGTH + 1, (number, 1), generator=generator)
    ids = ids.masked_fill(~mask, 0)
    if kind == "classification":
        labelled = Labelled(kind, "accuracy", there.long(), ("out", "in"))
    elif kind == "regression":
        labelled = Labelled(kind, "spearman", 3 * there.float() + 1)
    else:
        offsets = (
            torch.stack([torch.arange(LENGTH), torch.arange(LENGTH) + 1], 1).expand(number, LENGTH, 2).contiguous()
        )
        labelled = Labelled(kind, "f1", torch.stack([places, places], 1), (), (("a passage", "a"),) * number, offsets)
    return Windows(ids, mask, f"random {kind}", types=torch.zeros_like(ids), labelled=labelled)


def scores(model, held_out: Windows) -> dict:
    """Mean loss over the windows, and what the model is."""
    model.eval()
    with torch.no_grad():
        return {"loss": trainer.loss(model, held_out).item(), "head": head(model), "examples": len(held_out)}


def tune(body, kind, out, config=TINY, **more):
    return trainer.finetune(
        body, windows(kind), windows(kind, 64, 1), config=config, out=out, evaluate=scores, device="cpu", **more
    )


def _weights(folder):
    from safetensors.torch import load_file

    return load_file(folder / "model.safetensors")


@pytest.mark.slow
@pytest.mark.parametrize("kind, guess", [("classification", 0.693), ("regression", 2.25), ("span", 1.79)])
def test_every_head_learns(body, tmp_path, kind, guess):
    """Held-out loss far below that of guessing by frequency; the folder opens as what it is."""
    from analysis.models.load import load_model

    card = json.loads((tune(body, kind, tmp_path, replace(TINY, examples=150 * 8)) / "training.json").read_text())
    assert card["held_out"]["loss"] < 0.5 * guess and card["held_out"]["head"] == kind
    assert card["examples"] == 1200 and card["train"] == f"random {kind}"
    loaded = load_model(str(tmp_path))
    assert loaded.head == kind and loaded.tokenizer is not None
    if kind == "classification":
        assert loaded.model.config.id2label == {0: "out", 1: "in"}


@pytest.mark.slow
def test_the_head_of_another_task_is_replaced(body, tmp_path):
    """From a classifier to a score, and to another classification of as many classes: the body stays, the head is drawn
    anew.
    """
    tune(body, "classification", tmp_path / "first")
    trained, given = _weights(tmp_path / "first"), windows("classification")
    for kind, size in (("classification", 2), ("regression", 1)):
        model = trainer.open_encoder(tmp_path / "first", windows(kind), TINY)
        now = model.state_dict()
        assert now["classifier.weight"].shape[0] == size and all(
            torch.equal(now[name], trained[name]) for name in trained if name.startswith("bert.")
        )
        assert size == 1 or not torch.equal(now["classifier.weight"], trained["classifier.weight"])
    first, again = (trainer.open_encoder(tmp_path / "first", given, TINY).state_dict() for _ in range(2))
    assert all(torch.equal(first[name], again[name]) for name in first)


@pytest.mark.slow
def test_resume_is_bit_equal_with_dropout_too(body, tmp_path):
    config = replace(TINY, dropout=0.1)
    whole = _weights(tune(body, "classification", tmp_path / "whole", config))
    tune(body, "classification", tmp_path / "parts", config, stop=lambda step: step == 13)
    assert (tmp_path / "parts" / "checkpoint.safetensors").exists()
    resumed = _weights(tune(body, "classification", tmp_path / "parts", config))
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    plain = _weights(tune(body, "classification", tmp_path / "plain"))
    assert any(not torch.equal(whole[name], plain[name]) for name in whole)


def test_batches_read_every_window_once_an_epoch_and_cut_padding():
    given = windows("span", 96)
    batches = trainer.ExampleBatches(replace(TINY, batch=3), given)
    rows = lambda epoch: sorted(
        tuple(row.tolist()) for step in range(32 * epoch, 32 * (epoch + 1)) for row in _full(batches[step])
    )
    once = sorted(tuple(row.tolist()) for row in given.ids)
    assert rows(0) == rows(1) == once
    one = batches[5]
    assert one.ids.shape[1] == int(one.mask.sum(1).max()) == one.labelled.offsets.shape[1]
    again = trainer.ExampleBatches(replace(TINY, batch=3), given)[5]
    assert torch.equal(one.ids, again.ids) and not torch.equal(_full(one), _full(batches[6]))


def test_batches_keep_every_real_token_on_whatever_side_the_padding_stands():
    given = windows("classification", number=40)
    order = given.mask.int().argsort(dim=1, stable=True)
    left = replace(given, ids=given.ids.gather(1, order), mask=given.mask.gather(1, order))
    rows = [trainer.ExampleBatches(replace(TINY, batch=3), one)[5] for one in (given, left)]
    assert torch.equal(rows[0].ids[rows[0].mask], rows[1].ids[rows[1].mask])


def _full(batch: Windows):
    return torch.nn.functional.pad(batch.ids, (0, LENGTH - batch.length))


def test_wrong_calls_are_refused_before_the_work(body, tmp_path):
    with pytest.raises(UsageError, match="batch is 0.*dropout is -1"):
        tune(body, "span", tmp_path, replace(TINY, dropout=-1.0, batch=0))
    with pytest.raises(UsageError, match="examples 4 is less than one batch of 8"):
        tune(body, "span", tmp_path, replace(TINY, examples=4))
    given = windows("classification")
    with pytest.raises(UsageError, match="has no labels"):
        trainer.finetune(body, replace(given, labelled=None), given, config=TINY, out=tmp_path, evaluate=scores)
    with pytest.raises(UsageError, match="asks for classification of out, in, held-out random span for span"):
        trainer.finetune(body, given, windows("span"), config=TINY, out=tmp_path, evaluate=scores)
    with pytest.raises(ModelError, match="no encoder that can be fine-tuned"):
        trainer.finetune(tmp_path / "nothing", given, given, config=TINY, out=tmp_path, evaluate=scores)
    assert not (tmp_path / "training.json").exists()


@pytest.mark.slow
def test_command_line_trains_on_the_lab_and_on_a_table(body, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("ANALYSIS_PROGRESS", "0")
    more = ["--length", "32", "--examples", "64", "--scored", "20", "--batch", "8", "--device", "cpu"]
    assert (
        main(["lab", "finetune", str(body), "examples:truth", "--out", str(tmp_path / "truth"), *more, "--json"]) == 0
    )
    card = json.loads(capsys.readouterr().out)
    assert (
        card["held_out"]["examples"] == 20
        and card["held_out"]["metric"] == "accuracy"
        and card["train"] == "examples:truth"
    )
    assert (
        card["command"]
        == f"analysis lab finetune {body} 'examples:truth' --examples 64 --batch 8 --length 32 --scored 20"
    )
    table = tmp_path / "toy.tsv"
    table.write_text("sentence\tscore\n" + "".join(f"word {number} here\t{number / 2}\n" for number in range(20)))
    assert main(["lab", "finetune", str(body), f"examples:{table}", "--out", str(tmp_path / "toy"), *more]) == 2
    assert "no held-out half" in capsys.readouterr().err
    sides = [f"examples:{table}[:12]", "--held-out", f"examples:{table}[12:]"]
    assert main(["lab", "finetune", str(body), *sides, "--out", str(tmp_path / "toy"), *more]) == 0
    assert "spearman" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("name", EXAMPLES)
def test_shipped_encoders_have_the_score_of_their_cards(name):
    from analysis.measure.scores import score
    from analysis.models.load import load_model
    from analysis.text.examples import load_examples

    folder = paths.lab() / f"encoder-{name}"
    card = json.loads((folder / "training.json").read_text())
    loaded = load_model(f"lab/encoder-{name}", device="cpu")
    assert (
        loaded.head == EXAMPLES[name].head and sum(p.numel() for p in loaded.model.parameters()) == card["parameters"]
    )
    found = score(loaded, load_examples(f"examples:{name}", loaded, samples=200, length=160, split="held-out"))
    told = card["held_out"]
    assert (
        found.metric == told["metric"] == EXAMPLES[name].metric
        and 0.8 < told["score"] < 0.99
        and told["examples"] >= 1_000
    )
    assert abs(found.score - told["score"]) < 4 * (found.standard_error + told["standard_error"])
    assert card["config"] == asdict(FinetuneConfig(**card["config"]))


AUTO = {"AutoConfig": "evil.C", "AutoModelForSequenceClassification": "evil.M", "AutoTokenizer": ["evil.T", None]}


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json"])
def test_code_of_the_folder_is_never_run_nor_asked_for(body, tmp_path, file, monkeypatch):
    folder = tmp_path / "remote"
    shutil.copytree(body, folder)
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nC = M = T = object\n")
    settings = json.loads((folder / file).read_text())
    more = {"auto_map": AUTO, "model_type": "evil"} if file == "config.json" else {"auto_map": AUTO}
    (folder / file).write_text(json.dumps(settings | more | {"tokenizer_class": "EvilTokenizer"}))
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked whether to run code"))
    monkeypatch.setattr("sys.stdin", None)
    try:
        tune(folder, "span", tmp_path / "out", replace(TINY, examples=8))
    except ModelError as error:
        assert "fine-tuned" in str(error) or "tokenizer" in str(error)
    else:
        assert file == "tokenizer_config.json"  # the class the project knows reads it
    assert not (tmp_path / "ran").exists()


def test_a_decoder_is_refused_by_name(tmp_path):
    from tests.helpers.small import small_llama

    small_llama().save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="is a decoder .llama., and only encoders are fine-tuned"):
        trainer.open_encoder(tmp_path, windows("classification"), TINY)


def test_another_body_or_text_does_not_continue_a_checkpoint(body, tmp_path):
    given, out, config = windows("classification"), tmp_path / "out", replace(TINY, examples=16)
    turned = replace(given, labelled=replace(given.labelled, labels=1 - given.labelled.labels))
    other = tmp_path / "other"
    shutil.copytree(body, other)
    settings = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(settings | {"layer_norm_eps": 1e-6}))
    options = {"config": config, "evaluate": scores, "device": "cpu"}
    trainer.finetune(body, given, given, out=out, stop=lambda step: step == 1, **options)
    for changed, says in (
        ((other, given, given), "another body"),
        ((body, turned, given), "another text"),
        ((body, given, turned), "another held-out text"),
    ):
        with pytest.raises(StoreError, match=rf"interrupted training of other values \({says}\)"):
            trainer.finetune(*changed, out=out, **options)
    trainer.finetune(body, given, given, out=out, **options)
    with pytest.raises(StoreError, match=r"finished model of other values \(another text\)"):
        trainer.finetune(body, turned, given, out=out, **options)


def test_a_body_is_never_written_over(body, tmp_path):
    folder = tmp_path / "mine"
    shutil.copytree(body, folder)
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    with pytest.raises(StoreError, match="holds other files"):
        tune(folder, "span", folder)
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before


def test_windows_that_the_model_cannot_read_are_refused_before_the_work(body, tmp_path):
    given = windows("classification")
    wide = torch.nn.functional.pad
    long = replace(
        given, ids=wide(given.ids, (0, 40)), mask=wide(given.mask, (0, 40)), types=wide(given.types, (0, 40))
    )
    unknown = replace(given, ids=given.ids + 10**6)
    for train, held_out, says in (
        (long, given, r"examples of 52 tokens.*longer than the 32 tokens.*--length 32"),
        (given, long, "examples of 52 tokens"),
        (unknown, given, "the model embeds 0 to"),
        (given, given.take(torch.arange(1)), "one example"),
        (None, given, "has no labels"),
    ):
        with pytest.raises(UsageError, match=says):
            trainer.finetune(body, train, held_out, config=TINY, out=tmp_path / "out", evaluate=scores, device="cpu")
    for setting, says in (
        ({"scored": 1}, "scored is 1"),
        ({"dropout": 5.0}, "dropout is 5.0"),
        ({"dropout": 1}, "dropout"),
    ):
        with pytest.raises(UsageError, match=says):
            tune(body, "span", tmp_path / "out", replace(TINY, **setting))
    for wrong in (None, 3, "org/name", tmp_path / "none"):
        with pytest.raises((ModelError, UsageError)):
            tune(wrong, "span", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_head_whose_last_module_is_no_matrix_starts_from_the_mean_score(tmp_path):
    from transformers import DistilBertConfig, DistilBertModel

    shape = DistilBertConfig(vocab_size=64, dim=8, hidden_dim=16, n_layers=1, n_heads=2, max_position_embeddings=16)
    DistilBertModel(shape).save_pretrained(tmp_path)
    given = windows("regression")
    model = trainer.open_encoder(tmp_path, given, TINY)
    assert model.classifier.bias.item() == pytest.approx(given.labelled.labels.mean().item())


def test_the_command_refuses_a_foreign_folder_before_it_reads_examples(body, tmp_path, capsys, monkeypatch):
    from analysis.text import examples

    monkeypatch.setattr(examples, "load_examples", lambda *args, **more: pytest.fail("examples are read"))
    (tmp_path / "notes.txt").write_text("mine")
    assert main(["lab", "finetune", str(body), "examples:truth", "--out", str(tmp_path)]) == 6
    assert main(["lab", "finetune", str(body), "examples:truth", "--out", str(tmp_path / "x"), "--scored", "1"]) == 2
    said = capsys.readouterr().err
    assert "holds other files (notes.txt)" in said and "scored is 1" in said
