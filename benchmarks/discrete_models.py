r"""Models of rows of symbols that ``discrete.py`` compares: embeddings, fixed codes, and three of other kinds.

All but the autoregressive one have the same network, and draw the times of continuous time more often where their loss
is larger (:class:`ndm.ImportanceTimes`). A fit has the loss of a batch and a bound of each row, both in nats per row:

* ``moving``, ``learned``, ``random``: :class:`ndm.Embedding` of a dimension d, whose points move in time, are learned
  and stay, or keep their random places. Their networks, and those of ``one-hot`` and ``ordinal``, learn by the
  cross-entropy, and the points by the bound (:mod:`ndm.training.cross_entropy`). In tables and texts these networks
  read beliefs as well: the probabilities that each point alone gives its symbol.
* ``moving-bound``, ``learned-bound``: as ``moving`` and ``learned``, but the networks learn by the bound, too.
* ``moving-blind``, ``learned-blind``: as ``moving-bound`` and ``learned-bound``, with networks that read the points
  alone.
* ``one-hot``: every symbol is an axis (shifted and scaled like the other points). ``ordinal``: the symbols are equally
  spaced on a line. The levels of images start so with every embedding, and ``ordinal`` keeps them there.
* ``masked``: discrete diffusion to a mask. A symbol is still there at time t with probability 1 - t, and the bound is

  .. math:: -\log p(x) \le \int_0^1 \frac{1}{t} \mathrm{E} \sum_{i\ \text{masked}} -\log p(x_i \mid z_t)\, dt,

  with T steps its sum over t = 1/T, ..., 1 in place of the integral.
* ``uniform``: discrete diffusion in which a symbol is replaced by a random one. It is still there at time t with
  probability 1 - t, and the bound is

  .. math:: -\log p(x) \le \sum_t \mathrm{KL}(q(z_s \mid z_t, x)\,\|\,q(z_s \mid z_t, \hat p)), \qquad s = t - 1/T,

  where the probabilities :math:`\hat p` of the network take the place of the symbol. They are to be those that the
  other places give: then the sum tends to the exact one as T grows. Without steps it has T = 1,000.
* ``autoregressive``: two layers of LSTM, of about as many parameters; it gives the probability itself.

References:
    Austin et al. Structured Denoising Diffusion Models in Discrete State-Spaces. NeurIPS 2021.
    Sahoo et al. Simple and Effective Masked Diffusion Language Models. NeurIPS 2024 (this bound).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

import ndm
from ndm.levels import RANK
from ndm.objective import bound_and_prediction, draw
from ndm.training.cross_entropy import cross_entropy, learned_apart

BOUND, BLIND = "-bound", "-blind"
EMBEDDINGS = (
    "moving", "learned", "random", "one-hot", "ordinal",
    *(name + how for how in (BOUND, BLIND) for name in ("moving", "learned")),
)  # fmt: skip
METHODS = (*EMBEDDINGS, "masked", "uniform", "autoregressive")
MANY = 1000
"""The steps of ``uniform`` in place of continuous time."""
GAMMA, GAMMA_OF_LINES, GAMMA_OF_AXES, GAMMA_OF_LEVELS = (-7.0, 5.0), (-11.0, 5.0), (-7.0, 9.0), (-12.2, 6.0)
"""The ends of the schedule. Points on a line are nearer to each other than those in a plane or a space, and axes are
farther apart. So the first need less noise at t = 0 to be told apart, and the others more at t = 1 to be forgotten."""
WIDTH, DEPTH = 64, 8
"""The width and depth of the convolutional network of sequences."""
TABLE_WIDTH, TABLE_DEPTH = 128, 3
"""The width and depth of the network of rows of a table."""
IMAGE_WIDTH = 24
"""The channels of the first level of the U-Net of images."""


@dataclass(frozen=True)
class Rows:
    """What rows of codes are: places of one alphabet in a sequence or an image, or one place for each alphabet."""

    alphabets: tuple[int, ...]
    length: int = 0
    image: tuple[int, ...] = ()

    def network(self, channels: int, outputs: int, beliefs: int = 0) -> nn.Module:
        """The network that all diffusion models have: of latents with so many channels at a place.

        That of points may read beliefs beside them, as the discrete models read the symbols themselves.
        """
        if self.length:
            return ndm.nn.Conv1d((channels, self.length), outputs, WIDTH, DEPTH, beliefs=beliefs)
        if self.image:
            size = {"channels": IMAGE_WIDTH, "depth": 1, "multipliers": (1, 2), "patch": 2, "fourier": (5, 6, 7)}
            return ndm.nn.UNet((channels, *self.image[1:]), outputs // channels, **size)
        return ndm.nn.MLP((channels,), width=TABLE_WIDTH, depth=TABLE_DEPTH, outputs=outputs, beliefs=beliefs)


class Fit(nn.Module):
    """A model with its loss, and with the times that it draws in continuous time; those of few steps are uniform."""

    def __init__(self) -> None:
        super().__init__()
        self.times = ndm.ImportanceTimes()
        self.even = ndm.LowDiscrepancyTimes()

    def nats(self, x: Tensor, steps: int | None, generator: torch.Generator) -> Tensor:
        """A draw of the bound of -log p of each row, in ``steps`` steps or in continuous time (None)."""
        raise NotImplementedError

    def loss(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """What training makes small, nats per row."""
        return self.nats(x, None, generator).mean()


class Embedded(Fit):
    """A diffusion model with one of the embeddings."""

    def __init__(self, method: str, rows: Rows, train: Tensor, dim: int) -> None:
        super().__init__()
        count, places = sum(rows.alphabets), len(rows.alphabets)
        told, self.by_entropy = 0 if method.endswith(BLIND) else count, not method.endswith((BOUND, BLIND))
        method = plain(method)
        dim = 1 if rows.image else {"one-hot": max(rows.alphabets), "ordinal": 1}.get(method, dim)
        embedding = ndm.Embedding(rows.alphabets, dim, num_basis=2 if method == "moving" else 0)
        codes = torch.cat([torch.arange(levels) for levels in rows.alphabets])
        with torch.no_grad():
            if method == "one-hot":
                embedding.start.copy_(functional.one_hot(codes, dim).float())
            if method == "ordinal" or rows.image:
                embedding.start_in_order()
        embedding.start.requires_grad_(method in ("moving", "learned"))
        ends = GAMMA_OF_AXES if method == "one-hot" else GAMMA_OF_LINES if dim == 1 else GAMMA
        schedule = ndm.LinearSchedule(*(GAMMA_OF_LEVELS if rows.image else ends))
        process = ndm.ForwardProcess(schedule, embedding, tied_to="noise")
        predictor: ndm.SymbolPredictor | ndm.MixedPredictor
        decoder: ndm.SymbolDecoder | ndm.MixedDecoder
        if rows.length:
            predictor, decoder = ndm.SymbolPredictor(rows.network(dim, count, told), count), ndm.SymbolDecoder(count)
        elif rows.image:
            rank = min(RANK, count)
            predictor = ndm.SymbolPredictor(rows.network(dim, rank), count, rows.image[0], rank)
            decoder = ndm.SymbolDecoder(count, channels=rows.image[0])
        else:
            predictor = ndm.MixedPredictor(rows.network(dim * places, count, told), rows.alphabets)
            decoder = ndm.MixedDecoder(ndm.Marginals(0), rows.alphabets)
        predictor.start_at(train)
        self.model = ndm.NDM(process, predictor, decoder, shape=rows.image or (rows.length or places,))

    def nats(self, x: Tensor, steps: int | None, generator: torch.Generator) -> Tensor:
        times = self.times if steps is None else self.even
        total = ndm.bound(self.model, x, steps, times, generator).total
        times.update()
        return total

    def loss(self, x: Tensor, generator: torch.Generator) -> Tensor:
        if not self.by_entropy:
            return super().loss(x, generator)
        x_model = self.model.encode(x)
        draws = draw(self.model.process.transform.latents(x_model), self.times, generator)
        bound, prediction = bound_and_prediction(self.model, x, x_model, draws)
        self.times.observe(draws.t, bound.diffusion.detach())
        self.times.update()
        entropy = cross_entropy(self.model, prediction, x_model).mean()
        return learned_apart(self.model, prediction, entropy, bound.weighted(draws.weight).total.mean())


def plain(method: str) -> str:
    """The name of the embedding of a method."""
    return method.removesuffix(BOUND).removesuffix(BLIND)


def log_frequencies(rows: Rows, train: Tensor) -> Tensor:
    """The logarithms of the frequencies of all symbols, each alphabet by itself."""
    columns = [train.flatten()] if rows.length else list(train.T)
    counts = [torch.bincount(c, minlength=v) + 1 for c, v in zip(columns, rows.alphabets, strict=True)]
    return torch.cat([(n / n.sum()).log() for n in counts])


class Masked(Fit):
    """Discrete diffusion to a mask: the network reads one-hot vectors of the symbols and the mask."""

    def __init__(self, rows: Rows, train: Tensor) -> None:
        super().__init__()
        self.rows = rows
        inputs = [levels + 1 for levels in rows.alphabets]
        self.net = rows.network(sum(inputs), sum(rows.alphabets))
        self.bias = nn.Parameter(log_frequencies(rows, train))

    def nats(self, x: Tensor, steps: int | None, generator: torch.Generator) -> Tensor:
        times = self.times if steps is None else self.even
        u, weight = times(self.bias.new_empty(len(x)), generator)
        t = u.clamp(min=1e-4) if steps is None else (u * steps).floor().add(1) / steps
        gone = torch.rand(x.shape, generator=generator) < t[:, None]
        cost = (self.costs(x, gone, t) * gone).sum(1) / t
        times.observe(u, cost.detach())
        times.update()
        return weight * cost

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


class Uniform(Fit):
    """Discrete diffusion to random symbols: the network reads one-hot vectors."""

    def __init__(self, rows: Rows, train: Tensor) -> None:
        super().__init__()
        self.rows = rows
        count = sum(rows.alphabets)
        self.net = rows.network(count, count)
        self.bias = nn.Parameter(log_frequencies(rows, train))

    def nats(self, x: Tensor, steps: int | None, generator: torch.Generator) -> Tensor:
        times, steps = self.times if steps is None else self.even, steps or MANY
        u, weight = times(self.bias.new_empty(len(x)), generator)
        t = (u * steps).floor().add(1) / steps
        s = (t - 1 / steps).clamp(min=0)
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
        times.observe(u, cost.detach())
        times.update()
        return steps * weight * cost

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


def fit_of(method: str, rows: Rows, train: Tensor, dim: int) -> Fit:
    """The untrained model of a method.

    Args:
        rows: what the rows are.
        train: training codes, for the frequencies that models start at.
        dim: the dimension of points that are no fixed codes.
    """
    if method in ("masked", "uniform"):
        return Masked(rows, train) if method == "masked" else Uniform(rows, train)
    return Autoregressive(rows) if method == "autoregressive" else Embedded(method, rows, train, dim)


def has_dim(method: str, rows: Rows) -> bool:
    """Whether a method has points of a dimension that is to be chosen; those of levels lie on a line."""
    return plain(method) in ("moving", "learned", "random") and not rows.image


def applies(method: str, rows: Rows) -> bool:
    """Whether a method is for such rows: characters have no order, levels have one, and the LSTM reads sequences."""
    if rows.image:
        return method in ("moving", "learned", "ordinal")
    return method != ("ordinal" if rows.length else "autoregressive")


def evaluated(fit: Fit, x: Tensor, steps: int | None, passes: int, seed: int = 0) -> tuple[float, float]:
    """The mean of the bound over rows and passes, and its standard error over rows; nats per row."""
    generator, fit = torch.Generator().manual_seed(seed), fit.eval()
    with torch.no_grad():
        draws = [torch.cat([fit.nats(part, steps, generator) for part in x.split(256)]) for _ in range(passes)]
    rows = torch.stack(draws).double().mean(0)
    return float(rows.mean()), float(rows.std() / len(rows) ** 0.5)


def parameters(fit: Fit) -> int:
    """The number of weights that train."""
    return sum(p.numel() for p in fit.parameters() if p.requires_grad)


def trained(
    fit: Fit, train: Tensor, validation: Tensor, steps: int, batch: int, seed: int, every: int, passes: int
) -> tuple[Fit, list[float]]:
    """Train with Adam, a linear fall of the learning rate and an average of the weights, alike for every method.

    Returns:
        The fit with the averaged weights of the evaluation with the best validation bound, and all these bounds in
        nats per row.
    """
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW([p for p in fit.parameters() if p.requires_grad], lr=2e-3, betas=(0.9, 0.99))
    average = torch.optim.swa_utils.AveragedModel(fit, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.998))
    curve: list[float] = []
    best = {name: value.clone() for name, value in average.module.state_dict().items()}
    for step in range(steps):
        rate = 2e-3 * min(1.0, (step + 1) / 100) * (1 - step / steps)
        for group in optimizer.param_groups:
            group["lr"] = rate
        rows = train[torch.randint(len(train), (batch,), generator=generator)]
        loss = fit.train().loss(rows.long(), generator)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(fit.parameters(), 1.0 * rows[0].numel())
        optimizer.step()
        average.update_parameters(fit)
        if (step + 1) % every == 0 or step + 1 == steps:
            curve.append(evaluated(average.module, validation, None, passes)[0])
            if curve[-1] == min(curve):
                best = {name: value.clone() for name, value in average.module.state_dict().items()}
    average.module.load_state_dict(best)
    return average.module, curve


def split_text(codes: Tensor, size: int) -> tuple[Tensor, Tensor, Tensor]:
    """The first 90 % of a text as windows at any place, the next 5 % and the last 5 % as windows side by side."""
    ends: Sequence[int] = (len(codes) * 90 // 100, len(codes) * 95 // 100)
    train, validation, test = codes.tensor_split(list(ends))
    side = [part[: len(part) // size * size].view(-1, size) for part in (validation, test)]
    return train.unfold(0, size, 1), side[0], side[1]
