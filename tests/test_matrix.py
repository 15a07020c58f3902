"""Every installed encoder, fusion and head together: it trains, or build says why not."""

from __future__ import annotations

import itertools

import pytest
import torch

from mlkit_core.build import build_model, build_part, input_needs
from mlkit_core.config.frame import EncoderPart, FusionPart, Part
from mlkit_core.errors import MlkitError
from mlkit_core.plugins import import_target, load_catalogue
from mlkit_core.testing import validated
from mlkit_core.testing.subject import floats
from mlkit_core.types import Batch, Ratio, RoleSpec, SampleMeta, Step

ROWS, SIZE = 2, 64
OWN = ("core", "angioseg", "refdet", "dvis", "cluster")  # a stranger's plugin has tests of its own


def installed(kind):
    return [entry for entry in load_catalogue().components(kind) if entry.owner in OWN]


def named(entry):
    return f"{entry.owner}.{entry.spec.name}"


CASES = list(
    itertools.product(installed("encoder"), installed("fusion"), installed("head"), ("on", "by"))
)


def part_of(entry, folder, kind=Part, **more):
    """Return the component as a run file with its example's options would give it.

    Options that name roles of the example are left out: the matrix has roles of its own.
    """
    example = import_target(entry.spec.example)(folder)
    theirs = example.context.get("inputs", {})
    options = {k: v for k, v in example.options.items() if not (isinstance(v, str) and v in theirs)}
    options = validated(entry.spec, options)
    return kind(spec=entry.spec, owner=entry.owner, options=options, **more), example


def encoders_of(entry, place, folder):
    """Return the encoder beside a timm one, as the role to condition or to condition by.

    Companions: a small residual network has maps and a vector, a small ViT tokens as well.
    """
    timm = load_catalogue().find("encoder", "core/timm")
    tested, example = part_of(entry, folder, EncoderPart, input="tested")
    model = "test_vit" if place == "on" else "test_resnet"
    other = EncoderPart(spec=timm.spec, owner="core", options={"model": model}, input="image")
    roles = {
        "tested": RoleSpec(shape=build_part(tested, "tested", num_classes=1).input_shape),
        "image": RoleSpec(shape=(3, None, None)),
    }
    first = ("tested", "image") if place == "on" else ("image", "tested")
    parts = {"tested": tested, "image": other}
    return {r: parts[r] for r in first}, {r: roles[r] for r in first}, example


def sizes_of(model, encoders, roles):
    """Return each image input's side: 64 px, or what its encoder takes."""
    sides = {}
    for role, needs in input_needs(model, encoders).items():
        if len(roles[role].shape) == 3:
            multiple = needs.size_multiple
            sides[role] = needs.sizes[0] if needs.sizes else -(-SIZE // multiple) * multiple
    return sides


def losses_of(head, folder):
    """Return every installed loss that reads this head's output, with a target at its side."""
    found = []
    for entry in installed("loss"):
        target = import_target(entry.spec.target)
        output = getattr(target, "output_type", None)
        if output is not None and issubclass(head.output_type, output):
            loss = build_part(part_of(entry, folder)[0], "loss", num_classes=1)
            found.append((loss, target.target_type))
    return found


def total_loss(output, losses, batch, step, side):
    """Return the sum of all parts of all losses; of the output's squares where no loss fits."""
    if not losses:
        return torch.stack([t.square().mean() for t in floats(output.head)]).sum()
    values = []
    for loss, target_type in losses:
        batch.target = target_type.example(ROWS, side, 1)
        for value in loss(output, batch, step).values():
            values.append(value.sum / value.count if isinstance(value, Ratio) else value)
    return torch.stack(values).sum()


def train(model, losses, batch, side):
    """Return the losses of two steps."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    values = []
    for iteration in range(2):
        step = Step(iteration, 2, torch.Generator().manual_seed(iteration))
        loss = total_loss(model(batch, step=step), losses, batch, step, side)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        values.append(loss.item())
    return values


def build(encoder, fusion, head, place, folder):
    torch.manual_seed(0)
    encoders, roles, example = encoders_of(encoder, place, folder)
    fusions = [part_of(fusion, folder, FusionPart, writes="fused")[0]]
    top = part_of(head, folder)[0]
    model = build_model(encoders, fusions, top, roles=roles, num_classes=1)
    return model, encoders, roles, example


def attempt(*case):
    """Return what was built, or None and the reason; any other error than ours is a failure."""
    try:
        return build(*case), ""
    except MlkitError as err:
        return None, str(err)


def inputs_of(model, encoders, roles, example):
    sides = sizes_of(model, encoders, roles)
    return {
        role: torch.rand(ROWS, 3, sides[role], sides[role])
        if role in sides
        else example.args[0][:1].repeat(ROWS, *[1] * (example.args[0].ndim - 1))
        for role in roles
    }


@pytest.mark.parametrize(
    ("encoder", "fusion", "head", "place"),
    CASES,
    ids=lambda v: v if isinstance(v, str) else named(v),
)
def test_it_trains_or_build_says_why_not(encoder, fusion, head, place, tmp_path, record_property):
    built, refusal = attempt(encoder, fusion, head, place, tmp_path)
    if built is None:
        record_property("refused", refusal)
        assert refusal.startswith(("encoders.", "fusions.", "head"))
        return
    model, encoders, roles, example = built
    losses = losses_of(model.head, tmp_path)
    inputs = inputs_of(model, encoders, roles, example)
    meta = tuple(SampleMeta(key=str(row)) for row in range(ROWS))
    if not any(True for _ in model.head.parameters()):  # a filter: there is nothing to train
        found = floats(model(Batch(inputs, meta)).head)
        assert found
        assert all(tensor.isfinite().all() for tensor in found)
        return
    first = next(iter(roles))
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    values = train(model, losses, Batch(inputs, meta), inputs[first].shape[-1])
    assert torch.tensor(values).isfinite().all()
    moved = {n for n, p in model.named_parameters() if not torch.equal(p, before[n])}
    for part in ("head", f"encoders.{first}"):
        trainable = [n for n in before if n.startswith(f"{part}.")]
        assert not trainable or moved & set(trainable), f"no parameter of {part} moved"


# Fusions that read clips, each after those whose roles it reads: built with a video's encoder.
CHAINS = (
    ("mask2former", (), "video-instances"),
    ("mask2former", ("daq-tracker",), "video-instances"),
    ("mask2former", ("daq-tracker", "temporal-refiner"), "video-instances"),
)
CHAINED = {name for _, fusions, head in CHAINS for name in (*fusions, head)}
# Models of images and photos of classes: encoders of both, the fusion of them if any, the head.
WITH_PHOTOS = (
    ("yolo-query", "yolo-reference", "cheaf", "dual"),
    ("timm", "vit-reference", "cheaf", "dual"),
    ("timm", "timm", "cheaf", "dual"),
    ("yolo-query", "timm", "film", "dual"),
    ("pixels", "pixels", None, "template-match"),
    ("yolo-query", "yolo-reference", None, "prototype-match"),
)
CHAINED |= {name for _, _, *rest in WITH_PHOTOS for name in rest}


@pytest.mark.parametrize("chain", CHAINS, ids=lambda chain: " ".join([*chain[1], chain[2]]))
def test_chains_over_clips_build_and_run(chain, tmp_path):
    torch.manual_seed(0)
    catalogue, (encoder, fusions, head) = load_catalogue(), chain
    image, _ = part_of(catalogue.find("encoder", encoder), tmp_path, EncoderPart, input="image")
    image.options["num_queries"] = 4
    parts = []
    for name in fusions:
        part, _ = part_of(catalogue.find("fusion", name), tmp_path, FusionPart, **{"as": name})
        part.options["num_queries" if "num_queries" in part.options else "num_rows"] = 4
        parts.append(part)
    roles = {"image": RoleSpec(shape=(3, None, None), lead=("clip", "frame"))}
    top, _ = part_of(catalogue.find("head", head), tmp_path)
    model = build_model({"image": image}, parts, top, roles=roles, num_classes=2).eval()
    valid = torch.ones(ROWS, 3, dtype=torch.bool)
    frames = torch.rand(ROWS, 3, 3, SIZE, SIZE)
    meta = tuple(SampleMeta(key=str(row)) for row in range(ROWS))
    with torch.no_grad():
        output = model(Batch({"image": frames}, meta, valid={"image": valid}))
    assert output.head.masks.shape[::2] == (ROWS, 3, SIZE // 4)
    assert output.head.logits.isfinite().all()


def with_photos(chain, folder):
    """Return the model of a chain, and a batch: two images, three classes of two photos."""
    catalogue, (query, photos, fusion, head) = load_catalogue(), chain
    own = {"timm": {"model": "test_resnet", "out_indices": (2, 3, 4)}}
    encoders = {}
    for role, name in (("query", query), ("support", photos), ("asked", "asked-classes")):
        part, _ = part_of(catalogue.find("encoder", name), folder, EncoderPart, input=role)
        part.options.update(own.get(name, {}))
        encoders[role] = part
    parts = []
    if fusion is not None:
        part, _ = part_of(catalogue.find("fusion", fusion), folder, FusionPart, writes="fused")
        part.options.update({"dim": 8, "channels": None} if fusion == "cheaf" else {"pool": True})
        part.options.update({"on": "query", "by": "support"})
        parts.append(part)
    top, _ = part_of(catalogue.find("head", head), folder)
    if fusion == "film":
        top.options["mode"] = "standard"
    roles = {
        "query": RoleSpec(shape=(3, None, None)),
        "support": RoleSpec(shape=(3, None, None), lead=("class", "shot")),
        "asked": RoleSpec(shape=(None,)),
    }
    model = build_model(encoders, parts, top, roles=roles, num_classes=3)
    sides = sizes_of(model, encoders, roles)
    inputs = {
        "query": torch.rand(ROWS, 3, sides["query"], sides["query"]),
        "support": torch.rand(3, 2, 3, sides["support"], sides["support"]),
        "asked": torch.tensor([[0.0, 2.0], [1.0, -1.0]]),
    }
    masks = torch.zeros(3, 2, sides["support"], sides["support"])
    masks[..., 8:40, 8:40] = 1
    meta = tuple(SampleMeta(key=str(row), size=(SIZE, SIZE)) for row in range(ROWS))
    valid = {"support": torch.ones(3, 2, dtype=torch.bool)}
    return model, Batch(inputs, meta, valid=valid, masks={"support": masks})


@pytest.mark.parametrize("chain", WITH_PHOTOS, ids=lambda chain: " ".join(filter(None, chain)))
def test_models_of_images_and_photos_train_and_predict(chain, tmp_path):
    torch.manual_seed(0)
    model, batch = with_photos(chain, tmp_path)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    if chain[2] is not None:
        train(model, [], batch, SIZE)
        moved = {n for n, p in model.named_parameters() if not torch.equal(p, before[n])}
        for part in ("head.", "encoders.query.", "fusions.fused."):
            assert any(name.startswith(part) for name in moved), part
    model.eval()
    with torch.no_grad():
        found = model.head.decode(model(batch).head, batch.meta)
    assert len(found) == ROWS
    assert all(one.boxes_xyxy.isfinite().all() for one in found)
    asked = [{0, 2}, {1}] if chain[2] != "film" else [{0, 1, 2}] * 2
    assert all(set(f.labels.tolist()) <= own for f, own in zip(found, asked, strict=True))


@pytest.mark.parametrize(
    ("index", "entry"),
    [
        (i, e)
        for i, kind in enumerate(("encoder", "fusion", "head"))
        for e in installed(kind)
        if e.spec.name not in CHAINED
    ],
    ids=lambda value: "" if isinstance(value, int) else named(value),
)
def test_every_component_is_part_of_a_model_that_builds(index, entry, tmp_path):
    refusals = []
    for case in (case for case in CASES if case[index] == entry):
        built, refusal = attempt(*case, tmp_path)
        if built is not None:
            return
        refusals.append(refusal)
    pytest.fail("\n".join(refusals))
