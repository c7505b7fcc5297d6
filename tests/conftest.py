"""What the tests share: float64 everywhere, seeds, small networks, and the data of the linear-Gaussian oracle."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

# The tensors here are small: threads would cost more than they give, most of all on a busy machine.
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _float64_and_seed():
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


class SmoothNet(nn.Module):
    """A generic smooth ``net(x, t)`` or ``net(x)`` with outputs of order one, so that no term of F vanishes."""

    def __init__(self, dim: int, out: int, timed: bool = True) -> None:
        super().__init__()
        self.inner = nn.Linear(dim + timed, 16)
        self.outer = nn.Linear(16, out)
        self.timed = timed

    def forward(self, x: Tensor, t: Tensor | None = None) -> Tensor:
        if self.timed:
            x = torch.cat([x, t[:, None]], dim=1)
        return self.outer(torch.tanh(2 * self.inner(x)))
