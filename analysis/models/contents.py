"""What a folder holds that is no model this project reads, and what to do about it. Loads no torch."""

import re
from pathlib import Path

from analysis import storage

_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.h5", "*.msgpack")
_SHARD = re.compile(r".+-\d{5}-of-\d{5}\.safetensors")


def what_is_there(folder: Path) -> str:
    """One clause: what is in a folder without config or weights, and what to do to get a model of it."""
    adapters = _names(folder, "adapter_config.json", "adapter_model.*")
    if adapters:
        return (
            f"it holds an adapter{_base(folder)} ({_few(adapters)}); merge it into its base model first (peft:"
            " `AutoPeftModelForCausalLM.from_pretrained(FOLDER).merge_and_unload().save_pretrained(NEW)`)"
        )
    if quantized := _names(folder, "quantize_config.json", "quant_config.json", "gptq_model*"):
        return f"its weights are quantized ({_few(quantized)}); give the unquantized original"
    others = _names(folder, "*.safetensors")
    if shards := [name for name in others if _SHARD.fullmatch(name)]:
        return (
            f"it holds {len(shards)} shards ({_few(shards)}) without the model.safetensors.index.json that says what is"
            " in each; fetch that too"
        )
    if others:
        return (
            f"it holds weights under other names ({_few(others)}); where they are the whole model in transformers'"
            " layout rename the file to model.safetensors, else fetch the one of that name"
        )
    if pickles := _names(folder, *_PICKLES):
        return (
            f"it holds only pickled weights ({_few(pickles)}), which can run code and are not read; where you trust"
            " them convert them: `AutoModelForCausalLM.from_pretrained(FOLDER).save_pretrained(NEW)`"
        )
    if inside := sorted(path.parent.name for path in folder.glob("*/config.json")):
        return f"a folder inside it does ({_few(inside)}); give that"
    files = _names(folder, "*")
    return f"it holds {_few(files)}" if files else "it is empty"


def _names(folder: Path, *patterns: str) -> list[str]:
    return sorted({path.name for pattern in patterns for path in folder.glob(pattern)})


def _few(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def _base(folder: Path) -> str:
    """ " of BASE", where an adapter says what it belongs to."""
    try:
        return f" of {storage.read_json(folder / 'adapter_config.json')['base_model_name_or_path']}"
    except (OSError, ValueError, KeyError, TypeError):
        return ""
