"""Every combination of features is a model that works, in whatever order."""

from __future__ import annotations

import random
import time
from itertools import product

import pytest
import time_machine
from sqlalchemy import create_engine, inspect
from sqlalchemy.orm import DeclarativeBase
from sqlalchemy.pool import StaticPool

from pyramid_sqlalchemy_sessions import (
    AbsoluteMixin,
    AESGCMSerializer,
    BaseMixin,
    ConfigAbsoluteMixin,
    ConfigCookieMixin,
    ConfigIdleMixin,
    ConfigRenewalMixin,
    CSRFMixin,
    IdleMixin,
    JSONDataMixin,
    RenewalMixin,
    UseridMixin,
)
from tests.application import Application, Browser

OURS = AESGCMSerializer(bytes(range(32)))

IDLE, ABSOLUTE, RENEWAL, MAX_AGE = 100, 1000, 150, 5000

CHOICES = (
    (None, UseridMixin),
    (None, CSRFMixin),
    (None, ConfigCookieMixin),
    (None, IdleMixin, ConfigIdleMixin),
    (None, AbsoluteMixin, ConfigAbsoluteMixin),
    (None, RenewalMixin, ConfigRenewalMixin),
)


#: Stands for the declarative base, of which each model needs one of its own.
BASE = object()


def mixins_of(combination):
    """Return the mixins that were chosen."""
    return tuple(mixin for mixin in combination if mixin is not None)


def name_of(mixins):
    """Return a short name for a combination of mixins."""
    names = [mixin.__name__.removesuffix("Mixin") for mixin in mixins]
    return "-".join(names) or "nothing"


COMBINATIONS = [mixins_of(each) for each in product(*CHOICES)]


def make_model(bases):
    """Make a model with these bases, in this order."""

    class Models(DeclarativeBase):
        """A base for this model alone."""

    bases = tuple(Models if each is BASE else each for each in bases)
    return type("Combined", bases, {"__tablename__": "combined"})


class History:
    """The history of a session, whose course depends on what the model has."""

    def __init__(self, engine, model, clock):
        self.clock = clock
        self.model = model
        self.has_idle = issubclass(model, IdleMixin)
        self.has_absolute = issubclass(model, AbsoluteMixin)
        self.has_renewal = issubclass(model, RenewalMixin)
        # What can be the session's own is not set for the application.
        self.own = {}
        settings = {}
        for mixin, config_mixin, name, value in (
            (IdleMixin, ConfigIdleMixin, "idle_timeout", IDLE),
            (AbsoluteMixin, ConfigAbsoluteMixin, "absolute_timeout", ABSOLUTE),
            (RenewalMixin, ConfigRenewalMixin, "renewal_timeout", RENEWAL),
            (ConfigCookieMixin, ConfigCookieMixin, "cookie_max_age", MAX_AGE),
        ):
            if issubclass(model, config_mixin):
                self.own[name] = value
            elif issubclass(model, mixin):
                settings[name] = value
        model.metadata.create_all(engine)
        self.application = Application(engine, model, **settings)
        self.browser = Browser(self.application)

    def play(self):
        """Play it, and check what becomes of it."""
        self.begin()
        self.flash()
        self.use_token()
        self.log_in_and_out()
        self.renew()
        self.idle()
        self.grow_old()
        self.end()

    def begin(self):
        """Make a session."""

        def view(request):
            session = request.session
            assert session.new
            with session.settings as settings:
                for name, value in self.own.items():
                    settings[name] = value
            session["list"] = [1]

        response = self.browser.visit(view)
        (header,) = response.headers.getall("Set-Cookie")
        assert ("Max-Age" in header) == issubclass(self.model, ConfigCookieMixin)
        assert len(OURS.loads(self.browser.cookie)) == (32 if self.has_renewal else 16)
        self.browser.ask(lambda session: session["list"].append(2))
        assert self.is_alive()

    def is_alive(self):
        """Tell whether the session has its data."""
        return self.browser.ask(dict) == {"list": [1, 2]}

    def flash(self):
        """Leave a message, and take it away."""
        self.browser.ask(lambda session: session.flash("message"))
        assert self.browser.ask(lambda session: session.pop_flash()) == ["message"]
        assert self.browser.ask(lambda session: session.peek_flash()) == []

    def use_token(self):
        """Use a CSRF token if there is one."""
        if issubclass(self.model, CSRFMixin):
            token = self.browser.ask(lambda session: session.get_csrf_token())
            assert self.browser.ask(lambda session: session.get_csrf_token()) == token
        else:
            with pytest.raises(NotImplementedError, match="CSRFMixin"):
                self.browser.ask(lambda session: session.get_csrf_token())

    def log_in_and_out(self):
        """Log in, or not, and rotate the session."""
        before, cookie = self.application.row(), self.browser.cookie
        if issubclass(self.model, UseridMixin):
            self.browser.ask(lambda session: setattr(session, "userid", 5))
            assert self.browser.ask(lambda session: session.userid) == 5
            self.browser.ask(lambda session: setattr(session, "userid", None))
        else:
            with pytest.raises(NotImplementedError, match="UseridMixin"):
                self.browser.ask(lambda session: session.userid)
            self.browser.ask(lambda session: session.rotate())
        row = self.application.row()
        assert row.id == before.id
        assert row.renewal_id not in (None, before.renewal_id)
        assert self.browser.cookie != cookie
        assert OURS.loads(self.browser.cookie) == row.id.bytes + row.renewal_id.bytes
        assert self.is_alive()

    def renew(self):
        """Use the session until it is renewed, if it is ever."""
        cookie = self.browser.cookie
        before = OURS.loads(cookie)
        for _ in range(2):
            self.clock.shift(RENEWAL // 2 + 1)
            assert self.is_alive()
        after = OURS.loads(self.browser.cookie)
        assert after[:16] == before[:16]
        assert (after[16:] != before[16:]) == self.has_renewal
        assert self.is_alive()
        if self.has_renewal:
            row = self.application.row()
            assert row.renewal_id.bytes == after[16:]
            assert row.renewal_previous.bytes == before[16:]

    def idle(self):
        """Do not use it for some time, which may be its end."""
        self.clock.shift(IDLE + 1)
        assert self.is_alive() != self.has_idle
        if self.has_idle:
            assert self.application.rows() == []
            assert self.browser.cookie is None
            self.begin()

    def grow_old(self):
        """Use it until it would be too old."""
        born = self.application.row().created
        while self.has_idle and time.time() + 90 <= born + ABSOLUTE:
            self.clock.shift(90)
            assert self.is_alive()
        self.clock.shift(born + ABSOLUTE + 1 - time.time())
        assert self.is_alive() != self.has_absolute
        if self.has_absolute:
            assert self.application.rows() == []
            self.begin()

    def end(self):
        """Put an end to it."""
        assert len(self.application.rows()) == 1
        self.browser.ask(lambda session: session.invalidate())
        assert self.application.rows() == []
        assert self.browser.cookie is None


@pytest.fixture
def clock():
    """A clock that stands still until the test pushes it."""
    with time_machine.travel(int(time.time()), tick=False) as clock:
        yield clock


@pytest.fixture(scope="module")
def memory():
    """An engine on a database in memory."""
    engine = create_engine("sqlite://", poolclass=StaticPool)
    yield engine
    engine.dispose()


def test_number_of_combinations():
    """There are 2 x 2 x 2 x 3 x 3 x 3 combinations, all of them different."""
    assert len(set(COMBINATIONS)) == 216


@pytest.mark.parametrize("mixins", COMBINATIONS, ids=name_of)
def test_combination(memory, clock, mixins):
    """Each combination is a table that serves a history in which all ends are met."""
    model = make_model((*mixins, BaseMixin, BASE))
    try:
        History(memory, model, clock).play()
    finally:
        model.metadata.drop_all(memory)


REPRESENTATIVES = [
    (),
    (UseridMixin, CSRFMixin, IdleMixin, AbsoluteMixin, RenewalMixin),
    (
        UseridMixin,
        CSRFMixin,
        ConfigCookieMixin,
        ConfigIdleMixin,
        ConfigAbsoluteMixin,
        ConfigRenewalMixin,
    ),
    (UseridMixin, IdleMixin),
    (ConfigCookieMixin, IdleMixin, ConfigRenewalMixin),
    (CSRFMixin, ConfigIdleMixin, AbsoluteMixin),
    (ConfigAbsoluteMixin, RenewalMixin),
    (ConfigCookieMixin, JSONDataMixin, ConfigIdleMixin, RenewalMixin),
]


@pytest.mark.parametrize("mixins", REPRESENTATIVES, ids=name_of)
def test_representative(engine, clock, mixins):
    """So it is on each kind of database."""
    History(engine, make_model((*mixins, BaseMixin, BASE)), clock).play()


def orders(number):
    """Return so many orders of all mixins and the base, the same each time."""
    bases = [*(choice[-1] for choice in CHOICES), JSONDataMixin, BaseMixin, BASE]
    chance = random.Random(1)
    yield bases
    yield bases[::-1]
    for _ in range(number - 2):
        yield chance.sample(bases, len(bases))


def columns_of(model):
    """Return what the columns of the model are, by name."""
    return {
        column.name: (repr(column.type), column.nullable, column.primary_key)
        for column in inspect(model).local_table.columns
    }


@pytest.mark.parametrize("bases", [*orders(12)])
def test_order_of_the_bases(memory, clock, bases):
    """The order of the base classes does not matter."""
    model = make_model(bases)
    assert columns_of(model) == columns_of(make_model(next(orders(2))))
    try:
        History(memory, model, clock).play()
    finally:
        model.metadata.drop_all(memory)


@pytest.mark.parametrize(
    "mixins",
    [
        (ConfigIdleMixin, IdleMixin),
        (ConfigAbsoluteMixin, AbsoluteMixin),
        (ConfigRenewalMixin, RenewalMixin),
    ],
    ids=name_of,
)
def test_both_forms_of_a_feature(memory, clock, mixins):
    """A model that names a mixin and its Config form has the Config form."""
    model = make_model((*mixins, BaseMixin, BASE))
    try:
        History(memory, model, clock).play()
    finally:
        model.metadata.drop_all(memory)
