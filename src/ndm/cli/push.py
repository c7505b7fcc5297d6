"""``ndm push``: upload a run's model to the Hugging Face Hub, with a card that is made from the run."""

from __future__ import annotations

from pathlib import Path

from jsonargparse import ArgumentParser, Namespace

from .commands import COMMANDS, Command, parsed_by
from .common import check_own, hide_bars

DESCRIPTION = (
    "Upload a run's finished model to the Hugging Face Hub. The repository gets the model, the settings without the "
    "paths of this machine, what identifies the data, the estimates that ndm evaluate has kept, and a card with all of "
    "this, a picture of samples and how to use the model. The data, the checkpoints and the metrics are not uploaded; "
    "for a table, the names, the kinds and the categories of the columns are. It needs pip install 'ndm[hub]' and hf "
    "auth login. Example: ndm push runs/digits user/digits --license cc-by-4.0"
)


def make_parser() -> ArgumentParser:
    parser = ArgumentParser(prog="ndm push", exit_on_error=False, description=DESCRIPTION)
    parser.add_argument("run", type=Path, help="folder of the run")
    parser.add_argument("repository", type=str, help="the repository, user/model; it is made unless it exists")
    parser.add_argument(
        "--license",
        type=str,
        default="unknown",
        help="licence of the model as the Hub names it, such as apache-2.0 or cc-by-4.0",
    )
    parser.add_argument("--private", action="store_true", help="make a repository that only its owner sees")
    parser.add_argument(
        "--quiet", action="store_true", help="show no progress and no messages, only warnings and errors"
    )
    return parser


def run(args: Namespace) -> None:
    from ..experiment import Run
    from ..experiment.push import push_run

    check_own(args.run)
    hide_bars(args.quiet)
    print(push_run(Run.open(args.run), args.repository, args.license, args.private))


COMMANDS.add("push", Command("upload a trained model to the Hugging Face Hub", parsed_by(make_parser), run))
