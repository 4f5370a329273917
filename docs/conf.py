"""Sphinx's settings: `sphinx-build -W docs build/docs` makes the site, without a network.

What follows from the code is made first, by the modules in `extensions/`: a page a statement, and the commands' help.
"""

import sys
from pathlib import Path

from gsgd import __version__

sys.path.insert(0, str(Path(__file__).parent / "extensions"))

project = "gsgd"
version = release = __version__
html_title = f"gsgd {__version__}"
extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "plain_docstrings",
    "statement_pages",
    "command_pages",
]
exclude_patterns = ["extensions", "theory/pictures"]

# Letters of formulas and quotes in claims stay as they are written.
smartquotes = False
myst_heading_anchors = 4
# Notebooks carry the output that they were committed with; a test runs them.
nb_execution_mode = "off"
nb_merge_streams = True

autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_default_options = {"members": True, "show-inheritance": True}
napoleon_numpy_docstring = False
napoleon_use_rtype = False
# Attributes are a list below the class, beside which properties stand with docstrings of their own.
napoleon_use_ivar = True
napoleon_custom_sections = [("Reference", "references_style")]
# Docstrings write code between single backticks.
default_role = "code"
add_module_names = False
python_use_unqualified_type_names = True
# Signatures with many arguments stand one argument a line.
python_maximum_signature_line_length = 88

html_theme = "furo"
html_static_path = ["static"]
html_css_files = ["wide-tables.css"]
html_theme_options = {"navigation_with_keys": True}
html_show_copyright = False
html_show_sourcelink = False
html_copy_source = False
