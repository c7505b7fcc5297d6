"""Gaussians against torch.distributions."""

import torch
from torch.distributions import Independent, Normal, kl_divergence

import ndm


def test_log_prob_and_kl_match_torch_distributions():
    p = ndm.Gaussian(torch.randn(4, 3), torch.rand(4, 3) + 0.1)
    q = ndm.Gaussian(torch.randn(4, 3), torch.rand(4, 1) + 0.1)
    z = torch.randn(4, 3)
    reference = [Independent(Normal(g.mean, g.std.expand(4, 3)), 1) for g in (p, q)]
    torch.testing.assert_close(p.log_prob(z), reference[0].log_prob(z))
    torch.testing.assert_close(q.log_prob(z), reference[1].log_prob(z))
    torch.testing.assert_close(q.kl(p), kl_divergence(reference[1], reference[0]))
    torch.testing.assert_close(p.kl(q), kl_divergence(reference[0], reference[1]))


def test_kl_keeps_its_precision_when_it_is_tiny():
    """Equal variances and a step of 1e-5: over thousands of steps, rounding the KL to 0 would be a visible error."""
    std = torch.full((1, 2), 0.3, dtype=torch.float32)
    mean = torch.zeros(1, 2, dtype=torch.float32)
    kl = ndm.Gaussian(mean, std).kl(ndm.Gaussian(mean + 1e-5, std))
    torch.testing.assert_close(kl, torch.tensor([2 * (1e-5 / 0.3) ** 2 / 2], dtype=torch.float32), rtol=1e-5, atol=0)


def test_sample_has_the_mean_and_std(generator):
    n = 200_000
    draws = ndm.Gaussian(torch.full((n, 1), 2.0), torch.full((n, 1), 0.5)).sample(generator)
    assert abs(draws.mean() - 2.0) < 4 * 0.5 / n**0.5
    assert abs(draws.std() - 0.5) < 4 * 0.5 / (2 * n) ** 0.5
