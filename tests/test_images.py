"""Image sets: pixels in their places, recorded splits, caches that are complete or absent, one-line errors."""

import gzip
import hashlib
import io
import os
import pickle
import struct
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import ndm
from ndm.data import cache as cache_module
from ndm.data import folder, load_dataset, published
from ndm.data.cache import cache_folder
from ndm.data.dataset import held_out

# No warning reaches the user. (numpy itself leaves a damaged zip file open.)
pytestmark = pytest.mark.filterwarnings("error", "ignore:unclosed file:ResourceWarning")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """An empty cache for this test only."""
    monkeypatch.setenv("NDM_DATA", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def offline(monkeypatch):
    """torchvision without a network: every download fails."""

    def refuse(*args, **kwargs):
        raise OSError("no network here")

    monkeypatch.setattr("torchvision.datasets.mnist.download_and_extract_archive", refuse)
    monkeypatch.setattr("torchvision.datasets.cifar.download_and_extract_archive", refuse)


def pixels(n, *shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, *shape), dtype=np.uint8)


def md5(content):
    return hashlib.md5(content).hexdigest()


def equal(x, y):
    return torch.equal(x, torch.as_tensor(np.ascontiguousarray(y)))


def write_pictures(path, x):
    """Write ``(N, H, W)`` or ``(N, H, W, 3)`` as 0.png, 1.png, ..., every second one in a subfolder."""
    (path / "more").mkdir(parents=True)
    for k, row in enumerate(x):
        Image.fromarray(row).save(path / ("more" if k % 2 else ".") / f"{k}.png")


def name_order(n):
    """The order by name of the files of :func:`write_pictures`: files beside the subfolder come first."""
    return [*range(0, n, 2), *range(1, n, 2)]


# MNIST and CIFAR-10


def write_mnist(path, monkeypatch, held_out=3):
    raw = path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    parts = pixels(11, 28, 28), pixels(4, 28, 28, seed=1)
    for name, x in zip(published.MNIST, parts, strict=True):
        content = gzip.compress(struct.pack(">4I", 0x803, *x.shape) + x.tobytes())
        (raw / f"{name}.gz").write_bytes(content)
        monkeypatch.setitem(published.MNIST, name, md5(content))
    monkeypatch.setitem(published.HELD_OUT, "mnist", held_out)
    return raw, *parts


def test_mnist_reads_the_archives_and_keeps_the_official_order(tmp_path, monkeypatch, offline):
    raw, x, test = write_mnist(tmp_path, monkeypatch)
    before = sorted(os.listdir(raw))
    data = load_dataset("mnist", path=str(tmp_path))
    assert equal(data.train, x[:8, None]) and equal(data.validation, x[8:, None]) and equal(data.test, test[:, None])
    assert data.shape == (1, 28, 28) and data.train.dtype == torch.uint8 and data.levels == 256
    assert "published archives" in data.release and "8/3/4" in data.release
    assert sorted(os.listdir(raw)) == before  # nothing is unpacked: the folder may be read-only


def test_5000_rows_validate_and_checksums_are_the_published_ones():
    assert published.HELD_OUT["mnist"] == published.HELD_OUT["cifar10"] == 5_000
    from torchvision.datasets import CIFAR10, MNIST

    assert {f"{name}.gz": value for name, value in published.MNIST.items()}.items() <= dict(MNIST.resources).items()
    assert dict(map(tuple, CIFAR10.train_list + CIFAR10.test_list)) == published.CIFAR10


def test_mnist_reads_unpacked_files_and_says_that_they_are_not_verified(tmp_path, monkeypatch, offline):
    raw, x, _ = write_mnist(tmp_path, monkeypatch)
    packed = raw / "train-images-idx3-ubyte.gz"
    (raw / "train-images-idx3-ubyte").write_bytes(gzip.decompress(packed.read_bytes()))
    packed.unlink()
    data = load_dataset("mnist", path=tmp_path)
    assert equal(data.train, x[:8, None]) and "not verified" in data.release
    (raw / "train-images-idx3-ubyte").write_bytes(b"\0\0\x08\x03" + bytes(100))
    with pytest.raises(ndm.InputError, match="not a whole IDX file"):
        load_dataset("mnist", path=tmp_path)


def test_mnist_refuses_an_archive_that_is_not_the_published_one(tmp_path, monkeypatch):
    raw, *_ = write_mnist(tmp_path, monkeypatch)
    damaged = raw / "t10k-images-idx3-ubyte.gz"
    damaged.write_bytes(damaged.read_bytes()[:-1])
    with pytest.raises(ndm.InputError, match="t10k-images-idx3-ubyte.gz is not the published file"):
        load_dataset("mnist", path=tmp_path)


def test_mnist_is_kept_in_the_cache_unless_there_is_a_path(cache, monkeypatch, offline):
    _, x, _ = write_mnist(cache, monkeypatch)
    assert equal(load_dataset("mnist").train, x[:8, None])
    monkeypatch.delenv("NDM_DATA")
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache.parent / "xdg"))
    assert cache_folder() == cache.parent / "xdg" / "ndm"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(cache.parent))
    assert cache_folder() == cache.parent / ".cache" / "ndm"


@pytest.mark.parametrize(
    ("name", "file"), [("mnist", "train-images-idx3-ubyte.gz"), ("cifar10", "cifar-10-python.tar.gz")]
)
def test_what_cannot_be_downloaded_is_asked_for_by_name_and_place(name, file, tmp_path, offline):
    with pytest.raises(ndm.InputError) as error:
        load_dataset(name, path=tmp_path)
    message = str(error.value)
    assert file in message and str(tmp_path) in message and "no network here" in message and "\n" not in message


def test_downloads_go_through_torchvision(tmp_path, monkeypatch):
    """torchvision's class is replaced. It is called with the folder, and the files that it leaves there are read."""
    written = {}

    def download(root, download):
        assert download
        written["x"] = write_mnist(Path(root), monkeypatch)[1]

    monkeypatch.setattr("torchvision.datasets.MNIST", download)
    data = load_dataset("mnist", path=tmp_path / "new")
    assert equal(data.train, written["x"][:8, None])


def test_a_missing_torchvision_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision.datasets", None)
    with pytest.raises(ndm.InputError, match=r'pip install "ndm\[images\]"'):
        load_dataset("mnist", path=tmp_path)


def write_cifar10(path, monkeypatch, archive):
    x = pixels(12, 3, 32, 32)
    monkeypatch.setitem(published.HELD_OUT, "cifar10", 4)
    contents = {
        f"cifar-10-batches-py/{name}": pickle.dumps({"data": x[2 * k : 2 * k + 2].reshape(2, -1), "labels": [0, 0]})
        for k, name in enumerate(published.CIFAR10)
    }
    for name, content in contents.items():
        monkeypatch.setitem(published.CIFAR10, name.rpartition("/")[2], md5(content))
    if archive:
        with tarfile.open(path / "cifar-10-python.tar.gz", "w:gz") as tar:
            for name, content in contents.items():
                entry = tarfile.TarInfo(name)
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))
    else:
        (path / "cifar-10-batches-py").mkdir()
        for name, content in contents.items():
            (path / name).write_bytes(content)
    return x


@pytest.mark.parametrize("archive", [True, False])
def test_cifar10_is_read_packed_or_not(archive, tmp_path, monkeypatch, offline):
    x = write_cifar10(tmp_path, monkeypatch, archive)
    before = os.listdir(tmp_path)
    data = load_dataset("cifar10", path=tmp_path)
    assert equal(data.train, x[:6]) and equal(data.validation, x[6:10]) and equal(data.test, x[10:])
    assert "6/4/2" in data.release and os.listdir(tmp_path) == before


def test_cifar10_unpickles_nothing_that_is_not_the_published_file(tmp_path, monkeypatch):
    write_cifar10(tmp_path, monkeypatch, archive=False)

    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "was here"),)

    (tmp_path / "cifar-10-batches-py" / "data_batch_1").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(ndm.InputError, match="data_batch_1 is not the published file"):
        load_dataset("cifar10", path=tmp_path)
    assert not (tmp_path / "was here").exists()


def test_a_damaged_cifar10_archive_is_named(tmp_path, monkeypatch):
    write_cifar10(tmp_path, monkeypatch, archive=True)
    archive = tmp_path / "cifar-10-python.tar.gz"
    archive.write_bytes(archive.read_bytes()[:2000])
    with pytest.raises(ndm.InputError, match=r"cifar-10-python.tar.gz is damaged"):
        load_dataset("cifar10", path=tmp_path)


# ImageNet


def write_imagenet(path, monkeypatch, size=32):
    path.mkdir(parents=True, exist_ok=True)
    x, test = pixels(25, 3, size, size), pixels(3, 3, size, size, seed=1)
    for k, rows in enumerate(np.array_split(x, 10)):
        np.savez(path / f"train_data_batch_{k + 1}.npz", data=rows.reshape(len(rows), -1), labels=np.zeros(len(rows)))
    np.savez(path / "val_data.npz", data=test.reshape(3, -1), labels=np.zeros(3))
    monkeypatch.setitem(published.HELD_OUT, f"imagenet{size}", 5)
    return x, test


@pytest.mark.parametrize("size", [32, 64])
def test_imagenet_is_converted_once_into_one_memory_mapped_file(size, tmp_path, cache, monkeypatch):
    x, test = write_imagenet(tmp_path / "Imagenet_box_npz", monkeypatch, size)
    monkeypatch.setattr(published, "BLOCK", 2)
    data = load_dataset(f"imagenet{size}", path=tmp_path)
    assert equal(data.train, x[:20]) and equal(data.validation, x[20:]) and equal(data.test, test)
    assert "Chrabaszcz" in data.release and "resampling box" in data.release and "20/5/3" in data.release
    (file,) = cache.iterdir()
    assert equal(torch.from_numpy(np.load(file)), np.concatenate([x, test]))
    assert hashlib.sha256(np.load(file).tobytes()).hexdigest()[:16] in data.release
    monkeypatch.setattr(published, "imagenet_blocks", lambda *_: pytest.fail("converted again"))
    again = load_dataset(f"imagenet{size}", path=tmp_path)
    assert torch.equal(again.train, data.train) and again.release == data.release
    # Mapped, not read: what is written to the file is seen in the rows.
    with file.open("r+b") as content:
        content.seek(-1, os.SEEK_END)
        content.write(bytes([test.flat[-1] ^ 255]))
    assert data.test.flatten()[-1] == test.flat[-1] ^ 255


def test_imagenet_says_which_resampling_only_if_the_names_do(tmp_path, monkeypatch):
    for name in ("boxer", "sandbox"):
        write_imagenet(tmp_path / name, monkeypatch)
        assert "resampling not named" in load_dataset("imagenet32", path=tmp_path / name).release


def test_imagenet_refuses_what_is_missing_twice_there_or_of_another_kind(tmp_path, cache, monkeypatch):
    path = tmp_path / "npz"
    write_imagenet(path, monkeypatch)
    with pytest.raises(ndm.InputError, match="64x64 needs uint8"):
        load_dataset("imagenet64", path=path)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "val_data.npz").write_bytes((path / "val_data.npz").read_bytes())
    with pytest.raises(ndm.InputError, match="set path to the folder of one release"):
        load_dataset("imagenet32", path=tmp_path)
    content = (path / "train_data_batch_7.npz").read_bytes()
    (path / "train_data_batch_7.npz").write_bytes(content[:500])
    with pytest.raises(ndm.InputError, match="train_data_batch_7.npz is damaged"):
        load_dataset("imagenet32", path=path)
    # A bad pixel, which shows up while the data are read: what was written by then is removed.
    (path / "train_data_batch_7.npz").write_bytes(content[:600] + bytes([content[600] ^ 255]) + content[601:])
    with pytest.raises(ndm.InputError, match="train_data_batch_7.npz is damaged"):
        load_dataset("imagenet32", path=path)
    assert list(cache.iterdir()) == []
    (path / "train_data_batch_7.npz").unlink()
    with pytest.raises(ndm.InputError, match=r"lacks train_data_batch_7.npz$"):
        load_dataset("imagenet32", path=path)
    with pytest.raises(ndm.InputError, match="is not a folder"):
        load_dataset("imagenet32", path=path / "nowhere")


# Folders of pictures


def permuted(n):
    """For each row, which picture of :func:`write_pictures` it is."""
    return np.array(name_order(n))[np.random.default_rng(0).permutation(n)]


def rows_of(data):
    return torch.cat([data.train, data.validation, data.test])


@pytest.mark.parametrize("channels", [1, 3])
def test_pictures_of_the_right_size_are_read_exactly_and_split_by_a_fixed_permutation(channels, tmp_path):
    x = pixels(40, 8, 8, channels)
    write_pictures(tmp_path / "set", x.squeeze(-1) if channels == 1 else x)
    (tmp_path / "set" / "README.txt").write_text("not a picture")
    (tmp_path / "set" / "._1.png").write_text("nor is this")
    data = load_dataset("images", path=tmp_path / "set", size=8)
    assert equal(rows_of(data), x[permuted(40)].transpose(0, 3, 1, 2))
    assert (len(data.train), len(data.validation), len(data.test)) == (34, 2, 4)
    assert "40 pictures of the folder set" in data.release and "34/2/4" in data.release
    assert data.shape == (channels, 8, 8) and data.levels == 256
    x = data.batch(5, 0, 3)
    assert x.dtype == torch.uint8 and torch.equal(x, data.batch(5, 0, 3))
    assert not torch.equal(x, data.batch(5, 0, 4)) and not torch.equal(x, data.batch(5, 1, 3))


def test_one_coloured_picture_makes_all_of_them_rgb(tmp_path):
    grey = pixels(4, 8, 8)
    write_pictures(tmp_path / "set", grey)
    colour = pixels(1, 8, 8, 3, seed=1)
    Image.fromarray(colour[0]).save(tmp_path / "set" / "10.png")  # after 2.png, before more/
    data = load_dataset("images", path=tmp_path / "set", size=8)
    in_order = np.concatenate([grey[[0, 2]][..., None].repeat(3, 3), colour, grey[[1, 3]][..., None].repeat(3, 3)])
    assert equal(rows_of(data), in_order[np.random.default_rng(0).permutation(5)].transpose(0, 3, 1, 2))


def test_pictures_are_cropped_in_the_centre_and_resized(tmp_path):
    """The middle square of a wide picture is black on its left and white on its right.

    A tall picture has the same content and is turned by its EXIF data.
    """
    (tmp_path / "set").mkdir()
    wide = np.full((16, 40), 77, dtype=np.uint8)
    wide[:, 12:20], wide[:, 20:28] = 0, 255
    upright = Image.Exif()
    upright[0x0112] = 6  # turned a quarter to the left as stored
    for k in range(3):
        Image.fromarray(wide).save(tmp_path / "set" / f"{k}.png")
    Image.fromarray(np.rot90(wide).copy()).save(tmp_path / "set" / "3.png", exif=upright)
    rows = rows_of(load_dataset("images", path=tmp_path / "set", size=4))
    assert rows.shape == (4, 1, 4, 4)
    assert equal(rows, np.broadcast_to(np.asarray(Image.fromarray(wide[:, 12:28]).resize((4, 4), 1)), rows.shape))
    assert (rows[..., 0] == 0).all() and (rows[..., 3] == 255).all()


def test_the_second_load_decodes_nothing_and_a_changed_folder_is_decoded_again(tmp_path, monkeypatch):
    x, path = pixels(10, 8, 8), tmp_path / "set"
    write_pictures(path, x)
    calls, decode = [], folder.decode_picture
    monkeypatch.setattr(folder, "decode_picture", lambda *args: calls.append(args) or decode(*args))
    first = load_dataset("images", path=path, size=8)
    assert len(calls) == 10
    again = load_dataset("images", path=path, size=8, flip=True)
    assert len(calls) == 10 and torch.equal(rows_of(again), rows_of(first)) and again.release == first.release
    assert load_dataset("images", path=path, size=4).shape == (1, 4, 4) and len(calls) == 20
    for file in cache_folder().glob("*.npy"):  # as a copy that was broken off leaves them
        file.write_bytes(file.read_bytes()[:-1])
    assert load_dataset("images", path=path, size=8).release == first.release and len(calls) == 30
    calls.clear()
    # The same name and length: the time tells.
    Image.fromarray(255 - x[0]).save(path / "0.png")
    os.utime(path / "0.png", ns=(1, 1))
    changed = load_dataset("images", path=path, size=8)
    assert len(calls) == 10 and changed.release != first.release
    x[0] = 255 - x[0]
    assert equal(rows_of(changed), x[permuted(10), None])


@pytest.fixture
def spoilt(tmp_path):
    """Ten good pictures and four that cannot be used: not a picture, cut short, too small, too deep."""
    path, x = tmp_path / "set", pixels(10, 8, 8)
    write_pictures(path, x)
    (path / "text.png").write_text("no picture")
    Image.fromarray(pixels(1, 64, 64)[0]).save(path / "cut.png")
    (path / "cut.png").write_bytes((path / "cut.png").read_bytes()[:1000])
    Image.fromarray(pixels(1, 7, 20)[0]).save(path / "small.png")
    Image.fromarray(pixels(1, 8, 8)[0].astype(np.uint16) * 256).save(path / "deep.png")
    return path, x


def test_bad_pictures_are_refused_in_one_message(spoilt, cache):
    path, _ = spoilt
    with pytest.raises(ndm.InputError) as error:
        load_dataset("images", path=path, size=8)
    message = str(error.value)
    assert message.startswith("4 of 14 pictures") and "\n" not in message and "set on_bad_file to skip" in message
    for part in (
        "text.png (damaged)",
        "cut.png (damaged)",
        "small.png (20x7, smaller than 8)",
        "deep.png (more than 8",
    ):
        assert part in message
    assert list(cache.iterdir()) == []


def test_bad_pictures_are_skipped_if_asked_and_named(spoilt, capsys):
    path, x = spoilt
    data = load_dataset("images", path=path, size=8, on_bad_file="skip")
    shown = capsys.readouterr().err
    assert "skipped: 4 of 14 pictures" in shown and "cut.png (damaged)" in shown
    names = [f"{k}.png" for k in range(0, 10, 2)] + ["cut.png", "deep.png"]
    names += [f"more/{k}.png" for k in range(1, 10, 2)] + ["small.png", "text.png"]
    order = [names[k] for k in np.random.default_rng(0).permutation(14)]
    left = [int(name.rpartition("/")[2][:-4]) for name in order if name[-5].isdigit()]
    assert equal(rows_of(data), x[left, None])
    assert "10 pictures" in data.release and "4 unusable ones skipped" in data.release
    # From the cache when skipping again, but no excuse when refusing.
    assert load_dataset("images", path=path, size=8, on_bad_file="skip").release == data.release
    assert capsys.readouterr().err == ""
    with pytest.raises(ndm.InputError, match="4 of 14 pictures"):
        load_dataset("images", path=path, size=8)


def test_a_failure_midway_leaves_no_file(tmp_path, cache, monkeypatch):
    write_pictures(tmp_path / "set", pixels(10, 8, 8))
    monkeypatch.setattr(folder, "BLOCK", 2)
    seen, decode = [], folder.read_pictures

    def interrupted(*args):
        for block in decode(*args):
            if isinstance(block[0], np.ndarray):
                seen.append([path.suffix for path in cache.iterdir()])
                if len(seen) == 3:
                    raise KeyboardInterrupt
            yield block

    monkeypatch.setattr(folder, "read_pictures", interrupted)
    with pytest.raises(KeyboardInterrupt):
        load_dataset("images", path=tmp_path / "set", size=8)
    assert seen == [[".tmp"]] * 3 and list(cache.iterdir()) == []


def test_a_cache_that_cannot_be_written_is_named(tmp_path, monkeypatch):
    write_pictures(tmp_path / "set", pixels(3, 8, 8))
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("NDM_DATA", str(tmp_path / "file" / "below"))
    with pytest.raises(ndm.InputError, match="cannot write to .*; set NDM_DATA"):
        load_dataset("images", path=tmp_path / "set", size=8)


def test_a_long_conversion_shows_its_progress(tmp_path, monkeypatch, capsys):
    write_pictures(tmp_path / "set", pixels(10, 8, 8))
    load_dataset("images", path=tmp_path / "set", size=8)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(cache_module, "LONG", 10)
    load_dataset("images", path=tmp_path / "set", size=4)
    shown = capsys.readouterr().err
    assert "examining images4" in shown and "reading images4" in shown and shown.count("10 of 10") == 2


def test_folders_and_options_that_will_not_do_are_refused(tmp_path, monkeypatch):
    path = tmp_path / "set"
    path.mkdir()
    with pytest.raises(ndm.InputError, match="no pictures"):
        load_dataset("images", path=path, size=8)
    for k in range(2):
        Image.fromarray(pixels(1, 8, 8)[0]).save(path / f"{k}.png")
    with pytest.raises(ndm.InputError, match="has 2 rows"):
        load_dataset("images", path=path, size=8)
    (path / "2.png").write_text("no picture")
    with pytest.raises(ndm.InputError, match=r"2.png \(damaged\); too few are left"):
        load_dataset("images", path=path, size=8, on_bad_file="skip")
    with pytest.raises(ndm.InputError, match="size must be at least 1"):
        load_dataset("images", path=path, size=0)
    with pytest.raises(ndm.InputError, match="refuse or skip"):
        load_dataset("images", path=path, size=8, on_bad_file="ignore")
    with pytest.raises(ndm.InputError, match="is not a folder"):
        load_dataset("images", path=path / "0.png", size=8)
    (path / "2.png").unlink()
    os.symlink(path / "gone", path / "2.png")
    with pytest.raises(ndm.InputError, match=r"2.png \(No such file"):
        load_dataset("images", path=path, size=8)
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    with pytest.raises(ndm.InputError, match=r'pip install "ndm\[images\]"'):
        load_dataset("images", path=path, size=8)


def test_held_out_rows_are_a_twentieth_and_a_tenth_within_limits():
    assert [held_out(n, "") for n in (3, 19, 40, 100, 99_999, 10**6)] == [
        (1, 1), (1, 1), (2, 4), (5, 10), (4_999, 9_999), (5_000, 10_000),
    ]  # fmt: skip


def test_celebahq_is_split_in_the_order_of_the_names(tmp_path, monkeypatch):
    monkeypatch.setattr(folder, "CELEBAHQ", (7, 2, 3))
    (tmp_path / "set").mkdir()
    x = pixels(12, 256, 256, 3)
    for k, row in enumerate(x):
        Image.fromarray(row).save(tmp_path / "set" / f"{k}.png")
    data = load_dataset("celebahq256", path=tmp_path / "set")
    for part, rows in ((data.train, x[:7]), (data.validation, x[7:9]), (data.test, x[9:])):
        assert equal(part, rows.transpose(0, 3, 1, 2))
    assert "sorted by name, split 7/2/3" in data.release
    (tmp_path / "set" / "11.png").unlink()
    with pytest.raises(ndm.InputError, match="12 pictures, .* holds 11"):
        load_dataset("celebahq256", path=tmp_path / "set")


# Arrays


@pytest.mark.parametrize("shape", [(6, 5), (6, 5, 1), (6, 5, 3), (1, 6, 5), (3, 6, 5)])
def test_array_layouts(shape, tmp_path):
    x = pixels(9, *shape)
    np.savez(tmp_path / "x.npz", x_train=x[:4], x_validation=x[4:6], x_test=x[6:])
    data = load_dataset("array", path=tmp_path / "x.npz")
    rows = x[:, None] if x.ndim == 3 else x if shape[0] in (1, 3) else x.transpose(0, 3, 1, 2)
    assert equal(data.train, rows[:4]) and equal(data.validation, rows[4:6]) and equal(data.test, rows[6:])
    checksum = hashlib.sha256((tmp_path / "x.npz").read_bytes()).hexdigest()[:16]
    assert data.release == f"x.npz, sha256 {checksum}; as in the file, split 4/2/3"


def test_splits_that_an_array_file_lacks_are_taken_from_its_training_rows(tmp_path):
    x, test, order = pixels(40, 6, 5), pixels(7, 6, 5, seed=1), np.random.default_rng(0).permutation(40)
    np.save(tmp_path / "x.npy", x)
    data = load_dataset("array", path=tmp_path / "x.npy")
    assert (len(data.train), len(data.validation), len(data.test)) == (34, 2, 4)
    assert sorted(map(bytes, rows_of(data).numpy())) == sorted(map(bytes, x))
    assert equal(data.train, x[order[:34], None]) and "x_validation and x_test by permutation seed 0" in data.release
    np.savez(tmp_path / "x.npz", x_train=x, x_test=test)
    data = load_dataset("array", path=tmp_path / "x.npz", flip=True)
    assert equal(data.train, x[order[:38], None]) and equal(data.validation, x[order[38:], None])
    assert equal(data.test, test[:, None]) and data.flip and "; x_validation by permutation" in data.release


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": pixels(9, 6, 5)}, "has no x_train, only x;"),
        ({"x_train": pixels(9, 6, 5) / 255}, "x_train of .* is float64; convert it to uint8"),
        ({"x_train": pixels(9, 6, 5).astype(np.int64) - 300}, "is int64, and row 0 holds -"),
        ({"x_train": pixels(9, 3, 6, 3)}, "channels may come first or last"),
        ({"x_train": pixels(9, 6, 6, 2)}, r"shape \(9, 6, 6, 2\); bring it to"),
        ({"x_train": pixels(9, 30)}, r"shape \(9, 30\); bring it to"),
        ({"x_train": pixels(9, 0, 5)}, "no pixels"),
        ({"x_train": pixels(2, 6, 5)}, "has 2 rows"),
        ({"x_train": pixels(9, 6, 5), "x_test": pixels(9, 6, 6)}, "of one shape"),
        ({"x_train": np.array([None, {}], dtype=object)}, "x_train of .* holds Python objects"),
    ],
)
def test_arrays_of_another_kind_are_refused(arrays, message, tmp_path):
    np.savez(tmp_path / "x.npz", **arrays)
    with pytest.raises(ndm.InputError, match=message) as error:
        load_dataset("array", path=tmp_path / "x.npz")
    assert "\n" not in str(error.value)


def test_files_that_hold_no_array_are_refused(tmp_path):
    with pytest.raises(ndm.InputError, match="is not a file"):
        load_dataset("array", path=tmp_path)
    np.save(tmp_path / "x.npy", np.array([{}], dtype=object), allow_pickle=True)
    (tmp_path / "empty.npy").write_bytes(b"")
    (tmp_path / "cut.npz").write_bytes(b"PK\3\4 and no more")
    (tmp_path / "pickle.npz").write_bytes(pickle.dumps({}))
    with pytest.raises(ndm.InputError, match="x.npy holds Python objects"):
        load_dataset("array", path=tmp_path / "x.npy")
    for name in ("empty.npy", "cut.npz", "pickle.npz"):
        with pytest.raises(ndm.InputError, match="damaged or not plain .npz or .npy"):
            load_dataset("array", path=tmp_path / name)
