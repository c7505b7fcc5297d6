"""YAML of plain values: without aliases, of which a few lines can stand for gigabytes, and without a key twice."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from .checks import shown
from .files import DEEPEST, BadFile, read_text

LARGEST_YAML = 2**16
"""Bytes of the largest YAML that is read; settings are a few thousand. Reading takes a second."""


def read_yaml(path: Path, largest: int = LARGEST_YAML) -> Any:
    """The value of a YAML file, of plain values only.

    Raises:
        InputError: if it cannot be read; a :class:`BadFile` if it is missing, too large, no YAML, or nested too deeply,
            or has an alias or a key twice.
    """
    text = read_text(path, largest)
    try:
        loader = PlainLoader(text)
        loader.name = path.name
        value = loader.get_single_data()
    except RecursionError:
        raise BadFile(f"cannot read {path}: it is nested too deeply") from None
    except yaml.YAMLError as error:
        raise BadFile(f"cannot read {path}: {shown(' '.join(str(error).split()), 400)}") from None
    except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError) as error:
        # What the constructors of YAML's own types raise for a date, a number or a truth value that is none.
        raise BadFile(f"cannot read {path}: a value in it is malformed ({shown(str(error))})") from None
    return value


NUMBERS = {
    "int": r"[-+]?(0|[1-9][0-9_]*|0x[0-9a-fA-F_]+)",
    "float": r"[-+]?([0-9][0-9_]*\.[0-9_]*|\.[0-9][0-9_]*)([eE][-+]?[0-9]+)?|[-+]?[0-9][0-9_]*[eE][-+]?[0-9]+"
    r"|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
}
"""What is a number in YAML here. YAML 1.1 also takes 1:30 for 90 and 010 for 8; here they are text."""


class PlainLoader(yaml.SafeLoader):
    """YAML without aliases, deep nesting, a key that is given twice, dates, and numbers but in base 10 and 16."""

    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark
            raise yaml.MarkedYAMLError(None, None, "aliases are not read: write the value out", mark)
        self.depth += 1
        if self.depth > DEEPEST:
            raise RecursionError
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[tuple[str, str]] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if (key.tag, key.value) in seen:
                    problem = f"the key {shown(key.value)} is there twice: keep one"
                    raise yaml.MarkedYAMLError(None, None, problem, key.start_mark)
                seen.add((key.tag, key.value))
        return super().construct_mapping(node, deep)


PlainLoader.yaml_implicit_resolvers = {
    first: [(tag, form) for tag, form in known if tag.rpartition(":")[2] not in (*NUMBERS, "timestamp")]
    for first, known in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
for kind, form in NUMBERS.items():
    PlainLoader.add_implicit_resolver(f"tag:yaml.org,2002:{kind}", re.compile(f"(?:{form})$"), list("-+.0123456789"))
