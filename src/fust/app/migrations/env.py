"""Alembic's entry: runs migrations on the connection that the app hands over, all in one transaction.

SQLite's schema changes are transactional when nobody commits between them, which our connections leave to us
(``store.database``); Alembic does not count on that unless told.
"""

from alembic import context
from sqlalchemy import text

connection = context.config.attributes["connection"]
context.configure(
    connection=connection,
    target_metadata=context.config.attributes.get("metadata"),
    render_as_batch=True,
    transactional_ddl=True,
)
with context.begin_transaction():
    context.run_migrations()
    if connection.dialect.name == "sqlite":
        broken = connection.execute(text("PRAGMA foreign_key_check")).fetchall()
        if broken:
            raise RuntimeError(f"rows of {broken[0][0]} point to rows of {broken[0][2]} that are not there")
