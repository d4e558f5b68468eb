"""`python -m shoal_coordinator`."""

import sys

from shoal_coordinator.main import main

sys.exit(main())
