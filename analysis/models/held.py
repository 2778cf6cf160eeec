"""Holding the weights of modules that lie in files while nobody works with them (`placement.py`)."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Protocol

from torch import nn

_PART = "weights_in_files"  # of a block: its part of a streamed model


class HasWeights(Protocol):
    """Weights that are in memory while they are held."""

    def held(self) -> AbstractContextManager[None]: ...


def lend(block: nn.Module, part: HasWeights | None) -> None:
    """From now on the weights of a block are in memory only while its part is held; None: always again."""
    if part is None:
        del block.__dict__[_PART]
    else:
        block.__dict__[_PART] = part


@contextmanager
def held(*blocks: nn.Module) -> Iterator[None]:
    """While open, the weights of these blocks are in memory, where they are not anyway."""
    with ExitStack() as stack:
        for block in blocks:
            if (part := block.__dict__.get(_PART)) is not None:
                stack.enter_context(part.held())
        yield
