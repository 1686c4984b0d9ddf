"""The samples of using-the-session.rst and logging-in.rst."""

from pyramid.httpexceptions import HTTPSeeOther
from pyramid.response import Response
from pyramid.security import remember
from pyramid.view import exception_view_config, view_config
from sqlalchemy import ForeignKey, String, Uuid
from sqlalchemy.orm import DeclarativeBase, mapped_column, relationship

from pyramid_sqlalchemy_sessions import (
    BaseMixin,
    ClientAddressMixin,
    ConfigAbsoluteMixin,
    ConfigCookieMixin,
    ConfigIdleMixin,
    CSRFMixin,
    EncryptedDataMixin,
    FreshLoginRequired,
    JSONDataMixin,
    LastSeenMixin,
    UserAgentMixin,
    UseridMixin,
    create_session_model,
    register_session_model,
)


class Base(DeclarativeBase):
    pass


def add_to_cart(request):
    cart = request.session.setdefault("cart", {})
    product = request.POST["product"]
    cart[product] = cart.get(product, 0) + 1
    request.session.flash(f"{product} is in your cart.")
    return HTTPSeeOther("/")


def show_messages(request):
    messages = request.session.pop_flash()
    return Response("\n".join(messages), content_type="text/plain")


class User(Base):
    __tablename__ = "users"

    id = mapped_column(Uuid, primary_key=True)
    name = mapped_column(String(50), nullable=False)


class Session(UserAgentMixin, UseridMixin, CSRFMixin, BaseMixin, Base):
    __tablename__ = "session"

    userid = mapped_column(Uuid, ForeignKey("users.id", ondelete="CASCADE"))
    user = relationship(User, lazy="joined")
    last_page = mapped_column(String(200))


def greet(request):
    instance = request.session.instance
    if instance is None or instance.user is None:
        return Response("Hello, stranger")
    instance.last_page = request.path[:200]
    return Response(f"Hello, {instance.user.name}", content_type="text/plain")


@view_config(route_name="payments", fresh=600)
def show_payments(request):
    return Response("Your payments")


@exception_view_config(FreshLoginRequired)
def ask_again(request):
    return HTTPSeeOther(request.route_path("password", _query={"next": request.path}))


def log_out_elsewhere(request):
    session = request.session
    request.session_store.revoke_user(session.userid, keep=session)
    session.flash("Your other devices are logged out.")
    return HTTPSeeOther("/")


class RememberingSession(
    ConfigCookieMixin,
    ConfigIdleMixin,
    ConfigAbsoluteMixin,
    UseridMixin,
    CSRFMixin,
    BaseMixin,
    Base,
):
    __tablename__ = "remembering_session"

    userid = mapped_column(Uuid, ForeignKey("users.id", ondelete="CASCADE"))


MONTH = 30 * 24 * 60 * 60


def log_in(request, user, remember_me):
    if remember_me:
        with request.session.settings as settings:
            settings.update(idle_timeout=MONTH, absolute_timeout=3 * MONTH)
    remember(request, user.id, max_age=MONTH if remember_me else None)


@view_config(route_name="expires", renderer="json", extend_session=False)
def expires(request):
    return request.session.expires


class TracedSession(
    LastSeenMixin,
    UserAgentMixin,
    ClientAddressMixin,
    UseridMixin,
    BaseMixin,
    Base,
):
    __tablename__ = "traced_session"


class JSONSession(JSONDataMixin, BaseMixin, Base):
    __tablename__ = "json_session"


class EncryptedSession(EncryptedDataMixin, UseridMixin, BaseMixin, Base):
    __tablename__ = "encrypted_session"


def make_model(base):
    return create_session_model(
        base, UseridMixin, CSRFMixin, table_name="admin_session"
    )


class Visit(UseridMixin, BaseMixin):
    __tablename__ = "visit"


def map_visit(base):
    return register_session_model(base, Visit)
