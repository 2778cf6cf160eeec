"""Studies: every job once, whatever happens in between, and one table of each kind back."""

import json
import os
import subprocess
import sys
import time
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from analysis import paths, schema
from analysis.errors import DataError, NumericalError, RecipeError, StoreError, UsageError
from analysis.recipe.recipe import Recipe
from analysis.recipe.words import CRITERION_WORDS
from analysis.study.job import Contents, Job, grid
from analysis.study.run import run_job
from analysis.study.store import RunFolder, list_runs
from analysis.study.sweep import run_study
from tests.helpers import fakes
from tests.helpers.fakes import lines


def python(code: str, home: Path, **options) -> subprocess.Popen:
    env = {**os.environ, "ANALYSIS_HOME": str(home)}
    return subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=paths.ROOT,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def script(job: Job, log: Path, **install) -> str:
    """Code that runs `job` with the fakes in place, in a process of its own."""
    return f"""
from pathlib import Path
from tests.helpers import fakes
from analysis import storage
from analysis.study.job import Job
from analysis.study.run import run_job
fakes.install(Path({str(log)!r}), **{install!r})
job = Job(**{job.to_dict()!r})
"""


# Jobs
# ------------------------------------------------------------------------------------------------------------------


def test_a_job_is_plain_and_comes_back_from_its_dict(job_args):
    job = Job(**job_args)
    assert job.recipe == Recipe.parse("wanda-50% BR") and job.held_out == (("other", job_args["held_out"]["other"]),)
    assert Job(**json.loads(json.dumps(job.to_dict()))) == job
    assert hash(job) == hash(Job(**job_args))
    full = Job(**job_args, added="self:top-p=0.9", added_samples=3, tasks=["lab:yes-no"], documents=7)
    assert Job(**json.loads(json.dumps(full.to_dict()))) == full != job and full.tasks == ("lab:yes-no",)
    assert "4 x 8 tokens of" in str(job) and "and 3 of self:top-p=0.9, seed 0" in str(full)
    assert Job(**job_args, added="") == job


@pytest.mark.parametrize(
    "wrong, said",
    [
        ({"held_out": [("a", "lab:stories"), ("a", "lab:mixed")]}, "held_out: two texts are labelled 'a'"),
        ({"held_out": {"calibration": "lab:stories"}}, "'calibration' is taken by the calibration text"),
        ({"held_out": {"": "lab:stories"}}, "empty label"),
        ({"held_out": {"a": "lab:storys"}}, "unknown register 'storys'"),
        ({"calibration": "a.txt[80%:20%]"}, "selects nothing"),
        ({"samples": 0}, "samples must be a whole number of at least 1, got 0"),
        ({"samples": -3}, "got -3"),
        ({"samples": True}, "got True"),
        ({"held_out_samples": 0}, "held_out_samples must be"),
        ({"length": 1}, "length must be a whole number of at least 2, got 1"),
        ({"length": 8.5}, "got 8.5"),
        ({"seed": -1}, "seed must be"),
        ({"added": "lab:storys"}, "unknown register 'storys'"),
        ({"added_samples": 3}, "added and added_samples go together: a source, and how many windows of it"),
        ({"added": "lab:stories", "added_samples": -1}, "added_samples must be a whole number of at least 0, got -1"),
        ({"added": "lab:stories", "added_samples": 1.5}, "added_samples must be"),
        ({"tasks": ["lab:story-endign"]}, "story-ending"),
        ({"tasks": ["lab:yes-no"], "documents": 1}, "documents must be a whole number of at least 2, got 1"),
        (
            {"added": ["self"], "added_samples": 2, "tasks": ["lab:yes-no", 3]},
            "source ['self'], task 3: must be a text",
        ),
        ({"dtype": "float8"}, "dtype must be one of auto, float32, bfloat16, float16, got 'float8'"),
        ({"device": "gpu"}, "device must be auto, cpu, mps, cuda or cuda:NUMBER, got 'gpu'"),
        ({"mode": "sideways"}, "mode must be one of stream, crop, documents, got 'sideways'"),
        ({"recipe": "flap-neurons-50% LIAR[penalty=held-out]", "samples": 1}, "penalty=held-out sets some of the"),
        ({"validation": "lab:entries"}, "validation: wanda-50% BR selects nothing on it; add select=held-out"),
        ({"full_test": True, "held_out": {"a": "lab:stories"}}, "full_test: lab:stories/held-out: lab text has no end"),
        ({"full_test": True, "held_out": {}}, "full_test: there is no held-out text; give one"),
        ({"full_test": 1}, "full_test must be True or False, got 1"),
        ({"placement": "disk"}, "placement must be one of resident, streamed, got 'disk'"),
        ({"placement": "streamed", "recipe": "wanda-50% retrain"}, "retraining changes the whole model at once"),
        ({"held_out_every": 0}, "held_out_every must be a whole number of epochs of at least 1, end or auto, got 0"),
        ({"recipe": 3}, "recipe must be a Recipe or its text, got 3"),
        ({"held_out": "x.txt"}, "held_out must be {label: source}, such as {'stories': 'lab:stories'}"),
        ({"held_out": ["x.txt"]}, "held_out must be {label: source}"),
        ({"held_out": 3}, "or pairs of them, got 3"),
        ({"held_out": {3: "lab:stories"}}, "held_out: labels must be texts, got 3"),
        ({"model": None}, "model must be a name or a folder, got None"),
        ({"separator": 3}, "separator must be a text or None, got 3"),
        ({"tasks": 3}, "tasks must be a list, got 3"),
        ({"token_kinds": -1}, "token_kinds must be a whole number of at least 0, got -1"),
        ({"expert_errors": 1}, "expert_errors must be True or False, got 1"),
        (
            {"expert_errors": True, "recipe": "reap-experts-25% LR"},
            "takes whole experts out, and those that stay are as",
        ),
        ({"expert_errors": True, "placement": "streamed"}, "the dense model runs whole for it"),
        ({"seed": "x"}, "seed must be a whole number of at least 0, got 'x'"),
        ({"seed": 2**70}, "seed must be a whole number from 0 to 2^63 - 1, got one of 71 bits"),
        ({"samples": 10**5000}, "samples must be a whole number from 1 to"),
        ({"samples": -(10**5000)}, "samples must be a whole number from 1 to"),
        ({"length": float("nan")}, "length must be a whole number of at least 2, got nan"),
    ],
)
def test_wrong_jobs(job_args, wrong, said):
    with pytest.raises(UsageError) as caught:
        Job(**job_args | wrong)
    assert said in str(caught.value)


def test_everything_wrong_with_a_job_at_once(job_args):
    with pytest.raises(UsageError) as caught:
        Job(**job_args | {"samples": 0, "length": 0, "dtype": "f", "held_out": {"calibration": "lab:x"}})
    for item in ("samples", "length", "dtype", "'calibration'", "'x'"):
        assert item in str(caught.value)
    with pytest.raises(RecipeError):
        Job(**job_args | {"recipe": "wnada-50% BR"})


def test_grid_is_every_combination(job_args):
    del job_args["samples"], job_args["recipe"]
    jobs = grid(recipes=["wanda-50% LR", Recipe.parse("magnitude-2:4 BR")], samples=[4, 8], seeds=[0, 1, 2], **job_args)
    assert len(set(jobs)) == 12
    assert all(job.recipe.seed == job.seed for job in jobs)
    assert {(job.recipe.label, job.samples, job.seed) for job in jobs} == {
        (recipe, samples, seed)
        for recipe in ("wanda-50% LR", "magnitude-2:4 BR")
        for samples in (4, 8)
        for seed in (0, 1, 2)
    }
    added = grid(
        recipes=["wanda-50% LR"],
        samples=[4, 8],
        added="self",
        added_samples=[0, 2],
        tasks=["lab:yes-no"],
        documents=5,
        **job_args,
    )
    assert [(job.samples, job.added, job.added_samples, job.tasks, job.documents) for job in added] == [
        (samples, "self", more, ("lab:yes-no",), 5) for samples in (4, 8) for more in (0, 2)
    ]
    assert grid(recipes=["wanda-50% LR"], samples=4, **job_args) == [Job(**job_args, recipe="wanda-50% LR", samples=4)]
    with pytest.raises(UsageError, match=r"seeds=\[3\]"):
        grid(recipes=["wanda-50% BR[seed=3]"], samples=4, **job_args)
    assert grid(recipes=[], samples=4, **job_args) == []


def test_grid_takes_one_thing_for_a_list_of_it(job_args):
    del job_args["recipe"], job_args["samples"]
    one = grid(recipes="wanda-50% LR", samples=4, seeds=3, **job_args)
    assert one == grid(recipes=["wanda-50% LR"], samples=[4], seeds=[3], **job_args) and len(one) == 1
    assert (
        grid(recipes=Recipe.parse("wanda-50% LR"), samples=4, seeds=3, **job_args | {"model": Path(job_args["model"])})
        == one
    )


@pytest.mark.parametrize(
    "wrong, said",
    [
        ({"recipes": 3}, "recipes must be a list, got 3"),
        ({"recipes": [3]}, "grid: a recipe must be a Recipe or its text, got 3"),
        ({"recipes": {"a": "wanda-50% LR"}}, "recipes must be a list"),
        ({"samples": 2.5}, "samples must be a list, got 2.5"),
        ({"samples": [float("nan")]}, "samples must be a whole number of at least 1, got nan"),
        ({"samples": "4"}, "samples must be a whole number of at least 1, got '4'"),
        ({"seeds": [-1]}, "each of seeds must be a whole number of at least 0, got -1"),
        ({"seeds": "x"}, "each of seeds must be a whole number of at least 0, got 'x'"),
        ({"seeds": [2**70]}, "each of seeds must be a whole number from 0 to 2^63 - 1"),
        ({"seeds": None}, "seeds must be a list, got None"),
        ({"held_out": "x.txt"}, "held_out must be {label: source}"),
        ({"sample": 4}, "sample: did you mean 'samples'?"),
        ({"seed": 4}, "seed: did you mean 'seeds'?"),
    ],
)
def test_wrong_grids(job_args, wrong, said):
    del job_args["recipe"]
    with pytest.raises(UsageError) as caught:
        grid(**{"recipes": ["wanda-50% LR"]} | job_args | wrong)
    assert said in str(caught.value)


@pytest.mark.parametrize("wrong", [3, None, "wanda-50% LR", [3], {"a": 1}])
def test_what_is_no_job_is_refused(wrong):
    with pytest.raises(UsageError, match="study: jobs must be Jobs, such as `grid` makes"):
        run_study(wrong)


# Digests
# ---------------------------------------------------------------------------------------------------------------


def test_the_digest_is_of_contents_not_of_names(job_args, tmp_path):
    digest = Job(**job_args).digest()
    os.rename(tmp_path / "a.txt", tmp_path / "c.txt")
    os.rename(tmp_path / "model", tmp_path / "same-model")
    moved = job_args | {"calibration": str(tmp_path / "c.txt"), "model": str(tmp_path / "same-model")}
    assert Job(**moved).digest() == digest
    assert Job(**moved | {"recipe": "wanda-50.0%[group=row] BR[epochs=10]"}).digest() == digest
    assert Job(**moved | {"held_out_samples": 4}).digest() == digest
    untrained = {"recipe": "wanda-50% LR"}
    assert Job(**moved | untrained | {"held_out_every": 5}).digest() == Job(**moved | untrained).digest()
    assert not {"held_out_every", "validation content", "full_test"} & Job(**moved).identity().keys(), (
        "as before there were any"
    )
    assert Job(**moved | {"token_kinds": 0}).digest() == digest and "token kinds" not in Job(**moved).identity()
    assert Job(**moved | {"expert_errors": False}).digest() == digest and "expert errors" not in Job(**moved).identity()
    assert Job(**moved | {"placement": "streamed"}).digest() == digest, "the same bits"
    assert Job(**moved | {"added": "self"}).digest() == Job(**moved | {"documents": 7}).digest() == digest, (
        "no windows of it, no tasks"
    )


def flip_one_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("name", ["a.txt", "b.txt", "model/model.safetensors"])
def test_one_byte_of_text_or_weights_changes_the_digest(job_args, tmp_path, name):
    digest = Job(**job_args).digest()
    flip_one_byte(tmp_path / name)
    assert Job(**job_args).digest() != digest


def test_everything_that_matters_changes_the_digest(job_args, monkeypatch):
    changes = [
        {},
        {"recipe": "wanda-50% BR[seed=1]"},
        {"recipe": "wanda-50% LR"},
        {"samples": 5},
        {"held_out_samples": 9},
        {"length": 9},
        {"seed": 1},
        {"dtype": "bfloat16"},
        {"device": "cuda"},
        {"separator": "\n"},
        {"mode": "documents"},
        {"recipe": "flap-neurons-50% LR"},
        {"recipe": "flap-neurons-50% LR", "shrink": True},
        {"held_out": {}},
        {"calibration": job_args["calibration"] + "[:50%]"},
        {"held_out": {"renamed": job_args["held_out"]["other"]}},
        {"calibration": "lab:stories"},
        {"calibration": "lab:stories/held-out"},
        {"added": "lab:stories", "added_samples": 1},
        {"added": "lab:stories", "added_samples": 2},
        {"added": "self", "added_samples": 2},
        {"added": "self:top-p=0.9", "added_samples": 2},
        {"recipe": "wanda-50%[added=all] BR"},
        {"tasks": ["lab:yes-no"]},
        {"tasks": ["lab:yes-no"], "documents": 7},
        {"tasks": ["lab:yes-no", "lab:pronouns"]},
        {"full_test": True},
        {"held_out_every": 1},
        {"held_out_every": "end"},
        {"recipe": "wanda-50% BR[select=held-out]"},
        {"recipe": "wanda-50% BR[select=held-out]", "validation": "lab:recipes"},
        {"recipe": "wanda-50% BR[select=held-out]", "validation": "lab:stories"},
        {"token_kinds": 2},
        {"token_kinds": 3},
        {"expert_errors": True},
    ]
    digests = [Job(**job_args | change).digest() for change in changes]
    monkeypatch.setattr("analysis.storage.SCHEMA", 99)
    digests.append(Job(**job_args).digest())
    assert len(set(digests)) == len(digests)
    assert Job(**job_args | {"device": "cuda:1"}).digest() == Job(**job_args | {"device": "cuda"}).digest()


def test_what_a_word_computes_anew_is_another_run_of_the_recipes_that_have_it(job_args, monkeypatch):
    jobs = [Job(**job_args | {"recipe": f"{criterion}-50% BR"}) for criterion in ("wanda", "ria")]
    before = [job.digest() for job in jobs]
    monkeypatch.setitem(CRITERION_WORDS, "wanda", replace(CRITERION_WORDS["wanda"], revision=99))
    assert jobs[0].digest() != before[0] and jobs[1].digest() == before[1]


def test_the_text_a_model_writes_is_that_model_s(job_args, tmp_path):
    """The weights decide what `self` says: the digest of the source changes with them, not only that of the model."""
    job = Job(**job_args, added="self", added_samples=2)
    before = job.identity(Contents())["added content"]
    flip_one_byte(tmp_path / "model" / "model.safetensors")
    assert before is not None and job.identity(Contents())["added content"] != before


@pytest.fixture
def task_file(tmp_path):
    path = tmp_path / "tasks.jsonl"
    path.write_text(
        "".join(
            json.dumps({"query": f"{n} plus {n} is", "choices": [str(2 * n), str(2 * n + 1)], "gold": 0}) + "\n"
            for n in range(9)
        )
    )
    return path


def test_one_byte_of_a_task_changes_the_digest(job_args, task_file):
    digest = Job(**job_args, tasks=[str(task_file)]).digest()
    assert Job(**job_args, tasks=[str(task_file)]).digest() == digest
    task_file.write_text(task_file.read_text().replace("8 plus", "7 plus"))
    assert Job(**job_args, tasks=[str(task_file)]).digest() != digest


# Running
# ---------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_study_is_one_table_of_each_kind(home, calls, job_args):
    del job_args["samples"], job_args["recipe"]
    jobs = grid(recipes=["wanda-50% LR", "sparsegpt-2:4 BR[epochs=2]"], samples=[4, 8], seeds=[0, 1], **job_args)
    study = run_study(jobs)
    for name in schema.TABLES:
        table = getattr(study, name)
        assert [(c, str(t)) for c, t in table.dtypes.items()] == [(c.name, c.dtype) for c in schema.study_columns(name)]
        assert len(table) == (0 if name in ("steps", "zero_shot") else 16)
    first = study.blocks[study.blocks.samples == 8]
    assert list(first.recipe) == ["wanda-50% LR"] * 4 + ["sparsegpt-2:4 BR[epochs=2]"] * 4
    assert list(first.seed) == [0, 0, 1, 1] * 2 and set(first.criterion) == {"wanda", "sparsegpt"}
    assert list(first.error[first.seed == 1]) == [0.5] * 4, "the fake's error grows with the seed"
    assert set(study.perplexity.which) == {"dense", "pruned"} and set(study.perplexity.model) == {job_args["model"]}
    assert study.jobs == tuple(jobs) and set(study.provenance["runs"]) == set(study.blocks.run)
    assert len(lines(calls, "load")) == 1, "one model for all jobs"
    assert len(lines(calls, "tokens")) == len(set(lines(calls, "tokens"))) == 8, "2 texts x 2 counts x 2 seeds"
    assert {line.split()[-1] for line in lines(calls, "tokens a.txt")} == {"train"}
    assert {line.split()[-1] for line in lines(calls, "tokens b.txt")} == {"held-out"}

    again = run_study(reversed(jobs))
    assert len(lines(calls, "prune")) == 8, "nothing is done twice"
    assert again.jobs == tuple(reversed(jobs)) and list(again.blocks.run) == list(study.blocks.run)[::-1], (
        "in the order of the jobs"
    )


@pytest.mark.slow
def test_added_windows_and_tasks_are_in_every_table(home, calls, job_args):
    del job_args["samples"], job_args["recipe"]
    jobs = grid(
        recipes=["wanda-50% LR", "wanda-50% BR"],
        samples=4,
        added="lab:stories",
        added_samples=[0, 2],
        tasks=["lab:yes-no", "lab:pronouns"],
        documents=5,
        **job_args,
    )
    study = run_study(jobs)
    assert (
        list(study.zero_shot.which) == (["dense"] * 2 + ["pruned"] * 2) * 4
        and list(study.zero_shot.task) == ["lab:yes-no", "lab:pronouns"] * 8
    )
    assert set(study.zero_shot.accuracy[study.zero_shot.which == "pruned"]) == {0.375} and set(
        study.zero_shot.documents
    ) == {5}
    assert (
        lines(calls, "tasks dense") == ["tasks dense lab:yes-no lab:pronouns 5"]
        and len(lines(calls, "tasks pruned")) == 4
    ), "the dense model is asked once"
    assert len(study.cost[study.cost.stage == "tasks"]) == 4
    assert list(study.texts.added_samples) == [0, 0, 0, 0, 2, 2, 2, 2] and set(study.texts.added) == {"lab:stories"}
    assert set(study.texts.calibration) == {job_args["calibration"]}
    seen = {run: about["calibration"] for run, about in study.provenance["runs"].items()}
    assert [len(text) for text in seen.values()] == [2, 2, 4, 4]
    assert {line.split()[1:3][1] for line in lines(calls, "tokens lab:stories")} == {"2"}
    again = run_study(
        [Job(**job_args, recipe="wanda-50% LR", samples=4, tasks=["lab:yes-no", "lab:pronouns"], documents=5)]
    )
    assert len(lines(calls, "prune")) == 4 and set(again.texts.added) == {""}, "no window added is the run without"


@pytest.mark.slow
def test_other_documents_are_asked_anew(home, calls, job_args):
    run_study([Job(**job_args, tasks=["lab:yes-no"], documents=documents) for documents in (5, 7)])
    assert lines(calls, "tasks dense") == ["tasks dense lab:yes-no 5", "tasks dense lab:yes-no 7"]


@pytest.mark.slow
def test_a_recipe_s_own_seed_shows_where_it_is_not_the_job_s(home, calls, job_args):
    jobs = [Job(**job_args | {"recipe": f"wanda-50% BR[seed={seed}]"}) for seed in (0, 1)]
    assert list(run_study(jobs).blocks.recipe.unique()) == ["wanda-50% BR", "wanda-50% BR[seed=1]"]


@pytest.mark.slow
def test_equal_jobs_are_one_and_none_is_an_error(home, calls, job_args):
    study = run_study([Job(**job_args), Job(**job_args)])
    assert len(study.jobs) == 1 and len(study.blocks) == 2
    with pytest.raises(UsageError, match="no jobs"):
        run_study([])


@pytest.mark.slow
def test_one_model_by_two_names_is_one_run_and_two_rows(home, calls, job_args, tmp_path):
    os.symlink(tmp_path / "model", tmp_path / "alias")
    study = run_study([Job(**job_args), Job(**job_args | {"model": str(tmp_path / "alias")})])
    assert len(lines(calls, "prune")) == 1 and study.blocks.model.nunique() == 2 and study.blocks.run.nunique() == 1


@pytest.mark.slow
def test_a_failing_job_is_named_and_the_others_are_kept(home, calls, job_args, monkeypatch):
    fakes.install(calls, fail="BR+GP", setitem=monkeypatch.setitem, setattr_=monkeypatch.setattr)
    jobs = [Job(**job_args | {"recipe": f"wanda-50% {method}"}) for method in ("LR", "BR+GP", "BR")]
    with pytest.raises(
        NumericalError, match=r"job wanda-50% BR\+GP on .*model, 4 x 8 tokens of .*a.txt, seed 0: block 0 mlp.down_proj"
    ):
        run_study(jobs)
    assert sorted(info.state for info in list_runs()) == ["complete", "complete", "incomplete"]
    fakes.install(calls, setitem=monkeypatch.setitem, setattr_=monkeypatch.setattr)
    run_study(jobs)
    asked = [" ".join(line.split()[1:4]) for line in lines(calls, "prune")]
    assert asked == ["wanda-50% LR fresh", "wanda-50% BR+GP fresh", "wanda-50% BR fresh", "wanda-50% BR+GP resumed"]


@pytest.mark.slow
def test_several_failing_jobs_are_told_and_an_interrupt_says_what_is_kept(home, calls, job_args, monkeypatch, caplog):
    fakes.install(calls, fail="BR", setitem=monkeypatch.setitem, setattr_=monkeypatch.setattr)
    jobs = [Job(**job_args | {"seed": seed}) for seed in range(3)]
    with pytest.raises(NumericalError, match="seed 0: block 0"):
        run_study(jobs)
    assert "2 more of 3 jobs failed" in caplog.text and "seed 1; " in caplog.text

    def interrupted(*options):
        raise KeyboardInterrupt

    monkeypatch.setattr("analysis.study.run.store_run", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_study(jobs)
    assert caplog.messages[-1] == "study interrupted: 0 of 3 runs are stored, the same call goes on from there"


@pytest.mark.slow
def test_every_job_has_the_threads_its_model_is_worth(home, calls, job_args, monkeypatch):
    """Here and in workers alike, and whatever is left to do: the count comes with the job."""
    seen = []
    checkpoint = sys.modules["analysis.pruning.checkpoint"]
    monkeypatch.setattr(checkpoint, "computing_with", lambda threads: seen.append(threads) or nullcontext())
    monkeypatch.setattr("analysis.study.sweep.threads", lambda model, cpus=None: 3)
    run_study([Job(**job_args)], workers=1)
    assert seen == [3]
    given = []
    monkeypatch.setattr(
        "analysis.study.executor.spread",
        lambda function, items, **options: given.extend(item[2] for item in items) or iter(enumerate([None] * 2)),
    )
    with pytest.raises(StoreError, match="holds no finished run"):
        run_study([Job(**job_args | {"seed": seed}) for seed in (1, 2)], workers=2)
    assert given == [3, 3]
    monkeypatch.setattr(checkpoint, "kept_threads", lambda folder: 2)
    run_study([Job(**job_args | {"seed": 1})], workers=1)
    assert seen == [3, 2], "an interrupted run goes on with those it began with"


def test_a_missing_text_is_named_before_anything_is_run(home, calls, job_args):
    jobs = [Job(**job_args), Job(**job_args | {"calibration": "nowhere.txt"})]
    with pytest.raises(DataError, match="job wanda-50% BR on .*nowhere.txt.*no such file"):
        run_study(jobs)
    assert not calls.read_text()


@pytest.mark.slow
def test_an_edited_table_is_redone(home, calls, job_args):
    job = Job(**job_args)
    before = run_job(job)
    path = RunFolder(job.digest()).path / "blocks.parquet"
    pd.read_parquet(path).assign(error=0.0).to_parquet(path)
    after = run_job(job)
    assert len(lines(calls, "prune")) == 2
    pd.testing.assert_frame_equal(after.tables["blocks"], before.tables["blocks"], check_exact=True)


@pytest.mark.slow
def test_each_model_is_loaded_once_whatever_the_order_of_the_jobs(home, calls, job_args, tmp_path):
    other = fakes.model_folder(tmp_path / "other", weights=bytes(8))
    jobs = [
        Job(**{**job_args, "model": model, "seed": seed})
        for seed in (0, 1)
        for model in (job_args["model"], str(other))
    ]
    study = run_study(jobs, progress=False, workers=1)
    assert lines(calls, "load") == ["load model", "load other"]
    assert study.jobs == tuple(jobs) and list(dict.fromkeys(zip(study.blocks.model, study.blocks.seed))) == [
        (job.model, job.seed) for job in jobs
    ]


@pytest.mark.slow
def test_killed_between_two_tables_is_redone_from_the_checkpoint(home, calls, job_args):
    job = Job(**job_args)
    kill = """
import os
put, names = storage.write, []
def dying(path, data):
    names.append(path.name)
    if len(names) == 4:
        path.with_name(f".{path.name}.partial").write_bytes(data[:10])
        os._exit(9)
    put(path, data)
storage.write = dying
run_job(job)
"""
    process = python(script(job, calls) + kill, home)
    process.communicate()
    assert process.returncode == 9
    (info,) = list_runs()
    assert info.state == "incomplete" and info.job["samples"] == 4
    left = os.listdir(RunFolder(job.digest()).path)
    assert sum(name.endswith(".parquet") for name in left) == 2 and "checkpoint" in left
    stored = run_job(job)
    assert [line.split()[3] for line in lines(calls, "prune")] == ["fresh", "resumed"]
    for name in schema.TABLES:
        pd.testing.assert_frame_equal(
            stored.tables[name], schema.validate(name, fakes.tables()[name]), check_exact=True
        )
    assert sorted(os.listdir(RunFolder(job.digest()).path)) == sorted(
        [
            "job.json",
            "manifest.json",
            "provenance.json",
            *(f"{n}.parquet" for n, table in fakes.tables().items() if len(table)),
        ]
    )


@pytest.mark.slow
def test_two_processes_do_a_run_once(home, calls, job_args):
    job = Job(**job_args)
    code = script(job, calls, seconds=1.5) + "print(float(run_job(job).tables['blocks'].error.sum()))"
    processes = [python(code, home) for _ in range(2)]
    answers = [process.communicate() for process in processes]
    assert [process.returncode for process in processes] == [0, 0], answers
    assert len(lines(calls, "prune")) == 1
    assert answers[0][0] == answers[1][0] == "0.5\n"


@pytest.mark.slow
def test_a_killed_process_leaves_no_lock(home, calls, job_args):
    job = Job(**job_args)
    process = python(script(job, calls, seconds=60) + "run_job(job)", home)
    while not lines(calls, "prune") and process.poll() is None:
        time.sleep(0.05)
    process.kill()
    process.communicate()
    run_job(job)
    assert [line.split()[3] for line in lines(calls, "prune")] == ["fresh", "resumed"]


@pytest.mark.slow
def test_a_stored_study_is_read_without_torch(home, calls, job_args):
    job = Job(**job_args)
    run_study([job])
    code = f"""
import sys
from analysis.study.job import Job
from analysis.study.sweep import run_study
study = run_study([Job(**{job.to_dict()!r})], workers=2)
assert len(study.blocks) == 2
assert not {{"torch", "transformers", "datasets"}} & set(sys.modules)
"""
    process = python(code, home)
    _, error = process.communicate()
    assert process.returncode == 0, error


@pytest.mark.slow
def test_part_of_a_study_is_the_study_of_those_jobs(home, calls, job_args):
    jobs = [
        Job(**job_args | {"recipe": f"wanda-50% {method}", "seed": seed}) for method in ("LR", "BR") for seed in (0, 1)
    ]
    whole = run_study(jobs)
    part, alone = whole.part([jobs[3], jobs[0], jobs[3]]), run_study([jobs[3], jobs[0]])
    assert (
        part.jobs == alone.jobs == (jobs[3], jobs[0])
        and part.runs == alone.runs
        and part.provenance == alone.provenance
    )
    for name in schema.TABLES:
        pd.testing.assert_frame_equal(getattr(part, name), getattr(alone, name), check_exact=True)
    with pytest.raises(UsageError, match="part of a study: 1 of 2 jobs are not in it, the first is wanda-50% BR on"):
        whole.part([jobs[0], replace(jobs[3], seed=2)])


def tiny_world(folder) -> dict:
    """A small random Llama that reads bytes, and texts for it, as arguments of `grid`."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from tests.helpers.alphabet import END, byte_tokenizer

    tokenizer = byte_tokenizer(eos_token=END)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=64,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        LlamaForCausalLM(config).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    (folder / "text.txt").write_text(
        "\n\n".join(f"Story {n}: the {n * n} of {n * 7 % 31} went to {n**3}." for n in range(200))
    )
    return {
        "model": str(folder / "model"),
        "calibration": f"{folder}/text.txt[:60%]",
        "held_out": {"rest": f"{folder}/text.txt[60%:]"},
        "samples": 4,
        "held_out_samples": 3,
        "length": 16,
    }


@pytest.mark.slow
def test_a_study_of_structures_measures_the_smaller_models(home, tmp_path):
    given, recipes = tiny_world(tmp_path), ["flap-neurons-50% LIAR", "snip-structures-40%[scope=global] LIAR+GP"]
    study = run_study(grid(**given, recipes=recipes, shrink=True), workers=1)
    assert (
        set(study.size.which) == {"dense", "pruned"}
        and len(study.size) == 4
        and set(study.size.pattern) == {"neurons-50%", "structures-40%"}
    )
    parameters = study.size.pivot(index="recipe", columns="which", values="parameters")
    assert (
        (parameters["pruned"] < parameters["dense"]).all()
        and (study.structures.kept >= 1).all()
        and set(study.layers.action) == {"liar"}
    )
    plain = run_study(grid(**given, recipes=recipes[:1]), workers=1)
    assert plain.size.empty and plain.jobs[0].digest() != study.jobs[0].digest()
    with pytest.raises(UsageError, match="shrink: wanda-50% LR removes single weights"):
        grid(**given, recipes=["wanda-50% LR"], shrink=True)


@pytest.mark.long
@pytest.mark.slow
def test_a_real_study_of_a_tiny_model(home, tmp_path, monkeypatch):
    """The true loop behind it all; and the same bits from workers of one thread."""
    given = tiny_world(tmp_path) | {"added": f"{tmp_path}/text.txt[:60%]", "added_samples": 2}
    jobs = grid(**given, recipes=["wanda-50% LR", "sparsegpt-2:4 BR[epochs=2,lr=0.001]"])
    study = run_study(jobs, workers=1)
    assert set(study.blocks.split) == {"calibration", "rest"} and set(study.blocks.block) == {0, 1}
    assert set(study.steps.method) == {"BR"} and set(study.steps.epoch) == {0, 1, 2}
    assert (study.matrices.sparsity == 0.5).all() and len(study.matrices) == 2 * 14
    assert (
        set(study.texts.split) == {"rest"}
        and len(study.texts) == 4
        and (study.texts.distance > 0).all()
        and study.zero_shot.empty
    )
    assert set(study.perplexity.windows) == {3, 6} and set(study.perplexity.context) == {16}
    assert (study.cost.seconds > 0).all()
    again = run_study(jobs)
    for name in schema.TABLES:
        pd.testing.assert_frame_equal(getattr(again, name), getattr(study, name), check_exact=True)
    monkeypatch.setenv("ANALYSIS_HOME", str(tmp_path / "other"))
    apart = run_study(jobs, workers=2)
    assert (apart.cost.seconds > 0).all() and not apart.cost.equals(study.cost), "done again"
    for name in schema.TABLES.keys() - {"cost"}:
        pd.testing.assert_frame_equal(getattr(apart, name), getattr(study, name), check_exact=True)


@pytest.mark.slow
def test_the_losses_of_both_models_by_kind_of_word_are_stored(home):
    common = dict(model="lab/tiny", samples=2, length=16, calibration="lab:mixed", token_kinds=3)
    study = run_study(grid(recipes=["wanda-70% LR", "wanda-30% LR"], **common), workers=1, progress=False)
    rows = study.token_kinds.set_index(["pattern", "which", "kind"])["nats_per_token"].unstack("kind")
    assert rows.loc["70%", "dense"].equals(rows.loc["30%", "dense"])
    assert rows.loc[("70%", "pruned"), "name"] > rows.loc[("30%", "pruned"), "name"] > 0
    assert run_study(grid(recipes=["wanda-70% LR"], **common | {"token_kinds": 0})).token_kinds.empty


@pytest.mark.slow
def test_what_became_of_every_expert_is_stored_for_every_text(home):
    common = dict(samples=2, length=16, calibration="lab:mixed", held_out={"news": "lab:news"}, expert_errors=True)
    study = run_study(grid(model="lab/experts", recipes=["wanda-50% LR", "wanda-70% LR"], **common), workers=1)
    rows = study.expert_errors.set_index(["pattern", "split", "block", "expert"])
    assert set(rows.index.get_level_values("split")) == {"calibration", "news"} and len(rows) == 2 * 2 * 8 * 8
    assert (rows["share"].groupby(["pattern", "split", "block"]).sum() - 2).abs().max() < 1e-9
    some = rows["relative_error"].dropna().groupby("pattern").mean()
    assert 0 < some["50%"] < some["70%"]
    with pytest.raises(UsageError, match="no mixture of experts"):
        run_study(grid(model="lab/tiny", recipes=["wanda-50% LR"], **common), workers=1)
