# Generated from sdk/shoal/_async/writing.py by tools/generate_sync.py; do not edit.
"""Sending records that are to be written, in as many parts as it takes."""

from __future__ import annotations

from typing import Any

from shoal import _requests, _writing
from shoal._embedder import Embedder
from shoal._methods import ADD, UPDATE, UPSERT
from shoal._progress import Progress
from shoal._records import check_records, parts, to_batch
from shoal._sync import runtime
from shoal._sync.session import Session
from shoal._vectors import check_dimension
from shoal._writing import Account, Group, Kind
from shoal.results import WriteResult
from shoal.v1 import collection_pb2, record_service_pb2
from shoal.wire.limits import Limits


class Writer:
    """Writes the records of one collection.

    Args:
        session: Makes the calls.
        collection: As the server describes it; its dimension is noted here when the first vectors
            fix it.
        embedder: Makes vectors of documents.
    """

    def __init__(
        self, session: Session, collection: collection_pb2.Collection, embedder: Embedder
    ) -> None:
        self._session = session
        self._collection = collection
        self._embedder = embedder

    def write(
        self,
        kind: Kind,
        ids: Any,
        embeddings: Any,
        metadatas: Any,
        documents: Any,
        uris: Any,
        *,
        progress: bool,
    ) -> WriteResult:
        """Check everything, then embed and send part by part, in order."""
        limits = self._session.limits()
        records = check_records(
            ids,
            embeddings,
            metadatas,
            documents,
            uris,
            limits,
            self._collection.configuration.sparse_vectors,
        )
        if records.vectors is not None:
            self._check_dimension(records.vectors)
        groups = _writing.groups(kind, records)
        if any(group.embeds for group in groups):
            runtime.in_thread(self._embedder.check_ready)
        account = Account(kind, len(records.ids))
        with Progress(progress, account.total, f"{kind} to {self._collection.name}") as bar:
            for group in groups:
                for chunk in group.chunks(limits):
                    self._write_chunk(chunk, limits, account, bar)
        return account.result()

    def _write_chunk(self, chunk: Group, limits: Limits, account: Account, bar: Progress) -> None:
        part = chunk
        try:
            if chunk.embeds:
                chunk = self._embed(chunk)
            for start, stop in parts(chunk.records, limits):
                part = chunk.slice(start, stop)
                self._send(part, account)
                bar.advance(stop - start)
        except Exception as error:
            # Whatever it is (the embedding function is the user's): how far the write came would
            # be lost with it.
            failure = account.failure(error, part)
            if failure is error:
                raise
            raise failure from error

    def _embed(self, chunk: Group) -> Group:
        texts = [text or "" for text in chunk.records.documents or []]
        vectors = runtime.in_thread(lambda: self._embedder.embed_documents(texts))
        self._check_dimension(vectors)
        return chunk.with_vectors(vectors)

    def _send(self, part: Group, account: Account) -> None:
        reference = _requests.by_id(self._collection)
        batch = to_batch(part.records)
        write_id = _requests.new_write_id()
        count = len(part.records.ids)
        match account.kind:
            case "add":
                add = record_service_pb2.AddRequest(
                    collection=reference, records=batch, write_id=write_id
                )
                added = self._session.call(ADD, add)
                account.add(count, added=added.added, ignored=added.ignored)
            case "upsert":
                upsert = record_service_pb2.UpsertRequest(
                    collection=reference, records=batch, write_id=write_id
                )
                upserted = self._session.call(UPSERT, upsert)
                account.add(count, added=upserted.added, updated=upserted.updated)
            case "update":
                update = record_service_pb2.UpdateRequest(
                    collection=reference, records=batch, write_id=write_id
                )
                updated = self._session.call(UPDATE, update)
                account.add(count, updated=updated.updated, ignored=updated.ignored)
        if part.records.vectors is not None and account.kind != "update":
            dimension = part.records.vectors.shape[1]
            self._collection.dimension = dimension
            self._collection.configuration.hnsw.dimension = dimension

    def _check_dimension(self, vectors: Any) -> None:
        check_dimension(self._collection.name, self._collection.dimension, vectors)
