"""The README's example runs as printed, on fewer steps."""

import re
from pathlib import Path

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


def test_the_example_of_an_own_f_runs(capsys):
    torch.set_default_dtype(torch.float32)
    first, code = re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.DOTALL)
    assert "range(500)" in code
    exec(first.partition("\n")[0] + "\n" + code.replace("range(500)", "range(3)"), {})
    loss, likelihoods, samples = re.fullmatch(
        r"0 [\d.]+\ntensor\((.*?), grad_fn.*?\) tensor\(\[(.*?)\]\) tensor\(\[\[(.*)\]\]\)\n",
        capsys.readouterr().out,
        flags=re.DOTALL,
    ).groups()
    assert float(loss) > 0
    assert len(likelihoods.split(",")) == 5 and samples.count("]") == 4
