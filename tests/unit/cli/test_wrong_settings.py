"""Mistakes in the environment and in the TOML file, generated from what may stand there."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest

from tests.support.bare_environment import set_home_alone
from token_vault.secret import Secret
from worker.cli import main
from worker.settings import SECRET_NAMES, load
from worker.settings.annotations import annotation_at, is_section, is_table, types
from worker.settings.environment import Environment
from worker.settings.file import File
from worker.settings.problems import SettingsError

CANARY = "canary-s3cr3t-of-32-characters-or-more"
SECRET = "s" * 40
# The least that each table needs; secrets point to a variable that is set.
TABLES: Mapping[tuple[str, ...], Mapping[str, Any]] = {
    ("tenants", "eu"): {"domain": "acme.eu.auth0.com", "client_id": "m2m", "client_secret_env": "A_SECRET"},
    ("tenants", "eu", "limits", "all"): {"burst": 1, "per_second": 1},
    ("providers", "acme"): {},
    ("connections", "corp"): {},
    ("schedule",): {},
    ("deletion",): {},
    ("webhooks", "crm"): {"url": "https://crm.example/hook", "secret_env": "A_WEBHOOK_SECRET"},
    ("events",): {},
    ("consumers", "calendar"): {"role": "app", "connections": ["*"]},
    ("audit",): {},
    ("proxy", "corp"): {"base_url": "https://api.example", "allow": ["GET /a"], "tenant": "eu"},
    ("reconnect",): {"client_id": "web", "redirect_uri": "https://a.example/", "secret_env": "A_SECRET"},
    ("api",): {},
    ("hooks", "auth0", "eu"): {"secret_env": "A_SECRET"},
    ("hooks", "events", "google"): {"issuer": "https://g.example", "audience": "a", "connections": "b"},
}  # fmt: skip
REMEDY = re.compile(
    r"has to|have to|did you mean|there are|give |set |should (have|match|be)|rename|keep one|is a list of|name one|add |percent-encode|is written|needs|://[a-z:[]"
)


@dataclass(frozen=True)
class Mistake:
    """One of an operator's, and what its message has to have."""

    named: str
    shown: str = ""
    variables: Mapping[str, str] = field(default_factory=dict)
    table: tuple[str, ...] = ()
    key: str = ""
    value: str = ""

    def __str__(self) -> str:
        return f"{self.named}={self.value or [*self.variables.values()]}"


def wrong_values(annotation: object) -> Iterator[object]:
    """Values of no type, or no range, that the setting may have."""
    found = list(types(annotation))
    if Secret in found:
        yield from ([42, CANARY], 4242)
    elif float in found:
        yield from ("5 min", float("nan"), -1.5)
    elif bool in found:
        yield "maybe"
    elif int in found:
        yield from ("many", -7)
    elif any(get_origin(each) is Literal for each in found):
        yield next(str(get_args(each)[0]) for each in found if get_origin(each) is Literal)[:-1] + "qq"
    elif any(get_origin(each) is tuple for each in found):
        yield 7
    elif any(map(is_table, found)) or any(map(is_section, found)):
        yield CANARY
    else:
        yield 42


def in_file() -> Iterator[Mistake]:
    """For each key of each table a value of each wrong kind; for each table a key misspelt."""
    for table in TABLES:
        section = next(each for each in types(annotation_at(File, table)) if is_section(each))
        for key in section.model_fields:
            annotation = annotation_at(File, (*table, key))
            if any(is_section(each) for each in types(annotation)) or (*table, key) in {
                each[: len(table) + 1] for each in TABLES
            }:
                continue
            for value in wrong_values(annotation):
                written = json.dumps(value).replace("NaN", "nan")
                is_shown = (
                    isinstance(value, str | int | float)
                    and value != CANARY
                    and Secret not in types(annotation)
                )
                shown = f"(given: {json.dumps(value)})" if is_shown else ""
                yield Mistake(f"[{'.'.join((*table, key))}]", shown, {}, table, key, written)
        longest = max(section.model_fields, key=len)
        yield Mistake(
            f"[{'.'.join(table)}.{longest[:-1]}] there is no such setting: did you mean {longest[:5]}",
            "", {}, table, longest[:-1], json.dumps(CANARY),
        )  # fmt: skip


def in_environment() -> Iterator[Mistake]:
    """For each variable its misspelling, and what it cannot be."""
    for name in SECRET_NAMES:
        yield Mistake(f"{name}_FILE", variables={f"{name}_FILE": f"/nowhere/{CANARY}"})
        yield Mistake(f"both {name} and {name}_FILE", variables={name: CANARY, f"{name}_FILE": "/dev/null"})
    for name in map(str.upper, Environment.model_fields):
        if name.startswith(("AUTH0_", "VAULT_", "TOKEN_VAULT_")):
            misspelt = name[:-3] + name[-2] + name[-3] + name[-1]
            if misspelt != name and name not in ("TOKEN_VAULT_HOME", "TOKEN_VAULT_CONFIG"):
                yield Mistake(f"{misspelt} is set, and {name} is not", variables={misspelt: CANARY})
        if name not in SECRET_NAMES:
            yield Mistake(f"{name}_FILE", variables={f"{name}_FILE": CANARY})
    for name in ("TOKEN_VAULT_CONFIG", "TOKEN_VAULT_HOME", "TOKEN_VAULT_SPOOL"):
        yield Mistake(name, '(given: "~no-such-user-here/vault")', {name: "~no-such-user-here/vault"})
    for url in (f"redis//{CANARY}", f"http://:{CANARY}@h/0", f"redis://:{CANARY}/x@h/0", "rediss://h:port/0"):
        yield Mistake("REDIS_URL", variables={"REDIS_URL": url})
    for name in ("DATABASE_URL", "DATABASE_DIRECT_URL"):
        for url in (f"mysql://u:{CANARY}@localhost/d", f"postgresql://u:{CANARY}@db.example/d", f"postgresql://u:{CANARY}@localhost:port/d"):  # fmt: skip
            yield Mistake(name, variables={name: url})
    tenant = {"AUTH0_DOMAIN": "acme.eu.auth0.com", "AUTH0_CLIENT_ID": "m2m", "AUTH0_CLIENT_SECRET": CANARY}
    yield Mistake("AUTH0_PLAN", '(given: "gold")', tenant | {"AUTH0_PLAN": "gold"})
    yield Mistake("AUTH0_DOMAIN", '(given: "acme eu")', tenant | {"AUTH0_DOMAIN": "acme eu"})
    for name in tenant:
        yield Mistake(name, variables={given: value for given, value in tenant.items() if given != name})
    yield Mistake("TOKEN_VAULT_LOG_LEVEL", '(given: "loud")', {"TOKEN_VAULT_LOG_LEVEL": "loud"})


MISTAKES = [*in_file(), *in_environment()]


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing of the vault's is set, and the home is empty."""
    set_home_alone(monkeypatch, tmp_path / "home")
    monkeypatch.setenv("A_SECRET", SECRET)
    monkeypatch.setenv("A_WEBHOOK_SECRET", "whsec_" + "A" * 43 + "=")


@pytest.fixture
def make(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., dict[str, int]]:
    """Make mistakes; returns the line of each key that is wrong."""

    def write(*mistakes: Mistake) -> dict[str, int]:
        lines: list[str] = []
        numbers: dict[str, int] = {}
        for table, needed in TABLES.items():
            wrong = {each.key: each.value for each in mistakes if each.table == table}
            given = {
                key: json.dumps(value)
                for key, value in needed.items()
                if key.removesuffix("_env") not in wrong
            }
            lines.append(f"[{'.'.join(table)}]")
            for key, value in (given | wrong).items():
                lines.append(f"{key} = {value}")
                numbers[f"{'.'.join(table)}.{key}"] = len(lines)
        path = tmp_path / "vault.toml"
        path.write_text("\n".join(lines), encoding="utf-8")
        monkeypatch.setenv("TOKEN_VAULT_CONFIG", str(path))
        for mistake in mistakes:
            for name, value in mistake.variables.items():
                monkeypatch.setenv(name, value)
        return numbers

    return write


def test_there_are_many() -> None:
    """Variables and keys in all their kinds of mistakes are more than a hundred."""
    assert len(MISTAKES) > 150


@pytest.mark.parametrize("mistake", MISTAKES, ids=str)
def test_a_mistake_is_told_with_its_fix(make: Callable[..., dict[str, int]], mistake: Mistake) -> None:
    """One line names variable or key, value, place and fix, and no secret is shown."""
    numbers = make(mistake)
    with pytest.raises(SettingsError) as refused:
        load()
    _check_told([*map(str, refused.value.problems)], [mistake], numbers)


@pytest.mark.parametrize("seed", range(25))
def test_several_mistakes_are_told_at_once(
    make: Callable[..., dict[str, int]], capsys: pytest.CaptureFixture[str], seed: int
) -> None:
    """Of several mistakes in several places each is told, in a line of its own, and the exit code is 2."""
    chosen: dict[object, Mistake] = {}
    for mistake in random.Random(seed).sample(MISTAKES, 12):
        if not any("TOKEN_VAULT_CONFIG" in name for name in mistake.variables):
            chosen.setdefault(mistake.table[:2] or next(iter(mistake.variables)).partition("_")[0], mistake)
    numbers = make(*chosen.values())
    assert main(["status"]) == 2
    _check_told(capsys.readouterr().err.splitlines(), [*chosen.values()], numbers)


def _check_told(lines: list[str], mistakes: list[Mistake], numbers: Mapping[str, int]) -> None:
    whole = "\n".join(lines)
    assert "canary" not in whole
    assert SECRET not in whole
    assert "Traceback" not in whole
    for mistake in mistakes:
        told = [line for line in lines if mistake.named in line]
        assert len(told) == 1, (mistake, whole)
        assert told[0].endswith(mistake.shown) if mistake.shown else "(given: " not in told[0]
        assert REMEDY.search(told[0]), told[0]
        if mistake.table and f"{'.'.join(mistake.table)}.{mistake.key}" in numbers:
            assert f"vault.toml, line {numbers['.'.join((*mistake.table, mistake.key))]}: " in told[0]


def test_a_webhook_with_three_faults(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each fault of one table is told, and `doctor` tells each as a check."""
    path = tmp_path / "vault.toml"
    path.write_text(
        '[webhooks.crm]\nurl = "http://crm.example/s3cr3t"\nsecret_env = "NOWHERE"\nevents = ["grants"]\n',
        encoding="utf-8",
    )
    monkeypatch.setenv("TOKEN_VAULT_CONFIG", str(path))
    assert main(["status"]) == 2
    url, secret, events = sorted(
        capsys.readouterr().err.splitlines(), key=lambda line: "secret" in line or "event" in line
    )
    assert f"{path}, line 2: [webhooks.crm.url] url has to be https" in url
    assert '(given: "http://crm.example/…")' in url
    assert (
        "line 1: [webhooks.crm.secret] secret_env names an environment variable that is not set: set it"
        in secret
    )
    assert "line 4: [webhooks.crm.events] no event is called grants: grant.reauthorization_required" in events
    assert main(["doctor", "--json"]) == 1
    assert len(json.loads(capsys.readouterr().out)["checks"]) == 3


def test_an_unknown_provider_is_told_with_a_near_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A provider that neither the program nor the file declares is refused where it is named."""
    path = tmp_path / "vault.toml"
    path.write_text(
        '[providers.acme]\ngrace = 9\n[connections.a]\nprovider = "acme"\n[connections.b]\nprovider = "gogle"\n',
        encoding="utf-8",
    )
    monkeypatch.setenv("TOKEN_VAULT_CONFIG", str(path))
    assert main(["status"]) == 2
    told = capsys.readouterr().err
    assert "line 6: [connections.b.provider] there is no such provider" in told
    assert 'did you mean google? (given: "gogle")' in told
    assert "connections.a" not in told
