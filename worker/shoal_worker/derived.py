"""Which indexes a shard has. A new one is added here, and nowhere else.

An index of a shard that was written before the index existed is found missing when the shard is
opened, and built behind it.
"""

from __future__ import annotations

from typing import Final

from shoal_worker.environment import Environment
from shoal_worker.identity import Configuration
from shoal_worker.indexes import COVERAGE_DATABASE, Indexes
from shoal_worker.journal import JOURNAL_DATABASES, Journal
from shoal_worker.keys_index import KeysIndex
from shoal_worker.metadata_index import MetadataIndex
from shoal_worker.sparse_index import SparseIndex
from shoal_worker.store import Store
from shoal_worker.terms_index import TermsIndex
from shoal_worker.text import LANGUAGES, analyzer
from shoal_worker.text_index import TextIndex

__all__ = ["DERIVED_DATABASES", "indexes_of"]

DERIVED_DATABASES: Final = (
    COVERAGE_DATABASE,
    *JOURNAL_DATABASES,
    *MetadataIndex.databases,
    *TextIndex.databases,
    *KeysIndex.databases,
    *TermsIndex.databases,
    *SparseIndex.databases,
)
"""Databases of a shard's environment that can be made again from the others."""


def indexes_of(environment: Environment, store: Store, configuration: Configuration) -> Indexes:
    """Give the indexes of a shard."""
    databases = environment.databases
    metadata = MetadataIndex(databases)
    text = TextIndex(databases)
    keys = KeysIndex(databases, store)
    # A language that only a newer release knows: texts are scanned for.
    is_known = configuration.language in LANGUAGES
    terms = TermsIndex(databases, analyzer(configuration.language)) if is_known else None
    sparse_keys = configuration.sparse_keys
    sparse = SparseIndex(databases, sparse_keys) if sparse_keys else None
    journal = Journal(environment, store)
    return Indexes(environment, store, journal, metadata, text, keys, terms, sparse)
