"""Tables of the hub: repos, large files and the pieces that they are made of."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, ForeignKey, Index, LargeBinary, String, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from fust.accounts.models import Namespace
from fust.core.clock import utc_naive
from fust.store.database import Base

BYTE_ORDER = String().with_variant(String(collation="C"), "postgresql")
"""Text that sorts by its bytes in every database, so that a prefix is a range."""


class Repo(Base):
    """A model, a dataset or a space: one bare git repository and what lists show of it."""

    __tablename__ = "repos"
    __table_args__ = (
        UniqueConstraint("type", "key", name="uq_repos_type_key"),
        Index("ix_repos_type_updated", "type", "updated_at"),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    type: Mapped[str]
    key: Mapped[str]
    """`owner/name` in lower case: ids that differ by case only are one."""
    owner: Mapped[str] = mapped_column(index=True)
    name: Mapped[str]
    private: Mapped[bool] = mapped_column(default=False)
    gated: Mapped[str] = mapped_column(default="")
    """Empty, `auto` or `manual`."""
    agree_since: Mapped[datetime | None] = mapped_column(default=None)
    """Who agreed to the terms of the gate before this must agree again."""
    created_at: Mapped[datetime] = mapped_column(default=utc_naive)
    updated_at: Mapped[datetime] = mapped_column(default=utc_naive)
    head_oid: Mapped[str] = mapped_column(default="")
    """Commit of `main` that the columns below were read from."""
    pending: Mapped[bool] = mapped_column(default=False)
    """A ref may have moved without these columns: looked at when the server starts."""
    moving: Mapped[dict[str, Any] | None] = mapped_column(default=None)
    """While ``pending``: the refs that are being moved, as ``RefJournal``; a server that starts finishes them."""
    sums: Mapped[dict[str, Any] | None] = mapped_column(default=None)
    """``Sums`` of the tree of ``head_oid``."""
    protected: Mapped[list[str] | None] = mapped_column(default=None)
    """Patterns of branches whose history nobody rewrites; None: `main`."""
    size_bytes: Mapped[int] = mapped_column(BigInteger, default=0)
    downloads: Mapped[int] = mapped_column(default=0)
    likes: Mapped[int] = mapped_column(default=0, server_default="0")
    discussions: Mapped[int] = mapped_column(default=0, server_default="0")
    """How many discussions and pull requests were opened: the last one's number."""
    moved_from: Mapped[str | None] = mapped_column(default=None)
    """`owner/name` of the folder while a move is under way; a server that starts finishes it."""
    licence: Mapped[str] = mapped_column(default="")
    languages: Mapped[list[str]] = mapped_column(default=list)
    task: Mapped[str] = mapped_column(default="")
    library: Mapped[str] = mapped_column(default="")
    tags: Mapped[list[str]] = mapped_column(default=list)
    formats: Mapped[list[str]] = mapped_column(default=list)
    largest_gguf_bytes: Mapped[int] = mapped_column(BigInteger, default=0)
    smallest_gguf_bytes: Mapped[int] = mapped_column(BigInteger, default=0)
    description: Mapped[str] = mapped_column(default="")
    sdk: Mapped[str] = mapped_column(default="")


class LargeFile(Base):
    """A file kept outside git: as a whole blob, as xorbs, or as both."""

    __tablename__ = "large_files"

    sha256: Mapped[str] = mapped_column(primary_key=True)
    size: Mapped[int] = mapped_column(BigInteger)
    xet_hash: Mapped[str | None] = mapped_column(default=None, index=True)
    has_blob: Mapped[bool] = mapped_column(default=False)
    created_at: Mapped[datetime] = mapped_column(default=utc_naive)


class ChunkWish(Base):
    """A file that arrived whole and waits to be cut into chunks; survives the server."""

    __tablename__ = "chunk_wishes"

    sha256: Mapped[str] = mapped_column(primary_key=True)
    namespace: Mapped[str]
    attempts: Mapped[int] = mapped_column(default=0)


class LargeFileOwner(Base):
    """A namespace that brought the bytes of a large file, and so may point to it."""

    __tablename__ = "large_file_owners"

    namespace: Mapped[str] = mapped_column(primary_key=True)
    sha256: Mapped[str] = mapped_column(primary_key=True, index=True)


class RepoFile(Base):
    """A large file that some commit of a repo points to: whoever reads the repo may read it."""

    __tablename__ = "repo_files"

    repo_id: Mapped[str] = mapped_column(ForeignKey("repos.id", ondelete="CASCADE"), primary_key=True)
    sha256: Mapped[str] = mapped_column(primary_key=True, index=True)


class XetFile(Base):
    """How a file is put together from chunks of xorbs; verified before the row is written."""

    __tablename__ = "xet_files"

    xet_hash: Mapped[str] = mapped_column(primary_key=True)
    sha256: Mapped[str] = mapped_column(index=True)
    size: Mapped[int] = mapped_column(BigInteger)
    segments: Mapped[bytes] = mapped_column(LargeBinary)
    """48 bytes each: xorb hash, 0, raw bytes, first chunk, end chunk (as the shard's records)."""


class Xorb(Base):
    """A verified pack of chunks."""

    __tablename__ = "xorbs"

    hash: Mapped[str] = mapped_column(primary_key=True)
    size: Mapped[int] = mapped_column(BigInteger)
    raw_size: Mapped[int] = mapped_column(BigInteger)
    chunks: Mapped[bytes] = mapped_column(LargeBinary)
    """40 bytes each: chunk hash, end offset in the xorb, raw length."""
    created_at: Mapped[datetime] = mapped_column(default=utc_naive)


class XorbOwner(Base):
    """A namespace that brought a xorb: only its files may be built from it."""

    __tablename__ = "xorb_owners"

    namespace: Mapped[str] = mapped_column(primary_key=True)
    hash: Mapped[str] = mapped_column(primary_key=True, index=True)


class LfsLock(Base):
    """A file that somebody works on, by git-lfs."""

    __tablename__ = "lfs_locks"
    __table_args__ = (UniqueConstraint("repo_id", "path", name="uq_lfs_locks_repo_path"),)

    id: Mapped[str] = mapped_column(primary_key=True)
    repo_id: Mapped[str] = mapped_column(ForeignKey("repos.id", ondelete="CASCADE"))
    path: Mapped[str]
    owner: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(default=utc_naive)


class OldName(Base):
    """A name that a repo had; requests for it are sent on."""

    __tablename__ = "repo_old_names"

    type: Mapped[str] = mapped_column(primary_key=True)
    key: Mapped[str] = mapped_column(primary_key=True)
    """`owner/name` in lower case."""
    repo_id: Mapped[str] = mapped_column(ForeignKey("repos.id", ondelete="CASCADE"), index=True)


class Like(Base):
    """A user who likes a repo."""

    __tablename__ = "likes"

    user: Mapped[str] = mapped_column(primary_key=True)
    repo_id: Mapped[str] = mapped_column(
        ForeignKey("repos.id", ondelete="CASCADE"), primary_key=True, index=True
    )
    created_at: Mapped[datetime] = mapped_column(default=utc_naive)


class Follow(Base):
    """A user who follows a person or an organisation."""

    __tablename__ = "follows"

    follower: Mapped[str] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"), primary_key=True)
    followed: Mapped[str] = mapped_column(
        ForeignKey(Namespace.key, ondelete="CASCADE"), primary_key=True, index=True
    )
    created_at: Mapped[datetime] = mapped_column(default=utc_naive)


class Discussion(Base):
    """A discussion or a pull request of a repo."""

    __tablename__ = "discussions"
    __table_args__ = (UniqueConstraint("repo_id", "num", name="uq_discussions_repo_num"),)

    id: Mapped[str] = mapped_column(primary_key=True)
    repo_id: Mapped[str] = mapped_column(ForeignKey("repos.id", ondelete="CASCADE"))
    num: Mapped[int]
    title: Mapped[str]
    status: Mapped[str]
    """`open`, `closed`, `draft` or `merged`."""
    author: Mapped[str] = mapped_column(index=True)
    is_pull_request: Mapped[bool]
    merge_oid: Mapped[str] = mapped_column(default="")
    created_at: Mapped[datetime] = mapped_column(default=utc_naive)
    updated_at: Mapped[datetime] = mapped_column(default=utc_naive)


class DiscussionEvent(Base):
    """What happened in a discussion: a comment, a new status or title, a commit."""

    __tablename__ = "discussion_events"

    id: Mapped[str] = mapped_column(primary_key=True)
    discussion_id: Mapped[str] = mapped_column(ForeignKey("discussions.id", ondelete="CASCADE"), index=True)
    type: Mapped[str]
    """As the Hub names it: `comment`, `status-change`, `title-change`, `commit`."""
    author: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(default=utc_naive)
    data: Mapped[dict[str, Any]]


class Collection(Base):
    """A list of repos that somebody put together."""

    __tablename__ = "collections"

    id: Mapped[str] = mapped_column(primary_key=True)
    owner: Mapped[str] = mapped_column(index=True)
    title: Mapped[str]
    description: Mapped[str] = mapped_column(default="")
    private: Mapped[bool] = mapped_column(default=False)
    theme: Mapped[str] = mapped_column(default="orange")
    position: Mapped[int] = mapped_column(default=0)
    updated_at: Mapped[datetime] = mapped_column(default=utc_naive)


class CollectionItem(Base):
    """A repo, or another collection, in a collection."""

    __tablename__ = "collection_items"
    __table_args__ = (UniqueConstraint("collection_id", "type", "key", name="uq_collection_items"),)

    id: Mapped[str] = mapped_column(primary_key=True)
    collection_id: Mapped[str] = mapped_column(ForeignKey("collections.id", ondelete="CASCADE"))
    type: Mapped[str]
    """`model`, `dataset`, `space` or `collection`."""
    key: Mapped[str]
    """The repo's or the collection's row: it stays the same when that is renamed."""
    note: Mapped[str] = mapped_column(default="")
    position: Mapped[int]


class DedupChunk(Base):
    """A chunk by which clients may ask for the xorbs of a file: its first, and one in 1024 (as the protocol picks)."""

    __tablename__ = "dedup_chunks"

    chunk: Mapped[str] = mapped_column(primary_key=True)
    """Hash as Xet writes it."""
    xet_hash: Mapped[str] = mapped_column(
        ForeignKey("xet_files.xet_hash", ondelete="CASCADE"), primary_key=True, index=True
    )


class Bucket(Base):
    """Files under paths, without history: what is written replaces what was there."""

    __tablename__ = "buckets"

    id: Mapped[str] = mapped_column(primary_key=True)
    key: Mapped[str] = mapped_column(unique=True)
    """`owner/name` in lower case."""
    owner: Mapped[str] = mapped_column(index=True)
    name: Mapped[str]
    private: Mapped[bool] = mapped_column(default=False)
    files: Mapped[int] = mapped_column(default=0)
    size_bytes: Mapped[int] = mapped_column(BigInteger, default=0)
    created_at: Mapped[datetime] = mapped_column(default=utc_naive)
    updated_at: Mapped[datetime] = mapped_column(default=utc_naive)


class OldBucketName(Base):
    """A name that a bucket had; requests for it are sent on."""

    __tablename__ = "bucket_old_names"

    key: Mapped[str] = mapped_column(primary_key=True)
    """`owner/name` in lower case."""
    bucket_id: Mapped[str] = mapped_column(ForeignKey("buckets.id", ondelete="CASCADE"), index=True)


class BucketFile(Base):
    """A file of a bucket: whoever reads the bucket may read it."""

    __tablename__ = "bucket_files"

    bucket_id: Mapped[str] = mapped_column(ForeignKey("buckets.id", ondelete="CASCADE"), primary_key=True)
    path: Mapped[str] = mapped_column(BYTE_ORDER, primary_key=True)
    sha256: Mapped[str] = mapped_column(index=True)
    """Of a large file; empty files have none and no bytes."""
    xet_hash: Mapped[str]
    size: Mapped[int] = mapped_column(BigInteger)
    content_type: Mapped[str] = mapped_column(default="")
    mtime: Mapped[datetime]
    """As the client says: when the file that it sent was changed."""
    uploaded_at: Mapped[datetime] = mapped_column(default=utc_naive)
