"""Variables of the environment that look like settings: which one is meant, and which is none.

A variable that begins with ``SHOAL_`` and is no setting is a mistake that would go unnoticed: the
default would hold, and nobody would know. So it is refused, with the name that was perhaps meant.
All roles may share one environment, though, with clients and tests besides, and Kubernetes puts
variables into it that are called like ours: a service named `shoal` gives ``SHOAL_PORT`` the value
``tcp://10.0.0.1:7700``.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterator, Mapping
from typing import Final

__all__ = ["PREFIX", "SETTINGS", "injected", "unknown"]

PREFIX: Final = "SHOAL_"

SETTINGS: Final = frozenset(
    """
    advertise allow_reset auth bootstrap_key_file close_after_s cluster_ca cluster_cert cluster_key
    cluster_name commit_threads coordinator data data_dir default_timeout_s erase_after_s
    expected_workers gateways health_port heartbeat_s host insecure lease_s log_format
    log_level max_answer_bytes max_batch_records max_concurrent_calls max_dimension
    max_document_bytes max_filter_clauses max_filter_depth max_id_bytes max_message_bytes
    max_metadata_bytes max_metadata_key_bytes max_metadata_keys max_n_results
    max_open_shards max_page_records max_pending_bytes max_queries max_query_results
    max_shards max_uri_bytes max_wait_s memory_bytes metrics_port port read_threads
    recover_catalog reflection set share_port slow_call_s snapshot_store stop_grace_s
    tls_cert tls_client_ca tls_key tracing_endpoint tracing_ratio workers
    """.split()  # noqa: SIM905 - a list literal would be a page of quotes
)
"""Every setting of every role, and of `shoal up`: one role's variable is not another's mistake.
Stated here because no role knows another's; a test compares."""

_OTHERS: Final = frozenset(
    """
    ADDRESS API_KEY BIND CONFIG CRASH_POINT IMAGE MODEL_DIR MODEL_URL PARENT_FD TLS_CA
    """.split()  # noqa: SIM905 - a list literal would be a page of quotes
)
"""What clients, commands, examples and the compose file read, and processes tell each other."""

_TESTS: Final = f"{PREFIX}TEST_"

_HOST: Final = "_SERVICE_HOST"


def injected(environment: Mapping[str, str]) -> frozenset[str]:
    """Give the names of the variables by which Kubernetes tells of services called like Shoal.

    For a service it sets ``<NAME>_SERVICE_HOST``, ``<NAME>_SERVICE_PORT…`` and ``<NAME>_PORT…``,
    the last with values like ``tcp://10.0.0.1:7700``.
    """
    services = [
        name.removesuffix(_HOST)
        for name in environment
        if name.startswith(PREFIX.rstrip("_")) and name.endswith(_HOST)
    ]
    return frozenset(
        name
        for name, value in environment.items()
        for service in services
        if name.startswith((f"{service}_SERVICE_", f"{service}_PORT_"))
        or (name == f"{service}_PORT" and "://" in value)
    )


def unknown(environment: Mapping[str, str], own: Collection[str]) -> Iterator[str]:
    """Say what is wrong with each variable that nothing reads.

    Args:
        environment: Names and values.
        own: The settings of whoever asks.
    """
    names = {name.upper() for name in (*SETTINGS, *own)}
    known = {PREFIX + name for name in (*names, *_OTHERS)}
    foreign = injected(environment)
    for name in sorted(environment):
        if not name.startswith(PREFIX) or name in known or name in foreign:
            continue
        if name.startswith(_TESTS):
            continue
        # Without the prefix, which makes any two of them alike.
        near = difflib.get_close_matches(name.removeprefix(PREFIX), sorted(names), 1)
        wish = f"{PREFIX}{near[0]} would be right, or none" if near else "--help lists the settings"
        yield f"environment variable {name} is no setting: {wish}"
