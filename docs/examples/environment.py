"""What production.rst says about a key in the environment."""

import os


def includeme(config):
    if "SESSION_KEY" in os.environ:
        config.get_settings()["session.secret_key"] = os.environ["SESSION_KEY"]
    config.include("pyramid_sqlalchemy_sessions")
