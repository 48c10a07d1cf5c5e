"""The training loop. It knows steps; it knows neither methods nor data sets. Read from `fit` down."""

from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any, cast

import torch
from torch import Tensor, nn

from mtseg import checkpoint
from mtseg.config import Config, differences, of_run, written
from mtseg.data.source import Splits
from mtseg.data.stream import Batch, Stream, loader
from mtseg.evaluate import evaluate, scores, source_of
from mtseg.log import Log, summary
from mtseg.losses import average
from mtseg.optim import set_lr
from mtseg.randomness import reseed_torch
from mtseg.signals import Stopped, listening
from mtseg.state import State, build, pick_device, restore, save
from mtseg.targets import Moment

Scores = dict[str, dict[str, Any]]  # of the "student" and the "teacher"


def fit(config: Config, *, splits: Splits | None = None, quiet: bool = False) -> Scores:
    """Train as `config` says, in its folder, from where that run stands; returns the scores at the last step.

    `splits` are images of your own, in place of those that `config.data` names. A finished run is not trained
    again. SIGINT, SIGTERM and SIGUSR1 stop it after the step, saved: `Stopped`.

    Raises ValueError for data that cannot be used, for a folder that holds another run, and for a loss or weights
    that are not finite. What came before is saved, except where it is not finite itself.
    """
    device = pick_device(config.device)
    splits = config.data.build() if splits is None else splits
    saved, sentences = _continued(config)
    state = build(config, splits, device, pretrained=saved is None)
    length = 0 if saved is None else restore(state, saved, config.out)
    config.out.mkdir(parents=True, exist_ok=True)
    checkpoint.write_whole(config.out / "config.yaml", written(config))
    with (
        Log(config.out, total=config.steps, start=state.step, length=length, quiet=quiet) as log,
        listening() as asked_by,
    ):
        for sentence in sentences:
            log.say(sentence)
        try:
            return _run(config, splits, state, log=log, asked_by=asked_by)
        except ValueError:
            if state.step > 0 and not (config.out / "checkpoints" / checkpoint.name_of(state.step)).exists():
                with suppress(ValueError):  # weights that are not finite are not worth saving
                    save(config, state, log.length())
            raise


def _run(config: Config, splits: Splits, state: State, *, log: Log, asked_by: Callable[[], str]) -> Scores:
    """The steps from where `state` stands to the last; returns the scores there."""
    device = next(state.student.parameters()).device
    found = None if state.step == 0 else log.scores(state.step, config.eval.split)
    if state.step == config.steps and found is not None:
        log.say(f"{config.out} is finished already: {summary(config.eval.split, found)}")
    elif state.step > 0 and found is None and _due(config.eval.every, state, config):
        found = _evaluated(config, splits, state, log)  # it was stopped before this, or in it
    for batch in _batches(config, splits, start=state.step, device=device):
        terms = train_step(config, state, batch.to(device))
        if _due(config.log_every, state, config):
            log.train(state.step, _read(terms, state.step), images_per_step=_images(config))
        if asked := asked_by():  # an evaluation that is due now is made when the run continues
            save(config, state, log.length())
            raise Stopped(f"{config.out} stopped on {asked}, saved at step {state.step}; the same command continues it")
        if _due(config.eval.every, state, config):
            found = _evaluated(config, splits, state, log)
        if _due(config.checkpoint_every, state, config):
            save(config, state, log.length())
    assert found is not None
    return found


def train_step(config: Config, state: State, batch: Batch) -> dict[str, Tensor | float]:
    """One update of the student and of its teacher; returns what to log, still on the device."""
    method, step = config.method, state.step
    reseed_torch(config.seed, "dropout", step)
    set_lr(state.optimizer, config.schedule(step, config.steps))
    moment = Moment(step, config.steps, config.seed)
    tasks, state.memory = method.plan(
        batch, student=state.student, teacher=state.teacher, views=config.views, moment=moment, memory=state.memory
    )

    labelled = batch.labelled.view(config.views).data
    state.student.train()
    # One forward for all: its batch normalisation sees labelled and unlabelled images together.
    images = torch.cat([labelled, *(task.seen.data for task in tasks)])
    disturb = method.disturbance(tasks, after=len(labelled), moment=moment)
    logits = state.student(images) if disturb is None else state.student(images, disturb)
    on_labelled, *on_tasks = logits.split([len(labelled), *(len(task.seen.data) for task in tasks)])

    supervised = method.supervised(on_labelled, cast(Tensor, batch.labelled.label))
    consistency = method.consistency(tuple(on_tasks), tasks)
    weight = method.weight_at(step, config.steps)
    loss = method.supervised_weight * supervised + weight * consistency

    state.optimizer.zero_grad(set_to_none=True)
    loss.backward()
    if config.clip is not None:
        nn.utils.clip_grad_norm_(state.student.parameters(), config.clip)
    state.optimizer.step()
    state.teacher.update(state.student, tasks, [values.detach() for values in on_tasks])
    state.step += 1

    terms: dict[str, Tensor | float] = {"train/loss": loss.detach(), "train/loss_sup": supervised.detach()}
    if tasks:
        known = torch.stack([task.target.known.float().mean() for task in tasks]).mean()
        kept = torch.stack([average(task.weight, task.target.known) for task in tasks]).mean()
        terms |= {"train/loss_cons": consistency.detach(), "train/weight": weight}
        terms |= {"train/known": known, "train/kept": kept}
    return terms | {"train/lr": state.optimizer.param_groups[-1]["lr"]}


def _batches(config: Config, splits: Splits, *, start: int, device: torch.device) -> Iterable[Batch]:
    method = config.method
    students = method.views_of_student if method.branches else None
    stream = Stream(splits, views=config.views, sizes=config.batch, students=students, seed=config.seed)
    return loader(stream, range(start, config.steps), workers=config.workers, pin=device.type == "cuda")


def _images(config: Config) -> int:
    return config.batch.labelled + config.batch.unlabelled * len(config.method.branches)


def _due(every: int, state: State, config: Config) -> bool:
    return state.step % every == 0 or state.step == config.steps


def _read(terms: dict[str, Tensor | float], step: int) -> dict[str, float]:
    values = {key: float(value) for key, value in terms.items()}
    if not torch.isfinite(torch.tensor(values["train/loss"])):
        raise ValueError(
            f"the loss is {values['train/loss']} at step {step}: lower optimizer.lr, or set clip=1, in a new out="
        )
    return values


def _evaluated(config: Config, splits: Splits, state: State, log: Log) -> Scores:
    networks = {"student": state.student, "teacher": state.teacher.module}
    source, classes = source_of(splits, config.eval.split), splits.classes
    device = next(state.student.parameters()).device
    found = {
        name: scores(
            evaluate(network, source, classes=len(classes), views=config.views, batch=config.eval.batch, device=device),
            classes,
        )
        for name, network in networks.items()
    }
    log.evaluated(state.step, config.eval.split, found)
    return found


def _continued(config: Config) -> tuple[checkpoint.Checkpoint | None, list[str]]:
    """The newest whole checkpoint of the run to continue, none for a new run; and what the user should know.

    A folder with checkpoints holds a run, and is refused to another one. Damaged checkpoints are set aside.
    """
    folder = config.out / "checkpoints"
    if config.resume == "never" and (config.out / "config.yaml").exists():
        raise ValueError(f"out: {config.out} holds a run already and resume is never; choose another out=")
    if not checkpoint.steps(folder):
        begun = (config.out / "metrics.jsonl").exists()
        return None, [f"{config.out}: a run without a checkpoint, so it begins again"] if begun else []
    changed = differences(of_run(config.out), config)
    if changed:
        lines = "\n  ".join(changed)
        raise ValueError(
            f"out: {config.out} holds a run with other settings; choose another out=, or restore them:\n  {lines}"
        )
    saved, damaged = checkpoint.load_newest(folder)
    for place in damaged:
        checkpoint.set_aside(place)
    going_on = [f"continuing {config.out} at step {saved.step}"] if saved.step < config.steps else []
    return saved, [*damaged.values(), *going_on]
