"""Settings of all tests. Their fixtures lie in ``tests/support/plugins``, one file for each subject."""

from __future__ import annotations

import hypothesis

pytest_plugins = [
    "tests.support.plugins.servers",
    "tests.support.plugins.tenant",
    "tests.support.plugins.workers",
]

# A slow machine is no failure of the code.
hypothesis.settings.register_profile("patient", deadline=None)
hypothesis.settings.load_profile("patient")
