"""The network that a session began in, or that its user logged in from."""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import IPv6Address, ip_address, ip_network
from typing import TYPE_CHECKING, Any, ClassVar

from sqlalchemy import String
from sqlalchemy.orm import Mapped, mapped_column

from ..feature import Feature
from ..settings import DefaultSettings

__all__ = ["ClientAddress", "ClientAddressMixin"]


class ClientAddressMixin:
    """Note the client's network when a session starts, or its user changes.

    The column ``client_address`` holds the first ``client_address_prefix4`` bits of an
    IPv4 address, or the first ``client_address_prefix6`` of an IPv6 address:
    ``192.0.2.0/24``, ``2001:db8:5::/48``. It's NULL if there was no address.
    """

    if TYPE_CHECKING:
        client_address: Mapped[str | None]

    # An IPv6 address has up to 39 characters, and a prefix up to 4.
    client_address = mapped_column(String(43))


class ClientAddress(Feature):
    """The network of the client, and not the client, unless the settings say so."""

    mixin = ClientAddressMixin
    columns: ClassVar[tuple[str, ...]] = ("client_address",)
    own_columns: ClassVar[tuple[str, ...]] = columns

    def note(
        self, environ: Mapping[str, Any], settings: DefaultSettings, columns: Any
    ) -> dict[str, Any]:
        # WebOb's client_addr isn't used: it believes any X-Forwarded-For.
        return {"client_address": _network(environ.get("REMOTE_ADDR", ""), settings)}


def _network(text: str, settings: DefaultSettings) -> str | None:
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:  # for instance, of a Unix socket
        return None
    if isinstance(address, IPv6Address):
        address = address.ipv4_mapped or address
    prefixes = {4: settings.client_address_prefix4, 6: settings.client_address_prefix6}
    return str(ip_network((address, prefixes[address.version]), strict=False))
