"""`python -m shoal_worker`."""

import sys

from shoal_worker.main import main

sys.exit(main())
