"""Encoders, fusion and head as one model: what must not matter does not, what must does."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from mlkit_core.errors import BuildError, InputError
from mlkit_core.model import Model
from mlkit_core.types import Batch, Features, FeatureSpec, RoleSpec, SampleMeta
from mlkit_refdet.encoders.asked import AskedClasses
from mlkit_refdet.encoders.foreground import project_photos
from mlkit_refdet.encoders.projection import Projection
from mlkit_refdet.features import EmbedSpec, QueryFeatures, SupportFeatures
from mlkit_refdet.fusion.cheaf import CheafFusion
from mlkit_refdet.head.dual import DualHead
from mlkit_refdet.references.reference_set import reference_set
from mlkit_refdet.targets import ReferenceTarget

STRIDES = {"p3": 8, "p4": 16}
CHANNELS = {"p3": 6, "p4": 8}
ROLES = {
    "query": RoleSpec(shape=(3, None, None)),
    "support": RoleSpec(shape=(3, None, None), lead=("class", "shot")),
    "asked": RoleSpec(shape=(None,)),
}


class Pyramid(nn.Module):
    def __init__(self):
        super().__init__()
        self.levels = nn.ModuleDict(
            {name: nn.Conv2d(3, CHANNELS[name], s, s) for name, s in STRIDES.items()}
        )
        self.projection = Projection(CHANNELS, 8)

    def maps(self, x):
        return {name: torch.tanh(3 * layer(x)) for name, layer in self.levels.items()}


class Query(Pyramid):
    spec = EmbedSpec(channels=CHANNELS, strides=STRIDES, type=QueryFeatures, embed_dim=8)

    def forward(self, x):
        maps = self.maps(x)
        return QueryFeatures(maps=maps, embed=self.projection(maps))


class Photos(Pyramid):
    spec = EmbedSpec(
        channels=CHANNELS, strides=STRIDES, vector_dim=8, type=SupportFeatures, embed_dim=8
    )
    uses_mask = True
    calls = 0

    def forward(self, x, mask=None):
        self.calls += 1
        maps = self.maps(x)
        protos, tokens = project_photos(self.projection, maps, mask, 2)
        vector = maps["p4"].mean((2, 3))
        return SupportFeatures(vector=vector, protos=protos, level_tokens=tokens)


@pytest.fixture
def model():
    torch.manual_seed(0)
    encoders = {"query": Query(), "support": Photos(), "asked": AskedClasses()}
    specs = {role: replace(part.spec, lead=ROLES[role].lead) for role, part in encoders.items()}
    fusion = CheafFusion(specs, "query", heads=2)
    specs["fused"] = fusion.spec
    head = DualHead(specs, 1, "fused", hidden=8, conf=0.0, iou=0.9, max_det=400)
    reads = {role: role for role in encoders}
    whole = Model(encoders, {"fused": fusion}, head, reads=reads, roles=ROLES, specs=specs)
    with torch.no_grad():
        for parameter in whole.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return whole.eval()


def drawn(seed, *shape):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def batch_of(images=2, classes=3, asked=None, **changes):
    asked = torch.arange(float(classes)).expand(images, classes) if asked is None else asked
    masks = torch.zeros(classes, 2, 32, 32)
    masks[:, :, 8:24, 4:20] = 1
    plain = Batch(
        inputs={
            "query": drawn(1, images, 3, 64, 64),
            "support": drawn(2, classes, 2, 3, 32, 32),
            "asked": asked,
        },
        meta=tuple(SampleMeta(key=str(row), size=(64, 64)) for row in range(images)),
        valid={"support": torch.ones(classes, 2, dtype=torch.bool)},
        masks={"support": masks},
    )
    return replace(plain, **changes)


def test_every_levels_logits_reach_the_photos_pixels(model):
    batch = batch_of()
    photos = batch.inputs["support"].clone().requires_grad_()
    model.train()
    output = model(replace(batch, inputs={**batch.inputs, "support": photos})).head
    assert output.pairs is not None
    for stride in STRIDES.values():
        own = output.pairs.logits[:, output.strides == stride]
        (gradient,) = torch.autograd.grad(own.square().sum(), photos, retain_graph=True)
        assert (gradient.abs().flatten(2).sum(2) > 0).all()  # of every class and shot


def test_other_photos_of_a_class_move_its_scores_and_no_other_class(model):
    batch = batch_of()
    photos = batch.inputs["support"].clone()
    photos[1] = drawn(7, 2, 3, 32, 32)
    one = model(batch).head.pairs.logits.unflatten(0, (2, 3))
    two = model(replace(batch, inputs={**batch.inputs, "support": photos})).head
    two = two.pairs.logits.unflatten(0, (2, 3))
    torch.testing.assert_close(one[:, [0, 2]], two[:, [0, 2]])
    assert (one[:, 1] - two[:, 1]).norm() > 0.01 * one[:, 1].norm()


@pytest.mark.parametrize("training", [False, True])
def test_labels_of_the_target_never_enter_the_model(model, training):
    target = ReferenceTarget.example(2, 64, 3)
    shuffled = replace(
        target,
        boxes_xyxy=target.boxes_xyxy.flip(0) / 2,
        labels=target.labels.flip(0),
        class_ids=target.class_ids.flip(0) + 7,
        category_ids=target.category_ids.flip(0) + 3,
        background=~target.background,
    )
    model.train(training)
    outputs = [model(batch_of(target=given)).head for given in (target, shuffled, None)]
    for other in outputs[1:]:
        torch.testing.assert_close(other.pairs.logits, outputs[0].pairs.logits, rtol=0, atol=0)
        torch.testing.assert_close(
            other.pairs.distances, outputs[0].pairs.distances, rtol=0, atol=0
        )


def predicted(model, batch):
    with torch.no_grad():
        return model.head.decode(model(batch).head, batch.meta)


def rows_of(prediction, label):
    own = prediction.labels == label
    return prediction.boxes_xyxy[own], prediction.scores[own]


def test_predictions_of_three_classes_are_those_of_three_searches(model):
    together = predicted(model, batch_of())
    for label in range(3):
        alone = predicted(model, batch_of(asked=torch.full((2, 1), float(label))))
        for row in range(2):
            for a, b in zip(rows_of(together[row], label), rows_of(alone[row], label), strict=True):
                torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-5)


def test_a_class_in_another_row_of_the_support_is_predicted_by_that_row(model):
    batch, order = batch_of(), torch.tensor([2, 0, 1])
    moved = replace(
        batch,
        inputs={**batch.inputs, "support": batch.inputs["support"][order]},
        masks={"support": batch.masks["support"][order]},
    )
    one, two = predicted(model, batch), predicted(model, moved)
    for row in range(2):
        for now, before in enumerate(order.tolist()):
            for a, b in zip(rows_of(two[row], now), rows_of(one[row], before), strict=True):
                torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-5)


def test_a_class_that_the_support_does_not_hold_is_refused(model):
    with pytest.raises(BuildError, match="class 3 is asked for, the support holds 3"):
        model(batch_of(asked=torch.tensor([[0.0], [3.0]])))


def test_photos_of_a_video_are_encoded_once_and_again_when_they_change(model):
    frames = [batch_of(images=1), batch_of(images=1), batch_of(images=1)]
    other = frames[2].inputs["support"].clone()
    other[0, 0, 0, 0, 0] += 0.5
    frames[2] = replace(frames[2], inputs={**frames[2].inputs, "support": other})
    encoder = model.encoders["support"]
    encoder.calls = 0
    with torch.no_grad():
        streamed = [predictions for _, predictions in model.head.stream(model, frames)]
    assert encoder.calls == 2
    for frame, predictions in zip(frames, streamed, strict=True):
        (expected,) = predicted(model, frame)
        torch.testing.assert_close(predictions[0].scores, expected.scores)
        torch.testing.assert_close(predictions[0].boxes_xyxy, expected.boxes_xyxy)


@pytest.mark.parametrize("changed", ["masks", "valid"])
def test_photos_are_encoded_again_when_their_masks_or_their_number_changes(model, changed):
    first = batch_of(images=1)
    given = getattr(first, changed)["support"].clone()
    given[0, 1] = 0
    second = replace(first, **{changed: {"support": given}})
    encoder = model.encoders["support"]
    encoder.calls = 0
    with torch.no_grad():
        list(model.head.stream(model, [first, second, second]))
    assert encoder.calls == 2


def test_keys_of_the_cache_stand_for_pixels(model):
    def keyed(*names):
        return batch_of(images=1, keys={"support": names})

    encoder = model.encoders["support"]
    encoder.calls = 0
    with torch.no_grad():
        list(model.head.stream(model, [keyed("a"), keyed("a"), keyed("b")]))
    assert encoder.calls == 2


def test_a_files_features_serve_their_own_encoder_and_no_other(model):
    frame = batch_of(images=1)
    (expected,) = predicted(model, frame)
    with torch.no_grad():
        given = model.encode("support", frame)
    saved = reference_set(given, ["a", "b", "c"], model.encoders["support"])
    features = {"support": saved.carried("mine.refset")}
    bare = replace(frame, inputs={**frame.inputs}, masks={}, valid={}, features=features)
    del bare.inputs["support"]
    with torch.no_grad():
        ((_, (found,)),) = model.head.stream(model, [bare])
        torch.testing.assert_close(found.scores, expected.scores)
        next(model.encoders["support"].parameters()).add_(0.1)
        with pytest.raises(InputError, match=r"mine\.refset: was made by another encoder"):
            list(model.head.stream(model, [bare]))


def test_a_plain_encoder_serves_by_its_tokens_or_its_maps():
    query = {"query": Query.spec}
    for given, told in (
        ({"tokens": drawn(3, 4, 5, 6)}, {"token_dim": 6}),
        (
            {"maps": {"p5": drawn(3, 4, 6, 2, 2)}},
            {"channels": {"p5": 6}, "strides": {"p5": 32}},
        ),
    ):
        torch.manual_seed(0)
        plain = FeatureSpec(lead=("class", "shot"), **told)
        fusion = CheafFusion({**query, "support": plain}, heads=2)
        maps = {"p3": drawn(1, 1, 6, 4, 4), "p4": drawn(2, 1, 8, 2, 2)}
        embed = {"p3": drawn(4, 1, 8, 4, 4), "p4": drawn(5, 1, 8, 2, 2)}
        valid = torch.ones(2, 2, dtype=torch.bool)
        scope = {
            "query": QueryFeatures(maps=maps, embed=embed),
            "support": Features(valid=valid, **given),
        }
        mean = drawn(3, 4, 5, 6).mean(1) if "tokens" in given else drawn(3, 4, 6, 2, 2).mean((2, 3))
        layer = fusion.support.project["p4"]
        expected = nn.functional.normalize(mean @ layer.weight.T + layer.bias, dim=-1)
        expected = nn.functional.normalize(expected.unflatten(0, (2, 2)).mean(1), dim=-1)
        torch.testing.assert_close(fusion(scope).class_protos["p4"], expected)
    with pytest.raises(BuildError, match="no prototypes, vector, tokens or maps"):
        CheafFusion({**query, "support": FeatureSpec(lead=("class", "shot"))}, heads=2)
