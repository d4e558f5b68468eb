"""Generate the Python stubs in sdk/shoal from protos/, or check that they are not stale.

The path of a proto is the path of its Python module (`shoal/v1/record.proto` is
`shoal.v1.record_pb2`), so no import is rewritten. The stubs are committed: an
installation needs no compiler, and a review sees what a change of a proto does.

Generated code refuses a protobuf runtime older than its generator. So the generator
is an old one, pinned in tools/proto-requirements.txt, and runs in an environment of
its own: `make proto` and `make proto-check` see to that.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
from importlib import metadata, resources
from pathlib import Path

from tools.committed_output import CommittedOutput

ROOT = Path(__file__).resolve().parent.parent
PROTOS = ROOT / "protos"
STUBS = ROOT / "sdk"
REQUIREMENTS = ROOT / "tools" / "proto-requirements.txt"

# grpc_python writes a module for every proto; without a service it holds only a
# check of versions, and would make each message type depend on gRPC.
SERVICE = re.compile(r"^service\s+\w+", re.MULTILINE)


def main() -> int:
    parser = argparse.ArgumentParser(description="Generate the stubs in sdk/shoal from protos/.")
    parser.add_argument("--check", action="store_true", help="only fail if a stub is stale")
    check = parser.parse_args().check

    wrong_versions = _wrong_versions()
    if wrong_versions:
        print("\n".join(wrong_versions), file=sys.stderr)
        print("use `make proto` or `make proto-check`", file=sys.stderr)
        return 2

    output = CommittedOutput(ROOT, generate(), _committed_stubs())
    if not check:
        for path in output.write():
            print(path)
        return 0
    complaints = output.complaints()
    if complaints:
        print("the stubs are not those of protos/; run `make proto`:", file=sys.stderr)
        print("\n".join(complaints), file=sys.stderr)
    return 1 if complaints else 0


def generate() -> dict[Path, str]:
    """Compile all protos, and return the text of each file that sdk/ must hold."""
    sources = {
        path.relative_to(PROTOS): path.read_text(encoding="utf-8")
        for path in sorted(PROTOS.glob("shoal/**/*.proto"))
    }
    files: dict[Path, str] = {}
    with tempfile.TemporaryDirectory() as scratch:
        _compile(sorted(sources), Path(scratch))
        for source, text in sources.items():
            kinds = ["_pb2.py", "_pb2.pyi"]
            if SERVICE.search(text):
                kinds += ["_pb2_grpc.py", "_pb2_grpc.pyi"]
            for kind in kinds:
                module = source.with_name(source.stem + kind)
                files[STUBS / module] = Path(scratch, module).read_text(encoding="utf-8")
    # `shoal` itself is written by hand.
    for package in {
        parent for source in sources for parent in source.parents if len(parent.parts) > 1
    }:
        name = ".".join(package.parts)
        files[STUBS / package / "__init__.py"] = f'"""The generated stubs of `{name}`."""\n'
    return files


def _compile(sources: list[Path], target: Path) -> None:
    from grpc_tools import protoc

    plugins = Path(sys.executable).parent
    arguments = [
        "protoc",
        f"--proto_path={PROTOS}",
        f"--proto_path={resources.files('grpc_tools') / '_proto'}",
        f"--plugin=protoc-gen-mypy={plugins / 'protoc-gen-mypy'}",
        f"--plugin=protoc-gen-mypy_grpc={plugins / 'protoc-gen-mypy_grpc'}",
        f"--python_out={target}",
        f"--grpc_python_out={target}",
        f"--mypy_out=quiet:{target}",
        f"--mypy_grpc_out=quiet:{target}",
        *(str(source) for source in sources),
    ]
    if not sources:
        sys.exit(f"there is no proto under {PROTOS / 'shoal'}")
    if protoc.main(arguments) != 0:
        sys.exit("protoc failed, see above; no stub was changed")


def _committed_stubs() -> frozenset[Path]:
    return frozenset(
        path for path in (STUBS / "shoal").rglob("*_pb2*") if path.suffix in {".py", ".pyi"}
    )


def _wrong_versions() -> list[str]:
    """Say which pinned package is missing here or of another version."""
    wrong = []
    for line in REQUIREMENTS.read_text(encoding="utf-8").splitlines():
        name, separator, pinned = line.partition("==")
        if line.startswith("#") or not separator:
            continue
        try:
            installed = metadata.version(name)
        except metadata.PackageNotFoundError:
            installed = "missing"
        if installed != pinned:
            wrong.append(f"the generator needs {name} {pinned}, here it is {installed}")
    return wrong


if __name__ == "__main__":
    sys.exit(main())
