"""persist and load: a store's sessions in a file (being written)."""

from __future__ import annotations

from typing import Any


async def persist(store: Any, t: Any, path: Any, format: str) -> None:
    raise NotImplementedError


async def load(store: Any, t: Any, path: Any, on_existing: str) -> None:
    raise NotImplementedError
