"""What a command prints where: bars on a terminal, lines in a log, a line for an error, and results on stdout."""

import io
import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest
import torch

from ndm.cli import main, refuse
from ndm.cli.commands import COMMANDS
from ndm.support import progress
from ndm.support.progress import console, phase, progress_bar, reached, training_news, warn
from processes import Started

from conftest import interruptible

TINY = ["--training.steps", "4", "--training.batch_size", "8", "--model.width", "8", "--model.depth", "1"]
NDM = [sys.executable, "-m", "ndm"]


pytestmark = pytest.mark.usefixtures("float32")


class Terminal(io.StringIO):
    def isatty(self):
        return True


def terminal(monkeypatch, width):
    """The error stream as a terminal of that width."""
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    for name, value in (("TERM", "xterm"), ("COLUMNS", str(width))):
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(progress, "console", progress.Messages())
    return stream


def shown(stream):
    """The lines that appeared on a terminal, without control sequences."""
    return [line.rstrip() for line in re.split(r"[\r\n]+", re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", stream.getvalue()))]


def test_a_log_gets_a_line_at_the_start_and_the_end_and_every_half_minute(capsys):
    now = [0.0]
    with progress_bar("training", 4000, unit="step", clock=lambda: now[0]) as bar:
        news = training_news(bar, lambda _: None, "bits/dim")
        for second in range(1, 101):
            now[0] = float(second)
            reached(10 * second)
            if second % 5 == 0:
                news({"step": 10 * second, "bpd": 2.3141, "seconds": now[0]})
            bar.refresh()
    assert capsys.readouterr().err.splitlines() == [
        "training: step 0 of 4000",
        "training: step 300 of 4000, train 2.314 bits/dim, 10 it/s, 6:10 left",
        "training: step 600 of 4000, train 2.314 bits/dim, 10 it/s, 5:40 left",
        "training: step 900 of 4000, train 2.314 bits/dim, 10 it/s, 5:10 left",
        "training: step 1000 of 4000, train 2.314 bits/dim, 10 it/s, stopped after 1:40",
    ]


def test_a_log_gets_lines_while_nothing_moves(capsys, monkeypatch):
    """A clock that jumps a minute per second: the thread that watches it prints, though no step ends."""
    with progress_bar("sampling", 10, clock=lambda: 60 * time.monotonic()):
        time.sleep(2.5)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) in (3, 4) and set(lines[:-1]) == {"sampling: 0 of 10"}


def test_phases_are_named_in_a_log(capsys):
    now = [0.0]

    @phase("validating")
    def validate():
        now[0] += 65

    validate()  # nothing is shown, so nothing is named
    with progress_bar("training", 10, clock=lambda: now[0]):
        reached(3)
        validate()
    assert capsys.readouterr().err.splitlines() == [
        "training: 0 of 10",
        "training: 3 of 10, validating",
        "training: 3 of 10, validating, took 1:05",
        "training: 3 of 10, stopped after 1:05",
    ]


def test_work_that_cannot_be_counted_and_work_that_is_done(capsys):
    """What takes less than a second has no time, and no last line unless there is a count."""
    for took, times in ((0.9, ("", "")), (1.0, (": took 0:01", ", took 0:01"))):
        now = [0.0]
        with progress_bar("examining", None, clock=lambda now=now: now[0]):
            with phase("looking"):
                now[0] += took / 2
            now[0] += took / 2
        with progress_bar("reading", 2, clock=lambda now=now: now[0]) as bar:
            now[0] += took
            bar.advance(bar.task_ids[0], 2)
        with progress_bar("reading", 2, visible=False):
            pass
        expected = ["examining", "examining: looking", *(f"examining{end}" for end in times[:1] if end)]
        assert capsys.readouterr().err.splitlines() == [*expected, "reading: 0 of 2", f"reading: 2 of 2{times[1]}"]


@pytest.mark.parametrize("width", [40, 60, 61, 80, 120])
def test_a_terminal_of_any_width_shows_the_step_the_time_left_and_the_phase(width, monkeypatch):
    stream, now = terminal(monkeypatch, width), [0.0]
    with progress_bar("training", 4000, clock=lambda: now[0]) as bar:
        for step in range(1, 6):
            now[0] += 60.0
            bar.update(bar.task_ids[0], completed=step, news="train 2.314, validation 2.411 bits/dim, 12.3 it/s")
        bar.refresh()
        with phase("validating"):
            bar.refresh()
    lines = shown(stream)
    assert any("5/4000" in line and "66:35:00 left" in line for line in lines)
    assert any("validating" in line and "5/4000" in line for line in lines)
    assert max(map(len, lines)) <= width
    if width == 120:
        assert any("bits/dim" in line and "spent" in line and "━" in line for line in lines)


def test_paths_and_advice_are_printed_as_they_are_on_one_line(monkeypatch):
    stream = terminal(monkeypatch, 40)
    for text in (
        f"done: {'x' * 60}/a[/b]/exp[old]. Next: ndm evaluate :smile: [bold]it[/bold]",
        "[/]",
        "é 1.5 'quoted'",
    ):
        progress.console.print(text)
        assert stream.getvalue().endswith(text + "\n")
    progress.console.print("64 of 64 samples in a\nndm: error: b\x1b[2J.npz")
    assert stream.getvalue().endswith("in a\\nndm: error: b\\x1b[2J.npz\n")


def test_a_colour_setting_does_not_make_a_log_a_terminal(capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setattr(progress, "console", progress.Messages())
    with progress_bar("training", 2):
        pass
    assert capsys.readouterr().err.startswith("training: 0 of 2\n")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run in a folder whose name looks like markup; its path, and what was printed."""
    torch.set_default_dtype(torch.float32)
    folder, stream = tmp_path_factory.mktemp("runs") / "a[/b] exp[old]", io.StringIO()
    before, sys.stderr = sys.stderr, stream
    every = ["--training.evaluate_every", "2", "--training.sample_every", "4", "--training.checkpoint_every", "4"]
    try:
        assert main(["train", "digits", "--out", str(folder), *TINY, *every]) == 0
    finally:
        sys.stderr = before
    return folder, stream.getvalue()


def test_training_in_a_log_names_its_phases_and_its_folder(run):
    folder, text = run
    assert text.startswith(f"{folder}: ") and text.endswith(f"Next: ndm evaluate {folder}\n")
    for line in ("step 0 of 4", "step 2 of 4, validating", "step 4 of 4, drawing samples", "step 4 of 4, writing a"):
        assert f"training: {line}" in text


COMMAND_LINES = [
    ["evaluate", "RUN", "--limit", "4", "--passes", "1", "--estimator", "bound", "--steps", "2", "--json"],
    ["sample", "RUN", "--num", "2", "--steps", "2", "--out", "x.npz"],
    ["doctor", "RUN", "--limit", "4", "--json"],
    ["quality", "RUN", "--num", "50", "--steps", "1", "--json"],
    ["train", "digits", "--out", "new", *TINY],
    ["train", "--resume", "RUN"],
]


@pytest.mark.parametrize("arguments", COMMAND_LINES, ids=lambda a: " ".join(a[:2]))
def test_quiet_leaves_the_results_only(arguments, run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main([str(run[0]) if a == "RUN" else a for a in arguments] + ["--quiet"]) == 0
    output = capsys.readouterr()
    assert output.err == ""
    if "--json" in arguments:
        json.loads(output.out)
    assert not console.quiet, "the next command in this process speaks again"


def test_quiet_is_for_every_command_that_talks_and_errors_and_warnings_stay(capsys, monkeypatch):
    for name in set(COMMANDS) - {"recipes"}:
        with pytest.raises(SystemExit):
            main([name, "--help"])
        assert "--quiet" in capsys.readouterr().out
    assert main(["evaluate", "/nowhere", "--quiet"]) == 2
    assert capsys.readouterr().err.startswith("ndm: error: /nowhere is not a run")
    monkeypatch.setattr(console, "quiet", True)
    warn("3 pictures are skipped: a[/b].png")
    assert capsys.readouterr().err == "ndm: warning: 3 pictures are skipped: a[/b].png\n" and console.quiet


EVERY = ("evaluate", "sample", "doctor", "quality")
MISTAKES = [
    (["train", "digits", "--training.step", "3"], "unknown option --training.step; did you mean --training.steps?"),
    (["train", "digits", "--steps", "3"], "unknown option --steps; did you mean --training.steps?"),
    (["train", "digits", "--batch-size=3"], "unknown option --batch-size; did you mean --training.batch_size?"),
    (["train", "digits", "--training.steps.x", "3"], "option --training.steps.x; did you mean --training.steps?"),
    (["train", "--resum", "RUN"], "unknown option --resum; did you mean --resume?"),
    (["evaluate", "RUN", "--limi", "3"], "unknown option --limi; did you mean --limit?"),
    (["evaluate", "RUN", "--data", "3"], "unknown option --data; did you mean --data.path?"),
    (["sample", "RUN", "--quie"], "unknown option --quie; did you mean --quiet?"),
    (["doctor", "RUN", "--xyzzy"], "unknown option --xyzzy"),
    (["recipes", "--json"], "unknown option --json; the options are --help"),
    (["quality", "RUN", "-n", "3"], "unknown option -n"),
    (["demo", "--step", "3"], "unknown option --step; did you mean --steps?"),
    *(([name, "RUN", "--seed", "-1"], "seed must not be negative") for name in EVERY),
    *(([name, "RUN", "--seed", str(2**64 + 1)], "seed must not be negative and must be below 2^63") for name in EVERY),
    (["demo", "--seed", str(2**63)], "seed must not be negative and must be below 2^63"),
    (["sample", "RUN", "--seed", "1.5"], "seed must be a whole number, got '1.5'"),
    (["sample", "RUN", "--seed", "9" * 5000], "has more than 308 digits"),
    (["sample", "RUN", "--num", "1e3"], "--num must be a whole number, got 1000.0"),
    (["evaluate", "RUN", "--limit", "0"], "--limit must be at least 1, got 0"),
    (["evaluate", "RUN", "--rtol", "-1"], "rtol and atol must not be negative"),
    (["evaluate", "RUN", "--rtol", "-1e-3"], "rtol and atol must not be negative, nor both 0; got -0.001"),
    (["evaluate", "RUN", "--rtol", "nan"], "rtol"),
    (["evaluate", "RUN", "--estimator", "foo"], "--estimator must be one of all, bound, ode, ode-uniform, got foo"),
    (["evaluate", "RUN", "--steps", "²"], "--steps takes positive whole numbers"),
    (["evaluate", "RUN", "--steps", ","], "--steps takes positive whole numbers"),
    (["train", "digits", "--training.steps=", "3"], "--training.steps must be a whole number, got nothing"),
    (["train", "digits", "--training.steps", "1:30"], "--training.steps must be a number, got 1:30"),
    (["train", "digits", "--model.fourier=[1:30]"], "--model.fourier must be a number, got 1:30"),
    (["sample", "RUN", "--num", "1:5"], "--num must be a number, got 1:5"),
    (["evaluate", "RUN", "--data.path", ""], "--data.path is empty; give a value, or leave it out"),
    (["train", "digits", "--init="], "--init is empty"),
    (["score", "", "x.csv"], "an argument is empty"),
    (["train", "digits", "--out", "a\0b"], r"the argument 'a\x00b' has a character that no file name has"),
    (["train", "digits", "--init", "a\ud800b"], r"the argument 'a\ud800b' has a character that no file name has"),
    (["train", "digits", "--training", __file__], "it is no YAML file of the settings training.*"),
    (["train", "/tmp"], "/tmp is a folder"),
    (["evaluate", "a[/b]"], "ndm: error: a[/b] is not a run folder"),
    (["evaluate", "RUN\nndm: error: forged"], r"RUN\nndm: error: forged is not a run folder"),
    (["evaluate", "RUN\x1b[2J"], r"RUN\x1b[2J is not a run folder"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "message"), MISTAKES, ids=lambda v: " ".join(v)[:40] if isinstance(v, list) else ""
)
def test_a_mistake_on_the_command_line_is_one_line_that_names_it(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and error.startswith("ndm: error: ") and message in error
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_solver_is_refused_before_anything_is_said_to_be_sampled(run, tmp_path, capsys):
    assert main(["sample", str(run[0]), "--solver", "magic", "--out", str(tmp_path / "x.npz")]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "unknown solver 'magic'" in error


def test_a_negative_number_with_an_exponent_is_a_value():
    assert COMMANDS["train"].parse(["digits", "--model.gamma_min", "-1e1"]).config.model.gamma_min == -10


@pytest.mark.parametrize("names", [("model/config.json",), ("a[/b]", None, "b"), ()])
def test_an_error_of_the_system_names_the_file_and_the_cause(names, monkeypatch, capsys):
    def fail(*_):
        raise OSError(13, "Permission denied", *names)

    monkeypatch.setattr("ndm.cli.run", fail)
    assert main(["recipes"]) == 2
    place = " -> ".join(name for name in names if name) or "input or output"
    assert capsys.readouterr().err == f"ndm: error: {place}: Permission denied\n"


@pytest.fixture
def ordinary_user():
    """The tests may run as root, who may read everything."""
    for command in (["evaluate", "/nowhere"], ["train", "/nowhere"], ["train", "digits", "--model", "/nowhere"]):
        main(command)  # everything is imported while it may be read
    if os.geteuid() == 0:
        os.seteuid(65534)
        try:
            if not os.path.exists(progress.__file__):
                pytest.skip("the package itself lies where only root may read")
            yield
        finally:
            os.seteuid(0)
    else:
        yield


CLOSED = [
    ["train", "DIR/recipe.yaml"],
    ["train", "--resume", "DIR"],
    ["evaluate", "DIR/run"],
    ["quality", "DIR/run"],
    ["train", "digits", "--model", "DIR/model.yaml"],
]


@pytest.mark.parametrize("arguments", CLOSED, ids=" ".join)
def test_what_may_not_be_read_is_not_called_missing(arguments, tmp_path_factory, capsys, request):
    folder = tmp_path_factory.mktemp("closed")
    folder.parent.chmod(0o755), folder.parent.parent.chmod(0o755)
    (folder / "recipe.yaml").write_text("seed: 1")
    folder.chmod(0)
    request.getfixturevalue("ordinary_user")
    capsys.readouterr()
    assert main([a.replace("DIR", str(folder)) for a in arguments]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and str(folder) in error and "ermission denied" in error


def test_the_reader_of_the_output_may_leave():
    """As ``ndm recipes | head -1`` does. 141 is what a shell reports for a program that SIGPIPE ended."""
    for arguments, stream in (["--help"], "stdout"), (["trian"], "stderr"):
        reading, writing = os.pipe()
        os.close(reading)
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, stream: writing}
        process = subprocess.run([*NDM, *arguments], **pipes, timeout=60, check=False)
        os.close(writing)
        assert process.returncode == (141 if stream == "stdout" else 2)
        assert not process.stdout and not process.stderr


def test_output_that_cannot_be_written_is_one_line():
    if not os.path.exists("/dev/full"):
        pytest.skip("there is no /dev/full")
    for arguments in (["--version"], ["train", "--help"]):
        with open("/dev/full", "w") as full:
            process = subprocess.run([*NDM, *arguments], stdout=full, stderr=subprocess.PIPE, text=True, check=False)
        assert (process.returncode, process.stderr) == (2, "ndm: error: input or output: No space left on device\n")


def test_a_run_goes_on_when_nobody_reads_its_messages(monkeypatch):
    """A closed terminal must not cost the steps since the last checkpoint."""
    reading, writing = os.pipe()
    os.close(reading)
    stream = os.fdopen(writing, "w")
    monkeypatch.setattr(sys, "stderr", stream)
    with progress_bar("training", 2):
        reached(1)
    console.print("done")
    stream.close()


def test_a_run_goes_on_when_its_messages_go_to_a_full_disk(monkeypatch):
    if not os.path.exists("/dev/full"):
        pytest.skip("there is no /dev/full")
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stderr", full)
        warn("not seen")
        with progress_bar("scoring", 2):
            reached(2)


def test_an_interrupt_during_the_imports_gives_no_traceback():
    """The interrupt comes while the command line itself, or torch, is imported."""
    for module in ("jsonargparse", "torch"):
        code = f"""
import signal, sys, importlib.abc
class Interrupt(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            signal.raise_signal(signal.SIGINT)
signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores interrupts
sys.meta_path.insert(0, Interrupt())
sys.argv = ["ndm", "evaluate", "/nowhere"]
import runpy
runpy.run_module("ndm", run_name="__main__")
"""
        process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
        assert (process.returncode, process.stdout, process.stderr) == (130, "", "")


@interruptible
@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_a_signal_ends_a_sampling_with_130_and_keeps_what_is_finished(number, finished_run, tmp_path):
    out = tmp_path / "x.npz"
    arguments = ["sample", str(finished_run), "--num", "1000000", "--steps", "2", "--out", str(out), "--device", "cpu"]
    process = Started("-m", "ndm", *arguments)
    while process.running and not any(line.startswith("sampling") for line in process.said()[1].splitlines()):
        time.sleep(0.1)
    time.sleep(1)
    process.signal(number)
    status, _, error = process.end()
    assert status == 130 and "interrupted" in error and "Traceback" not in error


def test_an_error_is_one_line_whatever_is_in_it(capsys):
    assert refuse("a name with\na line\x1b[2J and \u2028 more") == 2
    assert capsys.readouterr().err == "ndm: error: a name with\\na line\\x1b[2J and \\u2028 more\n"


def test_an_error_stream_that_the_program_has_closed_costs_no_work(monkeypatch):
    closed = io.StringIO()
    closed.close()
    monkeypatch.setattr(sys, "stderr", closed)
    with progress_bar("fitting", 2, unit="step"):
        reached(1)
    console.print("a message")
    warn("a warning")
