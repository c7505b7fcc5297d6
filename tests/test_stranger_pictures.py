"""What strangers saw of version 0.1.0: its terminal and its pictures. See tests/faults.py.

These tests use only what 0.1.0 has too, so that they can fail there for the fault and for nothing else.
"""

import io
import os
import pty
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

import ndm
from ndm.cli import main
from ndm.data import load_dataset
from processes import Started

from conftest import TINY, refused

try:
    from ndm.evaluation import pictures
except ImportError:  # the place in 0.1.0
    from ndm import pictures

pytestmark = pytest.mark.usefixtures("float32")


# Section 7: the terminal


class Terminal(io.StringIO):
    def isatty(self):
        return True


def lines_of(text):
    return [line.rstrip() for line in re.split(r"[\r\n]+", re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", text))]


def on_a_terminal(arguments, width):
    """The lines that a command shows on a terminal of that width."""
    owner, terminal = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": str(width), "LINES": "24"}
    process = Started("-m", "ndm", *arguments, stderr=os.ttyname(terminal), env=environment)
    text = os.read(owner, 4096)
    os.close(terminal)  # from here on, the end of the process is the end of what it says
    try:
        while part := os.read(owner, 4096):
            text += part
    except OSError:  # the end, as Linux tells it
        pass
    os.close(owner)
    assert process.end()[0] == 0
    return lines_of(text.decode(errors="replace"))


def test_a_training_in_a_log_prints_lines_between_the_first_and_the_last(tmp_path, capsys):
    out = tmp_path / "run"
    assert main(["train", "digits-conventional", "--out", str(out), *TINY, "--training.steps", "8"]) == 0
    lines = capsys.readouterr().err.splitlines()
    assert any("4 of 8" in line or "step 4" in line for line in lines[1:-1])


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    """The lines of a training on terminals of 80 and 60 columns, and the folders of the runs."""
    found = {}
    for width in (80, 60):
        out = tmp_path_factory.mktemp("a-folder-with-a-long-name" * 3) / "run"
        options = ["--training.steps", "120", "--training.sample_every", "60", "--training.evaluate_every", "40"]
        found[width] = on_a_terminal(["train", "digits-conventional", "--out", out, *TINY, *options], width), out
    return found


def test_paths_and_advice_do_not_break_at_80_columns(shown):
    lines, out = shown[80]
    assert any(str(out) in line for line in lines) and any(f"ndm evaluate {out}" in line for line in lines)


def test_at_60_columns_the_step_and_the_time_left_are_shown(shown):
    lines, _ = shown[60]
    assert any(re.search(r"\b\d+/120\b.*\d:\d\d left.*train \d", line) for line in lines)


@pytest.mark.parametrize("name", ["validating", "drawing samples"])
def test_what_stalls_the_bar_has_a_name(name, shown):
    assert any(name in line for line in shown[80][0])


def test_there_is_a_quiet_mode(tmp_path, capsys):
    out = str(tmp_path / "run")
    assert main(["train", "digits-conventional", "--out", out, *TINY, "--training.steps", "2", "--quiet"]) == 0
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("option", ["--training.step", "--training.batch_sizes"])
def test_a_misspelt_option_is_refused_with_the_right_one(option, tmp_path, capsys):
    """An abbreviation was taken for the option; another one was unknown without a guess."""
    error = refused(["train", "digits-conventional", "--out", tmp_path / "run", *TINY, option, "3"], capsys)
    assert "did you mean --training." in error


def test_help_does_not_wait_for_torch():
    """It took five seconds, most of them for the import."""
    code = "import sys\nfrom ndm.__main__ import main\ntry: main(['train', '--help'])\nexcept SystemExit: pass\n"
    code += "print('torch' in sys.modules, file=sys.stderr)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert result.stderr.splitlines()[-1] == "False"


# Section 8: pictures


@pytest.fixture
def drawn(monkeypatch):
    """The figures that are drawn."""
    figures, savefig = [], Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda self, *a, **k: (figures.append(self), savefig(self, *a, **k))[1])
    return figures


def texts(figure):
    return [t.get_text() for t in figure.findobj(Text) if t.get_visible() and t.get_text()]


def model_of(levels, shape, transform=None):
    torch.manual_seed(0)
    process = ndm.ForwardProcess(ndm.LinearSchedule(-7.0, 5.0), transform or ndm.Identity())
    net = ndm.nn.MLP(shape, width=8, depth=1)
    return ndm.NDM(process, ndm.Predictor(net), ndm.CategoricalDecoder(levels) if levels else ndm.GaussianDecoder())


@pytest.mark.parametrize("side", [64, 8])
def test_every_pixel_of_a_sample_is_in_the_grid_at_a_whole_number_scale(side, tmp_path):
    """Samples of 64 pixels lost some of them, and small ones had pixels of unequal width."""
    x = torch.randint(2, (4, 1, side, side), generator=torch.Generator().manual_seed(0)) * 255
    pictures.write_samples(model_of(256, (1, side, side)), x, x, tmp_path / "grid.png")
    grid = np.asarray(Image.open(tmp_path / "grid.png").convert("L")).astype(int)
    for scale in range(1, 13):
        block = x[1, 0].numpy().repeat(scale, 0).repeat(scale, 1)
        height, width = (n - len(block) + 1 for n in grid.shape)
        if min(height, width) < 1:
            break
        first = np.argwhere(grid[:height, :width] == block[0, 0])
        corner = grid[first[:, 0] + len(block) - 1, first[:, 1] + len(block) - 1] == block[-1, -1]
        for i, j in first[corner]:
            if np.array_equal(grid[i : i + len(block), j : j + len(block)], block):
                return
    pytest.fail("the sample is not in the grid pixel for pixel")


def test_a_picture_of_samples_names_run_step_and_solver_and_has_data_beside(saved_run, tmp_path, drawn):
    out = str(tmp_path / "x.png")
    assert main(["sample", str(saved_run), "--num", "8", "--steps", "5", "--out", out, "--device", "cpu"]) == 0
    words = " ".join(" ".join(texts(drawn[-1])).split())
    assert (
        saved_run.name in words and "step 12 of 12" in words and "ancestral 5 steps" in words and "test data" in words
    )


@pytest.fixture
def saved_run(run):
    return run.rename(run.with_name("a-run"))


def test_the_transform_has_exact_times_and_a_colour_bar(tmp_path, drawn):
    f = ndm.nn.MLP((1, 8, 8), multiplier=1, embedding=0, width=8, depth=1)
    x = load_dataset("digits").test[:3]
    pictures.draw_transform(model_of(17, (1, 8, 8), ndm.TimeBasis(f, num_basis=1)), x, tmp_path / "t.png")
    found = " ".join(texts(drawn[-1])).replace(" ", "")
    assert "t=0.125" in found and "t=0.875" in found  # 0.12 and 0.88 in 0.1.0
    assert "modelunits" in found


def test_trajectories_name_axes_and_colours_and_the_legend_is_off_the_data(tmp_path, drawn):
    pictures.draw_trajectories({"one": model_of(None, (4,))}, torch.randn(50, 4), tmp_path / "t.png")
    figure = drawn[-1]
    axes = figure.axes[0]
    assert axes.get_xlabel() and axes.get_ylabel() and len(figure.axes) > 1
    assert axes.get_legend() is None


def test_the_picture_of_the_doctor_names_the_run_and_its_units(saved_run, drawn):
    assert main(["doctor", str(saved_run), "--limit", "16", "--device", "cpu"]) == 0
    found = " ".join(texts(drawn[-1]))
    assert saved_run.name in found.replace("\n", "") and "bits/dim" in found.replace("bound: ", "")


def test_a_toy_shows_as_many_data_as_samples_and_the_exact_density(tmp_path, drawn):
    out = str(tmp_path / "run")
    options = ["--model.width", "8", "--model.depth", "1", "--training.batch_size", "16", "--device", "cpu"]
    assert main(["train", "ring", "--out", out, *options, "--training.steps", "2"]) == 0
    drawn.clear()
    assert main(["sample", out, "--num", "50", "--out", str(tmp_path / "x.png"), "--device", "cpu"]) == 0
    counts = [len(points.get_offsets()) for axes in drawn[-1].axes for points in axes.collections
              if hasattr(points, "get_offsets") and len(points.get_offsets()) > 1]  # fmt: skip
    assert counts[0] == counts[1] == 50
    assert any("density" in text for text in texts(drawn[-1]))
