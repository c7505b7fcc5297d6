"""Tables of every library are taken in and given back as what they were."""

import datetime as dt
import subprocess
import sys

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import scipy.sparse

from ndm.errors import InputError
from ndm.tables import Frame

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
