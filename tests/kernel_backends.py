"""The GPU's backends on a machine without a GPU: Triton interpreted, CUDA compiled for the CPU.

A process serves one of them, which PLASTICINE_KERNELS names: "triton", or the path of the compiled
module of tests/cuda_emulation. Both take CPU tensors.
"""

from __future__ import annotations

import dataclasses
import importlib.machinery
import importlib.util
import os
from typing import Any

import torch

from plasticine import backends

NAMED = os.environ.get("PLASTICINE_KERNELS")


def start(which: str) -> str:
    """Makes a backend ready that was named as above; returns "triton" or "cuda"."""
    if which == "triton":
        _mend_interpreter()
        _quicken_interpreter()
        _shrink_tiles()
        return "triton"
    loader = importlib.machinery.ExtensionFileLoader("_cuda", which)
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader("_cuda", loader))
    loader.exec_module(module)
    assert module.device_error(0) == ""
    backends.CUDA = module
    torch._C._cuda_getCurrentRawStream = lambda device: 0  # absent without CUDA
    # Fewer than the voxels would fill, so that a block takes several turns, and several meet.
    # By import_module, because the functions take the modules' names.
    importlib.import_module("plasticine.ops.warp")._CUDA_BLOCKS = 2
    folding = importlib.import_module("plasticine.ops.folding")
    for module in (folding, importlib.import_module("plasticine.ops._kernels")):
        module._CUDA_BLOCK_VOXELS, module._CUDA_BLOCKS = 32, 3
    elsewhere = backends.unsuited
    backends.unsuited = lambda backend, operator, device: (
        None if (backend, device) == ("cuda", "cpu") else elsewhere(backend, operator, device)
    )
    return "cuda"


def _shrink_tiles() -> None:
    """Tiles that the interpreter, whose time is that of their values, is done with soon."""
    jacobian, penalty, smoothness, folding, invert, spline_coefficients = (
        backends.triton_kernels(name)[0]
        for name in (
            "jacobian",
            "jacobian_penalty",
            "smoothness",
            "folding",
            "invert",
            "spline_coefficients",
        )
    )
    for module in (jacobian, penalty, smoothness):
        for tile in ("_FORWARD_TILE", "_FLOAT64_TILE", "_BACKWARD_TILE"):
            getattr(module, tile, {})["PLANES"] = 2
    for tile in ("_TILE", "_FLOAT64_TILE"):
        getattr(folding, tile)["PLANES"] = 4
    invert._BLOCK, invert._HALF_BLOCK = 32, 64
    backends.triton_kernels("lncc")[0]._BLOCK = 2048  # it takes as long for a small block
    mind_distance = backends.triton_kernels("mind_distance")[0]
    mind_distance._BLOCK, mind_distance._VOXELS = 16384, 1024
    spline_coefficients._LINES, spline_coefficients._CHUNK = {True: 8, False: 8}, 4


def check_overflow(check: bool) -> None:
    """Whether Triton's interpreter raises where a 32-bit sum or product overflows."""
    from triton.runtime.interpreter import interpreter_builder

    interpreter_builder.options = dataclasses.replace(
        interpreter_builder.options, sanitize_overflow=check
    )


def _mend_interpreter() -> None:
    """Lets a number that only the run knows bound a loop, in Triton 3.6 with NumPy 2.4 and later.

    A number is an array of one element there, of which Triton makes an int by ``int(array)``. NumPy
    refuses that since 2.4 ("only 0-dimensional arrays can be converted"). Later Tritons do as this.
    """
    from triton.runtime import interpreter

    patch = interpreter._patch_lang_tensor

    def patch_and_mend(tensor: type, scope: Any) -> None:
        patch(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: self.handle.data.item())

    interpreter._patch_lang_tensor = patch_and_mend


def _quicken_interpreter() -> None:
    """Spares Triton's interpreter four fifths of its time, on what changes no result.

    It replaces triton.language anew for every function that a kernel calls, though the launch has
    done so, and follows every 32-bit sum and product by the 64-bit one: see check_overflow.
    """
    import triton.language as tl
    from triton.runtime import interpreter

    # Of triton.language.core, which only Triton's own functions name: once for the process.
    interpreter._patch_lang(tl.standard.zeros.fn)
    interpreter.InterpretedFunction.__call__ = lambda function, *arguments, **options: (
        function.rewrite()(*arguments, **options)
    )
    check_overflow(False)
