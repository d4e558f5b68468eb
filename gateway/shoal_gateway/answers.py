"""What the shards found for a batch of queries, and each caller's part of it.

The shards' answers are merged once for the whole batch; then every caller gets the columns of its
own queries, without a message or a Python object for a record that is not his. What one shard found
for one caller is his answer as it is: bytes, that nothing here takes apart.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from itertools import accumulate
from typing import Final

import numpy as np

from shoal.internal.v1 import worker_service_pb2
from shoal_gateway.columns import Sources
from shoal_gateway.fanout import ShardAnswers
from shoal_gateway.merge import Matches, merge_matches, merge_one

__all__ = ["Answer"]

_FLOAT64: Final = np.dtype("<f8")

_FEW_MATCHES: Final = 128
"""Up to so many matches of one query are merged in plain Python: 4 µs for 20, where numpy takes 75
to 125 for any number up to hundreds."""


class Answer:
    """The merged answers of the shards.

    Args:
        found: What they answered.
        query_count: Queries that they were asked.
        n_results: Matches wanted of each.
    """

    def __init__(
        self,
        found: ShardAnswers[worker_service_pb2.ShardMatches],
        query_count: int,
        n_results: int,
    ) -> None:
        self.found = found
        self._query_count = query_count
        self._columns: Sources | None = None
        # Source and item of each match; None if there is one source, whose order stands.
        self._places: Sequence[tuple[int, int]] | None = None
        self._counts: Sequence[int]
        self._distances: bytes
        answers = found.answers
        if len(answers) == 1:
            self._counts, self._distances = answers[0].match_counts, answers[0].distances
        elif answers:
            self._merge(n_results)
        else:
            self._counts, self._distances = [0] * query_count, b""

    def _merge(self, n_results: int) -> None:
        answers = self.found.answers
        distances = [np.frombuffer(answer.distances, _FLOAT64) for answer in answers]
        self._columns = Sources([answer.records for answer in answers])
        matches = [
            Matches(
                np.array(answer.match_counts, np.int64),
                own,
                np.frombuffer(answer.ordinals, "<u8"),
                ids,
            )
            for answer, own, ids in zip(answers, distances, self._columns.ids, strict=True)
        ]
        if self._query_count == 1 and sum(map(len, distances)) <= _FEW_MATCHES:
            self._places = merge_one(matches, n_results)
            self._counts = [len(self._places)]
        else:
            picks = merge_matches(matches, n_results)
            self._places = picks.places()
            self._counts = picks.counts.tolist()
        listed = [own.tolist() for own in distances]
        merged = [listed[source][item] for source, item in self._places]
        self._distances = np.array(merged, _FLOAT64).tobytes()

    def response(
        self, first: int, count: int, *, distances: bool, explain: bool = False
    ) -> worker_service_pb2.QueryResponse:
        """Give the part of some queries that follow one another.

        Args:
            first: Position of the first of them.
            count: How many.
            distances: Whether to tell them.
            explain: Whether to tell how the whole batch was answered.
        """
        if count == self._query_count:
            response = worker_service_pb2.QueryResponse(
                match_counts=self._counts,
                records=self._all_records(),
                distances=self._distances if distances else b"",
            )
        else:
            begin, end = self._ends[first], self._ends[first + count]
            response = worker_service_pb2.QueryResponse(
                match_counts=self._counts[first : first + count],
                records=self._some_records(begin, end),
                distances=self._distances[8 * begin : 8 * end] if distances else b"",
            )
        if explain:
            response.plan.shards.extend(answer.plan for answer in self.found.answers)
            places = self._places
            response.plan.match_shards.extend(
                [0] * self._ends[-1] if places is None else [source for source, _ in places]
            )
        return response

    @functools.cached_property
    def _ends(self) -> list[int]:
        """Where the matches of each query end, behind a 0."""
        return [0, *accumulate(self._counts)]

    def _all_records(self) -> bytes:
        answers = self.found.answers
        if len(answers) == 1:
            return answers[0].records.SerializeToString()
        return self._some_records(0, self._ends[-1]) if answers else b""

    def _some_records(self, begin: int, end: int) -> bytes:
        if self._columns is None:
            self._columns = Sources([answer.records for answer in self.found.answers])
        if self._places is None:
            return self._columns.cut(begin, end).SerializeToString()
        return self._columns.gather(self._places[begin:end]).SerializeToString()
