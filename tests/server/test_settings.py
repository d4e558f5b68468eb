"""Settings: where they come from, in which order, and what is said about a wrong one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest

from shoal.errors import InvalidArgumentError
from shoal.server.settings import RoleSettings, load, setting


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings(RoleSettings):
    data_dir: Path = setting(help="Where data lies.")
    allow_reset: bool = setting(False, help="Whether reset is allowed.")
    ratio: float = setting(0.5, help="A ratio.", minimum=0, maximum=1)
    shape: Literal["round", "flat"] = setting("round", help="A shape.")
    peer: str | None = setting(None, help="A peer.")
    taste: Literal["sweet", "sour"] | None = setting(None, help="A taste.")
    set: tuple[str, ...] = setting((), help="Texts.")


def _load(
    *arguments: str, environment: dict[str, str] | None = None, role: str = "worker"
) -> Settings:
    return load(
        Settings,
        role=role,
        program="shoal-worker",
        description="A worker.",
        arguments=arguments,
        environment=environment or {},
    )


def _refusal(*arguments: str, environment: dict[str, str] | None = None) -> str:
    with pytest.raises(InvalidArgumentError) as caught:
        _load(*arguments, environment=environment)
    return str(caught.value)


def test_flag_beats_environment_beats_file_beats_default(tmp_path: Path) -> None:
    file = tmp_path / "shoal.toml"
    file.write_text(
        'log_level = "error"\n[worker]\ndata_dir = "/file"\nport = 1\nratio = 1\n[gateway]\nx = 1\n'
    )
    environment = {"SHOAL_PORT": "2", "SHOAL_RATIO": "0.25", "SHOAL_CONFIG": str(file)}
    settings = _load("--port", "3", environment=environment)
    assert settings.port == 3
    assert settings.ratio == 0.25
    assert settings.data_dir == Path("/file")
    assert settings.log_level == "error"
    assert settings.shape == "round"
    assert settings.peer is None


@pytest.mark.parametrize(
    ("text", "value"), [("1", True), ("true", True), ("no", False), ("OFF", False)]
)
def test_a_switch_by_environment(text: str, value: bool) -> None:
    environment = {"SHOAL_ALLOW_RESET": text, "SHOAL_DATA_DIR": "d"}
    assert _load(environment=environment).allow_reset is value


def test_a_switch_by_flag() -> None:
    environment = {"SHOAL_ALLOW_RESET": "1"}
    assert _load("--data-dir", "d", "--allow-reset").allow_reset is True
    assert (
        _load("--data-dir", "d", "--no-allow-reset", environment=environment).allow_reset is False
    )


def test_several_texts(tmp_path: Path) -> None:
    assert _load("--data-dir", "d").set == ()
    assert _load("--data-dir", "d", "--set", "a=1", "--set", "b=x y").set == ("a=1", "b=x y")
    assert _load("--data-dir", "d", environment={"SHOAL_SET": "a=1 b=2"}).set == ("a=1", "b=2")
    file = tmp_path / "shoal.toml"
    file.write_text("[worker]\ndata_dir = 'd'\nset = ['a', 'b']\n")
    assert _load("--config", str(file)).set == ("a", "b")
    file.write_text("[worker]\ndata_dir = 'd'\nset = ['a', 1]\n")
    assert "texts would be right" in _refusal("--config", str(file))


def test_a_choice_that_may_be_left_open() -> None:
    assert _load("--data-dir", "d").taste is None
    assert _load("--data-dir", "d", "--taste", "sour").taste == "sour"
    assert "one of sweet, sour would be right" in _refusal("--data-dir", "d", "--taste", "bitter")


def test_all_that_is_wrong_is_said_at_once() -> None:
    said = _refusal("--port", "70000", "--ratio", "nan", environment={"SHOAL_SHAPE": "square"})
    port, data_dir, ratio, shape = said.splitlines()
    assert port == (
        "setting port is '70000' (flag --port): an integer from 0 to 65535 would be right"
    )
    assert data_dir.startswith("setting data_dir is missing: give --data-dir, SHOAL_DATA_DIR")
    assert ratio == "setting ratio is 'nan' (flag --ratio): a number from 0 to 1 would be right"
    assert shape.startswith("setting shape is 'square' (environment variable SHOAL_SHAPE): one of")


def test_an_unknown_key_in_a_file_is_an_error(tmp_path: Path) -> None:
    file = tmp_path / "shoal.toml"
    file.write_text("[worker]\ndata_dir = 'd'\nprot = 1\n")
    assert "sets prot in [worker], which is no setting" in _refusal("--config", str(file))
    file.write_text("data_dir = 'd'\n")
    assert "sets data_dir above all tables" in _refusal("--config", str(file))
    file.write_text("[wroker]\nport = 1\n")
    assert "has a table [wroker]" in _refusal("--config", str(file))


def test_a_value_of_the_wrong_type_in_a_file_is_an_error(tmp_path: Path) -> None:
    file = tmp_path / "shoal.toml"
    file.write_text("[worker]\ndata_dir = 'd'\nport = true\nallow_reset = 1\n")
    said = _refusal("--config", str(file))
    assert f"setting port is True (port in [worker] of {file}): an integer" in said
    assert "setting allow_reset is 1" in said


def test_a_file_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    assert "cannot be read" in _refusal("--config", str(tmp_path / "none.toml"), "--data-dir", "d")
    (tmp_path / "bad.toml").write_text("= 1")
    assert "is not TOML" in _refusal("--config", str(tmp_path / "bad.toml"), "--data-dir", "d")


def test_help_lists_every_setting(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        _load("--help")
    assert caught.value.code == 0
    shown = " ".join(capsys.readouterr().out.split())
    for field in Settings.__dataclass_fields__:
        assert f"--{field.replace('_', '-')}" in shown
        assert f"SHOAL_{field.upper()}" in shown
    assert "default: round" in shown
    assert "must be given" in shown
