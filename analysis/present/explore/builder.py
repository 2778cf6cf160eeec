"""The recipe builder: parts of a recipe chosen, told, forecast, run, and its errors laid over those of earlier runs.

What runs and where is handed in (`analysis.live.runs`); here are the tables, the figure, and the shell around them.
"""

import asyncio
import html
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pandas as pd

from analysis.errors import AnalysisError
from analysis.present.explore.overlay import draw_overlay, history, outcome, overlay
from analysis.present.explore.shell import Later, menu, message, row, said, shown, slider, view
from analysis.recipe.menus import METHODS, SOLVERS, UNITS
from analysis.recipe.words import CRITERION_WORDS, REFINEMENT_WORDS

if TYPE_CHECKING:
    from ipywidgets import VBox

OWN = "(as below)"
PATTERNS = ("30%", "50%", "60%", "70%", "80%", "2:4", "4:8")
TICK = 0.3  # seconds between two looks at a run


def as_html(rows: Iterable[Mapping[str, Any]]) -> str:
    """Rows as a small table, columns in the order they first come, a dash where a row has none."""
    rows = list(rows)
    names = list(dict.fromkeys(name for one in rows for name in one))
    head = "".join(f"<th style='text-align:left;padding:2px 10px 2px 0'>{html.escape(name)}</th>" for name in names)
    cells = [
        "".join(f"<td style='padding:2px 10px 2px 0'>{html.escape(str(one.get(name, '–')))}</td>" for name in names)
        for one in rows
    ]
    return f"<table><tr>{head}</tr>{''.join(f'<tr>{line}</tr>' for line in cells)}</table>" if rows else ""


def told(choice: Any) -> str:
    """A choice in words: its recipe, the loop's steps, the command and the Python that do the same, to be copied."""
    steps = "".join(f"<li>{html.escape(step)}</li>" for step in choice.steps())
    texts = {"command line": choice.command(), "Python": choice.code()}
    copies = "".join(_copied(name, text) for name, text in texts.items())
    recipe = html.escape(choice.recipe().label)
    return (
        f"<b>recipe</b> <code>{recipe}</code><details open><summary>what the loop does</summary>"
        f"<ol style='line-height:1.35;margin:2px 0'>{steps}</ol></details>{copies}"
    )


def _copied(name: str, text: str) -> str:
    """A text that opens, with a button that puts it on the clipboard."""
    act = "navigator.clipboard.writeText(this.dataset.text);this.textContent=&quot;copied&quot;;event.preventDefault()"
    button = f'<button class="explorer-copy" data-text="{html.escape(text)}" onclick="{act}">copy the {name}</button>'
    pre = f'<pre style="white-space:pre-wrap;line-height:1.3;margin:2px 0">{html.escape(text)}</pre>'
    return f"<details><summary>{name} {button}</summary>{pre}</details>"


def say_expected(expected: Any) -> str:
    """A forecast in one line."""
    memory = f"{expected.memory / 2**20:,.0f} MiB of memory"
    return f"forecast: about {expected.seconds:.1f} s on an idle core, {memory}, {expected.tokens:,} tokens read"


class Builder:
    """The shell's state and what its buttons do. live: `analysis.live.runs`; start: settings of its first choice; runs:
    block errors by name, the history it begins with.
    """

    def __init__(self, live: Any, start: Mapping[str, Any], runs: Mapping[str, pd.DataFrame]):
        from ipywidgets import HTML, Button, FloatProgress, Label

        self.live, self.start, self.runs = live, dict(start), dict(runs)
        self.rows: list[dict[str, Any]] = []
        self.task: asyncio.Task | None = None
        first = live.RecipeChoice(**self.start)
        windows = sorted({1, 2, 4, 8, 16, 32, 64, first.samples})
        epochs = sorted({1, 2, 3, 5, 10, 20, 40, first.epochs})
        rates = sorted({5e-4, 1e-3, 2e-3, 5e-3, 1e-2, first.lr})
        patterns = list(dict.fromkeys([*PATTERNS, first.pattern]))
        lab = [f"lab:{register}" for register in ("stories", "entries", "dialogues", "mixed")]
        texts = list(dict.fromkeys([first.calibration, *first.held_out, *lab]))
        labels = [(word.label, name) for name, word in CRITERION_WORDS.items()]
        self.controls: dict[str, Any] = {
            "criterion": menu("criterion", labels, first.criterion),
            "pattern": menu("pattern", patterns, first.pattern, "150px"),
            "refinement": menu(
                "refinement", [(word.label, name) for name, word in REFINEMENT_WORDS.items()], first.refinement
            ),
            "solver": menu("solver", SOLVERS, first.solver, "180px"),
            "unit": menu("unit", UNITS, first.unit),
            "student": menu("input from", ("sparse", "dense"), first.student, "180px"),
            "target": menu("target from", ("sparse", "dense"), first.target, "180px"),
            "calibration": menu("text", texts, first.calibration),
            "samples": slider("windows", windows, first.samples),
            "epochs": slider("epochs", epochs, first.epochs),
            "lr": slider("learning rate", [(f"{rate:g}", rate) for rate in rates], first.lr),
        }
        self.method = menu("method", [OWN, *METHODS], OWN)
        self.run_button = Button(
            description="Run", button_style="primary", tooltip="run it; results are kept in the store"
        )
        self.stop_button = Button(
            description="Stop", disabled=True, tooltip="end the run under way; finished blocks are kept"
        )
        self.forget_button = Button(description="Forget runs", tooltip="clear the figure; the store keeps all")
        self.bar = FloatProgress(value=0, min=0, max=1, layout={"width": "260px"})
        self.says = Label("nothing has been run here")
        self.words, self.forecast, self.figure, self.table = view(), HTML(), view(), HTML()
        self._telling = Later(self.tell)
        for control in self.controls.values():
            control.observe(self._telling, "value")
        self.method.observe(self._take_method, "value")
        self.run_button.on_click(lambda _button: self.run())
        self.stop_button.on_click(lambda _button: self.live.stop())
        self.forget_button.on_click(lambda _button: self.forget())
        self.words.value = self._said()
        self.draw()

    def choice(self) -> Any:
        """What the controls say, as a `RecipeChoice`."""
        return self.live.RecipeChoice(**self.start | {name: control.value for name, control in self.controls.items()})

    def _said(self) -> str:
        return shown(lambda: told(self.choice()))

    def _take_method(self, _change: object) -> None:
        for name, value in METHODS.get(self.method.value, {}).items():
            self.controls[name].value = value

    def tell(self) -> None:
        """Say what is chosen now, and what it will take as soon as that is known."""
        self.words.value = self._said()
        if self.method.value in METHODS and not self._is(self.method.value):
            self.method.value = OWN
        if not self.live_busy():
            spawn(self.expect())

    def _is(self, method: str) -> bool:
        return all(self.controls[name].value == value for name, value in METHODS[method].items())

    def live_busy(self) -> bool:
        """Whether a run of this builder is under way."""
        return self.task is not None and not self.task.done()

    async def expect(self) -> None:
        """Ask for the forecast of the choice, which must still be the choice when the answer comes."""
        with suppress(AnalysisError):
            choice = self.choice()
            self.forecast.value = "forecast: …"
            try:
                expected = await asyncio.to_thread(self.live.expected, choice)
                said = say_expected(expected)
            except AnalysisError as error:
                said = message(str(error))
            if choice == self.choice():
                self.forecast.value = said

    def draw(self, growing: str = "", blocks: int | None = None) -> None:
        """The figure and the table of the runs so far."""
        if self.runs:
            self.figure.value = shown(lambda: draw_overlay(overlay(self.runs), growing, blocks))
        self.table.value = as_html(self.rows)

    def forget(self) -> None:
        """An empty figure."""
        self.runs, self.rows, self.figure.value = {}, [], ""
        self.draw()

    def run(self) -> None:
        """Begin the run that is chosen, unless one is under way."""
        if not self.live_busy():
            self.task = spawn(self.carry_out())

    async def carry_out(self) -> None:
        """The run from its beginning to its place in the history; one that is stored is read back, and said so. What
        goes wrong is said in one line.
        """
        self.run_button.disabled, self.stop_button.disabled = True, False
        self.bar.value, self.bar.bar_style = 0, "info"
        before = dict(self.runs)
        try:
            choice = self.choice()
            name, ending = choice.label(), "was stored already, nothing was run"
            study = await asyncio.to_thread(self.live.finished, choice)
            if study is None:
                await self._compute(choice, name)
                study, ending = self.live.finished(choice), "done, and kept"
            self.runs.pop(name, None)
            self.runs[name] = study.blocks
            self.rows = [one for one in self.rows if one["run"] != name]
            self.rows.append(outcome(name, study.blocks, study.perplexity, study.cost))
            self.draw()
            self.bar.value, self.bar.bar_style, self.says.value = 1, "success", f"{ending}: {name}"
        except Exception as error:  # shown where the reader looks; a task would keep it to itself
            self.runs = before
            self.draw()
            self.bar.bar_style, self.says.value = "warning", said(error)
        finally:
            self.run_button.disabled, self.stop_button.disabled = False, True

    async def _compute(self, choice: Any, name: str) -> None:
        """The run in the worker, watched. Raises what the run raises."""
        self.says.value = "beginning: the worker loads the model"
        total = (await asyncio.to_thread(self.live.expected, choice)).blocks
        going = asyncio.ensure_future(asyncio.to_thread(self.live.begin, choice))
        await self._watch(going, choice, name, total)
        going.result()

    async def _watch(self, going: asyncio.Future, choice: Any, name: str, total: int) -> None:
        """Draw the curve of a run as far as it has come, until it ends."""
        seen, began = 0, asyncio.get_running_loop().time()
        while not going.done():
            rows = self.live.so_far(choice)
            done = rows["block"].nunique()
            spent = asyncio.get_running_loop().time() - began
            if done or spent > 3:
                self.says.value = f"block {done} of {total}, {spent:.0f} s"
            if len(rows) > seen:
                seen = len(rows)
                self.bar.value = done / total
                self.runs.pop(name, None)
                self.runs[name] = rows
                self.draw(name, total)
            await asyncio.wait([going], timeout=TICK)

    def widget(self) -> "VBox":
        """All of it."""
        from ipywidgets import VBox

        return VBox(
            [
                row([self.method, *self.controls.values()]),
                self.words,
                self.forecast,
                row([self.run_button, self.stop_button, self.forget_button, self.bar, self.says]),
                self.figure,
                self.table,
            ]
        )


def spawn(work: Any) -> asyncio.Task | None:
    """Begin a coroutine on the running loop; without one, run it to its end."""
    try:
        return asyncio.get_running_loop().create_task(work)
    except RuntimeError:
        asyncio.run(work)
        return None


def build_recipes(live: Any, blocks: pd.DataFrame | None = None, **start: Any) -> "VBox":
    """The recipe builder. live: `analysis.live.runs`; blocks: a study's table whose runs the figure begins with; start:
    settings of `live.RecipeChoice` that its controls begin with. Nothing is run or asked before a control is moved.
    """
    return Builder(live, start, history(blocks) if blocks is not None else {}).widget()
