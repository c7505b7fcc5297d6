"""The examples of the documentation run as printed. Each page has its own process, because examples register parts."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

DOCS = Path(__file__).resolve().parent.parent / "docs"
LIBRARY = r"bound, T=10 [\d.]+ ± [\d.]+\nODE .* [\d.]+ ± [\d.]+(\n\w[^\n]*: [\d.]+ \([\d.]+\)){6}"


TEXT = r"tensor\([\d.]+, .*\)\n\['.{16}', '.{16}', '.{16}'\]\n\[('the ... sat on t'(, )?){3}\]"
TABLES = r"column +kind .*\nsex +category +2 categories\n.*\n-?[\d.]+\ntensor\(\[.*\]\)"


@pytest.mark.parametrize(
    ("name", "count", "printed"),
    [("extending.md", 7, r"\(4,\)"), ("library.md", 5, LIBRARY), ("tables.md", 2, TABLES), ("text.md", 1, TEXT)],
)
def test_the_examples_of_a_page_run_in_their_order(name, count, printed, tmp_path):
    """The page of tables scores 50 rows instead of 442."""
    text = (DOCS / name).read_text().replace("table[:400]", "table[:40]").replace("table[400:]", "table[40:50]")
    blocks = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    assert len(blocks) == count
    file = tmp_path / "page.py"
    file.write_text("\n".join(blocks))
    result = subprocess.run([sys.executable, str(file)], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert re.fullmatch(printed, result.stdout.strip(), flags=re.DOTALL), result.stdout
