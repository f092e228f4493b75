"""Microsoft Entra ID, Microsoft accounts and SharePoint.

Entra ID (Azure AD) has endpoints v2 and v1; the other two sign in through it.

https://learn.microsoft.com/entra/identity-platform/v2-oauth2-auth-code-flow#refresh-the-access-token
https://learn.microsoft.com/entra/identity-platform/reference-error-codes
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import date, timedelta
from typing import Any

from worker.providers.base import Client, Provider, RefusalBlame, TokenTarget, host_option

_V1 = "azure-active-directory-v1.0"
_SITE = re.compile(r"https://([a-z0-9-]+\.sharepoint\.(?:com|us|cn|de))(?![a-z0-9.-])", re.IGNORECASE)

# From the mildest blame to the most severe.
_NUMBERS = {
    RefusalBlame.NOBODY: {90033, 90024, 50033, 90006, 90012, 90055, 90090, 70012, 40010, 80005, 50196},
    RefusalBlame.OPERATOR: {7000215, 7000222, 700016, 90002, 50194, 7000218, 70011},
    RefusalBlame.USER: {
        *(50173, 700082, 70008, 700084, 70043, 65001, 50076, 50079, 50078, 53003, 50057, 50132, 50133),
    },
}


@dataclass(frozen=True, kw_only=True, eq=False)
class Microsoft(Provider):
    """Issues new refresh tokens without revoking the old ones.

    Attributes:
        tenant: the tenant if the connection's options name none.
    """

    tenant: str | None = None

    def endpoint(self, options: Mapping[str, Any]) -> str | None:
        """Return the tenant's endpoint, for ``identity_api``'s version."""
        shared = options.get("useCommonEndpoint") in (True, "true")
        named = None if shared else host_option(options, "tenantId", "tenant_domain", "domain")
        tenant = "common" if shared else named or self.tenant
        version = "" if options.get("identity_api") == _V1 else "v2.0/"
        return tenant and f"https://login.microsoftonline.com/{tenant}/oauth2/{version}token"

    def parameters(self, options: Mapping[str, Any]) -> Mapping[str, str]:
        """Return v1's ``resource``, if the options name one.

        Without it the token is for the resource of the sign-in.
        """
        resource = options.get("resource")
        if options.get("identity_api") == _V1 and isinstance(resource, str) and resource:
            return {"resource": resource}
        return {}

    def for_target(self, client: Client, target: TokenTarget) -> Client:
        """Return the client with the resource inside the scope.

        That is v2's form; with ``offline_access`` the answer contains a refresh token. v1 only has ``resource``.
        """
        if "/v2.0/" not in client.token_url:
            return super().for_target(client, TokenTarget(target.resource))
        prefix = f"{target.resource.rstrip('/')}/" if target.resource else ""
        scopes = [scope if "://" in scope else prefix + scope for scope in target.scopes or (".default",)]
        return replace(client, extra={**client.extra, "scope": " ".join((*scopes, "offline_access"))})

    def verdict(self, fields: Mapping[str, Any]) -> tuple[str, RefusalBlame] | None:
        """Return the verdict of ``error``, refined by AADSTS numbers.

        Microsoft warns against depending on the numbers. So a number is used only if ``error`` is not known, or if it
        makes the verdict milder; it never makes it more severe.
        """
        known = super().verdict(fields)
        numbers = set(_numbers(fields))
        for blame, numbers_of_blame in _NUMBERS.items():
            if known and known[1] is blame:
                break
            if matching := numbers & numbers_of_blame:
                return f"aadsts{min(matching)}", blame
        return known


class SharePoint(Microsoft):
    """SharePoint Online.

    The token must be for the site's host, not for Microsoft Graph.
    """

    def parameters(self, options: Mapping[str, Any]) -> Mapping[str, str]:
        """Return the scope for the SharePoint host in the options."""
        for value in options.values():
            for text in value if isinstance(value, list) else [value]:
                if isinstance(text, str) and (site := _SITE.search(text)):
                    # Without offline_access the answer has no new refresh token, and the old one will end.
                    return {"scope": f"https://{site[1].lower()}/.default offline_access"}
        return {}


def _numbers(fields: Mapping[str, Any]) -> Iterator[int]:
    """Yield the AADSTS numbers in an error's list and text."""
    listed = fields.get("error_codes")
    if isinstance(listed, list):
        yield from (number for number in listed if isinstance(number, int))
    text = fields.get("error_description")
    if isinstance(text, str):
        yield from (int(digits) for digits in re.findall(r"AADSTS([0-9]{4,8})", text))


_HOSTS = (
    "login.microsoftonline.com",
    "login.microsoftonline.us",
    "login.partner.microsoftonline.cn",
    "login.chinacloudapi.cn",
    "login.windows.net",
)
_IDLE = timedelta(days=90)

AZURE_AD = Microsoft(
    phrases=(),  # its numbers say more
    name="azure-ad",
    source="https://learn.microsoft.com/entra/identity-platform/v2-oauth2-auth-code-flow#refresh-the-access-token",
    read_on=date(2026, 11, 21),
    strategies=("waad",),
    hosts=_HOSTS,
    rotates=False,
    keeps_old_refresh=True,
    idle_life=_IDLE,
)
MICROSOFT_ACCOUNT = Microsoft(
    phrases=(),  # its numbers say more
    name="microsoft",
    source="https://learn.microsoft.com/entra/identity-platform/v2-oauth2-auth-code-flow#refresh-the-access-token",
    read_on=date(2026, 11, 21),
    strategies=("windowslive", "office365"),
    tenant="common",
    rotates=False,
    keeps_old_refresh=True,
    idle_life=_IDLE,
)
SHAREPOINT = SharePoint(
    phrases=(),  # its numbers say more
    name="sharepoint",
    source="https://learn.microsoft.com/entra/identity-platform/v2-oauth2-auth-code-flow#refresh-the-access-token",
    read_on=date(2026, 11, 21),
    strategies=("sharepoint",),
    tenant="common",
    rotates=False,
    keeps_old_refresh=True,
    idle_life=_IDLE,
)
