"""What is measured: Shoal, and what it is measured beside."""

from __future__ import annotations

from typing import Final

from benchmarks.peers.systems import Kind, chroma_server, shoal_server

SERVER: Final = "shoal server"
EMBEDDED: Final = "shoal embedded"

KINDS: Final = (
    Kind(SERVER, "shoal:Shoal", SERVER, shoal_server(0), is_own=True),
    Kind(
        "shoal server, 2 workers",
        "shoal:Shoal",
        SERVER,
        shoal_server(2),
        is_own=True,
        options={"shards": 2},
    ),
    Kind("chroma server", "chroma:Chroma", SERVER, chroma_server),
    Kind(EMBEDDED, "shoal:Shoal", EMBEDDED, is_own=True),
    Kind("chroma embedded", "chroma:Chroma", EMBEDDED),
    Kind("seekdb embedded", "seekdb:Seekdb", EMBEDDED),
    Kind("qdrant edge", "qdrant:Qdrant", EMBEDDED),
    Kind("milvus lite", "milvus:Milvus", EMBEDDED),
    Kind("lancedb", "lance:Lance", EMBEDDED),
    Kind("hnswlib", "hnswlib:Hnswlib", EMBEDDED, is_index=True),
    Kind("raw usearch", "usearch:Usearch", EMBEDDED, is_own=True, is_index=True),
)
"""Every system, the first of those it is compared with before it."""
