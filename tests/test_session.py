"""The session is a dict that is stored, with flash messages, a token and a user."""

import base64
import copy
import time

import pytest
import time_machine
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from markupsafe import Markup
from pyramid.i18n import TranslationString
from pyramid.interfaces import ISession
from sqlalchemy import JSON, Integer, String, create_engine, select, text
from sqlalchemy.orm import DeclarativeBase, mapped_column
from zope.interface.verify import verifyObject

from pyramid_sqlalchemy_sessions import BaseMixin, JSONDataMixin
from tests.application import (
    SECRET,
    Application,
    Browser,
    Full,
    Plain,
    statements,
)
from tests.stories.transactions import logged


class Models(DeclarativeBase):
    """The declarative base of the models below."""


class Noted(BaseMixin, Models):
    """A session with a column of the application's own."""

    __tablename__ = "noted_session"
    note = mapped_column(String(50))


class InJSON(BaseMixin, JSONDataMixin, Models):
    """A session whose dict is stored as JSON."""

    __tablename__ = "json_session"


def open_browser(engine, model, **kw):
    """Return a browser of a new application on a database without its table."""
    model.__table__.create(engine, checkfirst=True)
    return Browser(Application(engine, model, **kw))


@pytest.fixture
def browser(sqlite_engine):
    """Return a browser of an application whose sessions have all features."""
    return open_browser(sqlite_engine, Full)


@pytest.fixture
def each_browser(engine):
    """Return such a browser for each kind of database."""
    return open_browser(engine, Full)


@pytest.fixture(params=[Full, InJSON], ids=["pickle", "JSON"])
def either(request, sqlite_engine):
    """Return a browser for each way to store the dict."""
    return open_browser(sqlite_engine, request.param)


@pytest.fixture(params=[Full, InJSON], ids=["pickle", "JSON"])
def each_either(request, engine):
    """Return a browser for each way to store the dict, on each kind of database."""
    return open_browser(engine, request.param)


def keep(browser, **data):
    """Make a session with this data, and return its cookie."""
    browser.ask(lambda session: session.update(data))
    assert browser.cookie
    return browser.cookie


def written_by(browser, question):
    """Return the first words of the statements that write."""
    with statements(browser.application.engine) as collected:
        browser.ask(question)
    words = [statement.split()[0] for statement in collected]
    return [word for word in words if word != "SELECT"]


def outcome(question, mapping):
    """Return what a question comes to, be it an exception."""
    try:
        answer = question(mapping)
    except Exception as error:
        return type(error), error.args
    return answer


# The dict.

QUESTIONS = {
    "getitem": lambda d: d["a"],
    "getitem of a missing key": lambda d: d["missing"],
    "get": lambda d: d.get("a"),
    "get of a missing key": lambda d: d.get("missing"),
    "get with a default": lambda d: d.get("missing", 5),
    "in": lambda d: "a" in d,
    "not in": lambda d: "missing" not in d,
    "len": len,
    "bool": bool,
    "iter": list,
    "reversed": lambda d: list(reversed(d)),
    "reversed views": lambda d: [
        list(reversed(view)) for view in (d.keys(), d.values(), d.items())
    ],
    "keys": lambda d: list(d.keys()),
    "values": lambda d: list(d.values()),
    "items": lambda d: list(d.items()),
    "keys as a set": lambda d: d.keys() & {"a", "z"},
    "equal": lambda d: d == {"b": [1, {"x": 2}], "a": "A", "c": None},
    "unequal": lambda d: d != {"a": "A"},
    "dict": dict,
}

CHANGES = {
    "setitem": lambda d: d.__setitem__("z", 9),
    "setitem of a present key": lambda d: d.__setitem__("b", 9),
    "delitem": lambda d: d.__delitem__("b"),
    "delitem of a missing key": lambda d: d.__delitem__("missing"),
    "pop": lambda d: d.pop("b"),
    "pop with a default": lambda d: d.pop("missing", 7),
    "pop of a missing key": lambda d: d.pop("missing"),
    "popitem": lambda d: d.popitem(),
    "clear": lambda d: d.clear(),
    "setdefault": lambda d: d.setdefault("z", [9]),
    "setdefault of a present key": lambda d: d.setdefault("b", 9),
    "append to setdefault": lambda d: d.setdefault("z", []).append(9),
    "update by a dict": lambda d: d.update({"a": 1, "z": 2}),
    "update by pairs": lambda d: d.update([("z", 1), ("y", 2)]),
    "update by keywords": lambda d: d.update(z=1, b=2),
    "move to the end": lambda d: d.__setitem__("b", d.pop("b")),
    "append to a list": lambda d: d["b"].append(3),
    "setitem in the depth": lambda d: d["b"][1].__setitem__("x", 3),
    "through get": lambda d: d.get("b").append(4),
    "through values": lambda d: next(iter(d.values())).append(4),
    "through items": lambda d: next(iter(d.items()))[1].append(4),
    "through a copy of the dict": lambda d: dict(d)["b"].append(4),
}


def example():
    """Return what the sessions of these tests hold."""
    return {"b": [1, {"x": 2}], "a": "A", "c": None}


@pytest.mark.parametrize("question", QUESTIONS.values(), ids=QUESTIONS)
def test_session_reads_like_a_dict(either, question):
    """Whatever reads a dict reads a session, in a later request."""
    keep(either, **example())
    answer = either.ask(lambda session: outcome(question, session))
    assert answer == outcome(question, example())


@pytest.mark.parametrize("question", QUESTIONS.values(), ids=QUESTIONS)
def test_reading_writes_nothing(either, question):
    """Whatever reads a session causes no write."""
    keep(either, **example())
    assert written_by(either, lambda session: outcome(question, session)) == []


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_session_changes_like_a_dict(either, change):
    """Whatever changes a dict changes a session: same answer, same keys, same order."""
    keep(either, **example())
    expected = example()
    expected_answer = outcome(change, expected)
    assert either.ask(lambda session: outcome(change, session)) == expected_answer
    assert list(either.ask(dict).items()) == list(expected.items())


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_new_session_changes_like_a_dict(browser, change):
    """A session that is new in this request changes like a dict, too."""
    expected = example()
    expected_answer = outcome(change, expected)

    def view(session):
        session.update(example())
        return outcome(change, session)

    assert browser.ask(view) == expected_answer
    assert list(browser.ask(dict).items()) == list(expected.items())


def test_popitem_of_an_empty_session(browser):
    """There is nothing to pop from an empty session, which the error says."""
    with pytest.raises(KeyError):
        browser.ask(lambda session: session.popitem())


KEYS = [1, -1.5, None, True, b"bytes", ("a", 1), frozenset({1}), "", "\0", "é😀"]


@pytest.mark.parametrize("key", KEYS, ids=map(repr, KEYS))
def test_keys_of_any_type(browser, key):
    """A key may be whatever is hashable and can be pickled."""
    browser.ask(lambda session: session.__setitem__(key, "value"))
    assert browser.ask(dict) == {key: "value"}


def test_large_value(each_browser):
    """A value of a megabyte is stored whole on every database."""
    keep(each_browser, large="x" * 1_000_000)
    assert each_browser.ask(lambda session: len(session["large"])) == 1_000_000


@pytest.mark.parametrize("value", ["é😀", "\0", "'; --", "\\", "\r\n"])
def test_any_text_comes_back(each_either, value):
    """A text comes back as it was, whatever characters it has."""
    keep(each_either, text=value)
    assert each_either.ask(dict) == {"text": value}


def test_two_sessions_do_not_mix(engine):
    """Two browsers have a session each."""
    first = open_browser(engine, Full)
    second = Browser(first.application)
    keep(first, name="first")
    keep(second, name="second")
    assert first.ask(dict) == {"name": "first"}
    assert second.ask(dict) == {"name": "second"}


# What is stored, and when not.


def test_new_key_is_one_update(each_either):
    """A change of a stored session is one UPDATE."""
    keep(each_either, a=1)
    assert written_by(each_either, lambda session: session.update(b=2)) == ["UPDATE"]


@pytest.mark.parametrize(
    "value", ["text", 5, 1.5, None, True, b"bytes", [1, [2]], {"x": {"y": 1}}, (1, 2)]
)
def test_equal_assignment_makes_no_update(browser, value):
    """Assigning a value that is stored alike already writes nothing."""
    keep(browser, key=value)
    assert written_by(browser, lambda session: session.update(key=value)) == []


@pytest.mark.parametrize(
    "value", ["text", 5, 1.5, None, True, [1, [2]], {"x": {"y": 1}}]
)
def test_equal_assignment_makes_no_update_of_json(engine, value):
    """Assigning a JSON value that is stored alike already writes nothing."""
    browser = open_browser(engine, InJSON)
    keep(browser, key=value)
    assert written_by(browser, lambda session: session.update(key=value)) == []


@pytest.mark.parametrize("value", [(1, 2), {1: 2}], ids=repr)
def test_assignment_of_what_json_has_not_makes_no_update(sqlite_engine, value):
    """What JSON stores as something else is compared in its stored form."""
    browser = open_browser(sqlite_engine, InJSON)
    keep(browser, key=value)
    assert written_by(browser, lambda session: session.update(key=value)) == []


@pytest.mark.parametrize(
    ("before", "after"), [(1, True), (1, 1.0), (True, 1), (0.0, -0.0), (0, False)]
)
def test_equal_values_of_different_types_are_different(either, before, after):
    """A value that is equal to the stored one but stored otherwise is a change."""
    keep(either, key=before)
    assert written_by(either, lambda session: session.update(key=after)) == ["UPDATE"]
    assert repr(either.ask(lambda session: session["key"])) == repr(after)


def test_set_and_revert_makes_no_update(each_either):
    """A change that is taken back in the same request is none."""

    def there_and_back(session):
        session["a"] = 2
        session["b"] = 3
        session["a"] = 1
        del session["b"]

    keep(each_either, a=1)
    assert written_by(each_either, there_and_back) == []


def test_nested_set_and_revert_makes_no_update(each_either):
    """A change inside of a value that is taken back in the same request is none."""

    def there_and_back(session):
        session["a"].append(2)
        session["a"].pop()

    keep(each_either, a=[1])
    assert written_by(each_either, there_and_back) == []


def test_change_of_order_is_a_change(each_either):
    """A key that is set anew after its removal is the last one then."""
    keep(each_either, a=1, b=2)
    assert written_by(
        each_either, lambda session: session.update(a=session.pop("a"))
    ) == ["UPDATE"]
    assert each_either.ask(list) == ["b", "a"]


def test_change_before_a_mutable_value_is_read(either):
    """What was set before a mutable value was handed out is stored, too."""

    def view(session):
        session["a"] = 2
        return session["list"]

    keep(either, a=1, list=[1])
    either.ask(view)
    assert either.ask(dict) == {"a": 2, "list": [1]}


def test_change_after_a_mutable_value_is_read(either):
    """What is set after a mutable value was handed out is stored, too."""

    def view(session):
        value = session["list"]
        session["a"] = 2
        value.append(2)

    keep(either, a=1, list=[1])
    either.ask(view)
    assert either.ask(dict) == {"a": 2, "list": [1, 2]}


def test_removal_before_a_mutable_value_is_read(either):
    """What was removed before a mutable value was handed out stays away."""

    def view(session):
        del session["a"]
        return session["list"]

    keep(either, a=1, list=[1])
    either.ask(view)
    assert either.ask(dict) == {"list": [1]}


def test_value_that_was_assigned_is_changed_later(either):
    """A change of the object that was assigned is stored, even after the assignment."""

    def view(session):
        value = []
        session["list"] = value
        value.append(1)

    keep(either, a=1)
    either.ask(view)
    assert either.ask(lambda session: session["list"]) == [1]


def test_popped_value_belongs_to_the_session_no_more(either):
    """What becomes of a value that was popped is not the session's affair."""

    def view(session):
        value = session.pop("list")
        session["length"] = len(value)
        value.append(2)

    keep(either, list=[1])
    either.ask(view)
    assert either.ask(dict) == {"length": 1}


def test_shared_value_stays_shared(browser):
    """Two keys that name one object name one object in the next request, too."""

    def view(session):
        session["a"] = session["b"] = []

    browser.ask(view)
    browser.ask(lambda session: session["a"].append(1))
    assert browser.ask(dict) == {"a": [1], "b": [1]}


def test_changed_as_the_first_call_forces_the_write(each_either):
    """changed() writes the session although nothing differs."""
    keep(each_either, a=1)
    assert written_by(each_either, lambda session: session.changed()) == ["UPDATE"]
    assert each_either.ask(dict) == {"a": 1}


def test_changed_before_the_change(either):
    """changed() may come before the nested change that it announces."""

    def view(session):
        session.changed()
        session["a"].append(2)

    keep(either, a=[1])
    either.ask(view)
    assert either.ask(dict) == {"a": [1, 2]}


def test_changed_stores_no_empty_session(browser):
    """A new session without data is not stored, whatever is said of it."""
    assert written_by(browser, lambda session: session.changed()) == []
    assert browser.cookie is None


def test_session_that_was_emptied_again_is_not_stored(browser):
    """A new session whose data has gone before the commit is not stored."""

    def view(session):
        session["a"] = 1
        session.clear()
        session.flash("x")
        session.pop_flash()

    assert written_by(browser, view) == []
    assert browser.cookie is None


def test_emptied_session_stays(each_browser):
    """A stored session that becomes empty is still stored, with its cookie."""
    cookie = keep(each_browser, a=1)
    each_browser.ask(lambda session: session.clear())
    assert each_browser.cookie == cookie
    assert each_browser.ask(lambda session: (dict(session), session.new)) == ({}, False)


class Unpicklable:
    """A value that cannot be stored."""

    def __reduce_ex__(self, protocol):
        raise RuntimeError("not me")


UNSTORABLE = [
    pytest.param(lambda: None, id="function"),
    pytest.param((_ for _ in ()), id="generator"),
    pytest.param([{"deep": Unpicklable()}], id="nested"),
]


@pytest.mark.parametrize("value", UNSTORABLE)
def test_unstorable_value_in_a_new_session(browser, value):
    """A value that cannot be stored is a TypeError that names the key."""
    with pytest.raises(TypeError, match="'culprit'"):
        browser.ask(lambda session: session.update(innocent=1, culprit=value))
    assert browser.application.rows() == []
    assert browser.cookie is None


@pytest.mark.parametrize("value", UNSTORABLE)
def test_unstorable_value_in_a_stored_session(either, value):
    """A value that cannot be stored leaves the stored session as it was."""
    keep(either, innocent=0)
    with pytest.raises(TypeError, match="'culprit'"):
        either.ask(lambda session: session.update(innocent=1, culprit=value))
    assert either.ask(dict) == {"innocent": 0}


def test_unstorable_value_can_be_read(either):
    """A value that cannot be stored is an error at commit, not when it is read."""

    def view(session):
        session["culprit"] = lambda: 5
        answer = session["culprit"]()
        del session["culprit"]
        session["answer"] = answer

    keep(either, innocent=0)
    either.ask(view)
    assert either.ask(dict) == {"innocent": 0, "answer": 5}


def test_unstorable_value_that_was_read_is_named(either):
    """Having read a value that cannot be stored does not make the error less clear."""

    def view(session):
        session["culprit"] = lambda: 5
        return session["culprit"]

    keep(either, innocent=0)
    with pytest.raises(TypeError, match="'culprit'"):
        either.ask(view)


def test_unstorable_key(browser):
    """A key that cannot be stored is a TypeError, and nothing is stored."""
    with pytest.raises(TypeError, match="the session cannot be stored"):
        browser.ask(lambda session: session.__setitem__(lambda: None, 1))
    assert browser.application.rows() == []


def test_unhashable_key(browser):
    """A key that is not hashable is the TypeError that a dict raises."""
    with pytest.raises(TypeError, match="unhashable"):
        browser.ask(lambda session: session.__setitem__([], 1))


def test_unstorable_value_takes_the_applications_changes_with_it(engine):
    """If the session cannot be stored, nothing of the transaction is."""
    browser = open_browser(engine, Noted)
    keep(browser, a=1)

    def view(session):
        session.instance.note = "changed"
        session["culprit"] = lambda: None

    with pytest.raises(TypeError, match="'culprit'"):
        browser.ask(view)
    assert browser.application.row().note is None


# A whole history, compared with that of a dict.

_leaves = st.sampled_from([None, True, 0, 1, 1.5, "x", "y", ""])
_values = st.recursive(
    _leaves,
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(st.sampled_from("xy"), inner, max_size=2)
    ),
    max_leaves=3,
)
_keys = st.sampled_from("abc")
_acts = st.one_of(
    st.tuples(st.just("set"), _keys, _values),
    st.tuples(st.just("read"), _keys),
    st.tuples(st.just("remove"), _keys),
    st.tuples(st.just("setdefault"), _keys, _values),
    st.tuples(st.just("nested"), _keys, _values),
    st.tuples(st.just("popitem")),
    st.tuples(st.just("items")),
    st.tuples(st.just("clear")),
)


def _act(mapping, act):
    """Do one act to a dict or a session."""
    name, *arguments = act
    if name == "set":
        mapping[arguments[0]] = arguments[1]
    elif name == "read":
        return repr(mapping.get(arguments[0]))
    elif name == "remove":
        return repr(mapping.pop(arguments[0], None))
    elif name == "setdefault":
        return repr(mapping.setdefault(*arguments))
    elif name == "nested":
        value = mapping.get(arguments[0])
        if isinstance(value, list):
            value.append(arguments[1])
        elif isinstance(value, dict):
            value["x"] = arguments[1]
    elif name == "popitem":
        return repr(mapping.popitem() if mapping else None)
    elif name == "items":
        return repr(list(mapping.items()))
    else:
        mapping.clear()
    return None


@pytest.fixture(scope="module", params=[Plain, InJSON], ids=["pickle", "JSON"])
def history_application(request, tmp_path_factory):
    """Return an application on a database of its own."""
    engine = create_engine(f"sqlite:///{tmp_path_factory.mktemp('history')}/db.sqlite")
    request.param.__table__.create(engine)
    yield Application(engine, request.param)
    engine.dispose()


@given(st.lists(st.lists(_acts, max_size=4), max_size=4))
@settings(
    max_examples=200,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_any_history_is_that_of_a_dict(history_application, history):
    """Whatever is done in whatever requests, the session is what a dict would be."""
    browser = Browser(history_application)
    model = {}
    for acts in history:
        expected = [_act(model, act) for act in copy.deepcopy(acts)]
        fresh = copy.deepcopy(acts)
        assert browser.ask(lambda s, acts=fresh: [_act(s, a) for a in acts]) == expected
        # A pickle keeps shared objects shared, and JSON does not: part them in both.
        model = {key: copy.deepcopy(value) for key, value in model.items()}
        assert repr(browser.ask(dict)) == repr(model)


# JSON.


def test_json_data_is_a_json_column(engine):
    """With JSONDataMixin any program can read the dict."""
    browser = open_browser(engine, InJSON)
    keep(browser, b=[1, {"x": None}], a="é")
    assert isinstance(InJSON.__table__.c.data.type, JSON)
    assert browser.application.row().data == {"b": [1, {"x": None}], "a": "é"}


@pytest.mark.parametrize("key", [1, None, True, ("a",), b"b"], ids=repr)
def test_json_keys_are_strings(sqlite_engine, key):
    """A key that JSON would turn into another one is refused at the call."""
    browser = open_browser(sqlite_engine, InJSON)
    errors = []

    def view(session):
        with pytest.raises(TypeError, match="strings") as caught:
            session[key] = 1
        errors.append(caught.value)
        session["a"] = 1

    browser.ask(view)
    assert repr(key) in str(errors[0])
    assert browser.ask(dict) == {"a": 1}


@pytest.mark.parametrize(
    "value",
    [
        pytest.param({1, 2}, id="set"),
        pytest.param(bytearray(b"bytes"), id="bytearray"),
        pytest.param([object], id="class"),
        pytest.param(float("nan"), id="nan"),
        pytest.param({"x": float("inf")}, id="infinity"),
        pytest.param({("a", object): 1}, id="class in nested key"),
        pytest.param(1j, id="complex"),
    ],
)
def test_json_values_only(sqlite_engine, value):
    """A value that even tags can't put into JSON is a TypeError that names the key."""
    browser = open_browser(sqlite_engine, InJSON)
    keep(browser, innocent=0)
    with pytest.raises(TypeError, match="'culprit'"):
        browser.ask(lambda session: session.update(innocent=1, culprit=value))
    assert browser.ask(dict) == {"innocent": 0}


def test_json_looks_the_same_before_and_after_the_commit(engine):
    """A float, a large number and a nested dict come back as they were."""
    browser = open_browser(engine, InJSON)
    data = {"float": 1.0, "large": 2**70, "small": 1e-300, "nested": {"z": 1, "a": 2}}
    keep(browser, **data)
    assert repr(browser.ask(dict)) == repr(data)


@pytest.mark.parametrize("value", ["\ud800", ["\udc00"], {"\ud800": 1}], ids=ascii)
def test_lone_surrogate_in_json_data(engine, value):
    """Half a character is a TypeError that names the key, or comes back."""
    browser = open_browser(engine, InJSON)
    expected = {"culprit": value}
    try:
        keep(browser, culprit=value)
    except TypeError as error:
        expected = {} if "'culprit'" in str(error) else None
    assert browser.ask(dict) == expected


@pytest.mark.parametrize("value", ["\ud800", ["\udc00"]], ids=ascii)
def test_lone_surrogate_in_a_pickle(each_browser, value):
    """A pickle holds any Python text."""
    keep(each_browser, text=value)
    assert each_browser.ask(dict) == {"text": value}


def circle():
    """Return a value that has no end."""
    value = []
    value.append(value)
    return value


def depth():
    """Return a value that is too deep to be stored."""
    value = []
    for _ in range(100_000):
        value = [value]
    return value


@pytest.mark.parametrize("make", [circle, depth])
def test_value_without_an_end_in_json(sqlite_engine, make):
    """A value that contains itself, or is too deep, is a clear TypeError."""
    browser = open_browser(sqlite_engine, InJSON)
    with pytest.raises(TypeError, match="'culprit'"):
        keep(browser, culprit=make())


def test_value_without_an_end_in_a_pickle(browser):
    """A pickle can hold a value that contains itself, but none that is too deep."""
    keep(browser, circle=circle())
    assert browser.ask(lambda s: s["circle"] is s["circle"][0]) is True
    with pytest.raises(TypeError, match="'culprit'"):
        keep(browser, culprit=depth())


def test_session_within_itself(either):
    """The session cannot be stored in itself, nor can the request."""
    with pytest.raises(TypeError, match="'culprit'"):
        either.ask(lambda session: session.update(culprit=session))
    with pytest.raises(TypeError, match="'culprit'"):
        either.visit(lambda request: request.session.update(culprit=request))


# ISession.


@pytest.mark.parametrize("model", [Plain, Full, InJSON])
def test_session_provides_isession(sqlite_engine, model):
    """A session has what Pyramid's interface demands."""
    browser = open_browser(sqlite_engine, model)
    assert browser.ask(lambda session: verifyObject(ISession, session))


def test_created_is_when_the_session_was_made(each_browser):
    """created is in whole seconds since the epoch, and stays what it was."""
    before = int(time.time())
    created = each_browser.ask(
        lambda session: (session.update(a=1), session.created)[1]
    )
    assert type(created) is int
    assert before <= created <= time.time()
    with each_browser.application.engine.begin() as connection:
        connection.execute(text("UPDATE full_session SET created = 12345"))
    assert each_browser.ask(lambda session: session.created) == 12345
    each_browser.ask(lambda session: (session.update(a=2), session.rotate()))
    assert each_browser.ask(lambda session: session.created) == 12345


def test_new_until_it_is_stored(browser):
    """new is true in the request that makes the session, and false in the next."""
    assert browser.ask(lambda session: (session.update(a=1), session.new)[1]) is True
    assert browser.ask(lambda session: session.new) is False


def test_new_without_data_stays_new(browser):
    """A session without data is new in every request."""
    assert browser.ask(lambda session: session.new) is True
    assert browser.ask(lambda session: session.new) is True


@pytest.mark.parametrize("name", ["created", "new", "instance"])
def test_read_only(browser, name):
    """created, new and instance cannot be set."""
    with pytest.raises(AttributeError):
        browser.ask(lambda session: setattr(session, name, 1))


@pytest.mark.parametrize("name", ["created", "new", "instance", "userid"])
def test_not_deletable(browser, name):
    """created, new, instance and userid cannot be deleted."""
    with pytest.raises(AttributeError):
        browser.ask(lambda session: delattr(session, name))


def test_mistyped_attribute(browser):
    """An attribute that there is none of cannot be set by mistake."""
    with pytest.raises(AttributeError):
        browser.ask(lambda session: setattr(session, "user_id", 1))


def test_repr_touches_nothing(browser):
    """Showing the session neither loads it nor tells its data."""
    keep(browser, password="secret")
    with statements(browser.application.engine) as collected:
        shown = browser.ask(repr)
    assert collected == []
    assert "secret" not in shown


# The instance.


def test_instance_is_none_while_the_session_is_new(browser):
    """A new session has no mapped object, even with data."""
    assert browser.ask(lambda s: (s.update(a=1), s.instance)[1]) is None


def test_instance_is_the_mapped_object(browser):
    """A stored session has a mapped object of the model."""

    def view(session):
        instance = session.instance
        assert instance in browser.application_dbsession
        return type(instance), instance.created == session.created

    keep(browser, a=1)

    def remember_dbsession(request):
        browser.application_dbsession = request.dbsession
        assert view(request.session) == (Full, True)

    browser.visit(remember_dbsession)


def test_own_columns_of_the_instance_are_stored(engine):
    """The application's own columns are edited on the instance."""
    browser = open_browser(engine, Noted)
    keep(browser, a=1)
    browser.ask(lambda session: setattr(session.instance, "note", "mine"))
    assert browser.ask(lambda session: session.instance.note) == "mine"
    assert browser.ask(dict) == {"a": 1}


def test_own_columns_and_data_are_stored_together(engine):
    """One request may change the instance's own columns and the session."""
    browser = open_browser(engine, Noted)
    keep(browser, a=1)

    def view(session):
        session["a"] = 2
        session.instance.note = "mine"
        session["b"] = 3

    browser.ask(view)
    assert browser.ask(dict) == {"a": 2, "b": 3}
    assert browser.application.row().note == "mine"


def test_own_columns_and_rotation(engine):
    """The instance's own columns are stored although the id changes."""
    browser = open_browser(engine, Noted)
    keep(browser, a=1)

    def view(session):
        session.rotate()
        session.instance.note = "mine"

    browser.ask(view)
    assert browser.application.row().note == "mine"
    assert browser.ask(dict) == {"a": 1}


def test_own_columns_of_a_session_that_is_invalidated(engine):
    """What was edited on the instance goes with the session."""
    browser = open_browser(engine, Noted)
    keep(browser, a=1)

    def view(session):
        session.instance.note = "mine"
        session.invalidate()

    browser.ask(view)
    assert browser.application.rows() == []


def test_instance_is_none_after_invalidate(browser):
    """The session that takes the place of an invalidated one has no mapped object."""
    keep(browser, a=1)
    assert browser.ask(lambda s: (s.instance, s.invalidate(), s.instance)[2]) is None


# Flash messages.


def test_flash_and_pop_in_the_same_request(browser):
    """Messages can be popped in the request that flashed them."""

    def view(session):
        session.flash("one")
        session.flash("two")
        return session.pop_flash(), session.pop_flash()

    assert browser.ask(view) == (["one", "two"], [])


def test_flash_and_pop_in_the_next_request(each_browser):
    """Messages wait for the next request, in order, and are then gone."""
    each_browser.ask(lambda session: session.flash("one"))
    each_browser.ask(lambda session: session.flash("two"))
    assert each_browser.ask(lambda session: session.pop_flash()) == ["one", "two"]
    assert each_browser.ask(lambda session: session.pop_flash()) == []


def test_flash_the_same_in_the_next_request(each_browser):
    """A message that repeats what the queue holds is kept, too."""
    each_browser.ask(lambda session: session.flash("one"))
    each_browser.ask(lambda session: session.flash("one"))
    assert each_browser.ask(lambda session: session.pop_flash()) == ["one", "one"]


@pytest.mark.parametrize(
    ("message", "cure"),
    [
        (Markup("<b>saved</b>"), "str"),
        (TranslationString("saved ${n}", domain="shop", mapping={"n": 1}), "localizer"),
    ],
    ids=["markup", "translation"],
)
def test_flash_more_than_text(browser, message, cure):
    """A text that would come back as less than it is is refused, with the cure."""

    def question(session):
        for each in (message, [message], {"text": (message,)}):
            with pytest.raises(TypeError, match=cure):
                session.flash(each)
        session.flash(str(message))
        return session.pop_flash()

    assert browser.ask(question) == [str(message)]


def test_flash_queues(browser):
    """Each queue has its own messages."""

    def view(session):
        session.flash("plain")
        session.flash("bad", "error")
        session.flash("worse", queue="error")

    browser.ask(view)
    assert browser.ask(lambda s: s.pop_flash("error")) == ["bad", "worse"]
    assert browser.ask(lambda s: s.pop_flash("error")) == []
    assert browser.ask(lambda s: s.pop_flash()) == ["plain"]


def test_flash_is_enough_to_store_a_new_session(browser):
    """A flash message is data, although it is not in the dict."""
    browser.ask(lambda session: session.flash("hello"))
    assert browser.ask(lambda s: (s.new, dict(s), s.peek_flash())) == (
        False,
        {},
        ["hello"],
    )


def test_flash_twice(browser):
    """The same message is there twice if it was flashed twice."""
    browser.ask(lambda s: (s.flash("same"), s.flash("same")))
    assert browser.ask(lambda s: s.peek_flash()) == ["same", "same"]


def test_flash_without_duplicates(each_browser):
    """allow_duplicate=False skips a message that the same queue holds."""

    def view(session):
        session.flash("same", allow_duplicate=False)
        session.flash("same", "other", False)
        session.flash("different", "", False)

    each_browser.ask(lambda session: session.flash("same"))
    each_browser.ask(view)
    assert each_browser.ask(lambda s: s.peek_flash()) == ["same", "different"]
    assert each_browser.ask(lambda s: s.peek_flash("other")) == ["same"]


def test_skipped_duplicate_makes_no_update(browser):
    """A message that is skipped is no change."""
    browser.ask(lambda session: session.flash("same"))
    assert written_by(browser, lambda s: s.flash("same", allow_duplicate=False)) == []


MESSAGES = ["", "é\0", 5, 1.5, None, True, [1, "x"], {"text": "x", "level": [1]}]


@pytest.mark.parametrize("message", MESSAGES, ids=repr)
def test_message_may_be_any_json_value(each_browser, message):
    """A message is any JSON value, and duplicates of it are found."""
    each_browser.ask(lambda session: session.flash(message))
    each_browser.ask(lambda session: session.flash(message, allow_duplicate=False))
    assert each_browser.ask(lambda session: session.pop_flash()) == [message]


@pytest.mark.parametrize(
    "message",
    [object(), {1}, b"bytes", float("nan"), [float("inf")], {"x": object}, {(1, 2): 3}],
    ids=lambda message: type(message).__name__,
)
def test_message_may_be_nothing_else(browser, message):
    """A message that is no JSON value is a TypeError at the call; nothing changes."""

    def view(session):
        session.flash("before")
        with pytest.raises(TypeError):
            session.flash(message)
        session.flash("after")

    browser.ask(view)
    assert browser.ask(lambda session: session.pop_flash()) == ["before", "after"]


def test_message_is_taken_when_it_is_flashed(browser):
    """A message that its sender changes later was flashed as it was."""

    def view(session):
        message = {"items": [1]}
        session.flash(message)
        message["items"].append(2)

    browser.ask(view)
    assert browser.ask(lambda session: session.pop_flash()) == [{"items": [1]}]


def test_message_of_a_subclass_of_str(browser):
    """A translation string, say, is flashed as its text."""

    class Words(str):
        __slots__ = ()

    browser.ask(lambda session: session.flash(Words("hello")))
    (message,) = browser.ask(lambda session: session.pop_flash())
    assert (type(message), message) == (str, "hello")


SURROGATES = ["\ud800", "a\ud83d", {"x": ["\udc00"]}]


@pytest.mark.parametrize("message", SURROGATES, ids=ascii)
def test_lone_surrogate_in_a_message(each_browser, message):
    """Half a character is refused at the call or comes back, on every database."""

    def view(session):
        try:
            session.flash(message)
        except TypeError:
            return []
        return [message]

    flashed = each_browser.ask(view)
    assert each_browser.ask(lambda session: session.pop_flash()) == flashed


def test_lone_surrogate_in_the_name_of_a_queue(each_browser):
    """A queue's name with half a character is refused, or is as good as any."""

    def view(session):
        try:
            session.flash("message", "\ud800")
        except TypeError:
            return []
        return ["message"]

    flashed = each_browser.ask(view)
    assert each_browser.ask(lambda session: session.pop_flash("\ud800")) == flashed


@pytest.mark.parametrize("queue", [None, 1, b"bytes", ("a",)], ids=repr)
def test_name_of_a_queue_is_a_string(browser, queue):
    """A queue whose name JSON would change is refused."""
    with pytest.raises(TypeError, match="queue"):
        browser.ask(lambda session: session.flash("x", queue))


def test_peek_returns_a_copy(browser):
    """What becomes of a list that was peeked at is not the session's affair."""

    def view(session):
        session.peek_flash().append("mine")
        session.peek_flash("none").append("mine")
        session["a"] = 1

    browser.ask(lambda session: session.flash("theirs"))
    browser.ask(view)
    assert browser.ask(lambda s: s.peek_flash()) == ["theirs"]
    assert browser.ask(lambda s: s.peek_flash("none")) == []


def test_peek_returns_copies_of_the_messages(browser):
    """A message that was peeked at is not stored otherwise than it was flashed."""

    def view(session):
        session.peek_flash()[0]["items"].append(2)
        session.flash("another")

    browser.ask(lambda session: session.flash({"items": [1]}))
    browser.ask(view)
    assert browser.ask(lambda s: s.peek_flash()) == [{"items": [1]}, "another"]


def test_peek_makes_no_update(browser):
    """Looking at the messages changes nothing."""
    browser.ask(lambda session: session.flash("x"))
    assert written_by(browser, lambda session: session.peek_flash()) == []


def test_pop_of_an_empty_queue_makes_no_update(browser):
    """Popping an empty queue is no change."""
    browser.ask(lambda session: session.flash("x", "other"))
    assert written_by(browser, lambda session: session.pop_flash()) == []


def test_pop_of_an_empty_queue_stores_no_new_session(browser):
    """A page that shows messages, if there are any, makes no session."""
    assert written_by(browser, lambda session: session.pop_flash()) == []
    assert browser.cookie is None


def test_clear_leaves_the_messages(browser):
    """Messages are not in the dict, so that clear() does not take them."""
    browser.ask(lambda session: (session.update(a=1), session.flash("x")))
    browser.ask(lambda session: session.clear())
    assert browser.ask(lambda s: (dict(s), s.pop_flash())) == ({}, ["x"])


def test_flash_updates_its_own_column_only(browser):
    """A message is stored without the dict."""
    keep(browser, a=1)
    with statements(browser.application.engine) as collected:
        browser.ask(lambda session: session.flash("x"))
    (update,) = [each for each in collected if each.startswith("UPDATE")]
    columns = update.partition("SET")[2].partition("WHERE")[0]
    assert "flash" in columns
    assert "data" not in columns


# CSRF token.


def test_csrf_token_lasts(browser):
    """The token is drawn once, and is then the same in every request."""
    token = browser.ask(lambda session: session.get_csrf_token())
    assert browser.ask(lambda session: session.get_csrf_token()) == token


def test_csrf_token_is_twenty_random_bytes(each_browser):
    """The token is the padded urlsafe base64 text of what the column holds."""
    token = each_browser.ask(lambda session: session.get_csrf_token())
    assert type(token) is str
    assert len(base64.urlsafe_b64decode(token)) == 20
    assert each_browser.application.row().csrf_token == base64.urlsafe_b64decode(token)


def test_csrf_token_differs_from_session_to_session(browser):
    """No two sessions have the same token."""
    other = Browser(browser.application)
    tokens = {each.ask(lambda s: s.get_csrf_token()) for each in (browser, other)}
    assert len(tokens) == 2


def test_new_csrf_token_replaces_the_old_one(browser):
    """new_csrf_token draws another token and returns it."""
    old = browser.ask(lambda session: session.get_csrf_token())
    new = browser.ask(lambda session: session.new_csrf_token())
    assert new != old
    assert browser.ask(lambda session: session.get_csrf_token()) == new


def test_reading_the_csrf_token_makes_no_update(browser):
    """A token that is there is only read."""
    browser.ask(lambda session: session.get_csrf_token())
    assert written_by(browser, lambda session: session.get_csrf_token()) == []


def test_clear_leaves_the_csrf_token(browser):
    """The token is not in the dict, so that clear() does not take it."""
    token = browser.ask(lambda session: session.get_csrf_token())
    browser.ask(lambda session: session.clear())
    assert browser.ask(lambda s: (dict(s), s.get_csrf_token())) == ({}, token)


@pytest.mark.parametrize("method", ["new_csrf_token", "get_csrf_token"])
def test_csrf_token_without_the_mixin(sqlite_engine, method):
    """A model without CSRFMixin has no token, and the error says what it lacks."""
    browser = open_browser(sqlite_engine, Plain)
    with pytest.raises(NotImplementedError, match=r"Plain.*CSRFMixin"):
        browser.ask(lambda session: getattr(session, method)())


# User.


def test_userid_is_none_at_first(browser):
    """Nobody is logged in to a new session, and asking for the user stores nothing."""
    assert browser.ask(lambda session: session.userid) is None
    assert browser.application.rows() == []


def test_userid_lasts(each_browser):
    """The user's id is stored in a column of its own, apart from the dict."""
    each_browser.ask(lambda session: setattr(session, "userid", 5))
    assert each_browser.ask(lambda s: (s.userid, dict(s), s.new)) == (5, {}, False)
    assert each_browser.application.row().userid == 5


def test_same_userid_makes_no_update(browser):
    """Setting the user who is logged in changes nothing."""
    browser.ask(lambda session: setattr(session, "userid", 5))
    cookie = browser.cookie
    assert written_by(browser, lambda s: setattr(s, "userid", 5)) == []
    assert browser.cookie == cookie


def test_userid_none_stores_no_new_session(browser):
    """Logging out of nothing makes no session."""
    assert written_by(browser, lambda s: setattr(s, "userid", None)) == []
    assert browser.cookie is None


@pytest.mark.parametrize("userid", [0, -1, 2**31 - 1])
def test_any_integer_is_a_userid(each_browser, userid):
    """0 is a user, too."""
    each_browser.ask(lambda session: setattr(session, "userid", userid))
    assert each_browser.ask(lambda session: session.userid) == userid


def test_userid_without_the_mixin(sqlite_engine):
    """A model without UseridMixin has no user, and the error says what it lacks."""
    browser = open_browser(sqlite_engine, Plain)
    with pytest.raises(NotImplementedError, match=r"Plain.*UseridMixin"):
        browser.ask(lambda session: session.userid)
    with pytest.raises(NotImplementedError, match=r"Plain.*UseridMixin"):
        browser.ask(lambda session: setattr(session, "userid", 1))
    assert browser.application.rows() == []


# invalidate().


def everything(session):
    """Return all that a session holds."""
    return dict(session), session.peek_flash(), session.userid


def fill(session):
    """Put something of every kind into a session."""
    session["a"] = 1
    session.flash("message")
    session.userid = 5
    session.get_csrf_token()


def test_invalidate_deletes_row_and_cookie(each_browser):
    """After invalidate() there is no row and no cookie."""
    each_browser.ask(fill)
    each_browser.ask(lambda session: session.invalidate())
    assert each_browser.application.rows() == []
    assert each_browser.cookie is None


def test_invalidate_is_one_delete(browser):
    """Invalidating writes one statement."""
    browser.ask(fill)
    assert written_by(browser, lambda session: session.invalidate()) == ["DELETE"]


def test_old_cookie_is_dead_after_invalidate(browser):
    """Who kept the cookie of an invalidated session has nothing."""
    browser.ask(fill)
    cookie = browser.cookie
    browser.ask(lambda session: session.invalidate())
    thief = Browser(browser.application)
    thief.set_cookie("session", cookie)
    assert thief.ask(everything) == ({}, [], None)


def test_session_is_new_and_empty_after_invalidate(browser):
    """In the same request the session is another, new one."""
    browser.ask(fill)
    token = browser.ask(lambda session: session.get_csrf_token())

    def view(session):
        session["b"] = 2
        session.invalidate()
        return everything(session), session.new, session.get_csrf_token() == token

    assert browser.ask(view) == (({}, [], None), True, False)


def test_session_is_usable_after_invalidate(each_browser):
    """What is put into the session after invalidate() is stored, under another id."""

    def view(session):
        session.invalidate()
        session["b"] = 2
        session.flash("farewell")

    each_browser.ask(fill)
    old = each_browser.application.row().id
    cookie = each_browser.cookie
    each_browser.ask(view)
    assert each_browser.application.row().id != old
    assert each_browser.cookie not in (None, cookie)
    assert each_browser.ask(everything) == ({"b": 2}, ["farewell"], None)


def test_value_of_an_invalidated_session_is_nobodys(browser):
    """A nested value that was handed out before invalidate() does not follow."""

    def view(session):
        value = session["list"]
        session.invalidate()
        value.append(2)
        session["b"] = 2

    keep(browser, list=[1])
    browser.ask(view)
    assert browser.ask(dict) == {"b": 2}


def test_invalidate_of_a_new_session(browser):
    """Invalidating a session that is not stored writes nothing and sends nothing."""
    assert written_by(browser, lambda s: (s.update(a=1), s.invalidate())) == []
    assert browser.cookie is None


def test_invalidate_as_the_first_call(browser):
    """invalidate() needs no other use of the session before it."""
    browser.ask(fill)
    response = browser.visit(lambda request: request.session.invalidate())
    assert response.headers.getall("Set-Cookie")[0].startswith("session=;")
    assert browser.application.rows() == []


def test_invalidate_twice(browser):
    """Whatever was put in between two calls of invalidate() is gone."""

    def view(session):
        session.invalidate()
        session["b"] = 2
        session.invalidate()
        session["c"] = 3

    browser.ask(fill)
    browser.ask(view)
    assert browser.ask(dict) == {"c": 3}
    assert len(browser.application.rows()) == 1


def test_invalidate_in_a_request_that_fails(each_browser):
    """If the transaction is not committed, the session has not been invalidated."""
    each_browser.ask(fill)
    cookie = each_browser.cookie
    each_browser.fail(lambda request: request.session.invalidate())
    assert each_browser.cookie == cookie
    assert each_browser.ask(everything) == ({"a": 1}, ["message"], 5)


# rotate().


def test_rotate_changes_the_cookie_and_nothing_else(each_browser):
    """A rotated session has another renewal id and cookie; id and content stay."""
    each_browser.ask(fill)
    old, old_cookie = each_browser.application.row(), each_browser.cookie
    each_browser.ask(lambda session: session.rotate())
    row = each_browser.application.row()
    assert row.id == old.id
    assert row.renewal_id not in (None, old.renewal_id)
    assert row.rotated_from == old.renewal_id
    assert abs(row.rotated - time.time()) < 60
    first = each_browser.cookie
    assert first not in (None, old_cookie)
    assert each_browser.ask(everything) == ({"a": 1}, ["message"], 5)
    each_browser.ask(lambda session: session.rotate())
    again = each_browser.application.row()
    assert again.rotated_from == row.renewal_id != again.renewal_id
    assert each_browser.cookie not in (first, old_cookie)
    assert each_browser.ask(everything) == ({"a": 1}, ["message"], 5)


def test_rotate_kills_the_old_cookie(each_browser):
    """Anyone who has the cookie from before the rotation has nothing, then or later."""
    each_browser.ask(fill)
    thief = Browser(each_browser.application)
    thief.set_cookie("session", each_browser.cookie)
    each_browser.ask(lambda session: session.rotate())
    assert thief.ask(everything) == ({}, [], None)
    assert thief.ask(lambda session: session.is_late)
    keep(thief, a=2)
    with time_machine.travel(time.time() + 120):
        assert thief.ask(everything) == ({}, [], None)
        assert not thief.ask(lambda session: session.is_late)
    assert each_browser.ask(everything) == ({"a": 1}, ["message"], 5)


def test_rotate_changes_the_csrf_token(browser):
    """A rotated session has another token, at once and later."""

    def view(session):
        old = session.get_csrf_token()
        session.rotate()
        return old, session.get_csrf_token()

    browser.ask(fill)
    old, new = browser.ask(view)
    assert new != old
    assert browser.ask(lambda session: session.get_csrf_token()) == new


def test_rotate_is_one_update(each_browser):
    """Rotation and whatever else changes are stored by one statement."""
    each_browser.ask(fill)
    assert written_by(
        each_browser, lambda s: (s.rotate(), s.update(b=2), s.flash("x"), s.rotate())
    ) == ["UPDATE"]
    assert each_browser.ask(dict) == {"a": 1, "b": 2}


def test_rotate_does_not_make_the_session_new(browser):
    """A rotated session is the same session."""
    browser.ask(fill)
    created = browser.ask(lambda session: session.created)
    assert browser.ask(lambda s: (s.rotate(), s.new, s.created)[1:]) == (False, created)


def test_rotate_of_an_empty_new_session(browser):
    """A new session has nothing to rotate, and is not stored."""
    assert written_by(browser, lambda session: session.rotate()) == []
    assert browser.cookie is None


def test_rotate_of_a_new_session_with_data(browser):
    """Rotation does not keep a new session from being stored."""
    browser.ask(lambda s: (s.update(a=1), s.rotate()))
    assert browser.ask(dict) == {"a": 1}


def test_rotate_in_a_request_that_fails(each_browser):
    """If the transaction is not committed, the old cookie is as good as before."""
    each_browser.ask(fill)
    cookie = each_browser.cookie
    each_browser.fail(lambda request: request.session.rotate())
    assert each_browser.cookie == cookie
    assert each_browser.ask(everything) == ({"a": 1}, ["message"], 5)


def test_rotate_and_invalidate(each_browser):
    """A session that was rotated and then invalidated is gone, with its cookie."""
    each_browser.ask(fill)
    each_browser.ask(lambda session: (session.rotate(), session.invalidate()))
    assert each_browser.application.rows() == []
    assert each_browser.cookie is None


@pytest.mark.parametrize(("before", "after"), [(None, 5), (5, None), (5, 6)])
def test_change_of_user_rotates(each_browser, before, after):
    """Login, logout and change of user give the session another cookie and token.

    The id stays. Only one user after another finds nothing.
    """

    def log_in(session):
        session["a"] = 1
        session.flash("message")
        session.userid = before
        return session.get_csrf_token()

    token = each_browser.ask(log_in)
    cookie, row = each_browser.cookie, each_browser.application.row()
    each_browser.ask(lambda session: setattr(session, "userid", after))
    assert each_browser.cookie not in (None, cookie)
    now = each_browser.application.row()
    assert now.id == row.id
    assert now.renewal_id not in (None, row.renewal_id)
    assert each_browser.ask(lambda s: s.get_csrf_token()) != token
    kept = ({"a": 1}, ["message"]) if None in (before, after) else ({}, [])
    assert each_browser.ask(everything) == (*kept, after)


def test_rotation_needs_no_csrf_token(browser):
    """A session without a token gets none by being rotated."""
    keep(browser, a=1)
    browser.ask(lambda session: session.rotate())
    assert browser.application.row().csrf_token is None


# Several sessions and requests at once.


def test_secret_of_another_application(sqlite_engine):
    """Data of one application cannot be reached with the key of another."""
    browser = open_browser(sqlite_engine, Plain)
    keep(browser, a=1)
    other_key = SECRET[::-1].replace("=", "") + "="
    other = open_browser(sqlite_engine, Plain, secret_key="B" + other_key[1:])
    other.set_cookie("session", browser.cookie)
    assert other.ask(dict) == {}


# Objects of the database.


class Note(Models):
    """What an application might put into its session by mistake."""

    __tablename__ = "note"
    id = mapped_column(Integer, primary_key=True)


def test_mapped_objects_are_warned_of(browser, caplog):
    """Once for each key and class, whether it's the value or in it."""

    def view(request):
        session = request.session
        session["note"] = Note(id=1)
        session["note"] = Note(id=2)
        session.update(notes=[Note(id=3), Note(id=4)], named={"a": Note(id=5)})
        session["ids"] = [1, 2]

    browser.visit(view)
    browser.visit(view)
    told = logged(caplog, "WARNING")
    assert len(told) == 3
    for message, key in zip(told, ("note", "notes", "named"), strict=True):
        assert f"'{key}'" in message
        assert "Note" in message
    assert browser.ask(lambda session: session["note"].id) == 2


@pytest.mark.parametrize(
    "put",
    [
        lambda request, note: request.session.update(notes={"all": [(note, 1)]}),
        lambda request, note: request.session.setdefault("notes", []).append(note),
        lambda request, note: request.session.update(
            notes=request.dbsession.execute(select(Note)).all()
        ),
        lambda request, note: request.session_store.create({"notes": {1: [note]}}),
        lambda request, note: request.session_store.set(
            request.session_store.create({}), {"notes": [note]}
        ),
    ],
    ids=["nested", "appended", "rows", "created", "set"],
)
def test_mapped_objects_inside_are_warned_of(browser, sqlite_engine, caplog, put):
    """However deep they are, and however they came to be there."""
    Note.__table__.create(sqlite_engine)

    def view(request):
        note = request.dbsession.get(Note, 1)
        if note is None:
            note = Note(id=1)
            request.dbsession.add(note)
            request.dbsession.flush()
        put(request, note)

    browser.visit(view)
    (message,) = logged(caplog, "WARNING")
    assert "'notes'" in message
    assert "Note" in message


def test_text_about_mapped_objects_is_none(browser, caplog):
    """A text with the name of what SQLAlchemy adds to an object is just a text."""
    keep(browser, text="_sa_instance_state")
    assert logged(caplog, "WARNING") == []
