"""The samples of comparison.rst for those who had other sessions."""

from pyramid.session import SignedCookieSessionFactory
from pyramid.tweens import EXCVIEW

OLD_COOKIE = "session"


def move(old, session):
    for key, value in old.items():
        if key.startswith("_f_"):
            for message in value:
                session.flash(message, key.removeprefix("_f_"))
        elif key == "auth.userid":
            session.userid = session.userid or value
        else:
            session.setdefault(key, value)


def tween_factory(handler, registry):
    open_old = registry["old_session_factory"]

    def tween(request):
        if "tm.active" in request.environ and OLD_COOKIE in request.cookies:
            old = open_old(request)
            move(old, request.session)
            request.tm.get().addAfterCommitHook(end, (request, old))
        return handler(request)

    return tween


def end(committed, request, old):
    if not committed:
        return
    if request.registry["end_old_session"]:
        old.invalidate()
    request.add_response_callback(delete_old_cookie)


def delete_old_cookie(request, response):
    response.delete_cookie(OLD_COOKIE)


def from_cookies(config):
    secret = config.get_settings()["old_session.secret"]
    config.registry["old_session_factory"] = SignedCookieSessionFactory(
        secret, cookie_name=OLD_COOKIE, timeout=1200, reissue_time=None
    )
    config.registry["end_old_session"] = False
    add_tween(config)


def from_redis(config):
    from pyramid_session_redis import session_factory_from_settings

    config.registry["old_session_factory"] = session_factory_from_settings(
        config.get_settings()
    )
    config.registry["end_old_session"] = True
    add_tween(config)


def add_tween(config):
    config.add_tween(
        f"{__name__}.tween_factory",
        under="pyramid_tm.tm_tween_factory",
        over=EXCVIEW,
    )
