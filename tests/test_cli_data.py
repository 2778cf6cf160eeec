"""`analysis data describe` and `analysis data generate`: right calls, and one message for every wrong one."""

import json
import math
import re
from functools import partial

import pytest

from analysis import storage
from analysis.cli import main
from analysis.commands import data


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A folder with a tiny model that writes (`model`) and two texts it can read."""
    from tests.helpers.writers import WORDS, tiny_writer

    folder = tmp_path_factory.mktemp("world")
    loaded = tiny_writer()
    loaded.model.save_pretrained(folder / "model")
    loaded.tokenizer.save_pretrained(folder / "model")
    (folder / "one.txt").write_text(
        "\n\n".join(" ".join(WORDS[(n + 3 * k * k) % len(WORDS)] for k in range(40)) for n in range(12))
    )
    (folder / "two.txt").write_text(
        "\n\n".join(" ".join(WORDS[(n * k + k) % len(WORDS)] for k in range(40)) for n in range(12))
        + "\n\nno such words known here"
    )
    return folder


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("ANALYSIS_HOME", str(tmp_path / "home"))


def call(capsys, *argv) -> tuple[int, str, str]:
    code = main(["data", *map(str, argv)])
    return code, *capsys.readouterr()


def described(capsys, world, source, *more) -> dict:
    code, out, err = call(
        capsys, "describe", source, "--model", world / "model", "--samples", 8, "--length", 16, "--json", *more
    )
    assert code == 0, err
    return json.loads(out)


def test_a_text_is_described_in_the_models_terms(world, capsys):
    from analysis.measure.perplexity import perplexity
    from analysis.models.load import load_model
    from analysis.text.load import load_tokens

    told = described(capsys, world, f"{world}/two.txt")
    dense = load_model(str(world / "model"), device="cpu")
    windows = load_tokens(f"{world}/two.txt", dense, samples=8, length=16)
    assert (told["windows"], told["tokens"], told["documents"], told["source"]) == (8, 128, 13, "two.txt")
    assert told["nats_per_token"] == pytest.approx(perplexity(dense.model, windows).nats_per_token)
    assert told["unknown_share"] == (windows.ids == 0).float().mean().item() and told["byte_share"] is None


@pytest.mark.slow
def test_a_text_is_compared_with_another_one(world, capsys):
    from analysis.measure.second_moments import second_moment
    from analysis.models.load import load_model
    from analysis.streams.moments import distance
    from analysis.text.load import load_tokens
    from analysis.windows import repeated

    source, against = f"{world}/two.txt", f"{world}/one.txt"
    told = described(capsys, world, source, "--against", against)["against"]
    dense = load_model(str(world / "model"), device="cpu")
    one, other = (load_tokens(text, dense, samples=8, length=16) for text in (source, against))
    assert told["distance"] == pytest.approx(
        [distance(a, b) for a, b in zip(second_moment(dense, one), second_moment(dense, other))]
    )
    assert (
        len(told["distance"]) == 2
        and min(told["distance"]) > 0
        and told["repeated_windows"] == len(repeated(one, other)[0])
    )
    same = described(capsys, world, source, "--against", source)["against"]
    assert same["repeated_share"] == 1 and same["distance"] == [0, 0]


@pytest.mark.slow
def test_the_description_reads_well(world, capsys):
    argv = (
        "describe",
        f"{world}/two.txt:0.5+self:0.5",
        "--model",
        world / "model",
        "--samples",
        8,
        "--length",
        16,
        "--against",
        f"{world}/one.txt",
    )
    code, out, _ = call(capsys, *argv)
    assert code == 0 and out.startswith("two.txt:0.5+self:0.5\n") and "byte-fallback" not in out
    for words in (
        "documents read",
        "unknown tokens",
        "nats per token",
        "against one.txt",
        "distance of second moments",
    ):
        assert words in out


def test_bytes_a_tokenizer_falls_back_to_are_told():
    assert data.BYTE.fullmatch("<0xE2>") and not data.BYTE.fullmatch("<unk>")
    document = {
        "source": "s",
        "windows": 1,
        "tokens": 2,
        "documents": 1,
        "unknown_share": 0.0,
        "byte_share": 0.25,
        "nats_per_token": 1.0,
        "perplexity": math.e,
        "model": {"name": "m"},
    }
    assert re.search(r"byte-fallback tokens +25.00%", data._describe_text(document))


@pytest.mark.slow
def test_texts_are_written_with_their_provenance(world, capsys, tmp_path):
    out = tmp_path / "new" / "own.jsonl"
    argv = (
        "generate",
        world / "model",
        "--texts",
        11,
        "--out",
        out,
        "--settings",
        "batch=4,temperature=0.9",
        "--seed",
        5,
    )
    code, told, err = call(capsys, *argv)
    assert code == 0, err
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert len(lines) == 11 and all(line["text"] and line["tokens"] > 5 for line in lines)
    provenance = json.loads((tmp_path / "new" / "own.provenance.json").read_text())
    assert (provenance["texts"], provenance["seed"], provenance["source"]) == (11, 5, "self:temperature=0.9,batch=4")
    assert (
        provenance["tokens"] == sum(line["tokens"] for line in lines) and provenance["settings"]["temperature"] == 0.9
    )
    assert "11 texts of" in told and str(tmp_path) not in json.dumps(provenance)
    code, again, _ = call(capsys, *argv, "--json")  # the same command once more: nothing to do
    assert code == 0 and json.loads(again)["sha256"] == provenance["sha256"]
    fewer = tmp_path / "fewer.jsonl"
    assert call(capsys, *argv[:3], 6, "--out", fewer, *argv[6:])[0] == 0
    assert out.read_bytes().startswith(fewer.read_bytes())


@pytest.mark.slow
def test_what_was_written_can_be_read_back_as_a_source(world, capsys, tmp_path):
    out = tmp_path / "own.jsonl"
    assert call(capsys, "generate", world / "model", "--texts", 20, "--out", out)[0] == 0
    own, read = (described(capsys, world, source) for source in ("self", str(out)))
    assert read["documents"] == 20 and own["tokens"] == read["tokens"]


@pytest.mark.slow
def test_a_disk_that_was_full_between_the_two_files_leaves_nothing_in_the_way(world, capsys, tmp_path, monkeypatch):
    out, write = tmp_path / "own.jsonl", storage.write
    argv = ["data", "generate", str(world / "model"), "--texts", "2", "--settings", "tokens=8", "--out", str(out)]

    def full(lost, path, content):
        if path == lost:
            raise OSError(28, "No space left on device", str(path))
        write(path, content)

    for lost in (out, out.with_suffix(".provenance.json")):
        with monkeypatch.context() as patch:
            patch.setattr(storage, "write", partial(full, lost))
            assert main(argv) == 6 and not out.exists(), capsys.readouterr().err
    assert main(argv) == 0 and out.is_file()


def test_another_file_is_never_written_over(world, capsys, tmp_path):
    out = tmp_path / "own.jsonl"
    out.write_text("precious\n")
    code, _, err = call(capsys, "generate", world / "model", "--texts", 2, "--out", out)
    assert code == 6 and "is there already and holds something else" in err and out.read_text() == "precious\n"


WRONG = [
    (("describe", "lab:storys", "--model", "{world}/model"), 2, "unknown register 'storys'"),
    (("describe", "{world}/one.txt", "--model", "{world}/nothing"), 3, "nothing"),
    (("describe", "{world}/one.txt", "--model", "{world}/model", "--against", "{world}/no.txt"), 4, "no such file"),
    (("describe", "{world}/one.txt", "--model", "{world}/model", "--against", ""), 2, "source: nothing given"),
    (
        ("describe", "{world}/one.txt", "--model", "{world}/model", "--samples", "0"),
        2,
        "--samples must be a whole number of at least 1",
    ),
    (("describe", "{world}/one.txt", "--model", "{world}/model", "--length", "49"), 2, "context of 48"),
    (
        ("describe", "{world}/one.txt", "--model", "{world}/model", "--length", "16", "--samples", "9999"),
        4,
        "one.txt: .* 9999 asked",
    ),
    (("describe", "lab:stories", "--model", "{world}/model", "--length", "16"), 4, "unknown to the tokenizer"),
    (("describe", "lab:stories:0.5+lab:recipes:0.6", "--model", "{world}/model"), 2, "make 1.1; they must make 1"),
    (("describe",), 2, "SOURCE"),
    (
        ("generate", "{world}/model", "--texts", "0", "--out", "{tmp}/own.jsonl"),
        2,
        "--texts must be a whole number of at least 1",
    ),
    (("generate", "{world}/model", "--texts", "2", "--out", "{tmp}/own.txt"), 2, "must be a file that ends in .jsonl"),
    (("generate", "{world}/model", "--texts", "2", "--out", "{world}/one.txt/own.jsonl"), 2, "is a file"),
    (
        ("generate", "{world}/model", "--texts", "2", "--out", "{tmp}/own.jsonl", "--settings", "heat=2"),
        2,
        "unknown option 'heat'",
    ),
    (
        ("generate", "{world}/model", "--texts", "2", "--out", "{tmp}/own.jsonl", "--settings", "start={tmp}/no.txt"),
        4,
        "no such file",
    ),
    (
        ("generate", "{world}/model", "--texts", "2", "--out", "{tmp}/own.jsonl", "--settings", "tokens=99"),
        2,
        "99 tokens are more than the model's context of 48",
    ),
    (
        ("generate", "{world}/model", "--texts", "2", "--out", "{tmp}/own.jsonl", "--seed", "-1"),
        2,
        "--seed must be a whole number of at least 0",
    ),
    (
        ("generate", "{world}/nothing", "--texts", "0", "--out", "{tmp}/own.txt", "--settings", "heat=2"),
        2,
        "4 things to mend first",
    ),
]


@pytest.mark.parametrize(("argv", "code", "says"), WRONG)
def test_a_wrong_call_gives_one_message_and_no_traceback(argv, code, says, world, tmp_path, capsys):
    got, out, err = call(capsys, *(each.format(world=world, tmp=tmp_path) for each in argv))
    errors = [line for line in err.splitlines() if line.startswith("error: ")]
    assert got == code and len(errors) == 1 and out == "" and re.search(says, err), (got, err)
    assert "Traceback" not in err and not list(tmp_path.glob("own*"))
