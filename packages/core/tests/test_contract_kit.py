"""The contract kit: it passes what is right, and catches one deliberate break per check."""

from __future__ import annotations

import random
import sys
import textwrap
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from mlkit_core import ComponentSpec
from mlkit_core.components.film import FiLM, film_example
from mlkit_core.components.mask_losses import DiceLoss, dice_example
from mlkit_core.errors import BuildError, DataError, PluginError
from mlkit_core.plugins import Catalogue
from mlkit_core.testing import ContractError, PluginContract, Subject, checks, validated
from mlkit_core.types import (
    Batch,
    BoxTarget,
    Draw,
    Example,
    Features,
    FeatureSpec,
    ImageRecord,
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
def subject_of(tmp_path, monkeypatch):
    def make(kind, component):
        monkeypatch.setitem(sys.modules, "tested", SimpleNamespace(Component=component))
        spec = ComponentSpec(kind=kind, name="example", target="tested:Component", summary="One.")
        return Subject(spec, example_of(kind, tmp_path))

    return make


def example_of(kind, folder):
    torch.manual_seed(0)
    spec = FeatureSpec(channels={"p3": 4}, strides={"p3": 8})
    (folder / "frame.png").touch()
    return {
        "encoder": lambda: Example(args=(torch.rand(2, 3, 16, 24),)),
        "fusion": lambda: replace(film_example(folder), options={}),
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
    [(kind, check) for kind, theirs in checks.CHECKS.items() for check in theirs],
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
        if x.shape[1] != 3:
            raise BuildError(f"takes RGB, got {tuple(x.shape)}")
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


class SamplesPoints(DiceLoss):
    def forward(self, output, batch, step):
        drawn = torch.rand(output.head.logits.shape, generator=step.generator)
        head = MaskLogits(output.head.logits * (drawn > 0.5))
        return super().forward(replace(output, head=head), batch, step)


class NeedsPairs(DiceLoss):
    def forward(self, output, batch, step):
        part = super().forward(output, batch, step)["dice"]
        return {"dice": part * output.head.logits.mean((1, 2, 3)).std().detach()}


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


class WrongTarget(SoundData):
    def collate(self, units):
        target = BoxTarget.example(1, 32, 1)
        return [replace(batch, target=target) for batch in super().collate(units)]


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


class TensorValues(SoundMetric):
    def compute(self):
        return {"mean": torch.tensor(super().compute()["mean"])}


class OneKey(SoundExtractor):
    def extract(self, batches):
        return (replace(record, key="x") for record in super().extract(batches))


BROKEN = [
    ("encoder", NoShape, checks.check_input, "`input_shape` None does not fit"),
    ("encoder", NoPadding, checks.check_input, "and `pad_rgb`"),
    ("encoder", WrongWidth, checks.check_published_shapes, r"\[\('p3', 5\)\].* but gives"),
    ("encoder", WrongStride, checks.check_published_shapes, "strides .* do not fit"),
    ("encoder", ForgottenVector, checks.check_published_shapes, "4, None.* but gives .*None, None"),
    ("encoder", UnusedLayer, checks.check_gradients, "no gradient reaches spare.weight"),
    ("encoder", Detached, checks.check_gradients, "a no_grad or a detach hides it"),
    ("encoder", HiddenTensor, checks.check_state, "register .* as a buffer"),
    ("encoder", DropsOut, checks.check_state, "eval is not deterministic"),
    ("encoder", MixesRows, checks.check_batch_of_one, "depend on the other rows"),
    ("encoder", TakesAnySize, checks.check_bad_rows, r"accepts rows .*: raise an MlkitError"),
    ("encoder", SilentRefusal, checks.check_bad_rows, "without a word"),
    ("head", FirstRole, checks.check_bad_roles, "image"),
    ("head", WrongOutput, checks.check_head_output, "must give .*MaskLogits.*, got Tensor"),
    ("head", DecodesOne, checks.check_head_output, "one prediction for each of 2, got 1"),
    ("loss", NoTargetType, checks.check_loss_parts, "must publish `target_type`"),
    ("loss", PerImage, checks.check_loss_parts, "'dice' must be a finite scalar"),
    ("loss", NotFinite, checks.check_loss_parts, "'dice' must be a finite scalar"),
    ("loss", DetachedLoss, checks.check_loss_parts, "is it detached"),
    ("loss", Broadcasts, checks.check_bad_target, "accepts a target with a row less"),
    ("data", Remembers, checks.check_draws, r"pure in \(split, seed\)"),
    ("data", NeverShuffles, checks.check_draws, "does not change with the seed"),
    ("data", OwnRandomness, checks.check_draws, "load must be pure in the draw"),
    ("data", UndeclaredKind, checks.check_collate, "kind 'triplet' is not declared"),
    ("data", WrongTarget, checks.check_collate, "'default' is MaskTarget .*, got BoxTarget"),
    ("data", IgnoresSizes, checks.check_collate, "bound to multiples of 32"),
    ("data", Bytes, checks.check_collate, r"leaves its value_range \(0.0, 1.0\)"),
    ("data", NoKeys, checks.check_cache, "gives no keys of 'image'"),
    ("data", KeyTwice, checks.check_cache, "key of 'image' twice"),
    ("data", CacheOfTrainAlone, checks.check_cache, "lacks keys of 'image'"),
    ("data", OpensWithTarget, checks.check_open, "batches without target"),
    ("data", AnySplit, checks.check_open, "accepts an unknown split"),
    ("data", BareError, checks.check_open, "No such file"),
    ("metric", MeanOfMeans, checks.check_metric, "keep sums"),
    ("metric", TensorValues, checks.check_metric, "must give named floats"),
    ("trainer", object, checks.check_interface, "must have all that .*Trainer"),
    ("extractor", OneKey, checks.check_extractor, "each with its own key"),
]


@pytest.mark.parametrize(
    ("kind", "component", "check", "message"), BROKEN, ids=[case[1].__name__ for case in BROKEN]
)
def test_a_broken_component_is_caught(kind, component, check, message, subject_of):
    theirs = {FirstRole: KeyError, BareError: FileNotFoundError}  # a foreign error passes through
    with pytest.raises(theirs.get(component, ContractError), match=message):
        check(subject_of(kind, component))


def test_a_loss_that_needs_two_rows_is_caught(subject_of):
    with (
        pytest.raises(ContractError, match="one row gives values that are not finite"),
        pytest.warns(UserWarning, match="degrees of freedom"),
    ):
        checks.check_batch_of_one(subject_of("loss", NeedsPairs))


def test_every_check_of_a_component_catches_something():
    caught = {check for _, _, check, _ in BROKEN} | {checks.check_options}  # below, with plugins
    assert {check for theirs in checks.CHECKS.values() for check in theirs} == caught


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


class Written(PluginContract):
    def __init__(self, plugin, folder):
        self.plugin, self.folder = plugin, folder

    def options(self, **changes):
        found = Catalogue.from_plugins({"written": self.plugin}).entries[0].spec
        subject = Subject.of(replace(found, **changes), self.folder)
        checks.check_options(subject)
        checks.check_interface(subject)


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
    write_plugin().test_plugin()
    write_plugin().options()


@pytest.mark.parametrize("change", [{"top": "import numpy"}, {"config_top": "import numpy"}])
def test_a_heavy_plugin_or_config_is_caught(write_plugin, change):
    with pytest.raises(ContractError, match="loads numpy; import it inside functions"):
        write_plugin(**change).test_plugin()


def test_another_api_version_is_caught(write_plugin):
    with pytest.raises(ContractError, match="written for plugin API 2; this mlkit has 1"):
        write_plugin(api=2).test_plugin()


def test_a_plugin_that_does_not_load_is_caught(write_plugin):
    with pytest.raises(ContractError, match=r"does not load: .*boom"):
        write_plugin(top="raise RuntimeError('boom')").test_plugin()


def test_a_target_that_is_not_there_is_caught(write_plugin):
    with pytest.raises(PluginError, match="has no 'Acne'"):
        write_plugin(target="Acne").options()


def test_a_missing_summary_is_caught(write_plugin):
    with pytest.raises(ContractError, match="summary must be one line"):
        write_plugin(summary="").options()


def test_a_missing_example_is_caught(write_plugin):
    with pytest.raises(ContractError, match="name one in the spec"):
        write_plugin().options(example=None)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"options": "depth: int = 3"}, ContractError, "option 'depth' is no keyword"),
        ({"options": "smooth: float = 2.0"}, ContractError, "defaults to 2.0 in config, 1.0 in"),
        ({"options": "weight: float = 2.0"}, PluginError, "option 'weight' is reserved"),
        ({"keywords": "smooth=1.0, *, depth"}, BuildError, "missing 1 required .* 'depth'"),
    ],
)
def test_options_that_part_from_the_constructor_are_caught(write_plugin, change, error, message):
    with pytest.raises(error, match=message):
        write_plugin(**change).options()


def test_a_config_that_is_no_config_is_caught(write_plugin):
    written = write_plugin()
    config = written.folder / f"{written.plugin}_config.py"
    config.write_text("class AcmeConfig:\n    pass\n")
    with pytest.raises(PluginError, match=r"must be a subclass of mlkit_core\.Config"):
        written.options()


def test_an_option_that_is_a_component_is_built_from_the_catalogue(write_plugin):
    written = write_plugin(
        config_top="from mlkit_core import Component", options="smooth: Component('encoder')"
    )
    spec = Catalogue.from_plugins({"written": written.plugin}).entries[0].spec
    part = validated(spec, {"smooth": {"name": "timm", "model": "test_resnet"}})["smooth"]
    assert (part.spec.name, part.owner) == ("timm", "core")
    assert part.options["normalize"] == "model"


def test_metas_of_an_example_are_handed_to_decode(subject_of):
    subject = subject_of("head", SoundHead)
    metas = [SampleMeta(key="0"), SampleMeta(key="1"), SampleMeta(key="2")]
    example = replace(subject.example, args=(*subject.example.args, metas))
    with pytest.raises(ValueError, match="argument 2 is longer"):  # zip in SoundHead.decode
        checks.check_head_output(replace(subject, example=example))


def test_a_loss_that_samples_points_is_no_random_one(subject_of):
    checks.check_state(subject_of("loss", SamplesPoints))
