"""A second kind of emulated provider, played from a script.

`idp` emulates providers as their documentation describes them. This package plays what public reports show that
token endpoints really answer, and what nobody has seen yet: `library` has the shapes by name, each with the truth
behind it, `invented_shapes` makes up others, `incidents` what goes wrong over days, `provider` keeps
the truth of each grant, `server` sends the bytes.
Nothing of either package knows the other.

    provider = ScriptedProvider("acme", clock=clock, policy=Policy(rotates=True), seed=7)
    provider.add_client("app", "secret")
    grant = provider.add_grant("ada", "app", wording=Wording(dead_grant=LIBRARY["errors_list_code"]))
    provider.queue(LIBRARY["throttled"], invent(Trouble.NOBODY, random), grant="ada")
    with serving(provider) as server:
        renew(server.token_url("acme"), grant.refresh_token)
    provider.presentations("ada")  # what was asked, and what truly became of it
"""

from emulators.scripted.grants import IssuedPair, Policy, Presentation, ScriptedClient, ScriptedGrant
from emulators.scripted.incidents import INCIDENTS, Incident, Incidents
from emulators.scripted.invented_shapes import invent
from emulators.scripted.library import LIBRARY, Wording, random_wording
from emulators.scripted.provider import ScriptedProvider
from emulators.scripted.script import Script
from emulators.scripted.server import ScriptedServer, serving
from emulators.scripted.shape import Exchange, Shape, Trouble

__all__ = [
    "INCIDENTS",
    "LIBRARY",
    "Exchange",
    "Incident",
    "Incidents",
    "IssuedPair",
    "Policy",
    "Presentation",
    "Script",
    "ScriptedClient",
    "ScriptedGrant",
    "ScriptedProvider",
    "ScriptedServer",
    "Shape",
    "Trouble",
    "Wording",
    "invent",
    "random_wording",
    "serving",
]
