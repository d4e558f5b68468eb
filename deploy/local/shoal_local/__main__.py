"""The command `shoal`, as a script and as `python -m shoal_local`."""

import gc
import os
import sys
from collections.abc import Sequence

from shoal_local import early

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command, and give its exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given[:1] == ["up"]:
        early.keep()
        os.environ.setdefault("GRPC_VERBOSITY", "ERROR")  # as the roles have it
        gc.disable()  # the same: until all is imported
    from shoal_local.cli import main as run  # takes half a second

    return run(given)


if __name__ == "__main__":
    sys.exit(main())
