"""Facts of this machine, from TUNEBOOK_* environment variables and a `.env` file; never part of a spec."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from tunebook_spec.errors import SettingsError


class Settings(BaseSettings):
    model_config = SettingsConfigDict(
        env_prefix="TUNEBOOK_",
        env_nested_delimiter="__",
        env_file=".env",
        extra="ignore",
        frozen=True,
        use_attribute_docstrings=True,
    )

    storage_url: str = "runs"
    """Where runs live: a folder, or `s3://bucket/prefix` with pyarrow's `?endpoint_override=...`."""
    ray_address: str | None = None
    """A running Ray cluster, `host:port`; none: a local Ray for the time of the run."""
    num_workers: int = Field(1, ge=1)
    """Training workers."""
    cpus_per_worker: int | None = Field(None, ge=1)
    """Cores of one training worker; none: this machine's, shared out among the workers."""
    assets_dir: Path = Path(sys.prefix) / "share" / "tunebook"
    """Models and data packages that set-up installed."""
    cache_dir: Path = Path(sys.prefix) / "var" / "tunebook"
    """What can be made again: converted models, downloads, copies of remote artifacts."""
    hub_online: bool = False
    """Whether the Hugging Face hub may be asked."""
    hf_token: SecretStr | None = None
    """For gated models."""
    log: Literal["text", "json"] = "text"
    """Form of the log on stderr."""
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"

    @classmethod
    def read(cls) -> Settings:
        """The settings of this process.

        Raises:
            SettingsError: names each variable, its value and what it should be.
        """
        try:
            return cls()
        except ValidationError as error:
            lines = [
                f"  TUNEBOOK_{'__'.join(map(str, d['loc'])).upper()}: {d['msg']} (got {d['input']!r})"
                for d in error.errors()
            ]
            raise SettingsError("\n".join(["settings of this machine:", *lines])) from None
