"""The table of settings."""

import dataclasses
import enum
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyramid.response import Response
from pyramid.settings import falsey, truthy

from pyramid_sqlalchemy_sessions.exceptions import ConfigurationError
from pyramid_sqlalchemy_sessions.settings import (
    SETTINGS,
    DefaultSettings,
    check_combination,
    parse_settings,
)

TABLE = {setting.name: setting for setting in SETTINGS}


def refusal(**settings):
    """Return the text of the ConfigurationError with which the settings are refused."""
    with pytest.raises(ConfigurationError) as caught:
        parse_settings(settings)
    assert isinstance(caught.value.__cause__, ValueError)
    assert str(caught.value.__cause__) == str(caught.value)
    return str(caught.value)


def parse_one(name, value):
    """Return what a value becomes, parsed as a setting that is not checked against
    others."""
    return TABLE[name].parse(value)


# The table.


def test_table_lists_defaults_and_mixins():
    """Names, defaults, needed mixins and runtime mixins are those of the contract, in
    its order."""
    cookie, idle, renewal = "ConfigCookieMixin", "ConfigIdleMixin", "ConfigRenewalMixin"
    address = "ClientAddressMixin"
    assert [
        (line.name, line.default, line.mixin, line.runtime) for line in SETTINGS
    ] == [
        ("dbsession_name", "dbsession", None, None),
        ("cookie_name", "session", None, None),
        ("cookie_max_age", None, None, cookie),
        ("cookie_path", "/", None, cookie),
        ("cookie_domain", None, None, cookie),
        ("cookie_secure", None, None, cookie),
        ("cookie_httponly", True, None, cookie),
        ("cookie_samesite", "Lax", None, None),
        ("cookie_partitioned", False, None, None),
        ("idle_timeout", None, "IdleMixin", idle),
        ("absolute_timeout", None, "AbsoluteMixin", "ConfigAbsoluteMixin"),
        ("renewal_timeout", None, "RenewalMixin", renewal),
        ("renewal_try_every", 5, "RenewalMixin", renewal),
        ("renewal_grace", 60, None, None),
        ("extension_delay", None, "IdleMixin", idle),
        ("extension_chance", 100, "IdleMixin", idle),
        ("extension_deadline", 1, "IdleMixin", idle),
        ("last_seen_delay", 300, "LastSeenMixin", None),
        ("client_address_prefix4", 24, address, None),
        ("client_address_prefix6", 48, address, None),
        ("encrypted_accept_plain", False, "EncryptedDataMixin", None),
    ]


def test_defaults_are_valid():
    """Without any setting the defaults apply, and each is valid by its own rule."""
    assert parse_settings({}) == DefaultSettings()
    assert dataclasses.asdict(DefaultSettings()) == {
        line.name: line.default for line in SETTINGS
    }
    assert parse_settings(dataclasses.asdict(DefaultSettings())) == DefaultSettings()


def test_settings_are_frozen():
    """Parsed settings belong to the factory and cannot be changed."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        parse_settings({}).idle_timeout = 5


# One setting at a time: what is accepted.

SECONDS = ["cookie_max_age", "idle_timeout", "absolute_timeout", "renewal_timeout"]
# Name, lowest, highest.
NUMBERS = [
    *((name, 1, 100_000_000) for name in SECONDS),
    ("renewal_try_every", 1, 32767),
    ("renewal_grace", 0, 32767),
    ("extension_delay", 1, 32767),
    ("extension_chance", 1, 100),
    ("extension_deadline", 1, 32767),
]
OPTIONAL = [*SECONDS, "extension_delay", "cookie_domain"]


@pytest.mark.parametrize(("name", "low", "high"), NUMBERS)
def test_number_is_an_int_or_decimal_text(name, low, high):
    """A number is accepted up to both ends of its range, as int and as text with white
    space."""
    for number in (low, 7, high):
        for value in (
            number,
            str(number),
            f" {number}\n",
            f"0{number}" if number < 10 else number,
        ):
            assert parse_one(name, value) == number


def test_number_of_an_int_subclass_becomes_a_plain_int():
    """An IntEnum member is accepted as what it counts."""
    parsed = parse_one("idle_timeout", enum.IntEnum("Timeouts", {"HOUR": 3600}).HOUR)
    assert type(parsed) is int
    assert parsed == 3600


@pytest.mark.parametrize("name", OPTIONAL)
@pytest.mark.parametrize("value", [None, "", "  ", "None", "none", " NONE "])
def test_none_where_it_is_allowed(name, value):
    """None is Python's None, the text in any case, or the empty text."""
    assert parse_one(name, value) is None


@pytest.mark.parametrize(
    "name", ["cookie_httponly", "cookie_secure", "cookie_partitioned"]
)
def test_flag_is_a_bool_or_one_of_pyramids_words(name):
    """A flag is a bool or any word that Pyramid takes for true or false, in any
    case."""
    for true in (True, *truthy, "TRUE", " Yes "):
        assert parse_one(name, true) is True
    for false in (False, *falsey, "FALSE", " No "):
        assert parse_one(name, false) is False


@pytest.mark.parametrize("value", ["auto", "AUTO", " Auto ", None])
def test_cookie_secure_auto_is_none(value):
    """The text auto becomes None, which is how it is stored."""
    assert parse_one("cookie_secure", value) is None


@pytest.mark.parametrize(
    ("value", "parsed"),
    [
        *((text, "Lax") for text in ("Lax", "lax", "LAX", " lAx ")),
        *((text, "Strict") for text in ("Strict", "strict", "STRICT ")),
        *((text, "None") for text in ("None", "none", " NONE")),
        *((text, None) for text in ("", "  ", None)),
    ],
)
def test_cookie_samesite_has_one_spelling(value, parsed):
    """Any case becomes the usual one; the text None is a value, Python's None and the
    empty text are none."""
    assert parse_one("cookie_samesite", value) == parsed


@pytest.mark.parametrize(
    ("name", "value", "parsed"),
    [
        ("dbsession_name", " db ", "db"),
        ("dbsession_name", "_dbsession2", "_dbsession2"),
        ("dbsession_name", "größe", "größe"),
        ("dbsession_name", "match", "match"),
        ("cookie_name", " sid\n", "sid"),
        ("cookie_name", "a!#$%&'*+-.^_`|~9", "a!#$%&'*+-.^_`|~9"),
        ("cookie_name", "None", "None"),
        ("cookie_name", "pathway", "pathway"),
        ("cookie_path", " /app ", "/app"),
        ("cookie_path", "/a b%20c=d", "/a b%20c=d"),
        ("cookie_path", "/" * 255, "/" * 255),
        ("cookie_domain", " example.com ", "example.com"),
        ("cookie_domain", ".example.com", ".example.com"),
        ("cookie_domain", "x", "x"),
        ("cookie_domain", "d" * 255, "d" * 255),
        ("cookie_domain", "localhost", "localhost"),
        ("cookie_domain", "xn--mnchen-3ya.example", "xn--mnchen-3ya.example"),
        ("cookie_domain", "my_host.4you.example", "my_host.4you.example"),
        ("cookie_domain", "1.2.3.4.example", "1.2.3.4.example"),
    ],
)
def test_text_is_stripped(name, value, parsed):
    """Texts lose the white space around them and are else taken as they are."""
    assert parse_one(name, value) == parsed


# One setting at a time: what is refused.

NO_TEXT = [b"x", 5, 1.5, True, ["x"], object, None]
NO_NUMBER = [
    "x",
    "1_000",
    "+5",
    "-5",
    "1.0",
    "1e3",
    "١",  # noqa: RUF001 - an Arabic digit
    "²",
    "0x10",
    "1 2",
    "9" * 5000,
]
NO_NUMBER += [True, False, 5.0, b"5", [5], -1, 10**5000, float("nan")]
BAD_VALUES = [
    *(
        (name, value)
        for name, low, high in NUMBERS
        for value in [*NO_NUMBER, low - 1, high + 1, str(high + 1)]
    ),
    *(
        (line[0], value)
        for line in NUMBERS
        if line[0] not in OPTIONAL
        for value in ("", "None", None)
    ),
    *(
        (name, value)
        for name in ("dbsession_name", "cookie_name", "cookie_path")
        for value in NO_TEXT
    ),
    *(
        ("dbsession_name", value)
        for value in ("", " ", "1db", "a-b", "a.b", "class", "None", "a b")
    ),
    *(
        ("cookie_name", value)
        for value in (
            "",
            " ",
            "a b",
            "a=b",
            "a;b",
            "é",
            "$a",
            "a\x00b",
            "a\nb",
            '"a"',
            "a,b",
        )
    ),
    *(
        ("cookie_name", value)
        for value in (
            "path",
            "Path",
            "DOMAIN",
            "max-age",
            "expires",
            "secure",
            "httponly",
            "samesite",
            "comment",
        )
    ),
    *(
        ("cookie_path", value)
        for value in (
            "",
            " ",
            "None",
            "app",
            "./",
            "/" * 256,
            "/a;b",
            "/a\nb",
            "/a\x7fb",
        )
    ),
    *(
        ("cookie_path", value)
        for value in ("/é", "/☃", "/a,b", '/"', "/a\\b", "/\ud800")
    ),
    *(
        ("cookie_domain", value)
        for value in (
            b"x",
            5,
            True,
            "d" * 256,
            "a;b",
            "a b",
            "a\tb",
            "é.com",
            "a,b",
            "☃.com",
        )
    ),
    # What no browser takes: a URL, a port, a path, a pattern, addresses.
    *(
        ("cookie_domain", value)
        for value in (
            "http://example.com",
            "//example.com",
            "localhost:6543",
            "example.com:443",
            "example.com/app",
            "user@example.com",
            "*.example.com",
            "127.0.0.1",
            ".127.0.0.1",
            "192.168.1",
            "2130706433",
            "0x7f.1",
            "example.0X7F",
            "::1",
            "[::1]",
            "[2001:db8::1]:6543",
            "2001:db8::1",
            ".",
            "..example.com",
            "example..com",
            "example.com.",
        )
    ),
    *(
        (name, value)
        for name in ("cookie_httponly", "cookie_partitioned")
        for value in ("ture", "", "None", "auto", "2", None, 1, 0, b"true", 1.0)
    ),
    *(
        ("cookie_secure", value)
        for value in ("ture", "", "None", "automatic", "2", 1, 0, b"true")
    ),
    *(
        ("cookie_samesite", value)
        for value in ("laxx", "False", "null", False, 0, b"Lax", "\u017ftrict")
    ),
]


@pytest.mark.parametrize(("name", "value"), BAD_VALUES, ids=range(len(BAD_VALUES)))
def test_bad_value_is_refused_with_name_value_and_what_is_valid(name, value):
    """An error starts with the setting, says what would be valid, and ends with a
    bounded form of the value."""
    text = refusal(**{name: value})
    start = f"{name} must be {TABLE[name].valid}, not "
    assert text.startswith(start)
    shown = text.removeprefix(start)
    assert 0 < len(shown) <= 100
    if value != 10**5000:
        assert shown.rstrip("…") in repr(value)


@pytest.mark.parametrize(
    ("name", "valid"),
    [
        ("dbsession_name", "a Python identifier"),
        (
            "cookie_name",
            "a cookie name of RFC 6265 (ASCII letters, digits and !#$%&'*+-.^_`|~) that"
            " neither starts with $ nor is "
            "the name of a cookie attribute",
        ),
        ("cookie_max_age", "a whole number (seconds) from 1 to 100000000, or None"),
        (
            "cookie_path",
            "a path that starts with / and has up to 255 ASCII characters other than"
            ' control characters and " , ; \\',
        ),
        (
            "cookie_domain",
            "a host name of 1 to 255 ASCII letters, digits, hyphens and dots, such as"
            " example.com (no http://, no port, no IP address), or None",
        ),
        ("cookie_secure", "true, false or auto"),
        ("cookie_httponly", "true or false"),
        ("cookie_samesite", "Lax, Strict, None or empty"),
        ("renewal_grace", "a whole number (seconds) from 0 to 32767"),
        ("extension_delay", "a whole number (seconds) from 1 to 32767, or None"),
        ("extension_chance", "a whole number (percent) from 1 to 100"),
    ],
)
def test_rule_in_words(name, valid):
    """What would be valid is said in words that a reader of the ini file
    understands."""
    assert refusal(**{name: object()}).startswith(
        f"{name} must be {valid}, not <object object at"
    )


def test_value_whose_repr_fails_is_shown_by_its_type():
    """An object that cannot even be shown is refused like any other."""

    class Broken:
        def __repr__(self):
            raise RuntimeError("no repr")

    assert refusal(idle_timeout=Broken()).endswith(", not <Broken>")


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("idle_timout", "did you mean idle_timeout?"),
        ("COOKIE_NAME", "did you mean cookie_name?"),
        ("samesite", "did you mean cookie_samesite?"),
        ("zzz", "the known names are dbsession_name, cookie_name, "),
        ("secret_key", "the known names are "),
    ],
)
def test_unknown_setting_is_refused_with_a_hint(name, hint):
    """A mistyped name is answered with the one that was probably meant, any other with
    all there are."""
    with pytest.raises(ConfigurationError) as caught:
        parse_settings({name: 5})
    assert str(caught.value).startswith(f"{name!r} is not a setting; {hint}")


# Settings together.


def test_idle_timeout_is_less_than_the_absolute_one():
    """An idle timeout that could never strike before the absolute one is a mistake."""
    assert (
        parse_settings({"idle_timeout": "599", "absolute_timeout": "600"}).idle_timeout
        == 599
    )
    for idle in (600, 601):
        text = f"idle_timeout ({idle}) must be less than absolute_timeout (600)"
        assert refusal(idle_timeout=idle, absolute_timeout=600) == text


def test_extension_delay_is_less_than_the_idle_timeout():
    """Sessions that expire before they may be extended are a mistake."""
    assert (
        parse_settings({"idle_timeout": 60, "extension_delay": 59}).extension_delay
        == 59
    )
    text = "extension_delay (60) must be less than idle_timeout (60)"
    assert refusal(idle_timeout=60, extension_delay=60) == text


def test_extension_deadline_is_less_than_the_idle_timeout():
    """With a chance below 100 percent, the deadline must come before the session
    expires."""
    assert parse_settings(
        {"idle_timeout": 60, "extension_chance": 50, "extension_deadline": 59}
    )
    text = (
        "extension_deadline (60) must be less than idle_timeout (60) when"
        " extension_chance is below 100"
    )
    assert refusal(idle_timeout=60, extension_chance=50, extension_deadline=60) == text


def test_extension_deadline_is_greater_than_the_delay():
    """With a chance below 100 percent, the deadline must come after the delay."""
    assert parse_settings(
        {"extension_chance": 99, "extension_delay": 9, "extension_deadline": 10}
    )
    text = (
        "extension_delay (10) must be less than extension_deadline (10) when"
        " extension_chance is below 100"
    )
    assert (
        refusal(extension_chance=99, extension_delay=10, extension_deadline=10) == text
    )


def test_extension_deadline_does_not_matter_when_the_chance_is_100():
    """Without chance there is no deadline, so it contradicts nothing."""
    assert parse_settings(
        {"idle_timeout": 60, "extension_delay": 30, "extension_deadline": 600}
    )


def test_timeouts_that_are_off_contradict_nothing():
    """Only timeouts that are on are compared."""
    assert parse_settings({"idle_timeout": 60, "absolute_timeout": "None"})
    assert parse_settings({"absolute_timeout": 60, "extension_delay": 60})


@pytest.mark.parametrize("secure", [False, None, "auto", "no"])
def test_samesite_none_demands_secure(secure):
    """Browsers drop a SameSite=None cookie without Secure, so auto is not enough."""
    assert (
        parse_settings(
            {"cookie_samesite": "none", "cookie_secure": "yes"}
        ).cookie_secure
        is True
    )
    text = refusal(cookie_samesite="none", cookie_secure=secure)
    assert "cookie_samesite with the value None needs cookie_secure=True" in text
    assert text.endswith("False" if secure in (False, "no") else "'auto'")


@pytest.mark.parametrize("secure", [False, None, "auto", "no"])
def test_partitioned_demands_secure(secure):
    """Browsers drop a Partitioned cookie without Secure, so auto is not enough."""
    good = parse_settings({"cookie_partitioned": "yes", "cookie_secure": "yes"})
    assert good.cookie_partitioned is True
    text = refusal(cookie_partitioned=True, cookie_secure=secure)
    assert "cookie_partitioned needs cookie_secure=True" in text


@pytest.mark.parametrize("prefix", ["__Host-", "__host-", "__HOST-"])
def test_host_prefix_demands_secure_root_path_and_no_domain(prefix):
    """Browsers drop a __Host- cookie, in any case, that is not bound to the whole of
    one secure host."""
    good = {"cookie_name": f"{prefix}sid", "cookie_secure": True}
    assert parse_settings(good).cookie_path == "/"
    for bad, needed in (
        ({"cookie_secure": "auto"}, "cookie_secure=True"),
        ({"cookie_path": "/app"}, "cookie_path='/'"),
        ({"cookie_domain": "a.com"}, "cookie_domain=None"),
    ):
        text = refusal(**{**good, **bad})
        assert f"cookie_name with __Host- in front needs {needed}" in text
        assert text.endswith(repr(*bad.values()))


@pytest.mark.parametrize("prefix", ["__Secure-", "__secure-", "__SECURE-"])
def test_secure_prefix_demands_secure(prefix):
    """Browsers drop a __Secure- cookie, in any case, without Secure; path and domain
    are free."""
    good = {
        "cookie_name": f"{prefix}sid",
        "cookie_secure": True,
        "cookie_path": "/app",
        "cookie_domain": "a.com",
    }
    assert parse_settings(good).cookie_domain == "a.com"
    text = refusal(**{**good, "cookie_secure": "false"})
    assert "cookie_name with __Secure- in front needs cookie_secure=True" in text
    assert text.endswith("False")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"idle_timout": "5"}, ["session.idle_timeout"]),
        ({"idle_timeout": "x"}, ["session.idle_timeout must be"]),
        (
            {"idle_timeout": "60", "absolute_timeout": "60"},
            ["session.idle_timeout (60)", "session.absolute_timeout (60)"],
        ),
        (
            {"extension_chance": "50", "extension_delay": "5"},
            ["session.extension_delay", "session.extension_chance is below"],
        ),
        (
            {"cookie_samesite": "none"},
            ["session.cookie_secure = true", "session.cookie_samesite", "is auto"],
        ),
        (
            {"cookie_partitioned": "yes", "cookie_secure": "no"},
            ["session.cookie_secure = true", "is false"],
        ),
        (
            {"cookie_name": "__Host-a", "cookie_secure": "1", "cookie_path": "/app"},
            ["session.cookie_path = /;", "session.cookie_name", "is /app"],
        ),
    ],
)
def test_prefix_makes_errors_speak_like_the_ini_file(settings, said):
    """Settings are called what they are called there, and true is not True."""
    with pytest.raises(ConfigurationError) as caught:
        parse_settings(settings, "session.")
    text = str(caught.value)
    assert [each for each in said if each not in text] == []
    assert "True" not in text
    assert "False" not in text


def test_combination_is_checked_for_the_settings_of_one_session_too():
    """A session's own values over the defaults are checked by the same rules, with a
    plain ValueError."""
    defaults = parse_settings({"absolute_timeout": 600})
    check_combination(dataclasses.replace(defaults, idle_timeout=599))
    with pytest.raises(
        ValueError,
        match=r"^idle_timeout \(600\) must be less than absolute_timeout \(600\)$",
    ):
        check_combination(dataclasses.replace(defaults, idle_timeout=600))


# Whatever is given.

NAMES = st.sampled_from([*TABLE, "idle_timout", "secret_key", ""])
NUMBER_VALUES = st.one_of(
    st.integers(), st.integers(0, 200), st.integers(0, 200).map(str), st.just(10**5000)
)
TEXT_VALUES = st.one_of(
    st.text(),
    st.text(string.printable),
    st.text(string.printable).map("/".__add__),
    st.text("aA-_.09", max_size=8).map("__Host-".__add__),
    st.sampled_from(
        [
            "None",
            "auto",
            "true",
            "false",
            "Lax",
            "Strict",
            "",
            "__Secure-sid",
            "example.com",
        ]
    ),
)
VALUES = st.one_of(
    st.none(),
    st.booleans(),
    NUMBER_VALUES,
    TEXT_VALUES,
    st.floats(),
    st.binary(),
    st.lists(st.integers()),
)


def parse_or_none(values):
    """Return the parsed settings, or None if they are refused."""
    try:
        return parse_settings(values)
    except ConfigurationError:
        return None


@given(st.dictionaries(st.one_of(NAMES, st.text()), VALUES))
def test_nothing_but_a_configuration_error_is_ever_raised(values):
    """Whatever the settings, they are accepted or refused with a ConfigurationError."""
    parse_or_none(values)


@given(NAMES.filter(TABLE.__contains__), VALUES)
def test_what_was_parsed_is_parsed_into_itself(name, value):
    """A parsed value is valid and stays what it is, so that settings can be parsed
    again."""
    try:
        parsed = parse_one(name, value)
    except ValueError:
        return
    again = parse_one(name, parsed)
    assert (again, type(again)) == (parsed, type(parsed))


def header_of(settings):
    """Return the Set-Cookie header that WebOb makes of a cookie with these settings."""
    response = Response()
    response.set_cookie(
        settings.cookie_name,
        "value",
        max_age=settings.cookie_max_age,
        path=settings.cookie_path,
        domain=settings.cookie_domain,
        secure=settings.cookie_secure is True,
        httponly=settings.cookie_httponly,
        samesite=settings.cookie_samesite,
    )
    return response.headers["Set-Cookie"]


webob_on_new_python = pytest.mark.filterwarnings(
    "ignore:datetime.datetime.utcnow:DeprecationWarning"
)


@webob_on_new_python
@given(
    st.fixed_dictionaries(
        {},
        optional={
            "cookie_name": st.text(string.printable, min_size=1)
            | st.text("_hostHOST-secure", min_size=1),
            "cookie_max_age": st.integers(1, 100_000_000),
            "cookie_path": st.text(string.printable).map("/".__add__)
            | st.text().map("/".__add__),
            "cookie_domain": st.text(string.printable, min_size=1)
            | st.text(min_size=1),
            "cookie_secure": st.sampled_from([True, False, "auto"]),
            "cookie_httponly": st.booleans(),
            "cookie_samesite": st.sampled_from(["Lax", "Strict", "None", ""]),
        },
    )
)
def test_whatever_is_accepted_can_be_sent(values):
    """WebOb sends every cookie whose settings were accepted, with name, path and domain
    unaltered."""
    settings = parse_or_none(values)
    if settings is None:
        return
    parts = header_of(settings).split("; ")
    assert parts[0] == f"{settings.cookie_name}=value"
    assert f"Path={settings.cookie_path}" in parts
    assert (f"Domain={settings.cookie_domain}" in parts) == (
        settings.cookie_domain is not None
    )


@pytest.mark.parametrize("code", range(256))
def test_exactly_the_characters_that_can_be_sent_are_accepted(code):
    """Name and path accept a character if and only if WebOb sends it unaltered; a
    domain accepts what hosts are called."""
    character = chr(code)
    text = f"a{character}b"
    assert is_sent("cookie_name", text) == is_accepted("cookie_name", text)
    assert is_sent("cookie_path", f"/{text}") == is_accepted("cookie_path", f"/{text}")
    is_of_a_host = character.isascii() and (character.isalnum() or character in "-._")
    assert is_accepted("cookie_domain", text) == is_of_a_host
    assert is_sent("cookie_domain", text) or not is_of_a_host


@pytest.mark.parametrize(
    "name",
    [
        "path",
        "Path",
        "priority",
        "expires",
        "$a",
        "a$",
        "max-age",
        "comment",
        "secured",
    ],
)
def test_exactly_the_names_that_can_be_sent_are_accepted(name):
    """The names that WebOb keeps for itself are refused, and no others."""
    assert is_sent("cookie_name", name) == is_accepted("cookie_name", name)


def is_sent(name, value):
    """Tell whether WebOb sends a value unaltered."""
    if not __debug__:
        pytest.skip("WebOb refuses by assert statements, which are not there")
    settings = dataclasses.replace(DefaultSettings(), **{name: value})
    try:
        header = header_of(settings)
    except (AssertionError, UnicodeEncodeError):
        return False
    return value in header


def is_accepted(name, value):
    """Tell whether a value is valid."""
    return parse_or_none({name: value}) is not None
