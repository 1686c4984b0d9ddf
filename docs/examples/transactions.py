"""The samples of transactions.rst."""

from pyramid.httpexceptions import HTTPSeeOther
from pyramid.request import Request
from pyramid.response import Response
from sqlalchemy.exc import IntegrityError


def login_that_is_lost(request):
    request.session.userid = 1
    raise HTTPSeeOther("/")


def login(request):
    request.session.userid = 1
    return HTTPSeeOther("/")


def forbidden(request):
    request.session.flash("Please log in.")
    return HTTPSeeOther("/login")


def preview(request):
    request.session["cart"] = {}
    request.tm.doom()
    return Response("This is what would happen.")


def add_with_savepoint(request, thing):
    session = request.session
    session["attempts"] = session.get("attempts", 0) + 1
    try:
        with request.dbsession.begin_nested():
            session.flash(f"{thing.name} was added.")
            request.dbsession.add(thing)
    except IntegrityError:
        session.flash(f"There is a {thing.name} already.")
    return HTTPSeeOther("/")


def script(env):
    request = env["request"]
    with request.tm:
        request.session["a"] = 1


def ask_another_view(request):
    cookie = request.headers.get("Cookie", "")
    subrequest = Request.blank("/other", headers={"Cookie": cookie})
    subrequest.environ["tm.active"] = True
    subrequest.environ["tm.manager"] = request.tm
    return request.invoke_subrequest(subrequest)
