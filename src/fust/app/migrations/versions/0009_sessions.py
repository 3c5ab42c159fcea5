"""sessions can be told apart and ended one by one"""

import secrets

import sqlalchemy as sa
from alembic import op

revision = '0009'
down_revision = '0008'
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table('browser_sessions', schema=None) as batch_op:
        batch_op.add_column(sa.Column('id', sa.String(), nullable=True))
        batch_op.add_column(sa.Column('how', sa.String(), nullable=False, server_default=''))
        batch_op.add_column(sa.Column('address', sa.String(), nullable=False, server_default=''))
        batch_op.add_column(sa.Column('agent', sa.String(), nullable=False, server_default=''))
        batch_op.add_column(sa.Column('last_used_at', sa.DateTime(), nullable=True))

    rows = sa.table('browser_sessions', sa.column('secret_hash'), sa.column('id'))
    connection = op.get_bind()
    for secret_hash in connection.scalars(sa.select(rows.c.secret_hash)).all():
        name = 's_' + secrets.token_hex(10)
        connection.execute(rows.update().where(rows.c.secret_hash == secret_hash).values(id=name))

    with op.batch_alter_table('browser_sessions', schema=None) as batch_op:
        batch_op.alter_column('id', nullable=False)
        for column in ('how', 'address', 'agent'):
            batch_op.alter_column(column, server_default=None)
        batch_op.create_unique_constraint('uq_browser_sessions_id', ['id'])
