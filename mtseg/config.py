"""The Config tree: everything that decides what a run does, checked before anything starts."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag

from mtseg.data.batch import BatchSizes
from mtseg.data.kinds import Data
from mtseg.data.source import Splits
from mtseg.device import Device
from mtseg.evaluate import Evaluation
from mtseg.load_from import LoadFrom
from mtseg.losses import AT_ONCE
from mtseg.method import Branch, Method
from mtseg.models.classifiers import ConvNet13, ResNeXt, ShakeShake26, Timm
from mtseg.models.norm import Norm
from mtseg.models.smp import Smp
from mtseg.optim import Optimizer
from mtseg.part import part
from mtseg.precision import Precision
from mtseg.run.boards import Name as Board
from mtseg.schedules import Poly, Schedule
from mtseg.settings.checked import dump, validate
from mtseg.settings.complaints import NOWHERE, near
from mtseg.settings.differences import names_of_settings
from mtseg.settings.strict_yaml import SUFFIXES, read_yaml, to_yaml
from mtseg.settings.words import gather, gathered
from mtseg.teachers import Itself, Peer
from mtseg.views import Views

# What is asked of a model's part: `kind`; `dense`, whether its network answers for pixels, (B, K, H, W), or for whole
# images, (B, K); `heads`, 1 (or 2, see Smp); `build` and `downloads` as Smp has them, and `origin` where that may be
# true. Its network takes images (B, C, H, W) of any size that crops and evaluation give it; where methods disturb
# features, also what does that, as Padded does. Its weights in a module named `encoder` learn at `optimizer.lr`, all
# others at `decoder_lr`.
Model = Annotated[
    Annotated[Smp, Tag("smp")]
    | Annotated[ConvNet13, Tag("convnet13")]
    | Annotated[ShakeShake26, Tag("shake26")]
    | Annotated[ResNeXt, Tag("resnext")]
    | Annotated[Timm, Tag("timm")],
    Discriminator(lambda given: given.get("kind", "smp") if isinstance(given, dict) else getattr(given, "kind", "smp")),
]
Count = Annotated[int, Field(ge=1)]
RECIPE = {"model", "method", "optimizer"}  # keys by which a file is more than a data set


@part
class Config:
    """A run. `steps` are updates of the student; `schedule` scales the optimizer's learning rates.

    `out` is the run's folder. `resume`: `auto` continues what is there, `never` refuses a folder with a run.
    `accept_changes` names the settings (`steps`, `eval`, `optimizer.lr`) that may differ from those the run was begun
    with; others are refused. `seed` draws the first weights, the views and the batches. `device`: `auto` (a GPU where
    there is one), `cpu`, `cuda`, or `cuda:1`, the second GPU.

    The student is asked about a process's images in `accumulate` parts, whose gradients are summed. `precision` is that
    of the networks while they train. `norm` is what batch normalisation becomes: over the images of each `process`, in
    `sync` over those of all (GPUs only), over a `group` of channels of each image, or `frozen`: as it was loaded in the
    encoder, and groups after it. `bn`: whether labelled and unlabelled images go through it in one forward (`joint`) or
    each in their own (`separate`).
    `balance` has labelled pixels of rare classes count more in the supervised loss (`mtseg/balance.py`): 0 not at all,
    1 fully. `compile` has PyTorch compile the student; `recompute` computes its encoder's activations again in the
    backward, in place of holding them. `clip` is the largest gradient norm (null: no clipping). An update whose loss or
    gradient is not finite is skipped; `max_skipped` in a row end the run.

    A line is recorded every `log_every` steps. A checkpoint is written every `checkpoint_every` steps, where the
    teacher is better than ever, and at the end; the newest `keep` and the chosen are kept. `boards` are shown the
    numbers and pictures, beside the run's own files. `diagnose_with_masks` logs how often the teacher's answers are
    true, where the unlabelled images have masks; nothing is trained on them.

    `workers` loading processes (0: none) each hold up to `prefetch` batches ready; `loader_timeout` is how many seconds
    a batch may take; a process waits a minute longer for another one. On a GPU as many read
    the images of each evaluation ahead.
    """

    data: Data
    views: Views
    model: Model
    method: Method
    optimizer: Optimizer
    schedule: Schedule = Poly()
    load_from: LoadFrom | None = None
    batch: BatchSizes = BatchSizes()
    accumulate: Count = 1
    precision: Precision = "fp32"
    norm: Norm = "process"
    bn: Literal["joint", "separate"] = "joint"
    balance: Annotated[float, Field(ge=0, le=1)] = 0.0
    compile: bool = False
    recompute: bool = False
    steps: Count
    diagnose_with_masks: bool = False
    clip: Annotated[float, Field(gt=0)] | None = None
    seed: Annotated[int, Field(ge=0)] = 0
    eval: Evaluation = Evaluation()
    out: Path
    resume: Literal["auto", "never"] = "auto"
    accept_changes: tuple[str, ...] = ()
    max_skipped: Count = 10
    log_every: Count = 20
    checkpoint_every: Count = 500
    keep: Count = 2
    workers: Annotated[int, Field(ge=0)] = 2
    prefetch: Count = 4
    loader_timeout: Count = 300
    boards: tuple[Board, ...] = ("tensorboard",)
    device: Device = "auto"

    @property
    def fetches(self) -> bool:
        """Whether the first weights are asked of the network."""
        return self.load_from is None and self.model.downloads()

    @property
    def crops(self) -> tuple[int, int]:
        """In a step, over all processes: the crops that the student sees, and those that the teacher is asked about."""
        labelled, asked = self.batch.forward
        branches = len(self.method.branches)
        return (labelled + branches * asked, asked) if branches else (self.batch.labelled, 0)

    @property
    def students(self) -> int:
        """How many learn in a step: each is asked as `crops` says, and has a teacher and an optimizer."""
        return 2 if isinstance(self.method.teacher, Peer) else 1

    def __post_init__(self) -> None:
        if (self.model.heads == 2) != (self.method.logit_distance is not None):
            raise ValueError(
                f"model.heads: {self.model.heads} and method.logit_distance: {self.method.logit_distance} do not fit; "
                "give two heads and a distance, such as 0.01, or one head and null"
            )
        if self.load_from is not None and isinstance(self.method.teacher, Peer):
            raise ValueError(
                "load_from: two students that begin as one network see the same and never differ, so that they have "
                "nothing to teach each other (method.teacher.kind: peer); use load_from=null, or another teacher"
            )
        if self.batch.consistency == "all":
            self._check_asking_of_all()
        if self.accumulate > 1:
            self._refuse_parts()
        if self.compile and self.recompute:
            raise ValueError(
                "compile: true, and what is compiled cannot be computed again (recompute: true); use recompute=false, "
                "or compile=false"
            )
        if self.norm != "process" and getattr(self.model, "norm", None) == "weight":
            raise ValueError(
                f"norm: {self.norm!r} is about batch normalisation, and model.norm: weight has means of its own; use "
                "model.norm=batch, or norm=process"
            )
        known = names_of_settings(self) if self.accept_changes else []
        for key in self.accept_changes:
            if key not in known:
                raise ValueError(f"accept_changes: {key!r} is no setting{near(key, known, '; ')}")

    def _check_asking_of_all(self) -> None:
        """Raises ValueError where labels could not be learnt from the first branch's views."""
        branches, teacher = self.method.branches, self.method.teacher
        if not branches and self.batch.labelled == 0:
            raise ValueError(
                "batch.labelled: 0, and a method without branches sees labelled images alone; give a number"
            )
        plain = [Branch(weight=branch.weight, distance=branch.distance) == branch for branch in branches[:1]]
        if not all(plain) or any(branch.mix.partner == "labelled" for branch in branches):
            raise ValueError(
                "batch.consistency: 'all' learns the labels from the student's view of the first branch, which must be "
                "whole, and mixes no labelled images; use consistency: unlabelled"
            )
        if self.diagnose_with_masks:
            raise ValueError(
                "diagnose_with_masks: wants the unlabelled images by themselves; use consistency: unlabelled"
            )
        if branches and self.bn == "separate":
            raise ValueError(
                "bn: 'separate' keeps labelled images apart, and with batch.consistency: 'all' they are among the "
                "others; use bn=joint"
            )
        if teacher.kind == "memory" and self.batch.labelled:
            raise ValueError(
                "batch.consistency: 'all' of two streams, and the memory has places for the unlabelled pool's images "
                "alone; take them from there, with batch.labelled=0 and data.unlabelled=all"
            )

    def _refuse_parts(self) -> None:
        """Raises ValueError for what needs the answers to a whole batch at once."""
        supervised, teacher = self.method.supervised, self.method.teacher
        if isinstance(supervised, AT_ONCE):
            raise ValueError(
                f"accumulate: {supervised.kind} compares all pixels of a batch with each other, so it cannot be "
                "accumulated; use accumulate=1 on more processes, or method.supervised={kind: cross_entropy}"
            )
        if isinstance(teacher, Itself) and teacher.gradient == "both":
            raise ValueError(
                "accumulate: with gradient: both the teacher's side would be gone after the first part; use "
                "accumulate=1, or method.teacher.gradient=student"
            )


def load(words: Sequence[str]) -> Config:
    """The config of command-line words: YAML files merged in order, then key.sub=value words.

    Raises ValueError with a line for every unknown or missing key, wrong value or impossible combination.
    """
    tree, anew = gathered(words)
    return whole(tree, anew)


def whole(tree: dict[str, Any], anew: Mapping[str, str] = NOWHERE) -> Config:
    """The config of a tree of settings, `anew` as in `validate`. Raises ValueError as `load` does."""
    try:
        return validate(Config, tree, anew=anew)
    except ValueError as error:
        data = tree.get("data")
        named = isinstance(data, dict) and "kind" in data
        recipe = not RECIPE.isdisjoint(tree)
        if named and recipe:
            raise
        lacks = "is a recipe: name one first" if named else "names a data set: lay one on the recipe"
        raise ValueError(
            f"{error}\nNo file {lacks}, as in tools/train.py configs/recipe/photographs.yaml configs/data/own.yaml"
        ) from None


def splits_of(config: Config) -> Splits:
    """The run's images, those that are held out apart. Raises ValueError for data that cannot be used."""
    return config.eval.apart(config.data.build(), config.seed)


def rate_for(words: Sequence[str]) -> str | None:
    """What linear scaling of the learning rate would be where a word changes the batch of the files; None: no change.

    It is only said (Goyal et al. 2017): whether to follow is the reader's choice. For words that `load` accepts.
    """
    files = gather([word for word in words if word.endswith(SUFFIXES)])
    before, after = (tree.get("batch", {}).get("labelled") for tree in (files, gather(words)))
    rates = {key: value for key, value in files.get("optimizer", {}).items() if key in ("lr", "decoder_lr")}
    chosen = any(word.startswith("optimizer") for word in words)
    if not before or before == after or chosen or not all(isinstance(v, float | int | None) for v in rates.values()):
        return None
    scaled = " ".join(f"optimizer.{key}={value * after / before:g}" for key, value in rates.items() if value)
    return f"batch.labelled is {after} in place of {before}: linear scaling would be {scaled}; it is not done"


def of_run(run: Path) -> Config:
    """The config that the run in folder `run` was started with."""
    path = run / "config.yaml"
    if not path.is_file():
        inside = [str(inner.parent) for inner in sorted(run.glob("*/config.yaml"))]
        hint = f"name one of the runs in it: {', '.join(inside[:9])}" if inside else "name the folder given as out="
        raise ValueError(f"{run}: no config.yaml, so no run; {hint}")
    return validate(Config, read_yaml(path), origin=str(path))


def written(config: Config) -> str:
    """The resolved config as YAML, defaults included."""
    return to_yaml(dump(config))
