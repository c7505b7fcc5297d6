"""Arrays as strangers have them: false claims, objects, malformed headers, other names and types, and data renamed."""

import io
import json
import os
import resource
import shutil
import struct
import time
import zipfile

import numpy as np
import pytest
import torch

import ndm
from ndm.data import Dataset, identity, load_dataset, same_data
from ndm.data.cache import cache_folder
from ndm.experiment import Run, make_config


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("NDM_DATA", str(tmp_path / "cache"))


@pytest.fixture
def x():
    return np.random.default_rng(0).integers(0, 256, (20, 6, 5), dtype=np.uint8)


def npy(header, content=b"", version=1):
    """The bytes of a .npy file with any header."""
    text = header.encode() + b"\n"
    return b"\x93NUMPY" + bytes([version, 0]) + struct.pack("<H" if version == 1 else "<I", len(text)) + text + content


def header_of(shape, dtype="|u1"):
    return f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}}}"


def refused(path, message):
    """Loading gives one line that matches, within seconds."""
    start = time.perf_counter()
    with pytest.raises(ndm.InputError, match=message) as error:
        load_dataset("array", path=path)
    assert "\n" not in str(error.value) and time.perf_counter() - start < 10


def test_an_archive_that_claims_six_gigabytes_takes_neither_time_nor_memory(tmp_path, monkeypatch):
    """Once with nothing behind the claim, and once with zeros behind it (256 MB and a lower limit, to be quick)."""
    monkeypatch.setattr("ndm.support.npy.LARGE", 1 << 26)
    with zipfile.ZipFile(tmp_path / "false.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x_train.npy", npy(header_of((6_000_000, 32, 32)), bytes(100)))
    size, zeros = 1 << 28, bytes(1 << 24)
    with (
        zipfile.ZipFile(tmp_path / "bomb.npz", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open("x_train.npy", "w", force_zip64=True) as member,
    ):
        member.write(npy(header_of((size >> 10, 32, 32))))
        for _ in range(size // len(zeros)):
            member.write(zeros)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    refused(tmp_path / "false.npz", r"header claims uint8 \(6000000, 32, 32\), which is 6,144,000,000 bytes, but 100 ")
    refused(tmp_path / "bomb.npz", "claims 0.3 GB in .* MB; if this is right, save it uncompressed with numpy.save")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # kilobytes


@pytest.mark.parametrize(
    "header",
    [
        "{'descr': '|u1', 'fortran_order': False, 'shape': (9, 6, 5)",
        "(" * 5000,
        "{'descr': '|u1', 'fortran_order': False, 'shape': (9, -6, -5)}",
        "{'descr': '|u1', 'fortran_order': False, 'shape': (10**9, 6, 5)}",
        "{'descr': '|u1', 'fortran_order': False, 'shape': 'abc'}",
        "{'descr': '|u9', 'fortran_order': False, 'shape': (9, 6, 5)}",
        "{'descr': [('a', '|u1', (9, 9)), 'b'], 'fortran_order': False, 'shape': (9, 6, 5)}",
        "{'descr': '|u1', 'shape': (9, 6, 5)}",
        "{'descr': '|u1', 'fortran_order': 2, 'shape': (9, 6, 5)}",
        "{'descr': '|u1', 'fortran_order': False, 'shape': (9, 6, 99999999999999999999)}",
        "__import__('os').mkdir('x')",
        "'\\d'",
        "",
        "\x00\x00",
    ],
)
@pytest.mark.parametrize("version", [1, 2])
def test_a_malformed_header_is_one_line(header, version, tmp_path, recwarn):
    content = npy(header, bytes(270), version)
    (tmp_path / "x.npy").write_bytes(content)
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("x_train.npy", content)
    refused(tmp_path / "x.npy", "malformed header|header claims|damaged")
    refused(tmp_path / "x.npz", "malformed header|header claims|damaged")
    assert not recwarn.list


def test_other_versions_and_the_cut_of_any_byte_are_one_line(x, tmp_path):
    np.save(tmp_path / "x.npy", x)
    np.savez_compressed(tmp_path / "x.npz", x_train=x)
    for name, cuts in (("x.npy", (1, 7, 9, 60, 128, 300)), ("x.npz", (1, 3, 29, 60, 400, 600))):
        content = (tmp_path / name).read_bytes()
        for cut in cuts:
            (tmp_path / f"cut-{name}").write_bytes(content[:cut])
            refused(tmp_path / f"cut-{name}", "damaged or not plain|malformed header|header claims")
    (tmp_path / "x.npy").write_bytes(npy(header_of((20, 6, 5)), x.tobytes(), version=7))
    refused(tmp_path / "x.npy", r"version \(7, 0\)")


def test_bytes_after_an_array_are_not_ignored(x, tmp_path):
    """Two numpy.save into one open file."""
    with (tmp_path / "x.npy").open("wb") as file:
        np.save(file, x)
        np.save(file, x)
    refused(tmp_path / "x.npy", "header claims uint8 .20, 6, 5., which is 600 bytes, but 1,328 follow")


def test_an_encrypted_archive_and_a_name_twice_are_named(x, tmp_path):
    content = io.BytesIO()
    np.save(content, x)
    with zipfile.ZipFile(tmp_path / "twice.npz", "w") as archive:
        archive.writestr("x_train.npy", content.getvalue())
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("x_train.npy", content.getvalue())
    refused(tmp_path / "twice.npz", "holds x_train.npy 2 times")
    np.savez(tmp_path / "x.npz", x_train=x)
    packed = bytearray((tmp_path / "x.npz").read_bytes())
    packed[packed.rfind(b"PK\1\2") + 8] |= 1
    (tmp_path / "x.npz").write_bytes(packed)
    refused(tmp_path / "x.npz", "is encrypted")


def test_a_pipe_in_place_of_a_file_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "x.npz")
    refused(tmp_path / "x.npz", "is not a file")


# Names


def test_x_val_is_the_validation_split(x, tmp_path):
    np.savez(tmp_path / "x.npz", x_train=x[:12], x_val=x[12:15], x_test=x[15:])
    data = load_dataset("array", path=tmp_path / "x.npz")
    assert torch.equal(data.validation, torch.from_numpy(x[12:15, None])) and "as in the file" in data.release
    np.savez(tmp_path / "x.npz", x_train=x[:12], x_val=x[12:15], x_validation=x[15:])
    refused(tmp_path / "x.npz", "both x_val and x_validation")


@pytest.mark.parametrize("name", ["x_tset", "x_valid", "X_test", "x"])
def test_an_array_that_looks_like_a_split_is_refused_with_the_known_names(name, x, tmp_path):
    np.savez(tmp_path / "x.npz", x_train=x, **{name: x})
    refused(tmp_path / "x.npz", rf"holds {name}, but the arrays that are read are x_train, x_validation, x_test")


def test_labels_are_not_used_and_this_is_said(x, tmp_path, capsys):
    np.savez(tmp_path / "x.npz", x_train=x, y_train=np.zeros(20), **{"la\nbels": np.array([None])})
    data = load_dataset("array", path=tmp_path / "x.npz")
    shown = capsys.readouterr().err
    assert r"not used: y_train, la\nbels" in shown and shown.count("\n") == 1
    assert r"not used: y_train, la\nbels, split 17/1/2" in data.release


# Values


@pytest.mark.parametrize("dtype", ["i1", "<u2", ">u2", "<i4", ">i8", "<u8"])
def test_wider_integers_are_read_exactly(dtype, x, tmp_path):
    x = x // 2 if dtype == "i1" else x
    np.save(tmp_path / "wide.npy", np.asfortranarray(x.astype(dtype)))
    np.save(tmp_path / "x.npy", x)
    wide, narrow = (load_dataset("array", path=tmp_path / name) for name in ("wide.npy", "x.npy"))
    assert wide.train.dtype == torch.uint8 and torch.equal(wide.train, narrow.train)


@pytest.mark.parametrize(
    ("dtype", "value", "message"),
    [
        ("u8", 2**64 - 1, "is uint64, and row 3 holds 18446744073709551615; convert it"),
        ("u2", 256, "is uint16, and row 3 holds 256"),
        ("i8", -1, "is int64, and row 3 holds -1"),
        ("f2", np.nan, "is float16, and row 3 holds NaN; convert it"),
        ("f8", np.nan, "is float64, and row 3 holds NaN"),
        ("c8", np.nan, "is complex64, and row 3 holds NaN"),
        ("f4", 0.5, "is float32; convert it to uint8"),
        ("?", True, "is bool; convert it"),
        ("S1", b"a", r"is \|S1; convert it"),
        ("M8[s]", 5, r"is datetime64\[s\]; convert it"),
        ([("a", "u1")], 5, "convert it to uint8"),
    ],
)
def test_values_that_are_no_pixels_are_refused_with_the_first_row(dtype, value, message, tmp_path):
    x = np.ones((20, 6, 5)).astype(dtype)
    x[3, 2, 1] = x[7, 0, 0] = value
    np.savez(tmp_path / "x.npz", x_train=x)
    refused(tmp_path / "x.npz", message)


# The checksum is the identity


def test_the_same_bytes_under_another_name_are_the_same_data(x, tmp_path):
    np.savez(tmp_path / "x.npz", x_train=x)
    run = Run.create(tmp_path / "run", make_config({"data": {"name": "array", "path": str(tmp_path / "x.npz")}}))
    run.data_file.write_text(json.dumps(identity(run.load_dataset())))
    shutil.move(tmp_path / "x.npz", tmp_path / "renamed.npz")
    assert "renamed.npz" in run.load_dataset(tmp_path / "renamed.npz").release
    np.savez(tmp_path / "x.npz", x_train=255 - x)
    with pytest.raises(ndm.InputError, match="the data have changed"):
        run.load_dataset()


def test_runs_without_a_recorded_checksum_find_their_data_by_the_release():
    rows = torch.zeros(3, 1, 2, 2)
    release = "x.npz, sha256 0123456789abcdef; as in the file, split 3/3/3"
    data = Dataset("array", rows, rows, rows, levels=256, release=release, checksum="0123456789abcdef")
    old = {"name": "array", "release": release, "rows": [3, 3, 3]}
    assert identity(data) == old | {"checksum": "0123456789abcdef"}
    for before, same in (
        (old, True),
        (old | {"release": "y.npz, sha256 0123456789abcdef; something else"}, True),
        (old | {"release": "5 pictures, sha256 of the rows 0123456789abcdef; else"}, True),
        (old | {"release": "x.npz, sha256 0123456789abcde0; as in the file, split 3/3/3"}, False),
        (old | {"rows": [3, 3, 2]}, False),
        (old | {"name": "images"}, False),
        (old | {"release": "no checksum"}, False),
        (old | {"checksum": "f123456789abcdef"}, False),
    ):
        assert same_data(json.loads(json.dumps(before)), identity(data)) == same
    plain = Dataset("bits", rows, rows, rows, levels=2, release="fair coins")
    assert same_data({"name": "bits", "release": "fair coins", "rows": [3, 3, 3]}, identity(plain))
    assert not same_data({"name": "bits", "release": "other coins", "rows": [3, 3, 3]}, identity(plain))


def test_a_user_without_home_and_account_gets_a_cache_and_one_line(tmp_path, monkeypatch, capsys):
    for name in ("HOME", "NDM_DATA", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr("pwd.getpwuid", lambda uid: {}[uid])
    assert cache_folder() == cache_folder() and cache_folder().parent == tmp_path
    shown = capsys.readouterr().err
    assert shown.count("\n") == 1 and "set NDM_DATA" in shown
