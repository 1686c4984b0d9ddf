"""The database of the demo: one engine, and one dbsession per request."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Engine, inspect, select
from sqlalchemy.orm import Session

from .models import Base, Product, User

#: The users and their passwords, which the login page shows.
USERS = {"alice": "wonderland", "bob": "builder"}

#: The products: name, price in cents, stock.
PRODUCTS = [
    ("Desk lamp", 3490, 4),
    ("Notebook", 450, 12),
    ("Teapot", 2800, 3),
]


def includeme(config: Any) -> None:
    """Give every request a ``dbsession`` that pyramid_tm commits or rolls back."""
    config.include("pyramid_sqlalchemy_sessions.dbsession")
    config.include("pyramid_sqlalchemy_sessions.retry")
    prepare(config.registry["dbsession_factory"].kw["bind"])


class OutdatedDatabase(Exception):
    """The tables were made by another version of the demo."""


def prepare(engine: Engine) -> None:
    """Make the tables and what's in them, where they're missing."""
    check_tables(engine)
    Base.metadata.create_all(engine)
    with Session(engine) as dbsession, dbsession.begin():
        if dbsession.scalars(select(User).limit(1)).first() is None:
            for name, password in USERS.items():
                user = User(name=name)
                user.set_password(password)
                dbsession.add(user)
            for name, price, stock in PRODUCTS:
                dbsession.add(Product(name=name, price=price, stock=stock))


def check_tables(engine: Engine) -> None:
    """Raise OutdatedDatabase if a table lacks columns: the demo has no migrations."""
    inspector = inspect(engine)
    present = set(inspector.get_table_names())
    for table in Base.metadata.sorted_tables:
        if table.name in present:
            columns = {column["name"] for column in inspector.get_columns(table.name)}
            missing = [
                column.name for column in table.columns if column.name not in columns
            ]
            if missing:
                raise OutdatedDatabase(
                    f"the table {table.name!r} in {engine.url} was made by another"
                    f" version of this demo: it lacks {', '.join(missing)}. Delete the"
                    " SQLite file, or drop the demo's tables in any other database,"
                    " and start again: the demo makes new ones."
                )
