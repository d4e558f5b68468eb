# Generated from sdk/shoal/_async/collection.py by tools/generate_sync.py; do not edit.
"""A collection: what is done with its records."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any
from uuid import UUID

from shoal import _definitions, _requests, _tables, errors
from shoal._embedder import AnyFunction, Choice, CreateChoice, Embedder, describe
from shoal._methods import CLONE_COLLECTION, COUNT, DELETE, UPDATE_COLLECTION, UPDATE_WHERE
from shoal._progress import Progress
from shoal._rendering import render_fields
from shoal._sync import operations
from shoal._sync.ranking import Ranker
from shoal._sync.reading import Reader
from shoal._sync.session import Session
from shoal._sync.writing import Writer
from shoal._tables import ColumnNames
from shoal.configuration import (
    CollectionConfiguration,
    HNSWConfiguration,
    check_changes,
    configuration_from_message,
    hnsw_to_message,
)
from shoal.results import (
    DeleteResult,
    GetResult,
    IdPage,
    QueryResult,
    UpdateWhereResult,
    WriteResult,
)
from shoal.search import Search, SupportsToDict
from shoal.search_result import SearchResult
from shoal.types import Embedding, Embeddings, Include, Metadata, OneOrMany, Where, WhereDocument
from shoal.v1 import (
    collection_pb2,
    collection_service_pb2,
    record_service_pb2,
    snapshot_service_pb2,
)
from shoal.wire.metadata import metadata_from_message
from shoal.wire.validation import invalid

if TYPE_CHECKING:
    from shoal._sync.client import Client

SearchLike = Search | Mapping[str, Any] | SupportsToDict
"""What is taken for a search."""


class Collection:
    """A collection of records. Clients make it; it is not made by hand.

    Its properties are as of when it was fetched, or last changed through this object. Its calls go
    by its ID: once it is deleted they raise `CollectionNotFoundError`, also if another collection
    has been given its name.
    """

    def __init__(
        self, session: Session, message: collection_pb2.Collection, embedder: Embedder
    ) -> None:
        self._session = session
        self._message = message
        self._embedder = embedder
        self._reader = Reader(session, message, embedder)
        self._ranker = Ranker(session, message, embedder)
        self._writer = Writer(session, message, embedder)

    @property
    def _reference(self) -> collection_pb2.CollectionReference:
        return _requests.by_id(self._message)

    @property
    def id(self) -> UUID:
        """Names it for good."""
        return UUID(self._message.id)

    @property
    def name(self) -> str:
        """Its name, unique in its database."""
        return self._message.name

    @property
    def metadata(self) -> dict[str, Any] | None:
        """The user's metadata of it; None if there is none."""
        return metadata_from_message(self._message.metadata) or None

    @property
    def dimension(self) -> int | None:
        """Numbers in each vector; None as long as nothing has fixed it."""
        return self._message.dimension or None

    @property
    def tenant(self) -> str:
        """The tenant it belongs to."""
        return self._message.tenant

    @property
    def database(self) -> str:
        """The database it belongs to."""
        return self._message.database

    @property
    def configuration(self) -> CollectionConfiguration:
        """The configuration in force."""
        in_force = self._message.configuration
        return configuration_from_message(in_force, describe(in_force))

    @property
    def embedding_function(self) -> AnyFunction | None:
        """What embeds its documents and query texts; None if nothing does.

        Raises:
            InvalidArgumentError: It is stored by a name that is not known here.
        """
        return self._embedder.function

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}(name={self.name!r}, id={str(self.id)!r}, "
            f"dimension={self.dimension})"
        )

    def _repr_html_(self) -> str:
        hnsw = self.configuration["hnsw"]
        function = self.configuration["embedding_function"]
        return render_fields(
            f"Collection {self.name}",
            {
                "id": self.id,
                "database": f"{self.tenant} / {self.database}",
                "dimension": self.dimension,
                "space": hnsw["space"],
                "shards": hnsw["shards"],
                "embedding function": function and function["name"],
                "metadata": self.metadata,
            },
        )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Collection) and other._message.id == self._message.id

    def __hash__(self) -> int:
        return hash(self._message.id)

    def add(
        self,
        ids: OneOrMany,
        embeddings: Embeddings | Embedding | None = None,
        metadatas: Metadata | Sequence[Metadata | None] | None = None,
        documents: str | Sequence[str | None] | None = None,
        uris: str | Sequence[str | None] | None = None,
        *,
        progress: bool = False,
    ) -> WriteResult:
        """Add records. Those whose ID exists are left as they are.

        One record may be given as scalars. Input of any size is checked whole, then sent in as many
        requests as it needs.

        Args:
            ids: Of the records, none twice.
            embeddings: Their vectors; without them, the documents are embedded.
            metadatas: A dict or None for each.
            documents: A text or None for each.
            uris: A text or None for each.
            progress: Whether to show a progress bar.

        Returns:
            How many were `added`, and how many `ignored`.

        Raises:
            InvalidArgumentError: Something in the input is not allowed; nothing was written.
            PartialWriteError: A later part failed; says how far it came. The same call can be
                repeated.
        """
        return self._writer.write(
            "add", ids, embeddings, metadatas, documents, uris, progress=progress
        )

    def upsert(
        self,
        ids: OneOrMany,
        embeddings: Embeddings | Embedding | None = None,
        metadatas: Metadata | Sequence[Metadata | None] | None = None,
        documents: str | Sequence[str | None] | None = None,
        uris: str | Sequence[str | None] | None = None,
        *,
        progress: bool = False,
    ) -> WriteResult:
        """Add records, or merge into those that exist; as `add`.

        What is not given for an existing record stays; metadata is merged by key, and a key set to
        None is removed.

        Returns:
            How many were `added`, and how many `updated`.
        """
        return self._writer.write(
            "upsert", ids, embeddings, metadatas, documents, uris, progress=progress
        )

    def update(
        self,
        ids: OneOrMany,
        embeddings: Embeddings | Embedding | None = None,
        metadatas: Metadata | Sequence[Metadata | None] | None = None,
        documents: str | Sequence[str | None] | None = None,
        uris: str | Sequence[str | None] | None = None,
        *,
        progress: bool = False,
    ) -> WriteResult:
        """Merge into records that exist, as `upsert`; unknown IDs are ignored.

        A new document without an embedding is embedded again.

        Returns:
            How many were `updated`, and how many `ignored`.
        """
        return self._writer.write(
            "update", ids, embeddings, metadatas, documents, uris, progress=progress
        )

    def upsert_dataframe(
        self,
        frame: Any,
        *,
        id: str = "id",  # noqa: A002 (what it is called everywhere)
        embedding: str = "embedding",
        document: str = "document",
        uri: str = "uri",
        metadata: Sequence[str] | None = None,
        progress: bool = False,
    ) -> WriteResult:
        """Upsert the rows of a pandas or polars DataFrame.

        Args:
            frame: The DataFrame.
            id: Name of the column with the IDs.
            embedding: Of the column with the vectors, if there is one.
            document: Of the column with the documents, if there is one.
            uri: Of the column with the URIs, if there is one.
            metadata: Of the columns that are keys of the metadata; None: all others. A cell without
                a value leaves its key out. A column `metadata` of dicts, as results have it, holds
                keys and values itself.
            progress: Whether to show a progress bar.
        """
        names = ColumnNames(id, embedding, document, uri, metadata)
        records = _tables.from_dataframe(frame, names)
        return self.upsert(
            records.ids, records.embeddings, records.metadatas, records.documents, records.uris,
            progress=progress,
        )  # fmt: skip

    def add_arrow(
        self,
        table: Any,
        *,
        id: str = "id",  # noqa: A002 (what it is called everywhere)
        embedding: str = "embedding",
        document: str = "document",
        uri: str = "uri",
        metadata: Sequence[str] | None = None,
        progress: bool = False,
    ) -> WriteResult:
        """Add the rows of a pyarrow Table or RecordBatch; arguments as `upsert_dataframe`."""
        names = ColumnNames(id, embedding, document, uri, metadata)
        records = _tables.from_arrow(table, names)
        return self.add(
            records.ids, records.embeddings, records.metadatas, records.documents, records.uris,
            progress=progress,
        )  # fmt: skip

    def update_where(
        self,
        where: Where | None,
        metadata: Metadata,
        dry_run: bool = False,
        *,
        where_document: WhereDocument | None = None,
    ) -> UpdateWhereResult:
        """Set metadata on every record that matches.

        Args:
            where: Which, by metadata.
            metadata: Merged into each; a key set to None is removed.
            dry_run: Only count the matches.
            where_document: Which, by document; intersects with `where`.

        Returns:
            How many `matched`, and how many were `updated`.
        """
        limits = self._session.limits()
        if where is None and where_document is None:
            raise invalid("where", "update_where needs where or where_document")
        request = record_service_pb2.UpdateWhereRequest(
            collection=self._reference,
            where=_requests.check_where(where, limits),
            where_document=_requests.check_where_document(where_document, limits),
            metadata=_requests.check_patch(metadata),
            dry_run=bool(dry_run),
            write_id=_requests.new_write_id(),
        )
        response = self._session.call(UPDATE_WHERE, request)
        return UpdateWhereResult(matched=response.matched, updated=response.updated)

    def delete(
        self,
        ids: OneOrMany | None = None,
        where: Where | None = None,
        where_document: WhereDocument | None = None,
        limit: int | None = None,
    ) -> DeleteResult:
        """Delete the records that are in all that is given.

        Args:
            ids: These; unknown ones are ignored.
            where: Which, by metadata.
            where_document: Which, by document.
            limit: Only the first so many in order of insertion; only with a filter.

        Returns:
            How many were `deleted`.

        Raises:
            InvalidArgumentError: Nothing says which.
        """
        limits = self._session.limits()
        checked_ids = _requests.optional_ids(ids, limits)
        checked_limit = _requests.check_optional_count("limit", limit)
        by_metadata = _requests.check_where(where, limits)
        by_document = _requests.check_where_document(where_document, limits)
        is_filtered = by_metadata is not None or by_document is not None
        if not is_filtered and checked_ids is None:
            raise invalid("ids", "delete needs ids, where or where_document")
        if checked_limit is not None and not is_filtered:
            raise invalid("limit", "limit is only for a delete with where or where_document")
        step = limits.max_page_records
        if checked_ids is not None and len(checked_ids) > step and checked_limit is not None:
            # Which are the first can only be told over all of them.
            found = self.get(checked_ids, where, where_document, checked_limit, include=[])
            checked_ids, checked_limit = found["ids"], None
            if not checked_ids:
                return DeleteResult(deleted=0)
        starts = [0] if checked_ids is None else range(0, len(checked_ids), step)
        deleted = 0
        for start in starts:
            part = None if checked_ids is None else checked_ids[start : start + step]
            request = record_service_pb2.DeleteRequest(
                collection=self._reference,
                ids=_requests.id_list(part),
                where=by_metadata,
                where_document=by_document,
                limit=None if checked_limit is None else _requests.fits_uint32(checked_limit),
                write_id=_requests.new_write_id(),
            )
            try:
                deleted += (self._session.call(DELETE, request)).deleted
            except errors.ShoalError as error:
                if not deleted:
                    raise
                raise errors.PartialWriteError(
                    f"{deleted:,} records were deleted; then: {error}", written_count=deleted
                ) from error
        return DeleteResult(deleted=deleted)

    def get(
        self,
        ids: OneOrMany | None = None,
        where: Where | None = None,
        where_document: WhereDocument | None = None,
        limit: int | None = None,
        offset: int | None = None,
        include: Sequence[Include] = ("metadatas", "documents"),
    ) -> GetResult:
        """Get records in order of insertion, also when their IDs are given.

        Args:
            ids: Only these; missing ones are left out.
            where: Only those that match, by metadata.
            where_document: Only those that match, by document.
            limit: At most so many; None: all.
            offset: How many to pass over.
            include: Of ``documents, embeddings, metadatas, uris``; IDs always come.
        """
        return self._reader.get(ids, where, where_document, limit, offset, include)

    def peek(self, limit: int = 10) -> GetResult:
        """Get the first records, with their embeddings."""
        return self.get(limit=limit, include=("embeddings", "metadatas", "documents"))

    def count(self, where: Where | None = None, where_document: WhereDocument | None = None) -> int:
        """Count records: all, or those that match."""
        limits = self._session.limits()
        request = record_service_pb2.CountRequest(
            collection=self._reference,
            where=_requests.check_where(where, limits),
            where_document=_requests.check_where_document(where_document, limits),
        )
        return (self._session.call(COUNT, request)).count

    def iterate(
        self,
        batch_size: int = 1_000,
        where: Where | None = None,
        where_document: WhereDocument | None = None,
        include: Sequence[Include] = ("metadatas", "documents"),
    ) -> Iterator[GetResult]:
        """Walk the records in order of insertion, batch by batch, in bounded memory.

        Every record that was acknowledged before the first batch, and not deleted since, comes.

        Args:
            batch_size: Most records in a batch; one of large records may have fewer.
            where: Only those that match, by metadata.
            where_document: Only those that match, by document.
            include: As `get`.
        """
        size = _requests.check_count("batch_size", batch_size, 1)
        return self._reader.walk(size, where, where_document, include)

    def list_ids(
        self, prefix: str | None = None, limit: int | None = None, page_token: str | None = None
    ) -> IdPage:
        """List record IDs in order of insertion.

        Args:
            prefix: Only IDs that begin so.
            limit: At most so many; None: all.
            page_token: Of the page before, with the same prefix.

        Returns:
            The IDs, with the `next_page_token` to go on from.
        """
        return self._reader.list_ids(prefix, limit, page_token)

    def query(
        self,
        query_embeddings: Embeddings | Embedding | None = None,
        query_texts: OneOrMany | None = None,
        n_results: int = 10,
        ids: OneOrMany | None = None,
        where: Where | None = None,
        where_document: WhereDocument | None = None,
        include: Sequence[Include] = ("metadatas", "documents", "distances"),
        *,
        query_ids: OneOrMany | None = None,
        allow_partial: bool = False,
        explain: bool = False,
    ) -> QueryResult:
        """Find the nearest records of each query, nearest first.

        Args:
            query_embeddings: One vector, or several.
            query_texts: Instead, one text or several, which are embedded.
            n_results: Matches wanted of each query; if fewer records match, all of them come.
            ids: Search only among these records; unknown ones are ignored.
            where: Only those that match, by metadata.
            where_document: Only those that match, by document.
            include: Of ``documents, embeddings, metadatas, uris, distances``; IDs always come.
            query_ids: Instead, search by the vectors of these stored records.
            allow_partial: Leave out shards that cannot answer, and list them under the key
                `unsearched_shards`.
            explain: Tell under the key `plan` how the answer was found.

        Raises:
            DimensionMismatchError: A vector has another dimension than the collection.
            NotFoundError: Of `query_ids`, one is unknown.
        """
        return self._reader.query(
            (query_embeddings, query_texts, query_ids),
            n_results,
            ids,
            where,
            where_document,
            include,
            allow_partial=allow_partial,
            explain=explain,
        )

    def search(self, searches: SearchLike | Sequence[SearchLike]) -> SearchResult:
        """Rank records by vectors, texts and arithmetic on both; lower scores are better.

        Args:
            searches: One `shoal.Search` or several; or what says the same: a dict, or any object
                with ``to_dict()``, such as Chroma's.

        Returns:
            One list for each search, best first, with what it selected.
        """
        return self._ranker.search(searches)

    def hybrid_search(
        self,
        query: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None,
        knn: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None,
        rank: Mapping[str, Any] | None = None,
        n_results: int = 10,
        include: Sequence[str] | None = None,
    ) -> SearchResult:
        """Search by text and by vector at once; higher scores are better.

        Args:
            query: Texts that documents are to fit, by BM25: ``where_document`` with the text under
                ``$contains``, ``where``, ``n_results`` (candidates), ``boost`` (weight). With
                ``where`` alone nothing is ranked: what matches comes in order of insertion.
            knn: Vectors to be near to: ``query_embeddings`` or ``query_texts``, and ``where``,
                ``where_document``, ``n_results``, ``boost``.
            rank: ``{"rrf": {"rank_window_size": …, "rank_constant": 60}}``: how several routes are
                fused; by reciprocal rank fusion also if it is None. A single route without it gives
                its own scores: BM25's, or the negative distance.
            n_results: How many records are wanted.
            include: Of ``documents, metadatas, embeddings, uris``; None: the first two. IDs and
                scores always come.

        Returns:
            One list in each column, best first.
        """
        return self._ranker.hybrid_search(query, knn, rank, n_results, include)

    def modify(
        self,
        name: str | None = None,
        metadata: Mapping[str, str | int | float | bool] | None = None,
        configuration: Mapping[str, Any] | None = None,
    ) -> None:
        """Change the collection.

        Args:
            name: Its new name.
            metadata: Replaces the metadata whole.
            configuration: New values of `ef_search`, `num_threads`, `batch_size`, `sync_threshold`
                and `resize_factor`, under ``hnsw``; or a new configuration of the same
                ``embedding_function``.

        Raises:
            CollectionExistsError: The name is taken.
            InvalidArgumentError: Something in the configuration cannot change.
        """
        if name is None and metadata is None and configuration is None:
            return
        hnsw, function = check_changes(configuration)
        _definitions.check_changed_metadata(metadata, self._message)
        request = collection_service_pb2.UpdateCollectionRequest(
            collection=self._reference,
            new_name=None if name is None else _requests.checked_name("collection", name),
            new_metadata=_requests.collection_metadata(metadata),
            new_hnsw=hnsw_to_message(hnsw) if hnsw else None,
            new_embedding_function=_definitions.check_changed_function(function, self._message),
        )
        response = self._session.call(UPDATE_COLLECTION, request)
        self._message.CopyFrom(response.collection)

    def clone(
        self,
        name: str,
        configuration: HNSWConfiguration | Mapping[str, Any] | None = None,
        where: Where | None = None,
        where_document: WhereDocument | None = None,
        *,
        progress: bool = False,
    ) -> Collection:
        """Make another collection of this one on the server, as it is at one point in time.

        The records keep their order, and do not leave the cluster. Takes as long as it takes;
        `timeout` is that of each call. All is there when it returns, and nothing if it fails.

        Args:
            name: Of the clone, in the same database.
            configuration: What is to be otherwise: space, quantization, shards, `max_neighbors` and
                the rest; the dimension cannot differ.
            where: Only records that match, by metadata.
            where_document: Only records that match, by document.
            progress: Whether to show a progress bar.

        Raises:
            CollectionExistsError: The name is taken.
            InvalidArgumentError: The records do not fit the configuration.
            FailedPreconditionError: The server has no snapshot store.
        """
        limits = self._session.limits()
        overrides, function = _definitions.define_overrides(configuration)
        request = snapshot_service_pb2.CloneCollectionRequest(
            operation_id=operations.new_operation_id(),
            source=self._reference,
            into=_requests.checked_name("collection", name),
            configuration=overrides,
            where=_requests.check_where(where, limits),
            where_document=_requests.check_where_document(where_document, limits),
        )
        response = operations.finish(
            self._session, CLONE_COLLECTION, request, f"cloning {self.name}", progress=progress
        )
        embedder = _definitions.embedder_of(response.collection, function)
        return Collection(self._session, response.collection, embedder)

    def copy_to(
        self,
        client: Client,
        name: str | None = None,
        where: Where | None = None,
        where_document: WhereDocument | None = None,
        embedding_function: CreateChoice | Choice = Choice.STORED,
        *,
        progress: bool = False,
    ) -> Collection:
        """Copy the collection to any client: the same, of another server, or embedded.

        Args:
            client: Where to.
            name: The copy's name, which must be free; None: the same.
            where: Only records that match, by metadata.
            where_document: Only records that match, by document.
            embedding_function: Of the copy. By default that of this collection, whose vectors are
                copied as they are; another one embeds all documents again, in a space that it
                supports.
            progress: Whether to show a progress bar.

        Raises:
            CollectionExistsError: The name is taken there.
            InvalidArgumentError: A record has no document to be embedded again.
        """
        copy = _definitions.define_copy(
            self._message,
            client.tenant,
            client.database,
            self.name if name is None else name,
            embedding_function,
        )
        target = client._create(copy.definition)
        total = self.count(where, where_document)
        include: list[Include] = ["metadatas", "documents", "uris"]
        if not copy.embeds_again:
            include.append("embeddings")
        with Progress(progress, total, f"copying {self.name}") as bar:
            for batch in self.iterate(1_000, where, where_document, include):
                target.add(
                    batch["ids"],
                    batch["embeddings"],
                    batch["metadatas"],
                    batch["documents"],
                    batch["uris"],
                )
                bar.advance(len(batch["ids"]))
        return target
