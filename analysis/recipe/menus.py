"""What menus offer of a recipe's parts, and the recipe that some choice of them is. No torch."""

from analysis.recipe.parts import TRAINED
from analysis.recipe.recipe import Recipe

UNITS = ("matrix", "sub-block", "1 block", "2 blocks", "2 blocks, overlap 1", "4 blocks", "model")
SOLVERS = ("none", "gradient", "ridge", "retrain")
METHODS: dict[str, dict[str, str]] = {
    "LR": {"solver": "none"},
    "BR": {"solver": "gradient", "unit": "1 block", "student": "sparse", "target": "sparse"},
    "BR+GP": {"solver": "gradient", "unit": "1 block", "student": "sparse", "target": "dense"},
    "BR+GP+CR": {"solver": "gradient", "unit": "2 blocks, overlap 1", "student": "sparse", "target": "dense"},
    "IR": {"solver": "gradient", "unit": "1 block", "student": "dense", "target": "dense"},
    "ridge": {"solver": "ridge", "unit": "matrix", "student": "sparse", "target": "sparse"},
    "retrain": {"solver": "retrain", "unit": "model", "student": "sparse", "target": "sparse"},
}
"""What the named methods choose; what one leaves open stays as it is."""


def from_menus(
    *,
    criterion: str,
    pattern: str,
    refinement: str = "none",
    solver: str = "none",
    unit: str = "1 block",
    student: str = "sparse",
    target: str = "sparse",
    epochs: int = 10,
    lr: float = 2e-3,
    seed: int = 0,
) -> Recipe:
    """The recipe of these parts. unit: of `UNITS`; solver: of `SOLVERS`, with "none" the unit and the streams play no
    part. Raises RecipeError for parts that do not go together.
    """
    refined = "" if refinement == "none" else f"+{refinement}"
    data = Recipe.parse(f"{criterion}{refined}-{pattern} LR").to_dict()
    if solver != "none":
        words = unit.replace(",", "").split()
        data["unit"] = {"name": unit}
        if words[0].isdecimal():
            overlap = int(words[-1]) if "overlap" in words else 0
            data["unit"] = {"name": "block", "width": int(words[0]), "overlap": overlap}
        data |= {"student": student, "target": target}
        data["solver"] = {"name": solver} | ({"epochs": epochs, "lr": lr} if solver in TRAINED else {})
    return Recipe.from_dict(data | {"seed": seed})
