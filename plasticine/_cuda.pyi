"""The compiled CUDA operators; csrc/*/*_cuda.h say what each does.

Each works on a device, by its index, and queues its kernels on a stream of it.
"""

from collections.abc import Sequence

from plasticine.ops._native_interface import NativeFlow, NativeStages, NativeTensor

# Image, image in fixed point, its scale, displacement, partial sums of the affine.
_WarpGradients = tuple[NativeTensor | None, ...]
# Field, field in fixed point, its scale, displacement.
_CompositionGradients = tuple[NativeTensor | None, ...]

def warp_forward(
    image: NativeTensor,
    displacement: NativeTensor,
    affine: NativeTensor | None,
    out: NativeTensor,
    mode: int,
    padding: int,
    device: int,
    stream: int,
) -> None: ...
def warp_backward(
    grad: NativeTensor,
    image: NativeTensor,
    displacement: NativeTensor,
    affine: NativeTensor | None,
    gradients: _WarpGradients,
    mode: int,
    padding: int,
    device: int,
    stream: int,
) -> None: ...
def spline_coefficients(
    image: NativeTensor,
    out: NativeTensor,
    scratch: NativeTensor | None,
    padding: int,
    adjoint: bool,
    device: int,
    stream: int,
) -> None: ...
def compose_forward(
    u: NativeTensor, v: NativeTensor, out: NativeTensor, padding: int, device: int, stream: int
) -> None: ...
def compose_backward(
    grad: NativeTensor,
    u: NativeTensor,
    v: NativeTensor,
    gradients: _CompositionGradients,
    padding: int,
    device: int,
    stream: int,
) -> None: ...
def exponential_forward(
    flow: NativeFlow,
    out: NativeTensor,
    inverse: NativeTensor | None,
    stages: NativeStages,
    scratch: NativeTensor,
    device: int,
    stream: int,
) -> None: ...
def exponential_resume(
    flow: NativeFlow,
    out: NativeTensor,
    stages: NativeStages,
    scratch: NativeTensor,
    device: int,
    stream: int,
) -> None: ...
def exponential_backward(
    flow: NativeFlow,
    grad_out: NativeTensor,
    stages: NativeStages,
    grad_velocity: NativeTensor,
    scratch: NativeTensor,
    device: int,
    stream: int,
) -> None: ...
def exponential_peak(
    velocity: NativeTensor, peak: NativeTensor, device: int, stream: int
) -> None: ...
def warp_exponential_forward(
    image: NativeTensor,
    flow: NativeFlow,
    out: NativeTensor,
    stages: NativeStages,
    scratch: NativeTensor | None,
    mode: int,
    padding: int,
    device: int,
    stream: int,
) -> None: ...
def jacobian_forward(
    displacement: NativeTensor,
    out: NativeTensor,
    scheme: int,
    spacing: Sequence[float],
    device: int,
    stream: int,
) -> None: ...
def jacobian_backward(
    grad: NativeTensor,
    displacement: NativeTensor,
    grad_displacement: NativeTensor,
    scheme: int,
    spacing: Sequence[float],
    device: int,
    stream: int,
) -> None: ...
def folding(
    displacement: NativeTensor,
    partial: NativeTensor,
    statistics: NativeTensor,
    scheme: int,
    interior: bool,
    spacing: Sequence[float],
    device: int,
    stream: int,
) -> None: ...
def invert_forward(
    displacement: NativeTensor,
    out: NativeTensor,
    squared_residual: NativeTensor,
    iterations: NativeTensor,
    tolerance: float,
    limit: int,
    padding: int,
    device: int,
    stream: int,
) -> None: ...
def invert_adjoint(
    grad: NativeTensor,
    displacement: NativeTensor,
    inverse: NativeTensor,
    adjoint: NativeTensor,
    padding: int,
    device: int,
    stream: int,
) -> None: ...
def device_error(device: int) -> str: ...
def build_info() -> dict[str, str]: ...
