"""The report over HTTP on this machine alone, with pictures made when they are looked at."""

from __future__ import annotations

import logging
import re
from functools import lru_cache
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

import numpy as np

from mlkit_cluster.report.page import picture_table, render
from mlkit_cluster.report.payload import build_payload
from mlkit_cluster.report.pictures import BROKEN, CELL, shrunk, webp
from mlkit_cluster.report.tables import positions_of, read_run
from mlkit_core.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path

    from mlkit_cluster.report.source import RunData

HOST = "127.0.0.1"
LARGE = 640  # pixels of a larger picture's longer side
_PICTURE = re.compile(r"/(cell|large)/(\d{1,18})\.webp")
_KEPT = 4096  # pictures in memory
_log = logging.getLogger("mlkit.cluster")


class ReportServer(ThreadingHTTPServer):
    """Serves one run's page and its images, and no other file.

    Args:
        run_folder: The run's folder, or its `run.db`.
        port: On 127.0.0.1; 0 takes any that is free.
        title: Heading, else the name of the run's folder.

    Raises:
        InputError: There is no run, or the port is taken.
    """

    daemon_threads = True

    def __init__(self, run_folder: Path, port: int = 0, *, title: str | None = None) -> None:
        run = read_run(run_folder)
        table = picture_table([], {}, cells_from="cell/{id}.webp", large_from="large/{id}.webp")
        heading = title or run.folder.resolve().name
        self.page = render(heading, build_payload(run).data, table, images="'self'").encode()
        self.picture = lru_cache(_KEPT)(lambda kind, img_id: _picture(run, kind, img_id))
        try:
            super().__init__((HOST, port), _Handler)
        except OSError as err:
            hint = "give another port, or 0 for any that is free"
            raise InputError(f"port {port}: {err.strerror}", hint=hint) from err

    @property
    def url(self) -> str:
        """Where a browser on this machine finds it."""
        return f"http://{HOST}:{self.server_port}/"


def serve_report(run_folder: Path, port: int = 8765, *, title: str | None = None) -> None:
    """Serve a run's report on 127.0.0.1 until interrupted.

    Raises:
        InputError: There is no run, or the port is taken.
    """
    with ReportServer(run_folder, port, title=title) as server:
        _log.warning("the report is at %s, until Ctrl-C", server.url)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            _log.info("stopped")


def _picture(run: RunData, kind: str, img_id: int) -> bytes | None:
    """Return a registered image as WebP; None where there is none or it cannot be read."""
    position = int(positions_of(run.img_ids, np.array([img_id]))[0])
    if position < 0:
        return None
    side = CELL if kind == "cell" else LARGE
    size = (int(run.sizes[position, 0]), int(run.sizes[position, 1]))
    try:
        return webp(shrunk(run.file(position), size, (side,))[0], 80)
    except BROKEN as err:
        _log.warning("%s: no picture in the report: %s", run.file(position), err)
        return None


class _Handler(BaseHTTPRequestHandler):
    server: ReportServer  # pyright: ignore[reportIncompatibleVariableOverride]  # its only user
    server_version, sys_version = "mlkit", ""

    def do_GET(self) -> None:  # the name that http.server calls
        """Answer with the page or a picture."""
        # Another site's page may point a name of its own at this machine: it sends that name.
        host = self.headers.get("Host", "").rpartition(":")[0]
        if host not in (HOST, "localhost"):
            self.send_error(HTTPStatus.FORBIDDEN)
            return
        path = self.path.partition("?")[0]
        if path == "/favicon.ico":  # browsers ask for one unasked; the page has none
            self.send_response(HTTPStatus.NO_CONTENT)
            self.end_headers()
            return
        match = _PICTURE.fullmatch(path)
        body = self.server.page if path == "/" else None
        if match:
            body = self.server.picture(match[1], int(match[2]))
        if body is None:
            self.send_error(HTTPStatus.NOT_FOUND)
            return
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", "image/webp" if match else "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Cache-Control", "max-age=3600" if match else "no-store")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # http.server's name
        """Log at level debug: standard error is not ours."""
        _log.debug(format, *args)
