"""The compiled CPU operators; csrc/*/cpu/*.h say what each does."""

from collections.abc import Sequence

from torch import Tensor

# Velocity, scale, steps, method, padding, and a CPU's threads.
Flow = tuple[Tensor, float, int, str, str, int]
# A stack of displacements, and which steps they are.
Stages = tuple[Tensor | None, list[int]]

def warp_forward(
    image: Tensor,
    displacement: Tensor,
    affine: Tensor | None,
    out: Tensor,
    mode: str,
    padding: str,
    threads: int,
) -> None: ...
def warp_backward(
    grad_out: Tensor,
    image: Tensor,
    displacement: Tensor,
    affine: Tensor | None,
    grad_image: Tensor | None,
    grad_displacement: Tensor | None,
    grad_affine: Tensor | None,
    mode: str,
    padding: str,
    threads: int,
) -> None: ...
def gaussian_smooth(
    images: Tensor, out: Tensor, sigma: Sequence[float], adjoint: bool, threads: int
) -> None: ...
def spline_coefficients(
    image: Tensor,
    out: Tensor,
    scratch: Tensor | None,
    padding: str,
    adjoint: bool,
    threads: int,
) -> None: ...
def compose_forward(u: Tensor, v: Tensor, out: Tensor, padding: str, threads: int) -> None: ...
def compose_backward(
    grad_out: Tensor,
    u: Tensor,
    v: Tensor,
    grad_u: Tensor | None,
    grad_v: Tensor | None,
    padding: str,
    threads: int,
) -> None: ...
def exponential_forward(
    flow: Flow,
    out: Tensor,
    inverse: Tensor | None,
    stages: Stages,
    scratch: Tensor,
) -> None: ...
def exponential_resume(flow: Flow, out: Tensor, stages: Stages, scratch: Tensor) -> None: ...
def exponential_backward(
    flow: Flow,
    grad_out: Tensor,
    stages: Stages,
    grad_velocity: Tensor,
    scratch: Tensor,
) -> None: ...
def exponential_peak(velocity: Tensor, threads: int) -> float: ...
def warp_exponential_forward(
    image: Tensor,
    flow: Flow,
    out: Tensor,
    stages: Stages,
    scratch: Tensor | None,
    mode: str,
    padding: str,
) -> None: ...
def jacobian_forward(
    displacement: Tensor,
    out: Tensor,
    scheme: str,
    spacing: Sequence[float],
    threads: int,
) -> None: ...
def jacobian_backward(
    grad_out: Tensor,
    displacement: Tensor,
    grad_displacement: Tensor,
    scheme: str,
    spacing: Sequence[float],
    threads: int,
) -> None: ...
def folding(
    displacement: Tensor,
    statistics: Tensor,
    scheme: str,
    interior: bool,
    spacing: Sequence[float],
    threads: int,
) -> None: ...
def jacobian_penalty_forward(
    u: Tensor,
    out: Tensor,
    threshold: float,
    kind: str,
    scheme: str,
    spacing: Sequence[float],
    threads: int,
) -> None: ...
def jacobian_penalty_backward(
    grad: Tensor,
    u: Tensor,
    grad_u: Tensor,
    threshold: float,
    kind: str,
    scheme: str,
    spacing: Sequence[float],
    threads: int,
) -> None: ...
def smoothness_forward(
    v: Tensor,
    out: Tensor,
    order: int,
    scheme: str,
    spacing: Sequence[float],
    threads: int,
) -> None: ...
def smoothness_backward(
    grad: Tensor,
    v: Tensor,
    grad_v: Tensor,
    order: int,
    scheme: str,
    spacing: Sequence[float],
    threads: int,
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
    threads: int,
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
    threads: int,
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
    threads: int,
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
    threads: int,
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
    threads: int,
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
    threads: int,
) -> None: ...
def invert_forward(
    displacement: Tensor,
    out: Tensor,
    residual: Tensor,
    iterations: Tensor,
    tolerance: float,
    limit: int,
    padding: str,
    threads: int,
) -> None: ...
def invert_backward(
    grad_out: Tensor,
    displacement: Tensor,
    inverse: Tensor,
    adjoint: Tensor,
    grad_displacement: Tensor,
    padding: str,
    threads: int,
) -> None: ...
def simd_level() -> str: ...
def build_info() -> dict[str, str | bool]: ...
