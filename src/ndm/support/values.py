"""Values of options and settings that jsonargparse reads, and its messages about them in words.

It reads values by YAML 1.1, which takes 1:30 for 90, as a number in base 60. Here that is no number.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterable
from typing import Any

from ..errors import InputError

KINDS = {
    "<class 'int'>": "a whole number", "<class 'float'>": "a number", "<class 'bool'>": "true or false",
    "<class 'str'>": "a text", "<class 'dict'>": "a mapping of names to values, as {name: value}",
}  # fmt: skip
WRONG_VALUE = re.compile(r'Parser key "(?P<key>[^"]+)": Expected an? (?P<kind>.+)\. Got value: ?(?P<value>.*)')
WRONG_UNION = re.compile(
    r'Parser key "(?P<key>[^"]+)": Does not validate against any of the Union subtypes .*'
    r"- Expected an? (?P<kind><class '(?!NoneType)\w+'>).*Given value type: .* Given value: ?(?P<value>.*)"
)
BASE_60 = re.compile(r"(?<![\w.:])[-+]?[0-9][0-9_]*(:[0-5]?[0-9])+(\.[0-9_]*)?(?![\w.:])")


def refuse_base_60(given: Iterable[tuple[str, str, Any]]) -> None:
    """Refuse texts that were read as numbers in base 60.

    Args:
        given: for each option its name, the text that was given, and what it was read as.

    Raises:
        InputError: naming the first such option.
    """
    for name, text, value in given:
        if isinstance(value, (int, float, list)) and (found := BASE_60.search(text)):
            raise InputError(f"{name} must be a number, got {found[0]}")


def in_words(message: str, prefixed: Container[str] = ()) -> str | None:
    """The parser's message about a value of a wrong kind, with the name first and the kind in words; None for another.

    Args:
        prefixed: the names that are options.
    """
    found = WRONG_VALUE.fullmatch(message) or WRONG_UNION.fullmatch(message)
    if found is None:
        return None
    kind = KINDS.get(found["kind"], found["kind"])
    if choices := re.fullmatch(r"typing\.Literal\[(.*)\]", kind):
        kind = "one of " + choices[1].replace("'", "")
    option = f"--{found['key']}"
    return f"{option if option in prefixed else found['key']} must be {kind}, got {found['value'] or 'nothing'}"
