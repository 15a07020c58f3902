"""Any encoder's pooled vector, as a run file names the encoder."""

import numpy as np
import pytest
import torch

from mlkit_cluster.config import EmbeddingExtractorConfig
from mlkit_cluster.images.component import ImageFolder
from mlkit_cluster.images.embedding import EmbeddingExtractor
from mlkit_core.build import build_part
from mlkit_core.config.frame import Part
from mlkit_core.errors import BuildError, InputError, WeightsError
from mlkit_core.plugins import ComponentSpec
from mlkit_core.types import Draw, Features, FeatureSpec

SPEC = ComponentSpec(
    kind="extractor",
    name="embedding",
    target="mlkit_cluster.images.embedding:EmbeddingExtractor",
    config="mlkit_cluster.config:EmbeddingExtractorConfig",
)


class Means(torch.nn.Module):
    """The mean colour of each image, and how many images came at once."""

    spec = FeatureSpec(vector_dim=3)
    input_shape = (3, None, None)
    size_multiple = 1
    pad_rgb = (0.0, 0.0, 0.0)

    def __init__(self):
        super().__init__()
        self.counts = []

    def forward(self, x):
        assert not self.training
        self.counts.append(len(x))
        return Features(vector=x.mean((2, 3)))


def batches(folder):
    data = ImageFolder(folder / "images", labels="none", image_size=64)
    return data, data.collate([[data.load(Draw(index, 0)) for index in range(5)]])


def test_each_image_gets_its_own_vector_in_order(painted_images):
    encoder = Means().train()
    extractor = EmbeddingExtractor(encoder, weights="none", device="cpu", batch_size=2)
    _, found = batches(painted_images)
    records = list(extractor.extract(found))
    assert [record.key for record in records] == [f"{i:02d}.png" for i in range(5)]
    expected = found[0].inputs["image"].mean((2, 3))
    np.testing.assert_allclose([r.values["embedding"] for r in records], expected, rtol=1e-6)
    assert encoder.counts == [2, 2, 1]
    told = {"width", "height", "ratio", "pad_x", "pad_y", "sha", "embedding"}
    assert set(records[0].values) == told


def test_a_run_file_s_encoder_is_built_and_its_weights_are_accounted_for(painted_images):
    options = EmbeddingExtractorConfig.model_validate(
        {"encoder": {"name": "timm", "model": "test_resnet"}, "weights": "none", "device": "cpu"}
    )
    part = Part(spec=SPEC, owner="", options=dict(options))
    torch.manual_seed(0)
    extractor = build_part(part, "extractor")
    assert extractor.provenance == "random weights"
    data, found = batches(painted_images)
    data.bind({"image": extractor.needs})
    record = next(iter(extractor.extract(found)))
    assert record.values["embedding"].shape == (extractor.encoder.spec.vector_dim,)


def test_weights_of_a_file_are_loaded_and_a_missing_file_is_an_error(tmp_path):
    encoder = Means()
    encoder.bias = torch.nn.Parameter(torch.zeros(2))
    torch.save({"bias": torch.ones(2)}, tmp_path / "w.pt")
    extractor = EmbeddingExtractor(encoder, weights=str(tmp_path / "w.pt"), device="cpu")
    assert encoder.bias.tolist() == [1, 1]
    assert extractor.provenance.startswith("sha256:")
    with pytest.raises(WeightsError, match=r"extractor\.encoder\.weights: .*no such weights file"):
        EmbeddingExtractor(Means(), weights=str(tmp_path / "gone.pt"), device="cpu")


def test_an_encoder_without_a_vector_is_refused():
    encoder = Means()
    encoder.spec = FeatureSpec(channels={"p3": 4}, strides={"p3": 8})
    with pytest.raises(BuildError, match="gives no pooled vector"):
        EmbeddingExtractor(encoder, weights="none")


def test_a_vector_that_is_not_finite_is_an_error_that_names_the_image(painted_images):
    class Broken(Means):
        def forward(self, x):
            return Features(vector=x.mean((2, 3)) / 0)

    extractor = EmbeddingExtractor(Broken(), weights="none", device="cpu")
    with pytest.raises(InputError, match=r"00\.png: the encoder's vector is not finite"):
        list(extractor.extract(batches(painted_images)[1]))
