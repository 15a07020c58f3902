"""The data component `image-folder`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from mlkit_cluster.config import ImageFolderConfig
from mlkit_cluster.images.annotations import GroundTruth, ground_truth, match_names
from mlkit_cluster.images.coco_labels import CocoLabels
from mlkit_cluster.images.letterbox import letterbox
from mlkit_cluster.images.listing import SPLITS, list_images
from mlkit_cluster.images.pixels import as_tensor, content_hash, read_image
from mlkit_cluster.images.target import InstanceTarget
from mlkit_cluster.images.yolo_labels import YoloLabels
from mlkit_core.errors import BuildError, DataError
from mlkit_core.types import Batch, BoxTarget, Draw, Needs, RoleSpec, Sample, SampleMeta

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from mlkit_cluster.images.annotations import LabelSource
    from mlkit_cluster.images.listing import ImageEntry, Listing
    from mlkit_core.types import Role, Target


@dataclass(frozen=True)
class ImageSample(Sample):
    """One image; `truth` is None where nothing is known of it."""

    truth: GroundTruth | None = None


class ImageFolder:
    """Images on a centred, grey square, with the labels that are known; see `ImageFolderConfig`.

    The key of an image is its path from the source's root; `meta.extra` holds its content's hash
    (`sha`) and its `split`. Splits are those of a data set's YAML; of any other source all images
    are "train".
    """

    roles: Mapping[Role, RoleSpec] = {  # shared by all, never changed
        "image": RoleSpec(shape=(3, None, None), value_range=(0.0, 1.0), unit="RGB 0..1")
    }
    kinds: Mapping[str, tuple[type[Target], str]] = {"default": (BoxTarget, "head")}
    augments: frozenset[Role] = frozenset()

    def __init__(
        self,
        source: str | Path,
        labels: str = "auto",
        annotations: str | Path | None = None,
        label_folder: str = "labels",
        classes: Sequence[str] | None = None,
        image_size: int = 640,
    ) -> None:
        given = dict(locals())
        del given["self"]
        self.options = ImageFolderConfig.model_validate(given)
        if self.options.labels == "coco" and self.options.annotations is None:
            raise BuildError("labels: coco needs `annotations`, the JSON file")
        self._listing: Listing | None = None
        self._labels: LabelSource | None = None
        self._numbers: Mapping[int, int] | None = None
        self._need, self._bound = Needs(), False

    @property
    def classes(self) -> tuple[str, ...]:
        """Names by number: those asked for, else the labels' own, else the data set's."""
        if self.options.classes is not None:
            return self.options.classes
        source = self.label_source()
        return self.listing().names if source is None else source.names or self.listing().names

    def bind(self, needs: Mapping[Role, Needs]) -> None:
        """Take the padding and the legal sizes of `image`.

        Raises:
            BuildError: The encoders do not take inputs of this size.
        """
        need, size = needs.get("image", Needs()), self.options.image_size
        if size % need.size_multiple or (need.sizes is not None and size not in need.sizes):
            legal = need.sizes or f"multiples of {need.size_multiple}"
            raise BuildError(f"data.image_size: the encoders accept {legal}, got {size}")
        self._need, self._bound = need, True

    def listing(self) -> Listing:
        """Return all images in the order of their keys; the source is read at the first call.

        Raises:
            DataError: The source is missing or malformed.
        """
        if self._listing is None:
            self._listing = list_images(self.options.source)
        return self._listing

    def label_source(self) -> LabelSource | None:
        """Return where labels come from; None where there are none.

        Raises:
            DataError: Labels were asked for and there are none, or their classes do not match.
        """
        if self._labels is None and self.options.labels != "none":
            self._labels = self._open_labels()
            self._numbers = self._renumbering(self._labels)
        return self._labels

    def _open_labels(self) -> LabelSource | None:
        options = self.options
        if options.annotations is not None and options.labels in ("auto", "coco"):
            return CocoLabels(options.annotations, self.listing())
        found = YoloLabels(self.listing(), options.label_folder, options.classes or ())
        if found.labelled:
            return found
        if options.labels == "auto":
            return None
        first = found.file_of(self.listing().images[0].path)
        raise DataError(
            f"{options.source}: no label file of {len(self.listing().images)} images, "
            f"for example {first}",
            hint="`labels: none` takes images alone; `label_folder` names another folder",
        )

    def _renumbering(self, source: LabelSource | None) -> Mapping[int, int] | None:
        wanted = self.options.classes
        if source is None or wanted is None or not source.names:
            return None
        numbers = match_names(source.names, wanted)
        if numbers is None:
            unknown = [name for name in source.names if name not in wanted]
            raise DataError(
                f"{self.options.source}: the labels have classes that are none of the "
                f"{len(wanted)} wanted: {', '.join(unknown[:5])}",
                hint=f"wanted are {', '.join(wanted[:5])}, …",
            )
        return numbers

    def units(self, split: str, seed: int) -> list[list[Draw]]:
        """Return one unit for each image; "train" is shuffled, "cache" holds all in order.

        Raises:
            DataError: The source is wrong, or there is no such split.
        """
        if split not in (*SPLITS, "cache"):
            raise DataError(f"split: expected {', '.join(SPLITS)} or cache, got {split!r}")
        images = self.listing().images
        chosen = [i for i, one in enumerate(images) if split in ("cache", one.split or "train")]
        if split == "train":
            order = np.random.default_rng(seed).permutation(len(chosen))
            chosen = [chosen[index] for index in order]
        return [[Draw(index, seed=0)] for index in chosen]

    def load(self, draw: Draw) -> ImageSample:
        """Return one image with what is known of it; nothing is random.

        Raises:
            DataError: The image cannot be read, or its labels are malformed.
        """
        entry, source = self.listing().images[draw.index], self.label_source()
        sample = self._sample(entry)
        size, box = sample.meta.size, sample.meta.letterbox
        if source is None or size is None or box is None:
            return sample
        found = source.of(entry, size)
        if found is None:
            return sample
        truth = ground_truth(found, box, size, self.options.image_size)
        if self._numbers is not None:
            labels = np.array([self._numbers[int(label)] for label in truth.labels], np.int32)
            truth = replace(truth, labels=labels)
        return replace(sample, truth=truth)

    def _sample(self, entry: ImageEntry) -> ImageSample:
        pixels = read_image(entry.path)
        square, box = letterbox(pixels, self.options.image_size)
        sha = content_hash(entry.path)
        meta = SampleMeta(
            key=entry.key,
            size=(pixels.shape[0], pixels.shape[1]),
            letterbox=box,
            path=str(entry.path),
            extra={"sha": sha, "split": entry.split},
        )
        keys = {"image": f"{sha}-{self.options.image_size}-{entry.key}"} if self._need.keys else {}
        inputs = {} if self._need.skip else {"image": self._padded(as_tensor(square), meta)}
        return ImageSample(inputs, meta, keys=keys)

    def _padded(self, square: Tensor, meta: SampleMeta) -> Tensor:
        image = square.float().div_(255)
        if not self._bound or meta.letterbox is None:
            return image
        # A model that was bound says what padding means nothing to it.
        padded = torch.tensor(self._need.pad_rgb).view(3, 1, 1).expand_as(image).clone()
        content = (slice(None), *meta.letterbox.content)
        padded[content] = image[content]
        return padded

    def collate(self, units: Sequence[Sequence[ImageSample]]) -> list[Batch]:
        """Return one batch; its target is None where nothing is known of any image."""
        samples = [sample for unit in units for sample in unit]
        target = InstanceTarget.of([sample.truth for sample in samples])
        known = any(sample.truth is not None for sample in samples)
        return [replace(_stack(samples), target=target if known else None)]

    def open(self, inputs: Mapping[Role, Path]) -> Iterator[Batch]:
        """Yield one batch for each image of `inputs["image"]`, any source as in the options.

        Raises:
            DataError: The source is missing or malformed, or an image cannot be read.
        """
        for entry in list_images(Path(inputs["image"])).images:
            yield _stack([self._sample(entry)])


def _stack(samples: Sequence[ImageSample]) -> Batch:
    first = samples[0]
    return Batch(
        inputs={role: torch.stack([s.inputs[role] for s in samples]) for role in first.inputs},
        meta=tuple(sample.meta for sample in samples),
        keys={role: tuple(s.keys[role] for s in samples) for role in first.keys},
    )
