"""Whatever runs on the CPU runs on a device of its own: nothing forgets where its tensors are, and results come back.

The device is a pretended one (`tests/helpers/far.py`), in a process of its own.
"""

import json
import subprocess
import sys

import pytest

from analysis import paths
from tests.helpers.encoders import HEADS
from tests.helpers.recipes import RECIPES

NEAR = 1e-9  # of one or the number; recipes are computed in float64, and strides lead the CPU's kernels other ways
TRAINED = 1e-3  # in float32, by steps of Adam, which has a fused kernel for some devices only
ENCODERS = {f"encoder {name}": name for name in HEADS}
CASES = [*RECIPES, *ENCODERS, "bfloat16", "shrink", "perplexity"]


@pytest.fixture(scope="module")
def report(request) -> dict[str, dict]:
    """Of the cases that this run has."""
    asked = [
        item.callspec.params
        for item in request.session.items
        if item.path == request.path and hasattr(item, "callspec")
    ]
    code = "from tests.helpers import far; far.begin(); from tests import test_devices; test_devices.main()"
    command = [sys.executable, "-c", code, *(params["case"] for params in asked), "mixed", "numpy"]
    done = subprocess.run(command, cwd=paths.ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_on_a_device_the_result_is_the_cpus(report, case):
    assert "error" not in report[case], report[case]["error"]
    assert report[case]["numbers"] > 0
    assert report[case]["difference"] <= (TRAINED if "epochs" in case else NEAR)


@pytest.mark.slow
def test_tensors_of_two_devices_do_not_mix(report):
    assert "at least two devices" in report["mixed"]["error"] and "use .cpu()" in report["numpy"]["error"]


def run(names: list[str]) -> dict[str, dict]:
    """Cases on the CPU and on the device: name -> how many numbers and their largest difference, or the error."""
    import torch

    from analysis.measure.perplexity import perplexity
    from analysis.models import linear
    from analysis.pruning.loop import prune
    from analysis.recipe.recipe import Recipe
    from analysis.structured.find import structures
    from analysis.structured.shrink import shrink
    from tests.helpers import far
    from tests.helpers.encoders import encoder, examples
    from tests.helpers.recipes import model
    from tests.helpers.small import small_llama, windows
    from tests.helpers.structures import half_kept

    linear.PLAIN_TYPES += (far.Far,)

    def pruned(recipe, made, calibration, held_out, **options):
        result = prune(made, Recipe.parse(recipe), calibration, {"other": held_out}, **options)
        parameters = dict(result.model.named_parameters())
        measured = {
            f"{name}.{column}": torch.tensor(table[column].to_numpy())
            for name, table in result.tables.items()
            for column in table.select_dtypes("float")
            if name != "cost"
        }
        return parameters | measured

    def words(recipe):
        return lambda place: pruned(
            recipe, model().to(place), windows(4, 8), windows(2, 8, seed=1), precision=torch.float64
        )

    def encoded(name):
        return lambda place: pruned(
            "flap-neurons-50% LIAR+GP",
            encoder(name).double().to(place),
            examples(name),
            examples(name, 8, seed=1),
            precision=torch.float64,
        )

    def half(place):
        made = small_llama(blocks=2).bfloat16().to(place)
        parameters = pruned("magnitude-50% LR", made, windows(4), windows(2, seed=1))
        return {name: value for name, value in parameters.items() if value.dtype == torch.bfloat16}

    def smaller(place):
        made = small_llama(blocks=2).double().to(place)
        removable = structures(made, kinds=["neurons"])
        masks = {name: mask.to(place) for name, mask in half_kept(removable, seed=1).items()}
        return dict(shrink(made, removable, masks).named_parameters())

    def text(place):
        measured = perplexity(small_llama(blocks=2).double().to(place), windows(4))
        return {"perplexity": torch.tensor([measured.perplexity], dtype=torch.float64)}

    cases = {recipe: words(recipe) for recipe in RECIPES}
    cases |= {case: encoded(name) for case, name in ENCODERS.items()}
    cases |= {"bfloat16": half, "shrink": smaller, "perplexity": text}
    cases["mixed"] = lambda place: {"sum": torch.ones(2) + torch.ones(2).to(place)}
    cases["numpy"] = lambda place: {"sum": torch.tensor(torch.ones(2).to(place).numpy())}
    return {name: compared(cases[name], far) for name in names}


def compared(case, far) -> dict:
    near = case("cpu")
    try:
        with far.device():
            there = case(far.NAME)
            there = {name: value.cpu() for name, value in there.items()}
    except Exception as error:  # whatever a device can make of it is what the test tells
        return {"error": f"{type(error).__name__}: {error}"[:2000]}
    if set(there) != set(near):
        return {"error": f"other numbers: {sorted(set(there) ^ set(near))}"}
    differences = [
        float(((there[name] - value).abs() / value.abs().clamp(min=1)).nan_to_num().max())
        for name, value in near.items()
        if value.numel()
    ]
    return {"numbers": len(differences), "difference": max(differences)}


def main() -> None:
    print(json.dumps(run(sys.argv[1:])))
