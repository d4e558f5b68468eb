"""Waiting for snapshots and backups, and looking into their store."""

from __future__ import annotations

import os
import time
from pathlib import Path

import shoal
from shoal import AdminClient, Backup, Snapshot

TIMEOUT_S = 240.0


def ended(client: shoal.Client, name: str) -> Snapshot:
    """Wait until a snapshot is ready, or failed."""
    give_up_at = time.monotonic() + TIMEOUT_S
    while (found := client.describe_snapshot(name)).status == "Initializing":
        assert time.monotonic() < give_up_at, found
        time.sleep(0.02)
    return found


def ready(client: shoal.Client, name: str) -> Snapshot:
    """Wait until a snapshot is ready."""
    found = ended(client, name)
    assert found.status == "Ready", found.failure
    return found


def gone(client: shoal.Client, name: str) -> None:
    """Wait until a snapshot that is deleted is there no more: last of all it is no longer known."""
    give_up_at = time.monotonic() + TIMEOUT_S
    while name in [snapshot.name for snapshot in client.list_snapshots()]:
        assert time.monotonic() < give_up_at, name
        time.sleep(0.02)


def backup_ended(admin: AdminClient, name: str) -> Backup:
    """Wait until a backup is ready, or failed."""
    give_up_at = time.monotonic() + TIMEOUT_S
    while (found := admin.describe_backup(name)).status == "Initializing":
        assert time.monotonic() < give_up_at, found
        time.sleep(0.02)
    return found


def files(data: Path) -> list[str]:
    """What lies in the snapshot store of a data directory."""
    store = data / "snapshots"
    # Directories go while this looks, which `os.walk` passes over.
    found = [Path(place, name) for place, _, names in os.walk(store) for name in names]
    return sorted(str(path.relative_to(store)) for path in found)


def files_become(data: Path, expected: list[str]) -> None:
    """Wait until the store holds these files."""
    give_up_at = time.monotonic() + TIMEOUT_S
    while files(data) != expected:
        assert time.monotonic() < give_up_at, (files(data), expected)
        time.sleep(0.05)
