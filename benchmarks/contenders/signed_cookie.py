"""Pyramid's own session: all of it is in a signed cookie."""

from __future__ import annotations

import secrets

from pyramid.config import Configurator
from pyramid.session import JSONSerializer, SignedCookieSessionFactory
from sqlalchemy import MetaData

from ..workloads import Workload
from .base import TIMEOUT, PyramidDictContender

__all__ = ["SignedCookie"]


class SignedCookie(PyramidDictContender):
    """``SignedCookieSessionFactory``, which doesn't use a database."""

    def __init__(self, url: str, workload: Workload):
        super().__init__(url, workload, MetaData())
        self.factory = SignedCookieSessionFactory(
            secrets.token_hex(64),
            timeout=TIMEOUT if self.extends else None,
            # It's -1, because with 0 there's no new cookie within the second of the
            # last one.
            reissue_time=-1 if self.extends else None,
            serializer=JSONSerializer(),
        )

    @classmethod
    def can(cls, workload: Workload, backend: str) -> bool:
        # Browsers keep cookies of up to 4 KiB.
        return workload.size < 2_000 and super().can(workload, backend)

    def configure(self, config: Configurator) -> None:
        config.set_session_factory(self.factory)
