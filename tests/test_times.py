"""Times: even coverage, and importance sampling that stays unbiased."""

import torch

import ndm


def test_low_discrepancy_times_put_one_in_each_slot_and_are_uniform_per_row(generator):
    times = ndm.LowDiscrepancyTimes()
    draws = torch.stack([times(torch.zeros(16, 1), generator)[0] for _ in range(2000)])
    assert (draws.mul(16).floor().sort(1).values == torch.arange(16)).all()
    # Each row alone is uniform: mean 1/2 and variance 1/12, n = 2000.
    assert ((draws.mean(0) - 0.5).abs() < 4 * (1 / 12 / 2000) ** 0.5).all()
    assert ((draws.var(0) - 1 / 12).abs() < 4 * (1 / 180 / 2000) ** 0.5).all()


def peaked(t):
    return torch.exp(-30 * t) * 30 + 0.1


def test_importance_times_are_unbiased_and_reduce_the_variance(generator):
    times = ndm.ImportanceTimes()
    x = torch.zeros(64, 1)
    for _ in range(500):
        t, _ = times(x, generator)
        times.observe(t, peaked(t))
        times.update()
    times.eval()
    before = times.second_moment.clone()
    n, estimates, plain = 400, [], []
    for _ in range(n):
        t, weight = times(torch.zeros(4, 1), generator)
        times.observe(t, peaked(t))
        times.update()
        estimates.append((weight * peaked(t)).mean())
        plain.append(peaked(ndm.LowDiscrepancyTimes()(torch.zeros(4, 1), generator)[0]).mean())
    assert torch.equal(times.second_moment, before)  # it learns in training mode only
    estimates, plain = torch.stack(estimates), torch.stack(plain)
    truth = 1 - torch.exp(torch.tensor(-30.0)) + 0.1
    assert abs(estimates.mean() - truth) < 4 * estimates.std() / n**0.5
    assert estimates.std() < plain.std() / 3


def test_importance_density_is_the_root_of_the_averaged_square():
    times = ndm.ImportanceTimes(bins=2, decay=0.5, uniform=0.1)
    times.observe(torch.tensor([0.1]), torch.tensor([1.0]))  # two observations, one update
    times.observe(torch.tensor([0.2, 0.8]), torch.tensor([3.0, 0.0]))
    assert torch.equal(times.second_moment, torch.ones(2))
    times.update()
    times.update()  # of nothing
    torch.testing.assert_close(times.second_moment, torch.tensor([0.5 + 0.5 * 5.0, 0.5]))
    root = torch.tensor([3.0, 0.5]).sqrt()
    torch.testing.assert_close(times.density(), 0.9 * root / root.mean() + 0.1)


def test_importance_weights_integrate_to_one(generator):
    times = ndm.ImportanceTimes(bins=8)
    times.seen.fill_(True)
    times.second_moment.copy_(torch.rand(8, generator=generator) + 0.01)
    n = 100_000
    t, weight = times(torch.zeros(n, 1), generator)
    assert ((t >= 0) & (t < 1)).all()
    # E_p[w 1(bin)] is the length of the bin.
    lengths = torch.zeros(8).index_add_(0, (t * 8).long(), weight) / n
    torch.testing.assert_close(lengths, torch.full((8,), 1 / 8), rtol=1e-3, atol=0)


def test_times_are_uniform_until_every_bin_has_been_seen(generator):
    times = ndm.ImportanceTimes(bins=4)
    for start in range(4):
        _, weight = times(torch.zeros(5, 1), generator)
        assert torch.equal(weight, torch.ones(5))
        times.observe(torch.tensor([start / 4 + 0.1]), torch.tensor([100.0 * (start + 1)]))
        times.update()
    assert not torch.equal(times(torch.zeros(5, 1), generator)[1], torch.ones(5))
