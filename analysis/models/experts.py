"""Mixtures of experts: what an expert is given, and what it makes of it.

transformers keeps the experts of one block in two parameters, (experts, out, in) or transposed, and runs them in one
call that hides what each of them reads. Its classes say how the parameters are laid out (`use_experts_implementation`);
that they say it rightly is proven on the model: `proven_experts` makes every expert's output from what is read here
and compares the weighted sum with the module's own. Other layouts are refused.
"""

import inspect
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from analysis.errors import UnsupportedModel
from analysis.models.hooks import hooked
from analysis.models.linear import PLAIN_DTYPES

_FLAGS = ("has_gate", "has_bias", "is_transposed", "is_concatenated")
_ROUTER = re.compile(r"(^|\.)(gate|\w*router|\w*expert_gate|moe_statics)$")
_ATTENTION = re.compile("attn|attention", re.IGNORECASE)
LAST = "down_proj"
CHOSEN = ("num_experts_per_tok", "num_experts_per_token", "moe_topk", "moe_k", "top_k_experts", "top_k")


def keys(module: nn.Module) -> tuple[str, str] | None:
    """The names of the two parameters of a module that holds experts: what reads hidden states, and what reads the
    first's activations. None for any other module, and for experts of a layout of their own.
    """
    if not all(hasattr(module, flag) for flag in _FLAGS) or getattr(module, "has_post_expert_norm", False):
        return None
    first = "gate_up_proj" if module.has_gate else "up_proj"
    cubes = {name for name, value in module.named_parameters(recurse=False) if value.ndim == 3}
    return (first, LAST) if cubes == {first, LAST} else None


def expert_count(module: nn.Module) -> int:
    """How many experts a module holds."""
    return module.get_parameter(LAST).shape[0]


def experts_per_token(config: Any) -> int:
    """How many experts a token goes to, as a config says. Raises UnsupportedModel where it does not."""
    for name in CHOSEN:
        if isinstance(chosen := getattr(config, name, None), int):
            return chosen
    raise UnsupportedModel(f"{config.model_type}: its config does not say to how many experts a token goes")


def find_experts(block: nn.Module) -> dict[str, nn.Module]:
    """The modules inside a block that hold experts, by name."""
    return {name: module for name, module in block.named_modules() if keys(module) is not None}


def find_routers(block: nn.Module) -> dict[str, nn.Module]:
    """The modules, by name, that decide which experts a token goes to or how much what they make counts; with all that
    is in them they are never pruned and never trained. They stand beside the experts and are called so, or are linear
    maps with an output for each expert.
    """
    found: dict[str, nn.Module] = {}
    for name, experts in find_experts(block).items():
        parent, count = name.rpartition(".")[0], expert_count(experts)
        for key, module in block.get_submodule(parent).named_modules():
            full = f"{parent}.{key}".strip(".")
            scores = "." not in key and isinstance(module, nn.Linear) and module.out_features == count
            called = _ROUTER.search(key) and not _ATTENTION.search(full) and not full.startswith(f"{name}.")
            if called or scores:
                found[full] = module
    return found


def router_parameters(module: nn.Module) -> set[int]:
    """The ids of all parameters of the routers inside a module."""
    return {id(value) for router in find_routers(module).values() for value in router.parameters()}


def refuse_changed_experts(name: str, module: nn.Module) -> None:
    """Raise UnsupportedModel for experts whose weights are not their own to set."""
    for key in keys(module) or ():
        value = module.get_parameter(key)
        if value.is_meta:
            raise UnsupportedModel(
                f"{name} ({type(module).__name__}): its weights are not in memory (meta device: offloaded, or never"
                " loaded); load the model whole"
            )
        if value.dtype not in PLAIN_DTYPES:
            raise UnsupportedModel(
                f"{name} ({type(module).__name__}): its weights are quantized; load the unquantized original"
            )


@dataclass(frozen=True, eq=False)
class Routed:
    """One call of a module that holds experts.

    hidden   (N, H) what all of them may read, one row per token
    experts  (N, k) the experts that each token goes to
    weights  (N, k) how much each of their outputs counts
    """

    module: nn.Module
    hidden: Tensor
    experts: Tensor
    weights: Tensor

    @classmethod
    def of(cls, module: nn.Module, args: tuple, kwargs: dict) -> "Routed":
        """From the arguments of the module's forward."""
        given = list(inspect.signature(module.forward).bind(*args, **kwargs).arguments.values())
        hidden, experts, weights = given[:3]
        return cls(module, hidden.reshape(-1, hidden.shape[-1]), experts, weights)

    def tokens(self, expert: int) -> Tensor:
        """(N,) bool: the tokens that go to an expert."""
        return (self.experts == expert).any(1)

    def gate(self, expert: int) -> Tensor:
        """(N,) how much an expert's output counts for each token; 0 where it does not go there."""
        return (self.weights * (self.experts == expert)).sum(1)

    def read(self, key: str, expert: int, rows: Tensor | slice) -> Tensor:
        """(n, in) what an expert's matrix reads of the tokens `rows`, whether they go to it or not."""
        hidden = self.hidden[rows]
        return hidden if key != LAST else self._activation(expert, hidden)

    def output(self, expert: int, rows: Tensor) -> Tensor:
        """(n, H) what an expert makes of the tokens `rows`, before it is weighted."""
        return expert_map(self.module, LAST, expert, self.read(LAST, expert, rows))

    def _activation(self, expert: int, hidden: Tensor) -> Tensor:
        module = cast(Any, self.module)
        (first, _) = cast("tuple[str, str]", keys(module))
        made = expert_map(module, first, expert, hidden)
        return module._apply_gate(made) if module.has_gate else module.act_fn(made)


def expert_map(module: nn.Module, key: str, expert: int, x: Tensor) -> Tensor:
    """One linear map of one expert on x (..., in), its bias added where there is one. Differentiable."""
    weight, bias = module.get_parameter(key)[expert], getattr(module, f"{key}_bias", None)
    product = x @ (weight if module.is_transposed else weight.T)
    return product if bias is None else product + bias[expert]


@contextmanager
def proven_experts(modules: Mapping[str, nn.Module]) -> Iterator[None]:
    """Around a forward: raises UnsupportedModel for experts (full name -> module) that return anything but the weighted
    sum of what `Routed` says each of them makes, up to rounding.
    """

    def check(name: str):
        def hook(module, args, kwargs, output):
            call = Routed.of(module, args, kwargs)
            total = torch.zeros_like(call.hidden, dtype=torch.float64)
            for expert in range(expert_count(module)):
                rows = call.tokens(expert).nonzero()[:, 0]
                total[rows] += (call.output(expert, rows) * call.gate(expert)[rows, None]).double()
            difference = (output.reshape(total.shape).double() - total).norm()
            allowed = max(1e-4, 8 * torch.finfo(call.hidden.dtype).eps) * total.norm()
            if difference.isfinite() and not difference <= allowed:
                raise UnsupportedModel(
                    f"{name} ({type(module).__name__}): a mixture of experts that returns something else than the"
                    " weighted sum of its experts' two linear maps; such experts cannot be pruned"
                )

        return hook

    before: dict[str, tuple[tuple, dict]] = {}

    def keep(name: str):
        def hook(module, args, kwargs):
            before[name] = (args, kwargs)

        return hook

    def after(name: str):
        prove = check(name)
        return lambda module, args, output: prove(module, *before.pop(name), output)

    with hooked(
        [(module, keep(name)) for name, module in modules.items()],
        [(module, after(name)) for name, module in modules.items()],
    ):
        yield
