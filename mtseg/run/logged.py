"""What a run has told, read again: metrics.jsonl and timings.jsonl."""

import json
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from mtseg.tally import HEADLINES

TIMINGS = "timings.jsonl"


def read(folder: Path) -> list[dict[str, Any]]:
    """The lines of a run's metrics.jsonl. Raises ValueError for a folder without one, and for a line that is none."""
    path = folder / "metrics.jsonl"
    if not path.is_file():
        raise ValueError(f"{folder}: no metrics.jsonl, so no run that has begun; name the folder given as out=")
    lines = []
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), start=1):
        try:
            lines.append(dict(json.loads(line)))
        except (ValueError, TypeError, RecursionError):
            raise ValueError(f"{path}, line {number}: not a line of metrics; take it out, or train again") from None
    return lines


def comparable(folder: Path) -> list[dict[str, Any]]:
    """`read`, without the evaluations that were asked otherwise than the last one: `eval.predictor` was changed on the
    way. Those that say nothing of it, of before it was recorded, stay."""
    lines = read(folder)
    last = next((line["asked"] for line in reversed(lines) if "asked" in line), "")
    return [line for line in lines if line.get("asked", last) == last]


def score_of(lines: Sequence[dict[str, Any]], split: str, network: str) -> str:
    """The key of the score by which a network is compared, `val_teacher/mIoU`, in a run's lines.

    Raises ValueError where it was never evaluated.
    """
    for name in HEADLINES:
        if any(f"{split}_{network}/{name}" in line for line in lines):
            return f"{split}_{network}/{name}"
    raise ValueError(
        f"metrics.jsonl holds no score of the {network} on {split}: it came to no evaluation, or scored other images; "
        f"run its command again, or train it with eval.split={split}"
    )


def selected(lines: Sequence[dict[str, Any]], split: str, network: str) -> tuple[float, int] | None:
    """A network's score on `split` where the teacher was best on images held out, and that step; None: none were."""
    with suppress(ValueError):
        by, key = score_of(lines, "holdout", "teacher"), score_of(lines, split, network)
        known = [line for line in lines if line.get(by) is not None]
        step = max(known, key=lambda line: (line[by], -line["step"]))["step"]
        return next(((line[key], step) for line in lines if line["step"] == step and line.get(key) is not None), None)
    return None


def timings(folder: Path) -> list[dict[str, Any]]:
    """The whole lines of a run's timings: a step, with `images_per_second` or `evaluation_seconds`."""
    found = []
    with suppress(OSError):
        for line in (folder / TIMINGS).read_text(encoding="utf-8", errors="replace").splitlines():
            with suppress(ValueError, TypeError, RecursionError):
                found.append(dict(json.loads(line)))
    return found
