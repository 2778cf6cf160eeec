"""Weights that are no safetensors, unpacked once into the cache: GGUF files are dequantised, `.bin` files rewritten.

    folder = unpacked(Path("model.gguf"), "model.gguf")  # an ordinary model folder in the cache, named by the content
    origin(folder)                                       # {"kind": "GGUF", "type": "Q4_1", "file": "model.gguf", ...}

A `.bin` file is a pickle, which can run code; it is read with `torch.load(weights_only=True)`, which refuses all but
tensors. Loads torch only where something is to be unpacked.
"""

import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Any

from analysis import paths, storage
from analysis.errors import ModelError, first_line
from analysis.models.quiet import quiet

VERSION = 1  # raised when the unpacked files would be others
ORIGIN = "unpacked.json"
_BIN, _BIN_INDEX = "pytorch_model.bin", "pytorch_model.bin.index.json"
_EXACT = ("F32", "F16", "BF16", "F64")  # types of GGUF tensors that are no quantisation
_BESIDE = ("*.json", "*.model", "*.txt", "*.jinja", "LICENSE*", "NOTICE*")  # small files that stay with `.bin` weights


def packed_files(source: Path, name: str) -> list[Path]:
    """The GGUF file or `.bin` files that hold a model's weights; none where `source` is a folder of another kind.

    Raises ModelError for several GGUF files in one folder, and for missing shards.
    """
    if source.is_file():
        return [source] if source.suffix.lower() == ".gguf" else []
    if any(source.glob("*.safetensors")) or (source / "model.safetensors.index.json").is_file():
        return []
    ggufs = sorted(path for path in source.iterdir() if path.suffix.lower() == ".gguf" and path.is_file())
    if len(ggufs) > 1:
        raise ModelError(
            f"model {name!r}: {source} holds {len(ggufs)} GGUF files ({', '.join(path.name for path in ggufs[:4])});"
            f" name one of them, as {ggufs[0]}"
        )
    if ggufs:
        return ggufs
    if (source / _BIN_INDEX).is_file():
        shards = [source / file for file in indexed_files(source / _BIN_INDEX, name)]
        if missing := [shard.name for shard in shards if not shard.is_file()]:
            raise ModelError(
                f"model {name!r}: {len(missing)} of {len(shards)} weight files named in {_BIN_INDEX} are missing:"
                f" {', '.join(missing[:5])}"
            )
        return shards
    return [source / _BIN] if (source / _BIN).is_file() else []


def indexed_files(index: Path, name: str) -> list[str]:
    """The weight files that an index names, all of them inside its folder; whether they are there is not looked at.
    Raises ModelError for what is no index.
    """
    try:
        files = set(storage.read_json(index)["weight_map"].values())
        if not files or not all(isinstance(file, str) and file for file in files):
            raise ValueError("its weight_map gives no file names")
    except (ValueError, KeyError, AttributeError, TypeError, OSError) as error:
        raise ModelError(
            f"model {name!r}: {index} is no index of weight files ({type(error).__name__}: {error})"
        ) from error
    outside = sorted(file for file in files if PurePosixPath(file).is_absolute() or ".." in PurePosixPath(file).parts)
    if outside:
        raise ModelError(f"model {name!r}: {index} names files outside its folder ({outside[0]!r}); it is not read")
    return sorted(files)


def unpacked(source: Path, name: str) -> Path:
    """An ordinary model folder with the weights of `source`, a GGUF file, a folder that holds one, or a folder of
    `.bin` weights; `source` itself where there is nothing to unpack.

    It is made once and kept in the cache under the content of the files. Raises ModelError for files that cannot be
    read, a GGUF architecture that transformers does not know, a `.bin` that holds more than tensors, and where the
    package `gguf` is missing; StoreError where the cache cannot be written.
    """
    digest = packed_fingerprint(source, name)
    if digest is None:
        return source
    files, folder = packed_files(source, name), paths.cache() / "unpacked" / digest[:32]
    if not (folder / ORIGIN).is_file():
        with storage.explained(folder), storage.replacing_folder(folder) as partial, quiet():
            kind = _unpack_gguf(files[0], partial, name) if files[0].suffix.lower() == ".gguf" else None
            about = kind or _unpack_bin(source, files, partial, name)
            about |= {"file": files[0].name, "sha256": digest, "versions": storage.versions("transformers")}
            (partial / ORIGIN).write_text(json.dumps(about, indent=2))
    return folder


def packed_fingerprint(source: Path, name: str) -> str | None:
    """sha256 of the files that would be unpacked and of how; None where there is nothing to unpack."""
    files = packed_files(source, name)
    if not files:
        return None
    digest = hashlib.sha256(f"{VERSION}\n".encode())
    for path in [*files, *(() if source.is_file() else _small_files(source))]:
        digest.update(f"{path.name} {path.stat().st_size}\n".encode())
        storage.add_file(digest, path)
    return digest.hexdigest()


def origin(folder: Path) -> dict[str, Any]:
    """What a folder's weights were unpacked from: kind ("GGUF" or "bin"), type of its tensors, file, sha256; {} where
    they were not.
    """
    path = folder / ORIGIN
    return storage.read_json(path) if path.is_file() else {}


def told(folder: Path) -> str:
    """The same in words for tables and reports: "dequantised from Q4_1 (GGUF)"; "" for a folder not unpacked."""
    about = origin(folder)
    if not about:
        return ""
    if about["kind"] == "bin":
        return f"loaded from a .bin pickle by weights_only ({about['type']})"
    return f"{'read' if about['type'] in _EXACT else 'dequantised'} from {about['type']} ({about['kind']})"


def _small_files(source: Path) -> list[Path]:
    """What lies beside `.bin` weights and belongs to the model."""
    return sorted({path for pattern in _BESIDE for path in source.glob(pattern) if path.name != _BIN_INDEX})


def _unpack_gguf(file: Path, folder: Path, name: str) -> dict[str, Any]:
    """Weights as float32, config without a word of quantisation, tokenizer."""
    try:
        import gguf
    except ModuleNotFoundError:
        raise ModelError(f"model {name!r}: {file} is a GGUF file; to read it, pip install gguf") from None
    from transformers import AutoModelForCausalLM, AutoTokenizer

    try:
        kinds = Counter({"F32": 0})
        for tensor in gguf.GGUFReader(file).tensors:
            kinds[tensor.tensor_type.name] += int(tensor.n_elements)
    except Exception as error:  # the reader raises whatever a torn file makes of its arithmetic
        raise ModelError(f"model {name!r}: {file} is cut short or no GGUF file ({first_line(error)})") from error
    local = {"gguf_file": file.name, "local_files_only": True, "trust_remote_code": False}
    try:
        model = AutoModelForCausalLM.from_pretrained(file.parent, dtype="float32", **local)
        tokenizer = AutoTokenizer.from_pretrained(file.parent, **local)
    except Exception as error:  # transformers raises every kind of error for an architecture it does not know
        raise ModelError(f"model {name!r}: transformers cannot read {file} ({first_line(error)})") from error
    plain = type(model)(_unquantised(model.config))
    plain.load_state_dict(model.state_dict())
    plain.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return {"kind": "GGUF", "type": kinds.most_common(1)[0][0]}


def _unquantised(config: Any) -> Any:
    """The config without what makes `save_pretrained` refuse."""
    return type(config)(**{key: value for key, value in config.to_dict().items() if key != "quantization_config"})


def _unpack_bin(source: Path, files: Iterable[Path], folder: Path, name: str) -> dict[str, Any]:
    """The same tensors under the same names, one safetensors file for each; the small files beside them."""
    import torch
    from safetensors.torch import save_file

    places: dict[str, str] = {}
    kinds = Counter[str]()
    for number, file in enumerate(files := list(files)):
        try:
            state = torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:  # the unpickler raises whatever a torn file makes of its stack
            raise ModelError(
                f"model {name!r}: {file} is cut short, or holds more than tensors and could run code"
                f" ({first_line(error)}); it is not opened"
            ) from error
        if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
            raise ModelError(f"model {name!r}: {file} is no state dict of tensors; convert it to safetensors")
        target = "model.safetensors" if len(files) == 1 else f"model-{number + 1:05}-of-{len(files):05}.safetensors"
        # tied tensors share memory, which safetensors refuses: each gets its own
        save_file({key: value.clone().contiguous() for key, value in state.items()}, folder / target, {"format": "pt"})
        places |= dict.fromkeys(state, target)
        kinds.update({str(value.dtype).removeprefix("torch."): value.numel() for value in state.values()})
    if len(files) > 1:
        (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    for path in _small_files(source):
        shutil.copyfile(path, folder / path.name)
    return {"kind": "bin", "type": kinds.most_common(1)[0][0] if kinds else "nothing"}
