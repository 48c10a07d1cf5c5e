"""The training loop. It knows steps; it knows neither methods nor data sets. Read from `fit` down."""

import time
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from mtseg import lessons
from mtseg.atomic import write_whole
from mtseg.balance import told
from mtseg.config import Config, written
from mtseg.data.apart import seen_and_scored
from mtseg.data.batch import Batch
from mtseg.data.given import given
from mtseg.data.kinds import channels_of
from mtseg.data.loading import loader
from mtseg.data.provenance import record
from mtseg.data.source import Splits
from mtseg.device import pick_device
from mtseg.diagnostics import Alarms
from mtseg.distributed import from_first, rank, together, world
from mtseg.evaluate import ahead, evaluate_all, source_of
from mtseg.fits import refuse_uneven, refuse_useless
from mtseg.idle import idle
from mtseg.results import run_page
from mtseg.run import capture, checkpoint, keeping, versions
from mtseg.run.capture import Broken
from mtseg.run.exhausted import memory_told
from mtseg.run.keeping import Found, Scores
from mtseg.run.lock import locked
from mtseg.run.log import Log, summary
from mtseg.run.mute import Mute
from mtseg.run.resume import continued
from mtseg.run.stopping import ended_if_asked, stop_if_asked
from mtseg.running import compiling_told
from mtseg.saved import restore, save
from mtseg.signals import listening
from mtseg.state import State, batches_of, build
from mtseg.step import train_step
from mtseg.tally import scores
from mtseg.torchrun import joined, losses_told
from mtseg.whiten import note, refuse_another


def fit(config: Config, *, splits: Splits | None = None, quiet: bool = False) -> Scores:
    """Train as `config` says, in its folder, from where that run stands; returns the scores at the last step.

    `splits` are images of your own, in place of those that `config.data` names: the run's config then has data of
    kind `given`, which nothing but this program can read. A finished run is not trained
    again. SIGINT, SIGTERM and SIGUSR1 stop it after the step, saved: `Stopped`. Random generators of the program are
    left as they were.

    Raises ValueError for data that cannot be used, for a folder that holds another run or is being written to, for
    memory that runs out, and after `max_skipped` updates in a row that were not finite. What came before is saved,
    except where it is not finite itself. Raises OSError where the last step cannot be saved.
    """
    device = pick_device(config.device)
    generators = torch.random.fork_rng([device] if device.type == "cuda" else [])  # the caller's stay as they are
    with generators, losses_told(), joined(device, config.loader_timeout + 60), ExitStack() as within:
        for as_told in (torch.inference_mode(False), torch.enable_grad(), torch.autocast(device.type, enabled=False)):
            within.enter_context(as_told)  # whatever the program is in the middle of
        if device.type == "cuda":
            within.enter_context(torch.cuda.device(device))  # or what asks for "the" GPU would have the first one
        refuse_uneven(config, processes=world())
        if splits is not None:
            config = replace(config, data=together(partial(given, splits, channels_of(config.data))))
        splits = config.eval.apart(together(config.data.build) if splits is None else splits, config.seed)
        together(partial(refuse_useless, config, splits))
        from_first(lambda: within.enter_context(locked(config.out)))
        saved, sentences = from_first(lambda: continued(config))
        state = build(config, splits, device, pretrained=saved is None)
        length = 0 if saved is None else restore(state, saved, config.out)
        sentences = from_first(lambda: _written(config, splits, state, continued=saved is not None, said=sentences))
        log = together(partial(_log, config, state, within, length=length, quiet=quiet))
        asked_by = within.enter_context(listening())
        for sentence in sentences:
            log.say(sentence)
        try:
            with _last_step_saved(config, state, log), closing(_batches(config, splits, state)) as batches:
                return _run(config, splits, state, batches, log=log, asked_by=asked_by)
        finally:
            log.attempt(run_page.FILE, lambda: run_page.refresh(config.out, config), errors=Exception)


def _log(config: Config, state: State, within: ExitStack, *, length: int, quiet: bool) -> Log | Mute:
    """The run's log, which the first process writes."""
    if rank() > 0:
        return Mute()
    log = Log(config.out, total=config.steps, start=state.step, length=length, boards=config.boards, quiet=quiet)
    return within.enter_context(log)


def _written(config: Config, splits: Splits, state: State, *, continued: bool, said: list[str]) -> list[str]:
    """What a run is of goes into its folder; the sentences to begin with."""
    data = record(config.out, splits, continued=continued)
    if continued:
        refuse_another(config.out, config.views.standard)
    note(config.out, config.views.standard)
    write_whole(config.out / "config.yaml", written(config))
    processes = [f"{world()} processes, each with 1/{world()} of every batch"] if world() > 1 else []
    warned = seen_and_scored(splits, config.eval.split) if config.method.branches else []
    warned += [*state.begun, *lessons.told(config, splits), *idle(config)]
    weights, dense = state.class_weights, config.model.dense
    balanced = [] if weights is None else [told(weights, splits.classes, dense=dense)]
    return [data.sentence(), *warned, *processes, *balanced, *said, *versions.record(config.out, state.step)]


@contextmanager
def _last_step_saved(config: Config, state: State, log: Log | Mute) -> Iterator[None]:
    """Within, the last whole step is saved where an error ends the run."""
    try:
        yield
    except Broken:
        raise
    except ValueError:
        # The others may be gone: nothing is agreed on any more.
        place = config.out / "checkpoints" / checkpoint.name_of(state.step)
        if rank() == 0 and state.step > 0 and not place.exists():
            with suppress(ValueError, OSError):  # weights that are not finite are not worth saving
                save(config, state, log.length())
        raise


def _run(
    config: Config,
    splits: Splits,
    state: State,
    batches: Iterator[Batch],
    *,
    log: Log | Mute,
    asked_by: Callable[[], str],
) -> Scores:
    """The steps from where `state` stands to the last, of which `batches` are; returns the scores there."""
    stop = partial(stop_if_asked, config, state, log, asked_by)
    evaluated = partial(_evaluated, config, splits, state, log, asked_by)
    split = config.eval.split
    found = None if state.step == 0 else from_first(lambda: log.scores(state.step, config.eval.pools))
    if state.step == config.steps and found is not None:
        log.say(f"{config.out} is finished already: {summary(split, found[split])}")
    elif state.step > 0 and found is None and _due(config.eval.every, state.step, config):
        found = evaluated()  # it was stopped before this, or in it
        keeping.amend(config, state, log)
    keeping.choose(config, state, log, found, again=True)
    alarms = Alarms(splits.classes, config.method.teacher, balance=config.balance)
    for batch in log.awaited(together(lambda: next(batches)) for _ in range(state.step, config.steps)):
        with memory_told(config, state.device, f"in step {state.step + 1}", Broken), compiling_told():
            batch = batch.to(state.device)
            terms = train_step(config, state, batch, watch=_due(config.log_every, state.step + 1, config))
        capture.refuse_skipping(config, splits, state, batch, log.warn)
        if _due(config.log_every, state.step, config):
            values = _read(terms)
            log.train(state.step, values, images_per_step=config.crops[0])
            log.warn(alarms.train(values))
        stop()  # an evaluation that is due now is made when the run continues
        better = False
        if _due(config.eval.every, state.step, config):
            found = evaluated()
            log.warn(alarms.evaluated(found[split]))
            better = keeping.is_better(config, found)
        if (better or _due(config.checkpoint_every, state.step, config)) and keeping.saved(config, state, log):
            keeping.choose(config, state, log, found if better else None)
    log.warn(alarms.ended())
    if not keeping.is_saved(config, state):
        raise OSError(
            f"{config.out}: the last step, {state.step}, is not saved; make room, and give the same command again"
        )
    assert found is not None
    return found[split]


def _batches(config: Config, splits: Splits, state: State) -> Generator[Batch, None, None]:
    """Those of the steps that are left."""
    return loader(
        batches_of(config, splits, state.device),
        range(state.step, config.steps),
        workers=config.workers,
        pin=state.device.type == "cuda",
        timeout=config.loader_timeout,
        prefetch=config.prefetch,
    )


def _due(every: int, step: int, config: Config) -> bool:
    return step % every == 0 or step == config.steps


def _read(terms: dict[str, Tensor | float]) -> dict[str, Any]:
    """The terms as numbers and lists of numbers, under the names of the log."""
    return {f"train/{key}": term.tolist() if isinstance(term, Tensor) else term for key, term in terms.items()}


def _evaluated(config: Config, splits: Splits, state: State, log: Log | Mute, asked_by: Callable[[], str]) -> Found:
    """The scores of both networks on each pool, logged. A signal ends it: it is made when the run continues."""
    networks = {"student": state.student, "teacher": state.teacher.module}
    classes, how = splits.classes, config.eval
    pools = {pool: source_of(splits, pool) for pool in how.pools}
    began = time.perf_counter()
    tally = partial(
        evaluate_all,
        networks,
        classes=len(classes),
        views=config.views,
        batch=how.batch,
        device=state.device,
        predictor=how.predictor,
        workers=ahead(config.workers, state.device),
        timeout=config.loader_timeout,
    )
    stop = partial(stop_if_asked, config, state, log, asked_by)
    with (
        memory_told(config, state.device, f"in the evaluation after step {state.step}"),
        ended_if_asked(list(networks.values()), asked_by, stop),
    ):
        tallies = {pool: tally(source) for pool, source in pools.items()}
    found = {pool: {name: scores(of[name], classes) for name in networks} for pool, of in tallies.items()}
    for pool, of in found.items():
        log.evaluated(state.step, pool, of, asked=how.predictor.sentence())
    run_page.show(config, splits, state.step, networks=networks, tallies=tallies[how.split], log=log)
    log.paused(state.step, since=began)
    return found
