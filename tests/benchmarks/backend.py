"""What a backend's module says, and the cases that are made of it."""

from __future__ import annotations

import inspect
import re
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import AbstractContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from itertools import cycle
from typing import Any, ClassVar, Literal, Protocol

from chatstores import ChatStore, open_store
from tests.benchmarks.case import Call, Case, Form, Row, Statistic
from tests.benchmarks.messages import make_messages, payloads
from tests.benchmarks.report import Check

__all__ = ["BATCH", "HISTORIES", "Backend", "Other", "Plan", "Raw", "open_cases"]

HISTORIES = (10, 1_000, 10_000)
#: How many messages the rows of the kind "batch" add at once.
BATCH = 1_000
_SUPPLY = 2_000
_NAMES = {"add": "add one", "batch": f"add {BATCH:,} at once", "last": "last 20", "all": "all"}


@dataclass(frozen=True)
class Plan:
    """Rows of one kind, measured together: one a history."""

    kind: Literal["add", "batch", "last", "all"]
    form: Form
    histories: tuple[int, ...]
    seconds: float
    ceiling: float | None = None
    baseline: str = ""
    statistic: Statistic = "median"
    name: str = ""

    @property
    def title(self) -> str:
        """The name of its rows."""
        return self.name or _NAMES[self.kind]


@dataclass(frozen=True)
class Other:
    """Rows that are no call beside another: how they are measured is their backend's own."""

    name: str
    form: Form
    rows: Callable[[str, float], Iterable[Row]]
    """Measures them at a place, in a share of the usual time."""


class Raw(Protocol):
    """A driver's own calls for one row, over one held connection.

    Beside these it has those that its plans time: `add(payload)`, `batch(payloads)`, `last()` (the
    newest 20) and `all()` (every one, each parsed by json.loads). In the async form those return
    awaitables.
    """

    def fill(self, payloads: Sequence[bytes]) -> None:
        """Have what is there be these and nothing else. Never awaited."""

    def close(self) -> Any:
        """Remove what was written and close the connection; may return an awaitable."""


class Backend(ABC):
    """One backend in the benchmarks."""

    name: ClassVar[str]
    """Its scheme."""
    plans: ClassVar[Sequence[Plan]]
    """Its rows."""
    others: ClassVar[Sequence[Other]] = ()
    """Its rows of another kind."""
    watched: ClassVar[str] = ""
    """What `watch` sees."""

    @abstractmethod
    def place(self) -> AbstractContextManager[str]:
        """Where it keeps things, such as a server's URL, for as long as the context lasts."""

    @abstractmethod
    def url(self, place: str, name: str) -> str:
        """The URL of a store there; a backend of one file a store makes one a name."""

    def raw(self, place: str, plan: Plan, name: str) -> Raw | None:
        """The driver's own calls for a row of this plan; None where the bound is a time."""
        return None

    def watch(self, place: str, name: str) -> Call | None:
        """A call whose result changes when an add has done more than to add."""
        return None

    def checks(self, place: str) -> Iterable[Check]:
        """What must be so there, beside the times; looked at after its rows."""
        return ()

    def facts(self, place: str) -> dict[str, str]:
        """What the header says of it: versions of driver and server, and the like."""
        return {}


@asynccontextmanager
async def open_cases(backend: Backend, place: str, plan: Plan) -> AsyncIterator[list[Case]]:
    """The cases of a plan, their sessions filled; removed at the end."""
    async with AsyncExitStack() as stack:
        cases = []
        for history in plan.histories:
            name = "-".join(re.findall(r"\w+", f"bench {plan.form} {plan.title} {history}"))
            store = open_store(backend.url(place, name))
            stack.push_async_callback(_remove, store, name)
            raw = backend.raw(place, plan, name)
            if raw is not None:
                stack.push_async_callback(_close, raw)
            case = _case(backend, plan, history, store, raw, name)
            cases.append(replace(case, watch=backend.watch(place, name), watched=backend.watched))
        yield cases


async def _remove(store: ChatStore, key: str) -> None:
    store.delete_messages(key)
    await store.aclose()


async def _close(raw: Raw) -> None:
    closing = raw.close()
    if inspect.isawaitable(closing):
        await closing


def _case(
    backend: Backend, plan: Plan, history: int, store: ChatStore, raw: Raw | None, key: str
) -> Case:
    messages = make_messages(history)
    stored = payloads(messages)
    batch = plan.kind == "batch"
    growth = 1 if batch else max(10, history // 10)

    def reset() -> None:
        _expect(store, key, history + growth * (BATCH if batch else 1))
        store.delete_after(key, messages[-1].id)
        if raw is not None:
            raw.fill(stored)

    store.set_messages(key, messages)
    store.purge_expired()  # where the store tidies up now and then, it begins anew
    _expect(store, key, history)
    if raw is not None:
        raw.fill(stored)
    ours, theirs = _calls(plan, store, raw, key)
    return Case(
        name=plan.title,
        backend=backend.name,
        form=plan.form,
        history=history,
        ours=ours,
        raw=theirs,
        baseline=plan.baseline,
        ceiling=plan.ceiling,
        statistic=plan.statistic,
        reset=reset if plan.kind in ("add", "batch") else None,
        reset_every=growth,
    )


def _expect(store: ChatStore, key: str, count: int) -> None:
    """Raise if the session does not hold what it must: then something else was measured."""
    found = store.count_messages(key)
    if found != count:
        raise RuntimeError(f"{key} holds {found} messages instead of {count}")


def _calls(plan: Plan, store: ChatStore, raw: Raw | None, key: str) -> tuple[Call, Call | None]:
    """Our call and the raw one."""
    sync = plan.form == "sync"
    theirs = getattr(raw, plan.kind) if raw is not None else None
    if plan.kind == "add":
        return _adds(store.add_message if sync else store.aadd_message, theirs, key)
    if plan.kind == "batch":
        return _batches(store.add_messages if sync else store.aadd_messages, theirs, key)
    get = store.get_messages if sync else store.aget_messages
    if plan.kind == "last":
        return lambda: get(key, last=20), theirs
    return lambda: get(key), theirs


def _adds(add: Any, raw_add: Any, key: str) -> tuple[Call, Call | None]:
    """Calls that each add the next message; none comes again before the session is reset."""
    messages = make_messages(_SUPPLY)
    supply, stored = cycle(messages), cycle(payloads(messages))
    theirs = (lambda: raw_add(next(stored))) if raw_add is not None else None
    return lambda: add(key, next(supply)), theirs


def _batches(add: Any, raw_add: Any, key: str) -> tuple[Call, Call | None]:
    """Calls that add one batch; each comes after a reset."""
    messages = make_messages(BATCH)
    stored = payloads(messages)
    theirs = (lambda: raw_add(stored)) if raw_add is not None else None
    return lambda: add(key, messages), theirs
