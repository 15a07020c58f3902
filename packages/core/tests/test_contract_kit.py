"""The contract kit: it passes what is right, and catches one deliberate break per check."""

from __future__ import annotations

import random
import sys
import textwrap
from dataclasses import dataclass, replace
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from mlkit_core.components.film import FiLM, film_example
from mlkit_core.components.mask_losses import DiceLoss, dice_example
from mlkit_core.errors import BuildError, DataError
from mlkit_core.testing import (  # noqa: F401  # mlkit_plugins is a fixture
    ContractError,
    PluginContract,
    Subject,
    data_checks,
    mlkit_plugins,
    part_checks,
    plugin_checks,
    validated,
)
from mlkit_core.testing.contract import CHECKS
from mlkit_core.types import (
    Batch,
    Draw,
    Example,
    Features,
    FeatureSpec,
    ImageRecord,
    Letterbox,
    MaskLogits,
    MaskPrediction,
    MaskTarget,
    RoleSpec,
    SampleMeta,
)


class TestCore(PluginContract):
    plugin = "mlkit_core.plugin"


# --- a sound component of each kind, from which the broken ones differ in one thing -------------


class SoundEncoder(nn.Module):
    input_shape, size_multiple, pad_rgb = (3, None, None), 8, (0.5, 0.5, 0.5)

    def __init__(self):
        super().__init__()
        self.spec = FeatureSpec(channels={"p3": 4}, strides={"p3": 8}, vector_dim=4)
        self.conv = nn.Conv2d(3, 4, 8, stride=8)

    def forward(self, x):
        if x.shape[1] != 3 or x.shape[2] % 8 or x.shape[3] % 8:
            raise BuildError(f"takes RGB in multiples of 8 px, got {tuple(x.shape)}")
        maps = self.conv(x)
        return Features(maps={"p3": maps}, vector=maps.mean((2, 3)))


class SoundHead(nn.Module):
    output_type = MaskLogits

    def __init__(self, inputs, on=None):
        super().__init__()
        if not inputs:
            raise BuildError("on: no role to read")
        self.on = on or next(iter(inputs))
        self.conv = nn.Conv2d(inputs[self.on].channels["p3"], 1, 1)

    def forward(self, scope):
        return MaskLogits(self.conv(scope[self.on].maps["p3"]).repeat_interleave(8, 2))

    def decode(self, output, meta):
        return [MaskPrediction(p) for p, _ in zip(output.logits[:, 0], meta, strict=True)]


class SoundData:
    roles = {"image": RoleSpec(shape=(3, None, None), value_range=(0.0, 1.0))}  # noqa: RUF012
    kinds = {"default": (MaskTarget, "head")}  # noqa: RUF012
    classes, augments = ("vessel",), frozenset()

    def bind(self, needs):
        self.needs = needs

    def units(self, split, seed):
        if split not in ("train", "val", "cache"):
            raise DataError(f"no split {split!r}")
        draws = [Draw(index, seed * 100 + index) for index in range(4)]
        random.Random(seed).shuffle(draws)
        return [[draw] for draw in draws]

    def load(self, draw):
        generator = torch.Generator().manual_seed(draw.seed)
        return draw.index, torch.rand(3, 32, 32, generator=generator)

    def collate(self, units):
        samples = [sample for unit in units for sample in unit]
        return [
            Batch(
                inputs={"image": torch.stack([image for _, image in samples])},
                meta=tuple(SampleMeta(key=str(index)) for index, _ in samples),
                target=MaskTarget.example(len(samples), 32, 1),
                keys={"image": tuple(str(index) for index, _ in samples)},
            )
        ]

    def open(self, inputs):
        if not inputs["image"].exists():
            raise DataError(f"{inputs['image']}: no such file")
        yield Batch(inputs={"image": torch.rand(1, 3, 32, 32)}, meta=(SampleMeta(key="0"),))


class SoundMetric:
    def __init__(self):
        self.sum, self.count = 0.0, 0

    def update(self, predictions, batch):
        del batch
        for prediction in predictions:
            self.sum, self.count = self.sum + float(prediction), self.count + 1

    def state(self):
        return [self.sum, self.count]

    def merge(self, state):
        self.sum, self.count = self.sum + state[0], self.count + state[1]

    def compute(self):
        return {"mean": self.sum / self.count}


class SoundExtractor:
    def extract(self, batches):
        for batch in batches:
            for meta, row in zip(batch.meta, batch.inputs["image"], strict=True):
                yield ImageRecord(key=meta.key, values={"mean": row.mean()})


def batch_of(rows):
    meta = tuple(SampleMeta(key=str(i)) for i in range(rows))
    return Batch(inputs={"image": torch.rand(rows, 3, 8, 8)}, meta=meta)


@pytest.fixture
def subject_of(tmp_path):
    def make(kind, component):
        return Subject(kind, "example", component, example_of(kind, tmp_path), tmp_path)

    return make


def example_of(kind, folder):
    torch.manual_seed(0)
    spec = FeatureSpec(channels={"p3": 4}, strides={"p3": 8})
    (folder / "frame.png").touch()
    return {
        "encoder": lambda: Example(args=(torch.rand(2, 3, 16, 24),)),
        "fusion": lambda: film_example(folder),
        "head": lambda: Example(
            args=({"image": Features(maps={"p3": torch.randn(2, 4, 2, 2)})},),
            context={"inputs": {"image": spec}},
        ),
        "loss": lambda: dice_example(folder),
        "data": lambda: Example(args=({"image": folder / "frame.png"},)),
        "metric": lambda: Example(args=(([1.0, 2.0, 6.0], batch_of(3)), ([5.0], batch_of(1)))),
        "trainer": Example,
        "extractor": lambda: Example(args=([batch_of(2)],)),
    }[kind]()


SOUND = {
    "encoder": SoundEncoder,
    "fusion": FiLM,
    "head": SoundHead,
    "loss": DiceLoss,
    "data": SoundData,
    "metric": SoundMetric,
    "trainer": lambda: SimpleNamespace(fit=print, evaluate=print),
    "extractor": SoundExtractor,
}


@pytest.mark.parametrize(
    ("kind", "check"),
    [(kind, check) for kind, checks in CHECKS.items() for check in checks],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_a_sound_component_passes(kind, check, subject_of):
    check(subject_of(kind, SOUND[kind]))


# --- the broken ones ----------------------------------------------------------------------------


class NoShape(SoundEncoder):
    input_shape = None


class NoPadding(SoundEncoder):
    pad_rgb = ()


class WrongWidth(SoundEncoder):
    def __init__(self):
        super().__init__()
        self.spec = replace(self.spec, channels={"p3": 5})


class WrongStride(SoundEncoder):
    def __init__(self):
        super().__init__()
        self.spec = replace(self.spec, strides={"p3": 4})


class ForgottenVector(SoundEncoder):
    def forward(self, x):
        return Features(maps=super().forward(x).maps)


class UnusedLayer(SoundEncoder):
    def __init__(self):
        super().__init__()
        self.spare = nn.Linear(2, 2)


class Detached(SoundEncoder):
    def forward(self, x):
        with torch.no_grad():
            return super().forward(x)


class HiddenTensor(SoundEncoder):
    def __init__(self):
        super().__init__()
        self.scale = torch.rand(1)  # no buffer: a checkpoint loses it

    def forward(self, x):
        features = super().forward(x)
        return replace(features, vector=features.vector * self.scale)


class DropsOut(SoundEncoder):
    def forward(self, x):
        features = super().forward(x)
        return replace(features, vector=nn.functional.dropout(features.vector, 0.5))


class MixesRows(SoundEncoder):
    def forward(self, x):
        features = super().forward(x)
        return replace(features, vector=features.vector - features.vector.mean(0))


class TakesAnySize(SoundEncoder):
    def forward(self, x):
        maps = self.conv(x)
        return Features(maps={"p3": maps}, vector=maps.mean((2, 3)))


class SilentRefusal(SoundEncoder):
    def forward(self, x):
        try:
            return super().forward(x)
        except BuildError:
            raise BuildError("") from None


class FirstRole(SoundHead):
    def __init__(self, inputs, on=None):
        super().__init__({"image": inputs["image"]}, on)


class WrongOutput(SoundHead):
    def forward(self, scope):
        return super().forward(scope).logits


class DecodesOne(SoundHead):
    def decode(self, output, meta):
        return super().decode(output, meta)[:1]


class NoTargetType(DiceLoss):
    target_type = None


class PerImage(DiceLoss):
    def forward(self, output, batch, step):
        return {"dice": super().forward(output, batch, step)["dice"].expand(2)}


class NotFinite(DiceLoss):
    def forward(self, output, batch, step):
        return {"dice": super().forward(output, batch, step)["dice"] / 0}


class DetachedLoss(DiceLoss):
    def forward(self, output, batch, step):
        part = super().forward(output, batch, step)["dice"].detach()
        return {"dice": part.requires_grad_()}


class Broadcasts(DiceLoss):
    def forward(self, output, batch, step):
        return {"l2": ((output.head.logits[:, 0] - batch.target.masks) ** 2).mean()}


class NeedsPairs(DiceLoss):
    def forward(self, output, batch, step):
        part = super().forward(output, batch, step)["dice"]
        return {"dice": part * output.head.logits.mean((1, 2, 3)).std().detach()}


class NoClasses(SoundData):
    classes = ()


class Remembers(SoundData):
    calls = 0

    def units(self, split, seed):
        type(self).calls += 1
        return super().units(split, seed + type(self).calls)


class NeverShuffles(SoundData):
    def units(self, split, seed):
        return super().units(split, 0)


class OwnRandomness(SoundData):
    def load(self, draw):
        return draw.index, torch.rand(3, 32, 32)


class UndeclaredKind(SoundData):
    def collate(self, units):
        return [replace(batch, kind="triplet") for batch in super().collate(units)]


class IgnoresSizes(SoundData):
    def load(self, draw):
        return draw.index, super().load(draw)[1][:, :, :30]


class Bytes(SoundData):
    def load(self, draw):
        return draw.index, 255 * super().load(draw)[1]


class NoKeys(SoundData):
    def collate(self, units):
        return [replace(batch, keys={}) for batch in super().collate(units)]


class KeyTwice(SoundData):
    def units(self, split, seed):
        return super().units(split, seed) * (2 if split == "cache" else 1)


class CacheOfTrainAlone(SoundData):
    def units(self, split, seed):
        units = super().units(split, seed)
        return [u for u in units if u[0].index < 3] if split == "cache" else units


class OpensWithTarget(SoundData):
    def open(self, inputs):
        for batch in super().open(inputs):
            yield replace(batch, target=MaskTarget.example(1, 32, 1))


class AnySplit(SoundData):
    def units(self, split, seed):
        return super().units("train", seed)


class BareError(SoundData):
    def open(self, inputs):
        inputs["image"].read_bytes()
        return super().open(inputs)


class MeanOfMeans(SoundMetric):
    def state(self):
        return [self.sum / max(self.count, 1), 1]


class ComputesOnce(SoundMetric):
    def compute(self):
        values = super().compute()
        self.sum = 0.0
        return values


class TensorValues(SoundMetric):
    def compute(self):
        return {"mean": torch.tensor(super().compute()["mean"])}


class OneKey(SoundExtractor):
    def extract(self, batches):
        return (replace(record, key="x") for record in super().extract(batches))


BROKEN = [
    ("encoder", NoShape, part_checks.check_encoder_declares, "must publish `input_shape`"),
    ("encoder", NoPadding, part_checks.check_encoder_declares, "must publish `pad_rgb`"),
    ("encoder", WrongWidth, part_checks.check_published_shapes, r"maps \{'p3': 5\} but gives"),
    ("encoder", WrongStride, part_checks.check_published_shapes, "strides .* do not fit"),
    ("encoder", ForgottenVector, part_checks.check_published_shapes, "vector_dim 4 but gives None"),
    ("encoder", UnusedLayer, part_checks.check_gradients, "no gradient reaches spare.weight"),
    ("encoder", Detached, part_checks.check_gradients, "is there a no_grad"),
    ("encoder", HiddenTensor, part_checks.check_state_dict, "register .* as a buffer"),
    ("encoder", DropsOut, part_checks.check_deterministic, "eval is not deterministic"),
    ("encoder", MixesRows, part_checks.check_batch_of_one, "depend on the other rows"),
    ("encoder", TakesAnySize, part_checks.check_bad_input, r"raise a BuildError"),
    ("encoder", SilentRefusal, part_checks.check_bad_input, "without a word"),
    ("head", FirstRole, part_checks.check_bad_input, r"meets roles \{\} with KeyError"),
    ("head", WrongOutput, part_checks.check_head_output, "must give .*MaskLogits.*, got Tensor"),
    (
        "head",
        DecodesOne,
        part_checks.check_head_output,
        "one prediction for each of 2 metas, got 1",
    ),
    ("loss", NoTargetType, part_checks.check_loss_parts, "must publish `target_type`"),
    ("loss", PerImage, part_checks.check_loss_parts, "'dice' must be a finite scalar"),
    ("loss", NotFinite, part_checks.check_loss_parts, "'dice' must be a finite scalar"),
    ("loss", DetachedLoss, part_checks.check_loss_parts, "is it detached"),
    ("loss", Broadcasts, part_checks.check_loss_rows, "accepts a target with a row less"),
    ("data", NoClasses, data_checks.check_data_declares, "must publish `classes`"),
    ("data", Remembers, data_checks.check_data_units, r"pure in \(split, seed\)"),
    ("data", NeverShuffles, data_checks.check_data_units, "does not change with the seed"),
    ("data", OwnRandomness, data_checks.check_data_load, "load must be pure in the draw"),
    ("data", UndeclaredKind, data_checks.check_data_collate, "kind 'triplet' is not declared"),
    ("data", IgnoresSizes, data_checks.check_data_collate, "bound to multiples of 32"),
    ("data", Bytes, data_checks.check_data_collate, r"leaves its value_range \(0.0, 1.0\)"),
    ("data", NoKeys, data_checks.check_data_cache, "gives no keys of 'image'"),
    ("data", KeyTwice, data_checks.check_data_cache, "of 'image' twice"),
    ("data", CacheOfTrainAlone, data_checks.check_data_cache, r"lacks key \['3'\]"),
    ("data", OpensWithTarget, data_checks.check_data_open, "batches without target"),
    ("data", AnySplit, data_checks.check_data_bad_input, "accepts an unknown split"),
    ("data", BareError, data_checks.check_data_bad_input, "with FileNotFoundError"),
    ("metric", MeanOfMeans, data_checks.check_metric_merges, "keep sums, not means"),
    ("metric", ComputesOnce, data_checks.check_metric_merges, "compute changes the metric"),
    ("metric", TensorValues, data_checks.check_metric_values, "must give named floats"),
    ("trainer", object, data_checks.check_trainer, "must have `fit`"),
    ("extractor", OneKey, data_checks.check_extractor, "two records of one key"),
]


@pytest.mark.parametrize(
    ("kind", "component", "check", "message"), BROKEN, ids=[case[1].__name__ for case in BROKEN]
)
def test_a_broken_component_is_caught(kind, component, check, message, subject_of):
    with pytest.raises(ContractError, match=message):
        check(subject_of(kind, component))


def test_a_loss_that_needs_two_rows_is_caught(subject_of):
    with (
        pytest.raises(ContractError, match="one row gives a part that is not finite"),
        pytest.warns(UserWarning, match="degrees of freedom"),
    ):
        part_checks.check_loss_of_one(subject_of("loss", NeedsPairs))


def test_every_check_catches_something():
    caught = {check for _, _, check, _ in BROKEN} | {part_checks.check_loss_of_one}
    assert {check for checks in CHECKS.values() for check in checks} == caught


# --- plugins as a whole -------------------------------------------------------------------------

PLUGIN = """
    {top}
    from mlkit_core import ComponentSpec, hookimpl
    MLKIT_API = {api}

    @hookimpl
    def mlkit_components():
        yield ComponentSpec(kind="loss", name="acme", target="{name}_net:{target}",
                            config="{name}_config:AcmeConfig", example="{name}_net:example",
                            summary="{summary}")
"""
NET = """
    from mlkit_core.components.mask_losses import DiceLoss, dice_example as example

    class Acme(DiceLoss):
        def __init__(self, {keywords}):
            super().__init__()
"""
CONFIG = """
    {top}
    from mlkit_core import Config

    class AcmeConfig(Config):
        {options}
"""


@dataclass
class Written:
    plugin: str
    folder: object

    @property
    def spec(self):
        return plugin_checks.specs_of(self.plugin)[0]


@pytest.fixture
def write_plugin(tmp_path, monkeypatch, request):
    """Write a plugin of three modules; each test has names of its own, for `sys.modules`."""
    name = f"acme_{abs(hash(request.node.name)):x}"
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    def write(**changes):
        values = {
            "top": "",
            "config_top": "",
            "api": 1,
            "target": "Acme",
            "summary": "A loss.",
            "keywords": "smooth=1.0",
            "options": "smooth: float = 1.0",
        } | changes
        texts = {
            name: PLUGIN.format(name=name, **values),
            f"{name}_net": NET.format(**values),
            f"{name}_config": CONFIG.format(**{**values, "top": values["config_top"]}),
        }
        for module, text in texts.items():
            (tmp_path / f"{module}.py").write_text(textwrap.dedent(text))
        return Written(name, tmp_path)

    yield write
    for module in [m for m in sys.modules if m.startswith(name)]:
        del sys.modules[module]


def test_a_sound_plugin_passes(write_plugin):
    written = write_plugin()
    plugin_checks.check_light(written.plugin)
    plugin_checks.check_api(written.plugin)
    plugin_checks.check_spec(written.spec)
    plugin_checks.check_options(written.spec)


@pytest.mark.parametrize("change", [{"top": "import numpy"}, {"config_top": "import numpy"}])
def test_a_heavy_plugin_or_config_is_caught(write_plugin, change):
    heavy = next(iter(change.values())).split()[1]
    with pytest.raises(ContractError, match=f"loads .*{heavy}.*; import it inside functions"):
        plugin_checks.check_light(write_plugin(**change).plugin)


def test_another_api_version_is_caught(write_plugin):
    with pytest.raises(ContractError, match="MLKIT_API is 2; write MLKIT_API = 1"):
        plugin_checks.check_api(write_plugin(api=2).plugin)


def test_a_plugin_that_does_not_load_is_caught(write_plugin):
    written = write_plugin(top="raise RuntimeError('boom')")
    with pytest.raises(ContractError, match=r"does not load, at stage load: .*boom"):
        plugin_checks.check_light(written.plugin)


def test_a_target_that_is_not_there_is_caught(write_plugin):
    written = write_plugin(target="Acne")
    with pytest.raises(Exception, match="has no 'Acne'"):
        plugin_checks.check_spec(written.spec)


def test_a_missing_summary_is_caught(write_plugin):
    with pytest.raises(ContractError, match="summary must be one line"):
        plugin_checks.check_spec(write_plugin(summary="").spec)


def test_a_missing_example_is_caught(write_plugin):
    spec = replace(write_plugin().spec, example=None)
    with pytest.raises(ContractError, match="name one in the spec"):
        plugin_checks.check_spec(spec)
    with pytest.raises(ContractError, match="name one in the spec"):
        Subject.of(spec, None)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"options": "depth: int = 3"}, "option 'depth' is no keyword"),
        ({"options": "smooth: float = 2.0"}, "defaults to 2.0 in the config and to 1.0"),
        ({"options": "weight: float = 2.0"}, "option 'weight' is reserved"),
        ({"keywords": "smooth=1.0, *, depth"}, "needs 'depth', which no option gives"),
    ],
)
def test_options_that_part_from_the_constructor_are_caught(write_plugin, change, message):
    with pytest.raises(ContractError, match=message):
        plugin_checks.check_options(write_plugin(**change).spec)


def test_a_config_that_is_no_config_is_caught(write_plugin):
    written = write_plugin(config_top="from dataclasses import dataclass")
    config = written.folder / f"{written.plugin}_config.py"
    config.write_text("class AcmeConfig:\n    pass\n")
    with pytest.raises(ContractError, match=r"must be a subclass of mlkit_core\.Config"):
        plugin_checks.check_options(written.spec)


def test_an_option_that_is_a_component_is_built_from_the_catalogue(write_plugin):
    spec = write_plugin(
        config_top="from mlkit_core import Component", options="smooth: Component('encoder')"
    ).spec
    part = validated(spec, {"smooth": {"name": "timm", "model": "test_resnet"}})["smooth"]
    assert (part.spec.name, part.owner) == ("timm", "core")
    assert part.options["normalize"] == "model"


def test_heads_without_maps_need_metas(subject_of):
    subject = subject_of("head", SoundHead)
    bare = {"image": Features(vector=torch.zeros(2, 4))}
    subject = replace(subject, example=replace(subject.example, args=(bare,)))
    with pytest.raises(ContractError, match=r"give the metas as args\[1\]"):
        part_checks._meta(subject)


def test_metas_of_an_example_are_handed_to_decode(subject_of):
    subject = subject_of("head", SoundHead)
    boxed = Letterbox(scale=1.0, size=(16, 16))
    meta = [SampleMeta(key="0", size=(16, 16), letterbox=boxed)] * 2
    args = (*subject.example.args, meta)
    part_checks.check_head_output(replace(subject, example=replace(subject.example, args=args)))


def test_the_fixture_shows_what_is_installed(mlkit_plugins):  # noqa: F811
    assert mlkit_plugins.find("encoder", "timm").owner == "core"
