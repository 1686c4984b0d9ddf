"""The pages of the demo. Every ``request.session`` in here is a row of the database."""

from __future__ import annotations

import inspect
from datetime import datetime, timezone
from typing import Any

from pyramid.csrf import BadCSRFToken
from pyramid.httpexceptions import HTTPNotFound, HTTPSeeOther
from pyramid.interfaces import ISessionFactory
from pyramid.request import Request
from pyramid.security import forget, remember
from pyramid.view import exception_view_config, forbidden_view_config, view_config

from . import shop
from .database import USERS
from .security import find_user, path_of_this_site

# Scene 1: a counter and flash messages.


class CounterViews:
    """Step 17 of Pyramid's tutorial."""

    def __init__(self, request: Any):
        self.request = request

    @property
    def counter(self) -> int:
        session = self.request.session
        if "counter" in session:
            session["counter"] += 1
        else:
            session["counter"] = 1
        return session["counter"]

    @view_config(route_name="home", renderer="templates/counter.jinja2")
    def home(self) -> dict[str, Any]:
        return {"name": "Home View", "code": source(CounterViews)}

    @view_config(route_name="howdy", renderer="templates/counter.jinja2")
    def howdy(self) -> dict[str, Any]:
        return {"name": "Howdy View", "code": source(CounterViews)}

    @view_config(route_name="flash", request_method="POST")
    def flash(self) -> Any:
        self.request.session.flash(self.request.POST["message"] or "(nothing)")
        return HTTPSeeOther(self.request.route_path("home"))


# Scene 2: logging in and out.

#: How many devices a user can be logged in on; another login ends the oldest session.
MOST_SESSIONS = 5


@view_config(
    route_name="login", request_method="GET", renderer="templates/login.jinja2"
)
def login_form(request: Any) -> dict[str, Any]:
    return {
        "users": USERS,
        "next_path": request.GET.get("next", ""),
        "before": request.session.get("before"),
        "code": source(login),
    }


@view_config(route_name="login", request_method="POST")
def login(request: Any) -> Any:
    session, form = request.session, request.POST
    user = find_user(request.dbsession, form["name"], form["password"])
    next_path = path_of_this_site(form["next"], request.route_path("account"))
    if user is None:
        session.flash("There is no such user, or the password is wrong.", "error")
        query = {"next": next_path}
        return HTTPSeeOther(request.route_path("login", _query=query))
    before = trace(request)
    remember(request, user.id)
    request.session_store.limit_user(user.id, MOST_SESSIONS, keep=session)
    session["before"] = before
    session.flash(f"Welcome, {user.name}.")
    return HTTPSeeOther(next_path)


@view_config(route_name="logout", request_method="POST")
def logout(request: Any) -> Any:
    before = trace(request)
    forget(request)
    request.session["before"] = before
    request.session.flash("You are logged out. Good-bye!")
    return HTTPSeeOther(request.route_path("login"))


def trace(request: Any) -> dict[str, Any]:
    """Return what is going to be dead, for the next page to show: a demo's whim."""
    row = request.session.instance
    return {
        "renewal_id": "none" if row is None else shorten(row.renewal_id),
        "cookie": request.cookies.get(cookie_settings(request).cookie_name, ""),
    }


@view_config(
    route_name="account", permission="view", renderer="templates/account.jinja2"
)
def account(request: Any) -> dict[str, Any]:
    return {
        "before": request.session.get("before"),
        "id": shorten(request.session.id),
        "now": shorten(request.session.instance.renewal_id),
        "code": source(forbidden),
    }


@forbidden_view_config()
def forbidden(request: Any) -> Any:
    """Send strangers to the login page, and then back.

    The transaction of the failed view is rolled back; what an exception view like this
    one tells the session is stored all the same.
    """
    request.session.flash("Please log in.", "error")
    query = {"next": request.path_qs} if request.method == "GET" else {}
    return HTTPSeeOther(request.route_path("login", _query=query))


@exception_view_config(BadCSRFToken, renderer="templates/bad_token.jinja2")
def bad_token(request: Any) -> dict[str, Any]:
    request.response.status_int = 400
    return {}


# Scene 3: a shop.


@view_config(route_name="shop", renderer="templates/shop.jinja2")
def shop_page(request: Any) -> dict[str, Any]:
    return {
        "products": shop.products(request.dbsession),
        "orders": shop.latest_orders(request.dbsession),
        "cart": request.session.get("cart", {}),
        "code": source(checkout),
    }


@view_config(route_name="cart", request_method="POST")
def change_cart(request: Any) -> Any:
    """A change inside the cart is noticed: nothing like ``changed()`` is needed."""
    product = shop.products(request.dbsession).get(int(request.POST["product"]))
    if product is None:
        raise HTTPNotFound
    cart = request.session.setdefault("cart", {})
    if "remove" in request.POST:
        cart.pop(product.id, None)
    else:
        cart[product.id] = cart.get(product.id, 0) + 1
    return HTTPSeeOther(request.route_path("shop"))


@view_config(route_name="checkout", request_method="POST")
def checkout(request: Any) -> Any:
    session, form = request.session, request.POST
    cart = session.pop("cart", {})
    if not cart:
        session.flash("Your cart is empty.", "error")
        return HTTPSeeOther(request.route_path("shop"))
    customer = request.identity.name if request.identity else "a guest"
    order = shop.place_order(request.dbsession, cart, customer)
    session.flash(f"Thank you! Order {order.id} is placed.")
    shop.take_payment(order, bank_says_no="payment_fails" in form)
    return HTTPSeeOther(request.route_path("shop"))


@exception_view_config(shop.PaymentFailed, renderer="templates/payment_failed.jinja2")
def payment_failed(request: Any) -> dict[str, Any]:
    """Show both sides of a rollback.

    It has not happened yet: ``request.dbsession`` is still inside of the transaction
    that failed. Another dbsession sees what will be left, as everybody else does.
    """
    request.response.status_int = 402
    with request.registry["dbsession_factory"]() as other:
        return {
            "order": request.exception.order,
            "during": shop.products(request.dbsession),
            "after": shop.products(other),
            "orders_after": [order.id for order in shop.latest_orders(other)],
            "cart": request.session.get("cart", {}),
            "messages": request.session.peek_flash(),
            "code": source(payment_failed),
        }


@exception_view_config(shop.OutOfStock)
def out_of_stock(request: Any) -> Any:
    product = request.exception.product
    message = f"Not enough in stock: {product.name}, {product.stock} left."
    request.session.flash(message, "error")
    return HTTPSeeOther(request.route_path("shop"))


@view_config(route_name="restock", request_method="POST")
def restock(request: Any) -> Any:
    shop.restock(request.dbsession)
    request.session.flash("The shelves are full again.")
    return HTTPSeeOther(request.route_path("shop"))


# The panel beside the pages.


@view_config(route_name="panel", renderer="templates/panel.jinja2", http_cache=0)
def panel(request: Any) -> dict[str, Any]:
    """Show what is stored.

    The pages show it in a frame. A browser asks for that after the page, whose
    transaction is committed by then: what it reads is what the page left behind.
    """
    settings = cookie_settings(request)
    row = look(request)
    return {
        "cookie": request.cookies.get(settings.cookie_name),
        "settings": settings,
        "row": row,
        "data": shortened(dict(request.session)),
        "user": request.identity,
        "shorten": shorten,
        "clock": clock,
    }


def look(request: Any) -> Any:
    """Return the row of the session, None if there is none, and leave it as it is.

    A request that reads a session extends its idle timeout, and takes part in the
    renewal of its cookie. Both are stored when the transaction is committed; this one
    is going to be rolled back.
    """
    row = request.session.instance
    if row is not None:
        request.tm.doom()
    return row


@view_config(route_name="replay")
def replay(request: Any) -> Any:
    """Show the panel to somebody who has only the old cookie."""
    before = request.session.get("before")
    if before is None:
        raise HTTPNotFound
    return panel_of(request, before["cookie"])


def panel_of(request: Any, cookie: str) -> Any:
    """Return what the panel answers to somebody who sends this cookie."""
    other_request = Request.blank(
        request.route_path("panel"),
        base_url=request.application_url,
        cookies={cookie_settings(request).cookie_name: cookie},
    )
    return request.invoke_subrequest(other_request, use_tweens=True)


def cookie_settings(request: Any) -> Any:
    """Return the settings of the sessions."""
    return request.registry.getUtility(ISessionFactory).settings


def clock(seconds: int | None) -> str:
    """Return the time of day."""
    if seconds is None:
        return "NULL"
    return datetime.fromtimestamp(seconds, timezone.utc).strftime("%H:%M:%S UTC")


def shorten(value: Any) -> str:
    """Return the beginning: nobody should see a whole session id."""
    if value is None:
        return "NULL"
    text = value.hex() if isinstance(value, bytes) else str(value)
    return text[:8] + "…" if len(text) > 9 else text


def shortened(value: Any) -> Any:
    """Return the value with its long texts cut off."""
    if isinstance(value, dict):
        return {key: shortened(item) for key, item in value.items()}
    return value[:16] + "…" if isinstance(value, str) and len(value) > 17 else value


def source(*things: Any) -> str:
    """Return the code of views, for their page to show."""
    return "\n\n".join(map(inspect.getsource, things))
