"""What several property tests draw: JSON values; and an equality that knows True from 1."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

#: Every text that UTF-8 can hold, U+0000 too.
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)

_scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-(10**60), 10**60)
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts
)

#: Any JSON value.
json_values = st.recursive(
    _scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)

json_objects = st.dictionaries(texts, json_values, max_size=4)


def same(one: Any, other: Any) -> bool:
    """Equal, types included: ``True`` is not 1, 1 is not 1.0, 0.0 is not -0.0."""
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[k], other[k]) for k in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, float):
        return repr(one) == repr(other)
    return bool(one == other)
