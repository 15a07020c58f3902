"""The report over HTTP: this machine alone, registered images alone."""

import http.client
import io
import threading

import pytest
from PIL import Image

from mlkit_cluster.report.server import ReportServer
from mlkit_core.errors import InputError


@pytest.fixture(scope="module")
def server(shared_run):
    with ReportServer(shared_run.folder) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def get(server, path: str, host: str | None = None) -> tuple[int, str | None, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=10)
    headers = {} if host is None else {"Host": host}
    connection.putrequest("GET", path, skip_host=host is not None)
    for name, value in headers.items():
        connection.putheader(name, value)
    connection.endheaders()
    answer = connection.getresponse()
    found = answer.status, answer.getheader("Content-Type"), answer.read()
    connection.close()
    return found


def test_page_and_pictures_are_served(server):
    status, kind, body = get(server, "/")
    assert (status, kind) == (200, "text/html; charset=utf-8")
    assert b"img-src &#x27;self&#x27;;" in body
    assert b"data:image" not in body
    for path, side in (("/cell/5.webp", 64), ("/large/5.webp", 320)):
        status, kind, body = get(server, path)
        assert (status, kind) == (200, "image/webp")
        assert max(Image.open(io.BytesIO(body)).size) == side


@pytest.mark.parametrize(
    "path",
    [
        "/run.db",
        "/../run.db",
        "/cell/../../run.db",
        "/cell/%2e%2e/run.db",
        "//etc/passwd",
        "/cell/6.webp",  # no such image
        "/cell/1000000.webp",  # an image that could not be read
        "/cell/5.webp/x",
        "/cell/99999999999999999999.webp",
    ],
)
def test_nothing_else_is_served(server, path):
    assert get(server, path)[0] == 404


def test_a_browsers_question_for_an_icon_is_no_error(server):
    status, _, body = get(server, "/favicon.ico")
    assert (status, body) == (204, b"")


def test_names_of_other_sites_are_refused(server):
    assert get(server, "/", host=f"evil.example:{server.server_port}")[0] == 403
    assert get(server, "/", host=f"localhost:{server.server_port}")[0] == 200


def test_server_listens_on_this_machine_alone(server):
    assert server.server_address[0] == "127.0.0.1"


def test_taken_port_is_a_clear_error(server, shared_run):
    with pytest.raises(InputError, match=f"port {server.server_port}"):
        ReportServer(shared_run.folder, server.server_port)
