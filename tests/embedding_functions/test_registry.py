"""From a name and a configuration to an embedding function."""

from __future__ import annotations

import functools
import sys
from pathlib import Path
from typing import Any

import pytest

from shoal.embedding_functions import (
    CallableEmbeddingFunction,
    EmbeddingFunction,
    registry,
)
from shoal.embedding_functions.registry import (
    check_owner,
    find,
    known_embedding_functions,
    register_embedding_function,
    resolve,
)
from shoal.errors import InvalidArgumentError


class Lengths(EmbeddingFunction):
    """The least that a function needs to be found again."""

    def __init__(self, scale: int = 1) -> None:
        self.scale = scale

    def __call__(self, input: list[str]) -> list[list[float]]:
        return [[self.scale * float(len(text))] for text in input]

    @staticmethod
    def name() -> str:
        return "lengths"

    def get_config(self) -> dict[str, Any]:
        return {"scale": self.scale}


class ByStructure:
    """Has the methods, and derives from nothing."""

    def __call__(self, input: list[str]) -> list[list[float]]:
        return [[1.0] for _ in input]

    def embed_query(self, input: list[str]) -> list[list[float]]:
        return self(input)

    @staticmethod
    def name() -> str:
        return "by_structure"

    def get_config(self) -> dict[str, Any]:
        return {}

    @staticmethod
    def build_from_config(config: dict[str, Any]) -> ByStructure:
        return ByStructure()

    def default_space(self) -> str:
        return "cosine"

    def supported_spaces(self) -> list[str]:
        return ["cosine"]

    def validate_config_update(self, old_config: Any, new_config: Any) -> None:
        pass


@pytest.fixture(autouse=True)
def _only_what_a_test_registers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_registered", {})


def test_a_registered_function_is_built_from_its_configuration() -> None:
    assert register_embedding_function(Lengths) is Lengths

    function = resolve("lengths", {"scale": 3})

    assert isinstance(function, Lengths)
    assert function(["four"]) == [[12.0]]
    assert function.embed_query(["four"]) == [[12.0]]
    assert function.default_space() == "l2"
    assert function.supported_spaces() == ["l2", "cosine", "ip"]


def test_a_function_by_structure_is_one() -> None:
    register_embedding_function(ByStructure)

    assert isinstance(resolve("by_structure", {}), ByStructure)
    assert isinstance(ByStructure(), EmbeddingFunction)
    assert not isinstance(len, EmbeddingFunction)


def test_by_itself_only_the_keys_variable_may_change() -> None:
    function = Lengths()

    function.validate_config_update({"api_key_env_var": "A"}, {"api_key_env_var": "B"})
    with pytest.raises(InvalidArgumentError, match="scale 1; it cannot become 2"):
        function.validate_config_update({"scale": 1}, {"scale": 2})


def test_an_unknown_name_says_what_to_do() -> None:
    with pytest.raises(InvalidArgumentError, match=r"'nobody'.*pass it.*register.*default, "):
        resolve("nobody", {})


@pytest.mark.parametrize("config", [{"scal": 3}, {"scale": 1, "more": 2}])
def test_a_configuration_that_does_not_fit_is_shown(config: dict[str, Any]) -> None:
    register_embedding_function(Lengths)

    with pytest.raises(InvalidArgumentError, match=r"'lengths' cannot be built .*TypeError"):
        resolve("lengths", config)


def test_a_name_belongs_to_one_class() -> None:
    register_embedding_function(Lengths)
    other = type("Other", (Lengths,), {})

    with pytest.raises(InvalidArgumentError, match=r"'lengths' is registered already"):
        register_embedding_function(other)


def test_a_class_that_is_defined_again_replaces_itself() -> None:
    register_embedding_function(Lengths)
    again = type("Lengths", (Lengths,), {"__module__": Lengths.__module__})

    register_embedding_function(again)

    assert find("lengths") is again


def test_shoals_own_names_cannot_be_taken() -> None:
    with pytest.raises(InvalidArgumentError, match="'default' is registered already"):
        register_embedding_function(type("Mine", (Lengths,), {"name": lambda: "default"}))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (Lengths(), "decorates a class"),
        (type("Bare", (), {}), r"no method __call__\(\)"),
        (type("Nameless", (Lengths,), {"name": staticmethod(lambda: "")}), "gives ''"),
    ],
)
def test_what_could_not_be_built_again_is_refused(wrong: Any, message: str) -> None:
    with pytest.raises(InvalidArgumentError, match=message):
        register_embedding_function(wrong)


def test_shoals_own_are_known() -> None:
    assert {"default", "openai", "litellm", "sentence_transformer"} <= set(
        known_embedding_functions()
    )
    for name in ("default", "openai", "litellm", "sentence_transformer"):
        function_class = find(name)
        assert function_class is not None
        assert function_class.name() == name


def test_a_function_cannot_go_by_the_name_of_another() -> None:
    def default(input: list[str]) -> list[list[float]]:
        return [[1.0] for _ in input]

    register_embedding_function(Lengths)

    with pytest.raises(InvalidArgumentError, match="which another client would use in place"):
        check_owner("default", default)
    check_owner("lengths", Lengths())
    check_owner("lengths", type("Lengths", (), {"__module__": Lengths.__module__})())
    check_owner("mine", default)


def test_installed_packages_offer_functions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "offering.py").write_text(
        "class Offered:\n    def build_from_config(config):\n        return ('built', config)\n"
    )
    distribution = tmp_path / "offering-1.0.dist-info"
    distribution.mkdir()
    (distribution / "METADATA").write_text("Metadata-Version: 2.1\nName: offering\nVersion: 1.0\n")
    (distribution / "entry_points.txt").write_text(
        "[shoal.embedding_functions]\noffered = offering:Offered\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "offering", raising=False)

    assert "offered" in known_embedding_functions()
    assert "offering" not in sys.modules
    assert resolve("offered", {"a": 1}) == ("built", {"a": 1})


def test_a_callable_goes_by_its_own_name() -> None:
    def mine(input: list[str]) -> list[list[float]]:
        return [[1.0] for _ in input]

    function = CallableEmbeddingFunction(
        mine, query=lambda texts: [[2.0] for _ in texts], dimension=1, default_space="ip"
    )

    assert function.name() == "mine"
    assert CallableEmbeddingFunction(mine, "yours").name() == "yours"
    assert CallableEmbeddingFunction(functools.partial(mine)).name() == "mine"
    assert CallableEmbeddingFunction(Lengths()).name() == "Lengths"
    assert function(["a"]) == [[1.0]]
    assert function.embed_query(["a"]) == [[2.0]]
    assert function.get_config() == {}
    assert function.dimension() == 1
    assert function.default_space() == "ip"
    assert isinstance(function, EmbeddingFunction)


def test_a_callable_cannot_be_built_again() -> None:
    with pytest.raises(InvalidArgumentError, match="pass it as embedding_function"):
        CallableEmbeddingFunction.build_from_config({})


@pytest.mark.parametrize("wrong", [Lengths, "text", None])
def test_what_is_not_callable_is_not_wrapped(wrong: Any) -> None:
    with pytest.raises(InvalidArgumentError, match="wraps a callable"):
        CallableEmbeddingFunction(wrong)
