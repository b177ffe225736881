"""Triton kernels, one module per operator; they import torch and triton only.

Installed as ``plasticine.kernels``. Importing this package does not import triton, so that
:mod:`plasticine.kernels.fixed_point`, which every CUDA backend shares, needs torch alone.
"""
