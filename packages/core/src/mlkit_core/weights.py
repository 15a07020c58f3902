"""Weights from files and hubs, with their provenance; never a silent random start."""

from __future__ import annotations

import hashlib
import logging
import pickle
import socket
import struct
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import urlsplit
from urllib.request import getproxies

import torch

from mlkit_core.errors import WeightsError

if TYPE_CHECKING:
    from torch import Tensor, nn

RANDOM = "random weights"
# What the unpickler raises on bytes that are no pickle, or one that needs code to be run.
_UNREADABLE = (
    pickle.UnpicklingError, EOFError, RuntimeError, zipfile.BadZipFile, LookupError, ValueError,
    TypeError, AttributeError, struct.error,
)  # fmt: skip
_log = logging.getLogger("mlkit")


def file_sha256(path: Path) -> str:
    """Return the sha256 of a file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a `.safetensors` file or of a `torch.save` file.

    A mapping under "state_dict" or "model" is unwrapped. Pickles load with `weights_only=True`.

    Raises:
        WeightsError: The file is missing, corrupt, or needs code to be run.
    """
    if not path.is_file():
        raise WeightsError(f"{path}: no such weights file")
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(path)
        except (SafetensorError, OSError) as err:
            raise WeightsError(f"{path}: not a readable safetensors file: {err}") from err
    return _unwrap(path, read_pickle(path))


def read_pickle(path: Path) -> Any:  # noqa: ANN401  # whatever plain values the file holds
    """Return the plain values and tensors of a `torch.save` file, by `weights_only=True`."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except _UNREADABLE as err:
        first = str(err).strip().splitlines()[0] if str(err).strip() else type(err).__name__
        raise WeightsError(
            f"{path}: cannot be loaded as plain tensors: {first}",
            hint="files that need code to be run are refused; save a state_dict instead",
        ) from err


def _unwrap(path: Path, value: object) -> dict[str, Tensor]:
    for key in ("state_dict", "model"):
        if isinstance(value, dict) and isinstance(value.get(key), dict):
            value = value[key]
    if not isinstance(value, dict) or not all(torch.is_tensor(t) for t in value.values()):
        raise WeightsError(f"{path}: expected a state dict of tensors, got {type(value).__name__}")
    return cast("dict[str, Tensor]", value)


def hub_file(repo: str, filename: str) -> Path:
    """Return a file of a hub repository: the local cache first, else a download.

    Raises:
        WeightsError: It is not cached and the hub cannot be reached (within two seconds), or it is
            gated or absent.
    """
    from huggingface_hub import constants, hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(hf_hub_download(repo, filename, local_files_only=True))
    except LocalEntryNotFoundError:
        pass
    advice = (
        f"fetch {filename} of {repo} on a machine that is online, then say `weights: PATH`, "
        f"or put it into the hub cache {constants.HF_HUB_CACHE}"
    )
    host = urlsplit(constants.ENDPOINT)
    try:
        if not getproxies():  # behind a proxy only a real request can tell
            socket.create_connection((host.hostname or "", host.port or 443), timeout=1.5).close()
    except OSError as err:
        raise WeightsError(f"hf:{repo}/{filename}: hub not reachable: {err}", hint=advice) from err
    _log.info("downloading %s of %s", filename, repo)
    try:
        return Path(hf_hub_download(repo, filename, etag_timeout=2))
    except (HfHubHTTPError, OSError) as err:
        raise WeightsError(f"hf:{repo}/{filename}: {err}", hint=advice) from err


def load_pretrained(where: str, encoder: nn.Module, weights: str | None) -> str:
    """Load an encoder's pretrained weights and return their provenance, for the record.

    Args:
        where: The part, for errors.
        encoder: May define `pretrained_file() -> Path` (what `auto` means) and
            `load_pretrained(state_dict)`; otherwise the state dict must fit strictly. It may define
            `read_weights(path) -> state_dict` for files that `read_state_dict` refuses.
        weights: "auto", "none", a path, "hf:owner/repo/file", or None: "auto" where the encoder has
            published weights, else "none".

    Returns:
        "sha256:… (name)" or "random weights".

    Raises:
        WeightsError: The weights are not to be had or do not fit.
    """
    has_auto = callable(getattr(encoder, "pretrained_file", None))
    choice = weights if weights is not None else ("auto" if has_auto else "none")
    if choice == "none":
        return RANDOM
    if choice == "auto" and not has_auto:
        raise WeightsError(f"{where}.weights: this encoder has no published weights, got 'auto'")
    try:
        path = _locate(choice, encoder)
        read = getattr(encoder, "read_weights", None)
        state = read(path) if callable(read) else read_state_dict(path)
        load = getattr(encoder, "load_pretrained", None)
        if callable(load):
            load(state)
        else:
            encoder.load_state_dict(state)
    except WeightsError as err:
        hint = err.hint or "`weights: none` starts from random weights, and says so in every report"
        raise WeightsError(f"{where}.weights: {err}", hint=hint) from err
    except RuntimeError as err:
        said = " ".join(str(err).split())  # torch writes a line for each key
        raise WeightsError(f"{where}.weights: {choice}: {said}") from err
    return f"sha256:{file_sha256(path)} ({path.name})"


def _locate(choice: str, encoder: nn.Module) -> Path:
    if choice == "auto":
        return Path(encoder.pretrained_file())  # pyright: ignore[reportCallIssue]  # checked by has_auto
    if choice.startswith("hf:"):
        owner, _, rest = choice[3:].partition("/")
        repo, _, filename = rest.partition("/")
        if not filename:
            raise WeightsError(f"expected hf:owner/repo/file, got {choice!r}")
        return hub_file(f"{owner}/{repo}", filename)
    return Path(choice).expanduser()
