"""Training of the lab's vision-language model: a lab decoder that reads pictures through a small vision tower.

    analysis lab vision --out data/lab/vision

A model of Llava's kind (Liu et al. 2023, 2304.08485): patches of a picture go through a SigLIP-type tower and a
projector of two layers, and stand as tokens before the text. The decoder begins as one of the lab's. Tower and
projector begin at random and are first trained alone, to give at each patch the words for what is in its cell, as
towers of large models are on captioned pictures before; without it answers were still guesses after 8,000 pictures, in
a trial. Then everything is trained at once on pictures the lab draws, with questions, answers and captions
(`analysis.lab.pictures`). A run that was stopped continues as that of the decoder does (`analysis.training.loop`).
Nothing heavy is imported before it starts.
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from analysis.errors import UsageError
from analysis.lab.pictures import SIZE, Scene, cells, scenes
from analysis.lab.versions import PICTURES
from analysis.training.loop import Training, run
from analysis.training.settings import Schedule, add_options, check_config, options

GUESSED = 0.1  # what a token that no picture tells counts in the loss
SHARPNESS = 8.0  # of the words given at a patch: so that what the projector makes is no larger than words are


@dataclass(frozen=True)
class VisionConfig(Schedule):
    """Everything the training of a vision-language model depends on besides the decoder it begins with.

    `pictures` are read in all, the first `aligned` of them by tower and projector alone, `warmup` while the learning
    rate rises; over the last `decay` share of them it
    falls to zero. `length`: tokens of a window, those of the picture included; `patch`: pixels a side of a patch, which
    is one token; `hidden`, `intermediate`, `blocks`, `heads`: of the vision tower.
    """

    unit: ClassVar[str] = "pictures"
    pictures: int = 80_000
    aligned: int = 16_000
    batch: int = 32
    length: int = 96
    patch: int = 8
    hidden: int = 64
    intermediate: int = 128
    blocks: int = 3
    heads: int = 4
    learning_rate: float = 2e-3
    weight_decay: float = 0.05
    warmup: int = 2_000
    decay: float = 0.5
    seed: int = 0
    threads: int = 1

    @property
    def per_step(self) -> int:
        """Pictures read in one step."""
        return self.batch

    @property
    def images(self) -> int:
        """Image tokens of a window."""
        return (SIZE // self.patch) ** 2

    def problems(self) -> list[str]:
        """What is impossible in the sizes."""
        problems = [] if self.steps else [f"pictures {self.pictures} is less than one batch of {self.batch}"]
        if SIZE % self.patch:
            problems.append(f"pictures of {SIZE} pixels cannot be cut into patches of {self.patch}")
        if self.hidden % self.heads:
            problems.append(f"hidden {self.hidden} is not a multiple of heads {self.heads}")
        if self.length < self.images + 24:
            problems.append(f"length {self.length} leaves fewer than 24 tokens beside a picture's {self.images}")
        return problems


def build(config: VisionConfig, decoder: Any, tokenizer: Any) -> Any:
    """An untrained `LlavaForConditionalGeneration` (float32) of the size in `config` whose language part is `decoder`,
    a Llama-type model, with a row for every token of `tokenizer`; a function of `config.seed`.
    """
    import torch
    from transformers import LlavaConfig, LlavaForConditionalGeneration, SiglipVisionConfig

    from analysis.text.pictures import IMAGE

    language = decoder.config.to_diff_dict() | {"vocab_size": len(tokenizer)}
    shape = LlavaConfig(
        text_config=language,
        vision_config=SiglipVisionConfig(
            hidden_size=config.hidden,
            intermediate_size=config.intermediate,
            num_hidden_layers=config.blocks,
            num_attention_heads=config.heads,
            image_size=SIZE,
            patch_size=config.patch,
            vision_use_head=False,
        ),
        image_token_index=tokenizer.convert_tokens_to_ids(IMAGE),
        image_seq_length=config.images,
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
        tie_word_embeddings=decoder.config.tie_word_embeddings,
    )
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(config.seed)
        model = LlavaForConditionalGeneration(shape).float()
        state = decoder.state_dict()
        for name, value in model.model.language_model.state_dict().items():
            value[: len(state[f"model.{name}"])] = state[f"model.{name}"]
        for parameter in model.model.multi_modal_projector.parameters():
            if parameter.dim() == 2:
                parameter.normal_(std=parameter.shape[1] ** -0.5)
    return model


def train(
    config: VisionConfig,
    out: str | Path,
    *,
    decoder: str = "lab/small",
    evaluate: Callable[[Any, Any], dict],
    **options: Any,
) -> Path:
    """Train on the lab's pictures into folder `out` and return it; continue from its checkpoint if there is one.

    decoder: the language part to begin with, a lab name or a folder; or a model that such a training has left, to go on
    with. `evaluate(model, tokenizer)` gives the scores of
    the card. Further options and errors are those of `loop.run`.
    """
    from analysis.models.hub import fingerprint

    check_config(config, VisionConfig)
    reads = {"decoder": fingerprint(decoder), "text": f"pictures:shapes@{PICTURES}"}
    return run(lambda: _training(config, decoder, evaluate), config, out, reads=reads, **options)


def _training(config: VisionConfig, decoder: str, evaluate: Callable[[Any, Any], dict]) -> Training:
    from analysis.models.context import usable_context
    from analysis.models.load import load_model
    from analysis.text.pictures import IMAGE

    begun = load_model(decoder, device="cpu", dtype="float32")
    tokenizer = begun.tokenizer
    if tokenizer is None:
        raise UsageError(f"lab vision: {decoder} has no tokenizer; begin with a lab model such as lab/small")
    if (context := usable_context(begun.model)) is not None and config.length > context:
        raise UsageError(f"--length {config.length}: {decoder} reads at most {context} tokens at once")
    if begun.model.config.model_type == "llava":
        model = _gone_on(config, begun)
    else:
        tokenizer.add_special_tokens({"additional_special_tokens": [IMAGE]})
        model = build(config, begun.model, tokenizer)
    return Training(
        config,
        model,
        tokenizer,
        PictureBatches(config, tokenizer),
        loss,
        lambda model: evaluate(model, tokenizer),
        command(config, decoder),
        {"decoder": decoder},
    )


def _gone_on(config: VisionConfig, begun: Any) -> Any:
    """A model that reads pictures already, to be trained further. Raises UsageError where the tower's sizes asked for
    are not those that it has.
    """
    from analysis.text.pictures import image_tokens

    image_tokens("lab vision", begun)
    names = {"hidden": "hidden_size", "intermediate": "intermediate_size", "blocks": "num_hidden_layers"}
    names |= {"heads": "num_attention_heads", "patch": "patch_size"}
    tower = begun.model.config.vision_config
    sizes = {key: getattr(tower, name) for key, name in names.items()}
    if other := [f"{key} {size}" for key, size in sizes.items() if size != getattr(config, key)]:
        raise UsageError(f"lab vision: {begun.name} reads pictures with {', '.join(other)}; ask for the same to go on")
    return begun.model.requires_grad_(True)


class PictureBatches:
    """Batches of windows with their pictures: `batches[n]` is a `Batch`, a function of `n` and the config alone."""

    def __init__(self, config: VisionConfig, tokenizer: Any):
        self.config, self.tokenizer = config, tokenizer

    def __getitem__(self, step: int):
        from analysis.text.pictures import draw_windows

        config = self.config
        drawn = scenes("shapes", seed=1 + config.seed, start=step * config.batch)
        ids, follows, pixels, seen = draw_windows(
            self.tokenizer, drawn, config.batch, images=config.images, length=config.length
        )
        words = self._words(seen) if step < config.aligned // config.batch else None
        return Batch(ids, follows, pixels, words)

    def _words(self, seen: list[Scene]):
        """(B, patches, 2): the tokens that the words for colour and shape of what is at each patch begin with; where
        nothing is, that of "no".
        """
        import torch

        first = lambda word: self.tokenizer.encode(f" {word}", add_special_tokens=False)[0]
        pair = lambda thing: [first("no")] * 2 if thing is None else [first(thing.colour), first(thing.shape)]
        side = SIZE // self.config.patch
        return torch.tensor([[pair(thing) for row in cells(scene, side) for thing in row] for scene in seen])


@dataclass(frozen=True, eq=False)
class Batch:
    """Windows with their pictures: ids (B, T), which tokens follow from the picture (B, T), pixels
    (B, 3, side, side); words (B, patches, 2): what tower and projector alone are to give, else None.
    """

    ids: Any
    follows: Any
    pixels: Any
    words: Any = None


def loss(model: Any, batch: Batch):
    """Mean next-token loss (nats) of the text, tokens that do not follow from the picture counting `GUESSED` times; of
    a batch with words: of these, given what the projector makes of the picture.
    """
    import torch
    from torch.nn.functional import cross_entropy

    if batch.words is not None:
        words = model.get_input_embeddings().weight.detach()
        seen = torch.stack(list(model.model.get_image_features(batch.pixels.to(model.device)).pooler_output))
        logits = (SHARPNESS * seen @ words.T).unsqueeze(2).expand(-1, -1, 2, -1)
        return cross_entropy(logits.flatten(0, 2), batch.words.to(model.device).flatten())
    ids, pixels = batch.ids.to(model.device), batch.pixels.to(model.device)
    text = int((ids[0] == model.config.image_token_id).nonzero().max()) + 1  # the first token of the text
    logits = model(input_ids=ids, pixel_values=pixels, use_cache=False, logits_to_keep=ids.shape[1] - text + 1).logits
    nats = cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, text:].flatten(), reduction="none")
    weights = batch.follows[:, text:].flatten().to(nats) * (1 - GUESSED) + GUESSED
    return (nats * weights).sum() / weights.sum()


def command(config: VisionConfig, decoder: str) -> str:
    """The shell command that makes this run: only what differs from the defaults is named."""
    return f"analysis lab vision {'' if decoder == 'lab/small' else f'--decoder {decoder} '}{options(config)}".rstrip()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `analysis lab vision`: the decoder, the folder, the device, and one per field of `VisionConfig`."""
    parser.add_argument(
        "--decoder",
        default="lab/small",
        metavar="MODEL",
        help="the language part to begin with, a Llama-type model, or a model that reads pictures, to train it further"
        " (default: %(default)s)",
    )
    add_options(
        parser,
        VisionConfig(),
        "vision",
        pictures="pictures to train on",
        aligned="pictures that tower and projector are first trained on alone",
        batch="pictures per step",
        length="tokens of a window, those of its picture included",
        patch="pixels a side of a patch, which is one token",
        hidden="hidden size of the vision tower",
        intermediate="MLP size of the vision tower",
        blocks="blocks of the vision tower",
        heads="attention heads of the vision tower",
        warmup="pictures of rising learning rate",
        decay="share of the pictures over which the rate falls to zero",
        seed="seed of the new weights and of the pictures",
    )
