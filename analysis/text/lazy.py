"""A sequence whose items are made when they are asked for: a draw needs a few out of hundreds of thousands."""

from collections.abc import Callable, Sequence
from typing import TypeVar, overload

T = TypeVar("T")


class Lazy(Sequence[T]):
    """`make(number)` for every number below `length`, made anew each time."""

    def __init__(self, length: int, make: Callable[[int], T]):
        self.length, self.make = length, make

    def __len__(self) -> int:
        return self.length

    @overload
    def __getitem__(self, number: int) -> T: ...
    @overload
    def __getitem__(self, number: slice) -> Sequence[T]: ...
    def __getitem__(self, number: int | slice) -> T | Sequence[T]:
        numbers = range(self.length)[number]
        return [self.make(n) for n in numbers] if isinstance(numbers, range) else self.make(numbers)
