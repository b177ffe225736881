"""The compiled CPU operators; csrc/*/cpu/*.h say what each does."""

from collections.abc import Sequence

from plasticine.ops._native_interface import NativeFlow, NativeStages, NativeTensor

def warp_forward(
    image: NativeTensor,
    displacement: NativeTensor,
    affine: NativeTensor | None,
    out: NativeTensor,
    mode: int,
    padding: int,
    threads: int,
) -> None: ...
def warp_backward(
    grad_out: NativeTensor,
    image: NativeTensor,
    displacement: NativeTensor,
    affine: NativeTensor | None,
    grad_image: NativeTensor | None,
    grad_displacement: NativeTensor | None,
    grad_affine: NativeTensor | None,
    mode: int,
    padding: int,
    threads: int,
) -> None: ...
def spline_coefficients(
    image: NativeTensor,
    out: NativeTensor,
    scratch: NativeTensor | None,
    padding: int,
    adjoint: bool,
    threads: int,
) -> None: ...
def compose_forward(
    u: NativeTensor, v: NativeTensor, out: NativeTensor, padding: int, threads: int
) -> None: ...
def compose_backward(
    grad_out: NativeTensor,
    u: NativeTensor,
    v: NativeTensor,
    grad_u: NativeTensor | None,
    grad_v: NativeTensor | None,
    padding: int,
    threads: int,
) -> None: ...
def exponential_forward(
    flow: NativeFlow,
    out: NativeTensor,
    inverse: NativeTensor | None,
    stages: NativeStages,
    scratch: NativeTensor,
) -> None: ...
def exponential_resume(
    flow: NativeFlow, out: NativeTensor, stages: NativeStages, scratch: NativeTensor
) -> None: ...
def exponential_backward(
    flow: NativeFlow,
    grad_out: NativeTensor,
    stages: NativeStages,
    grad_velocity: NativeTensor,
    scratch: NativeTensor,
) -> None: ...
def exponential_peak(velocity: NativeTensor, threads: int) -> float: ...
def warp_exponential_forward(
    image: NativeTensor,
    flow: NativeFlow,
    out: NativeTensor,
    stages: NativeStages,
    scratch: NativeTensor | None,
    mode: int,
    padding: int,
) -> None: ...
def jacobian_forward(
    displacement: NativeTensor,
    out: NativeTensor,
    scheme: int,
    spacing: Sequence[float],
    threads: int,
) -> None: ...
def jacobian_backward(
    grad_out: NativeTensor,
    displacement: NativeTensor,
    grad_displacement: NativeTensor,
    scheme: int,
    spacing: Sequence[float],
    threads: int,
) -> None: ...
def folding(
    displacement: NativeTensor,
    statistics: NativeTensor,
    scheme: int,
    interior: bool,
    spacing: Sequence[float],
    threads: int,
) -> None: ...
def invert_forward(
    displacement: NativeTensor,
    out: NativeTensor,
    residual: NativeTensor,
    iterations: NativeTensor,
    tolerance: float,
    limit: int,
    padding: int,
    threads: int,
) -> None: ...
def invert_backward(
    grad_out: NativeTensor,
    displacement: NativeTensor,
    inverse: NativeTensor,
    adjoint: NativeTensor,
    grad_displacement: NativeTensor,
    padding: int,
    threads: int,
) -> None: ...
def simd_level() -> str: ...
def build_info() -> dict[str, str | bool]: ...
