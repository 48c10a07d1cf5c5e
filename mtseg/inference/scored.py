"""What `tools/eval.py` wrote into the folders of runs: all of one, or of several those of the same images."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mtseg.config import of_run
from mtseg.run import checkpoint
from mtseg.tally import NETWORKS, headline

# What the scores of runs that stand in one table have in common.
FACTS = ("split", "sha256", "classes", "resolution", "protocol", "at")
CHECKPOINTS = "checkpoints"  # in the names of files that hold several evaluations side by side
Scored = Mapping[str, Any]  # what `score_run` gives


def scored(runs: Sequence[Path], name: str) -> dict[Path, Scored]:
    """The scores in the file `name` of each run's folder, as `tools/eval.py` wrote them.

    Raises ValueError for a name that is none of a file, for a file that is missing or has not the scores of both
    networks, and for runs whose scores are of other images than the first's, or were asked for otherwise.
    """
    if not name or Path(name).name != name:
        raise ValueError(f"--scores {name}: is looked for in each run's folder; give a name, such as eval_test.json")
    found = {run: _read(run, name) for run in runs}
    for run, scores in found.items():
        first, begun = next(iter(found.items()))
        unlike = next((fact for fact in FACTS if scores[fact] != begun[fact]), None)
        both = [of.get("files", "") for of in (begun, scores)]  # which no file of before has
        unlike = unlike or ("files" if all(both) and both[0] != both[1] else None)
        if unlike:
            images = "all on the same images, which have a folder or a list of their own"
            again = images if unlike in ("sha256", "files") else "them again with the same words"
            raise ValueError(
                f"--scores {name}: {first} and {run} were not scored alike: {unlike} {begun[unlike]} and "
                f"{scores[unlike]}; score {again}"
            )
        if (now := _chosen_now(run, str(scores["at"]))) not in (None, scores["step"]):
            raise ValueError(
                f"--scores {name}: {run}'s {scores['at']} checkpoint is that of step {now} by now, and the scores are "
                f"of step {scores['step']}; score it again"
            )
        if scores["at"] == "last" and scores["step"] != (steps := of_run(run).steps):
            raise ValueError(
                f"--scores {name}: {run} has trained on since step {scores['step']} of {steps}; score it again"
            )
    return found


def kept(run: Path) -> dict[str, Scored]:
    """All scores in a run's folder, by their files' names; files that are damaged are left out."""
    found = {path.name: _whole(path) for path in _files(run)}
    return {name: scores for name, scores in found.items() if scores is not None}


def with_former(path: Path, scores: dict[str, Any]) -> dict[str, Any]:
    """`scores`, and what the file in their place says besides of the same ones: boundaries, and of single images."""
    former, networks = _whole(path), [name for name in NETWORKS if name in scores]
    if former is None or any(former.get(fact) != scores[fact] for fact in (*FACTS, "step")):
        return scores
    heads = [(name, headline(scores[name])) for name in networks]
    if any(former.get(name, {}).get(key) != scores[name][key] for name, key in heads):
        return scores
    return scores | {name: former[name] | scores[name] for name in networks}


def sentence(scores: Scored) -> str:
    """All that scores depend on, in a line."""
    keys = [line.partition(":")[0] for line in scores.get("changed", ())]
    otherwise = f", with other {', '.join(keys)} than the run" if keys else ""
    return (
        f"step {scores['step']} ({scores['at']}), {scores['images']} {scores['split']} images of {scores['data']} "
        f"({scores['sha256'][:12]}), {scores['protocol']}, scored on labels of {scores['resolution']}"
        f"{otherwise}"
    )


def _chosen_now(run: Path, at: str) -> int | None:
    """The step of the run's checkpoint that is called `at`; None for one that is not chosen, or not there."""
    found = checkpoint.chosen(run / "checkpoints", at) if at in checkpoint.CHOICES else None
    return None if found is None else int(found.place.name.removeprefix("step-"))


def when(scores: Scored, steps: int | str) -> str:
    """At which point of runs of `steps` steps, a number or a span, their scores were taken."""
    at = str(scores["at"])
    if at == "last":
        return f"after {steps} steps"
    return f"at step {at} of {steps}" if at.isdigit() else f"at the {at} checkpoint of {steps} steps"


def _files(run: Path) -> list[Path]:
    return sorted(path for path in run.glob("eval_*.json") if f"_{CHECKPOINTS}" not in path.stem)


def _whole(path: Path) -> Scored | None:
    """What a file holds, where that is the scores of a network or of two, and all that they depend on."""
    try:
        found = dict(json.loads(path.read_text(encoding="utf-8")))
        networks = [found[name] for name in NETWORKS if name in found]
        numbers = [float(of[headline(networks[0])]) for of in networks]
        known = all(isinstance(found[fact], str) for fact in ("sha256", "data", *FACTS) if fact != "classes")
        known &= all(isinstance(found[fact], int) for fact in ("step", "images"))
    except (OSError, ValueError, TypeError, KeyError, StopIteration, RecursionError):
        return None
    return found if known and numbers and all(map(math.isfinite, numbers)) else None


def _read(run: Path, name: str) -> Scored:
    path = run / name
    if not path.is_file():
        there = [file.name for file in _files(run)]
        has = f"; the run has {', '.join(there)}" if there else ""
        raise ValueError(
            f"--scores {name}: no {path}{has}; score every run with the same words: python tools/eval.py {run} [WORDS]"
        )
    found = _whole(path)
    if found is None or not set(NETWORKS) <= found.keys():
        raise ValueError(
            f"--scores {name}: {path} has not the scores of a student and of a teacher; make it with tools/eval.py, "
            "without --network"
        )
    return found
