"""Tables become the model's numbers and come back."""

import json

import numpy as np
import pandas as pd
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ndm.errors import InputError
from ndm.tables import Frame, Schema, keep_schema, kept_schema

N = 60
RNG = np.random.default_rng(0)
TABLE = pd.DataFrame({
    "city": RNG.choice(["Rome", "Oslo", "Bonn"], N),
    "income": RNG.lognormal(size=N),
    "children": RNG.integers(0, 5, N),
    "height": np.round(RNG.normal(1.7, 0.1, N), 2),
    "member": RNG.random(N) < 0.5,
    "grade": pd.Categorical(RNG.choice(["b", "a"], N), ["c", "b", "a"], ordered=True),
    "born": pd.Series(np.datetime64("1980-01-01", "us") + RNG.integers(0, 9000, N) * np.timedelta64(1, "D")),
    "seen": pd.Series(np.datetime64("2024-01-01", "us") + RNG.integers(0, 10**9, N) * np.timedelta64(1, "ms")),
    "note": pd.Series(RNG.choice(np.array(["x", None], object), N)),
    "planet": "Earth",
    "twice": 0.0,
    "city again": "",
    "net": 0.0,
})  # fmt: skip
TABLE["twice"] = TABLE["income"]
TABLE["city again"] = TABLE["city"]
TABLE["net"] = 3 * TABLE["children"] - TABLE["height"] + 1


def fitted(data=TABLE, **options):
    return Schema.fit(Frame.of(data), **options)


def test_the_model_has_numbers_first_and_then_categories():
    schema = fitted()
    numeric, categories = zip(*schema.numeric, strict=True), schema.categories
    assert list(numeric) == [("income", "children", "height", "born", "seen"), (0, 1, 0.01, 0, 0)]
    assert categories == (("city", 3), ("member", 2), ("grade", 2), ("note", 2))
    x = schema.encode(Frame.of(TABLE))
    assert (x.shape, x.dtype) == ((N, 9), np.float64)
    np.testing.assert_array_equal(x[:, 1], TABLE["children"])
    np.testing.assert_array_equal(x[:, 5], [["Bonn", "Oslo", "Rome"].index(v) for v in TABLE["city"]])
    np.testing.assert_array_equal(x[:, 7], [["b", "a"].index(v) for v in TABLE["grade"]])


def test_every_kind_of_column_comes_back():
    schema = fitted()
    pd.testing.assert_frame_equal(schema.decode(schema.encode(Frame.of(TABLE))).native(), TABLE)


def test_a_schema_survives_json():
    schema = fitted()
    again = Schema.from_json(json.loads(json.dumps(schema.to_json(), allow_nan=False)))
    assert again == schema
    x = schema.encode(Frame.of(TABLE))
    np.testing.assert_array_equal(again.encode(Frame.of(TABLE)), x)
    pd.testing.assert_frame_equal(again.decode(x).native(), TABLE)


@pytest.mark.parametrize("change", [{"version": 2}, {"columns": [{}]}, {"columns": None}, {"relations": [{"x": 1}]}])
def test_damaged_schemas_are_refused(change):
    with pytest.raises(InputError):
        Schema.from_json({**fitted().to_json(), **change})
    with pytest.raises(InputError):
        Schema.from_json([])


def test_what_was_found_is_described():
    text = fitted().describe()
    for line in (
        "planet is constant; it is left out and put back",
        "twice is equal to income; it is left out and put back",
        "city again is equal to city; it is left out and put back",
        "net is 3 children - height + 1; it is left out and put back",
    ):
        assert line in text.splitlines()
    assert "cells of 0.01 from 1.4" in text


def test_what_follows_from_a_category_is_left_out_and_put_back_and_its_breach_is_odd():
    rng = np.random.default_rng(0)
    city = rng.choice(["Bonn", "Oslo", "Rome", "Lima"], 400)
    degrees = pd.Series({"Bonn": 50.7, "Oslo": 59.9, "Rome": 41.9, "Lima": -12.0})[city].to_numpy()
    data = pd.DataFrame({"north": degrees, "city": city, "x": rng.normal(size=400), "south": city == "Lima"})
    schema = fitted(data)
    schema = Schema.from_json(json.loads(json.dumps(schema.to_json(), allow_nan=False)))
    assert [name for name, _ in (*schema.numeric, *schema.categories)] == ["x", "city"]
    assert "north follows from city; it is left out and put back" in schema.describe().splitlines()
    pd.testing.assert_frame_equal(schema.decode(schema.encode(Frame.of(data))).native(), data)
    odd = data.iloc[:4].assign(north=50.7, city=["Bonn", "Bonn", "Oslo", "Kiel"], south=[False, True, False, False])
    broken = schema.broken(Frame.of(odd))
    assert broken["north"].tolist() == [False, False, True, True]
    assert broken["south"].tolist() == [False, True, False, True]
    damaged = schema.to_json()
    damaged["relations"][0]["coefficients"] = [1.0]
    with pytest.raises(InputError, match="cannot be computed"):
        Schema.from_json(damaged)


CELLS = {
    "real": st.floats(-1e6, 1e6, allow_nan=False).map(lambda x: x if abs(x) > 1e-100 else 0.0),
    "quantised": st.integers(-50, 50).map(lambda k: k / 4),
    "count": st.integers(0, 40),
    "whole": st.integers(-(2**52), 2**52),
    "category": st.sampled_from(["a", "b", "c d", "é", ""]),
    "maybe": st.sampled_from(["a", "b", None]),
    "truth": st.booleans(),
    "date": st.dates(),
    "time": st.datetimes(pd.Timestamp("1950-01-01"), pd.Timestamp("2050-01-01")),
}


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_table_comes_back(data):
    kinds = data.draw(st.lists(st.sampled_from(sorted(CELLS)), min_size=1, max_size=6))
    rows = data.draw(st.integers(2, 25))
    columns = {
        f"{kind} {j}": data.draw(st.lists(CELLS[kind], min_size=rows, max_size=rows)) for j, kind in enumerate(kinds)
    }
    table = pl.DataFrame(columns, schema_overrides={name: pl.String for name in columns if name.startswith("maybe")})
    if all(len(set(cells)) == 1 for cells in columns.values()):
        with pytest.raises(InputError, match="all columns are constant"):
            fitted(table)
        return
    schema = fitted(table)
    schema = Schema.from_json(json.loads(json.dumps(schema.to_json(), allow_nan=False)))
    x = schema.encode(Frame.of(table))
    assert not schema.violations(Frame.of(table)).any()
    back = schema.decode(x).native()
    assert back.schema == table.schema
    for name, cells in columns.items():
        if name.startswith("real"):
            np.testing.assert_allclose(back[name].to_numpy(), cells, rtol=1e-9, atol=1e-6)
        else:
            assert back[name].to_list() == cells


def test_samples_stay_in_range_and_keep_the_relations():
    schema = fitted()
    x = schema.encode(Frame.of(TABLE))
    samples = np.random.default_rng(1).normal(x.mean(0), 3 * x.std(0), (500, x.shape[1]))
    frame = schema.decode(samples)
    table = frame.native()
    assert set(table["city"]) == {"Rome", "Oslo", "Bonn"}
    assert table["children"].between(0, 4).all() and table["height"].between(*TABLE["height"].agg(["min", "max"])).all()
    np.testing.assert_array_equal(table["height"], np.round(table["height"], 2))
    np.testing.assert_allclose(table["net"], 3 * table["children"] - table["height"] + 1)
    assert (table["planet"] == "Earth").all()
    assert not schema.violations(frame).any()
    with pytest.raises(InputError, match=r"shape \(rows, 9\), got \(500, 8\)"):
        schema.decode(samples[:, 1:])
    with pytest.raises(InputError, match="NaN"):
        schema.decode(np.full((1, 9), np.nan))


def test_missing_numbers_are_refused_or_filled_and_come_back():
    table = TABLE[["income", "children", "seen", "city"]].copy()
    table["children"] = table["children"].astype("Int64")
    for name, rows in (("income", [1, 5, 7]), ("children", [5]), ("seen", [0, 2])):
        table.loc[rows, name] = None
    with pytest.raises(InputError, match=r"NaN.*income \(3\), children \(1\), seen \(2\).*impute=True"):
        fitted(table)
    schema = fitted(table, impute=True)
    assert [name for name, _ in schema.categories] == ["city", "income missing", "children missing", "seen missing"]
    x = schema.encode(Frame.of(table))
    assert np.isfinite(x).all()
    np.testing.assert_array_equal(x[[1, 5, 7], 0], table["income"].median())
    pd.testing.assert_frame_equal(schema.decode(x).native(), table)
    assert not schema.violations(Frame.of(table)).any()
    with pytest.raises(InputError, match="has a column 'income missing'"):
        fitted(table.assign(**{"income missing": 1}), impute=True)


def test_missing_numbers_where_the_training_rows_have_none():
    table = TABLE[["income", "children"]].astype(float)
    odd = table.copy()
    odd.loc[3, "children"] = np.nan
    for impute in (False, True):
        schema = fitted(table, impute=impute)
        with pytest.raises(InputError, match=r"NaN.*children \(1\)"):
            schema.encode(Frame.of(odd))
        with pytest.raises(InputError, match="NaN"):
            schema.encode(Frame.of(odd), unknown="odd")
        assert np.flatnonzero(schema.violations(Frame.of(odd))).tolist() == [3]


def test_new_categories_are_refused_or_odd():
    schema = fitted()
    odd = TABLE.copy()
    odd.loc[[2, 9], "city"] = odd.loc[[2, 9], "city again"] = "Lima"
    with pytest.raises(InputError, match=r"column city holds Lima in row 2 and 1 more, which no training row has"):
        schema.encode(Frame.of(odd))
    x = schema.encode(Frame.of(odd), unknown="odd")
    assert np.flatnonzero(x[:, 5] == -1).tolist() == [2, 9]
    assert np.flatnonzero(schema.violations(Frame.of(odd))).tolist() == [2, 9]
    with pytest.raises(InputError, match="refuse or odd"):
        schema.encode(Frame.of(TABLE), unknown="skip")
    whole = fitted(TABLE.assign(note="x"))
    missing = TABLE.assign(note="x")
    missing.loc[4, "note"] = None
    assert np.flatnonzero(whole.violations(Frame.of(missing))).tolist() == [4]


@pytest.mark.parametrize(
    ("name", "value"), [("planet", "Mars"), ("twice", 0.5), ("city again", "Rome"), ("net", 99.0), ("net", np.nan)]
)
def test_rows_that_break_a_relation_are_violations(name, value):
    schema = fitted()
    table = TABLE.copy()
    row = int(np.flatnonzero(TABLE["city"] != "Rome")[0])
    table.loc[row, name] = value
    schema.encode(Frame.of(table))
    assert np.flatnonzero(schema.violations(Frame.of(table))).tolist() == [row]


def test_rows_in_single_precision_break_no_relation():
    rng = np.random.default_rng(0)
    a, b = rng.normal(1000, 1, (2, 200))
    x = np.stack([a, b, a + b, np.full(200, 0.1), a], 1)
    schema = fitted(x)
    assert schema.names[2:] == tuple(sorted(r.name for r in schema.relations))
    assert not schema.violations(Frame.of(x.astype(np.float32))).any()
    x[7, 3] += 1e-6
    assert np.flatnonzero(schema.violations(Frame.of(x))).tolist() == [7]


def edited(**changes):
    """The file of a schema in which fields of one column have been changed."""
    table = TABLE[["income", "children", "city", "seen", "twice"]]
    value = json.loads(json.dumps(fitted(table).to_json()))
    value["columns"][changes.pop("at", 0)].update(changes)
    return value


@pytest.mark.parametrize(
    ("value", "message"),
    [(edited(name=name), message) for name, message in ((5, "Column.name is 5"), (None, "Column.name is None"))]
    + [(edited(step=step), "step") for step in (float("nan"), -1, "1")]
    + [(edited(at=2, values=values), "values") for values in ([["x"]], [{}, 1, 2], ["a", "a"], [])]
    + [(edited(at=1, values=values), "values of column children") for values in ([2.0, 1.0], ["a"])]
    + [(edited(at=3, unit=unit), "unit|seconds or days") for unit in ("x", 0)]
    + [
        (edited(type={"name": "quaternion"}), "type of column income must be known, got quaternion"),
        (edited(type={"name": "datetime", "zone": "Foo/Bar"}), "zone of column income must be known, got Foo/Bar"),
        (edited(at=3, origin=10**30), "Column.origin is 1000"),
        (edited(at=2, values=[None, "a"]), "the missing value of column city must be the last"),
        (edited(low="x"), "Column.low is 'x'"),
        (edited(spikes=[1.0]), "the frequent values of column income must be rising and have cells"),
        (edited(spikes=[1.0, 0.0], width=0.1), "the frequent values of column income"),
        (edited(low=1e9), "the lowest value of column income"),
        (edited(name="city"), "column city must be there once, got 2 times"),
        (edited(name="wealth"), "relation of column twice must be between known columns"),
        (edited(colour=1), "is no Column"),
        (edited() | {"source": "excel"}, "a table of excel"),
        (edited() | {"notes": [["a"]]}, "is no Note"),
    ],
)
def test_an_edited_schema_is_refused_in_one_line(value, message):
    with pytest.raises(InputError, match=message) as caught:
        Schema.from_json(value)
    assert "\n" not in str(caught.value)


def test_a_kept_schema_with_other_names_is_refused_and_one_of_the_first_version_is_read(tmp_path):
    keep_schema(fitted(), N, tmp_path)
    file = tmp_path / "schema.json"
    value = json.loads(file.read_text())
    assert kept_schema(tmp_path).schema == fitted()
    value["columns"][1]["name"], value["columns"][4]["name"] = "seen", "income"
    file.write_text(json.dumps(value))
    with pytest.raises(InputError, match="schema.json is damaged .its checksum does not match.; restore it"):
        kept_schema(tmp_path)
    first = {"rows": N, **fitted().to_json()}
    file.write_text(json.dumps(first))
    assert kept_schema(tmp_path).schema == fitted()


def test_numbers_are_beside_their_grid_whatever_their_size_and_precision():
    rng = np.random.default_rng(0)
    for step, offset in ((1.0, 0.0), (1.0, 1e9), (0.1, 0.0), (0.05, 300.0), (1 / 3, 0.7), (250.0, 0.0)):
        x = offset + step * rng.integers(0, 30, 400)
        column = Schema.fit(Frame.of(np.stack([x, rng.normal(size=400)], 1))).columns[0]
        more = offset + step * np.arange(-50.0, 200.0)
        assert column.step == pytest.approx(step) and not column.off_grid(more).any()
        assert column.off_grid(more + 0.3 * step).all()
        if offset < 1e6:
            assert not column.off_grid(more.astype(np.float32).astype(np.float64)).any()
    column = Schema.fit(Frame.of(rng.normal(size=(40, 1)))).columns[0]
    assert not column.off_grid(np.array([0.5])).any()


def test_columns_are_matched_by_name_in_dataframes():
    schema = fitted()
    x = schema.encode(Frame.of(TABLE))
    np.testing.assert_array_equal(schema.encode(Frame.of(TABLE[TABLE.columns[::-1]])), x)
    np.testing.assert_array_equal(schema.encode(Frame.of(pl.from_pandas(TABLE))), x)
    with pytest.raises(InputError, match="seen at fit time, yet now missing: income; unseen at fit time: extra"):
        schema.encode(Frame.of(TABLE.drop(columns="income").assign(extra=1)))


def test_columns_are_matched_by_position_in_arrays():
    x = np.random.default_rng(0).normal(size=(30, 4))
    schema = fitted(x)
    np.testing.assert_array_equal(schema.encode(Frame.of(x)), x)
    np.testing.assert_array_equal(schema.encode(Frame.of(pd.DataFrame(x, columns=list("abcd")))), x)
    named = pd.DataFrame(x, columns=["x0", "x1", "x2", "x3"])
    np.testing.assert_array_equal(schema.encode(Frame.of(named[["x2", "x0", "x3", "x1"]])), x)
    message = "X has 3 features, but NeuralDiffusionDensity is expecting 4 features as input"
    with pytest.raises(InputError, match=message):
        schema.encode(Frame.of(x[:, :3]))


def test_columns_that_hold_something_else_are_refused():
    schema = fitted()
    for change, message in (
        ({"income": "rich"}, "column income holds rich in row 0, where numbers are expected"),
        ({"income": np.inf}, r"infinity: column income in 60 row\(s\)"),
        ({"born": 1.5}, "column born holds numbers or truth values, where dates are expected"),
        ({"born": "soon"}, "column born holds soon in row 0, which is no date"),
        ({"born": "2024-01-01T00:00:00.1234567"}, "column born has times finer than a microsecond"),
        ({"income": True}, "column income holds True in row 0, where numbers are expected"),
    ):
        with pytest.raises(InputError, match=message):
            schema.encode(Frame.of(TABLE.assign(**change)))
    dates = TABLE.assign(born=TABLE["born"].astype(str))
    np.testing.assert_array_equal(schema.encode(Frame.of(dates)), schema.encode(Frame.of(TABLE)))


def test_tables_without_anything_to_model_are_refused():
    for data in (np.ones((5, 2)), np.random.default_rng(0).normal(size=(1, 3))):
        with pytest.raises(InputError, match=r"all columns are constant.*n_samples = "):
            fitted(data)


def test_kinds_that_the_user_chose():
    schema = fitted(columns={"children": "category", "height": "real", "member": "real"})
    assert dict(schema.categories)["children"] == 5
    assert dict(schema.numeric)["height"] == 0
    back = schema.decode(schema.encode(Frame.of(TABLE))).native()
    pd.testing.assert_frame_equal(back, TABLE)


def test_a_real_column_that_was_written_with_few_decimals_has_a_grid():
    """The first has 0.001 times its spread between neighbours, so it has a density all the same."""
    rng = np.random.default_rng(0)
    data = {"price": np.round(rng.uniform(0, 35, 400), 2), "stars": rng.integers(1, 6, 400)}
    schema = Schema.fit(Frame.of(pd.DataFrame({**data, "weight": rng.normal(size=400), "town": ["a", "b"] * 200})))
    assert schema.numeric == (("price", 0.0), ("stars", 1.0), ("weight", 0.0))
    assert schema.layout.grids == pytest.approx([0.01, 1.0, 0.0])
