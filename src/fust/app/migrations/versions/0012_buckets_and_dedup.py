"""buckets, and the chunks by which clients ask what a namespace holds"""

import struct

import sqlalchemy as sa
from alembic import op

revision = '0012'
down_revision = '0011'
branch_labels = None
depends_on = None

_SEGMENT = struct.Struct("<32sIIII")
_CHUNK = struct.Struct("<32sII")


def upgrade() -> None:
    op.create_table('buckets',
    sa.Column('id', sa.String(), nullable=False),
    sa.Column('key', sa.String(), nullable=False),
    sa.Column('owner', sa.String(), nullable=False),
    sa.Column('name', sa.String(), nullable=False),
    sa.Column('private', sa.Boolean(), nullable=False),
    sa.Column('files', sa.Integer(), nullable=False),
    sa.Column('size_bytes', sa.BigInteger(), nullable=False),
    sa.Column('created_at', sa.DateTime(), nullable=False),
    sa.Column('updated_at', sa.DateTime(), nullable=False),
    sa.PrimaryKeyConstraint('id'),
    sa.UniqueConstraint('key')
    )
    with op.batch_alter_table('buckets', schema=None) as batch_op:
        batch_op.create_index(batch_op.f('ix_buckets_owner'), ['owner'], unique=False)

    op.create_table('bucket_files',
    sa.Column('bucket_id', sa.String(), nullable=False),
    sa.Column('path', sa.String().with_variant(sa.String(collation='C'), 'postgresql'), nullable=False),
    sa.Column('sha256', sa.String(), nullable=False),
    sa.Column('xet_hash', sa.String(), nullable=False),
    sa.Column('size', sa.BigInteger(), nullable=False),
    sa.Column('content_type', sa.String(), nullable=False),
    sa.Column('mtime', sa.DateTime(), nullable=False),
    sa.Column('uploaded_at', sa.DateTime(), nullable=False),
    sa.ForeignKeyConstraint(['bucket_id'], ['buckets.id'], ondelete='CASCADE'),
    sa.PrimaryKeyConstraint('bucket_id', 'path')
    )
    with op.batch_alter_table('bucket_files', schema=None) as batch_op:
        batch_op.create_index(batch_op.f('ix_bucket_files_sha256'), ['sha256'], unique=False)

    op.create_table('dedup_chunks',
    sa.Column('chunk', sa.String(), nullable=False),
    sa.Column('xet_hash', sa.String(), nullable=False),
    sa.ForeignKeyConstraint(['xet_hash'], ['xet_files.xet_hash'], ondelete='CASCADE'),
    sa.PrimaryKeyConstraint('chunk', 'xet_hash')
    )
    with op.batch_alter_table('dedup_chunks', schema=None) as batch_op:
        batch_op.create_index(batch_op.f('ix_dedup_chunks_xet_hash'), ['xet_hash'], unique=False)
    _find_chunks(op.get_bind())


def _find_chunks(bind: sa.Connection) -> None:
    """Notes the chunks of the files that are here: each file's first, and those whose hash ends in ten zero bits."""
    files = sa.table("xet_files", sa.column("xet_hash", sa.String), sa.column("segments", sa.LargeBinary))
    xorbs = sa.table("xorbs", sa.column("hash", sa.String), sa.column("chunks", sa.LargeBinary))
    found = sa.table("dedup_chunks", sa.column("chunk", sa.String), sa.column("xet_hash", sa.String))
    for xet_hash in list(bind.execute(sa.select(files.c.xet_hash)).scalars()):
        segments = bind.execute(sa.select(files.c.segments).where(files.c.xet_hash == xet_hash)).scalar_one()
        chunks: set[str] = set()
        for number, (xorb, _, _, start, end) in enumerate(_SEGMENT.iter_unpack(segments)):
            packed = bind.execute(sa.select(xorbs.c.chunks).where(xorbs.c.hash == _hex(xorb))).scalar()
            hashes = [row[0] for row in _CHUNK.iter_unpack(packed or b"")][start:end]
            first = hashes[:1] if number == 0 else []
            chunks |= {_hex(h) for h in [*first, *hashes] if h in first or int.from_bytes(h[24:], "little") % 1024 == 0}
        if chunks:
            bind.execute(sa.insert(found), [{"chunk": chunk, "xet_hash": xet_hash} for chunk in sorted(chunks)])


def _hex(digest: bytes) -> str:
    return "{:016x}{:016x}{:016x}{:016x}".format(*struct.unpack("<4Q", digest))
