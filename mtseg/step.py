"""One step of training: the loss of a batch, the student's update, its teacher's, and what is said of them."""

from contextlib import suppress
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from mtseg.asking import asked
from mtseg.config import Config
from mtseg.data.batch import Batch
from mtseg.diagnostics import health, pseudo_accuracy
from mtseg.distributed import everywhere, rank, total, world
from mtseg.method import Counts, Plan
from mtseg.models.norm import level
from mtseg.optim import set_lr
from mtseg.precision import casting
from mtseg.randomness import reseed_torch
from mtseg.running import summing
from mtseg.share import Share, shares
from mtseg.state import Learner, State, Undo
from mtseg.targets import Moment


@dataclass(frozen=True)
class Learnt:
    """A loss's terms, and the student's logits (B, K, *S) of each task: of the head that answers the consistency, and
    of the class head, by which a teacher goes. Of one head they are the very same."""

    terms: dict[str, Tensor]
    agreeing: list[Tensor]
    classes: list[Tensor]


def train_step(config: Config, state: State, batch: Batch, *, watch: bool = False) -> dict[str, Tensor | float]:
    """One update of the student and of its teacher; returns what to log, still on the device.

    A peer learns in the same step, from answers that were given before; what is logged is the first student's, and the
    peer's loss. Where the loss or the gradient is not finite, of either, nothing is updated: student, optimizer,
    teacher, batch statistics and memories stay (as they do where an error ends the step before its update), and it is
    counted as skipped. It is a step of all schedules and of the data all the same. `batch` is this process's part of
    the whole. `watch`: what is returned is of all processes, and holds the health of the targets too.
    """
    undo = Undo(state)
    method, moment, learners = config.method, Moment(state.place, config.steps, config.seed), state.learners
    reseed_torch(config.seed, "dropout", state.step * world() + rank())
    others = config.optimizer.at(state.place, config.steps)
    for learner in learners:
        set_lr(learner.optimizer, config.schedule(state.place, config.steps), **others)
    try:
        with casting(config.precision, state.device):
            plan_of = partial(method.plan, batch, views=config.views, moment=moment)
            plans = [plan_of(student=one.student, teacher=one.teacher, past=one.past) for one in learners]
        steps = [_learn(config, state, one, batch, plan, moment) for one, plan in zip(learners, plans, strict=True)]
    except BaseException:  # the step before may yet be saved
        with suppress(RuntimeError):  # of a device that is lost, too
            undo()
        raise
    losses, norms = [whole.terms["loss"] for whole, _ in steps], [norm for _, norm in steps]
    if everywhere(torch.stack([*losses, *norms]).isfinite().all()):  # the step's one wait for the device
        level([network for learner in learners for network in learner.networks])
        for learner, plan, (whole, norm) in zip(learners, plans, steps, strict=True):
            if config.clip is not None:
                nn.utils.clip_grads_with_norm_(learner.student.parameters(), config.clip, norm)
            learner.optimizer.step()
            learner.teacher.update(learner.student, plan.tasks, whole.classes)
            learner.past = plan.past
        state.skipped_in_a_row = 0
        state.scale.fits()
    else:
        undo()
        state.skip()
    state.step += 1

    plan, whole, tasks = plans[0], steps[0][0], plans[0].tasks
    told = whole.terms | dict(zip(["loss_peer"], losses[1:], strict=False))
    terms: dict[str, Tensor | float] = {key: total(loss) if watch else loss for key, loss in told.items()}
    if tasks:
        terms["weight"] = method.weight_at(moment.step, config.steps)
    if batch.teacher is not None and plan.answer is not None and watch:
        compared = [method.compared(values, task) for values, task in zip(whole.agreeing, tasks, strict=True)]
        terms["known"] = total(torch.stack([view.known.float().mean() for view in compared]).mean()) / world()
        terms |= health(tasks, compared, plan.answer, batch.label)
        if batch.teacher.label is not None:
            answer = plan.answer.seen_from(batch.teacher.view(config.views))
            terms["pseudo_accuracy"] = pseudo_accuracy(answer, batch.teacher.label)
    lr = state.optimizer.param_groups[-1]["lr"]
    return terms | {"lr": lr, "gradient": norms[0], "skipped": state.skipped}


def _learn(
    config: Config, state: State, learner: Learner, batch: Batch, plan: Plan, moment: Moment
) -> tuple[Learnt, Tensor]:
    """The student's gradient is now that of the loss of `batch`; returns what was learnt from it, and its norm ()."""
    counts = config.method.counts(batch.label, plan.tasks, images=batch.images)
    parts = shares(batch.labelled.view(config.views).data, batch.label, plan.tasks, config.accumulate)
    learner.student.train()
    learner.asked.train()
    learner.optimizer.zero_grad(set_to_none=True)
    learnt = []
    for number, share in enumerate(parts, start=1):
        with summing(learner.asked, now=number == len(parts)):
            learnt.append(_learn_share(config, state, learner, share, counts, moment))
    gradients = [p.grad for p in learner.student.parameters() if p.grad is not None]
    state.scale.undone(gradients)
    return _joined(learnt), nn.utils.get_total_norm(gradients)


def _learn_share(
    config: Config, state: State, learner: Learner, share: Share, counts: Counts, moment: Moment
) -> Learnt:
    """Adds to the student's gradient that of the loss of `share`; returns its terms and what was said of the tasks."""
    method, labelled = config.method, len(share.labelled)
    with casting(config.precision, state.device):
        logits, agreeing = asked(method, learner.asked, share, moment, separate=config.bn == "separate")
    sizes = [len(task.seen.data) for task in share.tasks]
    on_tasks = agreeing[labelled:].split(sizes)

    supervised = method.supervised(logits[: len(share.label)], share.label, counts.labelled, state.class_weights)
    consistency = method.consistency(on_tasks, share.tasks, counts)
    weight = method.weight_at(moment.step, config.steps)
    heads = method.head_cost(logits, agreeing) / (world() * config.accumulate)
    loss = method.supervised_weight * supervised + weight * consistency + heads

    (loss * (state.scale.value * world())).backward()  # of the processes' gradients the mean is taken
    terms = {"loss": loss, "loss_sup": supervised} | ({"loss_cons": consistency} if share.tasks else {})
    said = [values.detach() for values in on_tasks]
    classes = said if method.logit_distance is None else list(logits[labelled:].detach().split(sizes))
    return Learnt({key: term.detach() for key, term in terms.items()}, said, classes)


def _joined(learnt: list[Learnt]) -> Learnt:
    """The terms and the answers of the shares of a batch, as those of the whole."""
    if len(learnt) == 1:
        return learnt[0]
    terms = {key: torch.stack([part.terms[key] for part in learnt]).sum() for key in learnt[0].terms}
    said = [torch.cat(pieces) for pieces in zip(*(part.agreeing for part in learnt), strict=True)]
    if learnt[0].classes is learnt[0].agreeing:
        return Learnt(terms, said, said)
    return Learnt(terms, said, [torch.cat(pieces) for pieces in zip(*(part.classes for part in learnt), strict=True)])
