"""How the documentation is built: ``sphinx-build -W --keep-going docs site``.

Warnings are errors. Every link, every anchor and every name of the library in a docstring must resolve, so a page that
names something that no longer exists stops the build.
"""

from __future__ import annotations

import pydoc
import re
import shutil
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.ext.napoleon import Config as Napoleon
from sphinx.ext.napoleon import GoogleDocstring
from sphinx.util.nodes import make_refnode

import ndm

project = "ndm"
release = ndm.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.viewcode", "sphinx_copybutton"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = "ndm"
html_extra_path = ["llms.txt"]

myst_enable_extensions = ["dollarmath", "amsmath"]
myst_heading_anchors = 4

autodoc_member_order = "bysource"
autodoc_default_options = {"members": True, "show-inheritance": True, "ignore-module-all": True}
autodoc_typehints_format = "short"
viewcode_follow_imported_members = False
nitpicky = True
# The names of other libraries: the build needs no network, so that their documentation is not looked up.
nitpick_ignore_regex = [
    (r"py:.*", r"(torch|numpy|np|nn|pathlib|collections|typing|datetime|argparse|narwhals|nw|matplotlib)\..*"),
    (r"py:.*", r"(Tensor|Module|Path|Any|Sequence|Axes|Figure|Generator|Callable|Iterator|Mapping|ArgumentParser)"),
    (r"py:class", r"(Accelerator|Shape|list\[~typing\.Literal.*|dict\[str)"),
    (r"py:.*", r"ndm\.report\..*"),  # the report documents itself by --help
    (r"py:(class|obj)", r"ndm\..*\.(T|Part|Load|Step|Result|Layer|Nats)"),
    (r"py:.*", r"(rich|jsonargparse|accelerate|sklearn|functools|contextlib|abc|types|enum|os|io|threading|array)\..*"),
]

SOURCE = re.compile(r"src/(ndm/[\w/]+)\.py::([\w.]+)$")
"""The text of a link to a symbol of the source, such as ``src/ndm/process.py::ConditionalProcess.posterior``."""


def read_google_style(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Read the sections Args, Returns and Raises of a docstring, and make a list of its references.

    The extension napoleon reads the sections by itself, but it takes what stands before a colon in the docstring of an
    attribute for the attribute's type.
    """
    if "References:" in lines:
        first = lines.index("References:") + 1
        lines[first:] = [f"    * {line.strip()}" if line.strip() else "" for line in lines[first:]]
    kind = "object" if what in ("attribute", "data", "property") else what
    lines[:] = GoogleDocstring(list(lines), Napoleon(napoleon_use_ivar=True), app, kind, name, obj, options).lines()


def skip_plain_fields(app: Sphinx, what: str, name: str, obj: Any, skip: bool, options: Any) -> bool | None:
    """Skip the fields of named tuples of which nothing is said."""
    return True if str(getattr(obj, "__doc__", "")).startswith("Alias for field number") else None


def link_symbols(app: Sphinx, doctree: nodes.document) -> None:
    """Make a link to a symbol of the source, which opens the file on a code host, a link to the symbol's reference."""
    for link in list(doctree.findall(addnodes.download_reference)):
        named = SOURCE.match(link.astext())
        if named:
            target = f"{named[1].replace('/', '.')}.{named[2]}"
            document = app.env.docname
            reference = addnodes.pending_xref(
                "", refdomain="py", reftype="obj", reftarget=target, refdoc=document, refwarn=True
            )
            reference += link.children
            link.replace_self(reference)


def find_name(app: Sphinx, env: BuildEnvironment, node: addnodes.pending_xref, text: nodes.Element) -> Any:
    """Find a name where it is defined: ``ndm.NDM`` by importing it, and a bare name by its end if that is unique."""
    if node.get("refdomain") != "py":
        return None
    domain, target = env.get_domain("py"), node["reftarget"]
    kinds = domain.objtypes_for_role(node["reftype"]) or ()
    kinds = (*kinds, "property") if "attribute" in kinds else kinds
    known = {name: entry for name, entry in domain.objects.items() if entry.objtype in kinds}
    thing = pydoc.locate(target) if target.startswith("ndm.") else None
    end = "." + target.removeprefix("ndm.")
    home = f"{getattr(thing, '__module__', '')}.{getattr(thing, '__qualname__', '')}"
    found = [home] if home in known else [name for name in known if name.endswith(end)]
    if len(found) != 1:
        return None
    entry = known[found[0]]
    return make_refnode(app.builder, node["refdoc"], entry.docname, entry.node_id, text, found[0])


def copy_sources(app: Sphinx, error: Exception | None) -> None:
    """Put each page beside its HTML as Markdown, where ``llms.txt`` points to it."""
    if error is None and app.builder.format == "html":
        for document in app.env.found_docs:
            shutil.copyfile(app.env.doc2path(document), Path(app.outdir) / f"{document}.md")


def setup(app: Sphinx) -> None:
    app.connect("autodoc-process-docstring", read_google_style)
    app.connect("autodoc-skip-member", skip_plain_fields)
    app.connect("doctree-read", link_symbols, priority=400)
    app.connect("missing-reference", find_name)
    app.connect("build-finished", copy_sources)
