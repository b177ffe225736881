"""What the fixtures of the command line give: a call in this process, or as a process."""

from __future__ import annotations

import subprocess
from collections.abc import Callable

Run = Callable[..., tuple[int, str, str]]
Process = Callable[..., subprocess.CompletedProcess[str]]
