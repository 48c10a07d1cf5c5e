"""What a run's folder says of it in words: its scores, its data, what to look at, what computed it."""

import json
from collections.abc import Callable, Mapping, Sequence
from html import escape
from pathlib import Path
from statistics import mean, median
from typing import Any, TypeVar

from mtseg.config import Config
from mtseg.diagnostics import alarmed
from mtseg.inference.scored import kept, sentence
from mtseg.run import checkpoint
from mtseg.run.logged import selected, timings
from mtseg.tally import HEADLINES, headline, percent

NO_FACTS: dict[str, str] = {}
T = TypeVar("T")
Lines = Sequence[dict[str, Any]]


def unless_damaged(draw: Callable[[], T], otherwise: T) -> T:
    """What `draw` makes of a file; `otherwise` where the file is damaged, or not there: its part is left out."""
    try:
        return draw()
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError):
        return otherwise


def facts_of(
    run: Path, config: Config, lines: Lines, scored: Lines, newest: Mapping[str, Any], score: str
) -> dict[str, str]:
    """What stands on top: scores, data, protocol, speed. `scored`: the lines with scores, named `score`; `newest`: what
    `seen` keeps of the last evaluation."""
    step = max((line["step"] for line in lines), default=0)
    split, said = config.eval.split, {"step": f"{step} of {config.steps}"}
    for name in ("teacher", "student"):
        values = [(line.get(f"{split}_{name}/{score}"), line["step"]) for line in scored]
        known = [(value, at) for value, at in values if value is not None]
        if known:
            best, at = max(known, key=lambda pair: (pair[0], -pair[1]))  # of equals the first, as is kept
            last = f"{percent(values[-1][0])} %"
            said[f"{name}, {HEADLINES[score]} on {split}"] = f"{last}; best {percent(best)} % at step {at}"
            if chosen := selected(lines, split, name):
                said[f"{name}, chosen by images held out"] = f"{percent(chosen[0])} % at step {chosen[1]}"
    said |= unless_damaged(lambda: {"data": _data(_json(run / "splits.json"))}, NO_FACTS)
    on = "labels of their own size" if score == "mIoU" else "a class an image"
    said["protocol"] = f"{config.eval.predictor.sentence()}, scored on {on}"
    return said | _evaluated(run) | unless_damaged(lambda: _times(run, newest), NO_FACTS)


def _evaluated(run: Path) -> dict[str, str]:
    """What `tools/eval.py` scored, of any images and in any way, by file."""
    said = {}
    for file, found in kept(run).items():
        names = [name for name in ("teacher", "student") if name in found]
        score = headline(found[names[0]])
        values = ", ".join(f"{name} {percent(found[name][score])} %" for name in names)
        newest = checkpoint.steps(run / "checkpoints")[-1:]
        since = found["at"] == "last" and newest > [run / "checkpoints" / checkpoint.name_of(found["step"])]
        on = "; the run has trained on since" if since else ""
        said[f"{HEADLINES[score]} on {found['split']}, {file}"] = f"{values}; {sentence(found)}{on}"
    return said


def alarms_of(config: Config, names: Sequence[str], lines: Lines) -> list[str]:
    """What the trainer asked to look at, as it was said."""
    told = alarmed(
        lines, names, config.method.teacher, split=config.eval.split, steps=config.steps, balance=config.balance
    )
    return [
        f'<section class="finding warning"><p><b>look</b>, at step {step}: {escape(sentence)}</p></section>'
        for step, sentence in told
    ]


def _data(pools: Any) -> str:
    counts = (f"{v['images']} {k} ({v['sha256'][:12]})" for k, v in pools.items() if isinstance(v, dict))
    return f"{pools['name']}: {', '.join(counts)}"


def _times(run: Path, newest: Mapping[str, Any]) -> dict[str, str]:
    lines = timings(run)
    speeds = [line["images_per_second"] for line in lines if "images_per_second" in line]
    asked = [line["evaluation_seconds"] for line in lines if "evaluation_seconds" in line]
    said = {}
    if speeds:
        said["training"] = f"{median(speeds):.1f} images a second (median; least {min(speeds):.1f})"
    if asked:
        said["evaluations"] = f"{len(asked)}, {mean(asked):.1f} s each"
        said["worst images"] = f"drawn in {newest.get('seconds', 0):.2f} s after the newest evaluation"
    return said


def computed_by(run: Path) -> dict[str, str]:
    entries = _json(run / "versions.json")
    found = {}
    for entry in entries if isinstance(entries, list) else []:
        rest = ", ".join(f"{key} {value}" for key, value in entry.items() if key != "from_step")
        found[f"from step {entry.get('from_step')}"] = rest
    return found


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
