"""Sphinx settings. The build needs no network: no intersphinx, no remote assets."""

from __future__ import annotations

import sys
from importlib.metadata import version as installed_version
from pathlib import Path

# The directives of this documentation live beside it.
sys.path.insert(0, str(Path(__file__).parent / "_extensions"))

project = "quantsim"
author = "the quantsim authors"
project_copyright = "the quantsim authors; Apache-2.0"
release = version = installed_version("quantsim")

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "tables_from_code",
    "float_formats",
    "optical",
]
exclude_patterns = ["_build", "_extensions", "results"]  # results are included by the pages that show them
source_suffix = {".md": "markdown", ".rst": "restructuredtext"}

myst_enable_extensions = ["colon_fence", "deflist", "fieldlist"]
myst_heading_anchors = 3

autodoc_default_options = {"members": True, "show-inheritance": True, "member-order": "bysource"}
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented_params"
# torch's own docstrings are not ours to render.
autodoc_inherit_docstrings = False
autodoc_preserve_defaults = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False
# Quoting a name in single backticks is how this project marks code in docstrings.
default_role = "code"

html_theme = "furo"
html_title = f"quantsim {release}"
html_show_sourcelink = False
html_copy_source = False
templates_path: list[str] = []
html_static_path: list[str] = []
