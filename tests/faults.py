# ruff: noqa: E501
"""What strangers did with version 0.1.0, and the tests that fail there and pass now: a test that cannot fail is a defect.

A row names the kind of fault, what a user did, and the tests of it. The script runs the tests on the source of 0.1.0,
where each must fail, and on the present source, where each must pass. It prints a line per row with the way in which the
first test failed on 0.1.0. A test that fails there because a module, or a name of ours, did not exist yet proves
nothing, and neither does one that fails before it begins. tests/test_house.py checks that every test exists.

    python tests/faults.py [word]      # only rows whose text contains the word

The ends of what is promised, the oldest versions of all dependencies, are a command of their own: benchmarks/minimums.py.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ET
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
BEFORE = "67f1d22"
"""The revision of version 0.1.0."""
PROVES_NOTHING = re.compile(r"ImportError|ModuleNotFoundError|module 'ndm[\w.]*' has no attribute")


class Row(NamedTuple):
    section: str
    did: str
    file: str
    tests: str
    """Names of tests, separated by spaces; with all their parameters, unless one is given in brackets."""

    @property
    def patterns(self) -> list[str]:
        return [part.strip() for part in self.tests.split(";")]


N, D, F, P = "test_stranger_numbers", "test_stranger_data", "test_stranger_files", "test_stranger_pictures"
NUMBERS, DATA, HANDS, LATE = "1 wrong numbers", "2 data lost", "3 two hands", "4 checks too late"
FILES, TRACEBACKS, TERMINAL, PICTURES = "5 hostile files", "6 tracebacks", "7 the terminal", "8 pictures"
ROWS = [
    Row(*row)
    for row in (
        (NUMBERS, "gamma_min -60 and -40 in float32", N, "a_schedule_below_the_resolution_is_evaluated_right_or_refused"),
        (NUMBERS, "a bound of 1e6 and of 1e7 steps", N, "a_bound_of_very_many_steps_is_right_or_refused; ten_million_steps_on_the_command_line_are_no_nan"),
        (NUMBERS, "one NaN weight: sample --mode, evaluate, doctor, quality", N, "no_command_ends_well_on_one_nan_among_the_weights"),
        (NUMBERS, "log_prob and samples of a model in training mode with dropout", N, "dropout_of_a_model_in_training_mode_makes_no_random_likelihood_or_samples"),
        (NUMBERS, "rows that only broadcast to a mean per channel", N, "rows_that_only_broadcast_to_a_mean_per_channel_are_refused"),
        (NUMBERS, "a Network whose net gives (B, 1)", N, "a_transform_whose_network_gives_one_column_is_refused"),
        (NUMBERS, "z of another shape in posterior and velocity", N, "latents_that_only_broadcast_are_refused"),
        (NUMBERS, "a field (B, 1) in solve_ode", N, "a_field_that_only_broadcasts_is_refused"),
        (NUMBERS, "a mean of time stamps in float64", N, "the_mean_of_time_stamps_keeps_its_digits"),
        (NUMBERS, "statistics of NaN, infinity, one row, a column with NaN", N, "the_cause_of_useless_statistics_is_named"),
        (NUMBERS, "bound(steps=2.5), complex x, '-7', 2.5 levels, no steps, depth -1, start=nan", N, "arguments_that_make_no_sense_are_refused"),
        (NUMBERS, "uint8 data of 256 levels", N, "uint8_pictures_of_256_levels_are_encoded"),
        (NUMBERS, "quality --samples of x/16 and up to 640", N, "samples_in_other_units_are_not_scored"),
        (NUMBERS, "figures of the doctor without error and rows, another bound", N, "the_doctor_says_how_certain_its_figures_are_and_has_the_bound_of_evaluate"),
        (DATA, "pictures with an alpha channel", D, "hidden_colours_of_transparent_pictures_do_not_appear"),
        (DATA, "a linked class folder", D, "a_linked_class_folder_is_read"),
        (DATA, "a folder that may not be read", D, "a_folder_that_may_not_be_read_is_counted_or_refused"),
        (DATA, ".avif, .jfif and .jp2", D, "pictures_of_every_suffix_are_read_or_refused"),
        (DATA, "refuse that skips; files that are not counted", D, "refuse_means_refuse; what_is_not_used_is_counted_in_the_release"),
        (DATA, "x_val in an archive", D, "x_val_of_an_archive_validates"),
        (DATA, "48-bit colour", D, "48_bit_colour_is_not_cut_in_silence"),
        (DATA, "a pipe and a device in the folder", D, "a_pipe_or_a_device_in_the_folder_is_named"),
        (DATA, "an oversized picture, an unknown layout, an object array", D, "the_cause_is_named_and_not_called_damage"),
        (DATA, "two processes of one number build one cache", D, "two_loaders_of_one_number_have_whole_rows"),
        (DATA, "a flipped byte in the cache", D, "a_flipped_byte_in_the_cache_is_noticed"),
        (DATA, "touch on the source", D, "touching_the_source_leaves_one_copy"),
        (DATA, "the same bytes under another name", D, "the_same_bytes_under_another_name_are_the_same_data"),
        (HANDS, "train --resume of a run that trains", F, "a_run_that_trains_is_not_touched_by_others[resumed]"),
        (HANDS, "train --overwrite of a run that trains", F, "a_run_that_trains_is_not_touched_by_others[overwritten]"),
        (LATE, "quality of a run of 60 pictures", N, "the_quality_of_a_run_of_sixty_pictures_is_refused_before_sampling"),
        (LATE, "evaluate, doctor and quality in a run that may not be written", N, "a_result_that_cannot_be_kept_is_printed"),
        (LATE, "sample --out where nothing may be written", N, "samples_that_cannot_be_written_are_not_drawn"),
        (LATE, "Ctrl-C in sample", N, "ctrl_c_keeps_the_samples_that_are_finished"),
        (LATE, "sample over an existing file", N, "a_file_that_samples_replace_is_named"),
        (LATE, "log_prob of 3x32x32 rows", N, "the_likelihood_of_a_picture_of_32_x_32_is_bounded_in_memory_or_refused"),
        (LATE, "evaluate a half-trained run", N, "figures_of_a_half_trained_model_say_so"),
        (FILES, "config.json of gigabytes, type [], deep nesting, data.json, fp8, int32, bool, flipped bytes", F, "a_hostile_run_is_one_line_in_bounded_memory"),
        (FILES, "complex weights", F, "complex_weights_are_one_line"),
        (FILES, "a checkpoint that lacks tensors", F, "a_checkpoint_that_lacks_tensors_is_one_line"),
        (FILES, "an alias bomb in YAML", F, "yaml_that_multiplies_itself_is_refused"),
        (FILES, "a 6 MB archive that claims 1.3 GB", D, "a_small_archive_that_claims_gigabytes_takes_no_memory"),
        (FILES, "13,000 x 13,000 pixels", D, "a_picture_of_13000_x_13000_pixels_is_refused_by_its_header"),
        (FILES, "a foreign line in metrics.jsonl", F, "foreign_lines_in_the_metrics_do_not_stop_a_training"),
        (FILES, "a foreign line in a journal", F, "foreign_lines_in_the_journal_of_an_evaluation_are_passed_over"),
        (FILES, "step-² among the checkpoints", F, "a_folder_called_step_squared_is_no_checkpoint"),
        (FILES, "malformed headers of arrays", D, "a_malformed_header_of_an_array_is_one_line"),
        (FILES, "a newline in a bad picture's name", D, "a_newline_in_the_name_of_a_bad_picture_forges_no_line"),
        (TRACEBACKS, "float64 and NumPy rows", F, "rows_in_float64_or_of_numpy_have_the_figures_of_float32"),
        (TRACEBACKS, "wrong D, sample(m, (3,)), an integer generator, DataParallel", F, "a_call_that_cannot_be_is_one_line"),
        (TRACEBACKS, "torch.inference_mode()", F, "inference_mode_has_likelihoods"),
        (TRACEBACKS, "threads with a Network transform", F, "threads_may_share_a_model_with_a_network_for_its_transform"),
        (TRACEBACKS, "seeds below 0 and above 2^64 in every command", F, "a_seed_that_no_generator_has_is_refused"),
        (TRACEBACKS, "HOME unset without an account", F, "a_user_without_home_and_account_gets_a_cache"),
        (TRACEBACKS, "paths that look like markup", F, "a_folder_whose_name_looks_like_markup_is_printed_as_it_is"),
        (TRACEBACKS, "ndm recipes | head -1", F, "the_reader_of_the_recipes_may_leave"),
        (TRACEBACKS, "Ctrl-C during the imports", F, "ctrl_c_during_the_imports_leaves_no_traceback"),
        (TRACEBACKS, "a full disk", F, "a_full_disk_is_told_with_the_files_name_and_leaves_no_half_picture"),
        (TRACEBACKS, "weights written 0600", F, "weights_have_the_permissions_of_the_umask"),
        (TRACEBACKS, "permission errors told as missing files", F, "a_permission_is_not_called_a_missing_file"),
        (TERMINAL, "nothing in a log between the first line and the last", P, "a_training_in_a_log_prints_lines_between_the_first_and_the_last"),
        (TERMINAL, "paths and advice at 80 columns", P, "paths_and_advice_do_not_break_at_80_columns"),
        (TERMINAL, "60 columns", P, "at_60_columns_the_step_and_the_time_left_are_shown"),
        (TERMINAL, "validation and sampling stall the bar", P, "what_stalls_the_bar_has_a_name"),
        (TERMINAL, "no quiet mode", P, "there_is_a_quiet_mode"),
        (TERMINAL, "--training.step, and no guess", P, "a_misspelt_option_is_refused_with_the_right_one"),
        (TERMINAL, "--help takes five seconds", P, "help_does_not_wait_for_torch"),
        (PICTURES, "a grid of 64-pixel and of small samples", P, "every_pixel_of_a_sample_is_in_the_grid_at_a_whole_number_scale"),
        (PICTURES, "samples.png without run, steps, solver and data", P, "a_picture_of_samples_names_run_step_and_solver_and_has_data_beside"),
        (PICTURES, "transform.png", P, "the_transform_has_exact_times_and_a_colour_bar"),
        (PICTURES, "trajectories.png", P, "trajectories_name_axes_and_colours_and_the_legend_is_off_the_data"),
        (PICTURES, "doctor.png", P, "the_picture_of_the_doctor_names_the_run_and_its_units"),
        (PICTURES, "a toy", P, "a_toy_shows_as_many_data_as_samples_and_the_exact_density"),
    )
]  # fmt: skip


def ids(row: Row) -> list[str]:
    """The tests of a row, as pytest names them."""
    return [f"tests/{row.file}.py::test_{name}" for name in row.patterns]


def outcomes(source: Path, tests: Iterable[str]) -> dict[str, tuple[str, str]]:
    """For the tests of a file, with each of their parameters: passed, failed, skipped or error, and the error's line."""
    found: dict[str, tuple[str, str]] = {}
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(source), "PYTHONDONTWRITEBYTECODE": "1"}
    chosen = sorted(set(tests))
    (file,) = {test.partition("::")[0] for test in chosen}
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider", "--tb=short"]
        command += ["-W", "ignore", f"--junitxml={report}", *chosen]
        result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        if not report.is_file():
            raise SystemExit(f"pytest did not run: {result.stdout[-500:]}")
        for case in ET.parse(report).iter("testcase"):
            kinds = [child for child in case if child.tag in ("failure", "error", "skipped")]
            kind = {"failure": "failed"}.get(kinds[0].tag, kinds[0].tag) if kinds else "passed"
            found[f"{file}::{case.get('name')}"] = (kind, last_line(kinds[0].text or "") if kinds else "")
    return found


def last_line(text: str) -> str:
    """The line that says what went wrong at last: of those that pytest marks with E, the last that names an error."""
    lines = [line[1:].strip() for line in text.splitlines() if line.startswith("E ")]
    named = [line for line in lines if re.match(r"[\w.]*(Error|Exception|Failed|Interrupt|Exit)\b", line)]
    return named[-1] if named else (lines or text.strip().splitlines() or ["no message"])[0]


def cases(test: str, found: dict[str, tuple[str, str]]) -> dict[str, tuple[str, str]]:
    """The outcomes of a test with each of its parameters."""
    return {name: outcome for name, outcome in found.items() if name == test or name.startswith(f"{test}[")}


def fault(before: dict[str, tuple[str, str]], now: dict[str, tuple[str, str]]) -> str:
    """What is wrong with the cases of a row; empty if they fail before and pass now."""
    for name, (kind, text) in before.items():
        if kind != "failed" and not (kind == "skipped" and now[name][0] == "skipped"):
            return f"{name} {kind} on 0.1.0: {text}"
        if PROVES_NOTHING.search(text):
            return f"{name} proves nothing: {text}"
    for name, (kind, text) in now.items():
        if kind not in ("passed", "skipped"):
            return f"{name} {kind} now: {text}"
    return "" if before and before.keys() == now.keys() else "no such tests"


def tell(row: Row, before: dict[str, tuple[str, str]], now: dict[str, tuple[str, str]]) -> bool:
    """Print the line of a row, and say whether its fault is shown."""
    old = {name: outcome for test in ids(row) for name, outcome in cases(test, before).items()}
    new = {name: outcome for test in ids(row) for name, outcome in cases(test, now).items()}
    problem = fault(old, new)
    way = problem or next((text for kind, text in old.values() if kind == "failed"), "skipped")
    print(f"{'NOT SHOWN' if problem else 'shown    '}  {row.section}: {row.did} ({len(old)}): {way[:200]}", flush=True)
    return not problem


def main() -> int:
    word = sys.argv[1] if len(sys.argv) > 1 else ""
    chosen = [row for row in ROWS if word in f"{row.section} {row.did} {row.tests}"]
    wrong = 0
    with tempfile.TemporaryDirectory() as folder:
        archive = subprocess.run(["git", "archive", BEFORE, "src"], cwd=ROOT, capture_output=True, check=True).stdout
        subprocess.run(["tar", "x", "-C", folder], input=archive, check=True)
        for file in sorted({row.file for row in chosen}):
            rows = [row for row in chosen if row.file == file]
            tests = [test for row in rows for test in ids(row)]
            before, now = outcomes(Path(folder) / "src", tests), outcomes(ROOT / "src", tests)
            wrong += sum(not tell(row, before, now) for row in rows)
    print(f"{len(chosen) - wrong} of {len(chosen)} faults of 0.1.0 are shown there and gone now")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
