"""Folders of shrunk models: ordinary ones where their config describes them, else with a manifest and a loader of ours.

A model that its config cannot describe (see `shrink`) is written as the config of the full size, the weights in
`shrunk.safetensors` and the counts of every block in `shrunk.json`. `from_pretrained` finds no weights in such a folder
and says so, rather than fill in its own.
"""

from dataclasses import asdict
from pathlib import Path

import torch
from torch import nn

from analysis import storage
from analysis.errors import ModelError, first_line
from analysis.models.anatomy import Anatomy, anatomy
from analysis.models.hub import SHRUNK_MANIFEST, SHRUNK_WEIGHTS, read_config
from analysis.models.quiet import quiet
from analysis.models.widths import Widths, set_counts, set_weight, widths

WEIGHTS, MANIFEST, VERSION = SHRUNK_WEIGHTS, SHRUNK_MANIFEST, 1


def load_shrunk(folder: Path | str) -> nn.Module:
    """The model that `save_shrunk` wrote with a manifest: evaluation mode, no gradients, on the CPU, in the dtype it
    was saved in.

    It is built at full size from config.json, its matrices are cut to the sizes of the stored ones, and the counts of
    the manifest are set. Raises ModelError naming the file that is missing, unreadable or does not fit; a folder
    without a manifest is an ordinary model. `load_model` reads either.
    """
    from safetensors import SafetensorError, safe_open
    from safetensors.torch import load_model

    folder = Path(folder)
    read_config(folder, str(folder))
    counts = _read_manifest(folder)
    model = _full_size(folder)
    parts = anatomy(model)
    if len(counts) != len(parts.blocks):
        raise ModelError(
            f"{folder / MANIFEST}: counts of {len(counts)} blocks; the model of config.json has {len(parts.blocks)}"
        )
    try:
        with safe_open(folder / WEIGHTS, "pt") as file:
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}
        _cut_to(model, parts, shapes)
        set_counts(parts, counts)
        load_model(model, str(folder / WEIGHTS))
    except (SafetensorError, OSError, RuntimeError) as error:
        raise ModelError(
            f"{folder / WEIGHTS}: missing, cut short or not of the sizes that {MANIFEST} and config.json describe"
            f" ({first_line(error)})"
        ) from error
    if [asdict(block) for block in widths(model, parts)] != [asdict(block) for block in counts]:
        raise ModelError(f"{folder / MANIFEST}: states counts that the matrices in {WEIGHTS} do not have")
    return model.eval().requires_grad_(False)


def _read_manifest(folder: Path) -> list[Widths]:
    path = folder / MANIFEST
    if not path.is_file():
        raise ModelError(
            f"{folder}: has no {MANIFEST}, so it was not saved with unequal sizes; load it as any other model"
        )
    try:
        content = storage.read_json(path)
        if content["version"] != VERSION:
            raise ModelError(f"{path}: written in version {content['version']!r}; this program reads version {VERSION}")
        return [Widths(**block) for block in content["blocks"]]
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise ModelError(
            f"{path}: no list of head and neuron counts ({type(error).__name__}: {first_line(error)})"
        ) from error


def _full_size(folder: Path) -> nn.Module:
    """A model of config.json's own class and full size, with arbitrary weights."""
    import transformers
    from transformers.initialization import no_init_weights

    config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    name = (config.architectures or [""])[0]
    kind = getattr(transformers, name, None)
    if not (isinstance(kind, type) and issubclass(kind, transformers.PreTrainedModel)):
        raise ModelError(
            f"{folder / 'config.json'}: architecture {name!r} is no model class of transformers"
            f" {transformers.__version__}"
        )
    with quiet(), no_init_weights():
        model = kind(config)
        model.tie_weights()
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    dtype = config.dtype if isinstance(config.dtype, torch.dtype) else torch.float32
    return model.to(dtype).eval()  # type: ignore[arg-type]  # wrapped without its signature


def _cut_to(model: nn.Module, parts: Anatomy, shapes: dict[str, tuple[int, ...]]) -> None:
    for name, matrix in parts.matrices():
        if matrix.expert is not None:  # heads and neurons beside experts may be fewer, not these
            continue
        module = matrix.module
        shape = shapes.get(f"{name}.weight", tuple(module.weight.shape))
        if shape != tuple(module.weight.shape):
            set_weight(module, module.weight.new_zeros(shape))
        if f"{name}.bias" in shapes and (module.bias is None or tuple(module.bias.shape) != shapes[f"{name}.bias"]):
            module.bias = nn.Parameter(module.weight.new_zeros(shapes[f"{name}.bias"]))
