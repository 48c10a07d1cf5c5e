"""The health of a run's targets: what is kept of them, of which classes, how far student and teacher are apart.

Measured at the steps that are logged, on what the step computes anyway; alarms say in words what is usually wrong.
"""

import math
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

import torch
from torch import Tensor

from mtseg.averaged import AveragedPart
from mtseg.distil import Frozen
from mtseg.distributed import total
from mtseg.ensemble import Ensemble
from mtseg.geometry import View
from mtseg.losses import average, has_class
from mtseg.tally import NETWORKS, headline
from mtseg.task import Task
from mtseg.teachers import Teacher

BINS = 10  # of the histogram of confidence, equal parts of [0, 1]
WINDOW = 10  # logged steps over which an alarm looks
FEWEST = 3  # of them, over which it looks where a run ends sooner
PATIENCE = 3  # evaluations in a row that the teacher may be behind


def health(tasks: Sequence[Task], said: Sequence[View], answer: View, label: Tensor) -> dict[str, Tensor]:
    """What a step's tasks and what the student said of them show; means over the pixels that both know.

    tasks with what was said (B, K, *S) in the frame of comparison, one each; the teacher's answer (B, K, *S) in its own
    view; label (B', *S) of the labelled images; of all processes. Scalars: `kept`, the mean weight; `confidence`, the
    answer's highest probability where it is known (of a hard target that would be 1, however unsure the teacher);
    `disagreement`, the share of pixels where student and target name another class. Of all tasks together:
    `target_share` (K,) of the classes in what is kept, `label_share` (K,) in the labels, and of the answer
    `confidence_histogram` (BINS,); each sums to 1, or is 0 where there is nothing.
    """
    known = torch.cat([view.known.flatten() for view in said])
    kept = torch.cat([task.weight.flatten() for task in tasks]) * known
    classes = torch.cat([task.target.data.argmax(1).flatten() for task in tasks])
    named = torch.cat([view.data.argmax(1).flatten() for view in said])
    count = answer.data.shape[1]
    confidence, answered = answer.data.amax(1).flatten(), answer.known.flatten()
    place = (confidence * BINS).long().clamp(0, BINS - 1)
    labelled = label.flatten().long()
    return {
        "kept": total(average(kept, known)),
        "confidence": total(average(confidence, answered)),
        "disagreement": total(average((named != classes).float(), known)),
        "confidence_histogram": _shares(place, answered.float(), BINS),
        "target_share": _shares(classes, kept, count),
        "label_share": _shares(labelled.clamp(0, count - 1), has_class(labelled, count).float(), count),
    }


def pseudo_accuracy(answer: View, label: Tensor) -> Tensor:
    """Share of the known pixels where the teacher names the class of `label` (B, *S); for diagnosis alone."""
    counted = answer.known[:, 0] & has_class(label, answer.data.shape[1])
    return total(average((answer.data.argmax(1) == label.long()).float(), counted))


class Alarms:
    """Watches the lines of metrics and says, once each, what looks wrong."""

    def __init__(self, classes: Sequence[str], teacher: Teacher, *, balance: float = 0.0) -> None:
        self.classes, self.teacher, self.balance = classes, teacher, balance
        self._recent: list[dict[str, Any]] = []
        self._behind = 0
        self._said: set[str] = set()

    def train(self, values: dict[str, Any]) -> list[str]:
        """Sentences about the last WINDOW logged steps, given the values of the newest."""
        if "train/kept" not in values:
            return []
        self._recent = [*self._recent, values][-WINDOW:]
        return self._of_recent() if len(self._recent) == WINDOW else []

    def ended(self) -> list[str]:
        """Sentences about a run of fewer than WINDOW logged steps, but at least FEWEST."""
        return self._of_recent() if FEWEST <= len(self._recent) < WINDOW else []

    def _of_recent(self) -> list[str]:
        def mean(key: str) -> float:
            return sum(line[key] for line in self._recent) / len(self._recent)

        found = {}
        if self._empty():
            found["empty"] = (
                "under 1 % of the pixels are kept, so the unlabelled images hardly count: lower the target's threshold"
            )
        pull = mean("train/weight") * mean("train/loss_cons")
        if pull > 10 * mean("train/loss_sup") > 0:
            found["heavy"] = (
                f"consistency weighs {pull / mean('train/loss_sup'):.0f} times the supervised loss: lower method.weight"
            )
        chosen = mean("train/kept") < 0.999  # pixels, by a threshold
        apart = "take a per-class one (method.target={kind: adaptive, per_class: true})"
        more = f"let labelled pixels of rare classes count more (balance={0.5 if self.balance < 0.5 else 1})"
        if isinstance(self.teacher, Frozen):  # it names the classes that it named when it was finished
            named = "name runs that score better there (method.teacher.runs)"
            remedies = ["lower the threshold", apart, named] if chosen else [named, f"{more} while these train"]
        else:
            remedies = ["lower method.weight or the threshold", apart] if chosen else ["lower method.weight", more]
        if self.balance == 1 and not chosen:
            remedies = remedies[:1]  # they count as much as they can
        remedy = ", or ".join([", ".join(remedies[:-1]), remedies[-1]] if len(remedies) > 1 else remedies)
        gone = [] if "empty" in found else [name for name in self._collapsed() if f"collapsed {name}" not in self._said]
        if gone:  # all in one sentence, and each class once
            self._said |= {f"collapsed {name}" for name in gone}
            which = f"class {gone[0]!r} has" if len(gone) == 1 else f"classes {', '.join(map(repr, gone))} have"
            found[f"collapsed {gone}"] = (
                f"{which} all but vanished from the targets, though labelled: {remedy}; early in a run that may pass"
            )
        return self._new(found)

    def evaluated(self, scores: dict[str, dict[str, Any]]) -> list[str]:
        """Sentences about the scores of student and teacher at an evaluation."""
        student, teacher = (scores[name][headline(scores[name])] for name in NETWORKS)
        if student is None and teacher is None:
            text = "no labelled pixel is asked about: look at eval.predictor, and at the labels of eval.split"
            return self._new({"blank": f"there is no score: {text}"})
        behind = student is not None and teacher is not None and teacher < student - 0.005
        self._behind = self._behind + 1 if behind else 0
        if self._behind < PATIENCE:
            return []
        inner = "of." if isinstance(self.teacher, Ensemble) else "average." * isinstance(self.teacher, AveragedPart)
        key = f"method.teacher.{inner}decay"
        return self._new(
            {
                "behind": f"the teacher is behind the student for {self._behind} evaluations: lower {key}, or set its "
                "span (0.02: it averages over the last fiftieth of the updates)"
            }
        )

    def _empty(self) -> bool:
        """Whether most steps keep hardly anything, of those at which enough is known to tell (in the first pass of
        `teacher: memory` nothing is): one that keeps much now and then is no rule."""
        kept = [line["train/kept"] for line in self._recent if line["train/known"] > 0]
        return len(kept) >= FEWEST and median(kept) < 0.01

    def _collapsed(self) -> list[str]:
        """Classes whose share of the targets is under a twentieth of their share of the labels."""
        target, label = (mean_shares(self._recent, key) for key in ("target_share", "label_share"))
        if not (target and label):
            return []
        return [n for n, t, given in zip(self.classes, target, label, strict=True) if given > 0.002 and t < given / 20]

    def _new(self, found: dict[str, str]) -> list[str]:
        new = [sentence for key, sentence in found.items() if key not in self._said]
        self._said |= found.keys()
        return new


def alarmed(
    lines: Sequence[Mapping[str, Any]],
    classes: Sequence[str],
    teacher: Teacher,
    *,
    split: str,
    steps: int,
    balance: float = 0.0,
) -> list[tuple[int, str]]:
    """What `Alarms` say of a run of `steps` steps from what it has recorded, evaluated on `split`: (step, sentence).

    Of a run that was stopped and continued, as if it had not been.
    """
    alarms, found = Alarms(classes, teacher, balance=balance), []
    for line in lines:
        told = alarms.train({key: math.nan if value is None else value for key, value in line.items()})
        if scores := {name: line[f"{split}_{name}"] for name in NETWORKS if f"{split}_{name}" in line}:
            told += alarms.evaluated(scores)
        found += [(line["step"], sentence) for sentence in told]
    return found + [(steps, sentence) for sentence in alarms.ended() if lines[-1]["step"] == steps]


def mean_shares(lines: Sequence[Mapping[str, Any]], key: str) -> list[float]:
    """The mean of the lines' `target_share` or `label_share` (K,), which sums to 1; empty: no line has any.

    A line of targets weighs as much as it kept, and one that kept nothing, or had no label, is left out.
    """
    rows = [(line[f"train/{key}"], line["train/kept"] if key == "target_share" else 1.0) for line in lines]
    held = [(shares, weight) for shares, weight in rows if any(shares) and weight and weight > 0]
    whole = sum(weight for _, weight in held)
    return [
        sum(column) / whole for column in zip(*([weight * v for v in shares] for shares, weight in held), strict=True)
    ]


def _shares(places: Tensor, weights: Tensor, count: int) -> Tensor:
    """The weight at each place in [0, count), as shares of the whole."""
    # Doubles: singles stop counting at 2^24.
    empty = torch.zeros(count, device=weights.device, dtype=torch.float64)
    sums = total(empty.scatter_add_(0, places, weights.double()))
    return (sums / sums.sum().clamp_min(1e-12)).float()
