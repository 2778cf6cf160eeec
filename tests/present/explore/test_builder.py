"""The recipe builder with a lab that does nothing: what it says, and a run to its end or its stop."""

import asyncio
from types import SimpleNamespace

import pandas as pd
import pytest

from analysis.errors import AnalysisError
from analysis.live.choices import RecipeChoice
from analysis.present.explore import builder


def run(value, blocks=3):
    """Block errors of a made-up run, all of one size."""
    return pd.DataFrame(
        [
            {"block": block, "split": split, "kind": kind, "relative_error": value}
            for split in ("calibration", "lab:stories/held-out")
            for kind in ("total", "local")
            for block in range(blocks)
        ]
    )


class Lab:
    """A lab whose run leaves a block each time somebody looks; `error` ends it after the first one."""

    RecipeChoice = RecipeChoice

    def __init__(self, error=None):
        self.error, self.looks, self.done, self.curves = error, 0, False, []

    def expected(self, choice):
        return SimpleNamespace(seconds=2.0 * choice.epochs, memory=2**29, tokens=1000, blocks=3)

    def begin(self, choice):
        while self.looks < (1 if self.error else 3):
            pass
        if self.error:
            raise self.error
        self.done = True

    def so_far(self, choice):
        self.looks = min(self.looks + 1, 3)
        return run(0.25, self.looks)

    def finished(self, choice):
        if not self.done:
            return None
        text = pd.DataFrame(
            [
                {"split": "calibration", "which": "dense", "perplexity": 2.0},
                {"split": "calibration", "which": "pruned", "perplexity": 3.0},
            ]
        )
        return SimpleNamespace(blocks=run(0.25), perplexity=text, cost=pd.DataFrame({"seconds": [1.0, 0.5]}))

    def stop(self):
        self.error = AnalysisError("stopped")


def test_a_choice_is_told_with_what_does_the_same():
    said = builder.told(RecipeChoice(criterion="sparsegpt", unit="2 blocks, overlap 1"))
    assert "sparsegpt-50% BR+GP+CR[epochs=5,lr=0.002]" in said and "analysis prune lab" in said and "run_study" in said
    assert said.count("<li>") == 6 and "<script" not in said


@pytest.mark.slow
def test_a_run_grows_block_by_block_and_ends_in_the_history(monkeypatch):
    monkeypatch.setattr(builder, "TICK", 0.001)
    lab = Lab()
    made = builder.Builder(lab, {}, {"before": run(0.5)})
    drawn = []
    monkeypatch.setattr(made, "draw", lambda growing="", blocks=None: drawn.append((growing, len(made.runs))))
    asyncio.run(made.carry_out())
    name = RecipeChoice().label()
    assert lab.done and list(made.runs) == ["before", name] and made.bar.value == 1
    assert drawn[0] == (name, 2) and drawn[-1] == ("", 2) and len(drawn) >= 3
    assert made.rows == [
        {
            "run": name,
            "error, calibration": "0.2500",
            "error, held-out stories": "0.2500",
            "perplexity, calibration": "2.000 → 3.000",
            "seconds": "1.5",
        }
    ]
    assert not made.run_button.disabled and made.stop_button.disabled


@pytest.mark.slow
def test_a_stored_run_is_read_back_and_said_so():
    lab = Lab()
    lab.done = True
    made = builder.Builder(lab, {}, {"before": run(0.5)})
    asyncio.run(made.carry_out())
    name = RecipeChoice().label()
    assert made.says.value == f"was stored already, nothing was run: {name}" and list(made.runs) == ["before", name]
    assert lab.looks == 0 and len(made.rows) == 1 and made.bar.value == 1


@pytest.mark.slow
def test_what_ends_a_run_is_said_in_one_line_and_leaves_the_history_as_it_was(monkeypatch):
    monkeypatch.setattr(builder, "TICK", 0.001)
    made = builder.Builder(Lab(AnalysisError("stopped; what was finished is kept")), {}, {"before": run(0.5)})
    asyncio.run(made.carry_out())
    assert list(made.runs) == ["before"] and made.says.value.startswith("stopped") and not made.run_button.disabled


@pytest.mark.slow
def test_a_mistake_of_another_kind_is_said_too():
    made = builder.Builder(Lab(ValueError("no such shape")), {}, {})
    asyncio.run(made.carry_out())
    assert made.says.value == "ValueError: no such shape" and not made.run_button.disabled


@pytest.mark.slow
def test_a_method_sets_its_parts_a_part_unsets_it_and_wrong_parts_are_one_message():
    made = builder.Builder(Lab(), {"samples": 4}, {})
    made.method.value = "BR+GP+CR"
    assert made.controls["unit"].value == "2 blocks, overlap 1" and "BR+GP+CR" in made.words.value
    assert "about 10.0 s" in made.forecast.value
    made.controls["unit"].value = "model"
    assert made.method.value == "(as below)" and "unit=model" in made.words.value
    made.controls["solver"].value = "ridge"
    assert 'role="alert"' in made.words.value and "<svg" not in made.words.value
