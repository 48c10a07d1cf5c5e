"""What computed a run: versions of this package, of its source and of PyTorch, written down at each start."""

import hashlib
import json
import platform
from pathlib import Path

import torch

import mtseg
from mtseg.atomic import write_whole

FILE = "versions.json"


def versions() -> dict[str, str]:
    """Of this process. `source` is a digest of the package's files, which tells a changed clone of one version."""
    return {
        "mtseg": mtseg.__version__,
        "source": _digest(Path(mtseg.__file__).parent),
        "torch": str(torch.__version__),
        "python": platform.python_version(),
    }


def record(folder: Path, step: int) -> list[str]:
    """Write down what continues the run in `folder` from `step` on; a sentence where that is not what came before.

    The file is a list, an entry for each change, each with the step it holds from. A broken one is begun again.
    """
    path, here = folder / FILE, versions()
    entries = _entries(path) if step > 0 else []
    before = {key: entries[-1].get(key) for key in here} if entries else {}
    changed = [f"{key} {before[key]} -> {here[key]}" for key in here if before and before[key] != here[key]]
    if not entries or changed:
        write_whole(path, json.dumps([*entries, {"from_step": step, **here}], indent=1))
    rest = "the rest of the run need not be to the bit what it would have been"
    return [f"continued by other code: {', '.join(changed)}; {rest}"] if changed else []


def _entries(path: Path) -> list[dict[str, str]]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return []
    return found if isinstance(found, list) and all(isinstance(entry, dict) for entry in found) else []


def _digest(package: Path) -> str:
    whole = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        whole.update(path.relative_to(package).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return whole.hexdigest()[:16]
