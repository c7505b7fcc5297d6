"""Training of symbols by the cross-entropy: each part has the gradient of its own loss, and the figure is the bound."""

import math

import pytest
import torch

import ndm
from ndm.cli import main
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


def test_numbers_learn_by_the_bound_beside_symbols():
    """The numbers' part of the network has the gradient of the bound, and the symbols' part that of the entropy."""
    torch.manual_seed(0)
    process = ndm.ForwardProcess(ndm.LinearSchedule(-6.0, 5.0), ndm.Embedding((V,), dim=2, numbers=2), tied_to="noise")
    predictor = ndm.MixedPredictor(ndm.nn.MLP((4,), width=8, depth=1, outputs=2 + V), (V,), numbers=2)
    torch.nn.init.normal_(predictor.net.head.weight, std=0.3)
    model = ndm.NDM(process, predictor, ndm.MixedDecoder(ndm.Marginals(2), (V,)), shape=(3,))
    x = torch.cat([torch.randn(16, 2), torch.randint(V, (16, 1)).float()], 1)
    (figures, both), (bound, by_bound) = (
        gradients(Loss(model, TrainingConfig(weighting=weighting)), model, x)
        for weighting in ("cross_entropy", "bound")
    )
    torch.testing.assert_close(figures, bound)
    head = "predictor.net.head.weight"
    torch.testing.assert_close(both[head][:2], by_bound[head][:2], rtol=1e-4, atol=1e-6)
    assert (both[head][2:] - by_bound[head][2:]).abs().max() > 1e-3
    for name in both:
        if not name.startswith("predictor."):
            torch.testing.assert_close(both[name], by_bound[name], rtol=1e-4, atol=1e-6)


def test_a_probability_of_zero_costs_a_finite_number_of_nats():
    prediction = ndm.Prediction(torch.tensor([[[1.0], [0.0]]]), None, None)
    found = cross_entropy(text_model(), prediction, torch.tensor([[[0.0], [1.0]]]))
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
    settings = TrainingConfig(
        steps=200, batch_size=64, learning_rate=1e-2, weighting="cross_entropy", warmup=10, ema_decay=0.9,
        evaluate_every=0,
    )  # fmt: skip
    trained = train(model, Dataset("rule", x, x, x), settings, 0, "cpu").eval()
    found = ndm.bits_per_dim(ndm.bound(trained, x, generator=torch.Generator().manual_seed(0)).total, x).mean()
    assert 0.9 < found < 1.4


def test_it_is_for_symbols():
    process = ndm.ForwardProcess(ndm.LinearSchedule(-5.0, 5.0))
    numbers = ndm.NDM(process, ndm.Predictor(ndm.nn.MLP((2,))), ndm.GaussianDecoder(), shape=(2,))
    with pytest.raises(ndm.InputError, match="cross_entropy is for models of symbols"):
        Loss(numbers, TrainingConfig(weighting="cross_entropy"))


@pytest.mark.parametrize(("name", "value"), [("weighting", "cross_entropy"), ("weighting", "flow_matching")])
def test_what_is_not_for_a_model_is_refused_before_a_run_begins(name, value, tmp_path, capsys):
    """A folder that is left behind would refuse the corrected command."""
    line = ["train", "digits", "--out", str(tmp_path / "run"), "--device", "cpu"]
    assert main([*line, f"--training.{name}", value]) == 2
    assert f"training.{name} {value} is for" in capsys.readouterr().err
    assert not list(tmp_path.rglob("*.*"))
