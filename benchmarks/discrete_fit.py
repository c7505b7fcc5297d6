"""What the models of ``discrete.py`` have in common: rows of symbols, a loss with a bound, and their training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

import ndm

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
    """A model with its loss, and with the times that it draws in continuous time; those of few steps are uniform.

    Args:
        steps: the number of steps for which it trains; None is continuous time.
    """

    def __init__(self, steps: int | None = None) -> None:
        super().__init__()
        self.steps = steps
        self.times = ndm.ImportanceTimes()
        self.even = ndm.LowDiscrepancyTimes()

    def nats(self, x: Tensor, steps: int | None, generator: torch.Generator) -> Tensor:
        """A draw of the bound of -log p of each row, in ``steps`` steps or in continuous time (None)."""
        raise NotImplementedError

    def loss(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """What training makes small, nats per row."""
        return self.nats(x, self.steps, generator).mean()

    def settle(self, validation: Tensor) -> None:
        """Choose what is not learned by gradients, once a quarter of the training is done."""


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
        if step == steps // 4:
            fit.settle(validation)
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
            curve.append(evaluated(average.module, validation, fit.steps, passes)[0])
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
