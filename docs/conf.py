"""The documentation site; `make docs` writes it to build/docs.

Its pages are the Markdown files of docs/, which read on GitHub as well: as they are read, links to README, source files
and folders become links within the site, and the lists of links of an index page become its table of contents. The API
and the command line are made from the code.
"""

import argparse
import dataclasses
import importlib
import os
import pkgutil
import re
from collections import defaultdict
from collections.abc import Iterator
from operator import attrgetter
from pathlib import Path

import sphinx.pycode
from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.util.docutils import SphinxDirective
from sphinx.util.rst import escape

import bigbigan
from bigbigan.cli import build_parser
from bigbigan.experiments import EXPERIMENTS

DOCS = Path(__file__).parent
ROOT = DOCS.parent


def modules() -> dict[str, list[str]]:
    """The modules of each package."""
    found: dict[str, list[str]] = defaultdict(list)
    for module in pkgutil.walk_packages(bigbigan.__path__, "bigbigan."):
        if not module.name.endswith("__main__"):
            found[module.name.rpartition(".")[0]].append(module.name)
    return found


project, author, version = "bigbigan", "bigbigan maintainers", bigbigan.__version__.split("+")[0]
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
]
exclude_patterns = ["pictures", "templates", "static", "extending_skeleton"]
templates_path = ["templates"]
nitpicky = True
# What the pages name must be there. Not so what signatures name: other projects' classes, and inner ones of ours.
nitpick_ignore_regex = [("py:class", ".*"), ("py:.*", r"(?!bigbigan\.).*")]
suppress_warnings = ["autosummary.import_cycle"]  # a package lists its own modules

myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 4  # as GitHub has them
autodoc_default_options = {"members": True, "undoc-members": True}
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autosummary_ignore_module_all = False
autosummary_context = {"children": modules()}
napoleon_use_ivar = True
add_module_names = False
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 88
toc_object_entries_show_parents = "hide"
copybutton_prompt_text = "$ "

html_theme = "sphinx_book_theme"
html_title = "bigbigan"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_math_renderer = "mathml"
html_show_copyright = html_show_sourcelink = False
html_theme_options = {
    "navbar_persistent": [],
    "use_download_button": False,
    "use_fullscreen_button": False,
    "show_toc_level": 2,
    "home_page_in_toc": False,
}


# Links: what they lead to on GitHub, and in the site.

PAGE_OF = {  # files of the root, and the pages that show them
    "README.md": "index",
    "CHANGELOG.md": "changelog",
    "CONTRIBUTING.md": "contributing",
    "SECURITY.md": "security",
}
INDEX_PAGES = ("index", "notes/README")
LINK = re.compile(r"(!?\[(?:`[^`]*`|[^\[\]`])*\])\(([^)\s]+)\)")


def site_links(text: str, folder: Path, page: Path) -> str:
    """Return Markdown written for `folder` with its links as they are from `page`'s folder; code is left alone."""
    parts = re.split(r"(^```.*?^```$)", text, flags=re.MULTILINE | re.DOTALL)
    parts[::2] = [LINK.sub(lambda link: _site_link(link, folder, page.parent), part) for part in parts[::2]]
    return "".join(parts)


def _site_link(link: re.Match[str], folder: Path, start: Path) -> str:
    label, (path, hashed, anchor) = link[1], link[2].partition("#")
    if not path or ":" in path:
        return link[0]
    target = (folder / path).resolve().relative_to(ROOT)
    if str(target) in PAGE_OF:
        return f"{label}({os.path.relpath(DOCS / PAGE_OF[str(target)], start)}.md{hashed}{anchor})"
    if target.is_relative_to("src/bigbigan"):
        return _reference(label[1:-1].strip("`"), ".".join(target.relative_to("src").with_suffix("").parts))
    if (ROOT / target).is_dir() or (target.suffix == ".md" and not target.is_relative_to("docs")):
        return label[1:-1]  # no page shows it
    return f"{label}({os.path.relpath(ROOT / target, start)}{hashed}{anchor})"


def _reference(label: str, module: str) -> str:
    """A role that leads to the function or class of that name, or else to its module."""
    module = module.removesuffix(".__init__")
    imported = importlib.import_module(module)
    if label.endswith(".py") or label.partition(".")[0] not in getattr(imported, "__all__", ()):
        return f"{{py:mod}}`{label} <{module}>`"
    found = attrgetter(label)(imported)
    return f"{{py:obj}}`{label} <{found.__module__}.{found.__qualname__}>`"


def contents(text: str) -> str:
    """Return the tables of contents of an index page: one for each heading, of the pages that its list links to."""
    found = []
    for caption, body in re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", text, flags=re.MULTILINE | re.DOTALL):
        pages = re.findall(r"^- \[[^\]]+\]\(([\w/]+)\.(?:md|rst)\)", body, flags=re.MULTILINE)
        found.append("\n".join(["```{toctree}", f":caption: {caption}", ":maxdepth: 1", ":hidden:", "", *pages, "```"]))
    return "\n\n".join(found)


def read(app, docname, source):
    page = DOCS / f"{docname}.md"
    if page.exists():
        toctrees = contents(source[0]) if docname in INDEX_PAGES else ""
        source[0] = f"{site_links(source[0], page.parent, page)}\n{toctrees}\n"


def include(app, path, docname, source):
    source[0] = site_links(source[0], (DOCS / path).resolve().parent, DOCS / docname)


# Docstrings: plain prose with `code`, and sections as Google has them.


PROSE: dict[str, list[str]] = {}


def prose(app, what, name, obj, options, lines):
    lines[:] = [_escaped(line) for line in lines]
    PROSE[name] = list(lines)
    if what == "module":  # drawings and columns stay as they are
        paragraphs = "\n".join(lines).split("\n\n")
        drawn = [bool(re.search(r"^    |\S {2,}\S", paragraph, re.MULTILINE)) for paragraph in paragraphs]
        lines[:] = "\n\n".join(
            "::\n\n" + re.sub("^", "    ", p.replace("\\", ""), flags=re.MULTILINE) if d else p
            for p, d in zip(paragraphs, drawn, strict=True)
        ).splitlines()


def signature(app, what, name, obj, options, arguments, returned):
    """A dataclass is described by its fields."""
    return ("", None) if what == "class" and dataclasses.is_dataclass(obj) else None


def comment(app, what, name, obj, options, lines):
    """A comment beside a field is all prose: napoleon would take what stands before a colon for a type."""
    if what in ("attribute", "property"):
        lines[:] = PROSE[name]


def _escaped(line: str) -> str:
    parts = line.split("`") if line.count("`") % 2 == 0 else [line]
    parts[::2] = [re.sub(r"[*|\\]|_(?!\w)", r"\\\g<0>", part) for part in parts[::2]]
    parts[1::2] = [f"``{code}``" for code in parts[1::2]]
    return "".join(parts)


def skip(app, what, name, obj, would_skip, options):
    """What a package takes from its modules is described there."""
    home = getattr(obj, "__module__", None)
    return True if what == "module" and home != app.env.current_document.get("autodoc:module", home) else None


class CommentedFields(sphinx.pycode.Parser):
    """Takes the comments beside and above the fields of a class for their description."""

    def __init__(self, code: str, encoding: str = "utf-8") -> None:
        super().__init__(re.sub(r"^(    (?:\w+: [^#\n]+  )?)# ", r"\1#: ", code, flags=re.MULTILINE), encoding)


sphinx.pycode.Parser = CommentedFields


# The command line, from its parser, and the experiments.


class CommandLine(SphinxDirective):
    def run(self) -> list[nodes.Node]:
        return self.parse_text_to_nodes("\n".join(_verb(build_parser())), allow_section_headings=True)


def _verb(parser: argparse.ArgumentParser) -> Iterator[str]:
    actions = [action for action in parser._actions if action.dest != "help"]
    for action in actions:
        if isinstance(action, argparse._SubParsersAction):
            for verb in action.choices.values():
                yield from _verb(verb)
            return
    formatter = parser._get_formatter()
    usage = parser.format_usage().removeprefix("usage: ").rstrip().replace("\n", "\n   ")
    yield from (parser.prog, "-" * len(parser.prog), "", escape(parser.description or ""), "")
    yield from (".. code-block:: text", "", f"   {usage}", "", f".. program:: {parser.prog}", "")
    for action in actions:
        yield f".. option:: {_invocation(action)}"
        yield from ("", f"   {escape(formatter._expand_help(action))}", "")


def _invocation(action: argparse.Action) -> str:
    value = action.metavar or ("|".join(map(str, action.choices)) if action.choices else action.dest.upper())
    if not action.option_strings:
        return str(value)
    return ", ".join(action.option_strings) + ("" if action.nargs == 0 else f" {value}")


class Experiments(SphinxDirective):
    def run(self) -> list[nodes.Node]:
        rows = [
            f"   * - ``{e.name}``\n     - {escape(e.summary)}\n     - {escape(e.table_row or '')}"
            for e in EXPERIMENTS.values()
        ]
        header = ".. list-table::\n   :header-rows: 1\n\n   * - experiment\n     - what it is\n     - row of a table\n"
        return self.parse_text_to_nodes(header + "\n".join(rows))


# Equations as MathML, which browsers draw by themselves.


def inline_math(self, node):
    self.body.append(_mathml(node.astext(), as_block=False))
    raise nodes.SkipNode


def math_block(self, node):
    self.body.append(f'<div class="equation">{_mathml(node.astext(), as_block=True)}</div>')
    raise nodes.SkipNode


def _mathml(tex: str, as_block: bool) -> str:
    return tex2mathml(tex.replace(r"\gt", ">").replace(r"\lt", "<"), as_block=as_block)


def setup(app):
    os.environ["COLUMNS"] = "88"  # of the usage lines
    app.connect("source-read", read)
    app.connect("include-read", include)
    app.connect("autodoc-process-docstring", prose, priority=400)  # before napoleon's
    app.connect("autodoc-process-docstring", comment, priority=600)
    app.connect("autodoc-process-signature", signature)
    app.connect("autodoc-skip-member", skip)
    app.add_directive("command-line", CommandLine)
    app.add_directive("experiments", Experiments)
    app.add_html_math_renderer("mathml", (inline_math, None), (math_block, None))
