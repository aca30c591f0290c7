"""The state of the fine-tuning service: what the protocol shows of it, and what it must not lose.

Every table counts its rows: lists and cursors go by `number`, which no two rows share, as times may be.
"""

from __future__ import annotations

from typing import Any, ClassVar

from sqlalchemy import JSON, BigInteger, Float, ForeignKey, Integer, String, UniqueConstraint
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

_Number = BigInteger().with_variant(Integer, "sqlite")


class Base(DeclarativeBase):
    # Unix times do not fit 32 bits after 2038.
    type_annotation_map: ClassVar[dict[Any, Any]] = {int: BigInteger}


class ApiKey(Base):
    __tablename__ = "api_keys"

    number: Mapped[int] = mapped_column(_Number, primary_key=True)
    id: Mapped[str] = mapped_column(String(32), unique=True)
    """The part of the key that may be shown."""
    project: Mapped[str] = mapped_column(String(64), index=True)
    secret_sha256: Mapped[str] = mapped_column(String(64))
    created_at: Mapped[int]
    revoked_at: Mapped[int | None]


class File(Base):
    __tablename__ = "files"

    number: Mapped[int] = mapped_column(_Number, primary_key=True)
    id: Mapped[str] = mapped_column(String(64), unique=True)
    project: Mapped[str] = mapped_column(String(64), index=True)
    filename: Mapped[str] = mapped_column(String(255))
    purpose: Mapped[str] = mapped_column(String(32))
    num_bytes: Mapped[int] = mapped_column(BigInteger)
    created_at: Mapped[int]
    expires_at: Mapped[int | None]
    row_format: Mapped[str | None] = mapped_column(String(32))
    """Of training data: `messages` or `preference`."""
    num_rows: Mapped[int | None]
    """Of training data: examples."""


class Job(Base):
    __tablename__ = "jobs"

    number: Mapped[int] = mapped_column(_Number, primary_key=True)
    id: Mapped[str] = mapped_column(String(64), unique=True)
    project: Mapped[str] = mapped_column(String(64), index=True)
    created_at: Mapped[int]
    finished_at: Mapped[int | None]
    status: Mapped[str] = mapped_column(String(32), index=True)
    model: Mapped[str] = mapped_column(String(255))
    """As it was asked for, maybe by an alias."""
    base_model: Mapped[dict[str, Any]] = mapped_column(JSON)
    """What it stood for when the job was created, as a spec has it."""
    training_file: Mapped[str] = mapped_column(String(64))
    validation_file: Mapped[str | None] = mapped_column(String(64))
    method: Mapped[dict[str, Any]] = mapped_column(JSON)
    """As it was asked for, `auto` where nothing was said."""
    hyperparameters: Mapped[dict[str, Any]] = mapped_column(JSON)
    """As they are: no `auto` is left."""
    seed: Mapped[int]
    suffix: Mapped[str | None] = mapped_column(String(64))
    labels: Mapped[dict[str, str] | None] = mapped_column("metadata", JSON(none_as_null=True))
    error: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    fine_tuned_model: Mapped[str | None] = mapped_column(String(255))
    trained_tokens: Mapped[int | None] = mapped_column(BigInteger)
    result_files: Mapped[list[str]] = mapped_column(JSON)
    estimated_finish: Mapped[int | None]
    lease_owner: Mapped[str | None] = mapped_column(String(128))
    lease_until: Mapped[float | None] = mapped_column(Float)
    """Unix time; a worker that has not said since that it lives has lost the job."""
    attempts: Mapped[int] = mapped_column(default=0)
    """How often a worker has taken it up since it told a step."""


class Event(Base):
    __tablename__ = "events"
    __table_args__ = (UniqueConstraint("job", "step", name="one_event_a_step"),)

    number: Mapped[int] = mapped_column(_Number, primary_key=True)
    id: Mapped[str] = mapped_column(String(64), unique=True)
    job: Mapped[str] = mapped_column(ForeignKey("jobs.id"), index=True)
    created_at: Mapped[int]
    level: Mapped[str] = mapped_column(String(8))
    message: Mapped[str]
    type: Mapped[str] = mapped_column(String(16))
    data: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    step: Mapped[int | None]
    """Of metrics; a step that is taken again after a kill is told once."""


class Checkpoint(Base):
    __tablename__ = "checkpoints"
    __table_args__ = (UniqueConstraint("job", "step_number", name="one_checkpoint_a_step"),)

    number: Mapped[int] = mapped_column(_Number, primary_key=True)
    id: Mapped[str] = mapped_column(String(64), unique=True)
    job: Mapped[str] = mapped_column(ForeignKey("jobs.id"), index=True)
    created_at: Mapped[int]
    step_number: Mapped[int]
    model: Mapped[str] = mapped_column(String(255))
    metrics: Mapped[dict[str, Any]] = mapped_column(JSON)


class TunedModel(Base):
    __tablename__ = "models"

    number: Mapped[int] = mapped_column(_Number, primary_key=True)
    id: Mapped[str] = mapped_column(String(255), unique=True)
    """`ft:<base>:<project>:<suffix>:<id>`."""
    project: Mapped[str] = mapped_column(String(64), index=True)
    job: Mapped[str] = mapped_column(ForeignKey("jobs.id"))
    created_at: Mapped[int]
    run: Mapped[str] = mapped_column(String(128))
    """The run that made it, as the model server knows it: `ftjob_...@1`."""


class AuditEntry(Base):
    __tablename__ = "audit"

    number: Mapped[int] = mapped_column(_Number, primary_key=True)
    at: Mapped[float] = mapped_column(Float)
    project: Mapped[str | None] = mapped_column(String(64))
    key: Mapped[str | None] = mapped_column(String(32))
    """The part of the key that may be shown; None: a refused one that was never made here."""
    action: Mapped[str] = mapped_column(String(128))
    """Method and route, as the published document spells it; `refused` where a key opened nothing."""
    target: Mapped[str | None] = mapped_column(String(255))
    """What the route names; of a refused key, the address that sent it."""
    status: Mapped[int]
