"""Foreign models, checkpoints and runs: refused in one line, in bounded time and memory, or right to the last bit."""

import copy
import hashlib
import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import ndm
from ndm.cli import main
from ndm.experiment import Run
from ndm.experiment.build import seeded_model
from ndm.support.files import BadFile
from ndm.support.weights import checksum
from ndm.training import Checkpoints, Trainer

from conftest import bounded

SAVED = Path(__file__).with_name("saved") / "0.1.0"
QUICK = ["--estimator", "bound", "--steps", "2", "--passes", "1", "--limit", "4", "--json", "--device", "cpu"]


pytestmark = pytest.mark.usefixtures("float32")


@pytest.fixture
def run(tmp_path):
    """A run's folder; its model is saved anew, so it has every checksum."""
    shutil.copytree(SAVED, tmp_path / "run")
    ndm.NDM.from_pretrained(tmp_path / "run" / "model").save_pretrained(tmp_path / "run" / "model")
    return tmp_path / "run"


def refused(folder, *words):
    """Loading the model of a run is refused in one line, which names a file in it."""
    with bounded(), pytest.raises(ndm.InputError) as error:
        ndm.NDM.from_pretrained(folder / "model")
    text = str(error.value)
    assert "\n" not in text and len(text) < 1000 and str(folder / "model") in text
    assert all(word in text for word in words), text


def rewrite(run, change, seal=True):
    """Change the tensors of a run's model; ``seal`` gives the checksum that belongs to them."""
    file = run / "model" / "model.safetensors"
    with safe_open(file, "pt") as opened:
        metadata = opened.metadata()
    tensors = load_file(file)
    change(tensors)
    metadata["config_sha256"] = hashlib.sha256((run / "model" / "config.json").read_bytes()).hexdigest()
    if seal:
        metadata["tensors_sha256"] = checksum(tensors)
    save_file(tensors, file, metadata)


def configure(run, change):
    """Change the description of a run's model, with the checksum that belongs to it."""
    file = run / "model" / "config.json"
    config = json.loads(file.read_text())
    change(config)
    file.write_text(json.dumps(config))
    rewrite(run, lambda _: None)


HUGE = {
    "depth": lambda c: c["predictor"]["net"].update(depth=10**9),
    "a depth that the file's sizes allow": lambda c: c["predictor"]["net"].update(depth=60_000),
    "width": lambda c: c["predictor"]["net"].update(width=20_000),
    "shape": lambda c: c["predictor"]["net"].update(shape=[10**4, 10**4]),
    "levels": lambda c: c["decoder"].update(levels=10**9),
    "basis": lambda c: c["process"]["transform"].update(num_basis=10**9),
    "bumps": lambda c: c["process"].update(schedule={"type": "LearnedSchedule", "gamma_min": -7, "gamma_max": 5,
                                                     "num_bumps": 10**10}),
    "steps": lambda c: c["process"].update(schedule={"type": "StepwiseSchedule", "gamma_min": -7, "gamma_max": 5,
                                                     "steps": 60_000}),
    "a rotation": lambda c: c["process"].update(transform={"type": "Linear", "dim": 60_000, "rotation": "fixed"}),
    "a table": lambda c: c.update(predictor={"type": "LevelsPredictor", "net": c["predictor"]["net"],
                                             "levels": 50_000, "rank": 50_000}),
    "a network in the decoder": lambda c: c["decoder"].update(levels={"type": "MLP", "shape": [60_000, 60_000]}),
    "a network for a decoder": lambda c: c.update(decoder={"type": "MLP", "shape": [60_000], "width": 60_000}),
    "resolutions": lambda c: c["predictor"].update(net={"type": "UNet", "shape": [1, 8, 8],
                                                        "multipliers": [1] * 10**5}),
    "frequencies": lambda c: c["predictor"]["net"].update(fourier=[60_000]),
    "text": lambda c: c["predictor"].update(type="x" * 10**6),
}  # fmt: skip


@pytest.mark.parametrize("kind", HUGE)
def test_a_model_that_describes_gigabytes_is_refused_before_they_are_allocated(kind, run):
    configure(run, HUGE[kind])
    refused(run)


ODD_VALUES = [
    None, True, [], {}, "x", -1, 10**30, 1e308, float("nan"), float("inf"), 2.5, [1, 2], [[[]]], {"type": []},
    {"type": "MLP"}, {"type": "external"}, {"type": "CategoricalDecoder", "levels": 3},
]  # fmt: skip


def places(value, path=()):
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value if isinstance(value, list) else []):
        yield (*path, key)
        yield from places(inner, (*path, key))


def test_every_value_of_a_description_may_be_odd(run):
    """Each is replaced by values of other kinds: 140 models, every one refused in one line."""
    file = run / "model" / "config.json"
    original = json.loads(file.read_text())
    trials = [(place, odd) for place in places(original) for odd in ODD_VALUES]
    for place, odd in trials[::4]:
        config = copy.deepcopy(original)
        inner = config
        for key in place[:-1]:
            inner = inner[key]
        inner[place[-1]] = odd
        file.write_text(json.dumps(config))
        refused(run)
    assert len(trials[::4]) > 100


def replaced(name, change):
    return lambda tensors: tensors.update({name: change(tensors[name])})


STEM = "predictor.net.stem.weight"
FOREIGN_WEIGHTS = {
    "one NaN": (replaced(STEM, lambda w: w.index_fill(0, torch.tensor([3]), float("nan"))), "not finite", STEM),
    "infinite": (replaced(STEM, lambda w: w + float("inf")), "not finite", STEM),
    "fp8": (replaced(STEM, lambda w: w.to(torch.float8_e4m3fn)), "float8_e4m3fn", STEM),
    "int32": (replaced(STEM, lambda w: w.int()), "int32", STEM),
    "bool": (replaced(STEM, lambda w: w.bool()), "bool", STEM),
    "complex": (replaced(STEM, lambda w: w.to(torch.complex64)), "complex64", STEM),
    "reshaped": (replaced(STEM, lambda w: w.T.contiguous()), "(64, 8)", STEM),
    "empty": (replaced(STEM, lambda w: w[:0]), "(0, 64)", STEM),
    "missing": (lambda tensors: tensors.pop(STEM), "missing", STEM),
    "renamed": (lambda tensors: tensors.update({"a\nndm: error: b": tensors.pop(STEM)}), "no place"),
    "one more": (lambda tensors: tensors.update(more=torch.zeros(3)), "more has no place"),
}


@pytest.mark.parametrize("kind", FOREIGN_WEIGHTS)
def test_foreign_weights_are_refused_with_the_tensors_name(kind, run):
    change, *words = FOREIGN_WEIGHTS[kind]
    try:
        rewrite(run, change)
    except KeyError:
        assert kind == "complex"
        pytest.skip("this safetensors writes no complex numbers")
    refused(run, *words)


@pytest.mark.parametrize("command", ["evaluate", "doctor", "sample", "quality"])
def test_no_command_ends_with_0_on_a_model_with_a_nan(command, run, tmp_path, capsys):
    rewrite(run, FOREIGN_WEIGHTS["one NaN"][0])
    out = ["--out", str(tmp_path / "x.png")] if command == "sample" else []
    assert main([command, str(run), "--device", "cpu", *out]) == 2
    shown = capsys.readouterr()
    assert shown.err.count("\n") == 1 and "not finite" in shown.err and shown.out == ""


def test_a_flipped_bit_anywhere_in_the_weights_is_noticed(run):
    """In the header and in the numbers: the model is refused, or has the same weights."""
    file = run / "model" / "model.safetensors"
    whole, model = file.read_bytes(), ndm.NDM.from_pretrained(run / "model")
    header = 8 + int.from_bytes(whole[:8], "little")
    for place in (*range(0, header, 41), *range(header, len(whole), len(whole) // 50)):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << place % 8
        file.write_bytes(damaged)
        if place >= header:
            refused(run)
            continue
        try:
            found = ndm.NDM.from_pretrained(run / "model")
        except ndm.InputError:
            refused(run)
        else:  # a letter of a name that nobody looks up
            assert checksum(found.state_dict()) == checksum(model.state_dict())


def test_files_cut_anywhere_are_refused(run):
    for name in ("config.json", "model.safetensors"):
        file = run / "model" / name
        whole = file.read_bytes()
        for length in range(0, len(whole) - 1, len(whole) // 40):
            file.write_bytes(whole[:length])
            refused(run)
        file.write_bytes(whole)


def test_a_flipped_bit_that_stays_finite_is_refused_and_a_file_without_checksum_is_read(run):
    rewrite(run, replaced(STEM, lambda w: w * 1.5), seal=False)
    refused(run, "its checksum does not match")
    shutil.rmtree(run)
    shutil.copytree(SAVED, run)
    with safe_open(run / "model" / "model.safetensors", "pt") as file:
        assert "tensors_sha256" not in file.metadata()
    assert ndm.NDM.from_pretrained(run / "model").num_parameters == 9748


def test_a_model_of_several_precisions_is_loaded_to_the_last_bit(run):
    model = ndm.NDM.from_pretrained(run / "model").double()
    model.predictor.to(torch.bfloat16)
    model.process.transform.net.stem.weight.data += 1e-12
    model.save_pretrained(run / "model")
    found, expected = ndm.NDM.from_pretrained(run / "model").state_dict(), model.state_dict()
    assert all(found[name].dtype == value.dtype and torch.equal(found[name], value) for name, value in expected.items())


def change_checkpoint(run, change, seal=True):
    folder = run / "checkpoints" / "step-00000002"
    tensors, record = load_file(folder / "state.safetensors"), json.loads((folder / "state.json").read_text())
    change(tensors, record)
    (folder / "state.safetensors").unlink()  # tensors that were read from it may be mapped from it
    save_file(tensors, folder / "state.safetensors")
    if seal:
        record["sha256"] = hashlib.sha256((folder / "state.safetensors").read_bytes()).hexdigest()
    (folder / "state.json").write_text(json.dumps(record))


AVERAGE, MOMENT = f"average.{STEM}", f"optimizer.{STEM}/exp_avg"
FOREIGN_CHECKPOINTS = {
    "no average": lambda t, _: t.pop(AVERAGE),
    "reshaped": lambda t, _: t.update({AVERAGE: t[AVERAGE][:, :3].contiguous()}),
    "fp8": lambda t, _: t.update({AVERAGE: t[AVERAGE].to(torch.float8_e4m3fn)}),
    "int32": lambda t, _: t.update({AVERAGE: t[AVERAGE].int()}),
    "NaN": lambda t, _: t.update({AVERAGE: t[AVERAGE] * float("nan")}),
    "one more": lambda t, _: t.update({"average.more": torch.zeros(2)}),
    "another step": lambda _, record: record.update(step=3),
    "no values": lambda _, record: record.update(values=[]),
}
FOREIGN_STATES = FOREIGN_CHECKPOINTS | {
    "no weights": lambda t, _: t.pop(f"model.{STEM}"),
    "no moment": lambda t, _: t.pop(MOMENT),
    "no moments": lambda t, _: [t.pop(name) for name in list(t) if name.startswith("optimizer.")],
    "a foreign moment": lambda t, _: t.update({"optimizer.x/exp_avg": torch.zeros(2)}),
    "a reshaped moment": lambda t, _: t.update({MOMENT: t[MOMENT][:3].clone()}),
    "no times": lambda t, _: t.pop("times.seen"),
    "no best": lambda _, record: record["values"].pop("best"),
    "a text for a number": lambda _, record: record["values"].update(skipped="0"),
}


@pytest.mark.parametrize("kind", FOREIGN_CHECKPOINTS)
def test_a_foreign_checkpoint_is_refused_in_one_line(kind, run, capsys):
    change_checkpoint(run, FOREIGN_CHECKPOINTS[kind])
    assert main(["evaluate", str(run), "--checkpoint", "2", *QUICK]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and str(run) in error and "step" in error


def test_training_goes_on_from_the_newest_checkpoint_that_is_whole_and_fits(run, capsys):
    """Each foreign one is told of, and the one before it is taken."""
    checkpoints, dataset = Checkpoints(run / "checkpoints"), Run(run).load_dataset()
    config = Run(run).config
    trainer = Trainer(seeded_model(config, dataset), dataset, config.training, config.seed)
    whole, before = checkpoints.latest(), run / "checkpoints" / "step-00000001"
    shutil.copytree(run / "checkpoints" / "step-00000002", run / "whole")
    for change in FOREIGN_STATES.values():
        change_checkpoint(run, change)
        told = []
        assert checkpoints.latest(told.append, trainer.check) is None and len(told) == 1
        assert "\n" not in told[0] and "; it is passed over" in told[0]
        shutil.rmtree(run / "checkpoints" / "step-00000002")
        shutil.copytree(run / "whole", run / "checkpoints" / "step-00000002")
    checkpoints.save(whole._replace(step=1))
    assert before.is_dir()
    change_checkpoint(run, FOREIGN_STATES["no moments"])
    assert checkpoints.latest(told.append, trainer.check).step == 1


def test_folders_of_other_names_are_no_checkpoints(tmp_path):
    for name in ("step-²", "step-", "step-3", "step-0000000x", "step--0000001", "step-٣٣٣٣٣٣٣٣", "step-" + "9" * 30):
        (tmp_path / name).mkdir()
    (tmp_path / "step-00000007").write_text("a file")
    assert Checkpoints(tmp_path).steps() == [] and Checkpoints(tmp_path).latest() is None


@pytest.mark.parametrize("content", ["", '{"name": "digi', "[1]", "nul", "[" * 100_000])
def test_half_a_data_json_is_named(content, run, capsys):
    (run / "data.json").write_text(content)
    assert main(["evaluate", str(run), *QUICK]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and str(run) in error


def test_foreign_lines_in_the_metrics_are_passed_over_and_it_is_said_once(run, capsys):
    shutil.rmtree(run / "model")
    whole = Run(run).metrics()
    with (run / "metrics.jsonl").open("ab") as file:
        file.write(b'[1]\n{"a": 1}\n{"step": "3"}\n\xff\xfe\n"x"\n' + b"[" * 100_000 + b"\n")
    assert main(["train", "--resume", str(run), "--device", "cpu"]) == 0
    news = capsys.readouterr().err
    assert news.count("metrics.jsonl: passed over 6 lines") == 1
    assert Run(run).metrics()[: len(whole) - 2] == whole[:-2] and "passed over" not in capsys.readouterr().err


def test_a_checkpoint_of_a_gigantic_file_is_refused_at_once(run):
    with (run / "checkpoints" / "step-00000002" / "state.safetensors").open("r+b") as file:
        file.truncate(50 * 2**30)
    with bounded(), pytest.raises(BadFile, match="its length is not that of the tensors"):
        Checkpoints(run / "checkpoints").load(2)
