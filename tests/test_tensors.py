"""Seeded streams: the same key repeats, and different keys have nothing in common."""

import torch

from ndm.support.tensors import rows_at_once, seeded


def test_keys_repeat_and_are_unrelated():
    n = 20_000
    draw = lambda *key: torch.randn(n, generator=seeded(*key))  # noqa: E731
    assert torch.equal(draw(0, 1, 2), draw(0, 1, 2))
    keys = [(0, 0, 0), (0, 0, 1), (0, 1, 0), (1, 0, 0), (0,), (0, 0)]
    streams = torch.stack([draw(*key) for key in keys])
    correlation = torch.corrcoef(streams) - torch.eye(len(keys))
    assert correlation.abs().max() < 5 / n**0.5


def test_large_rows_go_through_a_model_in_smaller_batches():
    assert [rows_at_once(shape, 256) for shape in ((2,), (1, 28, 28), (3, 64, 64), (3, 256, 256))] == [256, 256, 42, 2]
    assert rows_at_once((3, 2048, 2048), 256) == 1
