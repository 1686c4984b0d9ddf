"""Flask-Session with its SQLAlchemy back end."""

from __future__ import annotations

import secrets
from contextlib import AbstractContextManager
from typing import Any

import flask
from flask_session import Session
from flask_sqlalchemy import SQLAlchemy

from ..databases import do_not_wait_for_the_disk
from ..workloads import Workload
from .base import DictContender, sql_of

__all__ = ["FlaskSessions"]


class FlaskSessions(DictContender):
    """The sessions are in the database of Flask-SQLAlchemy."""

    def __init__(self, url: str, workload: Workload):
        super().__init__(url, workload)
        self.applications: list[tuple[flask.Flask, SQLAlchemy]] = []

    def application(self, action: str) -> Any:
        app = flask.Flask(__name__)
        db = SQLAlchemy()
        app.config.update(
            SECRET_KEY=secrets.token_hex(64),
            SESSION_COOKIE_NAME="session",
            SESSION_COOKIE_SAMESITE="Lax",
            SESSION_TYPE="sqlalchemy",
            SESSION_SQLALCHEMY=db,
            SESSION_REFRESH_EACH_REQUEST=self.extends,
            SQLALCHEMY_DATABASE_URI=self.url,
        )
        db.init_app(app)
        with app.app_context():
            do_not_wait_for_the_disk(db.engine)
        Session(app)  # makes the table
        act = getattr(self, action)
        # flask.session is the session of the request, as request.session is elsewhere.
        app.add_url_rule("/", "view", lambda: act(flask))
        self.applications.append((app, db))
        return app.wsgi_app

    def sql(self) -> AbstractContextManager[list[str]]:
        app, db = self.applications[-1]
        with app.app_context():
            return sql_of(db.engine)

    def close(self) -> None:
        for app, db in self.applications:
            with app.app_context():
                db.drop_all()
                db.engine.dispose()
