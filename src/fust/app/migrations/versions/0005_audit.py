"""the audit becomes a chain of hashes that the database keeps append-only"""

import sqlalchemy as sa
from alembic import op

from fust.accounts.audit import seal
from fust.accounts.audit_chain import GENESIS
from fust.accounts.audit_models import guards

revision = '0005'
down_revision = '0004'
branch_labels = None
depends_on = None


def upgrade() -> None:
    entries = op.create_table('audit_entries',
    sa.Column('seq', sa.Integer(), autoincrement=False, nullable=False),
    sa.Column('at', sa.DateTime(), nullable=False),
    sa.Column('actor', sa.String(), nullable=False),
    sa.Column('token_id', sa.String(), nullable=True),
    sa.Column('via', sa.String(), nullable=False),
    sa.Column('address', sa.String(), nullable=False),
    sa.Column('action', sa.String(), nullable=False),
    sa.Column('subject', sa.String(), nullable=False),
    sa.Column('detail', sa.String(), nullable=False),
    sa.Column('prev_hash', sa.String(), nullable=False),
    sa.Column('hash', sa.String(), nullable=False),
    sa.PrimaryKeyConstraint('seq')
    )
    with op.batch_alter_table('audit_entries', schema=None) as batch_op:
        batch_op.create_index('ix_audit_entries_actor_action', ['actor', 'action'], unique=False)
        batch_op.create_index('ix_audit_entries_at', ['at'], unique=False)
        batch_op.create_index('ix_audit_entries_subject', ['subject'], unique=False)

    _carry_over(entries)
    for statement in guards(op.get_bind().dialect.name):
        op.execute(sa.DDL(statement.replace('%', '%%')))
    op.drop_table('audit')


def _carry_over(entries: sa.Table) -> None:
    """Seals what the first version wrote, in its order; its `detail` was the commit."""
    old = sa.table('audit', *(sa.column(name) for name in ('id', 'actor', 'action', 'subject', 'detail')),
                   sa.column('at', sa.DateTime()))
    connection, previous, rows = op.get_bind(), GENESIS, []
    for seq, row in enumerate(connection.execute(sa.select(old).order_by(old.c.id)).all(), 1):
        rows.append(seal({
            'seq': seq, 'at': row.at, 'actor': row.actor, 'token_id': None, 'via': '', 'address': '',
            'action': row.action, 'subject': row.subject, 'detail': {'oid': row.detail} if row.detail else {},
            'prev_hash': previous,
        }))
        previous = rows[-1]['hash']
    if rows:
        connection.execute(entries.insert(), rows)


def downgrade() -> None:
    raise NotImplementedError('restore the backup that was made before the upgrade')
