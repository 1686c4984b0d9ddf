"""A small application that shows what pyramid_sqlalchemy_sessions does."""

from __future__ import annotations

from typing import Any

from pyramid.config import Configurator

from .security import SecurityPolicy


def main(global_config: dict[str, str], **settings: Any) -> Any:
    """Make the WSGI application. ``development.ini`` has the settings."""
    with Configurator(settings=settings) as config:
        config.include("pyramid_jinja2")
        config.include(".database")
        config.include("pyramid_sqlalchemy_sessions")
        config.set_security_policy(SecurityPolicy())
        config.set_default_csrf_options(require_csrf=True)
        config.add_static_view("static", "static", cache_max_age=60)
        config.add_route("start", "/")
        config.add_route("shop", "/shop")
        config.add_route("cart", "/shop/cart")
        config.add_route("checkout", "/shop/checkout")
        config.add_route("restock", "/shop/restock")
        config.add_route("login", "/login")
        config.add_route("confirm", "/login/again")
        config.add_route("logout", "/logout")
        config.add_route("account", "/account")
        config.add_route("devices", "/sessions")
        config.add_route("end_device", "/sessions/end")
        config.add_route("end_others", "/sessions/end-others")
        config.add_route("change_password", "/sessions/password")
        config.add_route("timeouts", "/timeouts")
        config.add_route("begin", "/timeouts/begin")
        config.add_route("times", "/timeouts/now")
        config.add_route("expires", "/timeouts/expires")
        config.add_route("steal", "/timeouts/steal")
        config.add_route("thief", "/timeouts/thief")
        config.add_route("alarms", "/timeouts/alarms")
        config.add_route("counter", "/counter")
        config.add_route("howdy", "/howdy")
        config.add_route("flash", "/flash")
        config.add_route("panel", "/panel")
        config.add_route("replay", "/replay")
        config.scan()
        return config.make_wsgi_app()
