"""What production.rst says about gunicorn's --preload."""


def post_fork(server, worker):
    dbsession_factory = server.app.wsgi().registry["dbsession_factory"]
    engine = dbsession_factory.kw["bind"]
    engine.dispose(close=False)
