"""Tasks are asked last: what cannot be asked is refused first, and a pruned model is never lost for an answer."""

import json
import math
from types import SimpleNamespace

import pandas as pd
import pytest

from analysis.cli import main
from analysis.commands import answers
from analysis.errors import NumericalError
from analysis.measure import zero_shot
from tests.helpers.world import arguments


@pytest.mark.slow
def test_questions_that_cannot_be_asked_are_refused_before_the_pruning(small_world, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(zero_shot, "_manager", lambda: SimpleNamespace(all_subtasks=["boolq"], all_tasks=["boolq"]))
    long = [{"query": "the cat " * 64, "choices": ["a", "the"], "gold": 0}] * 2
    (tmp_path / "long.jsonl").write_text("\n".join(map(json.dumps, long)))
    for task, code, says in (
        (tmp_path / "long.jsonl", 4, "2 of 2 questions are longer than the model's context of 64"),
        ("hub:no-such-task", 2, "lm-eval has no such task"),
    ):
        assert main(arguments(small_world, tmp_path / "out", task=task)) == code
        said = capsys.readouterr().err
        assert says in said and "pruning" not in said and not (tmp_path / "out").exists()


@pytest.mark.slow
def test_answers_are_added_to_a_finished_folder_and_only_those_it_lacks(small_world, copied, capsys, monkeypatch):
    """With the same numbers as where they are asked at once."""
    out, task, more = copied(), f"{small_world}/tasks.jsonl", f"{small_world}/more.jsonl"
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    monkeypatch.setattr("analysis.study.run.Bench.prepare", lambda *_: pytest.fail("pruned again"))

    def ask(*tasks: str, documents: int = 20) -> dict:
        argv = arguments(small_world, out, task=list(tasks) or None, documents=documents)
        assert main([*argv, "--json"]) == 0
        summary = json.loads(capsys.readouterr().out)
        assert summary == json.loads((out / "summary.json").read_text())
        return summary["zero_shot"]

    first = ask(task)
    assert first[task]["documents"] == 20 and first[task]["left_out"] == 0
    with monkeypatch.context() as patch:
        patch.setattr("analysis.study.run.answer_tables", lambda *_, **__: pytest.fail("asked again"))
        assert ask() == ask(task) == first
    both = ask(task, more)
    assert list(both) == [task, more] and both[task] == first[task]
    assert ask(task, documents=10)[task]["documents"] == 10
    rows = pd.read_csv(out / "zero_shot.csv")
    assert list(rows["task"]) == [task] * 2 + [more] * 2 and list(rows["documents"]) == [10] * 2 + [20] * 2
    assert list(pd.read_csv(out / "cost.csv")["stage"])[-3:] == ["tasks"] * 3
    changed = {path.name for path, content in before.items() if path.read_bytes() != content}
    assert changed == {"summary.json", "zero_shot.csv", "cost.csv"} and set(out.rglob("*")) >= set(before)
    monkeypatch.undo()
    at_once = out.parent / "at-once"
    assert main([*arguments(small_world, at_once, task=[task, more], documents=20), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["zero_shot"] == both


@pytest.mark.slow
def test_tasks_that_fail_leave_the_pruned_model(small_world, tmp_path, capsys, monkeypatch):
    def fail(*_, **__):
        raise NumericalError("a log-likelihood is not finite")

    out, task = tmp_path / "out", f"{small_world}/tasks.jsonl"
    with monkeypatch.context() as patch:
        patch.setattr(zero_shot, "zero_shot", fail)
        assert main(arguments(small_world, out, task=task)) == 5
    assert f"complete in {out}" in capsys.readouterr().err
    assert not [path.name for path in out.iterdir() if path.name.startswith(".")]
    assert main(arguments(small_world, out)) == 0 and "dense perplexity" in capsys.readouterr().out
    assert main(arguments(small_world, out, task=task)) == 0 and "dense acc_norm" in capsys.readouterr().out


def test_the_lines_on_tasks():
    scores = {"accuracy": 0.5, "standard_error": 0.03, "accuracy_norm": 0.75, "standard_error_norm": 0.04}
    first = {"documents": 10, "chance": 0.25, "left_out": 2, "dense": scores, "pruned": scores | {"accuracy": 0.25}}
    other = first | {"left_out": 0, "dense": scores | {"accuracy_norm": None, "standard_error_norm": None}}
    said = "\n".join(answers.lines({"a": first, "b": other}))
    mean = next(line.split() for line in said.splitlines() if line.startswith("mean"))
    error = f"{math.hypot(0.03, 0.03) / 2:.4g}"
    assert mean == [
        "mean",
        "20",
        "0.25",
        "0.5",
        error,
        "-",
        "-",
        "0.25",
        error,
        "0.75",
        f"{math.hypot(0.04, 0.04) / 2:.4g}",
    ]
    assert "left out, longer than the model's context: 2 of a\n" in said and answers.lines({}) == []
