"""What the loop does for a recipe, step by step, in sentences. No torch."""

from analysis.recipe.recipe import Recipe
from analysis.recipe.words import REFINEMENT_WORDS, REPAIR_WORDS

INPUTS = {
    "sparse": "what the pruned blocks before it give (sparse stream)",
    "dense": "the dense model's own (dense stream)",
}


def steps(recipe: Recipe) -> list[str]:
    """The turns of the loop in their order, one sentence each; what a recipe does not do is left out."""
    solver = recipe.solver
    scores = f"choose the mask: {recipe.criterion_word.meaning}; pattern {recipe.pattern}"
    said = []
    if recipe.masks_first:
        said.append(f"On the dense model, once: {scores}.")
    said.append(f"Take the next unit of {unit_in_words(recipe)}.")
    if not recipe.masks_first:
        said.append(f"For matrices without a mask, on the {recipe.statistics} stream: {scores}.")
    if recipe.refinement.name != "none":
        said.append(f"Refine it, kept weights as they are: {REFINEMENT_WORDS[recipe.refinement.name].meaning}.")
    if recipe.repair.name != "none":
        said.append(f"Repair: {REPAIR_WORDS[recipe.repair.name].meaning}.")
    if solver.name == "none":
        said.append("Leave the weights that stay as they are, but for the criterion's own update.")
    elif solver.name == "retrain":
        said.append(f"Train the whole pruned model: {solver.word.meaning}; {_trained(recipe)}.")
    else:
        said.append(f"Its input: {INPUTS[recipe.student]}.")
        said.append(f"Its target: the output of the dense {_one(recipe)} on {INPUTS[recipe.target]}.")
        trained = f"; {_trained(recipe)}" if solver.name == "gradient" else ""
        said.append(f"Change the weights that stay: {solver.word.meaning}{trained}.")
    said.append(
        "Move both streams past the blocks that are final, and record their errors; begin again with the next unit."
    )
    return said


def unit_in_words(recipe: Recipe) -> str:
    """What is reconstructed at once, in words: "1 block", "2 blocks, 1 of them shared with the unit before"."""
    unit = recipe.unit
    if unit.name != "block":
        return {
            "model": "all blocks together",
            "sub-block": "a block, its attention and MLP half one after the other",
        }.get(unit.name, "a block, its matrices one by one")
    shared = f", {unit.overlap} of them shared with the unit before" if unit.overlap else ""
    return f"{unit.width} block{'s' * (unit.width > 1)}{shared}"


def _one(recipe: Recipe) -> str:
    unit = recipe.unit
    return unit.name if unit.name != "block" or unit.width == 1 else "blocks"


def _trained(recipe: Recipe) -> str:
    solver = recipe.solver
    return f"{solver.epochs} epochs, learning rate {solver.lr:g}, {solver.batch} windows a step"
