"""Training of symbols by the cross-entropy: each part has the gradient of its own loss, and the figure is the bound."""

import math

import pytest
import torch

import ndm
from ndm.data import Dataset
from ndm.training import TrainingConfig, train
from ndm.training.cross_entropy import cross_entropy, with_own_gradients
from ndm.training.loss import Loss

V, N = 4, 6


def text_model():
    torch.manual_seed(0)
    embedding = ndm.Embedding((V,), dim=2)
    torch.nn.init.normal_(embedding.moves, std=0.3)
    process = ndm.ForwardProcess(ndm.LinearSchedule(-6.0, 5.0), embedding, tied_to="noise")
    predictor = ndm.SymbolPredictor(ndm.nn.Conv1d((2, N), V, width=8, depth=1, beliefs=V), V)
    torch.nn.init.normal_(predictor.net.head.weight, std=0.3)
    return ndm.NDM(process, predictor, ndm.SymbolDecoder(V), shape=(N,))


def categories_model():
    torch.manual_seed(0)
    alphabets = (V, V, V)
    process = ndm.ForwardProcess(ndm.LinearSchedule(-6.0, 5.0), ndm.Embedding(alphabets, dim=2), tied_to="noise")
    predictor = ndm.nn.MLP((6,), width=8, depth=1, outputs=3 * V)
    torch.nn.init.normal_(predictor.head.weight, std=0.3)
    decoder = ndm.MixedDecoder(ndm.Marginals(0), alphabets)
    return ndm.NDM(process, ndm.MixedPredictor(predictor, alphabets), decoder, shape=(3,))


def gradients(loss, model, x, step=3):
    model.zero_grad()
    figures = loss(x, step)
    figures.sum().backward()
    return figures.detach(), {name: p.grad.clone() for name, p in model.named_parameters()}


@pytest.mark.parametrize("make", [text_model, categories_model])
@pytest.mark.parametrize("steps", [None, 5])
def test_the_predictor_has_the_gradient_of_the_cross_entropy_and_the_points_that_of_the_bound(make, steps):
    model = make()
    x = torch.randint(V, (16, *model.shape))
    figures, both = gradients(Loss(model, TrainingConfig(weighting="cross_entropy", bound_steps=steps)), model, x)
    plain = Loss(model, TrainingConfig(bound_steps=steps))
    drawn, terms = [], plain.terms
    plain.terms = lambda *args: drawn.append(args) or terms(*args)
    bound, by_bound = gradients(plain, model, x)
    torch.testing.assert_close(figures, bound)

    draws, t = drawn[0][3], drawn[0][3].t
    t = t if steps is None else (t * steps).floor().add(1) / steps
    z_t = model.process(model.encode(x)).marginal(t).at(draws.eps_t).detach()
    weights = model.predictor(z_t, t, model.process).x_hat
    places = weights.movedim(1, -1).reshape(len(x), -1, V)  # one alphabet at every place, or one for each
    entropy = -places.gather(2, x.view(len(x), -1, 1).long()).log().sum()
    model.zero_grad()
    (entropy / x.numel() / math.log(2)).backward()
    for name, p in model.named_parameters():
        expected = p.grad if name.startswith("predictor.") else by_bound[name]
        torch.testing.assert_close(both[name], expected, rtol=1e-4, atol=1e-6)
    assert any((by_bound[n] - both[n]).abs().max() > 0.01 for n in both if n.startswith("predictor."))


def test_a_probability_of_zero_costs_a_finite_number_of_nats():
    probabilities = torch.tensor([[[1.0], [0.0]]])
    found = cross_entropy(ndm.Prediction(probabilities, None, None), torch.tensor([[[0.0], [1.0]]]))
    assert torch.isfinite(found).all() and found > 80


def test_each_loss_has_its_own_parameters():
    a, b, c = (torch.nn.Parameter(torch.tensor(value)) for value in (2.0, 3.0, 5.0))
    c.requires_grad_(False)
    total = with_own_gradients([(a * b * c, [a]), (a**2 * b, [b, c])])
    total.backward()
    assert (total.item(), a.grad.item(), b.grad.item(), c.grad) == (0.0, 15.0, 4.0, None)


def test_it_learns_a_rule_of_neighbours():
    """Every second symbol repeats the one before it: 2 bits for two places."""
    x = torch.randint(V, (512, N // 2), generator=torch.Generator().manual_seed(0)).repeat_interleave(2, 1)
    model = text_model()
    settings = TrainingConfig(steps=200, batch_size=64, learning_rate=1e-2, weighting="cross_entropy", warmup=10)
    settings = TrainingConfig(**{**vars(settings), "ema_decay": 0.9, "evaluate_every": 0, "checkpoint_every": 10**6})
    trained = train(model, Dataset("rule", x, x, x), settings, 0, "cpu").eval()
    found = ndm.bits_per_dim(ndm.bound(trained, x, generator=torch.Generator().manual_seed(0)).total, x).mean()
    assert 0.9 < found < 1.4


def test_it_is_for_symbols_alone(tmp_path, capsys):
    process = ndm.ForwardProcess(ndm.LinearSchedule(-5.0, 5.0))
    numbers = ndm.NDM(process, ndm.Predictor(ndm.nn.MLP((2,))), ndm.GaussianDecoder(), shape=(2,))
    with pytest.raises(ndm.InputError, match="cross_entropy is for models of symbols alone"):
        Loss(numbers, TrainingConfig(weighting="cross_entropy"))
