"""What holds for all tests."""

from __future__ import annotations

import grpc  # noqa: F401 - before the tests that import USearch: see shoal_worker.graph
from hypothesis import HealthCheck, settings

# Whether a test passes depends neither on how fast this machine is just now, nor on chance: the
# same examples each time. `--hypothesis-profile=exploring` looks for others.
settings.register_profile(
    "repeatable", deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True
)
settings.register_profile("exploring", settings.get_profile("repeatable"), derandomize=False)
settings.load_profile("repeatable")
