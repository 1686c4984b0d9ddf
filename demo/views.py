"""The pages of the demo. Every ``request.session`` in here is a row of the database."""

from __future__ import annotations

from typing import Any

from pyramid.csrf import BadCSRFToken
from pyramid.httpexceptions import HTTPNotFound, HTTPSeeOther
from pyramid.security import forget, remember
from pyramid.view import (
    exception_view_config,
    forbidden_view_config,
    notfound_view_config,
    view_config,
)

from . import shop
from .database import USERS
from .panel import cookie_settings, shorten, source
from .security import find_user, path_of_this_site


@view_config(route_name="start", renderer="templates/start.jinja2")
def start(request: Any) -> dict[str, Any]:
    """Use no session, so that none is stored and no cookie is sent."""
    return {"code": source(start)}


@notfound_view_config(renderer="templates/not_found.jinja2")
def not_found(request: Any) -> dict[str, Any]:
    request.response.status_int = 404
    return {"code": source(not_found)}


@exception_view_config(BadCSRFToken, renderer="templates/bad_token.jinja2")
def bad_token(request: Any) -> dict[str, Any]:
    request.response.status_int = 400
    return {"code": source(bad_token)}


# Scene 1: a shop.


@view_config(route_name="shop", renderer="templates/shop.jinja2")
def shop_page(request: Any) -> dict[str, Any]:
    return {
        "products": shop.products(request.dbsession),
        "orders": shop.latest_orders(request.dbsession),
        "cart": request.session.get("cart", {}),
        "code": source(shop_page, change_cart, checkout, out_of_stock),
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

    It hasn't happened yet: ``request.dbsession`` is still inside the transaction that
    failed. Another dbsession sees what will be left, as all other requests do.
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
            "code": source(checkout, payment_failed),
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


# Scene 2: logging in and out.

#: How many devices a user can be logged in on. Another login ends the oldest session.
MOST_SESSIONS = 5


@view_config(
    route_name="login", request_method="GET", renderer="templates/login.jinja2"
)
def login_form(request: Any) -> dict[str, Any]:
    return {
        "users": USERS,
        "next_path": request.GET.get("next", ""),
        "before": request.session.get("before"),
        "code": source(login_form, login, logout),
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
    request.session.flash("You're logged out. Good-bye!")
    return HTTPSeeOther(request.route_path("login"))


def trace(request: Any) -> dict[str, Any]:
    """Return what is about to be replaced, for the next page to show."""
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
        "code": source(account, forbidden, logout),
    }


@forbidden_view_config()
def forbidden(request: Any) -> Any:
    """Send strangers to the login page, and then back.

    The failed view's transaction is rolled back, but what an exception view like this
    one puts into the session is stored.
    """
    request.session.flash("Please log in.", "error")
    query = {"next": request.path_qs} if request.method == "GET" else {}
    return HTTPSeeOther(request.route_path("login", _query=query))


# Scene 5: a counter and flash messages.


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

    @view_config(route_name="counter", renderer="templates/counter.jinja2")
    def home(self) -> dict[str, Any]:
        return {"name": "Home View", "code": source(CounterViews)}

    @view_config(route_name="howdy", renderer="templates/counter.jinja2")
    def howdy(self) -> dict[str, Any]:
        return {"name": "Howdy View", "code": source(CounterViews)}

    @view_config(route_name="flash", request_method="POST")
    def flash(self) -> Any:
        self.request.session.flash(self.request.POST["message"] or "(nothing)")
        return HTTPSeeOther(self.request.route_path("counter"))
