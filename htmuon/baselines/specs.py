"""Optimizers from a short text: `htmuon`, `htmuon:power=0.25,normalization=rms`, `adamw`, `lion:beta1=0.95`."""

import inspect
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from glob import escape
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch

import htmuon
from htmuon._registry import Registry, unknown_name
from htmuon._typing import Group
from htmuon.baselines.info import RunInputs
from htmuon.baselines.registry import optimizer_info
from htmuon.linalg import METHODS
from htmuon.linalg.select import AUTO, EXACT
from htmuon.optim import MOMENTUM_RULES, OPTIMIZERS, POWER_RULES, POWER_SCHEDULES, RATE_RULES, WEIGHT_UPDATES, Held
from htmuon.powers import RULES, PowerController, SpectralRule
from htmuon.powers.controller import EVERY, rule_of
from htmuon.routing.kinds import KINDS, KindRates
from htmuon.routing.routing import DEFAULT_SPLIT
from htmuon.routing.views import default_view
from htmuon.spectral import MAPS
from htmuon.spectral.choice import NOT_IN_DICTS, any_map

if TYPE_CHECKING:
    from htmuon.layouts.base import ProcessGroup

Matrices = Literal["hidden", "all"]
Part = Literal["method", "spectral_map", "rate_rule", "power_rule", "power_by", "momentum_rule", "weight_update"]
# What an optimizer is made of that has settings of its own, by the argument that takes it. `power_by` is none of the
# optimizer: it says who sets the powers that it holds.
PARTS: dict[Part, Registry[Any]] = {
    "method": METHODS,
    "spectral_map": MAPS,
    "rate_rule": RATE_RULES,
    "power_rule": POWER_RULES,
    "power_by": RULES,
    "momentum_rule": MOMENTUM_RULES,
    "weight_update": WEIGHT_UPDATES,
}


def parse_spec(spec: str) -> tuple[str, dict[str, Any]]:
    """The name and the settings of "name:key=value,...".

    Values are numbers, `true`, `false`, `none`, or else strings; of a normalization, `none` is a name. Behind a dot
    stand the kinds of matrices for which a power or a factor of the learning rate holds.

    Raises:
        ValueError: a part is not key=value, or a key comes twice.

    Example:
        >>> parse_spec("htmuon:power=0.25,nesterov=false,normalization=rms")
        ('htmuon', {'power': 0.25, 'nesterov': False, 'normalization': 'rms'})
        >>> parse_spec("htmuon:normalization=none,precision=none")
        ('htmuon', {'normalization': 'none', 'precision': None})
        >>> parse_spec("muon:lr_scale.query+key=2,power.down=-0.4")
        ('muon', {'lr_scale.query+key': 2, 'power.down': -0.4})
    """
    name, colon, text = spec.partition(":")
    settings: dict[str, Any] = {}
    for part in text.split(",") if colon else []:
        key, equals, value = (piece.strip() for piece in part.partition("="))
        if not (key and equals and value):
            raise ValueError(f"an optimizer must be written as name:key=value,key=value; got {part!r} in {spec!r}.")
        if key in settings:
            raise ValueError(f"each setting of an optimizer must be given once; {key!r} comes twice in {spec!r}.")
        settings[key] = value if key == "normalization" else _value(value)
    return name.strip(), settings


def build_optimizer(
    spec: str,
    model: torch.nn.Module,
    *,
    lr: float,
    adamw_lr: float,
    weight_decay: float,
    matrices: Matrices = "hidden",
    steps: int | None = None,
    process_group: "ProcessGroup | None" = None,
) -> torch.optim.Optimizer:
    """The optimizer that a spec names, over `htmuon.param_groups(model)`.

    `lr` is the learning rate of the hidden matrices and `adamw_lr` that of the rest, or `lr` of all where an optimizer
    has one rate (`has_separate_rates`). All decay the same parameters by `weight_decay` (Lion by `decay_scale` times
    that). A power schedule is written with its settings, "htmuon:schedule=interval,power=0.125,every=5", and so is a
    method, "htmuon:method=polynomial,levels=8", or a map; "htmuon:matrices=all" says which parameters are matrices, and
    "htmuon:split=auto" that fused weights are taken apart. "muon:lr_scale.query+key=2" doubles the rate of those
    kinds of matrices, "muon:lr_scale=kinds" takes a table of such factors, and "htmuon:power.down=-0.4" gives one a
    power of its own. "muon:power_by=alpha,every=50" lets a rule of `htmuon.powers` set the power of each matrix after
    every 50 steps. A setting that two parts have says whose it is: "...,power_rule.speed=0.05".

    Args:
        spec: see `parse_spec`.
        model: its parameters, where they will be trained.
        lr: learning rate of the hidden matrices.
        adamw_lr: learning rate of the other parameters.
        weight_decay: decoupled, times the learning rate.
        matrices: the spectral side gets these where the spec does not say; see `OptimizerConfig`.
        process_group: ranks with equal parameters and gradients; the optimizers of this library divide their work among
            them.
        steps: of the whole run, where it is known: what some optimizers of other packages plan by.

    Raises:
        ValueError: the name or a setting is unknown, or a value is not valid; several ranks have a rule that looks at
            activations, of which each rank sees its own.
        ImportError: the package of the optimizer is not installed.

    Example:
        >>> model = torch.nn.Sequential(torch.nn.Embedding(9, 4), torch.nn.Linear(4, 4), torch.nn.Linear(4, 9))
        >>> optimizer = build_optimizer("htmuon:power=0.25", model, lr=0.02, adamw_lr=0.003, weight_decay=0.1)
        >>> type(optimizer).__name__, [(group["use_muon"], group["lr"]) for group in optimizer.param_groups]
        ('HTMuon', [(True, 0.02), (False, 0.003), (False, 0.003)])
    """
    name, settings = parse_spec(spec)
    info = optimizer_info(name)
    power, of_some = (_take_by_kind(setting, settings) for setting in ("power", "lr_scale"))
    lr_scale = _take_rates(settings, of_some)
    if (power or lr_scale) and "power" not in info.settings:
        raise ValueError(
            f"optimizer {spec!r}: {name} has no settings by kind of matrix. Use one of {', '.join(OPTIMIZERS)}."
        )
    # What has a power may have a schedule for it.
    if "schedule" in settings and "power" in info.settings:
        schedule = _take_schedule(settings, default_power=info.settings["power"])
    else:
        schedule = {}
    known = {**info.settings, **_take_parts(settings, info.settings)}
    known |= {"every": EVERY} if settings.get("power_by") is not None else {}
    for key in settings:
        if key not in known:
            others = ["schedule"] if "power" in info.settings else []
            raise unknown_name(f"a setting of {name}", key, [*known, *others])
    try:
        every, rule = settings.pop("every", EVERY), settings.pop("power_by", None)
        groups = _groups(
            model,
            settings.pop("matrices", matrices),
            split=settings.pop("split", DEFAULT_SPLIT),
            power=power or None,
            lr_scale=lr_scale or None,
        )
        if rule is not None:
            rule = rule_of(rule)
            _hold_powers(groups, rule, settings, process_group)
        run = RunInputs(
            groups=groups,
            lr=lr,
            adamw_lr=adamw_lr,
            weight_decay=weight_decay,
            steps=steps,
            process_group=process_group,
        )
        optimizer = info.make(run, **settings, **schedule)
        if rule is not None:
            PowerController(model, optimizer, rule, every=every)  # lives as long as the optimizer, by its hooks
        return optimizer
    except (TypeError, ValueError) as error:
        raise ValueError(f"optimizer {spec!r}: {error}") from error


def _hold_powers(
    groups: list[Group], rule: SpectralRule, settings: Mapping[str, Any], process_group: "ProcessGroup | None"
) -> None:
    """Let groups of matrices hold the powers that a rule will set, by groups because not all optimizers ask for it."""
    if settings.get("power_rule") is not None:
        raise ValueError(
            f"power_by must have no power_rule beside it, for both set the powers; got {settings['power_rule']!r}. "
            "Leave one out."
        )
    if process_group is not None and "activations" in rule.looks_at:
        raise ValueError(
            f"{rule!r} needs a single process, which sees all activations. Train with one, or by power_by=alpha."
        )
    for group in groups:
        if group["use_muon"]:
            group["power_rule"] = Held(lowest=rule.lowest, highest=rule.highest)


def _take_parts(settings: dict[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """Put the settings of parts into dicts of these parts; what they could set, by name.

    Args:
        settings: of a spec; changed.
        own: settings that the optimizer has itself.

    Raises:
        ValueError: a part does not exist, or two of them have a setting that is given for neither.

    Example:
        >>> settings = {"rate_rule": "alignment", "power_rule": "alignment", "rate_rule.speed": 0.1}
        >>> _ = _take_parts(settings, {"rate_rule": None, "power_rule": None})
        >>> settings
        {'rate_rule': {'name': 'alignment', 'speed': 0.1}, 'power_rule': 'alignment'}
    """
    kinds = [kind for kind in PARTS if kind in own and settings.get(kind) is not None]
    fields_of = {kind: _settings_of_part(kind, settings[kind], own) for kind in kinds}
    for field in list(settings):
        having = [kind for kind in kinds if field in fields_of[kind]]
        if len(having) > 1:
            raise ValueError(
                f"{field} must say of which part it is, as {' and '.join(having)} have one; write "
                f"{having[0]}.{field}={settings[field]}."
            )
    for kind, of_part in fields_of.items():
        given = {field: settings.pop(key) for field in of_part for key in (field, f"{kind}.{field}") if key in settings}
        settings |= {kind: {"name": settings[kind], **given}} if given else {}
    return {name: value for kind, of in fields_of.items() for f, value in of.items() for name in (f, f"{kind}.{f}")}


def _take_rates(settings: dict[str, Any], of_some: dict[str, float]) -> KindRates:
    """Take the rates by kind out of the settings of a spec: those of some kinds, or the table of the library."""
    table = settings.pop("lr_scale", None)
    if table is None:
        return of_some
    if table != "kinds" or of_some:
        raise ValueError(f"lr_scale must be kinds, or be given by kind as lr_scale.query=2; got {table!r}.")
    return "kinds"


def _take_by_kind(setting: str, settings: dict[str, Any]) -> dict[str, float]:
    """Take what holds for some kinds of matrices alone out of the settings of a spec.

    Example:
        >>> settings = {"power": 0.125, "power.query+key": 0.5}
        >>> _take_by_kind("power", settings), settings
        ({'query': 0.5, 'key': 0.5}, {'power': 0.125})
    """
    found: dict[str, float] = {}
    for key in [key for key in settings if key.startswith(f"{setting}.")]:
        value = settings.pop(key)
        for kind in key.removeprefix(f"{setting}.").split("+"):
            if kind not in KINDS:
                raise unknown_name("the kind of matrix", kind, list(KINDS))
            if kind in found:
                raise ValueError(f"each kind of matrix must be given once; {setting} of {kind!r} comes twice.")
            found[kind] = value
    return found


def _groups(
    model: torch.nn.Module,
    matrices: Matrices,
    *,
    split: Literal["auto"] | None,
    power: Mapping[str, float] | None,
    lr_scale: KindRates | None,
) -> list[Group]:
    if matrices not in get_args(Matrices):
        raise unknown_name("matrices", matrices, list(get_args(Matrices)))
    if split not in ("auto", None):
        raise unknown_name("split", split, ["auto", "none"])
    if matrices == "hidden":
        return htmuon.param_groups(model, split=split, power=power, lr_scale=lr_scale)
    trainable = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    # A parameter that routing knows as a matrix keeps the view in which it is one.
    views = {route.name: route.view for route in htmuon.route(model).routes}
    return htmuon.param_groups(
        model,
        spectral={escape(name): views[name] or default_view(p.ndim) for name, p in trainable if p.ndim >= 2},
        split=split,
        power=power,
        lr_scale=lr_scale,
    )


def has_separate_rates(spec: str) -> bool:
    """Whether an optimizer gives the hidden matrices and the other parameters learning rates of their own.

    Example:
        >>> [has_separate_rates(spec) for spec in ("htmuon", "torch_muon", "adamw:two_rates=true", "adamw", "soap")]
        [True, True, True, False, False]
    """
    name, settings = parse_spec(spec)
    return optimizer_info(name).separate_rates(settings)


def _take_schedule(settings: dict[str, Any], default_power: float) -> dict[str, Any]:
    """Take a power schedule and its settings out of the settings of a spec: the argument that they make."""
    name = settings.pop("schedule")
    fields = inspect.signature(POWER_SCHEDULES[name]).parameters
    values = {key: settings.pop(key) for key in fields if key in settings}
    if "power" in fields:
        values.setdefault("power", default_power)
    return {"power_schedule": {"name": name, **values}}


def part_settings(kind: Part, name: str) -> dict[str, Any]:
    """What a spec may set of a method, a spectral map or a rate rule, with the defaults; `power` is that of a map.

    Raises:
        ValueError: there is no such method, map or rule.

    Example:
        >>> part_settings("method", "polynomial"), part_settings("spectral_map", "power")
        ({'levels': 6, 'precision': None}, {})
        >>> part_settings("rate_rule", "alignment")
        {'speed': 0.3, 'averaging': 0.95, 'most': 4.0}
    """
    part: Any = PARTS[kind][name]
    if kind == "spectral_map" and not is_dataclass(part):
        part = any_map(name)
    return {
        field.name: getattr(part, field.name)
        for field in (fields(part) if is_dataclass(part) else ())
        if field.name not in NOT_IN_DICTS and hasattr(part, field.name)
    }


def _settings_of_part(kind: Part, name: str, own: Mapping[str, Any]) -> dict[str, Any]:
    """The same for the part in a spec, without words that the optimizer has, too, and means by them its own."""
    if kind == "method" and name in (AUTO, EXACT):
        return {}
    return {key: default for key, default in part_settings(kind, name).items() if key not in own}


def _value(text: str) -> bool | int | float | str | None:
    words: dict[str, bool | None] = {"true": True, "false": False, "none": None}
    if text.lower() in words:
        return words[text.lower()]
    for number in (int, float):
        try:
            return number(text)
        except ValueError:
            continue
    return text
