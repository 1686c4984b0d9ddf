"""What Sphinx has to know to make HTML of this documentation."""

import warnings
from configparser import ConfigParser
from pathlib import Path

from sqlalchemy.exc import SAWarning

# autodoc looks at the columns of mixins, which are no models.
warnings.filterwarnings("ignore", "Unmanaged access of declarative", SAWarning)

_setup = ConfigParser()
_setup.read(Path(__file__).resolve().parent.parent / "setup.cfg", encoding="utf-8")

project = _setup["metadata"]["name"]
author = _setup["metadata"]["author"]
copyright = author
release = version = _setup["metadata"]["version"]

extensions = ["sphinx.ext.autodoc"]
exclude_patterns = ["_build", "examples"]
# A reference to nowhere is an error, but for the names of other packages.
nitpicky = True
nitpick_ignore_regex = [("py:.*", "(?!pyramid_sqlalchemy_sessions).*")]
nitpick_ignore = [("py:class", "pyramid_sqlalchemy_sessions.model._Model")]
# `name` in a docstring is code.
default_role = "code"
autodoc_member_order = "bysource"
python_maximum_signature_line_length = 110
python_use_unqualified_type_names = True
html_theme = "alabaster"
html_theme_options = {
    "description": _setup["metadata"]["description"],
    "code_font_size": "0.8em",
    "page_width": "1160px",
    "sidebar_width": "250px",
}
html_static_path = ["_static"]
