"""A user's own file in the place of ``ndm``: what the commands say, and that its parts are registered once."""

import importlib.util
import re
import shlex
import sys
from pathlib import Path

import pytest
import yaml

from ndm.cli import main
from ndm.support.program import command, named_program

QUICK = ["--estimator", "bound", "--steps", "2", "--passes", "1", "--limit", "4"]
FILE = """
import sys
import torch, ndm
from ndm.transform import TRANSFORMS


@TRANSFORMS.register("{name}")
class {cls}(ndm.Transform):
    def __init__(self):
        super().__init__()
        self.speed = torch.nn.Parameter(torch.ones(1))

    def forward(self, x):
        return ndm.BasisCurve({start} * x, self.speed * x)


settings = {{"model": {{"transform": "{name}"}}}}

if __name__ == "__main__":
    import ndm.cli
    sys.exit(ndm.cli.main())
"""
SMALL = ["--model.width", "8", "--model.depth", "1", "--training.batch_size", "16", "--training.evaluate_every", "0",
         "--training.sample_every", "0", "--device", "cpu"]  # fmt: skip


def as_program(monkeypatch, path, start=1.0, source=""):
    """Write a file of a part with the name of the file, and make it this process's program, as ``python FILE`` does."""
    name = path.stem
    path.write_text(source or FILE.format(name=name, cls=name.capitalize(), start=start))
    spec = importlib.util.spec_from_file_location(f"program_{name}", path)
    program = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(program)
    monkeypatch.setitem(sys.modules, "__main__", program)

    def run(*words):
        monkeypatch.setattr(sys, "argv", [path.name, *words])
        return main()

    return run


@pytest.fixture
def folder(tmp_path, monkeypatch, float32):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_last_line_names_the_program_that_knows_the_part_and_so_does_the_error_of_ndm(folder, monkeypatch, capsys):
    program = as_program(monkeypatch, folder / "grows.py")
    train = ["train", "ring", "--model.transform", "grows", "--training.steps", "2", *SMALL]
    assert program(*train, "--out", "run") == 0
    said = capsys.readouterr().err
    follows = re.search("Next: (.*)", said)[1]
    assert follows == "python grows.py evaluate run"
    assert program(*shlex.split(follows)[2:], *QUICK) == 0
    assert program("train", "ring", "--out", "run", *SMALL) == 2
    assert "or go on with python grows.py train --resume run" in capsys.readouterr().err

    config = yaml.safe_load((folder / "run" / "config.yaml").read_text())
    config["model"]["transform"] = "elsewhere"  # a part that this process does not know
    (folder / "run" / "config.yaml").write_text(yaml.safe_dump(config))
    assert main(["evaluate", "run"]) == 2
    assert capsys.readouterr().err.endswith(
        "if it is your own, run the file that registers it in the place of ndm, as in python FILE evaluate RUN\n"
    )


def test_the_program_is_a_file_of_the_users_or_ndm(monkeypatch):
    for started, words in (
        ("/usr/bin/ndm", "ndm"),
        ("/site-packages/ndm/__main__.py", "ndm"),
        ("parts/mine.py", "python parts/mine.py"),
    ):
        monkeypatch.setattr(sys, "argv", [started, "recipes"])
        with named_program():
            assert command("evaluate RUN") == f"{words} evaluate RUN"
        assert command("evaluate RUN") == "ndm evaluate RUN"


def test_a_file_that_is_the_program_and_a_variant_registers_its_part_once(folder, monkeypatch, capsys):
    program = as_program(monkeypatch, folder / "twice.py")
    words = ["--variants", "conventional,twice.py", "--seeds", "1", "--match", "none", "--steps", "2", "--passes", "1",
             "--limit", "4", "--sampling_steps", "none", "--ode_rows", "0", "--training.steps", "2"]  # fmt: skip
    assert program("compare", "ring", "--out", "out", *words, *SMALL) == 0
    assert "| conventional | twice |" in capsys.readouterr().out


def test_an_f_without_a_bound_is_refused_before_the_run_has_a_folder_and_before_a_variant_is_trained(
    folder, monkeypatch, capsys
):
    program = as_program(monkeypatch, folder / "shrinks.py", start=0.5)
    train = ["train", "ring", "--model.transform", "shrinks", "--training.steps", "2", "--out", "run", *SMALL]
    assert program(*train) == 2
    error = capsys.readouterr().err
    assert error.startswith("ndm: error: F(x, 0) is not x: ") and error.count("\n") == 1
    assert not (folder / "run").exists()
    words = ["--variants", "conventional,shrinks.py", "--seeds", "1", "--match", "none", "--training.steps", "2"]
    assert program("compare", "ring", "--out", "out", *words, *SMALL) == 2
    assert "shrinks: F(x, 0) is not x: " in capsys.readouterr().err
    assert not list((folder / "out").glob("conventional-seed0/model"))


def test_the_command_that_the_page_shows_trains_the_transform_that_it_shows(folder, monkeypatch):
    page = (Path(__file__).resolve().parent.parent / "docs" / "extending.md").read_text()
    (line,) = re.findall("^python my_parts.py (train .*)$", page, re.MULTILINE)
    program = as_program(
        monkeypatch, folder / "my_parts.py", source=re.search("```python\n(.*?)```", page, re.DOTALL)[1]
    )
    assert program(*shlex.split(line), *SMALL, "--training.steps", "2") == 0
