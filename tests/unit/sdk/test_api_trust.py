"""Whom the HTTP client of a device trusts."""

import asyncio
import ssl
from pathlib import Path

import httpx2
import pytest

from angarium.errors import AngariumError, Misconfigured
from angarium.sdk.api import HttpApi, trusted_by


async def no_token(fresh: bool) -> str:
    return "token"


def test_an_https_url_is_checked_against_the_usual_authorities(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    assert trusted_by("https://chat.example") is True


def test_a_file_of_authorities_without_any_is_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "empty.pem").write_text("")
    for name in ("empty.pem", "absent.pem"):
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / name))
        with pytest.raises(Misconfigured, match=name):
            trusted_by("https://chat.example")


@pytest.mark.parametrize("url", ["http://127.0.0.1:8400", "HTTP://relay"])
def test_a_plain_url_loads_no_authority_and_would_trust_none(url: str) -> None:
    context = trusted_by(url)
    assert isinstance(context, ssl.SSLContext)
    assert context.get_ca_certs() == []
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname


def test_a_redirect_is_not_followed() -> None:
    asked: list[str] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        asked.append(str(request.url))
        return httpx2.Response(307, headers={"location": "https://elsewhere.example/"})

    async def scenario() -> None:
        transport = httpx2.MockTransport(answer)
        api = HttpApi("http://relay", no_token, transport=transport)
        try:
            with pytest.raises(AngariumError):
                await api.conversations()
        finally:
            await api.close()

    asyncio.run(scenario())
    assert len(set(asked)) == 1
    assert asked[0].startswith("http://relay/")
