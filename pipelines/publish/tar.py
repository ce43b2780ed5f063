"""The pairs of one part as a tar file that `webdataset` reads: `<pair_id>.png`, `.txt`, `.json`.

The picture, the description, and all other columns. Times, owners and modes are fixed, so equal
rows give equal bytes.

Limits: the file is in memory until it is whole.
"""

import io
import tarfile

import pyarrow as pa

from pipelines.publish.rows import image_suffix, plain_row, to_json


class TarPart:
    """Takes the rows of a part in order, and gives the file."""

    suffix = ".tar"

    def __init__(self) -> None:
        self._sink = io.BytesIO()
        self._tar = tarfile.TarFile(fileobj=self._sink, mode="w", format=tarfile.USTAR_FORMAT)

    def add(self, table: pa.Table) -> None:
        """Takes rows; the files of one pair stand together, as a sequential reader needs."""
        for row in table.to_pylist():
            pair_id, image = row["pair_id"], row["image"]["bytes"]
            self._put(f"{pair_id}.{image_suffix(image, pair_id)}", image)
            self._put(f"{pair_id}.txt", row["description"].encode())
            self._put(f"{pair_id}.json", to_json(plain_row(row)).encode())

    def finish(self) -> bytes:
        """The whole file; nothing may be added after it."""
        self._tar.close()
        return self._sink.getvalue()

    def _put(self, name: str, data: bytes) -> None:
        entry = tarfile.TarInfo(name)  # mtime, uid and gid are 0
        entry.size = len(data)
        self._tar.addfile(entry, io.BytesIO(data))
