"""Facts of this machine, from TUNEBOOK_* environment variables and a `.env` file; never part of a spec."""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, SettingsConfigDict

from tunebook_spec.base_model import AnyBaseModel, BuiltinModel
from tunebook_spec.errors import SettingsError


class ModelSettings(BaseModel):
    """Where a supporting model of specs is reached, and what its answers may cost.

    A budget is no part of a spec: it decides whether a data set is finished, never what is in it. So a run
    that it stopped goes on under a bigger one, with all that was answered.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    base_url: str | None = None
    """Of the OpenAI protocol, e.g. `https://api.openai.com/v1`; an endpoint needs one."""
    api_key: SecretStr | None = None
    """None: the endpoint asks for none."""
    concurrency: int = Field(8, ge=1)
    """Most requests under way at once."""
    timeout_s: float = Field(120.0, gt=0)
    """For one request, after which it is asked again."""
    price_in: float | None = Field(None, ge=0)
    """Money for a million prompt tokens; in any currency, that of `price_out` and `budget_cost`."""
    price_out: float | None = Field(None, ge=0)
    """Money for a million tokens of answers."""
    budget_tokens: int | None = Field(None, ge=1)
    """What the answers of one stage may take, prompts included and whenever they were answered; at most the
    requests under way go beyond it."""
    budget_cost: float | None = Field(None, gt=0)
    """The same in money."""

    @field_validator("base_url")
    @classmethod
    def base_url_can_be_opened_and_holds_no_secret(cls, url: str | None) -> str | None:
        if url is None:
            return None
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.netloc:
            raise ValueError("is no http:// or https:// URL")
        if "@" in parts.netloc or parts.query:
            raise ValueError("holds a user, password or query; a key belongs into API_KEY")
        return url.rstrip("/")

    @model_validator(mode="after")
    def prices_are_known_where_money_counts(self) -> ModelSettings:
        if (self.price_in is None) != (self.price_out is None):
            raise ValueError("PRICE_IN and PRICE_OUT go together")
        if self.budget_cost is not None and self.price_in is None:
            raise ValueError("BUDGET_COST needs PRICE_IN and PRICE_OUT")
        return self


class HostedSettings(ModelSettings):
    """The provider of `method: hosted`: where it is, what its training and its answers may cost.

    The prices and budgets of `ModelSettings` are those of answers, of the model that is tuned.
    """

    tuned_price_in: float | None = Field(None, ge=0)
    """Money for a million prompt tokens of the tuned model; none: `price_in`."""
    tuned_price_out: float | None = Field(None, ge=0)
    """Money for a million tokens of its answers; none: `price_out`."""
    training_price: float | None = Field(None, ge=0)
    """Money for a million trained tokens, in the currency of the others."""
    training_budget_tokens: int | None = Field(None, ge=1)
    """Most tokens that a job may train, over all epochs; more by our count: nothing is uploaded."""
    training_budget_cost: float | None = Field(None, gt=0)
    """The same in money."""
    poll_s: float = Field(5.0, gt=0)
    """Between two looks at a job, at first; later up to a minute."""
    cancel_on_interrupt: bool = False
    """Whether Ctrl-C cancels the job; it is paid for, so that else it goes on, and the next run finds it."""

    @model_validator(mode="after")
    def training_price_is_known_where_money_counts(self) -> HostedSettings:
        if (self.tuned_price_in is None) != (self.tuned_price_out is None):
            raise ValueError("TUNED_PRICE_IN and TUNED_PRICE_OUT go together")
        if self.training_budget_cost is not None and self.training_price is None:
            raise ValueError("TRAINING_BUDGET_COST needs TRAINING_PRICE")
        return self

    def of_answers(self, *, is_tuned: bool) -> ModelSettings:
        """As for a supporting model, with the prices of the model that answers."""
        known = self.model_dump(include=set(ModelSettings.model_fields))
        if is_tuned and self.tuned_price_in is not None:
            known |= {"price_in": self.tuned_price_in, "price_out": self.tuned_price_out}
        return ModelSettings(**known)


class GatewaySettings(BaseModel):
    """The fine-tuning service: where its state is, what can be tuned, and how."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    database_url: SecretStr | None = None
    """Of SQLAlchemy, `postgresql+psycopg://user:password@host/database`; none: SQLite beside the runs."""
    model_server_url: str = "http://127.0.0.1:8001/v1"
    """Where chat completions are passed on to."""
    base_models: dict[str, AnyBaseModel] = {
        "smollm2-135m-instruct": BuiltinModel(kind="builtin", name="smollm2-135m-instruct")
    }
    """What can be tuned and asked, by the name that programs know it by; each as in a spec's `base_model`,
    paths relative to where the service is started."""
    aliases: dict[str, str] = {"gpt-4o-mini-2024-07-18": "smollm2-135m-instruct"}
    """Other names for them, so that programs written for another service run as they are."""
    method: Literal["full", "lora"] = "lora"
    """What a job trains: all weights, or an adapter that is merged."""
    learning_rate: float = Field(1e-3, gt=0)
    """What a job's `learning_rate_multiplier` multiplies; this suits adapters of the embedded model. Those of
    models of billions of parameters want about 2e-4, and all weights a tenth of either."""
    checkpoint_every_steps: int = Field(10, ge=1)
    """A job that was paused, or whose worker was killed, goes on from the newest checkpoint."""
    requests_per_minute: int = Field(600, ge=1)
    """Of one key, at one gateway."""
    lease_s: float = Field(15.0, ge=1)
    """A worker that has not been heard of for so long has lost its job to another."""
    max_engines: int = Field(2, ge=1)
    """Models that the model server holds in memory at once; another one takes the place of the one that was
    asked longest ago."""

    @model_validator(mode="after")
    def aliases_name_base_models(self) -> GatewaySettings:
        for alias, name in self.aliases.items():
            if name not in self.base_models:
                known = ", ".join(sorted(self.base_models))
                raise ValueError(f"ALIASES: {alias!r} stands for {name!r}, which is none of {known}")
        return self

    def base_model(self, name: str) -> AnyBaseModel | None:
        """The model that a name or an alias stands for; None if there is none."""
        return self.base_models.get(self.aliases.get(name, name))


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
    """A running Ray cluster, `host:port`, whose hosts prepare data, train and serve; none: the cores of this
    machine prepare and serve, and a local Ray trains, for the time of the run."""
    num_workers: int = Field(1, ge=1)
    """Training workers."""
    min_workers: int | None = Field(None, ge=1)
    """So few go on training, from the newest checkpoint, where hosts are lost; none: all of them or none."""
    cpus_per_worker: int | None = Field(None, ge=1)
    """Cores of one training worker, or of one engine on a cluster; none: this machine's, shared out among the
    workers, or the cluster's among the engines."""
    num_engines: int = Field(0, ge=0)
    """Engines on the cluster's hosts, with a copy of the model each, that answer a batch together: a GPU each
    or, without any, cores. They start anew for each batch; 0: one engine, in a process of this machine."""
    assets_dir: Path = Path(sys.prefix) / "share" / "tunebook"
    """Models and data packages that set-up installed."""
    cache_dir: Path = Path(sys.prefix) / "var" / "tunebook"
    """What can be made again: converted models, downloads, copies of remote artifacts."""
    hub_online: bool = False
    """Whether the Hugging Face hub may be asked."""
    allow_unpinned: bool = False
    """Whether a run may take a hub model whose revision is a branch or tag, and no commit."""
    hf_token: SecretStr | None = None
    """For gated models."""
    models: dict[str, ModelSettings] = {}
    """By role of a spec, e.g. TUNEBOOK_MODELS__TEACHER__BASE_URL."""
    hosted: HostedSettings = HostedSettings()
    """The provider that `method: hosted` trains at, e.g. TUNEBOOK_HOSTED__BASE_URL."""
    gateway: GatewaySettings = GatewaySettings()
    """Of the fine-tuning service, e.g. TUNEBOOK_GATEWAY__DATABASE_URL."""
    price_per_hour: float | None = Field(None, ge=0)
    """Money for an hour of this machine, in any currency, by which the report tells what queries and an
    update cost; none, or with `ray_address`, where other machines train: it tells no money."""
    mlflow_tracking_uri: str | None = None
    """An MLflow server that shows runs as they go, `http://host:port`; none: nobody is told."""
    git_commit: str | None = None
    """What a run records where its spec lies in no repository; a submitted one is sent that of its spec."""
    log: Literal["text", "json"] = "text"
    """Form of the log on stderr."""
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"

    @field_validator("min_workers")
    @classmethod
    def min_workers_are_some_of_all(cls, least: int | None, info: ValidationInfo) -> int | None:
        if least is not None and least > info.data.get("num_workers", least):
            raise ValueError(f"is more than TUNEBOOK_NUM_WORKERS {info.data['num_workers']}")
        return least

    @field_validator("mlflow_tracking_uri")
    @classmethod
    def mlflow_tracking_uri_holds_no_secret(cls, uri: str | None) -> str | None:
        if uri is not None and "@" in urlsplit(uri).netloc:
            raise ValueError(
                "holds a user or password; MLflow reads MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
            )
        return uri

    @property
    def local_price_per_hour(self) -> float | None:
        """The price, where this machine does all the work."""
        return self.price_per_hour if self.ray_address is None else None

    def of_model(self, role: str) -> ModelSettings:
        """The settings of a role; the defaults where nothing is set."""
        return self.models.get(role, ModelSettings())

    @classmethod
    def read(cls) -> Settings:
        """The settings of this process.

        Raises:
            SettingsError: names each variable, its value and what it should be.
        """
        try:
            return cls()
        except ValidationError as error:
            lines = [_line(dict(detail)) for detail in error.errors()]
            raise SettingsError("\n".join(["settings of this machine:", *lines])) from None


def misspelt() -> Iterator[tuple[str, str]]:
    """Variables of the environment that are nearly a setting, with the one that they are like.

    What is like none is not told: Kubernetes gives a pod a TUNEBOOK_GATEWAY_PORT of its own.
    """
    known = [name.upper() for name in Settings.model_fields]
    for variable in sorted(os.environ):
        prefix, of_us, name = variable.upper().partition("TUNEBOOK_")
        group, *rest = name.split("__")
        if of_us and not prefix and group not in known:
            for near in difflib.get_close_matches(group, known, n=1, cutoff=0.85):
                yield variable, "__".join([f"TUNEBOOK_{near}", *rest])


def _line(detail: dict[str, Any]) -> str:
    """One problem; a value is shown only where it can be no secret: not of a URL, group or unknown name."""
    name = "__".join(map(str, detail["loc"])).upper()
    message = str(detail["msg"]).removeprefix("Value error, ")
    if detail["type"] == "extra_forbidden":
        field = Settings.model_fields[detail["loc"][0]].annotation
        group = field if isinstance(field, type) and issubclass(field, BaseModel) else ModelSettings
        return f"  TUNEBOOK_{name}: unknown; known: {', '.join(group.model_fields).upper()}"
    secret = ("api_key", "base_url", "hf_token", "mlflow_tracking_uri")
    hidden = isinstance(detail["input"], dict) or detail["loc"][-1] in secret
    return f"  TUNEBOOK_{name}: {message}" + ("" if hidden else f" (got {detail['input']!r})")
