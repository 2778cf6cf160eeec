"""Windows of pictures and what is said about them: image tokens first, then text; the pixels travel with the window.

The lab's pictures are read by models of Llava's kind, in which every patch of a picture is one token.
"""

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor

from analysis.lab.draw import Draw
from analysis.lab.pictures import Scene, picture, text

IMAGE = "<image>"


def window_ids(tokenizer: Any, said: Iterable[str], images: int, length: int) -> list[int]:
    """Token ids of one window: the token that begins texts, `images` image tokens, what is said until the window is
    full, filled up with texts' ends.
    """
    ids = [tokenizer.bos_token_id, *[tokenizer.convert_tokens_to_ids(IMAGE)] * images]
    for number, sentence in enumerate(said):
        ids += tokenizer.encode(f"{' ' if number else ''}{sentence}", add_special_tokens=False)
        if len(ids) >= length:
            break
    return (ids + [tokenizer.eos_token_id] * (length - len(ids)))[:length]


def draw_windows(
    tokenizer: Any, drawn: Iterator[tuple[Scene, Draw]], count: int, *, images: int, length: int
) -> tuple[Tensor, Tensor]:
    """`count` windows of the scenes: ids (count, length), pixels (count, 3, side, side), float32."""
    scenes = list(islice(drawn, count))
    ids = torch.tensor([window_ids(tokenizer, text(scene, draw), images, length) for scene, draw in scenes])
    return ids, pixels(picture(scene) for scene, _ in scenes)


def pixels(pictures: Iterable[np.ndarray]) -> Tensor:
    """Pictures (side, side, 3) as a model of the lab reads them: (N, 3, side, side) float32 from -1 to 1."""
    stacked = torch.from_numpy(np.stack(list(pictures)))
    return stacked.permute(0, 3, 1, 2).float() / 127.5 - 1.0
