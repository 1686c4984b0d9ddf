"""The floor: no session, but views that do the least that one needs by hand."""

from __future__ import annotations

import pickle
import secrets
import time
import uuid
from base64 import urlsafe_b64decode, urlsafe_b64encode
from itertools import count
from typing import Any

import zope.sqlalchemy
from Crypto.Cipher import AES
from pyramid.response import Response
from sqlalchemy import (
    JSON,
    BigInteger,
    Column,
    ForeignKey,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Uuid,
    bindparam,
    insert,
    select,
    update,
)
from sqlalchemy.dialects.mysql import LONGBLOB

from ..workloads import Workload
from .base import TIMEOUT, PyramidContender

__all__ = ["Floor"]


class Floor(PyramidContender):
    """One decryption, and SQLAlchemy Core on the dbsession."""

    def __init__(self, url: str, workload: Workload):
        metadata = MetaData()
        table, users = _tables(metadata, workload.model)
        super().__init__(url, workload, metadata)
        self.model = workload.model
        self.key = secrets.token_bytes(32)
        columns = [*table.c]
        source: Any = table
        if users is not None:
            columns += [column.label(f"user_{column.name}") for column in users.c]
            source = table.outerjoin(users)
            with self.engine.begin() as connection:
                connection.execute(insert(users), {"id": 1, "name": "name"})
        is_row = table.c.id == bindparam("row")
        self.select = select(*columns).select_from(source).where(is_row)
        self.update = update(table).where(is_row)
        self.insert = insert(table)
        if workload.model == "idle":
            expire = bindparam("expire")
            self.extension = self.update.where(table.c.idle_expire < expire).values(
                idle_expire=expire
            )
        self.clock = count(int(time.time()))  # so that each request has to extend

    def _open(self, request: Any) -> uuid.UUID:
        value = request.environ["HTTP_COOKIE"].partition("=")[2]
        sealed = urlsafe_b64decode(value)
        cipher = AES.new(self.key, AES.MODE_GCM, nonce=sealed[:16])
        return uuid.UUID(bytes=cipher.decrypt_and_verify(sealed[32:], sealed[16:32]))

    def _seal(self, key: uuid.UUID) -> str:
        cipher = AES.new(self.key, AES.MODE_GCM, nonce=secrets.token_bytes(16))
        ciphertext, tag = cipher.encrypt_and_digest(key.bytes)
        return urlsafe_b64encode(cipher.nonce + tag + ciphertext).decode("ascii")

    def _row(self, request: Any) -> Any:
        parameters = {"row": self._open(request)}
        return request.dbsession.execute(self.select, parameters).one()

    def untouched(self, request: Any) -> Response:
        return Response("ok")

    def read(self, request: Any) -> Response:
        return Response(pickle.loads(self._row(request).data)["key"])

    def read_missing(self, request: Any) -> Response:
        try:
            self._open(request)
        except ValueError:
            return Response("None")
        raise AssertionError

    def read_userid(self, request: Any) -> Response:
        return Response(f"{self._row(request).userid}")

    def read_user(self, request: Any) -> Response:
        row = self._row(request)
        return Response(f"{pickle.loads(row.data)['key']} {row.user_name}")

    def read_full(self, request: Any) -> Response:
        row = self._row(request)
        token = urlsafe_b64encode(row.csrf_token).decode("ascii")
        return Response(f"{pickle.loads(row.data)['key']} {row.userid} {len(token)}")

    def write(self, request: Any) -> Response:
        key = self._open(request)
        dbsession = request.dbsession
        data = pickle.loads(dbsession.execute(self.select, {"row": key}).one().data)
        data["counter"] = next(self.numbers)
        values = {"row": key, "data": pickle.dumps(data, 4)}
        dbsession.execute(self.update, values)
        zope.sqlalchemy.mark_changed(dbsession)
        return Response("ok")

    assign = read

    def extend(self, request: Any) -> Response:
        row = self._row(request)
        dbsession = request.dbsession
        values = {"row": row.id, "expire": next(self.clock) + TIMEOUT}
        dbsession.execute(self.extension, values)
        zope.sqlalchemy.mark_changed(dbsession)
        return Response(pickle.loads(row.data)["key"])

    def create(self, request: Any) -> Response:
        key = uuid.uuid4()
        row = {
            "id": key,
            "created": int(time.time()),
            "version": 1,
            "data": pickle.dumps(self.data, 4),
            "flash": {},
        }
        if self.model == "idle":
            row["idle_expire"] = next(self.clock) + TIMEOUT
        elif self.model != "plain":
            row["userid"] = 1
        if self.model == "full":
            row["csrf_token"] = secrets.token_bytes(20)
        dbsession = request.dbsession
        dbsession.execute(self.insert, row)
        zope.sqlalchemy.mark_changed(dbsession)
        response = Response("ok")
        cookie = f"session={self._seal(key)}; Path=/; HttpOnly; SameSite=Lax"
        response.headerlist.append(("Set-Cookie", cookie))
        return response


def _tables(metadata: MetaData, model: str) -> tuple[Table, Table | None]:
    """Return a table like the library's, and perhaps one of users."""
    users = None
    own: list[Column[Any]] = []
    if model == "user":
        users = Table(
            "user",
            metadata,
            Column("id", Integer, primary_key=True),
            Column("name", String(40), nullable=False),
        )
        own.append(Column("userid", ForeignKey(users.c.id)))
    elif model == "idle":
        own.append(Column("idle_expire", BigInteger))
    elif model != "plain":
        own.append(Column("userid", Integer))
    if model in ("user", "userid", "full"):
        own.append(Column("authenticated", BigInteger))
    if model == "full":
        own.append(Column("csrf_token", LargeBinary))
    binary = LargeBinary().with_variant(LONGBLOB(), "mysql", "mariadb")
    table = Table(
        "session",
        metadata,
        *own,
        Column("id", Uuid, primary_key=True),
        Column("created", BigInteger, nullable=False),
        Column("version", Integer, nullable=False),
        Column("renewal_id", Uuid),
        Column("rotated", BigInteger),
        Column("rotated_from", Uuid),
        Column("sent", BigInteger),
        Column("data", binary, nullable=False),
        Column("flash", JSON, nullable=False),
    )
    return table, users
