"""Create, write, search and delete through the gateway: `helm test` runs this."""

import os
import uuid

import shoal

host, _, port = os.environ["SHOAL_TEST_ADDRESS"].rpartition(":")
name = f"helm-test-{uuid.uuid4()}"
with shoal.Client(
    host=host,
    port=int(port),
    api_key=os.environ.get("SHOAL_TEST_API_KEY", "").strip() or None,
    ssl=os.environ.get("SHOAL_TEST_CA", False),
    timeout=60,
) as client:
    collection = client.create_collection(
        name, configuration={"hnsw": {"space": "l2"}}, embedding_function=None
    )
    try:
        collection.add(
            ids=["near", "far"],
            embeddings=[[1.0, 0.0], [0.0, 9.0]],
            documents=["the one", "the other"],
        )
        found = collection.query(query_embeddings=[[1.0, 0.5]], n_results=2)
        assert found["ids"] == [["near", "far"]], found
        assert found["distances"] == [[0.25, 73.25]], found
        collection.delete(ids=["far"])
        assert collection.count() == 1
    finally:
        client.delete_collection(name)
    assert not client.has_collection(name)
print(f"created, wrote, searched and deleted through {host}:{port}")
