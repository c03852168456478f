"""Coming from another Muon: its arguments in, ours out, such that the steps are the same.

A row is a function in `peers.py` or `more_peers.py` whose keyword arguments, with their defaults, are those of the
other optimizer; what it returns is a `Like`, and what has no match here it refuses with `refuse`.
"""

import inspect
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from torch import Tensor
from torch.optim.optimizer import ParamsT

from htmuon._registry import Registry
from htmuon.linalg import NewtonSchulz, method_setting
from htmuon.optim.peer_coefficients import OF_MUON, Row, scaled

if TYPE_CHECKING:
    from htmuon.optim.htmuon import HTMuon


class Like(dict[str, Any]):
    """The arguments of one of our optimizers, as a dict, and the optimizer.

    Attributes:
        optimizer: the class that takes them, with p = 0.

    Example:
        >>> import torch, htmuon
        >>> settings = htmuon.like("timm", lr=0.02, nesterov=True, adjust_lr_fn="original", ns_coefficients="original")
        >>> settings
        Like(Muon, lr=0.02, momentum=0.95, nesterov=True, weight_decay=0, adjust_lr_fn='original', \
method='newton_schulz', eps=1e-07, adamw_lr=0.02, adamw_betas=(0.9, 0.95), adamw_eps=1e-07, adamw_weight_decay=0)
        >>> optimizer = htmuon.Muon([torch.nn.Parameter(torch.eye(4))], **settings)
    """

    def __init__(self, optimizer: "type[HTMuon]", **arguments: Any) -> None:
        super().__init__(arguments)
        self.optimizer = optimizer

    def __repr__(self) -> str:
        return f"Like({', '.join([self.optimizer.__name__, *(f'{k}={v!r}' for k, v in self.items())])})"

    def make(self, params: ParamsT, **changes: Any) -> "HTMuon":
        """The optimizer with these arguments.

        Args:
            params: as for the optimizer; `htmuon.param_groups(model)` makes them.
            changes: arguments in place of these or beside them. With a `power` other than 0, a `power_schedule` or a
                `spectral_map`, the steps of p = 0 give way to `method="auto"`, and `normalization="rms"` keeps the size
                of the updates, so that the learning rate carries over; unless `changes` names these two.

        Raises:
            TypeError: as the optimizer.
            ValueError: as the optimizer.

        Example:
            >>> import torch, htmuon
            >>> weight = torch.nn.Parameter(torch.eye(4))
            >>> optimizer = htmuon.like("torch", lr=0.02).make([weight], power=0.125)
            >>> [optimizer.param_groups[0][name] for name in ("power", "method", "normalization", "lr")]
            [0.125, 'auto', 'rms', 0.02]
        """
        turned = changes.get("power", 0) != 0 or any(changes.get(k) for k in ("power_schedule", "spectral_map"))
        usual = {"method": "auto", "normalization": "rms"} if turned else {}
        return self.optimizer(params, **{**self, **usual, **changes})


class Peer(NamedTuple):
    """Another Muon: one row.

    Attributes:
        translate: takes its arguments by keyword, with its defaults.
        version: the version, or the commit, that was read and measured.
        convolutions: what it does with weights of four dimensions.
    """

    translate: Callable[..., Like]
    version: str
    convolutions: str

    @property
    def arguments(self) -> dict[str, inspect.Parameter]:
        """Its arguments by name."""
        return dict(inspect.signature(self.translate).parameters)


PEERS: Registry[Peer] = Registry("peer")


def peer(
    name: str, version: str, convolutions: str = "the same"
) -> Callable[[Callable[..., Like]], Callable[..., Like]]:
    """A decorator that makes a function the row of a peer."""

    def store(translate: Callable[..., Like]) -> Callable[..., Like]:
        PEERS.register(name)(Peer(translate, version, convolutions))
        return translate

    return store


def like(name: str, **arguments: Any) -> Like:
    """The arguments with which our optimizer takes the steps of another Muon.

    For a gradient the weights move as they would there, up to the rounding of products in bfloat16, about 1 % of a
    step: the same momentum, the same Newton-Schulz steps (`method`), the same scale and decay. `docs/from_muon.md` has
    the measured differences. Then one thing at a time can be changed: `settings.make(groups, power=0.125)`.

    Args:
        name: of the other optimizer: `torch`, `timm`, `pytorch_optimizer`, `keller` (Keller Jordan's own), ...;
            `htmuon.optim.PEERS` has all.
        arguments: those of its constructor, by its own names, as far as they concern matrices; what is left out has
            its default, not ours. A learning rate may be called `lr` in any case.

    Returns:
        A dict to be passed on, `htmuon.Muon(groups, **settings)`; its `optimizer` is the class that takes it, and
        `make(groups)` calls that.

    Raises:
        ValueError: the peer or an argument is not known, or an argument makes a step that has no match here; the error
            says why, and what to pass instead.

    Example:
        >>> import torch, htmuon
        >>> settings = htmuon.like("pytorch_optimizer.NorMuon", lr=0.02, weight_decay=0.01)
        >>> settings.optimizer.__name__, settings["lr"], settings["beta2"]
        ('NorMuon', 0.02, 0.95)
        >>> optimizer = settings.make([torch.nn.Parameter(torch.eye(4))])
        >>> htmuon.like("heavyball", lr=0.02)
        Traceback (most recent call last):
        ...
        ValueError: heavyball_momentum=False with nesterov=True has no match here: it adds the average of gradients to \
the gradient itself, which is no Nesterov step of this average. Pass heavyball_momentum=True or nesterov=False.
    """
    other = PEERS[name]
    known = other.arguments
    if "lr" in arguments and "lr" not in known and "learning_rate" in known and "learning_rate" not in arguments:
        arguments["learning_rate"] = arguments.pop("lr")
    unknown = [argument for argument in arguments if argument not in known]
    if unknown:
        raise ValueError(
            f"an argument of like({name!r}, ...) must be one of {', '.join(known)}, which decide there how a matrix "
            f"moves (read in version {other.version}); got {', '.join(unknown)}. Leave it out."
        )
    missing = [key for key, of in known.items() if of.default is of.empty and key not in arguments]
    if missing:
        raise ValueError(
            f"like({name!r}, ...) must be given {', '.join(missing)}, which has no default there. Pass it."
        )
    return other.translate(**arguments)


def refuse(argument: str, reason: str, remedy: str) -> ValueError:
    """The error for an argument that has no match."""
    return ValueError(f"{argument} has no match here: {reason}. {remedy}")


def require(reason: str, **values: tuple[object, object]) -> None:
    """Raise unless each argument has the one value that has a match.

    Args:
        reason: why another has none.
        values: pairs of the value given and the value required, by the name of the argument.
    """
    for name, (given, required) in values.items():
        if isinstance(given, Tensor) or given != required:
            raise refuse(f"{name}={given!r}", reason, f"Pass {name}={required!r}.")


def chosen(name: str, value: object, choices: dict[Any, Any]) -> Any:
    """The entry of a table for the value of an argument; raises ValueError where there is none."""
    if not isinstance(value, str | None) or value not in choices:
        raise refuse(f"{name}={value!r}", "it is none of those known", f"Pass one of {[*choices]}.")
    return choices[value]


def newton_schulz(
    value: object,
    steps: int,
    presets: dict[str, tuple[Row, ...]],
    *,
    name: str = "ns_coefficients",
    margin: float = 1.0,
    repeat: bool = True,
) -> object:
    """Our method for the coefficients of another: a preset by name, one triple for all steps, or a triple a step.

    Args:
        value: as the other takes it.
        steps: how many there are; where there are fewer rows, the last is repeated.
        presets: rows by name.
        name: of the argument, for the error.
        margin: the factor of the Frobenius norm by which the other divides.
        repeat: False where fewer rows than steps are an error there.
    """
    rows = chosen(name, value, presets) if isinstance(value, str) else value
    if not isinstance(rows, Sequence) or len(rows) == 0:
        raise refuse(f"{name}={value!r}", "it is no preset and no triple", f"Pass one of {[*presets]}, or (a, b, c).")
    whole = isinstance(steps, int) and not isinstance(steps, bool) and steps > 0
    if whole and not isinstance(rows[0], Sequence):
        rows = [tuple(rows)] * steps
    if not whole or (len(rows) < steps and not repeat):
        raise refuse(f"{steps!r} steps", f"there are {len(rows)} rows of coefficients", "Pass as many steps as rows.")
    rows = tuple(tuple(rows[min(i, len(rows) - 1)]) for i in range(steps))
    rows = (*scaled(rows[:1], margin), *rows[1:])
    return "newton_schulz" if rows == OF_MUON else method_setting(NewtonSchulz(coefficients=rows))
