"""Model cards, and the upload of a model.

A card is the ``README.md`` of a repository on the Hub: a header of metadata, which the Hub reads, and sentences, which
people read. The estimates of a likelihood stand in both, each under the name of its estimator.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, NamedTuple

from .hub import check_login, upload
from .support.checks import require
from .support.files import write_whole
from .version import __version__

if TYPE_CHECKING:
    from .model import NDM

UNKNOWN = "unknown"
"""The licence of a model for which none is stated, as the Hub writes it."""
TAGS = ("diffusion", "neural-diffusion-model", "density-estimation")


class Result(NamedTuple):
    """An estimate of the likelihood, as the metadata of a card hold it."""

    data: str
    """The name of the data set."""
    split: str
    """The part of the data: test, validation or train."""
    metric: str
    """The unit: bits_per_dim or nats_per_row."""
    estimator: str
    value: float
    standard_error: float | None
    rows: int
    seed: int


def model_card(
    repository: str, sections: Sequence[str], license: str = UNKNOWN, task: str | None = None,
    results: Sequence[Result] = (),
) -> str:  # fmt: skip
    """The text of a card.

    Args:
        repository: the repository, user/model.
        sections: the parts of the text, in Markdown.
        license: the identifier that the Hub has for the licence, such as apache-2.0 or cc-by-4.0.
        task: the task of the Hub under which the model is listed.
        results: the estimates for the metadata.
    """
    from huggingface_hub import EvalResult, ModelCardData

    name = repository.rpartition("/")[2]
    found = [
        EvalResult(
            task_type="density-estimation",
            task_name="Density estimation",
            dataset_type=result.data,
            dataset_name=result.data,
            dataset_split=result.split,
            metric_type=result.metric,
            metric_name=result.estimator,
            metric_value=round(result.value, 4),
            metric_args={"standard_error": result.standard_error, "rows": result.rows, "seed": result.seed},
        )
        for result in results
    ]
    data = ModelCardData(
        license=license, library_name="ndm", tags=list(TAGS), pipeline_tag=task,
        model_name=name if found else None, eval_results=found or None,
    )  # fmt: skip
    return "\n\n".join([f"---\n{data.to_yaml()}\n---", f"# {name}", *(part.strip() for part in sections)]) + "\n"


def usage(repository: str, command: str | None = None) -> str:
    """The section that says how a model is used; ``command`` is a line for the shell."""
    shell = f"\n\nOn the command line:\n\n```\n{command}\n```" if command else ""
    return f"""## How to use

Run `pip install "ndm[hub]"`, and then in Python:

```python
import ndm

model = ndm.NDM.from_pretrained("{repository}")
x = ndm.sample(model, 16)
```{shell}

The weights are in a safetensors file, and nothing is unpickled."""


def parts_of(model: NDM) -> str:
    """The section that names the parts of a model."""
    process, predictor = model.process, model.predictor
    names = {
        "transform F": process.transform, "schedule": process.schedule, "predictor": predictor,
        "network of the predictor": getattr(predictor, "net", None), "decoder": model.decoder,
    }  # fmt: skip
    lines = [f"- {what}: `{type(part).__name__}`" for what, part in names.items() if part is not None]
    size = [f"- parameters: {model.num_parameters:,}", f"- shape of a sample: {model.shape}"]
    return "\n".join([f"## Model\n\nThis is a model of ndm {__version__}.\n", *lines, *size])


def check_license(license: str) -> None:
    """Refuse a licence without a name.

    Raises:
        InputError: with what to give.
    """
    require(bool(license.strip()), "the licence must have a name, such as apache-2.0, or be left out", repr(license))


def push_model(model: NDM, repository: str, private: bool = False, license: str = UNKNOWN) -> str:
    """Upload a model with a card; see :meth:`ndm.NDM.push_to_hub`."""
    check_license(license)
    check_login(repository)
    with TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        card = model_card(repository, [parts_of(model), usage(repository)], license)
        write_whole(Path(folder) / "README.md", card)
        return upload(Path(folder), repository, private)
