"""Logging in and out, with a security policy and with Pyramid's old policies."""

import uuid
import warnings

import pytest
from pyramid.authorization import ACLAuthorizationPolicy, Allow, Authenticated, Everyone
from pyramid.httpexceptions import HTTPFound
from pyramid.interfaces import IAuthenticationPolicy
from pyramid.response import Response
from pyramid.security import forget, remember
from sqlalchemy import ForeignKey, Integer, String, Uuid
from sqlalchemy.orm import DeclarativeBase, Session, mapped_column
from zope.interface.verify import verifyObject

from pyramid_sqlalchemy_sessions import (
    BaseMixin,
    CSRFMixin,
    UseridMixin,
    UserSessionAuthenticationHelper,
    UserSessionAuthenticationPolicy,
)
from tests.application import Application, Browser, Failure, Full, Plain, statements


class Models(DeclarativeBase):
    """The declarative base of the models below."""


class Account(Models):
    """A user of the application, numbered by the database."""

    __tablename__ = "account"
    id = mapped_column(Integer, primary_key=True)
    name = mapped_column(String(50), unique=True)


class OfAccount(UseridMixin, CSRFMixin, BaseMixin, Models):
    """A session whose user is an account."""

    __tablename__ = "account_session"
    userid = mapped_column(ForeignKey(Account.id, ondelete="CASCADE"))


class Member(Models):
    """A user of the application, numbered by itself."""

    __tablename__ = "member"
    id = mapped_column(Uuid, primary_key=True, default=uuid.uuid4)


class OfMember(UseridMixin, BaseMixin, Models):
    """A session whose user is a member."""

    __tablename__ = "member_session"
    userid = mapped_column(ForeignKey(Member.id))


class Named(UseridMixin, BaseMixin, Models):
    """A session whose user has a name for an id."""

    __tablename__ = "named_session"
    userid = mapped_column(String(50))


class Root:
    """What users may see who are logged in."""

    __acl__ = [(Allow, Authenticated, "see")]

    def __init__(self, request):
        pass


class Policy:
    """A security policy that leaves the session to the helper."""

    def __init__(self):
        self.helper = UserSessionAuthenticationHelper()

    def identity(self, request):
        return self.helper.authenticated_userid(request)

    def authenticated_userid(self, request):
        return self.helper.authenticated_userid(request)

    def permits(self, request, context, permission):
        return self.authenticated_userid(request) is not None

    def remember(self, request, userid, **kw):
        return self.helper.remember(request, userid, **kw)

    def forget(self, request, **kw):
        return self.helper.forget(request, **kw)


def add_protected_view(config):
    """Let the application have a view that only users see who are logged in."""
    config.set_root_factory(Root)
    config.add_view(
        lambda request: Response("secret"),
        route_name="view",
        request_param="secret",
        permission="see",
    )


def use_helper(config):
    """Log in and out with the helper."""
    config.set_security_policy(Policy())
    add_protected_view(config)


def use_old_policy(config, callback=None, debug=False):
    """Log in and out with the old policy."""
    with warnings.catch_warnings():
        # Pyramid 2 calls them deprecated.
        warnings.simplefilter("ignore", DeprecationWarning)
        config.set_authentication_policy(
            UserSessionAuthenticationPolicy(callback=callback, debug=debug)
        )
        config.set_authorization_policy(ACLAuthorizationPolicy())
    add_protected_view(config)


def create_tables(engine, model):
    """Create the table of a model, and those that it refers to."""
    tables = [model.__table__]
    tables += [key.column.table for key in model.__table__.foreign_keys]
    model.metadata.create_all(engine, tables)


@pytest.fixture(params=[use_helper, use_old_policy], ids=["helper", "policy"])
def configure(request):
    """Return what configures an application to log in and out in either way."""
    return request.param


@pytest.fixture
def make_application(sqlite_engine):
    """Make applications on SQLite."""

    def make(configure, model=Full, **kw):
        create_tables(sqlite_engine, model)
        return Application(sqlite_engine, model, configure=configure, **kw)

    return make


@pytest.fixture
def application(make_application, configure):
    """Return an application with either way to log in and out."""
    return make_application(configure)


@pytest.fixture
def browser(application):
    """Return a browser of that application."""
    return Browser(application)


@pytest.fixture
def each_browser(engine, configure):
    """Return a browser of such an application on each kind of database."""
    create_tables(engine, OfAccount)
    return Browser(Application(engine, OfAccount, configure=configure))


def log_in(browser, userid=5):
    """Log in, and return the response."""
    return browser.visit(lambda request: str(remember(request, userid)))


def log_out(browser):
    """Log out, and return the response."""
    return browser.visit(lambda request: str(forget(request)))


def user_of(browser):
    """Return the id of the user who is logged in."""
    users = []
    browser.visit(lambda request: users.append(request.authenticated_userid))
    return users[0]


def browser_with(browser, cookie):
    """Return another browser that has this session cookie."""
    other = Browser(browser.application)
    other.set_cookie("session", cookie)
    return other


def cookies_set(response):
    """Return the values of the session cookies that a response sets."""
    pairs = [each.split(";")[0] for each in response.headers.getall("Set-Cookie")]
    return [pair.partition("=")[2] for pair in pairs]


# Both.


def test_nobody_is_logged_in_at_first(browser):
    """A stranger is nobody, and asking who it is stores nothing."""
    assert user_of(browser) is None
    assert browser.application.rows() == []
    assert browser.cookie is None


def test_login_lasts(browser):
    """Who logged in is known in the next requests."""
    log_in(browser, 5)
    assert user_of(browser) == 5
    assert user_of(browser) == 5


def test_login_is_seen_in_the_same_request(browser):
    """Who logged in is known at once."""
    users = []

    def view(request):
        remember(request, 5)
        users.append(request.session.userid)

    browser.visit(view)
    assert users == [5]


def test_login_is_of_one_browser(browser):
    """Another browser is not logged in."""
    log_in(browser)
    assert user_of(Browser(browser.application)) is None


@pytest.mark.parametrize("act", [lambda r: remember(r, 5), forget])
def test_there_are_no_headers_to_send(browser, act):
    """remember and forget return an empty list: the session sends its cookie itself."""
    answers = []
    browser.visit(lambda request: answers.append(act(request)))
    assert answers == [[]]


def test_login_with_a_redirect(browser):
    """The usual login view, which redirects with the headers of remember, logs in."""

    def view(request):
        return HTTPFound("/", headers=remember(request, 5))

    browser.visit(view, status=302)
    assert user_of(browser) == 5


def test_login_rotates(each_browser):
    """Login keeps the session, and gives another cookie to the browser."""
    each_browser.ask(lambda session: session.update(basket=["book"]))
    before, row = each_browser.cookie, each_browser.application.row()
    with Session(each_browser.application.engine) as dbsession:
        dbsession.add(Account(id=5, name="jo"))
        dbsession.commit()
    response = log_in(each_browser)
    assert cookies_set(response) == [each_browser.cookie]
    assert each_browser.cookie != before
    after = each_browser.application.row()
    assert after.id == row.id
    assert after.renewal_id not in (None, row.renewal_id)


def test_login_keeps_the_data(browser):
    """What was in the session before the login is there after it."""
    browser.ask(lambda session: (session.update(basket=["book"]), session.flash("x")))
    log_in(browser)
    assert browser.ask(lambda s: (dict(s), s.peek_flash())) == (
        {"basket": ["book"]},
        ["x"],
    )


def test_login_changes_the_csrf_token(browser):
    """Who knew the CSRF token from before the login does not know the one after it."""
    token = browser.ask(lambda session: session.get_csrf_token())
    log_in(browser)
    assert browser.ask(lambda session: session.get_csrf_token()) != token


def test_cookie_from_before_the_login_is_dead(browser):
    """The cookie from before the login opens nothing after it."""
    browser.ask(lambda session: session.update(a=1))
    old = browser.cookie
    log_in(browser)
    other = browser_with(browser, old)
    assert other.ask(lambda s: (dict(s), s.userid, s.new)) == ({}, None, True)


def test_late_request_does_not_delete_the_fresh_cookie(browser):
    """A request that still carries the id from before the login deletes no cookie."""
    browser.ask(lambda session: session.update(a=1))
    old = browser.cookie
    log_in(browser)
    response = browser_with(browser, old).visit(
        lambda request: request.session.get("a")
    )
    assert cookies_set(response) == []


def test_login_that_fails_is_none(browser):
    """Who logged in in a request that was not committed is not logged in."""
    browser.ask(lambda session: session.update(a=1))
    cookie = browser.cookie
    browser.fail(lambda request: remember(request, 5))
    assert browser.cookie == cookie
    assert user_of(browser) is None
    assert browser.ask(dict) == {"a": 1}


def test_second_login_of_the_same_user(browser):
    """Who is logged in already stays logged in, with the session as it is."""
    log_in(browser)
    browser.ask(lambda session: session.update(a=1))
    log_in(browser)
    assert user_of(browser) == 5
    assert browser.ask(dict) == {"a": 1}


def test_change_of_user_rotates(browser):
    """Another user gets another id."""
    log_in(browser, 5)
    old = browser.cookie
    log_in(browser, 6)
    assert user_of(browser) == 6
    assert user_of(browser_with(browser, old)) is None


def test_logout(browser):
    """Who logged out is nobody, whatever cookie is used."""
    log_in(browser)
    old = browser.cookie
    log_out(browser)
    assert user_of(browser) is None
    assert user_of(browser_with(browser, old)) is None


def test_logout_that_fails_is_none(browser):
    """Who logged out in a request that was not committed is still logged in."""
    log_in(browser)
    browser.fail(lambda request: forget(request))
    assert user_of(browser) == 5


def test_logout_of_a_stranger(browser):
    """Who is not logged in can log out, which stores and sends nothing."""
    response = log_out(browser)
    assert cookies_set(response) == []
    assert browser.application.rows() == []


def test_login_after_logout(browser):
    """Logging out and in again works, also as two users in one request."""

    def view(request):
        forget(request)
        remember(request, 6)

    log_in(browser, 5)
    log_out(browser)
    log_in(browser, 5)
    assert user_of(browser) == 5
    browser.visit(view)
    assert user_of(browser) == 6
    assert len({row.userid for row in browser.application.rows()} - {None}) == 1


def test_login_and_logout_in_one_request(browser):
    """Who logs in and out in one request is nobody."""
    browser.ask(lambda session: session.update(a=1))
    browser.visit(lambda request: str((remember(request, 5), forget(request))))
    assert user_of(browser) is None


def test_permission(browser):
    """A protected view is seen by users only, and never makes an error."""
    browser.get("/?secret=1", status=403)
    log_in(browser)
    assert browser.get("/?secret=1").text == "secret"
    log_out(browser)
    browser.get("/?secret=1", status=403)


def test_user_costs_one_statement(browser):
    """Asking for the user again and again loads the session once."""
    log_in(browser)
    with statements(browser.application.engine) as collected:
        browser.visit(
            lambda request: str([request.authenticated_userid for _ in range(3)])
        )
    assert [each.split()[0] for each in collected] == ["SELECT"]


def test_model_without_a_user(make_application, configure):
    """Without UseridMixin logging in is an error that says what the model lacks."""
    browser = Browser(make_application(configure, Plain))
    with pytest.raises(NotImplementedError, match="UseridMixin"):
        log_in(browser)
    with pytest.raises(NotImplementedError, match="UseridMixin"):
        user_of(browser)


@pytest.mark.parametrize("name", ["jo", "é😀", "0", " "])
def test_user_with_a_name_for_an_id(engine, configure, name):
    """The column may be a String."""
    create_tables(engine, Named)
    browser = Browser(Application(engine, Named, configure=configure))
    log_in(browser, name)
    assert user_of(browser) == name


def test_user_with_a_uuid_for_an_id(engine, configure):
    """The column may be a UUID; the same user again only gets another cookie."""
    create_tables(engine, OfMember)
    browser = Browser(Application(engine, OfMember, configure=configure))
    userid = uuid.uuid4()
    with Session(engine) as dbsession:
        dbsession.add(Member(id=userid))
        dbsession.commit()
    log_in(browser, userid)
    assert user_of(browser) == userid
    browser.visit(lambda request: request.session.update(cart=["lamp"]))
    assert len(cookies_set(log_in(browser, uuid.UUID(str(userid))))) == 1
    assert browser.ask(dict) == {"cart": ["lamp"]}  # which another user would not see


def test_time_of_the_login(engine, configure):
    """Logging in is noted, since the user has just proved who they are."""
    create_tables(engine, Full)
    browser = Browser(Application(engine, configure=configure))
    log_in(browser, 1)
    assert browser.ask(lambda session: session.is_fresh(60))
    assert browser.application.row().authenticated >= browser.application.row().created


# Signing up.


def test_sign_up_and_login_with_a_number_of_the_database(each_browser):
    """Who signs up is logged in by the same request, with the id that a flush drew."""

    def view(request):
        account = Account(name="jo")
        request.dbsession.add(account)
        request.dbsession.flush()
        remember(request, account.id)

    each_browser.visit(view)
    with Session(each_browser.application.engine) as dbsession:
        account = dbsession.query(Account).one()
    assert user_of(each_browser) == account.id


def test_sign_up_and_login_without_a_flush(engine, configure):
    """Who signs up is logged in by the same request, before anything is flushed."""
    create_tables(engine, OfMember)
    browser = Browser(Application(engine, OfMember, configure=configure))
    userid = uuid.uuid4()

    def view(request):
        remember(request, userid)
        request.dbsession.add(Member(id=userid))

    browser.visit(view)
    assert user_of(browser) == userid


def test_sign_up_in_a_session_that_is_stored_already(each_browser):
    """A session that was there before the user was gets the user."""

    def view(request):
        remember(request, 8)
        request.dbsession.add(Account(id=8, name="jo"))

    each_browser.ask(lambda session: session.update(basket=["book"]))
    each_browser.visit(view)
    assert user_of(each_browser) == 8
    assert each_browser.ask(dict) == {"basket": ["book"]}


def test_sign_up_that_fails(each_browser):
    """If the sign-up fails there is neither a user nor a login."""

    def view(request):
        request.dbsession.add(Account(id=8, name="jo"))
        remember(request, 8)

    each_browser.fail(view)
    assert user_of(each_browser) is None
    with Session(each_browser.application.engine) as dbsession:
        assert dbsession.query(Account).all() == []


def test_sign_up_with_a_name_that_is_taken(each_browser):
    """If the database refuses the user at commit, nobody is logged in."""

    def view(request):
        request.dbsession.add(Account(id=9, name="jo"))
        remember(request, 9)

    with Session(each_browser.application.engine) as dbsession:
        dbsession.add(Account(id=8, name="jo"))
        dbsession.commit()
    with pytest.raises(Exception, match=r"(?i)unique|duplicate"):
        each_browser.visit(view)
    assert each_browser.cookie is None
    assert user_of(each_browser) is None


# Session fixation.


def planted(attacker):
    """Return a browser in which the attacker has planted the own session's cookie."""
    attacker.ask(lambda session: session.update(planted=True))
    return browser_with(attacker, attacker.cookie)


def test_session_fixation(application):
    """An attacker who plants a cookie is anonymous after the victim's login."""
    attacker = Browser(application)
    victim = planted(attacker)
    assert victim.ask(dict) == {"planted": True}
    response = log_in(victim)
    (fresh,) = cookies_set(response)
    assert user_of(attacker) is None
    assert attacker.ask(dict) == {}
    assert user_of(browser_with(attacker, fresh)) == 5


def test_session_fixation_with_a_second_cookie(application):
    """A planted cookie that the victim's browser keeps sending does no harm."""
    attacker = Browser(application)
    victim = planted(attacker)
    (fresh,) = cookies_set(log_in(victim))
    for cookies in ([attacker.cookie, fresh], [fresh, attacker.cookie]):
        browser = Browser(application)
        users = []
        browser.visit(
            lambda request, users=users: users.append(request.authenticated_userid),
            headers={"Cookie": "; ".join(f"session={each}" for each in cookies)},
        )
        assert users == [5]
    assert user_of(attacker) is None


def test_session_fixation_by_a_csrf_token(application):
    """The attacker's CSRF token is not that of the victim's session."""
    attacker = Browser(application)
    known = attacker.ask(lambda session: session.get_csrf_token())
    victim = browser_with(attacker, attacker.cookie)
    (fresh,) = cookies_set(log_in(victim))
    victim = browser_with(attacker, fresh)
    assert victim.ask(lambda session: session.get_csrf_token()) != known


def test_attacker_cannot_choose_the_id(application):
    """An attacker who plants the cookie of a session that has gone plants nothing."""
    attacker = Browser(application)
    victim = planted(attacker)
    attacker.ask(lambda session: session.invalidate())
    (fresh,) = cookies_set(log_in(victim))
    assert user_of(attacker) is None
    assert user_of(browser_with(attacker, fresh)) == 5


def test_attacker_does_not_write_into_the_victims_session(application):
    """What the attacker stores after the victim's login goes into another session."""
    attacker = Browser(application)
    victim = planted(attacker)
    (fresh,) = cookies_set(log_in(victim))
    attacker.ask(lambda session: session.update(evil=True))
    victim = browser_with(attacker, fresh)
    assert victim.ask(dict) == {"planted": True}


# The helper.


@pytest.fixture
def helped(make_application):
    """Return a browser of an application with the helper."""
    return Browser(make_application(use_helper))


def test_forget_of_the_helper_invalidates(helped):
    """A logged-out session is gone: row, data, messages and cookie."""
    helped.ask(lambda session: (session.update(a=1), session.flash("x")))
    log_in(helped)
    log_out(helped)
    assert helped.application.rows() == []
    assert helped.cookie is None
    assert helped.ask(lambda s: (dict(s), s.peek_flash())) == ({}, [])


def test_farewell_message(helped):
    """A message that is flashed after forget is seen by the next request."""

    def view(request):
        headers = forget(request)
        request.session.flash("Farewell!")
        return HTTPFound("/", headers=headers)

    helped.ask(lambda session: session.update(a=1))
    log_in(helped)
    old = helped.cookie
    response = helped.visit(view, status=302)
    assert cookies_set(response) == [helped.cookie]
    assert helped.cookie not in (None, old)
    assert helped.ask(lambda s: (s.pop_flash(), dict(s), s.userid)) == (
        ["Farewell!"],
        {},
        None,
    )
    assert user_of(browser_with(helped, old)) is None


def test_helper_refuses_unknown_keywords(helped):
    """A keyword that would do nothing is an error."""
    with pytest.raises(TypeError, match="tokens"):
        helped.visit(lambda request: str(remember(request, 5, tokens=["x"])))
    with pytest.raises(TypeError, match="reason"):
        helped.visit(lambda request: str(forget(request, reason="x")))
    assert user_of(helped) is None


# The old policy.


def old(make_application, **kw):
    """Return a browser of an application with the old policy."""
    return Browser(make_application(lambda config: use_old_policy(config, **kw)))


@pytest.mark.parametrize("callback", [None, lambda userid, request: []])
def test_policy_provides_the_interface(callback):
    """Pyramid recognises the policy."""
    policy = UserSessionAuthenticationPolicy(callback)
    assert verifyObject(IAuthenticationPolicy, policy)


def test_forget_of_the_policy_keeps_the_data(make_application):
    """Logging out with the old policy leaves the data, under another id."""
    browser = old(make_application)
    browser.ask(lambda session: session.update(a=1))
    log_in(browser)
    cookie = browser.cookie
    log_out(browser)
    assert browser.cookie not in (None, cookie)
    assert browser.ask(lambda s: (dict(s), s.userid)) == ({"a": 1}, None)


def test_callback_may_refuse_the_user(make_application):
    """A user whom the callback does not know is not authenticated."""
    known = [5]
    browser = old(
        make_application,
        callback=lambda userid, request: [] if userid in known else None,
    )
    log_in(browser, 5)
    assert user_of(browser) == 5
    known.clear()
    assert user_of(browser) is None
    browser.get("/?secret=1", status=403)


def test_callback_gives_the_principals(make_application):
    """The groups of the callback are principals, beside those of Pyramid."""
    policy = UserSessionAuthenticationPolicy(lambda userid, request: [f"user:{userid}"])
    browser = old(make_application)
    principals = []

    def view(request):
        principals.append(policy.effective_principals(request))
        principals.append(policy.unauthenticated_userid(request))

    browser.visit(view)
    log_in(browser)
    browser.visit(view)
    assert principals == [[Everyone], None, [Everyone, Authenticated, 5, "user:5"], 5]


def test_callback_may_use_the_database(make_application):
    """A callback that asks the database for the user runs in the same transaction."""
    browser = old(
        make_application,
        callback=lambda userid, request: (
            [] if request.dbsession.get(Full, request.session.instance.id) else None
        ),
    )
    log_in(browser, 5)
    assert user_of(browser) == 5


@pytest.mark.parametrize("callback", [None, lambda userid, request: None])
def test_debugging(make_application, caplog, callback):
    """With debug the policy says in Pyramid's debug log what it thinks."""
    browser = old(make_application, callback=callback, debug=True)
    log_in(browser, 5)
    with caplog.at_level("DEBUG"):
        assert user_of(browser) == (5 if callback is None else None)
    assert "UserSessionAuthenticationPolicy.authenticated_userid" in caplog.text


def test_exception_view_knows_the_user(make_application, configure):
    """An error page can greet the user, whose request has failed."""

    def both(config):
        configure(config)
        config.add_exception_view(
            lambda request: Response(str(request.authenticated_userid)), Failure
        )

    def fail(request):
        raise Failure

    browser = Browser(make_application(both))
    log_in(browser)
    assert browser.visit(fail).text == "5"


# In the forbidden view, which is an exception view.


def answer_forbidden(act):
    """Return what lets the forbidden view do something and redirect."""

    def view(request):
        act(request)
        return HTTPFound("/login")

    return lambda config: config.add_forbidden_view(view)


@pytest.fixture(params=[False, True], ids=["new", "stored"])
def refused(make_application, configure, request):
    """Return what makes a browser, with a session or without, of an application.

    Its forbidden view does what it is told.
    """

    def make(act):
        def both(config):
            configure(config)
            answer_forbidden(act)(config)

        browser = Browser(make_application(both))
        if request.param:
            browser.ask(lambda session: session.update(a=1))
        return browser

    return make


def test_flash_in_the_forbidden_view(refused):
    """A message that says why somebody is sent to the login page arrives there."""
    browser = refused(lambda request: request.session.flash("Log in, please."))
    browser.get("/?secret=1", status=302)
    assert browser.ask(lambda s: s.pop_flash()) == ["Log in, please."]


def test_login_in_the_forbidden_view(refused):
    """A login form that the forbidden view handles logs in, with another id."""
    browser = refused(lambda request: remember(request, 5))
    old = browser.cookie
    response = browser.get("/?secret=1", status=302)
    assert cookies_set(response) == [browser.cookie]
    assert browser.cookie not in (None, old)
    assert browser.get("/?secret=1").text == "secret"
    assert len(browser.application.rows()) == 1
    if old is not None:
        assert user_of(browser_with(browser, old)) is None
        assert browser.ask(dict) == {"a": 1}


def test_logout_in_the_forbidden_view(make_application):
    """A forbidden view may end the session of a user who may not be here."""

    class Strict(Policy):
        """A security policy that permits nothing."""

        def permits(self, request, context, permission):
            self.authenticated_userid(request)
            return False

    def configure_(config):
        config.set_security_policy(Strict())
        add_protected_view(config)
        answer_forbidden(forget)(config)

    browser = Browser(make_application(configure_))
    log_in(browser)
    old = browser.cookie
    browser.get("/?secret=1", status=302)
    assert browser.cookie is None
    assert browser.application.rows() == []
    assert user_of(browser_with(browser, old)) is None
