"""A draft's shape, and the names of its kinds; what they mean is said in `service.model.draft`."""

from dataclasses import asdict, dataclass
from typing import Literal, TypeVar, get_args

from transformers import PretrainedConfig

from service.errors import InputError

Variant = Literal["none", "item", "step", "both", "slots"]
Features = Literal["last", "fused"]
VARIANTS: tuple[Variant, ...] = get_args(Variant)
FEATURES: tuple[Features, ...] = get_args(Features)
_Name = TypeVar("_Name", bound=str)


def guesses_items(variant: Variant) -> bool:
    """Whether one pass of such a draft guesses the rest of an item rather than one code."""
    return variant == "slots"


@dataclass(frozen=True, slots=True)
class DraftConfig:
    """A draft's shape.

    Attributes:
        variant: what it knows of its position; `none` is the plain baseline.
        features: `last`: the target's last feature; `fused`: a projection of its low, middle and last ones.
        num_levels: codes per item, L.
        max_steps: guesses ahead of the target that it was trained for.
        num_items: size of the catalogue; used by `slots` alone.
        item_rank: dimension in which `slots` compares a state with an item.
        target: `target_digest` of the target that it was trained for; empty where nobody said.
    """

    variant: Variant
    features: Features
    hidden_size: int
    intermediate_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    rms_norm_eps: float
    num_levels: int
    max_steps: int
    num_items: int
    item_rank: int = 256
    rope_theta: float = 10_000.0
    target: str = ""

    def __post_init__(self) -> None:
        if self.variant not in VARIANTS or self.features not in FEATURES:
            raise ValueError(f"unknown variant '{self.variant}' or features '{self.features}'")
        sizes = [value for value in asdict(self).values() if isinstance(value, int)]
        if min(sizes) < 1 or self.head_dim % 2 or self.num_heads % self.num_kv_heads:
            raise ValueError("its sizes do not fit each other")

    @classmethod
    def like(
        cls,
        target: PretrainedConfig,
        variant: Variant,
        *,
        num_levels: int,
        num_items: int,
        max_steps: int,
        features: Features = "last",
        target_digest: str = "",
    ) -> "DraftConfig":
        """The shape of one of the target's own layers."""
        heads = int(target.num_attention_heads)
        return cls(
            variant=variant,
            features=features,
            hidden_size=target.hidden_size,
            intermediate_size=target.intermediate_size,
            num_heads=heads,
            num_kv_heads=getattr(target, "num_key_value_heads", None) or heads,
            head_dim=getattr(target, "head_dim", None) or target.hidden_size // heads,
            rms_norm_eps=target.rms_norm_eps,
            num_levels=num_levels,
            max_steps=max_steps,
            num_items=num_items,
            item_rank=min(256, target.hidden_size),
            target=target_digest,
        )

    @property
    def guesses_items(self) -> bool:
        """Whether one pass guesses the rest of an item rather than one code."""
        return guesses_items(self.variant)

    def feature_layers(self, num_layers: int) -> tuple[int, ...]:
        """Which of the target's hidden states are fused, as indices into `num_layers + 1` of them; () for `last`."""
        return () if self.features == "last" else (num_layers // 4, num_layers // 2, num_layers)


def variant_named(name: str) -> Variant:
    """The variant of that name.

    Raises:
        InputError: there is none.
    """
    return _named(name, VARIANTS, "draft variant")


def features_named(name: str) -> Features:
    """The features of that name.

    Raises:
        InputError: there are none.
    """
    return _named(name, FEATURES, "features")


def _named(name: str, known: tuple[_Name, ...], kind: str) -> _Name:
    for one in known:
        if one == name:
            return one
    raise InputError(f"no {kind} '{name}'; there are {', '.join(known)}")
