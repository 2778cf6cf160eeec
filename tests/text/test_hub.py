"""Datasets of the hub: never a folder of the same name, always at one commit, which their fingerprints hold."""

import datasets
import pytest
from huggingface_hub import HfApi, constants
from huggingface_hub.errors import OfflineModeIsEnabled

from analysis.errors import DataError, UsageError
from analysis.text import hub
from analysis.text.readers import read
from analysis.text.sources import parse_source, source_fingerprint
from tests.helpers.alphabet import byte_tokenizer

OLD, NEW = "a" * 40, "b" * 40


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """An empty cache of the hub's library, and no network."""

    def offline(*arguments, **options):
        raise OfflineModeIsEnabled("offline")

    hub._resolved.cache_clear()
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(HfApi, "dataset_info", offline)
    yield tmp_path / "cache"
    hub._resolved.cache_clear()


def ref(cache, commit, revision="main") -> None:
    path = cache / "datasets--org--name" / "refs" / revision
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(commit)


def test_a_fingerprint_holds_the_commit_that_the_revision_means(cache):
    with pytest.raises(DataError, match="hub:org/name: cannot fetch org/name .revision main.*Without network, give a"):
        source_fingerprint("hub:org/name")
    ref(cache, OLD)
    assert source_fingerprint("hub:org/name") == f"hub:org/name@{OLD}/:train#text"
    ref(cache, NEW)
    assert OLD in source_fingerprint("hub:org/name"), "within a process a name means one text"
    hub._resolved.cache_clear()
    assert NEW in source_fingerprint("hub:org/name")
    assert OLD in source_fingerprint(f"hub:org/name@{OLD}")
    ref(cache, OLD, "refs/pr/1")
    assert OLD in source_fingerprint("hub:org/name@refs/pr/1")


def test_a_folder_of_the_same_name_is_not_read(cache, tmp_path, monkeypatch):
    asked = []

    def load(path, *arguments, revision, **options):
        asked.append((path, revision))
        return datasets.Dataset.from_dict({"text": ["of the hub"]})

    monkeypatch.setattr(datasets, "load_dataset", load)
    monkeypatch.chdir(tmp_path)
    ref(cache, OLD)
    read(parse_source("hub:org/name"))
    (tmp_path / "org/name").mkdir(parents=True)
    read(parse_source("hub:org/name"))
    assert asked == [("org/name", OLD), ("hf://datasets/org/name", OLD)]
    for name in ("hub:../..", "hub:./name", "hub:org/..", "hub:~/name"):
        with pytest.raises(UsageError, match="a hub dataset is written hub:ORG/NAME"):
            parse_source(name)


def test_conversations_and_nested_fields_are_read(monkeypatch):
    turns = [[{"role": "user", "content": f"turn {number}"}] for number in range(3)]
    rows = datasets.Dataset.from_dict({"messages": turns, "data": [{"body": f"text {number}"} for number in range(3)]})
    monkeypatch.setattr(datasets, "load_dataset", lambda *arguments, **options: rows)
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
    name = f"hub:org/name@{OLD}"
    assert read(parse_source(f"{name}[1:]"), tokenizer=tokenizer)[0] == ["<user>turn 1", "<user>turn 2"]
    assert read(parse_source(f"{name}#data.body[:1]"))[0] == ["text 0"]
    with pytest.raises(
        DataError, match="row 0: 'data' is of type dict, not text; name .* as in hub:org/name#data.body"
    ):
        read(parse_source(f"{name}#data"))
    with pytest.raises(DataError, match="has no column 'x'; it has messages, data; name one as hub:ORG/NAME#COLUMN"):
        read(parse_source(f"{name}#x"))


def test_another_commit_out_of_the_cache_is_refused(tmp_path, monkeypatch):
    rows = datasets.Dataset.from_dict({"text": ["a"]})
    folder = tmp_path / NEW
    rows.save_to_disk(folder)
    monkeypatch.setattr(datasets, "load_dataset", lambda *arguments, **options: datasets.load_from_disk(str(folder)))
    assert list(read(parse_source(f"hub:org/name@{NEW}"))[0]) == ["a"]
    with pytest.raises(DataError, match=f"the local cache holds org/name at commit {NEW}, not at {OLD}"):
        read(parse_source(f"hub:org/name@{OLD}"))
