"""How transactions.rst includes the retries."""


def includeme(config):
    config.include("pyramid_sqlalchemy_sessions.retry")
