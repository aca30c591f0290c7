"""The one shape of a chat that every package passes on: plain dicts, as chat templates want them."""

from __future__ import annotations

from typing import Literal, TypedDict

Role = Literal["system", "user", "assistant"]


class Message(TypedDict):
    role: Role
    content: str
