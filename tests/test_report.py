"""``ndm report``: the page is whole and asks no address, and it says what the run's folder and the model say."""

import base64
import hashlib
import io
import json
import math
import os
import re
import shutil
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from matplotlib.image import imread

import ndm
from ndm.cli import main
from ndm.data import Dataset, register
from ndm.evaluation import Protocol, evaluate
from ndm.evaluation.figures import ode_paths
from ndm.experiment import Run
from ndm.gaussian import Gaussian
from ndm.report import Subject, subject, write_report
from ndm.report.build import DETAILED
from ndm.report.charts import Axis, Curve, bar_chart, frame_of, line_chart, scatter_chart, short
from ndm.report.columns import edges_of, oddest
from ndm.report.comparison import figures_of, groups_of, reading, settings_of
from ndm.report.estimates import best_estimate, estimates
from ndm.report.html import Html, element
from ndm.report.images import LARGEST_FRAME, LARGEST_SIDE, png_address, smaller
from ndm.report.movement import BANDWIDTH, CELLS, IMAGES, SHEETS, density
from ndm.report.moving import SIDE, Frame, contours
from ndm.report.page import LARGEST, write_page
from ndm.report.samples import nearest
from ndm.support.tensors import full_times, seeded
from pages import Page, keep, report, untrained

from conftest import refused

pytestmark = pytest.mark.usefixtures("float32")
NASTY = "<img src=x onerror=alert(1)>"


@register("no-test-rows")
def no_test_rows():
    """Small images of five levels, none of them for test."""
    x = torch.randint(5, (40, 1, 4, 4), generator=torch.Generator().manual_seed(0))
    return Dataset("no-test-rows", x, x[:8], x[:0], levels=5, release="made up")


@pytest.fixture
def little(monkeypatch):
    """Reports that compute little."""
    for name in subject.BUDGETS:
        monkeypatch.setitem(subject.BUDGETS, name, 0.0)
    monkeypatch.setattr("ndm.scoring.model.log_density", lambda model, rows, *_, **__: -rows.double().square().sum(1))


def subject_of(folder, seed=0):
    run = Run.open(folder)
    dataset = run.load_dataset()
    snapshot = run.snapshot(None, dataset)
    return Subject(run, snapshot, dataset, snapshot.model, seed)


@pytest.fixture(scope="module")
def digits(finished_run, tmp_path_factory):
    """The page of a run of digits with estimates and metrics, and the run's folder."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    folder = tmp_path_factory.mktemp("report") / "run"
    shutil.copytree(finished_run, folder)
    options = ["--steps", "3,continuous", "--passes", "2", "--limit", "20", "--quiet", "--device", "cpu"]
    assert main(["evaluate", str(folder), *options]) == 0
    Run(folder).qualities_file.write_text(
        json.dumps({"solver": "heun", "steps": 7, "rows": 64, "scores": [
            {"name": "precision", "value": 0.75, "standard_error": 0.021, "baseline": 0.9, "direction": "higher"}
        ]}) + "\n"
    )  # fmt: skip
    page = report(folder, folder.parent / "report.html")
    torch.set_default_dtype(before)
    return SimpleNamespace(folder=folder, page=page, out=folder.parent / "report.html")


# The page


def test_the_page_is_whole_and_every_link_in_it_leads_to_a_section(digits):
    page = digits.page
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    links = [a["href"] for a in page.all("a")]
    assert len(links) >= 8 and {link[1:] for link in links} <= set(ids) and all(link[0] == "#" for link in links)
    assert len(page.all("h1")) == len(page.all("main")) == 1
    assert page.source.startswith("<!doctype html>") and ("html", {"lang": "en"}) in page.elements


def test_the_page_asks_no_address(digits):
    """Pictures are inside of it, and the policy allows no other script than its own."""
    page = digits.page
    sources = [attributes["src"] for _, attributes in page.elements if "src" in attributes]
    assert len(sources) > 40 and all(source.startswith("data:image/png;base64,") for source in sources)
    assert not re.search(r"https?:|@import|url\(|<link|<iframe", page.source)
    policy = next(meta["content"] for meta in page.all("meta") if meta.get("http-equiv") == "Content-Security-Policy")
    script = re.search(r"<script>(.*?)</script>", page.source, flags=re.DOTALL)[1]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert policy.split("; ") == [
        "default-src 'none'", "img-src data:", "style-src 'unsafe-inline'", f"script-src 'sha256-{digest}'"
    ]  # fmt: skip
    assert digits.out.stat().st_size < 500_000


def test_pictures_and_sliders_have_names_for_those_who_do_not_see_them(digits):
    page = digits.page
    assert all(image["alt"] for image in page.all("img"))
    assert all(svg["role"] == "img" and svg["aria-label"] for svg in page.all("svg"))
    assert all("t:" in slider["aria-label"] for slider in page.all("input")) and len(page.all("input")) == 1


def test_every_estimate_is_there_with_its_estimator_and_its_error(digits):
    record = json.loads((digits.folder / "evaluations.jsonl").read_text())
    names = [e["estimator"] for e in record["estimates"]]
    assert names[:2] == ["bound, T=3", "bound, continuous time"] and names[2].startswith("ODE")
    for e in record["estimates"]:
        row = f"{e['estimator']} {e['bpd']:.3f} {e['standard_error']:.3f} {e['nats']:,.3f} 20 test"
        assert row in cells(digits.page), e["estimator"]
    assert "precision 0.750 0.021 0.900 higher" in cells(digits.page)


def cells(page):
    return " ".join(" ".join(piece for piece in page.pieces if piece.strip()).split())


def test_the_page_says_what_was_trained_on_what(digits):
    config, text = Run(digits.folder).config, digits.page.text
    dataset = subject_of(digits.folder).dataset
    for words in (
        dataset.release,
        "1,350 / 150 / 297",
        "12 of 12",
        f"{config.training.learning_rate:g}",
        "gamma_min: -7.0",
    ):
        assert words in text, words


def test_the_doctor_of_the_page_is_that_of_the_command(digits, capsys):
    assert main(["doctor", str(digits.folder), "--json", "--device", "cpu", "--quiet"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert f"bound {found['bound']:.4f} ± {found['bound_error']:.4f} bits/dim on 150 rows" in digits.page.text
    assert all(sentence in digits.page.text for sentence in found["advice"])


def test_the_estimate_of_the_tiles_is_of_test_rows_and_of_these_weights(tmp_path):
    run = untrained(tmp_path / "run", "ring", {"bound, T=10": 1.0, "bound, continuous time": 2.0})
    keep(run, {"bound, continuous time": 3.0}, split="validation")
    keep(run, {"bound, continuous time": 4.0}, weights_sha256="0" * 64)
    keep(run, {"bound, continuous time": 5.0}, weights_sha256=None)
    assert best_estimate(subject_of(run.folder)) == ("2.000 ± 0.012", "bits/dim, bound, continuous time, 40 test rows")
    rows = re.findall(r"<tr>(.*?)</tr>", estimates(subject_of(run.folder)))[1:]
    others = ["not the weights of this report" in row for row in rows]
    assert others == [False, False, False, True, True]  # and none of them hides another


def test_a_run_without_estimates_of_test_rows_has_another_one_in_its_tiles(tmp_path):
    run = untrained(tmp_path / "run", "ring")
    keep(run, {"bound, T=10": 5.0}, weights_sha256="0" * 64)
    assert best_estimate(subject_of(run.folder)) is None
    keep(run, {"bound, T=10": 3.0}, split="validation")
    assert best_estimate(subject_of(run.folder))[0] == "3.000 ± 0.012"


# Pictures


def pixels(address):
    """The 8-bit colours of a picture of the page."""
    data = base64.b64decode(address.removeprefix("data:image/png;base64,"))
    return (imread(io.BytesIO(data), format="png")[..., :3] * 255).round().astype(np.uint8)


def test_samples_stand_over_their_nearest_training_rows(digits):
    found = subject_of(digits.folder)
    images = {image["alt"]: image["src"] for image in digits.page.all("img")}
    test, train = found.test(24), found.dataset.train
    for k in (0, 23):
        distance = ((train.double() - test[k].double()) ** 2).flatten(1).sum(1)
        own = pixels(images[f"test row {k + 1}"])[..., 0]
        other = pixels(images[f"nearest training row of test row {k + 1}"])[..., 0]
        assert np.array_equal(own, (test[k, 0].double() / 16 * 255).round().numpy())
        assert np.array_equal(other, (train[distance.argmin(), 0].double() / 16 * 255).round().numpy())
    assert np.array_equal(pixels(images["sample 5"])[..., 0], (found.samples[4, 0].double() / 16 * 255).round().numpy())


def test_the_nearest_rows_are_the_same_in_blocks(monkeypatch, generator):
    x, train = (torch.randint(256, (n, 1, 3, 3), generator=generator, dtype=torch.uint8) for n in (7, 50))
    distance = torch.cdist(x.flatten(1).double(), train.flatten(1).double())
    monkeypatch.setattr("ndm.report.samples.BLOCK", 9 * 4)
    found = nearest(x, train)
    assert torch.allclose(found.distance, distance.min(1).values, atol=1e-9)
    assert torch.equal(found.rows, train[distance.argmin(1)])


def test_the_strips_hold_f_at_every_time_of_the_slider(digits):
    found = subject_of(digits.folder)
    x = found.model.encode(found.test(6))
    curve, process = found.model.process.transform(x), found.model.process
    times = [float(time) for time in digits.page.all("input")[0]["data-times"].split()]
    values = []
    for time in times:
        t = full_times(time, x)
        values.append(curve(process.curve_time(t, process.schedule(t))[0]))
    frames = torch.stack(values)
    low, high = frames.min(), frames.max()
    strips = [image["src"] for image in digits.page.all("img") if image["alt"].startswith("F(x, t), image")]
    assert len(times) == SHEETS and len(strips) == 6 and times[-1] == 1.0
    for k, strip in enumerate(strips):
        wanted = torch.cat([frame[k, 0] for frame in frames], 1)
        shade = ((wanted - low) / (high - low) * 255).detach().numpy()
        assert np.abs(pixels(strip)[..., 0] - shade).max() <= 0.51


def test_images_are_made_small_by_means_of_squares():
    x = torch.arange(130 * 128.0).view(1, 1, 130, 128)
    assert smaller(x, 48).shape == (1, 1, 44, 43)
    assert smaller(x, 48)[0, 0, 0, 0] == x[0, 0, :3, :3].mean()
    assert torch.equal(smaller(x[..., :48, :48], 48), x[..., :48, :48].double())


def test_the_page_of_the_largest_runs_that_are_shown_is_below_the_limit():
    """Noisy colour images, which PNG cannot pack: samples, test rows and their neighbours, and three rows of strips."""
    noise = np.random.default_rng(0).integers(0, 256, (LARGEST_SIDE, LARGEST_SIDE, 3), dtype=np.uint8)
    strip = np.random.default_rng(0).integers(0, 256, (LARGEST_FRAME, SHEETS * LARGEST_FRAME, 3), dtype=np.uint8)
    run = 4 * subject.NUMBERS["image"] * len(png_address(noise)) + 3 * IMAGES * len(png_address(strip))
    assert DETAILED * run + 600_000 < LARGEST


def test_contours_are_where_the_density_has_its_share_of_the_peak():
    frame = Frame(np.zeros(2), 4.0)
    squared = (frame.grid(81) ** 2).sum(-1)
    for path, share in zip(contours(frame, np.exp(-squared / 2)), (0.03, 0.15, 0.5), strict=True):
        places = np.array([[float(v) for v in pair.split()] for pair in re.split("[ML]", path)[1:]])
        radius = np.linalg.norm((places / SIDE - 0.5) * 8, axis=1)
        assert np.abs(radius - math.sqrt(-2 * math.log(share))).max() < 0.03


def test_the_density_behind_the_ode_is_that_of_the_rows_with_their_noise():
    """A row of the standard deviations 0.5 and 1 at (1, -1), whose variances grow by that of the kernel."""
    frame = Frame(np.zeros(2), 4.0)
    found = density(Gaussian(torch.tensor([[1.0, -1.0]]), torch.tensor([[0.5, 1.0]])), frame)
    x, y = frame.grid(CELLS)[..., 0], frame.grid(CELLS)[..., 1]
    wanted = np.exp(-((x - 1) ** 2) / (0.25 + BANDWIDTH**2) / 2 - (y + 1) ** 2 / (1 + BANDWIDTH**2) / 2)
    assert np.allclose(found, wanted)


def test_points_and_trails_follow_the_ode(tmp_path, little):
    untrained(tmp_path / "run", "moons", **{"model.transform": "linear"})
    page = report(tmp_path / "run", tmp_path / "page.html")
    found = subject_of(tmp_path / "run")
    f, paths = page.blocks()
    assert (len(f["points"]), len(paths["points"]), len(paths["contours"])) == (200, 80, 21) and not f["contours"]
    states = ode_paths(found.model, torch.randn(80, 2, generator=seeded(0)), 60)[::3].numpy()
    places = np.array(paths["points"]).reshape(80, 21, 2).swapaxes(0, 1)
    # Places are an affine map of the states, the same in both directions but for the sign.
    scale = np.polyfit(states[..., 0].ravel(), places[..., 0].ravel(), 1)
    assert np.abs(np.polyval(scale, states[..., 0]) - places[..., 0]).max() < 0.11
    down = np.polyfit(states[..., 1].ravel(), places[..., 1].ravel(), 1)
    assert np.abs(np.polyval(down, states[..., 1]) - places[..., 1]).max() < 0.11 and abs(scale[0] + down[0]) < 0.05
    assert [s["data-times"].split()[0] for s in page.all("input")] == ["0.00", "1.00"]


ENDS = [(0, 1), (-7, 5), (3.02, 3.07), (1e-4, 2e3), (0.3, 4), (1, 3e9)]
HARD = [
    (3, 3), (1e17, 1e17), (1.5e30, 1.5e30), (1.5e30, 1.6e30), (1e30, 1e30 * (1 + 1e-15)), (0, 5e-324),
    (5e-324, 5e-324), (-1e308, 1e308),
]  # fmt: skip


@pytest.mark.parametrize(("low", "high"), ENDS + HARD)
@pytest.mark.parametrize("log", [False, True])
def test_the_numbers_at_an_axis_are_inside_of_it(low, high, log):
    axis = Axis(low, high, 40, 350, log=log and low > 0)
    ticks, edge = axis.ticks(), 1e-8 * (axis.high - axis.low)
    if (low, high) in ENDS:
        assert (axis.low, axis.high) == (low, high)
    assert 2 <= len(ticks) <= 8 and all(axis.low - edge <= tick <= axis.high + edge for tick in ticks)
    assert all(39.9 <= axis(value) <= 350.1 for value in (*ticks, min(max(low, -1e300), 1e300)))
    assert [float(short(tick).replace(",", "")) for tick in ticks] == pytest.approx(ticks, rel=1e-3)


@pytest.mark.parametrize("values", [[1.5e30] * 199 + [1.6e30], [1.5e30] * 300, [1e17], [5e-324], [-1e308, 1e308]])
def test_a_frame_has_a_length_that_its_bins_can_share(values):
    edges = np.linspace(*frame_of(np.array(values)), 41)
    assert (np.diff(edges) > 0).all() and edges[0] <= max(values[0], -1e300) <= edges[-1]
    points = np.stack([values, values], 1)
    for square in (False, True):
        chart = scatter_chart([points], ["rows"], "x", "y", "label", square=square)
        assert not re.search(r'[" ](nan|inf)', chart)


def test_a_column_whose_step_is_lost_beside_its_numbers_has_bins():
    column = SimpleNamespace(kind="quantised", step=1.0, low=1e17, high=1e17)
    edges = edges_of(np.array([1e17]), column)
    assert len(edges) > 1 and (np.diff(edges) > 0).all()


def test_an_error_that_is_no_number_is_not_drawn():
    chart = bar_chart(
        [("a", 1.0, math.nan), ("b", 2.0, 0.5), ("c", 3.0, None), ("d", 1.0, math.inf)], "x", "y", "label"
    )
    assert chart.count('class="error"') == 1 and "nan" not in chart and "inf" not in chart


def test_points_that_cannot_be_drawn_are_left_out_of_a_curve():
    drawn = line_chart([Curve("a", [(0, 1.0), (1, math.nan), (2, 10.0), (3, -1.0)])], "x", "y", "label", log=True)
    assert len(re.search(r'points="([^"]*)"', drawn)[1].split()) == 2
    assert "no finite numbers" in line_chart([Curve("a", [(0, math.nan)])], "x", "y", "label")


# Names are data


def test_text_is_escaped_and_markup_is_not():
    assert element("p", "a < b", Html("<b>c</b>"), title='"d"') == '<p title="&quot;d&quot;">a &lt; b<b>c</b></p>'
    assert element("line", x1=0.1 + 0.2, class_="axis") == '<line x1="0.3" class="axis"/>'


def test_names_of_a_run_are_never_markup(tmp_path, little):
    """The folder, the description, columns, categories, estimators and metrics are from anyone."""
    rng = np.random.default_rng(0)
    values = [f"{rng.normal():.4f},{k % 9},{'<b>x</b>' if k % 3 else NASTY}" for k in range(120)]
    lines = [f"{NASTY},</script>,b&c", *values]
    (tmp_path / "x.csv").write_text("\n".join(lines))
    folder = tmp_path / "<b>run<b>"
    arguments = ["train", "table", "--data.path", str(tmp_path / "x.csv"), "--out", str(folder), "--quiet"]
    arguments += ["--training.steps", "4", "--device", "cpu"]
    assert main([*arguments, "--model.width", "8", "--description", NASTY]) == 0
    record = {"weights": NASTY, "split": "test", "estimates": [{"estimator": NASTY, "bpd": 1.0, "rows": "</td>"}]}
    (folder / "evaluations.jsonl").write_text(json.dumps(record) + "\n")
    (folder / "qualities.jsonl").write_text(
        json.dumps({"solver": NASTY, "scores": [{"name": NASTY, "value": 1}]}) + "\n"
    )
    page = report(folder, tmp_path / "page.html")
    assert len(page.all("b")) == 4  # the page's own, of its tiles
    assert not [a for _, a in page.elements if "onerror" in a or a.get("src") == "x"]
    assert len(page.all("script")) == 1 and page.text.count(NASTY) >= 6 and "<b>run<b>" in page.text


# Tables and text


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """The folder of a run of a table of a count, a real number, a date and a category."""
    torch.set_default_dtype(torch.float32)
    folder, rng = tmp_path_factory.mktemp("table"), np.random.default_rng(0)
    days = np.datetime64("2020-01-01") + rng.integers(0, 900, 300).astype("timedelta64[D]")
    rows = [f"{rng.poisson(3)},{rng.normal(50, 5):.3f},{day},{rng.choice(['Basel', 'Bern'])}" for day in days]
    (folder / "x.csv").write_text("\n".join(["pieces,weight,day,city", *rows]))
    arguments = ["train", "table", "--data.path", str(folder / "x.csv"), "--out", str(folder / "run")]
    assert main([*arguments, "--training.steps", "10", "--model.width", "8", "--device", "cpu", "--quiet"]) == 0
    return folder / "run"


def test_a_table_has_its_columns_its_pairs_and_its_oddest_rows(table, tmp_path, little):
    page = report(table, tmp_path / "page.html")
    for words in (
        "pieces (count)",
        "weight (real)",
        "day (date)",
        "city (category)",
        "day, year",
        "Basel",
        "correlation",
    ):
        assert words in page.text, words
    labels = [svg["aria-label"] for svg in page.all("svg")]
    assert sum(label.endswith("test rows and samples") for label in labels) == 4
    assert sum(label.endswith(", samples") for label in labels) == 3  # three pairs of numbers


def test_the_oddest_rows_have_the_lowest_densities(table, monkeypatch):
    found = subject_of(table)
    weights = found.dataset.schema.encode(found.dataset.schema.decode(found.test(100).numpy()))[:, 1]
    monkeypatch.setattr(
        "ndm.scoring.model.log_density", lambda model, rows, *_, **__: -((rows[:, 1].double() - 50) ** 2)
    )
    page = Page(oddest(found))
    densities = sorted(-((weights - 50) ** 2))[:5]
    rows = re.findall(r"<tr>(.*?)</tr>", page.source)[1:]
    assert [float(re.search(r'scope="row">([^<]*)<', row)[1]) for row in rows] == pytest.approx(densities, abs=0.01)
    assert "weight (+" in rows[0] and "city (+" not in rows[0]


def test_text_has_windows_of_samples_and_moving_characters(tmp_path, little):
    (tmp_path / "x.txt").write_text("the cat <sat> on the mat & the rat. " * 60)
    arguments = ["train", "text", "--data.path", str(tmp_path / "x.txt"), "--out", str(tmp_path / "run")]
    arguments += ["--data.size", "8"]
    arguments += ["--training.steps", "2", "--training.warmup", "1", "--model.width", "8", "--model.depth", "1"]
    assert main([*arguments, "--device", "cpu", "--quiet"]) == 0
    page = report(tmp_path / "run", tmp_path / "page.html")
    found = subject_of(tmp_path / "run")
    windows = [" ".join(text.split()) for text in found.model.decoder.texts(found.samples)]
    assert all(window in page.text for window in windows) and "bits/character" in page.text
    (block,) = page.blocks()
    assert len(block["points"]) == len(found.dataset.alphabet) and not page.all("sat")


# What is missing is said


def test_a_model_without_an_ode_and_data_without_test_rows_are_said_in_a_line(tmp_path, little):
    settings = {"data.name": "no-test-rows", "training.bound_steps": 3, "model.schedule": "stepwise"}
    untrained(tmp_path / "run", "digits-t10", **settings)
    page = report(tmp_path / "run", tmp_path / "page.html")
    assert "This model has no ODE" in page.text and "This is not shown: no-test-rows has no test rows." in page.text
    assert "ndm evaluate" in page.text and "learned" in page.text and "reverse step of 1/3" in page.text


# Several runs


def test_the_page_has_no_path_of_the_machine(table, tmp_path, little):
    """Nor a difference of two runs: moved data are the same data, and another init is told without its path."""
    for name, init in (("a", None), ("b", str(tmp_path / "secret"))):
        shutil.copytree(table, tmp_path / name)
        (tmp_path / f"{name}.csv").write_bytes((table.parent / "x.csv").read_bytes())
        config = Run(table).config
        replace(config, init=init, data=replace(config.data, path=str(tmp_path / f"{name}.csv"))).save(
            tmp_path / name / "config.yaml"
        )
    page = report(tmp_path / "a", tmp_path / "b", tmp_path / "page.html")
    assert str(tmp_path) not in page.source and "init names other weights" in page.text and "width: 8" in page.text
    found = [subject_of(tmp_path / name) for name in "ab"]
    assert len(groups_of(found)) == 2 and settings_of(found[0]) == settings_of(found[1])


def test_data_of_other_units_have_rows_and_charts_of_their_own(table, tmp_path, little):
    untrained(tmp_path / "ring", "ring", {"bound, T=10": 1.25})
    untrained(tmp_path / "moons", "moons", {"bound, T=10": 1.5})
    page = report(tmp_path / "ring", table, tmp_path / "moons", tmp_path / "page.html")
    rows = re.findall(r"<tr>(.*?)</tr>", page.source.partition("comparison of the runs")[2].partition("</table>")[0])
    rows = [re.findall(r"<t[hd][^>]*>([^<]*)</t[hd]>", row) for row in rows]
    assert rows[0] == ["estimate", "unit", "ring", "run", "moons"]
    assert rows[1] == ["bound, T=10, 40 test rows", "bits/dim", "1.2500", "", "1.5000"]
    assert {row[1] for row in rows[1:]} == {"bits/dim", "bits/column"}
    for row in rows[1:]:
        assert (row[3] != "") == (row[1] == "bits/column") and (row[2] + row[4] != "") == (row[1] == "bits/dim")
    section = page.source.partition('id="comparison"')[2].partition("</section>")[0]
    captions = re.findall(r"<figure>(.*?)<figcaption>(.*?)</figcaption>", section, flags=re.DOTALL)
    assert [re.search("bits/[a-z]+", words)[0] for _, words in captions] == ["bits/dim"] * 2 + ["bits/column"] * 2
    for drawn, words in captions:
        names = ["ring", "moons"] if "bits/dim" in words else ["run"]
        assert re.findall(r"<li[^>]*>([^<]*)</li>", drawn) == names
        assert ("bits/dim" in drawn) == ("bits/dim" in words) and ("bits/column" in drawn) == ("bits/column" in words)


def test_runs_of_equal_settings_and_other_seeds_are_a_group(tmp_path, little):
    settings = [{"seed": 1}, {"seed": 0}, {"seed": 0, "model.transform": "linear"}, {"seed": 1}]
    for number, own in enumerate(settings):
        untrained(tmp_path / str(number), "ring", **own)
    groups = groups_of([subject_of(tmp_path / str(number)) for number in range(4)])
    assert [[s.name for s in group.subjects] for group in groups] == [["1", "0"], ["2"], ["3"]]
    assert groups[0].name == "1 (seeds 0, 1)"


def test_a_comparison_says_which_differences_exceed_the_spread_of_the_seeds(tmp_path, little):
    """T=10 differs by 0.2 in every seed; T=50 by -0.1, 0 and 0.1; the ODE has one seed in common."""
    for seed in range(3):
        same = {"bound, T=10": 3 + seed / 10, "bound, T=50": 2.0}
        untrained(tmp_path / f"a{seed}", "ring", same | ({"ODE": 1.5} if seed == 0 else {}), seed=seed)
        other = {"bound, T=10": 3.2 + seed / 10 + seed / 1000, "bound, T=50": 1.9 + seed / 10, "ODE": 1.25}
        untrained(tmp_path / f"b{seed}", "ring", other, seed=seed, **{"model.dropout": 0.25})
    page = report(*sorted(tmp_path.glob("[ab]?")), tmp_path / "page.html")
    text = cells(page)
    half = 4.302652729911275 * 0.001 / math.sqrt(3)
    assert "bound, T=10, 40 test rows 3.1000 (0.1000) b0 3.3010 (0.1010)" in text
    assert f"+0.2010 ± {half:.4f}* higher beyond the spread of the seeds" in text
    assert "+0.0000 ± 0.2484 within the spread of the seeds" in text
    assert "ODE, 40 test rows 1.5000 b0 1.2500 (0.0000) -0.2500 cannot be said" in text
    assert "model.dropout 0.25 instead of 0.0" in text and "a0 (seeds 0, 1, 2)" in text
    assert len([h for h in page.all("section") if h["class"] == "run"]) == 2  # one for each group


def test_estimates_of_other_weights_are_not_compared(tmp_path, little):
    """Those of a checkpoint, of a model that was there before, and those that do not say whose they are."""
    run = untrained(tmp_path / "run", "ring", {"bound, T=10": 1.0, "bound, T=50": 2.0})
    keep(run, {"bound, T=10": 3.0, "a": 1.0}, weights="EMA (checkpoint newest)")
    keep(run, {"bound, T=50": 4.0, "b": 1.0}, weights_sha256="0" * 64)
    keep(run, {"c": 1.0}, weights_sha256=None)
    keep(run, {"bound, T=10": 5.0}, split="validation")
    found = figures_of(subject_of(run.folder))
    kept = {name: value for name, value in found.items() if "made for this report" not in name}
    rows = "40 test rows", "40 validation rows"
    assert kept == {f"bound, T=10, {rows[0]}": 1.0, f"bound, T=50, {rows[0]}": 2.0, f"bound, T=10, {rows[1]}": 5.0}


def test_one_group_has_the_spread_of_its_seeds(tmp_path, little):
    for seed in range(3):
        untrained(tmp_path / f"a{seed}", "ring", {"bound, T=10": 3 + seed}, seed=seed)
    page = report(*sorted(tmp_path.glob("a?")), tmp_path / "page.html")
    assert "bound, T=10, 40 test rows 4.0000 (1.0000) 3.0000 5.0000 3" in cells(page)


def test_every_run_gets_the_same_bound_for_the_comparison(tmp_path, little):
    """The group's first run has it from its diagnosis, the others from an evaluation."""
    for seed in range(2):
        untrained(tmp_path / f"a{seed}", "ring", seed=seed)
    page = report(*sorted(tmp_path.glob("a?")), tmp_path / "page.html")
    values = []
    for seed in range(2):
        found = subject_of(tmp_path / f"a{seed}")
        rows = found.dataset.validation[:16]
        values.append(evaluate(found.model, rows, Protocol("bound", passes=4)).bpd)
    assert f"made for this report {sum(values) / 2:.4f} (" in cells(page)


def test_runs_on_different_data_are_not_compared(tmp_path, little):
    for name in ("ring", "moons"):
        untrained(tmp_path / name, name, {"bound, T=10": 1.0})
    page = report(tmp_path / "ring", tmp_path / "moons", tmp_path / "page.html")
    assert "trained on different data" in page.text and "beyond the spread" not in page.text


def test_differences_are_read_by_their_interval():
    assert reading([0.1]).startswith("cannot")
    assert reading([-0.1, -0.11, -0.09]) == "lower beyond the spread of the seeds"
    assert reading([-0.1, 0.12]) == "within the spread of the seeds"


# How much is computed, and the command


def test_small_models_are_examined_as_by_the_doctor_and_large_ones_less(digits, monkeypatch):
    assert subject_of(digits.folder).work == (256, 30, 32, 24)
    monkeypatch.setattr(subject, "operations_of_bound", lambda model, x: 1e9)
    assert subject_of(digits.folder).work == (16, 4, 0, 4)


def test_a_page_that_is_too_large_is_not_written(tmp_path):
    with pytest.raises(ndm.InputError, match="at most 8,000,000"):
        write_page(tmp_path / "page.html", "x" * (LARGEST + 1))
    assert not list(tmp_path.iterdir())


def test_a_file_that_exists_is_told_and_replaced_whole(run, tmp_path, capsys, monkeypatch, little):
    out = tmp_path / "page.html"
    out.write_text("before")
    monkeypatch.setattr("ndm.report.build.write_page", lambda path, text: (_ for _ in ()).throw(KeyboardInterrupt))
    assert main(["report", str(run), "--out", str(out), "--device", "cpu"]) == 130
    assert out.read_text() == "before" and f"{out} exists and will be replaced" in capsys.readouterr().err
    monkeypatch.undo()
    assert write_report([subject_of(run)], out) == out.stat().st_size


def test_a_name_that_is_not_in_utf_8_is_escaped(tmp_path, little):
    """The run is given by a link, as safetensors opens no path that has such a name in it."""
    untrained(tmp_path / "run", "ring", {"bound, \ud800T=10": 1.0})
    folder = os.fsdecode(bytes(tmp_path) + b"/r\xffn")
    try:
        os.rename(tmp_path / "run", folder)
    except OSError:
        pytest.skip("this file system takes names in UTF-8 alone")
    os.symlink(folder, tmp_path / "link")
    assert subject_of(tmp_path / "link").name == r"r\udcffn"
    page = report(tmp_path / "link", tmp_path / "page.html")
    assert page.text.startswith(r"r\udcffn") and r"bound, \ud800T=10" in page.text


def test_a_new_path_is_for_the_runs_whose_data_have_a_path(table, run, tmp_path, little, capsys):
    """One of them, as ndm push has uploaded it, has a path no longer."""
    (tmp_path / "moved.csv").write_bytes((table.parent / "x.csv").read_bytes())
    for name, path in (("a", tmp_path / "x.csv"), ("b", None)):
        shutil.copytree(table, tmp_path / name)
        config = Run(table).config
        replace(config, data=replace(config.data, path=path and str(path))).save(tmp_path / name / "config.yaml")
    ring = untrained(tmp_path / "ring", "ring").folder
    page = report(tmp_path / "a", ring, tmp_path / "b", "--data.path", tmp_path / "moved.csv", tmp_path / "page.html")
    assert [p["href"] for p in page.all("a") if p["class"] == "run"] == ["#run-1", "#run-2", "#run-3"]
    message = refused(
        ["report", ring, run, "--data.path", tmp_path / "moved.csv", "--out", tmp_path / "x.html"], capsys
    )
    assert "none of these runs has data with a path" in message
    message = refused(["report", ring, "--data.path", tmp_path / "moved.csv", "--out", tmp_path / "x.html"], capsys)
    assert "has no path" in message


def test_a_run_that_is_refused_leaves_no_folder(run, tmp_path, capsys):
    out = tmp_path / "new" / "page.html"
    assert "is not a run folder" in refused(["report", run, tmp_path / "none", "--out", out], capsys)
    assert not out.parent.exists()


def test_mistakes_are_one_line_before_any_work(run, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("ndm.report.write_report", lambda *arguments: pytest.fail("work was done"))
    assert "must end in .html" in refused(["report", run, "--out", tmp_path / "page.pdf"], capsys)
    assert "is given twice" in refused(["report", run, run, "--out", tmp_path / "page.html"], capsys)
    assert "is not a run folder" in refused(["report", tmp_path / "none", "--out", tmp_path / "page.html"], capsys)
    assert "is a folder" in refused(["report", run, "--out", make(tmp_path / "folder.html")], capsys)
    model = ndm.NDM.from_pretrained(run)
    next(model.parameters()).data.fill_(math.nan)
    model.save_pretrained(run / "model")
    assert "not finite" in refused(["report", run, "--out", tmp_path / "page.html", "--device", "cpu"], capsys)


def make(folder):
    folder.mkdir()
    return folder
