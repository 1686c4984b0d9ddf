"""What the cookie carries, and how it's read from a request and set in a response."""

from __future__ import annotations

import re
import secrets
import string
import uuid
from collections.abc import Callable, Mapping
from itertools import islice
from typing import Any, NamedTuple, Protocol
from urllib.parse import quote

from webob import Response

from .exceptions import CookieCryptoError, InvalidCookieError
from .serializer import AESGCMSerializer, Serializer

__all__ = ("CookieAttributes", "Reading", "SessionCookie", "Ticket", "vary_on_cookie")

# A browser sends one cookie with our name for each path and domain that matches. More
# than a few are an attempt to keep us busy with decrypting.
_MOST_COOKIES = 4
# Of name and value together (RFC 6265, 6.1; OWASP ASVS 5.0, 3.3.5).
_LONGEST_COOKIE = 4096
_BLANKS = " \t"
# Stands for the value in a header that WebOb writes once.
_SAMPLE = "value"
# The most headers that are kept: with ConfigCookieMixin, there can be any number.
_MOST_HEADERS = 100
# cookie-octet of RFC 6265, 4.1.1.
_SENDABLE = re.compile(r"[!#-+\--:<-\[\]-~]+")
# One directive of Cache-Control; a quoted string may contain a comma.
_DIRECTIVE = re.compile(r'(?:"(?:[^"\\]|\\.)*"|[^,])+')


class _Request(Protocol):
    """A request, which has a `scheme` unless it is Pyramid's DummyRequest."""

    @property
    def environ(self) -> Mapping[str, Any]: ...


class _Headers(Protocol):
    def getall(self, key: str, /) -> list[str]: ...

    def __setitem__(self, key: str, value: str, /) -> None: ...


class _Response(Protocol):
    @property
    def headerlist(self) -> list[tuple[str, str]]: ...

    @property
    def headers(self) -> _Headers: ...


class Ticket(NamedTuple):
    """What the cookie carries: a session's id and, with renewal on, its renewal id."""

    id: uuid.UUID
    renewal_id: uuid.UUID | None = None

    def to_bytes(self) -> bytes:
        """Return the 16 bytes of the id, then those of the renewal id if any."""
        if self.renewal_id is None:
            return self.id.bytes
        return self.id.bytes + self.renewal_id.bytes

    @classmethod
    def from_bytes(cls, data: bytes) -> Ticket:
        """Return the ticket of 16 or 32 bytes, else raise ``InvalidCookieError``."""
        if len(data) == 16:
            return cls(uuid.UUID(bytes=data))
        if len(data) == 32:
            return cls(uuid.UUID(bytes=data[:16]), uuid.UUID(bytes=data[16:]))
        raise InvalidCookieError("the cookie carries neither one id nor two")


class Reading(NamedTuple):
    """What the cookies of a request said.

    ``tickets`` are the authentic ones in the order of the header, each once. ``error``
    is that of the first cookie, when there are cookies of our name and none is
    authentic.
    """

    tickets: tuple[Ticket, ...]
    error: InvalidCookieError | CookieCryptoError | None


_NO_COOKIE = Reading((), None)


class CookieAttributes(NamedTuple):
    """The cookie's attributes; ``secure`` None stands for the scheme of the request."""

    max_age: int | None
    path: str
    domain: str | None
    secure: bool | None
    httponly: bool
    samesite: str | None
    partitioned: bool = False


class SessionCookie:
    """The cookie with one name and serializer, made once and shared by all threads."""

    def __init__(self, name: str, serializer: Serializer) -> None:
        self.name = name
        self._serializer = serializer
        self._headers: dict[tuple[bool, CookieAttributes, bool], str] = {}
        # Other serializers may not have one; then fingerprints last as long as the
        # process.
        self._fingerprint: Callable[[bytes], str] = (
            getattr(serializer, "fingerprint", None)
            or AESGCMSerializer(secrets.token_bytes(16)).fingerprint
        )
        self._pair = re.compile(f";[ \\t]*{re.escape(name)}[ \\t]*=([^;]*)")

    def read(self, request: _Request) -> Reading:
        """Return the tickets of at most four cookies with our name.

        Nothing that a browser can send makes this raise an error.
        """
        header = request.environ.get("HTTP_COOKIE") or self._of_dummy(request)
        if not header:
            return _NO_COOKIE
        tickets: list[Ticket] = []
        error = None
        for value in self.values(header):
            opened = self.open(value)
            if not isinstance(opened, Ticket):
                error = error or opened
            elif opened not in tickets:
                tickets.append(opened)
        return Reading(tuple(tickets), None if tickets else error)

    def _of_dummy(self, request: _Request) -> str | None:
        """Return the header for what ``pyramid.testing.DummyRequest`` was given."""
        cookies = getattr(request, "__dict__", {}).get("cookies")
        value = cookies.get(self.name) if isinstance(cookies, dict) else None
        return None if value is None else f"{self.name}={value}"

    def values(self, header: str) -> list[str]:
        """Return the values of at most four cookies with our name, in header order.

        Blanks and one pair of double quotes around a value are dropped. The header is
        split at semicolons and nowhere else, so that nothing in another cookie hides
        ours.
        """
        values: list[str] = []
        for pair in islice(self._pair.finditer(";" + header), _MOST_COOKIES):
            value = pair[1].strip(_BLANKS)
            if len(value) > 1 and value[0] == value[-1] == '"':
                value = value[1:-1]
            values.append(value)
        return values

    def seal(self, ticket: Ticket) -> str:
        """Return the cookie value for ``ticket``.

        Call this before the commit: everything that can fail does so here, not in
        ``send``. Raises ``ValueError`` when the serializer made something that a cookie
        can't hold, or that's too long for browsers to keep.
        """
        value = self._serializer.dumps(ticket.to_bytes()).decode("ascii")
        if len(self.name) + len(value) > _LONGEST_COOKIE:
            raise ValueError(
                f"the cookie's name and value have {len(self.name)} + {len(value)}"
                f" characters together; browsers keep at most {_LONGEST_COOKIE}"
            )
        if not _SENDABLE.fullmatch(value):
            raise ValueError(
                "the serializer made a value that RFC 6265 does not allow in a cookie"
            )
        return value

    def fingerprint(self, key: uuid.UUID) -> str:
        """Return what stands for a session's id in logs."""
        return self._fingerprint(key.bytes)

    def send(
        self,
        request: _Request,
        response: _Response,
        value: str,
        attributes: CookieAttributes,
        moved_from: CookieAttributes | None = None,
    ) -> None:
        """Set the cookie to what ``seal`` returned, replacing any with our name.

        If it has ``moved_from`` another path or domain, it's deleted there.
        """
        self._drop(response)
        if moved_from is not None:
            self._add(request, response, None, moved_from)
        self._add(request, response, value, attributes)

    def delete(
        self, request: _Request, response: _Response, attributes: CookieAttributes
    ) -> None:
        """Make the browser forget the cookie, replacing any with our name.

        The attributes have to be repeated: with another path or domain, or without
        ``Partitioned``, this would delete another cookie, and browsers keep a
        ``__Host-`` cookie unless the attributes are valid for one.
        """
        self._drop(response)
        # WebOb turns None into an empty value, Max-Age=0 and an Expires in the past.
        self._add(request, response, None, attributes)

    def open(
        self, value: str | bytes
    ) -> Ticket | InvalidCookieError | CookieCryptoError:
        """Return what a cookie value carries, or the error if it's a bad one."""
        # Tracebacks are removed: their frames hold the cookie, which error reporters
        # would show, and the error itself, which would leave a cycle to the garbage
        # collector.
        try:
            return Ticket.from_bytes(self._serializer.loads(value))
        except (InvalidCookieError, CookieCryptoError) as error:
            return error.with_traceback(None)
        except ValueError as cause:
            invalid = InvalidCookieError("the serializer cannot read the cookie value")
            invalid.__cause__ = cause.with_traceback(None)
            return invalid

    def _drop(self, response: _Response) -> None:
        """Remove the headers that set a cookie with our name from the response."""
        # WebOb's overwrite=True would do it, too, but parses all cookies and writes
        # them again.
        headers = response.headerlist
        headers[:] = [
            (name, text)
            for name, text in headers
            if name.lower() != "set-cookie" or _cookie_name(text) != self.name
        ]

    def _add(
        self,
        request: _Request,
        response: _Response,
        value: str | None,
        attributes: CookieAttributes,
    ) -> None:
        secure = attributes.secure
        if secure is None:
            secure = getattr(request, "scheme", None) == "https"
        # Without Secure, WebOb raises for SameSite=None, and browsers drop the cookie.
        secure = secure or attributes.samesite == "None" or attributes.partitioned
        header = self._header(value, attributes, secure)
        response.headerlist.append(("Set-Cookie", header))
        _hide_from_shared_caches(response)

    def _header(
        self, value: str | None, attributes: CookieAttributes, secure: bool
    ) -> str:
        """Return the header, which WebOb writes once for each set of attributes.

        After that, only the value differs; with a max-age, so does the time in
        ``Expires``.
        """
        key = (value is None, attributes, secure)
        header = self._headers.get(key)
        if header is None:
            scratch: Any = Response()
            scratch.set_cookie(
                self.name,
                None if value is None else _SAMPLE,
                max_age=attributes.max_age,
                path=_in_ascii(attributes.path),
                domain=attributes.domain and _in_ascii(attributes.domain),
                secure=secure,
                httponly=attributes.httponly,
                samesite=attributes.samesite,
            )
            header = scratch.headers["Set-Cookie"]
            if attributes.partitioned:  # which WebOb 1.8 doesn't know
                header += "; Partitioned"
            is_constant = value is None or attributes.max_age is None
            if is_constant and len(self._headers) < _MOST_HEADERS:
                self._headers[key] = header
        if value is None:
            return header
        start = len(self.name) + 1
        return f"{self.name}={value}{header[start + len(_SAMPLE) :]}"


def vary_on_cookie(response: _Response) -> None:
    """Tell caches that the response depends on the cookies (RFC 9110, 12.5.5)."""
    for name, _ in response.headerlist:
        if name.lower() == "vary":
            break
    else:  # the usual case
        response.headerlist.append(("Vary", "Cookie"))
        return
    values = response.headers.getall("Vary")
    names = {name.strip(_BLANKS).lower() for text in values for name in text.split(",")}
    if names.isdisjoint(("cookie", "*")):
        response.headers["Vary"] = ", ".join([*filter(None, values), "Cookie"])


def _hide_from_shared_caches(response: _Response) -> None:
    """Keep proxies from storing our cookie and giving it to others (RFC 9111, 7.3)."""
    for name, _ in response.headerlist:
        if name.lower() == "cache-control":
            break
    else:  # the usual case
        response.headerlist.append(("Cache-Control", "private"))
        return
    kept: list[str] = []
    for directive in _DIRECTIVE.findall(
        ", ".join(response.headers.getall("Cache-Control"))
    ):
        name = directive.partition("=")[0].strip(_BLANKS).lower()
        if name == "no-store":
            return
        # `private="Some-Field"` only covers that field, so a plain one replaces it.
        if name not in ("", "private", "public", "s-maxage"):
            kept.append(directive.strip(_BLANKS))
    response.headers["Cache-Control"] = ", ".join(["private", *kept])


def _cookie_name(set_cookie: str) -> str | None:
    name, equals, _ = set_cookie.partition(";")[0].partition("=")
    return name.strip(_BLANKS) if equals else None


def _in_ascii(text: str) -> str:
    """Return ``text`` quoted as in a URL; WebOb rejects some non-ASCII characters."""
    if text.isascii():
        return text
    return quote(text, safe=string.printable, errors="replace")
