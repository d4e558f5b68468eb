"""Write deploy/docker/requirements.txt: what pip would install today for the image."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent
REQUIREMENTS: Final = ROOT / "deploy" / "docker" / "requirements.txt"

_HEAD: Final = """\
# What the image runs on: every package of shoal[server,objects,tracing], so that building it again
# gives it again.
# Write it anew with `make image-requirements`.
"""


def main() -> int:
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed"]
    report = subprocess.run(
        [*pip, "--report", "-", f"{ROOT}[server,objects,tracing]"],
        stdout=subprocess.PIPE,
        check=True,
    ).stdout
    found = (item["metadata"] for item in json.loads(report)["install"])
    pins = {re.sub(r"[-_.]+", "-", m["name"]).lower(): m["version"] for m in found}
    del pins["shoal"]
    lines = (f"{name}=={version}\n" for name, version in sorted(pins.items()))
    REQUIREMENTS.write_text(_HEAD + "".join(lines), encoding="utf-8")
    print(REQUIREMENTS)
    return 0


if __name__ == "__main__":
    sys.exit(main())
