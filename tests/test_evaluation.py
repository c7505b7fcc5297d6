"""Evaluation: the reported numbers are the means and standard errors of what the library computes."""

import math

import pytest
import torch

import ndm
from ndm.demo import headline
from ndm.evaluation import Estimate, evaluate_bound, evaluate_ode


def model():
    net = ndm.nn.MLP((3,), width=8, depth=1)
    for p in net.parameters():
        torch.nn.init.normal_(p, std=0.3)
    process = ndm.ForwardProcess(ndm.LinearSchedule(-4.0, 5.0))
    return ndm.NDM(process, ndm.Predictor(net), ndm.CategoricalDecoder(5)).eval()


@pytest.mark.parametrize("steps", [5, None])
def test_bound_is_the_mean_of_its_passes(steps):
    m, x = model(), torch.randint(5, (6, 3))
    generator = torch.Generator().manual_seed(2)
    passes = [ndm.bound(m, x, steps, generator=generator) for _ in range(3)]
    rows = torch.stack([b.total for b in passes]).mean(0) / (3 * math.log(2))
    e = evaluate_bound(m, x, steps, passes=3, seed=2)
    assert e.bpd == pytest.approx(rows.mean().item())
    assert e.standard_error == pytest.approx(rows.std().item() / 6**0.5)
    prior = torch.stack([b.prior for b in passes]).mean().item() / (3 * math.log(2))
    assert (e.prior, e.rows, e.samples) == (pytest.approx(prior), 6, 3)
    assert e.bpd == pytest.approx(e.prior + e.diffusion + e.reconstruction)
    assert e.estimator == ("bound, continuous time" if steps is None else "bound, T=5")


def test_ode_is_log_prob_with_its_samples_and_tolerances():
    m, x = model(), torch.randint(5, (6, 3))
    e = evaluate_ode(m, x, samples=4, rtol=1e-2, atol=1e-3, seed=2)
    generator = torch.Generator().manual_seed(2)
    nats = -ndm.log_prob(m, x, samples=4, rtol=1e-2, atol=1e-3, generator=generator)
    assert e.nats == pytest.approx(nats.mean().item(), rel=1e-12)
    assert e.bpd == pytest.approx(ndm.bits_per_dim(nats, x).mean().item(), rel=1e-12)
    assert "4 importance samples" in e.estimator and "rtol 0.01" in e.estimator


def test_the_headline_says_who_is_better():
    def estimates(bpd):
        return [Estimate("bound", bpd, 0.01, 0.0, None, None, None, 10, 1, 0, 0.0)] * 3

    assert "0.100 better, beyond" in headline({"conventional": estimates(2.3), "NDM": estimates(2.2)})
    assert "0.010 worse, within" in headline({"conventional": estimates(2.3), "NDM": estimates(2.31)})
