"""Requests and answers of the protocol, with its limits."""

from __future__ import annotations

from typing import Annotated, Any, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, field_validator

Item = TypeVar("Item")

Purpose = Literal["assistants", "batch", "fine-tune", "vision", "user_data", "evals"]
Status = Literal["validating_files", "queued", "running", "succeeded", "failed", "cancelled", "paused"]
Auto = Literal["auto"]
BatchSize = Auto | Annotated[int, Field(ge=1, le=256)]
LearningRateMultiplier = Auto | Annotated[float, Field(gt=0, allow_inf_nan=False)]
NumEpochs = Auto | Annotated[int, Field(ge=1, le=50)]
Beta = Auto | Annotated[float, Field(gt=0, le=2)]
Metadata = Annotated[
    dict[
        Annotated[str, StringConstraints(max_length=64)],
        Annotated[str, StringConstraints(max_length=512)],
    ],
    Field(max_length=16),
]


class Request(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Hyperparameters(Request):
    batch_size: BatchSize = "auto"
    learning_rate_multiplier: LearningRateMultiplier = "auto"
    n_epochs: NumEpochs = "auto"


class DpoHyperparameters(Hyperparameters):
    beta: Beta = "auto"


class Supervised(Request):
    hyperparameters: Hyperparameters = Hyperparameters()


class Dpo(Request):
    hyperparameters: DpoHyperparameters = DpoHyperparameters()


class Method(Request):
    type: Literal["supervised", "dpo"]
    supervised: Supervised | None = None
    dpo: Dpo | None = None


class CreateJob(Request):
    model: str = Field(min_length=1, max_length=255)
    training_file: str = Field(min_length=1, max_length=255)
    validation_file: str | None = Field(None, min_length=1, max_length=255)
    method: Method | None = None
    hyperparameters: Hyperparameters | None = Field(None, json_schema_extra={"deprecated": True})
    seed: int | None = Field(None, ge=0, le=2**31 - 1)
    suffix: str | None = Field(None, min_length=1, max_length=64)
    metadata: Metadata | None = None
    integrations: Annotated[list[dict[str, Any]], Field(max_length=5)] | None = None

    @field_validator("model", "training_file", "validation_file", "suffix", "metadata")
    @classmethod
    def postgres_can_hold_it(cls, value: Any) -> Any:
        texts = (*value, *value.values()) if isinstance(value, dict) else (value or "",)
        if any("\0" in text for text in texts):
            raise ValueError("U+0000 cannot be stored")
        return value


class FileObject(BaseModel):
    id: str
    object: Literal["file"] = "file"
    bytes: int
    created_at: int
    expires_at: int | None
    filename: str
    purpose: str
    status: Literal["uploaded", "processed", "error"] = "processed"
    status_details: str | None = None


class Deleted(BaseModel):
    id: str
    object: Literal["file", "model"]
    deleted: Literal[True] = True


class JobError(BaseModel):
    code: str
    message: str
    param: str | None


class FineTuningJob(BaseModel):
    id: str
    object: Literal["fine_tuning.job"] = "fine_tuning.job"
    created_at: int
    error: JobError | None
    fine_tuned_model: str | None
    finished_at: int | None
    hyperparameters: dict[str, Any]
    model: str
    organization_id: str
    result_files: list[str]
    seed: int
    status: Status
    trained_tokens: int | None
    training_file: str
    validation_file: str | None
    estimated_finish: int | None
    integrations: list[dict[str, Any]] = []
    metadata: dict[str, str] | None
    method: dict[str, Any]


class JobEvent(BaseModel):
    id: str
    object: Literal["fine_tuning.job.event"] = "fine_tuning.job.event"
    created_at: int
    level: Literal["info", "warn", "error"]
    message: str
    type: Literal["message", "metrics"]
    data: dict[str, Any] | None


class JobCheckpoint(BaseModel):
    id: str
    object: Literal["fine_tuning.job.checkpoint"] = "fine_tuning.job.checkpoint"
    created_at: int
    fine_tuned_model_checkpoint: str
    fine_tuning_job_id: str
    metrics: dict[str, float]
    step_number: int


class Model(BaseModel):
    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str


class Listed(BaseModel, Generic[Item]):
    object: Literal["list"] = "list"
    data: list[Item]
    has_more: bool
    first_id: str | None
    last_id: str | None


class ModelList(BaseModel):
    object: Literal["list"] = "list"
    data: list[Model]


def listed(items: list[Any], has_more: bool) -> dict[str, Any]:
    first, last = (items[0].id, items[-1].id) if items else (None, None)
    return {"data": items, "has_more": has_more, "first_id": first, "last_id": last}
