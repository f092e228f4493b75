"""What each provider does with tokens, as a declaration."""

from dataclasses import dataclass, replace
from typing import Any

DAY = 86_400.0


@dataclass(frozen=True, slots=True)
class Behaviour:
    """One provider.

    The defaults are a plain OAuth 2.0 server (RFC 6749 §6) that does not rotate.
    """

    token_paths: tuple[str, ...] = ("/oauth/token",)  # below /idp/<name>; {…} stands for one segment
    method: str = "POST"
    revocation_path: str = "/revoke"  # RFC 7009; "" where there is none
    client_auth: tuple[str, ...] = ("post",)  # of post, basic, none; any other way is invalid_client
    json_body: bool = False  # understands a JSON request
    grant_type: str = "refresh_token"
    required: tuple[str, ...] = ()  # extra parameters that must be there

    issues_refresh: bool = True
    refresh_on_consent_only: bool = False  # a later login brings no refresh token
    rotates: bool = False
    old_refresh_dies: bool = True  # when rotating; False: the old one works on beside the new
    grace: float = 0.0  # seconds in which a spent refresh token is still taken
    grace_answer: str = "new"  # within grace: "new" pair, or the "same" as was answered before
    reuse_revokes_family: bool = False  # beyond grace: everything descended from that login dies
    old_access_dies: bool = False  # renewing ends the previous access tokens
    refresh_in_answer: bool = False  # when not rotating: say the old one again instead of nothing

    access_life: float | None = 3600.0  # seconds; None: does not expire, no expires_in
    refresh_idle_life: float | None = None  # seconds unused until it dies
    announce_refresh_expiry: bool = False  # refresh_token_expires_in
    numbers_as_strings: bool = False
    form_encoded: bool = False  # unless the request says Accept: application/json
    scope_field: str = "scope"  # "" leaves it out
    id_token: bool = False
    dialect: str = "standard"  # how errors and answers are worded, see dialects.py

    access_prefix: str = "at_"
    refresh_prefix: str = "rt_"
    integer_ids: bool = False  # the provider's user ids are numbers
    scope: str = "profile email"

    def changed(self, **fields: Any) -> "Behaviour":
        """Copy with `fields` replaced; lists become tuples.

        Raises TypeError for an unknown field.
        """
        values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()}
        return replace(self, **values)


ENTRA = Behaviour(
    token_paths=("/{tenant}/oauth2/v2.0/token", "/{tenant}/oauth2/token"),  # v2, v1
    rotates=True,
    old_refresh_dies=False,
    access_life=3599.0,
    refresh_idle_life=90 * DAY,
    dialect="entra",
    access_prefix="EwB",
    refresh_prefix="0.AX",
    scope="User.Read offline_access openid profile",
)
GITHUB = Behaviour(
    token_paths=("/login/oauth/access_token",),
    rotates=True,
    old_access_dies=True,
    access_life=28_800.0,
    refresh_idle_life=15_811_200.0,
    announce_refresh_expiry=True,
    form_encoded=True,
    dialect="github",
    access_prefix="ghu_",
    refresh_prefix="ghr_",
    integer_ids=True,
    scope="",
)

PROVIDERS: dict[str, Behaviour] = {
    "google": Behaviour(
        token_paths=("/token",),
        refresh_on_consent_only=True,
        access_life=3599.0,
        refresh_idle_life=183 * DAY,
        dialect="google",
        access_prefix="ya29.a0",
        refresh_prefix="1//0g",
        scope="openid https://www.googleapis.com/auth/userinfo.email",
    ),
    "entra": ENTRA,
    "bitbucket": Behaviour(
        token_paths=("/site/oauth2/access_token",),
        client_auth=("basic",),
        rotates=True,
        access_life=7200.0,
        refresh_idle_life=90 * DAY,
        dialect="bitbucket",
        access_prefix="bbat_",
        refresh_prefix="bbrt_",
        scope="account repository",
    ),
    "github": GITHUB,
    "github-classic": GITHUB.changed(issues_refresh=False, access_life=None, access_prefix="gho_"),
    "facebook": Behaviour(
        token_paths=("/{version}/oauth/access_token",),
        method="GET",
        grant_type="fb_exchange_token",
        issues_refresh=False,
        access_life=60 * DAY,
        scope_field="",
        dialect="facebook",
        access_prefix="EAAG",
        scope="public_profile email",
    ),
    "okta": Behaviour(
        token_paths=("/oauth2/v1/token", "/oauth2/{server}/v1/token"),
        client_auth=("basic", "post"),
        rotates=True,
        grace=30.0,
        reuse_revokes_family=True,
        refresh_idle_life=7 * DAY,
        dialect="okta",
        access_prefix="okta_at_",
        refresh_prefix="okta_rt_",
        scope="openid profile offline_access",
        id_token=True,
    ),
    "gitlab": Behaviour(
        required=("redirect_uri",),
        rotates=True,
        old_access_dies=True,
        access_life=7200.0,
        dialect="gitlab",
        access_prefix="glat_",
        refresh_prefix="glrt_",
        scope="read_user api",
    ),
    "custom": Behaviour(access_prefix="cust_at_", refresh_prefix="cust_rt_", rotates=True),
    "oidc": Behaviour(
        token_paths=("/token",),
        client_auth=("post", "basic"),
        rotates=True,
        id_token=True,
        access_prefix="oidc_at_",
        refresh_prefix="oidc_rt_",
        scope="openid profile email offline_access",
    ),
    "slack": Behaviour(
        token_paths=("/api/oauth.v2.access",),
        client_auth=("basic",),
        rotates=True,
        access_life=43_200.0,
        dialect="slack",
        access_prefix="xoxe.xoxp-1-",
        refresh_prefix="xoxe-1-",
        scope="users:read",
    ),
    "atlassian": Behaviour(
        json_body=True,
        rotates=True,
        refresh_idle_life=90 * DAY,
        dialect="auth0",
        access_prefix="atl_at_",
        refresh_prefix="atl_rt_",
    ),
    "auth0": Behaviour(json_body=True, client_auth=("post", "basic"), dialect="auth0"),
}
