"""The public API by bare stubs, in the shape of the client: what other languages see.

Nothing is checked, completed, split or repeated here, and no code of the client is used: an
argument becomes the field that stands for it, and an answer the dict that says the same. So a rule
that holds through this one is kept by the server itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any
from uuid import UUID

import grpc
import numpy as np

from shoal.v1 import (
    admin_service_pb2,
    admin_service_pb2_grpc,
    collection_pb2,
    collection_service_pb2,
    collection_service_pb2_grpc,
    filter_pb2,
    record_service_pb2,
    record_service_pb2_grpc,
    value_pb2,
)
from shoal.wire import status

_CALL_S = 120.0
_SPACES = {"l2": 1, "cosine": 2, "ip": 3}
_QUANTIZATIONS = {"f32": 1, "f16": 2, "bf16": 3, "i8": 4}
_INCLUDES: dict[str, Any] = {
    "documents": 1,
    "metadatas": 2,
    "embeddings": 3,
    "uris": 4,
    "distances": 5,
}
_METHODS = {0: "unknown", 1: "nothing", 2: "exact", 3: "graph"}
_UNKNOWN: Any = 99
_KINDS = {str: "string", int: "int", float: "double", bool: "bool"}


class Raw:
    """A client of one database."""

    def __init__(self, port: int, database: str, tenant: str = "default_tenant") -> None:
        # gRPC receives 4 MiB by default; an answer of Shoal's may have 64.
        receive = ("grpc.max_receive_message_length", 72 * 2**20)
        self._channel = grpc.insecure_channel(f"127.0.0.1:{port}", options=[receive])
        self._services = (
            admin_service_pb2_grpc.AdminServiceStub(self._channel),
            collection_service_pb2_grpc.CollectionServiceStub(self._channel),
            record_service_pb2_grpc.RecordServiceStub(self._channel),
        )
        self.tenant, self.database = tenant, database
        self._home: Any = {"tenant": tenant, "database": database}

    def close(self) -> None:
        self._channel.close()

    def call(self, method: str, request: Any) -> Any:
        """Call once, raising `ShoalError`."""
        service = next(s for s in self._services if hasattr(s, method))
        try:
            return getattr(service, method)(request, timeout=_CALL_S)
        except grpc.RpcError as error:
            failed: Any = error
            trailers = dict(failed.trailing_metadata() or ())
            raise status.decode(
                failed.code().name, failed.details(), trailers.get(status.TRAILER)
            ) from None

    def create_collection(
        self,
        name: str,
        configuration: Mapping[str, Any] | None = None,
        metadata: Mapping[str, Any] | None = None,
        embedding_function: None = None,
        get_or_create: bool = False,
    ) -> RawCollection:
        request = collection_service_pb2.CreateCollectionRequest(
            **self._home, name=name, get_or_create=get_or_create
        )
        if configuration is not None:
            request.configuration.hnsw.CopyFrom(_hnsw(configuration["hnsw"]))
        if metadata is not None:
            request.metadata.CopyFrom(_metadata(metadata))
        return RawCollection(self, self.call("CreateCollection", request).collection)

    def get_or_create_collection(self, name: str, **options: Any) -> RawCollection:
        return self.create_collection(name, **options, get_or_create=True)

    def get_collection(self, name: str) -> RawCollection:
        return self._found(name=name)

    def get_collection_by_id(self, id: object) -> RawCollection:  # noqa: A002 (as the client has it)
        return self._found(id=str(id))

    def _found(self, **target: str) -> RawCollection:
        reference = collection_pb2.CollectionReference(**self._home, **target)
        request = collection_service_pb2.GetCollectionRequest(collection=reference)
        return RawCollection(self, self.call("GetCollection", request).collection)

    def delete_collection(self, name: str) -> None:
        reference = collection_pb2.CollectionReference(**self._home, name=name)
        self.call(
            "DeleteCollection", collection_service_pb2.DeleteCollectionRequest(collection=reference)
        )

    def list_collections(
        self, limit: int | None = None, offset: int | None = None
    ) -> list[RawCollection]:
        request = collection_service_pb2.ListCollectionsRequest(
            **self._home, limit=limit, offset=offset or 0
        )
        return [RawCollection(self, c) for c in self.call("ListCollections", request).collections]

    def count_collections(self) -> int:
        request = collection_service_pb2.CountCollectionsRequest(**self._home)
        count: int = self.call("CountCollections", request).count
        return count

    def reset(self) -> None:
        self.call("Reset", admin_service_pb2.ResetRequest())


class RawCollection:
    """A collection, by its ID."""

    def __init__(self, client: Raw, message: collection_pb2.Collection) -> None:
        self._client = client
        self._message = message
        self._reference = collection_pb2.CollectionReference(
            tenant=message.tenant, database=message.database, id=message.id
        )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RawCollection) and other._message.id == self._message.id

    def __hash__(self) -> int:
        return hash(self._message.id)

    @property
    def id(self) -> UUID:
        return UUID(self._message.id)

    @property
    def name(self) -> str:
        return self._message.name

    @property
    def metadata(self) -> dict[str, Any] | None:
        return _plain(self._message.metadata)

    @property
    def dimension(self) -> int | None:
        fresh = self._client.get_collection_by_id(self.id)
        return fresh._message.dimension or None

    @property
    def configuration(self) -> dict[str, Any]:
        hnsw = self._client.get_collection_by_id(self.id)._message.configuration.hnsw
        values: dict[str, Any] = {f.name: getattr(hnsw, f.name) for f in hnsw.DESCRIPTOR.fields}
        values["space"] = {n: name for name, n in _SPACES.items()}[hnsw.space]
        values["quantization"] = {n: name for name, n in _QUANTIZATIONS.items()}[hnsw.quantization]
        return {"hnsw": values}

    def add(self, *args: Any, **columns: Any) -> Any:
        return self._write("Add", record_service_pb2.AddRequest, *args, **columns)

    def upsert(self, *args: Any, **columns: Any) -> Any:
        return self._write("Upsert", record_service_pb2.UpsertRequest, *args, **columns)

    def update(self, *args: Any, **columns: Any) -> Any:
        return self._write("Update", record_service_pb2.UpdateRequest, *args, **columns)

    def _write(
        self,
        method: str,
        kind: Any,
        ids: Any,
        embeddings: Any = None,
        metadatas: Any = None,
        documents: Any = None,
        uris: Any = None,
    ) -> Any:
        batch = value_pb2.RecordBatch(
            ids=_listed(ids),
            vectors=_block(embeddings),
            metadatas=None if metadatas is None else [_metadata(m) for m in _listed(metadatas)],
            documents=_texts(documents),
            uris=_texts(uris),
        )
        answer = self._client.call(method, kind(collection=self._reference, records=batch))
        counts = {name: getattr(answer, name, 0) for name in ("added", "updated", "ignored")}
        return _Counts(counts)

    def update_where(
        self, where: Any, metadata: Any, dry_run: bool = False, where_document: Any = None
    ) -> Any:
        request = record_service_pb2.UpdateWhereRequest(
            collection=self._reference,
            where=_where(where),
            where_document=_where_document(where_document),
            metadata=_metadata(metadata),
            dry_run=dry_run,
        )
        answer = self._client.call("UpdateWhere", request)
        return _Counts({"matched": answer.matched, "updated": answer.updated})

    def delete(
        self, ids: Any = None, where: Any = None, where_document: Any = None, limit: Any = None
    ) -> Any:
        request = record_service_pb2.DeleteRequest(
            collection=self._reference,
            ids=_ids(ids),
            where=_where(where),
            where_document=_where_document(where_document),
            limit=limit,
        )
        return _Counts({"deleted": self._client.call("Delete", request).deleted})

    def get(
        self,
        ids: Any = None,
        where: Any = None,
        where_document: Any = None,
        limit: Any = None,
        offset: Any = None,
        include: Any = ("metadatas", "documents"),
    ) -> dict[str, Any]:
        request = record_service_pb2.GetRequest(
            collection=self._reference,
            ids=_ids(ids),
            where=_where(where),
            where_document=_where_document(where_document),
            limit=limit,
            offset=offset or 0,
            include=[_INCLUDES[name] for name in include],
        )
        return _columns(self._client.call("Get", request).records, include)

    def peek(self, limit: int = 10) -> dict[str, Any]:
        return self.get(limit=limit, include=("embeddings", "metadatas", "documents"))

    def count(self, where: Any = None, where_document: Any = None) -> int:
        request = record_service_pb2.CountRequest(
            collection=self._reference,
            where=_where(where),
            where_document=_where_document(where_document),
        )
        count: int = self._client.call("Count", request).count
        return count

    def iterate(
        self,
        batch_size: int = 1_000,
        where: Any = None,
        where_document: Any = None,
        include: Any = ("metadatas", "documents"),
    ) -> Iterator[dict[str, Any]]:
        request = record_service_pb2.GetRequest(
            collection=self._reference,
            where=_where(where),
            where_document=_where_document(where_document),
            limit=batch_size,
            include=[_INCLUDES[name] for name in include],
        )
        while True:
            answer = self._client.call("Get", request)
            if answer.records.ids:
                yield _columns(answer.records, include)
            if not answer.next_page_token:
                return
            request.page_token = answer.next_page_token

    def list_ids(self, prefix: Any = None, limit: Any = None, page_token: Any = None) -> Any:
        answer = self._client.call(
            "ListIds",
            record_service_pb2.ListIdsRequest(
                collection=self._reference, prefix=prefix, limit=limit, page_token=page_token
            ),
        )
        return _Page(answer.ids, answer.next_page_token or None)

    def query(
        self,
        query_embeddings: Any = None,
        *,
        query_ids: Any = None,
        n_results: int = 10,
        ids: Any = None,
        where: Any = None,
        where_document: Any = None,
        include: Any = ("metadatas", "documents", "distances"),
        allow_partial: bool = False,
        explain: bool = False,
    ) -> dict[str, Any]:
        request = record_service_pb2.QueryRequest(
            collection=self._reference,
            query_vectors=_block(query_embeddings),
            query_ids=_ids(query_ids),
            n_results=n_results,
            ids=_ids(ids),
            where=_where(where),
            where_document=_where_document(where_document),
            include=[_INCLUDES[name] for name in include],
            allow_partial=allow_partial,
            explain=explain,
        )
        answer = self._client.call("Query", request)
        flat = _columns(answer.records, include)
        flat["distances"] = list(answer.distances) if "distances" in include else None
        ends = np.cumsum(answer.match_counts).tolist()
        bounds = list(zip([0, *ends[:-1]], ends, strict=True))
        found: dict[str, Any] = {
            key: column if column is None or key == "included" else [column[a:b] for a, b in bounds]
            for key, column in flat.items()
        }
        if explain:
            shards = [
                {f.name: getattr(shard, f.name) for f in shard.DESCRIPTOR.fields}
                | {"method": _METHODS[shard.method]}
                for shard in answer.plan.shards
            ]
            sources = [shards[place]["shard_id"] for place in answer.plan.match_shards]
            found["plan"] = {"shards": shards, "match_shards": [sources[a:b] for a, b in bounds]}
        if allow_partial:
            found["unsearched_shards"] = list(answer.unsearched_shards)
        return found

    def modify(self, name: Any = None, metadata: Any = None, configuration: Any = None) -> None:
        request = collection_service_pb2.UpdateCollectionRequest(
            collection=self._reference,
            new_name=name,
            new_metadata=None if metadata is None else _metadata(metadata),
            new_hnsw=None if configuration is None else _hnsw(configuration["hnsw"]),
        )
        self._message = self._client.call("UpdateCollection", request).collection


class _Counts(dict[str, int]):
    def __getattr__(self, name: str) -> int:
        return self[name]


class _Page(list[str]):
    def __init__(self, ids: Any, next_page_token: str | None) -> None:
        super().__init__(ids)
        self.next_page_token = next_page_token


def _listed(column: Any) -> list[Any]:
    return [column] if isinstance(column, str | Mapping) else list(column)


def _ids(ids: Any) -> value_pb2.IdList | None:
    return None if ids is None else value_pb2.IdList(values=_listed(ids))


def _block(vectors: Any) -> value_pb2.VectorBlock | None:
    if vectors is None:
        return None
    array = np.atleast_2d(np.asarray(vectors, "<f4"))
    return value_pb2.VectorBlock(dimension=array.shape[1], values=array.tobytes())


def _texts(texts: Any) -> value_pb2.StringColumn | None:
    if texts is None:
        return None
    rows = _listed(texts)
    return value_pb2.StringColumn(
        values=[row or "" for row in rows], absent=[n for n, row in enumerate(rows) if row is None]
    )


def _value(value: Any) -> value_pb2.Value:
    if value is None:
        return value_pb2.Value(null_value=value_pb2.Null())
    if not isinstance(value, list):
        scalar: Any = {f"{_KINDS[type(value)]}_value": value}
        return value_pb2.Value(**scalar)
    kind = _KINDS[type(value[0])] if value else "int"
    message = value_pb2.Value()
    getattr(message, f"{kind}_list").SetInParent()
    getattr(message, f"{kind}_list").values.extend(value)
    return message


def _metadata(metadata: Mapping[str, Any] | None) -> value_pb2.Metadata:
    return value_pb2.Metadata(fields={key: _value(v) for key, v in (metadata or {}).items()})


def _plain(metadata: value_pb2.Metadata) -> dict[str, Any] | None:
    plain: dict[str, Any] = {}
    for key, value in metadata.fields.items():
        kind = value.WhichOneof("kind")
        assert kind is not None
        content = getattr(value, kind)
        plain[key] = list(content.values) if kind.endswith("_list") else content
    return plain or None


def _columns(records: value_pb2.RecordColumns, include: Any) -> dict[str, Any]:
    def texts(column: value_pb2.StringColumn) -> list[str | None]:
        absent = set(column.absent)
        return [None if n in absent else text for n, text in enumerate(column.values)]

    vectors = np.frombuffer(records.vectors.values, "<f4")
    width = records.vectors.dimension
    return {
        "ids": list(records.ids),
        "embeddings": vectors.reshape(-1, width or 1) if "embeddings" in include else None,
        "documents": texts(records.documents) if "documents" in include else None,
        "uris": texts(records.uris) if "uris" in include else None,
        "data": None,
        "metadatas": [_plain(m) for m in records.metadatas] if "metadatas" in include else None,
        "included": list(include),
    }


def _hnsw(hnsw: Mapping[str, Any]) -> collection_pb2.HnswConfiguration:
    words = {
        **hnsw,
        **({"space": _SPACES.get(hnsw["space"], 99)} if "space" in hnsw else {}),
        **(
            {"quantization": _QUANTIZATIONS.get(hnsw["quantization"], 99)}
            if "quantization" in hnsw
            else {}
        ),
    }
    return collection_pb2.HnswConfiguration(**words)


def _where(where: Any) -> filter_pb2.Where | None:
    if where is None:
        return None
    message = filter_pb2.Where()
    for key, operand in where.items():
        if key in ("$and", "$or"):
            target = message.all_of if key == "$and" else message.any_of
            target.SetInParent()
            target.clauses.extend(_filled(_where(clause)) for clause in operand)
        elif key == "$not":
            message.negation.CopyFrom(_filled(_where(operand)))
        else:
            operator, literal = ("$eq", operand)
            if isinstance(operand, Mapping):
                [(operator, literal)] = operand.items()
            name = f"WHERE_OPERATOR_{operator[1:].upper()}"
            message.condition.field = key
            message.condition.operator = getattr(filter_pb2, name, _UNKNOWN)
            message.condition.operand.CopyFrom(_value(literal))
    return message


def _where_document(where: Any) -> filter_pb2.WhereDocument | None:
    if where is None:
        return None
    message = filter_pb2.WhereDocument()
    for key, operand in where.items():
        if key in ("$and", "$or"):
            target = message.all_of if key == "$and" else message.any_of
            target.SetInParent()
            target.clauses.extend(_filled(_where_document(clause)) for clause in operand)
        elif key == "$not":
            message.negation.CopyFrom(_filled(_where_document(operand)))
        else:
            name = f"DOCUMENT_OPERATOR_{key[1:].upper()}"
            message.condition.operator = getattr(filter_pb2, name, _UNKNOWN)
            message.condition.operand = operand
    return message


def _filled(message: Any) -> Any:
    assert message is not None
    return message
