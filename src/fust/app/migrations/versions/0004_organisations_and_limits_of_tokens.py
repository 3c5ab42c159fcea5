"""organisations and limits of tokens"""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # First what makes SQLite copy a table, while nothing points to it: dropping the old copy would empty the pointing one.
    with op.batch_alter_table("namespaces") as table:
        table.add_column(sa.Column("display_name", sa.String(), nullable=False, server_default=""))
        table.alter_column("owner_id", existing_type=sa.String(), nullable=True)
    op.create_table(
        "members",
        sa.Column("organisation", sa.String(), nullable=False),
        sa.Column("user_id", sa.String(), nullable=False),
        sa.Column("role", sa.String(), nullable=False),
        sa.Column("created_at", sa.DateTime(), nullable=False),
        sa.ForeignKeyConstraint(["organisation"], ["namespaces.key"], ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("organisation", "user_id"),
    )
    op.create_index("ix_members_user_id", "members", ["user_id"])
    # An organisation had one owner, its maker; now it has members.
    op.execute(
        "INSERT INTO members (organisation, user_id, role, created_at)"
        " SELECT key, owner_id, 'owner', created_at FROM namespaces WHERE kind = 'org'"
    )
    op.execute("UPDATE namespaces SET owner_id = NULL WHERE kind = 'org'")
    op.add_column("tokens", sa.Column("repos", sa.JSON(), nullable=True))
    op.add_column("tokens", sa.Column("models", sa.JSON(), nullable=True))
    op.add_column("tokens", sa.Column("expires_at", sa.DateTime(), nullable=True))
    op.add_column("users", sa.Column("suspended", sa.Boolean(), nullable=False, server_default=sa.false()))
