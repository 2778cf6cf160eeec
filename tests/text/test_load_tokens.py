"""From sources to windows: files of every kind, the lab, the hub's corpora as the papers join them, and every user's
mistake.
"""

import json
import logging
from dataclasses import replace

import pandas as pd
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from analysis.errors import AnalysisError, DataError, UsageError
from analysis.text import hub as hub_texts
from analysis.text.load import load_tokens
from analysis.text.tokens import boundary, tokenise, tokenizer_fingerprint
from analysis.windows import disjoint
from tests.helpers.alphabet import byte_tokenizer
from tests.helpers.writers import tiny_writer

STORIES = [f"story {number}: " + "once upon a time. " * (1 + number % 3) for number in range(20)]


def text_of(windows, tokenizer) -> str:
    return tokenizer.decode(windows.ids[windows.mask])


def everything(source, tokenizer, **options) -> str:
    """The whole stream, read one two-token window at a time."""
    return text_of(load_tokens(str(source), tokenizer=tokenizer, length=2, **options), tokenizer)


@pytest.mark.parametrize(
    "form",
    [
        "blank lines",
        "end of text",
        "given",
        "jsonl",
        "jsonl column",
        "ndjson",
        "parquet",
        "parquet column",
        "windows newlines",
    ],
)
def test_every_kind_of_file_gives_the_same_documents(form, tmp_path, tokenizer):
    stories = [story.strip() for story in STORIES]
    rows = [{"id": number, "body": story, "text": story} for number, story in enumerate(stories)]
    options, column = {}, ""
    path = tmp_path / {
        "jsonl": "s.jsonl",
        "jsonl column": "s.jsonl",
        "ndjson": "s.ndjson",
        "parquet": "s.parquet",
        "parquet column": "s.parquet",
    }.get(form, "s.utf8")
    if form.startswith("parquet"):
        pd.DataFrame(rows).to_parquet(path)
    elif "json" in form:
        path.write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    elif form == "windows newlines":
        path.write_bytes(b"\xef\xbb\xbf" + "\r\n\r\n".join(stories).encode())
    else:
        joint = {"blank lines": "\n \n\n", "end of text": "\n<|endoftext|>\n", "given": "\n---\n"}[form]
        path.write_text(joint.join(stories) + joint)
        options = {"separator": "\n---\n"} if form == "given" else {}
    column = "#body" if "column" in form else ""
    expected = "</s>".join(stories)
    got = everything(f"{path}{column}", tokenizer, **options)
    assert got in (expected, expected[:-1])  # an odd token is dropped
    part = everything(f"{path}{column}[25%:30%]", tokenizer, **options)
    assert stories[5].startswith(part) and len(part) >= len(stories[5]) - 1


def test_end_of_text_wins_over_blank_lines_and_is_stated(tmp_path, tokenizer):
    path = tmp_path / "s.txt"
    path.write_text("one\n\nstill one<|endoftext|>two\n\nstill two")
    windows = load_tokens(str(path), tokenizer=tokenizer, length=2)
    assert windows.provenance["documents"] == 2 and windows.provenance["separator"] == "'<|endoftext|>'"
    assert load_tokens(str(path), tokenizer=tokenizer, length=2, separator="\n\n").provenance["documents"] == 3


def test_provenance_states_everything_and_no_folder(tmp_path, tokenizer):
    path = tmp_path / "s.txt"
    path.write_text("\n\n".join(STORIES))
    windows = load_tokens(f"{path}[:80%]", tokenizer=tokenizer, samples=3, length=16, seed=4)
    stated = windows.provenance
    (origin,) = stated["origins"]
    assert origin == {"source": "s.txt[:80%]", "content": stated["fingerprint"].partition("[")[0], "edges": [None, 0.8]}
    assert stated | {"fingerprint": 0, "origins": 0, "tokenizer": 0, "available": 0} == {
        "source": "s.txt[:80%]",
        "fingerprint": 0,
        "origins": 0,
        "slice": "[:80%]",
        "split": None,
        "separator": "blank lines",
        "bos": "auto",
        "boundaries": "eos token 256 '</s>' between documents",
        "documents": 16,
        "tokenizer": 0,
        "mode": "stream",
        "length": 16,
        "samples": 3,
        "available": 0,
        "seed": 4,
        "tokens": 48,
    }
    assert (
        windows.label == "s.txt[:80%]"
        and stated["available"] == load_tokens(f"{path}[:80%]", tokenizer=tokenizer, length=16).ids.shape[0]
    )
    assert str(tmp_path) not in json.dumps(stated)


def test_the_boundary_is_the_end_token_else_the_start_token_else_a_newline():
    newline = byte_tokenizer()("\n")["input_ids"][0]
    both = byte_tokenizer(eos_token="</s>", bos_token="<s>")
    assert boundary(both) == (both.eos_token_id, f"eos token {both.eos_token_id} '</s>' between documents")
    assert boundary(byte_tokenizer(bos_token="<s>"))[1].startswith("bos token 256 '<s>'")
    assert boundary(byte_tokenizer()) == (newline, f"newline token {newline} between documents")


def test_slices_of_one_file_serve_both_sides(tmp_path, tokenizer):
    path = tmp_path / "s.txt"
    path.write_text("\n\n".join(f"{number} " * 40 for number in range(1000, 1040)))
    sides = [load_tokens(f"{path}{part}", tokenizer=tokenizer, samples=16, length=64) for part in ("[:80%]", "[80%:]")]
    disjoint(sides[0], {"held out": sides[1]})
    with pytest.raises(DataError, match="overlap"):
        disjoint(sides[0], {"held out": load_tokens(str(path), tokenizer=tokenizer, length=64)})


def test_tokenising_adds_no_special_tokens_and_warns_of_nothing(caplog, tokenizer):
    logging.getLogger("transformers").propagate = True
    ids = tokenise(["a" * 500, "b"], tokenizer)  # the tokenizer's own limit is 8
    assert [len(row) for row in ids] == [500, 1] and not caplog.records
    with pytest.raises(DataError, match="row 1 is of type int"):
        tokenise(["a", 5], tokenizer)


def test_the_tokenizers_fingerprint_follows_its_rules_and_not_its_last_call(tokenizer):
    before = tokenizer_fingerprint(tokenizer)
    tokenizer(["a", "bb"], padding=False, truncation=True, max_length=1)
    assert tokenizer_fingerprint(tokenizer) == before == tokenizer_fingerprint(byte_tokenizer(eos_token="</s>"))
    assert tokenizer_fingerprint(byte_tokenizer(bos_token="<s>")) != before


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.txt", b"", "is empty"),
        ("blank.txt", b" \n\n \n", "is empty"),
        ("nul.txt", b"text\0text", "is binary .NUL byte at position 4"),
        ("latin.txt", "caf\xe9 au lait".encode("latin-1"), "is no UTF-8 text .byte 0xe9 at position 3"),
        ("cut.txt", "café".encode()[:-1], "byte 0xc3 at position 3"),
        ("wide.txt", "text".encode("utf-16"), "is UTF-16 text .its first bytes say so."),
        ("broken.jsonl", b'{"text": "a"}\n\n{"text": \n', "line 3: is not JSON"),
        ("list.jsonl", b'["a"]\n["b"]', "line 1: is of type list, not an object with the field 'text'"),
        (
            "column.jsonl",
            b'{"body": "a", "id": 1}',
            "line 1: has no column 'text'; it has body, id; name one that is text, as in .*column.jsonl#body$",
        ),
        ("null.jsonl", b'{"text": null}', "line 1: 'text' is empty .null., not text"),
        ("hollow.jsonl", b'{"text": " "}', "every document in it is empty"),
        ("fake.parquet", b"not a parquet file at all", "is no readable parquet file"),
        ("short.txt", b"a few words", "short.txt: 11 tokens hold 1 window of 8 tokens, 4 asked"),
    ],
)
def test_a_bad_file_gives_one_clear_message(name, content, message, tmp_path, tokenizer):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        load_tokens(str(path), tokenizer=tokenizer, samples=4, length=8)
    assert "\n" not in str(caught.value)


def test_a_parquet_column_is_checked(tmp_path, tokenizer):
    path = tmp_path / "s.parquet"
    pd.DataFrame({"id": [1, 2], "note": ["a", None]}).to_parquet(path)
    for column, message in (
        ("", "no column 'text'; it has id, note"),
        ("#id", "row 0: 'id' is of type int"),
        ("#note", "row 1: 'note' is empty"),
    ):
        with pytest.raises(DataError, match=message):
            load_tokens(f"{path}{column}", tokenizer=tokenizer, samples=1, length=2)


def test_folders_missing_files_slices_and_separators_are_named(tmp_path, tokenizer):
    path = tmp_path / "s.txt"
    path.write_text("one document")
    for source, options, message in (
        (tmp_path, {}, "is a folder"),
        (tmp_path / "no.txt", {}, "no such file"),
        (f"{path}[:80%]", {}, "selects none of its 1 document; .* separator"),
        (f"{path}[5:9]", {}, "selects none of its 1 document"),
        (path, {"separator": "###"}, "separator '###' does not occur"),
        (path, {"separator": ""}, "separates nothing"),
    ):
        with pytest.raises(AnalysisError, match=message):
            load_tokens(str(source), tokenizer=tokenizer, samples=1, length=2, **options)


def test_wrong_requests_are_refused_before_anything_is_read(tokenizer):
    for options, message in (
        (dict(samples=0), "samples"),
        (dict(length=-1), "length"),
        (dict(mode="streams"), "possible: stream, crop, documents"),
        (dict(mode=["stream"]), "possible: stream, crop, documents"),
        (dict(seed=-1), "seed must be a whole number of at least 0, got -1"),
        (dict(seed="x"), "seed must be a whole number of at least 0, got 'x'"),
        (dict(seed=2**70), r"seed must be a whole number from 0 to 2\^63 - 1, got one of 71 bits"),
        (dict(samples=float("nan")), "samples must be a whole number of at least 1, got nan"),
        (dict(length=10**400), "length must be a whole number from 2 to"),
        (dict(separator=3), "separator must be a text, not 3"),
        (dict(split=None), "unknown split None"),
        (dict(bos=0), "bos 0: is unknown"),
        (dict(tokenizer="gpt2"), "read with a loaded model or with a tokenizer alone"),
    ):
        with pytest.raises(UsageError, match=message):
            load_tokens("no/such/file.txt", **{"tokenizer": tokenizer, "samples": 1, "length": 8} | options)
    with pytest.raises(UsageError, match="source: must be a text such as 'lab:stories' or a path, not int"):
        load_tokens(5, tokenizer=tokenizer, length=8)


def test_a_source_may_be_a_path_and_no_window_is_mostly_padding_without_end(tmp_path, tokenizer):
    path = tmp_path / "s.txt"
    path.write_text("a few words")
    assert load_tokens(path, tokenizer=tokenizer, length=8).label == "s.txt"
    with pytest.raises(UsageError, match="1 windows of 1099511627776 tokens are mostly padding.* has 11 tokens"):
        load_tokens(path, tokenizer=tokenizer, length=2**40, mode="documents")


def test_a_loaded_model_bounds_the_length_by_its_context(tmp_path):
    path = tmp_path / "s.txt"
    path.write_text("the red cat sees a dog " * 10)
    loaded = tiny_writer(context=16)
    assert load_tokens(str(path), loaded, samples=2, length=16).length == 16
    with pytest.raises(UsageError, match="a window of 17 tokens is longer than its context of 16"):
        load_tokens(str(path), loaded, samples=2, length=17)
    with pytest.raises(UsageError, match="has no tokenizer"):
        load_tokens(str(path), replace(loaded, tokenizer=None), samples=2, length=8)


def test_a_text_is_read_with_a_model_or_with_a_tokenizer(tmp_path, tokenizer):
    path, loaded = tmp_path / "s.txt", tiny_writer()
    path.write_text("the red cat sees no dog")
    alone = load_tokens(str(path), tokenizer=loaded.tokenizer, samples=1, length=4)
    assert alone.ids.tolist() == load_tokens(str(path), loaded, samples=1, length=4).ids.tolist()
    for reader in ({}, {"model": tokenizer}, {"model": loaded, "tokenizer": tokenizer}):
        with pytest.raises(UsageError, match="s.txt: is read with a loaded model or with a tokenizer alone"):
            load_tokens(str(path), **reader, samples=1, length=4)


@pytest.mark.slow
def test_lab_text_is_made_as_needed_and_few_windows_are_the_first_of_many(tokenizer):
    few, many = (load_tokens("lab:stories", tokenizer=tokenizer, samples=n, length=64) for n in (3, 40))
    assert len(many) == 40 and torch.equal(few.ids, many.ids[:3]) and many.provenance["available"] == "unbounded"
    others = [
        load_tokens("lab:stories", tokenizer=tokenizer, samples=3, length=64, **options)
        for options in (dict(seed=1), dict(split="held-out"))
    ]
    assert not any(torch.equal(few.ids, other.ids) for other in others)
    named = load_tokens("lab:stories/held-out", tokenizer=tokenizer, samples=3, length=64)
    assert torch.equal(named.ids, others[1].ids) and named.provenance == others[1].provenance
    assert (few.label, named.label, others[1].label) == ("lab:stories", "lab:stories/held-out", "lab:stories/held-out")
    assert (few.provenance["split"], named.provenance["split"]) == ("train", "held-out")
    with pytest.raises(UsageError, match="unknown split 'test'; valid: train, held-out"):
        load_tokens("lab:stories", tokenizer=tokenizer, samples=3, length=64, split="test")


@pytest.mark.slow
def test_lab_text_can_be_sliced_cropped_and_padded(tokenizer):
    sliced = load_tokens("lab:stories[2:5]", tokenizer=tokenizer, length=64)
    assert sliced.provenance["documents"] == 3 and sliced.provenance["available"] == len(sliced)
    assert load_tokens("lab:stories", tokenizer=tokenizer, samples=5, length=64, mode="crop").ids.shape == (5, 64)
    padded = load_tokens("lab:stories", tokenizer=tokenizer, samples=5, length=2000, mode="documents")
    assert len(padded) == 5 and not padded.mask.all()
    with pytest.raises(UsageError, match="no end; say how many windows"):
        load_tokens("lab:stories", tokenizer=tokenizer, length=64)
    with pytest.raises(DataError, match="longer than a window of 1000000 tokens"):
        load_tokens("lab:stories", tokenizer=tokenizer, samples=1, length=1_000_000, mode="crop")


@pytest.fixture
def hub(monkeypatch):
    """A hub of our own: what was asked of `datasets.load_dataset`, and rows in the column asked for."""
    import datasets

    asked = []

    def load(path, name=None, *, split, revision, **options):
        asked.append((path, name, split, revision, options.get("data_files")))
        rows = [f"{path} row {number} of {split}." * (number % 5) for number in range(1200)]
        return datasets.Dataset.from_dict({"sentence" if "ptb" in path else "text": rows, "id": list(range(1200))})

    monkeypatch.setattr(datasets, "load_dataset", load)
    monkeypatch.setattr(hub_texts, "_resolved", lambda dataset, revision: f"commit of {revision}")
    return asked


@pytest.mark.slow
@pytest.mark.parametrize(
    ("source", "call", "joiner", "rows"),
    [
        (
            "hub:wikitext2",
            ("Salesforce/wikitext", "wikitext-2-raw-v1", "test", "b08601e04326c79dfdd32d625aee71d232d685c3", None),
            "\n\n",
            1200,
        ),
        (
            "hub:ptb",
            (
                "ptb-text-only/ptb_text_only",
                None,
                "test",
                "commit of refs/convert/parquet",
                {"test": "penn_treebank/test/0000.parquet"},
            ),
            " ",
            1200,
        ),
        (
            "hub:c4:validation",
            (
                "allenai/c4",
                None,
                "validation",
                "1588ec454efa1a09f29cd18ddd04fe05fc8653a2",
                {"validation": "en/c4-validation.00000-of-00008.json.gz"},
            ),
            " ",
            1100,
        ),
    ],
)
def test_evaluation_corpora_are_joined_as_in_the_paper(source, call, joiner, rows, hub, tokenizer):
    windows = load_tokens(source, tokenizer=tokenizer, length=32)
    assert hub == [call]
    texts = [f"{call[0]} row {number} of {call[2]}." * (number % 5) for number in range(rows)]
    expected = tokenizer(joiner.join(texts), add_special_tokens=False)["input_ids"]
    count = min(len(expected) // 32, 256 if "c4" in source else len(expected))
    assert torch.equal(windows.ids.flatten(), torch.tensor(expected[: count * 32]))
    assert repr(joiner) in windows.provenance["separator"] and windows.provenance["boundaries"].startswith("none")


def test_calibration_on_c4_is_random_crops_of_its_first_shard(hub, tokenizer):
    windows = load_tokens("hub:c4", tokenizer=tokenizer, samples=6, length=64)
    assert hub == [
        (
            "allenai/c4",
            None,
            "train",
            "1588ec454efa1a09f29cd18ddd04fe05fc8653a2",
            {"train": "en/c4-train.00000-of-01024.json.gz"},
        )
    ]
    assert windows.provenance["mode"] == "crop" and all("allenai" in tokenizer.decode(row) for row in windows.ids)
    assert (
        load_tokens("hub:c4[:50]", tokenizer=tokenizer, samples=2, length=8, mode="stream").provenance["documents"]
        == 50
    )


def test_any_hub_dataset_can_be_named(hub, tokenizer):
    load_tokens("hub:org/name/config:test@abc[:10%]", tokenizer=tokenizer, samples=2, length=16)
    assert hub == [("org/name", "config", "test", "commit of abc", None)]
    with pytest.raises(DataError, match="no column 'body'; it has text, id; name one as hub:ORG/NAME#COLUMN"):
        load_tokens("hub:org/name#body", tokenizer=tokenizer, samples=2, length=16)


def test_a_hub_out_of_reach_gives_one_message_with_the_way_out(monkeypatch, tokenizer):
    import datasets

    def load(*arguments, **options):
        raise ConnectionError("Couldn't reach 'org/name' on the Hub\nsecond line")

    monkeypatch.setattr(datasets, "load_dataset", load)
    monkeypatch.setattr(hub_texts, "_resolved", lambda dataset, revision: revision)
    with pytest.raises(DataError, match="cannot fetch org/name .*Couldn't reach .*local file .*lab:stories") as caught:
        load_tokens("hub:org/name", tokenizer=tokenizer, samples=2, length=16)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
@pytest.mark.real_assets
def test_real_text_with_a_real_tokenizer(assets):
    from transformers import AutoTokenizer

    real = AutoTokenizer.from_pretrained(assets / "stories260K")
    text = assets / "text" / "tiny.utf8"
    sides = [load_tokens(f"{text}{part}", tokenizer=real, samples=64, length=128) for part in ("[:80%]", "[80%:]")]
    disjoint(sides[0], {"held out": sides[1]})
    assert [side.provenance["documents"] for side in sides] == [253, 64] and sides[0].provenance["available"] == 795
    whole = load_tokens(str(text), tokenizer=real, length=128)
    stories = [story.strip() for story in text.read_text().split("<|endoftext|>")]
    total = sum(len(real(story, add_special_tokens=False)["input_ids"]) + 1 for story in stories) - 1
    assert len(whole) == total // 128 and "Lily" in real.decode(whole.ids[0])


def test_a_revision_that_is_gone_is_named(monkeypatch, tokenizer):
    import datasets

    def load(path, *arguments, revision, **options):
        raise datasets.exceptions.DatasetNotFoundError(
            f"Revision '{revision}' doesn't exist for dataset '{path}' on the Hub."
        )

    monkeypatch.setattr(datasets, "load_dataset", load)
    monkeypatch.setattr(hub_texts, "_resolved", lambda dataset, revision: revision)
    with pytest.raises(
        DataError,
        match="hub:org/name@gone: the hub's org/name has no revision 'gone' .*hub:org/name@REVISION, or a local file",
    ):
        load_tokens("hub:org/name@gone", tokenizer=tokenizer, samples=1, length=2)
    with pytest.raises(
        DataError, match="Salesforce/wikitext has no revision 'b08601e0.* hub:Salesforce/wikitext@REVISION"
    ):
        load_tokens("hub:wikitext2", tokenizer=tokenizer, samples=1, length=2)


def test_a_text_the_tokenizer_does_not_know_is_refused(tmp_path):
    loaded = tiny_writer()
    path = tmp_path / "s.txt"
    path.write_text("the red cat sees no dog")
    assert len(load_tokens(str(path), loaded, samples=1, length=4)) == 1
    path.write_text("Der rote Kater sieht the Hund")
    for reader in ({"model": loaded}, {"tokenizer": loaded.tokenizer}):
        with pytest.raises(
            DataError,
            match="s.txt: 100% of its tokens are unknown to the tokenizer .'<unk>'.; give text in the language",
        ):
            load_tokens(str(path), **reader, samples=1, length=4)


def test_a_tokenizer_of_words_without_an_unknown_token_is_told(tmp_path):
    core = Tokenizer(models.WordLevel({"a": 0, "cat": 1, ".": 2}))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    words = PreTrainedTokenizerFast(tokenizer_object=core, eos_token=".")
    text, table = tmp_path / "s.txt", tmp_path / "s.tsv"
    text.write_text("a cat a dog"), table.write_text("text\tlabel\na cat\tyes\na dog\tno\n")
    for source in (text, f"examples:{table}"):
        with pytest.raises(DataError, match="the tokenizer cannot read this text .*Missing .UNK."):
            load_tokens(source, tokenizer=words, length=2)
    text.write_text("a cat a cat")
    assert load_tokens(text, tokenizer=words, length=2).ids.tolist() == [[0, 1], [0, 1]]


def test_unknown_tokens_that_are_boundaries_are_none(tmp_path):
    """GPT-2's tokenizer calls its end-of-text token unknown, too."""
    path = tmp_path / "s.txt"
    path.write_text("\n\n".join("a" * 20))
    assert (
        len(load_tokens(str(path), tokenizer=byte_tokenizer(eos_token="</s>", unk_token="</s>"), samples=2, length=8))
        == 2
    )


def test_a_tokenizer_of_another_model_is_refused(tmp_path, tokenizer):
    path = tmp_path / "s.txt"
    path.write_text("the red cat sees a dog")
    with pytest.raises(
        UsageError, match="s.txt: token id .* is beyond the 20 embeddings of model tiny; give the model's own tokenizer"
    ):
        load_tokens(str(path), replace(tiny_writer(), tokenizer=tokenizer), samples=1, length=4)
