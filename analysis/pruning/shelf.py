"""What a streamed run does not keep in memory: the pruned blocks and masks of finished visits, read from the file of
the visit that wrote them.
"""

from collections.abc import Iterator, MutableMapping
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from analysis.models.placement import skeleton
from analysis.models.tensor_file import Stored, TensorFile

if TYPE_CHECKING:
    from analysis.pruning.state import State
    from analysis.reconstruction.schedule import Visit

MASK = "mask:"
"""What names of masks begin with in the file of a visit."""


class ShelvedMasks(MutableMapping[str, Tensor]):
    """Masks by full matrix name: those of the present visit in memory, all others in files."""

    def __init__(self) -> None:
        self._masks: dict[str, Tensor | Stored] = {}

    def __getitem__(self, name: str) -> Tensor:
        mask = self._masks[name]
        return mask[...] if isinstance(mask, Stored) else mask

    def __setitem__(self, name: str, mask: Tensor) -> None:
        self._masks[name] = mask

    def __delitem__(self, name: str) -> None:
        del self._masks[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._masks)

    def __len__(self) -> int:
        return len(self._masks)

    def shelve(self, file: TensorFile) -> None:
        """From now on read the masks that a visit's file holds from there."""
        names = [name for name in file if name.startswith(MASK)]
        self._masks |= {name.removeprefix(MASK): Stored(file, name) for name in names}


def shelve(state: "State", visit: "Visit", path: Path) -> None:
    """Let go of the blocks and masks of a visit that has been written: of a streamed model they are read from there
    from now on. Nothing to do for a resident one.
    """
    if (parts := skeleton(state.model)) is None:
        return
    file = TensorFile(path)
    for index in visit.blocks:
        parts.blocks[index].keep({name: Stored(file, name) for name in file})
    if isinstance(state.masks, ShelvedMasks):
        state.masks.shelve(file)
