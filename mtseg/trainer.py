"""The training loop. It knows steps; it knows neither methods nor data sets. Read from `fit` down."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from mtseg import checkpoint
from mtseg.config import Config, differences, of_run, written
from mtseg.data.provenance import record
from mtseg.data.source import Splits
from mtseg.data.stream import Batch, Stream, loader
from mtseg.evaluate import evaluate, scores, source_of
from mtseg.log import Log
from mtseg.optim import set_lr
from mtseg.randomness import generator, reseed_torch
from mtseg.teachers import EmaTeacher

Scores = dict[str, dict[str, Any]]  # of the "student" and the "teacher"


@dataclass
class State:
    """All that a run changes. `step` counts finished updates of the student."""

    student: nn.Module
    teacher: EmaTeacher
    optimizer: torch.optim.Optimizer
    step: int = 0


def fit(config: Config, *, quiet: bool = False) -> Scores:
    """Train as `config` says, in its folder, from where that run stands; returns the scores at the last step.

    Raises ValueError for data that cannot be used, for a folder that holds another run, and for a loss that
    is no number.
    """
    device = pick_device(config.device)
    splits = config.data.build()
    saved, damaged = _continued(config)
    state = build(config, splits, device, pretrained=saved is None)
    length = 0 if saved is None else _restore(state, saved)
    config.out.mkdir(parents=True, exist_ok=True)
    data = record(config.out, splits, continued=saved is not None)
    (config.out / "config.yaml").write_text(written(config))
    with Log(config.out, total=config.steps, start=state.step, length=length, quiet=quiet) as log:
        log.say(data.sentence())
        for sentence in damaged + ([f"continuing {config.out} at step {state.step}"] if saved else []):
            log.say(sentence)
        found = None
        for batch in _batches(config, splits, start=state.step, device=device):
            terms = train_step(config, state, batch.to(device))
            if _due(config.log_every, state, config):
                log.train(state.step, _read(terms, state.step), images_per_step=_images(config))
            if _due(config.eval.every, state, config):
                found = _evaluated(config, splits, state, device)
                log.evaluated(state.step, config.eval.split, found)
            if _due(config.checkpoint_every, state, config):
                _save(config, state, log)
        return found or _evaluated(config, splits, state, device)


def build(config: Config, splits: Splits, device: torch.device, *, pretrained: bool = True) -> State:
    """Student, teacher and optimizer at step 0: a function of the config and its seed."""
    reseed_torch(config.seed, "initial weights")
    student = config.model.build(len(splits.classes), pretrained=pretrained).to(device)
    return State(student, config.method.teacher.build(student), config.optimizer.build(student))


def train_step(config: Config, state: State, batch: Batch) -> dict[str, Tensor | float]:
    """One update of the student and of its teacher; returns what to log, still on the device."""
    method, step = config.method, state.step
    reseed_torch(config.seed, "dropout", step)
    set_lr(state.optimizer, config.schedule(step, config.steps))
    tasks = method.plan(state.teacher, batch, views=config.views, rng=generator(config.seed, "mixing", step))

    labelled = batch.labelled.view(config.views).data
    state.student.train()
    # One forward for all: its batch normalisation sees labelled and unlabelled images together.
    logits = state.student(torch.cat([labelled, *(task.seen.data for task in tasks)]))
    on_labelled, *on_tasks = logits.split([len(labelled), *(len(task.seen.data) for task in tasks)])

    supervised = method.supervised(on_labelled, cast(Tensor, batch.labelled.label))
    consistency = method.consistency(tuple(on_tasks), tasks)
    weight = method.weight_at(step, config.steps)
    loss = supervised + weight * consistency

    state.optimizer.zero_grad(set_to_none=True)
    loss.backward()
    if config.clip is not None:
        nn.utils.clip_grad_norm_(state.student.parameters(), config.clip)
    state.optimizer.step()
    state.teacher.update(state.student)
    state.step += 1

    terms: dict[str, Tensor | float] = {"train/loss": loss.detach(), "train/loss_sup": supervised.detach()}
    if tasks:
        known = torch.stack([task.target.known.float().mean() for task in tasks]).mean()
        terms |= {"train/loss_cons": consistency.detach(), "train/weight": weight, "train/known": known}
    return terms | {"train/lr": state.optimizer.param_groups[-1]["lr"]}


def pick_device(name: str) -> torch.device:
    """`auto` is the GPU where there is one. Raises ValueError for a GPU that is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"device: {name} is not on this machine ({torch.cuda.device_count()} GPUs); use device=cpu")
    return device


def _batches(config: Config, splits: Splits, *, start: int, device: torch.device) -> Iterable[Batch]:
    branches = len(config.method.branches)
    stream = Stream(splits, views=config.views, sizes=config.batch, branches=branches, seed=config.seed)
    return loader(stream, range(start, config.steps), workers=config.workers, pin=device.type == "cuda")


def _images(config: Config) -> int:
    return config.batch.labelled + config.batch.unlabelled * len(config.method.branches)


def _due(every: int, state: State, config: Config) -> bool:
    return state.step % every == 0 or state.step == config.steps


def _read(terms: dict[str, Tensor | float], step: int) -> dict[str, float]:
    values = {key: float(value) for key, value in terms.items()}
    if not torch.isfinite(torch.tensor(values["train/loss"])):
        raise ValueError(f"the loss is {values['train/loss']} at step {step}: lower optimizer.lr, or set clip=1")
    return values


def _evaluated(config: Config, splits: Splits, state: State, device: torch.device) -> Scores:
    networks = {"student": state.student, "teacher": state.teacher.module}
    source, classes = source_of(splits, config.eval.split), splits.classes
    return {
        name: scores(
            evaluate(network, source, classes=len(classes), views=config.views, batch=config.eval.batch, device=device),
            classes,
        )
        for name, network in networks.items()
    }


def _continued(config: Config) -> tuple[checkpoint.Checkpoint | None, list[str]]:
    """The newest whole checkpoint of the run to continue, and what was passed over for it; none for a new run.

    A folder with checkpoints holds a run, and is refused to another one.
    """
    folder = config.out / "checkpoints"
    if not checkpoint.steps(folder):
        return None, []
    if config.resume == "never":
        raise ValueError(f"out: {config.out} holds a run already and resume is never; choose another out=")
    changed = differences(of_run(config.out), config)
    if changed:
        lines = "\n  ".join(changed)
        raise ValueError(
            f"out: {config.out} holds a run with other settings; choose another out=, or restore them:\n  {lines}"
        )
    return checkpoint.load_newest(folder)


def _save(config: Config, state: State, log: Log) -> None:
    rest = {
        "optimizer": state.optimizer.state_dict(),
        "teacher": state.teacher.state_dict(),
        "metrics_bytes": log.length(),
    }
    checkpoint.save(
        config.out / "checkpoints",
        checkpoint.Checkpoint(state.step, state.student.state_dict(), state.teacher.module.state_dict(), rest),
        keep=config.keep,
    )


def _restore(state: State, saved: checkpoint.Checkpoint) -> int:
    """Put `saved` into `state`; returns how much of metrics.jsonl belongs to it."""
    state.student.load_state_dict(saved.student)
    state.teacher.module.load_state_dict(saved.teacher)
    state.teacher.load_state_dict(saved.rest["teacher"])
    state.optimizer.load_state_dict(saved.rest["optimizer"])
    state.step = saved.step
    return int(saved.rest["metrics_bytes"])
