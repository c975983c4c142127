"""Sizes of target that padrec trains, each with the training that suits it and its draft."""

from dataclasses import dataclass, replace
from typing import Any

from service.catalog.bundle import DecodingDefaults
from service.catalog.layout import TokenLayout
from service.errors import InputError
from service.types import MAX_NUM_ITEMS, Decoding


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How long and how fast a model is trained.

    Attributes:
        steps: optimiser steps.
        batch_size: lists per step.
        micro_batch_size: of the longest lists, so many per pass; memory grows with this, not with the batch.
        learning_rate: peak of the schedule: linear warm-up, then a cosine down to a tenth.
        weight_decay: on matrices only; see `service.training.loop.decays`.
        validate_every: steps between validations.
        validation_users: at most this many users are written lists for at a validation.
    """

    steps: int
    batch_size: int
    micro_batch_size: int
    learning_rate: float
    weight_decay: float
    validate_every: int
    validation_users: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SelfDistillation:
    """How a target goes on to learn from its own beam, once it has learned from its teacher.

    Attributes:
        steps: as a share of those before.
        learning_rate: as a share of that before.
        history_dropout: as of `TrainingRecipe`; more than there, as the target is to meet what is new to it.
        history_substitution: likewise.
        temperature: of the beam's probabilities.
        teacher_weight: of what the teacher thinks of the beam's items; the rest is the beam's. The weighted geometric
            mean of both ranks.
    """

    steps: float = 0.2
    learning_rate: float = 0.3
    history_dropout: float = 0.4
    history_substitution: float = 0.0
    temperature: float = 1.0
    teacher_weight: float = 0.0

    def after(self, first: "TrainingRecipe") -> "TrainingRecipe":
        """Its recipe after that one: of a training as any other, which is validated once, at its end."""
        steps = max(1, round(self.steps * first.steps))
        return replace(
            first,
            steps=steps,
            learning_rate=self.learning_rate * first.learning_rate,
            history_dropout=self.history_dropout,
            history_substitution=self.history_substitution,
            temperature=self.temperature,
            validate_every=steps,
            self_distillation=None,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingRecipe(Recipe):
    """How a target of one size is trained.

    Attributes:
        history_loss: weight of the next-item loss on the history, beside 1 for the list.
        history_dropout: chance that an item of a history is left out when it is drawn for training.
        history_substitution: chance that another item, near to it, stands in its place.
        knn_weight: of item-kNN in the teacher's opinion; the rest is SASRec's, which is trained first if it has any.
        temperature: of the teacher's probabilities.
        self_distillation: what comes after; None: nothing.
    """

    weight_decay: float = 0.1
    validate_every: int = 200
    validation_users: int = 512
    history_loss: float = 0.1
    history_dropout: float = 0.2
    history_substitution: float = 0.0
    knn_weight: float
    temperature: float = 0.3
    self_distillation: SelfDistillation | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DraftRecipe(Recipe):
    """How the draft of a target of one size is trained.

    Attributes:
        num_lists: lists that the target writes for it to learn from.
        unroll: guesses ahead of the target, in tokens.
        anchors: places in a list from which it guesses, per list and step.
        greedy_loss: weight of the loss on what the target wrote, beside 1 for that on the target's probabilities.
    """

    weight_decay: float = 0.01
    validate_every: int = 100
    validation_users: int = 128
    num_lists: int
    unroll: int = 8
    anchors: int = 8
    greedy_loss: float = 1.0

    def unroll_of(self, guesses_items: bool) -> int:
        """Guesses ahead in a draft's own unit: two tokens that are no forced ones make about one item."""
        return (self.unroll + 1) // 2 if guesses_items else self.unroll


@dataclass(frozen=True, slots=True)
class Preset:
    """A target's shape, its context and its training.

    Attributes:
        shape: fields of `transformers.LlamaConfig`, the vocabulary aside.
        max_history_items: the latest items of a history that the target reads.
        list_items: length of the lists it is trained to write.
        draft: how its draft is trained.
        shares_codes: whether its vocabulary has one set of code tokens for all levels.
    """

    name: str
    shape: dict[str, Any]
    max_history_items: int
    list_items: int
    training: TrainingRecipe
    draft: DraftRecipe
    shares_codes: bool = False

    def decoding(self, positions: int, layout: TokenLayout, decoding: Decoding = "list") -> DecodingDefaults:
        """How lists are made by a target of so many positions.

        Raises:
            InputError: they do not hold the history and an item.
        """
        left = positions - layout.prompt_length(self.max_history_items)
        if left < layout.tokens_per_item:
            raise InputError(
                f"target: {positions} positions cannot hold {self.max_history_items} items of history"
            )
        return DecodingDefaults(
            max_history_items=self.max_history_items,
            max_num_items=min(MAX_NUM_ITEMS, left // layout.tokens_per_item),
            decoding=decoding,
        )

    def for_beams(self) -> "Preset":
        """Without what makes lists better and beams worse."""
        return replace(self, training=replace(self.training, self_distillation=None))


PRESETS = {
    preset.name: preset
    for preset in (
        # About 1M parameters: trains in minutes on two CPU cores.
        Preset(
            name="tiny",
            shape={
                "hidden_size": 128,
                "intermediate_size": 384,
                "num_hidden_layers": 4,
                "num_attention_heads": 4,
                "num_key_value_heads": 2,
            },
            max_history_items=20,
            list_items=10,
            training=TrainingRecipe(
                steps=1200,
                batch_size=32,
                micro_batch_size=32,
                learning_rate=3e-3,
                validate_every=300,
                history_substitution=0.8,
                knn_weight=1.0,
            ),
            # A minute on two CPU cores, half of it the target's: few lists, many guesses in each.
            draft=DraftRecipe(
                steps=250,
                batch_size=16,
                micro_batch_size=16,
                learning_rate=3e-3,
                num_lists=1_500,
                validate_every=125,
                validation_users=64,
            ),
        ),
        # About 25M parameters.
        Preset(
            name="small",
            shape={
                "hidden_size": 512,
                "intermediate_size": 1408,
                "num_hidden_layers": 8,
                "num_attention_heads": 8,
                "num_key_value_heads": 4,
            },
            max_history_items=50,
            list_items=10,
            training=TrainingRecipe(
                steps=2500,
                batch_size=256,
                micro_batch_size=128,
                learning_rate=2e-3,
                validate_every=1250,
                validation_users=2048,
                history_substitution=0.5,
                knn_weight=0.7,
                self_distillation=SelfDistillation(history_substitution=0.5, teacher_weight=0.15),
            ),
            draft=DraftRecipe(
                steps=600,
                batch_size=256,
                micro_batch_size=128,
                learning_rate=2e-3,
                num_lists=80_000,
                validate_every=200,
            ),
        ),
        # Llama-3.2-1B's shape.
        Preset(
            name="base",
            shape={
                "hidden_size": 2048,
                "intermediate_size": 8192,
                "num_hidden_layers": 16,
                "num_attention_heads": 32,
                "num_key_value_heads": 8,
                "head_dim": 64,
            },
            max_history_items=50,
            list_items=10,
            training=TrainingRecipe(
                steps=20_000,
                batch_size=64,
                micro_batch_size=16,
                learning_rate=3e-4,
                validate_every=500,
                knn_weight=0.7,
            ),
            draft=DraftRecipe(
                steps=800,
                batch_size=64,
                micro_batch_size=32,
                learning_rate=5e-4,
                num_lists=40_000,
                validate_every=200,
            ),
        ),
    )
}


def preset_named(name: str) -> Preset:
    """The preset of that name.

    Raises:
        InputError: there is none.
    """
    if name not in PRESETS:
        raise InputError(f"no preset '{name}'; there are {', '.join(PRESETS)}")
    return PRESETS[name]
