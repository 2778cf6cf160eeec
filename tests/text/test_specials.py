"""Special tokens: what the tokenizer puts around a text, in every mode, and what the option says otherwise."""

import json
from types import SimpleNamespace

import pytest
import torch
from tokenizers.processors import TemplateProcessing

from analysis.errors import UsageError
from analysis.models.load import _name_end
from analysis.text.load import load_tokens
from analysis.text.tokens import specials
from tests.helpers.alphabet import byte_tokenizer
from tests.helpers.writers import tiny_writer

DOCUMENTS = [f"document {number} of a file, long enough" for number in range(12)]


def adding(before: str = "<s>", after: str = ""):
    """A byte tokenizer with <s> = 256 and </s> = 257 that puts these around a text by itself."""
    tokenizer = byte_tokenizer(bos_token="<s>", eos_token="</s>")
    template = " ".join(part for part in (before, "$A", after) if part)
    numbers = {"<s>": tokenizer.bos_token_id, "</s>": tokenizer.eos_token_id}
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=template, special_tokens=list(numbers.items())
    )
    return tokenizer


@pytest.fixture
def path(tmp_path):
    (tmp_path / "a.txt").write_text("\n\n".join(DOCUMENTS))
    return str(tmp_path / "a.txt")


def read(path, tokenizer, **options) -> list[str]:
    windows = load_tokens(path, tokenizer=tokenizer, length=32, **options)
    assert windows.provenance["bos"] == options.get("bos", "auto") and windows.mask[:, 0].all()
    return [tokenizer.decode(row[mask]) for row, mask in zip(windows.ids, windows.mask)]


@pytest.mark.parametrize(
    ("around", "joined"),
    [
        (("<s>", ""), "<s>" + "<s>".join(DOCUMENTS)),
        (("<s>", "</s>"), "".join(f"<s>{document}</s>" for document in DOCUMENTS)),
        (("", ""), "</s>".join(DOCUMENTS)),
    ],
)
def test_a_stream_holds_what_the_tokenizer_puts_around_each_document(around, joined, path):
    tokenizer = adding(*around)
    expected = tokenizer(joined, add_special_tokens=False)["input_ids"]
    windows = load_tokens(path, tokenizer=tokenizer, length=32)
    assert (
        windows.ids.flatten().tolist() == expected[: windows.ids.numel()] and windows.ids.numel() > len(expected) - 32
    )
    none = load_tokens(path, tokenizer=tokenizer, length=32, bos="none").ids.flatten()
    assert torch.equal(none, load_tokens(path, tokenizer=adding("", ""), length=32).ids.flatten())


def test_every_window_of_documents_begins_and_short_ones_end_as_the_tokenizer_has_it(path):
    assert all(text.startswith("<s>document ") for text in read(path, adding(), mode="documents"))
    whole = load_tokens(path, tokenizer=adding("<s>", "</s>"), length=80, mode="documents")
    assert {row[mask][-1].item() for row, mask in zip(whole.ids, whole.mask)} == {257}
    cut = load_tokens(path, tokenizer=adding("<s>", "</s>"), length=20, mode="documents")
    assert cut.mask.all() and (cut.ids[:, 0] == 256).all() and (cut.ids[:, -1] == 257).all()


@pytest.mark.parametrize("mode", ["stream", "crop", "documents"])
@pytest.mark.parametrize("after", ["", "</s>"])
def test_what_a_chat_template_or_a_file_writes_itself_stands_once(after, mode, tmp_path):
    tokenizer = adding("<s>", after)
    tokenizer.chat_template = "{{ bos_token }}{% for m in messages %}{{ m.content }}{% endfor %}{{ eos_token }}"
    rows = [[{"role": "user", "content": text}] for text in DOCUMENTS]
    (tmp_path / "talks.jsonl").write_text("\n".join(json.dumps({"messages": row}) for row in rows))
    (tmp_path / "plain.jsonl").write_text("\n".join(json.dumps({"text": f"{text}</s>"}) for text in DOCUMENTS))
    options = {"mode": mode, "samples": 6}
    talks, plain = (read(str(tmp_path / f"{name}.jsonl"), tokenizer, **options) for name in ("talks", "plain"))
    assert talks == plain and not any("<s><s>" in text or "</s></s>" in text for text in talks)


def test_crops_are_of_documents_with_their_special_tokens(path):
    crops = read(path, adding(), mode="crop", samples=60)
    assert {crop.startswith("<s>") for crop in crops} == {True, False}, "a crop begins where it falls"


@pytest.mark.parametrize("mode", ["stream", "crop", "documents"])
@pytest.mark.parametrize("before", ["<s>", ""])
def test_every_window_may_begin_with_the_token_in_place_of_its_first(mode, before, path):
    tokenizer = adding(before)
    plain, every = (
        load_tokens(path, tokenizer=tokenizer, samples=6, length=32, mode=mode, bos=bos) for bos in ("auto", "every")
    )
    assert (every.ids[:, 0] == 256).all() and "'<s>'" in every.provenance["boundaries"]
    if mode != "documents":
        assert torch.equal(every.ids[:, 1:], plain.ids[:, 1:])
    else:
        assert all(tokenizer.decode(row).startswith("<s>document") for row in every.ids), "nothing of the text is lost"


@pytest.mark.slow
def test_the_lab_and_texts_of_a_model_follow_too():
    loaded = tiny_writer()
    numbers = [("<eos>", loaded.tokenizer.eos_token_id)]
    loaded.tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="<eos> $A", special_tokens=numbers)
    written = load_tokens("self:prefix=2", loaded, samples=4, length=16, mode="documents")
    assert (written.ids[:, 0] == numbers[0][1]).all() and written.provenance[
        "boundaries"
    ] == "'<eos>' before each document"
    mixed = load_tokens("self:prefix=2:0.5+self:prefix=3:0.5", loaded, samples=2, length=16, bos="none")
    assert mixed.provenance["bos"] == "none" == mixed.provenance["parts"][0]["bos"]


def test_a_word_that_is_none_and_a_token_that_is_not_there_are_told(path):
    with pytest.raises(UsageError, match="bos 'evry': is unknown; did you mean 'every'"):
        load_tokens(path, tokenizer=adding(), length=8, bos="evry")
    with pytest.raises(UsageError, match="neither tokenizer nor config names a beginning-of-text token"):
        load_tokens(path, tokenizer=byte_tokenizer(), length=8, bos="every")
    with pytest.raises(UsageError, match="labelled examples have the tokenizer's own special tokens"):
        load_tokens("examples:truth", tokenizer=adding(), samples=1, length=8, bos="every")
    loaded = tiny_writer()
    loaded.model.config.bos_token_id = 3
    assert specials(loaded.tokenizer, "every", model=loaded).head == (3,)


@pytest.mark.parametrize(("named", "end"), [(97, "a"), ([400, 98], "b"), (None, None), (400, None)])
def test_the_end_of_text_token_of_the_config_is_used_where_the_tokenizer_names_none(named, end):
    tokenizer = byte_tokenizer()
    config = SimpleNamespace(eos_token_id=named, get_text_config=lambda: config)
    letters = {97: tokenizer.convert_tokens_to_ids("a"), 98: tokenizer.convert_tokens_to_ids("b"), 400: 400}
    if named is not None:
        config.eos_token_id = [letters[n] for n in named] if isinstance(named, list) else letters[named]
    _name_end(tokenizer, config)
    assert tokenizer.eos_token == end
    own = byte_tokenizer(eos_token="</s>")
    _name_end(own, config)
    assert own.eos_token == "</s>"
