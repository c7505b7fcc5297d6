"""Folders of pictures as strangers have them: transparency, links, pipes, huge and deep pictures, odd names."""

import os
import struct
import time
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

import ndm
from ndm.cli import main
from ndm.data import load_dataset

from conftest import grey_pictures

pytestmark = pytest.mark.usefixtures("cache")


@pytest.fixture
def folder(tmp_path):
    return grey_pictures(tmp_path / "set", range(0, 160, 40))


def load(path, **options):
    return load_dataset("images", path=path, size=8, **options)


def rows_of(data):
    return torch.cat([data.train, data.validation, data.test])


def colours(data):
    """The set of first pixels of all rows."""
    return {tuple(row[:, 0, 0].tolist()) for row in rows_of(data)}


def write_png(path, depth, kind, content, size=(8, 8), extra=b""):
    """A PNG file of raw lines: kind 0 is grey, 2 colour, 4 grey with alpha, 6 colour with alpha."""

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", *size, depth, kind, 0, 0, 0))
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + header + extra + chunk(b"IDAT", zlib.compress(content)) + chunk(b"IEND", b"")
    )


# Transparency


def transparent(mode):
    """A picture of a hidden colour: the left half is transparent, the right half half so, in every mode with alpha."""
    alpha = np.zeros((8, 8), np.uint8)
    alpha[:, 4:] = 128
    if mode == "RGBA":
        return Image.fromarray(np.dstack([np.full((8, 8, 3), (200, 10, 60), np.uint8), alpha]))
    if mode == "LA":
        return Image.fromarray(np.dstack([np.full((8, 8), 60, np.uint8), alpha]), "LA")
    picture = Image.fromarray(np.where(alpha > 0, 1, 0).astype(np.uint8), "P")
    picture.putpalette([200, 10, 60, 200, 10, 60])
    picture.info["transparency"] = bytes([0, 128])
    return picture


@pytest.mark.filterwarnings("ignore:'mode' parameter is deprecated")
@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_a_sprite_with_hidden_colours_is_shown_on_white(mode, folder, capsys):
    for k in range(4):
        transparent(mode).save(folder / f"{k}.png")
    data = load(folder)
    colour = np.array([60] if mode == "LA" else [200, 10, 60])
    half = np.round((128 * colour + 127 * 255) / 255)
    for row in rows_of(data).numpy():
        assert (row[:, :, :4] == 255).all() and (abs(row[:, 0, 4] - half) <= 1).all()
    assert data.shape[0] == len(colour)
    for text in (data.release, " ".join(capsys.readouterr().err.split())):
        assert "4 with an alpha channel on the background #ffffff" in text


def test_the_background_is_a_setting_and_part_of_the_cache(folder, capsys):
    transparent("LA").save(folder / "0.png")
    white, blue, black = (load(folder, background=colour) for colour in ("white", "#0000Ff", "black"))
    assert white.shape == black.shape == (1, 8, 8) and blue.shape == (3, 8, 8)
    assert (255,) in colours(white) and (0, 0, 255) in colours(blue)
    assert "#0000ff" in blue.release and blue.checksum != black.checksum != white.checksum
    assert load(folder, background="#ffffff").release == load(folder).release == white.release
    for wrong in ("whit", "#fff", "#ffffffff", "#12345g", "", "rgb(1, 2, 3)"):
        with pytest.raises(ndm.InputError, match="background must be the name of a colour or #rrggbb"):
            load(folder, background=wrong)
    with pytest.raises(ndm.InputError, match="digits has no background"):
        load_dataset("digits", background="black")


def test_a_transparent_colour_of_an_opaque_picture_counts_as_alpha(folder):
    picture = Image.new("RGB", (8, 8), (1, 2, 3))
    picture.save(folder / "0.png", transparency=(1, 2, 3))
    assert (255, 255, 255) in colours(load(folder)) and "1 with an alpha channel" in load(folder).release


def test_hidden_colours_do_not_bleed_into_a_smaller_picture(folder):
    """A red square with a transparent green border: no green is left after resizing."""
    x = np.zeros((64, 64, 4), np.uint8)
    x[..., 1] = 255
    x[16:48, 16:48] = (255, 0, 0, 255)
    Image.fromarray(x).save(folder / "0.png")
    Image.fromarray(np.full((8, 8, 3), 255, np.uint8)).save(folder / "1.png")
    for row in rows_of(load(folder, background="black")):
        assert torch.equal(row[1], row[2])


def test_opaque_pictures_are_read_as_before_and_nothing_is_said(folder, capsys):
    data = load(folder)
    assert colours(data) == {(0,), (40,), (80,), (120,)}
    assert "background" not in data.release and capsys.readouterr().err == ""


# What is not read, and what is counted


def test_linked_class_folders_and_files_are_read(folder, tmp_path):
    (tmp_path / "all").mkdir()
    (tmp_path / "all" / "class").symlink_to(folder)
    (tmp_path / "all" / "9.png").symlink_to(folder / "3.png")
    data = load(tmp_path / "all")
    assert len(rows_of(data)) == 5 and "not used" not in data.release


def test_links_in_a_circle_end_and_no_folder_is_read_twice(folder, tmp_path, capsys):
    (folder / "self").symlink_to(folder)
    (folder / "up").symlink_to(tmp_path)
    (folder / "broken").symlink_to(folder / "gone")
    (folder / "round").symlink_to(folder / "round")
    (folder / "real").mkdir()
    (folder / "a").symlink_to(folder / "real")
    Image.new("L", (8, 8), 9).save(folder / "real" / "5.png")
    data = load(folder)
    assert len(rows_of(data)) == 5
    assert "not used: 2 files (no suffix 2), 3 folders read under another name" in data.release
    assert "not used: 2 files" in " ".join(capsys.readouterr().err.split())


def test_files_that_are_not_used_are_counted_in_one_line_and_in_the_release(folder, capsys):
    for name in ("a.txt", "b.TXT", "c.svg", ".DS_Store", "LICENSE"):
        (folder / name).write_text("text")
    (folder / ".thumbs").mkdir()
    Image.new("L", (8, 8)).save(folder / ".thumbs" / "0.png")
    data = load(folder)
    expected = "not used: 5 files (.txt 2, .svg 1, hidden 1, no suffix 1), 1 hidden folder"
    shown = capsys.readouterr().err
    assert expected in data.release and expected in shown and shown.count("\n") == 1
    assert shown.startswith("ndm: warning: read 4 pictures")
    load(folder)  # from the cache it is said again
    assert expected in capsys.readouterr().err


def test_a_folder_that_may_not_be_read_is_counted(folder, monkeypatch):
    (folder / "closed").mkdir()
    scandir = os.scandir

    def refuse(path):
        if str(path).rstrip("/").endswith("closed"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    assert "not used: 1 folder that cannot be read" in load(folder).release
    with pytest.raises(ndm.InputError, match="closed cannot be read: Permission denied"):
        load(folder / "closed")


@pytest.mark.parametrize("suffix", [".jfif", ".jp2", ".tga", ".JPE", ".avif"])
def test_formats_that_pillow_reads_are_read_whatever_their_suffix(suffix, folder):
    try:
        Image.new("L", (8, 8), 200).save(folder / f"photo{suffix}")
    except (KeyError, OSError, ValueError):
        pytest.skip(f"this Pillow does not write {suffix}")
    assert len(rows_of(load(folder))) == 5


@pytest.mark.parametrize("suffix", [".heic", ".jxl"])
def test_what_claims_to_be_a_picture_and_cannot_be_read_is_refused_with_the_cause(suffix, folder):
    (folder / f"photo{suffix}").write_bytes(b"\0\0\0\x18ftypheic and more")
    with pytest.raises(ndm.InputError, match=f"the installed Pillow does not read {suffix}"):
        load(folder)
    assert "1 unusable ones skipped" in load(folder, on_bad_file="skip").release


def test_only_the_first_picture_of_an_animation_is_read_and_this_is_said(folder, capsys):
    first, second = Image.new("L", (8, 8), 7), Image.new("L", (8, 8), 99)
    first.save(folder / "0.gif", save_all=True, append_images=[second])
    data = load(folder)
    assert "only the first picture of each file that holds several (1)" in data.release
    assert {max(c) for c in colours(data)} == {0, 40, 80, 120, 7}


# Causes


def test_a_pipe_among_the_pictures_is_named_at_once(folder):
    os.mkfifo(folder / "4.png")
    (folder / "5.png").symlink_to("/dev/zero")
    os.mkfifo(folder / "pipe")  # not a picture, so not opened
    start = time.perf_counter()
    with pytest.raises(ndm.InputError, match=r"4.png \(not a regular file\), 5.png \(not a regular file\)"):
        load(folder)
    assert time.perf_counter() - start < 10
    assert len(rows_of(load(folder, on_bad_file="skip"))) == 4


@pytest.mark.parametrize("side", [8193, 13_000, 60_000])
def test_an_oversized_picture_is_refused_by_its_header(side, folder):
    write_png(folder / "big.png", 8, 2, b"", size=(side, side))  # a bomb: Pillow would take 3 bytes a pixel for it
    with pytest.raises(ndm.InputError, match=r"big.png \(.*more than 67,108,864 pixels\)"):
        load(folder)


@pytest.mark.parametrize("kind", [2, 4, 6])
def test_48_bit_colour_is_refused_and_not_cut(kind, folder):
    values = {2: 3, 4: 2, 6: 4}[kind]
    write_png(folder / "deep.png", 16, kind, (b"\0" + bytes(range(2 * values)) * 8) * 8)
    with pytest.raises(ndm.InputError, match=r"deep.png \(more than 8 bits per value\)"):
        load(folder)


def test_deep_colour_is_found_in_other_formats_too(folder):
    (folder / "deep.ppm").write_bytes(b"P6 8 8 65535\n" + bytes(8 * 8 * 6))
    (folder / "deep.pgm").write_bytes(b"P5 8 8 1023\n" + bytes(8 * 8 * 2))
    (folder / "fine.ppm").write_bytes(b"P6 8 8 255\n" + bytes(8 * 8 * 3))
    (folder / "plain.pbm").write_bytes(b"P1 8 8\n" + b"0 1 " * 32)
    with pytest.raises(ndm.InputError, match="^2 of 8 .*deep.pgm .more than 8 bits.*deep.ppm .more than 8 bits"):
        load(folder)


def test_colours_that_have_no_exact_rgb_and_empty_files_are_named(folder):
    Image.new("LAB", (8, 8)).save(folder / "lab.tif")
    (folder / "empty.png").write_bytes(b"")
    with pytest.raises(
        ndm.InputError, match=r"empty.png \(empty\), lab.tif \(its colours are LAB; convert it to RGB\)"
    ):
        load(folder)


def test_postscript_under_a_pictures_name_starts_no_other_program(folder, monkeypatch):
    monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", lambda *_, **__: pytest.fail("another program was started"))
    (folder / "x.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n")
    with pytest.raises(ndm.InputError, match=r"x.png \(damaged\)"):
        load(folder)


def test_a_newline_in_a_name_forges_no_second_message(folder, capsys, tmp_path):
    (folder / "a\nndm: error: all is lost.png").write_text("no picture")
    (folder / "b\x1b[31m\u2028.txt\udcff").write_text("no picture")
    options = ["--data.path", str(folder), "--data.size", "8", "--out", str(tmp_path / "run")]
    assert main(["train", "images", *options]) == 2
    shown = capsys.readouterr().err
    assert shown.count("\n") == 1 and r"a\nndm: error: all is lost.png (damaged)" in shown
    assert main(["train", "images", *options, "--data.on_bad_file", "skip", "--data.size", "9"]) == 2
    assert "\n" not in str(ndm.InputError("line\nline\r\u2029\x1b")) and str(ndm.InputError("é ü 犬")) == "é ü 犬"
    data = load(folder, on_bad_file="skip")
    assert data.release.isprintable()
    shown = capsys.readouterr().err.splitlines()[-2:]
    assert all(line.isprintable() for line in shown) and r"a\nndm" in "".join(shown)


def test_a_home_folder_that_is_not_known_is_named(monkeypatch):
    with pytest.raises(ndm.InputError, match="home folder in ~nobody-at-all/pictures is not known"):
        load("~nobody-at-all/pictures")
    with pytest.raises(ndm.InputError, match="is not known"):
        load_dataset("array", path="~nobody-at-all/x.npz")


@pytest.mark.parametrize("path", ["x" * 300, "a\0b", "", 3, b"x"])
def test_paths_that_no_system_has_are_no_folders(path):
    with pytest.raises(ndm.InputError, match="is not a folder|path must be"):
        load(path)
    with pytest.raises(ndm.InputError, match="is not a file|path must be"):
        load_dataset("array", path=path)
