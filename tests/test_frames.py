"""Tables of every library are taken in and given back as what they were."""

import datetime as dt
import decimal
import json
import subprocess
import sys
import zoneinfo

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import scipy.sparse
import torch

from ndm.errors import InputError
from ndm.tables import Frame, Schema

DIGITS = decimal.Decimal("0.12345678901234567890")
YEARS = "column a has dates that are not in the years 1 to 9999"
DAY, TIME = dt.date(2024, 2, 29), dt.datetime(2024, 2, 29, 12, 30, 1, 5)
PANDAS = pd.DataFrame({
    "real": [0.1, np.nan, 2.5], "single": np.array([0.1, 0.2, 0.3], "float32"), "small": np.array([1, -2, 3], "int8"),
    "nullable": pd.array([1, None, 3], "Int16"), "truth": [True, False, True],
    "maybe": pd.array([True, None, False], "boolean"), "text": pd.Series(["a", None, "b"]),
    "category": pd.Categorical(["x", "y", None], ["y", "x", "z"]),
    "ordered": pd.Categorical(["low", "high", "low"], ["low", "mid", "high"], ordered=True),
    "grade": pd.Categorical([3, 5, 3], [5, 3]), "day": pd.Series([DAY, None, DAY], dtype=object),
    "time": pd.to_datetime([TIME, None, TIME]).as_unit("us"), "nanos": pd.to_datetime([TIME] * 3).as_unit("ns"),
    "zone": pd.to_datetime([TIME] * 3).as_unit("ms").tz_localize("Europe/Berlin"),
})  # fmt: skip
POLARS = pl.DataFrame({
    "real": [0.1, None, 2.5], "single": pl.Series([0.1, 0.2, 0.3], dtype=pl.Float32),
    "small": pl.Series([1, None, 3], dtype=pl.UInt8), "truth": [True, None, False], "text": ["a", None, "b"],
    "category": pl.Series(["x", "y", None], dtype=pl.Categorical),
    "ordered": pl.Series(["low", "high", None], dtype=pl.Enum(["low", "mid", "high"])), "day": [DAY, None, DAY],
    "time": [TIME, None, TIME], "zone": pl.Series([TIME] * 3, dtype=pl.Datetime("ms", "Europe/Berlin")),
})  # fmt: skip
ARROW = pa.table({
    "real": [0.1, None, 2.5], "small": pa.array([1, None, 3], pa.int8()), "truth": [True, None, False],
    "text": ["a", None, "b"], "day": [DAY, None, DAY], "time": pa.array([TIME, None, TIME], pa.timestamp("us")),
    "zone": pa.array([TIME] * 3, pa.timestamp("us", "UTC")),
    "category": pa.array(["x", None, "y"]).dictionary_encode(), "grade": pa.array([5, 3, None]).dictionary_encode(),
})  # fmt: skip


def test_pandas_comes_back_with_its_types():
    frame = Frame.of(PANDAS)
    assert (frame.kind, len(frame)) == ("pandas", 3)
    pd.testing.assert_frame_equal(frame.native(), PANDAS)


@pytest.mark.parametrize("dtype", ["Int64", "UInt8", "Float32", "boolean"])
@pytest.mark.parametrize("missing", [False, True])
def test_types_of_pandas_with_missing_values_come_back_whether_a_sample_has_one_or_not(dtype, missing):
    cells = pd.array([0, 1, pd.NA if missing else 1, 0], dtype=dtype)
    table = pd.DataFrame({"a": cells, "b": [0.5, 1.5, 0.25, 1.0]})
    schema = Schema.fit(Frame.of(table), impute=True)
    schema = Schema.from_json(json.loads(json.dumps(schema.to_json())))
    assert not any("comes back" in note.text for note in schema.notes)
    frame = Frame.of(table)
    pd.testing.assert_frame_equal(frame.native(), table)
    assert (
        frame.take([0, 1]).native()["a"].dtype == schema.decode(schema.encode(frame)[:2]).native()["a"].dtype == dtype
    )


@pytest.mark.parametrize("case", ["arrow", "sparse", "string", "category", "large text", "decimal"])
def test_a_column_that_comes_back_as_another_type_says_so_in_one_line(case):
    words, numbers = ["x", "y", "x", "x"], [1, 0, 2, 0]
    table, after = {
        "arrow": (pd.DataFrame({"a": pd.array(numbers, dtype="int32[pyarrow]")}), "int32"),
        "sparse": (pd.DataFrame({"a": pd.arrays.SparseArray(numbers)}), "int64"),
        "string": (pd.DataFrame({"a": pd.array(words, dtype=pd.StringDtype("python"))}), None),
        "category": (pd.DataFrame({"a": pd.Series(words).astype("category")}), None),
        "large text": (pa.table({"a": pa.array(words, pa.large_string())}), "string"),
        "decimal": (pl.DataFrame({"a": pl.Series(numbers).cast(pl.Decimal(10, 2))}), "Float64"),
    }[case]
    frame = Frame.of(table)
    schema = Schema.fit(frame)
    old, new = (str(next(iter(t.dtypes if hasattr(t, "dtypes") else t.schema.types))) for t in (table, frame.native()))
    said = [note.text for note in schema.notes if "comes back" in note.text]
    assert said == ([] if old == new else [f"is of the type {old}, and comes back as {new}"])
    assert after in (None, new)


def test_dates_and_dictionaries_of_arrow_in_pandas_are_dates_and_categories():
    days = pd.Series([DAY, DAY + dt.timedelta(1), None, DAY]).astype(pd.ArrowDtype(pa.date32()))
    words = pd.Series(["x", None, "y", "x"]).astype(pd.ArrowDtype(pa.dictionary(pa.int32(), pa.string())))
    frame = Frame.of(pd.DataFrame({"day": days, "word": words}))
    assert [known.name for known in frame.types] == ["date", "category"]
    assert frame.native()["day"].tolist() == [DAY, DAY + dt.timedelta(1), None, DAY]
    assert frame.native()["word"].astype(object).where(words.notna(), None).tolist() == ["x", None, "y", "x"]


def test_text_with_half_a_character_comes_back_in_pandas_and_is_refused_where_it_cannot():
    frame = Frame.of(pd.DataFrame({"a": pd.Series(["\ud800", "x", None], dtype=object)}))
    assert frame.native()["a"].tolist() == ["\ud800", "x", None]
    for kind in ("polars", "pyarrow"):
        with pytest.raises(InputError, match="half a character"):
            frame.native(kind)


def test_polars_comes_back_with_its_types():
    back = Frame.of(POLARS).native()
    assert back.schema == POLARS.schema
    assert back.equals(POLARS)


def test_pyarrow_comes_back_with_its_types():
    back = Frame.of(ARROW).native()
    assert back.schema == ARROW.schema
    assert back.equals(ARROW)


@pytest.mark.parametrize("dtype", ["float64", "float32", "int16", "uint8", "bool", "datetime64[s]", "datetime64[D]"])
def test_arrays_come_back_with_their_types(dtype):
    array = np.array([[0, 1, 0], [1, 1, 0]]).astype(dtype)
    frame = Frame.of(array)
    assert frame.names == ("x0", "x1", "x2")
    assert frame.native().dtype == array.dtype
    np.testing.assert_array_equal(frame.native(), array)


def test_mixed_lists_become_columns_of_their_types():
    frame = Frame.of([[1, 0.5, "a", True, None], [2, None, "1", False, "b"]])
    assert [known.name for known in frame.types] == ["int64", "float64", "string", "bool", "string"]
    assert frame.native().tolist()[0] == [1, 0.5, "a", True, None]
    assert np.isnan(frame.column("x1")[1])


def test_numbers_as_objects_are_numbers():
    x = np.random.default_rng(0).normal(size=(5, 2))
    frame = Frame.of(x.astype(object))
    np.testing.assert_array_equal(np.stack(frame.columns, 1), x)


def test_columns_of_one_library_are_given_as_another():
    for kind in ("numpy", "pandas", "polars", "pyarrow"):
        assert Frame.of(POLARS).native(kind) is not None
    assert Frame.of(PANDAS[["small", "truth"]]).native("polars").to_dict(as_series=False) == {
        "small": [1, -2, 3],
        "truth": [True, False, True],
    }
    with pytest.raises(InputError, match="numpy, pandas, polars, pyarrow"):
        Frame.of(POLARS).native("spark")


def test_times_in_a_zone_are_the_same_instants():
    array = Frame.of(POLARS).column("zone")
    assert array[0] == np.datetime64("2024-02-29T12:30:01")


def pandas_knows_dateutil():
    """Older pandas cannot take zones of newer dateutil at all."""
    try:
        return bool(pd.to_datetime(["2024-06-01 12:00"]).tz_localize("dateutil/Europe/Paris").tolist())
    except AttributeError:
        return False


@pytest.mark.skipif(not pandas_knows_dateutil(), reason="this pandas cannot take zones of this dateutil")
def test_zones_of_objects_and_of_dateutil_are_the_same_instants():
    paris = pd.to_datetime(["2024-06-01 12:00"]).tz_localize("dateutil/Europe/Paris")
    for cells in (paris, paris.tz_convert("Europe/Paris").astype(object)):
        frame = Frame.of(pd.DataFrame({"a": cells}))
        assert frame.column("a")[0] == np.datetime64("2024-06-01T10:00")
        assert frame.native()["a"][0] == paris[0]
    assert frame.native()["a"].dtype == "datetime64[us, Europe/Paris]"


@pytest.mark.skipif(not pandas_knows_dateutil(), reason="this pandas cannot take zones of this dateutil")
def test_zones_of_dateutil_come_back_and_zones_that_cannot_are_told():
    from dateutil import tz

    def zones(*times):
        frame = Frame.of(pd.DataFrame({"a": np.array(times, object), "b": np.arange(len(times))}))
        return frame.types[0].zone, Schema.fit(frame)

    days = [dt.datetime(2024, 1, day, 12) for day in range(1, 9)]
    for zone, name in (
        (tz.gettz("Europe/Paris"), "Europe/Paris"), (tz.tzoffset(None, 7200), "UTC+02:00"), (tz.UTC, "UTC"),
        (dt.timezone(dt.timedelta(hours=-5)), "UTC-05:00"), (zoneinfo.ZoneInfo("Asia/Tokyo"), "Asia/Tokyo"),
    ):  # fmt: skip
        found, schema = zones(*(day.replace(tzinfo=zone) for day in days))
        assert found == name and not any("UTC" in note.text for note in schema.notes)
        back = schema.decode(np.array([[0.0], [1.0]]) * [1.0, 1.0]).native() if len(schema.model_columns) == 2 else None
        assert back is None or back["a"][0].utcoffset() == days[0].replace(tzinfo=zone).utcoffset()
    mixed = [day.replace(tzinfo=dt.timezone(dt.timedelta(hours=i % 2))) for i, day in enumerate(days)]
    found, schema = zones(*mixed)
    assert (
        found == "UTC" and "a has times in the zone(s) UTC, UTC+01:00; its times come back in UTC" in schema.describe()
    )
    assert Schema.from_json(schema.to_json()) == schema


def test_whole_numbers_as_names_come_back():
    table = pd.DataFrame({0: [1.5, 2.5], 7: [DAY, DAY], "a": [1, 2]})
    schema = Schema.from_json(Schema.fit(Frame.of(table)).to_json())
    assert schema.names == ("0", "7", "a")
    back = schema.decode(schema.encode(Frame.of(table))).native()
    pd.testing.assert_frame_equal(back, table)


def test_numbers_that_float64_holds_are_numbers_whatever_they_are_kept_as():
    third = decimal.Decimal("12345678.91")
    for table in (
        pa.table({"a": [third, None]}), pd.DataFrame({"a": [third, decimal.Decimal("sNaN")]}),
        [[third], [decimal.Decimal("NaN")]], memoryview(np.array([[12345678.91], [np.nan]])),
    ):  # fmt: skip
        np.testing.assert_array_equal(Frame.of(table).columns[0], [12345678.91, np.nan])
    wide = Frame.of(pl.DataFrame({"a": pl.Series([3, None], dtype=pl.Int128)}))
    np.testing.assert_array_equal(wide.columns[0], [3, np.nan])


def test_rows_are_taken():
    frame = Frame.of(np.arange(6).reshape(3, 2)).take([2, 0])
    np.testing.assert_array_equal(frame.native(), [[4, 5], [0, 1]])
    with pytest.raises(InputError, match="no column 'y'; it has x0, x1"):
        frame.column("y")


REFUSED = {
    "one dimension": (np.zeros(3), "Expected 2D array, got 1D array instead.*Reshape your data"),
    "a list of numbers": ([1, 2], "Expected 2D array, got 1D array instead"),
    "a series": (pd.Series([1.0]), "Expected 2D array, got 1D array instead"),
    "a number": (1, "a int is no table"),
    "three dimensions": (np.zeros((2, 2, 2)), "dim 3"),
    "no rows": (np.zeros((0, 3)), r"Found array with 0 sample\(s\)"),
    "no columns": (np.zeros((12, 0)), r"0 feature\(s\) \(shape=\(12, 0\)\) while a minimum of 1 is required\."),
    "no rows in pandas": (pd.DataFrame({"a": []}), r"Found array with 0 sample\(s\)"),
    "complex numbers": (np.zeros((2, 2), complex), "Complex data not supported"),
    "complex objects": (np.array([[1j], [1.0]], object), "Complex data not supported"),
    "ragged lists": ([[1, 2], [3, 4], [5]], "row 0 has 2 values, and row 2 has 1"),
    "equal names": (pd.DataFrame(np.zeros((2, 2)), columns=["a", "a"]), "2 columns have the name 'a'"),
    "equal names in pyarrow": (pa.table([[1], [2]], ["a", "a"]), "2 columns have the name 'a'"),
    "sparse": (scipy.sparse.csr_matrix(np.eye(2)), "sparse"),
    "a masked array": (np.ma.masked_array(np.eye(2)), "masked array"),
    "lists in cells": (pl.DataFrame({"a": [[1]]}), r"column a is of type List"),
    "structs in cells": (pl.DataFrame({"a": [{"b": 1}]}), r"column a is of type Struct"),
    "bytes in cells": (pl.DataFrame({"a": [b"b"]}), r"column a is of type Binary"),
    "durations": (pl.DataFrame({"a": [dt.timedelta(1)]}), r"column a is of type Duration"),
    "text and numbers": (pd.DataFrame({"a": [1, "b"]}), "column a mixes text and numbers"),
    "large integers": (np.array([[2**53 + 1]]), "column x0 holds integers beyond 2"),
    "whole numbers beyond float64 with a gap": (pa.table({"a": pa.array([2**63 - 1, None])}), "integers beyond 2"),
    "whole numbers beyond float64 with fractions": ([[10**400, 1], [2.5, 3]], "column x0 holds integers beyond 2"),
    "wide integers": (pl.DataFrame({"a": pl.Series([1, 2**90], dtype=pl.Int128)}), "column a holds integers beyond 2"),
    "decimals of many digits": (pa.table({"a": [DIGITS, DIGITS + decimal.Decimal("1e-20")]}), "more digits than real"),
    "objects of many digits": ([[DIGITS], [decimal.Decimal(1)]], "column x0 holds 0.12345678901234567890, which has"),
    "long doubles": (np.array([[np.longdouble(1) / 3]]), "column x0 has more digits than float64"),
    "days beyond all years": (pa.table({"a": pa.array([2**31 - 1, 3], pa.int32()).cast(pa.date32())}), YEARS),
    "seconds beyond all years": (pd.DataFrame({"a": np.array([["318857"], ["2024"]], "M8[s]")[:, 0]}), YEARS),
    "years beyond all years": (np.array([["300000"], ["2024"]], "M8[Y]"), "column x0 has dates that are not in"),
    "nanoseconds": (pd.DataFrame({"a": [pd.Timestamp(1)]}), "column a has times finer than a microsecond"),
    "nanoseconds in an array": (np.array([[1]], "M8[ns]"), "column x0 has times finer than a microsecond"),
    "nanoseconds as objects": (pd.DataFrame({"a": [pd.Timestamp(1)]}, dtype=object), "finer than a microsecond"),
    "nanoseconds of NumPy as objects": ([[np.datetime64(1, "ns")]], "column x0 has times finer than a microsecond"),
    "a row that is a set": ([{1.0, 2.0}, {3.0, 4.0}], "1D array"),
    "times with and without a zone": ([[TIME], [TIME.replace(tzinfo=dt.timezone.utc)]], "with a time zone and times w"),
    "an unknown zone": (pa.table({"a": pa.array([TIME], pa.timestamp("us", "Foo/Bar"))}), "time zone Foo/Bar"),
    "names of several levels": (pd.DataFrame([[1]], columns=pd.MultiIndex.from_tuples([("a", "b")])), "the name .'a'"),
    "no name": (pd.DataFrame([[1]], columns=[None]), "a column has the name None; make the names of all columns text"),
    "a number and its text as names": (pd.DataFrame([[1, 2]], columns=[1, "1"]), "2 columns have the name '1'"),
    "a tensor with a gradient": (torch.ones(2, 2, requires_grad=True), "a Tensor could not be read.*requires grad"),
    "a tensor in bfloat16": (torch.ones(2, 2, dtype=torch.bfloat16), "a Tensor could not be read.*double"),
    "a tensor without values": (torch.ones(2, 2, device="meta"), "a Tensor could not be read.*meta"),
    "a sparse tensor": (torch.eye(2).to_sparse(), "a Tensor could not be read.*Sparse"),
    "a lazy table": (pl.DataFrame({"a": [1]}).lazy(), "lazy"),
    "a dict": ({"a": [1]}, "a dict is no table"),
    "records": (np.zeros((2, 2), [("a", float)]), "is not read"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_table_is_refused_in_one_line(case):
    data, message = REFUSED[case]
    with pytest.raises(InputError, match=message) as caught:
        Frame.of(data)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("cell", [{"foo": "bar"}, [1], b"b"])
def test_other_objects_are_type_errors_as_scikit_learn_expects(cell):
    array = np.zeros((3, 2), object)
    array[0, 0] = cell
    with pytest.raises(TypeError, match="argument must be .* string.* number"):
        Frame.of(array)


def test_tables_need_neither_torch_nor_a_dataframe_library():
    code = (
        "import sys, numpy as np; from ndm.tables import Frame, Schema;"
        "frame = Frame.of(np.random.default_rng(0).normal(size=(50, 3)));"
        "schema = Schema.fit(frame); schema.decode(schema.encode(frame)).native();"
        "from ndm.tables import read, write; print(*sys.modules)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    loaded = {name.partition(".")[0] for name in out.split()}
    assert not loaded & {"torch", "pyarrow", "pandas", "polars", "sklearn", "scipy"}
