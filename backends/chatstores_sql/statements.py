"""The statements, once for both databases; ``$1`` is the first value, and a list goes last."""

from __future__ import annotations

from dataclasses import dataclass, fields

from chatstores_sql.tables import Tables

__all__ = ["MINUTE", "Statements", "statements"]

#: Microseconds.
MINUTE = 60_000_000

# What a command reads and writes of a session; see Session in session.py.
_HEAD_COLUMNS = (
    "version, alive, epoch, last_ordinal, count, repeats, created_at, updated_at, expires_at, "
    "overtaken, metadata, own"
)
# How a head is read, as one JSON text.
_HEAD = (
    "CAST({json_array}(version, epoch, count, created_at, updated_at, expires_at, metadata, own) "
    "AS text)"
)
_LIVE = "alive AND (expires_at IS NULL OR expires_at >= {now})"
# A live session that has so many more messages; it is locked from then on.
_GROWN = """
    WITH head AS (
        UPDATE {sessions} SET version = version + 1, last_ordinal = last_ordinal + {more},
            count = count + {more}, updated_at = greatest(updated_at, {now}),
            recent = greatest(updated_at, {now}) / {minute} * {minute},
            expires_at = {now} + CAST($4 AS bigint)
        WHERE namespace = $1 AND key = $2 AND {live} AND overtaken < {now}
            AND (CAST($3 AS bigint) IS NULL OR version = $3)
        RETURNING id, version, last_ordinal, updated_at
    )"""
_SESSION = "(SELECT id FROM {sessions} WHERE namespace = $1 AND key = $2 AND " + _LIVE + ")"


@dataclass(frozen=True)
class Statements:
    """Every statement; what it takes and gives stands with it."""

    # One new message, or several, to a live session, in one statement. Takes namespace, key,
    # expected version or None, ttl or None, command, id, payload; or a list of ids and one of
    # payloads. Gives the version, or nothing: then the general way must decide.
    append: str = """
        {grown_by_one}
        INSERT INTO {messages} (session, ordinal, id, version, command, added, at, payload)
        SELECT id, last_ordinal, CAST($6 AS bytea), version, CAST($5 AS bigint), 1, updated_at,
            CAST($7 AS text)
        FROM head
        RETURNING version"""
    append_many: str = """
        {grown_by_many}, added AS (
            INSERT INTO {messages} (session, ordinal, id, version, command, added, at, payload)
            SELECT head.id, last_ordinal - {many} + n, row.id, version, CAST($5 AS bigint), {many},
                updated_at, row.payload
            FROM head, unnest(CAST($6 AS bytea[]), CAST($7 AS text[])) WITH ORDINALITY
                AS row (id, payload, n)
        )
        SELECT version FROM head"""

    # The same for a database without INSERT in WITH, in a transaction: the session's part, which
    # gives what ``add`` then takes. Not where the index of recency changes.
    append_head: str = """
        UPDATE {sessions} SET version = version + 1, last_ordinal = last_ordinal + 1,
            count = count + 1, updated_at = max(updated_at, {now}),
            expires_at = {now} + $4
        WHERE namespace = $1 AND key = $2 AND {live} AND overtaken < {now}
            AND ($3 IS NULL OR version = $3)
            AND recent = max(updated_at, {now}) / {minute} * {minute}
        RETURNING id, version, last_ordinal, updated_at"""

    # The general way: in a transaction that begins with this lock. Takes namespace and key; gives
    # the session's id, its head and the time, which is that after the lock was taken.
    lock: str = """
        SELECT head.*, {now} FROM (
            SELECT id, {head_columns} FROM {sessions} WHERE namespace = $1 AND key = $2 {for_update}
        ) AS head"""
    # A session that never was; it gives the same, or nothing if somebody else made it.
    create: str = """
        INSERT INTO {sessions} (namespace, key, recent, {head_columns})
        VALUES ($1, $2, 0, 0, false, 0, 0, 0, false, 0, 0, NULL, 0, '{{}}', '{{}}')
        ON CONFLICT (namespace, key) DO NOTHING
        RETURNING id, {head_columns}, {now}"""
    # Takes the id, then the head's columns. What is indexed stands apart: SQLite would write its
    # entry anew each time.
    write_head: str = """
        UPDATE {sessions} SET version = $2, alive = $3, epoch = $4, last_ordinal = $5, count = $6,
            repeats = $7, created_at = $8, updated_at = $9, expires_at = $10, overtaken = $11,
            metadata = $12, own = $13
        WHERE id = $1"""
    write_recent: str = "UPDATE {sessions} SET recent = $2 WHERE id = $1"

    # Messages of a locked session. Each takes its id first.
    add: str = """
        INSERT INTO {messages} (session, ordinal, id, version, command, added, at, payload)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8)"""
    there: str = "SELECT id, payload FROM {messages} WHERE session = $1 AND id = ANY($2)"
    of_id: str = """
        SELECT ordinal, id, payload FROM {messages} WHERE session = $1 AND id = $2"""
    newest: str = """
        SELECT ordinal, id, payload FROM {messages} WHERE session = $1
        ORDER BY ordinal DESC LIMIT 1 OFFSET $2"""
    oldest: str = """
        SELECT ordinal, id, payload FROM {messages} WHERE session = $1
        ORDER BY ordinal LIMIT $2 OFFSET $3"""
    after: str = """
        SELECT ordinal, id, payload FROM {messages} WHERE session = $1 AND ordinal > $2
        ORDER BY ordinal"""
    position: str = "SELECT count(*) FROM {messages} WHERE session = $1 AND ordinal < $2"
    edit: str = "UPDATE {messages} SET payload = $3 WHERE session = $1 AND ordinal = $2"
    delete: str = "DELETE FROM {messages} WHERE session = $1 AND ordinal BETWEEN $2 AND $3"
    delete_all: str = "DELETE FROM {messages} WHERE session = $1"
    # Messages whose id comes again later; the newest first.
    repeated: str = """
        SELECT ordinal, payload FROM {messages} WHERE session = $1 AND id IS NULL
        ORDER BY ordinal DESC"""
    give_id: str = "UPDATE {messages} SET id = $3 WHERE session = $1 AND ordinal = $2"

    # What commands answered. Each takes the session's id and, but for the last, a command's.
    answer: str = "SELECT outcome FROM {commands} WHERE session = $1 AND id = $2"
    appended: str = """
        SELECT version, added FROM {messages} WHERE session = $1 AND command = $2 LIMIT 1"""
    remember: str = """
        INSERT INTO {commands} (session, id, at, outcome) VALUES ($1, $2, $3, $4)"""
    # The appends since a time that brought the messages of a span of ordinals: these will be gone.
    remember_appends: str = """
        INSERT INTO {commands} (session, id, at, outcome)
        SELECT DISTINCT CAST($1 AS bigint), command, at,
            '[' || version || ',' || added || ',0,null,"",[]]'
        FROM {messages} WHERE session = $1 AND ordinal BETWEEN $2 AND $3 AND at >= $4
        ON CONFLICT DO NOTHING"""
    forget: str = """
        DELETE FROM {commands} WHERE (session, id) IN (
            SELECT session, id FROM {commands} WHERE at < $1 LIMIT 1000 {skip_locked})
        RETURNING 1"""

    # Reading: each is one statement, and so sees one moment. Takes namespace and key first. How
    # many rows is written into it (LIMIT {limit}): PostgreSQL would plan it anew at each call.
    last: str = """
        SELECT payload FROM {messages} WHERE session = {session}
        ORDER BY ordinal DESC LIMIT {limit}"""
    first: str = """
        SELECT payload FROM {messages} WHERE session = {session}
        ORDER BY ordinal LIMIT {limit}"""
    head: str = "SELECT {head} FROM {sessions} WHERE namespace = $1 AND key = $2 AND {live}"
    # The head, which has no ordinal, and the newest rows below an ordinal.
    snapshot: str = """
        SELECT CAST(NULL AS bigint) AS ordinal, {head} AS payload
        FROM {sessions} WHERE namespace = $1 AND key = $2 AND {live}
        UNION ALL
        SELECT * FROM (
            SELECT ordinal, payload FROM {messages} WHERE session = {session} AND ordinal < $3
            ORDER BY ordinal DESC LIMIT {limit}
        ) AS newest"""

    # Listing. Takes the namespace first.
    keys: str = """
        SELECT key FROM {sessions}
        WHERE namespace = $1 AND key >= $2 AND key > $3 AND {live} ORDER BY key LIMIT $4"""
    keys_below: str = """
        SELECT key FROM {sessions}
        WHERE namespace = $1 AND key >= $2 AND key > $3 AND key < $5 AND {live}
        ORDER BY key LIMIT $4"""
    recent: str = """
        SELECT key, recent, {head} FROM {sessions}
        WHERE namespace = $1 AND (recent, key) < ($2, $3) AND {live}
        ORDER BY recent DESC, key DESC LIMIT $4"""

    # Sessions that expired: takes the namespace, and how many at most. And dead ones that nothing
    # needs any more: takes the namespace and their age in microseconds.
    due: str = """
        SELECT key FROM {sessions} WHERE namespace = $1 AND alive AND expires_at < {now}
        LIMIT $2"""
    forget_dead: str = """
        DELETE FROM {sessions} WHERE id IN (
            SELECT id FROM {sessions}
            WHERE namespace = $1 AND NOT alive AND updated_at < {now} - $2 AND version < {now} - $2
                AND overtaken < {now} {skip_locked})"""
    now: str = "SELECT {now}"
    schema_version: str = "SELECT version FROM {schema}"
    write_schema_version: str = "UPDATE {schema} SET version = $1"


def statements(tables: Tables) -> Statements:
    """The statements of one store's tables."""
    postgres = tables.dialect.name == "postgresql"
    words = {
        "sessions": tables.name("sessions"),
        "messages": tables.name("messages"),
        "commands": tables.name("commands"),
        "schema": tables.name("schema"),
        # clock_timestamp(), since now() is from before the wait for a lock.
        "now": "CAST(date_part('epoch', clock_timestamp()) * 1000000 AS bigint)"
        if postgres
        else "now_us()",
        "json_array": "json_build_array" if postgres else "json_array",
        "for_update": "FOR UPDATE" if postgres else "",
        "skip_locked": "FOR UPDATE SKIP LOCKED" if postgres else "",
        "head_columns": _HEAD_COLUMNS,
        "many": "cardinality(CAST($6 AS bytea[]))",
        "minute": str(MINUTE),
        "limit": "{limit}",
    }
    words["live"] = _LIVE.format(**words)
    words["session"] = _SESSION.format(**words)
    words["head"] = _HEAD.format(**words)
    words["grown_by_one"] = _GROWN.format(more="1", **words)
    words["grown_by_many"] = _GROWN.format(more=words["many"], **words)
    texts = {
        one.name: " ".join(str(one.default).format(**words).split()) for one in fields(Statements)
    }
    return Statements(**texts)
