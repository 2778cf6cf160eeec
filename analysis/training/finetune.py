"""Fine-tuning of an encoder on labelled windows: a class, a score, or a span of a passage.

    body = "data/lab/encoder"
    finetune(body, load(...), load(...), config=FinetuneConfig(epochs=3), out=Path("my-classifier"), evaluate=scores)

Devlin et al. 2019 (section 4): one new matrix on top, everything trained, the learning rate rising and then falling to
zero. Windows may be of any labelled set and the encoder of any folder that `AutoModelForSequenceClassification` or
`AutoModelForQuestionAnswering` opens. A run that was stopped continues as a pretraining does
(`analysis.training.loop`).
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from analysis import paths
from analysis.errors import ModelError, UsageError, first_line
from analysis.models.context import usable_context
from analysis.models.hub import fingerprint
from analysis.models.quiet import quiet
from analysis.training.loop import Training, run
from analysis.training.settings import Schedule, add_options, check_config, options

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from analysis.windows import Windows

_LOCAL = {"local_files_only": True, "trust_remote_code": False}


@dataclass(frozen=True)
class FinetuneConfig(Schedule):
    """Everything a fine-tuning depends on besides its model and its examples.

    `examples` are read in all, `warmup` of them while the learning rate rises; over the last `decay` share of them it
    falls to zero. Where there are fewer examples than that they are read again, each time in another order. `length`:
    longest example in tokens; `scored`: held-out examples that the model is scored on, where there is no end of them.
    """

    unit: ClassVar[str] = "examples"
    examples: int = 60_000
    batch: int = 32
    length: int = 160
    scored: int = 2_000
    learning_rate: float = 1e-3
    weight_decay: float = 0.01
    warmup: int = 3_000
    decay: float = 0.9
    dropout: float = 0.0
    seed: int = 0
    threads: int = 1

    @property
    def per_step(self) -> int:
        """Examples read in one step."""
        return self.batch

    def problems(self) -> list[str]:
        """What is impossible in the number of examples."""
        problems = [] if self.steps else [f"examples {self.examples} is less than one batch of {self.batch}"]
        if self.scored < 2:
            problems.append(f"scored is {self.scored}, must be at least 2: a score comes with its error")
        return problems


def finetune(
    folder: str | Path,
    train: Windows,
    held_out: Windows,
    *,
    config: FinetuneConfig,
    out: str | Path,
    evaluate: Callable[[PreTrainedModel, Windows], dict],
    command: str = "",
    **options: Any,
) -> Path:
    """Fine-tune the encoder in `folder` on the labelled windows `train` into `out` and return that; continue from its
    checkpoint if there is one.

    The head follows `train.labelled.head`, its classes the names there. `evaluate(model, windows)` gives the scores of
    the card, measured on `held_out`. Raises UsageError for impossible settings, unlabelled windows, two sets that ask
    different things or windows longer than the model reads, ModelError for a folder that holds no encoder. Further
    options and errors are those of `loop.run`: the body and both texts are known by their content.
    """
    check_config(config, FinetuneConfig)
    folder = _folder(folder)
    for windows in (train, held_out):
        if getattr(windows, "labelled", None) is None:
            raise UsageError(
                f"finetune: {getattr(windows, 'label', '') or 'the text'} has no labels; give labelled examples"
                " (`analysis list sources`)"
            )
    tasks = [_task(windows) for windows in (train, held_out)]
    if tasks[0] != tasks[1]:
        raise UsageError(
            f"finetune: {train.label} asks for {tasks[0]}, held-out {held_out.label} for {tasks[1]}; both must ask the"
            " same"
        )
    if len(held_out) < 2:
        raise UsageError(f"finetune: held-out {held_out.label} is one example; a score with its error needs at least 2")

    def make() -> Training:
        model = open_encoder(folder, train, config)
        for windows in (train, held_out):
            _check_fit(model, windows)
        more = {
            "body": str(folder),
            "train": train.label,
            "held_out_text": held_out.label,
            "metric": train.answers.metric,
        }
        return Training(
            config,
            model,
            tokenizer(folder),
            ExampleBatches(config, train),
            loss,
            lambda model: evaluate(model, held_out),
            command,
            more,
        )

    reads = {"body": fingerprint(str(folder)), "text": train.digest(), "held-out text": held_out.digest()}
    return run(make, config, out, reads=reads, **options)


def _folder(folder: str | Path) -> Path:
    """The folder of the encoder. Raises ModelError where there is none: a name is not looked up anywhere."""
    path = paths.expanded(folder)
    if not path.is_dir():
        raise ModelError(
            f"finetune: {path} is no encoder that can be fine-tuned; give a folder such as data/lab/encoder"
        )
    return path


def _check_fit(model, windows: Windows) -> None:
    """Raise UsageError where the model cannot read the windows: too long, or tokens it does not embed."""
    context, rows = usable_context(model), model.get_input_embeddings().weight.shape[0]
    if context is not None and windows.length > context:
        raise UsageError(
            f"finetune: examples of {windows.length} tokens in {windows.label} are longer than the {context} tokens the"
            f" model reads; make them shorter (--length {context})"
        )
    if windows.ids.min() < 0 or windows.ids.max() >= rows:
        raise UsageError(
            f"finetune: {windows.label} has token {int(windows.ids.max())}, the model embeds 0 to {rows - 1}; read the"
            " examples with the model's own tokenizer"
        )


def _task(windows: Windows) -> str:
    """What labelled windows ask, in words."""
    classes = windows.answers.classes
    return windows.head + (f" of {', '.join(classes)}" if classes else "")


def open_encoder(folder: str | Path, train: Windows, config: FinetuneConfig):
    """The encoder in `folder`, float32, with an untrained head for what `train` asks, a function of `config.seed`; its
    own head, if it has one, goes. No code of the folder is run. Raises ModelError.
    """
    import torch
    from transformers import AutoConfig, AutoModelForQuestionAnswering, AutoModelForSequenceClassification

    labelled, folder = train.answers, str(folder)
    more: dict = {}
    if labelled.head == "classification":
        more = {
            "num_labels": len(labelled.classes),
            "id2label": dict(enumerate(labelled.classes)),
            "label2id": {name: number for number, name in enumerate(labelled.classes)},
        }
        more["problem_type"] = "single_label_classification"
    elif labelled.head == "regression":
        more = {"num_labels": 1, "problem_type": "regression"}
    kind = AutoModelForQuestionAnswering if labelled.head == "span" else AutoModelForSequenceClassification
    try:
        with quiet():  # the head is new, as it should be
            shape = AutoConfig.from_pretrained(folder, **_LOCAL, **more)
            _refuse_decoder(folder, shape)
            for name in ("hidden_dropout_prob", "attention_probs_dropout_prob", "dropout", "attention_dropout"):
                if hasattr(shape, name):
                    setattr(shape, name, config.dropout)
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(config.seed)
                model, report = kind.from_pretrained(
                    folder,
                    config=shape,
                    dtype=torch.float32,
                    use_safetensors=True,
                    ignore_mismatched_sizes=True,
                    output_loading_info=True,
                    **_LOCAL,
                )
                heads = _renew_head(model)
    except ModelError:
        raise
    except Exception as error:  # transformers raises every kind of error for a bad folder
        raise ModelError(
            f"finetune: {folder} is no encoder that can be fine-tuned ({first_line(error)}); give a folder such as"
            " data/lab/encoder"
        ) from error
    body = f"{model.base_model_prefix}."
    if wrong := sorted(
        str(key) for key in report["mismatched_keys"] if str(key[0] if isinstance(key, tuple) else key).startswith(body)
    ):
        raise ModelError(f"finetune: the weights in {folder} do not fit its config ({', '.join(wrong[:5])})")
    if labelled.head == "regression":
        with torch.no_grad():  # start from the mean score
            heads[-1].bias.fill_(labelled.labels.mean())
    return model


def _refuse_decoder(folder: str, shape) -> None:
    """Raise ModelError where a config is that of a model that only predicts the next token, or writes a text of its
    own.
    """
    from transformers import AutoModelForCausalLM, AutoModelForMaskedLM

    writes = type(shape) in AutoModelForCausalLM._model_mapping
    masked = type(shape) in AutoModelForMaskedLM._model_mapping
    if shape.is_encoder_decoder or (writes and not masked):
        kind = "an encoder-decoder" if shape.is_encoder_decoder else "a decoder"
        raise ModelError(
            f"finetune: {folder} is {kind} ({shape.model_type}), and only encoders are fine-tuned here; give a folder"
            " such as data/lab/encoder"
        )


def _renew_head(model) -> list:
    """Draw the matrices above the body anew, and return them: a folder may come with the head of another task."""
    from torch import nn

    heads = [
        module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and not name.startswith(f"{model.base_model_prefix}.")
    ]
    for module in heads:
        nn.init.normal_(module.weight, std=getattr(model.config, "initializer_range", 0.02))
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    return heads


def tokenizer(folder: str | Path):
    """The tokenizer of the encoder in `folder`. Raises ModelError where there is none."""
    from transformers import AutoTokenizer

    try:
        with quiet():
            return AutoTokenizer.from_pretrained(str(folder), **_LOCAL)
    except Exception as error:  # as above
        raise ModelError(f"finetune: {folder} has no tokenizer that can be read ({first_line(error)})") from error


class ExampleBatches:
    """Batches of labelled windows: `batches[n]` is `config.batch` windows, a function of `n`, the config and the
    windows alone.

    Within a stretch of 32 batches windows of a like length stand together, so that little is padding; padding behind a
    batch's last real token is cut.
    """

    stretch = 32

    def __init__(self, config: FinetuneConfig, windows: Windows):
        self.config, self.windows = config, windows
        self._lengths = windows.mask.sum(1)
        self._key = -1
        self._rows: Any = None

    def __getitem__(self, step: int) -> Windows:
        number, place = divmod(step, self.stretch)
        if number != self._key:
            self._key, self._rows = number, self._order(number)
        rows = self._rows[place]
        batch = self.windows.take(rows)
        return batch.trimmed(batch.end)

    def _order(self, number: int):
        """Rows of the windows in stretch `number`, (stretch, batch)."""
        import torch

        size, total = self.stretch * self.config.batch, len(self.windows)
        first, parts = number * size, []
        for epoch in range(first // total, (first + size - 1) // total + 1):
            parts.append(
                torch.randperm(total, generator=torch.Generator().manual_seed(100_003 * self.config.seed + epoch))
            )
        rows = torch.cat(parts)[first % total :][:size]
        rows = rows[self._lengths[rows].argsort(stable=True)].view(self.stretch, self.config.batch)
        return rows[torch.randperm(self.stretch, generator=torch.Generator().manual_seed(number))]


def loss(model, windows: Windows):
    """The model's own mean loss on labelled windows: cross-entropy (nats), or squared error of scores."""
    from analysis.models.task_heads import inputs

    return model(**inputs(windows, slice(None), model.device, labels=True)).loss


def command(model: str, source: str, held_out: str | None, config: FinetuneConfig) -> str:
    """The shell command that makes this run: only what differs from the defaults is named."""
    scored = f"--held-out '{held_out}' " if held_out else ""
    return f"analysis lab finetune {model} '{source}' {scored}{options(config)}".rstrip()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `analysis lab finetune`: one per field of `FinetuneConfig`, plus model, examples, folder and
    device.
    """
    parser.add_argument(
        "model", metavar="MODEL", help="an encoder: a lab name such as lab/encoder, a folder, or a hub id"
    )
    parser.add_argument(
        "source",
        metavar="SOURCE",
        help="labelled examples (`analysis list sources`), such as examples:truth or examples:train.tsv",
    )
    parser.add_argument(
        "--held-out",
        default=None,
        metavar="SOURCE",
        help="examples to score it on; default the held-out half of SOURCE",
    )
    add_options(
        parser,
        FinetuneConfig(),
        "encoder-SET",
        examples="examples to train on",
        batch="examples per step",
        length="longest example in tokens",
        scored="held-out examples of the lab to score the model on",
        warmup="examples of rising learning rate",
        decay="share of the examples over which the rate falls to zero",
        dropout="dropout of hidden states and attention",
        seed="seed of the head and the order of examples",
    )
