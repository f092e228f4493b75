"""The count of a public catalogue: what it takes for expressed, and what not."""

from __future__ import annotations

from pathlib import Path

from tests.support.catalogue import obstacles


def test_what_is_counted(tmp_path: Path) -> None:
    """Entries of OAuth 2 are counted, aliases resolved; a field that no declaration has a word for stands out."""
    path = tmp_path / "providers.yaml"
    path.write_text(
        """
        plain: {auth_mode: OAUTH2, token_url: 'https://a.example/token', body_format: json, scope_separator: '+'}
        alias: {alias: plain}
        shopline-oauth: {auth_mode: OAUTH2, token_url: 'https://b.example/token'}
        xml: {auth_mode: OAUTH2, token_url: 'https://c.example/token', body_format: xml}
        nowhere: {auth_mode: OAUTH2}
        key: {auth_mode: API_KEY}
        """,
        encoding="utf-8",
    )
    total, found = obstacles(path)
    assert total == 5
    assert set(found) == {"shopline-oauth", "xml", "nowhere"}
    assert found["xml"] == "body_format is 'xml'"
