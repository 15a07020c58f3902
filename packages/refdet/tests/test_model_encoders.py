"""Encoders of query images and reference photos."""

from __future__ import annotations

import os
import pickle
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from ultralytics.nn.tasks import DetectionModel

from mlkit_core.components.timm_encoder import TimmEncoder
from mlkit_core.errors import BuildError, WeightsError
from mlkit_core.tensors import map_tensors, to_float32
from mlkit_core.types import Features
from mlkit_core.weights import load_pretrained
from mlkit_refdet.encoders.foreground import (
    border_contrast,
    foreground_weights,
    grid_tokens,
    project_photos,
    prototypes,
)
from mlkit_refdet.encoders.projection import Projection
from mlkit_refdet.encoders.vit import VitReference
from mlkit_refdet.encoders.yolo import YoloQuery, YoloReference
from mlkit_refdet.fusion.cheaf import CheafFusion
from mlkit_refdet.yolo.calibration import calibration_images, dead_leaves
from mlkit_refdet.yolo.checkpoint import read_yolo_state
from mlkit_refdet.yolo.trunk import YoloTrunk

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


def test_of_two_things_alike_the_one_in_the_middle_is_guessed():
    maps = torch.ones(1, 8, 12, 12)
    maps[0, :4, 5:7, 5:7] = maps[0, :4, 5:7, 2:4] = -2.0
    weights = foreground_weights(None, {"p3": maps})["p3"][0]
    # exp(-2 r^2) at r = 1/12 * sqrt(2) and at the mean of the other's columns, 5/12 and 7/12 off.
    middle = torch.exp(torch.tensor(-2 * 2 / 144))
    torch.testing.assert_close(weights[5:7, 5:7], middle.expand(2, 2))
    aside = torch.exp(-2 * torch.tensor([50.0, 26.0]) / 144)
    torch.testing.assert_close(weights[5:7, 2:4], aside.expand(2, 2))
    assert weights[9:].max() < 0.01


def test_a_mask_of_zeros_means_unknown_and_none_means_it_of_all(reference):
    with torch.no_grad():
        unknown = reference(photos(), torch.zeros(2, 64, 64))
        none = reference(photos(), None)
    torch.testing.assert_close(unknown.protos["p4"], none.protos["p4"])


def test_known_photos_count_alike_beside_one_whose_place_is_unknown():
    maps = {"p3": torch.randn(2, 8, 12, 12)}
    mask = torch.zeros(2, 96, 96)
    mask[0, :48, :24] = 1  # six by three cells
    mixed = foreground_weights(mask, maps)["p3"]
    alone = foreground_weights(mask[:1], {"p3": maps["p3"][:1]})["p3"]
    expected = torch.zeros(12, 12)
    expected[:6, :3] = 1
    assert torch.equal(alone[0], expected)
    assert torch.equal(mixed[0], expected)
    torch.testing.assert_close(mixed[1], foreground_weights(None, maps)["p3"][1])


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


@pytest.mark.parametrize("kind", [YoloQuery, YoloReference])
def test_every_parameter_of_a_projection_moves_in_one_step(kind):
    torch.manual_seed(0)
    encoder = kind(dim=16)
    found = encoder(photos())
    given = found.embed if kind is YoloQuery else found.protos
    loss = sum((v * torch.randn_like(v)).sum() for v in given.values())
    loss.backward()
    for name, parameter in encoder.projection.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().sum() > 0, name


def test_a_trunk_kept_in_half_precision_is_finished_almost_alike(reference):
    with torch.no_grad():
        kept = reference.trunk(photos())
        half = to_float32(map_tensors(kept, torch.Tensor.half))
        one, two = (reference.finish(f, torch.ones(2, 64, 64)) for f in (kept, half))
    for level in ("p3", "p4", "p5"):
        torch.testing.assert_close(one.protos[level], two.protos[level], atol=1e-3, rtol=0)


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


def test_any_timm_encoder_serves_as_query(reference):
    torch.manual_seed(0)
    query = TimmEncoder("test_resnet", out_indices=(2, 3, 4)).eval()
    support = replace(reference.spec, lead=("class", "shot"))
    fusion = CheafFusion({"query": query.spec, "support": support}, dim=16, heads=2).eval()
    with torch.no_grad():
        known = replace(reference(photos(rows=4)), valid=torch.ones(2, 2, dtype=torch.bool))
        found = fusion({"query": query(photos()), "support": known})
    assert {n: tuple(v.shape[:2]) for n, v in found.pairs.items()} == dict.fromkeys(SUPPORT, (2, 2))
    assert all(values.isfinite().all() for values in found.pairs.values())


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


@pytest.fixture
def detector():
    """A YOLOv8n of ultralytics whose BatchNorms have statistics of their own."""
    torch.manual_seed(3)
    model = DetectionModel("yolov8n.yaml", verbose=False).eval()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2)
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.normal_(module.bias, 0, 0.1)
    return model


def test_weights_with_batchnorm_apart_are_folded_as_ultralytics_folds_them(detector):
    trunk = YoloTrunk(folded=True)
    trunk.load(detector.state_dict())
    theirs = detector.fuse(verbose=False).state_dict()
    for name, values in trunk.layers.state_dict().items():
        torch.testing.assert_close(values, theirs[name], atol=1e-5, rtol=1e-4)
    with pytest.raises(WeightsError, match=r"model\.0\.bn\.running_var is missing"):
        trunk.load({k: v for k, v in YoloTrunk().layers.state_dict().items() if "_var" not in k})


def test_a_checkpoint_of_ultralytics_gives_its_weights_and_the_average_first(detector, tmp_path):
    path = tmp_path / "best.pt"
    raw = DetectionModel("yolov8n.yaml", verbose=False)
    arguments = {"epochs": 3, "project": Path("runs")}
    content = {"model": raw, "ema": detector.half(), "train_args": arguments, "epoch": -1}
    torch.save(content, path)
    state = read_yolo_state(path)
    wanted = detector.state_dict()
    assert state.keys() == wanted.keys()
    assert all(torch.equal(state[name], wanted[name]) for name in wanted)
    encoder = YoloQuery(dim=16)
    said = load_pretrained("encoders.query", encoder, str(path))
    assert said.startswith("sha256:")
    assert said.endswith("(best.pt)")
    first = encoder.trunk.layers.model[0].conv.weight
    torch.testing.assert_close(first, wanted["model.0.conv.weight"].float())


class Trap:
    """Asks the reader to make a file."""

    def __init__(self, path, how):
        self.path, self.how = path, how

    def __reduce__(self):
        if self.how == "shell":
            return os.system, (f"touch {self.path}",)
        return shutil.copyfile, (__file__, str(self.path))


@pytest.mark.parametrize("how", ["shell", "copy"])
def test_nothing_that_a_checkpoint_asks_for_is_called(tmp_path, how):
    made = tmp_path / "made"
    torch.save({"model": Trap(made, how)}, tmp_path / "evil.pt")
    with pytest.raises(
        WeightsError, match=r"not a readable checkpoint|expected a pickled detector"
    ):
        read_yolo_state(tmp_path / "evil.pt")
    assert not made.exists()
    pickle.loads(pickle.dumps(Trap(made, how)))  # as a plain unpickler would
    assert made.exists()


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 torn"])
def test_a_damaged_checkpoint_is_one_message(tmp_path, content):
    (tmp_path / "a.pt").write_bytes(content)
    with pytest.raises(WeightsError, match=r"a\.pt"):
        read_yolo_state(tmp_path / "a.pt")


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


def test_the_pictures_at_hand_scale_channels_as_real_photos_do(weights):
    """Deviations of real photos' channels lie near 1; dead leaves alone gave up to 19."""
    folder = weights.parents[1] / "coco" / "images" / "train2017"
    if not folder.is_dir():
        pytest.skip(f"COCO photos are not at {folder}; set MLKIT_DATA")
    trunk = YoloTrunk(folded=True).eval()
    trunk.load_calibrated(torch.load(weights, weights_only=True)["state_dict"], None)
    with torch.no_grad():
        maps = trunk(torch.stack(calibration_images(folder)[:12])).maps
    for values in maps.values():
        deviation = values.movedim(1, 0).flatten(1).std(1)
        assert 0.7 < deviation.median() < 1.3
        assert deviation.max() < 6
        assert values.abs().max() < 300  # half precision ends at 65504


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


@pytest.mark.parametrize("known", [(True, True, True), (True, False, True)])
def test_projecting_only_around_the_objects_gives_what_projecting_everything_gives(known):
    generator = torch.Generator().manual_seed(4)
    channels, sides = {"p3": 6, "p4": 5}, {"p3": 20, "p4": 10}
    maps = {
        n: torch.randn(3, c, sides[n], sides[n], generator=generator) for n, c in channels.items()
    }
    mask = torch.zeros(3, 160, 160)
    mask[0, 40:90, 61:97] = 1.0
    mask[1, :23, 150:] = 1.0  # at the border
    mask[2, 30:40, 30:120] = mask[2, 100:140, 70:75] = 1.0  # in two parts
    mask *= torch.tensor(known)[:, None, None]
    projection = Projection(channels, 4)
    found = project_photos(projection, maps, mask, 4)
    weights, projected = foreground_weights(mask, maps), projection(maps)
    wanted = prototypes(projected, weights), grid_tokens(projected, weights, 4)
    for level in channels:
        torch.testing.assert_close(found[0][level], wanted[0][level])
        torch.testing.assert_close(found[1][level], wanted[1][level])
    drawn = torch.randn(48, 4, generator=generator)
    gradients = []
    for parts in (found, wanted):
        value = sum(
            (parts[1][n].reshape(-1, 4) * drawn).sum() + parts[0][n].sum() for n in channels
        )
        gradients.append(torch.autograd.grad(value, [*projection.parameters()]))
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)
