"""A model's name to the dense model and its tokenizer, or one error that says what is wrong with it.

Importing this loads no torch, so that `fingerprint` and `lab_models` cost nothing.
"""

import os
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from analysis.errors import AnalysisError, ModelError, UnsupportedModel, UsageError, first_line, quoted
from analysis.models.dtypes import check_dtype, choose_dtype, dtype_word, stored_parameters, told_dtype
from analysis.models.hub import (
    check_described,
    check_layers,
    fetch,
    has_tokenizer,
    is_shrunk,
    model_name,
    read_config,
    tensors,
    weight_files,
)
from analysis.models.quiet import quiet
from analysis.models.unpack import told

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
    from transformers.models.auto.auto_factory import _BaseAutoModelClass


PLACEMENTS = ("resident", "streamed")
"""Where the weights of a model are: in memory, or in its files while nobody needs them (`placement.py`)."""
_SLOW_TOKENIZERS = {"sentencepiece": "sentencepiece", "protobuf": "google.protobuf"}  # package -> module


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """A dense model, ready to run: evaluation mode, no gradients, no cache. `name` as typed; `tokenizer` None where the
    folder has none; `folder`: where its files lie; `notes`: what was chosen otherwise than its config says.
    """

    model: "PreTrainedModel"
    tokenizer: "PreTrainedTokenizerBase | None"
    name: str
    fingerprint: str
    folder: Path | None = None
    notes: tuple[str, ...] = ()

    @property
    def head(self) -> str:
        """What it answers: one of `task_heads.ANSWERS`."""
        from analysis.models.task_heads import head

        return head(self.model)

    @property
    def device(self) -> "torch.device":
        return next(self.model.parameters()).device

    @property
    def dtype(self) -> "torch.dtype":
        return next(self.model.parameters()).dtype

    @property
    def placement(self) -> str:
        """One of `PLACEMENTS`."""
        from analysis.models.placement import placement

        return placement(self.model)

    @property
    def context(self) -> int | None:
        """Most tokens the model can read at once; None where nothing bounds it."""
        from analysis.models.context import usable_context

        return usable_context(self.model)


def check_model(operation: str, model: object) -> None:
    """Raise UsageError unless something is a transformers model, loaded by `load_model` or not."""
    from torch import nn

    if not isinstance(model, LoadedModel) and not (isinstance(model, nn.Module) and hasattr(model, "config")):
        raise UsageError(f"{operation}: model must be one of `load_model` or of transformers, got {quoted(model)}")


def check_measured(operation: str, model: object, windows: object) -> None:
    """Raise UsageError unless a measure is given a model (`check_model`) and windows."""
    from analysis.windows import Windows

    check_model(operation, model)
    if not isinstance(windows, Windows):
        raise UsageError(f"{operation}: must be asked of windows, as `load_tokens` draws them, got {quoted(windows)}")


def unwrapped(model: "LoadedModel | nn.Module") -> "PreTrainedModel":
    """The transformers model itself: that of a loaded model, any other as it is given."""
    return cast("PreTrainedModel", model.model if isinstance(model, LoadedModel) else model)


def embedding_rows(model: "PreTrainedModel") -> int:
    """How many token ids a model embeds; larger ids mean nothing to it."""
    return cast("Tensor", model.get_input_embeddings().weight).shape[
        0
    ]  # torch types any module's attribute as a module


def load_model(
    name: str | os.PathLike[str], *, device: str = "auto", dtype: str | None = None, placement: str = "resident"
) -> LoadedModel:
    """Load a decoder, one that reads pictures (saved as its ForConditionalGeneration), an encoder fine-tuned to
    classify, to score or to find spans, or one without a head, whose pooled hidden states embed sentences
    (`embeddings`), by lab name ("lab"), local folder or hub id ("org/name[@revision]"),
    GGUF file or name of a packaged model (`packaged`); no remote code. GGUF and `.bin` weights are unpacked first
    (`unpack`), nothing else that is no safetensors file is opened. Folders of shrunk models with layers of unequal
    widths (`models/uneven.py`) are read like any other.

    device: "auto" (cuda, mps, cpu), "cuda", "cuda:N", "mps" or "cpu". dtype: one of `dtypes.DTYPES`, or "auto", the
    checkpoint's own; None is float32, and "auto" for models of over a billion parameters, which is said on stderr
    before they are loaded. placement: one of `PLACEMENTS`; "streamed" leaves the weights of every block in the files
    until somebody computes with it, for models that memory does not hold. Raises UsageError for an unknown device,
    dtype or placement, UnsupportedModel for a model that cannot be streamed, ModelError for a model that is missing,
    broken (weights cut short, missing, of the wrong shape or not finite; more layers than weights; a config that no
    forward runs with), an encoder with another head than these, or another kind of model.
    """
    import torch

    from analysis.models.task_heads import head, prove_head

    name, device = model_name(name), usable_device(device)
    check_dtype(dtype)
    check_placement(placement)
    folder, print_ = fetch(name)
    raw = read_config(folder, name)
    if raw.get("quantization_config"):
        raise UnsupportedModel(f"model {name!r}: its weights are quantized; load the unquantized original")
    check_layers(raw, folder, name)
    sizes = stored_parameters(folder, name)
    if line := told_dtype(name, sizes, dtype, placement):
        with suppress(OSError):  # nobody reads it
            print(line, file=sys.stderr, flush=True)
    dtype = choose_dtype(sizes, dtype)
    with quiet():
        config, notes = _read_config(folder, name, raw)
        if placement == "resident":
            model = _read_model(folder, name, config, getattr(torch, dtype))
            model.to(device)  # type: ignore[arg-type]  # wrapped without its signature
        else:
            model = _stream_model(folder, name, config, getattr(torch, dtype), device)
        tokenizer = _read_tokenizer(folder, name)
    _name_end(tokenizer, model.config)
    model.eval().requires_grad_(False)
    model.config.use_cache = False
    if placement == "resident":
        _check_finite(dict(model.named_parameters()), name, dtype)
    if head(model) in ("classification", "regression"):
        _set_padding(model, tokenizer)
    prove_head(model, f"model {name!r}")
    if head(model) == "embedding":
        from analysis.models.embeddings import read_pooling

        model.config.sentence_pooling = read_pooling(folder, name) or getattr(model.config, "sentence_pooling", "mean")
    notes += (words,) if (words := told(folder)) else ()
    return LoadedModel(model, tokenizer, name, print_, folder, notes)


def check_placement(placement: object) -> None:
    """Raise UsageError unless something is one of `PLACEMENTS`."""
    if placement not in PLACEMENTS:
        raise UsageError(f"placement {quoted(placement)}: unknown; possible are {', '.join(PLACEMENTS)}")


def placed(model: LoadedModel, placement: str) -> LoadedModel:
    """The model with its weights there, loaded once more where they are elsewhere. Raises as `load_model`."""
    if placement == model.placement:
        return model
    dtype = dtype_word(model.dtype)
    return load_model(model.name, device=str(model.device), dtype=dtype, placement=placement)


def described_model(folder: Path, name: str) -> "PreTrainedModel":
    """The model that the config.json of a folder describes, without weights: on torch's meta device, in float32.

    Raises ModelError where transformers cannot build it or its weight files are of another, UnsupportedModel for a
    model of another kind or one whose weights are quantized.
    """
    import torch
    from transformers.initialization import no_init_weights

    raw = read_config(folder, name)
    if raw.get("quantization_config"):
        raise UnsupportedModel(f"model {name!r}: its weights are quantized; name the unquantized original")
    check_described(raw, folder, name)
    with quiet():
        config, _ = _read_config(folder, name, raw)
        kind = _known_class(name, config)
        try:
            with torch.device("meta"), no_init_weights():
                model = kind.from_config(config, dtype=torch.float32)
                model.tie_weights()
        except Exception as error:  # transformers raises every kind of error for a bad config
            raise ModelError(
                f"model {name!r}: transformers cannot build what {folder / 'config.json'} describes"
                f" ({first_line(error)})"
            ) from error
    return cast("PreTrainedModel", model)


def usable_device(name: str) -> str:
    """The device of this machine that a name stands for ("auto": the fastest). Raises UsageError where it has none."""
    import torch

    if not isinstance(name, str):
        raise UsageError(f"device {name!r}: is of type {type(name).__name__}; give auto, cuda, cuda:N, mps or cpu")
    present = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        return next(kind for kind, usable in present.items() if usable)
    kind, _, number = name.partition(":")
    if kind not in present or not re.fullmatch(r"[a-z]+(:\d+)?", name):
        raise UsageError(f"device {name!r}: unknown; possible are auto, cuda, cuda:N, mps, cpu")
    if not present[kind] or (kind == "cuda" and number and int(number) >= torch.cuda.device_count()):
        raise UsageError(
            f"device {name!r}: not on this machine; it has"
            f" {', '.join(kind for kind, usable in present.items() if usable)}"
        )
    return name


def _read_config(folder: Path, name: str, raw: dict) -> tuple["PreTrainedConfig", tuple[str, ...]]:
    """A model's config, with the attention that torch itself has, and a note where it asked for another."""
    import transformers

    local = {"local_files_only": True, "trust_remote_code": False}
    kind = raw["model_type"]
    if kind not in transformers.CONFIG_MAPPING:
        own = "needs code of its own (auto_map), which is not run: " if raw.get("auto_map") else ""
        raise ModelError(
            f"model {name!r}: {own}transformers {transformers.__version__} knows no model_type {kind!r}, so it cannot"
            f" use {folder / 'config.json'}"
        )
    try:
        config = transformers.AutoConfig.from_pretrained(folder, **local)
    except Exception as error:  # transformers raises every kind of error for a bad config
        raise ModelError(
            f"model {name!r}: transformers cannot use {folder / 'config.json'} ({first_line(error)})"
        ) from error
    asked = next((raw[key] for key in ("attn_implementation", "_attn_implementation") if raw.get(key)), None)
    if asked in (None, "sdpa", "eager"):
        return config, ()
    config._attn_implementation = None
    return config, (f"attention: torch's own, config.json asks for {asked}",)


def _read_model(folder: Path, name: str, config: "PreTrainedConfig", dtype: "torch.dtype") -> "PreTrainedModel":
    kind = _known_class(name, config)
    if is_shrunk(folder):
        from analysis.models.uneven import load_shrunk

        return cast("PreTrainedModel", load_shrunk(folder).to(dtype))
    with _loading(kind, folder, name, config):
        model, report = kind.from_pretrained(
            folder,
            config=config,
            dtype=dtype,
            use_safetensors=True,
            output_loading_info=True,
            local_files_only=True,
            trust_remote_code=False,
        )
    _check_names(model, report, name)
    return model


def _stream_model(
    folder: Path, name: str, config: "PreTrainedConfig", dtype: "torch.dtype", device: str
) -> "PreTrainedModel":
    """The same model with its weights left in the files; each part is checked when it is first in memory."""
    from analysis.models.placement import stream_model

    kind = _known_class(name, config)
    if is_shrunk(folder):
        raise UnsupportedModel(
            f"model {name!r}: its layers are of unequal widths, and such a model cannot be streamed; load it resident"
        )
    if wrong := _misshapen(kind, config, folder, name):
        raise ModelError(f"model {name!r}: transformers cannot load it from {folder} ({wrong})")

    def check(weights: "Mapping[str, Tensor]", problem: str) -> None:
        if problem:
            raise ModelError(f"model {name!r}: transformers cannot load it from {folder} ({problem})")
        _check_finite(weights, name, dtype_word(dtype))

    with _loading(kind, folder, name, config):
        return stream_model(
            kind,
            weight_files(folder, name),
            folder,
            config,
            dtype,
            device,
            judge=lambda model, report: _check_names(model, report, name),
            check=check,
        )


def _known_class(name: str, config: "PreTrainedConfig") -> "type[_BaseAutoModelClass]":
    kind = _auto_class(config)
    whole = getattr(config, "is_encoder_decoder", False)  # not its decoder, saved by itself
    if whole or type(config) not in kind._model_mapping:  # type: ignore[operator]  # set in every auto class
        raise UnsupportedModel(f"model {name!r}: {_kind_of(config)}")
    return kind


@contextmanager
def _loading(kind: "type[_BaseAutoModelClass]", folder: Path, name: str, config: "PreTrainedConfig") -> Iterator[None]:
    """Whatever transformers raises in loading as one ModelError."""
    try:
        yield
    except AnalysisError:
        raise
    except ImportError as error:
        raise ModelError(f"model {name!r}: a package that it needs is missing ({first_line(error)})") from error
    except Exception as error:  # weights of the wrong shape, other files that cannot be read, and the like
        raise ModelError(
            f"model {name!r}: transformers cannot load it from {folder}"
            f" ({_misshapen(kind, config, folder, name) or first_line(error)})"
        ) from error


def _check_names(model: "PreTrainedModel", report: Mapping[str, Any], name: str) -> None:
    """Raise ModelError where a model's files lack parameters, or hold weights that have no place in it."""
    missing = sorted(report["missing_keys"])
    if missing and all(key.startswith("pooler.") for key in missing):  # a pooler that no hidden state depends on
        model.pooler, missing = cast(Any, None), []
    if missing:
        raise ModelError(
            f"model {name!r}: {len(missing)} parameters are missing from its weight files ({', '.join(missing[:5])}"
            f"{', ...' if len(missing) > 5 else ''}); transformers would invent them"
        )
    unknown = [key for key in sorted(report["unexpected_keys"]) if key.endswith(".weight")]
    if unknown:
        raise ModelError(
            f"model {name!r}: {len(unknown)} weights in its files have no place in the model that config.json describes"
            f" ({', '.join(unknown[:5])}{', ...' if len(unknown) > 5 else ''}); they would be dropped"
        )


def _misshapen(kind: "type[_BaseAutoModelClass]", config: "PreTrainedConfig", folder: Path, name: str) -> str:
    """Which tensors of the weight files have another shape than the config gives them, as words; empty where none has,
    or the config makes no model.
    """
    import torch

    try:
        with torch.device("meta"):
            described = kind.from_config(config).state_dict()
    except Exception:  # as above
        return ""
    stored = tensors(folder, name)
    wrong = [key for key, value in described.items() if key in stored and stored[key][1] != tuple(value.shape)]
    if not wrong:
        return ""
    key = wrong[0]
    return (
        f"{len(wrong)} of its weights do not have the shape that config.json gives them, the first is {key}:"
        f" {stored[key][1]}, not {tuple(described[key].shape)}"
    )


def _kind_of(config: "PreTrainedConfig") -> str:
    """What a model is that no auto class of ours reads."""
    others = [key for key in ("vision_config", "audio_config", "speech_config") if getattr(config, key, None)]
    if others:
        return (
            f"{config.model_type} is a multimodal model ({', '.join(others)}) that is no ForConditionalGeneration of"
            " pictures and text as transformers saves it; give such a one, or a text model saved by itself"
        )
    if getattr(config, "is_encoder_decoder", False):
        return f"{config.model_type} is no causal language model but an encoder-decoder, which cannot be pruned"
    return (
        f"{config.model_type} is no causal language model (a decoder that predicts the next token), nor does its config"
        " name a SequenceClassification or QuestionAnswering architecture"
    )


def _auto_class(config: "PreTrainedConfig") -> "type[_BaseAutoModelClass]":
    """The auto class that reads a model: by what its config says it was saved as, a decoder otherwise."""
    from transformers import (
        AutoModel,
        AutoModelForCausalLM,
        AutoModelForImageTextToText,
        AutoModelForQuestionAnswering,
        AutoModelForSequenceClassification,
    )
    from transformers.models.auto.modeling_auto import MODEL_MAPPING_NAMES

    from analysis.models.embeddings import is_encoder
    from analysis.models.wrapped import reads_pictures

    classes: dict[str, type[_BaseAutoModelClass]] = {
        "ForSequenceClassification": AutoModelForSequenceClassification,
        "ForQuestionAnswering": AutoModelForQuestionAnswering,
    }
    saved_as = (config.architectures or [""])[0]
    if saved_as.endswith("ForConditionalGeneration") and reads_pictures(config):
        return AutoModelForImageTextToText
    if is_encoder(config) and MODEL_MAPPING_NAMES.get(config.model_type) == saved_as:
        return AutoModel
    return next((kind for ending, kind in classes.items() if saved_as.endswith(ending)), AutoModelForCausalLM)


def _read_tokenizer(folder: Path, name: str) -> "PreTrainedTokenizerBase | None":
    from transformers import AutoTokenizer

    if not has_tokenizer(folder):
        return None
    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # transformers raises every kind of error here too
        missing = [package for package, module in _SLOW_TOKENIZERS.items() if not _is_installed(module)]
        if missing and not (folder / "tokenizer.json").is_file():
            raise ModelError(
                f"model {name!r}: {folder} has no tokenizer.json, and reading its other tokenizer files needs packages"
                f" that are missing; `pip install {' '.join(missing)}`, or add the tokenizer.json"
            ) from error
        raise ModelError(f"model {name!r}: the tokenizer in {folder} cannot be read ({first_line(error)})") from error


def _is_installed(module: str) -> bool:
    from importlib.util import find_spec

    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # the package that it is a part of
        return False


def _name_end(tokenizer: "PreTrainedTokenizerBase | None", config: "PreTrainedConfig") -> None:
    """Give a tokenizer that names no end-of-text token the one its model's config names, the first where it names
    several.
    """
    if tokenizer is None or tokenizer.eos_token_id is not None:
        return
    ends = getattr(config.get_text_config(), "eos_token_id", None)
    for number in ends if isinstance(ends, list) else [] if ends is None else [ends]:
        if (token := tokenizer.convert_ids_to_tokens(number)) is not None:
            tokenizer.eos_token = token
            return


def _check_finite(weights: "Mapping[str, Tensor]", name: str, dtype: str) -> None:
    for parameter, value in weights.items():
        if not value.is_floating_point():
            continue
        low, high = value.aminmax()
        if not bool((low.isfinite() & high.isfinite()).item()):
            raise ModelError(
                f"model {name!r}: parameter {parameter} {tuple(value.shape)} is not finite in {dtype} (smallest"
                f" {low.item()}, largest {high.item()})"
            )


def _set_padding(model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase | None") -> None:
    """Decoders that classify find a text's end by its padding: where config.json names no such token the tokenizer's is
    taken, if it has one that is embedded.
    """
    padding = None if tokenizer is None else tokenizer.pad_token_id
    if tokenizer is None or padding is None or getattr(model.config, "pad_token_id", None) is not None:
        return
    if padding < embedding_rows(model) and padding != tokenizer.eos_token_id:
        model.config.pad_token_id = padding
