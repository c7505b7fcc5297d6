"""Every kind of warning is printed with ``--quiet`` too, and nothing else is."""

import shutil

import numpy as np
import pytest

import ndm
from ndm.cli import main
from ndm.support import progress

from conftest import TINY, grey_pictures

BOUND = ["--estimator", "bound", "--steps", "3", "--passes", "1", "--limit", "4", "--device", "cpu"]
SAMPLE = ["--num", "2", "--steps", "1", "--device", "cpu"]

pytestmark = pytest.mark.usefixtures("float32", "cache")


def pictures(folder, **options):
    """The options of a training on a folder of pictures."""
    data = {"name": "images", "path": folder, "size": 8, **options}
    return [part for name, value in data.items() for part in (f"--data.{name}", str(value))]


def train(folder, *options):
    return ["train", "digits-conventional", "--out", folder / "new", *TINY, "--training.steps", "1", *options]


def existing_samples(run, folder, _):
    (folder / "x.npz").write_text("")
    return ["sample", run, "--out", folder / "x.npz", *SAMPLE], "exists and will be replaced"


def unwritten_result(run, folder, _):
    (run / "evaluations.jsonl").mkdir()
    return ["evaluate", run, *BOUND], "could not be written"


def closed_folder(run, folder, monkeypatch):
    def closed(place):
        raise ndm.InputError(f"{place} cannot be written (read-only file system)")

    monkeypatch.setattr("ndm.experiment.results.check_writable", closed)
    return ["evaluate", run, *BOUND], "so the result will only be printed"


def foreign_line(run, folder, _):
    with (run / "metrics.jsonl").open("a") as file:
        file.write("[1]\n")
    shutil.rmtree(run / "model")
    return ["train", "--resume", run, "--device", "cpu"], "passed over 1 line"


def damaged_checkpoint(run, folder, _):
    shutil.rmtree(run / "model")
    (run / "checkpoints" / "step-00000012" / "state.json").write_text("")
    return ["train", "--resume", run, "--device", "cpu"], "it is passed over"


def unused_files(run, folder, _):
    (grey_pictures(folder / "set", range(10)) / "notes.txt").write_text("")
    return train(folder, *pictures(folder / "set"), "--training.batch_size", "2"), "not used: 1 file (.txt 1)"


def skipped_pictures(run, folder, _):
    (grey_pictures(folder / "set", range(10)) / "bad.png").write_text("")
    options = pictures(folder / "set", on_bad_file="skip")
    return train(folder, *options, "--training.batch_size", "2"), "skipped: 1 of 11"


def unused_arrays(run, folder, _):
    np.savez(folder / "x.npz", x_train=np.zeros((40, 8, 8), np.uint8), labels=np.zeros(40))
    options = ["--data.name", "array", "--data.path", folder / "x.npz", "--training.batch_size", "4"]
    return train(folder, *options), "not used: labels"


def damaged_cache(run, folder, _):
    options = pictures(grey_pictures(folder / "set", range(10)))
    assert main([str(part) for part in train(folder / "first", *options, "--training.batch_size", "2")]) == 0
    (file,) = (folder / "cache").glob("*.npy")
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    return train(folder, *options, "--training.batch_size", "2"), "is damaged; its rows are read"


KINDS = [
    existing_samples, unwritten_result, closed_folder, foreign_line, damaged_checkpoint, unused_files, skipped_pictures,
    unused_arrays, damaged_cache,
]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS, ids=lambda f: f.__name__)
def test_a_warning_is_printed_with_quiet_too(kind, run, tmp_path, monkeypatch, capsys):
    arguments, words = kind(run, tmp_path, monkeypatch)
    capsys.readouterr()
    assert main([*map(str, arguments), "--quiet"]) == 0
    lines = capsys.readouterr().err.splitlines()
    assert any(words in line for line in lines), lines
    assert all(line.startswith("ndm: warning: ") for line in lines)
    assert not progress.console.quiet
