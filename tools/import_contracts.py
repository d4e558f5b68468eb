"""The kind of import rule that Shoal's house needs: `barrier`, for import-linter.

import-linter's own `forbidden` cannot say "this package except these modules", and
takes a module that does not exist for a mistake; a rule about the layers of the
house should stand before the last of its modules is written.
"""

from __future__ import annotations

from typing import Any

from grimp import ImportGraph
from importlinter import Contract, ContractCheck, fields, output


class BarrierContract(Contract):
    """Keep a set of modules from importing another.

    A name stands for the module and all below it; one that does not exist (yet)
    stands for nothing.

    Options:
        modules: Those that are kept from importing.
        except_modules: Those among them that may.
        forbidden: What must not be imported; internal or external.
        indirectly: Also not through other modules of ours; no by default, since a
            rule about owners should not reach those who use the owner.
    """

    modules = fields.SetField(subfield=fields.StringField())
    except_modules = fields.SetField(subfield=fields.StringField(), required=False)
    forbidden = fields.SetField(subfield=fields.StringField())
    indirectly = fields.BooleanField(required=False, default=False)

    def check(self, graph: ImportGraph, verbose: bool) -> ContractCheck:
        options: Any = self  # import-linter puts the values where the fields were
        importers = _below(graph, options.modules) - _below(graph, options.except_modules or set())
        forbidden = _below(graph, options.forbidden) - importers
        find = _chains if options.indirectly else _direct_imports
        violations = find(graph, importers, forbidden)
        return ContractCheck(kept=not violations, metadata={"violations": violations})

    def render_broken_contract(self, check: ContractCheck) -> None:
        for chain in check.metadata["violations"]:
            output.print_error(" -> ".join(chain), bold=False)
        output.new_line()


def _below(graph: ImportGraph, names: set[str]) -> set[str]:
    return {
        module
        for module in graph.modules
        if any(module == name or module.startswith(f"{name}.") for name in names)
    }


def _direct_imports(
    graph: ImportGraph, importers: set[str], forbidden: set[str]
) -> list[tuple[str, ...]]:
    return [
        (importer, imported)
        for importer in sorted(importers)
        if not graph.is_module_squashed(importer)
        for imported in sorted(graph.find_modules_directly_imported_by(importer) & forbidden)
    ]


def _chains(graph: ImportGraph, importers: set[str], forbidden: set[str]) -> list[tuple[str, ...]]:
    return [
        chain
        for importer in sorted(importers)
        for imported in sorted(forbidden)
        if (chain := graph.find_shortest_chain(importer, imported)) is not None
    ]
