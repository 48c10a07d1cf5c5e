"""The training loop. It knows steps; it knows neither methods nor data sets. Read from `fit` down."""

import math
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any, cast

import torch
from torch import Tensor, nn

from mtseg import checkpoint
from mtseg.config import Config, differences, of_run, written
from mtseg.data.provenance import record
from mtseg.data.source import Splits
from mtseg.data.stream import Batch, Stream, loader
from mtseg.diagnostics import Alarms, health, pseudo_accuracy
from mtseg.evaluate import evaluate, scores, source_of
from mtseg.log import Log, summary
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
    data = record(config.out, splits, continued=saved is not None)
    checkpoint.write_whole(config.out / "config.yaml", written(config))
    with (
        Log(config.out, total=config.steps, start=state.step, length=length, quiet=quiet) as log,
        listening() as asked_by,
    ):
        for sentence in [data.sentence(), *sentences]:
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
    elif state.step > 0 and found is None and _due(config.eval.every, state.step, config):
        found = _evaluated(config, splits, state, log)  # it was stopped before this, or in it
    alarms = Alarms(splits.classes)
    for batch in _batches(config, splits, start=state.step, device=device):
        terms = train_step(config, state, batch.to(device), watch=_due(config.log_every, state.step + 1, config))
        if _due(config.log_every, state.step, config):
            values = _read(terms, state.step)
            log.train(state.step, values, images_per_step=_images(config))
            log.warn(alarms.train(values))
        if asked := asked_by():  # an evaluation that is due now is made when the run continues
            save(config, state, log.length())
            raise Stopped(f"{config.out} stopped on {asked}, saved at step {state.step}; the same command continues it")
        if _due(config.eval.every, state.step, config):
            found = _evaluated(config, splits, state, log)
            log.warn(alarms.evaluated(found))
        if _due(config.checkpoint_every, state.step, config):
            save(config, state, log.length())
    assert found is not None
    return found


def train_step(config: Config, state: State, batch: Batch, *, watch: bool = False) -> dict[str, Tensor | float]:
    """One update of the student and of its teacher; returns what to log, still on the device.

    `watch`: the health of the targets too.
    """
    method, moment = config.method, Moment(state.step, config.steps, config.seed)
    reseed_torch(config.seed, "dropout", state.step)
    set_lr(state.optimizer, config.schedule(state.step, config.steps))
    plan = method.plan(
        batch, student=state.student, teacher=state.teacher, views=config.views, moment=moment, memory=state.memory
    )
    tasks, label = plan.tasks, cast(Tensor, batch.labelled.label)

    labelled = batch.labelled.view(config.views).data
    state.student.train()
    # One forward for all: its batch normalisation sees labelled and unlabelled images together.
    images = torch.cat([labelled, *(task.seen.data for task in tasks)])
    disturb = method.disturbance(tasks, after=len(labelled), moment=moment)
    logits, agreeing = method.answers(state.student, images, disturb)
    on_tasks = agreeing[len(labelled) :].split([len(task.seen.data) for task in tasks])

    supervised = method.supervised(logits[: len(labelled)], label)
    consistency = method.consistency(on_tasks, tasks)
    weight = method.weight_at(state.step, config.steps)
    loss = method.supervised_weight * supervised + weight * consistency + method.head_cost(logits, agreeing)

    state.optimizer.zero_grad(set_to_none=True)
    loss.backward()
    if config.clip is not None:
        nn.utils.clip_grad_norm_(state.student.parameters(), config.clip)
    state.optimizer.step()
    on_tasks = [values.detach() for values in on_tasks]
    state.teacher.update(state.student, tasks, on_tasks)
    state.memory = plan.memory
    state.step += 1

    terms: dict[str, Tensor | float] = {"loss": loss.detach(), "loss_sup": supervised.detach()}
    if tasks:
        known = torch.stack([task.target.known.float().mean() for task in tasks]).mean()
        terms |= {"loss_cons": consistency.detach(), "weight": weight, "known": known}
    if tasks and watch:
        terms |= health(tasks, on_tasks, label)
        if batch.teacher is not None and batch.teacher.label is not None and plan.answer is not None:
            answer = plan.answer.seen_from(batch.teacher.view(config.views))
            terms["pseudo_accuracy"] = pseudo_accuracy(answer, batch.teacher.label)
    return terms | {"lr": state.optimizer.param_groups[-1]["lr"]}


def _batches(config: Config, splits: Splits, *, start: int, device: torch.device) -> Iterable[Batch]:
    method = config.method
    students = method.views_of_student if method.branches else None
    stream = Stream(
        splits,
        views=config.views,
        sizes=config.batch,
        students=students,
        seed=config.seed,
        masks=config.diagnose_with_masks,
    )
    return loader(stream, range(start, config.steps), workers=config.workers, pin=device.type == "cuda")


def _images(config: Config) -> int:
    return config.batch.labelled + config.batch.unlabelled * len(config.method.branches)


def _due(every: int, step: int, config: Config) -> bool:
    return step % every == 0 or step == config.steps


def _read(terms: dict[str, Tensor | float], step: int) -> dict[str, Any]:
    """The terms as numbers and lists of numbers, under the names of the log."""
    values = {f"train/{key}": term.tolist() if isinstance(term, Tensor) else term for key, term in terms.items()}
    loss = float(terms["loss"])
    if not math.isfinite(loss):
        raise ValueError(
            f"the loss is {loss} at step {step}; train with a lower optimizer.lr, or clip=1, in a new out="
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
