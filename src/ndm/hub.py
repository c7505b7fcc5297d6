"""Models by name: those that come with the package, and those on the Hugging Face Hub.

A name is one of

* the path of a folder that exists;
* the name of a model of the package, such as ``digits-tiny``, whose run is in the folder ``pretrained`` of the package;
* ``hf:user/model``, a repository on the Hub, which is downloaded into the cache of huggingface_hub.

A repository has the files of a model's folder or of a run's folder. Only the files in :data:`FILES` are downloaded.
None of them is unpickled, and nothing in them is run. huggingface_hub is imported only for a name on the Hub.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module, resources
from pathlib import Path
from typing import Any

from .errors import InputError
from .support.checks import shown
from .support.plain_yaml import read_yaml
from .version import __version__

PREFIX = "hf:"
"""What a name on the Hub begins with."""
REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}", re.ASCII)
"""A repository on the Hub: user/model."""
FILES = (
    "config.json", "model.safetensors", "config.yaml", "data.json", "schema.json", "evaluations.jsonl",
    "model/config.json", "model/model.safetensors", "model/training.json", "model/schema.json",
)  # fmt: skip
"""All files of a repository that are read: those of a model, or those of a run."""
WEIGHTS = ("model.safetensors", "model/model.safetensors")


def packaged() -> dict[str, Path]:
    """The folders of the runs that come with the package, by name."""
    folder = Path(str(resources.files("ndm") / "pretrained"))
    return {path.name: path for path in sorted(folder.glob("*")) if path.is_dir()}


def is_borrowed(name: str | Path) -> bool:
    """Whether a name is that of a model of the package or on the Hub, and not that of a folder which exists."""
    return not Path(name).exists() and (str(name).startswith(PREFIX) or str(name) in packaged())


def located(name: str | Path) -> Path:
    """The folder that a name stands for; see the beginning of this module. A repository is downloaded.

    Raises:
        InputError: if a repository cannot be downloaded. A folder that does not exist is returned as it is.
    """
    if not is_borrowed(name):
        return Path(name)
    if str(name) in packaged():
        return packaged()[str(name)]
    return download(str(name).removeprefix(PREFIX))


def located_or_on_hub(name: str | Path) -> Path:
    """The folder of :func:`located`. A text ``user/model`` that is no folder is a repository on the Hub, too.

    Raises:
        InputError: if a repository cannot be downloaded.
    """
    if isinstance(name, str) and REPOSITORY.fullmatch(name) and not Path(name).exists():
        try:
            return download(name)
        except InputError as error:
            raise InputError(f"there is no folder {name} here, and on the Hub: {error}") from None
    return located(name)


def check_repository(repository: str) -> None:
    """Refuse what is no name of a repository.

    Raises:
        InputError: with the form that it has.
    """
    bad = "--" in repository or ".." in repository or repository.endswith((".git", ".", "-"))
    if bad or not REPOSITORY.fullmatch(repository):
        raise InputError(f"a repository on the Hub has the form user/model, got {shown(repr(repository))}")


def download(repository: str) -> Path:
    """The folder with the files of a repository, which are in the cache afterwards.

    Without a connection it is the folder that was downloaded last.

    Raises:
        InputError: if huggingface_hub is missing, there is no such repository, it has no model of ndm or settings that
            name files of a machine, or the Hub does not answer.
    """
    check_repository(repository)
    api = client()
    with answering(repository):
        folder = Path(api.snapshot_download(repository, allow_patterns=list(FILES)))
    if not any((folder / name).is_file() for name in WEIGHTS):
        raise InputError(
            f"{repository} has no model of ndm, neither model.safetensors nor model/model.safetensors; choose another"
        )
    check_no_paths(folder, repository)
    return folder


def check_no_paths(folder: Path, repository: str) -> None:
    """Refuse settings that name files of a machine: they would be read from this one.

    Raises:
        InputError: if the settings do, or cannot be read.
    """
    settings = read_yaml(folder / "config.yaml") if (folder / "config.yaml").is_file() else None
    data = settings.get("data") if isinstance(settings, dict) else None
    named = isinstance(settings, dict) and settings.get("init") is not None
    if named or (isinstance(data, dict) and data.get("path") is not None):
        raise InputError(
            f"the config.yaml of {repository} names files of a machine (data.path or init), which ndm push never does; "
            "choose another"
        )


def upload(folder: Path, repository: str, private: bool = False) -> str:
    """Make a repository, unless it exists, and upload all files of a folder in one commit.

    Args:
        private: whether a new repository is visible to its owner only.

    Returns:
        The address of the repository.

    Raises:
        InputError: if huggingface_hub is missing, nobody is logged in, or the Hub refuses the repository or the files.
    """
    api = check_login(repository)
    from huggingface_hub import CommitOperationAdd

    files = sorted(path for path in folder.rglob("*") if path.is_file())
    added = [CommitOperationAdd(path.relative_to(folder).as_posix(), path) for path in files]
    with answering(repository):
        url = api.create_repo(repository, private=private, exist_ok=True)
        api.create_commit(repository, added, commit_message="Upload a model of ndm")
    return str(url)


def check_login(repository: str) -> Any:
    """The client of the Hub, if somebody is logged in and the repository has a name that is possible.

    Raises:
        InputError: if not, or if huggingface_hub is missing.
    """
    check_repository(repository)
    api = client()
    from huggingface_hub import get_token

    if get_token() is None:
        raise InputError("you are not logged in to the Hub; run hf auth login, or set HF_TOKEN to a token for writing")
    return api


def client() -> Any:
    """The client of the Hub. It reads HF_ENDPOINT, HF_TOKEN and HF_HOME.

    Raises:
        InputError: if huggingface_hub is missing.
    """
    try:
        return import_module("huggingface_hub").HfApi(library_name="ndm", library_version=__version__)
    except ImportError:
        raise InputError("the Hub needs huggingface_hub; run: pip install 'ndm[hub]'") from None


@contextmanager
def answering(repository: str) -> Iterator[None]:
    """Tell the errors of huggingface_hub in one line with what to do.

    Raises:
        InputError: naming the repository.
    """
    errors = import_module("huggingface_hub.errors")  # its HTTPError is of the library for HTTP that this version takes

    login = "hf auth login, or HF_TOKEN"
    try:
        yield
    except errors.GatedRepoError:
        raise InputError(f"{repository} needs your consent: give it on its page, and log in ({login})") from None
    except errors.RepositoryNotFoundError:
        raise InputError(
            f"there is no model {repository} that you may see; check the name, or log in ({login}) if it is private"
        ) from None
    except errors.LocalEntryNotFoundError:
        raise InputError(f"{repository} is not in the cache, and the Hub cannot be reached; try again later") from None
    except errors.HfHubHTTPError as error:
        status = getattr(error.response, "status_code", None)
        if status in (401, 403):
            raise InputError(f"the Hub does not let you write to {repository}; log in as its owner ({login})") from None
        reason = error.server_message or f"status {status}"
        raise InputError(f"the Hub refuses {repository}: {' '.join(reason.split())}") from None
    except (errors.HTTPError, OSError, ValueError) as error:
        raise InputError(f"the Hub cannot be used for {repository}: {' '.join(str(error).split())}") from None
