from __future__ import annotations

import traceback
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.bare_environment import set_home_alone
from token_vault.errors import ConfigurationError
from token_vault.secret import Secret
from worker import logs
from worker.settings import SECRET_NAMES, Settings, home_keys, key_file, load

CANARY = "canary-s3cr3t-of-32-characters-or-more"
TENANT = {"AUTH0_DOMAIN": "acme.eu.auth0.com", "AUTH0_CLIENT_ID": "m2m", "AUTH0_CLIENT_SECRET": CANARY}
TENANT_SECRETS = ("AUTH0_CLIENT_SECRET", "AUTH0_PRIVATE_KEY")
ATTRIBUTES: dict[str, Callable[[Settings], Secret | tuple[Secret, ...] | None]] = {
    "AUTH0_CLIENT_SECRET": lambda settings: settings.tenants["default"].client_secret,
    "AUTH0_PRIVATE_KEY": lambda settings: settings.tenants["default"].private_key,
    "AUTH0_HOOK_SECRET": lambda settings: settings.hooks.auth0["default"].secret,
    "DATABASE_URL": lambda settings: settings.database_url,
    "DATABASE_DIRECT_URL": lambda settings: settings.database_direct_url,
    "REDIS_URL": lambda settings: settings.redis_url,
    "VAULT_ACCESS_KEYS": lambda settings: settings.access_keys,
    "VAULT_REFRESH_KEYS": lambda settings: settings.refresh_keys,
}


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """No variable of the vault's is set, and its home is empty."""
    set_home_alone(monkeypatch, tmp_path / "home")
    return tmp_path


@pytest.fixture
def env(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Set variables, each given by name; None takes one away."""

    def put(**values: str | Path | None) -> None:
        for name, value in values.items():
            if value is None:
                monkeypatch.delenv(name, raising=False)
            else:
                monkeypatch.setenv(name, str(value))

    return put


@pytest.fixture
def toml(bare: Path, env: Callable[..., None]) -> Callable[[str], Path]:
    """Write the file that TOKEN_VAULT_CONFIG names."""

    def write(text: str) -> Path:
        path = bare / "vault.toml"
        path.write_text(text, encoding="utf-8")
        env(TOKEN_VAULT_CONFIG=path)
        return path

    return write


def refused(*named: str) -> str:
    """Load and be refused; the error names all of these and holds no canary, however it is printed."""
    with pytest.raises(ConfigurationError) as caught:
        load()
    whole = "".join(traceback.format_exception(caught.value)) + repr(caught.value)
    assert "canary" not in whole
    for name in named:
        assert name in str(caught.value)
    return str(caught.value)


# Nothing, and everything


def test_without_any_variable_the_vault_is_embedded(bare: Path) -> None:
    """Nothing set means embedded servers under the home folder, no tenant, no keys, and the default schedule."""
    settings = load()
    assert settings.embedded
    assert settings.home == bare / "home"
    assert settings.spool == bare / "home" / "spool"
    assert (settings.database_url, settings.redis_url) == (None, None)
    assert (settings.access_keys, settings.refresh_keys) == ((), ())
    assert not settings.tenants
    assert not settings.connections
    assert tuple(settings.schedule.model_dump().values()) == (5, 60, 600, 86_400, 5)


def test_home_is_a_folder_beside_the_command_by_default(
    env: Callable[..., None], bare: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TOKEN_VAULT_HOME is .token-vault where unset, and absolute whatever it is given as."""
    monkeypatch.chdir(bare)
    env(TOKEN_VAULT_HOME=None)
    assert load().home == bare / ".token-vault"
    env(TOKEN_VAULT_HOME="elsewhere", TOKEN_VAULT_SPOOL="~/spool", HOME=bare)
    assert load().home == bare / "elsewhere"
    assert load().spool == bare / "spool"


def test_every_variable_is_read(env: Callable[..., None]) -> None:
    """Each documented variable ends up in its place."""
    env(**TENANT, AUTH0_AUDIENCE="https://acme.auth0.com/api/v2/", DATABASE_URL="postgresql://u:p@localhost/d",
        REDIS_URL="redis://:p@h/0", VAULT_ACCESS_KEYS="a1,a2", VAULT_REFRESH_KEYS="r1")  # fmt: skip
    settings = load()
    tenant = settings.tenants["default"]
    assert (tenant.domain, tenant.client_id, tenant.client_secret) == (
        "acme.eu.auth0.com", "m2m", Secret(CANARY)
    )  # fmt: skip
    assert tenant.private_key is None
    assert tenant.audience == "https://acme.auth0.com/api/v2/"
    assert not settings.embedded
    assert settings.database_url == Secret("postgresql://u:p@localhost/d")
    assert settings.redis_url == Secret("redis://:p@h/0")
    assert settings.access_keys == (Secret("a1"), Secret("a2"))
    assert settings.refresh_keys == (Secret("r1"),)


def test_a_name_that_looks_misspelt_may_be_another_program_s(env: Callable[..., None]) -> None:
    """It is no mistake where it is empty, or where the variable that it looks like is set as well."""
    env(**TENANT, AUTH0_DOMAINS="another.example", AUTH0_PLANS="")
    assert load().tenants["default"].domain == TENANT["AUTH0_DOMAIN"]


def test_what_is_not_set_protects(toml: Callable[[str], Path]) -> None:
    """Of a tenant's users hardly any vanish at once, a pause comes first, and reads stay known for a year."""
    toml("")
    found = load()
    assert (found.deletion.share, found.deletion.settle) == (0.1, 300)
    assert found.audit.keep == 400 * 86_400
    assert found.api.host == found.metrics.host == "127.0.0.1"


def test_a_process_turns_its_metrics_off(toml: Callable[[str], Path], env: Callable[..., None]) -> None:
    """The port of the environment counts more than the file's, also where it is 0."""
    toml("[metrics]\nport = 9100\n")
    assert load().metrics.port == 9100
    for port in (0, 9101):
        env(TOKEN_VAULT_METRICS_PORT=str(port))
        assert load().metrics.port == port


def test_an_empty_variable_counts_as_unset(env: Callable[..., None]) -> None:
    """Compose files pass on unset variables as empty ones."""
    env(
        **dict.fromkeys(
            [*TENANT, *SECRET_NAMES, "TOKEN_VAULT_CONFIG", "AUTH0_AUDIENCE", "TOKEN_VAULT_SPOOL"], ""
        )
    )
    env(**{f"{name}_FILE": "" for name in SECRET_NAMES})
    settings = load()
    assert settings.embedded
    assert not settings.tenants


@pytest.mark.parametrize(
    ("given", "keys"),
    [
        ("a", ["a"]),
        ("a,b", ["a", "b"]),
        (" a , b\n", ["a", "b"]),
        ("a\nb\n", ["a", "b"]),
        (",a,,b,", ["a", "b"]),
        ("\r\na\r\n", ["a"]),
        (",", []),
    ],
)
def test_keys_are_parted_by_commas_or_lines(env: Callable[..., None], given: str, keys: list[str]) -> None:
    """A list of keys may have blanks, line breaks and stray commas; its order is kept."""
    env(VAULT_ACCESS_KEYS=given, DATABASE_URL="postgresql://localhost/d")
    assert [key.reveal() for key in load().access_keys] == keys


# Files that hold a secret


@pytest.mark.parametrize("name", SECRET_NAMES)
def test_each_secret_can_come_from_a_file(env: Callable[..., None], bare: Path, name: str) -> None:
    """NAME_FILE gives what NAME would have given, without the line break at its end."""
    addresses = {
        "REDIS_URL": f"redis://:{CANARY}@host/0",
        "DATABASE_URL": f"postgresql://u:{CANARY}@localhost/d",
        "DATABASE_DIRECT_URL": f"postgresql://u:{CANARY}@localhost/d",
    }
    value = addresses.get(name, CANARY)
    (bare / "secret").write_text(f"{value}\n", encoding="utf-8")
    env(**TENANT | {"AUTH0_CLIENT_SECRET": None} if name in TENANT_SECRETS else {})
    env(**{f"{name}_FILE": bare / "secret"})
    found = ATTRIBUTES[name](load())
    several = name.endswith("_KEYS") or name == "AUTH0_HOOK_SECRET"
    assert found == ((Secret(value),) if several else Secret(value))


@pytest.mark.parametrize(
    "url",
    [
        "host:6379",
        "http://host/0",
        "redis://:canary/half@host:6379/0",
        "redis://host:canary/0",
        "redis://[::1/0",
    ],
)
def test_an_address_that_is_none_of_redis_is_refused(env: Callable[..., None], url: str) -> None:
    """An address that does not read is told at once, by its variable: a parser's words would show half a password."""
    env(REDIS_URL=url)
    refused("REDIS_URL", "Redis")


@pytest.mark.parametrize("name", SECRET_NAMES)
def test_a_secret_given_twice_is_refused(env: Callable[..., None], bare: Path, name: str) -> None:
    """NAME beside NAME_FILE is an error, as nobody can tell which of them is meant."""
    (bare / "secret").write_text(CANARY, encoding="utf-8")
    env(**{name: CANARY, f"{name}_FILE": bare / "secret"})
    refused(f"both {name} and {name}_FILE")


@pytest.mark.parametrize("name", SECRET_NAMES)
def test_an_unreadable_file_is_named_by_its_variable(env: Callable[..., None], bare: Path, name: str) -> None:
    """A missing file, a folder, an empty file or one that is no text: the error names the variable."""
    (bare / "empty").write_text("\n", encoding="utf-8")
    (bare / "binary").write_bytes(b"canary\xff\xfe")
    for path, why in (
        (bare / "missing", "FileNotFoundError"),
        (bare, "IsADirectoryError"),
        (bare / "empty", "empty"),
        (bare / "binary", "UnicodeDecodeError"),
        (bare / ("x" * 5000), "OSError"),
    ):
        env(**{f"{name}_FILE": path})
        refused(f"{name}_FILE", why)


@pytest.mark.parametrize("name", SECRET_NAMES)
def test_a_secret_in_the_place_of_a_path_is_not_shown(env: Callable[..., None], name: str) -> None:
    """Who puts the secret itself into NAME_FILE does not find it in the log."""
    env(**{f"{name}_FILE": CANARY})
    refused(f"{name}_FILE")


# The tenant


@pytest.mark.parametrize("missing", TENANT)
def test_a_half_configured_tenant_names_what_is_missing(env: Callable[..., None], missing: str) -> None:
    """Two of three variables are an error that names the third."""
    env(**{name: value for name, value in TENANT.items() if name != missing})
    message = refused("half configured", missing)
    for given in TENANT.keys() - {missing}:
        assert given not in message


def test_a_tenant_takes_one_credential(env: Callable[..., None]) -> None:
    """Secret and private key together are refused; the key alone is fine."""
    env(**TENANT, AUTH0_PRIVATE_KEY="canary-key")
    refused("either", "AUTH0_PRIVATE_KEY")
    env(AUTH0_CLIENT_SECRET=None)
    assert load().tenants["default"].private_key == Secret("canary-key")


def test_several_tenants_come_from_the_file(env: Callable[..., None], toml: Callable[[str], Path]) -> None:
    """The file names tenants, and the environment adds one called default."""
    toml("""
        [tenants.eu]
        domain = "eu.auth0.com"
        client_id = "one"
        client_secret = "canary-one"
        [tenants.us]
        domain = "us.auth0.com"
        client_id = "two"
        private_key = "canary-two"
        audience = "https://us-canonical.auth0.com/api/v2/"
    """)
    assert list(load().tenants) == ["eu", "us"]
    env(**TENANT)
    settings = load()
    assert list(settings.tenants) == ["eu", "us", "default"]
    assert settings.tenants["us"].audience == "https://us-canonical.auth0.com/api/v2/"
    assert settings.tenants["eu"].client_secret == Secret("canary-one")


# The file


def test_a_connection_is_overridden_for_its_tenant(toml: Callable[[str], Path]) -> None:
    """All that a connection may override is read; one bound to a tenant counts for no other."""
    toml("""
        [schedule]
        renew = 1.5
        [connections."google-oauth2"]
        provider = "google"
        token_url = "https://oauth2.example/token"
        client_id = "own"
        client_secret = "canary"
        client_auth = "basic"
        scope = "openid"
        redirect_uri = "https://here.example/"
        extra = { audience = "api" }
        [connections.bound]
        tenant = "eu"
        client_id = "bound"
    """)
    settings = load()
    google = settings.connection("any", "google-oauth2")
    assert google is not None
    assert (google.provider, google.client_auth, google.client_secret) == (
        "google",
        "basic",
        Secret("canary"),
    )
    assert google.extra == {"audience": "api"}
    assert settings.connection("eu", "bound") is not None
    assert settings.connection("us", "bound") is None
    assert settings.connection("eu", "unknown") is None
    assert settings.schedule.renew == 1.5


def test_secrets_in_the_file_can_be_pointed_to(
    env: Callable[..., None], toml: Callable[[str], Path], bare: Path
) -> None:
    """client_secret_env, client_secret_file and private_key_file bring in what they point to."""
    (bare / "key").write_text("canary-key\n", encoding="utf-8")
    env(GOOGLE_SECRET="canary-google")
    toml(f"""
        [tenants.eu]
        domain = "eu.auth0.com"
        client_id = "one"
        private_key_file = "{bare / "key"}"
        [connections.google]
        client_secret_env = "GOOGLE_SECRET"
        [connections.bitbucket]
        client_secret_file = "{bare / "key"}"
    """)
    settings = load()
    assert settings.tenants["eu"].private_key == Secret("canary-key")
    assert settings.connections["google"].client_secret == Secret("canary-google")
    assert settings.connections["bitbucket"].client_secret == Secret("canary-key")


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ('[connections.x]\nclient_sekret = "canary"', ["connections.x.client_sekret"]),
        ('[conections.x]\nclient_secret = "canary"', ["[conections] there is no such setting"]),
        ('[connections.x]\nclient_auth = "basik"', ["line 2: [connections.x.client_auth]", "mean basic?", '(given: "basik")']),
        ("[connections.x]\nclient_secret = 42", ["connections.x.client_secret"]),
        ('[connections.x]\nclient_secret = ["canary"]', ["connections.x.client_secret"]),
        ('[connections.x]\nextra = "canary"', ["connections.x.extra"]),
        ('connections = "canary"', ["connections"]),
        ('[connections]\nx = "canary"', ["connections.x"]),
        ('[connections.x]\nclient_secret = "canary"\nclient_secret_env = "PATH"', ["[connections.x.client_secret] give only one of"]),
        ('[connections.x]\nclient_secret_env = "canary"', ["connections.x", "client_secret_env", "not set"]),
        ('[connections.x]\nclient_secret_file = "canary"', ["connections.x", "client_secret_file", "FileNotFound"]),
        ('[connections.x]\nclient_secret_file = "canary\\u0000"', ["connections.x", "client_secret_file"]),
        ('[connections.x]\nprivate_key = "canary"', ["connections.x.private_key"]),
        ('[tenants.eu]\nclient_id = "x"\nclient_secret = "canary"', ["tenants.eu.domain"]),
        ('[tenants.eu]\ndomain = "x"\nclient_id = "x"', ["tenants.eu", "client_secret or private_key"]),
        (
            '[tenants.eu]\ndomain = "x"\nclient_id = "x"\nclient_secret = "canary"\nprivate_key = "canary"',
            ["tenants.eu", "either"],
        ),
        ('[connections.x]\nclient_secret_env = "EMPTY"', ["connections.x", "client_secret_env", "not set"]),
        (
            '[tenants.eu]\ndomain = "x.example/api/v2"\nclient_id = "x"\nclient_secret = "canary"',
            ["tenants.eu.domain", "domain alone"],
        ),
        (
            '[tenants.eu]\ndomain = "x"\nclient_id = "x"\nclient_secret = "canary"\nshare = 1',
            ["tenants.eu.share"],
        ),
        ("[schedule]\nrenew = 0", ["schedule.renew"]),
        ("[schedule]\nchanges = -1", ["schedule.changes"]),
        ('[schedule]\nconnections = "5 min"', ["schedule.connections", "did you mean 300?", '(given: "5 min")']),
        ('[connections.x]\nclient_auth = "canary-that-is-a-secret-in-a-wrong-place"', ["connections.x.client_auth"]),
        ('[connections.x]\nextra = { a = 4 }', ["connections.x.extra"]),
        ("[schedule]\nrenew = nan", ["schedule.renew"]),
        ("[schedule]\nfull = inf", ["schedule.full"]),
        ('[connections.x]\nclient_secret = "canary\n', ["not valid TOML", "line 2"]),
        ('[connections.x]\nclient_secret = canary', ["not valid TOML", "line 2"]),
        ('a = "canary"\na = "canary"\n', ["not valid TOML", "line 2"]),
    ],
)  # fmt: skip
def test_an_error_in_the_file_names_the_place_and_no_secret(
    env: Callable[..., None], toml: Callable[[str], Path], text: str, named: list[str]
) -> None:
    """Whatever is wrong, the error names file and place, and never what may be a secret."""
    env(EMPTY="")
    path = toml(text)
    refused(str(path), *named)


def test_all_errors_are_told_at_once(toml: Callable[[str], Path]) -> None:
    """Two mistakes are two sentences of one error."""
    toml('[connections.x]\nclient_auth = "basik"\n[schedule]\nrenew = 0')
    refused("connections.x.client_auth", "schedule.renew")


@pytest.mark.parametrize("what", ["missing", "folder", "binary"])
def test_a_file_that_cannot_be_read_is_named(env: Callable[..., None], bare: Path, what: str) -> None:
    """A wrong TOKEN_VAULT_CONFIG is an error that names the variable, not a vault without overrides."""
    (bare / "folder").mkdir()
    (bare / "binary").write_bytes(b"\xff\xfecanary")
    env(TOKEN_VAULT_CONFIG=bare / what)
    refused("TOKEN_VAULT_CONFIG", str(bare / what))


@pytest.mark.parametrize("name", ["TOKEN_VAULT_HOME", "TOKEN_VAULT_SPOOL", "TOKEN_VAULT_CONFIG"])
def test_a_home_folder_of_nobody_is_an_error(env: Callable[..., None], name: str) -> None:
    """A tilde before a name that no user has is refused by the variable's name."""
    env(**{name: "~no-such-user-here/vault"})
    refused(name)


def test_a_file_given_by_hand_counts_instead(toml: Callable[[str], Path], bare: Path) -> None:
    """load(path) reads that file, whatever TOKEN_VAULT_CONFIG says."""
    toml("[schedule]\nrenew = 1")
    (bare / "other.toml").write_text("[schedule]\nrenew = 2", encoding="utf-8")
    assert load(bare / "other.toml").schedule.renew == 2


# Keys that an embedded vault keeps


def test_an_embedded_vault_keeps_its_own_keys(env: Callable[..., None], bare: Path) -> None:
    """Keys under the home folder count where Postgres is embedded and no variable gives others."""
    home = bare / "home"
    for ring in ("access", "refresh"):
        path = key_file(home, ring)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{ring}-new\n{ring}-old\n", encoding="utf-8")
    assert load().access_keys == (Secret("access-new"), Secret("access-old"))
    assert load().refresh_keys == (Secret("refresh-new"), Secret("refresh-old"))
    env(VAULT_ACCESS_KEYS="given")
    assert load().access_keys == (Secret("given"),)
    env(DATABASE_URL="postgresql://localhost/d", VAULT_ACCESS_KEYS=None)
    assert load().access_keys == ()


def test_an_unreadable_ring_is_no_missing_ring(bare: Path) -> None:
    """A ring's file that cannot be read is an error: a vault with new keys would open nothing."""
    key_file(bare / "home", "access").mkdir(parents=True)
    refused("access keys under TOKEN_VAULT_HOME", "IsADirectoryError")
    assert home_keys(bare / "home", "refresh") == ()


def test_a_home_of_another_users_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the home folder may not even be looked into, the error says so."""

    def denied(path: Path, *_: object, **__: object) -> bool:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "exists", denied)
    monkeypatch.setattr(Path, "read_text", denied)
    refused("access keys under TOKEN_VAULT_HOME", "PermissionError")


# What is printed


def test_settings_print_no_secret(env: Callable[..., None], toml: Callable[[str], Path]) -> None:
    """The settings as a whole can be printed."""
    toml('[connections.x]\nclient_secret = "canary"')
    env(**TENANT, **{name: "canary-x" for name in SECRET_NAMES if not name.startswith("AUTH0_")})
    database = "postgresql://u:canary-x@localhost/d"
    env(REDIS_URL="redis://:canary-x@host/0", DATABASE_URL=database, DATABASE_DIRECT_URL=database)
    settings = load()
    for text in (repr(settings), str(settings), str(settings.model_dump()), f"{settings}"):
        assert "canary" not in text
        assert "Secret(…)" in text


# The plan and its limits


def test_a_table_adds_to_the_tenant_of_the_environment(
    env: Callable[..., None], toml: Callable[[str], Path]
) -> None:
    """``[tenants.default]`` may say what the environment does not; what both say is refused by name."""
    env(**TENANT)
    toml('[tenants.default]\nplan = "enterprise"\nshare = 0.5')
    tenant = load().tenants["default"]
    assert (tenant.domain, tenant.plan, tenant.share) == ("acme.eu.auth0.com", "enterprise", 0.5)
    env(AUTH0_PLAN="free")
    refused("AUTH0_PLAN and plan of [tenants.default]", "keep one")
    env(AUTH0_PLAN=None)
    toml('[tenants.default]\nclient_secret_file = "/nowhere"')
    refused("AUTH0_CLIENT_SECRET and client_secret_file", "keep one")


@pytest.mark.parametrize("name", ["domain", "client_id", "client_secret", "private_key", "audience", "plan"])
def test_no_source_overrules_the_other(
    env: Callable[..., None], toml: Callable[[str], Path], name: str
) -> None:
    """Whatever both ``AUTH0_*`` and ``[tenants.default]`` say is refused by both names."""
    env(**TENANT | {f"AUTH0_{name.upper()}": "canary"})
    toml(f'[tenants.default]\n{name} = "canary"')
    refused(f"AUTH0_{name.upper()} and {name} of [tenants.default]", "keep one")


def test_a_second_credential_in_the_table_is_refused(
    env: Callable[..., None], toml: Callable[[str], Path]
) -> None:
    """A private key in ``[tenants.default]`` does not overrule ``AUTH0_CLIENT_SECRET``, nor the other way."""
    env(**TENANT)
    toml('[tenants.default]\nprivate_key = "canary"')
    refused("tenants.default", "give either client_secret or private_key")


def test_a_plan_alone_is_no_tenant(env: Callable[..., None], toml: Callable[[str], Path]) -> None:
    """``AUTH0_PLAN`` without a tenant is nothing; a tenant that the file calls default it adds to."""
    env(AUTH0_PLAN="enterprise", AUTH0_AUDIENCE="https://acme.auth0.com/api/v2/")
    toml("")
    assert not load().tenants
    toml('[tenants.default]\ndomain = "x.eu.auth0.com"\nclient_id = "y"\nclient_secret = "canary"')
    assert load().tenants["default"].plan == "enterprise"


def test_a_custom_plan_has_limits(env: Callable[..., None], toml: Callable[[str], Path]) -> None:
    """Limits are given by group, in one of two units; they and another plan exclude each other."""
    env(**TENANT)
    toml(
        "[tenants.default.limits]\nall = { per_minute = 90, burst = 7 }\nlogs = { per_second = 2, burst = 3 }"
    )
    limits = load().tenants["default"].limits
    assert limits is not None
    assert {name: (limit.rate, limit.burst) for name, limit in limits.given().items()} == {
        "all": (1.5, 7),
        "logs": (2, 3),
    }
    toml("[tenants.default.limits]\nlogs = { per_second = 2, burst = 3 }")
    refused("a limit for all, or for other")
    toml("[tenants.default.limits]\nall = { burst = 3 }")
    refused("per_second or per_minute")
    toml('[tenants.default]\nplan = "free"\n[tenants.default.limits]\nall = { per_second = 2, burst = 3 }')
    refused("limits are for plan custom")
    toml('[tenants.default]\nplan = "custom"')
    refused("needs a table of limits")
    toml("")
    env(AUTH0_PLAN="gold")
    refused("AUTH0_PLAN", "free", '(given: "gold")')


def test_a_log_level_that_is_none_is_named(env: Callable[..., None]) -> None:
    """A wrong level is an error that names the variable and the levels there are."""
    env(TOKEN_VAULT_LOG_LEVEL="canary")
    with pytest.raises(ConfigurationError, match=r"TOKEN_VAULT_LOG_LEVEL is none of DEBUG, INFO") as found:
        logs.configure()
    assert "canary" not in str(found.value)
