"""The thread that keeps indexes up."""

from __future__ import annotations

import os
import sys
import threading
import time

import pytest

from shoal_worker.indexing import NICENESS, Indexing


@pytest.mark.skipif(sys.platform != "linux", reason="threads have priorities of their own on Linux")
def test_indexing_gives_way_to_searches_alone() -> None:
    own = os.getpriority(os.PRIO_PROCESS, 0)
    indexing = Indexing()
    indexing.start()
    try:
        thread = next(t for t in threading.enumerate() if t.name == "shoal-indexing")
        assert thread.native_id is not None
        end = time.monotonic() + 10
        while os.getpriority(os.PRIO_PROCESS, thread.native_id) == own:
            assert time.monotonic() < end, "the thread is as important as a search"
            time.sleep(0.01)
        assert os.getpriority(os.PRIO_PROCESS, thread.native_id) == min(19, own + NICENESS)
        assert os.getpriority(os.PRIO_PROCESS, 0) == own
    finally:
        indexing.close()
