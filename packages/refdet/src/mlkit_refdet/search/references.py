"""What is looked for: photos, or a file that stands for them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from mlkit_refdet.episodes.images import read_rgb
from mlkit_refdet.episodes.opening import REFSET, reference_folders
from mlkit_refdet.references.enrolling import check_saved, enroll
from mlkit_refdet.references.reference_set import fingerprint, load_reference_set
from mlkit_refdet.search.finding import find
from mlkit_refdet.search.searching import Searcher
from mlkit_refdet.search.sources import stamp_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from mlkit_refdet.episodes.images import Pixels
    from mlkit_refdet.episodes.index import Photo
    from mlkit_refdet.references.enrolling import Finder
    from mlkit_refdet.references.reference_set import ReferenceSet
    from mlkit_refdet.search.finding import Request, Told

_SHOWN = 4  # photos of an object that pictures show


@dataclass(frozen=True)
class Wanted:
    """What is looked for.

    Args:
        references: As the model's encoder sees it.
        stamp: Changes where a photo or the file does.
        photos: Name to the first photos; none of a file.
    """

    references: ReferenceSet
    stamp: str
    photos: Mapping[str, Sequence[Pixels]] = field(default_factory=dict)

    def about(self, finder: Finder) -> dict[str, str]:
        """Return what a journal must agree with: the references, and every weight of the model."""
        return {"references": self.stamp, "model": fingerprint(finder.model)[:16]}


def check_references(path: Path) -> None:
    """Refuse what is no set of references, before anything slow begins.

    Raises:
        InputError: There is no such file or folder, or it holds no photos.
    """
    if path.suffix == REFSET:
        load_reference_set(path)
    else:
        reference_folders(path)


def wanted(finder: Finder, path: Path) -> Wanted:
    """Return what photos or a `.refset` file show.

    Args:
        finder: Its encoder sees the photos.
        path: A folder of photos, a folder of such folders, or a file of `mlkit refdet enroll`.

    Raises:
        InputError: It is neither, or the file was made by another encoder, or the model needs more
            than a file holds.
    """
    if path.suffix == REFSET:
        check_saved(finder, str(path))
        known = load_reference_set(path)
        known.check(finder.model.encoders[finder.role], str(path))
        return Wanted(known, hashlib.sha256(path.read_bytes()).hexdigest()[:16])
    folders = reference_folders(path)
    files = [file for photos in folders.values() for photo in photos for file in _files(photo)]
    shown = {
        name: [read_rgb(photo.path) for photo in photos[:_SHOWN]]
        for name, photos in folders.items()
    }
    return Wanted(enroll(finder, path), stamp_of(files), shown)


def find_references(finder: Finder, path: Path, request: Request, told: Told) -> dict[str, Any]:
    """Search what a request says for the objects of photos or of a `.refset` file.

    Raises:
        InputError: As `wanted` and `find` say.
    """
    known = wanted(finder, path)
    full = replace(
        request, names=known.references.names, about=known.about(finder), photos=known.photos
    )
    return find(full, Searcher(finder, known.references, request.options), told)


def _files(photo: Photo) -> list[Path]:
    """Return the files that a photo's pixels and foreground come from."""
    own = [photo.path, photo.mask, photo.path.parent / "boxes.json"]
    return [path for path in own if path is not None and path.is_file()]
