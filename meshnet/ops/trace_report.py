"""What a disagreement between the kernel and the walk leaves for those who mend it."""

from __future__ import annotations

import os

from meshnet.dialects.snapshot_json import write_snapshot

TYPE_CHECKING = False
if TYPE_CHECKING:
    from meshnet.model.trace import TracedPacket
    from meshnet.reason.trace_judge import Judge

#: So many packets are written at most: they are all of one defect, or of a few.
MOST = 100


class Report:
    """A folder that only its owner reads, made with the first disagreement.

    ``packets.jsonl`` has a line a packet, which names the snapshot that it was judged by:
    ``snapshot-1.json`` and on, as other commands read them with --from.
    """

    def __init__(self) -> None:
        self.folder = ""
        self._count = 0
        self._written: list[Judge] = []

    def add(self, packet: TracedPacket, judge: Judge) -> str:
        """Write ``packet`` down, and where that is; "" where it cannot be written."""
        try:
            if not self.folder:
                import tempfile

                self.folder = tempfile.mkdtemp(prefix="meshnet-trace-")
            if self._count < MOST:
                self._write(packet, self._snapshot(judge))
        except OSError:
            return ""
        self._count += 1
        return self.folder

    def _snapshot(self, judge: Judge) -> str:
        if judge not in self._written:
            name = f"snapshot-{len(self._written) + 1}.json"
            with open(os.path.join(self.folder, name), "wb") as f:
                f.write(write_snapshot(judge.snapshot))
            self._written.append(judge)
        return f"snapshot-{self._written.index(judge) + 1}.json"

    def _write(self, packet: TracedPacket, snapshot: str) -> None:
        import msgspec

        line = {"snapshot": snapshot, "packet": packet}
        with open(os.path.join(self.folder, "packets.jsonl"), "ab") as f:
            f.write(msgspec.json.encode(line, enc_hook=_plain) + b"\n")


def _plain(value: object) -> object:
    """What JSON gets for an enumeration: its value."""
    return getattr(value, "value", str(value))
