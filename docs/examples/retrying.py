"""The sample of concurrency.rst."""


def includeme(config):
    config.include("pyramid_sqlalchemy_sessions.retry")
