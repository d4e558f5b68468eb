"""Shoal: a vector-collection database that runs as a gRPC service.

```python
import shoal

client = shoal.Client()  # or shoal.PersistentClient("data"), without a server
collection = client.create_collection("books", configuration={"hnsw": {"space": "cosine"}})
collection.add(ids=["a", "b"], embeddings=[[1.0, 0.0], [0.6, 0.8]], documents=["one", "two"])
print(collection.query(query_embeddings=[1.0, 0.1], n_results=1))
```
"""

from typing import Final as _Final

from shoal import embedding_functions, errors
from shoal._async.admin import AsyncAdminClient
from shoal._async.client import AsyncClient, AsyncEphemeralClient, AsyncPersistentClient
from shoal._async.collection import AsyncCollection
from shoal._embedder import Choice as _Choice
from shoal._sync.admin import AdminClient
from shoal._sync.client import Client, EphemeralClient, PersistentClient
from shoal._sync.collection import Collection
from shoal._version import __version__
from shoal.access import ApiKeyInfo, CreatedApiKey, Grant, QuotaInfo, QuotaLimits, Scope
from shoal.configuration import (
    CollectionConfiguration,
    EmbeddingFunctionDescription,
    HNSWConfiguration,
)
from shoal.embedding_functions import (
    DefaultEmbeddingFunction,
    EmbeddingFunction,
    register_embedding_function,
)
from shoal.errors import (
    AlreadyExistsError,
    BackupExistsError,
    BackupNotFoundError,
    BatchTooLargeError,
    CollectionExistsError,
    CollectionNotFoundError,
    DatabaseExistsError,
    DatabaseNotFoundError,
    DataDirectoryLockedError,
    DataLossError,
    DeadlineExceededError,
    DimensionMismatchError,
    DuplicateIDError,
    FailedPreconditionError,
    InternalError,
    InvalidArgumentError,
    NotFoundError,
    OverloadedError,
    PartialWriteError,
    PermissionDeniedError,
    QuotaExceededError,
    ShoalError,
    SnapshotExistsError,
    SnapshotNotFoundError,
    TenantExistsError,
    TenantNotFoundError,
    UnauthenticatedError,
    UnavailableError,
    UnimplementedError,
)
from shoal.results import (
    DeleteResult,
    GetResult,
    IdPage,
    QueryPlan,
    QueryResult,
    Row,
    ShardPlan,
    UnsearchedShard,
    UpdateWhereResult,
    WriteResult,
)
from shoal.search import GroupBy, K, Key, Knn, MaxK, MinK, Rank, Rrf, Search, Text, Val
from shoal.search_result import SearchResult
from shoal.snapshots import Backup, Snapshot
from shoal.types import (
    DatabaseInfo,
    Embedding,
    Embeddings,
    Include,
    Metadata,
    MetadataValue,
    Space,
    SparseVector,
    TenantInfo,
    Where,
    WhereDocument,
)

DEFAULT: _Final = _Choice.DEFAULT
"""The embedding function that Shoal brings, where a collection is created."""

STORED: _Final = _Choice.STORED
"""The embedding function that a collection was created with, where it is fetched."""

__all__ = [
    "DEFAULT",
    "STORED",
    "AdminClient",
    "AlreadyExistsError",
    "ApiKeyInfo",
    "AsyncAdminClient",
    "AsyncClient",
    "AsyncCollection",
    "AsyncEphemeralClient",
    "AsyncPersistentClient",
    "Backup",
    "BackupExistsError",
    "BackupNotFoundError",
    "BatchTooLargeError",
    "Client",
    "Collection",
    "CollectionConfiguration",
    "CollectionExistsError",
    "CollectionNotFoundError",
    "CreatedApiKey",
    "DataDirectoryLockedError",
    "DataLossError",
    "DatabaseExistsError",
    "DatabaseInfo",
    "DatabaseNotFoundError",
    "DeadlineExceededError",
    "DefaultEmbeddingFunction",
    "DeleteResult",
    "DimensionMismatchError",
    "DuplicateIDError",
    "Embedding",
    "EmbeddingFunction",
    "EmbeddingFunctionDescription",
    "Embeddings",
    "EphemeralClient",
    "FailedPreconditionError",
    "GetResult",
    "Grant",
    "GroupBy",
    "HNSWConfiguration",
    "IdPage",
    "Include",
    "InternalError",
    "InvalidArgumentError",
    "K",
    "Key",
    "Knn",
    "MaxK",
    "Metadata",
    "MetadataValue",
    "MinK",
    "NotFoundError",
    "OverloadedError",
    "PartialWriteError",
    "PermissionDeniedError",
    "PersistentClient",
    "QueryPlan",
    "QueryResult",
    "QuotaExceededError",
    "QuotaInfo",
    "QuotaLimits",
    "Rank",
    "Row",
    "Rrf",
    "Scope",
    "Search",
    "SearchResult",
    "ShardPlan",
    "ShoalError",
    "Snapshot",
    "SnapshotExistsError",
    "SnapshotNotFoundError",
    "Space",
    "SparseVector",
    "TenantExistsError",
    "TenantInfo",
    "TenantNotFoundError",
    "Text",
    "UnauthenticatedError",
    "UnavailableError",
    "UnimplementedError",
    "UnsearchedShard",
    "UpdateWhereResult",
    "Val",
    "Where",
    "WhereDocument",
    "WriteResult",
    "__version__",
    "embedding_functions",
    "errors",
    "register_embedding_function",
]
