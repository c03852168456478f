"""What a CUDA graph does with a step, and what it forbids, on any device."""

from unittest import mock

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

aten = torch.ops.aten
# Their result, or its shape, is known to the host: an accelerator would be waited for.
LOOKS = {
    aten._local_scalar_dense,
    aten.equal,
    aten.is_nonzero,
    aten.nonzero,
    aten.masked_select,
    aten._linalg_check_errors,
    aten._unique2,
}


def tensors(tree):
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)]


class Meta(TorchDispatchMode):
    """Gives tensors without values the one operation that torch has not for them, in place and without a result."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return None if func.overloadpacket is aten._fused_adamw_ else func(*args, **(kwargs or {}))


class NoLook(TorchDispatchMode):
    """Refuses every operation for which the host would wait for a device, or copy something to it."""

    def __init__(self, device):
        super().__init__()
        self.device = torch.device(device)

    def __enter__(self):
        # On the meta device it dispatches nothing that could be seen.
        self._patch = mock.patch("torch.tensor", side_effect=AssertionError("torch.tensor(...) copies from the host"))
        self._patch.start()
        return super().__enter__()

    def __exit__(self, *error):
        self._patch.stop()
        return super().__exit__(*error)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        assert func.overloadpacket not in LOOKS, func
        assert func.overloadpacket is not aten.lift_fresh, "torch.tensor(...) copies from the host"
        if func.overloadpacket in (aten.index, aten.index_put_, aten._index_put_impl_):
            assert all(index.dtype not in (torch.bool, torch.uint8) for index in tensors(args[1])), func
        result = func(*args, **kwargs)
        # A tensor that lives on the CPU would be copied, or be read once and for all when a graph is captured.
        for tensor in tensors((args, kwargs, result)):
            assert tensor.device.type == self.device.type, (func, tensor)
        return result


class Recording(TorchDispatchMode):
    """Records operations while they run; `replay` runs them again on the memory of then, as a CUDA graph does.

    Everything that was not a tensor is frozen, and Python does not run.
    """

    def __init__(self):
        super().__init__()
        self.calls = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert func.overloadpacket not in LOOKS, func
        result = func(*args, **(kwargs or {}))
        self.calls.append((func, args, kwargs or {}, result))
        return result

    @torch.no_grad()
    def replay(self):
        for func, args, kwargs, recorded in self.calls:
            known = {tensor.untyped_storage().data_ptr() for tensor in tensors((args, kwargs))}
            for old, new in zip(tensors(recorded), tensors(func(*args, **kwargs)), strict=True):
                if old.untyped_storage().data_ptr() not in known:  # neither a view nor in place
                    old.copy_(new)
