"""Names of tasks, and files of questions with every mistake a line can hold."""

import json
import subprocess
import sys

import pytest

from analysis import paths
from analysis.cli import main
from analysis.errors import DataError, UsageError
from analysis.lab import tasks as lab
from analysis.lab.tasks import Item
from analysis.text.tasks import TASK_FORMS, check_tasks, chosen, read_task, task_fingerprint, task_items

GOOD = {"query": "Predators eat", "choices": ["grass", "bunnies"], "gold": 1}


def write(path, *lines):
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines), encoding="utf-8")
    return str(path)


def test_a_file_is_read_line_by_line(tmp_path):
    path = write(
        tmp_path / "q.jsonl", GOOD, "", GOOD | {"query": "é:", "choices": ["a", "b", "c"], "gold": 0, "source": "x"}, ""
    )
    assert read_task(path) == [Item("Predators eat", ("grass", "bunnies"), 1), Item("é:", ("a", "b", "c"), 0)]
    check_tasks([path, "lab:yes-no", "hub:arc_easy"])


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ('{"query": "x"', "is not JSON"),
        ("[1, 2]", "has no JSON object"),
        ("[" * 200_000, "nested too deeply"),
        ('{"gold": ' + "9" * 5000 + "}", "is not JSON (Exceeds the limit"),
        (GOOD | {"choices": "x" * 5000}, "x...; at least two"),
        ({"query": "x", "choices": ["a", "b"]}, "has no gold"),
        ({"gold": 1}, "has no query and no choices"),
        (GOOD | {"gold": 2}, "gold is 2; with 2 choices it is a number from 0 to 1"),
        (GOOD | {"gold": -1}, "gold is -1"),
        (GOOD | {"gold": "1"}, "gold is '1'"),
        (GOOD | {"gold": True}, "gold is True"),
        (GOOD | {"gold": None}, "gold is None"),
        (GOOD | {"choices": []}, "at least two"),
        (GOOD | {"choices": ["a"], "gold": 0}, "at least two"),
        (GOOD | {"choices": ["a", " "]}, "none of them empty"),
        (GOOD | {"choices": "ab"}, "at least two"),
        (GOOD | {"query": "  "}, "not a text"),
        (GOOD | {"query": 3}, "not a text"),
    ],
)
def test_a_broken_line_is_named(tmp_path, line, says):
    path = write(tmp_path / "q.jsonl", GOOD, "", line, GOOD)
    with pytest.raises(DataError, match="q.jsonl, line 3: .*") as error:
        check_tasks(["lab:yes-no", path])
    assert says in str(error.value)


def test_halves_of_characters_are_replaced(tmp_path):
    path = write(tmp_path / "q.jsonl", GOOD, '{"query": "cut \\ud83d", "choices": ["a", "\\ud83d"], "gold": 1}')
    assert read_task(path)[1] == Item("cut \ufffd", ("a", "\ufffd"), 1)


def test_a_file_that_is_none(tmp_path):
    with pytest.raises(DataError, match="no such file .no name is that long.") as error:
        check_tasks(["x" * 4000 + ".jsonl"])
    assert len(str(error.value)) < 500
    for wrong in (7, None, b"lab:yes-no", ["lab:yes-no"]):
        for call in (
            lambda: check_tasks([wrong]),
            lambda: task_items(wrong, documents=2),
            lambda: task_fingerprint(wrong),
        ):
            with pytest.raises(UsageError, match="task: must be a text such as 'lab:yes-no', not"):
                call()
    for wrong in (7, None, "lab:yes-no"):
        with pytest.raises(UsageError, match="tasks: must be a list of names such as"):
            check_tasks(wrong)
    for options in ({"documents": -1}, {"documents": "x"}, {"documents": 2, "seed": None}):
        with pytest.raises(UsageError, match="must be a whole number of at least"):
            task_items("lab:yes-no", **options)
    with pytest.raises(UsageError, match="has 50,004 characters; no name is that long"):
        check_tasks(["hub:" + "x" * 50_000])
    one, none = write(tmp_path / "one.jsonl", GOOD), write(tmp_path / "none.jsonl")
    for path, says in ((str(tmp_path / "no.jsonl"), "no such file"), (one, "holds 1 question;"), (none, "is empty")):
        with pytest.raises(DataError, match=says):
            check_tasks([path])
    (tmp_path / "folder.jsonl").mkdir()
    with pytest.raises(DataError, match="is a folder"):
        check_tasks([str(tmp_path / "folder.jsonl")])
    (tmp_path / "latin.jsonl").write_bytes(b'{"query": "\xe9"}')
    with pytest.raises(DataError, match="latin.jsonl: is no UTF-8 text"):
        check_tasks([str(tmp_path / "latin.jsonl")])


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (["story-ending"], "did you mean 'lab:story-ending'"),
        (["lab:yesno"], "no task 'yesno'; did you mean 'yes-no'"),
        (["lab:"], "the lab has no task ''"),
        (["hub:"], "hub:NAME"),
        (["hub:a/b"], "hub:NAME"),
        (["q.csv"], "unknown"),
        ([""], "unknown"),
        (["lab:yes-no", "hub:boolq", "lab:yes-no"], "given twice"),
    ],
)
def test_unknown_names_are_refused_with_what_is_possible(names, says):
    with pytest.raises(UsageError) as error:
        check_tasks(names)
    assert says in str(error.value)


def test_fewer_questions_are_the_first_of_more(tmp_path):
    path = write(tmp_path / "q.jsonl", *[GOOD | {"query": f"Question {number}"} for number in range(20)])
    few, more = task_items(path, documents=5), task_items(path, documents=12)
    assert few == more[:5] and len({item.query for item in more}) == 12 and more != read_task(path)[:12]
    assert task_items(path, documents=5, seed=1) != few and len(task_items(path, documents=99)) == 20
    assert sorted(chosen(7, 99, 3)) == list(range(7))
    assert task_items("lab:pronouns", documents=4, seed=2) == [
        item for item, _ in zip(lab.task("pronouns", seed=2), range(4))
    ]
    with pytest.raises(UsageError, match="read by the harness"):
        task_items("hub:boolq", documents=4)


def test_fingerprints_are_of_what_is_asked(tmp_path):
    first, copy, other = (
        write(tmp_path / "a.jsonl", GOOD, GOOD),
        write(tmp_path / "b.jsonl", GOOD, GOOD),
        write(tmp_path / "c.jsonl", GOOD, GOOD | {"gold": 0}),
    )
    assert task_fingerprint(first) == task_fingerprint(copy) != task_fingerprint(other)
    assert task_fingerprint("lab:yes-no") != task_fingerprint("lab:pronouns") and task_fingerprint(
        "hub:boolq"
    ).startswith("hub:boolq@lm-eval-0.")
    with pytest.raises(UsageError):
        task_fingerprint("lab:no")


@pytest.mark.slow
def test_names_are_checked_without_torch_or_the_harness():
    code = (
        "import sys\nfrom analysis.text.tasks import *\ncheck_tasks(['lab:yes-no', 'hub:boolq']);"
        " task_fingerprint('hub:boolq')\nprint(*{'torch', 'lm_eval', 'datasets'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=paths.ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and not done.stdout.split(), done.stdout + done.stderr


def test_every_task_is_listed(capsys):
    assert main(["list", "tasks"]) == 0
    said = capsys.readouterr().out
    assert all(name in said for name in TASK_FORMS) and {f"lab:{name}" for name in lab.TASKS} <= set(TASK_FORMS)
