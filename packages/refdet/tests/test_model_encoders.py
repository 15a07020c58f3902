"""Encoders of query images and reference photos."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from ultralytics.nn.tasks import DetectionModel

from mlkit_core.errors import BuildError, WeightsError
from mlkit_core.types import Features
from mlkit_refdet.encoders.foreground import border_contrast
from mlkit_refdet.encoders.vit import VitReference
from mlkit_refdet.encoders.yolo import YoloQuery, YoloReference
from mlkit_refdet.yolo.trunk import YoloTrunk, dead_leaves

SUPPORT = {"p3": (160, 20), "p4": (320, 10), "p5": (640, 5)}


@pytest.fixture(scope="module")
def reference():
    torch.manual_seed(0)
    encoder = YoloReference(dim=16).eval()
    encoder.trunk.calibrate([dead_leaves(seed, side=64, leaves=60) for seed in range(2)])
    return encoder


@pytest.fixture(scope="module")
def query():
    torch.manual_seed(0)
    return YoloQuery(dim=16).eval()


def photos(generator=0, rows=2, side=64):
    return torch.rand(rows, 3, side, side, generator=torch.Generator().manual_seed(generator))


def test_layers_give_what_ultralytics_own_forward_gives(query):
    theirs = DetectionModel("yolov8n.yaml", verbose=False).eval()
    theirs.model[:22].load_state_dict(
        {k.removeprefix("model."): v for k, v in query.trunk.layers.state_dict().items()}
    )
    kept = {}
    for index in (2, 4, 15, 18, 21):
        theirs.model[index].register_forward_hook(
            lambda _m, _i, output, index=index: kept.__setitem__(index, output)
        )
    with torch.no_grad():
        theirs(photos())
        found = query.trunk.layers(photos(), (2, 4, 15, 18, 21))
    for index, values in found.items():
        torch.testing.assert_close(values, kept[index])


def test_the_backbone_and_neck_have_the_published_size(query):
    assert sum(p.numel() for p in query.trunk.layers.parameters()) == 2_259_536
    assert query.spec.channels == {"p3": 160, "p4": 320, "p5": 640}
    assert YoloTrunk(taps="pan").spec.channels == {"p3": 64, "p4": 128, "p5": 256}


def test_dinov2_has_the_published_size_and_depends_on_the_image_size():
    with torch.device("meta"):
        counts = [
            sum(p.numel() for p in VitReference(image_size=size).trunk.parameters())
            for size in (None, 224)
        ]
    assert counts == [22_056_192, 21_628_800]


def test_projections_of_both_encoders_start_equal(query, reference):
    for name, values in query.projection.state_dict().items():
        torch.testing.assert_close(values, reference.projection.state_dict()[name])


def test_two_encoders_differ_where_their_seeds_do():
    torch.manual_seed(1)
    other = YoloQuery(dim=16)
    torch.manual_seed(2)
    second = YoloQuery(dim=16)
    one, two = (m.trunk.layers.model[0].conv.weight for m in (other, second))
    assert (one - two).abs().max() > 1e-3


def test_prototypes_have_length_one_and_follow_the_mask(reference):
    whole, left = torch.ones(2, 64, 64), torch.zeros(2, 64, 64)
    left[:, :, :24] = 1
    with torch.no_grad():
        full, half = reference(photos(), whole), reference(photos(), left)
    for level in ("p3", "p4", "p5"):
        torch.testing.assert_close(full.protos[level].norm(dim=1), torch.ones(2))
        assert (full.protos[level] - half.protos[level]).abs().max() > 1e-3
        assert (full.level_tokens[level] - half.level_tokens[level]).abs().max() > 1e-3


def test_photos_equal_in_vector_but_not_in_maps_have_other_prototypes(reference):
    maps = {name: torch.randn(1, c, s, s) for name, (c, s) in SUPPORT.items()}
    moved = dict(maps, p3=maps["p3"].flip(1))
    mask = torch.ones(1, 160, 160)
    one, two = (reference.finish(Features(maps=m), mask) for m in (maps, moved))
    torch.testing.assert_close(one.vector, two.vector)
    assert (one.protos["p3"] - two.protos["p3"]).abs().max() > 1e-2
    torch.testing.assert_close(one.protos["p4"], two.protos["p4"])


def test_an_unknown_place_is_guessed_where_the_photo_differs_from_its_border():
    maps = torch.ones(1, 8, 10, 10)
    maps[0, :4, 3:6, 4:8] = -2.0
    contrast = border_contrast(maps)[0]
    inside = torch.zeros(10, 10, dtype=torch.bool)
    inside[3:6, 4:8] = True
    assert contrast[inside].min() > 0.99
    assert contrast[~inside].max() < 0.01


def test_a_mask_of_zeros_means_unknown_and_none_means_it_of_all(reference):
    with torch.no_grad():
        unknown = reference(photos(), torch.zeros(2, 64, 64))
        none = reference(photos(), None)
    torch.testing.assert_close(unknown.protos["p4"], none.protos["p4"])


def test_prototypes_carry_gradient_to_projection_and_trunk():
    torch.manual_seed(0)
    encoder = YoloReference(dim=16)
    found = encoder(photos(rows=3), torch.ones(3, 64, 64))
    target = torch.randn(3, 16)
    loss = sum((protos * target).sum() for protos in found.protos.values())
    loss.backward()
    grads = [p.grad for p in encoder.projection.linear.parameters()]
    assert all(g is not None and g.abs().sum() > 0 for g in grads)
    assert encoder.trunk.layers.model[0].conv.weight.grad.abs().sum() > 0


def test_blocks_that_are_frozen_get_no_gradient_and_later_ones_do():
    torch.manual_seed(0)
    encoder = VitReference("test_vit", blocks=(1, 2, 3), dim=8, tokens=2)
    blocks = encoder.trunk.vit.backbone.blocks
    for parameter in blocks[:1].parameters():
        parameter.requires_grad_(False)
    found = encoder(torch.rand(2, 3, 160, 160), torch.ones(2, 160, 160))
    sum(p.square().mul(torch.rand_like(p)).sum() for p in found.protos.values()).backward()
    assert all(p.grad is None for p in blocks[:1].parameters())
    assert blocks[1].attn.qkv.weight.grad.abs().sum() > 0


def test_levels_of_a_vit_come_from_different_blocks():
    torch.manual_seed(0)
    encoder = VitReference("test_vit", blocks=(0, 2, 4), dim=8, tokens=2).eval()
    with torch.no_grad():
        found = encoder(torch.rand(1, 3, 160, 160), torch.ones(1, 160, 160))
    assert (found.maps["p3"] - found.maps["p5"]).abs().max() > 1e-3


def test_calibration_brings_channels_to_one_scale():
    torch.manual_seed(0)
    trunk = YoloTrunk().eval()
    images = [dead_leaves(seed, side=128, leaves=120) for seed in range(4)]
    trunk.calibrate(images)
    with torch.no_grad():
        values = torch.stack([trunk(image[None]).maps["p4"][0] for image in images])
    flat = values.movedim(1, 0).flatten(1)
    torch.testing.assert_close(flat.mean(1), torch.zeros(320), atol=1e-3, rtol=0)
    live = flat.std(1) > 1e-2
    torch.testing.assert_close(flat.std(1)[live], torch.ones(int(live.sum())), atol=0.02, rtol=0)


def test_folded_weights_say_that_they_are(tmp_path):
    torch.manual_seed(0)
    folded = YoloTrunk(folded=True)
    state = folded.layers.state_dict()
    with pytest.raises(WeightsError, match="do not fit") as caught:
        YoloTrunk().load(state)
    assert "folded: true" in caught.value.hint
    YoloTrunk(folded=True).load(
        {f"model.{k}" if k[:6] != "model." else k: v for k, v in state.items()}
    )


def test_sizes_that_the_strides_do_not_divide_are_refused(query):
    with pytest.raises(BuildError, match="multiples of 32"):
        query(torch.rand(1, 3, 64, 72))


@pytest.fixture(scope="module")
def weights() -> Path:
    folder = Path(os.environ.get("MLKIT_DATA", Path(__file__).parents[4] / "shared" / "data"))
    path = folder / "weights" / "yolov8n_dequant_sd.pt"
    if not path.is_file():
        pytest.skip(f"weights are not at {path}; set MLKIT_DATA")
    return path


def test_early_layers_tell_objects_apart_and_the_necks_end_does_not(weights):
    """Nearest neighbour of 12 objects between two views each, by taps (neck alone loses it)."""
    from mlkit_refdet.scenes.cutouts import read_cut_out

    products = sorted((weights.parents[1] / "refdet" / "products").glob("*.jpg"))[3::4][:12]
    if not products:
        pytest.skip("product photos are absent")
    views = [[], []]
    for path in products:
        for which in range(2):
            views[which].append(_view(read_cut_out(path), 20 * which - 10, 90 + 20 * which))
    state = torch.load(weights, weights_only=True)["state_dict"]
    hits = {}
    for taps in ("identity", "pan"):
        encoder = YoloReference(taps=taps, folded=True, dim=64).eval()
        encoder.load_pretrained(state)
        with torch.no_grad():
            one, two = (encoder.trunk(torch.stack(side)[:, :3]).maps["p4"] for side in views)
        masks = [torch.stack(side)[:, 3] for side in views]
        rows = [_pooled(maps, mask) for maps, mask in zip((one, two), masks, strict=True)]
        nearest = (rows[0] @ rows[1].T).argmax(1)
        hits[taps] = int((nearest == torch.arange(12)).sum())
    assert hits["identity"] >= 10
    assert hits["identity"] >= hits["pan"]


def _view(cutout, angle_deg, longest):
    """Return a photo of a cut-out on grey, turned, `[4, 160, 160]`, 0..1; alpha is its mask."""
    picture = Image.fromarray(cutout)
    picture.thumbnail((longest, longest))
    picture = picture.rotate(angle_deg, expand=True)
    square = Image.new("RGBA", (160, 160), (114, 114, 114, 0))
    square.paste(picture, ((160 - picture.width) // 2, (160 - picture.height) // 2))
    solid = Image.alpha_composite(Image.new("RGBA", square.size, (114, 114, 114, 255)), square)
    solid.putalpha(square.getchannel("A"))
    return torch.from_numpy(np.asarray(solid).copy()).permute(2, 0, 1) / 255


def _pooled(maps, mask):
    weight = torch.nn.functional.adaptive_avg_pool2d(mask[:, None], maps.shape[2:])
    return torch.nn.functional.normalize((maps * weight).sum((2, 3)), dim=1)
