"""Models with fewer experts: the rest cut out of the fused parameters and of their routers, as the config then says."""

import copy
from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from analysis.errors import UnsupportedModel
from analysis.models.anatomy import Anatomy
from analysis.models.experts import LAST, expert_count, find_experts
from analysis.models.quiet import quiet
from analysis.models.widths import empty_model

COUNTS = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")  # what configs call them


def mixtures(parts: Anatomy) -> dict[int, nn.Module]:
    """The modules of experts of a model, by the number of their block. Raises UnsupportedModel where there are none,
    several in a block, or not equally many experts in each.
    """
    found: dict[int, nn.Module] = {}
    for block in parts.blocks:
        for name, module in find_experts(block.module).items():
            if block.index in found:
                raise UnsupportedModel(f"{block.name}: has several mixtures of experts, the second is {name}")
            found[block.index] = module
    if not found:
        raise UnsupportedModel(f"{parts.model_type}: its blocks have no experts to remove")
    counts = {index: expert_count(module) for index, module in found.items()}
    if len(set(counts.values())) > 1:
        raise UnsupportedModel(
            f"{parts.model_type}: its blocks have {sorted(set(counts.values()))} experts; they must have equally many"
        )
    return found


def with_fewer(config: Any, count: int, kept: int) -> Any:
    """A copy of a config with `kept` experts in the place of `count`."""
    config = copy.deepcopy(config)
    text = config.get_text_config()
    for name in COUNTS:
        if getattr(text, name, None) == count:
            setattr(text, name, kept)
    return config


def check_fewer(model: nn.Module, parts: Anatomy, kept: int) -> None:
    """Raise UnsupportedModel before any work where no config of this architecture describes the model with `kept`
    experts in a block.
    """
    count = expert_count(next(iter(mixtures(parts).values())))
    empty = empty_model(type(model), with_fewer(model.config, count, kept))
    counts = {expert_count(module) for module in find_experts(empty).values()} if empty is not None else set()
    if empty is None or counts != {kept}:
        raise UnsupportedModel(
            f"{parts.model_type}: no config of it has {kept} experts in the place of {count}, so none can be removed"
        )
    named = {name: value.shape for name, value in empty.state_dict().items()}
    for name, value in model.state_dict().items():
        if name not in named or _differing(value.shape, named[name], count, kept) is None:
            raise UnsupportedModel(
                f"{parts.model_type}: with {kept} of {count} experts {name} would not be what its config says; none can"
                " be removed"
            )


@torch.no_grad()
def cut_experts(model: nn.Module, parts: Anatomy, masks: Mapping[str, Tensor]) -> nn.Module:
    """A smaller copy of a model: of each block with experts those that its mask (experts,) keeps, True = kept, in their
    order, with their rows of the router. masks: by the block's name, equally many kept in each.

    Where gates are normalised over the experts that a token goes to, as nearly everywhere, the copy computes what the
    model would with the removed ones never chosen.
    """
    network = cast(Any, model)
    from transformers.initialization import no_init_weights

    count, kept = next((len(mask), int(mask.sum())) for mask in masks.values())
    with quiet(), no_init_weights():
        small = type(network)(with_fewer(network.config, count, kept))
    shapes = {name: value.shape for name, value in small.state_dict().items()}
    state = dict(network.state_dict())
    for block in parts.blocks:
        if block.name not in masks:
            continue
        stays = masks[block.name].nonzero()[:, 0]
        for name, value in state.items():
            if name.startswith(f"{block.name}.") and value.shape != shapes[name]:
                axis = _differing(value.shape, shapes[name], count, kept)
                assert axis is not None, "check_fewer has looked at every tensor"
                state[name] = value.index_select(axis, stays.to(value.device))
    small.load_state_dict({name: value.clone() for name, value in state.items()}, assign=True)
    small.tie_weights()
    small.generation_config = copy.deepcopy(getattr(network, "generation_config", None))
    small.config.name_or_path = network.config.name_or_path
    small.train(model.training).to(next(model.parameters()).device)
    return small.requires_grad_(False)


def _differing(shape: torch.Size, new: torch.Size, count: int, kept: int) -> int | None:
    """The one axis that has `count` entries in a tensor and is to have `kept`; -1 where nothing differs, None where
    something else does.
    """
    axes = [axis for axis, (one, other) in enumerate(zip(shape, new, strict=False)) if one != other]
    if not axes and len(shape) == len(new):
        return -1
    alone = len(axes) == 1 and len(shape) == len(new) and (shape[axes[0]], new[axes[0]]) == (count, kept)
    return axes[0] if alone else None


def inner_width(module: nn.Module) -> int:
    """How many activations one expert's last matrix reads."""
    shape = module.get_parameter(LAST).shape[1:]
    return shape[0] if module.is_transposed else shape[1]


def router_groups(config: Any) -> tuple[int, int]:
    """Into how many groups a router parts the experts, and to how many of these a token may go; (1, 1) for none."""
    groups, chosen = (getattr(config, name, None) for name in ("n_group", "topk_group"))
    return (groups, chosen or groups) if isinstance(groups, int) and groups > 1 else (1, 1)
