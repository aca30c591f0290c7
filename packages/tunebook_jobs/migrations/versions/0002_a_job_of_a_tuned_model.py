"""A job starts from a model of any name that a model can have."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    _of_length(255)


def downgrade() -> None:
    _of_length(128)


def _of_length(length: int) -> None:
    if op.get_bind().dialect.name == "sqlite":  # where no length binds, and no column can be altered
        return
    op.alter_column("jobs", "model", type_=sa.String(length=length), existing_nullable=False)
