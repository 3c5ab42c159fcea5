"""Archives of strangers, unpacked so that nothing lands outside of the folder."""

from __future__ import annotations

import tarfile
from pathlib import Path


def unpack(archive: tarfile.TarFile, folder: Path) -> None:
    """Unpacks files and folders of a tar archive into a folder: no devices, no links or names that lead out (PEP 706).

    Python before 3.11.4 has no such guard; there links are left out, and a name that leads out is refused.

    Raises:
        tarfile.TarError: a member that is not allowed.

    """
    if hasattr(tarfile, "data_filter"):
        archive.extractall(folder, filter="data")
        return
    root = folder.resolve()
    for member in archive:
        if not (member.isreg() or member.isdir()):
            continue
        if not (root / member.name).resolve().is_relative_to(root):
            raise tarfile.ExtractError(f"{member.name!r} leads out of the folder")
        archive.extract(member, root, set_attrs=False)
