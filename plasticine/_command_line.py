"""What the command line's own process sets before PyTorch is loaded.

OpenMP reads its environment once, when PyTorch loads it, and ``import plasticine`` does that before
any command runs. It imports nothing but the standard library.
"""

from __future__ import annotations

import os
import sys


def is_running() -> bool:
    """Whether this process is ``plasticine`` or ``python -m plasticine``."""
    if sys.argv[:1] == ["-m"]:  # Python is looking for the module whose name follows
        return sys.orig_argv[-len(sys.argv)] == "plasticine"
    return bool(sys.argv) and os.path.basename(sys.argv[0]) == "plasticine"


def wait_passively() -> None:
    """Lets OpenMP's threads sleep while they wait, unless the user's environment says otherwise.

    By default they spin for milliseconds at the end of every parallel loop. Where other programs
    run on the same cores, most of the processor time goes into that. A program that imports
    plasticine decides for itself.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
