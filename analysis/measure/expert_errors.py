"""What became of each expert of a mixture: the error of its output on the tokens that go to it, and how many do.

The dense model alone runs. What each of its experts is given is given to the same expert of the pruned model too, so
that an error is what pruning did to that expert, and nothing that the stream or the router brings.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import pandas as pd
import torch
from torch import Tensor, nn

from analysis.errors import UsageError
from analysis.models.anatomy import anatomy, evaluating, run_body
from analysis.models.experts import Routed, expert_count, find_experts
from analysis.models.hooks import hooked
from analysis.models.load import unwrapped
from analysis.schema import validate
from analysis.windows import Windows

if TYPE_CHECKING:
    from analysis.models.load import LoadedModel


def check_experts(model: nn.Module) -> dict[str, int]:
    """The full names of the modules that hold experts, with the number of their block. Raises UsageError where there
    are none.
    """
    blocks = anatomy(unwrapped(model)).blocks
    if found := {f"{block.name}.{name}": block.index for block in blocks for name in find_experts(block.module)}:
        return found
    raise UsageError(
        f"expert errors: {type(unwrapped(model)).__name__} has no mixture of experts; give expert_errors=False, or a"
        " model that has one, such as lab/experts"
    )


@torch.inference_mode()
def expert_errors(
    dense: "LoadedModel | nn.Module", pruned: nn.Module, texts: Mapping[str, Windows], *, batch: int = 8
) -> pd.DataFrame:
    """The table `expert_errors` of a pruned model that has all experts of the dense one, on texts by split.

    Tokens and squared differences are over real tokens, in float64; an expert that no token goes to has an error of
    NaN. Raises UsageError where there are no experts, or not equally many in both.
    """
    model = unwrapped(dense)
    places = check_experts(model)
    pairs = {name: (model.get_submodule(name), pruned.get_submodule(name)) for name in places}
    if fewer := [name for name, pair in pairs.items() if len({expert_count(module) for module in pair}) > 1]:
        raise UsageError(f"expert errors: {fewer[0]} of the pruned model has fewer experts, which cannot be compared")
    found = []
    for split, windows in texts.items():
        totals = {name: torch.zeros(expert_count(own), 3, dtype=torch.float64) for name, (_, own) in pairs.items()}
        given: dict[str, Routed] = {}
        hooks = [(module, _keep(given, name)) for name, (module, _) in pairs.items()]
        with evaluating(model), hooked(hooks):
            for start in range(0, len(windows), batch):
                rows = slice(start, start + batch)
                mask = windows.mask[rows].to(model.device)
                run_body(model, windows.arguments(rows))
                for name, call in given.items():
                    totals[name] += _sums(call, pairs[name][1], mask.flatten())
        for name, total in totals.items():
            for expert, (tokens, apart, square) in enumerate(total.tolist()):
                entries = tokens * given[name].hidden.shape[-1]
                found.append(
                    {
                        "block": places[name],
                        "expert": expert,
                        "split": split,
                        "tokens": int(tokens),
                        "share": tokens / windows.tokens,
                        "error": apart / entries if tokens else math.nan,
                        "relative_error": apart / square if square else math.nan,
                    }
                )
    return validate("expert_errors", pd.DataFrame(found))


def _keep(given: dict[str, Routed], name: str) -> Callable[..., None]:
    def hook(module, args, kwargs):
        given[name] = Routed.of(module, args, kwargs)

    return hook


def _sums(call: Routed, own: nn.Module, real: Tensor) -> Tensor:
    """(experts, 3): tokens, the sum of squared differences, and that of the dense output's squares."""
    sums = []
    for expert in range(expert_count(own)):
        rows = (call.tokens(expert) & real).nonzero()[:, 0]
        output = call.output(expert, rows).double()
        apart = replace(call, module=own).output(expert, rows).double() - output
        sums.append([len(rows), float(apart.square().sum()), float(output.square().sum())])
    return torch.tensor(sums, dtype=torch.float64)
