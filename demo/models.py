"""The tables of the demo. ``WebSession`` is the one of the web sessions."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from datetime import datetime, timezone

from sqlalchemy import BigInteger, DateTime, ForeignKey, String
from sqlalchemy.orm import (
    DeclarativeBase,
    Mapped,
    mapped_column,
    relationship,
)

from pyramid_sqlalchemy_sessions import (
    BaseMixin,
    ConfigAbsoluteMixin,
    ConfigIdleMixin,
    ConfigRenewalMixin,
    CSRFMixin,
    LastSeenMixin,
    UserAgentMixin,
    UseridMixin,
)


class Base(DeclarativeBase):
    """The declarative base."""


class WebSession(
    UseridMixin,
    CSRFMixin,
    ConfigIdleMixin,
    ConfigAbsoluteMixin,
    ConfigRenewalMixin,
    LastSeenMixin,
    UserAgentMixin,
    BaseMixin,
    Base,
):
    """A web session: a user on a device, a CSRF token, and timeouts of its own.

    It's an ordinary model. ``userid`` comes from UseridMixin, and is declared again
    here to make it a foreign key.
    """

    __tablename__ = "session"

    userid = mapped_column(ForeignKey("users.id", ondelete="CASCADE"))


class User(Base):
    """A person who can log in."""

    __tablename__ = "users"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(50), unique=True)
    salt: Mapped[str] = mapped_column(String(32))
    password_hash: Mapped[str] = mapped_column(String(128))

    def set_password(self, password: str) -> None:
        """Keep the hash of a password."""
        self.salt = secrets.token_hex(16)
        self.password_hash = _scrypt(password, self.salt)

    def has_password(self, password: str) -> bool:
        """Tell whether this is the password."""
        return hmac.compare_digest(self.password_hash, _scrypt(password, self.salt))


class Alarm(Base):
    """A session cookie that had been replaced was used again."""

    __tablename__ = "alarm"

    id: Mapped[int] = mapped_column(primary_key=True)
    raised_at: Mapped[int] = mapped_column(BigInteger)
    userid: Mapped[int | None] = mapped_column(
        ForeignKey("users.id", ondelete="CASCADE")
    )
    user: Mapped[User | None] = relationship(lazy="joined")


def _scrypt(password: str, salt: str) -> str:
    return hashlib.scrypt(
        password.encode(), salt=bytes.fromhex(salt), n=2**14, r=8, p=1
    ).hex()


class Product(Base):
    """Something to buy. The price is in cents."""

    __tablename__ = "product"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(50))
    price: Mapped[int]
    stock: Mapped[int]


class Order(Base):
    """What a customer bought."""

    __tablename__ = "orders"

    id: Mapped[int] = mapped_column(primary_key=True)
    customer: Mapped[str] = mapped_column(String(50))
    placed_at: Mapped[datetime] = mapped_column(
        DateTime, default=lambda: datetime.now(timezone.utc).replace(tzinfo=None)
    )
    lines: Mapped[list[OrderLine]] = relationship(
        lazy="selectin", cascade="all, delete-orphan"
    )

    @property
    def total(self) -> int:
        """The sum of the lines, in cents."""
        return sum(line.quantity * line.price for line in self.lines)


class OrderLine(Base):
    """One product of an order, at the price of that day."""

    __tablename__ = "order_line"

    order_id: Mapped[int] = mapped_column(ForeignKey("orders.id"), primary_key=True)
    product_id: Mapped[int] = mapped_column(ForeignKey("product.id"), primary_key=True)
    quantity: Mapped[int]
    price: Mapped[int]
    product: Mapped[Product] = relationship(lazy="joined")
