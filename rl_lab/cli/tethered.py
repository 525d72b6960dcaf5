"""`python -m rl_lab.cli.tethered ...` is `rl-lab ...` that ends when its standard input does.

Who starts it keeps the other end of that pipe, which closes when the starter is gone, by whatever cause: so no run goes
on writing that nobody looks after.
"""

from __future__ import annotations

import os
import sys
import threading

from rl_lab.cli.main import main


def _end_with_stdin() -> None:
    while os.read(sys.__stdin__.fileno() if sys.__stdin__ else 0, 1):
        pass
    os._exit(1)  # as if killed: a run is ready for that at any moment


if __name__ == "__main__":
    threading.Thread(target=_end_with_stdin, name="tether", daemon=True).start()
    sys.exit(main())
