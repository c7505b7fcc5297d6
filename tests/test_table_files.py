"""Tables in files: every format comes back, and odd and hostile files are refused in one line."""

import gzip
import os
import zipfile

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet
import pytest

from ndm.errors import InputError
from ndm.tables import Frame, Schema, batches, delimited, files, read, write

N = 400
RNG = np.random.default_rng(0)
TABLE = pl.DataFrame({
    "real": RNG.normal(size=N), "rounded": np.round(RNG.normal(size=N), 1), "count": RNG.integers(0, 9, N),
    "text": RNG.choice(["a", "b, c", 'say "d"', "é\n2"], N), "truth": RNG.random(N) < 0.5,
    "day": np.datetime64("2024-01-01", "D") + RNG.integers(0, 99, N),
    "time": np.datetime64("2024-01-01", "us") + RNG.integers(0, 10**15, N),
    "maybe": RNG.choice(np.array(["x", None], object), N).tolist(),
    "gaps": [i / 8 if i % 9 else None for i in range(N)],
})  # fmt: skip
TEXT = ("table.csv", "table.csv.gz", "table.tsv", "table.tsv.gz")


@pytest.mark.parametrize("name", [*TEXT, "table.parquet"])
def test_every_kind_of_column_goes_through_a_file_and_a_schema(tmp_path, name):
    write(Frame.of(TABLE), tmp_path / name)
    frame = read(tmp_path / name)
    assert frame.native("polars").equals(TABLE)
    schema = Schema.fit(frame, impute=True)
    write(schema.decode(schema.encode(frame)), tmp_path / f"again.{name}")
    assert read(tmp_path / f"again.{name}").native("polars").equals(TABLE)


def test_arrays_go_through_npz(tmp_path):
    x = np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32)
    write(Frame.of(x), tmp_path / "x.npz")
    with np.load(tmp_path / "x.npz") as archive:
        np.testing.assert_array_equal(archive["X"], x)
    assert read(tmp_path / "x.npz").native().dtype == np.float32
    table = TABLE.select("real", "count", "text", "truth", "time")
    write(Frame.of(table), tmp_path / "columns.npz")
    frame = read(tmp_path / "columns.npz")
    assert frame.kind == "numpy"
    assert frame.native("polars").equals(table)
    assert [len(part) for part in batches(tmp_path / "columns.npz", 150)] == [150, 150, 100]
    with pytest.raises(InputError, match="column maybe has missing text"):
        write(Frame.of(TABLE), tmp_path / "table.npz")


def test_parts_of_a_file_are_the_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(delimited, "BLOCK", 1 << 12)
    for name in ("table.csv", "table.parquet"):
        write(Frame.of(TABLE), tmp_path / name)
        parts = list(batches(tmp_path / name, 90))
        assert [len(part) for part in parts] == [90, 90, 90, 90, 40]
        assert pl.concat([part.native("polars") for part in parts]).equals(TABLE)


def test_types_hold_for_the_whole_file(tmp_path, monkeypatch):
    monkeypatch.setattr(delimited, "BLOCK", 1 << 10)
    rows = [f"{i},{i},2024-01-01,{i % 2},,{i}" for i in range(999)]
    text = "\n".join(["a,b,c,d,e,f", *rows, "0.5,x,2024-01-01 10:30,true,7,007"])
    (tmp_path / "late.csv").write_text(text)
    parts = list(batches(tmp_path / "late.csv", 400))
    for part in parts:
        assert [known.name for known in part.types] == ["float64", "string", "datetime", "string", "int64", "string"]
    assert parts[0].column("a")[3] == 3 and parts[-1].column("a")[-1] == 0.5
    assert parts[-1].column("f")[-1] == "007"
    assert parts[-1].column("e")[-1] == 7 and np.isnan(parts[0].column("e")).all()


def test_a_constant_amount_of_memory_is_read_at_a_time(tmp_path, monkeypatch):
    monkeypatch.setattr(delimited, "BLOCK", 1 << 12)
    (tmp_path / "long.csv").write_text("a\n" + "1\n" * 200_000)
    before = pa.total_allocated_bytes()
    largest = max(pa.total_allocated_bytes() - before for _ in batches(tmp_path / "long.csv", 1000))
    assert largest < 1 << 18  # 200,000 numbers take 1.6 MB


def test_text_stays_text_in_another_file(tmp_path):
    (tmp_path / "train.csv").write_text("code,x\n1.50,1\nb,2\n1.50,3\n")
    schema = Schema.fit(read(tmp_path / "train.csv"))
    (tmp_path / "more.csv").write_text("code,x\n1.50,1\n")
    types = {column.name: column.type for column in schema.columns}
    np.testing.assert_array_equal(schema.encode(read(tmp_path / "more.csv", types=types)), [[1, 0]])
    with pytest.raises(InputError, match=r"column code holds 1.5 in row 0"):
        schema.encode(read(tmp_path / "more.csv"))


def test_missing_values_in_text(tmp_path):
    (tmp_path / "a.csv").write_text('n,s\n1,""\nNA,NA\n,\n 4 ,x\n')
    frame = read(tmp_path / "a.csv")
    np.testing.assert_array_equal(frame.column("n"), [1, np.nan, np.nan, 4])
    assert frame.column("s").tolist() == ["", "NA", None, "x"]
    (tmp_path / "one.csv").write_text("n\n1\n\n3\n")
    np.testing.assert_array_equal(read(tmp_path / "one.csv").column("n"), [1, np.nan, 3])


@pytest.mark.parametrize(
    ("content", "encoding"),
    [("\ufeffa,b\n1,é\n".encode(), "utf-8"), ("a,b\r\n1,é\r\n".encode("latin-1"), "latin-1"),
     ("a,b\n1,é\n".encode("utf-16"), "utf-16")],
)  # fmt: skip
def test_other_encodings_and_line_ends(tmp_path, content, encoding):
    (tmp_path / "a.csv").write_bytes(content)
    frame = read(tmp_path / "a.csv", encoding)
    assert frame.names == ("a", "b")
    assert frame.native("numpy").tolist() == [[1, "é"]]


@pytest.mark.parametrize("encoding", ["UTF-8", "utf8", "utf-8-sig", "U8"])
def test_an_encoding_has_many_spellings(tmp_path, encoding):
    (tmp_path / "a.csv").write_bytes('\ufeff"a",b\n1,é\n'.encode())
    assert read(tmp_path / "a.csv", encoding).native("numpy").tolist() == [[1, "é"]]


ODD_ENCODINGS = ["hex", "rot13", "zlib", "base64", "uu", "undefined", "a\0b", "nonsense", ""]
ODD_ENCODINGS += ["idna", "punycode", "unicode_escape", "unicode-escape", "raw_unicode_escape"]


@pytest.mark.parametrize("encoding", ODD_ENCODINGS)
def test_what_encodes_no_text_is_refused(tmp_path, encoding):
    (tmp_path / "a.csv").write_text("a,b\n1,2\n")
    with pytest.raises(InputError, match=r"the encoding .* is unknown; try utf-8"):
        read(tmp_path / "a.csv", encoding)


def test_a_wrong_encoding_without_a_mark_is_refused(tmp_path):
    (tmp_path / "a.csv").write_text("a,b\n1,2\n")
    with pytest.raises(InputError, match="is not text in UTF-16; set --data.encoding"):
        read(tmp_path / "a.csv", "utf-16")


HOSTILE = {
    "empty": (b"", "is empty"),
    "blank": (b"\n\n", "is empty"),
    "header only": (b"a,b\n", "a header and no rows"),
    "header without a line break": (b"a,b", "a header and no rows"),
    "header twice": (b"a,b\n1,2\na,b\n3,4\n", "row 1 of .*, counted from 0 below the header, repeats the header"),
    "no header": (b"1,2\n3,4\n", "numbers in its first row"),
    "equal names": (b"a,a\n1,2\n", "2 columns have the name 'a'"),
    "no name": (b",a\n0,1\n", "column 1 of .* has no name.*index=False"),
    "a short row": (
        b"a,b\n1,2\n3\n",
        r"row 1 of .*, counted from 0 .* has 1 value\(s\), but the header has 2",
    ),
    "a long row": (b"a,b\n1,2,3\n", r"row 0 of .* has 3 value\(s\), but the header has 2"),
    "latin-1": ("a,b\n1,é\n".encode("latin-1"), "byte 6 is 0xe9; set --data.encoding latin-1"),
    "latin-1 in the header": ("é,b\n1,2\n".encode("latin-1"), "byte 0 is 0xe9"),
    "utf-16": ("a,b\n1,2\n".encode("utf-16"), "UTF-16; set --data.encoding utf-16"),
    "semicolons": (b"a;b\n1,5;2\n", "separated by semicolons.*sep=';'"),
    "tabs": (b"a\tb\n1\t2\n", "separated by tabs"),
    "decimal commas": (b'a,b\n"1,5",2\n"2,5",3\n', "column a of .* has decimal commas"),
    "thousands": (b'a,b\n"1,234",3\n"5,678",4\n', "commas between thousands, as 1,234 may; write 1.5 and 1234"),
    "an open quote in the header": (b'a,"b\n1,2\n3,4\n', "has a quote in its header that is not closed"),
    "a header without end": (b'"' + b"x" * 200_000 + b'",b\n1,2\n', "a very long name in its header, or a quote"),
    "gzip without its name": (gzip.compress(b"a,b\n1,2\n"), "is packed by gzip by its first bytes, and no text"),
    "Parquet named as text": (b"PAR1\x15\x04\xf8", "is Parquet by its first bytes"),
    "an open quote": (b'a,b\n1,"x\n2,y\n3,z\n', "quote that is not closed"),
    "null characters": (b"a,b\n1,x\0\n", "null characters"),
    "a picture": (b"\x89PNG\r\n\x1a\n\0\0", "not text in UTF-8: byte 0 is 0x89"),
    "large integers": (b"a\n9007199254740993\n", "column a holds integers beyond 2"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_odd_text_is_refused_in_one_line(tmp_path, case):
    content, message = HOSTILE[case]
    (tmp_path / "a.csv").write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        read(tmp_path / "a.csv")
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match=message):
        list(batches(tmp_path / "a.csv"))


OTHERS = {
    "no.csv": (None, "no such file"),
    "a.txt": (b"a\n1\n", "no table by its name; tables end with .csv"),
    "a.csv.gz": (b"a,b\n1,2\n", "cannot be read.*[Nn]ot a gzipped file"),
    "cut.csv.gz": (gzip.compress(RNG.bytes(999))[:99], "cannot be read"),
    "twice.csv.gz": (gzip.compress(gzip.compress(b"a,b\n1,2\n")), "packed by gzip by its first bytes"),
    "bent.csv.gz": (gzip.compress(b"a,b\n1,2\n")[:10] + b"\xff" * 30, "cannot be read: Error -3 while decompressing"),
    "a.parquet": (b"PAR1", "damaged or not a Parquet file"),
    "a.npz": (b"junk", "damaged or no .npz file"),
    "empty.parquet": (b"", "is empty"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_files_are_refused_in_one_line(tmp_path, name):
    content, message = OTHERS[name]
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        read(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_folders_and_pipes_are_refused(tmp_path):
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(InputError, match="is a folder"):
        read(tmp_path / "folder.csv")
    os.mkfifo(tmp_path / "pipe.csv")
    with pytest.raises(InputError, match="is a pipe"):
        read(tmp_path / "pipe.csv")


def test_a_small_parquet_file_may_not_claim_gigabytes(tmp_path, monkeypatch):
    path = tmp_path / "a.parquet"
    pa.parquet.write_table(pa.table({"a": np.zeros(3_000_000)}), path, compression="zstd")
    assert path.stat().st_size < 20_000
    assert len(read(path)) == 3_000_000  # 24 MB are no harm
    monkeypatch.setattr(files, "LARGE", 1 << 20)
    with pytest.raises(InputError, match=r"claims 0\.0 GB in 0\.0\d MB"):
        read(path)
    with pytest.raises(InputError, match="claims"):
        next(batches(path))


def test_a_table_beyond_the_memory_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "LARGEST", 1000)
    write(Frame.of(TABLE), tmp_path / "a.csv")
    with pytest.raises(InputError, match="too much for memory"):
        read(tmp_path / "a.csv")


def test_a_damaged_page_of_a_parquet_file_with_checksums_is_found(tmp_path):
    path, values = tmp_path / "x.parquet", np.random.default_rng(0).normal(size=80)
    pa.parquet.write_table(pa.table({"a": values}), path, write_page_checksum=True)
    content = bytearray(path.read_bytes())
    content[80] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(InputError, match="is damaged"):
        read(path)


def test_commas_in_a_table_of_tabs_are_told(tmp_path):
    (tmp_path / "x.tsv").write_text("a,b\n1,2\n")
    with pytest.raises(InputError, match=r"is separated by commas; give it a name that ends with \.csv"):
        read(tmp_path / "x.tsv")


@pytest.mark.parametrize("word", ["maybe", "2024-01-01", "99999999999999999999"])
@pytest.mark.parametrize("kind", ["truth", "number"])
def test_one_word_among_categories_that_are_no_text_does_not_change_the_other_rows(word, kind, tmp_path):
    """It makes the column of the file text. All its values were then unknown, so every row was odd, without a word."""
    values = {"truth": ["true", "FALSE", " true"], "number": ["3", "1", "3.0"]}[kind]
    for name, last in (("train", values[1]), ("new", word)):
        rows = "".join(f"{value},{k}.5\n" for k, value in enumerate([*values, "NA", last]))
        (tmp_path / f"{name}.csv").write_text("t,n\n" + rows)
    schema = Schema.fit(read(tmp_path / "train.csv"), columns={"t": "category"})
    types = {column.name: column.type for column in schema.columns}
    x = schema.encode(read(tmp_path / "new.csv", types=types), unknown="odd")
    expected = schema.encode(read(tmp_path / "train.csv"))
    expected[4, -1] = -1
    np.testing.assert_array_equal(x, expected)


@pytest.mark.parametrize("word", ["abc", "1,5", "99999999999999999999", "007", "2024-01-01"])
def test_a_word_in_a_column_of_numbers_is_named_and_not_the_number_above_it(word, tmp_path):
    (tmp_path / "train.csv").write_text("a,b\n1,2.5\n2,7.25\n4,9.5\n5,1.75\n")
    schema = Schema.fit(read(tmp_path / "train.csv"))
    types = {column.name: column.type for column in schema.columns}
    (tmp_path / "new.csv").write_text(f'a,b\n1,2.5\n2,1\n"{word}",9.5\n')
    with pytest.raises(InputError, match=f"column a holds {word} in row 2, where numbers are expected"):
        schema.encode(read(tmp_path / "new.csv", types=types))


def test_an_error_about_a_column_of_an_npz_file_names_the_column(tmp_path):
    x = np.arange(9.0)
    for when in (np.arange(9).astype("M8[ns]"), np.array(["a"] * 9, "S1")):
        np.savez(tmp_path / "x.npz", a=x, when=when)
        with pytest.raises(InputError, match="column when"):
            read(tmp_path / "x.npz")


def test_an_empty_line_above_the_header_is_told(tmp_path):
    (tmp_path / "x.csv").write_text("\n\na,b\n1,2\n")
    with pytest.raises(InputError, match="the first line of .* is empty"):
        read(tmp_path / "x.csv")


@pytest.mark.parametrize("suffix", [".csv", ".tsv.gz", ".parquet", ".npz"])
def test_a_folder_that_is_called_tilde_is_not_the_users_home(suffix, tmp_path, monkeypatch):
    """pyarrow wrote into the home folder, and the rows were lost."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for folder in ("home", "~"):
        (tmp_path / folder).mkdir()
    write(Frame.of(pd.DataFrame({"a": [1.5, 2.5]})), f"~/x{suffix}")
    assert os.listdir(tmp_path / "~") == [f"x{suffix}"] and not os.listdir(tmp_path / "home")
    assert len(read(f"~/x{suffix}")) == 2


def test_nested_columns_and_empty_parquet_files(tmp_path):
    pa.parquet.write_table(pa.table({"a": [[1], [2]]}), tmp_path / "a.parquet")
    with pytest.raises(InputError, match="column a is of type List"):
        read(tmp_path / "a.parquet")
    pa.parquet.write_table(pa.table({"a": pa.array([], pa.int64())}), tmp_path / "b.parquet")
    with pytest.raises(InputError, match="has no rows"):
        read(tmp_path / "b.parquet")


def test_npz_files_that_are_no_tables(tmp_path):
    for arrays, message in (
        ({"X": np.zeros((2, 2, 2))}, r"X of .* has shape \(2, 2, 2\)"),
        ({"a": np.zeros(2), "b": np.zeros(3)}, "no columns of equal length"),
        ({"X": np.array([[None]], object)}, "Python objects"),
    ):
        np.savez(tmp_path / "a.npz", **arrays)
        with pytest.raises(InputError, match=message):
            read(tmp_path / "a.npz")
    with zipfile.ZipFile(tmp_path / "none.npz", "w"):
        pass
    with pytest.raises(InputError, match="no columns"):
        read(tmp_path / "none.npz")


def test_labels_saved_beside_a_table_are_not_dropped_without_a_word(tmp_path):
    for name in ("X", "data"):
        np.savez(tmp_path / "a.npz", **{name: np.eye(3), "y": np.zeros(3)})
        with pytest.raises(InputError, match=f"holds y beside the table {name}; save the table alone"):
            read(tmp_path / "a.npz")
    np.savez(tmp_path / "a.npz", X=np.eye(3), data=np.eye(3))
    with pytest.raises(InputError, match="holds data beside the table X"):
        read(tmp_path / "a.npz")


def test_columns_saved_in_another_order_are_found_by_name(tmp_path):
    (tmp_path / "a.csv").write_text("a,e\n1.5,10\n2.5,20\n4.5,40\n")
    schema = Schema.fit(read(tmp_path / "a.csv"))
    e, a = np.array([10, 20, 40]), np.array([1.5, 2.5, 4.5])
    np.savez(tmp_path / "a.npz", e=e, a=a)
    x = schema.encode(read(tmp_path / "a.csv"))
    np.testing.assert_array_equal(schema.encode(read(tmp_path / "a.npz")), x)
    np.testing.assert_array_equal(Schema.fit(read(tmp_path / "a.npz")).encode(read(tmp_path / "a.csv")), x[:, ::-1])
    np.savez(tmp_path / "b.npz", e=e, b=a)
    with pytest.raises(InputError, match="now missing: a; unseen at fit time: b"):
        schema.encode(read(tmp_path / "b.npz"))
    np.savez(tmp_path / "X.npz", X=np.stack([a, e], 1))
    np.testing.assert_array_equal(schema.encode(read(tmp_path / "X.npz")), x)


def test_a_file_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    write(Frame.of([[1.0]]), tmp_path / "a.csv")
    before = (tmp_path / "a.csv").read_bytes()

    def broken(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pyarrow.csv.write_csv", broken)
    with pytest.raises(OSError, match="No space") as caught:
        write(Frame.of([[2.0]]), tmp_path / "a.csv")
    assert caught.value.filename == str(tmp_path / "a.csv")
    assert (tmp_path / "a.csv").read_bytes() == before
    assert os.listdir(tmp_path) == ["a.csv"]


def test_pyarrow_is_asked_for(tmp_path, monkeypatch):
    (tmp_path / "a.csv").write_text("a\n1\n")
    monkeypatch.setattr(files, "find_spec", lambda name: None)
    for use in (lambda: read(tmp_path / "a.csv"), lambda: write(Frame.of([[1]]), tmp_path / "b.csv")):
        with pytest.raises(InputError, match=r"pip install 'ndm\[tables\]'"):
            use()
    write(Frame.of([[1]]), tmp_path / "b.npz")
    assert read(tmp_path / "b.npz").native().tolist() == [[1]]


def test_categories_of_dataframes_are_written_as_their_text(tmp_path):
    frame = Frame.of(pd.DataFrame({"c": pd.Categorical(["x", "y", None]), "n": [1, 2, 3]}))
    write(frame, tmp_path / "a.csv")
    assert (tmp_path / "a.csv").read_text() == '"c","n"\n"x",1\n"y",2\n,3\n'
    write(frame, tmp_path / "a.parquet")
    assert read(tmp_path / "a.parquet").types[0].name == "category"
