"""The cache of decoded rows: many hands, flipped bytes, touched and changed sources, killed builders."""

import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from PIL import Image

from ndm.data import folder as folder_module
from ndm.data import load_dataset
from ndm.data.cache import find_rows, write_rows

from conftest import grey_pictures

pytestmark = pytest.mark.usefixtures("cache")


@pytest.fixture
def folder(tmp_path):
    return grey_pictures(tmp_path / "set", range(0, 200, 20))


@pytest.fixture
def decoded(monkeypatch):
    """The pictures that are decoded, one entry each."""
    calls, decode = [], folder_module.decode_picture
    monkeypatch.setattr(folder_module, "decode_picture", lambda *args: calls.append(args) or decode(*args))
    return calls


def load(path, **options):
    return load_dataset("images", path=path, size=8, **options)


def blocks(rows):
    for start in range(0, len(rows), 10):
        yield rows[start : start + 10]


def test_two_processes_with_one_pid_write_whole_files(cache, monkeypatch):
    """As in two containers that share a cache: the numbers of the processes are equal, and their writing overlaps."""
    monkeypatch.setattr(os, "getpid", lambda: 7)
    x = np.random.default_rng(0).integers(1, 256, (100, 1, 8, 8), dtype=np.uint8)

    def other_writes_at_row_50():
        for k, block in enumerate(blocks(x)):
            if k == 5:
                assert torch.equal(write_rows("set", "a-b", (1, 8, 8), blocks(x), 100).x, torch.from_numpy(x))
            yield block

    ours = write_rows("set", "a-b", (1, 8, 8), other_writes_at_row_50(), 100)
    assert torch.equal(ours.x, torch.from_numpy(x))
    assert torch.equal(find_rows("set", "a-b").x, torch.from_numpy(x))
    assert len(list(cache.iterdir())) == 1


def test_loaders_that_start_together_have_the_same_rows(folder, cache):
    """Threads, because they have one number of process, as the processes of two containers may."""
    with ThreadPoolExecutor(4) as pool:
        loaded = list(pool.map(load, [folder] * 8))
    data = load(folder)
    assert {d.checksum for d in loaded} == {data.checksum}
    assert all(torch.equal(d.train, data.train) for d in loaded) and data.train.max() > 0
    assert sorted(file.suffix for file in cache.iterdir()) == [".json", ".npy"]


@pytest.mark.parametrize("place", [20, 60, 127, 300, -1])
def test_a_flipped_byte_in_the_cache_is_noticed_and_mended(place, folder, cache, decoded, capsys):
    first = load(folder)
    rows = [row.clone() for row in (first.train, first.validation, first.test)]
    (file,) = cache.glob("*.npy")
    content = bytearray(file.read_bytes())
    content[place] ^= 1
    file.unlink()
    file.write_bytes(content)
    again = load(folder)
    assert all(map(torch.equal, rows, (again.train, again.validation, again.test)))
    assert len(decoded) in (10, 20)  # a flipped space in the header changes nothing
    if len(decoded) == 20:
        shown = capsys.readouterr().err
        assert "is damaged; its rows are read from their source again" in shown and shown.count("\n") == 1
    assert len(decoded) == 20 or place in (60, 127)
    assert load(folder).checksum == first.checksum and len(list(cache.glob("*.npy"))) == 1


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"notes": {"alpha": 9, "several": 0}, "sha256": "0"}'])
def test_damaged_notes_are_made_again(content, folder, cache, decoded):
    first = load(folder)
    (file,) = cache.glob("*.json")
    file.write_bytes(content)
    assert load(folder).release == first.release and len(decoded) == 20
    file.unlink()
    assert load(folder).release == first.release and len(decoded) == 30
    assert load(folder).release == first.release and len(decoded) == 30


@pytest.mark.parametrize("suffix", [".npy", ".json"])
def test_a_pipe_in_the_cache_is_not_opened(suffix, folder, cache, decoded):
    first = load(folder)
    (file,) = cache.glob(f"*{suffix}")
    file.unlink()
    os.mkfifo(file)
    assert load(folder).release == first.release and len(decoded) == 20


def test_a_touched_or_changed_source_leaves_one_copy(folder, cache, decoded):
    first = load(folder)
    os.utime(folder / "0.png", ns=(1, 1))
    touched = load(folder)
    assert touched.release == first.release and len(decoded) == 20
    Image.fromarray(np.full((8, 8), 255, np.uint8)).save(folder / "0.png")
    assert load(folder).checksum != first.checksum
    assert len(list(cache.glob("*.npy"))) == len(list(cache.glob("*.json"))) == 1
    # Other sizes, backgrounds and folders have their own copies.
    load_dataset("images", path=folder, size=4)
    load(folder, background="black")
    assert len(list(cache.glob("*.npy"))) == 3
    load(folder)
    assert len(decoded) == 50


def test_rows_stay_mapped_when_their_file_is_removed_as_stale(folder):
    first = load(folder)
    total = int(first.train.long().sum())
    os.utime(folder / "0.png", ns=(1, 1))
    load(folder)
    assert int(first.train.long().sum()) == total


def test_what_a_killed_builder_left_is_removed_after_a_day(folder, cache):
    cache.mkdir()
    old, new = cache / "images8-a-b-1.tmp", cache / "images8-a-b-2.tmp"
    for file in (old, new):
        file.write_bytes(b"half")
    os.utime(old, (1, 1))
    load(folder)
    assert not old.exists() and new.exists()
