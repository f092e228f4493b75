"""What the options of a connection hold, strategy by strategy."""

import uuid
from typing import Any

Json = dict[str, Any]

V2, V1 = "microsoft-identity-platform-v2.0", "azure-active-directory-v1.0"
DISCOVERABLE = {"oauth2", "oidc", "okta"}  # strategies whose options say where the token endpoint is
PER_CONNECTION_IDS = {"oauth2", "oidc", "okta", "samlp"}  # user ids that repeat the connection's name
SOCIAL = {
    "google-oauth2",
    "github",
    "bitbucket",
    "facebook",
    "sharepoint",
    "windowslive",
    "oauth2",
    "gitlab",
    "slack",
}


def connection(name: str, strategy: str) -> Json:
    """Make a connection without options.

    Its users sign in, and Connected Accounts is off.
    """
    return {
        "id": "con_" + uuid.uuid5(uuid.NAMESPACE_DNS, name).hex[:16],
        "name": name,
        "display_name": name.replace("-", " ").title(),
        "strategy": strategy,
        "realms": [name],
        "is_domain_connection": False,
        "authentication": {"active": True},
        "connected_accounts": {"active": False},
    }


def options(name: str, strategy: str, token_url: str, issuer: str, scope: str) -> Json:
    """Make the options that Auth0 has for a strategy.

    The client's credentials are added by the caller.
    """
    scopes = scope.split()
    match strategy:
        case "auth0":
            return {"brute_force_protection": True, "mfa": {"active": True, "return_enroll_settings": True}}
        case "google-apps":
            domain = f"{name}.example"
            return {"tenant_domain": domain, "domain": domain, "scope": scopes, "api_enable_users": True}
        case "waad":
            return _waad(name, scopes)
        case "oauth2":
            return {
                "authorizationURL": f"{issuer}/authorize",
                "tokenURL": token_url,
                "scope": scope,
                "authParams": {},
                "customHeaders": {},
                "useOauthSpecScope": True,
                "scripts": {"fetchUserProfile": "function (accessToken, ctx, cb) { cb(null, {}) }"},
            }
        case "oidc":
            metadata = {"issuer": issuer, "token_endpoint": token_url, "jwks_uri": f"{issuer}/keys"}
            discovery = f"{issuer}/.well-known/openid-configuration"
            return {
                "type": "back_channel",
                "issuer": issuer,
                "discovery_url": discovery,
                "oidc_metadata": metadata,
                "token_endpoint_auth_method": "client_secret_post",
                "scope": scope,
            }
        case "okta":
            domain = issuer.partition("://")[2]
            return {
                "type": "back_channel",
                "domain": domain,
                "issuer": issuer,
                "token_endpoint": token_url,
                "scope": scope,
            }
        case _:
            return {"scope": scopes, "freeform_scopes": [], "upstream_params": {}, "profile": True}


def _waad(name: str, scopes: list[str]) -> Json:
    return {
        "tenantId": str(uuid.uuid5(uuid.NAMESPACE_DNS, f"{name}.tenant")),
        "tenant_domain": f"{name}.onmicrosoft.example",
        "identity_api": V2,
        "useCommonEndpoint": False,
        "granted": True,
        "scope": scopes,
        "ext_access_token": True,
        "ext_refresh_token": True,
        "ext_expires_in": True,
    }
