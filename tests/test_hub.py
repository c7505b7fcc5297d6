"""Models on the Hub: round trips through a server that answers like it, the card, and one line for each mistake."""

import json
import os
import sys

import numpy as np
import pytest
import torch
import yaml
from huggingface_hub import ModelCard, constants
from huggingface_hub.repocard_data import model_index_to_eval_results

import ndm
from ndm.cli import main
from ndm.experiment.recipe import read_settings
from ndm.support.files import BadFile

from conftest import command, refused
from hub_stand_in import TOKEN, hub


@pytest.fixture
def server(tmp_path, monkeypatch):
    """The stand-in of the Hub, with an empty cache and a user who is logged in."""
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    with hub() as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.address)
        files = server.address + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", files)
        yield server


@pytest.fixture
def model():
    net = ndm.nn.MLP((2,), width=8, depth=1)
    return ndm.NDM(ndm.ForwardProcess(ndm.LinearSchedule(-5.0, 5.0)), ndm.Predictor(net), ndm.GaussianDecoder()).eval()


def same_weights(a, b):
    a, b = a.state_dict(), b.state_dict()
    return list(a) == list(b) and all(torch.equal(a[name], b[name]) for name in a)


def files_asked(server):
    return {path.split("/", 5)[5] for _, path in server.asked if "/resolve/" in path}


def test_a_model_makes_the_round_trip_and_nothing_else_is_downloaded(server, model):
    assert model.push_to_hub("user/points", private=True, license="mit") == f"{server.address}/user/points"
    files = server.repositories["user/points"]
    assert set(files) == {"README.md", "config.json", "model.safetensors"} and server.private["user/points"] is True
    files["pytorch_model.bin"] = b"a pickle"
    assert same_weights(ndm.NDM.from_pretrained("user/points"), model)
    assert files_asked(server) == {"config.json", "model.safetensors"}
    assert ModelCard(files["README.md"].decode()).data.license == "mit"


def test_a_second_push_replaces_the_model(server, model):
    model.push_to_hub("user/points")
    with torch.no_grad():
        next(model.parameters()).add_(1)
    model.push_to_hub("user/points")
    assert same_weights(ndm.NDM.from_pretrained("user/points"), model)


def test_the_cache_serves_without_a_connection(server, model, monkeypatch):
    model.push_to_hub("user/points")
    ndm.NDM.from_pretrained("user/points")
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # where nobody listens
    assert same_weights(ndm.NDM.from_pretrained("user/points"), model)
    with pytest.raises(ndm.InputError, match="user/other is not in the cache, and the Hub cannot be reached"):
        ndm.NDM.from_pretrained("user/other")


def test_a_folder_comes_first_and_a_path_is_no_repository(server, model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model.save_pretrained("user/points")
    assert same_weights(ndm.NDM.from_pretrained("user/points"), model)
    with pytest.raises(BadFile, match="is not a model folder"):
        ndm.NDM.from_pretrained(tmp_path / "user" / "none")
    assert server.asked == []


def test_a_run_is_pushed_sampled_and_described(server, run, tmp_path, capsys):
    """The push is a process of its own, which knows the server by HF_ENDPOINT alone."""
    bound = ["--estimator", "bound", "--steps", "2,continuous", "--passes", "1", "--limit", "64"]
    assert main(["evaluate", str(run), *bound, "--quiet"]) == 0
    environment = {**os.environ, "HF_ENDPOINT": server.address, "HF_HOME": str(tmp_path)}
    status, out, error = command(["push", run, "user/digits", "--license", "cc-by-4.0"], env=environment)
    assert (status, out.strip()) == (0, f"{server.address}/user/digits"), error
    files = server.repositories["user/digits"]
    assert {"README.md", "config.yaml", "data.json", "samples.png", "model/model.safetensors"} < set(files)
    assert not any("checkpoints" in name or "metrics" in name for name in files)
    assert all(str(tmp_path).encode() not in content for content in files.values())

    assert ("POST", "/api/validate-yaml") in server.asked
    text = files["README.md"].decode()
    card = ModelCard(text)
    card.validate()
    assert ModelCard(str(card)).data.to_dict() == card.data.to_dict()
    assert card.data.license == "cc-by-4.0" and card.data.library_name == "ndm"
    records = [json.loads(line) for line in (run / "evaluations.jsonl").read_text().splitlines()]
    expected = {e["estimator"]: round(e["bpd"], 4) for record in records for e in record["estimates"]}
    name, results = model_index_to_eval_results(card.data.to_dict()["model-index"])
    assert name == "digits" and {r.metric_name: r.metric_value for r in results} == expected and len(expected) == 2
    assert all(r.dataset_split == "test" and r.metric_type == "bits_per_dim" for r in results)
    use = 'NDM.from_pretrained("user/digits")'
    assert all(part in text for part in (*expected, "s.e.", records[0]["release"], "samples.png", use, "steps: 12"))

    capsys.readouterr()
    arrays = []
    for source in (str(run), "hf:user/digits"):
        arguments = ["sample", source, "--num", "2", "--steps", "2", "--out", str(tmp_path / "x.npz"), "--quiet"]
        assert main(arguments) == 0
        arrays.append(np.load(tmp_path / "x.npz")["x"])
    assert np.array_equal(*arrays)
    assert same_weights(ndm.NDM.from_pretrained("user/digits"), ndm.NDM.from_pretrained(run))


def test_a_pushed_table_scores_the_same_rows(server, float32, tmp_path, capsys):
    rows = tmp_path / "rows.csv"
    rows.write_text("a,b\n" + "".join(f"{k * 0.37 % 1:.4f},{'xy'[k % 2]}\n" for k in range(60)))
    run = str(tmp_path / "run")
    tiny = ["--training.steps", "4", "--model.width", "8", "--model.depth", "1", "--quiet", "--device", "cpu"]
    assert main(["train", "table", "--data.path", str(rows), "--out", run, *tiny]) == 0
    bound = ["--estimator", "bound", "--steps", "2", "--passes", "2"]
    assert main(["evaluate", run, *bound, "--quiet"]) == 0
    assert main(["push", run, "user/table", "--quiet"]) == 0
    files = server.repositories["user/table"]
    assert all(str(tmp_path).encode() not in content for content in files.values())
    (estimate,) = json.loads(files["evaluations.jsonl"])["estimates"]
    _, (result,) = model_index_to_eval_results(ModelCard(files["README.md"].decode()).data.to_dict()["model-index"])
    assert result.metric_type == "nats_per_row" and result.metric_value == round(estimate["nats"], 4)
    factor = estimate["nats"] / estimate["bpd"]
    assert result.metric_args["standard_error"] == pytest.approx(factor * estimate["standard_error"])
    capsys.readouterr()
    assert main(["score", run, str(rows), "--quiet"]) == 0
    expected = capsys.readouterr().out
    assert main(["score", "hf:user/table", str(rows), "--quiet"]) == 0
    assert capsys.readouterr().out == expected


def test_estimates_of_other_weights_and_paths_are_not_on_the_card(server, run, tmp_path, capsys):
    assert main(["evaluate", str(run), "--estimator", "bound", "--steps", "2", "--passes", "1", "--quiet"]) == 0
    model = ndm.NDM.from_pretrained(run)
    with torch.no_grad():
        next(model.parameters()).add_(1)
    model.save_pretrained(run / "model")
    run_config = read_settings(run / "config.yaml", resolved=True)
    (run / "config.yaml").write_text(yaml.safe_dump({**run_config, "init": str(tmp_path)}))
    assert main(["push", str(run), "user/digits"]) == 0
    assert all(str(tmp_path).encode() not in content for content in server.repositories["user/digits"].values())
    assert "the card has no estimates" in capsys.readouterr().err
    text = server.repositories["user/digits"]["README.md"].decode()
    assert "No likelihood of this model has been estimated" in text and "model-index" not in text


MISTAKES = {
    "no such repository": (["sample", "hf:user/none"], "there is no model user/none that you may see"),
    "no name of a repository": (["sample", "hf:digits"], "a repository on the Hub has the form user/model"),
    "no model in it": (["sample", "hf:user/empty"], "user/empty has no model of ndm"),
    "a model without a run": (
        ["sample", "hf:user/points"],
        "hf:user/points has no config.yaml: this command needs a run that ndm push",
    ),
    "a model of no table": (
        ["score", "hf:user/points", "rows.csv"],
        "has no schema.json: this command needs a run of a table;",
    ),
    "a command that writes": (["evaluate", "hf:user/points"], "hf download user/points --local-dir RUN"),
    "a package's model, to write": (["doctor", "digits-tiny"], "Get a run by ndm train digits-tiny"),
    "a package's model, to push": (["push", "digits-tiny", "user/x"], "digits-tiny is no run of yours"),
    "no name at all": (["sample", "hf:"], "has the form user/model, got ''"),
    "no name to push to": (["push", "RUN", "digits"], "has the form user/model, got 'digits'"),
    "a licence without a name": (["push", "RUN", "user/x", "--license", " "], "the licence must have a name"),
    "settings that name a file": (["sample", "hf:user/path"], "config.yaml of user/path names files of a machine"),
    "settings that name a run": (["report", "hf:user/init"], "config.yaml of user/init names files of a machine"),
    "no run to push": (["push", "nothing", "user/digits"], "nothing is not a run folder"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line(server, finished_run, mistake, model, capsys):
    model.push_to_hub("user/points")
    server.repositories["user/empty"] = {"README.md": b"nothing", "pytorch_model.bin": b"a pickle"}
    run = {f"model/{name}": content for name, content in server.repositories["user/points"].items()}
    for name, settings in (("path", b"data: {name: images, path: /etc}"), ("init", b"init: /etc\ndata: {name: ring}")):
        server.repositories[f"user/{name}"] = {**run, "config.yaml": settings}
    arguments, line = MISTAKES[mistake]
    capsys.readouterr()
    assert line in refused([finished_run if word == "RUN" else word for word in arguments], capsys)


def test_the_model_of_another_library_is_refused(server, model):
    model.push_to_hub("user/foreign")
    server.repositories["user/foreign"]["config.json"] = b'{"model_type": "bert"}'
    with pytest.raises(BadFile, match=r"config.json is damaged or not from ndm"):
        ndm.NDM.from_pretrained("user/foreign")


def test_a_repository_of_somebody_else_is_refused(server, model):
    with pytest.raises(ndm.InputError, match="the Hub does not let you write to other/points; log in as its owner"):
        model.push_to_hub("other/points")


def test_without_a_token_nothing_is_sent(server, finished_run, capsys, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    assert "you are not logged in to the Hub; run hf auth login" in refused(["push", finished_run, "user/x"], capsys)
    assert server.asked == []


def test_without_huggingface_hub_only_names_on_the_hub_are_refused(model, tmp_path, monkeypatch, finished_run, capsys):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    model.save_pretrained(tmp_path)
    assert same_weights(ndm.NDM.from_pretrained(str(tmp_path)), model)
    assert ndm.NDM.from_pretrained(finished_run).shape == (1, 8, 8)
    missing = "the Hub needs huggingface_hub; run: pip install 'ndm[hub]'"
    assert missing in refused(["push", finished_run, "user/digits"], capsys)
    assert missing in refused(["sample", "hf:user/digits"], capsys)
    with pytest.raises(ndm.InputError, match=r"there is no folder user/digits here, and on the Hub: the Hub needs"):
        ndm.NDM.from_pretrained("user/digits")
