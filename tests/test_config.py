"""From ini settings to the arguments of a session factory."""

import sys
from base64 import urlsafe_b64decode, urlsafe_b64encode

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyramid.path import DottedNameResolver

from pyramid_sqlalchemy_sessions.config import (
    factory_args_from_settings,
    generate_secret_key,
    refuse_unknown_settings,
)
from pyramid_sqlalchemy_sessions.exceptions import ConfigurationError
from pyramid_sqlalchemy_sessions.serializer import AESGCMSerializer, can_be_guessed
from pyramid_sqlalchemy_sessions.session import get_session_factory
from pyramid_sqlalchemy_sessions.settings import SETTINGS
from tests.application import Full

maybe_dotted = DottedNameResolver(None).maybe_resolve


class Model:
    """Stands for a session model, of which only being a class is checked here."""


def make_settings(**settings):
    """Return valid ini settings, with those given instead or in addition."""
    required = {"secret_key": generate_secret_key(), "model_class": Model}
    return {
        f"session.{name}": value for name, value in {**required, **settings}.items()
    }


def refusal(**settings):
    """Return the ConfigurationError with which the settings are refused."""
    with pytest.raises(ConfigurationError) as caught:
        factory_args_from_settings(make_settings(**settings), maybe_dotted)
    return caught.value


def test_only_what_is_given_is_returned():
    """The factory has to know which settings are given, so defaults are left to it."""
    args = factory_args_from_settings(
        make_settings(cookie_max_age=None, cookie_name="sid"), maybe_dotted
    )
    assert isinstance(args.pop("serializer"), AESGCMSerializer)
    assert args.pop("model_class") is Model
    assert args.pop("prefix") == "session."
    assert args == {"cookie_max_age": None, "cookie_name": "sid"}


def test_result_makes_a_factory():
    """What is returned are arguments of get_session_factory."""
    args = factory_args_from_settings(
        make_settings(model_class=Full, cookie_name="sid"), maybe_dotted
    )
    factory = get_session_factory(**args)
    assert factory.model_class is Full
    assert factory.settings.cookie_name == "sid"
    assert factory.settings.cookie_path == "/"


def test_given_settings_are_passed_on_unchecked():
    """Values are checked by the factory, not here."""
    args = factory_args_from_settings(
        make_settings(idle_timeout="nonsense", cookie_path="/x"), maybe_dotted
    )
    assert args["idle_timeout"] == "nonsense"
    assert args["cookie_path"] == "/x"


def test_unknown_settings_are_passed_over():
    """Names that are not ours never become arguments, with the prefix or without."""
    settings = {
        **make_settings(unknown="1"),
        "idle_timeout": "5",
        "sqlalchemy.url": "sqlite://",
    }
    args = factory_args_from_settings(settings, maybe_dotted)
    assert set(args) == {"serializer", "model_class", "prefix"}


def test_prefix_can_be_chosen():
    """With another prefix, only settings with that prefix count."""
    settings = {
        **make_settings(idle_timeout="1"),
        "other.secret_key": generate_secret_key(),
        "other.model_class": Model,
        "other.idle_timeout": "2",
    }
    assert (
        factory_args_from_settings(settings, maybe_dotted, "other.")["idle_timeout"]
        == "2"
    )


def test_prefix_stands_in_errors():
    """An error names the setting as it is written in the ini file."""
    with pytest.raises(ConfigurationError, match=r"^other\.secret_key is missing"):
        factory_args_from_settings(make_settings(), maybe_dotted, prefix="other.")


@pytest.mark.parametrize("size", [16, 24, 32])
@pytest.mark.parametrize("padded", [True, False])
def test_key_of_each_size_is_accepted(size, padded):
    """Keys of 16, 24 and 32 bytes work, with their base64 padding or without."""
    key = generate_secret_key(size)
    args = factory_args_from_settings(
        make_settings(secret_key=key if padded else key.rstrip("=")), maybe_dotted
    )
    value = AESGCMSerializer(urlsafe_b64decode(key)).dumps(b"ticket")
    assert args["serializer"].loads(value) == b"ticket"


def test_key_ring_is_separated_by_white_space():
    """The first key encrypts and all decrypt, whatever white space is between and
    around them."""
    new, old = generate_secret_key(), generate_secret_key(16)
    settings = make_settings(secret_key=f"\n  {new}\n\t{old} \n")
    serializer = factory_args_from_settings(settings, maybe_dotted)["serializer"]
    only_new, only_old = (
        AESGCMSerializer(urlsafe_b64decode(key)) for key in (new, old)
    )
    assert serializer.loads(only_old.dumps(b"ticket")) == b"ticket"
    assert only_new.loads(serializer.dumps(b"ticket")) == b"ticket"


@pytest.mark.parametrize(
    "given", [{}, {"session.secret_key": ""}, {"session.secret_key": None}]
)
def test_missing_secret_key_is_refused_with_the_remedy(given):
    """Whoever forgot the secret is told how to make one."""
    with pytest.raises(
        ConfigurationError,
        match=r"^session\.secret_key is missing; .*pyramid_session_secret",
    ):
        factory_args_from_settings(
            {"session.model_class": Model, **given}, maybe_dotted
        )


GOOD_KEY = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="


@pytest.mark.parametrize(
    "secret",
    [
        "hunter2hunter2",
        "   ",
        urlsafe_b64encode(b"x" * 31).decode(),
        urlsafe_b64encode(b"x" * 33).decode(),
        "A" * 42 + "+=",
        "A" * 42 + "/=",
        "A" * 43 + "==",
        "A" * 22 + "=",
        "A" * 32 + "=",
        "é" * 43 + "=",
        "A" * 20 + "==",
        f"{GOOD_KEY},{GOOD_KEY}",
        f"{GOOD_KEY} hunter2hunter2",
        b"A" * 32,
        [GOOD_KEY],
        12345678901234567890,
    ],
)
def test_invalid_secret_key_is_refused_and_never_shown(secret):
    """The error says what is valid and how to get it, but neither it nor its cause
    shows the secret."""
    error = refusal(secret_key=secret)
    assert str(error).startswith(
        "session.secret_key must be the urlsafe base64 text of 16, 24 or 32 bytes"
    )
    assert "pyramid_session_secret" in str(error)
    assert error.__cause__ is None
    assert error.__context__ is None
    for shown in (secret, repr(secret), GOOD_KEY, "hunter2"):
        assert str(shown).strip() == "" or str(shown) not in str(error)


def repeated(text, length):
    """Return a text that repeats another one."""
    return (text * length)[:length]


@pytest.mark.parametrize("length", [22, 32, 43])
@pytest.mark.parametrize(
    "word", ["A", "-", "ab", "key", "word", "hello", "secret", "session", "changeme"]
)
def test_repeated_word_is_no_key(word, length):
    """A text of the right length that repeats a word can be guessed."""
    for key in (
        repeated(word, length),
        repeated(word, length - 2) + "xQ",
        "xQ" + repeated(word, length - 2),
    ):
        error = refusal(secret_key=key)
        assert "session.secret_key must be random" in str(error)
        assert "pyramid_session_secret" in str(error)
        assert key not in str(error)
        assert error.__context__ is None


@pytest.mark.parametrize("size", [16, 24, 32])
@pytest.mark.parametrize(
    "period", [b"\0", b"\xff", b"01", b"key", b"demo-", b"secret", b"changeme"]
)
def test_repeated_bytes_are_no_key(period, size):
    """Nor is the base64 text of such bytes, in which no repetition can be seen."""
    for key in (repeated(period, size), repeated(period, size - 2) + b"!?"):
        error = refusal(secret_key=urlsafe_b64encode(key).decode())
        assert "must be random" in str(error)


def test_every_key_of_a_ring_has_to_be_good():
    """A bad key decrypts, too."""
    error = refusal(secret_key=f"{generate_secret_key()} {'A' * 43}")
    assert "must be random" in str(error)


@pytest.mark.parametrize("size", [16, 24, 32])
def test_random_keys_are_good(size):
    """No key that was drawn is refused."""
    keys = {generate_secret_key(size) for _ in range(2000)}
    assert [key for key in keys if can_be_guessed(key)] == []


@given(
    st.one_of(
        st.text(),
        st.text("Aa0-_= \n", max_size=60),
        st.binary(),
        st.integers(),
        st.none(),
    )
)
def test_any_secret_key_works_or_is_refused(secret):
    """Whatever stands for the secret, the outcome is a serializer or a
    ConfigurationError."""
    try:
        args = factory_args_from_settings(
            make_settings(secret_key=secret), maybe_dotted
        )
    except ConfigurationError:
        return
    assert args["serializer"].loads(args["serializer"].dumps(b"ticket")) == b"ticket"


def test_model_class_is_a_class_or_a_dotted_name():
    """A dotted name is resolved, also with white space around it; a class is taken as
    it is."""
    for given_model in ("decimal.Decimal", " decimal:Decimal\n"):
        args = factory_args_from_settings(
            make_settings(model_class=given_model), maybe_dotted
        )
        assert args["model_class"].__name__ == "Decimal"
    assert (
        factory_args_from_settings(make_settings(model_class=Model), maybe_dotted)[
            "model_class"
        ]
        is Model
    )


@pytest.mark.parametrize("model_class", [None, "", "  "])
def test_missing_model_class_is_refused(model_class):
    """Whoever forgot the model is told what to give."""
    message = (
        "session.model_class is missing; session.model_class must be the session model"
        " or its dotted name"
    )
    assert str(refusal(model_class=model_class)) == message


@pytest.mark.parametrize(
    ("dotted", "cause"),
    [
        ("no_such_package.Model", ImportError),
        ("decimal.NoSuchClass", ImportError),
        ("decimal:NoSuchClass", ImportError),
        (".relative", ValueError),
        ("decimal..Decimal", ImportError),
    ],
)
def test_unresolvable_model_class_is_refused_with_its_cause(dotted, cause):
    """The error shows the name and is chained to what the import raised."""
    error = refusal(model_class=dotted)
    assert str(error).startswith(
        "session.model_class must be the session model or its dotted name; "
    )
    assert f"{dotted!r} cannot be imported" in str(error)
    assert isinstance(error.__cause__, cause)


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Make a package with a module in which there is a model."""
    (tmp_path / "forgetful" / "models").mkdir(parents=True)
    (tmp_path / "forgetful" / "__init__.py").write_text("")
    (tmp_path / "forgetful" / "models" / "__init__.py").write_text("")
    (tmp_path / "forgetful" / "models" / "session.py").write_text("class Session: ...")
    monkeypatch.syspath_prepend(tmp_path)
    yield "forgetful.models"
    for name in [each for each in sys.modules if each.startswith("forgetful")]:
        del sys.modules[name]


@pytest.mark.parametrize("separator", [".", ":"])
def test_model_that_the_package_does_not_import(package, separator):
    """Python calls the class a module that is missing; we say what to do."""
    text = str(refusal(model_class=f"{package}{separator}Session"))
    assert "the package forgetful.models has no Session" in text
    assert "import the class in its __init__.py" in text
    assert "No module named" not in text
    name = f"{package}.session{separator}Session"
    assert factory_args_from_settings(make_settings(model_class=name), maybe_dotted)


@pytest.mark.parametrize("separator", [".", ":"])
def test_model_that_the_module_does_not_have(package, separator):
    """Where there is no package, there is no __init__.py to import it in."""
    text = str(refusal(model_class=f"{package}.session{separator}Sesion"))
    assert text.endswith("the module forgetful.models.session has no Sesion")


@pytest.mark.parametrize("model_class", ["decimal", "decimal.getcontext", 5, Model()])
def test_model_that_is_not_a_class_is_refused(model_class):
    """A module, a function or an instance cannot be the model."""
    assert str(refusal(model_class=model_class)).endswith(
        f"{model_class!r} is not a class"
    )


def test_known_settings_are_not_refused():
    """All settings of the table and both required ones are known, and names without the
    prefix are not looked at."""
    settings = {f"session.{setting.name}": "x" for setting in SETTINGS}
    refuse_unknown_settings(
        {
            **make_settings(),
            **settings,
            "session": "1",
            "sqlalchemy.url": "x",
            "idle_timout": "1",
        }
    )


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("idle_timout", "idle_timeout"),
        ("Cookie_Name", "cookie_name"),
        ("secretkey", "secret_key"),
        ("model", "model_class"),
    ],
)
def test_mistyped_setting_is_refused_with_the_one_that_was_meant(name, meant):
    """A mistyped name is refused, and the error knows better."""
    with pytest.raises(ConfigurationError) as caught:
        refuse_unknown_settings(make_settings(**{name: "1"}))
    assert str(caught.value).startswith(
        f"'session.{name}' is not a setting; did you mean session.{meant}?"
    )


def test_setting_of_another_library_is_refused_with_a_way_out():
    """A name that resembles none of ours lists ours and says how to share the
    prefix."""
    with pytest.raises(ConfigurationError) as caught:
        refuse_unknown_settings({"web.type": "file"}, "web.")
    assert str(caught.value).startswith(
        "'web.type' is not a setting; the known names are web.secret_key,"
        " web.model_class, web."
    )
    assert "session_factory_from_settings() and another prefix" in str(caught.value)


def test_serializer_is_refused_as_an_ini_setting():
    """A serializer of one's own needs a factory made by hand, and the error says so."""
    with pytest.raises(
        ConfigurationError,
        match=r"^session\.serializer cannot be given .* get_session_factory\(",
    ):
        refuse_unknown_settings(make_settings(serializer="some.Serializer"))


@pytest.mark.parametrize(("size", "length"), [(16, 24), (24, 32), (32, 44)])
def test_generated_key_is_padded_base64_text_of_its_size(size, length):
    """A generated key is text that decodes to as many bytes as asked for."""
    key = generate_secret_key(size)
    assert len(key) == length
    assert len(urlsafe_b64decode(key)) == size


def test_generated_keys_are_of_32_bytes_and_differ():
    """By default a key is as long as AES allows, and no two are alike."""
    keys = {generate_secret_key() for _ in range(100)}
    assert len(keys) == 100
    assert {len(urlsafe_b64decode(key)) for key in keys} == {32}


@pytest.mark.parametrize("size", [0, 15, 17, 64, -16, "32", None])
def test_key_of_another_size_is_not_generated(size):
    """A size that AES does not have is a ValueError that says which there are."""
    with pytest.raises(ValueError, match="size must be 16, 24 or 32 bytes, not"):
        generate_secret_key(size)
