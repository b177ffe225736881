"""The compiled CUDA operators; csrc/*/*_cuda.h say what each does.

Each works on a device, by its index, and queues its kernels on a stream of it.
"""

from collections.abc import Sequence

from torch import Tensor

# Velocity, scale, steps, method, padding, and a CPU's threads.
Flow = tuple[Tensor, float, int, str, str, int]
# A stack of displacements, and which steps they are.
Stages = tuple[Tensor | None, list[int]]

# Image, image in fixed point, its scale, displacement, partial sums of the affine.
_WarpGradients = tuple[Tensor | None, ...]
# Field, field in fixed point, its scale, displacement.
_CompositionGradients = tuple[Tensor | None, ...]

def warp_forward(
    image: Tensor,
    displacement: Tensor,
    affine: Tensor | None,
    out: Tensor,
    mode: str,
    padding: str,
    device: int,
    stream: int,
) -> None: ...
def warp_backward(
    grad: Tensor,
    image: Tensor,
    displacement: Tensor,
    affine: Tensor | None,
    gradients: _WarpGradients,
    mode: str,
    padding: str,
    device: int,
    stream: int,
) -> None: ...
def gaussian_smooth(
    images: Tensor,
    out: Tensor,
    scratch: Tensor,
    sigma: Sequence[float],
    adjoint: bool,
    device: int,
    stream: int,
) -> None: ...
def spline_coefficients(
    image: Tensor,
    out: Tensor,
    scratch: Tensor | None,
    padding: str,
    adjoint: bool,
    device: int,
    stream: int,
) -> None: ...
def compose_forward(
    u: Tensor, v: Tensor, out: Tensor, padding: str, device: int, stream: int
) -> None: ...
def compose_backward(
    grad: Tensor,
    u: Tensor,
    v: Tensor,
    gradients: _CompositionGradients,
    padding: str,
    device: int,
    stream: int,
) -> None: ...
def exponential_forward(
    flow: Flow,
    out: Tensor,
    inverse: Tensor | None,
    stages: Stages,
    scratch: Tensor,
    device: int,
    stream: int,
) -> None: ...
def exponential_resume(
    flow: Flow,
    out: Tensor,
    stages: Stages,
    scratch: Tensor,
    device: int,
    stream: int,
) -> None: ...
def exponential_backward(
    flow: Flow,
    grad_out: Tensor,
    stages: Stages,
    grad_velocity: Tensor,
    scratch: Tensor,
    device: int,
    stream: int,
) -> None: ...
def exponential_peak(velocity: Tensor, peak: Tensor, device: int, stream: int) -> None: ...
def warp_exponential_forward(
    image: Tensor,
    flow: Flow,
    out: Tensor,
    stages: Stages,
    scratch: Tensor | None,
    mode: str,
    padding: str,
    device: int,
    stream: int,
) -> None: ...
def jacobian_forward(
    displacement: Tensor,
    out: Tensor,
    scheme: str,
    spacing: Sequence[float],
    device: int,
    stream: int,
) -> None: ...
def jacobian_backward(
    grad: Tensor,
    displacement: Tensor,
    grad_displacement: Tensor,
    scheme: str,
    spacing: Sequence[float],
    device: int,
    stream: int,
) -> None: ...
def folding(
    displacement: Tensor,
    partial: Tensor,
    statistics: Tensor,
    scheme: str,
    interior: bool,
    spacing: Sequence[float],
    device: int,
    stream: int,
) -> None: ...
def jacobian_penalty_forward(
    u: Tensor,
    partial: Tensor,
    out: Tensor,
    threshold: float,
    kind: str,
    scheme: str,
    spacing: Sequence[float],
    device: int,
    stream: int,
) -> None: ...
def jacobian_penalty_backward(
    grad: Tensor,
    u: Tensor,
    grad_u: Tensor,
    threshold: float,
    kind: str,
    scheme: str,
    spacing: Sequence[float],
    device: int,
    stream: int,
) -> None: ...
def smoothness_forward(
    v: Tensor,
    partial: Tensor,
    out: Tensor,
    order: int,
    scheme: str,
    spacing: Sequence[float],
    device: int,
    stream: int,
) -> None: ...
def smoothness_backward(
    grad: Tensor,
    v: Tensor,
    grad_v: Tensor,
    order: int,
    scheme: str,
    spacing: Sequence[float],
    device: int,
    stream: int,
) -> None: ...
def joint_histogram_forward(
    x: Tensor,
    y: Tensor,
    mask: Tensor | None,
    value_range: Tensor,
    out: Tensor,
    scratch: Tensor,
    bins: int,
    kernel: str,
    sigma: float,
    device: int,
    stream: int,
) -> None: ...
def joint_histogram_backward(
    grad: Tensor,
    x: Tensor,
    y: Tensor,
    mask: Tensor | None,
    value_range: Tensor,
    grad_x: Tensor | None,
    grad_y: Tensor | None,
    scratch: Tensor,
    bins: int,
    kernel: str,
    sigma: float,
    device: int,
    stream: int,
) -> None: ...
def lncc_forward(
    x: Tensor,
    y: Tensor,
    mask: Tensor | None,
    out: Tensor,
    scratch: Tensor,
    window: int,
    kernel: str,
    squared: bool,
    border: str,
    stabiliser: str,
    epsilon: float,
    numerator: float,
    device: int,
    stream: int,
) -> None: ...
def lncc_backward(
    grad: Tensor,
    x: Tensor,
    y: Tensor,
    mask: Tensor | None,
    grad_x: Tensor | None,
    grad_y: Tensor | None,
    scratch: Tensor,
    window: int,
    kernel: str,
    squared: bool,
    border: str,
    stabiliser: str,
    epsilon: float,
    numerator: float,
    device: int,
    stream: int,
) -> None: ...
def mind_distance_forward(
    x: Tensor,
    y: Tensor,
    mask: Tensor | None,
    out: Tensor,
    scratch: Tensor,
    dilations: Sequence[int],
    sigma: float,
    kind: str,
    epsilon: float,
    device: int,
    stream: int,
) -> None: ...
def mind_distance_backward(
    grad: Tensor,
    x: Tensor,
    y: Tensor,
    mask: Tensor | None,
    grad_x: Tensor | None,
    grad_y: Tensor | None,
    scratch: Tensor,
    dilations: Sequence[int],
    sigma: float,
    kind: str,
    epsilon: float,
    device: int,
    stream: int,
) -> None: ...
def invert_forward(
    displacement: Tensor,
    out: Tensor,
    squared_residual: Tensor,
    iterations: Tensor,
    tolerance: float,
    limit: int,
    padding: str,
    device: int,
    stream: int,
) -> None: ...
def invert_adjoint(
    grad: Tensor,
    displacement: Tensor,
    inverse: Tensor,
    adjoint: Tensor,
    padding: str,
    device: int,
    stream: int,
) -> None: ...
def device_error(device: int) -> str: ...
def build_info() -> dict[str, str]: ...
