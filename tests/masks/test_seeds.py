"""Every place of a run draws from a generator of its own."""

import torch

from analysis.masks.seeds import generator


def test_a_generator_is_of_its_seed_and_place_alone():
    first = torch.rand(4, generator=generator(0, "mask", "a"))
    torch.rand(1, generator=generator(0, "solve", 1))
    assert torch.equal(first, torch.rand(4, generator=generator(0, "mask", "a")))
    others = [(1, "mask", "a"), (0, "mask", "b"), (0, "solve", "a"), (0, "mask", "a", 1)]
    assert not any(torch.equal(first, torch.rand(4, generator=generator(*other))) for other in others)
