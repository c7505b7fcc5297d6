"""The examples of the documentation run as printed. Each page has its own process, because examples register parts."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

DOCS = Path(__file__).resolve().parent.parent / "docs"


@pytest.mark.parametrize("name", ["extending.md"])
def test_the_examples_of_a_page_run_in_their_order(name, tmp_path):
    blocks = re.findall(r"```python\n(.*?)```", (DOCS / name).read_text(), flags=re.DOTALL)
    assert len(blocks) == 7
    file = tmp_path / "page.py"
    file.write_text("\n".join(blocks))
    result = subprocess.run([sys.executable, str(file)], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == "(4,)"
