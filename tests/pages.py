"""Pages of HTML for the tests of the report: a reader of its elements, and small runs to report on."""

import json
import re
from html.parser import HTMLParser

from ndm import NDM
from ndm.cli import main
from ndm.data import identity
from ndm.experiment import Run
from ndm.experiment.build import seeded_model
from ndm.experiment.recipe import read_config
from ndm.experiment.settings import make_config, named_settings
from ndm.experiment.snapshot import save_model
from ndm.saving import weights_checksum

VOID = {"meta", "img", "input", "br", "link", "hr"}


class Page(HTMLParser):
    """The elements and the text of a page. An element that is not closed in its place is an error."""

    def __init__(self, text):
        super().__init__()
        self.open, self.elements, self.pieces, self.source = [], [], [], text
        self.feed(text)
        self.close()
        assert not self.open, f"not closed: {self.open}"

    def handle_starttag(self, tag, attributes):
        names = [name for name, _ in attributes]
        assert len(set(names)) == len(names), f"an attribute of {tag} is given twice"
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag, f"{tag} is closed in the wrong place"

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("script", "style"):
            self.pieces.append(data)

    @property
    def text(self):
        """The text that a reader sees, with single spaces."""
        return " ".join(" ".join(self.pieces).split())

    def all(self, tag):
        """The attributes of all elements of a name."""
        return [attributes for name, attributes in self.elements if name == tag]

    def blocks(self):
        """The values of all blocks of JSON."""
        return [json.loads(block) for block in re.findall(r'type="application/json">(.*?)</script>', self.source)]


def report(*arguments):
    """The page that ``ndm report`` writes; the last argument is its file."""
    *runs, out = map(str, arguments)
    assert main(["report", *runs, "--out", out, "--device", "cpu", "--quiet"]) == 0
    with open(out, encoding="utf-8") as file:
        return Page(file.read())


def untrained(folder, recipe, estimates=(), **settings):
    """A run as a training of no steps would leave it, with estimates of its likelihood by their names; see `keep`."""
    tree = named_settings_of(recipe) | {"training.steps": 4, "model.width": 8, "model.depth": 1} | settings
    config = make_config(nested(tree))
    run = Run.create(folder, config)
    dataset = run.load_dataset()
    run.data_file.write_text(json.dumps(identity(dataset)))
    save_model(seeded_model(config, dataset).eval(), run.model_folder, config.training.steps)
    for step in (1, 2, 4):
        run.log({"step": step, "bpd": 5.0 / step, "validation_bpd": 6.0 / step, "gradient_norm": 1.0, "seconds": 0.1})
    if estimates:
        keep(run, estimates)
    return run


def keep(run, estimates, **facts):
    """Append estimates by their names to a run's file, as an evaluation of its finished model does.

    ``facts`` take the place of those of that evaluation: step, weights, weights_sha256, split and so on.
    """
    found = [
        {"estimator": name, "bpd": value, "standard_error": 0.0123, "nats": 1.5, "rows": 40, "samples": 3, "seed": 0,
         "nfe": 30.0}
        for name, value in estimates.items()
    ]  # fmt: skip
    checksum = weights_checksum(NDM.from_pretrained(run.model_folder))
    own = {"step": 4, "last_step": 4, "weights": "EMA", "weights_sha256": checksum, "split": "test", "dtype": "float32"}
    with run.evaluations_file.open("a") as file:
        file.write(json.dumps({**own, **facts, "estimates": found}) + "\n")


def named_settings_of(recipe):
    """The settings of a recipe by their full names."""
    from dataclasses import asdict

    return named_settings(asdict(read_config(recipe)))


def nested(tree):
    """Settings with full names as nested ones."""
    found = {}
    for name, value in tree.items():
        group, dot, key = name.partition(".")
        if dot:
            found.setdefault(group, {})[key] = value
        else:
            found[name] = value
    return found
