"""Run by alembic, on the connection that it is handed."""

from alembic import context

from tunebook_jobs.tables import Base

context.configure(connection=context.config.attributes["connection"], target_metadata=Base.metadata)
context.run_migrations()
