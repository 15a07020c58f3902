"""Conditioning on the view, proved where the image alone cannot tell (see `phantom.proof`)."""

import csv

import numpy as np
import pytest
import torch
from PIL import Image

from mlkit_angioseg.metrics.scores import overlap_scores
from mlkit_angioseg.phantom import View, family_of_view, no_view_bound, write_proof
from mlkit_core import load_run
from mlkit_core.training.evaluation import evaluating

FAMILIES = 4
RUN = """
name: proof
seed: 3
data: {name: angio-frames, root: data, size: 96, augment: false}
model:
  encoders:
    image: {name: conv-stem, dim: 32, stride: 2}
    view: {name: view-angle, dim: 32}
  fusion: {name: film, "on": image, by: view}
  head: {name: conv-mask, dim: 32, hidden: [32, 32]}
losses: [{name: bce, weight: 0.5}, {name: dice, weight: 0.5}]
metrics: [{name: mask-overlap, resamples: 0}]
optimizer: {name: adamw, lr: 1e-2, warmup: 0.05}
trainer: {name: supervised, epochs: 6, batch_size: 8, validate_every: 0, pictures: 0}
"""
VIEWLESS = RUN.replace("    view: {name: view-angle, dim: 32}\n", "").replace(
    '  fusion: {name: film, "on": image, by: view}\n', ""
)


class Trained:
    """A trained model and the proof set's unseen images."""

    def __init__(self, folder, text):
        (folder / "run.yaml").write_text(text)
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(folder)
            run = load_run("run.yaml")
            run.fit()
            self.found = run.evaluate("test", "last")
            self.stage = run.stage_of("last")[0]
        self.folder, self.data, self.model = folder / "data", self.stage.data, self.stage.model
        units = self.data.units("test", 0)
        self.batches = [self.data.collate([[self.data.load(d) for d in u]])[0] for u in units]
        self.views = torch.cat([batch.inputs["view"] for batch in self.batches])

    def masks(self, views):
        """Predicted masks when the model is told these views."""
        found = []
        with evaluating(self.model), torch.no_grad():
            for batch, view in zip(self.batches, views, strict=True):
                batch.inputs = {**batch.inputs, "view": view[None]}
                [prediction] = self.model.head.decode(self.model(batch).head, batch.meta)
                found.append(prediction.probabilities.numpy() >= 0.5)
        return found

    def dice(self, views, families=None):
        """Mean Dice against the true family, or against the families named."""
        scores = []
        for i, predicted in enumerate(self.masks(views)):
            key = self.batches[i].meta[0].key
            family = families[i] if families else _family(self.views[i])
            with Image.open(self.folder / "masks_all" / f"{key}_f{family}.png") as picture:
                target = np.asarray(picture) > 0
            scores.append(overlap_scores(predicted, target)["dice"])
        return float(np.mean(scores))


def _family(view):
    return family_of_view(View(*view.tolist()), FAMILIES)


@pytest.fixture(scope="module", autouse=True)
def one_thread_for_all():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def proof_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("proof")
    write_proof(folder / "data", count=180, families=FAMILIES, seed=1, split=(0.8, 0.02, 0.18))
    return folder


@pytest.fixture(scope="module")
def conditioned(proof_folder):
    return Trained(proof_folder, RUN)


@pytest.fixture(scope="module")
def viewless(proof_folder):
    return Trained(proof_folder, VIEWLESS.replace("name: proof", "name: viewless"))


def test_the_label_of_the_proof_set_is_the_family_that_the_view_names(proof_folder, conditioned):
    with (proof_folder / "data" / "angles.csv").open(newline="") as file:
        rows = {row["image"]: row for row in csv.DictReader(file)}
    for batch in conditioned.batches:
        row = rows[f"{batch.meta[0].key}.png"]
        expected = [float(row["primary_angle"]), float(row["secondary_angle"])]
        assert batch.inputs["view"][0].tolist() == pytest.approx(expected)


def test_true_angles_beat_shuffled_ones_by_far(conditioned):
    views = conditioned.views
    true = conditioned.dice(views)
    order = torch.randperm(len(views), generator=torch.Generator().manual_seed(0))
    shuffled = conditioned.dice(views[order])
    assert true >= 0.8
    assert true - shuffled >= 0.3


def test_angles_of_the_other_sign_segment_the_other_family(conditioned):
    flipped = -conditioned.views
    others = [_family(view) for view in flipped]
    assert conditioned.dice(flipped, others) >= 0.8
    assert conditioned.dice(flipped) <= 0.15


def test_a_model_without_the_view_stays_under_its_bound(viewless):
    # The bound is the mean over all families that a view might name, so each image meets them all;
    # it is exact for families of equal area, which here differ by pixels (0.001 in Dice).
    views = viewless.views
    every = [viewless.dice(views, [family] * len(views)) for family in range(FAMILIES)]
    assert 0.2 < np.mean(every) <= no_view_bound(FAMILIES) + 0.001


def test_the_angle_alone_changes_the_logits(conditioned):
    model, batch = conditioned.model, conditioned.batches[0]
    logits = []
    with evaluating(model), torch.no_grad():
        for view in ([20.0, 20.0], [21.0, 20.0], [-20.0, 20.0]):
            batch.inputs = {**batch.inputs, "view": torch.tensor([view])}
            logits.append(model(batch).head.logits)
    assert (logits[0] - logits[2]).abs().max() > 1.0
    assert 1e-4 < (logits[0] - logits[1]).abs().max() < (logits[0] - logits[2]).abs().max()


def test_gradients_reach_view_encoder_and_fusion(conditioned):
    model, batch = conditioned.model, conditioned.batches[0]
    model.zero_grad()
    model.eval()  # BatchNorm of the shared model keeps its statistics
    model(batch).head.logits.square().mean().backward()
    for part in (model.encoders["view"].frequencies, *model.fusions.parameters()):
        assert part.grad.norm() > 0
    model.zero_grad()


def test_evaluation_tells_every_image_and_its_angles(conditioned):
    found = conditioned.found
    assert found.metrics["mask-overlap.images"] == len(conditioned.batches)
    scores = {row["key"]: row["dice"] for row in found.rows}
    assert found.metrics["mask-overlap.dice"] == pytest.approx(np.mean(list(scores.values())))
    assert found.metrics["mask-overlap.dice"] == pytest.approx(conditioned.dice(conditioned.views))
    assert {"primary_angle_deg", "patient", "hd95_px"} <= set(found.rows[0])
