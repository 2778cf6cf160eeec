"""Exercises: solutions out, checks in; what a student has written is left alone; a wrong solution fails the build."""

import ast
import json
import re

import nbformat
import pytest

from analysis import paths
from analysis.errors import SuiteError
from analysis.suite import exercises

SOURCES = sorted((paths.notebooks() / "exercises").glob("*.ipynb"))
SOLVED = f"def half(x):\n    {exercises.BEGIN}\n    return x / 2\n    {exercises.END}"


def notebook(solution: str = SOLVED, check: str = "assert half(3) == 1.5") -> nbformat.NotebookNode:
    new = nbformat.v4
    prose = [new.new_markdown_cell("## 1"), new.new_markdown_cell("Half.", metadata={"tags": ["solution"]})]
    return new.new_notebook(cells=[prose[0], new.new_code_cell(solution), new.new_code_cell(check), prose[1]])


def test_a_student_gets_question_stub_and_check():
    given = notebook()
    given.cells[1].outputs = [nbformat.v4.new_output("stream", text="1.5")]
    cells = exercises.strip(given).cells
    assert [cell.source for cell in cells] == [
        "## 1",
        "def half(x):\n    # YOUR CODE HERE\n    raise NotImplementedError()",
        "assert half(3) == 1.5",
    ]
    assert cells[1].outputs == [] and "return x / 2" in given.cells[1].source


@pytest.mark.parametrize(
    "source", [exercises.BEGIN, exercises.END, f"{exercises.BEGIN}\n{exercises.BEGIN}\n{exercises.END}"]
)
def test_a_marker_without_its_partner_is_named(source):
    with pytest.raises(SuiteError, match="cell one has .* without its partner"):
        exercises.strip_source(source, "one")


def test_what_a_student_has_written_is_left_alone(tmp_path):
    sources, out = tmp_path / "sources", tmp_path / "out"
    sources.mkdir()
    nbformat.write(notebook(), sources / "01_half.ipynb")
    student = out / "student" / "01_half.ipynb"
    built = exercises.build(sources=sources, out=out, run=False)
    assert built == {"01_half": str(student)} and "return x / 2" not in student.read_text()
    nbformat.write(notebook(check="assert half(5) == 2.5"), sources / "01_half.ipynb")
    exercises.build(sources=sources, out=out, run=False)
    assert "half(5)" in student.read_text()
    student.write_text(student.read_text().replace("# YOUR CODE HERE", "# I think"))
    assert "left as it is" in exercises.build(sources=sources, out=out, run=False)["01_half"]
    assert "# I think" in student.read_text()
    with pytest.raises(SuiteError, match="there is no 02_third; there are: 01_half"):
        exercises.build(["02_third"], sources=sources, out=out, run=False)


@pytest.mark.slow
def test_solutions_are_run_and_a_wrong_one_fails_the_build(tmp_path, capsys):
    sources, out = tmp_path / "sources", tmp_path / "out"
    sources.mkdir()
    nbformat.write(notebook(), sources / "01_half.ipynb")
    assert exercises.build(sources=sources, out=out)["01_half"].endswith("; solutions pass")
    executed = nbformat.read(out / "solutions" / "01_half.ipynb", as_version=4)
    assert [cell.execution_count for cell in executed.cells if cell.cell_type == "code"] == [1, 2]
    wrong = notebook(SOLVED.replace("x / 2", "x / 3"))
    wrong.cells.append(nbformat.v4.new_code_cell("1 / 0", id="last"))
    nbformat.write(wrong, sources / "01_half.ipynb")
    with pytest.raises(SuiteError, match="01_half, cell .*: AssertionError, cell last: ZeroDivisionError: division"):
        exercises.build(sources=sources, out=out)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_every_exercise_of_a_notebook_has_a_solution_and_a_check(path):
    source = nbformat.read(path, as_version=4)
    nbformat.validate(source)
    main = json.loads((paths.notebooks() / path.name).read_text("utf-8"))
    asked = re.findall(r"(?m)^\d+\. (.*)", "".join(main["cells"][-1]["source"]))
    wanted = [question for question in asked if not question.startswith("Not by code alone")]
    assert len(re.findall(r"(?m)^## \d+$", "\n".join(cell.source for cell in source.cells))) == len(wanted)
    code = [cell for cell in source.cells if cell.cell_type == "code"]
    assert sum(exercises.BEGIN in cell.source for cell in code) == sum("assert" in cell.source for cell in code)
    assert sum(exercises.BEGIN in cell.source for cell in code) == len(wanted)
    assert all(cell.outputs == [] and cell.execution_count is None for cell in code)
    student = exercises.strip(source)
    text = "\n".join(cell.source for cell in student.cells)
    assert "SOLUTION" not in text and "**Answer.**" not in text
    assert all(ast.parse(cell.source) for cell in student.cells if cell.cell_type == "code")


def test_every_notebook_has_exercises():
    assert [path.name for path in SOURCES] == sorted(path.name for path in paths.notebooks().glob("*.ipynb"))
