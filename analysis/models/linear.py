"""What a matrix is: a linear map that multiplies by the weight it stores, so that a weight set to zero stays gone.

Others change linear maps: adapters add to them, parametrisations, weight norm and torch's own pruning compute the
weight anew at every forward, quantisers store it in another form, ties store it once for two. A mask on such a weight
would be a mask in name only; they are found by what a module holds and by what it computes, and refused.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TypeGuard

import torch
from torch import Tensor, nn
from torch.nn.functional import linear
from torch.nn.utils import parametrize
from transformers.pytorch_utils import Conv1D

from analysis.errors import UnsupportedModel
from analysis.models.hooks import hooked

PLAIN_DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
PLAIN_TYPES: tuple[type, ...] = (nn.Parameter, Tensor)
_STORED = ("weight", "qweight", "weight_packed")  # what quantised linear maps call what they store
_MERGE = "merge it first (peft: `model.merge_and_unload()`) and prune the merged model"


def is_matrix(module: nn.Module) -> TypeGuard[nn.Linear | Conv1D]:
    """Whether a module is a linear map. That its weight is plain says `refuse_changed`."""
    return isinstance(module, nn.Linear | Conv1D)


def tensor_given(args: tuple, kwargs: dict) -> Tensor | None:
    """The tensor a module is called on: its first positional one, or `hidden_states`, or the first among its keywords;
    None without any.
    """
    return next(
        (value for value in (*args, kwargs.get("hidden_states"), *kwargs.values()) if isinstance(value, Tensor)), None
    )


def refuse_adapters(model: nn.Module) -> None:
    """Raise UnsupportedModel naming the first layer that carries an adapter (LoRA, DoRA, IA3 and their kin keep the map
    they adapt as `base_layer`).
    """
    for name, module in model.named_modules():
        if "base_layer" in module._modules:
            own = ", ".join(key for key, child in module._modules.items() if key != "base_layer" and child is not None)
            raise UnsupportedModel(f"{name} ({type(module).__name__}): carries an adapter ({own or 'peft'}); {_MERGE}")


def refuse_changed(name: str, block: nn.Module) -> None:
    """Raise UnsupportedModel for the first linear map inside `block` whose weight is no plain leaf parameter, saying
    what it is and what to do. `name`: the block's own, for the message.
    """
    for key, module in block.named_modules():
        if reason := _changed(module):
            raise UnsupportedModel(f"{f'{name}.{key}'.rstrip('.')} ({type(module).__name__}): {reason}")


def _changed(module: nn.Module) -> str | None:
    """Why the weight of a module is not its own to set; None where it is, or the module is no linear map."""
    stored = [getattr(type(module), key, None) for key in _STORED]  # not of the instance: that would compute it anew
    stored += [place.get(key) for key in _STORED for place in (module._parameters, module._buffers)]
    if any(_quantised(value) for value in stored):
        return "its weights are quantized; load the unquantized original"
    if not is_matrix(module):
        return None
    if parametrize.is_parametrized(module, "weight"):
        kinds = ", ".join(type(part).__name__ for part in module.get_submodule("parametrizations.weight").children())
        return (
            f"its weight is parametrised ({kinds}), computed anew at every forward; make it plain first"
            " (`torch.nn.utils.parametrize.remove_parametrizations(module, 'weight')`)"
        )
    weight = module._parameters.get("weight")
    if weight is None:
        made_of = ", ".join(key for key in (*module._parameters, *module._buffers) if key.startswith("weight_"))
        return (
            f"its weight is no parameter but made at every forward of {made_of or 'something else'}; make it plain"
            " first (`remove_weight_norm`, `remove_spectral_norm` or `prune.remove` of torch.nn.utils)"
        )
    if weight.is_meta:
        return "its weight is not in memory (meta device: offloaded, or never loaded); load the model whole"
    if extra := [key for key in (*module._parameters, *module._modules) if key not in ("weight", "bias")]:
        return f"carries an adapter ({', '.join(extra)}); {_MERGE}"
    return None if weight.ndim == 2 else f"its weight {tuple(weight.shape)} is no matrix; such blocks cannot be pruned"


def _quantised(stored: object) -> bool:
    """Whether a stored weight is no plain floating-point tensor: packed, of integers or eight bits, or of a class of
    its own."""
    if not isinstance(stored, Tensor):
        return callable(stored)
    return stored.dtype not in PLAIN_DTYPES or type(stored) not in PLAIN_TYPES


def refuse_tied(model: nn.Module, matrices: Mapping[str, nn.Module]) -> None:
    """Raise UnsupportedModel where a matrix (full name -> module) shares its weight with another parameter of the
    model: one mask would fall on both.
    """
    names: dict[tuple[int, int], list[str]] = {}
    for name, value in model.named_parameters(remove_duplicate=False):
        names.setdefault(_place(value), []).append(name)
    for name, module in matrices.items():
        weight = module.get_parameter("weight")
        others = [other for other in names[_place(weight)] if other != f"{name}.weight"]
        if others and weight.numel():
            raise UnsupportedModel(
                f"{name}: shares its weight with {', '.join(others[:3])}; tied matrices cannot be pruned one by one."
                " Give each a weight of its own (`module.weight = torch.nn.Parameter(module.weight.detach().clone())`)"
            )


def _place(value: Tensor) -> tuple[int, int]:
    """Equal for what has the same memory, or, without any, is the same parameter."""
    return (id(value) if value.is_meta else value.data_ptr()), value.numel()


@contextmanager
def proven_linear(matrices: Mapping[str, nn.Linear | Conv1D]) -> Iterator[None]:
    """Around a forward: raises UnsupportedModel for a matrix (full name -> module) that returns anything but its stored
    weight times its input plus its bias, up to rounding, or whose weight the forward replaces or writes.
    """
    before = {name: _identity(module) for name, module in matrices.items()}

    def check(name: str):
        def hook(module, args, output):
            given = tensor_given(args, {})
            if given is None or not isinstance(output, Tensor):
                return
            weight = module.weight.T if isinstance(module, Conv1D) else module.weight
            plain = linear(given, weight, module.bias).double()
            difference = (output.double() - plain).norm()
            allowed = max(1e-4, 8 * torch.finfo(weight.dtype).eps) * plain.norm()
            if difference.isfinite() and not difference <= allowed:
                raise UnsupportedModel(
                    f"{name} ({type(module).__name__}): returns something else than its weight times its input (an"
                    " adapter, a hook, a forward of its own); undo that, or merge it into the weight, before pruning"
                )

        return hook

    with hooked(after=[(module, check(name)) for name, module in matrices.items()]):
        yield
    if changed := [name for name, module in matrices.items() if _identity(module) != before[name]]:
        raise UnsupportedModel(
            f"{changed[0]}: a hook writes its weight at every forward, so that pruned weights would come back; remove"
            " the hook first"
        )


def _identity(module: nn.Module) -> tuple[int, int, int]:
    """Equal for a weight that was neither replaced nor written in between."""
    weight = module.get_parameter("weight")
    return id(weight), weight.data_ptr(), 0 if weight.is_inference() else weight._version
