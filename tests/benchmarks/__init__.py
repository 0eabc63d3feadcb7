"""What the library costs beside the bare driver: ``python -m tests.benchmarks``, or ``make bench``.

Every figure stands beside the raw call that does the same with the same bytes, over one held
connection, in the same form (sync or async) and in the same run: a round calls each side once, in
random order, so that whatever drifts hits both. What both sides write was built beforehand.

A backend's module (``redis.py`` is the example) names its rows and its driver's own calls; it is
listed in ``__main__.py``.
"""
