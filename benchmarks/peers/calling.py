"""Callers: threads of one client, each with one call after another."""

from __future__ import annotations

import itertools
import os
import threading
import time
from collections.abc import Callable, Sequence

from benchmarks.processes import cpu_s, descendants


class Callers:
    """Threads that call for a while.

    Every thread makes one call before the time begins: connections are its own business.

    Args:
        call: Makes the n-th call of all.
        count: Threads.
        servers: Processes of the server, whose CPU time counts too.
    """

    def __init__(self, call: Callable[[int], object], count: int, servers: Sequence[int]) -> None:
        self._call = call
        self._count = count
        self._servers = servers
        self._times: list[list[float]] = [[] for _ in range(count)]
        self._failures: list[str] = []
        self._ready = threading.Barrier(count, action=self._begin)

    def run(self, seconds: float) -> dict[str, float]:
        """Call for so long, each thread once at least; gives calls a second, latencies, and CPU
        seconds a call.

        Raises:
            RuntimeError: A call failed.
        """
        self._seconds = seconds
        threads = [threading.Thread(target=self._guarded, args=(n,)) for n in range(self._count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if self._failures:
            raise RuntimeError(self._failures[0])
        elapsed_s = time.perf_counter() - self._began
        client_s, server_s = cpu_s(self._own), cpu_s(self._servers)
        ordered = sorted(itertools.chain.from_iterable(self._times))
        calls = len(ordered)
        return {
            "rate": calls / elapsed_s,
            **{f"p{p}_s": ordered[calls * p // 100] for p in (50, 95, 99)},
            "client_cpu_s": (client_s - self._client_s) / calls,
            "server_cpu_s": (server_s - self._server_s) / calls,
        }

    def _begin(self) -> None:
        """Runs once, when all are connected."""
        self._own = descendants(os.getpid())
        self._client_s, self._server_s = cpu_s(self._own), cpu_s(self._servers)
        self._began = time.perf_counter()
        self._end = self._began + self._seconds

    def _guarded(self, caller: int) -> None:
        try:
            self._calls(caller)
        except threading.BrokenBarrierError:
            return  # another has failed
        except Exception as error:  # noqa: BLE001 - told to who compares
            self._failures.append(f"{type(error).__name__}: {error}")
            self._ready.abort()

    def _calls(self, caller: int) -> None:
        self._call(caller)
        self._ready.wait()
        for number in itertools.count(caller, self._count):
            began = time.perf_counter()
            if began >= self._end and self._times[caller]:
                return
            self._call(number)
            self._times[caller].append(time.perf_counter() - began)
