"""`python -m shoal_gateway`."""

import sys

from shoal_gateway.main import main

sys.exit(main())
