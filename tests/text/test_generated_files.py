"""Generated text on disk: reused, extended, resumed after a kill, never served altered, written once by two; and
windows of it.
"""

import errno
import json
import os
import threading
from dataclasses import replace
from itertools import islice

import pytest
import torch

from analysis import paths, storage
from analysis.errors import DataError, StoreError, UsageError
from analysis.text.generate import Writer
from analysis.text.generated_files import file_of, written
from analysis.text.load import load_tokens
from analysis.text.tokens import tokenise
from analysis.windows import append, disjoint
from tests.helpers.writers import END, one_word, tiny_writer

SOURCE = "self:batch=8"


@pytest.fixture(scope="module")
def tiny():
    return tiny_writer()


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("ANALYSIS_HOME", str(tmp_path))
    return tmp_path


@pytest.fixture
def asked(monkeypatch):
    """Numbers of the batches that a model really wrote."""
    numbers, batch = [], Writer.batch
    monkeypatch.setattr(Writer, "batch", lambda self, number: numbers.append(number) or batch(self, number))
    return numbers


def take(loaded, count: int, source: str = SOURCE, **options):
    return list(islice(written(loaded, source, **options), count))


@pytest.mark.slow
def test_text_is_written_once_and_extended(tiny, asked):
    two = take(tiny, 2)
    assert take(tiny, 2) == two and asked == [0, 1]
    four = take(tiny, 4)
    assert four[:2] == two and asked == [0, 1, 2, 3]
    assert take(tiny, 1, seed=1)[0] != two[0]  # another seed, another text


@pytest.mark.slow
def test_the_file_is_one_text_a_line_and_its_provenance_says_how_it_came_about(tiny):
    batches = take(tiny, 3)
    file = file_of(tiny, SOURCE)
    lines = [json.loads(line) for line in file.path.read_text().splitlines()]
    assert lines == [
        {"text": text.text, "tokens": text.tokens, "batch": number}
        for number, batch in enumerate(batches)
        for text in batch.texts
    ]
    stated = json.loads(file.provenance.read_text())
    assert (
        stated["fingerprint"] == f"self:batch=8@{tiny.fingerprint}"
        and stated["dtype"] == "float32"
        and stated["model"] == "tiny"
    )
    assert [batch["rejected"] for batch in stated["batches"]] == [batch.rejected for batch in batches]
    assert stated["batches"][0]["versions"]["torch"] == torch.__version__ and str(paths.home()) not in json.dumps(
        stated
    )


def test_the_model_its_dtype_settings_seed_and_reference_text_decide_the_file(tiny, tmp_path):
    path = tmp_path / "s.txt"
    path.write_text("the cat")
    files = [
        file_of(tiny, SOURCE),
        file_of(tiny, "self"),
        file_of(tiny, SOURCE, seed=1),
        file_of(replace(tiny, fingerprint="other"), SOURCE),
    ]
    files += [file_of(tiny_writer_in_half(), SOURCE), file_of(tiny, f"self:start={path}")]
    path.write_text("the dog")
    files += [file_of(tiny, f"self:start={path}")]
    assert len({file.path for file in files}) == 7
    assert file_of(tiny, "self:temperature=1.0,batch=8.0").path == files[0].path
    assert files[-1].request["source"] == "self:start=s.txt"


def tiny_writer_in_half():
    loaded = tiny_writer()
    loaded.model.to(torch.bfloat16)
    return loaded


@pytest.mark.slow
@pytest.mark.parametrize(
    "damage",
    [
        "cut line",
        "half a batch more",
        "provenance gone",
        "provenance broken",
        "altered",
        "text gone",
        "provenance behind",
    ],
)
def test_a_file_that_was_cut_short_or_altered_is_made_good(damage, tiny, asked):
    four = take(tiny, 4)
    file = file_of(tiny, SOURCE)
    data, state = file.path.read_bytes(), json.loads(file.provenance.read_text())
    again = {
        "cut line": [3],
        "half a batch more": [],
        "provenance gone": [0, 1, 2, 3],
        "provenance broken": [0, 1, 2, 3],
        "altered": [1, 2, 3],
        "text gone": [0, 1, 2, 3],
        "provenance behind": [3],
    }[damage]
    if damage == "cut line":
        file.path.write_bytes(data[:-7])
    elif damage == "half a batch more":
        file.path.write_bytes(data + b'{"text": "the cat sa')
    elif damage == "provenance gone":
        file.provenance.unlink()
    elif damage == "provenance broken":
        file.provenance.write_text('{"batches": ')
    elif damage == "altered":
        place = state["batches"][0]["bytes"] + 12
        file.path.write_bytes(data[:place] + b"X" + data[place + 1 :])
    elif damage == "text gone":
        file.path.unlink()
    else:
        file.provenance.write_text(json.dumps(state | {"batches": state["batches"][:3]}))
    asked.clear()
    assert take(tiny, 4) == four and asked == again
    assert file.path.read_bytes() == data or damage == "half a batch more"
    five = take(tiny, 5)
    assert file.path.read_bytes().startswith(data) and len(file.path.read_bytes().splitlines()) == sum(
        len(batch.texts) for batch in five
    )


@pytest.mark.slow
def test_a_kill_in_the_middle_of_a_batch_loses_that_batch_alone(tiny, asked, monkeypatch):
    batch = Writer.batch

    def killed(self, number):
        if number == 2:
            raise KeyboardInterrupt
        return batch(self, number)

    with monkeypatch.context() as patch:
        patch.setattr(Writer, "batch", killed)
        with pytest.raises(KeyboardInterrupt):
            take(tiny, 4)
    assert asked == [0, 1]
    resumed = take(tiny, 4)
    assert asked == [0, 1, 2, 3]
    file_of(tiny, SOURCE).provenance.unlink()
    assert take(tiny, 4) == resumed


@pytest.mark.slow
def test_two_that_ask_for_the_same_text_wait_for_each_other(tiny, asked):
    found = {}
    threads = [threading.Thread(target=lambda name=name: found.update({name: take(tiny, 4)})) for name in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found["a"] == found["b"] == take(tiny, 4) and sorted(asked) == [0, 1, 2, 3]


@pytest.mark.slow
def test_what_was_written_before_nothing_more_came_is_kept_and_told(tiny, monkeypatch):
    before = take(tiny, 2)
    monkeypatch.setattr("analysis.text.generate.Writer._fault", lambda self, row: "language")
    with pytest.raises(
        DataError,
        match=(
            rf"^self:batch=8: model tiny: the last 256 prefixes .*; the {sum(len(b.texts) for b in before)} texts"
            r" written .* kept in .*jsonl$"
        ),
    ):
        take(tiny, 3)
    assert take(tiny, 2) == before


def test_a_text_that_was_found_barren_stays_so(asked):
    loaded = one_word(END)
    for tries in (2, 0):  # the second time its batches are read from disk
        with pytest.raises(DataError, match="the last 256 texts it began were rejected"):
            take(loaded, 99, "self:prefix=1,batch=128")
        assert len(asked) == 2, tries


@pytest.mark.slow
def test_windows_of_a_models_own_text_are_its_texts_tokenised_again(tiny):
    windows = load_tokens("self:batch=16", tiny, samples=8, length=16, seed=3)
    texts = [text.text for batch in take(tiny, 4, "self:batch=16", seed=3) for text in batch.texts]
    stream = []
    for row in tokenise(texts, tiny.tokenizer):
        stream += [*row.tolist(), tiny.tokenizer.eos_token_id]
    assert windows.ids.flatten().tolist() == stream[: 8 * 16] and windows.mask.all()
    few = load_tokens("self:batch=16", tiny, samples=4, length=16, seed=3)
    assert torch.equal(few.ids, windows.ids[:4]) and windows.provenance["available"] == "unbounded"
    assert windows.label == "self:batch=16" and windows.provenance["fingerprint"].endswith("@" + tiny.fingerprint)
    stated = windows.provenance["generated"]
    assert (
        stated["settings"]["temperature"] == 1
        and stated["model"] == "tiny"
        and set(stated["rejected"]) <= {"empty", "repetition"}
    )
    assert not torch.equal(windows.ids, load_tokens("self:batch=16", tiny, samples=8, length=16, seed=4).ids)


@pytest.mark.slow
def test_crops_of_it_are_one_of_each_long_text(tiny):
    """The paper's use: a random inner crop of every text that is long enough; fewer are the first of more."""
    many = load_tokens("self:batch=16", tiny, samples=5, length=24, mode="crop")
    assert torch.equal(load_tokens("self:batch=16", tiny, samples=3, length=24, mode="crop").ids, many.ids[:3])
    long = [
        row.tolist()
        for row in tokenise(
            [text.text for batch in take(tiny, 3, "self:batch=16") for text in batch.texts], tiny.tokenizer
        )
        if len(row) > 24
    ]
    for row, text in zip(many.ids.tolist(), long[:5], strict=True):
        assert any(text[start : start + 24] == row for start in range(len(text) - 23))
    with pytest.raises(DataError, match="none of .* documents is longer than a window of 16 tokens"):
        load_tokens("self:batch=128,tokens=7", tiny, samples=3, length=16, mode="crop")


def test_wrong_requests_are_refused_before_anything_is_written(tiny, asked):
    for options, message in (
        (dict(tokenizer=tiny.tokenizer, samples=2), "self: is written by the model of the run; give the loaded model"),
        (dict(model=tiny, samples=None), "the text of a model has no natural number of windows; give samples"),
        (dict(model=replace(tiny, tokenizer=None), samples=2), "has no tokenizer"),
    ):
        with pytest.raises(UsageError, match=message):
            load_tokens("self", length=16, **options)
    with pytest.raises(UsageError, match="lab:stories: is not text a model writes"):
        file_of(tiny, "lab:stories")
    assert not asked


@pytest.mark.slow
def test_own_text_is_added_to_a_calibration_text_and_mixes_with_others(tiny, tmp_path):
    path = tmp_path / "s.txt"
    path.write_text("\n\n".join("the red cat sees a blue bird and likes the old hill" for _ in range(40)))
    calibration = load_tokens(str(path), tiny, samples=6, length=16)
    together = append(calibration, load_tokens("self:batch=8", tiny, samples=4, length=16))
    assert (together.own, together.added) == (6, 4) and together.provenance["added"]["source"] == "self:batch=8"
    disjoint(together, {"other": load_tokens("self:batch=8", tiny, samples=30, length=16, seed=9)})
    mixed = load_tokens(f"{path}:0.5+self:batch=8:0.5", tiny, samples=8, length=16)
    assert torch.equal(mixed.ids[1::2], load_tokens("self:batch=8", tiny, samples=4, length=16).ids)


@pytest.mark.slow
@pytest.mark.real_assets
def test_a_real_model_writes_its_kind_of_text(assets):
    """TinyStories: what the model writes is likelier to it than an encyclopedia."""
    from analysis.measure.perplexity import perplexity
    from analysis.models.load import load_model

    loaded = load_model(str(assets / "stories260K"), device="cpu")
    own = load_tokens("self:tokens=128,language=en", loaded, samples=16, length=64)
    assert (
        own.provenance["generated"]["rejected"]["language"] > 0
        and "there was a" in loaded.tokenizer.decode(own.ids.flatten()).lower()
    )
    other = load_tokens(str(assets / "text" / "wikitext2_valid.txt"), loaded, samples=16, length=64)
    assert perplexity(loaded, own).perplexity < 0.2 * perplexity(loaded, other).perplexity


@pytest.mark.parametrize(
    "place", ["{tmp}/file", "{tmp}/file/in", "/dev/null", "/proc/none", "~nosuchuser/x", "{tmp}/loop"]
)
def test_a_home_that_is_no_place_for_a_folder_is_told(place, tiny, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    monkeypatch.setenv("ANALYSIS_HOME", place.format(tmp=tmp_path))
    with pytest.raises(StoreError, match="ANALYSIS_HOME"):
        take(tiny, 1)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "owner", "name", "reason"),
    [
        (errno.ENOLCK, storage.FileLock, "acquire", "no locks to give"),
        (errno.ENOSPC, os, "fsync", "no space left"),
        (errno.EIO, os, "fsync", "the disk or its connection failed"),
    ],
)
def test_what_the_system_refuses_is_told(number, owner, name, reason, tiny, monkeypatch):
    def refuse(*_, **__):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(owner, name, refuse)
    with pytest.raises(StoreError, match=f"self-generated text: .*{reason}; set ANALYSIS_HOME"):
        take(tiny, 1)
