"""Which columns make a row odd: the drops against closed forms, what the screen may leave out, and the pace."""

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from torch.distributions import MultivariateNormal

import ndm
from ndm.density import log_bound, plan_for, table_model
from ndm.scoring import TableModel, conditional_drops, pace
from ndm.scoring.explain import CHECKED, points_of_numbers, points_of_values
from ndm.support.progress import console
from ndm.tables import Frame, Schema

COLUMNS = 8


@pytest.mark.parametrize("correlation", [0.0, 0.6, 0.98])
def test_drops_of_numbers_are_those_of_a_correlated_gaussian(correlation, generator):
    """(r^2 - 1) / 2 with r the standardised residual of a column given the others, in any units."""
    scale = torch.tensor([1.0, 20.0, 0.1])
    matrix = (torch.full((3, 3), correlation) + (1 - correlation) * torch.eye(3)) * scale[:, None] * scale
    p = MultivariateNormal(torch.tensor([0.0, 100.0, -3.0]), matrix)
    marginals = ndm.Marginals.fit(p.mean + torch.randn(4000, 3, generator=generator) @ torch.linalg.cholesky(matrix).T)
    rows = p.mean + torch.randn(20, 3, generator=generator) @ torch.linalg.cholesky(matrix).T
    rows[0] = p.mean + scale * torch.tensor([4.0, -4.0, 0.0])
    precision = torch.linalg.inv(matrix)
    residual = (rows - p.mean) @ precision / precision.diagonal().sqrt()
    for j in range(3):
        found = points_of_numbers(p.log_prob, {j: rows}, marginals)[j].mean() - p.log_prob(rows)
        torch.testing.assert_close(found, (residual[:, j] ** 2 - 1) / 2, rtol=0.02, atol=0.15)


def test_the_quadrature_of_a_drop_is_precise_where_the_scores_are_smooth(generator):
    matrix = torch.tensor([[1.0, 0.9], [0.9, 1.0]])
    p = MultivariateNormal(torch.zeros(2), matrix)
    rows = torch.randn(20, 2, generator=generator) @ torch.linalg.cholesky(matrix).T
    found = points_of_numbers(p.log_prob, {1: rows}, ndm.Marginals(2))[1].mean() - p.log_prob(rows)
    squares = (rows[:, 1] - 0.9 * rows[:, 0]) ** 2 / (1 - 0.9**2)
    torch.testing.assert_close(found, (squares - 1) / 2, rtol=0, atol=2e-3)


def test_drops_of_a_skewed_column_weigh_its_values_by_their_widths(generator):
    """x = exp(g) with correlated normal g: the drop is (r^2 - 1) / 2 + g_j - E[g_j | the others]."""
    matrix = torch.tensor([[1.0, 0.6], [0.6, 1.0]])
    p, root = MultivariateNormal(torch.zeros(2), matrix), torch.linalg.cholesky(matrix)
    density = lambda x: p.log_prob(x.clamp(min=1e-300).log()) - x.clamp(min=1e-300).log().sum(1)  # noqa: E731
    marginals = ndm.Marginals.fit((torch.randn(4000, 2, generator=generator) @ root.T).exp())
    g = torch.randn(20, 2, generator=generator).clamp(-1.5, 1.5) @ root.T
    found = points_of_numbers(density, {1: g.exp()}, marginals)[1].mean() - density(g.exp())
    residual = g[:, 1] - 0.6 * g[:, 0]
    torch.testing.assert_close(found, (residual**2 / 0.64 - 1) / 2 + residual, rtol=0.02, atol=0.15)


@pytest.mark.parametrize(("most", "calls"), [(4096, 2), (20 * 16, 4), (1, 6)])
def test_columns_that_are_solved_at_once_have_the_points_of_one_alone(most, calls, monkeypatch, generator):
    """Each column has rows of its own; the first and the second points of all are two sets."""
    matrix = torch.full((3, 3), 0.5) + 0.5 * torch.eye(3)
    p, asked = MultivariateNormal(torch.zeros(3), matrix), []
    density = lambda x: asked.append(len(x)) or p.log_prob(x)  # noqa: E731
    parts = {place: torch.randn(count, 3, generator=generator) for place, count in ((2, 12), (0, 7), (1, 10))}
    alone = {place: points_of_numbers(density, {place: x}, ndm.Marginals(3))[place] for place, x in parts.items()}
    asked.clear()
    monkeypatch.setattr("ndm.scoring.explain.AT_ONCE", most)
    found = points_of_numbers(density, parts, ndm.Marginals(3))
    assert len(asked) == calls and sum(asked) == 2 * 16 * 29
    for place, column in alone.items():
        for mine, other in zip(found[place], column, strict=True):
            torch.testing.assert_close(mine, other)


def test_drops_of_a_few_values_are_sums_over_them():
    table = torch.tensor([[0.1, 0.3, 0.05], [0.25, 0.2, 0.1]], dtype=torch.float64)
    density = lambda rows: table[rows[:, 0].long(), rows[:, 1].long()].log()  # noqa: E731
    rows = torch.cartesian_prod(torch.arange(2.0), torch.arange(3.0)).double()
    found = points_of_values(density, rows, 1, torch.arange(3).double()).mean() - density(rows)
    for (a, b), drop in zip(rows.long().tolist(), found.tolist(), strict=True):
        given = table[a] / table[a].sum()
        assert drop == pytest.approx((given @ given.log()).item() - given[b].log().item())


class Chain:
    """Rows of categories of which each depends on the one before: p(x) = p(x_1) p(x_2 | x_1) ..., in closed form."""

    def __init__(self, columns=COLUMNS, values=3):
        rng = np.random.default_rng(0)
        self.start = rng.dirichlet(np.ones(values))
        # Few likely values, as where columns nearly determine each other.
        self.next = torch.from_numpy(rng.dirichlet(np.full(values, 0.3), (columns - 1, values)))
        self.columns, self.values = columns, values
        self.asked = 0

    def log_p(self, rows):
        self.asked += len(rows)
        codes = rows.long()
        total = torch.from_numpy(self.start).log()[codes[:, 0]]
        for j, table in enumerate(self.next):
            total = total + table.clamp(min=1e-12).log()[codes[:, j], codes[:, j + 1]]
        return total

    def draw(self, count, generator):
        """Rows, each with one value that is drawn anew, whatever the others are."""
        codes = [torch.multinomial(torch.from_numpy(self.start), count, True, generator=generator)]
        for table in self.next:
            codes.append(torch.multinomial(table[codes[-1]], 1, generator=generator)[:, 0])
        rows = torch.stack(codes, 1).double()
        place = torch.randint(self.columns, (count,), generator=generator)
        rows[torch.arange(count), place] = torch.randint(self.values, (count,), generator=generator).double()
        return rows

    def model(self):
        """An untrained model and the schema of such rows."""
        codes = np.random.default_rng(1).integers(0, self.values, (400, self.columns))
        schema = Schema.fit(Frame.of(codes.astype(str).astype(object)))
        rows = torch.from_numpy(schema.encode(Frame.of(codes.astype(str).astype(object))))
        return table_model(rows, schema.layout, plan_for(400, self.columns, categories=True)).double().eval(), schema


def test_what_the_screen_leaves_out_changes_no_named_column(generator):
    """The truth is a table of all probabilities, and the screen is off by 0.3 nats in each of them."""
    chain = Chain()
    model, schema = chain.model()
    rows = chain.draw(60, generator)
    powers = chain.values ** torch.arange(COLUMNS)
    table = chain.log_p(torch.arange(chain.values**COLUMNS)[:, None] // powers % chain.values)
    assert table.exp().sum() == pytest.approx(1)
    rough = table + 0.3 * torch.randn(len(table), generator=generator)
    screen = lambda x: rough[x.long() @ powers]  # noqa: E731
    log_p = chain.log_p(rows)
    chain.asked = 0
    every = conditional_drops(chain.log_p, rows, log_p, model, schema)
    everything, chain.asked = chain.asked, 0
    found = conditional_drops(chain.log_p, rows, log_p, model, schema, screen)
    assert chain.asked < everything / 3
    known = torch.isfinite(found)
    assert (known.sum(1) == CHECKED).all()
    torch.testing.assert_close(found[known], every[known], rtol=0, atol=0.15)
    torch.testing.assert_close(found.topk(3).values, every.topk(3).values, rtol=0, atol=0.15)
    assert (every.amax(1) > 2).sum() > 10  # many rows are odd


def independent(generator, rows=2000):
    """A model of independent categories, which is exact before any training, and the logarithms of its frequencies."""
    shares = [(0.9, 0.1), (0.5, 0.3, 0.2), (0.98, 0.02), (0.25,) * 4, (0.6, 0.39, 0.01)]
    codes = torch.stack([torch.multinomial(torch.tensor(p), rows, True, generator=generator) for p in shares], 1)
    frame = Frame.of(codes.numpy().astype(str).astype(object))
    schema = Schema.fit(frame)
    plan = replace(plan_for(rows, 5, categories=True), width=8, depth=1, gamma_min=-5.0)
    model = table_model(torch.from_numpy(schema.encode(frame)), schema.layout, plan).eval()
    logs = [part.log_softmax(0) for part in model.predictor.bias.detach().double().split(model.predictor.alphabets)]
    return TableModel(model.requires_grad_(False), schema, rows), logs


def test_the_bound_of_independent_columns_is_their_log_probability(generator):
    scorer, logs = independent(generator)
    rows = torch.cartesian_prod(*(torch.arange(float(len(part))) for part in logs)).double()[::12]
    expected = sum(part[codes.long()] for part, codes in zip(logs, rows.T, strict=True))
    found = torch.stack([log_bound(scorer.model, rows, seed) for seed in range(24)])
    error = found.std(0) / len(found) ** 0.5
    assert ((found.mean(0) - expected).abs() < 4 * error + 0.05).all() and error.mean() < 0.2 * expected.std()


def test_named_columns_of_independent_categories_are_those_of_the_closed_form(generator):
    """The drop is sum_k p_k log p_k - log p(x_j)."""
    scorer, logs = independent(generator)
    codes = np.array([[0, 0, 0, 0, 2], [1, 1, 0, 3, 0], [0, 2, 1, 1, 1]])
    scores = scorer.score(Frame.of(codes.astype(str).astype(object)), explain=True)
    mean = torch.stack([(part.exp() * part).sum() for part in logs])
    own = torch.stack([part[torch.from_numpy(column)] for part, column in zip(logs, codes.T, strict=True)], 1)
    drops = mean - own
    assert [scorer.names[place] for place in scores.columns[:, 0]] == [f"x{j}" for j in drops.argmax(1)]
    # The log-density of a rare category by four draws is off by a tenth.
    np.testing.assert_allclose(scores.drops, drops.topk(3).values.numpy(), atol=0.1, rtol=0.12)


def test_an_estimator_explains_its_rows_as_the_command_does(monkeypatch):
    monkeypatch.setattr("ndm.scoring.model.log_density", lambda model, rows, seed, quick=False: -rows.square().sum(1))
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 3))
    density = ndm.NeuralDiffusionDensity(max_steps=5, random_state=0).fit(x)
    odd = np.array([[0.0, 5.0, 0.0], [-4.0, 0.0, 1.0]])
    reasons = density.explain(odd)
    assert reasons.columns.shape == reasons.drops.shape == (2, 3)
    assert reasons.columns[:, 0].tolist() == ["x1", "x0"] and (reasons.drops[:, 0] > 5).all()
    assert (np.diff(reasons.drops) <= 0).all()
    scores = TableModel(density.model_, density.schema_, 60, density.seed_).score(Frame.of(odd), explain=True)
    np.testing.assert_array_equal(reasons.drops, scores.drops)
    with pytest.raises(ndm.InputError, match="NaN"):
        density.explain([[0.0, math.nan, 0.0]])


def test_a_number_beside_its_grid_is_as_odd_as_its_neighbour_and_more():
    """The count 500.5 is as improbable as 500, and no training row is beside the grid."""
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"n": rng.integers(0, 21, 300), "y": rng.normal(size=300)})
    density = ndm.NeuralDiffusionDensity(max_steps=2, random_state=0).fit(table)
    reasons = [density.explain(pd.DataFrame({"n": [n], "y": [0.1]})) for n in (500.0, 500.5)]
    assert all(reason.columns[0, 0] == "n" for reason in reasons)
    assert reasons[1].drops[0, 0] > reasons[0].drops[0, 0] > math.log(302)


def test_parts_begin_with_one_row_and_grow_only_while_they_are_quick(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(pace.time, "perf_counter", lambda: now[0])
    frames = [Frame.of(np.zeros((30, 1))), Frame.of(np.zeros((4, 1)))]
    sizes = []
    for part in pace.small_parts(frames):
        sizes.append(len(part))
        now[0] += 1.0 * len(part)
    assert sizes == [1, 2, 4, 4, 4, 4, 4, 4, 3, 4]


@pytest.mark.parametrize(("seconds", "told"), [(20.0, True), (0.1, False)])
def test_a_long_job_says_after_its_first_rows_how_long_it_takes(seconds, told, monkeypatch, capsys):
    now = [0.0]
    monkeypatch.setattr(pace.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(console, "quiet", False)
    with pace.paced("explaining", 40) as tell:
        for done in range(1, 41):
            now[0] += seconds
            tell(done)
    said = capsys.readouterr().err
    assert ("explaining 39 more rows takes about 13:00" in said) == told == ("takes about" in said)
    assert said.count("takes about") <= 1


def test_a_value_and_that_it_is_there_are_one_cause():
    """The column that says where numbers are missing has no place of its own among the reasons."""
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"a": rng.normal(size=200), "b": rng.normal(size=200)})
    table.loc[::5, "a"] = np.nan
    density = ndm.NeuralDiffusionDensity(max_steps=5, impute=True, random_state=0).fit(table)
    assert [column.name for column in density.schema_.indicators] == ["a missing"]
    reasons = density.explain(pd.DataFrame({"a": [9.0, np.nan], "b": [0.0, 9.0]}))
    assert reasons.columns.shape == reasons.drops.shape == (2, 2)
    assert [set(names) for names in reasons.columns] == [{"a", "b"}] * 2
    assert reasons.columns[0, 0] == "a" and reasons.columns[1, 0] == "b" and np.isfinite(reasons.drops).all()


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_the_unit_of_a_number_does_not_decide_whether_its_presence_is_odd(scale, generator):
    """It is missing with probability 0.3, independently of its value: the drop of being there is that of a coin."""
    values = scale * (5 + torch.randn(2000, generator=generator))
    gone = torch.rand(2000, generator=generator) < 0.3
    table = pd.DataFrame({"a": np.where(gone, np.nan, values), "b": torch.randn(2000, generator=generator)})
    schema = Schema.fit(Frame.of(table), impute=True)
    rows = torch.from_numpy(schema.encode(Frame.of(table)))
    model = table_model(rows, schema.layout, plan_for(2000, 2, categories=True)).double().eval()

    def density(x):
        there = math.log(0.7) + torch.distributions.Normal(5 * scale, scale).log_prob(x[:, 0])
        return torch.where(x[:, 2] == 1, math.log(0.3), there) - x[:, 1] ** 2 / 2

    rows = torch.tensor([[5.5 * scale, 0.0, 0.0], [4.0 * scale, 0.0, 0.0], [5.0 * scale, 0.0, 1.0]])
    mean = 0.7 * math.log(0.7) + 0.3 * math.log(0.3)
    expected = mean - torch.tensor([math.log(0.7), math.log(0.7), math.log(0.3)])
    for screen in (None, density):
        drops = conditional_drops(density, rows, density(rows), model, schema, screen)
        torch.testing.assert_close(drops[:, 2], expected, rtol=0, atol=0.7)  # a spline of 1,400 values is rough
        torch.testing.assert_close(drops[:2, 0], torch.tensor([-0.375, 0.0]), rtol=0, atol=0.1)  # (r^2 - 1) / 2


def test_of_two_columns_with_many_categories_the_odd_pair_is_seen(generator):
    """The second column repeats the first: what belongs there need not be among the frequent categories."""
    codes = torch.cat([torch.arange(40), torch.randint(10, (400,), generator=generator)])
    words = codes.numpy().astype(str).astype(object)
    frame = Frame.of(np.stack([words, np.roll(words, 1)], 1))  # so that neither column follows from the other
    schema = Schema.fit(frame)
    model = table_model(torch.from_numpy(schema.encode(frame)), schema.layout, plan_for(440, 2, categories=True))
    model = model.double().eval()
    density = lambda x: -math.log(40) - 9.0 * (x[:, 0] != x[:, 1])  # noqa: E731
    rows = torch.tensor([[39.0, 5.0], [38.0, 38.0]])
    drops = conditional_drops(density, rows, density(rows), model, schema, density)
    assert (drops[0] > 8).all() and drops[1].abs().max() < 0.1


@pytest.mark.parametrize("count", [90, 150])  # of 150 none has a hundredth
def test_the_drop_of_a_column_whose_values_are_all_rare(count, generator):
    """No other value has a hundredth of the probability, and the one that is there has less than all others."""
    codes = torch.cat([torch.arange(count), torch.randint(count, (3000,), generator=generator)])
    words = codes.numpy().astype(str).astype(object)
    frame = Frame.of(np.stack([words, np.roll(words, 1)], 1))
    schema = Schema.fit(frame)
    plan = plan_for(len(codes), 2, categories=True)
    model = table_model(torch.from_numpy(schema.encode(frame)), schema.layout, plan).double().eval()
    density = lambda x: -2 * math.log(count) - 20.0 * (x[:, 0] == 0)  # noqa: E731
    rows = torch.tensor([[0.0, 5.0]])
    drops = conditional_drops(density, rows, density(rows), model, schema, density)
    torch.testing.assert_close(drops, torch.tensor([[20.0, 0.0]]), rtol=0, atol=1e-3)


def missing_together(rng):
    """Two numbers that are missing in the same rows: only one column says so."""
    table = pd.DataFrame({name: rng.normal(size=200) for name in "aby"})
    table.loc[::4, ["a", "b"]] = np.nan
    return table, pd.DataFrame({"a": [0.0], "b": [np.nan], "y": [0.0]}), {"b"}


def missing_by_category(rng):
    """A number that a category decides to be missing."""
    c = rng.choice(["a", "none"], 200)
    table = pd.DataFrame({"x": np.where(c == "none", np.nan, rng.normal(size=200)), "c": c, "y": rng.normal(size=200)})
    return table, pd.DataFrame({"x": [np.nan], "c": ["a"], "y": [0.0]}), {"x"}


@pytest.mark.parametrize("make", [missing_together, missing_by_category])
def test_rows_whose_missing_numbers_follow_from_others_are_explained(make):
    table, odd, names = make(np.random.default_rng(0))
    density = ndm.NeuralDiffusionDensity(max_steps=5, impute=True, random_state=0).fit(table)
    assert any(relation.name.endswith(" missing") for relation in density.schema_.relations)
    reasons = density.explain(pd.concat([odd, table.head(2)]))
    assert np.isfinite(reasons.drops[1:]).all()
    assert reasons.columns[0, 0] in names and reasons.drops[0, 0] >= math.log(202) - 1e-6
