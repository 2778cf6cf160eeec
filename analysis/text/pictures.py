"""Windows of pictures and what is said about them: image tokens first, then text; the pixels travel with the window.

The lab's pictures are read by models of Llava's kind, in which every patch of a picture is one token.
"""

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor

from analysis.errors import DataError, UsageError
from analysis.lab.draw import Draw
from analysis.lab.pictures import SIZE, Scene, picture, scenes, text
from analysis.models.load import LoadedModel
from analysis.text.shared import origins
from analysis.text.sources import Source, endless_error, source_fingerprint
from analysis.text.tokens import tokenizer_fingerprint
from analysis.windows import Pictures, Windows, check_count

IMAGE = "<image>"
LEAST = 8  # tokens of text beside a picture


def load_pictures(
    source: Source, model: LoadedModel | None, *, samples: int | None, length: int, seed: int = 0
) -> Windows:
    """Windows (samples, length) of the lab's pictures, one each, with what is said about them: the first of more, as of
    a register of the lab. samples None: all of a slice.

    Raises UsageError without a model that reads pictures of the lab, for a length that leaves no text, and for a number
    of windows that is missing; DataError where a slice holds fewer.
    """
    tokens = image_tokens(source.label, model)
    assert model is not None and model.tokenizer is not None  # it has image tokens
    if length < 1 + tokens + LEAST:
        raise UsageError(
            f"{source.label}: a window of {length} tokens has no room for the {tokens} tokens of a picture and text;"
            f" give at least {1 + tokens + LEAST}"
        )
    start, stop = source.numbers
    if samples is None:
        if stop is None:
            raise UsageError(endless_error(source))
        samples = stop - start
    check_count(source.label, "samples", samples)
    if stop is not None and samples > stop - start:
        raise DataError(f"{source.label}: {samples} windows asked, the slice holds {stop - start} pictures")
    drawn = scenes(source.name, split=source.split or "train", seed=seed, start=start)
    ids, _, values, _ = draw_windows(model.tokenizer, drawn, samples, images=tokens, length=length)
    at = torch.zeros_like(ids, dtype=torch.bool)
    at[:, 1 : 1 + tokens] = True
    provenance = {
        "source": source.label,
        "fingerprint": source_fingerprint(source),
        "origins": origins(source, seed=seed),
        "slice": source.slice,
        "split": source.split,
        "documents": samples,
        "tokenizer": tokenizer_fingerprint(model.tokenizer),
        "samples": samples,
        "length": length,
        "seed": seed,
        "tokens": ids.numel(),
        "available": "unbounded" if stop is None else stop - start,
    }
    pictures = Pictures({"pixel_values": values}, at)
    return Windows(ids, torch.ones_like(at), source.label, provenance, pictures=pictures)


def image_tokens(what: str, model: LoadedModel | None) -> int:
    """How many tokens a picture of the lab has for a model. Raises UsageError where it does not read them."""
    config: Any = None if model is None else model.model.config
    tokenizer: Any = None if model is None else model.tokenizer
    vision = getattr(config, "vision_config", None)
    if (
        tokenizer is None
        or vision is None
        or config.model_type != "llava"
        or vision.image_size != SIZE
        or tokenizer.convert_tokens_to_ids(IMAGE) != config.image_token_id
    ):
        named = "no model is given" if model is None else f"{model.name!r} is none"
        raise UsageError(
            f"{what}: is read by a model of Llava's kind for pictures of {SIZE} pixels a side, such as lab/vision, and"
            f" {named}; for others make windows in Python (analysis.windows.Pictures)"
        )
    return config.image_seq_length


def window(tokenizer: Any, said: Iterable[tuple[str, str]], images: int, length: int) -> tuple[list[int], list[bool]]:
    """Token ids of one window: the token that begins texts, `images` image tokens, what is said until the window is
    full, filled up with texts' ends; and which of them follow from the picture.

    said: sentence by sentence what is asked, and what follows from the picture.
    """
    ids = [tokenizer.bos_token_id, *[tokenizer.convert_tokens_to_ids(IMAGE)] * images]
    follows = [False] * len(ids)
    for asked, answer in said:
        space = " " if len(ids) > images + 1 else ""
        for words, known in ((asked, False), (answer, True)):
            if words:
                pieces = tokenizer.encode(space + words, add_special_tokens=False)
                ids, follows, space = ids + pieces, follows + [known] * len(pieces), " "
        if len(ids) >= length:
            break
    rest = length - len(ids)
    return (ids + [tokenizer.eos_token_id] * rest)[:length], (follows + [False] * rest)[:length]


def draw_windows(
    tokenizer: Any, drawn: Iterator[tuple[Scene, Draw]], count: int, *, images: int, length: int
) -> tuple[Tensor, Tensor, Tensor, list[Scene]]:
    """`count` windows: ids (count, length), which of them follow from the picture, pixels (count, 3, side, side), and
    the scenes.
    """
    chosen = list(islice(drawn, count))
    rows = [window(tokenizer, text(scene, draw), images, length) for scene, draw in chosen]
    ids, follows = (torch.tensor([row[part] for row in rows]) for part in (0, 1))
    scenes = [scene for scene, _ in chosen]
    return ids, follows, pixels(picture(scene) for scene in scenes), scenes


def pixels(pictures: Iterable[np.ndarray]) -> Tensor:
    """Pictures (side, side, 3) as a model of the lab reads them: (N, 3, side, side) float32 from -1 to 1."""
    stacked = torch.from_numpy(np.stack(list(pictures)))
    return stacked.permute(0, 3, 1, 2).float() / 127.5 - 1.0
