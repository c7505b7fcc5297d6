"""The help of a command does not wait for torch: public names are imported when they are first used."""

import json
import pickle
import subprocess
import sys

import pytest

import ndm
import ndm.data
import ndm.experiment
import ndm.training


def python(code, *arguments):
    """What a new process prints."""
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout


def test_help_of_every_command_does_not_import_torch():
    code = """
import io, json, sys, contextlib
from ndm.__main__ import main
texts = {}
for arguments in json.loads(sys.argv[1]):
    text = io.StringIO()
    with contextlib.redirect_stdout(text), contextlib.suppress(SystemExit):
        main(arguments)
    texts[" ".join(arguments)] = text.getvalue()
print(json.dumps([texts, sorted(sys.modules)]))
"""
    names = "demo", "train", "evaluate", "doctor", "report", "sample", "score", "quality", "recipes"
    calls = [["--help"], ["--version"], ["train", "digits", "--help"], ["trian"], *([name, "--help"] for name in names)]
    texts, modules = json.loads(python(code, json.dumps(calls)))
    assert "torch" not in modules and "rich" not in modules
    assert all(name in texts["--help"] for name in names) and "default: 4000)" in texts["train digits --help"]
    assert all(f"usage: ndm {name}" in texts[f"{name} --help"] for name in names)
    assert not [text for text in texts.values() if "<class" in text or "<function" in text]
    assert "type: Path" in texts["score --help"] and "type: int" in texts["score --help"]


@pytest.mark.parametrize("package", [ndm, ndm.data, ndm.training, ndm.experiment], ids=lambda p: p.__name__)
def test_every_public_name_is_there_when_asked_for(package):
    assert sorted(name for names in package.HOMES.values() for name in names.split()) == sorted(
        name for name in package.__all__ if name != "nn"
    )
    shown = dir(package)
    for name in package.__all__:
        assert getattr(package, name) is not None and name in shown
    with pytest.raises(AttributeError, match=f"module '{package.__name__}' has no attribute 'nothing'"):
        _ = package.nothing


def test_parts_are_registered_and_names_imported_by_whoever_asks_first():
    code = """
import sys, ndm.cli
print("torch" in sys.modules)
from ndm.experiment.settings import make_config
make_config({"model": {"parameterization": "levels"}})
import ndm
print(ndm.solvers.rk4.__name__, ndm.objective.bound is ndm.bound)
from ndm import *
print(NDM.__name__, nn.MLP.__name__, bound.__name__)
import ndm.data
print(*ndm.data.DATASETS)
"""
    heavy, modules, names, data = python(code).splitlines()
    assert (heavy, modules, names) == ("False", "rk4 True", "NDM MLP bound")
    assert data.split()[:3] == ["digits", "gmm-digits", "ring"]


def test_objects_are_pickled_by_the_names_of_their_modules():
    schedule = pickle.loads(pickle.dumps(ndm.LinearSchedule(-7.0, 5.0)))
    assert isinstance(schedule, ndm.LinearSchedule) and pickle.loads(pickle.dumps(ndm.bound)) is ndm.bound
    assert pickle.dumps(ndm.NDM).find(b"ndm.model") > 0


def test_a_model_is_loaded_by_a_process_that_imports_only_the_model(tmp_path):
    """Its networks and its predictor are registered by whoever reads their names."""
    process = ndm.ForwardProcess(ndm.LinearSchedule(-7.0, 5.0))
    net = ndm.nn.MLP((1, 4, 4), multiplier=5, width=8, depth=1)
    model = ndm.NDM(process, ndm.LevelsPredictor(net, 4, 4), ndm.CategoricalDecoder(4))
    model.save_pretrained(tmp_path)
    code = "import sys; from ndm.model import NDM; print(NDM.from_pretrained(sys.argv[1]).num_parameters)"
    assert int(python(code, str(tmp_path))) == model.num_parameters
