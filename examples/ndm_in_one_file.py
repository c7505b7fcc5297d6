r"""A neural diffusion model in one file: the mathematics, the training and the samplers, for points in the plane.

    python examples/ndm_in_one_file.py --out ndm.png

This file is for reading. The library `ndm` computes the same numbers; `tests/test_one_file.py` compares the two.

A diffusion model adds noise to a data point x, more and more of it from t = 0 to t = 1, and learns to go back. A
*neural* diffusion model (Bartosh, Vetrov, Naesseth, ICML 2024) first moves the point along a learned curve F(x, t):

    z_t = alpha_t F(x, t) + sigma_t eps,        eps ~ N(0, I),        F(x, 0) = x.                         (1)

Shapes: B is the number of points in a batch. Points have shape (B, 2), and times (B, 1), one for each point.
"""

import argparse
import math

import torch
from torch import Tensor, nn

# ------------------------------------------------------------------------------------------------ 1. the noise schedule
# gamma_t = log(sigma_t^2 / alpha_t^2) is the logarithm of the ratio of noise to signal. It grows with t, here along
# a straight line, and alpha_t^2 + sigma_t^2 = 1. Everything else follows from gamma_t and its derivative gamma':
#
#     alpha_t^2 = sigmoid(-gamma_t),    alpha' = -sigma_t^2 gamma' alpha_t / 2,
#     sigma_t^2 = sigmoid( gamma_t),    sigma' =  alpha_t^2 gamma' sigma_t / 2.

GAMMA_0, GAMMA_1 = -7.0, 5.0
D_GAMMA = GAMMA_1 - GAMMA_0


def gamma(t: Tensor) -> Tensor:
    return GAMMA_0 + D_GAMMA * t


def alpha_sigma(t: Tensor) -> tuple[Tensor, Tensor]:
    return torch.sigmoid(-gamma(t)).sqrt(), torch.sigmoid(gamma(t)).sqrt()


# -------------------------------------------------------------------------------------------------- 2. the two networks


class Network(nn.Module):
    """A small network of a point, and of its time if one is given."""

    def __init__(self, outputs: int, timed: bool) -> None:
        super().__init__()
        first, last = nn.Linear(7 * (2 + timed), 128), nn.Linear(128, outputs)
        self.layers = nn.Sequential(first, nn.SiLU(), nn.Linear(128, 128), nn.SiLU(), last)

    def forward(self, z: Tensor, t: Tensor | None = None) -> Tensor:
        inputs = z if t is None else torch.cat([z, t.view(-1, 1)], dim=1)
        waves = torch.cat([k * math.pi / 2 * inputs for k in (1, 2, 4)], dim=1)  # without them it learns no fine detail
        return self.layers(torch.cat([inputs, waves.sin(), waves.cos()], dim=1))


class NDM(nn.Module):
    """The forward process by the network h, and the reverse process by the network v."""

    def __init__(self, powers: int = 2) -> None:
        super().__init__()
        self.powers = powers
        self.h, self.v = Network(2 * powers, timed=False), Network(2, timed=True)
        nn.init.zeros_(self.h.layers[-1].weight)  # F starts as the identity, which is conventional diffusion
        nn.init.zeros_(self.h.layers[-1].bias)

    # ----------------------------------------------------------------------------------------------- 3. the transform F
    #     F(x, t)     = x + sum_k  t^k h_k(x),            so that F(x, 0) = x,
    #     dF/dt(x, t) =     sum_k  k t^(k-1) h_k(x).
    #
    # One evaluation of the network gives the whole curve. The paper takes F(x, t) = (1 - t) x + t f(x, t) instead. Its
    # derivative is a forward-mode product: torch.func.jvp(lambda t: F(x, t), (t,), (torch.ones_like(t),)).
    def F(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """F(x, t) and dF/dt(x, t)."""
        value, slope = x, torch.zeros_like(x)
        for k, h_k in enumerate(self.h(x).chunk(self.powers, dim=1), start=1):
            value = value + t**k * h_k
            slope = slope + k * t ** (k - 1) * h_k
        return value, slope

    # ------------------------------------------------------------------------------------------- 4. the forward process
    # By (1), z_t given x is a Gaussian with mean m_t = alpha_t F(x, t) and standard deviation sigma_t.
    def mean(self, x: Tensor, t: Tensor) -> Tensor:
        return alpha_sigma(t)[0] * self.F(x, t)[0]

    def add_noise(self, x: Tensor, t: Tensor, eps: Tensor) -> Tensor:
        return self.mean(x, t) + alpha_sigma(t)[1] * eps

    # The step back from z_t to z_s, for s < t and x known, is a Gaussian, too. With rho^2 = e^(gamma_s - gamma_t):
    #
    #     q(z_s | z_t, x) = N( m_s + rho (sigma_s / sigma_t) (z_t - m_t),  sigma_s^2 (1 - rho^2) I ).            (2)
    #
    # It keeps a part of the noise that is in z_t and draws the rest anew.
    def posterior(self, z_t: Tensor, x: Tensor, s: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """The mean and the standard deviation of q(z_s | z_t, x)."""
        sigma_s, sigma_t = alpha_sigma(s)[1], alpha_sigma(t)[1]
        rho = ((gamma(s) - gamma(t)) / 2).exp()
        mean = self.mean(x, s) + rho * sigma_s / sigma_t * (z_t - self.mean(x, t))
        return mean, sigma_s * (-torch.expm1(gamma(s) - gamma(t))).sqrt()  # expm1 is exact also for tiny steps

    # In continuous time, the marginals (1) are those of an ordinary differential equation, dz = u dt, and of a
    # stochastic one that runs from t = 1 to 0, dz = b dt + g dw, with g^2 = sigma^2 gamma':
    #
    #     u = m' + (sigma' / sigma) (z - m)      the velocity, where m' = alpha' F + alpha dF/dt,
    #     b = u - g^2/2 (m - z) / sigma^2        the drift, where (m - z) / sigma^2 is the score of q(z_t | x).
    def velocity(self, z: Tensor, x: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = alpha_sigma(t)
        value, slope = self.F(x, t)
        d_mean = -(sigma**2) * D_GAMMA * alpha / 2 * value + alpha * slope
        return d_mean + alpha**2 * D_GAMMA / 2 * (z - alpha * value)  # sigma' / sigma = alpha^2 gamma' / 2

    def drift(self, z: Tensor, x: Tensor, t: Tensor) -> Tensor:
        return self.velocity(z, x, t) - D_GAMMA / 2 * (self.mean(x, t) - z)  # sigma^2 cancels: g^2 / sigma^2 = gamma'

    # ------------------------------------------------------------------------------------------- 5. the reverse process
    # Sampling does not know x. A network predicts it from z_t, and the prediction takes the place of x:
    #
    #     p(z_s | z_t) = q(z_s | z_t, x_hat(z_t, t)),        x_hat = alpha_t z_t - sigma_t v(z_t, t).             (3)
    def x_hat(self, z: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = alpha_sigma(t)
        return alpha * z - sigma * self.v(z, t)

    # ----------------------------------------------------------------------------------------------------- 6. the bound
    # -log p(x) is at most the sum of three terms, in nats. Each function returns one number for each point, (B,).
    #
    # The prior: KL(N(m_1, sigma_1^2 I) || N(0, I)), how far z_1 is from plain noise.
    def prior(self, x: Tensor) -> Tensor:
        one = torch.ones_like(x[:, :1])
        variance = alpha_sigma(one)[1] ** 2
        return ((self.mean(x, one) ** 2 + variance - 1 - variance.log()) / 2).sum(1)

    # The diffusion in T steps: T times KL(q(z_s | z_t, x) || p(z_s | z_t)) for a random step from t to s = t - 1/T.
    # The two Gaussians have the same variance, so only the distance of their means counts.
    def diffusion_in_steps(self, x: Tensor, t: Tensor, eps: Tensor, steps: int) -> Tensor:
        z_t, s = self.add_noise(x, t, eps), (t - 1 / steps).clamp(min=0)
        mean_q, std = self.posterior(z_t, x, s, t)
        mean_p, _ = self.posterior(z_t, self.x_hat(z_t, t), s, t)
        return steps * (((mean_q - mean_p) / std) ** 2).sum(1) / 2

    # The same as T grows without limit, at a random time t: ||b_q - b_p||^2 / (2 g^2).
    def diffusion(self, x: Tensor, t: Tensor, eps: Tensor) -> Tensor:
        z_t = self.add_noise(x, t, eps)
        g = alpha_sigma(t)[1] * math.sqrt(D_GAMMA)
        return (((self.drift(z_t, x, t) - self.drift(z_t, self.x_hat(z_t, t), t)) / g) ** 2).sum(1) / 2

    # The reconstruction: x is read off z_0 = alpha_0 x + sigma_0 eps by p(x | z_0) = N(z_0 / alpha_0, e^(gamma_0) I).
    # (x - z_0 / alpha_0)^2 is e^(gamma_0) eps^2, so the mean of -log p(x | z_0) over eps is the same for every x.
    def reconstruction(self, x: Tensor) -> Tensor:
        return torch.full_like(x, (math.log(2 * math.pi) + GAMMA_0 + 1) / 2).sum(1)

    def bound(self, x: Tensor) -> Tensor:
        # One time for each point. Together they cover [0, 1] evenly, which makes the mean less noisy.
        t = (torch.rand(1, 1) + torch.arange(len(x)).view(-1, 1) / len(x)) % 1
        return self.prior(x) + self.diffusion(x, t, torch.randn_like(x)) + self.reconstruction(x)

    # -------------------------------------------------------------------------------------------------- 7. the samplers

    def ancestral_step(self, z_t: Tensor, s: Tensor, t: Tensor, eps: Tensor) -> Tensor:
        """A draw from p(z_s | z_t), by (3)."""
        mean, std = self.posterior(z_t, self.x_hat(z_t, t), s, t)
        return mean + std * eps

    def ode_step(self, z: Tensor, s: Tensor, t: Tensor) -> Tensor:
        """A step of Heun's method from t back to s along dz = u dt, with x_hat in the place of x."""
        first = self.velocity(z, self.x_hat(z, t), t)
        there = z + (s - t) * first
        return z + (s - t) * (first + self.velocity(there, self.x_hat(there, s), s)) / 2

    @torch.no_grad()
    def sample(self, count: int, steps: int, ode: bool = False) -> Tensor:
        """Start from noise, take the steps, and read x off z_0."""
        z = torch.randn(count, 2)
        for i in range(steps, 0, -1):
            t, s = torch.full((count, 1), i / steps), torch.full((count, 1), (i - 1) / steps)
            z = self.ode_step(z, s, t) if ode else self.ancestral_step(z, s, t, torch.randn_like(z))
        return z / alpha_sigma(torch.zeros(count, 1))[0] + math.exp(GAMMA_0 / 2) * torch.randn_like(z)


# ---------------------------------------------------------------------------------------------------------- 8. the data
# Eight Gaussians on a circle. Their density is known, so the bound can be compared with the lowest possible value.

CENTRES = 1.3 * torch.tensor([[math.cos(k * math.pi / 4), math.sin(k * math.pi / 4)] for k in range(8)])
STD = 0.2


def draw_data(count: int) -> Tensor:
    return CENTRES[torch.randint(8, (count,))] + STD * torch.randn(count, 2)


def log_density(x: Tensor) -> Tensor:
    squares = ((x[:, None] - CENTRES) ** 2).sum(2) / STD**2
    return torch.logsumexp(-squares / 2, dim=1) - math.log(8 * 2 * math.pi * STD**2)


# ------------------------------------------------------------------------------------------------------ 9. the training


def train(model: NDM, steps: int, batch: int = 256) -> None:
    """The bound is the loss. Its gradient teaches both networks: F to bend the paths, and v to predict x."""
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 5e-3, total_steps=steps)
    for step in range(1, steps + 1):
        loss = model.bound(draw_data(batch)).mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)  # a gradient with an unlucky t may be large
        optimizer.step()
        schedule.step()
        if step % max(1, steps // 10) == 0:
            print(f"step {step:5d} of {steps}: the bound on a batch (noisy) is {loss.item():.3f} nats")


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Train and sample a neural diffusion model of points in the plane.")
    parser.add_argument("--steps", type=int, default=4000, help="number of training steps")
    parser.add_argument("--seed", type=int, default=0, help="seed of all random draws")
    parser.add_argument("--out", default=None, help="a .png file for a picture of data, samples and F")
    args = parser.parse_args(arguments)
    torch.manual_seed(args.seed)
    model = NDM()
    train(model, args.steps)
    held_out = draw_data(100_000)
    with torch.no_grad():
        bound, entropy = model.bound(held_out), -log_density(held_out)
    error = (bound - entropy).std() / len(bound) ** 0.5
    print(f"held-out points: bound {bound.mean():.3f} nats, entropy {entropy.mean():.3f} nats")
    print(f"the bound is {(bound - entropy).mean():.3f} nats above the entropy (standard error {error:.3f})")
    if args.out is not None:
        draw(model, held_out[:2000], args.out)


@torch.no_grad()
def draw(model: NDM, x: Tensor, out: str) -> None:
    import matplotlib.pyplot as plt

    _, axes = plt.subplots(1, 4, figsize=(14, 3.8), sharex=True, sharey=True, subplot_kw={"aspect": "equal"})
    panels = {"data": x, "ancestral, 100 steps": model.sample(2000, 100), "ODE, 50 steps": model.sample(2000, 50, True)}
    for axis, (title, points) in zip(axes, panels.items(), strict=False):
        axis.scatter(*points.T, s=2)
        axis.set_title(title)
    paths = torch.stack([model.F(x[:200], torch.full((200, 1), i / 20))[0] for i in range(21)])
    axes[3].plot(*paths.permute(2, 0, 1), linewidth=1)
    axes[3].set_title("F(x, t) of 200 points, t from 0 to 1")
    plt.savefig(out, dpi=120)


if __name__ == "__main__":
    main()
