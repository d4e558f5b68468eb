"""A barrier holds back what it names, all below it, and nothing else."""

from typing import Any

import pytest
from grimp import ImportGraph
from importlinter import ContractCheck

from tools.import_contracts import BarrierContract


@pytest.fixture
def graph() -> ImportGraph:
    graph = ImportGraph()
    for module in ("app", "app.client", "app.server", "app.server.store", "app.wire"):
        graph.add_module(module)
    graph.add_module("lmdb", is_squashed=True)
    for importer, imported in (
        ("app.client", "app.wire"),
        ("app.client", "app.server.store"),
        ("app.server.store", "lmdb"),
    ):
        graph.add_import(importer=importer, imported=imported)
    return graph


def check(graph: ImportGraph, **options: Any) -> ContractCheck:
    contract = BarrierContract("a barrier", {"root_packages": ["app"]}, options)
    return contract.check(graph, verbose=False)


def violations(graph: ImportGraph, **options: Any) -> list[tuple[str, ...]]:
    return list(check(graph, **options).metadata["violations"])


def test_an_import_from_below_a_forbidden_package_breaks_it(graph: ImportGraph) -> None:
    broken = check(graph, modules=["app.client"], forbidden=["app.server"])
    assert not broken.kept
    assert broken.metadata["violations"] == [("app.client", "app.server.store")]


def test_those_excepted_may_import_it(graph: ImportGraph) -> None:
    options = {"modules": ["app"], "forbidden": ["lmdb"]}
    assert violations(graph, **options) == [("app.server.store", "lmdb")]
    assert check(graph, **options, except_modules=["app.server"]).kept


def test_a_way_through_other_modules_breaks_it_only_where_asked(graph: ImportGraph) -> None:
    options: dict[str, Any] = {"modules": ["app.client"], "forbidden": ["lmdb"]}
    assert violations(graph, **options) == []
    chain = ("app.client", "app.server.store", "lmdb")
    assert violations(graph, **options, indirectly="true") == [chain]


def test_a_module_that_does_not_exist_yet_is_passed_over(graph: ImportGraph) -> None:
    assert check(graph, modules=["app.merge"], forbidden=["grpc"], indirectly="true").kept


def test_a_name_is_not_a_prefix(graph: ImportGraph) -> None:
    graph.add_module("app.clients")
    graph.add_import(importer="app.clients", imported="lmdb")
    assert violations(graph, modules=["app.client"], forbidden=["lmdb"]) == []
