"""The harness of the Postgres store: a server of our own, behind a proxy."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import sqlalchemy
from sqlalchemy.ext.asyncio import create_async_engine

from chatstores.conformance import Borrowed, Harness
from chatstores_sql import PostgresChatStore
from tests.backends.proxied_harness import ProxiedHarness
from tests.servers.postgres import PostgresServer
from tests.servers.proxy import Proxy

__all__ = ["PostgresHarness"]


class PostgresHarness(ProxiedHarness):
    """Reaches the server through the proxy, and its data directly.

    Args:
        server: the server.
        proxy: the proxy before it.
        schema: the tables' schema, or None for the default.
        options: of every store.
    """

    driver = "psycopg"
    writes = (b"COMMIT\0", b'"v":1,', b'\\"v\\":1,')

    def __init__(
        self, server: PostgresServer, proxy: Proxy, schema: str | None = None, **options: Any
    ) -> None:
        # After an outage all calls connect at once, and a login takes both sides milliseconds of
        # computing: with a timeout of half a second, ten at once are too many for a busy machine.
        url = f"{proxy.url(server.url)}?pool_size=4"
        super().__init__(f"{url}&schema={schema}" if schema else url, [proxy], **options)
        self._server = server
        self._proxy = proxy
        self._tables = f"{schema or 'public'}.chatstores_"

    @contextmanager
    def fresh_place(self) -> Iterator[Harness]:
        schema = f"fresh_{secrets.token_hex(4)}"
        yield PostgresHarness(self._server, self._proxy, schema, **self.options)

    def overwrite(self, namespace: str, key: str, index: int, payload: bytes) -> None:
        self._server.execute(
            f"UPDATE {self._tables}messages SET payload = %s WHERE (session, ordinal) = ("
            f"SELECT session, ordinal FROM {self._tables}messages m "
            f"JOIN {self._tables}sessions s ON s.id = m.session "
            "WHERE namespace = %s AND key = %s ORDER BY ordinal LIMIT 1 OFFSET %s)",
            payload.decode(errors="replace"),
            namespace,
            key,
            index,
        )

    def restart(self) -> None:
        self._server.restart()

    @contextmanager
    def contended(self, namespace: str, key: str) -> Iterator[None]:
        with self._server.client() as client:
            client.execute("BEGIN")
            client.execute(
                f"SELECT 1 FROM {self._tables}sessions WHERE namespace = %s AND key = %s "
                "FOR UPDATE",
                (namespace, key),
            )
            yield
            client.execute("ROLLBACK")

    def borrowed(self, form: str, **options: Any) -> Borrowed:
        if form == "sync":
            engine = sqlalchemy.create_engine(self._engine_url("psycopg"))

            def use() -> None:
                with engine.connect() as connection:
                    connection.execute(sqlalchemy.text("SELECT 1"))

            return Borrowed(PostgresChatStore(client=engine, **options), use, engine.dispose)
        async_engine = create_async_engine(self._engine_url("asyncpg"))

        async def ause() -> None:
            async with async_engine.connect() as connection:
                await connection.execute(sqlalchemy.text("SELECT 1"))

        store = PostgresChatStore(async_client=async_engine, **options)
        return Borrowed(store, ause, async_engine.dispose)

    def _engine_url(self, driver: str) -> str:
        return self.url.partition("?")[0].replace("postgresql://", f"postgresql+{driver}://")
