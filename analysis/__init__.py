"""What happens to a language model after weights are pruned, and what reconstruction buys or costs.

    from analysis import load_model, load_tokens, Recipe, prune

    dense = load_model("lab")
    calibration = load_tokens("lab:stories", dense, samples=32, length=128)
    held_out = load_tokens("lab:stories", dense, samples=32, length=128, split="held-out")
    pruned = prune(dense, Recipe.parse("wanda-50% BR+GP"), calibration, held_out={"stories": held_out})
    pruned.tables["perplexity"]

The names in `__all__` are imported when first used, so `import analysis` loads no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if (
    TYPE_CHECKING
):  # what editors and type checkers see; at run time `__getattr__` below does the same, one name at a time
    from analysis.errors import AnalysisError
    from analysis.extend import register_criterion, register_pattern, register_solver, register_structured_criterion
    from analysis.measure.perplexity import Perplexity, perplexity
    from analysis.models.load import LoadedModel, load_model
    from analysis.pruning.loop import prune
    from analysis.pruning.state import Pruned
    from analysis.recipe.recipe import Recipe
    from analysis.recipe.words import Word
    from analysis.study.job import Job, grid
    from analysis.study.results import Study
    from analysis.study.sweep import run_study
    from analysis.text.load import load_tokens
    from analysis.windows import Windows, disjoint

_HOMES = {
    "AnalysisError": "analysis.errors",
    "Job": "analysis.study.job",
    "LoadedModel": "analysis.models.load",
    "Perplexity": "analysis.measure.perplexity",
    "Pruned": "analysis.pruning.state",
    "Recipe": "analysis.recipe.recipe",
    "Study": "analysis.study.results",
    "Windows": "analysis.windows",
    "Word": "analysis.recipe.words",
    "disjoint": "analysis.windows",
    "grid": "analysis.study.job",
    "load_model": "analysis.models.load",
    "load_tokens": "analysis.text.load",
    "perplexity": "analysis.measure.perplexity",
    "prune": "analysis.pruning.loop",
    "register_criterion": "analysis.extend",
    "register_pattern": "analysis.extend",
    "register_solver": "analysis.extend",
    "register_structured_criterion": "analysis.extend",
    "run_study": "analysis.study.sweep",
}

__all__ = list(_HOMES)


def __getattr__(name: str):
    """Import a public name from the module that defines it, the first time it is asked for."""
    if name not in _HOMES:
        raise AttributeError(f"module 'analysis' has no attribute {name!r}; public names: {', '.join(__all__)}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
