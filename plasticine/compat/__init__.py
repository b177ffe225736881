"""Other projects' layers, functions and losses on this package's operators, and ``patch``.

``plasticine.compat.monai.Warp`` and its like have their project's names, signatures, defaults and
conventions, and need no such project installed. ``patch("monai")`` puts them in the place of the
originals, ``unpatch`` puts those back.
"""

from plasticine.compat._patching import Replacement, Report, original, patch, patched, unpatch

__all__ = ["Replacement", "Report", "original", "patch", "patched", "unpatch"]
