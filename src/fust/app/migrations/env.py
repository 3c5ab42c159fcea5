"""Alembic's entry: runs migrations on the connection that the app hands over."""

from alembic import context

connection = context.config.attributes["connection"]
context.configure(
    connection=connection, target_metadata=context.config.attributes.get("metadata"), render_as_batch=True
)
with context.begin_transaction():
    context.run_migrations()
