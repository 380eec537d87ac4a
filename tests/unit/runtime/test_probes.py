import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from reconciler.runtime.metrics import Listen
from reconciler.runtime.probes import Check, Probes


@contextmanager
def probes(**checks: Check) -> Iterator[str]:
    served = Probes(Listen(host="127.0.0.1", port=0), {f"/{name}": check for name, check in checks.items()})
    try:
        yield f"http://127.0.0.1:{served.port}"
    finally:
        served.close()


def get(url: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def test_a_check_without_findings_is_well() -> None:
    with probes(healthz=lambda: "") as url:
        assert get(f"{url}/healthz?verbose") == (200, "ok\n")


def test_what_is_found_is_told() -> None:
    with probes(healthz=lambda: "", readyz=lambda: "claims have not been listed yet") as url:
        assert get(f"{url}/readyz") == (503, "claims have not been listed yet\n")
        assert get(f"{url}/else") == (404, "not known here: try /healthz, /readyz\n")


def test_a_port_in_use_is_an_error() -> None:
    with probes(healthz=lambda: "") as url, pytest.raises(OSError, match="in use"):
        Probes(Listen(host="127.0.0.1", port=int(url.rsplit(":", 1)[1])), {})
