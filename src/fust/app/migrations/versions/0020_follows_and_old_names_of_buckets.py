"""follows and old names of buckets"""

import sqlalchemy as sa
from alembic import op

revision = '0020'
down_revision = '0019'
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table('bucket_old_names',
    sa.Column('key', sa.String(), nullable=False),
    sa.Column('bucket_id', sa.String(), nullable=False),
    sa.ForeignKeyConstraint(['bucket_id'], ['buckets.id'], ondelete='CASCADE'),
    sa.PrimaryKeyConstraint('key')
    )
    with op.batch_alter_table('bucket_old_names', schema=None) as batch_op:
        batch_op.create_index(batch_op.f('ix_bucket_old_names_bucket_id'), ['bucket_id'], unique=False)

    op.create_table('follows',
    sa.Column('follower', sa.String(), nullable=False),
    sa.Column('followed', sa.String(), nullable=False),
    sa.Column('created_at', sa.DateTime(), nullable=False),
    sa.ForeignKeyConstraint(['followed'], ['namespaces.key'], ondelete='CASCADE'),
    sa.ForeignKeyConstraint(['follower'], ['users.id'], ondelete='CASCADE'),
    sa.PrimaryKeyConstraint('follower', 'followed')
    )
    with op.batch_alter_table('follows', schema=None) as batch_op:
        batch_op.create_index(batch_op.f('ix_follows_followed'), ['followed'], unique=False)
