"""Settings of a role: declared once, read from four places, checked at start.

A role declares a frozen dataclass whose fields are made with `setting`. `load` fills it from, in
this order: flags (``--health-port 7701``), environment variables (``SHOAL_HEALTH_PORT``), a TOML
file (``--config FILE`` or ``SHOAL_CONFIG``), the default. In the file a role's settings stand in
its table (``[gateway]``), so that one file serves all roles; those of `RoleSettings` may also stand
above all tables and then hold for every role. All that is wrong is said at once, each with the
setting, where it came from, the value, and what would be right; also a variable or a name in the
file that is no setting.
"""

from __future__ import annotations

import argparse
import dataclasses
import ipaddress
import math
import os
import tomllib
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, TypeVar

from shoal.errors import InvalidArgumentError
from shoal.server.admission import MAX_REQUEST_BYTES
from shoal.server.environment import PREFIX, injected, unknown

__all__ = ["ROLES", "RoleSettings", "check_together", "is_loopback", "load", "setting"]

ROLES: Final = ("coordinator", "worker", "gateway", "local")
"""Tables that a configuration file may have. ``local`` is that of ``shoal up``."""

_TRUE: Final = frozenset({"1", "true", "yes", "on"})
_FALSE: Final = frozenset({"0", "false", "no", "off"})

_Settings = TypeVar("_Settings")


def setting(
    default: Any = dataclasses.MISSING,
    *,
    help: str,  # noqa: A002 - as in argparse
    minimum: float | None = None,
    maximum: float | None = None,
) -> Any:
    """Declare a setting, as a field of a dataclass.

    The field's type may be str, int, float, bool, Path, a Literal of strings, one of these or None,
    or a tuple of str: a flag given several times, a list in the file, words in the environment.

    Args:
        default: Without one the setting must be given.
        help: What it does, with its unit; shown by ``--help``.
        minimum: Smallest value, of a number.
        maximum: Largest value, of a number.
    """
    facts = {"help": help, "minimum": minimum, "maximum": maximum}
    if default is dataclasses.MISSING:
        return dataclasses.field(metadata=facts)
    return dataclasses.field(default=default, metadata=facts)


@dataclass(frozen=True, slots=True, kw_only=True)
class RoleSettings:
    """What every role can be told."""

    host: str = setting("127.0.0.1", help="Address to listen on; 0.0.0.0 for all.")
    port: int = setting(
        0, help="Port of the role's gRPC services; 0 for a free one.", minimum=0, maximum=65535
    )
    health_port: int = setting(
        0, help="Port of a plaintext grpc.health.v1; 0 for a free one.", minimum=0, maximum=65535
    )
    metrics_port: int = setting(
        0,
        help="Port of HTTP /metrics (Prometheus), /healthz and /readyz; 0 for a free one.",
        minimum=0,
        maximum=65535,
    )
    max_concurrent_calls: int = setting(
        1024,
        help="Calls worked on at a time; the next is refused with RESOURCE_EXHAUSTED.",
        minimum=1,
        maximum=65536,
    )
    max_pending_bytes: int = setting(
        MAX_REQUEST_BYTES,
        help="Bytes of the requests worked on at a time; the next is refused with "
        "RESOURCE_EXHAUSTED.",
        minimum=1024 * 1024,
    )
    default_timeout_s: float = setting(
        60.0, help="Deadline of a call that sets none, seconds.", minimum=0.001, maximum=86400
    )
    stop_grace_s: float = setting(
        10.0,
        help="Time that calls under way get to end when the process is stopped, seconds.",
        minimum=0,
        maximum=600,
    )
    insecure: bool = setting(
        False,
        help="Listen for other machines although callers are not authenticated: anybody who "
        "reaches the port can read and write everything.",
    )
    cluster_cert: Path | None = setting(
        None,
        help="PEM certificate chain by which the cluster's processes know this one. With "
        "cluster_key and cluster_ca they speak TLS with each other and know each other by "
        "certificate; files are read again when they change.",
    )
    cluster_key: Path | None = setting(None, help="PEM private key of cluster_cert, not encrypted.")
    cluster_ca: Path | None = setting(
        None,
        help="PEM certificates of the authorities that sign those of the cluster's processes, and "
        "of nobody else: whoever has one is trusted with everything.",
    )
    cluster_name: str | None = setting(
        None,
        help="DNS name that the certificates of the other processes carry; by default the host by "
        "which each is reached.",
    )
    slow_call_s: float = setting(
        1.0,
        help="Log calls that take longer than this, with the plan of a query, seconds; 0 for none.",
        minimum=0,
        maximum=3600,
    )
    tracing_endpoint: str | None = setting(
        None,
        help="Where to send traces: a receiver of OpenTelemetry's OTLP over gRPC, for example "
        "http://localhost:4317. Needs the extra shoal[tracing].",
    )
    tracing_ratio: float = setting(
        1.0,
        help="Of the traces that begin here, how many are kept; callers that send a traceparent "
        "decide for theirs.",
        minimum=0,
        maximum=1,
    )
    log_level: Literal["debug", "info", "warning", "error"] = setting(
        "info", help="Least severe events to log."
    )
    log_format: Literal["console", "json"] = setting(
        "console", help="Lines for people, or one JSON object a line."
    )

    def __post_init__(self) -> None:
        check_together(self, "cluster_cert", "cluster_key", "cluster_ca")
        if not (self.insecure or self.authenticates or is_loopback(self.host)):
            raise ValueError(
                f"host is {self.host}, where other machines reach it, and callers are not "
                f"authenticated: {self.wanted_authentication}, or insecure if everybody who "
                "reaches it may do everything, would be right"
            )

    @property
    def authenticates(self) -> bool:
        """Whether callers of the role's port must show who they are."""
        return self.cluster_ca is not None

    @property
    def wanted_authentication(self) -> str:
        """What would make them."""
        return "cluster_cert, cluster_key and cluster_ca"


def check_together(settings: Any, *names: str) -> None:
    """Refuse settings of which only some are given.

    Raises:
        ValueError: So it is.
    """
    missing = [name for name in names if getattr(settings, name) is None]
    if missing and len(missing) < len(names):
        raise ValueError(
            f"{' and '.join(missing)} is missing: {', '.join(names)} are given together, or none"
        )


def is_loopback(host: str) -> bool:
    """Whether nobody but this machine reaches what listens there."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False  # a name may lead anywhere


@dataclass(frozen=True, slots=True)
class _Kind:
    """A setting's type, for messages and for parsing."""

    wish: str
    parse: Callable[[str], Any]
    accepts: Callable[[Any], bool]
    optional: bool


@dataclass(frozen=True, slots=True)
class _Given:
    """A value and where it was found. Text from flags and environment still has to be parsed."""

    value: Any
    source: str
    is_text: bool


def load(
    settings_class: type[_Settings],
    *,
    role: str,
    program: str,
    description: str,
    arguments: Sequence[str] | None = None,
    environment: Mapping[str, str] = os.environ,
) -> _Settings:
    """Read a role's settings. ``--help`` prints them all and exits.

    Args:
        settings_class: A frozen dataclass of `setting` fields.
        role: Its table in the file, one of `ROLES`.
        program: Name in the usage line.
        description: First line of the help.
        arguments: Flags; default: those of the process.
        environment: Environment variables.

    Raises:
        InvalidArgumentError: Everything that is wrong, a line each.
    """
    kinds = _kinds(settings_class)
    flags = vars(_parser(settings_class, kinds, role, program, description).parse_args(arguments))
    wrong = list(unknown(environment, kinds))
    environment = {n: v for n, v in environment.items() if n not in injected(environment)}
    file = flags.pop("config") or environment.get(PREFIX + "CONFIG")
    table = _from_file(Path(file), role, kinds, wrong) if file else {}
    values: dict[str, Any] = {}
    for field in dataclasses.fields(settings_class):  # type: ignore[arg-type]
        given = _find(field.name, flags, environment, table)
        if given is None:
            if field.default is dataclasses.MISSING:
                wrong.append(
                    f"setting {field.name} is missing: give {_flag(field.name)}, "
                    f"{_variable(field.name)}, or {field.name} in [{role}] of a TOML file"
                )
            continue
        try:
            values[field.name] = _checked(given, kinds[field.name], field.metadata)
        except ValueError as error:
            wrong.append(
                f"setting {field.name} is {given.value!r} ({given.source}): {error} would be right"
            )
    if wrong:
        raise InvalidArgumentError("\n".join(wrong))
    try:
        return settings_class(**values)
    except ValueError as error:  # of __post_init__, about several settings together
        raise InvalidArgumentError(str(error)) from None


def _find(
    name: str,
    flags: Mapping[str, Any],
    environment: Mapping[str, str],
    table: Mapping[str, _Given],
) -> _Given | None:
    if flags.get(name) is not None:
        return _Given(flags[name], f"flag {_flag(name)}", is_text=True)
    if _variable(name) in environment:
        source = f"environment variable {_variable(name)}"
        return _Given(environment[_variable(name)], source, is_text=True)
    return table.get(name)


def _from_file(
    path: Path, role: str, kinds: Mapping[str, _Kind], wrong: list[str]
) -> dict[str, _Given]:
    """Read one role's part of a file. Another role's table is that role's to check."""
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        wrong.append(f"the configuration file {path} cannot be read: {error.strerror}")
        return {}
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        wrong.append(f"the configuration file {path} is not TOML: {error}")
        return {}
    common = {field.name for field in dataclasses.fields(RoleSettings)}
    found: dict[str, _Given] = {}
    own: Any = {}
    for key, value in content.items():
        if isinstance(value, dict):
            if key not in ROLES:
                wrong.append(f"{path} has a table [{key}]: {', '.join(ROLES)} would be right")
            elif key == role:
                own = value
        elif key not in common:
            wrong.append(
                f"{path} sets {key} above all tables: only settings that every role has may stand "
                f"there ({', '.join(sorted(common))}), others belong into their role's table"
            )
        elif key in kinds:
            found[key] = _Given(value, f"{key} in {path}", is_text=False)
    for key, value in own.items():
        if key in kinds:
            found[key] = _Given(value, f"{key} in [{role}] of {path}", is_text=False)
        else:
            wrong.append(
                f"{path} sets {key} in [{role}], which is no setting of that role: "
                f"{', '.join(sorted(kinds))} are"
            )
    return found


def _kinds(settings_class: type[Any]) -> dict[str, _Kind]:
    hints = typing.get_type_hints(settings_class)
    return {f.name: _kind(hints[f.name], f.metadata) for f in dataclasses.fields(settings_class)}


def _kind(hint: Any, facts: Mapping[str, Any]) -> _Kind:
    optional = False
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        (hint,) = (a for a in typing.get_args(hint) if a is not types.NoneType)
        optional = True
    if typing.get_origin(hint) is Literal:
        choices = typing.get_args(hint)
        return _Kind(f"one of {', '.join(choices)}", str, lambda v: v in choices, optional)
    if hint is bool:
        return _Kind("true or false", _parse_bool, lambda v: type(v) is bool, optional)
    if hint is int:
        return _Kind(
            "an integer" + _range(facts),
            int,
            lambda v: type(v) is int and _within(v, facts),
            optional,
        )
    if hint is float:
        return _Kind(
            "a number" + _range(facts),
            float,
            lambda v: type(v) in (int, float) and math.isfinite(v) and _within(v, facts),
            optional,
        )
    if hint is Path:
        return _Kind("a path", Path, lambda v: isinstance(v, str | Path) and v != "", optional)
    if hint == tuple[str, ...]:
        return _Kind("texts", lambda text: tuple(text.split()), _is_texts, optional)
    if hint is str:
        return _Kind("a text", str, lambda v: isinstance(v, str), optional)
    raise TypeError(f"a setting cannot be of type {hint!r}")


def _checked(given: _Given, kind: _Kind, facts: Mapping[str, Any]) -> Any:
    if given.is_text and isinstance(given.value, str):
        if kind.optional and given.value == "":
            return None
        try:
            value = kind.parse(given.value)
        except ValueError:
            raise ValueError(kind.wish) from None
    else:
        value = given.value
    if not kind.accepts(value):
        raise ValueError(kind.wish)
    if kind.parse in (Path, float):
        return kind.parse(value)
    return tuple(value) if isinstance(value, list) else value


def _parse_bool(text: str) -> bool:
    if text.lower() in _TRUE:
        return True
    if text.lower() in _FALSE:
        return False
    raise ValueError(text)


def _is_texts(value: Any) -> bool:
    return isinstance(value, tuple | list) and all(isinstance(v, str) for v in value)


def _within(value: float, facts: Mapping[str, Any]) -> bool:
    minimum, maximum = facts.get("minimum"), facts.get("maximum")
    return (minimum is None or value >= minimum) and (maximum is None or value <= maximum)


def _range(facts: Mapping[str, Any]) -> str:
    minimum, maximum = facts.get("minimum"), facts.get("maximum")
    if minimum is not None and maximum is not None:
        return f" from {minimum} to {maximum}"
    if minimum is not None:
        return f" of at least {minimum}"
    return f" of at most {maximum}" if maximum is not None else ""


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _variable(name: str) -> str:
    return PREFIX + name.upper()


def _parser(
    settings_class: type[Any],
    kinds: Mapping[str, _Kind],
    role: str,
    program: str,
    description: str,
) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=program,
        description=description,
        epilog="Each setting comes from its flag, else its environment variable, else the file "
        f"(in [{role}], or above all tables where every role has it), else its default.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--config", metavar="FILE", help="Configuration file in TOML. [SHOAL_CONFIG]"
    )
    for field in dataclasses.fields(settings_class):
        kind = kinds[field.name]
        default = (
            "must be given"
            if field.default is dataclasses.MISSING
            else f"default: {_shown(field.default)}"
        )
        parser.add_argument(
            _flag(field.name),
            dest=field.name,
            # Unparsed: what is wrong with it is said together with all else.
            action=_action(kind),
            default=None,
            metavar=None if kind.parse is _parse_bool else _metavar(kind),
            help=f"{field.metadata['help']} [{_variable(field.name)}; {kind.wish}; {default}]",
        )
    return parser


def _action(kind: _Kind) -> Any:
    if kind.parse is _parse_bool:
        return argparse.BooleanOptionalAction
    return "append" if kind.accepts is _is_texts else "store"


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return "none" if value in (None, ()) else str(value)


def _metavar(kind: _Kind) -> str:
    return {"a path": "PATH", "a text": "TEXT", "texts": "TEXT"}.get(
        kind.wish, "CHOICE" if kind.wish.startswith("one of") else "NUMBER"
    )
