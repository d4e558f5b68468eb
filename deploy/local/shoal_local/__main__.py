"""`python -m shoal_local`: the command `shoal`, where its script is not on the path."""

import sys

from shoal_local.cli import main

sys.exit(main())
