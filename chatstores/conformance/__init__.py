"""The contract as tests, for every backend: ours and yours.

Each clause of the contract is at least one test, and runs sync and async. On any store that a URL
opens::

    pytest --pyargs chatstores.conformance --store-url redis://localhost:6379/0

Some clauses need a fault, a clock or a meter. A backend's own test file supplies them with a
``Harness``, and takes in all tests::

    from chatstores.conformance import Harness
    from chatstores.conformance.suite import *


    class MyHarness(Harness):
        def restart(self): ...


    @pytest.fixture(scope="session")
    def harness():
        yield MyHarness("mystore://localhost")

A table at the end of the run says of each clause whether it is kept, refused (with the reason that
the store's ``capabilities.refused`` gives) or was not tried; *kept in part* where one of these is
so of some of its tests; and ``-`` where there is nothing to try, such as a server that could be
away. The reasons stand below it.
"""

from chatstores.conformance.clauses import CLAUSES
from chatstores.conformance.harness import Borrowed, Counted, Harness, NotThere, NotTried

__all__ = ["CLAUSES", "Borrowed", "Counted", "Harness", "NotThere", "NotTried"]
