"""Saving and loading: exact, by name, without importing anything that a file names, with clear errors."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn

import ndm

from conftest import SmoothNet

SHAPE = (1, 2, 2)


def registered_models():
    def mlp(multiplier=1, **kwargs):
        net = ndm.nn.MLP(SHAPE, multiplier, width=8, depth=1, **kwargs)
        for p in net.parameters():  # its output starts at zero
            nn.init.normal_(p)
        return net

    linear = ndm.Linear(4, 2, rotation="fixed")
    linear.gains.data.normal_()
    linear.fixed_rotation.copy_(torch.linalg.qr(torch.randn(4, 4))[0])
    ends = (-6.0, 4.0)
    return {
        "conventional": ndm.NDM(
            ndm.ForwardProcess(ndm.LinearSchedule(*ends), ndm.Identity()),
            ndm.Predictor(mlp(fourier=(1, 2)), "eps"),
            ndm.CategoricalDecoder(5),
        ),
        "linear": ndm.NDM(
            ndm.ForwardProcess(ndm.LearnedSchedule(*ends, num_bumps=4), linear, eta=0.5, tied_to="noise"),
            ndm.Predictor(mlp(), "x"),
            ndm.GaussianDecoder(mean=1.0, std=torch.rand(SHAPE) + 0.5),
        ),
        "predicted-curve": ndm.NDM(
            ndm.ForwardProcess(ndm.CosineSchedule(*ends), ndm.TimeBasis(mlp(2, embedding=0), 2)),
            ndm.Predictor(mlp(4), "v", num_basis=2, variance=True),
            ndm.CategoricalDecoder(5),
        ),
        "network": ndm.NDM(
            ndm.ForwardProcess(ndm.StepwiseSchedule(*ends, steps=3), ndm.Network(mlp())),
            ndm.Predictor(mlp(), "v"),
            ndm.GaussianDecoder(),
        ),
    }


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", ["conventional", "linear", "predicted-curve", "network"])
def test_a_loaded_model_is_the_same_function(name, dtype, tmp_path):
    model = registered_models()[name].to(dtype)
    model.save_pretrained(tmp_path / "model")
    torch.set_default_dtype(torch.float32)
    loaded = ndm.NDM.from_pretrained(tmp_path / "model")
    x = torch.randint(5, (3, *SHAPE)).to(dtype)
    assert not loaded.training
    totals = [ndm.bound(m, x, steps=3, generator=torch.Generator().manual_seed(0)).total for m in (model, loaded)]
    assert torch.equal(*totals)
    assert {k: v.tolist() for k, v in model.state_dict().items()} == {
        k: v.tolist() for k, v in loaded.state_dict().items()
    }
    assert sorted(p.name for p in (tmp_path / "model").iterdir()) == ["config.json", "model.safetensors"]


def own_network_model():
    process = ndm.ForwardProcess(ndm.LinearSchedule(-6.0, 4.0), ndm.Network(SmoothNet(3, 3)))
    return ndm.NDM(process, ndm.Predictor(SmoothNet(3, 3)), ndm.GaussianDecoder())


def test_a_users_own_networks_are_passed_back(tmp_path):
    model = own_network_model()
    model.save_pretrained(tmp_path)
    loaded = ndm.NDM.from_pretrained(tmp_path, predictor=SmoothNet(3, 3), transform=SmoothNet(3, 3))
    z, t = torch.randn(2, 3), torch.rand(2)
    assert torch.equal(model(z, t).velocity(z, t), loaded(z, t).velocity(z, t))
    whole = ndm.NDM.from_pretrained(
        tmp_path, predictor=ndm.Predictor(SmoothNet(3, 3)), transform=ndm.Network(SmoothNet(3, 3))
    )
    assert torch.equal(model(z, t).velocity(z, t), whole(z, t).velocity(z, t))
    with pytest.raises(ndm.InputError, match=r"transform holds a network.*transform=your_module"):
        ndm.NDM.from_pretrained(tmp_path, predictor=SmoothNet(3, 3))
    with pytest.raises(ndm.InputError, match="does not fit"):
        ndm.NDM.from_pretrained(tmp_path, predictor=nn.Linear(3, 3), transform=SmoothNet(3, 3))


def test_no_name_from_a_file_is_imported(tmp_path):
    own_network_model().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert "SmoothNet" not in json.dumps(config) and "conftest" not in json.dumps(config)
    config["predictor"]["net"] = {"type": "os.system", "command": "true"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ndm.InputError, match=r"unknown type 'os\.system'"):
        ndm.NDM.from_pretrained(tmp_path, transform=SmoothNet(3, 3))


def test_a_network_used_twice_is_saved_once_and_stays_shared(tmp_path):
    net = SmoothNet(3, 3)
    process = ndm.ForwardProcess(ndm.LinearSchedule(-6.0, 4.0), ndm.Network(net))
    ndm.NDM(process, ndm.Predictor(net), ndm.GaussianDecoder()).save_pretrained(tmp_path)
    again = SmoothNet(3, 3)
    loaded = ndm.NDM.from_pretrained(tmp_path, predictor=again, transform=again)
    assert torch.equal(loaded.predictor.net.outer.weight, net.outer.weight)


class OwnSchedule(ndm.LinearSchedule):
    """A class that is not registered with ndm."""


def test_what_could_not_be_loaded_again_is_not_saved(tmp_path):
    process = ndm.ForwardProcess(OwnSchedule(-6.0, 4.0))
    with pytest.raises(ndm.InputError, match="class of the model's schedule is not registered"):
        ndm.NDM(process, ndm.Predictor(SmoothNet(3, 3)), ndm.GaussianDecoder()).save_pretrained(tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_a_decoder_has_its_own_copy_of_the_statistics(tmp_path):
    statistics = torch.rand(2, 3) + 0.5
    decoder = ndm.GaussianDecoder(statistics[0], statistics[1])
    model = ndm.NDM(ndm.ForwardProcess(ndm.LinearSchedule(-6.0, 4.0)), ndm.Predictor(SmoothNet(3, 3)), decoder)
    model.save_pretrained(tmp_path)
    statistics.zero_()
    assert (ndm.NDM.from_pretrained(tmp_path, predictor=SmoothNet(3, 3)).decoder.std > 0).all()


def test_files_of_two_saves_are_not_mixed(tmp_path):
    """A crash between the two renames leaves one model's weights with another's configuration, which fits them."""
    models = registered_models()
    models["conventional"].save_pretrained(tmp_path / "a")
    models["conventional"].predictor.parameterization = "v"
    models["conventional"].save_pretrained(tmp_path / "b")
    (tmp_path / "a" / "config.json").write_text((tmp_path / "b" / "config.json").read_text())
    with pytest.raises(ndm.InputError, match="do not belong together"):
        ndm.NDM.from_pretrained(tmp_path / "a")


def damage(folder, kind):
    config, weights = folder / "config.json", folder / "model.safetensors"
    if kind == "no folder":
        return folder / "elsewhere"
    if kind in ("no config", "no weights"):
        (config if kind == "no config" else weights).unlink()
    elif kind == "truncated config":
        config.write_text(config.read_text()[:50])
    elif kind == "truncated weights":
        weights.write_bytes(weights.read_bytes()[:-100])
    elif kind == "foreign config":
        config.write_text('{"architectures": ["UNet"]}')
    elif kind == "other format":
        config.write_text(config.read_text().replace('"format": 1', '"format": 99'))
    elif kind == "other width":
        config.write_text(config.read_text().replace('"width": 8', '"width": 9'))
    elif kind == "bad value":
        config.write_text(config.read_text().replace('"width": 8', '"width": -8'))
    elif kind == "bad part":
        config.write_text(json.dumps({**json.loads(config.read_text()), "process": "x"}))
    elif kind == "bad argument":
        config.write_text(config.read_text().replace('"width": 8', '"girth": 8'))
    return folder


@pytest.mark.parametrize(
    "kind",
    ["no folder", "no config", "no weights", "truncated config", "truncated weights", "foreign config", "other format",
     "other width", "bad argument", "bad value", "bad part"],
)  # fmt: skip
def test_a_damaged_folder_is_named(kind, tmp_path):
    registered_models()["conventional"].save_pretrained(tmp_path)
    folder = damage(tmp_path, kind)
    with pytest.raises(ndm.InputError) as error:
        ndm.NDM.from_pretrained(folder)
    assert any(part in str(error.value) for part in (str(tmp_path), "cannot build", "width must be"))
    assert "\n" not in str(error.value)


def test_saving_over_a_model_that_cannot_be_written_keeps_the_old_one(tmp_path, monkeypatch):
    model = registered_models()["conventional"]
    model.save_pretrained(tmp_path)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}

    def full_disk(path, *_):
        Path(path).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("ndm.saving.write_tensors", full_disk)
    with pytest.raises(OSError, match="No space"):
        model.save_pretrained(tmp_path)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before
