"""Settings of Sphinx for the documentation site; `make docs` builds it.

The source folder is the repository, so that a link such as ``../configs/x.yaml`` means the same
here as on a code host: another page, or a copy of the file to read.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import generated
from jupyter_client import KernelManager

from deepfuse_d2.version import __version__

project = "deepfuse_d2"
version = release = __version__
copyright = "the authors of deepfuse_d2, Apache-2.0"
root_doc = "docs/index"
include_patterns = ["docs/**", "*.md", "datasets/README.md"]
# Folders that need not be walked through.
exclude_patterns = [".*", "build", "configs", "datasets/*/**", "deepfuse_d2", "output", "tests"]
extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_design",
]

# Pages, in Markdown. Links to headings are checked by the anchors that code hosts make.
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 4
# The tutorial keeps its outputs (tests run it); the gallery is drawn while the site is built.
nb_execution_mode = "force"
nb_execution_excludepatterns = ["docs/tutorial.ipynb"]
nb_execution_raise_on_error = True
nb_execution_timeout = 300
nb_execution_in_temp = True
nb_output_stderr = "remove"  # torch's warnings of its own deprecations
if hasattr(KernelManager, "transport_encryption"):  # without it, such a version warns
    KernelManager.transport_encryption.default_value = "auto"

# API reference, from docstrings
autodoc_default_options = {"members": True, "show-inheritance": True}
autodoc_member_order = "bysource"
autodoc_inherit_docstrings = False
default_role = "code"
highlight_language = "text"
autodoc_preserve_defaults = True
smartquotes = False
napoleon_numpy_docstring = False
python_maximum_signature_line_length = 88
toc_object_entries_show_parents = "hide"

html_theme = "pydata_sphinx_theme"
html_title = "deepfuse_d2"
html_static_path = ["static"]
html_css_files = ["deepfuse.css"]
html_extra_path = ["top"]  # index.html, which leads to docs/
html_show_sourcelink = False
html_sidebars = {f"docs/{page}": [] for page in ("index", "tutorial", "gallery")}
html_theme_options = {
    "logo": {"text": "deepfuse_d2"},
    "show_toc_level": 1,
    "header_links_before_dropdown": 6,
    "navigation_with_keys": False,
    "footer_start": ["copyright"],
    "footer_end": ["sphinx-version"],
}


def setup(app) -> None:
    app.connect("source-read", generated.fill_in)
