"""What strangers gave version 0.1.0 to learn from, and what was lost or changed on the way in. See tests/faults.py.

These tests use only what 0.1.0 has too, so that they can fail there for the fault and for nothing else.
"""

import io
import os
import shutil
import struct
import tempfile
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, features

import ndm
from ndm.cli import main
from ndm.data import load_dataset

from conftest import TINY, bounded, command, grey_pictures, refused

pytestmark = pytest.mark.usefixtures("float32", "cache")


@pytest.fixture
def folder(tmp_path):
    return grey_pictures(tmp_path / "set", range(0, 200, 20))


def load(path, **options):
    return load_dataset("images", path=path, size=8, **options)


def rows_of(data):
    return torch.cat([data.train, data.validation, data.test])


def values_of(data):
    """The first pixels of all rows, sorted."""
    return sorted(rows_of(data)[:, 0, 0, 0].tolist())


def cause_of(path, name="images", **options):
    """The message with which loading is refused."""
    with pytest.raises(ndm.InputError) as error:
        load_dataset(name, path=path, **options)
    return str(error.value)


# Section 2: data lost or changed on the way in


def test_hidden_colours_of_transparent_pictures_do_not_appear(folder):
    """Every pixel is transparent, over a red that nobody is meant to see."""
    for file in folder.iterdir():
        Image.new("RGBA", (8, 8), (200, 10, 60, 0)).save(file)
    try:
        rows = rows_of(load(folder))
    except ndm.InputError:
        return
    assert (rows == 255).all() or (rows == 0).all()


def test_a_linked_class_folder_is_read(folder, tmp_path):
    (folder / "linked").symlink_to(grey_pictures(tmp_path / "elsewhere", [201, 202, 203]), target_is_directory=True)
    assert values_of(load(folder))[-3:] == [201, 202, 203]


def test_a_folder_that_may_not_be_read_is_counted_or_refused(folder, tmp_path):
    grey_pictures(folder / "closed", [201, 202, 203])
    load(folder, on_bad_file="skip")  # everything is imported while it may be read
    for place in (folder, *folder.parents):
        if place == Path(tempfile.gettempdir()):
            break
        place.chmod(0o755)
    cache = tmp_path / "cache-of-an-ordinary-user"
    cache.mkdir()
    cache.chmod(0o777)
    os.environ["NDM_DATA"] = str(cache)
    (folder / "closed").chmod(0)
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        release = load(folder).release
    except ndm.InputError as error:
        release = str(error)
    finally:
        if root:
            os.seteuid(0)
        (folder / "closed").chmod(0o755)
    assert "cannot be read" in release or "closed" in release


@pytest.mark.parametrize("suffix", [".avif", ".jfif", ".jp2"])
def test_pictures_of_every_suffix_are_read_or_refused(suffix, folder):
    kind, feature = {".avif": ("AVIF", "avif"), ".jfif": ("JPEG", "jpg"), ".jp2": ("JPEG2000", "jpg_2000")}[suffix]
    if features.check(feature):
        Image.fromarray(np.full((8, 8), 250, np.uint8)).save(folder / f"more{suffix}", kind)
    else:
        (folder / f"more{suffix}").write_bytes(b"not to be read here")
    try:
        found = values_of(load(folder))[-1]
    except ndm.InputError:
        return
    assert abs(found - 250) < 3


def test_refuse_means_refuse(folder):
    """A picture that cannot be decoded, under a suffix that was not looked at."""
    (folder / "bad.avif").write_bytes(b"no picture")
    assert "bad.avif" in cause_of(folder, size=8, on_bad_file="refuse")


def test_what_is_not_used_is_counted_in_the_release(folder):
    (folder / "notes.txt").write_text("three")
    assert "1 file (.txt 1)" in load(folder).release


def test_x_val_of_an_archive_validates(tmp_path):
    x = np.arange(40, dtype=np.uint8)[:, None, None].repeat(4, 1).repeat(4, 2)
    np.savez(tmp_path / "x.npz", x_train=x[:30], x_val=x[30:34], x_test=x[34:])
    data = load_dataset("array", path=tmp_path / "x.npz")
    assert data.validation[:, 0, 0, 0].tolist() == [30, 31, 32, 33]


def write_png(path, depth, kind, content, size=(8, 8)):
    """A PNG file of raw lines: kind 2 is colour."""

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", *size, depth, kind, 0, 0, 0))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(content, 1)) + chunk(b"IEND", b""))


def test_48_bit_colour_is_not_cut_in_silence(folder):
    write_png(folder / "deep.png", 16, 2, 8 * (b"\0" + bytes(range(48))))
    assert "deep.png" in cause_of(folder, size=8)


@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_a_pipe_or_a_device_in_the_folder_is_named(kind, folder, tmp_path):
    """The device is a terminal, which waits for somebody to type."""
    if kind == "pipe":
        os.mkfifo(folder / "odd.png")
    else:
        owner, terminal = os.openpty()
        (folder / "odd.png").symlink_to(os.ttyname(terminal))
    data = ["--data.name", "images", "--data.path", folder, "--data.size", "8"]
    status, _, error = command(["train", "digits-conventional", "--out", tmp_path / "run", *TINY, *data])
    if kind == "device":
        os.close(owner), os.close(terminal)
    assert status == 2 and error.count("\n") == 1 and "odd.png" in error


CAUSES = {
    "oversized": ("large", "pixels"),
    "layout": ("version",),
    "objects": ("objects",),
}


@pytest.mark.parametrize("kind", CAUSES)
def test_the_cause_is_named_and_not_called_damage(kind, folder, tmp_path):
    if kind == "oversized":
        write_png(folder / "huge.png", 1, 0, b"", size=(30_000, 30_000))
        text = cause_of(folder, size=8)
    elif kind == "layout":
        (tmp_path / "x.npy").write_bytes(npy(header_of((9, 6, 5)), bytes(270), version=b"\7\0"))
        text = cause_of(tmp_path / "x.npy", "array")
    else:
        np.save(tmp_path / "x.npy", np.array([None] * 9, dtype=object), allow_pickle=True)
        text = cause_of(tmp_path / "x.npy", "array")
    assert "damaged" not in text and any(word in text for word in CAUSES[kind]), text


def test_two_loaders_of_one_number_have_whole_rows(folder, monkeypatch):
    """Containers number their processes alike. The second loader begins and ends while the first one decodes."""
    opened, open_picture, found = [], Image.open, []

    def interrupted(*arguments, **options):
        opened.append(arguments)
        if len(opened) == 300:  # each picture is opened once for its kind and once for its pixels
            found.append(values_of(load(folder)))
        return open_picture(*arguments, **options)

    for k in range(200):
        Image.fromarray(np.full((8, 8), k, np.uint8)).save(folder / f"{k}.png")
    monkeypatch.setattr(Image, "open", interrupted)
    monkeypatch.setattr(os, "getpid", lambda: 7)
    found.append(values_of(load(folder)))
    assert found == [list(range(200))] * 2 and values_of(load(folder)) == list(range(200))


def test_a_flipped_byte_in_the_cache_is_noticed(folder, cache):
    expected = values_of(load(folder))
    (file,) = cache.rglob("*.npy")
    content = bytearray(file.read_bytes())
    content[-64] ^= 128
    file.write_bytes(content)
    assert values_of(load(folder)) == expected


def test_touching_the_source_leaves_one_copy(folder, cache):
    load(folder)
    for file in folder.iterdir():
        os.utime(file, (1, 1))
    load(folder)
    assert len(list(cache.rglob("*.npy"))) == 1


def test_the_same_bytes_under_another_name_are_the_same_data(tmp_path):
    np.savez(tmp_path / "a.npz", x_train=np.random.default_rng(0).integers(0, 256, (60, 4, 4), dtype=np.uint8))
    shutil.copy(tmp_path / "a.npz", tmp_path / "b.npz")
    run = str(tmp_path / "run")
    data = ["--data.name", "array", "--data.path", str(tmp_path / "a.npz"), "--training.batch_size", "4"]
    assert main(["train", "digits-conventional", "--out", run, *TINY, *data, "--training.steps", "2"]) == 0
    command = ["evaluate", run, "--estimator", "bound", "--steps", "2", "--passes", "1", "--device", "cpu"]
    assert main([*command, "--data.path", str(tmp_path / "b.npz")]) == 0


# Section 5: hostile files of data


def npy(header, content=b"", version=b"\1\0"):
    text = header.encode() + b"\n"
    return b"\x93NUMPY" + version + struct.pack("<H", len(text)) + text + content


def header_of(shape):
    return f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}}}"


@pytest.mark.timeout(60)
def test_a_small_archive_that_claims_gigabytes_takes_no_memory(tmp_path):
    with (
        zipfile.ZipFile(tmp_path / "bomb.npz", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open("x_train.npy", "w", force_zip64=True) as member,
    ):
        member.write(npy(header_of((80 << 14, 32, 32))))
        for _ in range(80):
            member.write(bytes(1 << 24))
    with bounded(seconds=20, gigabytes=1):
        assert "claims 1.3 GB" in cause_of(tmp_path / "bomb.npz", "array")


@pytest.mark.timeout(60)
def test_a_picture_of_13000_x_13000_pixels_is_refused_by_its_header(folder):
    write_png(folder / "huge.png", 8, 2, 13_000 * (b"\0" + bytes(3 * 13_000)), size=(13_000, 13_000))
    with bounded(seconds=20, gigabytes=1):
        text = cause_of(folder, size=8)
    assert "huge.png" in text and "pixels" in text


HEADERS = {
    "unclosed": "{'descr': '|u1', 'fortran_order': False, 'shape': (9, 6, 5)",
    "deep": "(" * 5000,
    "larger than the file": header_of((10**9, 6, 5)),
}


@pytest.mark.parametrize("kind", HEADERS)
def test_a_malformed_header_of_an_array_is_one_line(kind, tmp_path, recwarn):
    (tmp_path / "x.npy").write_bytes(npy(HEADERS[kind], bytes(270)))
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("x_train.npy", npy(HEADERS[kind], bytes(270)))
    (tmp_path / "x.npz").write_bytes(content.getvalue())
    for name in ("x.npy", "x.npz"):
        with bounded(seconds=10, gigabytes=1):
            text = cause_of(tmp_path / name, "array")
        assert "\n" not in text and "header" in text, text
    assert not recwarn.list


def test_a_newline_in_the_name_of_a_bad_picture_forges_no_line(folder, tmp_path, capsys):
    (folder / "a\nndm: error: forged.png").write_bytes(b"no picture")
    data = ["--data.name", "images", "--data.path", folder, "--data.size", "8"]
    error = refused(["train", "digits-conventional", "--out", tmp_path / "run", *TINY, *data], capsys)
    assert "forged.png" in error
