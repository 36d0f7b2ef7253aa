"""Families, templates and cards: read from TOML, looked up by name, matched with model paths.

Of several patterns that fit a name (see `patterns`), a whole name decides, then the one with
the most fixed characters, then the family's `priority`; what is still undecided is an error.
"""

import difflib
import threading
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar, cast

from fastchat.errors import DataError, UsageError
from fastchat.families.checkpoint import Checkpoint, inspect_checkpoint
from fastchat.families.patterns import fits, is_valid, longest, n_fixed
from fastchat.families.tables import record_from_table
from fastchat.template import Template

R = TypeVar("R")
Loader = Literal["causal", "seq2seq", "auto", "rwkv", "peft", "remote", "external"]

NEUTRAL_TEMPLATE = "zero_shot"
"""For models of which neither tokenizer nor name tells a format: it has no demonstration."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """How a kind of model is recognised, loaded, prompted and stopped."""

    name: str
    patterns: tuple[str, ...] = ()
    """What its models' names contain."""
    model_types: tuple[str, ...] = ()
    """`model_type` of its checkpoints. A local checkpoint of another type is none of this family;
    one of this type is, if no pattern says otherwise."""
    priority: int = 0
    """Decides between patterns of equal length; the higher wins. Base models have -1, since their
    name stands in those of their tunings."""
    template: str | None = None
    """None: the template of an adapter's base model."""
    templates: Mapping[str, str] = field(default_factory=dict[str, str])
    """Template by pattern, where a longer look at the name tells more."""
    weights_template: str | None = None
    """The template for weights served here, where `template` is that of a remote service."""
    loader: Loader = "causal"
    """`auto` takes any model class, `external` needs its own server, `remote` has no weights."""
    remote_code: bool = False
    """Its checkpoints need code that comes with them."""
    tokenizer: Mapping[str, str | int | bool] = field(default_factory=dict[str, str | int | bool])
    """Arguments of the tokenizer's `from_pretrained`."""
    extra_tokens: tuple[str, ...] = ()
    """Special tokens that the tokenizer's files leave out."""
    ids_from: Literal["tokenizer", "config"] | None = None
    """Whose end and padding ids the other one takes over."""
    eos_token_id: int | None = None
    """End id that neither tokenizer nor config get right."""
    pad_token_id: int | None = None
    config: Mapping[str, str | int | bool] = field(default_factory=dict[str, str | int | bool])
    """Values that replace those of the model's config."""
    dtype: Literal["float32", "float16", "bfloat16"] | None = None
    """Precision its makers recommend."""
    context: Mapping[str, int] = field(default_factory=dict[str, int])
    """Context length by pattern, where the config does not tell it."""
    pooling: Literal["mean", "cls"] = "mean"
    """How token vectors become an embedding."""
    generation: Mapping[str, float] = field(default_factory=dict[str, float])
    """Sampling defaults where a request says nothing."""
    tools: str | None = None
    """How tool calls are written (`formats.toml`), where the chat template does not tell."""
    reasoning: str | None = None
    """How reasoning is marked (`formats.toml`), where the chat template does not tell."""
    source: str = ""
    """Where the model's makers describe it."""

    def template_for(self, name: str) -> str | None:
        """Name of the template for the model of this name."""
        return longest(self.templates.items(), name) or self.template

    def context_for(self, name: str) -> int | None:
        """Context length that the model's name tells, if it does."""
        return longest(self.context.items(), name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """How a model is introduced to its users."""

    name: str
    link: str
    description: str


class ModelAdapter(Protocol):
    """A family as a program registers it: in code instead of data."""

    def match(self, model_path: str) -> bool: ...
    def load_model(self, model_path: str, from_pretrained_kwargs: dict[str, Any]) -> Any: ...
    def get_default_conv_template(self, model_path: str) -> Any: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Recognition:
    """What a model path turned out to be, and why."""

    family: Family
    template: str | None
    """Name of the family's template; None for an adapter whose base is not known."""
    reason: str
    """For the log: what decided."""
    is_known: bool = True
    """False when nothing was recognised and the fallback family stands in."""
    checkpoint: Checkpoint | None = None
    """What the local folder says, if there is one."""
    adapter: ModelAdapter | None = None
    """The registered adapter that claims this model."""

    @property
    def serving_template(self) -> str:
        """The template for a model whose tokenizer brings none of its own."""
        if not self.is_known or not self.template:
            return NEUTRAL_TEMPLATE
        return self.family.weights_template or self.template


class Registry:
    """All families, templates and cards of some folders of TOML files.

    Raises DataError, naming file and field, when a file says something that cannot be.
    """

    def __init__(self, *folders: Path) -> None:
        self._lock = threading.Lock()  # guards the dictionaries below while they are added to
        self._templates: dict[str, Template] = {}
        self._families: dict[str, Family] = {}
        self._cards: dict[str, Card] | None = None
        self._adapters: list[ModelAdapter] = []
        self._folders: list[Path] = []
        for folder in folders:
            self.add_folder(folder)

    def add_folder(self, folder: Path) -> None:
        """Reads the families and templates of one more folder."""
        templates, families = dict(self._templates), dict(self._families)
        for path in sorted(folder.glob("*.toml")):
            if path.name in ("cards.toml", "formats.toml"):
                continue
            for kind, name, table in _records(path):
                where = f"{path.name}: {kind}.{name}"
                if kind == "template":
                    _add(templates, name, record_from_table(Template, table, where, name=name))
                elif kind == "family":
                    _add(families, name, record_from_table(Family, table, where, name=name))
                else:
                    raise DataError(f"{where}: a record is a `template` or a `family`")
        _check_families(families, templates)
        with self._lock:
            self._templates, self._families = templates, families
            self._folders.append(folder)
            self._cards = None

    @property
    def template_names(self) -> list[str]:
        """Names of all templates."""
        return sorted(self._templates, key=str.lower)

    @property
    def families(self) -> Mapping[str, Family]:
        """All families by name."""
        return self._families

    def template(self, name: str) -> Template:
        """The template of this name. Raises UsageError, with the nearest names, when unknown."""
        if (template := self._templates.get(name)) is not None:
            return template
        near = difflib.get_close_matches(name, self._templates, n=3)
        hint = f"did you mean {' or '.join(near)}? " if near else ""
        raise UsageError(
            f"no conversation template is called {name!r}; {hint}"
            f"known templates: {', '.join(self.template_names)}"
        )

    def add_template(self, template: Template, *, override: bool = False) -> None:
        """Makes a template known. Raises UsageError when its name is taken, without `override`."""
        with self._lock:
            if template.name in self._templates and not override:
                raise UsageError(
                    f"a template called {template.name!r} is registered already; "
                    "choose another name, or pass override=True"
                )
            self._templates[template.name] = template

    def add_adapter(self, adapter: ModelAdapter) -> None:
        """Makes a family in code known. It is asked before all families of the files."""
        with self._lock:
            self._adapters.append(adapter)

    def recognise(self, model_path: str) -> Recognition:
        """The family of a model, by what its folder holds, then by its name.

        Raises DataError when two families fit equally, or a local configuration is unreadable.
        """
        checkpoint = inspect_checkpoint(model_path)
        for adapter in self._adapters:
            if adapter.match(model_path):
                template = getattr(adapter.get_default_conv_template(model_path), "name", None)
                return Recognition(
                    family=self._families.get("fallback", Family(name="fallback")),
                    template=template,
                    reason=f"registered adapter {type(adapter).__name__}",
                    checkpoint=checkpoint,
                    adapter=adapter,
                )
        if checkpoint and checkpoint.is_adapter:
            return self._recognise_peft(checkpoint)
        if checkpoint:
            return self._recognise_local(Path(model_path).expanduser().resolve().name, checkpoint)
        name = model_path.rstrip("/").rsplit("/", 1)[-1]
        for text, what in ((name, "name"), (model_path, "path")):
            if found := _best(self._families.values(), text):
                family, pattern = found
                return Recognition(
                    family=family,
                    template=family.template_for(model_path),
                    reason=f"pattern {pattern!r} in its {what}",
                )
        return self._fallback(None)

    def card(self, name: str) -> Card:
        """The card of a model; a plain one for a model without."""
        hint = "Register a description with fastchat.model.register_model_info"
        return self._all_cards().get(name) or Card(name=name, link="", description=hint)

    def add_card(self, names: Sequence[str], card: Card) -> None:
        """Makes the card of some models known."""
        cards = self._all_cards()
        with self._lock:
            cards.update(dict.fromkeys(names, card))

    def _recognise_peft(self, checkpoint: Checkpoint) -> Recognition:
        """The adapter family, with the template of the model below all adapters."""
        base_path, seen = checkpoint.base_path, set[str]()
        while base_path:
            if "peft" in base_path.rstrip("/").rsplit("/", 1)[-1].lower():
                raise UsageError(
                    f"the adapter's base model {base_path!r} is a PEFT model itself; "
                    "merge the two first with fastchat.model.apply_lora"
                )
            below = inspect_checkpoint(base_path)
            if not (below and below.is_adapter):
                break
            if base_path in seen:
                raise DataError(f"the adapter's base model {base_path!r} names itself as its base")
            seen.add(base_path)
            base_path = below.base_path
        base = self.recognise(base_path) if base_path else None
        return Recognition(
            family=self._families.get("peft", Family(name="peft", loader="peft")),
            template=base.template if base else None,
            reason="adapter_config.json in its folder" + (f"; base: {base.reason}" if base else ""),
            is_known=bool(base and base.is_known),
            checkpoint=checkpoint,
        )

    def _recognise_local(self, name: str, checkpoint: Checkpoint) -> Recognition:
        """The family of a local checkpoint, whose type can contradict or replace its name."""
        model_type = checkpoint.model_type
        candidates = [
            family
            for family in self._families.values()
            if family.loader not in ("remote", "peft")
            and not (model_type and family.model_types and model_type not in family.model_types)
        ]
        if found := _best(candidates, name):
            family, reason = found[0], f"pattern {found[1]!r} in its folder's name"
        elif len(of_type := [x for x in candidates if model_type in x.model_types]) == 1:
            family, reason = of_type[0], f"model_type {model_type!r} in its config.json"
        else:
            return self._fallback(checkpoint)
        return Recognition(
            family=family,
            template=family.template_for(name),
            reason=reason,
            checkpoint=checkpoint,
        )

    def _fallback(self, checkpoint: Checkpoint | None) -> Recognition:
        family = self._families.get("fallback", Family(name="fallback"))
        return Recognition(
            family=family,
            template=family.template,
            reason="no family's pattern fits",
            is_known=False,
            checkpoint=checkpoint,
        )

    def _all_cards(self) -> dict[str, Card]:
        """Cards by model name; read when first wanted, since only pages show them."""
        with self._lock:
            if self._cards is None:
                self._cards = {}
                for folder in self._folders:
                    if (path := folder / "cards.toml").is_file():
                        self._cards.update(_cards(path))
            return self._cards


@cache
def registry() -> Registry:
    """The registry of the files beside this one, read once."""
    return Registry(Path(__file__).parent)


def _records(path: Path) -> Iterable[tuple[str, str, dict[str, Any]]]:
    """Kind, name and table of each record of a file."""
    for kind, tables in _read_toml(path).items():
        if not isinstance(tables, dict):
            raise DataError(f"{path.name}: {kind!r} stands outside of a table")
        for name, table in cast(dict[str, Any], tables).items():
            if not isinstance(table, dict):
                raise DataError(f"{path.name}: {kind}.{name} is not a table")
            yield kind, name, cast(dict[str, Any], table)


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            return tomllib.load(file)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{path.name}: {error}") from error


def _cards(path: Path) -> dict[str, Card]:
    """Cards by model name."""
    cards: dict[str, Card] = {}
    for kind, name, table in _records(path):
        where = f"{path.name}: {kind}.{name}"
        if kind != "card":
            raise DataError(f"{where}: a record of this file is a `card`")
        models = table.pop("models", None)
        if not isinstance(models, list) or not models:
            raise DataError(f"{where}: models is a list of names")
        card = record_from_table(Card, table, where)
        for model in cast(list[str], models):
            _add(cards, model, card)
    return cards


def _add(records: dict[str, R], name: str, record: R) -> None:
    if name in records:
        raise DataError(f"{name!r} is described twice")
    records[name] = record


def _check_families(families: Mapping[str, Family], templates: Mapping[str, Template]) -> None:
    """Refuses what could only fail later: templates that are not there, patterns that tie."""
    owners: dict[tuple[str, int], str] = {}
    for family in families.values():
        for template in (family.template, family.weights_template, *family.templates.values()):
            if template is not None and template not in templates:
                raise DataError(f"family {family.name!r}: there is no template {template!r}")
        for pattern in (*family.patterns, *family.templates, *family.context):
            if not is_valid(pattern):
                raise DataError(f"family {family.name!r}: {pattern!r} is not a pattern")
        for pattern in family.patterns:
            owner = owners.setdefault((pattern, family.priority), family.name)
            if owner != family.name:
                raise DataError(
                    f"families {owner!r} and {family.name!r} both have the pattern {pattern!r}; "
                    "give one of them a higher `priority`"
                )


def _best(families: Iterable[Family], name: str) -> tuple[Family, str] | None:
    """The family whose pattern fits `name` best, with that pattern."""
    found = [
        ((pattern.startswith("="), n_fixed(pattern), family.priority), family, pattern)
        for family in families
        for pattern in family.patterns
        if fits(pattern, name)
    ]
    if not found:
        return None
    best = max(rank for rank, _, _ in found)
    (family, pattern), *others = [fit[1:] for fit in found if fit[0] == best]
    for other, other_pattern in others:
        if other is not family:
            raise DataError(
                f"model name {name!r} fits family {family.name!r} (pattern {pattern!r}) and "
                f"{other.name!r} (pattern {other_pattern!r}) equally; "
                "rename the model, or give one of the two a higher `priority`"
            )
    return family, pattern
