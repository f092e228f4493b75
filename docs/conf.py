"""The documentation's site: `make docs` builds it into build/site, `make lint` with warnings as errors.

Sphinx, MyST and Furo are maintained (releases in 2026), free (BSD and MIT), and need no network, neither while they
build nor in the reader's browser. MkDocs has had no release since August 2024, and its theme Material ends with it.

The sources are the Markdown files as a forge shows them, from the repository's root on, with the README as the first
page. So one relative link serves both: to a page, it leads to the page; to a source file, to a copy of that file.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import token_vault

if TYPE_CHECKING:
    from sphinx.application import Sphinx

project = "idp-token-vault"
copyright = "The idp-token-vault authors, Apache-2.0"
version = release = token_vault.__version__

root_doc = "README"
include_patterns = ["*.md", "docs/**.md", "examples/README.md"]
exclude_patterns = [".*", "build", "dist", "**/node_modules"]  # never walked through
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]

myst_heading_anchors = 3  # `page.md#a-heading`, with the anchors that a forge gives
suppress_warnings = ["myst.xref_ambiguous"]

autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
nitpicky = True
nitpick_ignore = [
    ("py:class", "Secret"),  # a value that prints nothing; readers are given plain strings
    ("py:class", "AuditMode"),  # three words, which the arguments' text names
    # Python's own pages are not at hand while building.
    ("py:class", "collections.abc.Mapping"),
    ("py:class", "collections.abc.Sequence"),
    ("py:class", "datetime.datetime"),
]

# Its name carries the message of ``json.dumps``; the site needs the name alone.
token_vault.Token.__name__ = "Token"

html_theme = "furo"
html_title = f"{project} {version}"
html_additional_pages = {"index": "index.html"}
templates_path = ["_templates"]
html_copy_source = False
html_theme_options = {"navigation_with_keys": True}

# What the README's own reader does not need: the site's table of contents.
CONTENTS = """
```{toctree}
:hidden:
:caption: Guides

docs/operating
docs/addresses
docs/monitoring
docs/kubernetes
docs/http-api
docs/proxy
docs/spa
docs/hooks
docs/leaks
docs/moving
docs/adding-a-provider
examples/README
docs/faults
docs/mutants
docs/scale
docs/benchmarks
docs/matrix
```

```{toctree}
:hidden:
:caption: Reference

docs/api
docs/glossary
docs/threat-model
docs/log-events
docs/promises
docs/licenses
```

```{toctree}
:hidden:
:caption: Inside

docs/architecture
CONTRIBUTING
docs/adr/README
SECURITY
CHANGELOG
```
"""
DECISIONS = """
```{{toctree}}
:hidden:

{pages}
```
"""


def add_contents(_: Sphinx, page: str, source: list[str]) -> None:
    """Give the first page and the index of decisions their tables of contents."""
    if page == root_doc:
        source[0] += CONTENTS
    if page == "docs/adr/README":
        pages = sorted(file.stem for file in Path(__file__).parent.glob("adr/[0-9]*.md"))
        source[0] += DECISIONS.format(pages="\n".join(pages))


def setup(app: Sphinx) -> None:
    """Register the hook."""
    app.connect("source-read", add_contents)
