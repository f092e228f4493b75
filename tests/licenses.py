"""`python -m tests.licenses`: write docs/licenses.md, the licences of what the lock file installs."""

from __future__ import annotations

import re
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs/licenses.md"
LOCK = ROOT / "requirements.lock"
HEAD = """# Licences

What `requirements.lock` installs beside this program (Apache-2.0), with the licence that each package names. `python -m tests.licenses` writes this page, and a test holds it to the lock file. None of them is under the GPL or AGPL; the LGPL of psycopg allows its use as a library, unchanged.

| package | licence |
|---|---|
"""


def locked() -> list[str]:
    """Return the names of the locked packages, in order."""
    return sorted(re.findall(r"^([A-Za-z0-9._-]+)==", LOCK.read_text(encoding="utf-8"), re.MULTILINE))


def license_of(name: str) -> str | None:
    """Return the licence a package names; None where it names none here."""
    try:
        found = metadata(name)
    except PackageNotFoundError:
        return None
    classified = [
        each.rpartition(" :: ")[2]
        for each in found.get_all("Classifier") or []
        if each.startswith("License :: ")
    ]
    expression, named = (" ".join(found.get_all(field) or []) for field in ("License-Expression", "License"))
    short = named.strip() if len(named) < 60 and "\n" not in named else ""
    return expression or " / ".join(classified) or short or None


def listed() -> dict[str, str]:
    """Return the page's licences by package."""
    return dict(re.findall(r"^\| `([^`]+)` \| (.+) \|$", PAGE.read_text(encoding="utf-8"), re.MULTILINE))


def main() -> None:
    """Write the page; a package of another platform keeps its line."""
    before = listed() if PAGE.exists() else {}
    lines = [f"| `{name}` | {license_of(name) or before.get(name, 'see its files')} |" for name in locked()]
    PAGE.write_text(HEAD + "\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
