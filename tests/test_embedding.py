"""Symbols that move in time: the curve, its derivative, the likelihood of every symbol."""

import itertools

import pytest
import torch
from torch.distributions import Normal
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

import ndm

LEVELS = (3, 2, 5)


@pytest.fixture
def embedding():
    torch.manual_seed(0)
    embedding = ndm.Embedding(LEVELS, dim=2, num_basis=2, numbers=1).double()
    torch.nn.init.normal_(embedding.moves)
    return embedding


def rows(count=4):
    """Numbers and one-hot symbols, and the codes of the symbols."""
    generator = torch.Generator().manual_seed(1)
    codes = torch.stack([torch.randint(v, (count,), generator=generator) for v in LEVELS], 1)
    numbers = torch.randn(count, 1, generator=generator, dtype=torch.float64)
    hot = [functional.one_hot(codes[:, i], v).double() for i, v in enumerate(LEVELS)]
    return torch.cat([numbers, *hot], 1), numbers, codes


def test_a_symbol_is_at_its_own_point_at_every_time(embedding):
    x, numbers, codes = rows()
    t = torch.tensor([0.0, 0.2, 0.7, 1.0], dtype=torch.float64)
    value = embedding(x)(t)
    assert torch.equal(value[:, :1], numbers)
    starts = [0, *itertools.accumulate(LEVELS)]
    for b, (i, _) in itertools.product(range(4), enumerate(LEVELS)):
        k = starts[i] + codes[b, i]
        point = embedding.points()[k] + t[b] * embedding.moves[0, k] + t[b] ** 2 * embedding.moves[1, k]
        torch.testing.assert_close(value[b, 1 + 2 * i :][:2], point)
        torch.testing.assert_close(embedding.points_at(t)[b, k], point)


def test_the_derivative_is_that_of_finite_differences(embedding):
    curve, t, h = embedding(rows()[0]), torch.full((4,), 0.4, dtype=torch.float64), 1e-6
    numeric = (curve(t + h) - curve(t - h)) / (2 * h)
    torch.testing.assert_close(curve.with_derivative(t)[1], numeric, rtol=1e-7, atol=1e-7)


def test_probabilities_give_the_expected_curve(embedding):
    x, _, _ = rows(8)
    t = torch.full((1,), 0.3, dtype=torch.float64)
    mean = embedding(x.mean(0, keepdim=True))(t)
    torch.testing.assert_close(mean, embedding(x)(t.expand(8)).mean(0, keepdim=True))


def test_points_have_mean_zero_and_root_mean_square_one(embedding):
    for part in embedding.points().split(LEVELS):
        assert part.mean(0).abs().max() < 1e-12
        assert part.square().mean().item() == pytest.approx(1.0)


@pytest.mark.parametrize("tied_to", ["time", "noise"])
def test_log_likelihoods_are_those_of_normal_distributions(embedding, tied_to):
    process = ndm.ForwardProcess(ndm.LinearSchedule(-4.0, 3.0), embedding, tied_to=tied_to)
    z = torch.randn(4, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    t = torch.tensor([0.0, 0.1, 0.6, 1.0], dtype=torch.float64)
    found = embedding.log_likelihoods(z, t, process)
    noise, start = process.schedule(t), 0
    for i, count in enumerate(LEVELS):
        expected = torch.empty(4, count, dtype=torch.float64)
        for k in range(count):
            hot = torch.zeros(4, 1 + sum(LEVELS), dtype=torch.float64)
            hot[:, 1 + start + k] = 1
            mean = process(hot).marginal(t).mean[:, 1 + 2 * i :][:, :2]
            expected[:, k] = Normal(mean, noise.sigma[:, None]).log_prob(z[:, 1 + 2 * i :][:, :2]).sum(1)
        own = found[:, start : start + count]
        torch.testing.assert_close(own.log_softmax(1), expected.log_softmax(1))
        start += count


def test_float32_tells_near_symbols_of_one_alphabet_apart_where_there_is_little_noise(float32):
    """The terms of the expanded square are here ten thousand times the differences that decide."""
    torch.manual_seed(0)
    embedding = ndm.Embedding([50], dim=8, num_basis=1)
    torch.nn.init.normal_(embedding.moves)
    with torch.no_grad():  # 25 pairs, two noises apart
        embedding.start[25:] = embedding.start[:25] + 0.005 * torch.randn(25, 8)
        embedding.moves[:, 25:] = embedding.moves[:, :25]
    process, t = ndm.ForwardProcess(ndm.LinearSchedule(-10.0, 5.0), embedding), torch.tensor([0.0, 0.1, 0.2])
    noise = process.schedule(t)
    points = embedding.points_at(t)
    z = noise.alpha[:, None, None] * points[:, :7].mT + noise.sigma[:, None, None] * torch.randn(3, 8, 7)
    found = embedding.log_likelihoods(z, t, process)
    assert found.dtype == torch.float32 and found.shape == (3, 50, 7)
    alpha, sigma = (a.double()[:, None, None] for a in (noise.alpha, noise.sigma))
    expected = -(torch.cdist(points.double(), z.double().mT / alpha) * alpha / sigma).square() / 2
    torch.testing.assert_close(found.log_softmax(1).double(), expected.log_softmax(1), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("places", [(), (7,), (2, 3)])
def test_both_ways_to_the_likelihoods_of_one_alphabet_agree(places):
    """The one without float64 serves on MPS."""
    torch.manual_seed(0)
    embedding = ndm.Embedding([5], dim=3, num_basis=1).double()
    process, t = ndm.ForwardProcess(ndm.LinearSchedule(-4.0, 3.0), embedding), torch.rand(4, dtype=torch.float64)
    z, noise = torch.randn(4, 3, *places, dtype=torch.float64), process.schedule(t)
    centres = noise.alpha[:, None, None] * embedding.points_at(t)
    ways = [way(z, centres, noise.sigma) for way in (embedding.by_products, embedding.by_differences)]
    assert ways[0].shape == (4, 5, *places)
    torch.testing.assert_close(ways[0].log_softmax(1), ways[1].log_softmax(1))


class Largest(TorchDispatchMode):
    """The number of elements of the largest tensor that is made."""

    elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        found = function(*args, **(kwargs or {}))
        for tensor in found if isinstance(found, (tuple, list)) else [found]:
            if isinstance(tensor, torch.Tensor):
                self.elements = max(self.elements, tensor.numel())
        return found


def test_no_tensor_of_a_training_step_has_all_symbols_dimensions_and_places():
    """Of 50,000 symbols such a tensor would be sixteen times as large as their probabilities."""
    symbols, dim, places, rows = 300, 16, 20, 5
    process = ndm.ForwardProcess(ndm.LinearSchedule(-7.0, 5.0), ndm.Embedding([symbols], dim=dim))
    predictor = ndm.SymbolPredictor(ndm.nn.Conv1d((dim, places), outputs=symbols, width=8, depth=1), symbols)
    model = ndm.NDM(process, predictor, ndm.SymbolDecoder(symbols), shape=(places,))
    with Largest() as largest:
        ndm.bound(model, torch.randint(symbols, (rows, places))).total.mean().backward()
    assert rows * symbols * places <= largest.elements <= 2 * rows * symbols * places


def test_symbols_of_a_sequence_have_one_alphabet():
    """Text: (B, V, L) becomes (B, d, L), each position by itself."""
    torch.manual_seed(0)
    embedding = ndm.Embedding([5], dim=3, num_basis=1)
    codes = torch.randint(5, (2, 7))
    hot = functional.one_hot(codes, 5).movedim(-1, 1).float()
    value = embedding(hot)(torch.zeros(2))
    assert value.shape == (2, *embedding.latent_shape((5, 7)))
    torch.testing.assert_close(value, embedding.points()[codes].movedim(-1, 1))


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"levels": []}, "at least one alphabet"),
        ({"levels": [1]}, "levels"),
        ({"levels": [2], "dim": 0}, "dim"),
        ({"levels": [2], "num_basis": -1}, "num_basis"),
    ],
)
def test_alphabets_that_cannot_be_are_refused(arguments, match):
    with pytest.raises(ndm.InputError, match=match):
        ndm.Embedding(**arguments)


def test_an_input_of_another_size_is_refused(embedding):
    with pytest.raises(ndm.InputError, match="shape"):
        embedding(torch.zeros(2, 10, dtype=torch.float64))
