"""Questions about the mapping of a model."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from sqlalchemy import JSON
from sqlalchemy import inspect as sqlalchemy_inspect
from sqlalchemy.exc import NoInspectionAvailable, NoReferenceError
from sqlalchemy.orm import Mapper

from .exceptions import ConfigurationError

__all__ = ["column_of", "mapper_of", "python_type", "refuse_json"]


def python_type(column: Any) -> Any:
    try:
        return column.type.python_type
    except NotImplementedError:
        return None


def mapper_of(model_class: type) -> Mapper[Any]:
    try:
        mapper: Mapper[Any] = sqlalchemy_inspect(model_class)
    except NoInspectionAvailable as exc:
        raise ConfigurationError(
            f"the model {model_class.__qualname__} is not mapped; it must be a"
            " class that has BaseMixin and a declarative base among its bases, and a"
            " __tablename__"
        ) from exc
    return mapper


def column_of(mapper: Mapper[Any], name: str) -> Any:
    column = mapper.columns.get(name)
    if column is None or column.table is not mapper.local_table:
        raise ConfigurationError(
            f"the model {mapper.class_.__qualname__} must map {name!r} to a column of"
            " its own table"
        )
    return column


def refuse_json(model_class: type, column: Any, remedy: str) -> None:
    """Raise ConfigurationError if the column is of the type JSON."""
    if isinstance(column.type, JSON):
        raise ConfigurationError(
            f"the column {column.key!r} of the model {model_class.__qualname__} is of"
            f" the type JSON: {remedy}"
        )


def owners_of(mapper: Mapper[Any]) -> set[Any]:
    """Return the tables whose deletions may also delete rows of the model.

    Those are its own, and all that foreign keys lead to. None stands for any table: it
    isn't known what a textual statement deletes from.
    """
    found: set[Any] = {None}
    pending: list[Any] = [*mapper.tables]
    while pending:
        table = pending.pop()
        if table not in found:
            found.add(table)
            for key in table.foreign_keys:
                with suppress(NoReferenceError):  # to a table that isn't imported
                    pending.append(key.column.table)
    return found
