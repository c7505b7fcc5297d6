"""Tables on the command line: train, evaluate, score, explain and sample, and what is refused with one line."""

import csv
import json
import math
import re
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

import ndm
from ndm.cli import main
from ndm.data import load_dataset
from ndm.density import log_density, plan_for, table_model
from ndm.density.plan import PATIENCE
from ndm.experiment import Run
from ndm.experiment.plan import PLANNED, planned
from ndm.experiment.settings import Config, make_config, named_settings
from ndm.scoring import TableModel, conditional_drops, stream
from ndm.tables import Frame, Layout, Schema, keep_schema, kept_schema, read, write

pytest.importorskip("pyarrow")
HEADER = ["age", "height", "city", "twice"]
ROWS = 300


@pytest.fixture(autouse=True)
def _float32():
    torch.set_default_dtype(torch.float32)


@pytest.fixture
def quick(monkeypatch):
    """Log-densities by ten steps and one draw: what is done with them does not depend on the solver."""

    def log_density(model, rows, seed=0, quick=False):
        solver, generator = ndm.Solver("heun", steps=10), torch.Generator().manual_seed(seed)
        options = {"dtype": torch.float64, "divergence": "hutchinson", "common": True, "generator": generator}
        return ndm.log_prob(model, rows, solver=solver, **options)

    monkeypatch.setattr("ndm.scoring.model.log_density", log_density)
    return log_density


def make_rows(n, seed=0):
    """Rows with a count, a real number, a category, and a column that is twice the first."""
    rng = np.random.default_rng(seed)
    age = rng.integers(18, 60, n)
    height = rng.normal(170, 8, n) + age / 10
    city = rng.choice(["Basel", "Bern"], n)
    return [[int(a), float(h), str(c), 2 * int(a)] for a, h, c in zip(age, height, city, strict=True)]


def write_csv(path, rows, header=HEADER):
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with the table x.csv and a run."""
    torch.set_default_dtype(torch.float32)
    folder = tmp_path_factory.mktemp("tables")
    write_csv(folder / "x.csv", make_rows(ROWS))
    arguments = ["train", "table", "--data.path", str(folder / "x.csv"), "--out", str(folder / "run")]
    assert main([*arguments, "--training.steps", "20", "--model.depth", "1", "--device", "cpu"]) == 0
    return folder


def refused(arguments, capsys):
    """The one line with which a command refuses its input."""
    assert main([str(argument) for argument in arguments]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("ndm: error: ")]
    assert len(lines) == 1
    return lines[0]


def read_scores(path):
    with path.open() as file:
        return list(csv.DictReader(file))


def test_sizes_come_from_the_data_and_are_written_as_numbers(folder):
    config = Run(folder / "run").config
    plan = plan_for(255, 3, 20)
    assert (config.training.steps, config.model.depth) == (20, 1)  # as given
    assert (config.model.width, config.training.batch_size) == (plan.width, plan.batch_size)
    assert config.model.uniform == list(plan.uniform) and config.model.dropout == plan.dropout
    assert config.training.evaluate_every == plan.evaluate_every and config.training.patience == PATIENCE
    written = (folder / "run" / "config.yaml").read_text()
    assert f"width: {plan.width}\n" in written and "learning_rate: 0.002\n" in written


def test_training_says_what_the_columns_are_with_a_line_for_each(tmp_path, capsys):
    """A name with a line break cannot forge a line."""
    write_csv(tmp_path / "x.csv", make_rows(30), ["age", "height", "city\nforged line", "twice"])
    arguments = ["train", "table", "--data.path", tmp_path / "x.csv", "--out", tmp_path / "run", "--device", "cpu"]
    assert main([*map(str, arguments), "--training.steps", "1", "--model.depth", "1", "--model.width", "4"]) == 0
    lines = [line.split() for line in capsys.readouterr().err.splitlines()]
    found = {line[0]: line[1] for line in lines if len(line) > 1}
    assert (found["column"], found["age"], found["height"]) == ("kind", "count", "real")
    assert ["city\\nforged", "line", "category"] in [line[:3] for line in lines] and "forged" not in found


def test_what_is_given_is_not_planned():
    given = {"model.width": 7, "training.batch_size": 3, "training.patience": 9}
    tree = {"model": {"width": 7}, "training": {"batch_size": 3, "patience": 9}}
    config = planned(make_config(tree), given, rows=50_000, held_out=5_000, columns=4)
    plan = plan_for(50_000, 4)
    assert (config.model.width, config.training.batch_size, config.training.patience) == (7, 3, 9)
    assert (config.training.steps, config.model.uniform) == (plan.steps, list(plan.uniform))
    assert planned(config, named_settings({}) | dict.fromkeys(PLANNED), 10, 3, 2) == config
    few = planned(Config(), (), rows=100, held_out=20, columns=4)
    assert (few.training.evaluate_every, few.training.patience) == (0, 0)


def test_rows_of_categories_have_a_wider_network_unless_they_are_few():
    widths = [plan_for(rows, 9, categories=some).width for rows in (1_999, 2_000) for some in (False, True)]
    assert widths == [128, 128, 128, 256]
    wide = planned(Config(), (), rows=2_000, held_out=100, columns=9, categories=True)
    assert wide.model.width == 256


def test_many_columns_train_longer_unless_training_is_quick_or_rows_are_few():
    """Batches have 512 rows: 200 passes over 10,000 rows are 3,906 steps, and 100 are 1,953."""
    steps = [plan_for(rows, 9, quick=quick).steps for rows in (1_999, 2_000, 10_000) for quick in (False, True)]
    assert steps == [1_000, 1_000, 2_500, 1_000, 3_906, 1_953]
    assert [plan_for(10_000, 5, quick=quick).steps for quick in (False, True)] == [5_859, 5_859]


def test_only_a_detector_trains_quickly(monkeypatch):
    quick, rows = [], np.random.default_rng(0).normal(size=(20, 2))
    monkeypatch.setattr("ndm.density.estimator.plan_for", lambda *args: quick.append(args[-1]) or plan_for(*args))
    for estimator in (ndm.NeuralDiffusionDensity, ndm.NeuralDiffusionDetector):
        estimator(max_steps=1, random_state=0).fit(rows)
    assert quick == [False, True]


def test_fourier_features_are_for_numbers_and_damped_by_the_noise():
    waves = [plan_for(3_000, columns, categories=some).fourier for columns in (6, 7) for some in (False, True)]
    assert [len(exponents) for exponents in waves] == [7, 7, 4, 0]
    rows = torch.randn(2_000, 7).double() @ torch.randn(7, 7).double()

    def network(rows, width):
        return table_model(rows, Layout([width] * 7), plan_for(len(rows), 7)).predictor.net

    assert network(rows, 0.0).damped and network(rows, 0.0).fourier == (0, 1, 2, 3)
    assert network(rows[:300].round(decimals=1), 0.1).fourier == (0, 1, 2, 3)
    assert network(rows[:300], 0.0).fourier == () and not network(rows[:300], 0.0).damped


@pytest.mark.parametrize("given", [[], ["--model.fourier", "[0, 1]"]], ids=["by the data", "given"])
def test_the_config_of_a_table_has_the_fourier_features_of_its_model(given, tmp_path, capsys):
    """Few rows of real numbers have none."""
    np.savez(tmp_path / "x.npz", X=np.random.default_rng(0).normal(size=(60, 7)))
    table = ["train", "table", "--data.path", str(tmp_path / "x.npz"), "--out", str(tmp_path / "run"), *given]
    assert main([*table, "--training.steps", "1", "--device", "cpu"]) == 0
    assert ("warning: model.fourier [0, 1] is not used" in capsys.readouterr().err) == bool(given)
    assert Run(tmp_path / "run").config.model.fourier == []
    assert main(["train", "--resume", str(tmp_path / "run"), "--training.steps", "2", "--device", "cpu"]) == 0
    assert "not used" not in capsys.readouterr().err


def test_the_schema_is_kept_with_the_run_and_with_the_model(folder):
    run = folder / "run"
    dataset = Run(run).load_dataset()
    for place in (run, run / "model"):
        json.loads((place / "schema.json").read_text(), parse_constant=lambda word: pytest.fail(word))
        kept = kept_schema(place)
        assert kept.schema == dataset.schema and kept.rows == len(dataset.train) == 255
    assert not list(run.glob("*.png"))
    assert dataset.train.dtype == torch.float64 and dataset.schema.names == tuple(HEADER)
    parts = torch.cat([dataset.train, dataset.validation, dataset.test])
    whole = torch.from_numpy(dataset.schema.encode(read(folder / "x.csv")))
    assert torch.equal(parts.sort(0).values, whole.sort(0).values) and not torch.equal(parts, whole)
    for text, match in (("{}", "does not say the number"), ('{"rows": 3}', "damaged"), ("[", "damaged")):
        (folder / "other").mkdir(exist_ok=True)
        (folder / "other" / "schema.json").write_text(text)
        with pytest.raises(ndm.InputError, match=match):
            kept_schema(folder / "other")


def test_a_run_goes_on(folder, tmp_path, capsys):
    shutil.copytree(folder / "run", tmp_path / "run")
    assert main(["train", "--resume", str(tmp_path / "run"), "--training.steps", "22", "--device", "cpu"]) == 0
    error = capsys.readouterr().err
    assert Run(tmp_path / "run").config.training.steps == 22 and "going on from step 20" in error
    assert "training: step 20 of 22" in error and "step 0 of" not in error
    write_csv(tmp_path / "y.csv", make_rows(ROWS, 1))
    arguments = ["train", "--resume", tmp_path / "run", "--training.steps", 24, "--data.path", tmp_path / "y.csv"]
    assert "the data have changed" in refused(arguments, capsys)


def test_the_quality_of_a_table_is_refused(folder, capsys):
    assert "its figures are those of ndm evaluate" in refused(["quality", folder / "run", "--device", "cpu"], capsys)


def test_evaluate_and_doctor_tell_nats_and_bits_of_rows_and_columns(folder, capsys):
    options = ["--device", "cpu", "--quiet"]
    arguments = ["evaluate", str(folder / "run"), "--estimator", "bound", "--steps", "5", "--passes", "2", *options]
    assert main(arguments) == 0
    header, _, row = capsys.readouterr().out.splitlines()[:3]
    found = dict(zip(header.split(" | "), row.split(" | "), strict=True))
    nats, bits, each = (float(found[name]) for name in ("-log p, nats/row", "bits/row", "bits/column"))
    assert bits == pytest.approx(nats / math.log(2), abs=2e-3) and each == pytest.approx(bits / 3, abs=2e-3)
    assert found["estimator"] == "bound, T=5" and found["n"] == "30"
    assert main([*arguments, "--json"]) == 0
    estimate = json.loads(capsys.readouterr().out)["estimates"][0]
    assert estimate["nats"] == pytest.approx(nats, abs=1e-3)
    assert main(["doctor", str(folder / "run"), "--limit", "3", *options]) == 0
    report = capsys.readouterr().out
    assert "bits/column on 3 rows" in report and "bits/dim" not in report and "of a row of 3 columns is" in report


def test_the_log_of_a_table_has_the_unit_of_its_figures(folder, tmp_path, capsys):
    """Bits of a column everywhere: in the lines of the training, of the estimator and of what the model is."""
    options = ["--training.steps", "4", "--training.evaluate_every", "2", "--training.patience", "1", "--device", "cpu"]
    data = ["--data.path", str(folder / "x.csv"), "--model.width", "8", "--training.learning_rate", "1.0"]
    assert main(["train", "table", "--out", str(tmp_path / "run"), *data, *options]) == 0
    said = capsys.readouterr().err
    assert re.search(r"train -?[\d.]+, validation -?[\d.]+ bits/column, \S+ it/s", said)
    assert re.search(r"is the best, -?[\d.]+ bits/column\n", said) and "bits/dim" not in said
    ndm.NeuralDiffusionDensity(max_steps=2, random_state=0, verbose=True).fit(
        np.random.default_rng(0).normal(size=(90, 2))
    )
    said = capsys.readouterr().err
    assert "bits/column" in said and "bits/dim" not in said


def test_estimators_of_tables_name_their_draws():
    ode = ndm.evaluation.Protocol("ode", samples=3)
    assert ode.draws(drawn=True) == 3 and "through the decoder" in ode.name(drawn=True)
    assert ode.draws(drawn=False) == 1 and "through the decoder" not in ode.name(drawn=False)


def test_scores_are_those_of_the_density(folder):
    scorer = TableModel.load(folder / "run", seed=3)
    frame = read(folder / "x.csv").take(slice(0, 2))
    rows = torch.from_numpy(scorer.schema.encode(frame))
    np.testing.assert_allclose(scorer.score(frame).log_density, log_density(scorer.model, rows, 3).numpy())


def test_scores_are_in_the_order_of_the_file(folder, tmp_path, capsys, monkeypatch, quick):
    rows = make_rows(7, 2)
    rows[3][2] = "Genf"  # which no training row has
    rows[5][3] += 1  # which breaks the relation
    data = write_csv(tmp_path / "rows.csv", [row[::-1] for row in rows], HEADER[::-1])
    out = tmp_path / "deep" / "scores.csv"
    assert main(["score", str(folder / "run"), str(data), "--out", str(out), "--device", "cpu"]) == 0
    said = capsys.readouterr().err
    assert "ndm: warning: values that no training row allows" in said
    assert "nats: city (1 of 7 rows), twice (1 of 7 rows)\n" in said
    scores = read_scores(out)
    found = np.array([float(row["log_density"]) for row in scores])
    kept = kept_schema(folder / "run")
    x = kept.schema.encode(read(data), "odd")
    model = ndm.NDM.from_pretrained(folder / "run")
    assert x[3, 2] == -1
    x[3, 2] = model.predictor.bias.argmax()  # the most frequent city
    expected = quick(model, torch.from_numpy(x)).numpy() - np.isin(range(7), (3, 5)) * math.log(255 + 2)
    np.testing.assert_allclose(found, expected, atol=1e-9)
    assert [int(row["rank"]) for row in scores] == [1 + sum(found < value) for value in found]
    assert list(tmp_path.rglob("*.partial*")) == []
    monkeypatch.setattr(stream, "ROWS", 3)  # the parts of the file change nothing
    capsys.readouterr()
    assert main(["score", str(folder / "run" / "model"), str(data), "--device", "cpu"]) == 0
    said = capsys.readouterr()
    lines = said.out.splitlines()
    assert lines[0] == "log_density" and "ranks need --out" in said.err and "7 of 7" in said.err
    np.testing.assert_allclose([float(line) for line in lines[1:]], expected, atol=1e-6)
    parquet = tmp_path / "scores.parquet"
    assert main(["score", str(folder / "run"), str(data), "--out", str(parquet), "--device", "cpu"]) == 0
    np.testing.assert_allclose(read(parquet).column("log_density"), expected, atol=1e-6)
    assert read(parquet).column("rank").tolist() == [int(row["rank"]) for row in scores]


def test_an_odd_value_is_explained_by_its_column(folder, tmp_path, quick):
    rows = make_rows(3, 4)
    rows[0][1] = 400.0
    rows[1][2] = "Genf"
    data = write_csv(tmp_path / "rows.csv", rows)
    out = tmp_path / "scores.csv"
    assert main(["score", str(folder / "run"), str(data), "--out", str(out), "--explain", "--device", "cpu"]) == 0
    scores = read_scores(out)
    assert list(scores[0]) == ["log_density", "rank", *(f"{w}_{k}" for k in (1, 2, 3) for w in ("column", "drop"))]
    assert scores[0]["column_1"] == "height" and float(scores[0]["drop_1"]) > 3 and scores[0]["rank"] == "1"
    assert scores[1]["column_1"] == "city" and float(scores[1]["drop_1"]) == pytest.approx(math.log(257))
    assert sorted(scores[2][f"column_{k}"] for k in (1, 2, 3)) == ["age", "city", "height"]
    assert all(float(row["drop_1"]) >= float(row["drop_2"]) >= float(row["drop_3"]) for row in scores)


def test_every_kind_of_column_has_a_drop(folder):
    """Columns with many categories take the most frequent; the mean of drops over a column's own draws is 0."""
    scorer = TableModel.load(folder / "run")
    rows = torch.from_numpy(scorer.schema.encode(Frame.of(read(folder / "x.csv")).take(slice(0, 2))))
    flat = lambda rows: -((rows[:, 0] - 40) ** 2) / 200 - (rows[:, 1] - 170) ** 2 / 50  # noqa: E731
    drops = conditional_drops(flat, rows, flat(rows), scorer.model, scorer.schema)
    assert drops.shape == (2, 3) and drops[:, 2].abs().max() < 1e-9  # both cities are as likely
    expected = (rows[:, 1] - 170) ** 2 / 50 - 0.5
    torch.testing.assert_close(drops[:, 1], expected, rtol=0.05, atol=0.05)


def test_samples_are_rows_of_the_table(folder, tmp_path):
    for name in ("new.csv", "new.parquet"):
        out = tmp_path / name
        arguments = ["sample", str(folder / "run"), "--num", "40", "--steps", "5", "--out", str(out), "--device", "cpu"]
        assert main(arguments) == 0
        new, old = read(out), read(folder / "x.csv")
        assert new.names == old.names and [t.name for t in new.types] == [t.name for t in old.types] and len(new) == 40
        assert (new.column("twice") == 2 * new.column("age")).all()
        assert set(new.column("city")) <= {"Basel", "Bern"} and new.column("age").min() >= 18


HOSTILE = {
    "a column missing": ("age,height,city\n30,170.5,Bern\n", "missing: twice"),
    "a column more": ("age,height,city,twice,other\n30,170.5,Bern,60,1\n", "other"),
    "an infinity": ("age,height,city,twice\n30,170.5,Bern,60\n31,inf,Bern,62\n", "infinity"),
    "a missing number": ("age,height,city,twice\n30,170.5,Bern,60\n31,,Bern,62\n", "height (1), first in row"),
    "text for numbers": ("age,height,city,twice\nold,170.5,Bern,60\n", "numbers are expected"),
    "nothing": ("", "is empty"),
    "no rows": ("age,height,city,twice\n", "no rows"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_rows_that_cannot_be_scored_are_refused_before_any_work(case, folder, tmp_path, capsys, monkeypatch):
    text, match = HOSTILE[case]
    monkeypatch.setattr(TableModel, "score", lambda *_: pytest.fail("work before the checks"))
    monkeypatch.setattr(stream, "ROWS", 1)
    (tmp_path / "rows.csv").write_text(text)
    for more in (["--out", tmp_path / "scores.csv"], []):
        assert match in refused(["score", folder / "run", tmp_path / "rows.csv", *more], capsys)
    assert [path.name for path in tmp_path.iterdir()] == ["rows.csv"]


def test_other_mistakes_at_scoring_are_one_line(folder, tmp_path, capsys):
    rows = write_csv(tmp_path / "rows.csv", make_rows(2))
    run = folder / "run"
    assert "must end in .csv or .parquet" in refused(["score", run, rows, "--out", tmp_path / "x.png"], capsys)
    assert "is the file of the rows" in refused(["score", run, rows, "--out", rows], capsys)
    assert "no such file" in refused(["score", run, tmp_path / "nothing.csv"], capsys)
    assert "no model of a table" in refused(["score", tmp_path, rows], capsys)
    shutil.copytree(run / "model", tmp_path / "model")
    (tmp_path / "model" / "schema.json").unlink()
    assert "no model of a table" in refused(["score", tmp_path / "model", rows], capsys)
    assert "of a table must end in" in refused(["sample", run, "--out", tmp_path / "x.png"], capsys)
    schema = Schema.fit(Frame.of(np.random.default_rng(0).normal(size=(9, 5))))
    with pytest.raises(ndm.InputError, match="do not belong together"):
        TableModel(ndm.NDM.from_pretrained(run), schema, 9)


def test_the_schema_of_another_run_of_the_same_shapes_is_refused(folder, tmp_path, capsys):
    rows = write_csv(tmp_path / "rows.csv", make_rows(2))
    shutil.copytree(folder / "run" / "model", tmp_path / "model")
    kept = kept_schema(tmp_path / "model")
    other = replace(kept.schema, columns=tuple(replace(column, high=column.high + 1) for column in kept.schema.columns))
    keep_schema(other, kept.rows, tmp_path / "model")
    error = refused(["score", tmp_path / "model", rows], capsys)
    assert "schema.json and model.safetensors do not belong together" in error
    # Models of the first versions do not name their schema.
    ndm.NDM.from_pretrained(tmp_path / "model").save_pretrained(tmp_path / "model")
    assert TableModel.load(tmp_path / "model").schema == other


def test_tables_that_cannot_be_trained_on_are_one_line(folder, tmp_path, capsys):
    train = ["train", "table", "--out", tmp_path / "run", "--data.path"]
    data = folder / "x.csv"
    assert "needs path" in refused(["train", "table", "--out", tmp_path / "run"], capsys)
    assert "model.schedule is not for tables" in refused([*train, data, "--model.schedule", "learned"], capsys)
    assert "model.tied_to is not for tables" in refused([*train, data, "--model.tied_to", "noise"], capsys)
    assert "model.num_basis is not for tables" in refused([*train, data, "--model.num_basis", 5], capsys)
    assert "F moves the categories" in refused([*train, data, "--model.transform", "linear"], capsys)
    assert "training.sample_every" in refused([*train, data, "--training.sample_every", 5], capsys)
    assert "did you mean height" in refused([*train, data, "--data.columns", "{heigt: real}"], capsys)
    assert "model of more than" in refused([*train, data, "--model.width", 1_000_000], capsys)
    rows = make_rows(60)
    rows[7][1] = rows[59][1] = rows[30][0] = ""  # the counts are those of the file, and not of a part of it
    missing = write_csv(tmp_path / "missing.csv", rows)
    error = refused([*train, missing], capsys)
    assert "age (1), height (2), first in row 7 (counted from 0)" in error and "set --data.impute true" in error
    assert "model.uniform is for tables" in refused(["train", "moons", "--model.uniform", "[1]"], capsys)
    assert not (tmp_path / "run").exists()


def test_missing_values_are_refused_wherever_the_split_puts_them_and_imputed_on_demand(tmp_path):
    rows = make_rows(40)
    for place in range(0, 40, 5):
        changed = [list(row) for row in rows]
        changed[place][1] = ""
        path = write_csv(tmp_path / "x.csv", changed)
        with pytest.raises(ndm.InputError, match=r"height \(1\).*--data.impute true"):
            load_dataset("table", path)
        dataset = load_dataset("table", path, impute=True)
        assert len(dataset.train) + len(dataset.validation) + len(dataset.test) in (39, 40)


def test_held_out_rows_that_no_training_row_allows_for_are_left_out_and_counted(tmp_path, capsys):
    rows, found, path = make_rows(60), set(), tmp_path / "x.csv"
    for place in range(len(rows)):
        changed = [list(row) for row in rows]
        changed[place][2] = "Genf"
        dataset = load_dataset("table", write_csv(path, changed))
        left_out = 60 - len(dataset.train) - len(dataset.validation) - len(dataset.test)
        found.add(left_out)
        assert ("1 test rows left out" in dataset.release or "1 validation rows" in dataset.release) == (left_out == 1)
        assert dataset.schema.categories == (("city", 3 - left_out),)
        if len(found) == 2:
            break
    assert found == {0, 1} and "left out, which hold what no training row holds" in capsys.readouterr().err


@pytest.mark.parametrize("word", ["n.a.", "-"])
def test_a_stray_word_in_a_column_of_numbers_is_told_wherever_the_split_puts_it(word, tmp_path, capsys):
    rows, found = make_rows(60), set()
    for place in range(len(rows)):
        changed = [list(row) for row in rows]
        changed[place][0] = word
        schema = load_dataset("table", write_csv(tmp_path / "x.csv", changed)).schema
        error, notes = capsys.readouterr().err, schema.describe()
        assert next(column for column in schema.columns if column.name == "age").kind == "category"
        in_training = f"age is taken as a category: 1 of 51 values is not a number ('{word}')" in notes
        assert in_training or f"age is taken as a category: 1 of 60 values is not a number ('{word}')" in error
        found.add(in_training)
        if len(found) == 2:
            break
    assert found == {True, False}
    chosen = load_dataset("table", tmp_path / "x.csv", columns={"age": "category"})
    assert "taken as" not in chosen.schema.describe() + capsys.readouterr().err


def test_a_stray_word_is_named_if_it_is_the_cause_of_a_refusal(tmp_path):
    rows = [[row[1], "word" if number == 7 else row[1] / 2] for number, row in enumerate(make_rows(60))]
    path = write_csv(tmp_path / "x.csv", rows, ["a", "b"])
    with pytest.raises(ndm.InputError, match=r"; column b is taken as a category: 1 of 60 values is not a number"):
        load_dataset("table", path)


def test_a_stray_word_among_dates_is_told(tmp_path):
    days = ["2024-02-30" if k == 7 else f"2024-{1 + k % 12:02d}-{1 + k % 28:02d}" for k in range(400)]
    rows = [[row[1], day] for row, day in zip(make_rows(400), days, strict=True)]
    schema = Schema.fit(read(write_csv(tmp_path / "x.csv", rows, ["a", "b"])))
    assert "b is taken as a category: 1 of 400 values is not a date ('2024-02-30')" in schema.describe()


def test_dates_of_which_half_are_written_in_another_way_are_told():
    days = [f"2024-01-{1 + k % 28:02d}" if k % 2 else f"{1 + k % 28}.01.2024" for k in range(400)]
    schema = Schema.fit(Frame.of(pd.DataFrame({"a": np.random.default_rng(0).normal(size=400), "b": days})))
    assert "b is taken as a category: 200 of 400 values are not dates ('1.01.2024')" in schema.describe()


def test_scores_on_a_closed_output_are_refused_before_the_work(folder, monkeypatch, capsys):
    monkeypatch.setattr("sys.stdout", None)
    assert "give a file for the scores with --out" in refused(["score", folder / "run", folder / "x.csv"], capsys)


def test_an_error_about_the_encoding_names_the_option_of_the_command(folder, capsys):
    error = refused(["score", folder / "run", folder / "x.csv", "--encoding", "utf-16"], capsys)
    assert "set --encoding" in error and "--data.encoding" not in error


def test_errors_about_a_table_name_its_file(folder, tmp_path, capsys):
    np.savez(tmp_path / "x.npz", X=np.zeros((0, 3)))
    for arguments in (["train", "table", "--data.path"], ["score", folder / "run"]):
        assert str(tmp_path / "x.npz") in refused([*arguments, tmp_path / "x.npz"], capsys)


def test_a_run_that_has_lost_its_schema_is_not_taken_for_one_of_pictures(folder, tmp_path, capsys):
    run = tmp_path / "run"
    shutil.copytree(folder / "run", run)
    before = (run / "schema.json").read_text()
    (run / "schema.json").unlink()
    for out in ("x.csv", "x.png"):
        error = refused(["sample", run, "--num", 2, "--out", tmp_path / out], capsys)
        assert f"{run / 'schema.json'} is missing; write it again with ndm train --resume {run}" in error
    assert main(["train", "--resume", str(run), "--device", "cpu"]) == 0
    assert (run / "schema.json").read_text() == before


def test_samples_do_not_replace_the_rows_that_the_run_was_trained_on(folder, tmp_path, capsys):
    before = (folder / "x.csv").read_bytes()
    (tmp_path / "link.csv").symlink_to(folder / "x.csv")
    for out in (folder / "x.csv", tmp_path / "link.csv"):
        error = refused(["sample", folder / "run", "--num", 2, "--steps", 2, "--out", out], capsys)
        assert "is the file of the run's data; choose another name" in error
    assert (folder / "x.csv").read_bytes() == before


def test_rows_beyond_the_disk_are_refused_before_the_work(folder, tmp_path, capsys):
    error = refused(["sample", folder / "run", "--num", 10**14, "--out", tmp_path / "x.csv"], capsys)
    assert "100,000,000,000,000 rows take at least" in error and "left" in error and not (tmp_path / "x.csv").exists()
    error = refused(["sample", folder / "run", "--num", 10**14, "--out", tmp_path / "x.parquet"], capsys)
    assert "of memory" in error


def test_columns_and_encodings_are_the_users_choice(tmp_path):
    rows = [[a, h, "Zürich" if c == "Bern" else c, 2 * a] for a, h, c, _ in make_rows(60)]
    text = "\n".join(",".join(map(str, row)) for row in [HEADER, *rows])
    (tmp_path / "x.csv").write_bytes(text.encode("latin-1"))
    with pytest.raises(ndm.InputError, match=r"--data.encoding latin-1"):
        load_dataset("table", tmp_path / "x.csv")
    dataset = load_dataset("table", tmp_path / "x.csv", columns={"age": "real"}, encoding="latin-1")
    kinds = {column.name: column.kind for column in dataset.schema.columns}
    assert kinds["age"] == "real" and "Zürich" in dataset.schema.columns[2].values
    with pytest.raises(ndm.InputError, match="the data set digits has no columns"):
        load_dataset("digits", columns={"age": "real"})


def test_a_table_of_arrays_needs_no_names(tmp_path):
    write(Frame.of(np.random.default_rng(0).normal(size=(50, 2))), tmp_path / "x.npz")
    dataset = load_dataset("table", tmp_path / "x.npz")
    assert dataset.shape == (2,) and dataset.schema.names == ("x0", "x1")
