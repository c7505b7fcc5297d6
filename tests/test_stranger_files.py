"""Hostile files, second hands on a run, and calls that ended version 0.1.0 with a traceback. See tests/faults.py.

These tests use only what 0.1.0 has too, so that they can fail there for the fault and for nothing else.
"""

import json
import os
import re
import resource
import shutil
import signal
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

import ndm
from ndm.cli import main
from processes import Started

from conftest import TINY, bounded, command, refused

SAVED = Path(__file__).with_name("saved") / "0.1.0"
BOUND = ["--estimator", "bound", "--steps", "3", "--passes", "1", "--limit", "4", "--device", "cpu"]
STEM = "predictor.net.stem.weight"
NDM = [sys.executable, "-m", "ndm"]

pytestmark = pytest.mark.usefixtures("float32")


@pytest.fixture
def saved(tmp_path):
    """A copy of a run of version 0.1.0."""
    shutil.copytree(SAVED, tmp_path / "saved")
    return tmp_path / "saved"


# Section 3: two hands on one run


@pytest.fixture(scope="module")
def held(tmp_path_factory):
    """The folder of a run that another process trains, and that process."""
    run = tmp_path_factory.mktemp("held") / "run"
    arguments = ["train", "digits-conventional", "--out", str(run), *TINY, "--training.steps", "1000000"]
    process = Started("-m", "ndm", *arguments)
    deadline = time.monotonic() + 120
    while not list(run.glob("checkpoints/step-*")) and time.monotonic() < deadline and process.running:
        time.sleep(0.1)
    process.signal(signal.SIGSTOP)  # it holds the run, and takes no time from the tests
    yield run, process
    process.kill()


@pytest.mark.parametrize("how", ["resumed", "overwritten"])
def test_a_run_that_trains_is_not_touched_by_others(how, held):
    run, owner = held
    other = ["train", "--resume", run]
    if how == "overwritten":
        other = ["train", "digits-conventional", "--out", run, "--overwrite", *TINY, "--training.steps", "1000000"]
    status, _, error = command(other, seconds=120)
    assert owner.running, "the first training has ended"
    assert status == 2 and error.count("\n") == 1
    assert f"is being trained by process {owner.pid}" in error


# Section 5: hostile or foreign files


def rewrite(run, change):
    """Change the tensors of a run's model."""
    file = run / "model" / "model.safetensors"
    with safe_open(file, "pt") as opened:
        metadata = opened.metadata()
    tensors = load_file(file)
    change(tensors)
    file.unlink()
    save_file(tensors, file, metadata)


def configure(run, change):
    """Change the description of a run's model, with the checksum that belongs to it."""
    import hashlib

    file = run / "model" / "config.json"
    config = json.loads(file.read_text())
    change(config)
    file.write_text(json.dumps(config))
    weights = run / "model" / "model.safetensors"
    with safe_open(weights, "pt") as opened:
        metadata = opened.metadata()
    metadata["config_sha256"] = hashlib.sha256(file.read_bytes()).hexdigest()
    tensors = load_file(weights)
    weights.unlink()
    save_file(tensors, weights, metadata)


def replaced(change):
    return lambda run: rewrite(run, lambda tensors: tensors.update({STEM: change(tensors[STEM])}))


def checkpoint(run, change):
    """Change the tensors of the checkpoint of step 2, with the checksum that belongs to them."""
    import hashlib

    folder = run / "checkpoints" / "step-00000002"
    tensors, record = load_file(folder / "state.safetensors"), json.loads((folder / "state.json").read_text())
    change(tensors)
    (folder / "state.safetensors").unlink()
    save_file(tensors, folder / "state.safetensors")
    record["sha256"] = hashlib.sha256((folder / "state.safetensors").read_bytes()).hexdigest()
    (folder / "state.json").write_text(json.dumps(record))


def flip(run):
    file = run / "model" / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-2] ^= 32
    file.write_bytes(content)


HOSTILE = {
    "depth 1e9": lambda run: configure(run, lambda c: c["predictor"]["net"].update(depth=10**9)),
    "width 20000": lambda run: configure(run, lambda c: c["predictor"]["net"].update(width=20_000)),
    "1e9 levels": lambda run: configure(run, lambda c: c["decoder"].update(levels=10**9)),
    "type []": lambda run: configure(run, lambda c: c["predictor"].update(type=[])),
    "deep model": lambda run: (run / "model" / "config.json").write_text("[" * 100_000),
    "deep settings": lambda run: (run / "config.yaml").write_text("[" * 5_000),
    "half data.json": lambda run: (run / "data.json").write_text('{"name": "digi'),
    "empty data.json": lambda run: (run / "data.json").write_text(""),
    "fp8": replaced(lambda w: w.to(torch.float8_e4m3fn)),
    "int32": replaced(lambda w: w.int()),
    "bool": replaced(lambda w: w.bool()),
    "flipped": flip,
}


@pytest.mark.timeout(120)
@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_run_is_one_line_in_bounded_memory(kind, saved, capsys):
    if kind == "flipped":  # checksums of weights came after 0.1.0
        ndm.NDM.from_pretrained(saved / "model").save_pretrained(saved / "model")
    HOSTILE[kind](saved)
    with bounded(seconds=20, gigabytes=1):
        assert str(saved) in refused(["evaluate", saved, *BOUND], capsys)


def test_complex_weights_are_one_line(saved, capsys):
    try:
        replaced(lambda w: w.to(torch.complex64))(saved)
    except KeyError:
        pytest.skip("this safetensors writes no complex numbers")
    assert "complex" in refused(["evaluate", saved, *BOUND], capsys)


def test_a_checkpoint_that_lacks_tensors_is_one_line(saved, capsys):
    checkpoint(saved, lambda tensors: tensors.pop(f"average.{STEM}"))
    assert "step 2" in refused(["evaluate", saved, "--checkpoint", "2", *BOUND], capsys)


@pytest.mark.timeout(120)
def test_yaml_that_multiplies_itself_is_refused(tmp_path, capsys):
    lists = ["&a0 [1,1,1,1,1,1,1,1,1,1]", *(f"&a{k} [{','.join([f'*a{k - 1}'] * 10)}]" for k in range(1, 9))]
    (tmp_path / "bomb.yaml").write_text(f"description: [{', '.join(lists)}]")
    with bounded(seconds=10, gigabytes=1):
        assert "bomb.yaml" in refused(["train", tmp_path / "bomb.yaml", "--out", tmp_path / "run"], capsys)


def test_foreign_lines_in_the_metrics_do_not_stop_a_training(saved, capsys):
    with (saved / "metrics.jsonl").open("ab") as file:
        file.write(b'[1]\n{"a": 1}\n\xff\xfe\n"x"\n')
    shutil.rmtree(saved / "model")
    assert main(["train", "--resume", str(saved), "--device", "cpu"]) == 0
    assert "metrics.jsonl" in capsys.readouterr().err


def test_foreign_lines_in_the_journal_of_an_evaluation_are_passed_over(saved, monkeypatch, capsys):
    """The evaluation is interrupted, somebody writes into its journal, and the same command goes on."""
    calls, reverse = [], ndm.NDM.reverse

    def interrupted(self, *arguments, **options):
        calls.append(arguments)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return reverse(self, *arguments, **options)

    evaluate = [
        "evaluate",
        str(saved),
        "--estimator",
        "bound",
        "--steps",
        "3,4,5,6",
        "--passes",
        "1",
        "--device",
        "cpu",
    ]
    monkeypatch.setattr(ndm.NDM, "reverse", interrupted)
    assert main(evaluate) == 130
    monkeypatch.setattr(ndm.NDM, "reverse", reverse)
    journals = [file for file in saved.glob("*.jsonl") if "partial" in file.name]
    for file in journals:
        with file.open("ab") as opened:
            opened.write(b'[1]\n"x"\n{"a": 1}\n\xff\xfe\n')
    assert journals and main(evaluate) == 0


def test_a_folder_called_step_squared_is_no_checkpoint(saved, capsys):
    (saved / "checkpoints" / "step-²").mkdir()
    assert main(["evaluate", str(saved), "--checkpoint", "newest", *BOUND]) == 0


def one_more(run):
    """A step more than the run was trained for."""
    from ndm.experiment import Run

    return str(Run(run).config.training.steps + 1)


@pytest.mark.parametrize("content", [None, "notes.txt"])
def test_an_empty_or_foreign_folder_with_the_name_of_a_checkpoint_is_none(content, saved, capsys):
    foreign = saved / "checkpoints" / "step-99999999999"
    foreign.mkdir()
    if content:
        (foreign / content).write_text("mine")
    assert main(["evaluate", str(saved), "--checkpoint", "newest", *BOUND]) == 0
    more = one_more(saved)
    assert main(["train", "--resume", str(saved), "--training.steps", more, "--device", "cpu"]) == 0
    assert "damaged" not in capsys.readouterr().err
    assert foreign.is_dir() and (content is None or (foreign / content).read_text() == "mine")


def test_a_checkpoint_that_was_copied_to_a_later_step_does_not_end_a_run(saved, capsys):
    newest = max(saved.glob("checkpoints/step-*"))
    shutil.copytree(newest, newest.with_name("step-99999999999"))
    more = one_more(saved)
    assert main(["train", "--resume", str(saved), "--training.steps", more, "--device", "cpu"]) == 0
    assert "its state.json is not that of this step" in capsys.readouterr().err


@pytest.mark.parametrize("content", ["[" * 100_000, '{"step": true}', '{"step": -3}', None])
def test_an_odd_record_of_the_models_step_is_passed_over(content, saved, capsys):
    record = saved / "model" / "training.json"
    record.unlink(missing_ok=True)
    os.mkfifo(record) if content is None else record.write_text(content)
    assert main(["evaluate", str(saved), *BOUND]) == 0
    assert "True of" not in (out := capsys.readouterr().out) and "-3 of" not in out


@pytest.mark.parametrize("arguments", [["evaluate"], ["train", "--training.steps", "9", "--resume"]])
def test_a_run_whose_record_of_its_data_was_deleted_does_not_skip_their_check(arguments, saved, capsys):
    """Its data might be others by now, and this was not said."""
    (saved / "data.json").unlink()
    assert f"{saved / 'data.json'} is missing" in refused([*arguments, saved], capsys)
    shutil.rmtree(saved / "checkpoints"), shutil.rmtree(saved / "model")
    assert main(["train", "--resume", str(saved), "--device", "cpu"]) == 0  # it has not been trained yet
    assert (saved / "data.json").is_file()


@pytest.mark.parametrize("place", ["model", "checkpoints", "checkpoints/.partial"])
def test_a_file_in_the_place_of_a_folder_of_a_run_is_told_before_the_training(place, saved, monkeypatch, capsys):
    if (saved / place).is_dir():
        shutil.rmtree(saved / place)
    (saved / place).write_text("mine")
    monkeypatch.setattr("ndm.training.Trainer.run", lambda trainer: pytest.fail("the training began"))
    error = refused(["train", "--resume", saved, "--training.steps", "9", "--device", "cpu"], capsys)
    assert f"{saved / place} is in the place of a folder" in error and (saved / place).read_text() == "mine"


@pytest.mark.parametrize("arguments", [["evaluate"], ["train", "--resume"]])
def test_settings_of_a_run_that_are_cut_short_are_not_taken_for_the_defaults(arguments, saved, capsys):
    """A resumed run then trained the default model from its first step, in the place of its own."""
    text = (saved / "config.yaml").read_text()
    (saved / "config.yaml").write_text(text[: text.index("training:")])
    error = refused([*arguments, saved], capsys)
    assert f"{saved / 'config.yaml'} is cut short: it has no settings training.*" in error


@pytest.mark.timeout(60)
@pytest.mark.parametrize("option", ["depth", "transform_depth", "width", "num_basis"])
def test_sizes_that_no_memory_holds_are_refused_at_once(option, tmp_path, monkeypatch, capsys):
    """A depth of a million took 16 seconds, and the line did not say what was too large."""
    monkeypatch.setattr("ndm.experiment.build.memory", lambda: 2 * 10**9)
    start, out = time.monotonic(), tmp_path / "run"
    error = refused(["train", "digits", f"--model.{option}", "1000000", "--out", out, "--device", "cpu"], capsys)
    if "depth" in option:
        assert f"model.{option} must be at most 5,000, got 1000000" in error
    else:
        assert "these settings describe a model of more than 20,000 tensors or 500,000,000 numbers" in error
    assert time.monotonic() - start < 10 and not (out / "config.yaml").exists()


# Section 6: tracebacks where a line is promised


def small_model(transform=None):
    torch.manual_seed(0)
    net = ndm.nn.MLP((3,), width=8, depth=1)
    for p in net.parameters():
        nn.init.normal_(p, std=0.2)
    process = ndm.ForwardProcess(ndm.LinearSchedule(-5.0, 5.0), transform)
    return ndm.NDM(process, ndm.Predictor(net), ndm.GaussianDecoder())


X = torch.tensor([[0.5, 1.0, -1.0], [2.0, 0.0, 0.25]], dtype=torch.float32)


@pytest.mark.parametrize("kind", ["float64", "NumPy"])
def test_rows_in_float64_or_of_numpy_have_the_figures_of_float32(kind):
    model = small_model()
    x = X.double() if kind == "float64" else X.numpy()
    expected, found = ndm.log_prob(model, X, solver="rk4"), ndm.log_prob(model, x, solver="rk4")
    torch.testing.assert_close(found.float(), expected)


CALLS = {
    "wrong D": lambda model: ndm.bound(model, torch.zeros(2, 4)),
    "a shape of one row": lambda model: ndm.sample(model, (3,), 2),
    "an integer generator": lambda model: ndm.bound(model, X, generator=3),
    "DataParallel": lambda model: ndm.log_prob(nn.DataParallel(model), X),
}


@pytest.mark.parametrize("kind", CALLS)
def test_a_call_that_cannot_be_is_one_line(kind):
    with pytest.raises(ndm.InputError) as error:
        CALLS[kind](small_model())
    assert "\n" not in str(error.value)


def test_inference_mode_has_likelihoods():
    model = small_model()
    expected = ndm.log_prob(model, X, solver="rk4")
    with torch.inference_mode():
        torch.testing.assert_close(ndm.log_prob(model, X, solver="rk4"), expected)


class Curve(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(4, 3)

    def forward(self, x, t):
        return torch.tanh(self.inner(torch.cat([x, t[:, None]], 1)))


def test_threads_may_share_a_model_with_a_network_for_its_transform():
    model, errors = small_model(ndm.Network(Curve())), []

    def work():
        try:
            for _ in range(30):
                ndm.bound(model, X)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    if errors:
        raise errors[0]


@pytest.mark.parametrize("seed", ["-1", str(2**64 + 1)])
@pytest.mark.parametrize("name", ["evaluate", "sample", "doctor", "quality"])
def test_a_seed_that_no_generator_has_is_refused(name, seed, saved, tmp_path, monkeypatch, capsys):
    """In every command that has a seed of its own; the settings of a training were checked."""
    monkeypatch.setattr(ndm.NDM, "forward", lambda *_, **__: pytest.fail("the model was evaluated first"))
    options = {"evaluate": BOUND, "sample": ["--num", "2", "--out", tmp_path / "x.npz"], "doctor": ["--limit", "4"]}
    options |= {"quality": ["--num", "100", "--steps", "1"]}
    assert "seed" in refused([name, saved, *options[name], "--seed", seed], capsys)


def test_a_user_without_home_and_account_gets_a_cache(tmp_path):
    code = (
        "import os, pwd; pwd.getpwuid = lambda _: (_ for _ in ()).throw(KeyError('uid not found'))\n"
        "[os.environ.pop(name, None) for name in ('HOME', 'XDG_CACHE_HOME', 'NDM_DATA')]\n"
        "from PIL import Image\n"
        f"[Image.new('L', (8, 8), k).save(f'{tmp_path}/{{k}}.png') for k in range(10)]\n"
        "from ndm.data import load_dataset\n"
        f"print(len(load_dataset('images', path={str(tmp_path)!r}, size=8).train))\n"
    )
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    status, _, error = Started("-c", code, env=environment).end(120)
    assert status == 0, error


@pytest.mark.parametrize("name", ["a[/b]", "exp[old]"])
def test_a_folder_whose_name_looks_like_markup_is_printed_as_it_is(name, tmp_path, capsys):
    out = tmp_path / name
    assert main(["train", "digits-conventional", "--out", str(out), *TINY, "--training.steps", "2"]) == 0
    assert str(out) in capsys.readouterr().err


def test_the_reader_of_the_recipes_may_leave():
    """As in ``ndm recipes | head -1``."""
    reading, writing = os.pipe()
    os.close(reading)
    result = subprocess.run([*NDM, "recipes"], stdout=writing, stderr=subprocess.PIPE, text=True, timeout=120)
    os.close(writing)
    assert result.stderr == ""


def test_ctrl_c_during_the_imports_leaves_no_traceback():
    code = (
        "import signal, sys, importlib.abc, runpy\n"
        "class Interrupt(importlib.abc.MetaPathFinder):\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'jsonargparse': signal.raise_signal(signal.SIGINT)\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "sys.meta_path.insert(0, Interrupt())\n"
        "sys.argv = ['ndm', 'evaluate', '/nowhere']\n"
        "runpy.run_module('ndm', run_name='__main__')\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert result.stderr == "" and result.returncode == 130


def test_a_full_disk_is_told_with_the_files_name_and_leaves_no_half_picture(saved, tmp_path, capsys):
    """No file may be larger than a kilobyte."""
    out = tmp_path / "samples" / "x.png"
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        status = main(["sample", str(saved), "--num", "4", "--steps", "1", "--out", str(out), "--device", "cpu"])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
    error = capsys.readouterr().err.splitlines()[-1]
    assert status == 2 and str(out) in error and "too large" in error.lower()
    assert not [file for file in out.parent.iterdir() if file.stat().st_size]


def test_weights_have_the_permissions_of_the_umask(tmp_path):
    before = os.umask(0o022)
    try:
        small_model().save_pretrained(tmp_path)
    finally:
        os.umask(before)
    assert {stat.S_IMODE(file.stat().st_mode) for file in tmp_path.iterdir()} == {0o644}


@pytest.mark.parametrize("place", ["model/model.safetensors", "checkpoints"])
def test_a_permission_is_not_called_a_missing_file(place, saved, tmp_path, capsys):
    """It was called "No such file", and "no checkpoint; there are: none"."""
    evaluate = ["evaluate", str(saved), *BOUND, *(["--checkpoint", "2"] if place == "checkpoints" else [])]
    assert main(evaluate) == 0  # everything is imported while it may be read
    capsys.readouterr()
    for folder in (tmp_path, tmp_path.parent, tmp_path.parent.parent):
        folder.chmod(0o755)
    (saved / place).chmod(0)
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        error = refused(evaluate, capsys)
    finally:
        if root:
            os.seteuid(0)
        (saved / place).chmod(0o755)
    assert re.search("permission denied", error, re.IGNORECASE)
