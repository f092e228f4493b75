"""What [api] takes: the keys of its access tokens come from the issuer, and browsers from the origins."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from worker.settings.api import ApiSettings


def test_without_settings_it_listens_to_this_machine_alone() -> None:
    """No network reaches an API that nobody has configured, and no web page either."""
    settings = ApiSettings()
    assert (settings.host, settings.origins, settings.issuer) == ("127.0.0.1", (), None)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("issuer", "https://acme.eu.auth0.com/"),
        ("issuer", "http://127.0.0.1:8080/"),
        ("public_url", "https://vault.example/path"),
        ("origins", "https://app.example"),
    ],
)
def test_an_address_is_kept_as_it_is_written(name: str, value: str) -> None:
    """`iss`, `htu` and `Origin` are compared letter by letter."""
    given = (value,) if name == "origins" else value
    assert getattr(ApiSettings.model_validate({name: given}), name) == given


@pytest.mark.parametrize("name", ["issuer", "public_url", "origins"])
@pytest.mark.parametrize("scheme", ["http", "ftp", ""])
def test_no_address_is_without_tls(name: str, scheme: str) -> None:
    """Whoever is on the way to the issuer would give keys of its own."""
    url = f"{scheme}://vault.example" + ("/" if name == "issuer" else "")
    with pytest.raises(ValidationError, match="https://"):
        ApiSettings.model_validate({name: (url,) if name == "origins" else url})


@pytest.mark.parametrize(
    ("name", "url", "words"),
    [
        ("issuer", "https://acme.eu.auth0.com", "ends with a slash"),
        ("issuer", "https://acme.eu.auth0.com/?a=/", "without query"),
        ("public_url", "https://vault.example/", "ends without a slash"),
        ("origins", "https://app.example/", "scheme, host and port alone"),
        ("origins", "https://app.example#a", "without query"),
        ("origins", "*", "https://"),
    ],
)
def test_what_would_match_nothing_is_refused(name: str, url: str, words: str) -> None:
    """A token, a proof or a browser would be refused at each call, for a letter in the settings."""
    with pytest.raises(ValidationError, match=words):
        ApiSettings.model_validate({name: (url,) if name == "origins" else url})
