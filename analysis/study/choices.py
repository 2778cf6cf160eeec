"""From a notebook's parameters to what `grid` takes: lists of words in, recipes and labelled texts out. No torch."""

from collections.abc import Sequence

from analysis.errors import UsageError
from analysis.recipe import Recipe
from analysis.text.sources import parse_source


def recipes(criteria: Sequence[str], pattern: str, methods: Sequence[str], **solver: float | int | str) -> list[Recipe]:
    """Every criterion with every method at one pattern; `solver` (lr, epochs, batch, ...) goes to the methods that train.

        recipes(["wanda", "sparsegpt"], "50%", ["LR", "BR+GP"], lr=2e-3, epochs=20)

    Raises RecipeError for a word or a number that is none.
    """
    options = ",".join(f"{name}={value}" for name, value in solver.items())
    texts = [f"{criterion}-{pattern} {method}" for criterion in criteria for method in methods]
    parsed = [Recipe.parse(text) for text in texts]
    trained = (recipe.solver.name == "gradient" and bool(options) for recipe in parsed)
    return [Recipe.parse(f"{text}[{options}]") if train else recipe for text, recipe, train in zip(texts, parsed, trained, strict=True)]


def labelled(sources: Sequence[str]) -> dict[str, str]:
    """Sources by the name tables give them (the source without its folders). Raises UsageError if two have one name."""
    out = {parse_source(source).label: source for source in sources}
    if len(out) < len(sources):
        raise UsageError(f"held-out texts {', '.join(sources)}: two have the same name; give each text once, in files of different names")
    return out
