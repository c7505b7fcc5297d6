"""Pictures: every pixel of a sample is there, nothing is cut, and matplotlib stays as the user left it."""

import errno
import subprocess
import sys
import warnings
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

import ndm
from ndm.data import moons
from ndm.evaluation import pictures
from ndm.evaluation.diagnosis import Diagnosis


def model_of(levels=None, transform=None, shape=(1,)):
    process = ndm.ForwardProcess(ndm.LinearSchedule(-7.0, 5.0), transform or ndm.Identity())
    decoder = ndm.CategoricalDecoder(levels) if levels else ndm.GaussianDecoder()
    return ndm.NDM(process, ndm.Predictor(ndm.nn.MLP(shape, width=8, depth=1)), decoder)


def integers(n, *shape, levels=256):
    return torch.randint(levels, (n, *shape), dtype=torch.uint8 if levels <= 256 else torch.long)


def read(path):
    """The pixels of a picture, ``(height, width, 3)``."""
    return np.asarray(Image.open(path).convert("RGB"))


def times_found(picture, block):
    """How often a block of pixels stands in a picture."""
    h, w = block.shape[:2]
    y, x = np.nonzero((picture[: len(picture) - h + 1, : picture.shape[1] - w + 1] == block[0, 0]).all(2))
    for dy, dx in ((h - 1, w - 1), (0, w - 1), (h - 1, 0), (h // 2, w // 2)):
        same = (picture[y + dy, x + dx] == block[dy, dx]).all(1)
        y, x = y[same], x[same]
    return sum(np.array_equal(picture[i : i + h, j : j + w], block) for i, j in zip(y, x, strict=True))


@pytest.fixture
def drawn(monkeypatch):
    """The figures that are drawn."""
    figures, savefig = [], Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda self, *a, **k: (savefig(self, *a, **k), figures.append(self))[0])
    return figures


def texts(figure):
    return [t.get_text() for t in figure.findobj(Text) if t.get_visible() and t.get_text()]


def assert_nothing_is_cut(figure):
    box, (width, height) = figure.get_tightbbox(), figure.get_size_inches()
    assert box.x0 >= -0.01, figure
    assert box.y0 >= -0.01, figure
    assert box.x1 <= width + 0.01, figure
    assert box.y1 <= height + 0.01, figure


# Grids


@pytest.mark.parametrize(
    ("shape", "levels", "scale"),
    [
        ((1, 8, 8), 17, 6), ((3, 8, 8), 256, 6), ((1, 28, 28), 256, 2), ((3, 33, 20), 256, 2), ((3, 64, 64), 256, 1),
        ((1, 100, 7), 256, 1), ((3, 1, 2), 256, 24), ((1, 12, 12), 1000, 4),
    ],
)  # fmt: skip
def test_every_pixel_of_every_sample_is_in_the_grid_at_a_whole_number_scale(shape, levels, scale, tmp_path):
    x, test = integers(21, *shape, levels=levels), integers(40, *shape, levels=levels)
    pictures.write_samples(model_of(levels), x, test, tmp_path / "s.png", "a run")
    picture = read(tmp_path / "s.png")
    for rows, expected in ((x, 21), (test, 6)):
        colours = np.rint(rows.permute(0, 2, 3, 1).double().numpy() * 255 / (levels - 1)).astype(np.uint8)
        blocks = [c.repeat(scale, 0).repeat(scale, 1).repeat(3 // shape[0], 2) for c in colours]
        assert sum(times_found(picture, block) > 0 for block in blocks) == expected


def test_a_picture_of_one_black_pixel_is_visible(tmp_path):
    pictures.write_samples(
        model_of(2), torch.zeros(1, 1, 1, 1).long(), torch.ones(0, 1, 1, 1).long(), tmp_path / "s.png"
    )
    assert times_found(read(tmp_path / "s.png"), np.zeros((48, 48, 3), np.uint8)) == 1


def test_real_images_are_drawn_in_the_range_of_the_data_and_the_range_is_stated(tmp_path, drawn):
    test = torch.linspace(-2, 3, 16 * 4).view(4, 1, 4, 4)
    x = test.clone()
    x[0, 0, 0, 0], x[1, 0, 0, 0] = 1e30, torch.nan
    pictures.write_samples(model_of(), x, test, tmp_path / "s.png")
    found = " ".join(texts(drawn[0]))
    assert "-2 is black and 3 is white" in found
    assert "values beyond are cut" in found
    assert "samples (1 not finite)" in found
    grey = np.rint((test + 2).numpy()[2, 0] / 5 * 255).astype(np.uint8).repeat(12, 0).repeat(12, 1)
    assert times_found(read(tmp_path / "s.png"), grey[..., None].repeat(3, 2)) == 2


def test_channels_that_are_no_colours_stand_side_by_side(tmp_path, drawn):
    x = integers(2, 4, 6, 6)
    pictures.draw_samples({"samples": x}, tmp_path / "s.png", levels=256)
    block = torch.cat(list(x[1]), dim=1).numpy().repeat(8, 0).repeat(8, 1)
    assert times_found(read(tmp_path / "s.png"), block[..., None].repeat(3, 2)) == 1
    assert any("4 channels" in t for t in texts(drawn[0]))


def test_more_images_than_fit_are_counted(tmp_path, drawn):
    pictures.draw_samples({"samples": integers(13, 1, 3100, 4)}, tmp_path / "s.png", levels=256)
    assert "(the first 8 of 13)" in " ".join(texts(drawn[0]))
    assert max(read(tmp_path / "s.png").shape) < 4000


def test_the_grid_names_the_run_the_data_and_the_samples(tmp_path, drawn):
    title = "runs/digits at step 2000 of 4000, 50 ancestral steps"
    pictures.write_samples(model_of(17), integers(64, 1, 8, 8, levels=17), integers(99, 1, 8, 8, levels=17),
                           tmp_path / "s.png", title)  # fmt: skip
    assert {"test data", "samples", "0 is black and 16 is white"} <= set(texts(drawn[0]))
    assert title in " ".join(texts(drawn[0]))
    assert Image.open(tmp_path / "s.png").info["Title"] == title


@pytest.mark.parametrize("x", [torch.zeros(3, 5), torch.zeros(1, 1, 2, 10**6)])
def test_rows_that_are_no_grid_are_refused(x, tmp_path):
    with pytest.raises(ndm.InputError, match="at least one image"):
        pictures.draw_samples({"samples": x}, tmp_path / "s.png", 2)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("x", [torch.zeros(3, 1, 2, 3), torch.zeros(3, 1, 2, 2, 1), torch.zeros(0, 1, 2, 2)])
def test_groups_that_do_not_match_are_refused(x, tmp_path):
    for draw in (pictures.draw_samples, pictures.draw_points):
        with pytest.raises(ndm.InputError, match="one shape|no rows"):
            draw({"data": torch.zeros(3, 1, 2, 2), "samples": x}, tmp_path / "s.png")
    assert list(tmp_path.iterdir()) == []


# Points


@pytest.mark.parametrize(("samples", "rows"), [(64, 64), (5000, 2000)])
def test_a_toy_shows_as_many_data_as_samples_and_the_exact_density(samples, rows, tmp_path, drawn, monkeypatch):
    drawings, scatter, contour = [], Axes.scatter, Axes.contour
    record = lambda f: lambda self, *a, **k: (drawings.append((f.__name__, a, k)), f(self, *a, **k))[1]  # noqa: E731
    monkeypatch.setattr(Axes, "scatter", record(scatter))
    monkeypatch.setattr(Axes, "contour", record(contour))
    toy = moons()
    test = toy.sample(2000).float()
    pictures.write_samples(model_of(), test.repeat(3, 1)[:samples], test, tmp_path / "s.png", "moons", toy)
    assert [len(a[0]) for name, a, _ in drawings if name == "scatter"] == [rows, rows]
    assert {f"test data: {rows} rows", f"samples: {rows} rows"} <= set(texts(drawn[0]))
    contours = [a for name, a, _ in drawings if name == "contour"]
    assert len(contours) == 2
    x, y, density, levels = contours[0]
    at = torch.tensor([[x[120], y[130]]])
    assert density[130, 120] == pytest.approx(toy.log_prob(at).exp().item())
    assert levels == pytest.approx([share * density.max() for share in (0.01, 0.1, 0.5)])
    assert any("exact density at 1%, 10%, 50%" in t for t in texts(drawn[0]))


def test_stray_samples_do_not_hide_the_rest_and_are_counted(tmp_path, drawn):
    test = torch.randn(50, 2)
    x = test.clone()
    x[0], x[1, 0] = 1e30, torch.nan
    pictures.write_samples(model_of(), x, test, tmp_path / "s.png")
    assert any("50 rows, 2 of them not in the frame" in t.replace("\n", " ") for t in texts(drawn[0]))
    assert max(abs(v) for v in drawn[0].axes[1].get_xlim()) < 20


@pytest.mark.parametrize("shape", [(1,), (2,), (10,), (3, 4), (2, 1, 7)])
def test_rows_of_any_shape_are_drawn_with_named_axes(shape, tmp_path, drawn):
    pictures.draw_points({"data": torch.randn(30, *shape), "samples": torch.randn(9, *shape)}, tmp_path / "s.png")
    names = {axes.get_xlabel() for axes in drawn[0].axes}
    assert names == {
        "x1, data units" if len(torch.zeros(shape).flatten()) < 3 else "first principal direction, data units"
    }
    assert_nothing_is_cut(drawn[0])


@pytest.mark.parametrize(
    "test", [torch.zeros(0, 3), torch.ones(1, 3), torch.full((4, 3), torch.nan), torch.zeros(5, 3)]
)
def test_no_few_broken_and_constant_test_rows_are_drawn(test, tmp_path, drawn):
    pictures.write_samples(model_of(), torch.randn(20, 3), test, tmp_path / "s.png")
    assert_nothing_is_cut(drawn[0])


# Figures


def test_the_transform_names_exact_times_and_has_a_colour_bar_with_units(tmp_path, drawn):
    f = ndm.nn.MLP((1, 8, 8), multiplier=2, embedding=0, width=8, depth=1)
    for parameter in f.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    model, x = model_of(17, ndm.TimeBasis(f, num_basis=2), (1, 8, 8)), integers(3, 1, 8, 8, levels=17)
    pictures.draw_transform(model, x, tmp_path / "t.png", title="digits")
    found = texts(drawn[0])
    assert {"t=0", "t=0.125", "t=0.875", "t=1", "F(x,1)-x", "model units", "digits"} <= set(found)
    assert any("is black and" in t and "model units" in t for t in found)
    assert_nothing_is_cut(drawn[0])
    (bar,) = drawn[0].axes
    change = model.process.transform(model.encode(x))(torch.ones(3)) - model.encode(x)
    assert bar.get_ylim()[1] == pytest.approx(change.abs().max().item())


def test_a_transform_that_changes_nothing_is_drawn(tmp_path, drawn):
    pictures.draw_transform(model_of(256, shape=(3, 5, 4)), integers(2, 3, 5, 4), tmp_path / "t.png", columns=2)
    assert {"t=0", "t=1"} <= set(texts(drawn[0]))


def test_trajectories_name_their_axes_and_colours_and_keep_the_legend_off_the_data(tmp_path, drawn):
    process = ndm.ForwardProcess(ndm.LinearSchedule(-7.0, 5.0))
    models = {
        name: ndm.NDM(process, ndm.Predictor(ndm.nn.MLP((4,), width=8, depth=1)), ndm.GaussianDecoder())
        for name in ("one", "a model with a name that is much longer than its panel is wide, and more " * 2)
    }
    pictures.draw_trajectories(models, torch.randn(50, 4), tmp_path / "t.png", paths=5, title="paths")
    (figure,) = drawn
    left, right, bar = figure.axes
    assert left.get_xlabel() == "first principal direction, model units"
    assert right.get_ylabel() == "second principal direction, model units"
    assert bar.get_ylabel() == "t along a path"
    (legend,) = figure.legends
    assert [t.get_text() for t in legend.get_texts()] == ["data", "noise, t = 1", "sample, t = 0"]
    assert not any(legend.get_window_extent().overlaps(axes.get_window_extent()) for axes in (left, right))
    assert {left.get_aspect(), right.get_aspect()} == {1.0}
    assert_nothing_is_cut(figure)


ERRORS = {f"{name}_error": 0.01 for name in ("bound", "prior", "diffusion", "reconstruction")} | {
    "profile_error": [0.01] * 10, "bound": 1.0, "rows": 40, "passes": 30,
}  # fmt: skip


@pytest.mark.parametrize("sign", [1, -1], ids=["discrete", "continuous"])
@pytest.mark.parametrize("ode", [True, False])
def test_the_diagnosis_names_the_run_and_units_and_cuts_nothing(sign, ode, tmp_path, drawn):
    d = Diagnosis(
        **ERRORS, prior=0.001, diffusion=5.3, reconstruction=sign * 1234.5678,
        profile=[sign * 0.1 * k for k in range(10)], level_distance=None, noise_std=0.03, nfe=100.0 if ode else None,
        lipschitz=[10.0 ** (k - 5) for k in range(11)] if ode else [],
    )  # fmt: skip
    title = "runs/" + "a-name-that-is-long-" * 20
    pictures.draw_diagnosis(d, tmp_path / "doctor.png", title)
    found = texts(drawn[0])
    assert title in "".join(found).replace("\n", "")
    assert {"bits/dim", "t", "bits/dim from each 1/10 of time"} <= set(found)
    assert f"{sign * 1234.5678:.4f}" in found
    assert any("no ODE" in t for t in found) != ode
    assert_nothing_is_cut(drawn[0])


def test_a_diagnosis_with_nan_infinity_and_zeros_is_drawn(tmp_path, drawn):
    d = Diagnosis(
        **ERRORS, prior=torch.nan, diffusion=torch.inf, reconstruction=0.0, profile=[torch.nan, *[0.0] * 9],
        level_distance=None, noise_std=1.0, lipschitz=[0.0, torch.nan, *[torch.inf] * 9],
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pictures.draw_diagnosis(d, tmp_path / "doctor.png")
    assert {"nan", "inf", "no ODE to show"} <= set(texts(drawn[0]))
    assert_nothing_is_cut(drawn[0])


# Files and matplotlib


NAMES = ["a$b_{c$ 100% [bold] <&>", "日本語 tab\tand\nline", "\udcff\x00\x1b[31m", "x" * 5000, ""]


@pytest.mark.parametrize("name", NAMES, ids=range(len(NAMES)))
def test_a_run_of_any_name_is_drawn_without_a_warning(name, tmp_path, drawn):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pictures.write_samples(model_of(17), integers(1, 1, 8, 8, levels=17), integers(3, 1, 8, 8, levels=17),
                               tmp_path / "grid.png", name)  # fmt: skip
        pictures.draw_points({name: torch.randn(5, 2)}, tmp_path / "points.png", title=name)
    for figure in drawn:
        assert_nothing_is_cut(figure)


def draw_twice(folder, name):
    x = torch.randn(40, 2, generator=torch.Generator().manual_seed(0))
    pictures.draw_points({"x": x}, folder / f"{name}-points.png", moons(), "title")
    grid = torch.arange(64).view(1, 1, 8, 8)
    pictures.draw_samples({"x": grid}, folder / f"{name}-grid.png", 64, "title")
    return [(folder / f"{name}-{kind}.png").read_bytes() for kind in ("points", "grid")]


def test_a_picture_is_the_same_twice_and_under_a_style_of_the_user(tmp_path):
    before = draw_twice(tmp_path, "a")
    with matplotlib.rc_context(
        {"font.size": 30, "figure.facecolor": "black", "image.origin": "lower", "axes.grid": True}
    ):
        mine = dict(matplotlib.rcParams)
        assert draw_twice(tmp_path, "b") == before
        assert dict(matplotlib.rcParams) == mine


def test_the_backend_of_a_notebook_stays(tmp_path):
    code = f"""
import matplotlib, sys, pathlib, torch
matplotlib.use("svg")
before = dict(matplotlib.rcParams)
from ndm.evaluation import pictures
pictures.draw_points({{"x": torch.randn(9, 2)}}, pathlib.Path({str(tmp_path)!r}) / "x.png")
assert matplotlib.get_backend() == "svg", matplotlib.get_backend()
assert dict(matplotlib.rcParams) == before
assert "matplotlib.pyplot" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("picture", ["samples", "points"])
def test_a_full_disk_leaves_the_old_picture_and_no_other_file(picture, tmp_path, monkeypatch):
    path = tmp_path / "s.png"
    path.write_text("old")
    write = Path.write_bytes

    def fill(self, content):
        write(self, content[:100])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", fill)
    with pytest.raises(OSError, match=r"No space left.*s\.png"):
        if picture == "samples":
            pictures.draw_samples({"x": integers(1, 1, 8, 8)}, path, 256)
        else:
            pictures.draw_points({"x": torch.randn(5, 2)}, path)
    assert [p.name for p in tmp_path.iterdir()] == ["s.png"]
    assert path.read_text() == "old"
