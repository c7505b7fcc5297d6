"""Windows of text that the models of ``discrete_models.py`` draw in few steps, and two measures of them.

* The share of their words that are words of the training text. Words that an end of a window may cut do not count.
* The share of their stretches of four characters that are different ones: less than that of as many held-out windows
  says that samples repeat themselves.
"""

from __future__ import annotations

import re
from itertools import pairwise

import torch
from torch import Tensor

import ndm
from discrete_fit import Fit
from discrete_models import Embedded
from discrete_rivals import Autoregressive, Masked, Uniform, earlier

STRETCH = 4


@torch.no_grad()
def drawn(fit: Fit, count: int, length: int, steps: int, generator: torch.Generator) -> Tensor:
    """Codes ``(count, length)``; an autoregressive model takes as many steps as there are places."""
    fit.eval()
    if isinstance(fit, Embedded):
        return ndm.sample(fit.model, count, steps=steps, generator=generator).long()
    x = torch.zeros(count, length, dtype=torch.long)
    if isinstance(fit, Autoregressive):
        for place in range(length):
            x[:, place] = chosen(fit.logits(x).softmax(1)[:, :, place : place + 1], generator)[:, 0]
        return x
    if isinstance(fit, Masked):
        gone = torch.ones_like(x, dtype=torch.bool)
        for s, t in steps_back(fit.path(steps)):
            symbols = chosen(fit.logits(x, gone, torch.full((count,), t)).softmax(1), generator)
            shown = gone & (torch.rand(x.shape, generator=generator) < (t - s) / t)
            x, gone = torch.where(shown, symbols, x), gone & ~shown
        return x
    assert isinstance(fit, Uniform)
    x = torch.randint(fit.rows.alphabets[0], x.shape, generator=generator)
    for ends in steps_back(fit.path(steps)):
        s, t = (torch.full((count,), end) for end in ends)
        x = chosen(earlier(fit.logits(x, t).softmax(1), fit.hot(x), t, s), generator)
    return x


def steps_back(path: Tensor) -> list[tuple[float, float]]:
    """The ends s < t of the steps between the times of a path, the last step first."""
    return list(pairwise(path.tolist()))[::-1]


def chosen(p: Tensor, generator: torch.Generator) -> Tensor:
    """A symbol at every place by probabilities ``(B, V, length)``."""
    flat = p.movedim(1, 2).reshape(-1, p.shape[1])
    return torch.multinomial(flat, 1, generator=generator).view(len(p), p.shape[2])


def words_of(text: str) -> list[str]:
    """The words of a window without those at its ends."""
    return [word for word in re.split("[^a-z]+", text.lower())[1:-1] if word]


def measures(codes: Tensor, alphabet: str, vocabulary: set[str]) -> dict[str, float]:
    """The share of known words, and of different stretches, in windows of codes."""
    texts = ["".join(alphabet[code] for code in row) for row in codes.tolist()]
    words = [word for text in texts for word in words_of(text)]
    stretches = [text[i : i + STRETCH] for text in texts for i in range(len(text) - STRETCH + 1)]
    known = sum(word in vocabulary for word in words) / max(1, len(words))
    return {"words": known, "different": len(set(stretches)) / len(stretches)}
