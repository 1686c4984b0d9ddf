"""The session cookie is read from anything, and set with everything it needs."""

import gc
import time
import uuid
import weakref
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyramid.testing import DummyRequest
from webob import Request, Response

from pyramid_sqlalchemy_sessions.cookie import (
    CookieAttributes,
    Reading,
    SessionCookie,
    Ticket,
    vary_on_cookie,
)
from pyramid_sqlalchemy_sessions.exceptions import CookieCryptoError, InvalidCookieError
from pyramid_sqlalchemy_sessions.serializer import AESGCMSerializer

SERIALIZER = AESGCMSerializer(bytes(range(32)))
OTHER_SERIALIZER = AESGCMSerializer(bytes(16))
COOKIE = SessionCookie("session", SERIALIZER)
FIRST = Ticket(uuid.UUID(int=1))
SECOND = Ticket(uuid.UUID(int=2), uuid.UUID(int=3))
GOOD = COOKIE.seal(FIRST)
ALSO_GOOD = COOKIE.seal(SECOND)
FORGED = SessionCookie("session", OTHER_SERIALIZER).seal(FIRST)
ATTRIBUTES = CookieAttributes(
    max_age=None,
    path="/",
    domain=None,
    secure=None,
    httponly=True,
    samesite="Lax",
)


def make_request(header=None, scheme="http"):
    """Return a request with this Cookie header."""
    request = Request.blank("/", base_url=f"{scheme}://example.com")
    if header is not None:
        request.environ["HTTP_COOKIE"] = header
    return request


def read(header, cookie=COOKIE):
    """Return what the cookies in this header say."""
    return cookie.read(make_request(header))


def set_cookies(response):
    """Return the Set-Cookie headers as pairs of name=value and a set of attributes."""
    found = []
    for header in response.headers.getall("Set-Cookie"):
        pair, *attributes = header.split("; ")
        found.append((pair, set(attributes)))
    return found


def sent(attributes=ATTRIBUTES, scheme="http", response=None, cookie=COOKIE):
    """Return the attributes that the cookie is set with, after checking its value."""
    response = response or Response()
    value = cookie.seal(FIRST)
    cookie.send(make_request(scheme=scheme), response, value, attributes)
    ((pair, found),) = set_cookies(response)
    assert pair == f"{cookie.name}={value}"
    return found


def deleted(attributes=ATTRIBUTES, scheme="http", response=None, cookie=COOKIE):
    """Return the attributes that the cookie is deleted with."""
    response = response or Response()
    cookie.delete(make_request(scheme=scheme), response, attributes)
    ((pair, found),) = set_cookies(response)
    assert pair == f"{cookie.name}="
    return found


class TestTicket:
    """A ticket is 16 or 32 bytes."""

    @given(session_id=st.uuids(), renewal_id=st.none() | st.uuids())
    def test_round_trip(self, session_id, renewal_id):
        """What was written comes back."""
        ticket = Ticket(session_id, renewal_id)
        assert Ticket.from_bytes(ticket.to_bytes()) == ticket

    def test_the_renewal_id_follows_the_id(self):
        """The order is that of version 0.1.0."""
        assert SECOND.to_bytes() == SECOND.id.bytes + SECOND.renewal_id.bytes
        assert FIRST.to_bytes() == FIRST.id.bytes

    @pytest.mark.parametrize("size", [0, 1, 15, 17, 31, 33, 48])
    def test_other_lengths_are_refused(self, size):
        """Authentic bytes that are no ticket are an invalid cookie."""
        with pytest.raises(InvalidCookieError):
            Ticket.from_bytes(bytes(size))


class TestValues:
    """Our values are found in any header."""

    @pytest.mark.parametrize(
        ("header", "values"),
        [
            ("", []),
            ("session=a", ["a"]),
            ("session=", [""]),
            ("session", []),
            ("other=a", []),
            ("other=a; session=b; more=c", ["b"]),
            ("other=a;session=b;more=c", ["b"]),
            ("session=a; session=b", ["a", "b"]),
            ("session=1;session=2;session=3;session=4;session=5", ["1", "2", "3", "4"]),
            (" \t session \t = \t a \t ; x=y", ["a"]),
            ('session="a"', ["a"]),
            ('session= "a" ', ["a"]),
            ('session=""', [""]),
            ('session="', ['"']),
            ('session="a', ['"a']),
            ('session=""a""', ['"a"']),
            ("session=a=b==", ["a=b=="]),
            ("session==", ["="]),
            ("mysession=a; session2=b; session-x=c", []),
            ("Session=a; SESSION=b", []),
            ("x=session=a", []),
            ("x session=a", []),
            ("=session=a", []),
            (",session=a", []),
            ('x="; session=a', ["a"]),
            ('x="y; session=a; z="', ["a"]),
            ("=; ==; ;;; x; session=a; =", ["a"]),
            ("\xff\x00=\x80\r\n; session=a; \xe9", ["a"]),
            ("x=\\073; session=a", ["a"]),
            ("expires=Wed, 31-Dec-97 23:59:59 GMT; session=a", ["a"]),
            ("session=\xe9\u20ac\ud800", ["\xe9\u20ac\ud800"]),
            ("$Version=1; session=a; $Path=/", ["a"]),
        ],
    )
    def test_headers(self, header, values):
        """Foreign cookies, however broken, neither hide nor make one of ours."""
        assert COOKIE.values(header) == values

    def test_a_name_is_taken_literally(self):
        """Characters that mean something in a regular expression mean themselves."""
        cookie = SessionCookie("a.b+c|d^$", SERIALIZER)
        assert cookie.values("axb+c|d^$=1; a.b+c|d^$=2; d^$=3") == ["2"]

    def test_our_cookie_is_found_between_any_others(self):
        """The same as above, for every header that there is."""

        @given(before=st.text(), after=st.text())
        def check(before, after):
            assert GOOD in SessionCookie("s", SERIALIZER).values(
                f"{before.replace('s', '')}; s={GOOD};{after}"
            )

        check()

    @pytest.mark.parametrize(
        "piece",
        [";", "; ", " ", "session", "session ", ";session ", ";session=", '"', "\t;"],
    )
    def test_reading_takes_linear_time(self, piece):
        """A megabyte of what could confuse a reader is read at once."""
        header = piece * (10**6 // len(piece))
        start = time.perf_counter()
        COOKIE.values(header)
        assert time.perf_counter() - start < 1


class TestRead:
    """Reading yields tickets, or the error that the first cookie had."""

    @pytest.mark.parametrize(
        "header",
        [None, "", "other=x", "session2=" + GOOD],
        ids=["none", "empty", "another", "longer"],
    )
    def test_no_cookie_is_no_error(self, header):
        """A new visitor is nothing special."""
        assert read(header) == Reading((), None)

    def test_a_good_cookie(self):
        """One cookie, one ticket."""
        assert read(f"session={GOOD}") == Reading((FIRST,), None)

    def test_a_good_cookie_in_quotes(self):
        """Some clients quote every value."""
        assert read(f'session="{ALSO_GOOD}"') == Reading((SECOND,), None)

    def test_a_malformed_cookie(self):
        """The error says that the cookie is malformed."""
        tickets, error = read("session=rubbish")
        assert tickets == ()
        assert type(error) is InvalidCookieError

    def test_an_empty_cookie(self):
        """An empty value is malformed, too."""
        assert type(read("session=").error) is InvalidCookieError

    def test_a_forged_cookie(self):
        """The error says that the cookie is not authentic."""
        tickets, error = read(f"session={FORGED}")
        assert tickets == ()
        assert type(error) is CookieCryptoError

    def test_an_authentic_cookie_without_ticket(self):
        """What another application sealed with our key is invalid."""
        value = SERIALIZER.dumps(b"something else").decode()
        assert type(read(f"session={value}").error) is InvalidCookieError

    def test_several_good_cookies(self):
        """All tickets count, in the order of the header."""
        header = f"session={ALSO_GOOD}; x=y; session={GOOD}"
        assert read(header) == Reading((SECOND, FIRST), None)

    def test_the_same_ticket_twice(self):
        """Nothing is tried twice, even if it was sealed twice."""
        header = f"session={GOOD}; session={COOKIE.seal(FIRST)}; session={GOOD}"
        assert read(header) == Reading((FIRST,), None)

    @pytest.mark.parametrize(
        "bad", ["rubbish", FORGED, ""], ids=["rubbish", "forged", "empty"]
    )
    def test_a_good_cookie_excuses_a_bad_one(self, bad):
        """No error as long as one cookie is authentic, wherever it stands."""
        assert read(f"session={bad}; session={GOOD}") == Reading((FIRST,), None)
        assert read(f"session={GOOD}; session={bad}") == Reading((FIRST,), None)

    def test_the_first_error_is_reported(self):
        """Of several bad cookies the first one speaks."""
        forged_first = f"session={FORGED}; session=rubbish"
        assert type(read(forged_first).error) is CookieCryptoError
        forged_last = f"session=rubbish; session={FORGED}"
        assert type(read(forged_last).error) is InvalidCookieError

    def test_the_fifth_cookie_is_not_tried(self):
        """Nobody makes us decrypt all day."""
        bad = f"session={FORGED}; "
        assert read(bad * 3 + f"session={GOOD}").tickets == (FIRST,)
        assert read(bad * 4 + f"session={GOOD}").tickets == ()

    @given(header=st.text())
    def test_no_header_raises(self, header):
        """Text that is no cookie header is read as a cookie header without ours."""
        COOKIE.read(SimpleNamespace(environ={"HTTP_COOKIE": header}))

    @given(value=st.text(), tail=st.text())
    def test_no_value_raises(self, value, tail):
        """Whatever our cookie holds, there is a ticket or an error."""
        reading = read(f"session={value}; session={tail}")
        assert reading.tickets == ()
        assert isinstance(reading.error, (InvalidCookieError, CookieCryptoError))

    def test_any_value_error_of_a_serializer_is_an_invalid_cookie(self):
        """A serializer of the application's own need not know our errors."""

        class Own:
            def loads(self, value):
                return bytes.fromhex(value)

        cookie = SessionCookie("session", Own())
        error = read("session=rubbish", cookie).error
        assert type(error) is InvalidCookieError
        assert type(error.__cause__) is ValueError
        assert read(f"session={FIRST.id.hex}", cookie).tickets == (FIRST,)

    def test_errors_hold_no_frames(self):
        """An error reporter that shows local variables finds no cookie in them."""
        for header in ("session=rubbish", "session=\xe9", f"session={FORGED}"):
            error = read(header).error
            while error is not None:
                assert error.__traceback__ is None
                error = error.__cause__ or error.__context__

    def test_errors_need_no_garbage_collector(self):
        """A flood of bad cookies leaves nothing behind."""

        class Own:
            def loads(self, value):
                raise UnicodeError

        gc.disable()
        try:
            for cookie in (COOKIE, SessionCookie("session", Own())):
                error = weakref.ref(read("session=rubbish", cookie).error)
                assert error() is None
        finally:
            gc.enable()


class TestSeal:
    """Sealing is where a cookie can fail."""

    @pytest.mark.parametrize("ticket", [FIRST, SECOND])
    def test_round_trip(self, ticket):
        """What was sealed is read."""
        assert read(f"session={COOKIE.seal(ticket)}").tickets == (ticket,)

    @pytest.mark.parametrize(
        "value",
        [b"", b"a;b", b"a b", b"a,b", b'"a"', b"a\\b", b"a\n", b"\xe9", b"\x7f", b"\0"],
    )
    def test_unsendable_values_are_refused(self, value):
        """A serializer that makes no cookie value fails before the commit."""
        cookie = SessionCookie("session", SimpleNamespace(dumps=lambda data: value))
        with pytest.raises(ValueError, match=r"RFC 6265|ascii"):
            cookie.seal(FIRST)

    def test_every_character_of_the_standard_can_be_sent(self):
        """WebOb sends all that we allow, unquoted and without a warning."""
        value = bytes(c for c in range(0x21, 0x7F) if c not in b'",;\\').decode()
        cookie = SessionCookie("s", SimpleNamespace(dumps=lambda data: value.encode()))
        response = Response()
        cookie.send(make_request(), response, cookie.seal(FIRST), ATTRIBUTES)
        assert response.headers["Set-Cookie"].startswith(f"s={value}; ")


class TestSend:
    """A cookie is set once, with its attributes."""

    def test_the_usual_attributes(self):
        """A session cookie for the whole site, out of reach for scripts."""
        assert sent() == {"Path=/", "HttpOnly", "SameSite=Lax"}

    def test_all_attributes(self):
        """Everything is passed on; Max-Age is accompanied by Expires."""
        found = sent(
            CookieAttributes(3600, "/app", "example.com", True, True, "Strict")
        )
        (expires,) = (text for text in found if text.startswith("expires="))
        assert found - {expires} == {
            "Max-Age=3600",
            "Path=/app",
            "Domain=example.com",
            "secure",
            "HttpOnly",
            "SameSite=Strict",
        }

    def test_no_attributes(self):
        """What is off is left out."""
        assert sent(CookieAttributes(None, "/", None, False, False, None)) == {"Path=/"}

    @pytest.mark.parametrize(
        ("secure", "scheme", "expected"),
        [
            (None, "http", False),
            (None, "https", True),
            (True, "http", True),
            (False, "https", False),
        ],
    )
    def test_secure(self, secure, scheme, expected):
        """Undecided means: as the request came."""
        attributes = ATTRIBUTES._replace(secure=secure)
        assert ("secure" in sent(attributes, scheme)) is expected
        assert ("secure" in deleted(attributes, scheme)) is expected

    @pytest.mark.parametrize("secure", [None, False, True])
    @pytest.mark.parametrize("scheme", ["http", "https"])
    def test_partitioned(self, secure, scheme):
        """It is set and deleted with Secure, without which browsers refuse it."""
        attributes = ATTRIBUTES._replace(partitioned=True, secure=secure)
        for _ in range(2):  # the second header is the one that was kept
            assert {"Partitioned", "secure"} <= sent(attributes, scheme)
            assert {"Partitioned", "secure"} <= deleted(attributes, scheme)
        assert "Partitioned" not in sent(scheme=scheme) | deleted(scheme=scheme)

    def test_partitioned_that_lasts(self):
        """With a max-age the header is written each time."""
        attributes = ATTRIBUTES._replace(partitioned=True, max_age=60)
        assert {"Partitioned", "Max-Age=60"} <= sent(attributes)

    @pytest.mark.parametrize("secure", [None, False, True])
    def test_request_without_a_scheme(self, secure):
        """Pyramid's DummyRequest has none, and counts as one that came by http."""
        request, response = DummyRequest(), Response()
        attributes = ATTRIBUTES._replace(secure=secure)
        assert COOKIE.read(request) == Reading((), None)
        COOKIE.send(request, response, GOOD, attributes)
        assert ("secure" in response.headers["Set-Cookie"]) is bool(secure)
        COOKIE.delete(request, response, attributes)
        assert response.headers["Set-Cookie"].startswith("session=; Max-Age=0")

    @pytest.mark.parametrize("secure", [None, False, True])
    def test_samesite_none_is_always_secure(self, secure):
        """Browsers drop it otherwise, and WebOb would raise after the commit."""
        attributes = ATTRIBUTES._replace(samesite="None", secure=secure)
        assert {"SameSite=None", "secure"} <= sent(attributes)
        assert {"SameSite=None", "secure"} <= deleted(attributes)

    def test_a_host_cookie(self):
        """The `__Host-` prefix demands Secure, Path=/ and no Domain."""
        cookie = SessionCookie("__Host-session", SERIALIZER)
        attributes = ATTRIBUTES._replace(secure=True)
        expected = {"Path=/", "secure", "HttpOnly", "SameSite=Lax"}
        assert sent(attributes, cookie=cookie) == expected
        assert expected < deleted(attributes, cookie=cookie)

    @pytest.mark.parametrize(
        "text", ["/caf\xe9", "/\u20ac", "/a b", "/\ud800", "/%C3%A9", "/\x00\n"]
    )
    def test_no_stored_attribute_makes_sending_fail(self, text):
        """After the commit it is too late for an error."""
        attributes = ATTRIBUTES._replace(path=text, domain=text)
        response = Response()
        COOKIE.send(make_request(), response, GOOD, attributes)
        assert response.headers["Set-Cookie"].isascii()
        assert "\n" not in response.headers["Set-Cookie"]

    def test_a_path_is_sent_as_browsers_ask_for_it(self):
        """A URL has UTF-8 in percent signs, so the Path attribute has to."""
        assert "Path=/caf%C3%A9" in sent(ATTRIBUTES._replace(path="/caf\xe9"))

    @given(path=st.text(), domain=st.text())
    def test_no_text_makes_sending_fail(self, path, domain):
        """The same for whatever may be found in a database."""
        attributes = ATTRIBUTES._replace(path=path, domain=domain)
        COOKIE.send(make_request(), Response(), GOOD, attributes)
        COOKIE.delete(make_request(), Response(), attributes)


class TestDelete:
    """A deletion is complete."""

    def test_the_usual_deletion(self):
        """No value, no age, and over since long."""
        assert deleted() == {
            "Max-Age=0",
            "expires=Wed, 31-Dec-97 23:59:59 GMT",
            "Path=/",
            "HttpOnly",
            "SameSite=Lax",
        }

    def test_attributes_are_repeated(self):
        """Path and domain say which cookie, the rest lets the browser obey."""
        attributes = CookieAttributes(9, "/app", "example.com", True, True, "Strict")
        assert deleted(attributes) == {
            "Max-Age=0",
            "expires=Wed, 31-Dec-97 23:59:59 GMT",
            "Path=/app",
            "Domain=example.com",
            "secure",
            "HttpOnly",
            "SameSite=Strict",
        }


class TestOtherCookies:
    """Of our cookie there is one, of the others all."""

    FOREIGN = (
        ("Set-Cookie", "session2=a"),
        ("set-cookie", 'session-x="b c"; expires=Wed, 31-Dec-97 23:59:59 GMT'),
        ("Set-Cookie", "\xff\x80=\xe9; Path=\xe9"),
        ("Set-Cookie", "x=1; session=2"),
        ("Set-Cookie", "session"),
        ("Set-Cookie", "=session=1"),
        ("Set-Cookie", ""),
        ("Set-Cookie", "Session=other case"),
        ("X-Set-Cookie", "session=1"),
    )

    @pytest.mark.parametrize("act", ["send", "delete"])
    def test_foreign_headers_are_untouched(self, act):
        """Not a byte of another cookie changes, nor the order."""
        response = Response(headerlist=list(self.FOREIGN))
        for _ in range(3):
            if act == "send":
                COOKIE.send(make_request(), response, GOOD, ATTRIBUTES)
            else:
                COOKIE.delete(make_request(), response, ATTRIBUTES)
        assert response.headerlist[: len(self.FOREIGN)] == list(self.FOREIGN)
        added = [name for name, _ in response.headerlist[len(self.FOREIGN) :]]
        assert added.count("Set-Cookie") == 1

    @pytest.mark.parametrize(
        "earlier",
        ["session=1", " session = 1; Path=/x", "session=", "session=a=b; HttpOnly"],
    )
    def test_an_earlier_cookie_of_our_name_is_replaced(self, earlier):
        """A response has one Set-Cookie of our name, the last one."""
        response = Response(headerlist=[("set-cookie", earlier), ("X-Y", "z")])
        sent(response=response)
        deleted(response=response)
        sent(response=response)
        assert response.headerlist[0] == ("X-Y", "z")

    def test_the_header_list_stays_the_same_object(self):
        """Whoever holds the list or the view of it sees our cookie."""
        response = Response()
        headerlist, headers = response.headerlist, response.headers
        sent(response=response)
        assert response.headerlist is headerlist
        assert "Set-Cookie" in headers


class TestCacheControl:
    """No shared cache stores a response with our cookie."""

    @pytest.mark.parametrize(
        ("before", "after"),
        [
            ([], "private"),
            ([""], "private"),
            (["private"], "private"),
            (["public"], "private"),
            (["public, max-age=60"], "private, max-age=60"),
            (["max-age=60"], "private, max-age=60"),
            (["max-age=60, private"], "private, max-age=60"),
            (["Public,S-MaxAge=5 , Max-Age=60"], "private, Max-Age=60"),
            (["s-maxage = 5"], "private"),
            (['private="Set-Cookie, X", max-age=1'], "private, max-age=1"),
            (
                ['no-cache="Set-Cookie, public"'],
                'private, no-cache="Set-Cookie, public"',
            ),
            (['x="a\\", public", public'], 'private, x="a\\", public"'),
            (['x="a, public'], 'private, x="a'),
            (["public", "max-age=60", "immutable"], "private, max-age=60, immutable"),
            (["no-store"], "no-store"),
            (["public, No-Store"], "public, No-Store"),
            (["max-age=0, no-store"], "max-age=0, no-store"),
            (['x="no-store"'], 'private, x="no-store"'),
            (["no-cache, publicity"], "private, no-cache, publicity"),
        ],
    )
    @pytest.mark.parametrize("act", [sent, deleted])
    def test_directives(self, act, before, after):
        """`private` comes, `public` and `s-maxage` go, `no-store` is enough."""
        response = Response(headerlist=[("Cache-Control", text) for text in before])
        act(response=response)
        assert response.headers.getall("Cache-Control") == [after]

    def test_what_forbids_storing_is_left_as_it_is(self):
        """Several headers, one of them with `no-store`: nothing to do."""
        headers = [("Cache-Control", "public"), ("cache-control", "no-store")]
        response = Response(headerlist=list(headers))
        sent(response=response)
        assert response.headerlist[:2] == headers

    def test_the_application_can_go_on_with_it(self):
        """WebOb's view of the header stays true."""
        response = Response()
        response.cache_control.public = True
        response.cache_control.max_age = 60
        sent(response=response)
        assert response.cache_control.private
        assert not response.cache_control.public
        assert response.cache_control.max_age == 60


class TestVary:
    """Caches learn that the response depends on the cookies."""

    @pytest.mark.parametrize(
        ("before", "after"),
        [
            ([], ["Cookie"]),
            ([""], ["Cookie"]),
            (["Accept"], ["Accept, Cookie"]),
            (["Accept, Accept-Language"], ["Accept, Accept-Language, Cookie"]),
            (["Accept", "Origin"], ["Accept, Origin, Cookie"]),
            (["Cookie"], ["Cookie"]),
            (["cookie"], ["cookie"]),
            (["Accept,COOKIE"], ["Accept,COOKIE"]),
            (["Accept", "Cookie"], ["Accept", "Cookie"]),
            (["*"], ["*"]),
            (["Accept, *"], ["Accept, *"]),
            (["X-Cookie, Cookie2"], ["X-Cookie, Cookie2, Cookie"]),
        ],
    )
    def test_values(self, before, after):
        """`Cookie` is added once, and everything else kept."""
        response = Response(headerlist=[("Vary", text) for text in before])
        vary_on_cookie(response)
        assert response.headers.getall("Vary") == after
        vary_on_cookie(response)
        assert response.headers.getall("Vary") == after
