r"""Models of rows of symbols without points: two discrete diffusion models and an autoregressive one.

* ``masked``: discrete diffusion to a mask. A symbol is still there at time t with probability 1 - t, and the bound is

  .. math:: -\log p(x) \le \int_0^1 \frac{1}{t} \mathrm{E} \sum_{i\ \text{masked}} -\log p(x_i \mid z_t)\, dt,

  and with steps from s to t a sum of (t - s) times the integrand at t.
* ``uniform``: discrete diffusion in which a symbol is replaced by a random one. It is still there at time t with
  probability 1 - t, and the bound is

  .. math:: -\log p(x) \le \sum_{s, t} \mathrm{KL}(q(z_s \mid z_t, x)\,\|\,q(z_s \mid z_t, \hat p)),

  where the probabilities :math:`\hat p` of the network take the place of the symbol. They are to be those that the
  other places give: then the sum tends to the exact one as the steps grow in number. Without steps there are 1,000.
* ``autoregressive``: two layers of LSTM, of about as many parameters; it gives the probability itself.

Steps are of equal length. A diffusion model that trains for few steps first trains in continuous time. After a quarter
of the training it chooses the ends of its steps among :data:`LEVELS` equally spaced times: those with the least bound
on validation rows, found by dynamic programming. Then it trains at these times alone.

References:
    Austin et al. Structured Denoising Diffusion Models in Discrete State-Spaces. NeurIPS 2021.
    Sahoo et al. Simple and Effective Masked Diffusion Language Models. NeurIPS 2024 (the bound of ``masked``).
    Watson, Ho, Norouzi, Chan. Learning to Efficiently Sample from Diffusion Probabilistic Models. 2021 (the steps).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from discrete_fit import Fit, Rows

MANY = 1000
"""The steps of ``uniform`` in place of continuous time."""
LEVELS = 16
"""The number of times among which the ends of few steps are chosen, without t = 0."""
CHOOSING_ROWS = 500
"""The validation rows by which they are chosen."""


def log_frequencies(rows: Rows, train: Tensor) -> Tensor:
    """The logarithms of the frequencies of all symbols, each alphabet by itself."""
    columns = [train.flatten()] if rows.length else list(train.T)
    counts = [torch.bincount(c, minlength=v) + 1 for c, v in zip(columns, rows.alphabets, strict=True)]
    return torch.cat([(n / n.sum()).log() for n in counts])


class Discrete(Fit):
    """A diffusion of the symbols themselves, with steps whose ends may be chosen."""

    ends: Tensor
    """The times between which the steps lie that it trains for, ``(steps + 1,)``."""

    def __init__(self, rows: Rows, steps: int | None = None) -> None:
        super().__init__(steps)
        self.rows = rows
        self.settled = False
        self.register_buffer("ends", torch.linspace(0, 1, (steps or 1) + 1))

    def path(self, steps: int) -> Tensor:
        """The times between which so many steps lie, ``(steps + 1,)``."""
        return self.ends if steps == self.steps else torch.linspace(0, 1, steps + 1)

    def step_nats(self, x: Tensor, s: Tensor, t: Tensor, generator: torch.Generator) -> Tensor:
        """A draw of what the step from t to s adds to the bound of each row."""
        raise NotImplementedError

    def rate(self, x: Tensor, t: Tensor, generator: torch.Generator) -> Tensor:
        """A draw of what continuous time adds to the bound at t."""
        raise NotImplementedError

    def nats(self, x: Tensor, steps: int | None, generator: torch.Generator) -> Tensor:
        times = self.times if steps is None else self.even
        u, weight = times(x.new_empty(len(x), dtype=torch.float32), generator)
        if steps is None:
            cost = self.rate(x, u, generator)
        else:
            path, i = self.path(steps), (u * steps).long()
            cost = steps * self.step_nats(x, path[i], path[i + 1], generator)
        times.observe(u, cost.detach())
        times.update()
        return weight * cost

    def loss(self, x: Tensor, generator: torch.Generator) -> Tensor:
        return self.nats(x, self.steps if self.settled else None, generator).mean()

    @torch.no_grad()
    def settle(self, validation: Tensor) -> None:
        if self.steps is None:
            return
        x, costs = validation[:CHOOSING_ROWS].long(), torch.full((LEVELS + 1, LEVELS + 1), torch.inf)
        self.eval()
        for i in range(LEVELS):
            for j in range(i + 1, LEVELS + 1):
                s, t = (torch.full((len(x),), level / LEVELS) for level in (i, j))
                costs[i, j] = self.step_nats(x, s, t, torch.Generator().manual_seed(0)).mean()
        self.ends.copy_(torch.tensor(cheapest(costs, self.steps)) / LEVELS)
        self.settled = True


def cheapest(costs: Tensor, steps: int) -> list[int]:
    """The path of so many steps from the first level to the last one with the least sum of ``costs[from, to]``."""
    best, before = costs[0], []
    for _ in range(steps - 1):
        best, previous = (best[:, None] + costs).min(0)
        before.append(previous.tolist())
    path = [len(costs) - 1]
    for previous in reversed(before):
        path.append(previous[path[-1]])
    return [0, *reversed(path)]


class Masked(Discrete):
    """Discrete diffusion to a mask: the network reads one-hot vectors of the symbols and the mask."""

    def __init__(self, rows: Rows, train: Tensor, steps: int | None = None) -> None:
        super().__init__(rows, steps)
        inputs = [levels + 1 for levels in rows.alphabets]
        self.net = rows.network(sum(inputs), sum(rows.alphabets))
        self.bias = nn.Parameter(log_frequencies(rows, train))

    def rate(self, x: Tensor, t: Tensor, generator: torch.Generator) -> Tensor:
        t = t.clamp(min=1e-4)
        gone = torch.rand(x.shape, generator=generator) < t[:, None]
        return (self.costs(x, gone, t) * gone).sum(1) / t

    def step_nats(self, x: Tensor, s: Tensor, t: Tensor, generator: torch.Generator) -> Tensor:
        return (t - s) * self.rate(x, t, generator)

    def costs(self, x: Tensor, gone: Tensor, t: Tensor) -> Tensor:
        """-log p(x_i | z_t) at every place, of the shape of ``x``."""
        if self.rows.length:
            return functional.cross_entropy(self.logits(x, gone, t), x, reduction="none")
        columns = zip(x.T, gone.T, self.rows.alphabets, strict=True)
        shown = torch.cat([functional.one_hot(torch.where(g, v, c), v + 1) for c, g, v in columns], 1).float()
        parts = (self.net(shown, t) + self.bias).split(list(self.rows.alphabets), 1)
        costs = [functional.cross_entropy(p, c, reduction="none") for p, c in zip(parts, x.T, strict=True)]
        return torch.stack(costs, 1)

    def logits(self, x: Tensor, gone: Tensor, t: Tensor) -> Tensor:
        """Logits of the symbols of one alphabet, ``(B, V, length)``."""
        (levels,) = self.rows.alphabets
        shown = functional.one_hot(torch.where(gone, levels, x), levels + 1).movedim(2, 1).float()
        return self.net(shown, t) + self.bias[:, None]


class Uniform(Discrete):
    """Discrete diffusion to random symbols: the network reads one-hot vectors."""

    def __init__(self, rows: Rows, train: Tensor, steps: int | None = None) -> None:
        super().__init__(rows, steps)
        count = sum(rows.alphabets)
        self.net = rows.network(count, count)
        self.bias = nn.Parameter(log_frequencies(rows, train))

    def rate(self, x: Tensor, t: Tensor, generator: torch.Generator) -> Tensor:
        end = (t * MANY).floor().add(1) / MANY
        return MANY * self.step_nats(x, (end - 1 / MANY).clamp(min=0), end, generator)

    def step_nats(self, x: Tensor, s: Tensor, t: Tensor, generator: torch.Generator) -> Tensor:
        stays = torch.rand(x.shape, generator=generator) >= t[:, None]
        levels = torch.tensor(self.rows.alphabets)
        other = (torch.rand(x.shape, generator=generator) * levels).long().minimum(levels - 1)
        z = torch.where(stays, x, other)
        cost = x.new_zeros(len(x), dtype=torch.float32)
        parts = (a.split(list(self.rows.alphabets), 1) for a in (self.logits(z, t), self.hot(x), self.hot(z)))
        for guess, start, now in zip(*parts, strict=True):
            true, found = (earlier(p, now, t, s) for p in (start, guess.softmax(1)))
            kl = torch.special.xlogy(true, true) - true * found.clamp(min=1e-30).log()
            cost = cost + kl.flatten(1).sum(1)
        return cost

    def logits(self, z: Tensor, t: Tensor) -> Tensor:
        """Logits of all symbols, ``(B, sum(alphabets), *)``."""
        return self.net(self.hot(z).float(), t) + (self.bias[:, None] if self.rows.length else self.bias)

    def hot(self, codes: Tensor) -> Tensor:
        """One-hot vectors of all symbols, ``(B, sum(alphabets), *)``."""
        if self.rows.length:
            return functional.one_hot(codes, self.rows.alphabets[0]).movedim(2, 1)
        return torch.cat([functional.one_hot(c, v) for c, v in zip(codes.T, self.rows.alphabets, strict=True)], 1)


def earlier(p: Tensor, now: Tensor, t: Tensor, s: Tensor) -> Tensor:
    """q(z_s | z_t, p) of diffusion to random symbols, for probabilities ``p`` in place of the symbol; ``(B, V, *)``."""
    t, s = (a.view(-1, *[1] * (p.ndim - 1)) for a in (t, s))
    levels, stays = p.shape[1], (1 - t) / (1 - s)
    q = (stays * now + (1 - stays) / levels) * ((1 - s) * p + s / levels)
    return q / q.sum(1, keepdim=True)


class Autoregressive(Fit):
    """p(x_i | x_1 ... x_{i-1}) of one alphabet by an LSTM."""

    def __init__(self, rows: Rows, width: int = 152) -> None:
        super().__init__()
        (levels,) = rows.alphabets
        self.levels = levels
        self.points = nn.Embedding(levels + 1, 64)
        self.net = nn.LSTM(64, width, num_layers=2, batch_first=True)
        self.head = nn.Linear(width, levels)

    def nats(self, x: Tensor, steps: int | None, generator: torch.Generator) -> Tensor:
        return functional.cross_entropy(self.logits(x), x, reduction="none").sum(1)

    def logits(self, x: Tensor) -> Tensor:
        """Logits of the symbol at each place, by those before it, ``(B, V, length)``."""
        before = functional.pad(x[:, :-1], (1, 0), value=self.levels)
        return self.head(self.net(self.points(before))[0]).movedim(2, 1)
