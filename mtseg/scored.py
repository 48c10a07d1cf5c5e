"""What `tools/eval.py` wrote into the folders of several runs: scores of the same images, asked alike."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mtseg.config import of_run
from mtseg.tally import headline

# What the scores of runs that stand in one table have in common.
FACTS = ("split", "sha256", "classes", "resolution", "protocol", "at")
NETWORKS = ("student", "teacher")
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
        if unlike:
            raise ValueError(
                f"--scores {name}: {first} and {run} were not scored alike: {unlike} {begun[unlike]} and "
                f"{scores[unlike]}; score them again with the same words"
            )
        if scores["at"] == "last" and scores["step"] != (steps := of_run(run).steps):
            raise ValueError(
                f"--scores {name}: {run} has trained on since step {scores['step']} of {steps}; score it again"
            )
    return found


def when(scores: Scored, steps: int) -> str:
    """At which point of a run of `steps` steps its scores were taken."""
    at = str(scores["at"])
    if at == "last":
        return f"after {steps} steps"
    return f"at step {at} of {steps}" if at.isdigit() else f"at the {at} checkpoint of {steps} steps"


def _read(run: Path, name: str) -> Scored:
    path = run / name
    if not path.is_file():
        there = sorted(file.name for file in run.glob("eval_*.json") if "_checkpoints" not in file.stem)
        has = f"; the run has {', '.join(there)}" if there else ""
        raise ValueError(
            f"--scores {name}: no {path}{has}; score every run with the same words: python tools/eval.py {run} [WORDS]"
        )
    try:
        found = dict(json.loads(path.read_text()))
        score = headline(found["student"])
        numbers = [float(found[network][score]) for network in NETWORKS]
        whole = {"step", *FACTS} <= found.keys() and all(math.isfinite(number) for number in numbers)
    except (ValueError, TypeError, KeyError, StopIteration):
        whole = False
    if not whole:
        raise ValueError(
            f"--scores {name}: {path} has not the scores of a student and of a teacher; make it with tools/eval.py, "
            "without --network"
        )
    return found
