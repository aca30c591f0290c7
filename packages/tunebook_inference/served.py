"""A model that something else serves by the OpenAI protocol, to be evaluated in the place of a tuned one."""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit

from tunebook_run.settings import ModelSettings
from tunebook_spec.base_model import EndpointModel
from tunebook_spec.fields import Frozen

ROLE = "tuned"
"""Under this role the settings of the machine say its key, its time-out and its prices."""


class Served(Frozen):
    base_url: str
    model: str
    """The name that the endpoint knows it by."""
    who: str
    """Name, host and, where the endpoint tells, what lies behind the name: a part of every digest."""
    concurrency: int | None = None
    """Most requests under way at once; none: as the settings have it."""

    @property
    def reference(self) -> EndpointModel:
        return EndpointModel(kind="endpoint", model=self.model)

    @property
    def is_remote(self) -> bool:
        """Whether what it is asked leaves this machine."""
        host = urlsplit(self.base_url).hostname or ""
        try:
            return not ipaddress.ip_address(host).is_loopback
        except ValueError:
            return host != "localhost"

    def settings(self, of_role: ModelSettings) -> ModelSettings:
        """The settings of its role, for this endpoint."""
        changes = {"base_url": self.base_url, "concurrency": self.concurrency or of_role.concurrency}
        return of_role.model_copy(update=changes)
