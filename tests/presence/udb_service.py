"""An owner of users with udb's two feeds, and nothing else of udb: `PUT` and `DELETE /users/LOGIN` change them.

python -m tests.presence.udb_service FOLDER [ADDRESS]
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import AsyncIterator, Iterable
from pathlib import Path

import msgspec
from sqlalchemy.orm import Session
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from services.common.app import Application, create_app
from services.common.database import Database, metadata
from services.common.feed.outbox import Outbox
from services.common.feed.server import Feed
from services.common.feed.wire import Item, Kind, Record
from services.common.serve import serve

PRIVATE = ("hash", "keys")


class Users:
    """Users by login, as records of the private feed."""

    def __init__(self, database: Database) -> None:
        tables = metadata()
        self.database = database
        self.outbox = Outbox.of(tables)
        self.users: dict[str, Record] = {}
        with database.write() as session:
            tables.create_all(session.connection())
            self.outbox.begin(session)
        self.feed = Feed(database, self.outbox, self.source, topics=frozenset({"users"}))

    def source(self, session: Session, topics: frozenset[str]) -> Iterable[Item]:
        return [Item("users", str(user["id"]), user) for user in self.users.values()]

    async def put(self, request: Request) -> Response:
        record = msgspec.json.decode(await request.body(), type=Record)
        kind = Kind.UPDATED if record["login"] in self.users else Kind.CREATED
        self.users[record["login"]] = record
        self.tell(record, kind)
        return Response(status_code=204)

    async def delete(self, request: Request) -> Response:
        self.tell(self.users.pop(request.path_params["login"]), Kind.DELETED)
        return Response(status_code=204)

    def tell(self, record: Record, kind: Kind) -> None:
        with self.database.write() as session:
            after = None if kind is Kind.DELETED else record
            self.outbox.append(session, [("users", str(record["id"]), kind, after)])


def main() -> int:
    folder = Path(sys.argv[1])
    with Database(f"sqlite:///{folder}/udb.db") as database:
        users = Users(database)

        @contextlib.asynccontextmanager
        async def lifespan(app: Application) -> AsyncIterator[None]:
            async with users.feed.run(app):
                yield

        routes = [
            Route("/v1/feed/private", users.feed.subscribe),
            Route("/users/{login}", users.put, methods=["PUT"]),
            Route("/users/{login}", users.delete, methods=["DELETE"]),
        ]
        app = create_app(service="udb", routes=routes, lifespan=lifespan)
        return serve(app, listen=sys.argv[2:3], mode=0o666)


if __name__ == "__main__":
    sys.exit(main())
