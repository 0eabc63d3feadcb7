"""The views of this process: the stores that have a topic in common share one."""

from __future__ import annotations

import atexit
import os
import threading
from collections.abc import Mapping
from typing import Any

from chatstores_kafka.topic import TopicSettings
from chatstores_kafka.view import View

__all__ = ["acquire", "release"]

_views: dict[tuple[Any, ...], View] = {}
_lock = threading.Lock()


def acquire(
    config: Mapping[str, Any], settings: TopicSettings, state_dir: str | None = None
) -> View:
    """The view of a topic, made if this process has none; to be given back.

    Args:
        config: librdkafka's options of the connection.
        settings: the topic's.
        state_dir: a directory that keeps what was read between runs, or None.
    """
    connection = sorted((name, repr(value)) for name, value in config.items())
    key = (settings, state_dir, *connection)
    with _lock:
        view = _views.get(key)
        if view is None:
            view = _views[key] = View(config, settings, state_dir)
        view.users += 1
        return view


def release(view: View) -> None:
    """Give a view back; it is closed with its last user."""
    with _lock:
        view.users -= 1
        if view.users:
            return
        for key in [key for key, other in _views.items() if other is view]:
            del _views[key]
    view.close()


def _close_all() -> None:
    for view in list(_views.values()):
        view.close()


def _after_fork() -> None:
    global _views, _lock
    for view in _views.values():
        view.leak()
    _views, _lock = {}, threading.Lock()


atexit.register(_close_all)
os.register_at_fork(after_in_child=_after_fork)
