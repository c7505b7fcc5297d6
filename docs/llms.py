"""Write ``llms.txt``, the list of all pages for language models, from the lists of ``index.md``.

    python docs/llms.py

The build puts it at the root of the built documentation, with each page as Markdown beside its HTML.
"""

from __future__ import annotations

import re
from pathlib import Path

DOCS = Path(__file__).resolve().parent
PARTS = re.compile(r"^## .*\n|^- \[[^]]*\]\([\w/-]+\.md\): .*", re.MULTILINE)
"""The headings of the front page, and the pages in its lists."""


def llms(index: str) -> str:
    """The text of ``llms.txt`` for the Markdown of the front page: its title, its first paragraph and its lists."""
    title, summary, _ = index.split("\n\n", 2)
    parts = [f"\n{part}" if part.startswith("#") else part for part in PARTS.findall(index)]
    return "\n".join([title, "", "> " + summary.replace("\n", " "), *parts]) + "\n"


if __name__ == "__main__":
    (DOCS / "llms.txt").write_text(llms((DOCS / "index.md").read_text(encoding="utf-8")), encoding="utf-8")
