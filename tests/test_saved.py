"""What earlier versions saved is still read. ``saved/VERSION`` is a run's folder that the version's command line made:

ndm train digits --model.width 8 --model.depth 1 --model.transform_width 4 --training.steps 4 --training.batch_size 8
    --training.checkpoint_every 2 --training.evaluate_every 2 --training.sample_every 0 --training.warmup 1
"""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import ndm
from ndm.cli import main
from ndm.experiment import Run

SAVED = Path(__file__).with_name("saved")
BOUNDS = {"0.1.0": 8.25555}
"""The bound in bits/dim that the version itself found: ten steps, two passes, the first eight test rows, seed 0."""


@pytest.fixture(params=sorted(BOUNDS))
def saved(request, tmp_path):
    """The version, and a copy of its run."""
    torch.set_default_dtype(torch.float32)
    shutil.copytree(SAVED / request.param, tmp_path / "run")
    return request.param, tmp_path / "run"


def test_a_saved_model_gives_the_figures_of_its_version(saved, capsys):
    version, folder = saved
    model = ndm.NDM.from_pretrained(folder / "model")
    assert model.num_parameters == 9748
    options = ["--estimator", "bound", "--steps", "10", "--passes", "2", "--limit", "8", "--json", "--device", "cpu"]
    assert main(["evaluate", str(folder), *options]) == 0
    (estimate,) = json.loads(capsys.readouterr().out)["estimates"]
    assert estimate["bpd"] == pytest.approx(BOUNDS[version], abs=1e-3)


def test_a_saved_run_goes_on_to_the_weights_of_its_version(saved):
    """From the checkpoint of step 2 to step 4, whose average the version saved."""
    _, folder = saved
    expected = load_file(folder / "model" / "model.safetensors")
    shutil.rmtree(folder / "model")
    assert main(["train", "--resume", str(folder), "--device", "cpu"]) == 0
    assert [record["step"] for record in Run(folder).metrics()][-1] == 4
    found = load_file(folder / "model" / "model.safetensors")
    assert found.keys() == expected.keys()
    # By the distance that was covered: where a gradient is nearly zero, another processor or version of torch may give
    # it another sign, and Adam then takes its whole step in the other direction.
    begin = load_file(folder / "checkpoints" / "step-00000002" / "state.safetensors")
    flat = lambda weights, prefix="": torch.cat([weights[prefix + k].flatten() for k in expected])  # noqa: E731
    covered = (flat(expected) - flat(begin, "average.")).norm()
    assert (flat(found) - flat(expected)).norm() < 0.3 * covered
