"""`analysis evaluate`: protocols, special tokens, and what is refused."""

import json
import re
import shutil

import pytest

from analysis.cli import main
from analysis.measure.perplexity import Perplexity
from analysis.measure.rolling import rolling
from tests.helpers.writers import WORDS, tiny_writer

PAGES = [" ".join(WORDS[(start + step * step) % len(WORDS)] for step in range(30)) for start in range(6)]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    loaded = tiny_writer()
    loaded.model.save_pretrained(folder / "model")
    loaded.tokenizer.save_pretrained(folder / "model")
    (folder / "pages.jsonl").write_text("\n".join(json.dumps({"text": page}) for page in PAGES))
    return folder


def evaluate(world, capsys, *more):
    code = main(["evaluate", str(world / "model"), "--text", str(world / "pages.jsonl"), *more])
    out, err = capsys.readouterr()
    return code, out, err


@pytest.mark.slow
def test_rolling_is_told_for_people_and_machines(world, capsys):
    code, out, _ = evaluate(world, capsys, "--protocol", "rolling", "--length", "16", "--json")
    (told,) = json.loads(out)["rolling"]
    loaded = tiny_writer()
    expected = rolling(loaded, loaded.tokenizer, PAGES, length=16)
    assert code == 0 and told["word perplexity"] == pytest.approx(expected.word_perplexity) and told["documents"] == 6
    assert told["provenance"]["bos"] == "auto" and told["provenance"]["separator"] == "rows"
    code, out, _ = evaluate(world, capsys, "--protocol", "rolling", "--length", "16", "--samples", "2")
    assert code == 0 and "byte perplexity" in out.splitlines()[0] and out.splitlines()[1].startswith("pages.jsonl")


@pytest.mark.parametrize(
    ("more", "code", "message"),
    [
        (("--seed", str(10**30)), 2, "--seed must be a whole number from 0 to 2"),
        (("--protocol", "rolling", "--mode", "crop"), 2, "--mode crop: says how windows are cut"),
        (("--protocol", "rolling", "--text", "self", "--length", "16"), 2, "self: windows rather than documents"),
        (("--protocol", "rolling", "--text", "lab:stories", "--length", "16"), 2, "lab text has no end"),
        (("--bos", "every", "--length", "16"), 2, "neither tokenizer nor config names a beginning-of-text token"),
        (("--length", str(2**40), "--mode", "documents"), 2, "longer than its context of 48"),
    ],
)
def test_what_cannot_be_done_is_told(more, code, message, world, capsys):
    got, out, err = evaluate(world, capsys, *more)
    assert (got, out) == (code, "") and re.search(message, err) and "Traceback" not in err


def test_a_perplexity_worse_than_guessing_is_told(world, capsys, monkeypatch, tmp_path):
    monkeypatch.setattr("analysis.measure.perplexity.perplexity", lambda *_: Perplexity(9.0, 8103.0, 60, 4, 16))
    code, _, err = evaluate(world, capsys, "--length", "16")
    assert code == 0 and "is worse than guessing" in err and "--bos" not in err, "its tokenizer has no such token"
    shutil.copytree(world, tmp_path / "world")
    file = tmp_path / "world" / "model" / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"bos_token": WORDS[0]}))
    assert "needs --bos every" in evaluate(tmp_path / "world", capsys, "--length", "16")[2]
