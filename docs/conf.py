"""What Sphinx has to know to make HTML of this documentation."""

import os
import runpy
import warnings
from configparser import ConfigParser
from pathlib import Path

from sqlalchemy.exc import SAWarning

import pyramid_sqlalchemy_sessions

# autodoc looks at the columns of mixins, which are no models.
warnings.filterwarnings("ignore", "Unmanaged access of declarative", SAWarning)

_root = Path(__file__).resolve().parent.parent
_setup = ConfigParser()
_setup.read(_root / "setup.cfg", encoding="utf-8")
_places = runpy.run_path(str(_root / "setup.py"))

project = _setup["metadata"]["name"]
author = _setup["metadata"]["author"]
copyright = author
release = version = pyramid_sqlalchemy_sessions.__version__

extensions = ["sphinx.ext.autodoc", "sphinx.ext.intersphinx"]
exclude_patterns = ["_build", "examples"]
# The build fetches nothing: these files name what our pages refer to. To refer to more,
# add a line. A reference to a name that they lack is shown without a link.
intersphinx_mapping = {
    name: (address, f"inventories/{name}.inv")
    for name, address in {
        "python": "https://docs.python.org/3",
        "pyramid": "https://docs.pylonsproject.org/projects/pyramid/en/latest",
        "sqlalchemy": "https://docs.sqlalchemy.org/en/20",
        "webob": "https://docs.pylonsproject.org/projects/webob/en/stable",
    }.items()
}
# A reference to nowhere is an error, but for the names of other packages.
nitpicky = True
nitpick_ignore_regex = [("py:.*", "(?!pyramid_sqlalchemy_sessions).*")]
nitpick_ignore = [("py:class", "pyramid_sqlalchemy_sessions.model._Model")]
# `name` in a docstring is code.
default_role = "code"
autodoc_member_order = "bysource"
python_maximum_signature_line_length = 110
python_use_unqualified_type_names = True
html_theme = "furo"
html_title = project
html_baseurl = os.environ.get("READTHEDOCS_CANONICAL_URL", _places["DOCUMENTATION"])
html_static_path = ["_static"]
html_css_files = ["custom.css"]
html_theme_options = {
    "source_repository": _places["REPOSITORY"],
    "source_branch": "main",
    "source_directory": "docs/",
}

#: Classes of SQLAlchemy by the name that autodoc finds, and by the documented one.
_documented_as = {
    "AsyncSession": "sqlalchemy.ext.asyncio.AsyncSession",
    "sqlalchemy.engine.base.Connection": "sqlalchemy.engine.Connection",
    "sqlalchemy.engine.base.Engine": "sqlalchemy.engine.Engine",
    "sqlalchemy.orm.decl_api.registry": "sqlalchemy.orm.registry",
    "sqlalchemy.orm.scoping.scoped_session": "sqlalchemy.orm.scoped_session",
    "sqlalchemy.orm.session.Session": "sqlalchemy.orm.Session",
    "sqlalchemy.orm.session.sessionmaker": "sqlalchemy.orm.sessionmaker",
    "sqlalchemy.sql.elements.ColumnElement": "sqlalchemy.sql.expression.ColumnElement",
}


def _rename(app, env, node, contnode):
    target = node.get("reftarget")
    node["reftarget"] = _documented_as.get(target, target)


def setup(app):
    """Let intersphinx, which comes after this, look for the documented names."""
    app.connect("missing-reference", _rename, priority=100)
