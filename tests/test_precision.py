"""In half precision, with other normalisation, compiled and recomputed: what stays the same and what may differ."""

import copy
import json
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from runs import tiny
from safetensors.torch import save_file
from test_trainer import METHODS, begin
from torch import Tensor, nn

from mtseg.config import Config
from mtseg.models.norm import Frozen, Grouped, normed
from mtseg.models.smp import Smp
from mtseg.precision import GROWS_AFTER, Scale, scale_for
from mtseg.run.checkpoint import load_newest
from mtseg.running import running
from mtseg.saved import restore, snapshot
from mtseg.step import train_step
from mtseg.trainer import fit

CPU = torch.device("cpu")


def gradient(config: Config, *, scale: float | None = None) -> dict[str, Tensor]:
    state, stream = begin(config)
    if scale is not None:
        state.scale = Scale(scale)
    train_step(config, state, stream[0])
    return {name: p.grad for name, p in state.student.named_parameters() if p.grad is not None}


def cosine(some: dict[str, Tensor], others: dict[str, Tensor]) -> float:
    one, other = (torch.cat([value.flatten() for value in of.values()]) for of in (some, others))
    return float(nn.functional.cosine_similarity(one, other, dim=0))


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("name", ["mean teacher", "fixmatch", "pi", "vat", "source frame, KL"])
def test_half_precision_gives_the_gradient_of_the_full_one_to_its_digits(name, precision, tmp_path):
    """Of a teacher that is the student itself, weights cast without a gradient must not stand in for its own."""
    words = [word for word in METHODS[name] if "threshold" not in word]
    full = gradient(tiny(tmp_path, *words))
    half = gradient(tiny(tmp_path, *words, f"precision={precision}"))
    assert half.keys() == full.keys()
    assert cosine(full, half) > 0.98
    assert any(not torch.equal(full[key], half[key]) for key in full)  # the precision acts
    assert all(value.dtype == torch.float32 for value in half.values())


def test_weights_averages_and_losses_stay_in_single_precision(tmp_path):
    config = tiny(tmp_path, "precision=bf16")
    state, stream = begin(config)
    terms = train_step(config, state, stream[0], watch=True)
    tensors = [*state.student.state_dict().values(), *state.teacher.module.state_dict().values()]
    assert {value.dtype for value in [*tensors, terms["loss"], terms["loss_cons"]]} <= {torch.float32, torch.int64}


@pytest.mark.parametrize("name", METHODS)
def test_every_method_trains_in_bfloat16(name, tmp_path):
    config = tiny(tmp_path, *METHODS[name], "precision=bf16")
    state, stream = begin(config)
    for step in range(2):
        terms = train_step(config, state, stream[step], watch=True)
    assert state.skipped == 0
    assert torch.as_tensor(terms["loss"]).isfinite()


@pytest.mark.parametrize("within", [nullcontext, lambda: torch.autocast("cpu", torch.bfloat16)], ids=["", "autocast"])
def test_a_run_in_low_precision_is_that_of_its_steps_each_with_the_weights_of_then(within, tmp_path):
    """Autocast keeps cast weights until its outermost context ends, and a run is one of many steps."""
    config = tiny(tmp_path / "run", "precision=bf16", "eval.every=4")
    state, stream = begin(config)
    for step in range(config.steps):
        train_step(config, state, stream[step])
    with within():
        fit(config, quiet=True)
    saved = load_newest(tmp_path / "run/checkpoints")[0].student
    for name, value in state.student.state_dict().items():
        torch.testing.assert_close(saved[name], value, rtol=0, atol=0, msg=name)


def test_the_scale_of_the_loss_does_not_change_the_update(tmp_path):
    one, scaled = (gradient(tiny(tmp_path), scale=scale) for scale in (1.0, 2.0**10))
    for name, value in one.items():
        torch.testing.assert_close(scaled[name], value, rtol=1e-5, atol=1e-7)


def test_a_step_whose_scaled_gradient_overflows_is_none_for_average_schedules_and_ramps(tmp_path):
    config = tiny(tmp_path, "precision=fp16", "schedule={kind: poly, power: 1.0}", "steps=10")
    state, stream = begin(config)
    state.scale = Scale(2.0**126, dynamic=True)
    before = [value.clone() for value in state.student.state_dict().values()]
    train_step(config, state, stream[0])
    assert (state.step, state.place, state.overflowed, state.skipped) == (1, 0, 1, 0)
    assert state.scale == Scale(2.0**125, dynamic=True)
    assert all(torch.equal(a, b) for a, b in zip(before, state.student.state_dict().values(), strict=True))
    assert state.teacher.state_dict()["updates"] == 0
    state.scale = Scale(1.0, dynamic=True)
    terms = train_step(config, state, stream[1])
    assert (state.step, state.place, terms["lr"], terms["weight"]) == (2, 1, 0.05, config.method.weight_at(0, 10))
    train_step(config, state, stream[2])
    assert state.optimizer.param_groups[0]["lr"] == pytest.approx(0.05 * 0.9)


def test_clipping_and_what_is_logged_are_of_the_gradient_without_the_scale(tmp_path):
    words = ("clip=0.01", "optimizer={kind: sgd, lr: 0.05, momentum: 0, weight_decay: 0}")
    state, stream = begin(tiny(tmp_path, *words))
    plain = train_step(tiny(tmp_path, *words), state, stream[0])["gradient"]
    state, stream = begin(tiny(tmp_path, *words))
    state.scale = Scale(2.0**10, dynamic=True)
    before = [value.detach().clone() for value in state.student.parameters()]
    terms = train_step(tiny(tmp_path, *words), state, stream[0])
    moved = [one.detach() - other for one, other in zip(state.student.parameters(), before, strict=True)]
    assert float(terms["gradient"]) == pytest.approx(float(plain), rel=1e-4)
    assert torch.cat([of.flatten() for of in moved]).norm().item() == pytest.approx(0.05 * 0.01, rel=1e-3)


def test_the_scale_is_doubled_after_many_updates_and_halved_to_one():
    scale = Scale(8.0, dynamic=True)
    for _ in range(GROWS_AFTER - 1):
        scale.fits()
    assert scale.value == 8
    scale.fits()
    assert scale.value == 16
    for _ in range(GROWS_AFTER - 1):
        scale.fits()  # all but one of those that it takes, none of which counts after an overflow
    assert [scale.overflows() for _ in range(5)] == [True] * 4 + [False]
    for _ in range(GROWS_AFTER - 1):
        scale.fits()
    assert scale.value == 1
    scale.fits()
    assert scale.value == 2  # and up again from 1, as torch.amp's


def test_steps_that_were_skipped_in_a_row_are_counted_on_after_a_stop(tmp_path):
    state, _ = begin(tiny(tmp_path))
    state.skipped, state.skipped_in_a_row = 5, 3
    other, _ = begin(tiny(tmp_path))
    restore(other, snapshot(state), tmp_path)
    assert (other.skipped, other.skipped_in_a_row) == (5, 3)


def test_the_scale_of_full_precision_is_one_for_good():
    scale = scale_for("fp32")
    for _ in range(2 * GROWS_AFTER):
        scale.fits()
    assert (scale.value, scale.overflows()) == (1, False)


FRESH = scale_for("fp16")
LOWER = Scale(2.0**9, good=7, dynamic=True)
LOWEST = Scale(1.0, good=3, dynamic=True)


@pytest.mark.parametrize("form", ["as saved now", "as saved before there was a flag"])
@pytest.mark.parametrize(
    ("before", "saved", "overflowed", "after", "expected"),
    [
        ("fp16", LOWER, 5, "fp16", LOWER),
        ("fp16", LOWEST, 16, "fp16", LOWEST),
        ("fp32", Scale(), 0, "fp16", FRESH),
        ("bf16", Scale(), 0, "fp16", FRESH),
        ("fp16", LOWER, 5, "fp32", Scale()),
        ("fp16", LOWER, 5, "bf16", Scale()),
        ("fp32", Scale(), 0, "fp32", Scale()),
    ],
)
def test_a_run_continued_in_another_precision_scales_its_loss_as_that_one_does(
    before, saved, overflowed, after, expected, form, tmp_path
):
    state, _ = begin(tiny(tmp_path, f"precision={before}"))
    state.scale, state.step, state.overflowed = saved, 20, overflowed
    kept = snapshot(state)
    if form != "as saved now":
        kept.rest["scale"] = kept.rest["scale"][:3]
    other, _ = begin(tiny(tmp_path, f"precision={after}"))
    restore(other, kept, tmp_path)
    assert other.scale == expected
    assert other.place == 20 - overflowed  # which schedules go on from, whatever the precision


def test_a_run_in_single_precision_that_had_overflows_before_begins_to_scale_anew_in_float16(tmp_path):
    """Of fp16, then fp32, then fp16 again: the 1 of the middle is no scale that was found."""
    state, _ = begin(tiny(tmp_path))
    state.step, state.overflowed = 20, 5
    other, _ = begin(tiny(tmp_path, "precision=fp16"))
    restore(other, snapshot(state), tmp_path)
    assert other.scale == FRESH


def test_a_resumed_run_in_float16_is_the_uninterrupted_one(tmp_path, monkeypatch):
    small = ("views.crop=[32, 32]", "data.val=2", "eval.gallery=1")  # a CPU takes its time in half precision
    words = ("precision=fp16", "steps=6", "checkpoint_every=3", "eval.every=6", *small)
    monkeypatch.setattr("mtseg.precision.FIRST", 2.0**40)  # overflows at first
    fit(tiny(tmp_path / "whole", *words), quiet=True)
    taken = train_step

    def dying(config: Config, state: Any, batch: Any, **options: bool) -> Any:
        terms = taken(config, state, batch, **options)
        if state.step == 4:
            raise KeyError
        return terms

    with monkeypatch.context() as patch:
        patch.setattr("mtseg.trainer.train_step", dying)
        with pytest.raises(KeyError):
            fit(tiny(tmp_path / "broken", *words), quiet=True)
    fit(tiny(tmp_path / "broken", *words), quiet=True)
    whole, broken = ((tmp_path / name / "metrics.jsonl").read_text() for name in ("whole", "broken"))
    assert whole == broken
    rates = [json.loads(line)["train/lr"] for line in whole.splitlines() if "train/lr" in line]
    assert rates[0] == rates[1]  # the first step was none


@pytest.mark.parametrize("norm", ["frozen", "group"])
def test_without_batch_statistics_an_answer_does_not_depend_on_the_batch(norm, tmp_path):
    network = normed(tiny(tmp_path).model.build(3), norm, CPU).train()
    assert any(isinstance(module, Frozen | Grouped) for module in network.modules())
    images = torch.randn(4, 3, 48, 64)
    torch.testing.assert_close(network(images)[:2], network(images[:2]), rtol=1e-4, atol=1e-5)
    with_statistics = tiny(tmp_path).model.build(3).train()
    assert not torch.allclose(with_statistics(images)[:2], with_statistics(images[:2]), atol=1e-2)


def taught(network):
    """Its statistics are not those of the beginning."""
    for _ in range(3):
        network.train()(torch.randn(4, 3, 48, 64) + 1)
    return network


def test_frozen_normalisation_is_the_encoders_own_in_eval_mode_and_is_not_trained(tmp_path):
    """The decoder, of which nothing was loaded, learns and is normalised."""
    network = taught(tiny(tmp_path).model.build(3))
    images = torch.randn(2, 3, 48, 64)
    expected, count = network.eval().network.encoder(images), len(list(network.network.encoder.parameters()))
    decoding = len(list(network.network.decoder.parameters()))
    frozen = normed(network, "frozen", CPU).train()
    torch.testing.assert_close(frozen.network.encoder(images), expected)
    assert len(list(frozen.network.encoder.parameters())) < count
    assert len(list(frozen.network.decoder.parameters())) == decoding
    grouped = [module for module in frozen.network.decoder.modules() if isinstance(module, Grouped)]
    assert grouped
    assert all(norm.weight.requires_grad for norm in grouped)


@pytest.mark.parametrize("norm", ["frozen", "group"])
def test_an_encoder_that_is_never_trained_keeps_the_statistics_of_its_weights(norm, tmp_path):
    network = taught(tiny(tmp_path).model.build(3))
    save_file(network.network.encoder.state_dict(), tmp_path / "encoder.safetensors")
    images = torch.randn(2, 3, 48, 64)
    expected = network.eval().network.encoder(images)
    model = tiny(tmp_path, f"model.weights={tmp_path / 'encoder.safetensors'}", "model.frozen=true").model
    again = normed(model.build(3), norm, CPU).train()
    torch.testing.assert_close(again.network.encoder(images), expected)
    assert any(isinstance(module, Grouped) for module in again.network.decoder.modules())


def test_group_normalisation_is_torchs(tmp_path):
    norm = nn.BatchNorm2d(48)
    nn.init.normal_(norm.weight)
    ours, maps = Grouped(norm), torch.randn(2, 48, 5, 7)
    theirs = nn.GroupNorm(6, 48)
    theirs.load_state_dict({"weight": norm.weight.detach(), "bias": norm.bias.detach()})
    torch.testing.assert_close(ours(maps), theirs(maps))


@pytest.mark.parametrize("word", ["norm=frozen", "norm=group", "bn=separate"])
def test_normalisation_acts_resumes_and_evaluates(word, tmp_path):
    fit(tiny(tmp_path / "plain", "eval.every=4"), quiet=True)
    fit(tiny(tmp_path / "other", word, "eval.every=4"), quiet=True)
    losses = [
        json.loads((tmp_path / run / "metrics.jsonl").open().readline())["train/loss"] for run in ("plain", "other")
    ]
    assert losses[0] != losses[1]
    assert fit(tiny(tmp_path / "other", word, "eval.every=4"), quiet=True)["teacher"]["mIoU"] is not None


def test_separate_normalisation_sees_the_labelled_images_alone(tmp_path):
    """The labels' loss does not depend on the unlabelled images then, and does where all are normalised together."""
    for bn, alike in (("separate", True), ("joint", False)):
        losses = []
        for word in ("data.unlabelled=all", "data.unlabelled=rest"):
            config = tiny(tmp_path, f"bn={bn}", word)
            state, stream = begin(config)
            losses.append(float(train_step(config, state, stream[0])["loss_sup"]))
        assert (losses[0] == losses[1]) is alike


def test_sync_is_refused_between_cpus_and_is_plain_in_one_process(tmp_path, monkeypatch):
    network = tiny(tmp_path).model.build(3)
    assert normed(network, "sync", CPU) is network
    monkeypatch.setattr("mtseg.models.norm.world", lambda: 2)
    with pytest.raises(ValueError, match=r"norm: 'sync' .*norm=group"):
        normed(network, "sync", CPU)


@pytest.mark.parametrize("encoder", ["mobilenet_v2", "tu-efficientnet_lite0", "tu-mobilenetv3_small_050"])
def test_batch_normalisation_over_processes_keeps_what_a_layer_does_beside_normalising(encoder, monkeypatch):
    """timm's have dropout and activation in them. In eval mode the answers are the same, and no GPU is needed."""
    monkeypatch.setattr("mtseg.models.norm.world", lambda: 2)
    torch.manual_seed(0)
    network = Smp(arch="fpn", encoder=encoder, weights="none").build(3).eval()
    layers = sum(isinstance(module, nn.BatchNorm2d) for module in network.modules())
    images, names = torch.randn(2, 3, 64, 64), list(network.state_dict())
    with torch.no_grad():
        before = network(images)
        after = normed(network, "sync", torch.device("cuda"))(images)
    assert torch.equal(before, after)
    assert sum(isinstance(module, nn.SyncBatchNorm) for module in network.modules()) == layers > 0
    assert list(network.state_dict()) == names


def of_2_6(module, find_unused_parameters=False, broadcast_buffers=True):
    return {"broadcast_buffers": broadcast_buffers}


def of_2_7(module, find_unused_parameters=False, broadcast_buffers=True, init_sync=True):
    return {"broadcast_buffers": broadcast_buffers, "init_sync": init_sync}


def of_2_13(module, find_unused_parameters=False, broadcast_buffers=None, init_sync=True, forward_sync_buffers=True):
    assert broadcast_buffers is None  # which has become an error
    return {"init_sync": init_sync, "forward_sync_buffers": forward_sync_buffers}


@pytest.mark.parametrize("release", [of_2_6, of_2_7, of_2_13])
def test_statistics_stay_with_their_process_in_the_words_of_every_release_of_torch(release, monkeypatch):
    monkeypatch.setattr("mtseg.running.world", lambda: 2)
    monkeypatch.setattr("mtseg.running.DistributedDataParallel", release)
    student = Smp(arch="fpn", encoder="tu-test_resnet", weights="none").build(3)
    said = running(student, torch.zeros(2, 3, 32, 32), compiled=False, recompute=False)
    assert said
    assert not any(said.values())


@pytest.mark.parametrize("name", ["mean teacher", "unimatch", "two heads", "vat"])
def test_recomputed_activations_give_the_same_step_to_the_bit(name, tmp_path):
    states = []
    for word in ("recompute=false", "recompute=true"):
        config = tiny(tmp_path, *METHODS[name], word)
        state, stream = begin(config)
        for step in range(2):
            train_step(config, state, stream[step])
        states.append(
            {**state.student.state_dict(), **{f"t {k}": v for k, v in state.teacher.module.state_dict().items()}}
        )
    assert all(torch.equal(value, states[1][key]) for key, value in states[0].items())


@pytest.mark.parametrize(
    ("arch", "encoder"),
    [
        ("unet", "tu-test_resnet"),  # asks its sequences as a whole
        ("unet", "mobilenet_v2"),  # slices them
        ("unet", "densenet121"),
        ("fpn", "tu-mobilenetv3_small_100"),
        ("dpt", "tu-test_vit"),
    ],
)
def test_recomputing_holds_less_for_the_backward(arch, encoder):
    held = []
    for recompute in (False, True):
        student = Smp(arch=arch, encoder=encoder, weights="none").build(3).train()
        before = copy.deepcopy(student.state_dict())
        asked = running(student, torch.zeros(2, 3, 64, 64), compiled=False, recompute=recompute)
        assert all(torch.equal(value, before[name]) for name, value in student.state_dict().items())
        sizes: dict[int, int] = {}

        def pack(value: Tensor, sizes: dict[int, int] = sizes) -> Tensor:
            sizes[value.untyped_storage().data_ptr()] = value.untyped_storage().nbytes()
            return value

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda value: value):
            asked.network.encoder(torch.zeros(2, 3, 64, 64))
        for weights in asked.parameters():
            sizes.pop(weights.untyped_storage().data_ptr(), None)
        held.append(sum(sizes.values()))
    assert held[1] < 0.8 * held[0]


def test_compiling_and_recomputing_exclude_each_other(tmp_path):
    with pytest.raises(ValueError, match=r"compile: .*recompute=false"):
        tiny(tmp_path, "compile=true", "recompute=true")


def test_a_network_without_stages_cannot_be_recomputed():
    with pytest.raises(ValueError, match="recompute=false"):
        running(nn.Conv2d(3, 2, 1), torch.zeros(2, 3, 8, 8), compiled=False, recompute=True)


def test_what_cannot_be_compiled_is_told_in_words_and_other_errors_stay(tmp_path, monkeypatch):
    from torch._inductor.exc import InductorError

    def cut_off(*_: object) -> None:
        raise InductorError(ImportError("/tmp/torchinductor_me/4k/x.main.so: file too short"), None)

    def wrong(*_: object) -> None:
        raise RuntimeError("of the network's own")

    says = {
        cut_off: r"^compile: .*x\.main\.so: file too short.*compile=false.*delete",
        wrong: "^model: .*of the network's own",
    }
    for forward, words in says.items():
        monkeypatch.setattr(torch, "compile", lambda _, forward=forward: forward)
        with pytest.raises(ValueError, match=words):
            fit(tiny(tmp_path / forward.__name__, "compile=true"), quiet=True)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mean teacher", "unimatch"])
def test_a_compiled_student_gives_the_same_losses(name, tmp_path):
    losses = []
    for word in ("compile=false", "compile=true"):
        config = tiny(tmp_path, *METHODS[name], "norm=group", word)
        state, stream = begin(config)
        terms = [train_step(config, state, stream[step]) for step in range(3)]
        losses += [[float(of[key]) for of in terms for key in ("loss", "loss_sup", "loss_cons")]]
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
