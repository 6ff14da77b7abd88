"""Configuration of the documentation site. `make docs` builds it; nothing is fetched from the network."""

import re
import sys
from importlib.metadata import version as installed_version
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE)]

import generate

project = "Pathology tile factory"
author = "The authors of the pathology tile factory"
copyright = "Apache-2.0. Synthetic images, not for diagnosis"
release = version = installed_version("pathology-tile-factory")

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "sphinx_design",
]
exclude_patterns = ["_build", "reference/tables"]
templates_path = []
source_suffix = {".md": "markdown"}

myst_enable_extensions = ["colon_fence", "deflist", "dollarmath", "fieldlist"]
myst_heading_anchors = 4
suppress_warnings = ["myst.xref_ambiguous"]

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
python_use_unqualified_type_names = True
add_module_names = False
default_role = "code"

html_theme = "pydata_sphinx_theme"
html_title = project
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sourcelink = False
html_copy_source = False
html_theme_options = {
    "logo": {"text": project},
    "navigation_with_keys": False,
    "show_nav_level": 1,
    "show_toc_level": 2,
    "header_links_before_dropdown": 8,
    "footer_start": ["copyright"],
    "footer_end": ["sphinx-version"],
    "secondary_sidebar_items": ["page-toc"],
    "pygments_light_style": "friendly",
    "pygments_dark_style": "monokai",
}
html_sidebars = {"index": [], "limitations": []}
copybutton_prompt_text = r"^\$ "
copybutton_prompt_is_regexp = True


def tidy_docstring(app, what, name, obj, options, lines):
    """Put each entry of a section on a line of its own, and keep ``|T|``, a size, from being read as markup."""
    names = "|".join(generate.names_of(obj))
    entry = re.compile(rf"(?<=\. )(?=(?:{names})(?:, (?:{names}))*: )")
    tidied = []
    for line in lines:
        text = line if "``" in line else line.replace("|", r"\|")
        indent = text[: len(text) - len(text.lstrip())]
        parts = entry.split(text) if names and indent else [text]
        tidied += [parts[0].rstrip(), *(indent[:4] + part.rstrip() for part in parts[1:])]
    lines[:] = tidied


def setup(app):
    """Write the generated pages before Sphinx looks for documents."""
    app.connect("autodoc-process-docstring", tidy_docstring, priority=100)  # before napoleon
    app.connect("config-inited", lambda app, config: generate.write_all(Path(app.srcdir)))
