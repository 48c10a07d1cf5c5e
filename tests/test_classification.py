"""Whole images under the one trainer: a step's loss, every method, resuming, scores, tables."""

import csv
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from browser import Page
from PIL import Image
from runs import TINY, tiny
from smalls import CLASSES, SIDE, TREE, small, write
from torch import nn

from mtseg.cli.compare import main as compare_command
from mtseg.cli.eval import main as eval_command
from mtseg.cli.predict import main as predict_command
from mtseg.config import Config, dump, load, written
from mtseg.data.held import Held
from mtseg.evaluate import evaluate
from mtseg.fits import refuse_unanswerable
from mtseg.geometry import View
from mtseg.inference.export import export
from mtseg.inference.restored import load as load_network
from mtseg.memory import Memory
from mtseg.mix import CutMix
from mtseg.optim import Adam, AdamW
from mtseg.predictors import Slide, Whole
from mtseg.run.checkpoint import load_newest
from mtseg.run.dry_run import facts
from mtseg.run.estimate import estimate
from mtseg.schedules import Cosine, Ramps, Rampup
from mtseg.settings.checked import validate
from mtseg.settings.merge import merge
from mtseg.settings.words import gather
from mtseg.state import State, batches_of, build
from mtseg.step import train_step
from mtseg.tally import Also, scores
from mtseg.task import Task, paste, sureness
from mtseg.trainer import fit
from mtseg.tta import Augment
from mtseg.views import Views

CPU = torch.device("cpu")


class Linear(nn.Module):
    """Logits of the images' mean colours; two heads."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        draw = torch.Generator().manual_seed(seed)
        self.first = nn.Parameter(torch.randn((CLASSES, 3), generator=draw))
        self.second = nn.Parameter(torch.randn((CLASSES, 3), generator=draw))

    def forward(self, images, disturb=None, *, both=False):
        colours = images.mean((2, 3))
        return (colours @ self.first.T, colours @ self.second.T) if both else colours @ self.first.T


class Frozen:
    """A teacher of given weights, which is asked and does not follow."""

    def __init__(self, module):
        self.module = module

    def answer(self, student, asked, index):
        with torch.no_grad():
            return asked.answered(self.module(asked.data).softmax(1))

    def update(self, student, tasks, logits):
        pass


def softmax(z):
    e = np.exp(z - z.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def divergence(p, q):
    return (p * np.log(p / q)).sum(1)


DISTANCES = {
    "{kind: squared, over_classes: mean}": lambda p, q: ((p - q) ** 2).mean(1),
    "{kind: kl}": divergence,
    "{kind: tau, tau: 0.3}": lambda p, q: (
        2 / (CLASSES * 0.3) ** 2 * divergence(0.3 * p + 0.7 / CLASSES, 0.3 * q + 0.7 / CLASSES)
    ),
}
BATCHES = {
    "one labelled among the whole pool": "batch={labelled: 1, unlabelled: 9}",
    "mixed": "batch={labelled: 0, unlabelled: 10, consistency: all}",
    "two streams": "batch={labelled: 3, unlabelled: 7, consistency: all}",
}


@pytest.mark.parametrize("batching", BATCHES)
@pytest.mark.parametrize("distance", DISTANCES)
def test_the_loss_of_a_step_is_the_papers_in_plain_numpy(tmp_path, batching, distance):
    """(1/B) sum of cross-entropies + w(t) (1/B) sum of distances + lambda mean |z1 - z2|^2, B all images."""
    words = [BATCHES[batching], f"method.distance={distance}", "method.normalise=batch", "method.logit_distance=0.05"]
    config = small(tmp_path, *words, "model.heads=2", "data.split_seed=1", "optimizer={kind: sgd, lr: 0.1}")
    splits = config.data.build()
    student, teacher = Linear(0), Linear(1)
    state = State(student, Frozen(teacher), config.optimizer.build(student), step=1)
    batch = batches_of(config, splits, CPU)[1]
    first, second = (weight.detach().double().numpy() for weight in (student.first, student.second))
    found = train_step(config, state, batch)

    def colours(crops):
        return crops.view(config.views).data.mean((2, 3)).double().numpy()

    asked, labels = colours(batch.students[0]), batch.label.numpy()
    everything = np.concatenate([colours(batch.labelled), asked]) if len(batch.labelled.image) else asked
    z1, z2 = everything @ first.T, everything @ second.T
    known = np.flatnonzero(labels >= 0)
    cross = -np.log(softmax(z1)[known, labels[known]]).sum() / 10
    target = softmax(colours(batch.teacher) @ teacher.first.detach().double().numpy().T)
    agree = DISTANCES[distance](target, softmax(z2[len(everything) - len(asked) :])).sum() / 10
    weight = 2.0 * np.exp(-5 * (1 - 1 / 3) ** 2)
    apart = 0.05 * ((z1 - z2) ** 2).sum(1).mean()
    np.testing.assert_allclose(float(found["loss_sup"]), cross, rtol=1e-4)
    np.testing.assert_allclose(float(found["loss_cons"]), agree, rtol=1e-4)
    np.testing.assert_allclose(float(found["loss"]), cross + weight * agree + apart, rtol=1e-4)
    assert len(known) < len(labels) or batching == "one labelled among the whole pool"


@pytest.mark.parametrize("how", [["accumulate=1"], ["accumulate=2"], ["bn=separate"]], ids=str)
@pytest.mark.parametrize("heads", [1, 2])
def test_what_is_remembered_of_an_image_is_what_the_class_head_said_of_it(heads, how, tmp_path):
    """After one step from nothing: (1 - decay) softmax(z), z the class head's logits of the student's view."""
    two = ["model.heads=2", "method.logit_distance=0.01"] if heads == 2 else []
    config = small(tmp_path, "method.teacher={kind: memory, size: [], decay: 0.6}", *two, *how)
    splits, student = config.data.build(), Linear(0)
    teacher = config.method.teacher.build(student, len(splits.unlabelled), CLASSES)
    state = State(student, teacher, config.optimizer.build(student))
    batch = batches_of(config, splits, CPU)[0]
    seen = batch.students[0].view(config.views).data.mean((2, 3)).double().numpy()
    expected = 0.4 * softmax(seen @ student.first.detach().double().numpy().T)
    train_step(config, state, batch)
    places = batch.students[0].index
    np.testing.assert_allclose(teacher.said[places].numpy(), expected, atol=5e-4)  # half precision
    assert len(set(places.tolist())) == len(places)


def test_ramps_have_the_published_values_at_the_published_steps():
    rate = Ramps(up=40000, down=25000)
    for step, expected in ((0, np.exp(-5)), (20000, np.exp(-1.25)), (40000, 1), (125000, 1), (137500, np.exp(-3.125))):
        assert rate(step, 150000) == pytest.approx(expected, rel=1e-9)
    assert rate(149999, 150000) == pytest.approx(np.exp(-12.5), rel=1e-2)
    # Supervised-only of 4000 labels, 30,000 steps: the ramp-up is never done. Its peak is 1.63e-3.
    peaks = {
        n: 3e-3 * max(Ramps(up=40000, down=n)(t, int(7.5 * n)) for t in range(int(7.5 * n))) for n in (1000, 2000, 4000)
    }
    assert peaks == {n: pytest.approx(p, rel=0.01) for n, p in ((1000, 9.0e-5), (2000, 3.1e-4), (4000, 1.63e-3))}
    epochs = Rampup(steps=590, every=118)
    found = [round(epochs(118 * epoch + 117, 0), 3) for epoch in range(6)]
    assert found == [0.007, 0.041, 0.165, 0.449, 0.819, 1.0]
    assert Cosine(length=41300)(35400, 35400) == pytest.approx(0.0099 / 0.2, rel=2e-3)


def test_adams_moments_switch_and_ramp_down_as_published():
    rule = Adam(lr=3e-3, early_beta2=0.99, early_steps=40000, down=25000)
    assert rule.at(0, 180000) == {"betas": (0.9, 0.99)}
    assert rule.at(39999, 180000)["betas"][1] == 0.99
    assert rule.at(40000, 180000) == {"betas": (0.9, 0.999)}
    down = np.exp(-12.5 * 0.5**2)
    assert rule.at(180000 - 12500, 180000)["betas"][0] == pytest.approx(0.9 * down + 0.5 * (1 - down))
    with pytest.raises(ValueError, match="go together"):
        Adam(lr=1e-3, early_beta2=0.9)


def test_adamw_has_the_moments_that_are_asked_for():
    built = AdamW(lr=1e-3, betas=(0.8, 0.95)).build(torch.nn.Linear(2, 2))
    assert {group["betas"] for group in built.param_groups} == {(0.8, 0.95)}


def test_a_step_is_taken_with_the_moments_of_that_step(tmp_path):
    config = small(tmp_path, "optimizer={kind: adam, lr: 1e-3, early_beta2: 0.9, early_steps: 1, down: 2}")
    splits = config.data.build()
    state, batches = build(config, splits, CPU), batches_of(config, splits, CPU)
    seen = []
    for step in range(4):
        train_step(config, state, batches[step])
        seen.append(state.optimizer.param_groups[0]["betas"])
    half = np.exp(-12.5 / 4)
    assert seen == [(0.9, 0.9), (0.9, 0.999), (0.9, 0.999), (pytest.approx(0.5 + 0.4 * half), 0.999)]


def test_the_teacher_begins_as_the_student_whose_layers_the_first_batch_has_set(tmp_path):
    config = small(tmp_path)
    state = build(config, config.data.build(), CPU)
    for one, two in zip(state.student.parameters(), state.teacher.module.parameters(), strict=True):
        assert torch.equal(one, two)
    assert not torch.equal(state.student.head.gain, torch.ones(CLASSES))
    again = build(config, config.data.build(), CPU)
    assert torch.equal(state.student.head.gain, again.student.head.gain)


METHODS = {
    "supervised": ["method.branches=[]"],
    "pi": ["method.teacher={kind: itself, gradient: both}"],
    "temporal ensembling": ["method.teacher={kind: memory, size: []}"],
    "vat": ["method.branches=[{sees: teacher, adversary: {kind: vat}}]", "method.teacher={kind: itself}"],
    "mean teacher": ["method.teacher={kind: ema, mode: train, buffers: own}"],
    "fixmatch": [
        *("method.teacher={kind: itself}", "method.target={kind: hard, threshold: 0.1}"),
        *("method.branches=[{mix: {kind: cutout}}]", "method.distance={kind: cross_entropy}"),
    ],
    "source frame": ["method.frame=source"],
    "several teachers": ["method.teacher={kind: ensemble, every: 1}"],
    "cutmix": ["method.branches=[{mix: {kind: cutmix}}, {mix: {kind: mixup, partner: labelled}}]"],
    "dropped channels": ["method.branches=[{features: {kind: channel_dropout}}]"],
    "bands and thresholds": [
        "method.branches=[{mix: {kind: bands}}]",
        "method.target={kind: adaptive, per_class: true}",
    ],
    "views by workers": ["views.made=workers"],
    "two heads": ["model.heads=2", "method.logit_distance=0.01", "model.norm=batch"],
    "mixed": ["batch={labelled: 0, unlabelled: 8, consistency: all}", "method.teacher={kind: memory, size: []}"],
    "two streams": ["batch={labelled: 4, unlabelled: 4, consistency: all}", "views.made=workers"],
}


@pytest.mark.parametrize("method", METHODS)
def test_every_method_runs_and_resumes_to_the_last_bit(tmp_path, method):
    words = METHODS[method]
    whole = small(tmp_path, *words, f"out={tmp_path / 'whole'}")
    found = fit(whole, quiet=True)
    fit(small(tmp_path, *words, "steps=2", f"out={tmp_path / 'parts'}"), quiet=True)
    again = fit(small(tmp_path, *words, f"out={tmp_path / 'parts'}", "accept_changes=[steps]"), quiet=True)
    assert all(0 <= found[name]["top1"] <= 1 for name in ("student", "teacher"))
    one, two = (load_newest(tmp_path / run / "checkpoints")[0] for run in ("whole", "parts"))
    assert one.step == two.step == 4
    assert found == again
    for before, after in ((one.student, two.student), (one.teacher, two.teacher)):
        assert all(torch.equal(value, after[name]) for name, value in before.items())


def test_rows_of_segmentation_are_laid_on_it_as_they_are(tmp_path):
    """configs/method rows, with views by workers."""
    configs = Path(__file__).parent.parent / "configs/method"
    base = small(tmp_path, "views.made=workers", "steps=1", "eval.every=1")
    for row in ("supervised", "mean_teacher", "mean_teacher_paper", "pi", "vat", "vat_entropy", "fixmatch", "ict"):
        tree = merge(dump(base), gather([str(configs / f"{row}.yaml")]))
        config = validate(Config, tree | {"out": str(tmp_path / row)})
        assert fit(config, quiet=True)["teacher"]["top1"] is not None


def test_classmix_and_windows_want_maps_and_say_so(tmp_path):
    with pytest.raises(ValueError, match="cutmix or mixup"):
        fit(small(tmp_path, "method.branches=[{mix: {kind: classmix}}]"), quiet=True)
    with pytest.raises(ValueError, match="whole or centre"):
        fit(small(tmp_path, "eval.predictor={kind: slide, window: [16, 16]}"), quiet=True)


ROWS = Path(__file__).parent.parent / "configs/method"
SHAKEN = "model={kind: shake26, width: 4}"
ODD = "views.crop=[18, 18]"
UNANSWERABLE = {
    "windows": (["eval.predictor={kind: slide, window: [16, 16]}"], "test-0 .16x16.: .*'slide' .*use whole or centre"),
    "classmix": ([str(ROWS / "classmix.yaml"), "views.made=workers"], "'classmix' .*use cutmix or mixup"),
    "dual teacher": ([str(ROWS / "dual_teacher.yaml"), "views.made=workers"], "'classmix' .*use cutmix or mixup"),
    "sides of a crop": (
        [SHAKEN, ODD, "views.made=workers"],
        r"views\.crop: \[18, 18\]: 18x18 .*must be divisible by 4 for model\.kind: shake26; choose another crop",
    ),
    "sides of a centre": (
        [SHAKEN, "eval.predictor={kind: centre, size: [16, 18]}", "data.root=LARGE", "views.made=workers"],
        r"eval\.predictor: centre up to 16x18 only, asked about test-0 \(20x20\): 16x18 .*divisible by 4",
    ),
    "sides of a scale": (
        [SHAKEN, "eval.predictor={kind: whole, augment: {scales: [0.9]}}"],
        r"eval\.predictor: whole images, scale 0\.9, asked about test-0 \(16x16\): 14x14 .*divisible by 4",
    ),
    "a whitened crop": (
        ["views.standard={kind: zca, file: ZCA}", ODD, "views.made=workers"],
        r"views\.crop: \[18, 18\]: .*whitens images of 768 values, and these have 972",
    ),
    "a whitened centre": (
        ["views.standard={kind: zca, file: ZCA}", "data.root=LARGE", "views.made=workers"],
        r"eval\.predictor: whole images, asked about test-0 \(20x20\): .*whitens images of 768 .*have 1200",
    ),
    "no whitening": (["views.standard={kind: zca, file: nowhere.npz}"], r"nowhere\.npz is not a whitening"),
}


@pytest.mark.parametrize("case", UNANSWERABLE)
def test_what_whole_images_cannot_be_asked_is_refused_before_the_first_step(case, tmp_path):
    words, says = UNANSWERABLE[case]
    np.savez(tmp_path / "zca.npz", mean=np.zeros(768, np.float32), matrix=np.eye(768, dtype=np.float32))
    places = {"LARGE": str(write(tmp_path / "large.npz", side=20)), "ZCA": str(tmp_path / "zca.npz")}
    for name, place in places.items():
        words = [word.replace(name, place) for word in words]
    config = small(tmp_path, *words)
    for refusing in (facts, lambda config: fit(config, quiet=True)):
        with pytest.raises(ValueError, match=says):
            refusing(config)
    assert not (config.out / "config.yaml").exists()


@pytest.mark.parametrize(
    "words",
    [
        [SHAKEN],
        [SHAKEN, "eval.predictor={kind: centre, size: [16, 16]}", "data.root=LARGE", "views.made=workers"],
        ["views.standard={kind: zca, file: ZCA}"],
        ["views.standard={kind: zca, file: ZCA}", "eval.predictor={kind: whole, augment: {flip: true}}"],
        ["views.standard={kind: zca, file: ZCA}", "eval.predictor={kind: centre, size: [16, 16]}", "data.root=LARGE"],
    ],
    ids=str,
)
def test_what_whole_images_can_be_asked_is_not_refused(words, tmp_path):
    np.savez(tmp_path / "zca.npz", mean=np.zeros(768, np.float32), matrix=np.eye(768, dtype=np.float32))
    places = {"LARGE": str(write(tmp_path / "large.npz", side=20)), "ZCA": str(tmp_path / "zca.npz")}
    for name, place in places.items():
        words = [word.replace(name, place) for word in words]
    config = small(tmp_path, *words)
    splits = config.data.build()
    refuse_unanswerable(config, splits)
    network, how = config.model.build(CLASSES).eval(), config.eval
    asked = {"views": config.views, "batch": how.batch, "device": CPU, "predictor": how.predictor}
    assert 0 <= scores(evaluate(network, splits.test, classes=CLASSES, **asked), splits.classes)["top1"] <= 1


def test_a_memory_of_maps_is_refused_for_whole_images_and_the_other_way_round(tmp_path):
    row = str(Path(__file__).parent.parent / "configs/method/temporal_ensembling.yaml")
    config = validate(Config, merge(dump(small(tmp_path)), gather([row])))
    for ask in (facts, fit):
        with pytest.raises(
            ValueError, match=r"method.teacher.size: answers of 2 dimensions and labels of 0; give \[\]"
        ):
            ask(config)
        with pytest.raises(ValueError, match=r"size: answers of 0 dimensions and labels of 2; .*height and width"):
            ask(tiny(tmp_path / "maps", "method.teacher={kind: memory, size: []}"))
    assert not (tmp_path / "maps").exists()


def unfit(folder: Path, of: str, *words: str) -> Config:
    """A run whose network does not answer for what the labels `of` its data are about."""
    config, other = (small(folder, *words), TINY["model"]) if of == "wholes" else (tiny(folder, *words), TREE["model"])
    return validate(Config, dump(config) | {"model": other})


SAID = {
    "wholes": r"model.kind: smp answers for every pixel, .* data.kind: small .* use model.kind=convnet13",
    "maps": r"model.kind: convnet13 answers for whole images, .* data.kind: scenes .* use model.kind=smp",
}


@pytest.mark.parametrize("words", [[], ["method.branches=[]"], ["method.teacher={kind: memory, size: []}"]], ids=str)
@pytest.mark.parametrize("of", SAID)
def test_a_network_that_does_not_answer_for_what_the_labels_are_about_is_refused_before_anything_is_written(
    of, words, tmp_path
):
    config = unfit(tmp_path, of, *words)
    with pytest.raises(ValueError, match=SAID[of]):
        fit(config, quiet=True)
    assert not (config.out / "config.yaml").exists()
    with pytest.raises(ValueError, match=SAID[of]):
        facts(config)


@pytest.mark.parametrize("asking", ["data.unlabelled=rest", "eval.select=holdout"])
def test_a_batch_of_the_unlabelled_pool_alone_wants_the_labelled_images_in_it(tmp_path, asking):
    config = small(tmp_path, "batch={labelled: 0, unlabelled: 8, consistency: all}", asking)
    if asking == "eval.select=holdout":  # keeps the others in the pool
        assert fit(config, quiet=True)["teacher"]["top1"] is not None
    else:
        with pytest.raises(ValueError, match=r"batch.labelled: 0 .*no label would be learnt; set data.unlabelled=all"):
            fit(config, quiet=True)


def test_it_learns_what_can_be_learnt(tmp_path):
    """Classes are colours: forty steps are enough for most of them."""
    words = ["steps=40", "eval.every=40", "method.teacher={kind: ema, decay: 0.8}", "model={kind: shake26, width: 8}"]
    found = fit(small(tmp_path, *words), quiet=True)
    assert found["student"]["top1"] > 0.7
    assert found["teacher"]["error"] == pytest.approx(1 - found["teacher"]["top1"])


def whole(data):
    batch = len(data)
    warp = torch.eye(3, dtype=torch.float64).expand(batch, 3, 3)
    return View(torch.rand(batch, 3, 8, 8), warp, torch.ones((batch, 1, 8, 8), dtype=torch.bool)).answered(data)


def test_what_is_said_of_whole_images_holds_in_every_frame():
    said = whole(torch.rand(2, 5))
    turned = View(torch.rand(2, 3, 4, 4), -said.warp, torch.ones((2, 1, 4, 4), dtype=torch.bool))
    assert torch.equal(said.seen_from(turned).data, said.data)
    assert said.known.shape == (2, 1)
    turned.known[1] = False
    assert said.seen_from(turned).known.flatten().tolist() == [True, False]


def test_temporal_ensembling_of_whole_images_is_laine_and_ailas_update():
    """Z <- 0.6 Z + 0.4 z, target Z / (1 - 0.6^t), to half precision; unknown before anything was said."""
    student = nn.Linear(1, 1)
    teacher = Memory(decay=0.6, size=()).build(student, images=4, classes=3)
    index, logits = torch.tensor([2, 0]), torch.randn(3, 2, 3)
    seen = View(torch.rand(2, 3, 8, 8), torch.eye(3).double().expand(2, 3, 3), torch.ones((2, 1, 8, 8)).bool())
    assert not teacher.answer(student, seen, index).known.any()
    z = np.zeros((2, 3))
    for t in range(3):
        task = Task(seen, seen.answered(logits[t].softmax(1)), torch.ones(2, 1), index, torch.ones(2))
        teacher.update(student, [task], [logits[t]])
        z = 0.6 * z + 0.4 * softmax(logits[t].double().numpy())
        found = teacher.answer(student, seen, index)
        np.testing.assert_allclose(found.data, z / (1 - 0.6 ** (t + 1)), atol=3e-3)
        assert found.known.all()
    assert not teacher.answer(student, seen, torch.tensor([1, 3])).known.any()


def test_a_pasted_rectangle_changes_a_whole_images_target_by_its_share_of_the_area():
    """CutMix of Yun et al. 2019: lambda y_a + (1 - lambda) y_b."""
    a, b = torch.eye(3)[:1], torch.eye(3)[1:2]
    tasks = [
        Task(shown(whole(one), float(n)), whole(one), torch.ones(1, 1), torch.tensor([n]), torch.ones(1))
        for n, one in enumerate((a, b))
    ]
    mask = torch.zeros((1, 1, 8, 8), dtype=torch.bool)
    mask[..., :2, :] = True
    mixed = paste(tasks[0], tasks[1], mask)
    assert mixed.target.data.tolist() == [[0.75, 0.25, 0.0]]
    assert mixed.seen.data.mean() == 0.25
    drawn = CutMix(p=1.0)(tasks[0], tasks[1], np.random.default_rng(0))
    assert float(drawn.target.data[0, 1]) == pytest.approx(float(drawn.seen.data.mean()))


def shown(said, value):
    """An image of one value, to which `said` is the answer."""
    return View(torch.full((1, 3, 8, 8), value), said.warp, torch.ones((1, 1, 8, 8), dtype=torch.bool))


def test_sureness_of_whole_images_is_their_highest_probability_less_by_the_entropy():
    said = torch.tensor([[0.2, 0.8], [0.5, 0.5], [0.0, 1.0]])
    bits = -0.2 * math.log2(0.2) - 0.8 * math.log2(0.8)
    assert sureness(whole(said)).tolist() == pytest.approx([0.8 * (1 - bits), 0, 1])


class Says(nn.Module):
    """Logits, by the number in an image's first pixel."""

    def __init__(self, logits):
        super().__init__()
        self.logits = logits

    def forward(self, images):
        return self.logits[(images[:, 0, 0, 0] + images[:, 1, 0, 0] * 256).round().long()]


PLAIN = Views(crop=(16, 16), mean=(0, 0, 0), std=(1 / 255, 1 / 255, 1 / 255))


def numbered(count, labels):
    images = np.zeros((count, 16, 16, 3), np.uint8)
    images[..., 0], images[..., 1] = (np.arange(count) % 256)[:, None, None], (np.arange(count) // 256)[:, None, None]
    return Held(images, labels, [str(i) for i in range(count)])


@pytest.mark.parametrize("classes", [3, 300])
def test_accuracy_and_calibration_of_whole_images_are_counted_whatever_the_number_of_classes(classes):
    """Class 255 is a class where there are so many; torchmetrics and a count are the oracles."""
    from torchmetrics.classification import MulticlassAccuracy, MulticlassCalibrationError

    rng = np.random.default_rng(0)
    logits = torch.from_numpy(rng.normal(0, 2, (600, classes))).float()
    labels = rng.integers(0, classes, 600)
    labels[:200] = logits[:200].argmax(1)
    for also in (Also(), Also(images=True)):
        tally = evaluate(
            Says(logits), numbered(600, labels), classes=classes, views=PLAIN, batch=32, device=CPU, also=also
        )
        found = scores(tally, tuple(map(str, range(classes))))
        right = float((logits.argmax(1).numpy() == labels).mean())
        assert found["top1"] == pytest.approx(right)
        assert found["error"] == pytest.approx(1 - right)
        theirs = MulticlassCalibrationError(classes, n_bins=15, norm="l1")(logits.softmax(1), torch.from_numpy(labels))
        assert found["ECE"] == pytest.approx(float(theirs), abs=1e-5)
        assert (tally.images is None) or len(tally.images) == 600
        if classes > 10:
            among = MulticlassAccuracy(classes, top_k=5, average="micro")(logits, torch.from_numpy(labels))
            assert found["top5"] == pytest.approx(float(among))
            assert found["top5_error"] == pytest.approx(1 - float(among))
        else:
            assert "top5" not in found
    assert "mIoU" not in found


def test_mirrored_answers_for_whole_images_are_meaned():
    logits = torch.randn(4, 3)
    source = numbered(4, np.zeros(4, np.int64))
    predictor = Whole(augment=Augment(flip=True))
    tally = evaluate(Says(logits), source, classes=3, views=PLAIN, batch=4, device=CPU, predictor=predictor)
    assert tally.confusion.counts[0].tolist() == np.bincount(logits.argmax(1), minlength=3).tolist()
    with pytest.raises(ValueError, match="no boundaries"):
        evaluate(Says(logits), source, classes=3, views=PLAIN, batch=4, device=CPU, also=Also(boundary=0.02))
    assert Slide(window=(16, 16)).sentence()


def test_scores_a_comparison_and_a_prediction_of_whole_images(tmp_path, capsys):
    """The commands, as for segmentation: eval's files, compare's table and picture, one image's class."""
    config = small(tmp_path, "batch={labelled: 0, unlabelled: 8, consistency: all}")
    (tmp_path / "run.yaml").write_text(written(config))
    assert compare_command([str(tmp_path / "run.yaml"), f"out={tmp_path / 'both'}"]) == 0
    facts = json.loads((tmp_path / "both/comparison.json").read_text())
    assert set(facts["top1"]) >= {"supervised-only", "student", "teacher"}
    assert (tmp_path / "both/comparison.png").stat().st_size > 1000
    said = capsys.readouterr().out
    assert "supervised-only, 8 labelled images a step" in said
    assert "accuracy on test" in " ".join(said.split())
    run = tmp_path / "both/method"
    assert eval_command([str(run)]) == 0
    shown = capsys.readouterr().out
    assert "error" in shown
    assert "whole images, a class each" in shown
    found = json.loads((run / "eval_test.json").read_text())
    assert found["teacher"]["top1"] == facts["top1"]["teacher"]["last"]
    prediction = load_network(run).predict(np.zeros((SIDE, SIDE, 3), np.uint8))
    assert prediction.classes.shape == ()
    assert 1 / CLASSES <= float(prediction.confidence) <= 1
    assert json.loads((run / "checkpoints/best.json").read_text())["score"] >= facts["top1"]["teacher"]["last"] - 1e-9
    assert load([str(run / "config.yaml")]).batch.labelled == 0


def test_the_page_shows_accuracies_and_what_was_answered_wrongly(tmp_path):
    config = small(tmp_path, "eval.gallery=3")
    fit(config, quiet=True)
    page = Page((config.out / "report.html").read_text())
    for said in ("accuracy on test, %", "teacher accuracy", "percent of the row's images", "a class an image"):
        assert said in page.text
    assert "mIoU" not in page.text.partition("the config")[0]
    said = json.loads((config.out / "evaluation.json").read_text())
    network, splits = load_network(config.out), config.data.build()
    right = {
        splits.test.name(i): int(network.predict(splits.test.image(i)).classes) == int(splits.test.label(i))
        for i in range(len(splits.test))
    }
    wrong = sorted(name for name in right if not right[name])
    assert wrong
    shown = said["gallery"]
    assert len(shown) == 3
    assert {row["name"] for row in shown if row["teacher"] == 0} <= set(wrong)
    assert sum(row["teacher"] == 0 for row in shown) == min(3, len(wrong))
    for row in shown:
        truth = splits.classes[int(splits.test.label(int(row["name"].removeprefix("test-"))))]
        assert list(row["panels"])[:2] == ["image", f"truth: {truth}"]
        assert len(row["panels"]) == 4
    assert np.trace(said["confusion"]["teacher"]) == sum(right.values())


def test_networks_of_whole_images_are_not_exported_and_want_three_channels(tmp_path, capsys):
    config = small(tmp_path)
    fit(config, quiet=True)
    for kind in ("hf", "torch", "onnx"):
        with pytest.raises(ValueError, match=r"convnet13\) is not exported; use mtseg.load"):
            export(config.out, tmp_path / "out", [kind], at="last", network="teacher")
    assert eval_command([str(config.out), "--images"]) == 0
    assert "IoU" not in capsys.readouterr().out
    assert len(json.loads((config.out / "eval_test.json").read_text())["teacher"]["images"]) == 12
    with pytest.raises(ValueError, match=r"4 channels .* model.kind=smp"):
        config.model.build(CLASSES, channels=4)


def csv_rows(path):
    return list(csv.DictReader(path.open()))


def test_the_classes_of_many_images_go_into_a_table_and_what_is_there_is_kept(tmp_path, capsys):
    config = small(tmp_path, "steps=30", "eval.every=30")
    fit(config, quiet=True)
    network = load_network(config.out)
    splits = config.data.build()
    out = tmp_path / "out"
    pool = ["--pool", "test", "--out", str(out)]
    assert predict_command([str(config.out), *pool, "--rank"]) == 0
    rows = csv_rows(out / "predictions.csv")
    said = {row["image"]: (row["class"], float(row["confidence"])) for row in rows}
    assert len(said) == len(splits.test)
    for index in range(len(splits.test)):
        expected = network.predict(splits.test.image(index))
        name, confidence = said[splits.test.name(index)]
        assert name == splits.classes[int(expected.classes)]
        assert confidence == pytest.approx(float(expected.confidence), abs=1e-6)
    sure = sorted(said, key=lambda name: said[name][1])
    assert [row["image"] for row in csv_rows(out / "ranking.csv")] == sure
    assert not (out / "shares.csv").exists()
    assert predict_command([str(config.out), *pool]) == 0
    assert f"0 predicted, {len(splits.test)} there already" in capsys.readouterr().out

    middle = str(np.median([confidence for _, confidence in said.values()]))
    other = ["--pool", "test", "--out", str(tmp_path / "sure"), "--min-confidence", middle]
    assert predict_command([str(config.out), *other]) == 0
    for row in csv_rows(tmp_path / "sure/predictions.csv"):
        name, confidence = said[row["image"]]
        assert row["class"] == (name if confidence >= float(middle) - 1e-6 else "")


def test_of_whole_images_no_mask_is_drawn_and_one_that_cannot_be_read_is_listed(tmp_path, capsys):
    config = small(tmp_path)
    fit(config, quiet=True)
    Image.fromarray(np.zeros((SIDE, SIDE, 3), np.uint8)).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"no picture")
    words = [str(config.out), str(tmp_path / "a.png"), str(tmp_path / "b.png"), "--out", str(tmp_path / "out")]
    assert predict_command([*words, "--save", "mask"]) == 1
    assert "predictions.csv has their classes" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert predict_command(words) == 1
    assert [row["image"] for row in csv_rows(tmp_path / "out/predictions.csv")] == [str(tmp_path / "a.png")]
    assert "b.png" in (tmp_path / "out/errors.jsonl").read_text()


def test_a_size_that_a_network_does_not_take_is_said(tmp_path):
    config = small(tmp_path, "model={kind: shake26, width: 4}")
    fit(config, quiet=True)
    network = load_network(config.out)
    with pytest.raises(ValueError, match="an image of 30x30 pixels: the network cannot be asked about it"):
        network.predict(np.zeros((30, 30, 3), np.uint8))
    assert network.predict(np.zeros((32, 32, 3), np.uint8)).classes.shape == ()


def test_what_a_step_holds_is_estimated_for_every_optimizer(tmp_path):
    for rule in ("{kind: adam, lr: 1e-3}", "{kind: adamw, lr: 1e-3}", "{kind: sgd, lr: 0.1}"):
        config = small(tmp_path, f"optimizer={rule}", "method.teacher={kind: memory, size: []}")
        network = config.model.build(CLASSES)
        found = estimate(config, network, CLASSES, 40)
        weights = sum(p.numel() for p in network.parameters())
        assert found.learning == 4 * weights * (2 if "sgd" in rule else 3)
        assert found.memory == 40 * (CLASSES + 1) * 2
        # 10 images; 3 x logits of each, and the target and the answer of 6.
        assert found.answers == 4 * (10 * 3 * SIDE**2 + 3 * CLASSES * 10 + 2 * 6 * CLASSES)


def test_a_label_that_is_no_class_is_told_with_the_image_that_has_it(tmp_path):
    splits = small(tmp_path).data.build()
    test = splits.test
    labels = test.labels.copy()
    labels[7] = CLASSES
    wrong = replace(splits, test=Held(test.images, labels, test.names))
    with pytest.raises(ValueError, match=rf"{test.name(7)}: label {CLASSES} on 1 pixels is no class"):
        fit(small(tmp_path, "steps=1", "eval.every=1"), splits=wrong, quiet=True)
    labels[7], labels[0] = 0, -7
    with pytest.raises(ValueError, match=r"its label is -7; the class of a whole image is 0 or more, and -1 says"):
        fit(
            small(tmp_path, f"out={tmp_path / 'other'}"),
            splits=replace(splits, labelled=Held(test.images, labels, test.names)),
            quiet=True,
        )


def test_a_whitening_that_is_not_there_is_told_by_its_own_key(tmp_path):
    with pytest.raises(ValueError, match=r"^views\.standard\.file: ") as caught:
        facts(small(tmp_path, f"views.standard={{kind: zca, file: {tmp_path / 'none.npz'}}}"))
    assert "crop" not in str(caught.value)
