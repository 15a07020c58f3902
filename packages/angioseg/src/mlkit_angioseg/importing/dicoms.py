"""A folder of XA DICOM files, with mask pictures beside them or without."""

from __future__ import annotations

import hashlib
import hmac
import re
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlkit_angioseg.cines.choosing import proposed_frame
from mlkit_angioseg.cines.reading import open_cine
from mlkit_angioseg.dicom.header import is_dicom, read_dataset, read_header
from mlkit_angioseg.frames.headers import Headers
from mlkit_angioseg.importing.found import Found, FoundFrame, Wish
from mlkit_angioseg.importing.pictures import PICTURES
from mlkit_core.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mlkit_angioseg.dicom.header import CineHeader
    from mlkit_angioseg.frames.rows import Problems

_SUFFIX = re.compile(r"\.(dcm|dicom|ima)$", re.IGNORECASE)
_NUMBER = re.compile(r"^(?P<stem>.*?)[_-](?:frame)?[_-]?(?P<frame>\d+)$", re.IGNORECASE)
_CODE_LENGTH, _SHORTEST_WORD = 12, 3


@dataclass(frozen=True, kw_only=True)
class DicomFile:
    """A cine and what groups it. `group` holds a patient's id and is never written."""

    path: Path
    stem: str
    header: CineHeader
    group: tuple[str, ...]
    is_grouped: bool
    is_burned_in: bool


def find_dicoms(source: Path, wish: Wish, problems: Problems) -> Found:
    """Return the frames of all XA files under a folder; notes every file that cannot be used."""
    files = _read_all(source, problems)
    masks = _match_masks(files, source, wish, problems)
    patients = _patients(files, wish.secret)
    found = Found()
    mode = wish.frames if wish.frames != "auto" else ("labelled" if masks else "all")
    for file in files:
        own = {index: path for (name, index), path in masks.items() if name == file.stem}
        chosen = _chosen(file, mode, own, problems)
        if not chosen:
            found.leave_out("cines without a mask")
        found.frames += [
            _frame(file, index, own.get(index), patients[file.group]) for index in chosen
        ]
    _tell(files, found)
    return found


def patient_words(path: Path) -> set[str]:
    """Return the words of an XA file's patient name and id, lower case, of 3 or more characters.

    Raises:
        DataError: The file is no XA cine.
    """
    dataset = read_dataset(path, pixels=False)
    text = " ".join(str(dataset.get(k, "") or "") for k in ("PatientName", "PatientID"))
    return {w for w in re.split(r"[\W_]+", text.casefold()) if len(w) >= _SHORTEST_WORD}


def refuse_named_paths(paths: Sequence[Path], hint: str) -> None:
    """Raise DataError if the path of an XA file holds a word of its patient's name or id.

    A table that points to such a file would carry the patient on.
    """
    named = []
    for path in dict.fromkeys(paths):
        words = set(re.split(r"[\W_]+", str(path.resolve()).casefold()))
        if is_dicom(path) and words & patient_words(path):
            named.append(f"{path}: its path holds the patient's name or id")
    if named:
        raise DataError("\n".join(named), hint=hint)


def _read_all(source: Path, problems: Problems) -> list[DicomFile]:
    paths = [source] if source.is_file() else sorted(p for p in source.rglob("*") if p.is_file())
    root = source.parent if source.is_file() else source
    files: list[DicomFile] = []
    seen: dict[str, Path] = {}
    for path in paths:
        if path.name.upper() == "DICOMDIR" or not is_dicom(path):
            continue
        try:
            file = _read(path, root)
        except DataError as err:
            hint = err.hint or "--skip-wrong leaves such files out"
            problems.add(str(path), str(err).removeprefix(f"{path}: "), hint)
            continue
        other = seen.setdefault(file.header.uid_hash, path)
        if other != path:
            problems.add(str(path), f"is the same instance as {other}", "keep one of the two")
            continue
        files.append(file)
    return files


def _read(path: Path, root: Path) -> DicomFile:
    dataset, header = read_dataset(path, pixels=False), read_header(path)
    patient = str(dataset.get("PatientID", "") or "").strip()
    issuer = str(dataset.get("IssuerOfPatientID", "") or "").strip()
    study = str(dataset.get("StudyInstanceUID", "") or "").strip()
    group = ("patient", issuer, patient) if patient else ("study", study or header.uid_hash)
    return DicomFile(
        path=path,
        stem=_SUFFIX.sub("", path.relative_to(root).as_posix()),
        header=header,
        group=group,
        is_grouped=bool(patient),
        is_burned_in=_says_yes(dataset, "BurnedInAnnotation"),
    )


def _says_yes(dataset: Any, keyword: str) -> bool:  # noqa: ANN401  # pydicom's dataset
    return str(dataset.get(keyword, "") or "").upper() == "YES"


def _patients(files: Sequence[DicomFile], secret: bytes | None) -> dict[tuple[str, ...], str]:
    """Return a code for each group.

    A plain hash of an id is no secret: all ids of a hospital can be tried. Without a key a patient
    is named after the least hash of its own cines' instance UIDs, which says nothing of the id.
    """
    hashes: defaultdict[tuple[str, ...], list[str]] = defaultdict(list)
    for file in files:
        hashes[file.group].append(file.header.uid_hash)
    if secret is None:
        return {group: f"P{min(own)[:_CODE_LENGTH]}" for group, own in hashes.items()}
    return {
        group: "P" + hmac.new(secret, "\0".join(group).encode(), hashlib.sha256).hexdigest()[:12]
        for group in hashes
    }


def _match_masks(
    files: Sequence[DicomFile], source: Path, wish: Wish, problems: Problems
) -> dict[tuple[str, int], Path]:
    """Return (stem of a cine, frame) to its mask; notes masks of no cine and double ones."""
    folder = wish.masks or (source / "masks" if (source / "masks").is_dir() else None)
    if folder is None:
        return {}
    by_name: defaultdict[str, list[DicomFile]] = defaultdict(list)
    for file in files:
        for name in {file.stem, Path(file.stem).name}:
            by_name[name].append(file)
    matched: dict[tuple[str, int], Path] = {}
    headers = Headers()
    for path in sorted(p for p in folder.rglob("*") if p.suffix.lower() in PICTURES):
        with problems.at(str(path)):
            name = path.relative_to(folder).with_suffix("").as_posix()
            file, index = _cine_of(name, by_name, wish.first_frame)
            header = headers.mask(path)
            if (header.height, header.width) != file.header.size:
                height, width = file.header.size
                raise ValueError(
                    f"is {header.width}x{header.height}, its cine's frames are {width}x{height}"
                )
            if (file.stem, index) in matched:
                raise ValueError(f"frame {index} has another mask: {matched[file.stem, index]}")
            matched[file.stem, index] = path
    return matched


def _cine_of(
    name: str, by_name: Mapping[str, Sequence[DicomFile]], first: int
) -> tuple[DicomFile, int]:
    """Return the cine and the frame, from 0, that a mask's name without suffix means.

    Raises:
        ValueError: None, several, or a frame that the cine does not have.
    """
    number = _NUMBER.match(name)
    candidates = by_name.get(number["stem"], ()) if number else ()
    index = int(number["frame"]) - first if number else 0
    if not candidates:
        # A file's own name may end in a number; such a mask must be of a single frame.
        candidates, index = by_name.get(name, ()), 0
        candidates = [file for file in candidates if file.header.frames == 1]
    if not candidates:
        raise ValueError("belongs to no cine: expected a file's name, then _ and the frame")
    if len(candidates) > 1:
        places = ", ".join(file.stem for file in candidates)
        raise ValueError(f"may belong to {places}: put masks into folders of the cines' names")
    (file,) = candidates
    if not 0 <= index < file.header.frames:
        last = file.header.frames - 1 + first
        raise ValueError(f"frame {index + first} of {file.path.name}: it has {first} to {last}")
    return file, index


def _chosen(file: DicomFile, mode: str, masks: Mapping[int, Path], problems: Problems) -> list[int]:
    if mode == "labelled":
        return sorted(masks)
    if mode == "all":
        return list(range(file.header.frames))
    try:
        return [proposed_frame(open_cine(file.path))]
    except DataError as err:
        problems.add(str(file.path), str(err).removeprefix(f"{file.path}: "))
        return [0]


def _frame(file: DicomFile, index: int, mask: Path | None, patient: str) -> FoundFrame:
    header = file.header
    return FoundFrame(
        where=f"{file.path}: frame {index}",
        name=f"{header.uid_hash}-{index:05d}",
        image=file.path,
        frame=index,
        size=header.size,
        mask=mask,
        patient=patient,
        cine=header.uid_hash,
        angles=header.angles[index] if header.angles is not None else None,
        spacing_mm=header.spacing_mm,
        spacing_at=header.spacing_at,
        frame_ms=header.frame_ms,
        collimator=header.collimator,
    )


def _tell(files: Sequence[DicomFile], found: Found) -> None:
    ungrouped = sum(not file.is_grouped for file in files)
    if ungrouped:
        found.notes.append(
            f"{ungrouped} cines have no patient id: they are grouped by study, and two studies may "
            "be of one patient"
        )
    burned = sum(file.is_burned_in for file in files)
    if burned:
        found.notes.append(
            f"{burned} cines say that text is burned into their pixels: look at them before you "
            "share the pictures"
        )
    unknown = sum(file.header.angles is None for file in files)
    if unknown:
        found.notes.append(f"{unknown} cines have no angles")
