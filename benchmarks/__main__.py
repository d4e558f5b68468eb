"""`make bench`: Shoal beside raw USearch, with what is installed, in a few minutes; see README.md.

What this shows of Shoal alone, `benchmarks.peers` shows of others, too: it is the same harness, on
less data. Options are its own.
"""

from __future__ import annotations

import sys

from benchmarks.peers import __main__ as peers

_DEFAULTS = {"--only": "shoal,raw usearch", "--count": "10000"}

if __name__ == "__main__":
    for option, value in _DEFAULTS.items():
        if option not in sys.argv:
            sys.argv += [option, value]
    peers.main()
