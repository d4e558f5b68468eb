"""The command `shoal-coordinator`, also as `python -m shoal_coordinator`."""

import gc
import os
import sys

__all__ = ["main"]


def main() -> int:
    """Run the coordinator, and give its exit code."""
    # Read when gRPC is imported. Without it gRPC writes a line, in a form of its own, for each
    # handshake that fails: any stranger could fill the log.
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    gc.disable()  # imports make no garbage, and are a seventh quicker: enabled by `process.run`
    from shoal_coordinator.main import main as run

    return run()


if __name__ == "__main__":
    sys.exit(main())
