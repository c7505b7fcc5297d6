"""The README's example runs as printed, on fewer steps."""

import re
from pathlib import Path

import pytest
import torch

README = Path(__file__).resolve().parent.parent / "README.md"


def test_the_example_of_a_table_runs(capsys):
    torch.set_default_dtype(torch.float32)
    code, _ = re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.DOTALL)
    assert "max_time=20" in code
    exec(code.replace("max_time=20", "max_steps=3"), {})
    scores, rows = re.fullmatch(r"\[(.*?)\]\n\[\[(.*)\]\]\n", capsys.readouterr().out, flags=re.DOTALL).groups()
    assert len(scores.split()) == 3
    assert rows.count("]") == 2


def test_the_example_of_the_library_runs(tmp_path, monkeypatch, capsys):
    torch.set_default_dtype(torch.float32)
    _, code = re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.DOTALL)
    assert "range(200)" in code
    monkeypatch.chdir(tmp_path)
    exec(code.replace("range(200)", "range(3)"), {})
    values = [float(v) for v in re.findall(r"tensor\(([\d.]+)", capsys.readouterr().out)]
    assert len(values) == 2
    assert values[1] == pytest.approx(5, abs=3)
    assert (tmp_path / "my-model" / "model.safetensors").exists()
