"""A project as pyramid-cookiecutter-starter makes it, and a reader of its steps."""

from __future__ import annotations

import contextlib
import importlib
import io
import re
import runpy
import shlex
import sys
import textwrap
from dataclasses import dataclass, field
from pathlib import Path
from unittest import mock

from pyramid.paster import get_app
from pyramid.threadlocal import manager as threadlocals

from pyramid_sqlalchemy_sessions import check, gc, secret

DOCS = Path(__file__).resolve().parent.parent.parent / "docs"
PAGES = {path.stem: path.read_text(encoding="utf-8") for path in DOCS.glob("*.rst")}


@dataclass
class Block:
    """A code block of a page."""

    page: str
    language: str
    options: dict[str, str] = field(default_factory=dict)
    text: str = ""

    @property
    def lines(self) -> list[str]:
        return self.text.splitlines()

    @property
    def new_lines(self) -> set[int]:
        """The numbers of the lines that are emphasized."""
        numbers: set[int] = set()
        for part in self.options.get("emphasize-lines", "").split(","):
            first, _, last = part.strip().partition("-")
            if first:
                numbers |= set(range(int(first), int(last or first) + 1))
        return numbers


def sample(name: str) -> str:
    """Return the text of an example."""
    return (DOCS / "examples" / name).read_text(encoding="utf-8")


def blocks(page: str) -> list[Block]:
    """Return the code blocks of a page, in its order."""
    found = []
    for match in re.finditer(
        r"^( *)\.\. code-block:: (\w+)\n((?:\1   :.*\n)*)\n((?:\1   .*\n|\n)+)",
        PAGES[page],
        re.MULTILINE,
    ):
        _, language, options, content = match.groups()
        pairs = re.findall(r":([\w-]+): (.*)", options)
        content = textwrap.dedent(content).strip("\n")
        found.append(Block(page, language, dict(pairs), content))
    return found


# The steps of "Getting started".

#: What the installation of the project adds.
INSTALLED = {
    "myproject.egg-info/PKG-INFO": """
Metadata-Version: 2.1
Name: myproject
Version: 0.0
""",
    "myproject.egg-info/entry_points.txt": """
[paste.app_factory]
main = myproject:main

[console_scripts]
initialize_myproject_db = myproject.scripts.initialize_db:main
""",
}

#: What matters of a project that was made by pyramid-cookiecutter-starter.
PROJECT = {
    "pyproject.toml": """
[build-system]
requires = ["setuptools>=61"]
build-backend = "setuptools.build_meta"

[project]
name = "myproject"
version = "0.0"
dependencies = [
    "plaster_pastedeploy",
    "pyramid",
    "pyramid_jinja2",
    "pyramid_debugtoolbar",
    "waitress",
    "alembic",
    "pyramid_retry",
    "pyramid_tm",
    "SQLAlchemy",
    "transaction",
    "zope.sqlalchemy",
]

[project.scripts]
initialize_myproject_db = "myproject.scripts.initialize_db:main"

[project.entry-points."paste.app_factory"]
main = "myproject:main"

[tool.setuptools.packages.find]
exclude = ["tests"]
""",
    "development.ini": """
[app:main]
use = egg:myproject

pyramid.reload_templates = true
pyramid.debug_authorization = false
pyramid.debug_notfound = false
pyramid.debug_routematch = false
pyramid.default_locale_name = en
pyramid.includes =
    pyramid_debugtoolbar

sqlalchemy.url = sqlite:///%(here)s/myproject.sqlite

retry.attempts = 3

[pshell]
setup = myproject.pshell.setup

[alembic]
script_location = myproject/alembic
file_template = %%(year)d%%(month).2d%%(day).2d_%%(rev)s

[server:main]
use = egg:waitress#main
listen = localhost:6543

[loggers]
keys = root

[handlers]
keys = console

[formatters]
keys = generic

[logger_root]
level = WARN
handlers = console

[handler_console]
class = StreamHandler
args = (sys.stderr,)
level = NOTSET
formatter = generic

[formatter_generic]
format = %(asctime)s %(levelname)-5.5s [%(name)s:%(lineno)s] %(message)s
""",
    "myproject/__init__.py": """
from pyramid.config import Configurator


def main(global_config, **settings):
    \"\"\" This function returns a Pyramid WSGI application.
    \"\"\"
    with Configurator(settings=settings) as config:
        config.include('pyramid_jinja2')
        config.include('.routes')
        config.include('.models')
        config.scan()
    return config.make_wsgi_app()
""",
    "myproject/routes.py": """
def includeme(config):
    config.add_static_view('static', 'static', cache_max_age=3600)
    config.add_route('home', '/')
""",
    "myproject/pshell.py": """
from . import models


def setup(env):
    request = env['request']

    # start a transaction
    request.tm.begin()

    # inject some vars into the shell builtins
    env['tm'] = request.tm
    env['dbsession'] = request.dbsession
    env['models'] = models
""",
    "myproject/static/theme.css": "",
    "myproject/templates/404.jinja2": "<h1>404 Page Not Found</h1>",
    "myproject/templates/mytemplate.jinja2": "<h1>{{ project }}: {{ one.name }}</h1>",
    "myproject/models/__init__.py": """
from sqlalchemy import engine_from_config
from sqlalchemy.orm import sessionmaker
from sqlalchemy.orm import configure_mappers
import zope.sqlalchemy

# Import or define all models here to ensure they are attached to the
# ``Base.metadata`` prior to any initialization routines.
from .mymodel import MyModel  # flake8: noqa

# Run ``configure_mappers`` after defining all of the models to ensure
# all relationships can be setup.
configure_mappers()


def get_engine(settings, prefix='sqlalchemy.'):
    return engine_from_config(settings, prefix)


def get_session_factory(engine):
    factory = sessionmaker()
    factory.configure(bind=engine)
    return factory


def get_tm_session(session_factory, transaction_manager, request=None):
    dbsession = session_factory(info={"request": request})
    zope.sqlalchemy.register(
        dbsession, transaction_manager=transaction_manager
    )
    return dbsession


def includeme(config):
    settings = config.get_settings()
    settings['tm.manager_hook'] = 'pyramid_tm.explicit_manager'

    # Use ``pyramid_tm`` to hook the transaction lifecycle to the request.
    config.include('pyramid_tm')

    # use pyramid_retry to retry a request when transient exceptions occur
    config.include('pyramid_retry')

    # hook to share the dbengine fixture in testing
    dbengine = settings.get('dbengine')
    if not dbengine:
        dbengine = get_engine(settings)

    session_factory = get_session_factory(dbengine)
    config.registry['dbsession_factory'] = session_factory

    # make request.dbsession available for use in Pyramid
    def dbsession(request):
        # hook to share the dbsession fixture in testing
        dbsession = request.environ.get('app.dbsession')
        if dbsession is None:
            # request.tm is the transaction manager used by pyramid_tm
            dbsession = get_tm_session(
                session_factory, request.tm, request=request
            )
        return dbsession

    config.add_request_method(dbsession, reify=True)
""",
    "myproject/models/meta.py": """
from sqlalchemy.orm import DeclarativeBase
from sqlalchemy.schema import MetaData

# Recommended naming convention used by Alembic, as various different database
# providers will autogenerate vastly different names making migrations more
# difficult. See: https://alembic.sqlalchemy.org/en/latest/naming.html
NAMING_CONVENTION = {
    "ix": "ix_%(column_0_label)s",
    "uq": "uq_%(table_name)s_%(column_0_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s"
}


class Base(DeclarativeBase):
    metadata = MetaData(naming_convention=NAMING_CONVENTION)
""",
    "myproject/models/mymodel.py": """
from typing import Optional

from sqlalchemy import Index, Text
from sqlalchemy.orm import Mapped, mapped_column

from .meta import Base


class MyModel(Base):
    __tablename__ = 'models'
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[Optional[str]] = mapped_column(Text)
    value: Mapped[Optional[int]]


Index('my_index', MyModel.name, unique=True, mysql_length=255)
""",
    "myproject/scripts/__init__.py": "",
    "myproject/scripts/initialize_db.py": """
import argparse
import sys

from pyramid.paster import bootstrap, setup_logging
from sqlalchemy.exc import OperationalError

from .. import models


def setup_models(dbsession):
    \"\"\"
    Add or update models / fixtures in the database.

    \"\"\"
    model = models.mymodel.MyModel(name='one', value=1)
    dbsession.add(model)


def parse_args(argv):
    parser = argparse.ArgumentParser()
    parser.add_argument(
        'config_uri',
        help='Configuration file, e.g., development.ini',
    )
    return parser.parse_args(argv[1:])


def main(argv=sys.argv):
    args = parse_args(argv)
    setup_logging(args.config_uri)
    env = bootstrap(args.config_uri)

    try:
        with env['request'].tm:
            dbsession = env['request'].dbsession
            setup_models(dbsession)
    except OperationalError:
        sys.exit('Pyramid is having a problem using your SQL database.')
""",
    "myproject/views/__init__.py": "",
    "myproject/views/default.py": """
from pyramid.view import view_config
from pyramid.response import Response
from sqlalchemy.exc import SQLAlchemyError

from .. import models


@view_config(route_name='home', renderer='myproject:templates/mytemplate.jinja2')
def my_view(request):
    try:
        query = request.dbsession.query(models.MyModel)
        one = query.filter(models.MyModel.name == 'one').one()
    except SQLAlchemyError:
        return Response('no database', content_type='text/plain', status=500)
    return {'one': one, 'project': 'myproject'}
""",
    "myproject/views/notfound.py": """
from pyramid.view import notfound_view_config


@notfound_view_config(renderer='myproject:templates/404.jinja2')
def notfound_view(request):
    request.response.status = 404
    return {}
""",
    "myproject/alembic/versions/README.txt": "Placeholder for alembic versions",
    "myproject/alembic/script.py.mako": '''"""${message}

Revision ID: ${up_revision}
Revises: ${down_revision | comma,n}
Create Date: ${create_date}

"""
from alembic import op
import sqlalchemy as sa
${imports if imports else ""}

# revision identifiers, used by Alembic.
revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}
branch_labels = ${repr(branch_labels)}
depends_on = ${repr(depends_on)}

def upgrade():
    ${upgrades if upgrades else "pass"}

def downgrade():
    ${downgrades if downgrades else "pass"}
''',
    "myproject/alembic/env.py": """
from alembic import context
from pyramid.paster import get_appsettings, setup_logging
from sqlalchemy import engine_from_config

from myproject.models.meta import Base

config = context.config

setup_logging(config.config_file_name)

settings = get_appsettings(config.config_file_name)
target_metadata = Base.metadata


def run_migrations_online():
    engine = engine_from_config(settings, prefix='sqlalchemy.')

    connection = engine.connect()
    context.configure(
        connection=connection,
        target_metadata=target_metadata
    )

    try:
        with context.begin_transaction():
            context.run_migrations()
    finally:
        connection.close()


run_migrations_online()
""",
}


def write_files(directory: Path, files: dict[str, str]) -> None:
    """Write files with these names and contents."""
    for name, content in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content.lstrip("\n"))


#: The commands of the library.
COMMANDS = {
    "pyramid_session_check": check.main,
    "pyramid_session_gc": gc.main,
    "pyramid_session_secret": secret.main,
}


class Reader:
    """Follows the steps in a project, without leaving this process."""

    def __init__(self, directory: Path):
        self.directory = directory
        self.output = ""
        self.app = None
        write_files(directory, PROJECT | INSTALLED)

    def follow(self, block: Block) -> None:
        """Do what a code block says."""
        if block.language == "sh":
            self.run_all(block.lines)
        elif "caption" in block.options:
            self.write(block)
        else:
            assert block.language == "text"

    def write(self, block: Block) -> None:
        """Make a file, or add the emphasized lines to one."""
        path = self.directory / block.options["caption"]
        # The key comes from the step before.
        new = block.text.replace("paste the key here", self.output.strip()).splitlines()
        if block.new_lines:
            old = path.read_text().splitlines()
            known = [line for i, line in enumerate(new, 1) if i not in block.new_lines]
            start = next(i for i, line in enumerate(old) if line.strip() == known[0])
            end = start + len(known)
            assert [line.strip() for line in old[start:end]] == known
            margin = old[start][: -len(known[0])]
            new = [*old[:start], *(margin + line for line in new), *old[end:]]
        else:
            assert not path.exists()
            path.parent.mkdir(exist_ok=True)
        path.write_text("\n".join(new) + "\n")

    def run_all(self, lines: list[str]) -> None:
        """Run the commands of a code block."""
        # What makes and installs the project has been done.
        if not lines[0].startswith("python3 -m venv"):
            for line in lines:
                self.run(line)

    def run(self, line: str) -> None:
        """Run a command, in this process."""
        command, *arguments = shlex.split(line)
        if command == "pip":
            package = "pyramid_sqlalchemy_sessions[fast,retry]>=1.0"
            assert arguments == ["install", package]
        elif command in COMMANDS:
            self.forget_modules()
            with contextlib.redirect_stdout(io.StringIO()) as output:
                status = COMMANDS[command](arguments)
            self.output = output.getvalue()
            assert not status, self.output
        elif command == "alembic":
            from alembic.config import main

            self.forget_modules()
            with contextlib.redirect_stdout(io.StringIO()):
                main(arguments)
        elif command == "initialize_myproject_db":
            self.forget_modules()
            script = importlib.import_module("myproject.scripts.initialize_db")
            script.main([command, *arguments])
            threadlocals.pop()  # the cookiecutter's script leaves it there
        elif command == "python":
            assert arguments[0] == "-m"
            self.forget_modules()
            with mock.patch.object(sys, "argv", arguments[1:]):
                runpy.run_module(arguments[1], run_name="__main__")
        else:
            assert command == "pserve"
            self.serve(*arguments)

    def serve(self, ini: str) -> None:
        """Start the application."""
        self.forget_modules()
        self.app = get_app(ini)

    def forget_modules(self) -> None:
        """Import the project anew, as another process would."""
        importlib.invalidate_caches()
        for name in [*sys.modules]:
            if name.partition(".")[0] == "myproject":
                del sys.modules[name]
