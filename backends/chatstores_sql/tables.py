"""The tables, their version, and the DDL that makes them.

sessions  one row a session: its head. Every command locks it, so commands have one order.
messages  one row a message. ``id`` is a hash of the message's id, unique in its session; of
          messages with one id (only a restored session has such) the last one has it.
          ``command``, ``added`` and ``version`` are those of the append that brought it, so that
          a repeated append finds its answer.
commands  what commands answered: those that are not appends, those that were repeated, and
          appends whose messages are gone. Forgotten after a minute.
schema    the version of the tables.

Times are microseconds since 1970, as in the rest of the library.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from chatstores.registry import missing

try:
    from sqlalchemy import (
        BigInteger,
        Boolean,
        Column,
        Identity,
        Index,
        Integer,
        LargeBinary,
        MetaData,
        PrimaryKeyConstraint,
        Table,
        Text,
        UniqueConstraint,
    )
    from sqlalchemy.engine import Dialect
    from sqlalchemy.schema import CreateIndex, CreateTable
    from sqlalchemy.sql import quoted_name
except ImportError as exc:
    raise missing("sql", "sqlalchemy") from exc

__all__ = ["MIGRATIONS", "SCHEMA_VERSION", "Tables", "identifier"]

SCHEMA_VERSION = 1
#: What has to be run to come from one version to the next, by the version that it ends in. ``{}``
#: stands for nothing yet: this is the first.
MIGRATIONS: dict[int, list[str]] = {}


def _big(name: str, **options: Any) -> Column[Any]:
    return Column(name, BigInteger, nullable=options.pop("nullable", False), **options)


@dataclass
class Tables:
    """The tables of one store.

    Args:
        dialect: SQLAlchemy's, for the DDL.
        prefix: what their names begin with.
        schema: PostgreSQL's schema, or None for the first of its search path.
    """

    dialect: Dialect
    prefix: str
    schema: str | None = None
    metadata: MetaData = field(init=False)

    def __post_init__(self) -> None:
        self.metadata = MetaData(schema=self.schema)
        # Bytewise, whatever the database's own rules of sorting are.
        text = Text(collation="C") if self.dialect.name == "postgresql" else Text()
        # The id of SQLite's own rows is an INTEGER, and no other type.
        number = BigInteger().with_variant(Integer, "sqlite")
        sessions = Table(
            f"{self.prefix}sessions",
            self.metadata,
            Column("id", number, Identity(always=True), primary_key=True),
            Column("namespace", text, nullable=False),
            Column("key", text, nullable=False),
            _big("version"),
            Column("alive", Boolean, nullable=False),
            _big("epoch"),
            _big("last_ordinal"),
            _big("count"),
            Column("repeats", Boolean, nullable=False),
            _big("created_at"),
            _big("updated_at"),
            _big("recent"),
            _big("expires_at", nullable=True),
            _big("overtaken"),
            Column("metadata", Text, nullable=False),
            Column("own", Text, nullable=False),
            UniqueConstraint("namespace", "key"),
            # Room in each page for the next versions of its rows: an update then touches no index.
            postgresql_with={"fillfactor": "50"},
        )
        # By the minute: an index on what changes at each add would cost an entry at each add.
        Index(None, sessions.c.namespace, sessions.c.recent, sessions.c.key)
        messages = Table(
            f"{self.prefix}messages",
            self.metadata,
            _big("session"),
            _big("ordinal"),
            Column("id", LargeBinary, nullable=True),
            _big("version"),
            _big("command"),
            Column("added", Integer, nullable=False),
            _big("at"),
            Column("payload", Text, nullable=False),
            PrimaryKeyConstraint("session", "ordinal"),
        )
        Index(None, messages.c.session, messages.c.id, unique=True)
        commands = Table(
            f"{self.prefix}commands",
            self.metadata,
            _big("session"),
            _big("id"),
            _big("at"),
            Column("outcome", Text, nullable=False),
            PrimaryKeyConstraint("session", "id"),
        )
        Index(None, commands.c.at)
        Table(f"{self.prefix}schema", self.metadata, Column("version", Integer, nullable=False))
        for table in self.metadata.tables.values():
            for index in table.indexes:
                columns = "_".join(column.name for column in index.columns)
                index.name = quoted_name(f"{table.name}_{columns}", quote=None)

    def name(self, table: str) -> str:
        """A table's name, quoted and with its schema, as statements write it."""
        found = next(t for t in self.metadata.tables.values() if t.name == self.prefix + table)
        return str(self.dialect.identifier_preparer.format_table(found))

    def ddl(self) -> list[str]:
        """The statements that make what is not there, and leave what is there."""
        statements = []
        if self.schema is not None:
            quoted = self.dialect.identifier_preparer.quote(self.schema)
            # CREATE SCHEMA IF NOT EXISTS wants the right to make one even where it is there.
            statements.append(
                f"DO $$ BEGIN IF to_regnamespace('{quoted}') IS NULL THEN "
                f"CREATE SCHEMA {quoted}; END IF; END $$"
            )
        for table in self.metadata.sorted_tables:
            statements.append(self._text(CreateTable(table, if_not_exists=True)))
            for index in sorted(table.indexes, key=lambda index: str(index.name)):
                statements.append(self._text(CreateIndex(index, if_not_exists=True)))
        schema = self.name("schema")
        statements.append(
            f"INSERT INTO {schema} (version) SELECT {SCHEMA_VERSION} "
            f"WHERE NOT EXISTS (SELECT 1 FROM {schema})"
        )
        return statements

    def _text(self, element: Any) -> str:
        return str(element.compile(dialect=self.dialect)).strip().replace("\t", "    ")


def identifier(value: Any) -> str:
    """The name of a schema, or what the tables' names begin with.

    Raises:
        ValueError: it is none that needs no quotes in any statement.
    """
    if not isinstance(value, str) or not re.fullmatch(r"[a-z_][a-z0-9_]{0,39}", value):
        raise ValueError("must be 1 to 40 of the characters a-z 0-9 _, and begin with no digit")
    return value
