"""From a model's name to its files, and what those files are. Loads no torch.

A name is, in this order: a model of the embedded lab ("lab" is `data/lab/decoder`, "lab/NAME" another of its models), a
local folder, or a hub id ("org/name", "name", either with "@revision"). Only a hub id that is not yet in the local
cache touches the network.
"""

import hashlib
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from analysis import paths, storage
from analysis.errors import ModelError, UnsupportedModel, UsageError
from analysis.models.contents import what_is_there
from analysis.models.packaged import PACKAGED, packaged
from analysis.models.unpack import indexed_files, packed_files, packed_fingerprint, unpacked

_HUB_ID = re.compile(r"(?P<id>[A-Za-z0-9][\w.-]*(/[\w.-]+)?)(@(?P<revision>[\w./-]+))?")
_COMMIT = re.compile(r"[0-9a-f]{40}")
SIDE_FILES = (
    "*processor_config.json",
    "chat_template*",
    "tokenizer.model",
    "spiece.model",
    "*.spm",
    "*.tiktoken",
    "vocab*",
    "merges.txt",
    "LICEN[SC]E*",
    "*NOTICE*",
    "COPYING*",
    "COPYRIGHT*",
    "*USE_POLICY*",
    "*TERMS_OF_USE*",
    "CITATION*",
    "modules.json",
    "sentence_bert_config.json",
    "config_sentence_transformers.json",
)
"""What lies beside config, tokenizer and weights of a model and goes along with it."""
POOLING = "1_Pooling/config.json"  # of sentence-transformers: how hidden states become an embedding (`embeddings.py`)
_SMALL_FILES = [
    *SIDE_FILES,
    "config.json",
    "generation_config.json",
    "*.index.json",
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
]
_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "spiece.model",
)
_TEMPLATE = "chat_template.jinja"  # decides what conversations read like
_READ_TOO = (  # where a model has them, they decide what it reads and answers as well
    _TEMPLATE,
    "special_tokens_map.json",
    "added_tokens.json",
    "preprocessor_config.json",
    "processor_config.json",
    "modules.json",
    POOLING,
)
_WEIGHTS, _INDEX = "model.safetensors", "model.safetensors.index.json"
TIMEOUT = 20  # seconds that the hub has to answer a question
SHRUNK_WEIGHTS, SHRUNK_MANIFEST = "shrunk.safetensors", "shrunk.json"  # layers of unequal widths (`models/uneven.py`)
_PLAIN_DTYPES = ("F32", "F16", "BF16", "F64")  # of safetensors
_PACKED = (".qweight", ".weight_packed", ".weight_scale", ".weight_scale_inv", ".weight.absmax", ".SCB")
_WIDTHS = ("hidden_size", "n_embd", "d_model")
MOST_LAYERS = 10_000
_LAYERS = re.compile(r"(num|n)_(\w+_)?layers?")


@dataclass(frozen=True)
class ModelSource:
    """Where a model comes from: a local folder, or else a hub repository at a revision."""

    name: str
    folder: Path | None = None  # or a .gguf file
    hub_id: str = ""
    revision: str = "main"


def lab_models() -> list[str]:
    """Names of the lab's shipped models, "lab" first."""
    folders = sorted(path.parent.name for path in paths.lab().glob("*/config.json"))
    return ["lab"] * ("decoder" in folders) + [f"lab/{name}" for name in folders if name != "decoder"]


def model_name(name: str | os.PathLike[str]) -> str:
    """A model's name as text. Raises UsageError for what is neither text nor a path."""
    if not isinstance(name, str | os.PathLike):
        raise UsageError(
            f"model {name!r}: is of type {type(name).__name__}; give a lab name, a folder or a hub id (org/name)"
        )
    return os.fsdecode(name)


def find(name: str) -> ModelSource:
    """What a model's name stands for; nothing is fetched.

    Raises ModelError if it is neither a lab model, an existing folder nor written like a hub id.
    """
    name = model_name(name)
    if name in lab_models():
        return ModelSource(name, paths.lab() / ("decoder" if name == "lab" else name.removeprefix("lab/")))
    if name == "lab" or name.startswith("lab/"):
        raise ModelError(
            f"model {name!r}: the lab ships no such model (it has: {', '.join(lab_models()) or 'none'}); `analysis lab"
            f" train` makes one{paths.elsewhere()}"
        )
    if name in PACKAGED:
        return ModelSource(name, packaged(name))
    try:
        folder = Path(name).expanduser()
        if name and (folder.is_dir() or (folder.is_file() and folder.suffix.lower() == ".gguf")):
            return ModelSource(name, folder)
        there = name and (folder.exists() or folder.is_symlink())
    except (OSError, RuntimeError) as error:  # a name too long, a home that is nobody's
        reason = getattr(error, "strerror", None) or error
        raise ModelError(f"model {name[:200]!r}: is no path ({reason}); give a folder or a hub id") from error
    if there:
        what = "is a file" if folder.is_file() else "is no folder (a pipe, a device or a link that leads nowhere)"
        raise ModelError(f"model {name!r}: {what}; give the folder that holds config.json and {_WEIGHTS}")
    match = _HUB_ID.fullmatch(name)
    if match is None:
        raise ModelError(
            f"model {name!r}: no such folder, and not a lab model ({', '.join(lab_models()) or 'none'}) or a hub id"
            " (org/name[@revision])"
        )
    return ModelSource(name, hub_id=match["id"], revision=match["revision"] or "main")


def fetch(name: str) -> tuple[Path, str]:
    """The local folder of a model, complete as far as can be seen from outside, and its fingerprint. Hub ids are
    downloaded if not cached; GGUF files and `.bin` weights are unpacked once into the cache (`unpack`).

    Raises ModelError naming what is missing or broken: config.json, weight files, shards.
    """
    source = find(name)
    place = source.folder or _download(source)
    folder = unpacked(place, name)
    read_config(folder, name)
    check_weights(folder, name)
    return folder, _local_fingerprint(place, name) if source.folder else f"hub:{source.hub_id}@{place.name}"


def config_folder(name: str) -> Path:
    """The folder in which a model's config.json is, whether or not there are weights; of a hub model that file alone is
    fetched. Raises ModelError as `find`, or where the hub does not give it.
    """
    source = find(name)
    if source.folder is not None:
        return unpacked(source.folder, name)
    from huggingface_hub import hf_hub_download

    get = lambda: hf_hub_download(source.hub_id, "config.json", revision=source.revision)
    return Path(_ask_hub(source, get)).parent


def fingerprint(name: str) -> str:
    """A text that changes when the model changes: sha256 of config.json, weight files and those of tokenizer,
    processor and pooling, or "hub:id@commit".

    The commit of a hub model is that of the local cache, or what the hub says where it is not cached. Raises ModelError
    as `fetch`.
    """
    source = find(name)
    if source.folder:
        return _local_fingerprint(source.folder, name)
    return f"hub:{source.hub_id}@{_commit(source)}"


def read_config(folder: Path, name: str) -> dict:
    """config.json as a dict. Raises ModelError if it is missing, no JSON object, or names no model type."""
    path = folder / "config.json"
    if not path.is_file():
        raise ModelError(
            f"model {name!r}: {folder} has no config.json, so it is no model folder; {what_is_there(folder)}"
        )
    try:
        config = storage.read_json(path)
    except (ValueError, OSError) as error:
        raise ModelError(f"model {name!r}: {path} cannot be read as JSON ({error})") from error
    if not isinstance(config, dict) or not isinstance(config.get("model_type"), str):
        raise ModelError(f"model {name!r}: {path} names no model_type; it is not the config of a transformers model")
    return config


def is_shrunk(folder: Path | str) -> bool:
    """Whether a folder holds a model with layers of unequal widths, which `from_pretrained` cannot read and
    `load_model` can.
    """
    return (Path(folder) / SHRUNK_MANIFEST).is_file()


def weight_files(folder: Path, name: str) -> list[Path]:
    """The safetensors files of a model. Raises ModelError, saying what is there, if there are none, or shards are
    missing.
    """
    if is_shrunk(folder):
        if not (folder / SHRUNK_WEIGHTS).is_file():
            raise ModelError(f"model {name!r}: {folder} has a {SHRUNK_MANIFEST} and no {SHRUNK_WEIGHTS}")
        return [folder / SHRUNK_WEIGHTS]
    if (folder / _WEIGHTS).is_file():
        return [folder / _WEIGHTS]
    if not (folder / _INDEX).is_file():
        raise ModelError(f"model {name!r}: {folder} has no weights ({_WEIGHTS} or {_INDEX}); {what_is_there(folder)}")
    shards = indexed_files(folder / _INDEX, name)
    missing = [shard for shard in shards if not (folder / shard).is_file()]
    if missing:
        raise ModelError(
            f"model {name!r}: {len(missing)} of {len(shards)} weight files named in {_INDEX} are missing:"
            f" {', '.join(missing[:5])}"
        )
    return [folder / shard for shard in shards]


def check_weights(folder: Path, name: str) -> None:
    """Raise ModelError naming the first weight file that is cut short or no safetensors file, UnsupportedModel where
    they hold quantized weights.
    """
    stored = tensors(folder, name)
    packed = [key for key in stored if key.endswith(_PACKED)]
    packed += [key for key, (dtype, _) in stored.items() if key.endswith(".weight") and dtype not in _PLAIN_DTYPES]
    if packed:
        raise UnsupportedModel(
            f"model {name!r}: its weights are quantized ({packed[0]} is stored as {stored[packed[0]][0]}); load the"
            " unquantized original"
        )


def check_layers(config: dict, folder: Path, name: str) -> None:
    """Raise ModelError where a config describes more layers than its weight files hold tensors, or hidden states wider
    than any of them, before they are built.

    config: config.json as a dict.
    """
    shapes = [shape for _, shape in tensors(folder, name).values()]
    stored, widest = len(shapes), max((size for shape in shapes for size in shape), default=0)
    for key, value in _numbers(config):
        said = f"model {name!r}: {folder / 'config.json'} says {key}={value}, its weight files hold"
        if _LAYERS.fullmatch(key) and value > stored:
            raise ModelError(f"{said} {stored} tensors; the two do not belong together")
        if key in _WIDTHS and value > widest:
            raise ModelError(f"{said} no tensor wider than {widest}; the two do not belong together")


def check_described(config: dict, folder: Path, name: str) -> None:
    """`check_layers` where there are weight files that can be read; else raise ModelError for more layers than any
    model has, which would take hours to lay out.
    """
    try:
        tensors(folder, name)
    except ModelError:  # who loads the model says what is wrong with them
        for key, value in _numbers(config):
            if _LAYERS.fullmatch(key) and value > MOST_LAYERS:
                raise ModelError(
                    f"model {name!r}: {folder / 'config.json'} says {key}={value}, and no model has more than"
                    f" {MOST_LAYERS:,}"
                ) from None
    else:
        check_layers(config, folder, name)


def _numbers(config: dict) -> Iterator[tuple[str, int]]:
    """The whole numbers of a config and of the configs in it."""
    for key, value in config.items():
        if isinstance(value, dict):
            yield from _numbers(value)
        elif isinstance(value, int):
            yield key, value


def tensors(folder: Path, name: str) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Tensor -> dtype (safetensors' word for it) and shape, from the headers of a model's weight files.

    Raises ModelError as `weight_files`, and for a file that is cut short or no safetensors file.
    """
    from safetensors import SafetensorError, safe_open

    found: dict[str, tuple[str, tuple[int, ...]]] = {}
    for path in weight_files(folder, name):
        try:
            with safe_open(path, "numpy") as file:
                slices = {key: file.get_slice(key) for key in file.keys()}
                found |= {key: (part.get_dtype(), tuple(part.get_shape())) for key, part in slices.items()}
        except (SafetensorError, OSError) as error:
            raise ModelError(
                f"model {name!r}: {path} is cut short or no safetensors file ({error}); fetch it again"
            ) from error
    return found


def has_tokenizer(folder: Path) -> bool:
    """Whether a model folder comes with a tokenizer."""
    return any((folder / file).is_file() for file in _TOKENIZER_FILES)


def _local_fingerprint(folder: Path, name: str) -> str:
    if packed := packed_fingerprint(folder, name):
        return packed
    read_config(folder, name)
    digest = hashlib.sha256()
    beside = [folder / file for file in (*_TOKENIZER_FILES, *_READ_TOO) if (folder / file).is_file()]
    manifest = [folder / SHRUNK_MANIFEST] * is_shrunk(folder)
    for path in [folder / "config.json", *manifest, *beside, *weight_files(folder, name)]:
        digest.update(f"{path.name} {path.stat().st_size}\n".encode())
        storage.add_file(digest, path)
    return digest.hexdigest()


# --- hub -------------------------------------------------------------------------------------------------------------


def _commit(source: ModelSource) -> str:
    if _COMMIT.fullmatch(source.revision):
        return source.revision
    from huggingface_hub import HfApi, try_to_load_from_cache

    cached = try_to_load_from_cache(source.hub_id, "config.json", revision=source.revision)
    if isinstance(cached, str):
        return Path(cached).parent.name
    return _ask_hub(source, lambda: HfApi().model_info(source.hub_id, revision=source.revision).sha)


def parameters_on_hub(name: str) -> dict[str, int] | None:
    """Parameters of a hub model by safetensors' word for their dtype, as the hub counts them; None where the model is
    in the local cache, or the hub does not know.
    """
    from huggingface_hub import HfApi, try_to_load_from_cache

    source = find(name)
    if isinstance(try_to_load_from_cache(source.hub_id, "config.json", revision=source.revision), str):
        return None
    about = _ask_hub(source, lambda: HfApi().model_info(source.hub_id, revision=source.revision, timeout=TIMEOUT))
    return dict(about.safetensors.parameters) if about.safetensors else None


def cached(source: ModelSource) -> Path | None:
    """The folder of a hub model in the local cache; None where it is not there, or not wholly."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        folder = Path(snapshot_download(source.hub_id, revision=source.revision, local_files_only=True))
        if not packed_files(folder, source.name):
            weight_files(folder, source.name)
        return folder
    except (LocalEntryNotFoundError, ModelError):
        return None


def _download(source: ModelSource) -> Path:
    """The repository's folder in the local cache, with config, tokenizer and safetensors weights; fetched where
    incomplete.
    """
    from huggingface_hub import snapshot_download

    if (folder := cached(source)) is not None:
        return folder
    folder = Path(
        _ask_hub(
            source,
            lambda: snapshot_download(
                source.hub_id, revision=source.revision, allow_patterns=_SMALL_FILES, ignore_patterns=["*/*"]
            ),
        )
    )
    if (folder / "modules.json").is_file():
        _ask_hub(source, lambda: snapshot_download(source.hub_id, revision=folder.name, allow_patterns=[POOLING]))

    def get(files: list[str]) -> Path:
        return Path(
            _ask_hub(source, lambda: snapshot_download(source.hub_id, revision=folder.name, allow_patterns=files))
        )

    if (folder / _INDEX).is_file():
        return get(indexed_files(folder / _INDEX, source.name))
    place = get([_WEIGHTS])
    return place if (place / _WEIGHTS).is_file() else get(["pytorch_model.bin", "pytorch_model-*.bin"])


def _ask_hub(source: ModelSource, question: Callable[[], Any]) -> Any:
    """The hub's answer. Any failure (no network, no such repository, no permission) becomes one ModelError that says
    so.
    """
    try:
        return question()
    except Exception as error:  # httpx, huggingface_hub and OS errors have no common base
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ModelError(
            f"model {source.name!r}: no such folder here, and the hub gave no {source.hub_id!r} at revision"
            f" {source.revision!r} ({reason}); check the spelling, the network, or give a local folder"
        ) from error
