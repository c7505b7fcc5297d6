"""Every ``>>>`` example of the package runs as it stands, with no more than ``import ndm`` and ``import torch``."""

import doctest
import importlib
import pkgutil

import pytest
import torch

import ndm

MODULES = [m.name for m in pkgutil.walk_packages(ndm.__path__, "ndm.") if not m.name.endswith("__main__")]
EXAMPLES = [
    example
    for name in MODULES
    for example in doctest.DocTestFinder().find(importlib.import_module(name), extraglobs={"ndm": ndm, "torch": torch})
    if example.examples
]


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda e: e.name)
def test_an_example_runs_as_it_stands(example):
    example.globs = {"ndm": ndm, "torch": torch}  # not those of its module
    said = []
    assert doctest.DocTestRunner().run(example, out=said.append).failed == 0, "".join(said)


def test_there_are_examples():
    """The names people meet first have one."""
    have = {example.name for example in EXAMPLES}
    expected = {"model.NDM", "process.ForwardProcess", "sampling.sample", "likelihood.log_prob", "transform.TimeBasis"}
    assert {f"ndm.{name}" for name in expected} <= have
