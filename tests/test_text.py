"""Text: from a file to a model, its bits per character, and samples that are text."""

import json
import math
import re
import shutil
import signal

import numpy as np
import pytest
import torch

import ndm
from ndm.cli import main
from ndm.data import load_dataset
from ndm.nn import Conv1d, Transformer
from ndm.nn.transformer import rotate

pytestmark = pytest.mark.usefixtures("float32")

SMALL = [
    "--data.size", "12", "--model.width", "8", "--model.depth", "1", "--model.dim", "2", "--training.batch_size", "8",
    "--training.warmup", "1", "--training.evaluate_every", "3", "--device", "cpu", "--quiet",
]  # fmt: skip


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    rng = np.random.default_rng(0)
    words = rng.choice(["die", "Katze", "läuft", "über", "den", "Zaun\n"], 800)
    path = tmp_path_factory.mktemp("text") / "words.txt"
    path.write_text(" ".join(words), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def folder(file, tmp_path_factory):
    run = tmp_path_factory.mktemp("runs") / "text"
    torch.set_default_dtype(torch.float32)
    assert main(["train", "text", "--data.path", str(file), "--training.steps", "6", "--out", str(run), *SMALL]) == 0
    return run


def test_the_network_of_a_text_reads_beliefs_unless_it_is_one_that_cannot(file, folder, tmp_path, monkeypatch):
    model = ndm.NDM.from_pretrained(folder)
    assert model.predictor.net.beliefs == model.decoder.levels

    def build(settings, shape, multiplier, width, depth, dropout=0.0, fourier=(), timed=True, outputs=0):
        return Conv1d(shape, outputs, width, depth)

    monkeypatch.setattr(Conv1d, "build", build)
    run = tmp_path / "plain"
    assert main(["train", "text", "--data.path", str(file), "--training.steps", "1", "--out", str(run), *SMALL]) == 0
    assert ndm.NDM.from_pretrained(run).predictor.net.beliefs == 0


def test_windows_are_cut_from_consecutive_parts_of_the_file(file):
    dataset = load_dataset("text", path=file, size=12)
    content, show = file.read_text(encoding="utf-8"), ndm.SymbolDecoder(dataset.levels, dataset.alphabet).texts
    assert dataset.alphabet == "".join(sorted(set(content)))
    ends = len(content) * 90 // 100, len(content) * 95 // 100
    assert len(dataset.train) == ends[0] - 11
    assert show(dataset.train[5:7]) == [content[5:17], content[6:18]]
    for part, start, end in (("validation", *ends), ("test", ends[1], len(content))):
        shown = "".join(show(dataset.split(part)))
        assert shown == content[start:end][: len(shown)] and len(shown) > end - start - 12
    assert dataset.train.dtype == torch.uint8 and dataset.unit == "bits/character"
    assert re.search(rf"sha256 {dataset.checksum}; {dataset.levels} different characters", dataset.release)


def test_a_batch_takes_windows_without_a_copy_of_all(file):
    dataset = load_dataset("text", path=file, size=12)
    assert dataset.train.untyped_storage().nbytes() < 2 * file.stat().st_size
    batch = dataset.batch(20, seed=0, step=3)
    torch.testing.assert_close(batch, dataset.train[dataset.rows(20, 0, 3)])


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        (b"", {}, "different characters"),
        (b"aaaaaaaaaaaaaaa" * 30, {}, "1 different characters"),
        (b"ab" * 30, {}, "a smaller --data.size"),
        ("früh".encode("latin-1") * 100, {}, "no text in utf-8"),
        (b"ab" * 900, {"encoding": "klingon"}, "no text in klingon"),
        ("".join(map(chr, range(300, 25_000))).encode(), {}, "different characters"),
        (b"ab" * 900, {"size": 0}, "size must be"),
    ],
    ids=["empty", "one character", "short", "encoding", "unknown encoding", "many characters", "no window"],
)
def test_a_file_that_is_no_such_text_is_told_in_one_line(content, options, message, tmp_path):
    path = tmp_path / "x.txt"
    path.write_bytes(content)
    with pytest.raises(ndm.InputError, match=message) as error:
        load_dataset("text", path=path, **options)
    assert "\n" not in str(error.value)


def test_a_missing_file_and_a_folder_are_told(tmp_path):
    for path in (tmp_path / "none.txt", tmp_path):
        with pytest.raises(ndm.InputError, match="is not a file"):
            load_dataset("text", path=path)


def test_another_encoding_is_read(tmp_path):
    path = tmp_path / "x.txt"
    path.write_bytes("früh auf ".encode("latin-1") * 200)
    assert "ü" in load_dataset("text", path=path, encoding="latin-1").alphabet


def test_a_run_of_text_writes_text_and_knows_its_alphabet(folder, file):
    text = (folder / "samples.txt").read_text(encoding="utf-8")
    title, *samples = re.split(r"--- sample \d+ ---\n", text)
    content = file.read_text(encoding="utf-8")
    assert "step 6 of 6" in title and len(samples) == 64
    assert all(len(sample) == 13 and set(sample[:-1]) <= set(content) for sample in samples)
    model = ndm.NDM.from_pretrained(folder)
    assert model.decoder.alphabet == "".join(sorted(set(content))) and model.shape == (12,)


def test_an_untrained_model_costs_about_the_entropy_of_the_characters(file, tmp_path, capsys):
    """It starts at the frequencies; what z_t says of a place itself is in its posterior."""
    run = tmp_path / "run"
    line = ["train", "text", "--data.path", str(file), "--training.steps", "1", "--out", str(run), *SMALL]
    assert main([*line, "--training.learning_rate", "1e-9"]) == 0
    capsys.readouterr()
    assert main(["evaluate", str(run), "--estimator", "bound", "--json", "--device", "cpu", "--quiet"]) == 0
    estimates = json.loads(capsys.readouterr().out)["estimates"]
    counts = np.unique(list(file.read_text(encoding="utf-8")), return_counts=True)[1]
    entropy = -(counts / counts.sum() * np.log2(counts / counts.sum())).sum()
    assert estimates[-1]["bpd"] == pytest.approx(entropy, abs=0.25)


def test_a_flat_model_costs_the_logarithm_of_the_alphabet(tmp_path, capsys):
    """Five characters come equally often, and nothing is learned: the whole command gives log2(5) to 1e-6 bits.

    Every row does. gamma_1 is so large that z_1 is N(0, I).
    """
    (tmp_path / "text.txt").write_text("abcde" * 480)
    line = ["train", "text", "--data.path", str(tmp_path / "text.txt"), "--out", str(tmp_path / "run"), *SMALL]
    flat = ["--data.size", "10", "--training.steps", "1", "--training.learning_rate", "0", "--model.gamma_max", "34"]
    assert main([*line, *flat]) == 0
    capsys.readouterr()
    ode = ["evaluate", str(tmp_path / "run"), "--estimator", "ode", "--rtol", "1e-7", "--atol", "1e-7"]
    exact = ["--dtype", "float64", "--limit", "2", "--samples", "1", "--json", "--device", "cpu", "--quiet"]
    assert main([*ode, *exact]) == 0
    (estimate,) = json.loads(capsys.readouterr().out)["estimates"]
    assert estimate["bpd"] == pytest.approx(math.log2(5), abs=1e-6)
    assert estimate["standard_error"] < 1e-6


def test_a_run_of_text_that_was_interrupted_goes_on_to_the_weights_of_one_that_was_not(folder, file, tmp_path):
    run = tmp_path / "run"
    line = ["train", "text", "--data.path", str(file), "--out", str(run), *SMALL, "--training.checkpoint_every", "2"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ndm.training.loop.reached", lambda step: step == 4 and signal.raise_signal(signal.SIGINT))
        assert main([*line, "--training.steps", "6"]) == 130
    assert main(["train", "--resume", str(run), "--device", "cpu", "--quiet"]) == 0
    one, two = (ndm.NDM.from_pretrained(path).state_dict() for path in (run, folder))
    assert {name: (one[name] - two[name]).abs().max() for name in one if not torch.equal(one[name], two[name])} == {}


@pytest.mark.parametrize("network", ["conv1d", "transformer"])
def test_a_prompt_is_kept_and_the_rest_is_filled_in(network, file, tmp_path):
    run, out = tmp_path / "run", tmp_path / "x.txt"
    line = ["train", "text", "--data.path", str(file), "--training.steps", "2", "--out", str(run), *SMALL]
    assert main([*line, "--model.network", network]) == 0
    command = ["sample", str(run), "--num", "5", "--steps", "8", "--out", str(out), "--device", "cpu", "--quiet"]
    assert main([*command, "--prompt", "die __tze"]) == 0
    _, *samples = re.split(r"--- sample \d+ ---\n", out.read_text(encoding="utf-8"))
    assert len(samples) == 5 and all(re.fullmatch(r"die ..tze...\n", sample, re.DOTALL) for sample in samples)
    assert len(set(samples)) > 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--prompt", "a prompt that is too long"], "a window of this model has 12"),
        (["--prompt", "xyz"], "the character"),
        (["--prompt", "die", "--solver", "ddim"], "--prompt is filled in by ancestral steps; leave out --solver ddim"),
        (["--out", "x.png"], "--out must end in .txt or .npz"),
    ],
)
def test_what_cannot_be_sampled_is_told_in_one_line(options, message, folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["sample", str(folder), "--num", "2", "--steps", "2", "--device", "cpu", *options]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"transform": "identity"}, "model.transform of a text must be embedding"),
        ({"parameterization": "v"}, "model.parameterization of a text must be symbols"),
        ({"network": "mlp"}, "choose conv1d or transformer"),
    ],
)
def test_settings_that_are_not_for_text_are_refused(settings, message, file, tmp_path, capsys):
    options = [word for name, value in settings.items() for word in (f"--model.{name}", value)]
    line = ["train", "text", "--data.path", str(file), "--out", str(tmp_path / "run"), *SMALL, *options]
    assert main(line) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("recipe", "settings", "message"),
    [
        ("moons", ["--model.transform", "embedding"], "need levels or text, but these data are real numbers"),
        ("digits", ["--model.transform", "embedding"], "need each other; set both, got embedding and v"),
        ("digits", ["--model.parameterization", "symbols", "--model.predict_curve", "false"], "need each other"),
        ("digits", ["--model.parameterization", "symbols"], "model.predict_curve is not for symbols"),
        ("digits", ["--model.dim", "3"], "model.dim is for tables and symbols; with other models set it to 4, got 3"),
    ],
)
def test_an_embedding_is_for_symbols_and_levels(recipe, settings, message, tmp_path, capsys):
    line = ["train", recipe, "--out", str(tmp_path / "run"), *settings, "--device", "cpu"]
    assert main(line) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("dim", ["1", "2"])
def test_the_levels_of_images_can_move(dim, tmp_path, capsys):
    """Trained, evaluated and drawn by the commands."""
    line = ["train", "digits", "--out", str(tmp_path / "run"), "--device", "cpu", "--training.steps", "60"]
    model = ["--model.transform", "embedding", "--model.parameterization", "symbols", "--model.dim", dim]
    small = ["--model.width", "32", "--model.depth", "1", "--model.predict_curve", "false"]
    assert main([*line, *model, *small]) == 0
    capsys.readouterr()
    evaluate = ["evaluate", str(tmp_path / "run"), "--estimator", "bound", "--json", "--device", "cpu", "--quiet"]
    assert main(evaluate) == 0
    assert json.loads(capsys.readouterr().out)["estimates"][-1]["bpd"] < 2.7  # flat levels cost log2 17 = 4.09
    assert main(["sample", str(tmp_path / "run"), "--num", "4", "--out", str(tmp_path / "x.npz"), "--steps", "4"]) == 0
    drawn = np.load(tmp_path / "x.npz")["x"]
    assert drawn.shape[0] == 4 and drawn.max() <= 16


@pytest.mark.parametrize("kind", [Conv1d, Transformer])
def test_networks_of_sequences_see_all_places_and_the_time(kind):
    torch.manual_seed(0)
    net = kind((3, 40), outputs=5, width=16, depth=4).double()
    for p in net.parameters():
        torch.nn.init.normal_(p, std=0.3)
    z, t = torch.randn(2, 3, 40, dtype=torch.float64, requires_grad=True), torch.rand(2, dtype=torch.float64)
    out = net(z, t)
    assert out.shape == (2, 5, 40)
    (seen,) = torch.autograd.grad(out[0, :, 20].sum(), z)
    assert (seen[0].abs().sum(0) > 0).sum() >= 30 and not seen[1].any()
    assert not torch.allclose(net(z, t / 2), out)
    bare = kind((3, 40), outputs=5, width=16, depth=1, embedding=0)
    assert bare(torch.randn(2, 3, 40)).shape == (2, 5, 40)
    assert not kind((3, 40), outputs=5)(torch.randn(2, 3, 40), torch.rand(2)).any()


def test_turned_products_depend_on_the_distance_alone():
    q, k = torch.randn(2, 8, 1, dtype=torch.float64).expand(2, 8, 30)
    products = rotate(q).mT @ rotate(k)
    for distance in (-7, 0, 3):
        line = products.diagonal(distance)
        torch.testing.assert_close(line, line[:1].expand_as(line))
    assert not math.isclose(products[0, 0].item(), products[0, 5].item())
    torch.testing.assert_close(rotate(q).square().sum(0), q.square().sum(0))


def test_angles_keep_their_digits_in_bf16():
    """At the size of the recipe text8, where an angle in bf16 is off by half a radian."""
    q = torch.randn(64, 256, generator=torch.Generator().manual_seed(0))
    exact, rounded = rotate(q.double()), rotate(q.bfloat16()).double()
    assert rotate(q.bfloat16()).dtype == torch.bfloat16
    assert (rounded - exact).abs().max() < 0.05


def test_equal_places_attend_by_their_distance_alone(monkeypatch):
    seen = []
    monkeypatch.setattr("ndm.nn.transformer.attend", lambda q, k, v: [seen.append(q.mT @ k), v][1])
    net = Transformer((3, 12), outputs=5, width=16, depth=1, heads=2)
    net(torch.randn(1, 3, 1).expand(1, 3, 12), torch.rand(1))
    for products in seen[0].flatten(0, 1):
        for distance in (-5, 0, 4):
            line = products.diagonal(distance)
            torch.testing.assert_close(line, line[:1].expand_as(line), atol=1e-4, rtol=1e-4)
        assert not torch.allclose(products[0, 0], products[0, 5])


def test_the_doctor_shows_how_characters_move_and_says_nothing_of_levels(folder, tmp_path, capsys):
    run = tmp_path / "run"
    shutil.copytree(folder, run)
    assert main(["doctor", str(run), "--limit", "3", "--device", "cpu", "--quiet"]) == 0
    out = capsys.readouterr().out
    assert "bits/character" in out and "symbols that noise makes one" in out and "levels" not in out
    assert (run / "symbols.png").is_file() and (run / "doctor.png").is_file()


def test_a_prompt_is_for_text(tmp_path, capsys):
    line = ["train", "digits-quick-conventional", "--out", str(tmp_path / "run"), "--model.transform", "embedding"]
    small = ["--model.parameterization", "symbols", "--model.dim", "1", "--training.steps", "2", "--model.width", "8"]
    assert main([*line, *small, "--training.batch_size", "4", "--model.multipliers", "[1]", "--device", "cpu"]) == 0
    assert main(["sample", str(tmp_path / "run"), "--prompt", "abc", "--device", "cpu"]) == 2
    assert "--prompt is for runs of text" in capsys.readouterr().err
