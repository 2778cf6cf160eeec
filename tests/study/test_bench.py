"""What a process keeps between its jobs is what their names stand for now."""

import json
import shutil

from analysis import paths
from analysis.study.job import Job
from analysis.study.run import Bench

OLD, NEW = (
    "\n\n".join(f"{words} number {i} on a rainy day in the old town" for i in range(60))
    for words in ("once upon a time there was a baker", "another text of ships and storms far from home")
)


def test_a_text_and_a_model_that_have_changed_are_read_again(tmp_path):
    text, model = tmp_path / "text.txt", tmp_path / "model"
    text.write_text(OLD)
    shutil.copytree(paths.lab() / "tiny", model)
    job = Job(
        model=str(model), recipe="magnitude-50% LR", calibration=str(text), held_out={"h": "lab:stories"}, samples=2,
        length=16,
    )  # fmt: skip
    bench = Bench()
    first = bench.prepare(job)
    again = bench.prepare(job)
    assert again.dense is first.dense and again.calibration is first.calibration, "kept while nothing has changed"
    text.write_text(NEW)
    second = bench.prepare(job)
    assert second.dense is first.dense and not (second.calibration.ids == first.calibration.ids).all()
    assert (second.calibration.ids == Bench().prepare(job).calibration.ids).all()
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"rms_norm_eps": 1e-3}))
    third = bench.prepare(job)
    assert third.dense is not second.dense and third.dense.model.config.rms_norm_eps == 1e-3


def test_tasks_whose_questions_have_changed_are_asked_again(tmp_path, monkeypatch):
    questions = tmp_path / "mine.jsonl"
    rows = [{"query": f"{i} is", "choices": ["a", "b"], "gold": 0} for i in range(4)]
    questions.write_text("\n".join(map(json.dumps, rows)))
    job = Job(
        model="lab/tiny", recipe="magnitude-50% LR", calibration="lab:stories", held_out={"h": "lab:stories"},
        samples=1, length=16, tasks=[str(questions)], documents=4,
    )  # fmt: skip
    bench, shares = Bench(), []
    for gold in (0, 1):
        questions.write_text("\n".join(json.dumps(row | {"gold": gold}) for row in rows))
        table = bench.carry_out(job, bench.prepare(job), tmp_path / str(gold)).tables["zero_shot"]
        shares.append(float(table[table["which"] == "dense"]["accuracy"].iloc[0]))
    assert sum(shares) == 1, "what was right is wrong now"
