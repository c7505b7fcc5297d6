"""What columns hold is found out, and their values come back from their numbers."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ndm.errors import InputError
from ndm.tables import Frame, Schema
from ndm.tables.cells import Type
from ndm.tables.column import Column
from ndm.tables.detect import detect
from ndm.tables.grid import Grid, cells, find_grid, frequent, spread
from ndm.tables.kinds import chosen_kinds
from ndm.tables.relations import constants_and_copies, functions_of_categories, linear_relations

REAL = Type("float64")


def found(x, kind=None, type=REAL):
    return detect("a", np.asarray(x), type, kind)[0]


@settings(max_examples=100, deadline=None)
@given(
    decimals=st.integers(0, 6),
    step=st.integers(1, 40),
    first=st.integers(-500, 500),
    multiples=st.lists(st.integers(0, 200), min_size=3, unique=True),
)
def test_a_decimal_grid_is_found_exactly(decimals, step, first, multiples):
    multiples = np.sort(multiples)
    whole = first + step * multiples
    values = whole / 10.0**decimals
    grid = find_grid(values)
    expected = np.gcd.reduce(np.diff(whole)) / 10.0**decimals
    assert grid.step == pytest.approx(expected, rel=1e-12)
    assert grid.decimals <= decimals
    np.testing.assert_array_equal(grid.nearest(values + 0.3 * grid.step), values)


def test_rounding_of_floats_does_not_hide_a_grid():
    values = 0.1 * np.arange(30)
    assert values[3] != 0.3
    assert find_grid(values) == Grid(0.0, 0.1, 1)
    single = np.arange(1, 30, dtype=np.float32) * np.float32(0.01)
    assert find_grid(single.astype(np.float64)) == Grid(0.0, 0.01, 2)


@pytest.mark.parametrize("step", [1 / 3, np.pi / 40, 1 / 17.3])
def test_grids_of_rescaled_numbers_are_found(step):
    k = np.random.default_rng(0).integers(0, 100, 500)
    values = np.unique((k - k.mean()) * step / 7)
    grid = find_grid(values, 1e-4 * values.std())
    assert grid.decimals is None
    assert grid.step == pytest.approx(step / 7 * np.gcd.reduce(np.diff(np.unique(k))), rel=1e-9)
    np.testing.assert_allclose(grid.nearest(values), values, atol=1e-12)


def test_a_few_whole_numbers_lie_on_the_grid_of_whole_numbers():
    assert find_grid(np.array([0.0, 56918.0, 57498.0])) == Grid(0.0, 2.0, 0)
    assert find_grid(np.array([0.0, 56918.0, 57499.0])) == Grid(0.0, 1.0, 0)
    assert find_grid(np.array([-(2.0**53), 0.0, 1.0, 2.0, 3.0, 2.0**53])) == Grid(0.0, 1.0, 0)
    assert find_grid(np.array([np.sqrt(2), np.e, np.pi])) is None


def test_random_reals_lie_on_no_coarse_grid():
    x = np.random.default_rng(0).normal(size=2000)
    assert cells(x).step == 0
    assert cells(x[:40]).step == 0
    assert cells(x.astype(np.float32).astype(np.float64)).step == 0
    assert cells(np.random.default_rng(0).exponential(size=50)).step == 0


def test_spread_is_not_moved_by_one_far_value():
    x = np.append(np.random.default_rng(0).normal(size=999), 1e6)
    assert spread(x) == pytest.approx(1, abs=0.1)
    assert x.std() > 1e4
    assert spread(np.array([0.0] * 90 + [1.0] * 10)) == pytest.approx(0.3)  # the quartiles are equal


def test_the_rules_for_discrete_columns():
    rng = np.random.default_rng(0)
    normal = rng.normal(size=2000)
    assert cells(np.round(normal, 1)).step == 0.1  # a step of 10 % of the spread
    assert cells(np.round(normal, 3)).step == 0  # 0.1 %, and most values are distinct
    assert cells(np.round(normal[rng.integers(0, 60, 2000)], 6)).values  # 60 values, on a grid that is 10^-6
    few = rng.choice([0.0, 0.0826, 1.0], 100)
    assert cells(few).step == pytest.approx(0.0826)
    assert cells(few).values == (0.0, 0.0826, 1.0)
    filled = cells(rng.integers(0, 1000, 30000) / 1000 * 3)  # 0.3 % of the spread, but all of the grid is used
    assert (filled.values, filled.step) == ((), 0.003)


def test_values_that_are_very_far_are_named():
    """A wrong number, or a code for a missing one; a heavy tail is neither."""
    rng = np.random.default_rng(0)
    for values, which in (([-9999999.0], "a value (-1e+07)"), ([1e9, -3.4e38], "2 values (such as -3.4e+38)")):
        x = np.append(rng.normal(size=300), values)
        (text,) = [note.text for note in detect("a", x, REAL)[1]]
        assert text.startswith(f"has {which} further from the median than 1000 times the range of most")
    for x in (rng.normal(size=300), np.exp(2 * rng.normal(size=3000)), rng.standard_t(2, 3000)):
        assert not detect("a", x, REAL)[1]


def test_frequent_values_are_named_and_a_spiked_column_stays_real():
    x = np.where(np.arange(1000) % 5 == 0, 0.0, np.random.default_rng(0).normal(size=1000))
    nearest = np.abs(x[x != 0]).min()
    column, notes = detect("a", x, REAL)
    assert column.kind == "real"
    assert frequent(x) == [(0.0, 0.2)]
    (text,) = [note.text for note in notes]
    assert text.startswith("is real but has frequent values: 0 in 20% of the rows; cells of width ")
    assert column.spikes == (0.0,) and column.width == min(nearest, 1e-3 * spread(x))
    assert frequent(np.arange(10.0)) == []


@pytest.mark.parametrize(
    ("array", "type", "kind", "step"),
    [
        (np.arange(50.0), REAL, "count", 1),
        (np.arange(50) * 5, Type("int64"), "count", 5),
        (np.arange(-25, 25), Type("int64"), "quantised", 1),
        (np.arange(50) / 4, REAL, "quantised", 0.25),
        (np.random.default_rng(0).integers(0, 10**6, 200), Type("int64"), "real", 0),
        (np.array(["b", "a", None] * 9, object), Type("string"), "category", 0),
        (np.array([True, False] * 9), Type("bool"), "category", 0),
        (np.array([3, 1] * 9), Type("category", (3, 1)), "category", 0),
        (
            np.arange("2024-01-01", "2024-02-01", dtype="datetime64[D]").astype("datetime64[us]"),
            Type("date"),
            "date",
            1,
        ),
    ],
)
def test_kinds(array, type, kind, step):
    column = found(array, type=type)
    assert (column.kind, column.step) == (kind, step)
    decoded = column.decode(column.encode(array))
    assert decoded.dtype == array.dtype
    np.testing.assert_array_equal(decoded, array)
    assert Column.from_json(json.loads(json.dumps(column.to_json(), allow_nan=False))) == column


def test_the_order_of_categories():
    text = np.array(["b", None, "a", "c"] * 5, object)
    assert found(text, type=Type("string")).values == ("a", "b", "c", None)
    assert found(text, type=Type("enum", ("c", "z", "b", "a"))).values == ("c", "b", "a", None)
    np.testing.assert_array_equal(found(text, type=Type("string")).codes(text[:4]), [1, 3, 0, 2])
    assert found(np.array([True, None, False], object), type=Type("bool")).values == (False, True, None)


def test_categories_that_are_new_have_no_code():
    column = found(np.array(["1", "x"] * 5, object), type=Type("string"))
    np.testing.assert_array_equal(column.codes(np.array(["x", "y", None], object)), [1, -1, -1])
    np.testing.assert_array_equal(column.codes(np.array([1, 2])), [0, -1])  # a file in which all looks like numbers


def test_samples_are_on_the_grid_and_in_the_range():
    column = found(np.arange(10, 50) / 2)
    np.testing.assert_array_equal(column.decode(np.array([-3.0, 7.26, 1e9])), [5, 7.5, 24.5])
    column = found(np.arange(10, 50), type=Type("uint8"))
    assert column.decode(np.array([12.4])).dtype == np.int64
    fine = found(np.random.default_rng(0).integers(0, 2**31 - 1, 200), type=Type("int32"))
    np.testing.assert_array_equal(fine.decode(np.array([3.4, 1e12])), [3, 2**31 - 1])
    listed = found(np.random.default_rng(0).choice([0.0, 0.0826, 1.0], 100))
    np.testing.assert_array_equal(listed.decode(np.array([-1, 0.05, 0.04, 0.6, 3])), [0, 0.0826, 0, 1, 1])


def test_a_real_column_keeps_its_decimals():
    x = np.round(np.random.default_rng(0).normal(size=300), 4)
    column = found(x)
    assert (column.kind, column.step) == ("real", 0)
    np.testing.assert_array_equal(column.decode(x + 3e-5), x)


def test_dates_are_days_or_seconds_since_the_first():
    days = np.array(["2024-03-01", "2024-02-28", "2024-03-10"], "datetime64[us]")
    column = found(days, type=Type("date"))
    np.testing.assert_array_equal(column.encode(days), [2, 0, 11])
    times = days + np.array([0, 30, 90], "timedelta64[s]")
    column = found(times, type=Type("datetime"))
    assert column.encode(times)[2] - column.encode(times)[1] == 11 * 86400 + 60
    np.testing.assert_array_equal(column.decode(column.encode(times)), times)
    text = np.array(["2024-03-01", "2024-02-28T12:30:00", None], object)
    column = found(text, "date", Type("string"))
    assert column.decode(column.encode(text)).tolist() == ["2024-03-01T00:00:00", "2024-02-28T12:30:00", None]


REFUSED = {
    "an identifier": (
        np.array([f"n{i}" for i in range(200)], object),
        None,
        "200 different values in 200 rows.*drop it",
    ),
    "numbers as text": (np.array([f"{i}" for i in range(200)], object), None, "200 different values.*make it numbers"),
    "infinities": (np.array([1, np.inf, -np.inf]), None, r"infinity: column a in 2 row\(s\)"),
    "missing values only": (np.full(3, np.nan), None, "only missing values; drop it"),
    "negative counts": (np.array([1.0, -1.0]), "count", "cannot be a count"),
    "fractions as counts": (np.array([1.0, 1.5]), "count", "cannot be a count"),
    "text as numbers": (np.array(["x", "y"], object), "real", "holds x in row 0, where numbers"),
    "numbers as dates": (np.array([1.0, 2.0]), "date", "cannot be a date"),
    "text that is no date": (np.array(["2024-01-01", "now"], object), "date", "holds now in row 1, which is no date"),
    "no common step": (np.random.default_rng(0).normal(size=50), "quantised", "no common step"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_columns_that_cannot_be_used_are_refused(case):
    array, kind, message = REFUSED[case]
    with pytest.raises(InputError, match=message) as caught:
        found(array, kind, Type("string") if array.dtype == object else REAL)
    assert "\n" not in str(caught.value)


def test_kinds_are_chosen_by_name_or_position():
    names = ("age", "grade", "city")
    assert chosen_kinds({"grade": "category", 0: "real", -1: "category"}, names) == {
        "age": "real", "grade": "category", "city": "category",
    }  # fmt: skip
    for columns, message in (
        ({"grad": "category"}, "no column grad; did you mean grade?"),
        ({"age": "categorie"}, "kind categorie of column age is unknown; did you mean category?"),
        ({3: "real"}, "no column 3; the positions are 0 to 2"),
        ({"age": "real", 0: "count"}, "column age is given a kind twice"),
        (["age"], "columns must map"),
    ):
        with pytest.raises(InputError) as caught:
            chosen_kinds(columns, names)
        assert message in str(caught.value)


def test_a_number_as_a_category_keeps_its_type():
    column = found(np.array([3, 1, 2, 3]), "category", Type("int64"))
    assert column.values == (1, 2, 3)
    assert column.decode(np.array([0.2, 2])).dtype == np.int64
    missing = found(np.array([3, np.nan, 2]), "category", Type("int64"))
    assert missing.values == (2, 3, None)
    np.testing.assert_array_equal(missing.decode(np.array([0, 1, 2])), [2, 3, np.nan])


def test_constants_and_copies():
    x = {"a": np.arange(3.0), "b": np.full(3, 7.0), "c": np.arange(3.0), "d": np.arange(3.0)}
    relations = constants_and_copies(x, {"a": 0, "b": 0, "c": 0, "d": 1})
    assert [(r.name, r.text) for r in relations] == [("b", "is constant"), ("c", "is equal to a")]
    np.testing.assert_array_equal(relations[0].value(x, 3), x["b"])
    np.testing.assert_array_equal(relations[0].broken({"b": np.array([7.0, 7.5, np.nan])}), [False, True, True])


def test_a_function_of_a_category_is_found_and_chance_is_not():
    rng = np.random.default_rng(0)
    code = rng.integers(0, 4, 400).astype(float)
    x = {
        "number": np.array([3.5, 1.0, 1.0, -2.0])[code.astype(int)], "code": code, "same": (code + 1) % 4,
        "group": code // 2, "free": rng.integers(0, 2, 400).astype(float),
        "noisy": np.where(np.arange(400) == 7, 3, code),
        "rare": (np.arange(400) == 9).astype(float), "many": np.arange(400.0) // 4,
    }  # fmt: skip
    counts = {"code": 4, "same": 4, "group": 2, "free": 2, "noisy": 4, "rare": 2, "many": 100}
    relations = functions_of_categories(x, counts)
    assert [(r.name, r.others, r.text) for r in relations] == [
        (name, ("code",), "follows from code") for name in ("number", "same", "group")
    ]
    for relation in relations:
        np.testing.assert_array_equal(relation.value(x, 400), x[relation.name])
        other = {**x, relation.name: x[relation.name] + (np.arange(400) == 5)}
        assert np.flatnonzero(relation.broken(other)).tolist() == [5]
        unknown = {**x, "code": np.where(np.arange(400) == 6, -1, code)}
        assert np.flatnonzero(relation.broken(unknown)).tolist() == [6]
    few = {name: column[:100] for name, column in x.items()}
    assert functions_of_categories(few, counts) == []


def test_functions_of_functions_are_computed_in_their_order():
    code = np.arange(400.0) % 4
    x = {"mid": np.array([1.0, 0, 2, 3])[code.astype(int)], "code": np.arange(400.0) % 8, "last": code // 2}
    relations = functions_of_categories(x, {"last": 2, "mid": 4, "code": 8})
    assert [(r.name, r.others) for r in relations] == [("mid", ("code",)), ("last", ("mid",))]


def test_linear_relations_are_found_and_noise_is_not():
    rng = np.random.default_rng(0)
    a, b, c = rng.normal(size=(3, 200)) * [[1], [100], [0.01]]
    x = {"a": a, "b": b, "sum": a + b, "c": c, "far": 3 - 2 * c + 0.5 * a, "noisy": a + b + 1e-3 * rng.normal(size=200)}
    relations, near = linear_relations(x)
    assert [(r.name, r.others) for r in relations] == [("sum", ("a", "b")), ("far", ("a", "c"))]
    assert relations[0].coefficients == (1.0, 1.0)
    np.testing.assert_allclose(relations[1].coefficients, (0.5, -2), rtol=1e-6)
    assert relations[1].intercept == pytest.approx(3)
    assert [relation.text for relation in relations] == ["is a + b", "is 0.5 a - 2 c + 3"]
    assert [name for name, _ in near] == ["noisy"]
    for relation in relations:
        np.testing.assert_allclose(relation.value(x, 200), x[relation.name], rtol=0, atol=1e-9)
        other = {**x, relation.name: x[relation.name] + np.where(np.arange(200) == 5, 0.01, 0)}
        assert np.flatnonzero(relation.broken(other)).tolist() == [5]


def test_far_values_do_not_make_a_relation_of_what_is_none():
    a = np.array([0.0, 1.0, 5.0, 2.0, -1e13, 3e13] * 5)
    assert linear_relations({"a": a, "b": 2 * a + np.arange(30)}) == ([], [("b", pytest.approx(0, abs=1e-9))])


def test_few_rows_are_not_related_by_chance():
    x = {f"x{j}": column for j, column in enumerate(np.random.default_rng(0).normal(size=(10, 6)))}
    assert linear_relations(x) == ([], [])


def test_one_word_among_numbers_is_named():
    cells = [*(str(i / 7) for i in range(200)), "abc"]
    with pytest.raises(InputError, match="column x0 has 201 different values .* make it numbers: abc is none"):
        Schema.fit(Frame.of([[cell] for cell in cells]))


@pytest.mark.parametrize(("scale", "words"), [(1e300, "numbers beyond 1e\\+99"), (1e-140, "differences below 1e-99")])
def test_numbers_whose_squares_leave_the_range_are_refused_by_name(scale, words):
    x = np.random.default_rng(0).normal(size=(50, 2))
    x[:, 1] *= scale
    with pytest.raises(InputError, match=f"column x1 has {words}"):
        Schema.fit(Frame.of(x))


@pytest.mark.parametrize(("unit", "least", "most"), [("ns", 1677, 2262), ("us", 1, 9999), ("s", 1, 9999)])
def test_drawn_dates_beyond_those_of_the_type_are_its_last_ones(unit, least, most):
    """They do not wrap around."""
    days = np.datetime64("2020-01-01", "D") + np.random.default_rng(0).integers(0, 1000, 200)
    times = days.astype("datetime64[s]").astype(f"datetime64[{unit}]")
    column = detect("a", times, Type("datetime", unit=unit))[0]
    found = (
        column.decode(np.array([-1e12, 0.0, 1e12])).astype(f"datetime64[{unit}]").astype("datetime64[Y]").astype(int)
    )
    assert (found + 1970).tolist() == [least, 2020, most]


@pytest.mark.parametrize("zeros", [275, 288, 295])
def test_amounts_among_many_zeros_are_no_list_of_values(zeros):
    """However few they are: each is another number, in cents."""
    amounts = np.round(np.random.default_rng(0).exponential(300, 300 - zeros) + 20, 2)
    column, _ = detect("a", np.append(np.zeros(zeros), amounts), REAL)
    assert column.kind == "real" and not column.values and column.grid.decimals == 2
    repeated, _ = detect("a", np.append(np.zeros(zeros), np.resize(amounts[:2], 300 - zeros)), REAL)
    assert repeated.kind == "quantised"
