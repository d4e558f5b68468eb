"""Whether a file of LMDB ends before pages that it uses.

LMDB maps its file and reads pages where they should be: beyond the end of a file that was cut short
(a copy that broke off, a repaired file system) that is not an error but SIGBUS, which ends the
process and everything else that it serves. A file may rightly be shorter than its pages, though:
those that a transaction took and gave back are never written. So a short one is read through in a
process of its own, which may end as it will.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Final

__all__ = ["cut_short"]

# A compacting copy walks every page in use and the list of the free ones. It goes through a pipe
# because writing to /dev/null reads nothing.
_READ_THROUGH: Final = """
import lmdb, os, sys, threading
environment = lmdb.open(sys.argv[1], subdir=False, readonly=True, lock=False)
read_end, write_end = os.pipe()
def drain():
    while os.read(read_end, 1 << 20): pass
threading.Thread(target=drain, daemon=True).start()
environment.copyfd(write_end, compact=True)
"""


def cut_short(path: Path, last_page: int, page_bytes: int) -> str | None:
    """Say what is wrong with a file that is too short; None if it holds all that it uses.

    A file that is rightly short is made as long as its pages, so that it is read through once.

    Args:
        path: The file, open in this process and untouched by any transaction.
        last_page: Number of the last page ever used, as LMDB's `info` tells it.
        page_bytes: Size of a page, as LMDB's `stat` tells it.
    """
    wanted = (last_page + 1) * page_bytes
    size = path.stat().st_size
    if size >= wanted:
        return None
    reading = subprocess.run(
        [sys.executable, "-P", "-c", _READ_THROUGH, str(path)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        check=False,
    )
    if reading.returncode == 0:
        os.truncate(path, wanted)
        return None
    if reading.returncode < 0:
        cause = f"reading it ends in {signal.Signals(-reading.returncode).name}"
    else:
        cause = (reading.stderr.strip().splitlines() or ["it cannot be read"])[-1]
    return f"{path} was cut short: {size} bytes of {wanted}, and {cause}"
