"""What to say of a step in which no parameter has a gradient."""

from collections.abc import Iterable

from torch import Tensor

from htmuon.layouts import several_processes


def idle(parameters: Iterable[Tensor]) -> str:
    """One sentence on what happened, and the remedy for its likely cause."""
    return f"step() changed nothing: no parameter of the optimizer has a gradient. {_remedy(parameters)}"


def _remedy(parameters: Iterable[Tensor]) -> str:
    if not any(p.requires_grad for p in parameters):
        return (
            "All of them are frozen (requires_grad=False): a wrapper such as that of LoRA freezes what it wraps. Make "
            "the optimizer after it, from the wrapped model."
        )
    if several_processes():
        return (
            "Make the optimizer after fully_shard or parallelize_module, which put new parameters in place of the old "
            "ones; and where set_requires_gradient_sync(False) held gradients back, step after a backward pass that "
            "sends them."
        )
    return (
        "Call loss.backward() before, and zero_grad() after the step; and make the optimizer from the model that is "
        "trained, after whatever copies it or puts new parameters in place of the old ones."
    )
