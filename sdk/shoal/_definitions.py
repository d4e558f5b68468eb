"""How a collection is defined: the arguments of its creation as one request.

A space, dimension or function can be said in several places (configuration, older metadata keys,
the function itself). They must agree; here is where that is seen, before anything is sent.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from shoal import _embedder, _requests, configuration
from shoal._embedder import AnyFunction, Choice, Embedder
from shoal._record_configuration import check_records_part
from shoal.embedding_functions.default import DefaultEmbeddingFunction
from shoal.v1 import collection_pb2, collection_service_pb2
from shoal.wire.validation import invalid


@dataclass(frozen=True, slots=True)
class Definition:
    """A collection to be created.

    Attributes:
        request: Complete.
        function: What the user chose to embed with; None if nothing.
        embeds: Whether the collection embeds at all.
    """

    request: collection_service_pb2.CreateCollectionRequest
    function: AnyFunction | None
    embeds: bool

    def embedder(self, collection: collection_pb2.Collection) -> Embedder:
        """Make the embedder of the collection that came of it.

        Raises:
            InvalidArgumentError: The collection existed, with another function than the user's.
        """
        stored = _embedder.describe(collection.configuration)
        if not self.embeds:
            return Embedder(collection.name, None, None)
        if self.function is not None:
            _embedder.check_against_stored(self.function, stored, collection.name)
        return Embedder(collection.name, self.function, stored)


def define(
    tenant: str,
    database: str,
    name: object,
    configuration_: Any,
    metadata: Any,
    embedding_function: Any,
    *,
    get_or_create: bool,
) -> Definition:
    """Check what a user says of a collection, and make the request that creates it.

    Raises:
        InvalidArgumentError: Something is not allowed, or contradicts something else.
    """
    checked_name = _requests.checked_name("collection", name)
    metadata_message = _requests.collection_metadata(metadata)
    configured, described = configuration.split_configuration(configuration_)
    hnsw = configuration.merge_hnsw(configured, configuration.hnsw_of_metadata(metadata))
    function, message = _function(embedding_function, described)
    if function is not None:
        _embedder.check_dimensions_agree(function, hnsw.get("dimension"))
        _embedder.check_space_supported(function, hnsw.get("space"))
    request = collection_service_pb2.CreateCollectionRequest(
        tenant=tenant,
        database=database,
        name=checked_name,
        configuration=_records_part(configuration_),
        metadata=metadata_message,
        get_or_create=bool(get_or_create),
    )
    request.configuration.hnsw.CopyFrom(configuration.hnsw_to_message(hnsw))
    if message is not None:
        request.configuration.embedding_function.CopyFrom(message)
    return Definition(request, function, message is not None)


def _records_part(configuration_: Any) -> collection_pb2.CollectionConfiguration:
    """Make the message of what a checked configuration says of records."""
    is_whole = isinstance(configuration_, Mapping)
    return check_records_part(configuration_ if is_whole else {})


def _function(
    argument: Any, described: Any
) -> tuple[AnyFunction | None, collection_pb2.EmbeddingFunction | None]:
    """Bring together what the argument and the configuration say of the embedding function.

    Returns:
        The function that the user passed, if any; and what is to be stored.
    """
    if described is not None and not isinstance(described, Mapping):
        # Chroma's way: the function itself stands in the configuration.
        _embedder.check_callable(described)
        if argument is Choice.DEFAULT or argument is described:
            return described, _embedder.to_message(described, implied=False)
        described = {"name": _embedder.name_of(described), "config": _embedder.config_of(described)}
    if argument is Choice.DEFAULT:
        if described is None:
            return None, _embedder.to_message(DefaultEmbeddingFunction(), implied=True)
        function = _embedder.built(described)
        return function, _embedder.to_message(function, implied=False)
    if argument is not None:
        _embedder.check_callable(argument)
    if described is not None:
        given = None if argument is None else _embedder.name_of(argument)
        if given != described.get("name"):
            raise invalid(
                "embedding_function",
                f"the argument says the embedding function {given!r}, but configuration says "
                f"{described.get('name')!r}",
            )
    if argument is None:
        return None, None
    return argument, _embedder.to_message(argument, implied=False)


@dataclass(frozen=True, slots=True)
class Copy:
    """A collection to be created as a copy of another.

    Attributes:
        definition: Of the copy.
        embeds_again: Whether its vectors are made anew, of the documents.
    """

    definition: Definition
    embeds_again: bool


def define_copy(
    source: collection_pb2.Collection,
    tenant: str,
    database: str,
    name: object,
    embedding_function: Any,
) -> Copy:
    """Define a copy: the configuration and metadata in force, under another name.

    Args:
        source: What is copied.
        tenant: The copy's.
        database: The copy's.
        name: The copy's.
        embedding_function: `Choice.STORED` for the source's; or a function, the default, or None.

    Raises:
        InvalidArgumentError: The name or function is not allowed.
    """
    if embedding_function is Choice.DEFAULT:
        embedding_function = DefaultEmbeddingFunction()
    stored = _embedder.describe(source.configuration)
    request = collection_service_pb2.CreateCollectionRequest(
        tenant=tenant,
        database=database,
        name=_requests.checked_name("collection", name),
        configuration=source.configuration,
        metadata=source.metadata,
    )
    if not source.configuration.hnsw.dimension:
        request.configuration.hnsw.ClearField("dimension")
    if embedding_function is Choice.STORED:
        own = request.configuration.embedding_function
        if own.dimension not in (0, source.dimension):
            # A default that nobody chose, beside vectors that are not its own.
            own.implied = True
        return Copy(Definition(request, None, embeds=stored is not None), embeds_again=False)
    if embedding_function is None:
        request.configuration.ClearField("embedding_function")
        return Copy(Definition(request, None, embeds=False), embeds_again=False)
    _embedder.check_callable(embedding_function)
    made = _embedder.dimension_of(embedding_function) or source.dimension
    embeds_again = made != source.dimension or not _embedder.is_same(embedding_function, stored)
    if embeds_again:
        request.configuration.hnsw.ClearField("dimension")
        space = configuration.space_of(source.configuration.hnsw)
        if not _embedder.supports_space(embedding_function, space):
            # Then the function's own; and what the graph held is no measure for it.
            request.configuration.hnsw.ClearField("space")
            request.configuration.hnsw.ClearField("quantization")
    request.configuration.embedding_function.CopyFrom(
        _embedder.to_message(embedding_function, implied=False)
    )
    return Copy(Definition(request, embedding_function, embeds=True), embeds_again)


def define_overrides(configuration_: Any) -> tuple[collection_pb2.CollectionConfiguration, Any]:
    """Check what is to take the place of a configuration where a collection is made of another.

    Returns:
        The message, with nothing but what is set; and the embedding function for `embedder_of`.

    Raises:
        InvalidArgumentError: Something is not allowed, or contradicts something else.
    """
    configured, described = configuration.split_configuration(configuration_)
    message = _records_part(configuration_)
    message.hnsw.CopyFrom(configuration.hnsw_to_message(configured))
    if described is None:
        return message, Choice.STORED
    function, stored = _function(Choice.DEFAULT, described)
    if stored is not None:
        message.embedding_function.CopyFrom(stored)
    return message, Choice.STORED if function is None else function


def embedder_of(collection: collection_pb2.Collection, embedding_function: Any) -> Embedder:
    """Make the embedder of an existing collection.

    Args:
        collection: As the server describes it.
        embedding_function: What the user passed: `Choice.STORED`, a function, or None.

    Raises:
        InvalidArgumentError: It is another function than the stored one.
    """
    stored = _embedder.describe(collection.configuration)
    if embedding_function is Choice.STORED or embedding_function is Choice.DEFAULT:
        return Embedder(collection.name, None, stored)
    if embedding_function is None:
        return Embedder(collection.name, None, None)
    _embedder.check_callable(embedding_function)
    _embedder.check_against_stored(embedding_function, stored, collection.name)
    return Embedder(collection.name, embedding_function, stored)


def check_changed_metadata(metadata: Any, collection: collection_pb2.Collection) -> None:
    """Check that new metadata does not claim another configuration than is in force.

    Raises:
        InvalidArgumentError: It does.
    """
    in_force = configuration.hnsw_from_message(collection.configuration.hnsw)
    configuration.merge_hnsw(in_force, configuration.hnsw_of_metadata(metadata))


def check_changed_function(
    function: Any, collection: collection_pb2.Collection
) -> collection_pb2.EmbeddingFunction | None:
    """Check a new configuration of a collection's embedding function.

    Raises:
        InvalidArgumentError: It is another function, or the vectors would not fit those stored.
    """
    if function is None:
        return None
    chosen = _embedder.built(function) if isinstance(function, Mapping) else function
    _embedder.check_callable(chosen)
    stored = _embedder.describe(collection.configuration)
    _embedder.check_against_stored(chosen, stored, collection.name)
    return _embedder.to_message(chosen, implied=False)
