"""Seeded streams: the same key repeats, and different keys have nothing in common."""

import torch

from ndm.tensors import seeded


def test_keys_repeat_and_are_unrelated():
    n = 20_000
    draw = lambda *key: torch.randn(n, generator=seeded(*key))  # noqa: E731
    assert torch.equal(draw(0, 1, 2), draw(0, 1, 2))
    keys = [(0, 0, 0), (0, 0, 1), (0, 1, 0), (1, 0, 0), (0,), (0, 0)]
    streams = torch.stack([draw(*key) for key in keys])
    correlation = torch.corrcoef(streams) - torch.eye(len(keys))
    assert correlation.abs().max() < 5 / n**0.5
