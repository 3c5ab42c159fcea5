"""engines without files"""

import sqlalchemy as sa
from alembic import op

revision = '0019'
down_revision = '0018'
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table('deployments', schema=None) as batch_op:
        batch_op.add_column(sa.Column('options', sa.String(), server_default='', nullable=False))
        batch_op.add_column(sa.Column('sealed', sa.String(), server_default='', nullable=False))
