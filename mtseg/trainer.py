"""The training loop. It knows steps; it knows neither methods nor data sets. Read from `fit` down."""

import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from mtseg import capture, checkpoint, keeping, run_page, versions
from mtseg.capture import Broken
from mtseg.config import Config, written
from mtseg.data.loading import loader
from mtseg.data.provenance import record
from mtseg.data.source import Splits
from mtseg.data.stream import Batch, Stream
from mtseg.diagnostics import Alarms, health, pseudo_accuracy
from mtseg.evaluate import evaluate, scores, source_of
from mtseg.exhausted import memory_told
from mtseg.lock import locked
from mtseg.log import Log, summary
from mtseg.optim import set_lr
from mtseg.randomness import reseed_torch
from mtseg.resume import continued
from mtseg.signals import Stopped, listening
from mtseg.state import State, Undo, build, pick_device, restore, save
from mtseg.targets import Moment

Scores = dict[str, dict[str, Any]]  # of the "student" and the "teacher"


def fit(config: Config, *, splits: Splits | None = None, quiet: bool = False) -> Scores:
    """Train as `config` says, in its folder, from where that run stands; returns the scores at the last step.

    `splits` are images of your own, in place of those that `config.data` names. A finished run is not trained
    again. SIGINT, SIGTERM and SIGUSR1 stop it after the step, saved: `Stopped`.

    Raises ValueError for data that cannot be used, for a folder that holds another run or is being written to, for
    memory that runs out, and after `max_skipped` updates in a row that were not finite. What came before is saved,
    except where it is not finite itself. Raises OSError where the last step cannot be saved.
    """
    device = pick_device(config.device)
    splits = config.data.build() if splits is None else splits
    with locked(config.out):
        saved, sentences = continued(config)
        state = build(config, splits, device, pretrained=saved is None)
        length = 0 if saved is None else restore(state, saved, config.out)
        data = record(config.out, splits, continued=saved is not None)
        sentences = [data.sentence(), *sentences, *versions.record(config.out, state.step)]
        checkpoint.write_whole(config.out / "config.yaml", written(config))
        with (
            Log(
                config.out, total=config.steps, start=state.step, length=length, boards=config.boards, quiet=quiet
            ) as log,
            listening() as asked_by,
        ):
            for sentence in sentences:
                log.say(sentence)
            try:
                return _run_saved(config, splits, state, log=log, asked_by=asked_by)
            finally:
                log.attempt(run_page.FILE, lambda: run_page.refresh(config.out, config), errors=Exception)


def _run_saved(config: Config, splits: Splits, state: State, *, log: Log, asked_by: Callable[[], str]) -> Scores:
    """`_run`, whose last whole step is saved where an error ends it."""
    try:
        return _run(config, splits, state, log=log, asked_by=asked_by)
    except Broken:
        raise
    except ValueError:
        if state.step > 0 and not keeping.is_saved(config, state):
            with suppress(ValueError, OSError):  # weights that are not finite are not worth saving
                save(config, state, log.length())
        raise


def _run(config: Config, splits: Splits, state: State, *, log: Log, asked_by: Callable[[], str]) -> Scores:
    """The steps from where `state` stands to the last; returns the scores there."""
    device, stop_if_asked = _device(state), partial(_stop_if_asked, config, state, log, asked_by)
    found = None if state.step == 0 else log.scores(state.step, config.eval.split)
    if state.step == config.steps and found is not None:
        log.say(f"{config.out} is finished already: {summary(config.eval.split, found)}")
    elif state.step > 0 and found is None and _due(config.eval.every, state.step, config):
        found = _evaluated(config, splits, state, log, stop_if_asked)  # it was stopped before this, or in it
    keeping.point_to_best(config, state, found)
    alarms = Alarms(splits.classes)
    for batch in log.awaited(_batches(config, splits, start=state.step, device=device)):
        with memory_told(config, device, f"in step {state.step + 1}", Broken):
            batch = batch.to(device)
            terms = train_step(config, state, batch, watch=_due(config.log_every, state.step + 1, config))
        capture.refuse_skipping(config, splits, state, batch, log.warn)
        if _due(config.log_every, state.step, config):
            values = _read(terms)
            log.train(state.step, values, images_per_step=_images(config))
            log.warn(alarms.train(values))
        stop_if_asked()  # an evaluation that is due now is made when the run continues
        better = False
        if _due(config.eval.every, state.step, config):
            found = _evaluated(config, splits, state, log, stop_if_asked)
            log.warn(alarms.evaluated(found))
            better = keeping.is_better(config, found)
        if (better or _due(config.checkpoint_every, state.step, config)) and keeping.saved(config, state, log):
            keeping.point_to_best(config, state, found if better else None)
    if not keeping.is_saved(config, state):
        raise OSError(
            f"{config.out}: the last step, {state.step}, is not saved; make room, and give the same command again"
        )
    assert found is not None
    return found


def train_step(config: Config, state: State, batch: Batch, *, watch: bool = False) -> dict[str, Tensor | float]:
    """One update of the student and of its teacher; returns what to log, still on the device.

    Where the loss or the gradient is not finite, nothing is updated: student, optimizer, teacher, batch statistics and
    memories stay, and the step is counted as skipped. It is a step of all schedules and of the data all the same.
    `watch`: the health of the targets too.
    """
    undo = Undo(state)
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
    norm = nn.utils.get_total_norm([p.grad for p in state.student.parameters() if p.grad is not None])
    on_tasks = [values.detach() for values in on_tasks]
    if bool((loss.detach() + norm).isfinite()):  # the step's one wait for the device
        if config.clip is not None:
            nn.utils.clip_grads_with_norm_(state.student.parameters(), config.clip, norm)
        state.optimizer.step()
        state.teacher.update(state.student, tasks, on_tasks)
        state.memory, state.skipped_in_a_row = plan.memory, 0
    else:
        undo()
        state.skipped, state.skipped_in_a_row = state.skipped + 1, state.skipped_in_a_row + 1
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
    lr = state.optimizer.param_groups[-1]["lr"]
    return terms | {"lr": lr, "gradient": norm, "skipped": state.skipped}


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
    steps, pin = range(start, config.steps), device.type == "cuda"
    return loader(
        stream, steps, workers=config.workers, pin=pin, timeout=config.loader_timeout, prefetch=config.prefetch
    )


def _images(config: Config) -> int:
    return config.batch.labelled + config.batch.unlabelled * len(config.method.branches)


def _due(every: int, step: int, config: Config) -> bool:
    return step % every == 0 or step == config.steps


def _read(terms: dict[str, Tensor | float]) -> dict[str, Any]:
    """The terms as numbers and lists of numbers, under the names of the log."""
    return {f"train/{key}": term.tolist() if isinstance(term, Tensor) else term for key, term in terms.items()}


def _stop_if_asked(config: Config, state: State, log: Log, asked_by: Callable[[], str]) -> None:
    """Raises Stopped, the state saved, where a signal has come."""
    if asked := asked_by():
        whole = keeping.is_saved(config, state) or keeping.saved(config, state, log)
        done = f"saved at step {state.step}" if whole else f"step {state.step} NOT saved"
        raise Stopped(f"{config.out} stopped on {asked}, {done}; the same command continues it")


def _device(state: State) -> torch.device:
    return next(state.student.parameters()).device


def _evaluated(config: Config, splits: Splits, state: State, log: Log, stop_if_asked: Callable[[], None]) -> Scores:
    """The scores of both networks, logged. A signal ends it: it is made when the run continues."""
    networks = {"student": state.student, "teacher": state.teacher.module}
    source, classes, device = source_of(splits, config.eval.split), splits.classes, _device(state)
    how, began = config.eval, time.perf_counter()
    tally = partial(
        evaluate, classes=len(classes), views=config.views, batch=how.batch, device=device, predictor=how.predictor
    )
    hooks = [network.register_forward_pre_hook(lambda *_: stop_if_asked()) for network in networks.values()]
    try:
        with memory_told(config, device, f"in the evaluation after step {state.step}"):
            tallies = {name: tally(network, source) for name, network in networks.items()}
    finally:
        for hook in hooks:
            hook.remove()
    found = {name: scores(tallies[name], classes) for name in networks}
    log.evaluated(state.step, config.eval.split, found)
    run_page.show(config, splits, state.step, networks=networks, tallies=tallies, log=log)
    log.paused(state.step, since=began)
    return found
