"""What a fourth round of strangers found: each test is named after what a user did."""

import datetime
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch

import ndm
from ndm import NeuralDiffusionDensity
from ndm.cli import main
from ndm.data import load_dataset
from ndm.tables import Frame, Schema, read
from processes import Started

from conftest import TINY, refused

pytestmark = pytest.mark.usefixtures("float32")
RANDOM = np.random.default_rng(0)


def text_model():
    process = ndm.ForwardProcess(ndm.LinearSchedule(-7.0, 5.0), ndm.Embedding((4,), dim=2))
    predictor = ndm.SymbolPredictor(ndm.nn.Conv1d((2, 6), outputs=4, width=8, depth=1), 4)
    return ndm.NDM(process, predictor, ndm.SymbolDecoder(4, "abc_"), shape=(6,)).eval()


def test_a_warm_fit_of_larger_counts_samples_larger_counts():
    table = pd.DataFrame({"n": RANDOM.poisson(3, 300), "day": pd.Timestamp("2024-01-01") + pd.to_timedelta(
        RANDOM.integers(0, 30, 300), "D")})  # fmt: skip
    density = NeuralDiffusionDensity(max_steps=80, random_state=0, warm_start=True).fit(table)
    later = table.assign(n=table["n"] + 12, day=table["day"] + pd.Timedelta(60, "D"))
    density.fit(later)
    sampled = density.sample(200, random_state=0)
    assert sampled["n"].max() > table["n"].max() and sampled["day"].max() > table["day"].max()
    known = density.schema_.columns[0]
    assert (known.low, known.high) == (table["n"].min(), later["n"].max())


def test_times_with_a_zone_in_lists_come_back_in_it():
    zone = datetime.timezone(datetime.timedelta(hours=2))
    rows = [[datetime.datetime(2024, 1, 1 + k % 28, 12, tzinfo=zone), k % 7 + 0.5] for k in range(60)]
    schema = Schema.fit(Frame.of(rows))
    back = schema.decode(schema.encode(Frame.of(rows))).native()
    assert back[:, 0].tolist() == [row[0] for row in rows]
    assert {time.utcoffset() for time in back[:, 0]} == {datetime.timedelta(hours=2)}
    alone = Frame.of([row[:1] for row in rows]).native()
    assert alone[:, 0].tolist() == [row[0] for row in rows]


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.tensor([[-1, 1]]), r"data must be codes 0\.\.3"),
        (torch.tensor([[0, 4]]), r"data must be codes 0\.\.3"),
        (torch.tensor([[0.5, 1]]), r"data must be codes 0\.\.3"),
        (torch.tensor([0, 1]), r"x must have shape \(B, N\)"),
        ([[0, 1]], "x must be a Tensor, got list"),
    ],
)
def test_texts_of_what_are_no_codes(x, message):
    with pytest.raises(ndm.InputError, match=message):
        text_model().decoder.texts(x)
    for text in (None, ["a"]):
        with pytest.raises(ndm.InputError, match="text must be a str"):
            text_model().decoder.codes(text)


def test_the_divergence_of_a_field_without_a_gradient_is_not_guessed():
    for field in (lambda t, z: torch.ones_like(z), lambda t, z: -z.detach()):
        for probe in (None, torch.ones(2, 2)):
            with pytest.raises(ndm.InputError, match=r"no gradient in z.* add 0 \* z"):
                ndm.ode_log_prob(field, torch.zeros(2, 2), probe)
    found = ndm.ode_log_prob(lambda t, z: torch.ones_like(z) + 0 * z, torch.zeros(2, 2)).log_prob
    torch.testing.assert_close(found, torch.distributions.Normal(0.0, 1.0).log_prob(torch.ones(2, 2)).sum(1))


def test_a_network_for_a_part_that_has_none_is_refused(tmp_path):
    process = ndm.ForwardProcess(ndm.LinearSchedule(-5.0, 5.0))
    ndm.NDM(process, ndm.Predictor(ndm.nn.MLP((2,))), ndm.GaussianDecoder()).eval().save_pretrained(tmp_path / "id")
    with pytest.raises(ndm.InputError, match="has no network in its transform: leave out transform"):
        ndm.NDM.from_pretrained(tmp_path / "id", transform=ndm.nn.MLP((2,), width=99))


def test_no_sample_lies_beyond_a_cap():
    x = np.minimum(RANDOM.exponential(size=800), 1.23456789)
    column = Schema.fit(Frame.of(np.column_stack([x, RANDOM.normal(size=800)]))).columns[0]
    np.testing.assert_array_equal(column.snap(np.array([0.5, 1.3, 9.0])), [0.5, x.max(), x.max()])
    assert column.snap(np.array([-1.0]))[0] == -1.0


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "run"
    assert main(["train", "digits-conventional", "--out", str(folder), *TINY, "--training.steps", "4"]) == 0
    return folder


@pytest.mark.parametrize("damage", ["config", "checkpoint"])
def test_a_run_without_a_checkpoint_that_fits_is_not_trained_from_the_beginning(run, damage, tmp_path, capsys):
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in run.rglob("*"):
        if file.is_file():
            (copy / file.relative_to(run)).parent.mkdir(parents=True, exist_ok=True)
            (copy / file.relative_to(run)).write_bytes(file.read_bytes())
    if damage == "config":
        config = copy / "config.yaml"
        text = config.read_text()
        assert "\n  width: 8\n" in text
        config.write_text(text.replace("\n  width: 8\n", "\n  width: 16\n"))
    else:
        for file in copy.glob("checkpoints/*/state.safetensors"):
            file.write_bytes(file.read_bytes()[:-1] + b"?")
    before = {p: p.read_bytes() for p in copy.rglob("*") if p.is_file()}
    more = ["--training.steps", "9"] if damage == "checkpoint" else []
    assert main(["train", "--resume", str(copy), *more, "--device", "cpu"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1].startswith("ndm: error: no checkpoint of") and "restore one of these" in lines[-1]
    assert {p: p.read_bytes() for p in copy.rglob("*") if p.is_file()} == before


def test_an_output_that_does_not_know_a_character_gets_escapes(run):
    folder = run.with_name("\u03b1")
    folder.symlink_to(run)
    arguments = ["evaluate", folder, "--estimator", "bound", "--steps", "2", "--passes", "1", "--limit", "3"]
    ascii_only = "import sys; sys.stdout.reconfigure(encoding='ascii'); from ndm.__main__ import main; sys.exit(main())"
    status, out, err = Started("-c", ascii_only, *arguments).end()
    assert status == 0 and "bound" in out, err
    code = "from ndm.cli import escape_unknown_characters as f; f(); print(chr(945))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True,
                           env={"PYTHONIOENCODING": "ascii", "PATH": "", "PYTHONPATH": ":".join(sys.path)})  # fmt: skip
    assert found.stdout == "\\u03b1\n"


def test_a_full_disk_costs_no_estimate(run, monkeypatch, capsys):
    from ndm.support import lock

    def full(self):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(lock.Lock, "_take_at_last", full)
    arguments = ["evaluate", str(run), "--estimator", "bound", "--steps", "2", "--passes", "1", "--limit", "3"]
    assert main([*arguments, "--device", "cpu"]) == 0
    out = capsys.readouterr()
    assert "bound" in out.out and "No space left on device; the result is printed, and not kept" in out.err


def test_a_full_folder_for_temporary_files_is_named(tmp_path, monkeypatch, capsys):
    file = tmp_path / "x.csv"
    pd.DataFrame(RANDOM.normal(size=(60, 2)), columns=["a", "b"]).to_csv(file, index=False)
    assert main(["train", "table", "--data.path", str(file), "--out", str(tmp_path / "t"), "--training.steps", "2",
                 "--device", "cpu"]) == 0  # fmt: skip
    capsys.readouterr()

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    from ndm.scoring import TableModel, score_file, stream

    monkeypatch.setattr(stream.tempfile, "TemporaryFile", full)
    with pytest.raises(ndm.InputError, match="the folder for temporary files, .*TMPDIR"):
        score_file(TableModel.load(tmp_path / "t"), file, tmp_path / "s.csv")
    assert not (tmp_path / "s.csv").exists()


def test_rows_of_a_file_are_counted_in_one_way(tmp_path):
    file = tmp_path / "x.csv"
    for bad in ("1,2,3", "1,x"):
        file.write_text("a,b\n" + "".join(f"{k},{k / 7}\n" for k in range(30)).replace("3,0.42857142857142855", bad))
        with pytest.raises(ndm.InputError, match=r"row 3\b"):
            Schema.fit(read(file), {"b": "real"})


@pytest.mark.parametrize("word", ["1,234,567.{}", "12.{}%", "${}"])
def test_signs_and_commas_in_numbers_are_named(word):
    cells = [[word.format(k)] for k in range(250)]
    with pytest.raises(ndm.InputError, match="write plain numbers: .* has signs or commas"):
        Schema.fit(Frame.of(cells))


def test_a_file_without_a_header_is_refused_though_one_column_is_text(tmp_path):
    file = tmp_path / "iris.csv"
    file.write_text("5.1,3.5,1.4,0.2,setosa\n" * 3)
    with pytest.raises(ndm.InputError, match="and no header"):
        read(file)
    file.write_text("2019,2020,0.5,name\n1,2,3,a\n4,5,6,b\n")
    assert read(file).names == ("2019", "2020", "0.5", "name")


def test_text_that_is_packed_or_has_another_encoding_is_named(tmp_path):
    file = tmp_path / "t.txt"
    file.write_bytes(b"\x1f\x8b" + bytes(500))
    with pytest.raises(ndm.InputError, match="packed by gzip"):
        load_dataset("text", file)
    file.write_text("the cat sat on the mat " * 100)
    with pytest.raises(ndm.InputError, match="does not begin as text in UTF-16 does"):
        load_dataset("text", file, encoding="utf-16")
    file.write_text("the cat sat on the mat " * 100, encoding="utf-16")
    assert load_dataset("text", file, encoding="utf-16").levels > 5


def test_a_recipe_with_a_letter_missing_is_guessed(capsys):
    assert "did you mean digits? recipes: " in refused(["train", "digts"], capsys)


def test_a_warm_fit_with_a_number_that_could_not_come_back_is_refused():
    x = RANDOM.choice([0.0, 0.3728, 1.0], 100)
    density = NeuralDiffusionDensity(max_steps=2, random_state=0, warm_start=True).fit(x[:, None])
    assert density.schema_.columns[0].values == (0.0, 0.3728, 1.0)
    density.fit(x[:50, None])
    with pytest.raises(ndm.InputError, match="column x0 holds 0.7, which the first rows lack; set warm_start=False"):
        density.fit(np.append(x, 0.7)[:, None])
