"""Tables in text: values separated by commas (.csv) or tabs (.tsv), also packed by gzip (.gz).

A file is read twice in blocks: once to find out the type of each column over the whole file, and once for the rows. So
the memory is that of a block, and a column whose last value is a fraction is a column of fractions from its first.

An empty field is a missing value. In columns of numbers, truth values and dates the usual words for it are too
(``MISSING``). Whole numbers with leading zeros are text, as codes are.
"""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import re
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from ..errors import InputError
from ..support.checks import shown
from .dataframes import check_names

BLOCK = 1 << 23
"""Bytes of a file that are parsed at a time; no row may be longer."""
MISSING = ("", "NA", "N/A", "n/a", "#N/A", "NaN", "nan", "NULL", "null", "None", "<NA>", "NaT")
LEADING_ZERO = r"^[-+]?0[0-9]+$"
WHOLE = r"^-?[0-9]+$"
NUMBER = r"^[-+]?([0-9.]|(?i:inf|nan))"
TRUTH = r"^(?i:true|false)$"
DATE = r"^[0-9]{4}-[0-9]{2}-[0-9]{2}"
COMMA = r"^[-+]?[0-9]+,[0-9]+$"
MAGIC = {b"\x1f\x8b": "packed by gzip", b"PAR1": "Parquet", b"PK\x03\x04": "a zip archive, as of Excel or NumPy"}
"""The first bytes of other files."""
HEAD = 1 << 20
"""Bytes in which the header must end."""
NOT_OF_FILES = ("idna", "punycode", "unicode-escape", "raw-unicode-escape")
"""Encodings of names and of literals: they read plain text as other text."""


def text_encoding(name: str) -> str:
    """The usual name of an encoding: utf-8 for UTF8.

    Raises:
        InputError: if there is none of this name, or it is none of text.
    """
    try:
        found = codecs.lookup(name).name
        "".encode(found)  # refused by what encodes no text, such as base64
        if found.replace("_", "-") in NOT_OF_FILES:
            raise LookupError
        return found
    except (LookupError, ValueError):
        raise InputError(f"the encoding {shown(name)} is unknown; try utf-8, latin-1, cp1252 or utf-16") from None


def separator(path: Path) -> str:
    """The character between the values of a file, by its name."""
    return "\t" if path.name.lower().removesuffix(".gz").endswith(".tsv") else ","


def header(path: Path, encoding: str) -> list[str]:
    """The names of the columns.

    Raises:
        InputError: if the file is empty, no text in this encoding, has no header or a column without a name, or if two
            names are equal.
    """
    encoding = text_encoding(encoding)
    with _told(path, encoding), _opened(path) as file:
        head = file.read(HEAD)
    if not head.strip():
        raise InputError(f"{path} is empty; write a header with the names of the columns, and rows below it")
    if known := next((kind for magic, kind in MAGIC.items() if head.startswith(magic)), None):
        raise InputError(f"{path} is {known} by its first bytes, and no text; give it the name that fits, or unpack it")
    if encoding == "utf-8" and head[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
        raise InputError(f"{path} is text in UTF-16; set --data.encoding utf-16, or save it as UTF-8")
    try:
        text = codecs.getincrementaldecoder("utf-8-sig" if encoding == "utf-8" else encoding)().decode(head)
    except UnicodeError:
        raise InputError(_not_text(path, encoding)) from None
    if "\0" in text:
        raise InputError(f"{path} holds null characters, so it is no text; save the table as CSV or Parquet")
    try:
        names = next(csv.reader(io.StringIO(text, newline=""), delimiter=separator(path)), [])
    except csv.Error:  # a field beyond the reader's limit
        raise InputError(
            f"{path} has a very long name in its header, or a quote that is not closed; correct it"
        ) from None
    last = "".join(names[-1:])
    if "\n" in last and text.rstrip("\r\n").endswith(last.rstrip("\r\n")):
        raise InputError(f"{path} has a quote in its header that is not closed; close it")
    others = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
    if len(names) == 1 and separator(path) == "\t" and "," in names[0]:
        raise InputError(f"{path} is separated by commas; give it a name that ends with .csv")
    if len(names) == 1 and separator(path) == ",":
        for character, word in others.items():
            if character in names[0]:
                raise InputError(
                    f"{path} is separated by {word}; save it with commas between the values and points in the numbers, "
                    f"as pandas does: read_csv(path, sep={character!r}).to_csv(path, index=False)"
                )
    if not names:
        raise InputError(f"the first line of {path} is empty; remove it, so that the header comes first")
    for number, name in enumerate(names, 1):
        if not name.strip():
            raise InputError(
                f"column {number} of {path} has no name; name it, or leave it out (pandas writes its index so, unless "
                "index=False)"
            )
    try:
        check_names(names)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    decimals = sum(_is_number(name) and not name.strip().isdecimal() for name in names)
    if all(_is_number(name) for name in names) or 2 * decimals >= len(names):
        raise InputError(
            f"{path} has numbers in its first row, and no header; write the names of the columns above them"
        )
    return names


def blocks(path: Path, encoding: str, types: Mapping[str, bool]) -> Iterator[Any]:
    """The rows of a file, as typed tables of pyarrow in blocks.

    Args:
        path: the file.
        encoding: how its characters are encoded.
        types: whether a column holds text, whatever it looks like, or something else, by name.

    Raises:
        InputError: if the file cannot be read.
    """
    import pyarrow as pa

    encoding = text_encoding(encoding)
    names = header(path, encoding)
    found: dict[str, str] = {name: "text" for name in names if types.get(name)}
    rows, last = 0, None
    for block in _text_blocks(path, encoding, names):
        _refuse_header(path, names, block, rows)
        rows += block.num_rows
        last = block[names[-1]][-1].as_py() if block.num_rows else last
        for name in names:
            found[name] = _join(found.get(name), _narrowest(block[name], found.get(name)))
    if not rows:
        raise InputError(f"{path} has a header and no rows; write rows below it")
    if last is not None and "\n" in last and not _end(path).endswith(b'"'):
        raise InputError(f"{path} has a quote that is not closed, before {shown(last, 40)}; close it")
    for name, kind in found.items():
        if kind == "comma":
            raise InputError(
                f"column {name} of {path} has decimal commas, as 1,5 has, or commas between thousands, as 1,234 may; "
                "write 1.5 and 1234"
            )
    for block in _text_blocks(path, encoding, names):
        # A word in a column of numbers makes it text, but missing values stay missing and spaces are none of it.
        yield pa.table({name: _cast(block[name], found[name], types.get(name) is False) for name in names})


def _opened(path: Path) -> IO[bytes]:
    packed = path.name.lower().endswith(".gz")
    return gzip.open(path) if packed else path.open("rb")  # type: ignore[return-value]


def _end(path: Path) -> bytes:
    """The last byte that is no space or line break."""
    tail = b""
    with _opened(path) as file:
        while piece := file.read(HEAD):
            tail = (tail + piece)[-HEAD:]
    return tail.rstrip()[-1:]


def _is_number(text: str) -> bool:
    return re.fullmatch(r"\s*[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?\s*", text) is not None


def _text_blocks(path: Path, encoding: str, names: list[str]) -> Iterator[Any]:
    """Tables of pyarrow whose columns are all text."""
    import pyarrow as pa
    from pyarrow import csv as arrow

    read = arrow.ReadOptions(use_threads=False, block_size=BLOCK, encoding="utf8" if encoding == "utf-8" else encoding)
    parse = arrow.ParseOptions(delimiter=separator(path), newlines_in_values=True, ignore_empty_lines=len(names) > 1)
    text = arrow.ConvertOptions(
        column_types={name: pa.string() for name in names},
        strings_can_be_null=True, null_values=[""], quoted_strings_can_be_null=False,
    )  # fmt: skip
    with _told(path, encoding), _opened(path) as file:
        for batch in arrow.open_csv(file, read, parse, text):
            if batch.schema.names != names:
                raise InputError(f"the header of {path} cannot be read; write plain names without quotes in it")
            yield pa.table(batch)


@contextmanager
def _told(path: Path, encoding: str) -> Iterator[None]:
    """Tell the errors of pyarrow's parser in one line."""
    import pyarrow as pa

    try:
        yield
    except pa.ArrowInvalid as error:
        text = str(error)
        row = re.search(r"Row #(\d+): Expected (\d+) columns, got (\d+)", text)
        if row:
            message = (
                f"row {int(row[1]) - 2} of {path}, counted from 0 below the header, has {row[3]} value(s), but the "
                f"header has {row[2]}; correct it, and put values that hold the separator in quotes"
            )
        elif "Empty CSV" in text:
            message = f"{path} has a header and no rows; write rows below it"
        elif "UTF8" in text:
            message = _not_text(path, encoding)
        elif "straddling" in text:
            message = f"{path} has a row of more than {BLOCK >> 20} MB, or a quote that is not closed; correct it"
        else:
            message = f"{path} cannot be read as a table: {shown(' '.join(text.split()), 200)}"
        raise InputError(message) from None
    except (UnicodeError, EOFError, OSError, zlib.error) as error:
        if isinstance(error, UnicodeError):
            raise InputError(_not_text(path, encoding)) from None
        raise InputError(f"{path} cannot be read: {shown(str(error), 200)}") from None


def _not_text(path: Path, encoding: str) -> str:
    """A message with the first byte that is no character."""
    decoder = codecs.getincrementaldecoder(encoding)()
    start = 0
    with _opened(path) as file:
        while piece := file.read(1 << 20):
            before = len(decoder.getstate()[0])
            try:
                decoder.decode(piece)
            except UnicodeError as error:
                if not isinstance(error, UnicodeDecodeError):
                    break
                at = start - before + error.start
                byte = error.object[error.start]
                remedy = "latin-1 or cp1252" if encoding.startswith("utf-8") else "utf-8"
                return (
                    f"{path} is not text in {encoding.upper()}: byte {at} is 0x{byte:02x}; set --data.encoding {remedy}"
                )
            start += len(piece)
    return f"{path} is not text in {encoding.upper()}; set --data.encoding to its encoding"


def _refuse_header(path: Path, names: list[str], block: Any, before: int) -> None:
    """Refuse a row that is equal to the header, as in files that were put one after the other."""
    import pyarrow.compute as pc

    again = None
    for name in names:
        equal = pc.fill_null(pc.equal(block[name], name), False)
        again = equal if again is None else pc.and_(again, equal)
        if not pc.any(again).as_py():
            return
    row = pc.index(again, True).as_py() + before
    raise InputError(f"row {row} of {path}, counted from 0 below the header, repeats the header; remove it")


def _present(column: Any) -> Any:
    """Text without spaces around it; null where a word says that a value is missing."""
    import pyarrow as pa
    import pyarrow.compute as pc

    trimmed = pc.utf8_trim_whitespace(column)
    missing = pc.is_in(trimmed, value_set=pa.array(MISSING))
    return pc.if_else(missing, pa.scalar(None, pa.string()), trimmed)


def _narrowest(column: Any, known: str | None) -> str | None:
    """The narrowest type of all values of a block; the known one is tried first."""
    import pyarrow.compute as pc

    if known == "text":
        return known
    values = pc.drop_null(_present(column))
    if not len(values):
        return None

    def all_match(pattern: str) -> bool:
        return bool(pc.all(pc.match_substring_regex(values, pattern)).as_py())

    if not pc.any(pc.match_substring_regex(values, LEADING_ZERO)).as_py():
        if all_match(WHOLE):
            # Integers that int64 does not hold would lose digits as fractions: they are codes.
            return "whole" if _casts(values, "whole") else "text"
        if all_match(NUMBER) and _casts(values, "real"):
            return "real"
    if all_match(TRUTH):
        return "truth"
    if all_match(COMMA):
        return "comma"
    if not all_match(DATE):
        return "text"
    return next((kind for kind in ("date", "time", "zoned") if _casts(values, kind)), "text")


def _join(one: str | None, other: str | None) -> Any:
    """The narrowest type that holds two."""
    if one is None or other is None or one == other:
        return one or other
    pair = {one, other}
    wider = {"real": {"whole", "real"}, "time": {"date", "time"}, "comma": {"whole", "comma"}}
    return next((kind for kind, parts in wider.items() if pair <= parts), "text")


def _type(kind: str) -> Any:
    import pyarrow as pa

    types = {
        "whole": pa.int64(), "real": pa.float64(), "truth": pa.bool_(), "date": pa.date32(),
        "time": pa.timestamp("us"), "zoned": pa.timestamp("us", "UTC"),
    }  # fmt: skip
    return types[kind]


def _casts(values: Any, kind: str) -> bool:
    import pyarrow as pa

    try:
        values.cast(_type(kind))
    except pa.ArrowInvalid:
        return False
    return True


def _cast(column: Any, kind: str | None, trimmed: bool) -> Any:
    import pyarrow as pa

    if kind is None:
        return pa.nulls(len(column))
    if kind == "text":
        return _present(column) if trimmed else column
    return _present(column).cast(_type(kind))
