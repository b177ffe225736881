"""Makes the checkout's benchmarks importable; skips a module of tests where there are none."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
if not (ROOT / "benchmarks").is_dir():
    pytest.skip("the tests are not in a source checkout", allow_module_level=True)
# Last, so that the checkout's plasticine does not hide the installed one.
sys.path.append(str(ROOT))
