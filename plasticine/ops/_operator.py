"""An operator is declared once: what calls it, checks it, allocates for it and differentiates it.

Every operator is a ``torch.library`` operator with a fake kernel and an autograd formula, so that
``torch.compile``, ``torch.export``, dispatch modes and subclasses see it. An eager call on plain
tensors has none of these to serve, and the dispatcher's two trips through Python would cost it more
than a small warp: such a call goes straight to the kernel (through the same autograd function).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from plasticine import backends
from plasticine.ops import _autocast, _checks
from plasticine.ops._derivative import Derivative, formula_of, plain_apply
from plasticine.ops._kernels import Kernel, call, device_type

LIBRARY = torch.library.Library("plasticine", "FRAGMENT")

#: Every operator that a user calls, by name: what tests, benchmarks and the GPU round go through.
REGISTRY: dict[str, Operator] = {}

_PLAIN_TYPES = (Tensor, torch.nn.Parameter)
# What every call asks, by names of its own: to look them up would take as long as to ask.
_is_compiling = torch.compiler.is_compiling
_has_transforms = torch._C._are_functorch_transforms_active
_is_grad_enabled = torch.is_grad_enabled
_dispatch_modes = torch._C._len_torch_dispatch_stack
_function_modes = torch._C._len_torch_function_stack
_tracing_state = torch._C._get_tracing_state
_is_profiled = torch.autograd._profiler_enabled
_is_legacy_batched = torch._C._functorch.is_legacy_batchedtensor


class Operator:
    """A registered operator: ``operator(*arguments)`` takes the shortest way that is right.

    Its arguments are tensors (or None), options, the backend, and where there are several gradients
    to choose from, ``needs``.

    Attributes:
        name: in ``torch.ops.plasticine``.
        inputs: the names of the tensors.
        choices: the words that an option may be, by the option's name.
        serve: for each backend the function of the arguments without it that computes.
        overload: the ``torch.ops.plasticine`` overload.
    """

    def __init__(
        self,
        schema: str,
        *,
        check: Callable[..., Any],
        results: Callable[..., Any],
        derivative: Derivative,
        choices: Mapping[str, Sequence[str]] | None = None,
        kernel: str = "",
        scratch: Callable[..., Tensor] | None = None,
        field: int = 0,
        autocast: Callable[..., tuple[Any, ...]] | None = None,
        serve: Mapping[str, Kernel],
        held_as: str = "",
        input_axes: Sequence[int] = (),
        result_axes: Sequence[int] = (),
    ) -> None:
        """Registers an operator.

        Args:
            schema: as ``torch.library.define`` takes it, without ``str backend``, which is added.
            check: raises unless the arguments, without backend and ``needs``, fit together.
            results: the shape rule, a function of the arguments without the backend: memory for
                the result or the results, None for one that is not wanted.
            derivative: what autograd does.
            choices: the words that options may be.
            kernel: the name of the compiled functions that take the tensors, the results, the
                scratch and the options, and serve every backend that is not in ``serve``.
            scratch: memory for those functions alone, a function of the arguments.
            field: which argument has as many voxels as there are to compute.
            autocast: what ``torch.autocast`` makes of the tensors, where it does: a function of
                :mod:`plasticine.ops._autocast`.
            serve: functions of the arguments without the backend that return the results, by
                backend; "reference" is needed.
            held_as: the operator by whose name a backend is chosen; its own by default.
            input_axes: the batch axis of each tensor, where it is not always 0.
            result_axes: the same of the results.
        """
        self.name = schema[: schema.index("(")]
        parameters = re.findall(r"([\w?\[\]]+) (\w+)[,)]", schema.partition(" -> ")[0])
        self.inputs = tuple(name for kind, name in parameters if kind.startswith("Tensor"))
        self.choices = dict(choices or {})
        self._tensors = len(self.inputs)
        has_needs = parameters[-1][1] == "needs"
        self._backend = len(parameters) - has_needs  # where the backend stands
        names = [name for _, name in parameters]
        self._words = [(names.index(name), name, words) for name, words in self.choices.items()]
        self._check_arguments = check
        self._results = results
        self._scratch = scratch
        self._field = field
        self._autocast = autocast
        self._held_as = held_as or self.name
        self._axes = input_axes or (0,) * self._tensors, result_axes
        self.serve = {name: self._compiled(name, kernel) for name in backends.BACKENDS} | {**serve}
        self._kernel = kernel
        self._special = frozenset(serve)
        function = formula_of(self.name, self._tensors, derivative, self._map_over_batch)
        self._function = function
        self._apply = plain_apply(function)
        schema = re.sub(r"(, bool\[\d\] needs)?\) ->", r", str backend\1) ->", schema)
        LIBRARY.define(schema, tags=(torch.Tag.pt2_compliant_tag,))
        LIBRARY.impl(self.name, self._dispatched, "CompositeExplicitAutograd")
        torch.library.register_fake(f"plasticine::{self.name}", self._fake, lib=LIBRARY)
        self.overload = getattr(torch.ops.plasticine, self.name).default
        LIBRARY.impl(self.name, self._autograd, "Autograd", with_keyset=True)

        def vmap(info: Any, in_dims: tuple[Any, ...], *arguments: Any) -> Any:
            return function.vmap(info, in_dims, *arguments, self._below_transform)

        torch.library.register_vmap(f"plasticine::{self.name}", vmap, lib=LIBRARY)

    def __call__(self, *arguments: Any) -> Any:
        """Calls the operator."""
        if self._autocast is not None and _autocast.is_any_enabled():
            tensors = self._tensors
            arguments = *self._autocast(*arguments[:tensors]), *arguments[tensors:]
        return self._call(self._checked, arguments)

    def from_autograd(self, *arguments: Any) -> Any:
        """Calls it with what a forward operator saved, whose checks that has passed.

        A gradient that is not needed may come back as None.
        """
        return self._call(self._compute, arguments)

    def into(self, results: Any, *arguments: Any, scratch: Tensor | None = None) -> Any:
        """Computes into memory that is there: for loops that take no new memory.

        Of the arguments nothing is checked; nothing is recorded, and no transform or dispatch mode
        is looked for.

        Args:
            results: contiguous, as the shape rule has them: a tensor, or a tuple of tensors and of
                None for what is not wanted. None of them is an argument, too.
            arguments: as in a call.
            scratch: from ``scratch_for`` these arguments; None takes new memory.

        Returns:
            ``results``.

        Raises:
            ValueError: a result is not contiguous.
        """
        place = self._backend
        backend = backends.choose(
            arguments[place], self._held_as, device_type(arguments[self._field])
        )
        own = (*arguments[:place], *arguments[place + 1 :])
        found = results if type(results) is tuple else (results,)
        for result in found:
            if result is not None and not result.is_contiguous():
                raise ValueError(
                    f"results must be contiguous; got shape {tuple(result.shape)} with strides "
                    f"{result.stride()}"
                )
        if backend in self._special:
            computed = self.serve[backend](*own)
            several = computed if type(computed) is tuple else (computed,)
            for result, value in zip(found, several, strict=True):
                if result is not None:
                    result.copy_(value)
            return results
        if self._scratch is not None:
            found = (*found, self._scratch(*own) if scratch is None else scratch)
        inputs, options = own[: self._tensors], own[self._tensors : place]
        call(backend, self._kernel, own[self._field], *inputs, *found, *options)
        return results

    def scratch_for(self, *arguments: Any) -> Tensor | None:
        """Memory that ``into`` may be given again and again for arguments of these shapes."""
        place = self._backend
        if self._scratch is None:
            return None
        return self._scratch(*arguments[:place], *arguments[place + 1 :])

    def check(self, *arguments: Any) -> None:
        """Raises unless the arguments, without the backend and ``needs``, are what it takes."""
        for index, name, words in self._words:
            if arguments[index] not in words:
                _checks.one_of(arguments[index], name, words)
        self._check_arguments(*arguments)

    def _compute(self, *arguments: Any) -> Any:
        place = self._backend
        device = device_type(arguments[self._field])
        serve = self.serve[backends.choose(arguments[place], self._held_as, device)]
        return serve(*arguments[:place], *arguments[place + 1 :])

    def _checked(self, *arguments: Any) -> Any:
        # As check and _compute do it: each call in between is a twentieth of a small warp.
        place = self._backend
        own = arguments[:place]
        for index, name, words in self._words:
            if own[index] not in words:
                _checks.one_of(own[index], name, words)
        self._check_arguments(*own)
        device = device_type(own[self._field])
        serve = self.serve[backends.choose(arguments[place], self._held_as, device)]
        found = serve(*own, *arguments[place + 1 :])
        return self._without_none(found, arguments) if type(found) is tuple else found

    def _compiled(self, backend: str, kernel: str) -> Kernel:
        """A backend's function of that name, which fills what the shape rule allocates."""
        tensors, field, end, allocate = self._tensors, self._field, self._backend, self._results
        scratch = self._scratch

        def serve(*arguments: Any) -> Any:
            results = found = allocate(*arguments)
            if type(results) is not tuple:
                found = (results,)
            if scratch is not None:
                found = (*found, scratch(*arguments))
            inputs, options = arguments[:tensors], arguments[tensors:end]
            call(backend, kernel, arguments[field], *inputs, *found, *options)
            return results

        return serve

    def _fake(self, *arguments: Any) -> Any:
        self.check(*arguments[: self._backend])
        place = self._backend
        results = self._results(*arguments[:place], *arguments[place + 1 :])
        return self._without_none(results, arguments) if type(results) is tuple else results

    def _without_none(self, results: tuple[Any, ...], arguments: tuple[Any, ...]) -> Any:
        """The dispatcher's results: an empty tensor of one axis where one is not wanted."""
        like = arguments[self._field]
        return tuple(like.new_empty(0) if x is None else x for x in results)

    def _call(self, kernel: Kernel, arguments: tuple[Any, ...]) -> Any:
        if _is_compiling():
            return self.overload(*arguments)
        if _has_transforms():
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
        return self._checked(
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

    def _map_over_batch(self, info: Any, in_dims: tuple[Any, ...], *arguments: Any) -> Any:
        """The vmap rule: fold vmap's axis into the batch axis of every tensor.

        A tensor that is not mapped is a view of stride 0 where its own batch is 1; a larger batch
        would have to interleave with the mapped axis, and is copied.
        """
        *operands, execute = arguments
        size = info.batch_size
        input_axes, result_axes = self._axes
        folded = [
            None if x is None else fold_batch(x, axis, batch, size)
            for x, axis, batch in zip(operands, in_dims, input_axes, strict=False)
        ]
        results = execute(*folded, *operands[self._tensors :])
        several = isinstance(results, tuple)
        unfolded, out_dims = [], []
        found = results if several else (results,)
        for x, batch in zip(found, result_axes or (0,) * len(found), strict=True):
            # One that was not asked for is an empty tensor of one axis.
            absent = x.shape == (0,)
            unfolded.append(x if absent else x.unflatten(batch, (size, -1)))
            out_dims.append(None if absent else batch)
        return (tuple(unfolded), tuple(out_dims)) if several else (unfolded[0], out_dims[0])


def fold_batch(x: Tensor, axis: int | None, batch: int, size: int) -> Tensor:
    """A tensor with vmap's axis folded into its batch axis.

    Args:
        x: a vmap rule's argument.
        axis: its mapped axis, or None.
        batch: its batch axis, without the mapped one.
        size: the length of the mapped axis.
    """
    if axis is None:
        x = x.unsqueeze(batch).expand(*x.shape[:batch], size, *x.shape[batch:])
    else:
        x = x.movedim(axis, batch)
    return x.flatten(batch, batch + 1)


def _primal_of(x: Any) -> Any:
    """A tensor without its tangent; anything else as it is."""
    # A tensor of autograd's own vmap is a tangent, and has none.
    if isinstance(x, Tensor) and not _is_legacy_batched(x):
        return forward_ad.unpack_dual(x).primal
    return x


def _is_recorded(tensors: Sequence[Tensor | None]) -> bool:
    """Whether autograd is to record a call with these tensors."""
    if _is_grad_enabled():
        for x in tensors:
            if x is not None and x.requires_grad:
                return True
    return False


def _is_plain(tensors: Sequence[Tensor | None]) -> bool:
    """Whether only a kernel and autograd would see a call with these tensors."""
    if _dispatch_modes() or _function_modes() or _tracing_state() is not None or _is_profiled():
        return False
    try:
        for x in tensors:
            if x is not None:
                if type(x) not in _PLAIN_TYPES:
                    return False
                if not (x.is_cpu or x.is_cuda) or x.is_neg():
                    return False
                # Wrappers have no memory of their own: those that a transform leaves behind when it
                # has ended, as where torch.func.vjp pulls back, and tensors of autograd's own vmap
                # (is_grads_batched), raise; a zero that autograd has not filled is at 0.
                if x.data_ptr() == 0 and x.numel() != 0:
                    return False
    except RuntimeError:
        return False
    return True
