"""How an operator is registered with PyTorch, and how a call reaches it.

Every operator is a ``torch.library`` operator with a fake kernel and an autograd formula, so that
``torch.compile``, ``torch.export``, dispatch modes and subclasses see it. An eager call on plain
tensors has none of these to serve, and the dispatcher's two trips through Python would cost it more
than a small warp: such a call goes straight to the kernel (through the same autograd function).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

LIBRARY = torch.library.Library("plasticine", "FRAGMENT")

_PLAIN_TYPES = (Tensor, torch.nn.Parameter)

# What every call asks, by names of its own: to look them up would take as long as to ask.
_dispatch_modes = torch._C._len_torch_dispatch_stack
_function_modes = torch._C._len_torch_function_stack
_tracing_state = torch._C._get_tracing_state
_is_profiled = torch.autograd._profiler_enabled
_is_functorch_wrapped = torch._C._functorch.is_functorch_wrapped_tensor
_is_legacy_batched = torch._C._functorch.is_legacy_batchedtensor

Kernel = Callable[..., Any]


class Operator:
    """A registered operator: ``operator(*arguments)`` takes the shortest way that is right.

    Attributes:
        overload: the ``torch.ops.plasticine`` overload.
    """

    def __init__(
        self,
        schema: str,
        kernel: Kernel,
        fake: Kernel,
        function: type[torch.autograd.Function],
        tensors: int,
        unchecked: Kernel | None = None,
    ) -> None:
        """Registers an operator.

        Args:
            schema: as ``torch.library.define`` takes it.
            kernel: checks its arguments and computes, on any device.
            fake: checks its arguments and returns empty results of the same shapes and strides.
            function: the autograd formula; it is applied to the operator's arguments and, last, to
                the callable that computes the result from them.
            tensors: how many leading arguments are tensors or None.
            unchecked: of a backward operator, the kernel without its checks: what autograd saved
                has passed those of the forward operator. It may return None for a gradient that is
                not needed.
        """
        self.name = schema[: schema.index("(")]
        self._kernel = kernel
        self._unchecked = kernel if unchecked is None else unchecked
        self._function = function
        self._apply = _apply_without_transforms(function)
        self._tensors = tensors
        LIBRARY.define(schema, tags=(torch.Tag.pt2_compliant_tag,))
        LIBRARY.impl(self.name, self._dispatched, "CompositeExplicitAutograd")
        torch.library.register_fake(f"plasticine::{self.name}", fake, lib=LIBRARY)
        self.overload = getattr(torch.ops.plasticine, self.name).default
        LIBRARY.impl(self.name, self._autograd, "Autograd", with_keyset=True)

        def vmap(info: Any, in_dims: tuple[Any, ...], *arguments: Any) -> Any:
            return function.vmap(info, in_dims, *arguments, self._below_transform)

        torch.library.register_vmap(f"plasticine::{self.name}", vmap, lib=LIBRARY)

    def __call__(self, *arguments: Any) -> Any:
        """Calls the operator."""
        return self._call(self._kernel, arguments)

    def from_autograd(self, *arguments: Any) -> Any:
        """Calls a backward operator with what its forward operator saved."""
        return self._call(self._unchecked, arguments)

    def _call(self, kernel: Kernel, arguments: tuple[Any, ...]) -> Any:
        if torch.compiler.is_compiling():
            return self.overload(*arguments)
        if torch._C._are_functorch_transforms_active():
            return self._function.apply(*arguments, self._below_transform)
        if forward_ad._current_level >= 0:
            # The formula says what the tangents are, or that it knows none.
            return self._function.apply(*arguments, self._without_tangents)
        inputs = arguments[: self._tensors]
        if not _is_plain(inputs):
            return self.overload(*arguments)
        if _is_recorded(inputs):
            return self._apply(*arguments, kernel)
        return kernel(*arguments)

    def _without_tangents(self, *arguments: Any) -> Any:
        """The operator where forward-mode differentiation is left to the formula around it."""
        return self.overload(*(_primal_of(x) for x in arguments))

    def _below_transform(self, *arguments: Any) -> Any:
        """What a transform's rule calls: there may be another transform below it."""
        if torch._C._are_functorch_transforms_active():
            return self._function.apply(*arguments, self._below_transform)
        return self.overload(*arguments)

    def _dispatched(self, *arguments: Any) -> Any:
        """The kernel as the dispatcher calls it: also with subclasses, whose methods may differ."""
        return self._kernel(
            *(
                x.as_subclass(Tensor)
                if isinstance(x, Tensor) and type(x) not in _PLAIN_TYPES
                else x
                for x in arguments
            )
        )

    def _autograd(self, keyset: torch._C.DispatchKeySet, *arguments: Any) -> Any:
        """The kernel of the dispatcher's Autograd key."""

        def below(*arguments: Any) -> Any:
            return self.overload.redispatch(keyset & torch._C._after_autograd_keyset, *arguments)

        if _is_recorded(arguments[: self._tensors]):
            return self._apply(*arguments, below)
        return below(*arguments)


def _primal_of(x: Any) -> Any:
    """A tensor without its tangent; anything else as it is."""
    # A tensor of autograd's own vmap is a tangent, and has none.
    if isinstance(x, Tensor) and not _is_legacy_batched(x):
        return forward_ad.unpack_dual(x).primal
    return x


def _is_recorded(tensors: Sequence[Tensor | None]) -> bool:
    """Whether autograd is to record a call with these tensors."""
    if torch.is_grad_enabled():
        for x in tensors:
            if x is not None and x.requires_grad:
                return True
    return False


def _apply_without_transforms(function: type[torch.autograd.Function]) -> Kernel:
    """``apply`` of the same formula where no torch.func transform is active.

    A function that torch.func can take costs 10 us more a call (it binds its arguments to a
    signature), and the checks in front of ``apply`` 1.5 us.
    """

    def forward(ctx: Any, *arguments: Any) -> Any:
        output = arguments[-1](*arguments[:-1])
        function.setup_context(ctx, arguments, output)
        return output

    members = {"forward": staticmethod(forward), "backward": staticmethod(function.backward)}
    plain: type[torch.autograd.Function] = type(
        function.__name__.lstrip("_"), (torch.autograd.Function,), members
    )
    return super(torch.autograd.Function, plain).apply  # type: ignore[misc]


def _is_plain(tensors: Sequence[Tensor | None]) -> bool:
    """Whether only a kernel and autograd would see a call with these tensors."""
    if _dispatch_modes() or _function_modes() or _tracing_state() is not None or _is_profiled():
        return False
    for x in tensors:
        if x is not None and (
            type(x) not in _PLAIN_TYPES
            or not (x.is_cpu or x.is_cuda)
            or x.is_neg()
            # What a transform that has ended leaves behind, as when torch.func.vjp pulls back.
            or _is_functorch_wrapped(x)
            # One of autograd's own vmap (is_grads_batched): the dispatcher goes through its batch.
            or _is_legacy_batched(x)
        ):
            return False
    return True


def not_twice_differentiable(name: str, tensors: int) -> type[torch.autograd.Function]:
    """The autograd function of a backward operator: it says that there is no second derivative.

    Args:
        name: the public operator's name.
        tensors: how many leading arguments are tensors.
    """
    return not_differentiable_again(
        f"plasticine.{name} has no second derivative: its gradient cannot be differentiated again "
        "(create_graph=True followed by a second backward)",
        tensors,
    )


def not_differentiable_again(message: str, tensors: int) -> type[torch.autograd.Function]:
    """The autograd function of an operator that has no derivative: it says so.

    Args:
        message: the error's.
        tensors: how many leading arguments are tensors.
    """

    class NotDifferentiableAgain(torch.autograd.Function):
        @staticmethod
        def forward(*arguments: Any) -> Any:
            return arguments[-1](*arguments[:-1])

        @staticmethod
        def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
            pass

        @staticmethod
        def backward(ctx: Any, *gradients: Tensor) -> Any:
            raise RuntimeError(message)

        @staticmethod
        def vmap(info: Any, in_dims: tuple[Any, ...], *arguments: Any) -> Any:
            return map_over_batch(info, in_dims, arguments, tensors)

    return NotDifferentiableAgain


def keep_for_tangents(ctx: Any, *tensors: Tensor | None) -> None:
    """Saves tensors for a formula's ``jvp``, where forward-mode differentiation is on."""
    if forward_ad._current_level >= 0:
        ctx.save_for_forward(*tensors)


def map_over_batch(
    info: Any, in_dims: tuple[Any, ...], arguments: tuple[Any, ...], tensors: int
) -> tuple[Any, Any]:
    """A vmap rule for operators whose tensors all begin with the batch axis: fold vmap's into it.

    A tensor that is not mapped is a view of stride 0 where its own batch is 1; a larger batch would
    have to interleave with the mapped axis, and is copied.

    Args:
        info: with ``batch_size``, as vmap rules receive it.
        in_dims: the mapped axis of each argument, or None.
        arguments: the operator's, then the callable that computes the result.
        tensors: how many leading arguments are tensors.

    Returns:
        The result or results with the mapped axis first, and ``out_dims``.
    """
    *operands, execute = arguments
    size = info.batch_size
    folded: list[Tensor | None] = []
    for x, axis in zip(operands[:tensors], in_dims[:tensors], strict=True):
        if x is None:
            folded.append(None)
            continue
        x = x.unsqueeze(0).expand(size, *x.shape) if axis is None else x.movedim(axis, 0)
        folded.append(x.flatten(0, 1))
    results = execute(*folded, *operands[tensors:])
    single = isinstance(results, Tensor)
    # A gradient that was not asked for is an empty tensor of one axis.
    unfolded = [
        x.unflatten(0, (size, -1)) if x.dim() > 1 else x for x in ([results] if single else results)
    ]
    out_dims = [0 if x.dim() > 2 else None for x in unfolded]
    return (unfolded[0], out_dims[0]) if single else (tuple(unfolded), tuple(out_dims))


def fold_batch(info: Any, x: Tensor | None, axis: int | None, batch: int = 0) -> Tensor | None:
    """A tensor with vmap's axis folded into its batch axis; None stays None.

    Args:
        info: with ``batch_size``, as vmap rules receive it.
        x: a vmap rule's argument.
        axis: its mapped axis, or None.
        batch: its batch axis, without the mapped one.
    """
    if x is None:
        return None
    if axis is None:
        shape = (*x.shape[:batch], info.batch_size, *x.shape[batch:])
        return x.unsqueeze(batch).expand(shape).flatten(batch, batch + 1)
    return x.movedim(axis, batch).flatten(batch, batch + 1)


def reference_gradients(
    function: Kernel,
    inputs: Sequence[Tensor | None],
    needs: Sequence[bool],
    grad: Tensor,
) -> tuple[Tensor | None, ...]:
    """The gradients of a reference implementation, by autograd.

    Args:
        function: of the inputs, to the result.
        inputs: tensors or None.
        needs: which inputs want a gradient.
        grad: the result's gradient.

    Returns:
        For each input its contiguous gradient, or None where none is needed.
    """
    with torch.inference_mode(False), torch.enable_grad():
        # An inference tensor cannot be recorded; its copy can.
        leaves = [
            x if x is None else (x.clone() if x.is_inference() else x.detach()).requires_grad_(need)
            for x, need in zip(inputs, needs, strict=True)
        ]
        found: tuple[Tensor | None, ...]
        wanted = [x for x, need in zip(leaves, needs, strict=True) if x is not None and need]
        result = function(*leaves)
        if result.requires_grad:
            found = torch.autograd.grad(result, wanted, grad, allow_unused=True)
        else:
            found = tuple(None for _ in wanted)
    gradients = iter(found)
    return tuple(
        _contiguous_gradient(next(gradients), x) if x is not None and need else None
        for x, need in zip(inputs, needs, strict=True)
    )


def _contiguous_gradient(gradient: Tensor | None, of: Tensor) -> Tensor:
    if gradient is None:
        return torch.zeros_like(of, memory_format=torch.contiguous_format)
    return gradient.contiguous()
