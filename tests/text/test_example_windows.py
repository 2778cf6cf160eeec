"""Labelled examples as windows: what each kind of set becomes, which models fit it, and every mistake a table can
hold.
"""

import json
from dataclasses import replace
from itertools import islice, permutations
from types import SimpleNamespace

import pytest
import torch

from analysis.errors import DataError, UsageError
from analysis.lab.examples import EXAMPLES, examples
from analysis.text.encoded_examples import pad_id
from analysis.text.example_readers import UNLABELLED, read_table
from analysis.text.example_sets import HUB_SETS
from analysis.text.examples import load_examples
from analysis.text.load import load_tokens
from analysis.text.sources import SOURCE_FORMS, parse_source, source_fingerprint
from analysis.windows import disjoint
from tests.helpers.alphabet import byte_tokenizer
from tests.helpers.answerers import pair_tokenizer, tiny_answerer
from tests.helpers.writers import tiny_writer

SENTENCES = [
    ("the cat is red", "pos"),
    ("the dog", "neg"),
    ("a old dog is not blue .", "pos"),
    ("the cat sees the dog", "neg"),
]


@pytest.fixture(scope="module")
def tokenizer():
    return pair_tokenizer()


def table(path, *rows, header="sentence\tlabel") -> str:
    path.write_text("\n".join([header, *("\t".join(map(str, row)) for row in rows)]), encoding="utf-8")
    return f"examples:{path}"


def said(windows, tokenizer) -> list[str]:
    return [tokenizer.decode(ids[mask]) for ids, mask in zip(windows.ids, windows.mask)]


# names


@pytest.mark.parametrize(
    ("text", "name", "split", "column", "slice_", "label"),
    [
        ("examples:truth", "truth", None, None, "", "examples:truth"),
        ("examples:truth/held-out[:100]", "truth", "held-out", None, "[:100]", "examples:truth/held-out[:100]"),
        ("examples:sst2", "sst2", None, None, "", "examples:sst2"),
        ("examples:sst2/validation[:50%]", "sst2", "validation", None, "[:50%]", "examples:sst2/validation[:50%]"),
        (
            "examples:mnli-mismatched/held-out",
            "mnli-mismatched",
            "validation",
            None,
            "",
            "examples:mnli-mismatched/validation",
        ),
        (
            "examples:some/where/train.tsv[:80%]",
            "some/where/train.tsv",
            None,
            None,
            "[:80%]",
            "examples:train.tsv[:80%]",
        ),
        (
            "examples:a/b.tsv#premise, hypothesis,gold[2:]",
            "a/b.tsv",
            None,
            "premise,hypothesis,gold",
            "[2:]",
            "examples:b.tsv#premise,hypothesis,gold[2:]",
        ),
        (
            "examples:msr.tsv##1 String,#2 String,Quality",
            "msr.tsv",
            None,
            "#1 String,#2 String,Quality",
            "",
            "examples:msr.tsv##1 String,#2 String,Quality",
        ),
    ],
)
def test_names_are_understood(text, name, split, column, slice_, label):
    source = parse_source(text)
    assert (source.kind, source.name, source.split, source.column, source.slice, source.label) == (
        "examples",
        name,
        split,
        column,
        slice_,
        label,
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("examples:", "unknown set of labelled examples ''"),
        ("examples:thruth", "unknown set of labelled examples 'thruth'; did you mean 'truth'.*or PATH.tsv"),
        ("examples:sst-2", "did you mean 'sst2'"),
        ("examples:data.xlsx", "unknown set of labelled examples 'data.xlsx'; a table of examples is a file PATH.tsv"),
        ("examples:truth/validation", "unknown split 'validation'; .*held-out"),
        ("examples:sst2/test", "the test splits of the hub's sets have no labels; .*validation"),
        ("examples:truth[:80%]", "no end to take per cent of; slice them by number"),
        ("examples:a.tsv#label", "columns are written #FIRST,LABEL or #FIRST,SECOND,LABEL"),
        ("examples:a.tsv#a,,b", "columns are written"),
        ("examples:a.tsv[7:7]", "selects nothing"),
        ("examples:truth:0.5+lab:stories:0.5", "examples:truth are labelled examples, no part of a mixture"),
        ("examples:truth+examples:answers", "every part of a mixture ends in its share"),
        ("self:start=examples:truth", "not from an examples source"),
    ],
)
def test_what_cannot_be_understood_is_refused_with_its_reason(text, message):
    with pytest.raises(UsageError, match=message):
        parse_source(text)


def test_every_set_is_listed_pinned_and_told_apart(tmp_path):
    assert {f"examples:{name}" for name in (*EXAMPLES, *HUB_SETS)} <= set(SOURCE_FORMS)
    assert all(len(known.dataset[1]) == 40 for known in HUB_SETS.values())
    one, two = (table(tmp_path / name, ("a", 1)) for name in ("one.tsv", "two.tsv"))
    assert source_fingerprint(one) == source_fingerprint(two) != source_fingerprint(f"{two}#sentence,label")
    names = [
        "examples:truth",
        "examples:truth/held-out",
        "examples:answers",
        "examples:truth[:9]",
        "examples:mnli",
        "examples:mnli-mismatched",
        "examples:sst2/train",
        one,
    ]
    assert len({source_fingerprint(name) for name in names}) == len(names)
    assert source_fingerprint("examples:truth").split("@")[1] != source_fingerprint("lab:stories").split("@")[1]


# tables


def test_sentences_become_windows_with_special_tokens_and_classes_in_the_order_of_their_names(tmp_path, tokenizer):
    windows = load_tokens(table(tmp_path / "s.tsv", *SENTENCES), tokenizer=tokenizer, length=32)
    assert said(windows, tokenizer) == [f"[CLS] {text} [SEP]" for text, _ in SENTENCES]
    assert windows.ids.shape == (4, 9) and not windows.ids[~windows.mask].any()  # padded to the longest, by [PAD]
    assert torch.equal(windows.types, torch.zeros_like(windows.ids))
    told = windows.labelled
    assert (told.head, told.metric, told.classes, told.labels.tolist()) == (
        "classification",
        "accuracy",
        ("neg", "pos"),
        [1, 0, 1, 0],
    )
    assert told.labels.dtype == torch.long and told.texts == () and told.offsets is None
    stated = {
        "source": "examples:s.tsv",
        "mode": "examples",
        "length": 32,
        "samples": 4,
        "available": 4,
        "cut": 0,
        "beyond": 0,
        "unusable": 0,
    }
    assert {key: windows.provenance[key] for key in stated} == stated and windows.provenance["tokens"] == windows.tokens
    assert windows.provenance["boundaries"].startswith("2 special") and str(tmp_path) not in str(windows.provenance)


def test_pairs_carry_token_types_and_scores_are_numbers(tmp_path, tokenizer):
    source = table(
        tmp_path / "p.tsv", ("the cat", "a dog is old", "2.5"), ("red", "red", 5), header="sentence1\tsentence2\tscore"
    )
    windows = load_tokens(source, tokenizer=tokenizer, length=32)
    assert said(windows, tokenizer) == ["[CLS] the cat [SEP] a dog is old [SEP]", "[CLS] red [SEP] red [SEP]"]
    assert windows.types[0].tolist() == [0] * 4 + [1] * 5
    assert (windows.labelled.head, windows.labelled.metric, windows.labelled.classes) == ("regression", "spearman", ())
    assert windows.labelled.labels.dtype == torch.float32 and windows.labelled.labels.tolist() == [2.5, 5.0]


def test_answers_become_tokens_and_offsets_of_the_passage(tmp_path, tokenizer):
    rows = [("who sees ?", "the old cat sees the red dog .", "red dog"), ("who is old ?", "the cat", "the")]
    windows = load_tokens(
        table(tmp_path / "q.tsv", *rows, header="question\tcontext\tanswer"), tokenizer=tokenizer, length=32
    )
    told = windows.labelled
    assert (told.head, told.metric) == ("span", "f1") and told.texts == (
        ("the old cat sees the red dog .", "red dog"),
        ("the cat", "the"),
    )
    for row, (first, last) in enumerate(told.labels.tolist()):
        assert tokenizer.decode(windows.ids[row, first : last + 1]) == rows[row][2]
        assert rows[row][1][told.offsets[row, first, 0] : told.offsets[row, last, 1]] == rows[row][2]
    passage = (told.offsets[..., 1] > 0).sum(1)
    assert passage.tolist() == [8, 2] and not told.offsets[~windows.mask].any() and not told.offsets[:, :5].any()


@pytest.mark.parametrize(
    ("header", "row", "first", "second"),
    [
        ("text\tLABEL", "the cat\t1", "the cat", None),
        ("index\tquestion\tsentence\tlabel", "0\twho ?\tthe dog\tentailment", "who ?", "the dog"),
        ("id\tquestion1\tquestion2\tis_duplicate", "7\twho ?\twho is\t0", "who ?", "who is"),
        ("premise\thypothesis\tlabel1\tgold_label", "red\tblue\tx\tneutral", "red", "blue"),
    ],
)
def test_columns_are_known_by_the_names_glue_gives_them(header, row, first, second, tmp_path, tokenizer):
    (tmp_path / "t.tsv").write_text(f"\ufeff{header}\r\n{row}\r\n\r\n")
    windows = load_tokens(f"examples:{tmp_path}/t.tsv", tokenizer=tokenizer, length=16)
    middle = f" [SEP] {second} [SEP]" if second else " [SEP]"
    assert said(windows, tokenizer) == [f"[CLS] {first}{middle}"]


def test_columns_can_be_named_and_quotes_are_letters(tmp_path):
    rows = [('"the', 'a "b"', "dog", "yes"), ("is", "c", "cat", "no")]
    source = table(tmp_path / "t.tsv", *rows, header="sentence\tone\ttwo\tverdict")
    windows = load_examples(f"{source}#two,one,verdict", tokenizer=byte_tokenizer(pad_token="_"), length=32)
    assert byte_tokenizer(pad_token="_").decode(
        windows.ids[0][windows.mask[0]]
    ) == 'doga "b"' and windows.labelled.classes == ("no", "yes")


@pytest.mark.parametrize(
    ("labels", "head", "classes", "values"),
    [
        ((1, 0, 3), "classification", ("0", "1", "2", "3"), [1, 0, 3]),
        (("1.0", "0", "2"), "regression", (), [1.0, 0.0, 2.0]),
        (("b", "a", "b"), "classification", ("a", "b"), [1, 0, 1]),
        (("-1.5", "2e1", ".5"), "regression", (), [-1.5, 20.0, 0.5]),
    ],
)
def test_labels_are_numbers_of_classes_scores_or_names(labels, head, classes, values, tmp_path, tokenizer):
    told = load_examples(
        table(tmp_path / "t.tsv", *(("the cat", label) for label in labels)), tokenizer=tokenizer, length=16
    ).labelled
    assert (told.head, told.classes, told.labels.tolist()) == (head, classes, values)


def test_a_table_between_commas_is_read_like_one_between_tabs(tmp_path):
    path = tmp_path / "t.CSV"
    path.write_text('text,label\n"a ""b"", c",yes\n"d\ne",no\n')
    source = parse_source(f"examples:{path}[:50%]")
    task, found = read_table(source)
    assert (task.classes, [(one.first, one.label) for one in found]) == (("no", "yes"), [('a "b", c', 1)])
    assert source.label == "examples:t.CSV[:50%]" and source.table
    path.write_text("text,label\na,b,yes\n")
    with pytest.raises(DataError, match="t.CSV, line 2: has 3 cells, the header names 2; part them by ','"):
        read_table(source)


@pytest.mark.parametrize("word", UNLABELLED)
def test_words_that_stand_for_no_label_are_no_class(word, tmp_path):
    source = parse_source(table(tmp_path / "t.tsv", ("a", "yes"), ("b", word), ("c", word)))
    with pytest.raises(DataError, match=f"line 3: label '{word}' stands for no label, as in 2 of 3 rows; leave them"):
        read_table(source)
    source = parse_source(table(tmp_path / "t.tsv", ("a", "yes"), ("b", f"{word} at all"), ("c", "NONE")))
    assert read_table(source)[0].classes == tuple(sorted(["yes", f"{word} at all", "NONE"]))


def test_slices_agree_on_the_classes_and_share_no_example(tmp_path, tokenizer):
    source = table(
        tmp_path / "t.tsv",
        *((f"the cat {'a' if number < 4 else 'b'} {'d ' * number}", "x" if number < 4 else "y") for number in range(5)),
    )
    parts = [load_examples(f"{source}{cut}", tokenizer=tokenizer, length=16) for cut in ("[:80%]", "[80%:]")]
    assert [part.labelled.labels.tolist() for part in parts] == [[0] * 4, [1]] and parts[1].labelled.classes == (
        "x",
        "y",
    )
    assert [len(part) for part in parts] == [4, 1] and disjoint(parts[0], {"rest": parts[1]})["rest"].provenance.get(
        "dropped"
    ) is None


def test_a_draw_is_without_replacement_and_fewer_are_the_first_of_more(tmp_path, tokenizer):
    source = table(tmp_path / "t.tsv", *((" ".join("abcdefgh"[: 1 + number]), number % 3) for number in range(8)))
    few, many, other = (
        load_examples(source, tokenizer=tokenizer, samples=samples, length=16, seed=seed)
        for samples, seed in ((3, 0), (8, 0), (8, 1))
    )
    assert (
        said(few, tokenizer) == said(many.subset(3), tokenizer)
        and few.labelled.labels.tolist() == many.labelled.labels[:3].tolist()
    )
    assert (
        sorted(said(many, tokenizer)) == sorted(said(other, tokenizer))
        and len(set(said(many, tokenizer))) == 8
        and said(many, tokenizer) != said(other, tokenizer)
    )
    with pytest.raises(DataError, match="too few examples: examples:t.tsv holds 8, 9 asked"):
        load_examples(source, tokenizer=tokenizer, samples=9, length=16)


def test_long_examples_are_cut_and_counted_and_lost_answers_dropped(tmp_path, tokenizer):
    source = table(tmp_path / "t.tsv", ("a " * 30, "b b", 1), ("a", "b", 0), header="premise\thypothesis\tlabel")
    windows = load_examples(source, tokenizer=tokenizer, length=9)
    assert (
        said(windows, tokenizer) == ["[CLS] a a a a [SEP] b b [SEP]", "[CLS] a [SEP] b [SEP]"]
        and windows.provenance["cut"] == 1
    )
    rows = [
        ("who ?", "c " * 9 + "red dog", "red dog"),
        ("who ?", "red dog" + " c" * 9, "red dog"),
        ("who " * 9, "red", "red"),
        ("who ?", "c c c red dog", "red dog"),
    ]
    questions = table(tmp_path / "q.tsv", *rows, header="question\tcontext\tanswer")
    windows = load_examples(questions, tokenizer=tokenizer, length=10)
    assert said(windows, tokenizer) == [
        "[CLS] who ? [SEP] red dog c c c [SEP]",
        "[CLS] who ? [SEP] c c c red dog [SEP]",
    ]
    assert (windows.provenance["cut"], windows.provenance["beyond"], windows.provenance["documents"]) == (1, 2, 4)
    assert len(load_examples(questions, tokenizer=tokenizer, length=32).ids) == 4
    with pytest.raises(
        DataError, match="of 4 read 2 can be used .2 have the answer beyond 10 tokens, 0 are broken., 3 asked; ask for"
    ):
        load_examples(questions, tokenizer=tokenizer, length=10, samples=3)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("header", "rows", "message"),
    [
        ("sentence\tlabel", ["a\t1", "b"], "line 3: has 1 cells, the header names 2"),
        ("sentence\tlabel", ["a\t1", "", " \t0"], "line 4: 'sentence' is empty"),
        ("sentence\tlabel", ["a\t"], "line 2: 'label' is empty"),
        ("sentence\tlabel", ["a\t1", "b\tx", "c\t0"], "line 3: label 'x' is no number, and other labels are"),
        (
            "sentence\tlabel",
            ["a\t0", "b\t-1"],
            "line 3: label -1 is no class; -1 stands for no label, as in test splits",
        ),
        ("sentence\tlabel", ["a\t123456"], "line 2: label 123456 is no class; .* call a column of scores `score`"),
        (
            "sentence\tscore",
            ["a\t1", "b\tnan"],
            "line 3: score 'nan' stands for no label, as in 1 of 2 rows; leave them out, or",
        ),
        ("sentence\tscore", ["a\thigh"], "line 2: score 'high' is no number"),
        ("question\tcontext\tanswer", ["who\tthe cat\tdog"], "line 2: the answer 'dog' does not occur in its passage"),
        ("sentence\tanswer", ["the cat\tcat"], "answers are of questions about a passage"),
        (
            "sentence\tclass",
            ["a\t1"],
            (
                r"no column of its first line .sentence, class. is known as the label; name them, as in"
                r" examples:.*t.tsv#FIRST"
            ),
        ),
        ("gj04\t1\t\tthe cat", ["gj04\t0\t*\tthe"], "is known as the first text"),
        ("sentence\ttext\tlabel", ["a\tb\t1"], "'sentence' and 'text' may each be the first text"),
        ("sentence\tlabel\tscore", ["a\t1\t2"], "'label' and 'score' may each be the label"),
        ("sentence\tlabel", [], "holds no example, only a header"),
    ],
)
def test_a_broken_table_is_named_with_its_line(header, rows, message, tmp_path, tokenizer):
    (tmp_path / "t.tsv").write_text("\n".join([header, *rows]))
    with pytest.raises(DataError, match=message) as caught:
        load_examples(f"examples:{tmp_path}/t.tsv", tokenizer=tokenizer, length=16)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_none(tmp_path, tokenizer):
    (tmp_path / "empty.tsv").write_text(""), (tmp_path / "latin.tsv").write_bytes(b"sentence\tlabel\ncaf\xe9\t1")
    source = table(tmp_path / "t.tsv", *SENTENCES)
    for name, message in (
        (f"{tmp_path}/no.tsv", "no such file"),
        (f"{tmp_path}/empty.tsv", "is empty"),
        (f"{tmp_path}/latin.tsv", "is no UTF-8 text"),
        (f"{source.removeprefix('examples:')}#sentence,class", "has no column 'class'; it has sentence, label"),
        (f"{source.removeprefix('examples:')}[9:]", "the slice selects none of its 4 examples; widen the slice"),
    ):
        with pytest.raises(DataError, match=message):
            load_tokens(f"examples:{name}", tokenizer=tokenizer, length=16)


# the lab


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_labs_examples_are_taken_in_the_order_of_the_seed(name, tokenizer):
    reader = byte_tokenizer(pad_token="_")
    asked = ((5, "held-out"), (3, "held-out"), (5, "train"))
    many, few, other = (
        load_tokens(f"examples:{name}", tokenizer=reader, samples=samples, length=900, seed=1, split=split)
        for samples, split in asked
    )
    made = list(islice(examples(name, split="held-out", seed=1), 5))
    assert [reader.decode(ids[mask]) for ids, mask in zip(many.ids, many.mask)] == [
        example.first + (example.second or "") for example in made
    ]
    assert [reader.decode(ids[mask]) for ids, mask in zip(few.ids, few.mask)] == [
        example.first + (example.second or "") for example in made[:3]
    ]
    assert (many.labelled.head, many.labelled.metric, many.labelled.classes) == (
        EXAMPLES[name].head,
        EXAMPLES[name].metric,
        EXAMPLES[name].classes,
    )
    assert (many.label, other.label, many.provenance["available"]) == (
        f"examples:{name}/held-out",
        f"examples:{name}",
        "unbounded",
    )
    if name == "answers":
        assert [answer for _, answer in many.labelled.texts] == [
            example.second[slice(*example.label)] for example in made
        ]
        for row, (first, last) in enumerate(many.labelled.labels.tolist()):
            assert reader.decode(many.ids[row, first : last + 1]) == many.labelled.texts[row][1]
    else:
        assert many.labelled.labels.tolist() == [example.label for example in made]
    sliced = load_tokens(f"examples:{name}/held-out[2:5]", tokenizer=reader, length=900, seed=1)
    assert sliced.provenance["available"] == 3 and torch.equal(sliced.mask.sum(1), many.mask[2:].sum(1))
    with pytest.raises(
        UsageError, match=rf"examples:{name}: the lab's examples have no end; say how many .samples., or slice them"
    ):
        load_tokens(f"examples:{name}", tokenizer=reader, length=64)


@pytest.mark.slow
def test_endless_examples_that_never_fit_are_given_up():
    with pytest.raises(DataError, match="0 can be used .* have the answer beyond 12 tokens, 0 are broken., 3 asked"):
        load_tokens("examples:answers", tokenizer=byte_tokenizer(pad_token="_"), samples=3, length=12)


def test_wrong_requests_are_refused(tmp_path, tokenizer):
    source = table(tmp_path / "t.tsv", *SENTENCES)
    for options, message in (
        ({"length": 1}, "length must be a whole number of at least 2"),
        ({"length": 2}, "2 tokens leave no room for text beside 2 special tokens"),
        ({"length": 8, "samples": 0}, "samples must be"),
        ({"length": 8, "mode": "stream"}, "leave mode 'stream' out"),
        ({"length": 8, "split": "test"}, "unknown split 'test'"),
    ):
        with pytest.raises(UsageError, match=message):
            load_tokens(source, tokenizer=tokenizer, **options)
    for options, message in (
        ({"seed": -1}, "seed must be a whole number of at least 0, got -1"),
        ({"seed": "x"}, "seed must be"),
        ({"classes": "pos"}, "classes must be several different names, not 'pos'"),
        ({"seed": 2**70}, "seed must be a whole number from 0 to 2.63 - 1"),
        ({"classes": 3}, "classes must be several different names, not 3"),
        ({"classes": [1, 2]}, "classes must be several different names"),
        ({"tokenizer": 3}, "is read with a loaded model or with a tokenizer alone"),
        ({"model": 3}, "model must be one from load_model, not int"),
        ({"classes": ["pos", "Pos"]}, "classes must be several different names"),
    ):
        with pytest.raises(UsageError, match=message):
            load_examples(source, **{"tokenizer": tokenizer, "length": 8, **options})
    with pytest.raises(UsageError, match="source: must be a text"):
        load_examples(7, tokenizer=tokenizer, length=8)
    with pytest.raises(UsageError, match="lab:stories: has no labels"):
        load_examples("lab:stories", tokenizer=tokenizer, length=8)


def test_text_the_tokenizer_does_not_know_is_refused(tmp_path, tokenizer):
    with pytest.raises(DataError, match="of its tokens are unknown to the tokenizer"):
        load_examples(table(tmp_path / "t.tsv", ("der rote Kater sieht den Hund", 1)), tokenizer=tokenizer, length=16)


# models


def test_the_models_names_order_the_classes(tmp_path):
    rows = [
        ("the cat", "red", "neutral"),
        ("the dog", "blue", "entailment"),
        ("old", "a", "contradiction"),
        ("b", "c", "neutral"),
    ]
    source = table(tmp_path / "t.tsv", *rows, header="premise\thypothesis\tlabel")
    roberta = tiny_answerer(classes=("CONTRADICTION", "NEUTRAL", "ENTAILMENT"))
    told = load_tokens(source, roberta, length=16).labelled
    assert told.classes == ("CONTRADICTION", "NEUTRAL", "ENTAILMENT") and told.labels.tolist() == [1, 2, 0, 1]
    assert load_tokens(f"{source}[:1]", roberta, length=16).labelled.labels.tolist() == [1]
    assert load_tokens(source, tiny_answerer(classes=3), length=16).labelled.labels.tolist() == [
        2,
        1,
        0,
        2,
    ]  # LABEL_0, ...: by number
    small = table(
        tmp_path / "s.tsv", *rows[:2], header="premise\thypothesis\tlabel"
    )  # a table that shows two of the three classes
    assert load_tokens(small, roberta, length=16).labelled.labels.tolist() == [1, 2]
    assert load_examples(
        small, tokenizer=pair_tokenizer(), length=16, classes=told.classes
    ).labelled.labels.tolist() == [1, 2]


@pytest.mark.parametrize(
    ("model", "source", "message"),
    [
        (
            dict(classes=("yes", "no", "maybe")),
            "named",
            "has the classes neg, pos, model tiny has yes, no, maybe; give examples that go with the model",
        ),
        (dict(classes=3), "named", "has the classes neg, pos, model tiny has LABEL_0, LABEL_1, LABEL_2"),
        (dict(classes=2), "numbered", "has the classes 0, 1, 2, model tiny has LABEL_0, LABEL_1"),
        (
            dict(classes=1),
            "numbered",
            "asks for classification, model tiny answers with regression; .* call the column of labels `score`",
        ),
        (dict(classes=2), "scored", "asks for regression, model tiny answers with classification"),
        (dict(kind="span"), "named", "asks for classification, model tiny answers with span"),
        (dict(classes=2), "examples:answers", "asks for span, model tiny answers with classification"),
        (dict(classes=3), "examples:truth", "has the classes false, true, model tiny has LABEL_0, LABEL_1, LABEL_2"),
    ],
)
def test_a_model_that_does_not_fit_the_examples_is_refused(model, source, message, tmp_path):
    rows = {"named": SENTENCES, "numbered": [("a", 2), ("b", 0)], "scored": [("a", "0.5")]}
    files = {name: table(tmp_path / f"{name}.tsv", *of) for name, of in rows.items()}
    with pytest.raises(UsageError, match=message):
        load_tokens(files.get(source, source), tiny_answerer(**model), samples=1, length=40)


def test_a_decoder_is_refused_and_its_tokenizer_is_not(tmp_path):
    source = table(tmp_path / "t.tsv", ("the red cat", 1))
    for name, like in ((source, "the folder of a BERT"), ("examples:truth", "lab/encoder-truth")):
        with pytest.raises(
            UsageError,
            match=(
                "need a model with a classification, regression or span head, or an encoder without a"
                " head; tiny predicts the next token. Give an"
                f" encoder .*{like}"
            ),
        ):
            load_tokens(name, tiny_writer(), samples=1, length=8)
    assert load_tokens(source, tokenizer=tiny_writer().tokenizer, length=8).ids.shape == (1, 3)


PAIRS = [("the cat", "a dog", 1), ("red", "red the blue dog", 3.5), ("old", "the old cat is not red", 2)]


def embedder():
    model = tiny_answerer()
    return replace(model, model=model.model.bert)


@pytest.mark.parametrize("form", ["tsv", "csv", "jsonl"])
def test_pairs_of_sentences_are_two_windows_each_for_an_encoder_without_a_head(tmp_path, tokenizer, form):
    path = tmp_path / f"pairs.{form}"
    if form == "jsonl":
        rows = [dict(zip(("sentence1", "sentence2", "score"), row)) for row in PAIRS]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        mark = "\t" if form == "tsv" else ","
        path.write_text("\n".join(mark.join(map(str, row)) for row in [("sentence1", "sentence2", "score"), *PAIRS]))
    windows = load_tokens(f"examples:{path}", embedder(), length=6)
    assert said(windows, tokenizer)[:4] == [
        "[CLS] the cat [SEP]",
        "[CLS] a dog [SEP]",
        "[CLS] red [SEP]",
        "[CLS] red the blue dog [SEP]",
    ]
    assert windows.head == "embedding" and windows.labelled.metric == "spearman"
    assert windows.labelled.pairs.tolist() == [0, 0, 1, 1, 2, 2]
    assert windows.labelled.labels.tolist() == pytest.approx([0, 0, 1, 1, 0.4, 0.4])
    assert windows.provenance["pairs"] == 3 and windows.provenance["scores"] == "1 to 3.5, as 0 to 1"
    assert windows.provenance["cut"] == 1 and not windows.types.any()
    one = load_tokens(f"examples:{path}[1:]", embedder(), length=8, samples=1)
    assert len(one) == 2 and one.provenance["scores"] == "1 to 3.5, as 0 to 1"
    together = load_tokens(f"examples:{path}", tokenizer=tokenizer, length=20)
    assert len(together) == 3 and together.labelled.pairs is None and together.labelled.labels.tolist() == [1, 3.5, 2]


def test_a_repeated_sentence_takes_its_pair_out_of_the_held_out_text(tmp_path):
    rows = [(f"{a} {b}", f"{b} {a} is", number) for number, (a, b) in enumerate(permutations("abcdefgh", 2))]
    source = table(tmp_path / "t.tsv", *rows, header="sentence1\tsentence2\tscore")
    other = table(
        tmp_path / "u.tsv", ("a old", rows[20][1], 1), ("b old", "c old", 2), header="sentence1\tsentence2\tscore"
    )
    calibration, held_out = load_tokens(other, embedder(), length=8), load_tokens(source, embedder(), length=8)
    left = disjoint(calibration, {"held": held_out})["held"]
    assert len(left) == len(held_out) - 2 and left.provenance["dropped"] == 2 and 20 not in left.labelled.pairs


@pytest.mark.parametrize(
    ("rows", "header", "message"),
    [
        ([("a", 1.5), ("b", 2.5)], "sentence\tscore", "holds one text an example, 'a'; an encoder without a head"),
        ([("a", "b", 2.5), ("b", "c", 2.5)], "sentence1\tsentence2\tscore", "holds scores of 2.5 only; an encoder"),
        ([("a", "b", 1), ("b", "c", 0)], "sentence1\tsentence2\tlabel", "call the column of labels `score`"),
        ([("a", "b", "x"), ("b", "c", "y")], "sentence1\tsentence2\tlabel", "answers with embedding"),
    ],
)
def test_examples_that_an_encoder_without_a_head_cannot_be_scored_on(tmp_path, rows, header, message):
    with pytest.raises(UsageError, match=message):
        load_tokens(table(tmp_path / "t.tsv", *rows, header=header), embedder(), length=8)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"sentence": "a", "label": 1}\n[1]\n', "line 2: is no JSON object"),
        ('{"sentence": "a", "label": 1}\n{"sentence": "b"}\n', "line 2: 'label' is empty"),
        ('{"words": "a", "label": 1}\n', "no column of its first line \\(words, label\\) is known as the first text"),
    ],
)
def test_json_lines_that_are_no_examples(tmp_path, text, message):
    (tmp_path / "t.jsonl").write_text(text)
    with pytest.raises(DataError, match=message):
        load_tokens(f"examples:{tmp_path / 't.jsonl'}", tiny_answerer(), length=8)


def test_token_types_go_to_models_that_read_them(tmp_path):
    source = table(tmp_path / "t.tsv", ("the cat", "a dog", 1), ("red", "red", 0), header="sentence1\tsentence2\tlabel")
    assert load_tokens(source, tiny_answerer(), length=16).types.max() == 1
    assert load_tokens(source, tiny_answerer("distilbert"), length=16).types is None
    with pytest.raises(UsageError, match="a window of 64 tokens is longer than its context of 48"):
        load_tokens(source, tiny_answerer(), length=64)


# the hub


@pytest.fixture
def hub(monkeypatch):
    """Two GLUE sets and SQuAD as `datasets` would give them; holds the calls."""
    import datasets

    calls = []
    rows = {
        "sst2": ({"sentence": ["the cat", " ", "a dog", "red"], "label": [1, 0, 0, 1]}, ["negative", "positive"]),
        "mnli": (
            {"premise": ["the cat"] * 3, "hypothesis": ["a", "b", "c"], "label": [0, 1, 2]},
            ["entailment", "neutral", "contradiction"],
        ),
        "stsb": ({"sentence1": ["the cat"] * 2, "sentence2": ["a", "b"], "label": [4.5, -1.0]}, None),
        "wnli": ({"sentence1": ["the"], "sentence2": ["a"], "label": [-1]}, ["not_entailment", "entailment"]),
        "rte": ({"sentence1": ["the"], "sentence2": ["a"], "label": [0]}, ["no", "yes"]),
        "plain_text": (
            {
                "question": ["who ?", "who is red ?"],
                "context": ["the old cat sees the dog", "the cat is red"],
                "answers": [
                    {"text": ["old cat", "cat", "cat"], "answer_start": [4, 8, 8]},
                    {"text": ["dog"], "answer_start": [3]},
                ],
            },
            None,
        ),
    }

    def load(path, config, *, split, revision, **options):
        calls.append((path, config, split, revision, options))
        columns, names = rows[config]
        made = datasets.Dataset.from_dict(columns)
        return made.cast_column("label", datasets.ClassLabel(names=names)) if names else made

    monkeypatch.setattr(datasets, "load_dataset", load)
    return calls


def test_sets_of_the_hub_are_read_by_name_at_a_pinned_revision(hub, tokenizer):
    windows = load_tokens("examples:sst2", tokenizer=tokenizer, length=8, split="held-out")
    (
        load_tokens("examples:mnli", tokenizer=tokenizer, length=16, split="held-out"),
        load_tokens("examples:mnli-mismatched/held-out", tokenizer=tokenizer, length=16),
    )
    load_tokens("examples:mnli-mismatched", tokenizer=tokenizer, length=16)
    glue = ("nyu-mll/glue", "bcdcba79d07bc864c1c254ccfcedcce55bcc9a8c")
    asked = (
        ("sst2", "validation"),
        ("mnli", "validation_matched"),
        ("mnli", "validation_mismatched"),
        ("mnli", "train"),
    )
    assert hub == [(glue[0], config, split, glue[1], {}) for config, split in asked]
    assert (
        said(windows, tokenizer) == ["[CLS] the cat [SEP]", "[CLS] a dog [SEP]", "[CLS] red [SEP]"]
        and windows.label == "examples:sst2/validation"
    )
    assert windows.labelled.classes == ("negative", "positive") and windows.labelled.labels.tolist() == [1, 0, 1]
    assert (windows.provenance["unusable"], windows.provenance["documents"], windows.provenance["available"]) == (
        1,
        4,
        4,
    )
    model = tiny_answerer(classes=("Contradiction", "Neutral", "Entailment"))
    assert load_tokens("examples:mnli[:2]", model, length=16).labelled.labels.tolist() == [2, 1]
    assert len(load_tokens("examples:sst2", tokenizer=tokenizer, samples=3, length=8, seed=3)) == 3


def test_squad_keeps_every_accepted_answer(hub, tokenizer):
    windows = load_tokens("examples:squad", tokenizer=tokenizer, length=24)
    assert (
        windows.labelled.texts == (("the old cat sees the dog", "old cat", "cat"),)
        and windows.provenance["unusable"] == 1
    )
    assert (
        tokenizer.decode(windows.ids[0, windows.labelled.labels[0, 0] : windows.labelled.labels[0, 1] + 1]) == "old cat"
    )


def test_rows_without_labels_and_other_classes_are_refused(hub, tokenizer):
    with pytest.raises(DataError, match="examples:stsb/validation, row 1: has no label .-1.0."):
        load_tokens("examples:stsb/validation", tokenizer=tokenizer, length=16)
    with pytest.raises(DataError, match="examples:wnli, row 0: has no label .-1."):
        load_tokens("examples:wnli", tokenizer=tokenizer, length=16)
    with pytest.raises(
        DataError, match="nyu-mll/glue has the classes no, yes and not entailment, not_entailment; give a local table"
    ):
        load_tokens("examples:rte", tokenizer=tokenizer, length=16)


def test_a_hub_out_of_reach_gives_one_message_with_the_way_out(monkeypatch, tokenizer):
    import datasets

    def load(*arguments, **options):
        raise ConnectionError("Couldn't reach 'nyu-mll/glue' on the Hub\nsecond line")

    monkeypatch.setattr(datasets, "load_dataset", load)
    with pytest.raises(
        DataError,
        match=(
            "examples:sst2: cannot fetch nyu-mll/glue .*Without network, give a local table instead"
            " .examples:PATH.tsv., or"
        ),
    ) as caught:
        load_tokens("examples:sst2", tokenizer=tokenizer, samples=2, length=16)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
@pytest.mark.real_assets
def test_the_real_tables_of_glue(assets, tokenizer):
    reader = byte_tokenizer(pad_token="_", unk_token="_")
    sentiment = load_tokens(f"examples:{assets}/glue/SST-2/dev.tsv", tokenizer=reader, length=300)
    assert len(sentiment) == 872 and sentiment.labelled.classes == ("0", "1") and sentiment.labelled.labels.sum() == 444
    pairs = load_tokens(f"examples:{assets}/glue/STS-B/train.tsv", tokenizer=reader, samples=64, length=300)
    assert (
        pairs.provenance["available"] == 5749
        and pairs.labelled.head == "regression"
        and 0 <= pairs.labelled.labels.min() <= pairs.labelled.labels.max() <= 5
    )


@pytest.mark.parametrize(("rows", "token"), [(None, 9), (10, 9), (9, 2), (2, 0)])
def test_padding_is_a_token_that_the_model_embeds(rows, token):
    assert pad_id(SimpleNamespace(pad_token_id=9, eos_token_id=2), rows) == token
