"""The study of embeddings of symbols: its rivals by brute force, its protocol on small made data."""

import itertools
import math
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from ndm import InputError

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "benchmarks"))

import discrete
from discrete_fit import Rows, evaluated, split_text, trained
from discrete_models import EMBEDDINGS, METHODS, applies, fit_of, has_dim
from discrete_rivals import LEVELS, Autoregressive, Masked, Uniform, cheapest
from discrete_samples import drawn, measures

pytestmark = pytest.mark.usefixtures("float32")


class Knows(torch.nn.Module):
    """The logits of two symbols of three values by a table of the joint probabilities, from what is shown of them."""

    def __init__(self, joint):
        super().__init__()
        self.joint = joint

    def forward(self, shown, t):
        first, second = shown.split([4, 4], 1)
        known = [torch.where(part[:, 3:] > 0, 1.0, part[:, :3]) for part in (first, second)]
        weights = known[0][:, :, None] * known[1][:, None] * self.joint
        return torch.cat([weights.sum(2), weights.sum(1)], 1).clamp(min=1e-30).log()


class KnowsReplaced(torch.nn.Module):
    """The logits of two symbols of three values, each from the other one, which stays with probability 1 - t."""

    def __init__(self, joint):
        super().__init__()
        self.joint = joint

    def forward(self, shown, t):
        first, second = ((1 - t[:, None]) * part + t[:, None] / 3 for part in shown.split([3, 3], 1))
        return torch.cat([second @ self.joint.T, first @ self.joint], 1).log()


@pytest.mark.parametrize(("kind", "net", "bias"), [(Masked, Knows, 1e-3), (Uniform, KnowsReplaced, 2e-3)])
def test_the_bound_of_a_network_that_knows_the_distribution(kind, net, bias):
    """It is the entropy, to four standard errors of 200 passes and the error of finitely many steps."""
    torch.manual_seed(0)
    joint = torch.rand(3, 3).square()
    joint = joint / joint.sum()
    rows = torch.tensor(list(itertools.product(range(3), range(3))))
    fit = kind(Rows((3, 3)), rows)
    fit.net, fit.bias = net(joint), torch.nn.Parameter(torch.zeros(6))
    batch = rows[torch.multinomial(joint.flatten(), 4000, replacement=True, generator=torch.Generator().manual_seed(1))]
    nats = -joint[batch[:, 0], batch[:, 1]].log()
    found = torch.stack([fit.nats(batch, None, torch.Generator().manual_seed(k)).detach() for k in range(200)]).mean(0)
    difference = found - nats
    assert abs(difference.mean()) < 4 * difference.std() / len(batch) ** 0.5 + bias
    # With one step nothing is known, and each symbol costs what its own distribution says.
    alone = -(joint.sum(1)[batch[:, 0]].log() + joint.sum(0)[batch[:, 1]].log())
    torch.testing.assert_close(fit.nats(batch, 1, torch.Generator().manual_seed(0)).detach(), alone)


def given_other(joint, first, second):
    """The logits of both places of a text, each from what is known of the other one, ``(B, 3)``."""
    return torch.stack([second @ joint.T, first @ joint], 2).clamp(min=1e-30).log()


@pytest.mark.parametrize("method", ["masked-T2", "uniform-T2"])
def test_samples_are_drawn_between_the_ends_that_were_chosen(method):
    """A network that says when it was asked: at t = 1, and at the end of the first step."""
    fit, asked = fit_of(method, Rows((3,), 2), torch.zeros(2, 2, dtype=torch.long), 0), []
    fit.ends.copy_(torch.tensor([0.0, 0.3, 1.0]))
    logits = fit.logits
    fit.logits = lambda *read: asked.append(read[-1][0].item()) or logits(*read)
    drawn(fit, 5, 2, 2, torch.Generator().manual_seed(0))
    assert asked == pytest.approx([1.0, 0.3])


@pytest.mark.parametrize("method", ["masked", "uniform", "autoregressive"])
def test_samples_have_the_distribution_that_the_network_knows(method):
    """Four standard errors of 20,000 draws, and the share of draws in which a step of 60 decides both places."""
    torch.manual_seed(0)
    joint = torch.rand(3, 3)
    joint = joint / joint.sum()
    fit = fit_of(method, Rows((3,), 2), torch.zeros(2, 2, dtype=torch.long), 0)
    if method == "masked":
        fit.logits = lambda x, gone, t: given_other(joint, *(
            torch.where(gone[:, i, None], 1.0, torch.eye(3)[x[:, i]]) for i in (0, 1)
        ))  # fmt: skip
    elif method == "uniform":
        fit.logits = lambda z, t: given_other(joint, *(
            (1 - t[:, None]) * torch.eye(3)[z[:, i]] + t[:, None] / 3 for i in (0, 1)
        ))  # fmt: skip
    else:
        fit.logits = lambda x: torch.stack([joint.sum(1).log().expand(len(x), 3), joint[x[:, 0]].log()], 2)
    codes = drawn(fit, 20_000, 2, 60, torch.Generator().manual_seed(0))
    found = torch.bincount(3 * codes[:, 0] + codes[:, 1], minlength=9).view(3, 3) / len(codes)
    assert (found - joint).abs().max() < 4 * 0.5 / 20_000**0.5 + 0.01 * (method != "autoregressive")


def test_words_that_a_window_cuts_do_not_count():
    codes, alphabet = discrete.text_codes("he cat sat onhe cat sat on")
    found = measures(codes.view(2, 13), alphabet, {"cat", "on"})
    assert found["words"] == 0.5 and found["different"] == 0.5


def test_the_masked_network_does_not_see_what_is_masked():
    for rows, x in ((Rows((5,), 8), torch.randint(5, (6, 8))), (Rows((3, 4)), torch.tensor([[0, 1], [2, 3]]))):
        fit = fit_of("masked", rows, x, 0).eval()
        for parameter in fit.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
        gone = torch.zeros_like(x, dtype=torch.bool)
        gone[:, 1] = True
        other = x.clone()
        other[:, 1] = (x[:, 1] + 1) % 3
        costs = [fit.costs(codes, gone, torch.full((len(x),), 0.5)) for codes in (x, other)]
        assert torch.equal(costs[0][:, 0], costs[1][:, 0]) and not torch.equal(costs[0][:, 1], costs[1][:, 1])


def test_the_lstm_does_not_see_the_symbol_that_it_predicts_or_later_ones():
    """Then the probabilities of all sequences add up to one."""
    torch.manual_seed(0)
    fit, rows = Autoregressive(Rows((5,), 3)), torch.tensor(list(itertools.product(range(5), repeat=3)))
    assert float((-fit.nats(rows, None, torch.Generator()).detach()).exp().sum()) == pytest.approx(1, abs=1e-5)


def test_untrained_models_cost_the_frequencies():
    """These are nearly uniform here, and the weights of the LSTM are small: 3 % of log V, or four standard errors."""
    rows = Rows((6,), 8)
    x = torch.randint(6, (300, 8), generator=torch.Generator().manual_seed(0))
    for method in METHODS:
        if applies(method, rows):
            fit = fit_of(method, rows, x, 4)
            found, error = evaluated(fit, x, fit.steps, 4)
            assert abs(found - 8 * math.log(6)) < max(0.03 * found, 4 * error), method


@pytest.mark.parametrize("method", ["moving", "masked", "uniform"])
def test_times_that_were_learned_leave_the_bound_as_it_is(method):
    """The draws differ: four standard errors. With weights of one it would be off by more."""
    torch.manual_seed(0)
    rows = Rows((6, 6))
    x = torch.randint(6, (3000, 2), generator=torch.Generator().manual_seed(0))
    fit = fit_of(method, rows, x, 4)
    if method == "masked":  # whose cost would be the same at all times
        fit.costs = lambda x, gone, t: t[:, None].expand(x.shape)
    bounds = [evaluated(fit, x, None, 16)]
    fit.times.second_moment.copy_(torch.linspace(1, 4, 64) ** 2)
    fit.times.seen.fill_(True)
    bounds.append(evaluated(fit, x, None, 16))
    (first, error), (second, other) = bounds
    assert abs(first - second) < 4 * (error**2 + other**2) ** 0.5 < 0.15 * first
    assert first != second


def test_the_cheapest_path_is_that_of_brute_force():
    costs = torch.rand(7, 7, generator=torch.Generator().manual_seed(0)).triu(1)
    costs[costs == 0] = torch.inf
    for steps in (1, 2, 4, 6):
        paths = [(0, *inner, 6) for inner in itertools.combinations(range(1, 6), steps - 1)]
        price = {path: sum(float(costs[pair]) for pair in itertools.pairwise(path)) for path in paths}
        assert tuple(cheapest(costs, steps)) == min(price, key=price.get)


@pytest.mark.parametrize("method", ["masked-T3", "uniform-T3"])
def test_models_of_few_steps_choose_the_ends_with_the_least_bound(method):
    """Of steps with known costs, and by brute force."""
    x = torch.zeros(48, 2, dtype=torch.long)
    fit = fit_of(method, Rows((4, 4)), x, 0)
    fit.step_nats = lambda x, s, t, generator: (t - s) * t**3
    levels = torch.arange(LEVELS + 1) / LEVELS
    paths = [torch.stack([levels[0], *inner, levels[-1]]) for inner in itertools.combinations(levels[1:-1], 2)]
    price = [float((path.diff() * path[1:] ** 3).sum()) for path in paths]
    equal = fit.nats(x, 3, torch.Generator().manual_seed(0)).mean().item()
    fit.settle(x)
    assert torch.equal(fit.ends, paths[np.argmin(price)])
    chosen = fit.nats(x, 3, torch.Generator().manual_seed(0)).mean().item()
    assert chosen == pytest.approx(min(price)) and chosen < equal - 0.01
    assert torch.equal(fit.path(4), torch.linspace(0, 1, 5))


def test_training_settles_what_it_evaluates():
    """The averaged weights have the ends of the model."""
    torch.manual_seed(0)
    x = torch.randint(4, (400, 1), generator=torch.Generator().manual_seed(0)).expand(-1, 6)
    fit = fit_of("masked-T2", Rows((4,) * 6), x, 0)
    continuous, seen = fit.rate, []
    fit.rate = lambda x, t, generator: seen.append(len(x)) or t**3 * continuous(x, t, generator)
    average, curve = trained(fit, x, x[:100], 8, 64, 0, 4, 1)
    assert seen[:2] == [64, 64] and fit.settled  # in continuous time, until the ends are chosen
    assert not torch.equal(fit.ends, torch.linspace(0, 1, 3))
    assert torch.equal(average.ends, fit.ends) and len(curve) == 2
    assert curve[-1] == evaluated(average, x[:100], 2, 1)[0]


def test_points_of_few_steps_learn_the_noise_of_each_step():
    x = torch.randint(3, (64, 2), generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    fit = fit_of("moving-T4", Rows((3, 3)), x, 2)
    assert fit.steps == 4 and not fit.by_entropy
    fit.loss(x, torch.Generator().manual_seed(0)).backward()
    schedule = fit.model.process.schedule
    assert schedule.steps == 4 and (schedule.logits.grad != 0).any() and schedule.raw_end.grad != 0


def test_embeddings_differ_in_what_is_learned():
    rows = Rows((3, 4))
    x = torch.tensor([[0, 1], [2, 3]])
    fits = {method: fit_of(method, rows, x, 2).model.process.transform for method in METHODS[:5]}
    learned = {name: (e.start.requires_grad, e.num_basis) for name, e in fits.items()}
    assert learned == {
        "moving": (True, 2), "learned": (True, 0), "random": (False, 0), "one-hot": (False, 0), "ordinal": (False, 0),
    }  # fmt: skip
    distance = torch.cdist(fits["one-hot"].points()[:3], fits["one-hot"].points()[:3])
    assert distance[0, 1] == pytest.approx(float(distance[1, 2])) and distance[0, 1] > 0
    steps = fits["ordinal"].points()[3:, 0].diff()
    torch.testing.assert_close(steps, steps[:1].expand(3))


@pytest.mark.parametrize("rows", [Rows((3, 4)), Rows((7,), length=2)], ids=["table", "text"])
def test_blind_networks_read_no_beliefs(rows):
    for method in EMBEDDINGS:
        model = fit_of(method, rows, torch.tensor([[0, 1], [2, 3]]), 2).model
        assert model.predictor.net.beliefs == (0 if method.endswith("-blind") else 7)
        assert model.process.transform.num_basis == (2 if method.startswith("moving") else 0)


def test_the_levels_of_images_start_on_a_line_and_may_leave_it():
    """Before training all three give the same bound; afterwards only fixed levels are where they were."""
    rows, x = Rows((4,), image=(1, 8, 8)), torch.randint(4, (6, 1, 8, 8))
    found, starts = [], []
    for method in ("moving", "learned", "ordinal"):
        assert applies(method, rows) and not has_dim(method, rows)
        torch.manual_seed(0)
        fit = fit_of(method, rows, x, 0)
        found.append(evaluated(fit, x, None, 1)[0])
        embedding = fit.model.process.transform
        starts.append(embedding.points()[:, 0])
        fit.nats(x, None, torch.Generator()).sum().backward()
        moves = [
            parameter.grad is not None and parameter.numel() > 0 for parameter in (embedding.start, embedding.moves)
        ]
        assert moves == {"moving": [True, True], "learned": [True, False], "ordinal": [False, False]}[method]
    assert found[0] == found[1] == found[2]
    torch.testing.assert_close(starts[0], torch.tensor([-1.5, -0.5, 0.5, 1.5]) / 1.25**0.5)
    assert not applies("random", rows) and not applies("autoregressive", rows)


def test_a_text_is_split_in_order_and_letters_are_27():
    train, validation, test = split_text(torch.arange(2000), 10)
    assert train[0].tolist() == list(range(10)) and train[-1][-1] == 1799
    assert validation.flatten().tolist() == list(range(1800, 1900)) and test[-1][-1] == 1999
    assert discrete.letters_of("To be, or\nNOT 2 be!") == "to be or not be "


def test_the_study_goes_on_where_it_stopped_and_compares_at_the_best_dimension(tmp_path, monkeypatch, capsys):
    text = tmp_path / "my.txt"
    text.write_text("the cat sat on the mat and the rat sat on the cat. " * 60)
    out = tmp_path / "cells.jsonl"
    monkeypatch.setattr(discrete, "TEXT_PASSES", (1, 1, 1))
    monkeypatch.setattr(discrete, "STEPS", (2,))
    monkeypatch.setattr(discrete, "SAMPLES", 20)
    arguments = [
        "discrete.py",
        "--text",
        str(text),
        "--out",
        str(out),
        "--methods",
        "moving",
        "learned",
        "--steps",
        "2",
    ]
    monkeypatch.setattr(sys, "argv", [*arguments, "--dims", "2", "3", "--seeds", "1", "2"])
    discrete.main()
    first = capsys.readouterr()
    assert len(first.err.splitlines()) == 8
    discrete.main()
    again = capsys.readouterr()
    assert again.err == "" and again.out == first.out
    figures = r"\d\.\d{3} \(\d\.\d{3}\)"
    for method in ("moving", "learned"):  # in two steps, and of held-out windows
        assert re.search(rf"\| my \| 2 \| {method} \| 2 \| {figures} \|  \| {figures} \|", first.out)
    records = discrete.Cells(out, discrete.KEY).records.values()
    for method in ("moving", "learned"):
        tried = [r for r in records if r["method"] == method and r["seed"] == 0]
        best = min(tried, key=lambda r: min(r["validation"]))["dim"]
        assert {r["dim"] for r in records if r["method"] == method and r["seed"]} == {best}
    assert "| my" in first.out and "±" in first.out
    monkeypatch.setattr(sys, "argv", ["discrete.py", "--data", str(tmp_path), "--out", str(out)])
    with pytest.raises(InputError):
        discrete.main()


def test_the_interval_is_that_of_students_t():
    """0.1 ± 4.303 * 0.1 / sqrt(3) for three differences of mean 0.1 and deviation 0.1."""
    assert discrete.interval([0.0, 0.1, 0.2]) == f"{0.1:+.4f} ± {4.30265 * 0.1 / np.sqrt(3):.4f}"
