"""PostgreSQL as it is run: TLS, roles, PgBouncer, a standby, engines; what a mistake is told."""

from __future__ import annotations

import asyncio
import gc
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy
from psycopg.rows import dict_row
from sqlalchemy.ext.asyncio import create_async_engine

from chatstores import ChatMessage, ChatStore, open_store
from chatstores.errors import (
    AuthenticationError,
    BackendMismatchError,
    BackendUnavailableError,
    ChatStoreError,
    InvalidURLError,
    NotSetUpError,
    PermissionDeniedError,
    UnsupportedError,
)
from chatstores_sql import PostgresChatStore
from tests.run import PASSWORD
from tests.servers import wait_until
from tests.servers.certificates import Certificates, certificates
from tests.servers.postgres import PgBouncer, PostgresServer

FORMS = pytest.mark.parametrize("form", ["sync", "async"])


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    """A server that asks for no password."""
    with PostgresServer() as one:
        yield one


@pytest.fixture(scope="module")
def locked() -> Iterator[PostgresServer]:
    """A server with a password."""
    with PostgresServer(password=PASSWORD) as one:
        yield one


@pytest.fixture(scope="module")
def tls() -> Iterator[PostgresServer]:
    """A server with a password that speaks TLS only, and wants a certificate of the client."""
    with PostgresServer(password=PASSWORD, tls=True) as one:
        yield one


@pytest.fixture(scope="module")
def bouncer(locked: PostgresServer) -> Iterator[PgBouncer]:
    """PgBouncer in transaction mode, with fewer connections than its clients have."""
    with PgBouncer(locked, pool_size=3) as one:
        yield one


def works(store: ChatStore) -> None:
    """Adds, pops, sets and lists in both forms; and the store is closed."""

    async def more() -> list[str]:
        async with store:
            await store.aadd_messages("k", [ChatMessage("2"), ChatMessage("3")])
            await store.adelete_last_message("k")
            await store.aset_messages("other", [ChatMessage(str(n)) for n in range(5)])
            await store.aset_metadata("other", {"title": "x"})
            assert len(await store.adelete_oldest("other", 2)) == 2
            return [message.text for message in await store.aget_messages("k", last=20)]

    store.delete_messages("k")
    assert store.add_message("k", ChatMessage("1")).added == 1
    store.set_messages("other", [ChatMessage("a"), ChatMessage("b")])
    assert store.delete_last_message("other").text == "b"
    assert asyncio.run(more()) == ["1", "2"]


def ping(form: str, store: ChatStore) -> None:
    if form == "sync":
        store.ping()
    else:
        asyncio.run(store.aping())


def add(form: str, store: ChatStore, key: str, text: str) -> int:
    if form == "sync":
        return store.add_message(key, ChatMessage(text)).added
    return asyncio.run(store.aadd_message(key, ChatMessage(text))).added


def error_of(form: str, kind: type[ChatStoreError], url: str, **options: Any) -> str:
    """What ping raises; it holds no password."""
    store = open_store(url, **options)
    with pytest.raises(kind) as caught:
        ping(form, store)
    store.close()
    assert PASSWORD not in str(caught.value)
    return str(caught.value)


def hosts(server: PostgresServer, database: str = "chats") -> str:
    """The URL without a password."""
    return f"postgresql://chats@127.0.0.1:{server.port}/{database}"


# Where it is


def test_tls(tls: PostgresServer) -> None:
    works(open_store(tls.url))
    files = certificates()
    works(
        PostgresChatStore(
            "127.0.0.1",
            tls.port,
            user="chats",
            password=PASSWORD,
            database="chats",
            sslmode="verify-full",
            sslrootcert=files.ca,
            sslcert=files.client,
            sslkey=files.client_key,
        )
    )
    store = open_store(tls.url)
    works(open_store(store.url, password=PASSWORD))


@FORMS
@pytest.mark.parametrize(
    ("options", "kind", "why"),
    [
        (lambda files: {"sslrootcert": files.stranger_ca}, AuthenticationError, "certificate"),
        (lambda files: {"sslrootcert": "/no/ca.pem"}, InvalidURLError, "sslrootcert: /no/ca.pem"),
        (
            lambda files: {"sslrootcert": files.ca},
            AuthenticationError,
            "requires a valid client certificate: sslcert= and sslkey= name it",
        ),
        (
            lambda files: {"sslrootcert": files.ca, "sslcert": "/no/bot.pem", "sslkey": "/no/key"},
            InvalidURLError,
            "the option sslcert: /no/bot.pem is not there",
        ),
        (lambda files: {"sslmode": "disable"}, AuthenticationError, "no encryption"),
    ],
    ids=["another authority", "no such file", "no certificate", "no such certificate", "no TLS"],
)
def test_tls_that_fails_says_why(
    tls: PostgresServer,
    form: str,
    options: Callable[[Certificates], dict[str, str]],
    kind: type[ChatStoreError],
    why: str,
) -> None:
    given = {"sslmode": "verify-full", "password": PASSWORD, **options(certificates())}
    assert why in error_of(form, kind, hosts(tls), **given)


@FORMS
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_tls_where_none_is_spoken(server: PostgresServer, form: str) -> None:
    """A connection that asyncpg was making when the loop ended may be left to the collector."""
    text = error_of(form, BackendUnavailableError, hosts(server), sslmode="require", timeout=0.3)
    assert "SSL" in text
    gc.collect()


def test_a_password(locked: PostgresServer) -> None:
    works(open_store(locked.url))
    works(open_store(hosts(locked), password=PASSWORD))
    store = open_store(locked.url)
    assert store.url == hosts(locked)
    assert PASSWORD not in repr(store)


@FORMS
def test_a_wrong_password(locked: PostgresServer, form: str) -> None:
    text = error_of(form, AuthenticationError, hosts(locked), password="wrong")
    assert text == (
        f'{hosts(locked)} refused the login: password authentication failed for user "chats"'
    )


@FORMS
def test_no_password_where_one_is_wanted(
    locked: PostgresServer, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("PGPASSWORD", "PGPASSFILE"):
        monkeypatch.delenv(name, raising=False)
    text = error_of(form, AuthenticationError, hosts(locked))
    assert text.startswith(
        f"{hosts(locked)} wants a password: postgresql://user:password@..., or password=... "
        "beside the URL ("
    )


@FORMS
def test_a_file_of_passwords(locked: PostgresServer, form: str, tmp_path: Path) -> None:
    """Its password has no colon and no backslash, which asyncpg would not read right."""
    locked.execute(f"CREATE ROLE filed_{form} LOGIN PASSWORD 'p@ss/word' IN ROLE chats")
    file = tmp_path / "passwords"
    file.write_text(f"127.0.0.1:{locked.port}:*:filed_{form}:p@ss/word\n")
    file.chmod(0o600)
    url = hosts(locked).replace("chats@", f"filed_{form}@")
    store = open_store(url, passfile=str(file), schema=f"filed_{form}")
    ping(form, store)
    store.close()
    text = error_of(form, InvalidURLError, hosts(locked), passfile="/nowhere/passwords")
    assert text == "the option passfile: /nowhere/passwords is not there"


@FORMS
def test_a_database_that_is_not_there(locked: PostgresServer, form: str) -> None:
    text = error_of(form, BackendMismatchError, hosts(locked, "none"), password=PASSWORD)
    assert text.endswith('database "none" does not exist; CREATE DATABASE makes it')


def test_a_socket(server: PostgresServer) -> None:
    where = f"host={server.directory}&port={server.port}"
    store = open_store(f"postgresql://chats@/chats?{where}")
    works(open_store(store.url))
    works(store)
    works(PostgresChatStore(str(server.directory), server.port, user="chats", database="chats"))


@FORMS
def test_a_socket_that_is_not_there(form: str, tmp_path: Path) -> None:
    url = f"postgresql://chats@/chats?host={tmp_path}"
    text = error_of(form, BackendUnavailableError, url, timeout=0.3)
    assert tmp_path.name in text
    assert "No such file or directory" in text


# A standby


@FORMS
def test_a_standby_that_is_promoted_is_followed(form: str) -> None:
    with PostgresServer() as primary, primary.standby() as standby:
        url = (
            f"postgresql://chats@127.0.0.1:{standby.port},127.0.0.1:{primary.port}/chats"
            "?target_session_attrs=read-write"
        )

        async def atwice(store: ChatStore) -> list[str]:
            async with store:
                await store.aadd_message("k", ChatMessage("1"))
                await asyncio.to_thread(fail_over)
                await store.aadd_message("k", ChatMessage("2"))
                return [message.text for message in await store.aget_messages("k")]

        def twice(store: ChatStore) -> list[str]:
            with store:
                store.add_message("k", ChatMessage("1"))
                fail_over()
                store.add_message("k", ChatMessage("2"))
                return [message.text for message in store.get_messages("k")]

        def fail_over() -> None:
            primary.kill()
            standby.configure(synchronous_standby_names="")
            standby.promote()

        store = open_store(url, timeout=20)
        found = twice(store) if form == "sync" else asyncio.run(atwice(store))
        assert found == ["1", "2"]


@FORMS
def test_a_standby_takes_no_writes(form: str) -> None:
    with PostgresServer() as primary:
        with open_store(primary.url) as store:
            store.add_message("k", ChatMessage("1"))
        with primary.standby() as standby, open_store(standby.url, timeout=0.5) as store:
            assert store.count_messages("k") == 1  # it can be read
            with pytest.raises(
                BackendUnavailableError, match=r"takes no writes: .*It is a standby"
            ):
                add(form, store, "k", "2")
            primary.configure(synchronous_standby_names="")


# Roles and tables


def test_a_role_that_may_only_read_and_write_rows(server: PostgresServer) -> None:
    server.execute("CREATE SCHEMA rights AUTHORIZATION chats")
    restricted = server.restricted("rights")
    for form in ("sync", "async"):
        text = error_of(form, NotSetUpError, restricted, schema="rights", create=False)
        assert "has no tables chatstores_*: 'chatstores setup' makes them" in text
        error_of(form, PermissionDeniedError, restricted, schema="rights")
    with open_store(server.url, schema="rights") as store:
        store.setup()
    works(open_store(server.restricted("rights"), schema="rights", create=False))
    works(open_store(server.restricted("rights"), schema="rights"))  # has nothing to create


@FORMS
def test_without_create_nothing_is_made(server: PostgresServer, form: str) -> None:
    text = error_of(form, NotSetUpError, server.url, schema="absent", create=False)
    assert "schema=absent has no tables chatstores_*" in text
    assert server.execute("SELECT count(*) FROM pg_namespace WHERE nspname = 'absent'") == [(0,)]


def test_what_setup_prints_may_be_run_by_another(server: PostgresServer) -> None:
    options = "schema=printed&table_prefix=bot_"
    program = Path(sys.executable).with_name("chatstores")
    words = [program, "setup", "--print", "--url", f"{server.url}?{options}"]
    printed = subprocess.run(words, capture_output=True, text=True, check=True)
    server.execute(printed.stdout)
    [(tables,)] = server.execute("SELECT count(*) FROM pg_tables WHERE schemaname = 'printed'")
    assert tables == 4
    url = server.restricted("printed")
    works(open_store(url, schema="printed", table_prefix="bot_", create=False))


def test_schemas_and_prefixes_divide(server: PostgresServer) -> None:
    places: list[dict[str, str]] = [
        {"schema": "one"},
        {"schema": "two"},
        {"schema": "two", "table_prefix": "bot_"},
        {"table_prefix": "bot_"},
    ]
    for number, place in enumerate(places):
        store = open_store(server.url, **place)
        assert store.get_keys() == []
        store.add_message(f"{number}", ChatMessage("x"))
        works(open_store(store.url, namespace="again"))
        assert store.get_keys() == [f"{number}"]
        store.close()


@FORMS
def test_tables_of_a_newer_version(server: PostgresServer, form: str) -> None:
    schema = f"newer_{form}"
    with open_store(server.url, schema=schema) as store:
        store.setup()
        server.execute(f"UPDATE {schema}.chatstores_schema SET version = 99")
        with pytest.raises(BackendMismatchError, match="upgrade it"):
            store.setup()
    text = error_of(form, BackendMismatchError, server.url, schema=schema)
    assert text.endswith("have the version 99; this chatstores knows versions up to 1: upgrade it")


@FORMS
@pytest.mark.parametrize("table", ["sessions", "messages", "schema"])
def test_tables_of_another_program(server: PostgresServer, form: str, table: str) -> None:
    schema = f"other_{table}_{form}"
    server.execute(f"CREATE SCHEMA {schema} AUTHORIZATION chats")
    server.execute(f"CREATE TABLE {schema}.chatstores_{table} (one text)")
    server.execute(f"ALTER TABLE {schema}.chatstores_{table} OWNER TO chats")
    text = error_of(form, BackendMismatchError, server.url, schema=schema)
    assert "the tables chatstores_* are not what this chatstores made" in text
    tables = server.execute("SELECT tablename FROM pg_tables WHERE schemaname = %s", schema)
    assert tables == [(f"chatstores_{table}",)]


def test_hostile_keys_and_contents(server: PostgresServer) -> None:
    texts = [
        "'; drop table chatstores_messages; --",
        "%s %(a)s %% $1 :a ? {0}",
        '"quoted" \\ back \\\' \x00 NUL \x01',
        "\ud7ff\ue000\U0010ffff",
        "x" * (3 << 20),
    ]
    with open_store(server.url, schema="hostile") as store:
        keys = ["'; drop table chatstores_sessions; --", "100%", "a'b\"c\\d", "$1", "k\n\t", "%_"]
        for key in keys:
            store.set_messages(key, [ChatMessage("stays")])
        store.add_messages("texts", [ChatMessage(text) for text in texts])
        store.set_metadata("texts", {text: text for text in texts[:3]})
        assert [message.text for message in store.get_messages("texts")] == texts
        assert store.get_session("texts").metadata == {text: text for text in texts[:3]}
        for key in keys:
            assert store.get_keys(key) == [key]
            store.add_message(key, ChatMessage("2"))
            assert store.delete_messages(key) == 2
            keys_left = {*keys[keys.index(key) + 1 :], "texts"}
            assert set(store.get_keys()) == keys_left
        assert store.count_messages("texts") == len(texts)


# The role's settings


@pytest.mark.parametrize("level", ["serializable", "repeatable read"])
def test_a_default_isolation(server: PostgresServer, level: str) -> None:
    schema = level.replace(" ", "_")
    server.execute(f"CREATE ROLE {schema} LOGIN")
    server.execute(f"CREATE SCHEMA {schema} AUTHORIZATION {schema}")
    server.execute(f"ALTER ROLE {schema} SET default_transaction_isolation = '{level}'")
    url = server.url.replace("chats@", f"{schema}@")
    with open_store(url, schema=schema) as store:
        works(open_store(url, schema=schema))
        failures, popped = [], []

        def turns(number: int) -> None:
            try:
                for turn in range(20):
                    store.add_message("k8", ChatMessage(f"{number}.{turn}"))
                    store.get_messages("k8", last=3)
                    if turn % 2:
                        popped.append(store.delete_last_message("k8").text)
            except BaseException as exc:
                failures.append(exc)

        threads = [threading.Thread(target=turns, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failures == []
        left = [message.text for message in store.get_messages("k8")]
        assert sorted(left + popped) == sorted(f"{n}.{t}" for n in range(8) for t in range(20))


@FORMS
def test_a_role_that_only_reads(server: PostgresServer, form: str) -> None:
    with open_store(server.url, schema="reading") as store:
        store.set_messages("k", [ChatMessage("x")])
    server.execute(f"CREATE ROLE reads_{form} LOGIN IN ROLE chats")
    server.execute(f"ALTER ROLE reads_{form} SET default_transaction_read_only = on")
    url = server.url.replace("chats@", f"reads_{form}@")
    with open_store(url, schema="reading", timeout=0.3) as store:
        assert store.count_messages("k") == 1
        for key in ("k", "new"):
            with pytest.raises(BackendUnavailableError, match="or has default_transaction_read_"):
                add(form, store, key, "2")


# What both drivers honour


@FORMS
def test_the_name_of_the_application(server: PostgresServer, form: str) -> None:
    seen = "SELECT count(*) > 0 FROM pg_stat_activity WHERE application_name = %s"
    url = f"{server.url}?application_name=bot_{form}&options=-c%20work_mem%3D7MB"

    async def look(store: ChatStore) -> Any:
        async with store:
            return await asyncio.to_thread(server.execute, seen, f"bot_{form}")

    if form == "async":
        assert asyncio.run(look(open_store(url))) == [(True,)]
        return
    with open_store(url):
        assert server.execute(seen, f"bot_{form}") == [(True,)]


def test_options_of_the_server(server: PostgresServer) -> None:
    """The schema named by the search path is where the tables are."""
    for name in ("path_sync", "path_async"):
        server.execute(f"CREATE SCHEMA {name} AUTHORIZATION chats")
    for form in ("sync", "async"):
        store = open_store(server.url, options=f"-c search_path=path_{form}")
        assert add(form, store, "k", "x") == 1
        store.close()
        [(count,)] = server.execute(f"SELECT count(*) FROM path_{form}.chatstores_messages")
        assert count == 1


@FORMS
@pytest.mark.parametrize("options", ["-c nonsense=1", "nonsense", "-c work_mem=much"])
def test_options_that_the_server_does_not_know(
    server: PostgresServer, form: str, options: str
) -> None:
    text = error_of(form, InvalidURLError, server.url, options=options)
    assert text.startswith("the option options: ")


# PgBouncer


def test_pgbouncer(bouncer: PgBouncer) -> None:
    works(open_store(f"{bouncer.url}?prepare=false"))
    store = open_store(f"{bouncer.url}?prepare=false&application_name=bot")
    assert "prepare=false" in store.url
    works(store)


def test_many_writers_behind_pgbouncer(bouncer: PgBouncer) -> None:
    """Twenty of them share three connections to the server."""

    async def writer(store: ChatStore, number: int) -> None:
        for turn in range(10):
            await store.aadd_message("shared", ChatMessage(f"{number}.{turn}"))
            await store.aset_messages(f"own {number}", [ChatMessage(f"{turn}")] * 1)
            assert (await store.adelete_last_message(f"own {number}")).text == f"{turn}"

    async def all_writers() -> None:
        async with open_store(f"{bouncer.url}?prepare=false", timeout=30) as store:
            await asyncio.gather(*(writer(store, number) for number in range(10)))

    async_thread = threading.Thread(target=asyncio.run, args=(all_writers(),))
    with open_store(f"{bouncer.url}?prepare=false", timeout=30) as store:
        store.delete_messages("shared")
        async_thread.start()
        threads = [
            threading.Thread(
                target=lambda number=number: [
                    store.add_message("shared", ChatMessage(f"{number}.{turn}"))
                    for turn in range(10)
                ]
            )
            for number in range(10, 20)
        ]
        for thread in threads:
            thread.start()
        for thread in [*threads, async_thread]:
            thread.join()
        found = sorted(message.text for message in store.get_messages("shared"))
        assert found == sorted(f"{n}.{t}" for n in range(20) for t in range(10))


@FORMS
def test_pgbouncer_where_statements_are_prepared(bouncer: PgBouncer, form: str) -> None:
    text = error_of(form, BackendMismatchError, bouncer.url)
    assert "behind PgBouncer in transaction mode give prepare=false" in text
    text = error_of(form, BackendMismatchError, bouncer.url, prepare=False, options="-c geqo=off")
    assert text.endswith("and no options=")


def test_pgbouncer_that_is_told_to_take_all(locked: PostgresServer) -> None:
    """Statements prepared on one connection are used on another; at the latest then it is said."""
    settings = {"ignore_startup_parameters": "lock_timeout,options"}
    with PgBouncer(locked, pool_size=2, settings=settings) as bouncer:
        found: list[BaseException] = []

        def turns(store: ChatStore, number: int) -> None:
            try:
                for _ in range(30):
                    store.add_message(f"{number}", ChatMessage("x"))
                    store.count_messages(f"{number}")
            except ChatStoreError as exc:
                found.append(exc)

        with open_store(bouncer.url, namespace="taken") as store:
            threads = [threading.Thread(target=turns, args=(store, n)) for n in range(6)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        assert found
        for exc in found:
            assert isinstance(exc, BackendMismatchError)
            assert "give prepare=false" in str(exc)


# Engines of the caller's own


@pytest.mark.parametrize("isolation", [None, "AUTOCOMMIT", "SERIALIZABLE"])
def test_an_engine_is_left_as_it_was(server: PostgresServer, isolation: str | None) -> None:
    options = {"isolation_level": isolation} if isolation else {}
    engine = sqlalchemy.create_engine(
        server.url.replace("postgresql", "postgresql+psycopg"), pool_size=1, **options
    )
    with engine.connect() as connection:
        before = connection.connection.driver_connection
        autocommit = before.autocommit
        assert autocommit == (isolation == "AUTOCOMMIT")
    with PostgresChatStore(client=engine, schema="engines") as store:
        assert store.url == f"{server.url}?schema=engines"
        store.set_messages("k", [ChatMessage("1")])
        store.add_message("k", ChatMessage("2"))
        assert store.delete_last_message("k").text == "2"
        with pytest.raises(UnsupportedError, match="async_client= as well"):
            asyncio.run(store.aget_messages("k"))
    with engine.connect() as connection:
        after = connection.connection.driver_connection
        assert after is before
        assert not after.closed
        assert after.autocommit == autocommit
        connection.execute(sqlalchemy.text("CREATE TEMPORARY TABLE t (a int)"))
        if isolation is None:  # what is not committed is rolled back: it is its own again
            connection.rollback()
            assert connection.scalar(sqlalchemy.text("SELECT to_regclass('t')")) is None
    engine.dispose()


def test_an_async_engine_is_left_as_it_was(server: PostgresServer) -> None:
    async def main() -> None:
        engine = create_async_engine(
            server.url.replace("postgresql", "postgresql+asyncpg"), pool_size=1
        )
        async with engine.connect() as connection:
            before = (await connection.get_raw_connection()).driver_connection
        store = PostgresChatStore(async_client=engine, schema="engines")
        await store.aset_messages("k", [ChatMessage("1")])
        await store.aadd_message("k", ChatMessage("2"))
        with pytest.raises(UnsupportedError, match="client= as well"):
            store.get_messages("k")
        await store.aclose()
        async with engine.connect() as connection:
            after = (await connection.get_raw_connection()).driver_connection
            assert after is before
            assert not after.is_closed()
            await connection.execute(sqlalchemy.text("CREATE TEMPORARY TABLE t (a int)"))
            await connection.rollback()
            gone = await connection.scalar(sqlalchemy.text("SELECT to_regclass('t')"))
            assert gone is None
        await engine.dispose()

    asyncio.run(main())


def test_an_engine_with_ways_of_its_own(server: PostgresServer) -> None:
    """Its connections are tried first, none is kept, and their rows become dictionaries."""
    engine = sqlalchemy.create_engine(
        server.url.replace("postgresql", "postgresql+psycopg"),
        pool_pre_ping=True,
        poolclass=sqlalchemy.pool.NullPool,
    )

    @sqlalchemy.event.listens_for(engine, "checkout")
    def checkout(connection: Any, *_: Any) -> None:
        connection.row_factory = dict_row

    with PostgresChatStore(client=engine, schema="engines", namespace="own") as store:
        store.add_message("k", ChatMessage("1"))
        assert store.delete_last_message("k").text == "1"


def test_an_engine_after_a_fork(server: PostgresServer) -> None:
    """The child connects anew; the parent's connection stays the parent's."""
    engine = sqlalchemy.create_engine(server.url.replace("postgresql", "postgresql+psycopg"))
    with PostgresChatStore(client=engine, schema="engines", namespace="forks") as store:
        store.set_messages("k", [ChatMessage("1")])
        child = os.fork()
        if child == 0:
            code = 1
            try:
                store.add_message("k", ChatMessage("2"))
                code = 0
            finally:
                os._exit(code)
        assert os.waitpid(child, 0)[1] == 0
        store.add_message("k", ChatMessage("3"))
        assert [message.text for message in store.get_messages("k")] == ["1", "2", "3"]
    engine.dispose()


@FORMS
def test_every_connection_is_in_use(server: PostgresServer, form: str) -> None:
    with open_store(server.url, schema="busy") as store:
        store.set_messages("k", [ChatMessage("1")])
    url = f"{server.url}?schema=busy&pool_size=1&pool_timeout=10ms"

    async def taken(store: ChatStore) -> str:
        t: Any = await store._transports.running()
        held = await t._engine.raw_connection()
        with pytest.raises(BackendUnavailableError) as caught:
            await store.acount_messages("k")
        held.close()
        assert await store.acount_messages("k") == 1
        await store.aclose()
        return str(caught.value)

    if form == "async":
        text = asyncio.run(taken(open_store(url, timeout=1)))
    else:
        with open_store(url, timeout=1) as store:
            t: Any = store._transports.sync()
            held = t._engine.raw_connection()
            with pytest.raises(BackendUnavailableError) as caught:
                store.count_messages("k")
            held.close()
            assert store.count_messages("k") == 1
            text = str(caught.value)
    # A coroutine's last attempt may be too short to wait for the pool as long as it may.
    ends = (": every connection of the pool (pool_size=1) is in use", " did not answer in time")
    assert text.endswith(ends if form == "async" else ends[0])


# Arguments


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (
            lambda: PostgresChatStore("postgresql://u:s3cret@h,i/d"),
            "that is a URL; open_store",
        ),
        (lambda: PostgresChatStore("h:5432"), "the host is a name, an address, or the directory"),
        (lambda: PostgresChatStore("u:s3cret@h"), "the host is a name, an address, or the direc"),
        (lambda: PostgresChatStore(""), "the host is a name, an address, or the directory"),
        (lambda: PostgresChatStore("h", "six"), "the port must be a number, 1 to 65535"),
        (lambda: PostgresChatStore("h", 65536), "the port must be a number, 1 to 65535"),
        (lambda: PostgresChatStore(port=5432), "port= needs host="),
        (lambda: PostgresChatStore(sqlalchemy.create_engine("sqlite://")), "an engine is client="),
        (lambda: PostgresChatStore("h", password=b"s3cret"), "the option password: must be text"),
        (lambda: PostgresChatStore("h", user=3), "the option user: must be text"),
        (lambda: PostgresChatStore("h", database=3), "the option database: must be text"),
        (lambda: PostgresChatStore("h", dbname="d"), "the option dbname: is refused: it is a part"),
        (lambda: PostgresChatStore("h", pool_size=0), "the option pool_size: must be 1 or more"),
        (lambda: PostgresChatStore("h", schema="A b"), "the option schema: must be 1 to 40 of the"),
        (lambda: PostgresChatStore("h", sslmod="x"), "did you mean 'sslmode'?"),
    ],
)
def test_arguments(make: Callable[[], PostgresChatStore], why: str) -> None:
    with pytest.raises(InvalidURLError, match=re.escape(why)) as caught:
        make()
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    ("store", "url"),
    [
        (lambda: PostgresChatStore(), "postgresql://"),
        (lambda: PostgresChatStore("h"), "postgresql://h:5432"),
        (lambda: PostgresChatStore("::1", 7, database="d"), "postgresql://[::1]:7/d"),
        (lambda: PostgresChatStore("h,i", 7), "postgresql://h:7,i:7"),
        (lambda: PostgresChatStore("h", user="a", password="b"), "postgresql://a@h:5432"),
        (lambda: PostgresChatStore("/run/pg"), "postgresql://?host=%2Frun%2Fpg"),
        (
            lambda: PostgresChatStore("/run/pg", 7, user="a", database="d"),
            "postgresql://a@/d?host=%2Frun%2Fpg&port=7",
        ),
        (
            lambda: PostgresChatStore("h", prepare=False, pool_size=3, schema="s"),
            "postgresql://h:5432?schema=s&pool_size=3&prepare=false",
        ),
        (
            lambda: PostgresChatStore("h", sslkey="/k", sslpassword="s3cret"),
            "postgresql://h:5432?sslkey=%2Fk",
        ),
    ],
)
def test_arguments_as_a_url(store: Callable[[], PostgresChatStore], url: str) -> None:
    assert store().url == url
    assert open_store(url).url == url


@pytest.mark.parametrize(
    ("url", "options", "why"),
    [
        ("postgresql://h?user=x", {}, "the option user: is refused: it is a part of the URL"),
        ("postgresql://h?dbname=x", {}, "the option dbname: is refused: it is a part of the URL"),
        ("postgresql://h", {"client": object()}, "PostgresChatStore(client=...) takes it"),
        ("postgresql://h", {"async_client": 1}, "PostgresChatStore(async_client=...) takes it"),
        ("postgresql://h?hostaddr=::1", {}, "hostaddr: is refused: psycopg has it and asyncpg has"),
        ("postgresql://h?channel_binding=require", {}, "is refused: psycopg has it and asyncpg"),
        ("postgresql://h?connect_timeout=3", {}, "is refused: timeout= bounds every call"),
        ("postgresql://h?client_encoding=latin1", {}, "is refused: it is always UTF8"),
        ("postgresql://h?sslmode=maybe", {}, "the option sslmode: must be one of disable, allow"),
        ("postgresql://h?target_session_attrs=x", {}, "must be one of any, read-write, read-only"),
        ("postgresql://h?host=/run/pg", {}, "the option host: the URL names a host already"),
        ("postgresql://?host=h", {}, "must be the directory of a socket, such as /run/postgresql"),
        ("postgresql://h?port=5433", {}, "the option port: only beside host=/directory"),
        ("postgresql://h/a/b", {}, "of a postgresql:// URL is the database"),
        ("postgresql://h:0", {}, "the port must be a number, 1 to 65535"),
        ("postgresql://h?pool_size=none", {}, "the option pool_size: must be a whole number"),
        ("postgresql://h?pool_timeout=0", {}, "must be more than zero seconds"),
        ("postgresql://h?prepare=perhaps", {}, "the option prepare: must be true or false"),
        ("postgresql://h?table_prefix=%27", {}, "must be 1 to 40 of the characters a-z 0-9 _"),
        ("postgresql://h?prefix=x", {}, "has no option 'prefix' (did you mean"),
    ],
)
def test_urls(url: str, options: dict[str, Any], why: str) -> None:
    with pytest.raises(InvalidURLError, match=re.escape(why)):
        open_store(url, **options)


@pytest.mark.parametrize("scheme", ["postgres", "postgresql+asyncpg", "postgresql+psycopg"])
def test_other_names_of_the_scheme(server: PostgresServer, scheme: str) -> None:
    works(open_store(server.url.replace("postgresql", scheme)))


SYNC = sqlalchemy.create_engine("postgresql+psycopg://u:s3cret@h/d")
ASYNC = create_async_engine("postgresql+asyncpg://u:s3cret@h/d")


@pytest.mark.parametrize(
    ("clients", "why"),
    [
        ({"client": ASYNC}, "AsyncEngine'>: that is async_client="),
        ({"async_client": SYNC}, "Engine'>: that is client="),
        ({"client": "postgresql://u:s3cret@h"}, "not <class 'str'>: open_store(url) takes a URL"),
        ({"client": sqlalchemy.create_engine("sqlite://")}, "it is on sqlite+pysqlite://"),
        (
            {"async_client": create_async_engine("postgresql+psycopg://h")},
            "must be on postgresql+asyncpg://; it is on postgresql+psycopg",
        ),
    ],
)
def test_what_is_no_client(clients: dict[str, Any], why: str) -> None:
    with pytest.raises(InvalidURLError, match=re.escape(why)) as caught:
        PostgresChatStore(**clients)
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize("clients", [{"client": SYNC}, {"async_client": ASYNC}])
@pytest.mark.parametrize(
    "beside",
    [
        {"host": "h"},
        {"host": "h", "port": 5432},
        {"user": "bot"},
        {"password": "s3cret"},
        {"database": "d"},
        {"sslmode": "require"},
        {"application_name": "bot"},
        {"pool_size": 10},
        {"pool_timeout": 1},
    ],
    ids=", ".join,
)
def test_what_a_client_has_of_its_own(clients: dict[str, Any], beside: dict[str, Any]) -> None:
    with pytest.raises(InvalidURLError) as caught:
        PostgresChatStore(**clients, **beside)
    assert str(caught.value).startswith(f"{', '.join(beside)}: not beside client=")
    assert "s3cret" not in str(caught.value)


def test_what_may_stand_beside_a_client() -> None:
    store = PostgresChatStore(
        client=SYNC, async_client=ASYNC, namespace="n", ttl="7d", schema="s", prepare=False
    )
    assert store.url == "postgresql://u@h:5432/d?schema=s&prepare=false"
    assert "s3cret" not in repr(store)


# What an add costs


def test_what_an_add_writes() -> None:
    """Without full_page_writes: after a checkpoint each page would be written whole, once."""
    adds = 200
    settings = {"full_page_writes": "off", "checkpoint_timeout": "1h", "autovacuum": "off"}
    with PostgresServer(settings=settings) as server, open_store(server.url) as store:

        def written() -> int:
            [(bytes_,)] = server.execute("SELECT pg_current_wal_insert_lsn() - '0/0'")
            return int(bytes_)

        for count in (10, 10_000):
            store.set_messages("k", [ChatMessage("x" * 300) for _ in range(count)])
            for _ in range(50):
                store.add_message("k", ChatMessage("x" * 300))
            before = written()
            for _ in range(adds):
                store.add_message("k", ChatMessage("x" * 300))
            average = (written() - before) / adds
            print(f"{count} messages: {average:.0f} bytes of WAL an add")
            assert average <= 2048


# Stores that nobody closes


def test_a_store_that_nobody_closed_leaves_no_connection(server: PostgresServer) -> None:
    """Warnings are errors here: one is what a connection that is dropped while open gives."""
    mine = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'dropped'"
    store = open_store(f"{server.url}?application_name=dropped")
    store.ping()
    del store
    gc.collect()
    wait_until("the connection is gone", lambda: server.execute(mine) == [(0,)])
