"""Files that somebody else may have written are refused in one line with their name; ours are written whole."""

import os
import resource
import stat
from contextlib import contextmanager

import pytest
import torch

import ndm
from ndm.cli import main
from ndm.evaluation.pictures import draw_points
from ndm.experiment.recipe import read_config, read_settings
from ndm.support.files import BadFile, read_json, read_text, sha256, write_whole
from ndm.support.journal import Journal, append_line, read_lines
from ndm.support.weights import read_header, read_tensors, write_tensors
from ndm.training import Checkpoints, State

ALIASES = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]\n" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)
ODD_YAML = {
    "aliases that stand for gigabytes": ALIASES,
    "an alias": "model: &m {width: 8}\ndata: *m\n",
    "a key twice": "seed: 1\nseed: 2\n",
    "a key in its group and in full": "model: {width: 8}\nmodel.width: 9\n",
    "deep": "[" * 100_000,
    "deep but closed": "seed: " + "[" * 80 + "]" * 80,
    "no date": "seed: 2001-99-99",
    "no number": "seed: !!int x",
    "no truth value": "seed: !!bool x",
    "too many digits": "seed: " + "1" * 5000,
    "an object": "seed: !!python/object/apply:os.system [true]",
    "several documents": "---\nseed: 1\n---\nseed: 2\n",
    "a list for a key": "? [a]\n: 1\n",
    "infinite": "model: {gamma_min: -.inf}",
    "not a number": "training: {learning_rate: .nan}",
    "gigantic": "training: {steps: 1000000000000000000000000}",
    "a gigantic width": "model: {width: 1000000000}",
    "thousands of values": "model: {fourier: [" + "1, " * 5_000 + "1]}",
    "an endless frequency": "model: {network: unet, fourier: [5000]}",
    "too large": "# " + "x" * 2**16,
    "a long text": "description: " + "x" * 10_000,
    "a control character": "seed: \x07",
    "an error of its own": 'data: {name: "x\\nndm: error: y"}\nfoo: 1',
}


def one_line(error, *words):
    text = str(error.value)
    assert "\n" not in text and len(text) < 2000 and all(str(word) in text for word in words)


@pytest.mark.parametrize("kind", ODD_YAML)
def test_an_odd_recipe_is_refused_in_one_line_with_its_name(kind, tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(ODD_YAML[kind])
    with pytest.raises(ndm.InputError) as error:
        read_config(path)
    one_line(error, path)


@pytest.mark.parametrize("content", [b"", b"\0\0", "seed: 1".encode("utf-16"), b"\xff\xfe\xfd", b"- 1\n"])
def test_a_recipe_that_is_no_text_or_no_settings_is_refused(content, tmp_path, capsys):
    path = tmp_path / "recipe.yaml"
    path.write_bytes(content)
    assert main(["train", str(path), "--out", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and str(path) in error and not (tmp_path / "run").exists()


def test_a_value_of_a_wrong_kind_in_a_file_is_told_with_the_files_name(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text("model: {width: wide}")
    with pytest.raises(ndm.InputError, match="width") as error:
        read_config(path)
    one_line(error, path)


def test_a_recipe_with_a_byte_order_mark_is_read(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_bytes("\ufeffseed: 3\r\nmodel: {width: 8}\r\n".encode())
    assert read_config(path).seed == 3


@pytest.mark.parametrize("text", ["[" * 100_000, "[" * 80 + "]" * 80, "{", "", "1" * 5000, '{"a": nul}'])
def test_damaged_or_deep_json_is_named(text, tmp_path):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(BadFile) as error:
        read_json(tmp_path / "a.json")
    one_line(error, "a.json")


@pytest.mark.parametrize("read", [read_text, read_json, read_settings, sha256, read_tensors, read_lines])
@pytest.mark.parametrize("kind", ["pipe", "folder", "device", "loop"])
def test_a_pipe_a_folder_or_a_device_is_not_opened(kind, read, tmp_path):
    path = tmp_path / "x"
    {"pipe": os.mkfifo, "folder": os.mkdir}.get(kind, lambda _: None)(path)
    if kind in ("device", "loop"):
        path.symlink_to("/dev/zero" if kind == "device" else path)
    if (kind, read) == ("loop", read_lines):
        return  # there is no file
    with pytest.raises(ndm.InputError) as error:
        read(path)
    one_line(error, path)


@pytest.mark.parametrize("name", ["a\0b", "x" * 5000])
def test_a_name_that_no_file_can_have_is_refused(name, capsys):
    assert main(["train", name]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_file_of_gigabytes_is_refused_at_once(tmp_path):
    path = tmp_path / "x"
    with path.open("wb") as file:
        file.truncate(50 * 2**30)
    for read in (read_text, read_settings, read_lines):
        with pytest.raises(BadFile, match="too large: 53,687,091,200 bytes") as error:
            read(path)
        one_line(error, path)


@contextmanager
def without_permission(path):
    """The owner of everything becomes a stranger to ``path``; anybody else closes it."""
    if os.geteuid() == 0:
        path.parent.chmod(0o700)
        os.seteuid(65534)
    else:
        path.chmod(0)
    try:
        yield
    finally:
        os.seteuid(os.getuid())
        path.chmod(0o700)


@pytest.mark.parametrize("read", [read_text, read_json, read_settings, sha256, read_tensors])
def test_a_file_that_may_not_be_read_is_not_called_missing(read, tmp_path):
    (tmp_path / "x").write_text("{}")
    with without_permission(tmp_path / "x"), pytest.raises(ndm.InputError, match="permission denied") as error:
        read(tmp_path / "x")
    one_line(error, tmp_path / "x")
    with pytest.raises(BadFile, match="no such file"):
        read(tmp_path / "y")


def test_checkpoints_that_may_not_be_read_are_not_taken_for_damaged(tmp_path):
    """Training would begin anew, and write over them."""
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    checkpoints.save(State(1, {"w": torch.ones(2)}, {}))
    checkpoints.folder.chmod(0o700)
    with without_permission(checkpoints.folder), pytest.raises(ndm.InputError, match="permission denied"):
        checkpoints.latest()
    assert checkpoints.latest().step == 1


@contextmanager
def full_disk(size):
    """No file may be larger than ``size`` bytes, as if the disk were full then."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def small_model():
    process = ndm.ForwardProcess(ndm.LinearSchedule(-6.0, 4.0))
    return ndm.NDM(process, ndm.Predictor(ndm.nn.MLP((1, 4, 4), width=32, depth=1)), ndm.CategoricalDecoder(17))


WRITERS = {
    "text.json": lambda path: write_whole(path, "x" * 5000),
    "picture.png": lambda path: draw_points({"a": torch.randn(500, 2)}, path),
    "w.safetensors": lambda path: write_tensors(path, {"w": torch.zeros(5000)}),
    "model": lambda path: small_model().save_pretrained(path),
    "lines.jsonl": lambda path: append_line(path, "x" * 5000),
}


@pytest.mark.parametrize("name", WRITERS)
def test_a_full_disk_is_told_with_the_files_name_and_leaves_nothing_half(name, tmp_path):
    path = tmp_path / name
    with full_disk(1000), pytest.raises(OSError, match="File too large") as error:
        WRITERS[name](path)
    assert str(path) in str(error.value.filename) and "partial" not in str(error.value.filename)
    left = [file for file in tmp_path.rglob("*") if file.is_file() and file.stat().st_size]
    assert left == []


def test_a_full_disk_leaves_what_was_there(tmp_path):
    model, lines = tmp_path / "model", tmp_path / "lines.jsonl"
    small_model().save_pretrained(model)
    before = {path.name: path.read_bytes() for path in model.iterdir()}
    append_line(lines, {"step": 1})
    with full_disk(1000):
        with pytest.raises(OSError, match=r"model.safetensors"):
            small_model().save_pretrained(model)
        with pytest.raises(OSError, match=r"lines.jsonl"):
            append_line(lines, "x" * 5000)
    assert {path.name: path.read_bytes() for path in model.iterdir()} == before
    assert read_lines(lines) == [{"step": 1}] and lines.read_text().count("\n") == 1


@pytest.mark.parametrize("umask", [0o022, 0o027, 0o002])
def test_files_have_the_permissions_of_the_users_umask(umask, tmp_path):
    before = os.umask(umask)
    try:
        small_model().save_pretrained(tmp_path / "model")
        Checkpoints(tmp_path / "checkpoints").save(State(1, {"w": torch.ones(2)}, {}))
    finally:
        os.umask(before)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) == 4 and {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o666 & ~umask}


FOREIGN_LINES = [
    b"[1]", b'{"a": 1}', b'"x"', b"null", b"3", b"[" * 100_000, b"\xff\xfe", b'[["a"], {}]', b'["a", 1]',
    b'["a", {"nats": [1]}, "0123456789abcdef"]', b"[1, 2, 3]", b'{"step": "3"}', b"[[], {}, null]",
]  # fmt: skip


def test_foreign_lines_in_a_journal_are_not_taken_for_pieces_and_it_is_said_once(tmp_path, capsys):
    journal = Journal(tmp_path / "pieces.jsonl")
    journal["piece/0"] = {"nats": [1.5, 0.1, float("nan")]}
    file = tmp_path / "pieces.0.jsonl"
    with file.open("ab") as handle:
        handle.write(b"\n".join(FOREIGN_LINES) + b"\n")
    journal["piece/1"] = {"nats": []}
    found = Journal(tmp_path / "pieces.jsonl")
    assert list(found.pieces) == ["piece/0", "piece/1"] and found["piece/0"]["nats"][:2] == [1.5, 0.1]
    news = capsys.readouterr().err
    assert news.count("\n") == 1 and f"{file}: passed over 13 lines" in news and "line 2" in news


def test_a_number_that_changed_in_a_journal_is_computed_again(tmp_path):
    journal = Journal(tmp_path / "pieces.jsonl")
    journal["piece/0"] = {"nats": [1.5]}
    file = tmp_path / "pieces.0.jsonl"
    file.write_text(file.read_text().replace("1.5", "7.5"))
    assert "piece/0" not in Journal(tmp_path / "pieces.jsonl")


def test_an_alias_in_a_recipe_that_would_be_right_is_refused_too(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text("training: {steps: &n 30, evaluate_every: *n}\n")
    with pytest.raises(ndm.InputError, match="aliases are not read: write the value out"):
        read_config(path)
    path.write_text("training: {steps: 30, evaluate_every: 30}\n")
    assert read_config(path).training.evaluate_every == 30


def test_a_file_without_tensors_keeps_its_metadata(tmp_path):
    path = tmp_path / "model.safetensors"
    write_tensors(path, {}, {"checksum": "abc"})
    assert read_tensors(path) == {}
    assert read_header(path).metadata == {"checksum": "abc"}


@pytest.mark.parametrize("name", ["a file", "/proc", "nul\0", "n" * 300, 3])
def test_a_model_is_not_saved_where_no_folder_can_be(name, tmp_path):
    (tmp_path / "a file").write_text("mine")
    path = tmp_path / name if isinstance(name, str) else name
    with pytest.raises(ndm.InputError) as error:
        small_model().save_pretrained(path)
    assert "\n" not in str(error.value)


def test_a_model_without_values_is_not_saved(tmp_path):
    with pytest.raises(ndm.InputError, match="on the device meta"):
        small_model().to("meta").save_pretrained(tmp_path / "model")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"predictor": 3}, "predictor must be a Module, got int"),
        ({"predictor": ndm.nn.MLP}, "predictor must be a Module, got type"),
        ({"transform": "identity"}, "transform must be a Module, got str"),
        ({"predictor": ndm.nn.MLP((1, 4, 4), width=16, depth=1)}, "the predictor that was passed does not fit"),
        ({"predictor": ndm.nn.MLP((1, 4, 4), width=32, depth=2)}, "the predictor that was passed does not fit"),
    ],
)
def test_a_network_that_does_not_fit_the_saved_model_is_blamed_and_not_the_files(given, message, tmp_path):
    small_model().save_pretrained(tmp_path)
    with pytest.raises(ndm.InputError, match=message) as error:
        ndm.NDM.from_pretrained(tmp_path, **given)
    assert "restore" not in str(error.value)
