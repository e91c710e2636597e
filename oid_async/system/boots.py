"""This boot of the machine: what an earlier one left behind may have been torn by a power cut."""

from pathlib import Path

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def boot_id(path: Path = _BOOT_ID) -> str:
    """Return the identifier of this boot of the machine; where there is none, all boots count as one."""
    try:
        return path.read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return "unknown"
