"""A model's name to the dense model and its tokenizer, or one error that says what is wrong with it.

Importing this loads no torch, so that `fingerprint` and `lab_models` cost nothing.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

from analysis.errors import ModelError, UnsupportedModel, UsageError
from analysis.models.hub import fetch, has_tokenizer, is_shrunk, read_config
from analysis.models.quiet import quiet

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
    from transformers.models.auto.auto_factory import _BaseAutoModelClass


DTYPES = ("float32", "bfloat16", "float16")


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """A dense model, ready to run: evaluation mode, no gradients, no cache. `name` as typed; `tokenizer` None where the
    folder has none.
    """

    model: "PreTrainedModel"
    tokenizer: "PreTrainedTokenizerBase | None"
    name: str
    fingerprint: str

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
    def context(self) -> int | None:
        """Most tokens the model can read at once; None where its config states no bound."""
        return getattr(self.model.config.get_text_config(), "max_position_embeddings", None)


def unwrapped(model: "LoadedModel | nn.Module") -> "PreTrainedModel":
    """The transformers model itself: that of a loaded model, any other as it is given."""
    return cast("PreTrainedModel", model.model if isinstance(model, LoadedModel) else model)


def embedding_rows(model: "PreTrainedModel") -> int:
    """How many token ids a model embeds; larger ids mean nothing to it."""
    return cast("Tensor", model.get_input_embeddings().weight).shape[
        0
    ]  # torch types any module's attribute as a module


def load_model(name: str, *, device: str = "auto", dtype: str = "float32") -> LoadedModel:
    """Load a decoder, or an encoder fine-tuned to classify, to score or to find spans, by lab name ("lab"), local
    folder or hub id ("org/name[@revision]"), safetensors only, no remote code. Folders of shrunk models with layers of
    unequal widths (`models/uneven.py`) are read like any other.

    device: "auto" (cuda, mps, cpu), "cuda", "cuda:N", "mps" or "cpu". dtype: one of `DTYPES`. Raises UsageError for an
    unknown device or dtype, ModelError for a model that is missing, broken (weights cut short, missing, of the wrong
    shape or not finite; a tokenizer with ids the model has no embedding for), an encoder without a task, or another
    kind of model.
    """
    import torch

    from analysis.models.task_heads import head

    device = _device(device)
    if dtype not in DTYPES:
        raise UsageError(f"dtype {dtype!r}: unknown; possible are {', '.join(DTYPES)}")
    folder, print_ = fetch(name)
    if read_config(folder, name).get("quantization_config"):
        raise UnsupportedModel(f"model {name!r}: its weights are quantized; load the unquantized original")
    with quiet():
        model = _read_model(folder, name, getattr(torch, dtype))
        tokenizer = _read_tokenizer(folder, name)
    _name_end(tokenizer, model.config)
    model.to(device).eval().requires_grad_(False)  # type: ignore[arg-type]  # wrapped without its signature
    model.config.use_cache = False
    _check_finite(model, name, dtype)
    _check_vocabulary(model, tokenizer, name)
    if head(model) == "next token":
        _check_causal(model, name)
    return LoadedModel(model, tokenizer, name, print_)


def _device(name: str) -> str:
    import torch

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


def _read_model(folder: Path, name: str, dtype: "torch.dtype") -> "PreTrainedModel":
    from transformers import AutoConfig

    local = {"local_files_only": True, "trust_remote_code": False}
    try:
        config = AutoConfig.from_pretrained(folder, **local)
    except Exception as error:  # transformers raises every kind of error for a bad config
        raise ModelError(
            f"model {name!r}: transformers cannot use {folder / 'config.json'} ({_line(error)})"
        ) from error
    kind = _auto_class(config)
    if type(config) not in kind._model_mapping:  # type: ignore[operator]  # set in every auto class
        raise ModelError(
            f"model {name!r}: {config.model_type} is no causal language model (a decoder that predicts the next token),"
            " nor does its config name a SequenceClassification or QuestionAnswering architecture"
        )
    if is_shrunk(folder):
        from analysis.models.uneven import load_shrunk

        return cast("PreTrainedModel", load_shrunk(folder).to(dtype))
    try:
        model, report = kind.from_pretrained(
            folder, config=config, dtype=dtype, use_safetensors=True, output_loading_info=True, **local
        )
    except Exception as error:  # as above, for weights of the wrong shape and the like
        raise ModelError(f"model {name!r}: its weights in {folder} do not fit its config ({_line(error)})") from error
    missing, mismatched = sorted(report["missing_keys"]), sorted(str(key) for key in report["mismatched_keys"])
    if missing or mismatched:
        keys = missing or mismatched
        raise ModelError(
            f"model {name!r}: {len(keys)} parameters are {'missing from' if missing else 'of the wrong shape in'} its"
            f" weight files ({', '.join(keys[:5])}{', ...' if len(keys) > 5 else ''}); transformers would invent them"
        )
    unknown = [key for key in sorted(report["unexpected_keys"]) if key.endswith(".weight")]
    if unknown:
        raise ModelError(
            f"model {name!r}: {len(unknown)} weights in its files have no place in the model that config.json describes"
            f" ({', '.join(unknown[:5])}{', ...' if len(unknown) > 5 else ''}); they would be dropped"
        )
    return model


def _auto_class(config: "PreTrainedConfig") -> "type[_BaseAutoModelClass]":
    """The auto class that reads a model: by what its config says it was saved as, a decoder otherwise."""
    from transformers import AutoModelForCausalLM, AutoModelForQuestionAnswering, AutoModelForSequenceClassification

    classes: dict[str, type[_BaseAutoModelClass]] = {
        "ForSequenceClassification": AutoModelForSequenceClassification,
        "ForQuestionAnswering": AutoModelForQuestionAnswering,
    }
    saved_as = (config.architectures or [""])[0]
    return next((kind for ending, kind in classes.items() if saved_as.endswith(ending)), AutoModelForCausalLM)


def _read_tokenizer(folder: Path, name: str) -> "PreTrainedTokenizerBase | None":
    from transformers import AutoTokenizer

    if not has_tokenizer(folder):
        return None
    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # as above
        raise ModelError(f"model {name!r}: the tokenizer in {folder} cannot be read ({_line(error)})") from error


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


def _check_finite(model: "PreTrainedModel", name: str, dtype: str) -> None:
    for parameter, value in model.named_parameters():
        low, high = value.aminmax()
        if not bool((low.isfinite() & high.isfinite()).item()):
            raise ModelError(
                f"model {name!r}: parameter {parameter} {tuple(value.shape)} is not finite in {dtype} (smallest"
                f" {low.item()}, largest {high.item()})"
            )


def _check_vocabulary(model: "PreTrainedModel", tokenizer, name: str) -> None:
    if tokenizer is None:
        return
    rows = embedding_rows(model)
    token, largest = max(tokenizer.get_vocab().items(), key=lambda item: item[1], default=("", -1))
    if largest >= rows:
        raise ModelError(
            f"model {name!r}: its tokenizer has id {largest} ({token!r}), its model embeds only ids 0 to {rows - 1};"
            " the two do not belong together"
        )


def _check_causal(model: "PreTrainedModel", name: str) -> None:
    """What follows a token must not change what the model says at it: encoders loaded as decoders do not pass."""
    import torch

    last = embedding_rows(model) - 1
    ids = torch.tensor([[0, 0, 0], [0, last, last]], device=model.device)
    with torch.no_grad():
        short, long = (
            model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False).logits[:, 0].cpu().double()
        )
    if (short - long).norm() > torch.finfo(model.dtype).eps ** 0.5 * short.norm():
        raise ModelError(
            f"model {name!r}: {model.config.model_type} reads the tokens that follow, so it is no causal language"
            " model; an encoder must be fine-tuned to a task first, and saved as its SequenceClassification or"
            " QuestionAnswering model (`analysis lab finetune --help`)"
        )


def _line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
