"""The model that comes with the package: the documented file and bound, and samples that look like digits."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier

import ndm
from ndm.cli import main
from ndm.data import load_dataset
from ndm.experiment import Run, read_config
from ndm.experiment.build import count_parameters
from ndm.experiment.settings import differences
from ndm.hub import located, packaged
from ndm.support.files import sha256

PAGE = (Path(__file__).resolve().parent.parent / "docs" / "hub.md").read_text()

pytestmark = pytest.mark.usefixtures("float32")


@pytest.fixture(scope="module")
def digits():
    """Training rows and test rows, (N, 64), and the classes of the training rows."""
    from sklearn.datasets import load_digits

    order = np.random.default_rng(0).permutation(1797)
    x, y = load_digits().data[order], load_digits().target[order]
    assert np.array_equal(x[:1350], load_dataset("digits").train.flatten(1).numpy())
    return x[:1350], x[1500:], y[:1350]


def test_the_file_is_the_documented_one_and_small():
    (folder,) = packaged().values()
    weights = folder / "model" / "model.safetensors"
    assert sha256(weights) == re.search(r"`([0-9a-f]{64})`", PAGE)[1]
    assert f"{weights.stat().st_size:,} bytes" in PAGE
    assert sum(file.stat().st_size for file in folder.rglob("*")) < 1_000_000


def test_it_is_the_run_of_its_recipe():
    run = Run.open(located("digits-tiny"))
    assert set(differences(run.config, read_config("digits-tiny"))) == set()
    run.check_data(run.load_dataset())
    snapshot = run.snapshot()
    assert f"the average at step {snapshot.step}, which" in PAGE
    assert count_parameters(run.config) == snapshot.model.num_parameters
    estimates = json.loads(run.evaluations_file.read_text())["estimates"]
    for e in estimates[1:]:
        assert f"{e['bpd']:.3f} (standard error {e['standard_error']:.3f}): {e['estimator']}" in PAGE


def test_the_bound_is_the_documented_one():
    model, x = ndm.NDM.from_pretrained("digits-tiny"), load_dataset("digits").test
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        bpd = torch.cat([ndm.bits_per_dim(ndm.bound(model, x, generator=generator).total, x) for _ in range(2)])
    stated = float(re.search(r"rows \| ([\d.]+) \(", PAGE)[1])
    # One pass over 297 rows; the spread of a row's estimate decides, and five errors are no accident.
    assert abs(bpd.mean().item() - stated) < 5 * bpd.std().item() / 297**0.5 < 0.5


def test_its_samples_look_like_digits(digits):
    """The five nearest training rows agree on the class, and the nearest is near. Images whose pixels have the right
    distributions, but come from different digits, do not pass."""
    train, test, classes = digits
    x = ndm.sample(ndm.NDM.from_pretrained("digits-tiny"), 48, steps=50, generator=torch.Generator().manual_seed(0))
    samples = x.flatten(1).double().numpy()
    mixed = np.random.default_rng(0).permuted(test, axis=0)
    classifier = KNeighborsClassifier(5).fit(train, classes)
    near, far = (classifier.kneighbors(rows, 1)[0].mean() for rows in (samples, mixed))
    sure, unsure = (classifier.predict_proba(rows).max(1).mean() for rows in (samples, mixed))
    assert near < 1.4 * classifier.kneighbors(test, 1)[0].mean() < far / 1.4
    assert sure > 0.8 > unsure + 0.05
    assert len(set(classifier.predict(samples))) >= 8


def test_training_starts_from_it_by_its_name(tmp_path):
    line = ["train", "digits-tiny", "--init", "digits-tiny", "--out", str(tmp_path / "run"), "--training.steps", "1"]
    assert (
        main([*line, "--training.learning_rate", "1e-12", "--training.patience", "0", "--device", "cpu", "--quiet"])
        == 0
    )
    new, old = (ndm.NDM.from_pretrained(name).state_dict() for name in (str(tmp_path / "run"), "digits-tiny"))
    torch.testing.assert_close(new, old, rtol=0, atol=1e-6)


def test_it_is_sampled_by_its_name(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["sample", "digits-tiny", "--num", "4", "--steps", "5", "--out", "x.png", "--device", "cpu"]) == 0
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG") and "4 of 4 samples" in capsys.readouterr().err
    (tmp_path / "digits-tiny").mkdir()
    assert main(["sample", "digits-tiny", "--num", "4"]) == 2  # a folder comes first
    assert "digits-tiny is not a run folder" in capsys.readouterr().err
