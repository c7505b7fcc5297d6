"""The examples of the documentation run as printed. Each page has its own process, because examples register parts."""

import re
from pathlib import Path

import pytest

from processes import Started

DOCS = Path(__file__).resolve().parent.parent / "docs"
LIBRARY = r"bound, T=10 [\d.]+ ± [\d.]+\nODE .* [\d.]+ ± [\d.]+(\n\w[^\n]*: [\d.]+ \([\d.]+\)){6}"


TEXT = r"tensor\([\d.]+, .*\)\n\['.{16}', '.{16}', '.{16}'\]\n\[('the ... sat on t'(, )?){3}\]"
SHORTER = {
    "hub.md": {"steps=50": "steps=5"},
    "tables.md": {
        "table[:400]": "table[:40]",
        "table[400:]": "table[40:50]",
        "table[400:403]": "table[40:41]",
        "max_steps=60": "max_steps=5",
    },
    "relatives.md": {"range(1500)": "range(2)", "range(20)": "range(2)", "width=160": "width=8"},
    "library.md": {"steps=150, batch_size=128, warmup=20, evaluate_every=50": "steps=20, batch_size=128, warmup=5"},
}
TABLES = r"column +kind .*\nsex +category +2 categories\n.*\n-?[\d.]+\n\['\w+' '\w+' '\w+'\]\n\[.*\]\ntensor\(\[.*\]\)"


DDPM = r"(torch\.Size\(\[4\]\) ?){3}"
RELATIVES = r"c = 0: 0\.0000 of [\d.]+ bits/dim\na latent c: [\d.]+ of [\d.]+ bits/dim"
FAQ = r"tensor\(\[.*\]\)\ndata is not finite in 1 of 4 rows .*"


@pytest.mark.parametrize(
    ("name", "count", "printed"),
    [
        ("extending.md", 8, r"F\(x, 0\) is not x after a small change of its weights: .*\(4,\)"),
        ("hub.md", 1, r"\(16, 1, 8, 8\) True True"),
        ("library.md", 5, LIBRARY),
        ("tables.md", 4, TABLES),
        ("text.md", 1, TEXT),
        ("ddpm.md", 6, DDPM),
        ("faq.md", 6, FAQ),
        ("relatives.md", 2, RELATIVES),
    ],
)
def test_the_examples_of_a_page_run_in_their_order(name, count, printed, tmp_path, monkeypatch):
    """They run with fewer rows and steps."""
    text = (DOCS / name).read_text()
    for long, short in SHORTER.get(name, {}).items():
        assert long in text
        text = text.replace(long, short)
    blocks = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    assert len(blocks) == count
    file = tmp_path / "page.py"
    file.write_text("\n".join(blocks))
    monkeypatch.chdir(tmp_path)
    status, out, error = Started(file).end(120)
    assert status == 0, error
    assert re.fullmatch(printed, out.strip(), flags=re.DOTALL), out
