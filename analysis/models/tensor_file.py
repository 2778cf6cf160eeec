"""Tensors in a safetensors file, read one by one when they are asked for and never mapped into memory."""

import json
import os
import weakref
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from safetensors import safe_open
from torch import Tensor


class TensorFile(Mapping[str, Tensor]):
    """The tensors of one file by name. It stays open, so that they can still be read once it has been removed."""

    def __init__(self, path: Path):
        self._file = safe_open(path, framework="pt", device="cpu", backend="pread")
        self._slices = {name: self._file.get_slice(name) for name in self._file.keys()}
        self._open = os.open(path, os.O_RDONLY)  # for `expect`, which safetensors has no word for
        weakref.finalize(self, os.close, self._open)
        size = int.from_bytes(os.pread(self._open, 8, 0), "little")
        header = json.loads(os.pread(self._open, size, 8))
        self._places = {name: [8 + size + end for end in header[name]["data_offsets"]] for name in self._slices}

    @property
    def metadata(self) -> dict[str, str]:
        return self._file.metadata() or {}

    def __getitem__(self, name: str) -> Tensor:
        return self._slices[name][...]

    def __iter__(self) -> Iterator[str]:
        return iter(self._slices)

    def __len__(self) -> int:
        return len(self._slices)

    @property
    def nbytes(self) -> int:
        """Of all tensors."""
        return sum(end - start for start, end in self._places.values())

    def shape(self, name: str) -> tuple[int, ...]:
        """Of a tensor, from the header alone."""
        return tuple(self._slices[name].get_shape())

    def expect(self, name: str) -> None:
        """Tell the system that a tensor will be read soon: it brings it from the disk meanwhile, and may drop it."""
        start, end = self._places[name]
        with suppress(OSError, AttributeError):  # a file system or a system without the call
            os.posix_fadvise(self._open, start, end - start, os.POSIX_FADV_WILLNEED)


@dataclass(frozen=True)
class Stored:
    """One tensor of a file, read whenever it is indexed (`stored[...]`)."""

    file: TensorFile
    name: str

    def __getitem__(self, index: object) -> Tensor:
        tensor = self.file[self.name]
        return tensor if index is Ellipsis else tensor[index]  # type: ignore[index]
