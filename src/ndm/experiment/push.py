"""Upload a run's model to the Hub, with a card that is made from the run.

A repository has the files of the run that sampling and scoring need: the settings, what identifies the data, the model
and its estimates. The data themselves, the checkpoints and the metrics stay, and so do the paths of this machine.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml

from ..evaluation.tables import markdown_table
from ..hub import check_login, upload
from ..model import NDM
from ..saving import weights_checksum
from ..sharing import UNKNOWN, Result, check_license, model_card, parts_of, usage
from ..support.checks import shown
from ..support.files import read_json, write_whole
from ..support.journal import read_lines
from ..support.program import command
from ..support.progress import warn
from .run import Run
from .settings import Config
from .snapshot import step_of_model

OWN = "digits", "gmm-digits", "ring", "moons", "checkerboard", "mnist", "cifar10"
"""The data sets that ndm has everywhere, so that it can sample into a picture of the right kind."""


def push_run(run: Run, repository: str, license: str = UNKNOWN, private: bool = False) -> str:
    """Upload a run's finished model with its card.

    Args:
        repository: the repository, user/model; it is made unless it exists.
        license: the identifier that the Hub has for the licence of the model.
        private: whether a new repository is visible to its owner only.

    Returns:
        The address of the repository.

    Raises:
        InputError: if the run's files cannot be read, the licence has no name, huggingface_hub is missing, nobody is
            logged in, or the Hub refuses the repository.
    """
    check_license(license)
    check_login(repository)
    with TemporaryDirectory() as name:
        folder = Path(name)
        fill(folder, run, repository, license)
        return upload(folder, repository, private)


def fill(folder: Path, run: Run, repository: str, license: str = UNKNOWN) -> None:
    """Write the files of the repository into an empty folder.

    Raises:
        InputError: if a file of the run cannot be read.
    """
    model = NDM.from_pretrained(run.model_folder)
    results = list(estimates_of(run, model))
    if not results:
        first = command(f"evaluate {run.folder}")
        warn(f"the card has no estimates, because none of this model are kept; run {first} first")
    for file in run.model_folder.glob("*"):
        if file.suffix in (".json", ".safetensors"):
            (folder / "model").mkdir(exist_ok=True)
            shutil.copyfile(file, folder / "model" / file.name)
    for name in ("data.json", "schema.json", "samples.png"):
        if (run.folder / name).is_file():
            shutil.copyfile(run.folder / name, folder / name)
    public_config(run.config).save(folder / "config.yaml")
    lines = [json.dumps({**record, "run": repository}) + "\n" for record, _ in results]
    write_whole(folder / "evaluations.jsonl", "".join(dict.fromkeys(lines)))
    write_whole(folder / "README.md", card_of(run, model, repository, license, [e for _, e in results]))


def public_config(config: Config) -> Config:
    """The config without the paths of this machine."""
    return replace(config, init=None, data=replace(config.data, path=None))


def estimates_of(run: Run, model: NDM) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """The records of the evaluations of exactly these weights, each with one of its estimates.

    Of several estimates of the same kind, the last one counts.
    """
    checksum, last = weights_checksum(model), {}
    for record in read_lines(run.evaluations_file, lambda line: isinstance(line, dict) and "estimates" in line):
        if record.get("weights_sha256") == checksum:
            for estimate in record["estimates"]:
                last[record["split"], estimate["estimator"], record["rows"]] = (record, record | estimate)
    yield from last.values()


def card_of(run: Run, model: NDM, repository: str, license: str, estimates: list[dict[str, Any]]) -> str:
    """The text of the card of a run."""
    config, table = run.config, (run.folder / "schema.json").is_file()
    image = (run.folder / "samples.png").is_file() and len(model.shape or ()) == 3
    command = f"ndm score hf:{repository} ROWS.csv --out scores.csv" if table else None
    if config.data.name in OWN:
        command = f"ndm sample hf:{repository} --num 64 --out samples.png"
    step = step_of_model(run.model_folder, [], config.training.steps)
    trained = f"The weights are the average after step {step} of {config.training.steps}, from seed {config.seed}."
    if config.training.patience:
        trained += " This step has the best bound on validation rows."
    sections = [
        config.description, trained, parts_of(model), usage(repository, command), data_section(run),
        estimates_section(estimates, table),
    ]  # fmt: skip
    if (run.folder / "samples.png").is_file():
        sections.append("## Samples\n\n![Samples of the model](samples.png)")
    if (run.folder / "samples.txt").is_file():
        text = (run.folder / "samples.txt").read_text(encoding="utf-8")[:2000].replace("```", "'''")
        sections.append(f"## Samples\n\n```\n{text}\n```")
    settings = yaml.safe_dump(asdict(public_config(config)), sort_keys=False)
    sections.append(f"## Settings\n\n```yaml\n{settings}```")
    unit = "nats_per_row" if table else "bits_per_dim"
    results = [
        Result(config.data.name, e["split"], unit, e["estimator"], *figures(e, table), e["rows"], e["seed"])
        for e in estimates
    ]
    return model_card(repository, sections, license, "unconditional-image-generation" if image else None, results)


def data_section(run: Run) -> str:
    """The section on the data, from the record of what the run was trained on."""
    known = read_json(run.data_file)
    facts = [[str(key), f"`{shown(value, 200)}`"] for key, value in known.items()] if isinstance(known, dict) else []
    return f"## Data\n\nThe run was trained on `{run.config.data.name}`.\n\n{markdown_table(['fact', 'value'], facts)}"


def estimates_section(estimates: list[dict[str, Any]], table: bool) -> str:
    """The section on the likelihood: every number has its estimator, error, rows and weights."""
    if not estimates:
        return "## Estimates\n\nNo likelihood of this model has been estimated."
    unit = "-log p, nats/row" if table else "bits/dim"
    rows = []
    for e in estimates:
        value, error = figures(e, table)
        known = "" if error is None else f"{error:.3f}"
        rows.append([e["estimator"], f"{value:.3f}", known, e["split"], str(e["rows"]), str(e["seed"]), e["dtype"]])
    text = markdown_table(["estimator", unit, "s.e.", "rows of", "n", "seed", "dtype"], rows)
    return (
        f"## Estimates\n\n{text}\nThe data are: {estimates[-1]['release']}. The weights are the averaged ones. The "
        "standard error is over rows. A bound is an upper limit of the negative log-likelihood."
    )


def figures(e: dict[str, Any], table: bool) -> tuple[float, float | None]:
    """An estimate and its standard error: in nats per row for a table, else in bits per dimension."""
    if not table:
        return e["bpd"], e["standard_error"]
    factor = e["nats"] / e["bpd"] if e["bpd"] else 1.0  # the error is kept in bits per dimension
    return e["nats"], None if e["standard_error"] is None else e["standard_error"] * factor
