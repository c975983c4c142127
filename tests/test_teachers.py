"""The teacher that a target's recipe names."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from service import teachers
from service.build import build_bundle
from service.catalog.bundle import Bundle
from service.data.dataset import Dataset
from service.data.split import LeaveOneOut
from service.errors import InputError
from service.model.presets import SelfDistillation, preset_named
from service.prepared import Prepared, build_catalogue
from service.targets import train_list_target
from service.training.item_ids import given_semantic_ids
from service.training.sasrec import SasRecRecipe
from service.training.teacher import ItemKnn

CPU = torch.device("cpu")
TINY = preset_named("tiny")
POOLED = dataclasses.replace(TINY.training, steps=2, knn_weight=0.6)


@pytest.fixture
def prepared(dataset: Path) -> Prepared:
    data = Dataset.open(dataset)
    ids = given_semantic_ids(data)
    assert ids is not None
    return Prepared.of(data, build_catalogue(data, ids))


@pytest.fixture(autouse=True)
def short(monkeypatch) -> None:
    recipe = SasRecRecipe(width=8, max_epochs=3)
    monkeypatch.setattr(teachers, "SasRecRecipe", lambda: recipe)


def item_knn(prepared: Prepared) -> ItemKnn:
    return ItemKnn(prepared.split.train, len(prepared.catalogue))


def test_it_is_trained_once(prepared: Prepared, tmp_path: Path) -> None:
    epochs: list[int] = []

    def teacher():
        return teachers.teacher_for(
            POOLED,
            item_knn(prepared),
            prepared.split,
            prepared.catalogue.codes,
            device=CPU,
            seed=3,
            file=tmp_path / "work" / "teacher.safetensors",
            on_epoch=lambda epoch, most, value: epochs.append(epoch),
        )

    histories = [np.array([1, 2]), np.array([5])]
    first, again = (teacher().scores(histories, exclude_seen=True) for _ in range(2))
    assert epochs == [1, 2, 3]
    assert torch.equal(first, again)


def test_item_knn_alone_needs_no_training(prepared: Prepared, tmp_path: Path) -> None:
    knn = teachers.teacher_for(
        TINY.training,
        item_knn(prepared),
        prepared.split,
        prepared.catalogue.codes,
        device=CPU,
        seed=0,
        file=tmp_path / "none",
        on_epoch=lambda *_: pytest.fail("nothing is trained"),
    )
    assert [type(teacher) for _, teacher in knn.weighted] == [ItemKnn]
    assert not (tmp_path / "none").exists()


def test_a_target_learns_from_it(dataset: Path, tmp_path: Path) -> None:
    stages: list[str] = []
    bundle = build_bundle(
        Dataset.open(dataset),
        dataclasses.replace(TINY, training=POOLED),
        tmp_path / "bundle",
        device=CPU,
        draft=None,
        on_stage=stages.append,
        on_progress=lambda _: None,
    )
    assert sum(stage.startswith("training the teacher: epoch") for stage in stages) == 3
    assert bundle.manifest.training["recipe"]["knn_weight"] == 0.6
    assert not (tmp_path / "bundle.work").exists()


ITSELF = dataclasses.replace(
    TINY.training, steps=4, validate_every=4, self_distillation=SelfDistillation(steps=0.5)
)


def build_by_itself(
    dataset: Path, out: Path, on_progress=lambda _: None, recipe=ITSELF, **options
) -> tuple[Bundle, list[str]]:
    stages: list[str] = []
    preset = dataclasses.replace(TINY, training=recipe)
    values = {"device": CPU, "draft": None, "on_stage": stages.append, "on_progress": on_progress}
    return build_bundle(Dataset.open(dataset), preset, out, **values | options), stages


def digests(bundle: Bundle) -> dict[str, str]:
    return {name: digest for name, digest in bundle.manifest.files.items() if name.startswith("target/")}


def test_then_it_learns_from_its_own_beam(dataset: Path, tmp_path: Path) -> None:
    steps: list[tuple[int, int]] = []
    bundle, stages = build_by_itself(dataset, tmp_path / "a", lambda at: steps.append((at.step, at.steps)))
    assert steps == [(1, 4), (2, 4), (3, 4), (4, 4), (1, 2), (2, 2)]
    assert stages[-1].endswith("its own beam is the teacher")
    own = bundle.manifest.training["self_distillation"]
    assert own["best"]["step"] == 2
    assert own["recipe"]["learning_rate"] == pytest.approx(0.3 * ITSELF.learning_rate)

    def stop(at) -> None:
        if (at.step, at.steps) == (1, 2):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_by_itself(dataset, tmp_path / "b", stop)
    again, _ = build_by_itself(dataset, tmp_path / "b")
    assert digests(again) == digests(bundle)
    assert not (tmp_path / "b.work").exists()


def test_its_teacher_may_have_a_say_in_that(dataset: Path, tmp_path: Path) -> None:
    alone, _ = build_by_itself(dataset, tmp_path / "alone")
    own = dataclasses.replace(ITSELF.self_distillation, teacher_weight=0.3)
    both, _ = build_by_itself(
        dataset, tmp_path / "both", recipe=dataclasses.replace(ITSELF, self_distillation=own)
    )
    assert both.manifest.training["self_distillation"]["recipe"]["steps"] == 2
    assert digests(both) != digests(alone)


def test_a_target_that_is_asked_by_beam_does_not(dataset: Path, tmp_path: Path) -> None:
    bundle, _ = build_by_itself(dataset, tmp_path / "bundle", decoding="beam")
    assert "self_distillation" not in bundle.manifest.training
    assert bundle.manifest.training["recipe"]["self_distillation"] is None


def test_nobody_to_validate_on_is_told_before_it_is_trained(prepared: Prepared, tmp_path: Path) -> None:
    whole = prepared.interactions
    offsets = np.arange(0, 2 * whole.num_users + 1, 2)
    two_each = dataclasses.replace(whole, offsets=offsets, items=whole.items[: offsets[-1]])
    with pytest.raises(InputError, match="three interactions"):
        train_list_target(
            dataclasses.replace(prepared, interactions=two_each, split=LeaveOneOut(two_each)),
            (4, 4, 4),
            dataclasses.replace(TINY, training=POOLED),
            tmp_path / "target",
            device=CPU,
            seed=0,
            work=tmp_path / "work",
            on_stage=lambda _: pytest.fail("nothing is trained"),
            on_progress=lambda _: None,
        )
