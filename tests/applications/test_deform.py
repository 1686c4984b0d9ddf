"""Forms of deform, with the CSRF token of the session and uploads kept in it."""

from __future__ import annotations

from collections.abc import MutableMapping

import colander
import deform
import pytest
from pyramid.csrf import check_csrf_token, get_csrf_token
from pyramid.httpexceptions import HTTPSeeOther
from pyramid.response import Response
from webtest import Upload

from tests.application import Application, Base, Browser, Full, Plain


@colander.deferred
def csrf_default(node, bindings):
    """Put the token into the form."""
    return get_csrf_token(bindings["request"])


@colander.deferred
def csrf_validator(node, bindings):
    """Compare the token that came with that of the session."""

    def validate(node, value):
        if not check_csrf_token(bindings["request"], raises=False):
            raise colander.Invalid(node, "Bad CSRF token")

    return validate


@colander.deferred
def upload_widget(node, bindings):
    """Keep uploads in the session until the form is valid."""
    return deform.widget.FileUploadWidget(Uploads(bindings["request"].session))


class Uploads(MutableMapping):
    """What deform wants to be told of the uploads, in a value of the session."""

    def __init__(self, session):
        self.session = session

    @property
    def kept(self):
        return self.session.setdefault("uploads", {})

    def __getitem__(self, name):
        return self.kept[name]

    def __setitem__(self, name, upload):
        kept = {**upload, "content": upload["fp"].read()}
        del kept["fp"]
        self.kept[name] = kept

    def __delitem__(self, name):
        del self.kept[name]

    def __iter__(self):
        return iter(self.kept)

    def __len__(self):
        return len(self.kept)

    def preview_url(self, name):
        return None


class Schema(colander.Schema):
    """A form with a token, a name and a picture."""

    csrf_token = colander.SchemaNode(
        colander.String(),
        default=csrf_default,
        validator=csrf_validator,
        widget=deform.widget.HiddenWidget(),
    )
    name = colander.SchemaNode(colander.String(), validator=colander.Length(min=3))
    picture = colander.SchemaNode(deform.FileData(), widget=upload_widget, missing=None)


def edit(request):
    """Show the form, or do what it says."""
    form = deform.Form(Schema().bind(request=request), buttons=("save",))
    if "save" not in request.POST:
        return Response(form.render())
    try:
        valid = form.validate(request.POST.items())
    except deform.ValidationFailure as failure:
        return Response(failure.render())
    request.session["saved"] = valid["name"]
    request.session.flash(f"{valid['name']} is saved.")
    return HTTPSeeOther("/")


@pytest.fixture(params=[Full, Plain], ids=["token in a column", "token in the dict"])
def browser(request, sqlite_engine):
    """Visit an application whose only view is the form."""
    Base.metadata.create_all(sqlite_engine)
    browser = Browser(Application(sqlite_engine, request.param))
    browser.application.view = edit
    return browser


def messages(browser):
    """Take the flash messages."""
    return browser.ask(lambda session: session.pop_flash())


def test_right_token(browser):
    """A form that is sent back is accepted."""
    form = browser.get("/").form
    form["name"] = "Alice"
    assert form.submit("save").status_int == 303
    assert messages(browser) == ["Alice is saved."]


def test_second_mistake(browser):
    """After a mistake the same token is good: the form can be sent again."""
    form = browser.get("/").form
    form["name"] = "A"
    page = form.submit("save")
    assert "Shorter than minimum length" in page
    page.form["name"] = "Alice"
    assert page.form.submit("save").status_int == 303
    assert messages(browser) == ["Alice is saved."]


@pytest.mark.parametrize("token", ["", "wrong", "\xfcnknown"])
def test_wrong_token(browser, token):
    """A form with another token is refused."""
    form = browser.get("/").form
    form["name"] = "Alice"
    form["csrf_token"] = token
    assert "There was a problem" in form.submit("save")
    assert messages(browser) == []


def test_token_of_somebody_else(browser):
    """A form that somebody else was given is refused."""
    form = Browser(browser.application).get("/").form
    fields = {"csrf_token": form["csrf_token"].value, "name": "Alice", "save": ""}
    browser.get("/")
    browser.application.view = edit
    assert "There was a problem" in browser.post("/", fields)
    assert messages(browser) == []


def test_token_from_before_login(sqlite_engine):
    """A form from before the login is refused after it."""
    Base.metadata.create_all(sqlite_engine)
    browser = Browser(Application(sqlite_engine))
    form = browser.visit(edit).form
    browser.visit(lambda request: setattr(request.session, "userid", 1))
    browser.application.view = edit
    form["name"] = "Alice"
    assert "There was a problem" in form.submit("save")


def test_required_token(sqlite_engine):
    """With require_csrf Pyramid checks the field itself, before the view."""
    Base.metadata.create_all(sqlite_engine)

    def configure(config):
        config.set_default_csrf_options(require_csrf=True)

    browser = Browser(Application(sqlite_engine, configure=configure))
    form = browser.visit(edit).form
    form["name"] = "Alice"
    assert form.submit("save").status_int == 303
    form["csrf_token"] = "wrong"
    assert form.submit("save", status="*").status_int == 400


def test_upload(browser):
    """A file need not be sent again after a mistake elsewhere in the form."""
    form = browser.get("/").form
    form["upload"] = Upload("me.png", b"\x89PNG", "image/png")
    form["name"] = "A"
    page = form.submit("save")
    assert "me.png" in page
    page.form["name"] = "Alice"
    assert page.form.submit("save").status_int == 303
    (kept,) = browser.ask(lambda session: session["uploads"]).values()
    assert (kept["filename"], kept["content"]) == ("me.png", b"\x89PNG")
