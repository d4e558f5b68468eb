"""What the shards found for a batch of queries, and each caller's part of it.

The shards' answers are merged once for the whole batch; then every caller gets the columns of its
own queries, without a message or a Python object for a record that is not his.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Final

import numpy as np
import numpy.typing as npt

from shoal.internal.v1 import worker_service_pb2
from shoal_gateway.columns import Sources
from shoal_gateway.fanout import ShardAnswers
from shoal_gateway.merge import Matches, merge_matches, merge_one

__all__ = ["Answer"]

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
        answers = found.answers
        distances = [np.frombuffer(answer.distances, "<f8") for answer in answers]
        self._columns: Sources | None = None
        # Source and item of each match; None if there is one source, whose order stands.
        self._places: Sequence[tuple[int, int]] | None = None
        if not answers:
            self._counts = [0] * query_count
            self._distances: list[float] = []
        elif len(answers) == 1:
            self._counts = list(answers[0].match_counts)
            self._distances = distances[0].tolist()
        else:
            self._merge(distances, n_results)
        self._ends = [0, *accumulate(self._counts)]

    def _merge(self, distances: Sequence[npt.NDArray[np.float64]], n_results: int) -> None:
        self._columns = Sources([answer.records for answer in self.found.answers])
        matches = [
            Matches(
                np.array(answer.match_counts, np.int64),
                own,
                np.frombuffer(answer.ordinals, "<u8"),
                ids,
            )
            for answer, own, ids in zip(
                self.found.answers, distances, self._columns.ids, strict=True
            )
        ]
        if self._query_count == 1 and sum(map(len, distances)) <= _FEW_MATCHES:
            self._places = merge_one(matches, n_results)
            self._counts = [len(self._places)]
        else:
            picks = merge_matches(matches, n_results)
            self._places = picks.places()
            self._counts = picks.counts.tolist()
        listed = [own.tolist() for own in distances]
        self._distances = [listed[source][item] for source, item in self._places]

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
        begin, end = self._ends[first], self._ends[first + count]
        response = worker_service_pb2.QueryResponse(
            match_counts=self._counts[first : first + count],
            records=self._records(begin, end),
            distances=self._distances[begin:end] if distances else (),
        )
        if explain:
            response.plan.shards.extend(answer.plan for answer in self.found.answers)
            places = self._places
            response.plan.match_shards.extend(
                [0] * (end - begin) if places is None else [s for s, _ in places[begin:end]]
            )
        return response

    def _records(self, begin: int, end: int) -> worker_service_pb2.RecordColumns | None:
        answers = self.found.answers
        if not answers:
            return None
        if len(answers) == 1 and end - begin == self._ends[-1]:
            return answers[0].records
        if self._columns is None:
            self._columns = Sources([answer.records for answer in answers])
        if self._places is None:
            return self._columns.cut(begin, end)
        return self._columns.gather(self._places[begin:end])
