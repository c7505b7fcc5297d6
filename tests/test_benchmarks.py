"""The protocols of the benchmarks of tables, on made data."""

import itertools
import json
import math
import re
import sys
from functools import partial
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import anomalies  # noqa: E402
import anomaly_rivals  # noqa: E402
import cells  # noqa: E402
import density  # noqa: E402
import known  # noqa: E402
import mixed  # noqa: E402
import mixed_rivals  # noqa: E402
import ndm  # noqa: E402
from ndm import InputError  # noqa: E402
from ndm.tables import Frame  # noqa: E402

random = np.random.default_rng(0)


# Tables whose density is known.


def straight(low, high):
    """Marginals whose normal scores from -5 to 5 are equidistant values between two ends."""
    found = ndm.Marginals(len(low))
    found.x = torch.tensor([low, high], dtype=torch.float64).T.contiguous()
    found.y = torch.tensor([-5.0, 5.0], dtype=torch.float64).expand(len(low), 2).contiguous()
    found.slope = (10 / (found.x[:, 1:] - found.x[:, :1])).expand(2, -1, 2).contiguous()
    return found


@pytest.mark.parametrize("name", list(known.TABLES))
def test_the_known_densities_are_those_of_the_draws(name):
    """They sum to one, and the draws have their entropy, which is that of the sum over everything."""
    table = known.TABLES[name]
    low, high = {"numbers": ([-550, -3], [550, 3]), "symbols": ([], []), "mixed": ([-80], [220])}[name]
    rows, weights = table.everything(straight(low, high))
    log_p = table.log_p(rows)
    assert np.exp(log_p) @ weights == pytest.approx(1, abs=1e-6)
    entropy = -(np.exp(log_p) * np.nan_to_num(log_p, neginf=0)) @ weights
    drawn = table.log_p(table.draw(20_000, np.random.default_rng(0)))
    assert abs(-drawn.mean() - entropy) < 5 * drawn.std() / 20_000**0.5


# Cells.


def test_a_finished_cell_is_found_again_and_the_later_of_two_records_counts(tmp_path):
    path = tmp_path / "new" / "cells.jsonl"
    first = cells.Cells(path, ["set", "split"])
    first.add({"set": "a", "split": 0, "nats": 1 / 3})
    first.add({"set": "a", "split": 1, "nats": 2.0})
    first.add({"set": "a", "split": 1, "nats": 3.0})
    first.add({"set": "a", "split": 1, "nats": 3.0})
    assert len(path.read_text().splitlines()) == 3
    with path.open("a") as file:
        file.write('{"kind": "cell", "set": "b"')  # the process was killed here
    again = cells.Cells(path, ["set", "split"])
    assert ("a", 0) in again and ("b", 0) not in again
    assert again.records["a", 0]["nats"] == 0.3333333 and again.records["a", 1]["nats"] == 3.0
    again.add({"set": "b", "split": 0})
    assert ("b", 0) in cells.Cells(path, ["set", "split"])
    assert not cells.Cells(path, ["set", "split"], "paired").records


def test_the_machine_is_noted_once(tmp_path):
    path = tmp_path / "cells.jsonl"
    assert cells.note_machine(path, 1, ("numpy",)) == cells.note_machine(path, 1, ("numpy",))
    (line,) = map(json.loads, path.read_text().splitlines())
    assert line["versions"]["numpy"] == np.__version__ and line["threads"] == 1


def test_means_and_standard_errors():
    assert cells.mean_and_error([1.0, 2.0, 6.0]) == (3.0, pytest.approx((7 / 3) ** 0.5))
    assert cells.mean_and_error([1.0]) == (1.0, None)
    assert cells.shown(-2.7126, 0.0119, bold=True) == "**-2.713 (0.012)**" and cells.shown(1.0, None) == "1.000"


def test_an_unknown_method_is_one_line():
    with pytest.raises(InputError, match="there is no method 'foo': choose among a, b"):
        cells.choose(["foo"], ("a", "b"), "method")
    assert cells.choose(None, ("a", "b"), "method") == ["a", "b"]


# Densities.


def test_the_step_of_a_grid_is_found_wherever_it_lies_and_not_where_there_is_none():
    whole = random.integers(0, 20, 500)
    assert density.grid_step(whole * 1.0) == 1.0
    assert density.grid_step(whole * 0.1 - 0.7345678) == 0.1
    off = whole * 1.0
    off[:60] += random.uniform(size=60)
    assert density.grid_step(off) == 1.0
    assert density.grid_step(random.standard_normal(500)) is None
    assert density.grid_step(whole * 1.0 + random.uniform(0, 0.5, 500)) is None
    assert density.grid_step(np.round(random.standard_normal(500), 3)) == 1e-3
    assert density.grid_step(np.round(random.standard_normal(500), 5)) is None  # 0.001 % of the standard deviation
    assert density.grid_step(np.where(random.uniform(size=500) < 0.3, 1.0, 0.0)) == 1.0
    assert density.grid_step(np.where(random.uniform(size=500) < 0.9, 0.0, random.standard_normal(500))) is None
    assert density.grid_step(np.full(5, 3.0)) is None


def test_dependent_columns_are_those_that_the_ones_before_explain():
    x = random.standard_normal((200, 3))
    rows = np.column_stack([x[:, 0], np.full(200, 1e6), x[:, 1], 3 - 2 * x[:, 0] + 1e3 * x[:, 1], x[:, 2], 5 * x[:, 2]])
    assert density.dependent_columns(rows) == [1, 3, 5]
    rows[:, 3] += 1e3 * 0.01 * random.standard_normal(200)  # one part in ten thousand of the variance is its own
    assert density.dependent_columns(rows) == [1, 5]


def test_no_row_is_in_two_parts_and_the_rest_is_standardised():
    values = np.repeat(random.standard_normal((150, 2)), 2, axis=0)  # every row twice
    data = np.column_stack([values, random.integers(0, 9, 150).repeat(2)])
    table = density.prepare(data, np.tile(np.arange(300) % 5 == 0, (2, 1)))
    assert table.facts == {"rows": 150, "columns": 3, "dependent": [], "atoms": [], "noise": {"2": 1.0}}
    assert np.array_equal(table.rows[:, :2], values[::2])
    noise = table.rows[:, 2] - data[::2, 2]
    assert np.abs(noise).max() <= 0.5 and noise.std() == pytest.approx(12**-0.5, rel=0.2)
    train, valid, test = table.split(0)
    assert (len(train), len(valid), len(test)) == (108, 12, 30)
    rest = np.concatenate([train, valid])
    assert np.allclose(rest.mean(0), 0) and np.allclose(rest.std(0), 1)
    assert len(np.unique(np.concatenate([rest, test]), axis=0)) == 150
    assert np.array_equal(train, table.split(0)[0]) and not np.array_equal(train, table.split(1)[0])
    assert np.array_equal(density.prepare(data, np.zeros((1, 300), bool)).rows, table.rows)


def test_columns_without_a_density_are_left_out_and_named():
    x = random.standard_normal((400, 2))
    spike = np.where(np.arange(400) < 40, 0.123, random.standard_normal(400))
    table = density.prepare(np.column_stack([x, x.sum(1), spike]), np.zeros((1, 400), bool))
    assert table.facts["dependent"] == [2] and table.facts["atoms"] == [3] and np.array_equal(table.rows, x)


def test_paired_differences_and_the_table(tmp_path):
    a, b = random.standard_normal(50), random.standard_normal(50)
    value, error = density.paired(a, b)
    assert value == pytest.approx(a.mean() - b.mean())
    assert error == pytest.approx(np.var(a - b, ddof=1) ** 0.5 / 50**0.5)
    out = tmp_path / "density.jsonl"
    done = density.Cells(out, density.KEY)
    density.Cells(out, ["set"], "set").add({"set": "made", "rows": 100, "columns": 2})
    figures = {"ndm": (a, None), "nsf": (b, 0.3), "nsf-small": (a - 3, 0.1), "kde": (b - 1, 0.0)}
    for split in range(2):
        for method, (nats, valid) in figures.items():
            nats = nats + (split if method == "ndm" else 0)
            path = density.rows_file(out, "made", split, method)
            path.parent.mkdir(exist_ok=True)
            np.save(path, nats)
            record = {"set": "made", "split": split, "method": method, "nats": float(nats.mean()), "validation": valid}
            done.add({**record, "process_seconds": 2.0 if method == "ndm" else 4.0})
    density.compare(out)
    pairs = density.Cells(out, (*density.KEY, "rival"), "paired").records
    assert pairs["made", 1, "ndm", "nsf"]["nats"] == pytest.approx(value + 1, rel=1e-6)
    assert pairs["made", 1, "ndm", "nsf"]["error"] == pytest.approx(error, rel=1e-6)
    line = density.table(out).splitlines()[2]
    assert f"{value + 0.5:+.3f} (0.500) to NSF | 0.25 |" in line and f"| {b.mean():.3f} (0.000) |" in line
    assert f"| **{a.mean() + 0.5:.3f} (0.500)** |" in line
    density.rows_file(out, "made", 0, "kde").unlink()
    density.compare(out)  # what is compared already needs no rows
    assert len(density.Cells(out, (*density.KEY, "rival"), "paired").records) == 6


def test_the_error_of_a_difference_on_one_split_is_over_its_rows(tmp_path):
    out, nats = tmp_path / "density.jsonl", random.standard_normal((2, 50))
    density.Cells(out, ["set"], "set").add({"set": "made", "rows": 100, "columns": 2})
    for method, values in (("ndm", nats[0]), ("nsf", nats[1]), ("nsf-small", nats[1] - 1)):
        record = {"set": "made", "split": 0, "method": method, "nats": values.mean(), "validation": values.mean()}
        density.Cells(out, density.KEY).add({**record, "process_seconds": 1.0})
    value, error = density.paired(*nats)
    assert f"{value:+.3f} (unknown) to NSF" in density.table(out)
    for method, values in (("ndm", nats[0]), ("nsf", nats[1])):
        density.rows_file(out, "made", 0, method).parent.mkdir(exist_ok=True)
        np.save(density.rows_file(out, "made", 0, method), values)
    density.compare(out)
    assert f"{value:+.3f} ({error:.3f}) to NSF" in density.table(out)


def test_mixtures_of_gaussians_and_kernels_are_chosen_by_validation():
    x = random.standard_normal((300, 2)) * 0.2 + 2 * random.integers(0, 2, (300, 1))
    fitted = density.gaussian_mixture(x[:200], x[200:], 0, sizes=(1, 2), initialisations=1)
    assert fitted.facts == {"components": 2} and fitted.valid == pytest.approx(fitted.score(x[200:]).mean())
    kernel = density.kernel_density(x[:200], x[200:], 0)
    width = kernel.facts["bandwidth"]
    gaps = ((x[200:, None] - x[:200]) ** 2).sum(2)
    truth = np.log(np.exp(-gaps / 2 / width**2).mean(1) / (2 * np.pi * width**2))
    assert np.allclose(kernel.score(x[200:]), truth) and 0.02 < width < 0.3


# Anomalies.


def test_small_sets_are_resampled_as_published_and_large_ones_reduced():
    assert anomalies.draw_rows(5_000, 3, True) is None and anomalies.draw_rows(500, 3, False) is None
    rows = anomalies.draw_rows(500, 3, True)
    np.random.seed(3)  # noqa: NPY002 (the published code uses the global generator)
    assert np.array_equal(rows, np.random.choice(np.arange(500), 1_000, replace=True))  # noqa: NPY002
    rows = anomalies.draw_rows(60_000, 0, True)
    assert len(rows) == len(set(rows)) == 50_000


def test_the_first_half_of_the_normal_rows_trains():
    x, y = np.arange(2_000)[:, None] * 1.0, np.arange(2_000) % 10 == 0
    task = anomalies.make_task(x, y.astype(int), 0)
    assert np.array_equal(task.train, x[~y][:900]) and task.labels.sum() == 200 and not task.seeded
    assert np.array_equal(task.test[:900], x[~y][900:]) and np.array_equal(task.test[900:], x[y])
    train, test = task.standardised()
    assert np.allclose([train.mean(), train.std()], [0, 1]) and test.mean() > 1


def test_missing_values_become_the_mean():
    x = random.standard_normal((1_000, 2))
    x[[3, 900], 1] = np.nan
    train, test = anomalies.make_task(x, np.zeros(1_000), 0).standardised()
    assert train[3, 1] == 0 and test[400, 1] == 0 and np.allclose(train.mean(0), 0)


def test_contamination_trains_and_does_not_test():
    x, y = np.arange(2_000)[:, None] * 1.0, np.arange(2_000) % 10 == 0
    task = anomalies.make_task(x, y.astype(int), 1, contaminate=0.05)
    assert task.anomalies == round(900 / 19) and len(task.train) == 900 + 47 and task.labels.sum() == 200 - 47
    assert not set(task.train[:, 0]) & set(task.test[:, 0]) and task.seeded
    few = anomalies.make_task(x, (np.arange(2_000) < 6).astype(int), 0, contaminate=0.05)
    assert few.anomalies == 3 and few.labels.sum() == 3  # half of them at most


def test_the_area_under_the_curve_counts_pairs():
    labels, scores = random.integers(0, 2, 60), random.integers(0, 9, 60) * 1.0
    odd, normal = scores[labels == 1][:, None], scores[labels == 0]
    assert anomalies.area(labels, scores) == pytest.approx(((odd > normal) + (odd == normal) / 2).mean())
    assert anomalies.area(np.array([0, 1, 1]), np.array([1.0, np.inf, np.inf])) == 1


def test_the_distance_is_that_to_the_fifth_neighbour():
    train, test = random.standard_normal((40, 3)), random.standard_normal((7, 3))
    distances = np.sqrt(((test[:, None] - train) ** 2).sum(2))
    assert np.allclose(anomaly_rivals.knn(train, 0)(test), np.sort(distances, 1)[:, 4])


def test_the_published_figures_have_their_known_means():
    means = {name: np.mean(list(of.values())) for name, of in anomalies.published().items()}
    assert [round(means[name], 2) for name in ("KNN", "LOF", "ICL", "DTE-C")] == [82.13, 79.88, 81.53, 81.22]
    assert {len(of) for of in anomalies.published().values()} == {24}


def test_the_table_of_anomalies(tmp_path):
    out = tmp_path / "anomalies.jsonl"
    done, tasks = cells.Cells(out, anomalies.KEY), cells.Cells(out, anomalies.TASK, "task")
    for name, rows, method, variant, figures in (
        ("WBC", 223, "knn", "adbench", (98, 99)), ("WBC", 223, "knn", "plain", (90, 91)),
        ("Wilt", 4819, "knn", "adbench", (63.66,)), ("Wilt", 4819, "ndm", "adbench", (70, 72)),
    ):  # fmt: skip
        for seed, figure in enumerate(figures):
            key = {"set": name, "protocol": variant, "seed": seed}
            tasks.add({**key, "rows": rows})
            done.add({**key, "method": method, "auroc": figure, "process_seconds": 1.0 + seed})
    text = anomalies.table(out, "adbench")
    assert "| WBC | **98.50 (0.71)** |  | 99.12 |" in text and "| Wilt | 63.66 | **71.00 (1.41)** | 63.66 |" in text
    assert "| mean of 2 | 81.08 |  | 81.39 |" in text and "| ndm | 1-0 |  | 1-0 |" in text
    assert "| mean of the 1 that are never resampled | 63.66 | 71.00 | 63.66 |" in text
    assert "| ndm | 1.50 | 2.0 | 2 |" in text
    assert "| mean of 2 | 77.08 |" in anomalies.table(out, "plain")
    assert anomalies.differences(out).splitlines()[2:] == ["| WBC | knn | 98.50 | 0.71 | 2 | 99.12 |"]


# Rows of categories and integers.


def made_table(rows):
    first = random.integers(0, 3, rows)
    second = np.where(random.uniform(size=rows) < 0.8, first * 4, random.integers(-2, 9, rows))
    third = (first + random.integers(0, 2, rows)) % 3
    lines = [[str(a), str(b), "xyz"[c]] for a, b, c in zip(first, second, third, strict=True)]
    return mixed.Table.of(["first", "second", "third"], lines)


def test_columns_of_integers_have_all_values_between():
    table = mixed.Table.of(["a", "b"], [["-3", "u"], ["7", "v"], ["0", "u"]])
    assert table.columns == [mixed_rivals.Column("a", 11, True), mixed_rivals.Column("b", 2, False)]
    assert table.codes.tolist() == [[0, 0], [10, 1], [3, 0]] and table.values.tolist()[0] == [-3, "u"]


def test_splits_hold_every_row_once():
    parts = mixed.split_rows(1_003, 2)
    assert [len(p) for p in parts] == [803, 100, 100] and len(np.unique(np.concatenate(parts))) == 1_003


def test_bits_of_a_uniform_row():
    assert mixed.bits(np.log(np.full(10, 1 / 256))) == (pytest.approx(8), pytest.approx(0))
    value, error = mixed.bits(np.log([0.5, 0.125]))
    assert value == pytest.approx(2) and error == pytest.approx(1)


FEW = {**mixed.METHODS, "mixture": partial(mixed_rivals.mixture, sizes=(1, 4))}


@pytest.mark.parametrize("method", FEW)
def test_the_probabilities_of_all_rows_sum_to_one(method):
    if method == "boosted":
        pytest.importorskip("sklearn", minversion="1.7", reason="boosting takes no validation rows")
    table = made_table(300)
    fitted = FEW[method](table.codes[:240], table.codes[240:], table.columns, 0)
    every = np.array(list(itertools.product(*(range(c.size) for c in table.columns))))
    p = np.exp(fitted.log_prob(every))
    assert p.sum() == pytest.approx(1, abs=1e-9) and p.min() > 0
    assert fitted.valid == pytest.approx(fitted.log_prob(table.codes[240:]).mean())
    if method != "independent":
        alone = mixed_rivals.independent(table.codes[:240], table.codes[240:], table.columns, 0)
        assert fitted.valid > alone.valid + 0.5  # the dependence is found


def test_a_frequent_integer_has_a_bin_of_its_own():
    codes = np.concatenate([np.full(900, 5), np.arange(100)])
    edges = mixed_rivals.quantile_edges(codes, 120, 8)
    assert {0, 5, 6, 120} <= set(edges) and np.all(np.diff(edges) > 0)
    p = mixed_rivals.histogram(codes, 120, 8)
    assert p.sum() == pytest.approx(1) and p[5] > 0.85 and p[119] == pytest.approx(p[110])


def test_the_tree_is_the_one_of_largest_information():
    a = random.integers(0, 4, 2_000)
    b = np.where(random.uniform(size=2_000) < 0.9, a, random.integers(0, 4, 2_000))
    c = np.where(random.uniform(size=2_000) < 0.9, b, random.integers(0, 4, 2_000))
    tree = mixed_rivals.chow_liu_tree(np.stack([c, a, b], axis=1), [4, 4, 4])
    assert tree == [(0, 0), (2, 0), (1, 2)]


# From end to end.


class Estimator:
    """An estimator with the interface of ours; it keeps what it was fitted on."""

    fits: ClassVar[list] = []

    def __init__(self, random_state=None):
        self.seed = random_state

    def get_params(self):
        return {"random_state": None}

    def set_params(self, random_state):
        self.seed = random_state

    def fit(self, x):
        Estimator.fits.append((self.seed, x))
        return self

    def score_samples(self, x):
        return -np.square(np.asarray(x[:, 0], dtype=np.float64))


@pytest.fixture
def command(monkeypatch, tmp_path, capsys):
    """Run a benchmark with our estimator replaced, and give what it prints."""
    monkeypatch.setattr(ndm, "NeuralDiffusionDensity", Estimator, raising=False)
    monkeypatch.setattr(ndm, "NeuralDiffusionDetector", Estimator, raising=False)
    monkeypatch.setattr(ndm, "__all__", [*ndm.__all__, "NeuralDiffusionDensity"])
    Estimator.fits.clear()

    def run(module, *arguments):
        monkeypatch.setattr(module, "limit_threads", lambda threads: None)
        out = tmp_path / "out" / f"{module.__name__}.jsonl"
        monkeypatch.setattr(sys, "argv", [module.__name__, "--data", str(tmp_path), "--out", str(out), *arguments])
        code = cells.ends(module.main)
        return code, capsys.readouterr()

    return run


def test_densities_go_on_where_they_stopped(command, tmp_path):
    (tmp_path / "uci").mkdir()
    rows = random.standard_normal((100, 2))
    np.savez(tmp_path / "uci" / "kin8nm.npz", data=rows, test_mask=np.tile(np.arange(100) < 10, (2, 1)))
    code, printed = command(density, "--sets", "kin8nm", "--methods", "kde", "ndm")
    assert code == 0 and "to KDE" in printed.out and printed.err.count("nats per row") == 4
    assert [(seed, x.shape) for seed, x in Estimator.fits] == [(0, (90, 2)), (1, (90, 2))]
    assert np.allclose(np.concatenate([x for _, x in Estimator.fits]).std(0), 1)
    again = command(density, "--sets", "kin8nm", "--methods", "kde", "ndm")[1]
    assert again.out == printed.out and not again.err and len(Estimator.fits) == 2
    (tmp_path / "out" / "density-rows" / "kin8nm-0-kde.npy").unlink()
    assert command(density, "--table")[1].out == printed.out


def test_our_detector_gets_the_columns_as_they_are(command, tmp_path):
    (tmp_path / "adbench").mkdir()
    x = 100 + 5 * random.standard_normal((300, 2))
    np.savez(tmp_path / "adbench" / "WBC.npz", X=x, y=np.arange(300) % 10 == 0)
    code, printed = command(anomalies, "--methods", "knn", "ndm", "--plain", "--seeds", "4", "5")
    assert code == 0 and printed.err.count(" knn: ") == 1 and printed.err.count(" ndm: ") == 2
    assert [seed for seed, _ in Estimator.fits] == [4, 5]
    assert np.array_equal(Estimator.fits[0][1], x[np.arange(300) % 10 > 0][:135])
    assert not command(anomalies, "--methods", "knn", "ndm", "--plain", "--seeds", "4", "5")[1].err
    assert command(anomalies, "--contaminate", "2")[0] == 2


def test_the_bound_of_rows_of_categories_is_that_of_their_model(float32):
    values = np.array([[k % 3, "pq"[k % 2]] for k in range(40)], dtype=object)
    model = ndm.NeuralDiffusionDensity(max_steps=2, random_state=0).fit(values)
    rows = torch.from_numpy(model.schema_.encode(Frame.of(values[:6])))
    expected = -torch.stack([ndm.bound(model.model_, rows).total.detach() for _ in range(300)]).double()
    error = 4 * expected.std(0) / 64**0.5
    assert (torch.from_numpy(mixed.bound_of(model, values[:6])) - expected.mean(0)).abs().le(error).all()


def test_our_estimator_gets_numbers_and_strings(command, tmp_path, monkeypatch):
    monkeypatch.setattr(mixed, "bound_of", lambda model, values: np.full(len(values), -math.log(8)))
    (tmp_path / "tables").mkdir()
    lines = [f"{a},{b}\n" for a, b in zip(random.integers(0, 9, 100), random.choice(list("pq"), 100), strict=True)]
    (tmp_path / "tables" / "mushrooms.csv").write_text("cap,class\n" + "".join(lines))
    code, printed = command(mixed, "--sets", "mushrooms", "--methods", "independent", "ndm", "--splits", "1")
    assert code == 0 and "| mushrooms | 80 x 2 |" in printed.out
    assert re.search(r"\b3\.000(\*\*)? \[1\], \d+ s \|$", printed.out, re.MULTILINE)  # the bound is in the last column
    ((seed, x),) = Estimator.fits
    assert seed == 0 and x.shape == (90, 2) and isinstance(x[0, 0], int) and x[0, 1] in "pq"
    assert not command(mixed, "--sets", "mushrooms", "--methods", "independent", "ndm", "--splits", "1")[1].err
