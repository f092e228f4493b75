"""What the documentation says holds: its blocks run, its names exist, its links lead somewhere."""

import ast
import base64
import inspect
import json
import re
import shlex
import tomllib
from collections.abc import Awaitable, Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
import redis as redis_client
import typer.main
from celery.result import AsyncResult
from psycopg import sql as composing

from emulators.client import Emulation
from tests.support.synced_user import sync_user
from token_vault.database_errors import failure
from token_vault.errors import AccessDenied, TokenNotFound
from token_vault.secret import Secret
from worker import settings as configuration
from worker.auth0.http.responses import OPTIONAL_SCOPES, SCOPES
from worker.cli import app as cli
from worker.cli import forecast
from worker.consumer_rules import ConsumerRules
from worker.runtime import Runtime
from worker.settings.environment import Environment
from worker.vault.consumers import consumers
from worker.vault.db.tables import GRANT_STATES

ROOT = Path(__file__).parents[2]
README, OPERATING, ARCHITECTURE, PROMISES = (
    ROOT / name for name in ("README.md", "docs/operating.md", "docs/architecture.md", "docs/promises.md")
)
THREATS = ROOT / "docs/threat-model.md"
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
DECISIONS = sorted(ROOT.glob("docs/adr/[0-9]*.md"))
SOURCES = "\n".join(
    file.read_text(encoding="utf-8")
    for room in ("worker", "client/src")
    for file in ROOT.glob(f"{room}/**/*.*")
    if file.suffix in (".py", ".sql")
)
WRITTEN_BY_OTHERS = {"benchmarks.md"}  # made by `make bench`
# What `plan` reckons with, by the line of docs/benchmarks.md that measured it.
MEASURED_FOR_PLAN = {
    "RENEWALS_PER_SECOND": r"\| renewals a second, whole \| (\d+)/s \|",
    "POSTGRES_MILLISECONDS_PER_RENEWAL": r"\| processor seconds for a thousand renewals \| [\d.]+ s, ([\d.]+) of them in Postgres \|",
    "STACK_MEGABYTES": r"\| memory of the whole stack under load, peak \| (\d+) MB \|",
    "WORKER_MEGABYTES": r"`token-vault plan` reckons with (\d+) MB for each further worker",
    "GRANT_BYTES": r"\| table and indexes of [^|]* \| (\d+) bytes a grant \|",
    "INDEX_BYTES": r"\| … indexes alone \| (\d+) bytes a grant \|",
    "RENEWAL_LOG_BYTES": r"\| … write-ahead log of a renewal, [^|]* \| (\d+) bytes \|",
}


def text(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text(page), re.M | re.S)


def first_cells(page: Path, heading: str) -> list[str]:
    """The first cell of each row of the table that follows a line."""
    table = text(page).partition(heading)[2].lstrip("\n").split("\n\n")[0]
    return [row.split(" | ")[0].lstrip("| ").rstrip(" |") for row in table.splitlines()[2:]]


@pytest.mark.parametrize("name", MEASURED_FOR_PLAN)
def test_plan_reckons_with_what_was_measured(name: str) -> None:
    """Each measured number of `plan` is within a tenth of what the page of benchmarks shows now."""
    shown = re.findall(MEASURED_FOR_PLAN[name], text(ROOT / "docs/benchmarks.md"))
    assert [float(each) for each in shown] == [pytest.approx(getattr(forecast, name), rel=0.1)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    """Every link to a file of the project finds it, and its heading."""
    for target in re.findall(r"\]\(([^)]+)\)", text(page)):
        if target.startswith("http") or target.endswith(tuple(WRITTEN_BY_OTHERS)):
            continue
        path, _, anchor = target.partition("#")
        linked = (page.parent / path).resolve() if path else page
        assert linked.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)$", text(linked), re.M)
            assert anchor in {
                re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings
            }


@pytest.mark.parametrize(
    "page",
    [README, OPERATING, ROOT / "docs/adding-a-provider.md", ROOT / "docs/http-api.md"],
    ids=lambda page: page.name,
)
def test_toml_blocks_are_settings(page: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Every TOML block is a settings file that is taken as it stands."""
    secret = tmp_path / "secret"
    secret.write_text(f"whsec_{base64.b64encode(bytes(32)).decode()}", encoding="utf-8")
    monkeypatch.setenv("ACME_SECRET", "another")
    found = blocks(page, "toml")
    assert found
    for block in found:
        assert tomllib.loads(block)
        config = tmp_path / "vault.toml"
        config.write_text(re.sub(r'_file = "[^"]+"', f'_file = "{secret}"', block), encoding="utf-8")
        configuration.load(config)


def test_the_schedule_shown_is_the_default() -> None:
    """The numbers in the documentation are those that hold without a file."""
    shown = tomllib.loads(blocks(README, "toml")[0])["schedule"]
    assert configuration.Schedule(**shown) == configuration.Schedule()
    for name, seconds in shown.items():
        assert f"`{name}` {seconds}" in text(OPERATING)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_variables_exist(page: Path) -> None:
    """Every variable of the environment that is named is one that is read."""
    known = {name.upper() for name in Environment.model_fields} | {"TOKEN_VAULT_LOG_LEVEL"}
    known |= {f"{name}_FILE" for name in configuration.SECRET_NAMES}
    known |= {"VAULT_ACCESS_KEYS_COMMAND", "VAULT_REFRESH_KEYS_COMMAND"}
    named = set(re.findall(r"\b(?:AUTH0|VAULT|TOKEN_VAULT|DATABASE|REDIS)_[A-Z0-9_]*[A-Z0-9]\b", text(page)))
    assert named <= known
    if page == README:
        assert named >= {name for name in known if not name.endswith(("_FILE", "_COMMAND"))}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_exist(page: Path) -> None:
    """Every `token-vault …` is a command with these options; the README names them all."""
    commands = typer.main.get_group(cli).commands
    code = re.findall(r"`([^`\n]+)`", text(page)) + "\n".join(blocks(page, "sh")).splitlines()
    for line in code:
        words = (
            shlex.split(line.partition("token-vault ")[2], comments=True) if "token-vault " in line else []
        )
        if not words or not words[0].isalpha():
            continue
        assert words[0] in commands, line
        options = {option for parameter in commands[words[0]].params for option in parameter.opts}
        assert {word for word in words if word.startswith("--")} <= options, line
    if page == README:
        told = " ".join(first_cells(page, "## Commands"))
        assert set(commands) <= set(re.findall(r"\w+", told))


def test_commands_speak_json() -> None:
    """Every command has ``--json`` but the one that the README excepts."""

    def without(group: Any, of: str = "") -> Iterator[str]:
        for name, each in group.commands.items():
            if not any("--json" in parameter.opts for parameter in each.params) and not hasattr(
                each, "commands"
            ):
                yield of + name
            if hasattr(each, "commands"):
                yield from without(each, f"{name} ")

    excepted = re.findall(r"but for `(\w+)`, `--json`", text(README))
    assert list(without(typer.main.get_group(cli))) == excepted


def test_targets_exist() -> None:
    """Every `make …` of the README is a target of the Makefile."""
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M)
    assert set(re.findall(r"\bmake (run|test|\w+)(?= +#|`|$)", text(README), re.M)) <= set(targets)


def test_scopes_are_told() -> None:
    """The README tells of exactly the scopes that the program needs."""
    assert [cell.strip("`") for cell in first_cells(README, "with these scopes:")] == list(
        SCOPES | OPTIONAL_SCOPES
    )


@pytest.fixture
async def synced(
    tenant: Emulation, open_worker: Callable[[], Awaitable[Runtime]], sql: Callable[..., list[dict[str, Any]]]
) -> Emulation:
    """A vault with the user that the documentation speaks of, synced and renewed."""
    await sync_user(tenant, open_worker, sql)
    return tenant


async def test_the_first_token(synced: Emulation, capsys: pytest.CaptureFixture[str]) -> None:
    """The README's first program gets a token that the provider takes, in ten lines at the most."""
    block = blocks(README, "python")[0]
    assert len(block.splitlines()) <= 10
    ran: dict[str, Any] = {}
    exec(block, ran)
    ran["vault"].close()
    assert synced.holder(ran["token"].value) is not None
    assert ran["headers"] == {"Authorization": f"Bearer {ran['token'].value}"}
    assert "good until 20" in capsys.readouterr().out


async def test_the_errors(synced: Emulation, capsys: pytest.CaptureFixture[str]) -> None:
    """The README's second program says of a user without a token what is the matter."""
    exec(blocks(README, "python")[1], {})
    assert capsys.readouterr().out == "this user never signed in over this connection\n"


async def test_the_foreign_app(
    synced: Emulation, redis_url: Secret, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The README's third program queues what the task takes, on its queue, without a token in it."""
    from worker.tasks import refresh_token

    block = blocks(README, "python")[2]
    assert "worker." not in "".join(line for line in block.splitlines() if "import" in line)
    monkeypatch.setattr(AsyncResult, "get", lambda self, timeout: {"state": "active"})
    ran: dict[str, Any] = {}
    exec(block, ran)
    ran["app"].close()
    with redis_client.Redis.from_url(redis_url.reveal()) as broker:
        raw = broker.rpop("interactive")
    assert isinstance(raw, bytes)
    message = json.loads(raw)
    arguments, keywords, _ = json.loads(base64.b64decode(message["body"]))
    assert message["headers"]["task"] == refresh_token.name
    inspect.signature(refresh_token.run).bind(*arguments, **keywords)
    assert capsys.readouterr().out == "{'state': 'active'}\n"


def test_tasks_are_told() -> None:
    """The README's table has every task that an app may queue, with its arguments."""
    from worker import tasks

    for cell, given in re.findall(r"^\| `worker\.(\w+)` \| (.*?) \|", text(README), re.M):
        task = getattr(tasks, cell)
        taken = set(inspect.signature(task.run).parameters) - {"self"}
        assert set(re.findall(r"`(\w+)`", given)) == taken, cell
    assert re.findall(r"^\| `worker\.(\w+)` \|", text(README), re.M) == [
        "refresh_token",
        "sync_user",
        "sync_connection",
        "sync_all",
    ]


@pytest.fixture
def reader(database_url: Secret) -> Iterator[psycopg.Connection[Any]]:
    """A connection of the role that docs/operating.md makes, with the consumer that it configures."""
    section = text(OPERATING).partition("## Who may read what")[2]
    configured = tomllib.loads(re.findall(r"```toml\n(.*?)```", section, re.S)[0])["consumers"]["calendar"]
    rules = ConsumerRules("calendar", tuple(configured.pop("connections")), **configured)
    consumers.apply(database_url, [rules], keep=timedelta(days=1), keep_inherited=False)
    with psycopg.connect(database_url.reveal(), autocommit=True) as owner:
        name = owner.info.dbname
        for statement in blocks(OPERATING, "sql")[0].split(";\n"):
            owner.execute(statement.replace("DATABASE token_vault", f'DATABASE "{name}"').encode())
        try:
            url = psycopg.conninfo.make_conninfo(
                database_url.reveal(), user="app_calendar", password="choose one"
            )
            with psycopg.connect(url, autocommit=True) as connection:
                yield connection
        finally:
            for statement in ("GRANT {} TO CURRENT_USER", "DROP OWNED BY {}", "DROP ROLE {}"):
                owner.execute(composing.SQL(statement).format(composing.Identifier("app_calendar")))


async def test_the_reader_role(
    synced: Emulation, reader: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The documented role is enough to read a token, and for no table."""
    from token_vault import TokenVault

    monkeypatch.setenv("DATABASE_URL", f"{reader.info.dsn} password='choose one'")
    monkeypatch.delenv("VAULT_REFRESH_KEYS")
    with TokenVault.from_env() as vault:
        assert synced.holder(vault.user_token("google-oauth2|1111", "google-oauth2").value) is not None
        with pytest.raises(TokenNotFound):
            vault.user_token("google-oauth2|404", "google-oauth2")
    for table in ("grants", "connections", "vault_secrets", "management_tokens"):
        with pytest.raises(psycopg.Error) as refused:
            reader.execute(composing.SQL("SELECT 1 FROM {}").format(composing.Identifier(table)))
        assert isinstance(failure(refused.value), AccessDenied)
    for statement in blocks(OPERATING, "sql")[2].split(";\n"):
        reader.execute(statement.encode())


def test_the_operators_queries(sql: Callable[..., list[dict[str, Any]]]) -> None:
    """The queries for the workers' role run."""
    for statement in blocks(OPERATING, "sql")[3].split(";\n"):
        sql(statement)


def test_messages_exist() -> None:
    """Every message with a fix is one that the program says."""
    said = [
        part
        for cell in first_cells(OPERATING, "## Messages and their fix")
        for part in re.findall("`([^`]+)`", cell)
    ]
    assert len(said) > 10
    # Messages are put together from neighbouring literals, with values in between.
    source = re.sub(r'"\s*\n\s*f?"|\{[^{}"]*\}', "", SOURCES)
    assert [part for part in said if part not in source] == []


def test_problems_are_told() -> None:
    """Every problem that a connection can have has its fix."""
    told = re.findall(r"`(\w+)`", " ".join(first_cells(OPERATING, "What a connection's `problem` says:")))
    raised = re.findall(r'\b(?:_Unfit|Problem)\(\s*"(\w+)"', SOURCES)
    assert set(told) >= set(raised)
    assert [problem for problem in told if not re.search(rf"""["']{problem}["']""", SOURCES)] == []


def test_states_are_told() -> None:
    """The table of states has the stored ones and the derived ones, and no other."""
    told = [cell.strip("`") for cell in first_cells(ARCHITECTURE, "## States of a grant")]
    assert sorted(told) == sorted({*GRANT_STATES, "blocked", "expired", "paused"})


def test_rooms_are_told() -> None:
    """The table of rooms is the order that the import contracts hold."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    floors = project["tool"]["importlinter"]["contracts"][0]["layers"]
    told = re.findall(r"`(\w+)`", " ".join(first_cells(ARCHITECTURE, "that is not in this list.")))
    assert told == [room for floor in floors for room in floor.split(" | ")]


def test_promises_have_their_tests() -> None:
    """Whatever could break has tests, and each that is named is there."""
    rows = [row for row in text(PROMISES).splitlines() if row.startswith("| ") and "| tests |" not in row]
    assert len(rows) > 40
    for row in rows:
        named = re.findall(r"\[`(test_\w+)`\]\(\.\./(tests/[\w/]+\.py)\)", row)
        assert named, row
        for name, file in named:
            assert f"def {name}(" in text(ROOT / file), f"{file} has no {name}"


def test_threats_have_their_tests() -> None:
    """Each line of the threat model names tests, and each is there."""
    rows = [row for row in text(THREATS).splitlines() if row.startswith("| ") and "| attacker |" not in row]
    assert len(rows) > 3
    for row in rows:
        named = re.findall(r"\[`(test_\w+)`\]\(\.\./(tests/[\w/]+\.py)\)", row.rpartition(" | ")[2])
        assert named, row
        for name, file in named:
            assert f"def {name}(" in text(ROOT / file), f"{file} has no {name}"


@pytest.mark.parametrize("page", DECISIONS, ids=lambda page: page.name)
def test_a_decision_is_a_page(page: Path) -> None:
    """A decision record has its number, its three parts, and fits on a page."""
    number = DECISIONS.index(page) + 1
    assert page.name.startswith(f"{number:04}-")
    assert text(page).startswith(f"# {number}. ")
    assert re.findall(r"^## (\w+)$", text(page), re.M) == ["Context", "Decision", "Consequences"]
    assert len(text(page).split()) < 400


def test_the_index_has_each_decision() -> None:
    """The index of decision records links each one, in order and by its title."""
    index = re.findall(r"^\| \[(.*?)\]\((.*?)\) \|", text(ROOT / "docs/adr/README.md"), re.M)
    assert index == [(text(page).partition("\n")[0].removeprefix("# "), page.name) for page in DECISIONS]


def defined(file: str) -> set[str]:
    """What a module defines: `name`, and `Class.name` for what is in a class."""
    kinds = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    top = [node for node in ast.parse(text(ROOT / file)).body if isinstance(node, kinds)]
    return {node.name for node in top} | {
        f"{node.name}.{each.name}"
        for node in top
        if isinstance(node, ast.ClassDef)
        for each in node.body
        if isinstance(each, kinds)
    }


def test_contributing_names_what_exists() -> None:
    """Every file, function and identifier that CONTRIBUTING.md names exists."""
    named = re.findall(r"`([^`\n]+)`", text(ROOT / "CONTRIBUTING.md"))
    files = [name.partition(":") for name in named if "/" in name or name.endswith(".toml")]
    assert len([name for _, _, name in files if name]) > 15
    for file, _, name in files:
        assert (ROOT / file).exists(), file
        assert not name or name in defined(file), f"{file} defines no {name}"
    words = {name for name in named if re.fullmatch(r"[A-Z]\w+|[a-z]+(_[a-z]+)+", name)}
    assert [word for word in sorted(words) if not re.search(rf"\b{word}\b", SOURCES)] == []
