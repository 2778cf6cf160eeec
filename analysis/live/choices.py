"""What a reader of the recipe builder chooses, and what it stands for: a recipe, a job, a command, a line of Python.
No torch.
"""

import shlex
from dataclasses import dataclass
from typing import Any

from analysis.recipe.menus import from_menus
from analysis.recipe.recipe import Recipe
from analysis.recipe.steps import steps
from analysis.study.grids import labelled
from analysis.study.job import Job


@dataclass(frozen=True)
class RecipeChoice:
    """One setting of the recipe builder. Its words are those of `recipe.menus`."""

    model: str = "lab"
    criterion: str = "wanda"
    pattern: str = "50%"
    refinement: str = "none"
    solver: str = "gradient"
    unit: str = "1 block"
    student: str = "sparse"
    target: str = "dense"
    epochs: int = 5
    lr: float = 2e-3
    calibration: str = "lab:stories"
    held_out: tuple[str, ...] = ("lab:stories",)
    samples: int = 8
    held_out_samples: int = 8
    length: int = 128
    seed: int = 0

    def recipe(self) -> Recipe:
        """Raises RecipeError for parts that do not go together."""
        names = ("criterion", "pattern", "refinement", "solver", "unit", "student", "target", "epochs", "lr", "seed")
        return from_menus(**{name: getattr(self, name) for name in names})

    def job(self) -> Job:
        """The run it stands for. Raises RecipeError or UsageError for what cannot be run."""
        return Job(recipe=self.recipe(), held_out=tuple(labelled(self.held_out).items()), **self._texts())

    def _texts(self) -> dict[str, Any]:
        names = ("model", "calibration", "samples", "held_out_samples", "length", "seed")
        return {name: getattr(self, name) for name in names}

    def command(self) -> str:
        """The command line that does the same."""
        texts = [word for source in self.held_out for word in ("--held-out", source)]
        counts = [("samples", self.samples), ("held-out-samples", self.held_out_samples), ("length", self.length)]
        numbers = [word for name, value in counts for word in (f"--{name}", str(value))]
        seeded = ["--seed", str(self.seed)] if self.seed else []
        words = ["analysis", "prune", self.model, "--recipe", self.recipe().label, "--calibration", self.calibration]
        return shlex.join([*words, *texts, *numbers, *seeded, "--out", "out/mine"])

    def code(self) -> str:
        """The Python that does the same."""
        said = ",\n    ".join(f"{name}={value!r}" for name, value in self._texts().items() if name != "seed")
        return (
            "from analysis.study.grids import labelled\nfrom analysis.study.job import grid\n"
            "from analysis.study.sweep import run_study\n\n"
            f"study = run_study(grid(\n    recipes={self.recipe().label!r},\n    {said},\n"
            f"    held_out=labelled({list(self.held_out)!r}),\n    seeds={self.seed},\n))"
        )

    def steps(self) -> list[str]:
        """What the loop does for it, in sentences."""
        return steps(self.recipe())

    def label(self) -> str:
        """Its run in a legend."""
        texts = "" if self.calibration == "lab:stories" else f", {self.calibration}"
        return f"{self.recipe().label}, {self.samples} × {self.length}{texts}"
