"""HTML made of nested elements. Text is escaped where it is put in, so names that come from a run are never markup."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

EMPTY = ("img", "input", "meta", "br", "line", "rect", "circle", "path", "polyline")
"""Elements that have no content. The slash at their end matters in SVG, and not in HTML."""


class Html(str):
    """Markup that is finished. Any other text is escaped."""


def element(name: str, /, *children: str | None, **attributes: str | float | bool | None) -> Html:
    """An element of HTML or SVG.

    Args:
        name: its name, such as ``p``.
        children: its content; text is escaped unless it is :class:`Html`, and None is left out.
        attributes: its attributes. An underscore in a name becomes a hyphen, and one at the end falls away:
            ``class_``. True stands for an attribute without a value; None and False leave it out.

    Returns:
        The markup.

    Example:
        >>> from ndm.report.html import element
        >>> element("p", "a < b", class_="note")
        '<p class="note">a &lt; b</p>'
    """
    parts = [name]
    for key, value in attributes.items():
        if value is None or value is False:
            continue
        key = key.removesuffix("_").replace("_", "-")
        text = f"{value:.5g}" if isinstance(value, float) else str(value)
        parts.append(key if value is True else f'{key}="{escape(text)}"')
    start = " ".join(parts)
    return Html(f"<{start}/>" if name in EMPTY else f"<{start}>{joined(children)}</{name}>")


def joined(children: Iterable[str | None]) -> Html:
    """Pieces one after the other; text is escaped unless it is :class:`Html`."""
    parts = (child if isinstance(child, Html) else escape(child) for child in children if child is not None)
    return Html("".join(parts))


def table(
    header: Sequence[str], rows: Iterable[Sequence[str]], label: str, first_is_name: bool = True
) -> Html:  # fmt: skip
    """A table in a frame that scrolls where the screen is narrow, also by the keyboard.

    Args:
        header: the names of the columns.
        rows: the cells.
        label: what the table holds, for screen readers.
        first_is_name: whether the first cell of a row names it.
    """
    head = element("tr", *(element("th", cell, scope="col") for cell in header))
    body = [
        element("tr", *(
            element("th", cell, scope="row") if place == 0 and first_is_name else element("td", cell)
            for place, cell in enumerate(row)
        ))
        for row in rows
    ]  # fmt: skip
    whole = element("table", element("thead", head), element("tbody", *body))
    return element("div", whole, class_="scroll", tabindex="0", role="region", aria_label=label)


def facts(pairs: Iterable[tuple[str, str]]) -> Html:
    """Names with their values, as a list of definitions."""
    return element("dl", *(element("div", element("dt", name), element("dd", value)) for name, value in pairs))


def figure(content: str, caption: str, **attributes: str | None) -> Html:
    """A picture with a caption."""
    return element("figure", content, element("figcaption", caption), **attributes)


def side_by_side(*parts: str) -> Html:
    """Pictures side by side where there is room."""
    return element("div", *parts, class_="figures")


def head(text: str) -> Html:
    """A small title over a part of a section."""
    return element("p", text, class_="head")


def note(text: str) -> Html:
    """A paragraph that says what is missing, or how something is to be read."""
    return element("p", text, class_="note")


def details(summary: str, *content: str) -> Html:
    """Content that is shown on demand."""
    return element("details", element("summary", summary), *content)
