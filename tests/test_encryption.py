"""Encrypted data: what the table holds, who can read it, and what is refused."""

from __future__ import annotations

import base64
import json
import os
import pickle
import re
import runpy
import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from sqlalchemy import (
    JSON,
    Engine,
    LargeBinary,
    TypeDecorator,
    select,
    update,
)
from sqlalchemy.orm import DeclarativeBase, Session, mapped_column

from pyramid_sqlalchemy_sessions import (
    AESGCMSerializer,
    BaseMixin,
    ConfigurationError,
    CSRFMixin,
    DummySession,
    EncryptedDataMixin,
    FullyFeaturedSession,
    InconsistentDataError,
    JSONDataMixin,
    SessionStore,
    UseridMixin,
    factory_args_from_settings,
    get_session_factory,
    sealing,
    serializer,
)
from pyramid_sqlalchemy_sessions.check import main as check_main
from pyramid_sqlalchemy_sessions.gc import main
from pyramid_sqlalchemy_sessions.reseal import Census, census_of, reseal
from pyramid_sqlalchemy_sessions.sealing import Seal
from tests.application import SECRET, Application, Browser
from tests.applications.starter import PAGES
from tests.databases import Database
from tests.histories import check_history
from tests.stores import DRIVERS, Clock, Stores, make_factory

EXAMPLES = Path(__file__).parent.parent / "docs" / "examples"
OTHER_SECRET = base64.urlsafe_b64encode(bytes(range(100, 132))).decode()


class Base(DeclarativeBase):
    """The base of these models."""


class Pickled(EncryptedDataMixin, UseridMixin, CSRFMixin, BaseMixin, Base):
    """Pickles, encrypted."""

    __tablename__ = "session"


class JSONBase(DeclarativeBase):
    """The base of models in tables of the same name."""


class InJSON(
    JSONDataMixin, UseridMixin, CSRFMixin, EncryptedDataMixin, JSONBase, BaseMixin
):
    """JSON, encrypted."""

    __tablename__ = "session"


class FullBase(DeclarativeBase):
    """The base of a model with all features."""


class Everything(FullyFeaturedSession, EncryptedDataMixin, FullBase):
    """All features of 0.1.0, and encryption."""

    __tablename__ = "session"


class Reversed(TypeDecorator[bytes]):
    """Bytes that are stored backwards."""

    impl = LargeBinary
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Any) -> bytes:
        assert isinstance(value, bytes)
        return value[::-1]

    def process_result_value(self, value: Any, dialect: Any) -> bytes:
        return bytes(value)[::-1]


class OwnBase(DeclarativeBase):
    """The base of a model with columns of its own types."""


class Own(
    EncryptedDataMixin, JSONDataMixin, UseridMixin, CSRFMixin, BaseMixin, OwnBase
):
    """Both columns have types of the application's own."""

    __tablename__ = "session"
    data = mapped_column(Reversed, nullable=False)
    flash = mapped_column(Reversed, nullable=False)


MODELS = [Pickled, InJSON, Own]


@pytest.fixture(params=MODELS, ids=lambda each: each.__name__)
def model(request: pytest.FixtureRequest) -> Any:
    """A model with EncryptedDataMixin."""
    return request.param


def serve(engine: Engine, model: Any, **settings: Any) -> Application:
    """Make the tables and an application."""
    model.metadata.create_all(engine)
    return Application(engine, model, **settings)


@pytest.fixture
def application(model: Any, engine: Engine) -> Application:
    """An application whose model has the mixin."""
    return serve(engine, model)


@pytest.fixture
def browser(application: Application) -> Browser:
    """A browser with a session."""
    browser = Browser(application)
    browser.visit(fill)
    return browser


def fill(request: Any) -> None:
    """Put something into a session."""
    request.session.update(cart=["a book that nobody else should see"], n=1)
    request.session.flash("a message that nobody else should see")


def again(browser: Browser, application: Application) -> Browser:
    """Return the browser as one of another application on the same table."""
    other = Browser(application)
    other.set_cookie("session", str(browser.cookie))
    return other


def stored(application: Application) -> dict[str, bytes]:
    """Return what the only row holds in the two columns."""
    row = application.row()
    return {"data": row.data, "flash": row.flash}


def store(application: Application, **values: bytes) -> None:
    """Write to all rows, as another program may do."""
    with application.engine.begin() as connection:
        connection.execute(update(application.model).values(**values))


# What it is for.


def test_history(application: Application) -> None:
    """Sessions live as they do without it."""
    check_history(application)
    check_history(application, **{"retry.attempt": 1})


def test_everything(engine: Engine) -> None:
    """It goes with all other mixins."""
    check_history(serve(engine, Everything))


def test_nothing_is_seen(application: Application, browser: Browser) -> None:
    """The table shows neither what is in the session nor who wrote the format."""
    whole = b"".join(stored(application).values())
    for each in (b"book", b"cart", b"message", b"nobody", b"pickle"):
        assert each not in whole
    assert all(each[0] == 1 for each in stored(application).values())


def test_as_json(engine: Engine) -> None:
    """With JSONDataMixin values come back as their types."""
    browser = Browser(serve(engine, InJSON))
    values = {"id": uuid.uuid4(), "both": ({1: "é"}, b"\0"), "large": 2**70}
    browser.visit(lambda r: r.session.update(values))
    assert browser.ask(dict) == values
    with pytest.raises(TypeError, match="culprit"):
        browser.visit(lambda r: r.session.update(culprit={1}))


def test_no_write_without_a_change(application: Application, browser: Browser) -> None:
    """What is the same is not encrypted anew."""
    before = stored(application)
    browser.visit(lambda r: r.session.update(n=1))
    browser.ask(lambda session: (session["cart"], session.peek_flash()))
    assert stored(application) == before
    browser.visit(lambda r: r.session["cart"].append("another"))
    after = stored(application)
    assert after["data"] != before["data"]
    assert after["flash"] == before["flash"]


def test_merging(application: Application, browser: Browser) -> None:
    """Two requests that change different keys and queues at once both succeed."""
    other = again(browser, application)

    def view(request: Any) -> None:
        request.session["n"] += 1
        request.session.flash("mine")
        application.view = lambda r: (
            r.session["cart"].append("pen"),
            r.session.flash("yours"),
        )
        other.get("/")

    browser.visit(view)
    assert browser.ask(lambda s: (s["n"], s["cart"][1:])) == (2, ["pen"])
    assert browser.ask(lambda s: s.pop_flash())[1:] == ["yours", "mine"]


def test_savepoint_and_exception(application: Application, browser: Browser) -> None:
    """A savepoint takes back, and what an exception view does is stored."""

    def view(request: Any) -> None:
        with request.dbsession.begin_nested() as savepoint:
            request.session["n"] = 5
            savepoint.rollback()

    browser.visit(view)
    assert browser.ask(dict)["n"] == 1


@pytest.mark.parametrize(("kind", "driver"), DRIVERS)
def test_stores(
    kind: str, driver: str, model: Any, databases: dict[str, Database]
) -> None:
    """Stores of both kinds read and write it, and the collector deletes it."""
    database = databases[kind]
    if database.missing:
        pytest.skip(database.missing)
    stores = Stores(database, driver)
    try:
        model.metadata.create_all(stores.checks)
        factory = make_factory(model, Clock(1_000_000_000), data_keys=bytes(16))
        with stores.begin(factory) as opened:
            key = opened.create({"a": 1})
            opened.set(key, {"b": [2]})
            assert opened.get(key) == {"b": [2]}
        with Session(stores.checks) as dbsession:
            assert dbsession.scalars(select(model.data)).one()[0] == 1
    finally:
        stores.close()
        database.clear()


def test_dummy_session(model: Any) -> None:
    """The double for tests works with such a model."""
    session = DummySession({"a": 1}, model_class=model, new=False)
    session["a"] += 1
    session.flash("hello")
    assert (dict(session), session.pop_flash()) == ({"a": 2}, ["hello"])


# What is refused.


def altered(browser: Browser, name: str) -> Callable[[], Any]:
    """Return what makes use of a column."""
    return lambda: browser.ask(
        dict if name == "data" else lambda session: session.peek_flash()
    )


@pytest.mark.parametrize("name", ["data", "flash"])
def test_another_row(name: str, application: Application, browser: Browser) -> None:
    """What was copied from another session is refused, and the session can be ended."""
    values = stored(application)
    application.clear()
    browser.visit(fill)
    store(application, **{name: values[name]})
    with pytest.raises(InconsistentDataError, match=name):
        altered(browser, name)()
    browser.visit(lambda r: r.session.invalidate())
    assert not application.rows()


def test_another_column(application: Application, browser: Browser) -> None:
    """So is what was copied from the other column of the row."""
    values = stored(application)
    store(application, data=values["flash"], flash=values["data"])
    for name in values:
        with pytest.raises(InconsistentDataError, match=name):
            altered(browser, name)()


@pytest.mark.parametrize("name", ["data", "flash"])
def test_damage(name: str, application: Application, browser: Browser) -> None:
    """So is what is cut off or has another bit, wherever that is."""
    value = stored(application)[name]
    damaged = [value[:length] for length in (0, 1, 4, 5, 20, 21, 36, len(value) - 1)]
    damaged += [value + b"\0"]
    for place in (0, 1, 4, 5, 20, 21, len(value) - 1):
        damaged.append(value[:place] + bytes([value[place] ^ 1]) + value[place + 1 :])
    for each in damaged:
        store(application, **{name: each})
        with pytest.raises(InconsistentDataError, match=name) as caught:
            altered(browser, name)()
        assert "book" not in str(caught.value)
    store(application, **{name: value})
    altered(browser, name)()


def test_lost_key(application: Application, browser: Browser) -> None:
    """What a lost key has encrypted can't be read, and can be replaced or ended."""
    serializer = AESGCMSerializer(SECRET)
    factory = get_session_factory(serializer, application.model, data_keys=OTHER_SECRET)
    other = Application(
        application.engine,
        application.model,
        configure=lambda config: config.set_session_factory(factory),
    )
    browser = again(browser, other)
    for name in ("data", "flash"):
        with pytest.raises(InconsistentDataError, match=name):
            altered(browser, name)()
    browser.visit(lambda r: setattr(r.session, "userid", 1))
    browser.visit(lambda r: setattr(r.session, "userid", 2))  # it empties the session
    assert browser.ask(lambda s: (dict(s), s.peek_flash())) == ({}, [])


class Plant:
    """A pickle of it makes a file where it's loaded."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("accepts", [False, True])
def test_planted_pickle(accepts: bool, engine: Engine, tmp_path: Path) -> None:
    """A pickle that someone else has written to the table isn't unpickled."""
    application = serve(engine, Pickled, encrypted_accept_plain=accepts)
    browser = Browser(application)
    browser.visit(fill)
    sign = tmp_path / "sign"
    factory = get_session_factory(AESGCMSerializer(SECRET), Pickled, data_keys=SECRET)
    plant = pickle.dumps({"cart": Plant(sign)}, 4)
    start = stored(application)["data"][:21]
    for each in (plant, b"\x01" + plant, start + plant, start + plant + bytes(16)):
        if accepts and each is plant:
            continue  # that is what the setting is about
        store(application, data=each)
        for use in (
            dict,
            lambda session: session.copy(),
            lambda session: session.setdefault("cart", 1),
        ):
            with pytest.raises(InconsistentDataError):
                browser.ask(use)
        with Session(engine) as dbsession:
            opened, key = SessionStore(dbsession, factory), application.row().id
            with pytest.raises(InconsistentDataError):
                opened.get(key)
    list(reseal(engine, config_of(Pickled, SECRET)))
    assert not sign.exists()


# Plain rows.


def plain(application: Application) -> None:
    """Let the rows hold what they would without the mixin."""
    model = application.model
    list(reseal(application.engine, config_of(model, SECRET, True), plain=True))


def config_of(model: Any, keys: Any, accepts: bool = False) -> Any:
    """Return the configuration of a factory."""
    return get_session_factory(
        AESGCMSerializer(bytes(16)),
        model,
        data_keys=keys,
        encrypted_accept_plain=accepts,
    ).config


def test_plain_rows(application: Application, browser: Browser) -> None:
    """Plain rows are refused, unless a setting says otherwise: then they are sealed."""
    plain(application)
    values = stored(application)
    assert json.loads(values["flash"]) == {"": [browser_message()]}
    for name in ("data", "flash"):
        with pytest.raises(InconsistentDataError, match="encrypted_accept_plain"):
            altered(browser, name)()
    store(application, flash=b"[")
    migrating = Application(
        application.engine, application.model, encrypted_accept_plain="true"
    )
    first, browser = browser, again(browser, migrating)
    with pytest.raises(InconsistentDataError, match="flash"):
        altered(browser, "flash")()
    store(application, flash=values["flash"])
    assert browser.ask(lambda s: (s["n"], s.peek_flash())) == (1, [browser_message()])
    assert stored(application) == values
    browser.visit(lambda r: r.session.update(n=2))
    assert stored(application)["data"][0] == 1
    assert stored(application)["flash"] == values["flash"]
    browser.visit(lambda r: r.session.flash("more"))
    assert first.ask(lambda s: (s["n"], s.pop_flash()[1:])) == (2, ["more"])


def browser_message() -> str:
    """Return the message that each session has."""
    return "a message that nobody else should see"


# Sealing anew.


def check_sessions(application: Application, browsers: list[Browser]) -> None:
    """Check that all browsers have their sessions."""
    for number, browser in enumerate(browsers):
        seen = again(browser, application).ask(
            lambda s: (s["number"], len(s.peek_flash()))
        )
        assert seen == (number, 1)


@pytest.fixture
def browsers(application: Application) -> list[Browser]:
    """Some browsers with sessions."""
    browsers = []
    for number in range(7):
        browsers.append(Browser(application))
        browsers[-1].visit(fill)
        browsers[-1].visit(lambda r, n=number: r.session.update(number=n))  # type: ignore[misc]
    return browsers


def test_there_and_back(application: Application, browsers: list[Browser]) -> None:
    """Rows become plain and sealed again, by another key, and nothing is lost."""
    engine, model = application.engine, application.model
    config = config_of(model, SECRET, True)
    versions = [row.version for row in application.rows()]
    assert census_of(engine, config) == Census(0, 0, 0, 7)
    assert sum(reseal(engine, config, 2, plain=True)) == 7
    assert census_of(engine, config) == Census(7, 7, 0, 0)
    accepting = Application(engine, model, encrypted_accept_plain=True)
    check_sessions(accepting, browsers)
    assert sum(reseal(engine, config, 3)) == 7
    assert census_of(engine, config) == Census(0, 0, 0, 7)
    check_sessions(application, browsers)
    ring = [OTHER_SECRET, SECRET]
    assert census_of(engine, config_of(model, ring)) == Census(7, 0, 0, 7)
    assert sum(reseal(engine, config_of(model, ring))) == 7
    assert sum(reseal(engine, config_of(model, ring))) == 0
    assert census_of(engine, config_of(model, OTHER_SECRET)) == Census(0, 0, 0, 7)
    assert census_of(engine, config) == Census(7, 0, 7, 7)
    assert sum(reseal(engine, config)) == 0  # it can't
    keys = "\n".join([SECRET, OTHER_SECRET])
    check_sessions(Application(engine, model, secret_key=keys), browsers)
    assert sorted(row.version for row in application.rows()) == sorted(versions)


def test_unsealing_what_could_not_be_read(application: Application) -> None:
    """Rows aren't unsealed as long as the application refuses plain ones."""
    config = config_of(application.model, SECRET)
    with pytest.raises(ConfigurationError, match="encrypted_accept_plain"):
        list(reseal(application.engine, config, plain=True))


def test_a_locked_row(application: Application, browsers: list[Browser]) -> None:
    """A session that someone writes to holds nobody up, and has its turn later."""
    engine, model = application.engine, application.model
    if engine.dialect.name == "sqlite":
        pytest.skip("SQLite has one lock for all")
    config = config_of(model, [OTHER_SECRET, SECRET])
    row = application.rows()[0]
    with engine.begin() as connection:
        connection.execute(
            update(model).where(model.id == row.id).values(version=model.version)
        )
        assert sum(reseal(engine, config)) == 6
        assert census_of(engine, config).stale == 1
    assert sum(reseal(engine, config)) == 1


def test_a_write_meanwhile(application: Application, browser: Browser) -> None:
    """A request that has read a row before it was sealed anew writes it after that."""
    ring = "\n".join([OTHER_SECRET, SECRET])
    config = config_of(application.model, ring.split())
    rotated = Application(application.engine, application.model, secret_key=ring)
    browser = again(browser, rotated)

    def view(request: Any) -> None:
        request.session["n"] += 1
        if application.engine.dialect.name != "sqlite":
            assert sum(reseal(application.engine, config)) == 1

    browser.visit(view)
    assert browser.ask(lambda s: (s["n"], len(s.peek_flash()))) == (2, 1)


def test_a_write_while_a_batch_is_sealed(
    model: Any, sqlite_engine: Engine, monkeypatch: Any
) -> None:
    """Where rows can't be locked, one that was written meanwhile is tried again."""
    application = serve(sqlite_engine, model)
    browser = Browser(application)
    browser.visit(fill)
    config = config_of(model, [OTHER_SECRET, SECRET])
    seal, meanwhile = Seal.seal, [lambda r: r.session.flash("meanwhile")]

    def sealed(self: Seal, *args: Any) -> bytes:
        if meanwhile and self is config.table.seal:
            browser.visit(meanwhile.pop())
        return seal(self, *args)

    monkeypatch.setattr(Seal, "seal", sealed)
    assert sum(reseal(sqlite_engine, config)) == 1
    assert census_of(sqlite_engine, config) == (0, 0, 0, 1)


class Viewed(TypeDecorator[Any]):
    """Bytes as some drivers return them."""

    impl = LargeBinary
    cache_ok = True

    def process_result_value(self, value: Any, dialect: Any) -> memoryview:
        return memoryview(value)


class ViewedBase(DeclarativeBase):
    """The base of a model whose columns return no bytes."""


class AsView(EncryptedDataMixin, BaseMixin, ViewedBase):
    """Both columns return a memoryview."""

    __tablename__ = "session"
    data = mapped_column(Viewed, nullable=False)
    flash = mapped_column(Viewed, nullable=False)


def test_a_type_that_returns_no_bytes(engine: Engine) -> None:
    """It's read, counted and sealed anew like others."""
    browser = Browser(serve(engine, AsView))
    browser.visit(lambda request: request.session.update(n=1))
    browser.visit(lambda request: request.session.flash("hello"))
    assert browser.ask(lambda s: (s["n"], s.peek_flash())) == (1, ["hello"])
    config = config_of(AsView, [OTHER_SECRET, SECRET])
    assert census_of(engine, config) == (1, 0, 0, 1)
    assert sum(reseal(engine, config)) == 1
    assert census_of(engine, config) == (0, 0, 0, 1)


def test_under_load(model: Any, engine: Engine) -> None:
    """While requests count in their sessions, sealing anew loses none of it."""
    ring = [SECRET, OTHER_SECRET]
    application = serve(
        engine, model, secret_key="\n".join(ring), encrypted_accept_plain=True
    )
    browsers = [Browser(application) for _ in range(4)]
    for browser in browsers:
        browser.visit(lambda r: r.session.update(n=0))
    application.view = count
    numbers = [0] * len(browsers)
    stop = threading.Event()

    def use(number: int) -> None:
        while not stop.is_set():
            try:
                browsers[number].get("/")
            except Exception as exc:  # a database may refuse, and then it isn't counted
                if "locked" not in str(exc) and "StaleData" not in repr(exc):
                    raise
            else:
                numbers[number] += 1

    threads = [threading.Thread(target=use, args=(each,)) for each in range(4)]
    for thread in threads:
        thread.start()
    for _ in range(5):
        list(reseal(engine, config_of(model, ring, True), plain=True))
        list(reseal(engine, config_of(model, ring[::-1], True)))
        list(reseal(engine, config_of(model, ring, True)))
    stop.set()
    for thread in threads:
        thread.join()
    assert [each.ask(lambda s: s["n"]) for each in browsers] == numbers
    assert min(numbers) > 0


def count(request: Any) -> None:
    """Count in a session."""
    request.session["n"] += 1


# The command.


@pytest.fixture
def command(database_url: str, tmp_path: Path, capsys: Any) -> Callable[..., Any]:
    """Run pyramid_session_gc on an application."""

    def command(
        model: type, *arguments: str, keys: str = SECRET, accepts: bool = False
    ) -> tuple[int, str]:
        path = tmp_path / "test.ini"
        lines = [
            "[app:main]",
            f"use = call:{application_of.__module__}:{application_of.__name__}",
            f"sqlalchemy.url = {database_url}",
            f"session.model_class = {__name__}.{model.__name__}",
            f"session.secret_key = {keys}",
        ]
        if issubclass(model, EncryptedDataMixin):
            lines.append(f"session.encrypted_accept_plain = {accepts}")
        path.write_text("\n".join(lines))
        status = main([str(path), *arguments])
        out, err = capsys.readouterr()
        assert SECRET not in out + err
        return status, out + err

    return command


@pytest.fixture
def check(command: Any, tmp_path: Path, capsys: Any) -> Callable[..., Any]:
    """Run pyramid_session_check; return the lines about encryption."""

    def check(model: type, **settings: Any) -> list[str]:
        command(model, "--reseal", "--dry-run", **settings)  # it writes the file
        check_main([str(tmp_path / "test.ini")])
        lines = re.sub(r"\n {10,}", " ", capsys.readouterr().out).splitlines()
        return [line for line in lines if line[7:].startswith("encryption")]

    return check


def test_check(check: Any, application: Application, browsers: list[Browser]) -> None:
    """The check says what is to be sealed anew, and what can't be read."""
    model, ring = application.model, f"{OTHER_SECRET} {SECRET}"
    (line,) = check(model)
    assert line.startswith("ok")
    done, needless = check(model, accepts=True)
    assert done.startswith("ok")
    assert needless.startswith("hint")
    assert "encrypted_accept_plain" in needless
    (line,) = check(model, keys=ring)
    assert line.startswith("hint")
    assert "7 sessions" in line
    assert "--reseal" in line
    lost, stale = check(model, keys=OTHER_SECRET)
    assert lost.startswith("error")
    assert "7 sessions" in lost
    assert stale.startswith("hint")
    plain(application)
    (line,) = check(model)
    assert line.startswith("error")
    assert "encrypted_accept_plain" in line
    (line,) = check(model, accepts=True)
    assert line.startswith("hint")


def application_of(config: Any, **settings: Any) -> Any:
    """Make the application of the command's configuration."""
    from tests.test_check import application

    return application(config, **settings)


def test_command(
    command: Any, application: Application, browsers: list[Browser]
) -> None:
    """The command seals anew, tells what is left, and fails if that's anything."""
    model = application.model
    assert command(model, "--reseal") == (
        0,
        f"0 rows of {model.__name__} encrypted with the first key, 0 are left.\n",
    )
    ring = f"{OTHER_SECRET} {SECRET}"
    status, told = command(model, "--reseal", "--dry-run", keys=ring)
    assert (status, "7 are left" in told) == (0, True)
    status, told = command(model, "--reseal", keys=OTHER_SECRET)
    assert status == 1
    assert "7 of them with a key that isn't in the ring" in told
    assert command(model, "--reseal", "--quiet", keys=ring) == (0, "")
    status, told = command(model, "--unseal", keys=OTHER_SECRET)
    assert (status, "encrypted_accept_plain" in told) == (1, True)
    status, told = command(model, "--unseal", keys=OTHER_SECRET, accepts=True)
    assert (status, "7 rows of" in told, " 0 are left" in told) == (0, True, True)
    status, told = command(model, "--reseal", keys=OTHER_SECRET)
    assert (status, "7 are left" in told) == (1, True)
    status, told = command(
        model, "--reseal", "--batch-size", "2", keys=ring, accepts=True
    )
    assert (status, "7 rows of" in told) == (0, True)


class PlainBase(DeclarativeBase):
    """The base of a model without the mixin."""


class Plain(BaseMixin, PlainBase):
    """A model without the mixin."""

    __tablename__ = "session"


def test_command_without_the_mixin(command: Any, engine: Engine) -> None:
    """Where there is nothing to seal, the command says so."""
    Plain.metadata.create_all(engine)
    status, told = command(Plain, "--reseal")
    assert (status, "EncryptedDataMixin" in told) == (1, True)


# Configuration.


def test_missing_keys() -> None:
    """A factory made by hand needs the keys."""
    with pytest.raises(ConfigurationError, match="data_keys"):
        get_session_factory(AESGCMSerializer(SECRET), Pickled)
    with pytest.raises(ConfigurationError, match="data_keys") as caught:
        get_session_factory(AESGCMSerializer(SECRET), Pickled, data_keys=["a", SECRET])
    assert SECRET not in str(caught.value)


def test_needless_keys() -> None:
    """Keys and setting are refused where the model has nothing to encrypt."""
    with pytest.raises(ConfigurationError, match="EncryptedDataMixin"):
        get_session_factory(AESGCMSerializer(SECRET), Plain, data_keys=SECRET)
    with pytest.raises(ConfigurationError, match="EncryptedDataMixin"):
        get_session_factory(
            AESGCMSerializer(SECRET), Plain, encrypted_accept_plain=False
        )


def test_factory_args() -> None:
    """The keys are those of the setting, also for a serializer of one's own."""
    settings = {"session.secret_key": SECRET, "session.model_class": Pickled}
    arguments = factory_args_from_settings(settings, lambda each: each)
    assert arguments["data_keys"] == [SECRET]
    arguments["serializer"] = AESGCMSerializer(OTHER_SECRET)
    assert get_session_factory(**arguments).config.table.seal is not None
    settings["session.model_class"] = Plain
    assert "data_keys" not in factory_args_from_settings(settings, lambda each: each)


@pytest.mark.parametrize("name", ["data", "flash"])
def test_a_column_for_json(name: str) -> None:
    """A column that takes no bytes is found when the application starts."""

    class Base(DeclarativeBase):
        pass

    body = {"__tablename__": "session", name: mapped_column(JSON, nullable=False)}
    mixins = (EncryptedDataMixin, JSONDataMixin, BaseMixin, Base)
    with pytest.raises(ConfigurationError, match=name):
        config_of(type("Model", mixins, body), SECRET)


# The form.


def vectors() -> tuple[str, uuid.UUID, bytes, bytes]:
    """Return the key, the id, and the two values of the documentation."""
    pattern = r":name: sealed-vectors\n\n((?: +\S+\n)+)"
    (found,) = re.findall(pattern, PAGES["table"])
    key, id, data, flash = found.split()
    return key, uuid.UUID(id), bytes.fromhex(data), bytes.fromhex(flash)


CONTENTS = {"data": b'{"cart":["book"]}', "flash": b'{"":["hello"]}'}


def ciphers() -> Iterator[Any]:
    """Yield the ciphers of both packages, as far as they are there."""
    for name in ("_PyCryptodomeCipher", "_CryptographyCipher"):
        if hasattr(serializer, name):
            yield getattr(serializer, name)


def test_vectors_by_another_program() -> None:
    """Another program opens them by what the documentation says."""
    pytest.importorskip("cryptography")
    open_sealed = runpy.run_path(str(EXAMPLES / "read_encrypted.py"))["open_sealed"]
    key, id, *values = vectors()
    for (name, content), value in zip(CONTENTS.items(), values, strict=True):
        assert open_sealed(key, id, name, value) == content
        with pytest.raises(ValueError, match="key"):
            open_sealed(OTHER_SECRET[::-1].replace("=", "A") + "=", id, name, value)
    assert json.loads(CONTENTS["flash"]) == {"": ["hello"]}


@pytest.mark.parametrize("cipher", list(ciphers()), ids=lambda each: each.__name__)
def test_vectors_by_the_library(cipher: Any) -> None:
    """The library makes and opens the same, with whichever package."""
    key, id, *values = vectors()
    with mock.patch.object(serializer, "_cipher_class", cipher):
        seal = sealing.Seal(serializer.keys_of(key, "key"), False)
    for (name, content), value in zip(CONTENTS.items(), values, strict=True):
        assert seal.open(id, name, value) == content
        with mock.patch("secrets.token_bytes", return_value=value[5:21]):
            assert seal.seal(id, name, content) == value
        assert seal.seal(id, name, content) != value


def test_another_program_reads_the_table(engine: Engine) -> None:
    """What an application has stored is of the documented form."""
    pytest.importorskip("cryptography")
    open_sealed = runpy.run_path(str(EXAMPLES / "read_encrypted.py"))["open_sealed"]
    application = serve(engine, Pickled, secret_key=OTHER_SECRET)
    Browser(application).visit(fill)
    row = application.row()
    data = open_sealed(OTHER_SECRET, row.id, "data", row.data)
    flash = open_sealed(OTHER_SECRET, row.id, "flash", row.flash)
    assert pickle.loads(data)["n"] == 1
    assert json.loads(flash) == {"": [browser_message()]}
