"""The methods of the public API, as the client calls them.

A method knows its messages and whether repeating it can do harm, so that the code that sends and
repeats calls needs to know nothing about any of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from google.protobuf.message import Message

from shoal.v1 import admin_service_pb2 as admin
from shoal.v1 import collection_service_pb2 as collections
from shoal.v1 import record_service_pb2 as records
from shoal.v1 import snapshot_service_pb2 as snapshots

Request = TypeVar("Request", bound=Message)
Response = TypeVar("Response", bound=Message)


@dataclass(frozen=True, slots=True)
class Method(Generic[Request, Response]):
    """One RPC.

    Attributes:
        service: The service's full name.
        name: The method's name.
        decode: Makes the response of its bytes.
        repeatable: Whether a call whose outcome is unknown may be sent again: it reads, it is
            idempotent, or it carries a write ID.
        has_session_token: Whether request and response carry a session token.
    """

    service: str
    name: str
    decode: Callable[[bytes], Response]
    repeatable: bool
    has_session_token: bool = False

    @property
    def path(self) -> str:
        """The path of its HTTP/2 request."""
        return f"/{self.service}/{self.name}"


_RECORDS: Final = "shoal.v1.RecordService"
_COLLECTIONS: Final = "shoal.v1.CollectionService"
_ADMIN: Final = "shoal.v1.AdminService"
_SNAPSHOTS: Final = "shoal.v1.SnapshotService"

ADD: Final[Method[records.AddRequest, records.AddResponse]] = Method(
    _RECORDS, "Add", records.AddResponse.FromString, True, True
)
UPSERT: Final[Method[records.UpsertRequest, records.UpsertResponse]] = Method(
    _RECORDS, "Upsert", records.UpsertResponse.FromString, True, True
)
UPDATE: Final[Method[records.UpdateRequest, records.UpdateResponse]] = Method(
    _RECORDS, "Update", records.UpdateResponse.FromString, True, True
)
UPDATE_WHERE: Final[Method[records.UpdateWhereRequest, records.UpdateWhereResponse]] = Method(
    _RECORDS, "UpdateWhere", records.UpdateWhereResponse.FromString, True, True
)
DELETE: Final[Method[records.DeleteRequest, records.DeleteResponse]] = Method(
    _RECORDS, "Delete", records.DeleteResponse.FromString, True, True
)
GET: Final[Method[records.GetRequest, records.GetResponse]] = Method(
    _RECORDS, "Get", records.GetResponse.FromString, True, True
)
COUNT: Final[Method[records.CountRequest, records.CountResponse]] = Method(
    _RECORDS, "Count", records.CountResponse.FromString, True, True
)
LIST_IDS: Final[Method[records.ListIdsRequest, records.ListIdsResponse]] = Method(
    _RECORDS, "ListIds", records.ListIdsResponse.FromString, True, True
)
QUERY: Final[Method[records.QueryRequest, records.QueryResponse]] = Method(
    _RECORDS, "Query", records.QueryResponse.FromString, True, True
)
SEARCH: Final[Method[records.SearchRequest, records.SearchResponse]] = Method(
    _RECORDS, "Search", records.SearchResponse.FromString, True, True
)

# A creation or deletion whose answer was lost would, repeated, complain about its own success.
CREATE_COLLECTION: Final[
    Method[collections.CreateCollectionRequest, collections.CreateCollectionResponse]
] = Method(_COLLECTIONS, "CreateCollection", collections.CreateCollectionResponse.FromString, False)
GET_OR_CREATE_COLLECTION: Final[
    Method[collections.CreateCollectionRequest, collections.CreateCollectionResponse]
] = Method(_COLLECTIONS, "CreateCollection", collections.CreateCollectionResponse.FromString, True)
GET_COLLECTION: Final[
    Method[collections.GetCollectionRequest, collections.GetCollectionResponse]
] = Method(_COLLECTIONS, "GetCollection", collections.GetCollectionResponse.FromString, True)
LIST_COLLECTIONS: Final[
    Method[collections.ListCollectionsRequest, collections.ListCollectionsResponse]
] = Method(_COLLECTIONS, "ListCollections", collections.ListCollectionsResponse.FromString, True)
COUNT_COLLECTIONS: Final[
    Method[collections.CountCollectionsRequest, collections.CountCollectionsResponse]
] = Method(_COLLECTIONS, "CountCollections", collections.CountCollectionsResponse.FromString, True)
UPDATE_COLLECTION: Final[
    Method[collections.UpdateCollectionRequest, collections.UpdateCollectionResponse]
] = Method(_COLLECTIONS, "UpdateCollection", collections.UpdateCollectionResponse.FromString, True)
DELETE_COLLECTION: Final[
    Method[collections.DeleteCollectionRequest, collections.DeleteCollectionResponse]
] = Method(_COLLECTIONS, "DeleteCollection", collections.DeleteCollectionResponse.FromString, False)

HEARTBEAT: Final[Method[admin.HeartbeatRequest, admin.HeartbeatResponse]] = Method(
    _ADMIN, "Heartbeat", admin.HeartbeatResponse.FromString, True
)
GET_VERSION: Final[Method[admin.GetVersionRequest, admin.GetVersionResponse]] = Method(
    _ADMIN, "GetVersion", admin.GetVersionResponse.FromString, True
)
GET_LIMITS: Final[Method[admin.GetLimitsRequest, admin.GetLimitsResponse]] = Method(
    _ADMIN, "GetLimits", admin.GetLimitsResponse.FromString, True
)
GET_STATUS: Final[Method[admin.GetStatusRequest, admin.GetStatusResponse]] = Method(
    _ADMIN, "GetStatus", admin.GetStatusResponse.FromString, True
)
RESET: Final[Method[admin.ResetRequest, admin.ResetResponse]] = Method(
    _ADMIN, "Reset", admin.ResetResponse.FromString, True
)
CREATE_TENANT: Final[Method[admin.CreateTenantRequest, admin.CreateTenantResponse]] = Method(
    _ADMIN, "CreateTenant", admin.CreateTenantResponse.FromString, False
)
GET_TENANT: Final[Method[admin.GetTenantRequest, admin.GetTenantResponse]] = Method(
    _ADMIN, "GetTenant", admin.GetTenantResponse.FromString, True
)
CREATE_DATABASE: Final[Method[admin.CreateDatabaseRequest, admin.CreateDatabaseResponse]] = Method(
    _ADMIN, "CreateDatabase", admin.CreateDatabaseResponse.FromString, False
)
GET_DATABASE: Final[Method[admin.GetDatabaseRequest, admin.GetDatabaseResponse]] = Method(
    _ADMIN, "GetDatabase", admin.GetDatabaseResponse.FromString, True
)
LIST_DATABASES: Final[Method[admin.ListDatabasesRequest, admin.ListDatabasesResponse]] = Method(
    _ADMIN, "ListDatabases", admin.ListDatabasesResponse.FromString, True
)
DELETE_DATABASE: Final[Method[admin.DeleteDatabaseRequest, admin.DeleteDatabaseResponse]] = Method(
    _ADMIN, "DeleteDatabase", admin.DeleteDatabaseResponse.FromString, False
)

CREATE_SNAPSHOT: Final[
    Method[snapshots.CreateSnapshotRequest, snapshots.CreateSnapshotResponse]
] = Method(_SNAPSHOTS, "CreateSnapshot", snapshots.CreateSnapshotResponse.FromString, False)
GET_SNAPSHOT: Final[Method[snapshots.GetSnapshotRequest, snapshots.GetSnapshotResponse]] = Method(
    _SNAPSHOTS, "GetSnapshot", snapshots.GetSnapshotResponse.FromString, True
)
LIST_SNAPSHOTS: Final[Method[snapshots.ListSnapshotsRequest, snapshots.ListSnapshotsResponse]] = (
    Method(_SNAPSHOTS, "ListSnapshots", snapshots.ListSnapshotsResponse.FromString, True)
)
DELETE_SNAPSHOT: Final[
    Method[snapshots.DeleteSnapshotRequest, snapshots.DeleteSnapshotResponse]
] = Method(_SNAPSHOTS, "DeleteSnapshot", snapshots.DeleteSnapshotResponse.FromString, False)
# These name their operation: a repetition waits for what the first has begun.
RESTORE_SNAPSHOT: Final[
    Method[snapshots.RestoreSnapshotRequest, snapshots.RestoreSnapshotResponse]
] = Method(_SNAPSHOTS, "RestoreSnapshot", snapshots.RestoreSnapshotResponse.FromString, True)
CLONE_COLLECTION: Final[
    Method[snapshots.CloneCollectionRequest, snapshots.CloneCollectionResponse]
] = Method(_SNAPSHOTS, "CloneCollection", snapshots.CloneCollectionResponse.FromString, True)
RESTORE_BACKUP: Final[Method[snapshots.RestoreBackupRequest, snapshots.RestoreBackupResponse]] = (
    Method(_SNAPSHOTS, "RestoreBackup", snapshots.RestoreBackupResponse.FromString, True)
)
CREATE_BACKUP: Final[Method[snapshots.CreateBackupRequest, snapshots.CreateBackupResponse]] = (
    Method(_SNAPSHOTS, "CreateBackup", snapshots.CreateBackupResponse.FromString, False)
)
GET_BACKUP: Final[Method[snapshots.GetBackupRequest, snapshots.GetBackupResponse]] = Method(
    _SNAPSHOTS, "GetBackup", snapshots.GetBackupResponse.FromString, True
)
LIST_BACKUPS: Final[Method[snapshots.ListBackupsRequest, snapshots.ListBackupsResponse]] = Method(
    _SNAPSHOTS, "ListBackups", snapshots.ListBackupsResponse.FromString, True
)
DELETE_BACKUP: Final[Method[snapshots.DeleteBackupRequest, snapshots.DeleteBackupResponse]] = (
    Method(_SNAPSHOTS, "DeleteBackup", snapshots.DeleteBackupResponse.FromString, False)
)
# A second one would be another key.
CREATE_API_KEY: Final[Method[admin.CreateApiKeyRequest, admin.CreateApiKeyResponse]] = Method(
    _ADMIN, "CreateApiKey", admin.CreateApiKeyResponse.FromString, False
)
LIST_API_KEYS: Final[Method[admin.ListApiKeysRequest, admin.ListApiKeysResponse]] = Method(
    _ADMIN, "ListApiKeys", admin.ListApiKeysResponse.FromString, True
)
REVOKE_API_KEY: Final[Method[admin.RevokeApiKeyRequest, admin.RevokeApiKeyResponse]] = Method(
    _ADMIN, "RevokeApiKey", admin.RevokeApiKeyResponse.FromString, False
)
SET_QUOTA: Final[Method[admin.SetQuotaRequest, admin.SetQuotaResponse]] = Method(
    _ADMIN, "SetQuota", admin.SetQuotaResponse.FromString, True
)
GET_QUOTA: Final[Method[admin.GetQuotaRequest, admin.GetQuotaResponse]] = Method(
    _ADMIN, "GetQuota", admin.GetQuotaResponse.FromString, True
)
LIST_QUOTAS: Final[Method[admin.ListQuotasRequest, admin.ListQuotasResponse]] = Method(
    _ADMIN, "ListQuotas", admin.ListQuotasResponse.FromString, True
)
