"""Pages of other origins: refused by default, and let in by name."""

from pathlib import Path

import pytest

from serve.settings import Settings
from tests.serve.dialects.test_native import Client, serving

PAGE = "https://page.example"


def preflight(client: Client, origin: str) -> dict[str, str]:
    headers = {
        "origin": origin,
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization,content-type",
    }
    return dict(client.request("OPTIONS", "/v1/samples", headers=headers).headers)


def test_by_default_no_page_of_another_origin_may_ask(store: Path, metrics_dir: Path) -> None:
    with serving(Settings(metrics_dir=str(metrics_dir)), f"{store}/tiny@1") as client:
        assert "access-control-allow-origin" not in preflight(client, PAGE)
        answer = client.request(
            "POST", "/v1/samples", json={"model": "tiny"}, headers={"origin": PAGE}
        )
        assert "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize("allowed", [PAGE, "*"])
def test_named_origins_may_ask_and_read_what_the_headers_say(
    allowed: str, store: Path, metrics_dir: Path
) -> None:
    settings = Settings(metrics_dir=str(metrics_dir), cors=(allowed,))
    with serving(settings, f"{store}/tiny@1") as client:
        found = preflight(client, PAGE)
        assert found["access-control-allow-origin"] == allowed
        assert "authorization" in found["access-control-allow-headers"].lower()
        answer = client.request(
            "POST",
            "/v1/samples",
            json={"model": "tiny", "seed": 7, "format": "npy"},
            headers={"origin": PAGE},
        )
        assert answer.headers["access-control-allow-origin"] == allowed
        assert "x-aigc-seed" in answer.headers["access-control-expose-headers"]
        assert answer.headers["x-aigc-seed"] == "7"
        if allowed != "*":
            other = preflight(client, "https://other.example")
            assert "access-control-allow-origin" not in other
