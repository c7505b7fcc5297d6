"""The page: one file of HTML with its style and its script, which opens without a network.

The style and the script stand in ``page.css`` and ``page.js``. The page forbids everything else by a content security
policy: no address is asked, and no other script runs, even if markup of a run's names were ever put into the page.
"""

from __future__ import annotations

import base64
import hashlib
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple

from ..errors import InputError
from ..support.files import write_whole
from .html import Html, element

LARGEST = 8_000_000
"""The most bytes of a page."""


class Section(NamedTuple):
    """A part of the page under a title."""

    key: str
    """Its name in the address, which no other section has."""
    title: str
    content: Html
    level: int = 2
    """The level of its title."""
    card: bool = True
    """Whether it stands in a frame; the title of a run, below which its parts stand, does not."""

    @property
    def style(self) -> str:
        """The class of its elements."""
        return "card" if self.card else "run"


def page(title: str, lead: Html, sections: list[Section]) -> str:
    """The whole page.

    Args:
        title: its title.
        lead: what stands below the title.
        sections: its parts in their order.
    """
    style, script = (files(__package__).joinpath(f"page.{kind}").read_text("utf-8") for kind in ("css", "js"))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    links = [element("a", part.title, href=f"#{part.key}", class_=part.style) for part in sections]
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=policy),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("title", title),
        element("style", Html(style)),
    )
    body = element(
        "body",
        element("a", "Skip to the content", href="#content", class_="skip"),
        element("header", element("h1", title), lead),
        element("nav", *links, aria_label="Sections"),
        element("main", *map(_shown, sections), id="content"),
        element("script", Html(script)),
    )
    return f"<!doctype html>\n{element('html', head, body, lang='en')}\n"


def _shown(part: Section) -> Html:
    heading = element(f"h{part.level}", part.title, id=f"{part.key}-title")
    return element(
        "section", heading, part.content, id=part.key, aria_labelledby=f"{part.key}-title", class_=part.style
    )


def write_page(path: Path, text: str) -> int:
    """Write a page, whole or not at all. Surrogates, which UTF-8 does not have and JSON may, are escaped.

    Returns:
        Its bytes.

    Raises:
        InputError: if it has more than 8 MB.
        OSError: if it cannot be written.
    """
    text = text.encode(errors="backslashreplace").decode()
    size = len(text.encode())
    if size > LARGEST:
        raise InputError(f"the report has {size:,} bytes, and at most {LARGEST:,} are written; give fewer runs")
    write_whole(path, text)
    return size
