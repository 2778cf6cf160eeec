"""What runs with which parameters is checked before anything runs, and everything wrong is said at once."""

import pytest

from analysis import paths
from analysis.cli import main
from analysis.errors import SuiteError
from analysis.suite.suite import Parameter, cost, plan, read_parameters, read_suite

PARAMETERS = "PRESET: str = 'smoke'\nFIGURES: str = ''\nN: int = 3\nLR: float = 1e-3\nNAMES: list[str] = ['a']"


def test_a_plan_is_shared_then_own_then_override(folder):
    first, second = plan("lab", overrides={"LR": 1e-2}, always={"PRESET": "lab"}, folder=folder)
    assert first.parameters == {"N": 8, "LR": 1e-2, "PRESET": "lab"}
    assert second.parameters == {"N": 8, "LR": 1e-2, "PRESET": "lab"}
    assert [p.name for p in plan("lab", only="02_second", folder=folder)] == ["02_second"]
    assert [p.name for p in plan("tiny", folder=folder)] == ["01_first"]


@pytest.mark.parametrize(
    ("kind", "given", "read"),
    [
        ("int", "16", 16),
        ("int", 16, 16),
        ("float", "2e-3", 2e-3),
        ("float", 1, 1.0),
        ("str", "8", "8"),
        ("bool", "true", True),
        ("list[int]", "8 32", [8, 32]),
        ("list[int]", [8, 32], [8, 32]),
        ("list[str]", "lab:stories lab:entries", ["lab:stories", "lab:entries"]),
        ("list[float]", "1e-3 2", [1e-3, 2.0]),
    ],
)
def test_text_from_a_command_line_is_read_as_the_declared_type(kind, given, read):
    value = Parameter("X", kind, None).read(given)
    assert value == read and type(value) is type(read)


@pytest.mark.parametrize(
    ("kind", "given"),
    [
        ("int", "2:4"),
        ("int", 8.0),
        ("int", True),
        ("float", "wide"),
        ("float", False),
        ("str", 8),
        ("bool", 1),
        ("bool", "yes"),
        ("list[int]", "8 x"),
        ("list[int]", 8),
        ("list[str]", [1]),
    ],
)
def test_a_value_of_another_type_is_refused(kind, given):
    with pytest.raises(ValueError):
        Parameter("X", kind, None).read(given)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"preset": "labb"}, "no preset 'labb'.*did you mean lab"),
        ({"only": "03_third"}, "runs no notebook '03_third'"),
        ({"overrides": {"SAMPELS": 3}}, "no chosen notebook has a parameter SAMPELS"),
        ({"overrides": {"names": "b"}}, "no chosen notebook has a parameter names; did you mean NAMES"),
        ({"overrides": {"N": "2:4"}}, "N is int, got '2:4'"),
        ({"overrides": {"N": 8.5, "LR": "wide"}}, "N is int, got 8.5.*LR is float, got 'wide'"),
        ({"overrides": {"PRESET": "lab"}, "always": {"PRESET": "x"}}, "PRESET is set by the suite"),
    ],
)
def test_wrong_calls_say_what_is_wrong_and_what_there_is(folder, wrong, says):
    with pytest.raises(SuiteError, match=says):
        plan(**{"preset": "lab", **wrong}, folder=folder)


def test_a_parameter_in_the_suite_that_no_notebook_has_is_an_error(folder):
    (folder / "suite.toml").write_text(
        "[presets.lab.01_first]\nSAMPLES = 3\nN = 'many'\n[presets.lab.02_second]\nM = 1\n"
    )
    with pytest.raises(
        SuiteError, match="01_first has no parameter SAMPLES.*N is int, got 'many'.*02_second has no parameter M"
    ):
        plan("lab", folder=folder)


def test_a_missing_notebook_is_named_with_those_there_are(folder):
    (folder / "02_second.ipynb").unlink()
    with pytest.raises(SuiteError, match=r"02_second: no file 02_second.ipynb in notebooks/ \(there: 01_first\)"):
        plan("lab", folder=folder)


@pytest.mark.parametrize(
    ("cell", "says"),
    [
        ("N: int = 8\nM: int = N * 2", "only lines"),
        ("import os", "only lines"),
        ("N = 8", "only lines"),
        ("N: int = 'x'", "only lines|annotated"),
        ("N: dict = {}", "annotated"),
        ("N: int = 8.0", "annotated|only lines"),
        ("N: int =", "only lines"),
    ],
)
def test_a_parameters_cell_holds_typed_literals_only(tmp_path, write_notebook, cell, says):
    write_notebook(tmp_path / "01_x.ipynb", parameters=cell)
    with pytest.raises(SuiteError, match=says):
        read_parameters(tmp_path / "01_x.ipynb")


def test_exactly_one_parameters_cell(tmp_path, write_notebook):
    write_notebook(tmp_path / "01_x.ipynb", tags=())
    with pytest.raises(SuiteError, match="0 cells are tagged"):
        read_parameters(tmp_path / "01_x.ipynb")
    (tmp_path / "02_y.ipynb").write_text("{")
    with pytest.raises(SuiteError, match="not a notebook"):
        read_parameters(tmp_path / "02_y.ipynb")


@pytest.mark.parametrize("text", ["lr = 2:4", "[presets]\nlab = 3", "[other.lab]", "", "[presets.lab]\nN = 3"])
def test_a_suite_file_of_another_shape_is_refused(tmp_path, text):
    (tmp_path / "suite.toml").write_text(text)
    with pytest.raises(SuiteError, match="suite.toml"):
        read_suite(tmp_path)


def test_every_preset_of_the_project_fits_its_notebooks():
    presets = read_suite(paths.notebooks())
    assert {"lab", "smoke", "paper"} <= set(presets)
    for preset in presets:
        plans = plan(preset, always={"PRESET": preset, "FIGURES": ""})
        names, every = [one.name for one in plans], sorted(path.stem for path in paths.notebooks().glob("*.ipynb"))
        assert names == [name for name in every if name in names]
        assert names == every or preset.startswith("real")


def test_the_smoke_preset_is_the_notebooks_own_defaults():
    for one in plan("smoke"):
        defaults = {name: parameter.default for name, parameter in read_parameters(one.path).items()}
        assert defaults["PRESET"] == "smoke"
        assert {**defaults, **one.parameters} == defaults


@pytest.mark.parametrize(
    ("kind", "given", "read"),
    [
        ("list[str]", '["my notes.txt[:80%]", "b,c.txt"]', ["my notes.txt[:80%]", "b,c.txt"]),
        ("list[str]", ' ["a"]', ["a"]),
        ("list[str]", "[]", []),
        ("list[int]", "[0, 1]", [0, 1]),
        ("list[float]", "[1, 0.5]", [1.0, 0.5]),
        ("str", '["a"]', '["a"]'),
    ],
)
def test_lists_are_read_as_json_too(kind, given, read):
    assert Parameter("X", kind, None).read(given) == read


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (
            {"NAMES": '["a b.txt"'},
            r"""list\[str\], got .*NAMES='a.txt b.txt', or as JSON, NAMES='\["a.txt", "b c.txt"\]'""",
        ),
        ({"NAMES": "[1]"}, "or as JSON"),
        ({"SEEDS": "0,1"}, r"SEEDS is list\[int\], got '0,1'; write a list with spaces, SEEDS='0 1', or as JSON"),
        ({"LR": "nan"}, "LR is float, got 'nan'"),
        ({"LR": float("inf")}, "LR is float, got inf"),
        ({"LR": 10**400}, "LR is float"),
        ({"N": "9" * 5000}, r"N is int, got '9{79}$"),
        ({"N": None}, "N is int, got None"),
        ({3: 1}, "has a parameter 3"),
    ],
)
def test_values_that_are_none_are_refused_and_lists_say_how_they_are_written(folder, write_notebook, overrides, says):
    write_notebook(folder / "01_first.ipynb", parameters=f"{PARAMETERS}\nSEEDS: list[int] = [0]")
    with pytest.raises(SuiteError, match=says):
        plan("tiny", overrides=overrides, folder=folder)


@pytest.mark.parametrize("preset", [None, ["lab"], "../../esc", 3, ""])
def test_what_is_no_preset_is_refused(folder, preset):
    with pytest.raises(SuiteError, match="no preset"):
        plan(preset, folder=folder)


def test_files_that_cannot_be_read_are_named(folder):
    (folder / "suite.toml").unlink()
    (folder / "suite.toml").mkdir()
    with pytest.raises(SuiteError, match="suite.toml cannot be read"):
        read_suite(folder)
    (folder / "03_deep.ipynb").write_text("[" * 200_000)
    with pytest.raises(SuiteError, match="03_deep.ipynb is not a notebook"):
        read_parameters(folder / "03_deep.ipynb")


def test_a_package_without_its_repository_says_where_the_notebooks_are(tmp_path, monkeypatch, capsys):
    """As after an installation from a wheel: results do not go beside the package."""
    monkeypatch.setattr(paths, "ROOT", tmp_path / "site")
    monkeypatch.delenv("ANALYSIS_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert paths.home() == tmp_path / ".local" / "share" / "pruning-analysis"
    for argv, code in ((["figures"], 7), (["check", "lab"], 3), (["list", "models"], 0)):
        assert main(argv) == code
        said = capsys.readouterr()
        assert "installed without the lab's models and the notebooks" in said.err + said.out


def test_what_a_preset_takes_is_said_and_is_no_notebook(folder):
    suite = folder / "suite.toml"
    suite.write_text(suite.read_text() + "[presets.tiny.about]\nminutes = 30\ngib = 2.5\n")
    assert cost("tiny", folder) == (
        "all of preset tiny: an estimated 30 minutes on two idle cores where nothing of it is stored, 2.5 GiB of memory"
    )
    assert cost("lab", folder) == "" and [p.name for p in plan("tiny", folder=folder)] == ["01_first"]
    suite.write_text(suite.read_text() + "[presets.lab.about]\nneeds = 'a GPU'\n")
    assert cost("lab", folder) == "all of preset lab needs a GPU"


def test_every_preset_says_what_it_takes():
    assert all(cost(preset) for preset in read_suite(paths.notebooks()))


@pytest.mark.parametrize("preset", ["real", "real-full"])
def test_the_presets_of_real_models_plan_share_their_runs_and_say_what_they_take(preset):
    plans = {one.name: one.parameters for one in plan(preset)}
    assert "two idle cores" in cost(preset)
    decoders = [values for name, values in plans.items() if name != "09_structured_repair"]
    sharing = [values for name, values in plans.items() if name[:2] not in ("09", "10", "12")]
    texts = {
        (values["CALIBRATION"], *values["HELD_OUT"], values["LENGTH"], values["LEARNING_RATE"]) for values in sharing
    }
    assert len(texts) == 1 and {values.get("MODEL", "smollm2") for values in decoders} == {"smollm2"}
    scale, windows = plans["07_scale"], plans["02_calibration_vs_test"]
    assert scale["MODELS"] == ["smollm2"] and plans["09_structured_repair"]["MODELS"] == ["minilm"]
    own = {key: scale[key] for key in ("CALIBRATION", "HELD_OUT", "HELD_OUT_SAMPLES", "EPOCHS")}
    assert own == {key: scale[f"MAP_{key}"] for key in own}
    assert scale["MAP_SAMPLES"] == windows["SAMPLES"] and plans["01_compounding_error"]["SAMPLES"] in windows["SAMPLES"]
    assert all(set(values["SEEDS"]) <= {0, 1, 2} for values in plans.values())
