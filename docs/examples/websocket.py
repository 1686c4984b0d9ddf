"""The sample of using-the-session.rst: a websocket for the users of an application."""

from pyramid.paster import get_appsettings
from pyramid.path import DottedNameResolver
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute

from pyramid_sqlalchemy_sessions import (
    AsyncSessionStore,
    session_factory_from_settings,
)

REFUSED = 1008


class Chat:
    def __init__(self, engine, factory, origin):
        self.make_dbsession = async_sessionmaker(engine)
        self.factory = factory
        self.origin = origin

    async def talk(self, websocket):
        session = await self.session_of(websocket)
        if session is None or session.userid is None:
            await websocket.close(REFUSED)
            return
        await websocket.accept()
        async for message in websocket.iter_text():
            if not await self.is_alive(session):
                await websocket.close(REFUSED)
                return
            await websocket.send_text(f"User {session.userid} says {message}")

    async def session_of(self, websocket):
        # Pages of other sites can open a websocket, and the browser sends our cookie.
        if websocket.headers.get("origin") != self.origin:
            return None
        cookie = websocket.cookies.get(self.factory.settings.cookie_name)
        async with self.make_dbsession() as dbsession:
            return await AsyncSessionStore(dbsession, self.factory).open(cookie)

    async def is_alive(self, session):
        async with self.make_dbsession() as dbsession:
            store = AsyncSessionStore(dbsession, self.factory)
            sessions = await store.of_user(session.userid)
            return session.id in [each.id for each in sessions]


def main():
    settings = get_appsettings("production.ini")
    resolver = DottedNameResolver()
    factory = session_factory_from_settings(settings, resolver.maybe_resolve)
    engine = create_async_engine(settings["chat.database"])
    chat = Chat(engine, factory, settings["chat.origin"])
    return Starlette(routes=[WebSocketRoute("/chat", chat.talk)])
