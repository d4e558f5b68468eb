"""What a type checker says of the public surface, and that nothing else comes with it."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING, Any, assert_type
from uuid import UUID

import numpy as np
import numpy.typing as npt

import shoal

if TYPE_CHECKING:
    # Never run: `make check` has mypy read it.
    Vectors = npt.NDArray[np.float32]

    def results_of_the_blocking_client(client: shoal.Client) -> None:
        books = client.create_collection("books")
        assert_type(books, shoal.Collection)
        assert_type(client.get_collection("books"), shoal.Collection)
        assert_type(client.list_collections(), list[shoal.Collection])
        assert_type(client.heartbeat(), int)
        assert_type(books.id, UUID)
        assert_type(books.metadata, dict[str, Any] | None)
        assert_type(books.dimension, int | None)
        assert_type(books.configuration, shoal.CollectionConfiguration)
        assert_type(books.add("a", [1.0, 2.0]), shoal.WriteResult)
        assert_type(books.add(["a"], np.zeros((1, 2))).added, int)
        books.query([[1, 1], [9, 0.1]])
        books.query([1, 0.5])
        books.query(((1, 2), (3.0, 4)))
        books.query([np.zeros(2), np.ones(2)])
        books.add(["a", "b"], [[1, 1], [9, 0.1]], [{"n": 1}, None], ["one", None], ["u", None])
        books.upsert("a", [1, 0.5], {"n": 1, "tags": ["x"], "gone": None}, "one")
        books.update(("a", "b"), [np.zeros(2), np.ones(2)])
        books.add(["x"], ["ab"])  # type: ignore[list-item]
        assert_type(books.delete("a")["deleted"], int)
        assert_type(books.delete(where={"n": 1}, limit=3), shoal.DeleteResult)
        assert_type(books.update_where({"n": 1}, {"m": 2}).matched, int)
        assert_type(books.upsert_dataframe(object()), shoal.WriteResult)
        assert_type(books.add_arrow(object()), shoal.WriteResult)
        assert_type(books.peek(), shoal.GetResult)
        assert_type(books.count(where={"n": 1}), int)
        assert_type(books.list_ids("a"), shoal.IdPage)
        assert_type(books.configuration["hnsw"], dict[str, Any])
        assert_type(
            books.configuration["embedding_function"], shoal.EmbeddingFunctionDescription | None
        )
        found = books.get(include=["documents"])
        assert_type(found, shoal.GetResult)
        assert_type(found["ids"], list[str])
        assert_type(found["embeddings"], Vectors | None)
        assert_type(found["documents"], list[str | None] | None)
        assert_type(found["metadatas"], list[dict[str, Any] | None] | None)
        assert_type(found["data"], None)
        assert_type(found.rows(), list[shoal.Row])
        assert_type(found.rows()[0]["document"], str | None)
        nearest = books.query(query_texts="x", explain=True)
        assert_type(nearest["ids"], list[list[str]])
        assert_type(nearest["distances"], list[list[float]] | None)
        assert_type(nearest["embeddings"], list[Vectors] | None)
        assert_type(nearest["plan"], shoal.QueryPlan)
        assert_type(nearest["plan"]["shards"][0]["candidate_count"], int)
        assert_type(nearest.rows(), list[list[shoal.Row]])
        assert_type(books.list_ids().next_page_token, str | None)
        assert_type([batch for batch in books.iterate()], list[shoal.GetResult])  # noqa: C416
        assert_type(books.copy_to(client, "copy"), shoal.Collection)

    def results_of_the_clients(client: shoal.Client, admin: shoal.AdminClient) -> None:
        assert_type(client.has_collection("books"), bool)
        assert_type(client.count_collections(), int)
        assert_type(client.get_version(), str)
        assert_type(client.get_max_batch_size(), int)
        assert_type(client.reset(), bool)
        assert_type(client.get_collection_by_id("x"), shoal.Collection)
        assert_type(client.tenant, str)
        assert_type(admin.create_tenant("acme")["name"], str)
        assert_type(admin.get_database("library")["id"], str)
        assert_type(admin.list_databases(limit=1)[0]["tenant"], str)
        with shoal.EphemeralClient() as entered:
            assert_type(entered, shoal.EphemeralClient)

    async def results_of_the_asyncio_client(client: shoal.AsyncClient) -> None:
        async with client as entered:
            assert_type(entered, shoal.AsyncClient)
        books = await client.get_or_create_collection("books", embedding_function=None)
        assert_type(books, shoal.AsyncCollection)
        assert_type(await books.get(), shoal.GetResult)
        assert_type(await books.query([1.0]), shoal.QueryResult)
        assert_type([batch async for batch in books.iterate()], list[shoal.GetResult])
        assert_type(await client.list_collections(), list[shoal.AsyncCollection])
        assert_type(await books.copy_to(client, "copy"), shoal.AsyncCollection)

    def wrong_uses(client: shoal.Client) -> None:
        client.create_collection(7)  # type: ignore[arg-type]
        books = client.get_collection("books", embedding_function=shoal.STORED)
        books.get(include=["everything"])  # type: ignore[list-item]
        client.create_collection("x", embedding_function=shoal.STORED)  # type: ignore[arg-type]


def test_the_client_brings_nothing_of_the_server() -> None:
    script = (
        "import sys, shoal; print([m for m in sys.modules if m.partition('.')[0] in "
        "('usearch', 'lmdb', 'prometheus_client', 'xxhash', 'structlog', 're2', 'onnxruntime', "
        "'tokenizers', 'pandas', 'polars', 'pyarrow', 'tqdm', 'shoal_gateway', 'shoal_worker', "
        "'shoal_coordinator', 'shoal_local') or m.startswith(('shoal.server', 'shoal.internal'))])"
    )
    ran = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=240
    )
    assert ran.stdout.strip() == "[]"


def test_the_two_clients_have_the_same_methods() -> None:
    for blocking, asynchronous in (
        (shoal.Client, shoal.AsyncClient),
        (shoal.PersistentClient, shoal.AsyncPersistentClient),
        (shoal.EphemeralClient, shoal.AsyncEphemeralClient),
        (shoal.AdminClient, shoal.AsyncAdminClient),
        (shoal.Collection, shoal.AsyncCollection),
    ):
        public = [name for name in dir(blocking) if not name.startswith("_")]
        assert public == [name for name in dir(asynchronous) if not name.startswith("_")]


def test_everything_that_is_named_public_is_there() -> None:
    assert all(hasattr(shoal, name) for name in shoal.__all__)
    assert len(set(shoal.__all__)) == len(shoal.__all__)
