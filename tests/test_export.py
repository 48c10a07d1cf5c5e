"""A network handed on: every format gives the classes that the run's own evaluation counted."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import segmentation_models_pytorch as smp
import torch
import torch.nn.functional as F
import trees
from PIL import Image
from runs import ONNX, tiny
from safetensors.torch import load_file, save_file

import mtseg
from mtseg import cli
from mtseg.config import of_run
from mtseg.data.source import IGNORE
from mtseg.evaluate import evaluate
from mtseg.inference import export as exporting
from mtseg.inference import hub, scoring
from mtseg.inference.export import Pixels
from mtseg.inference.restored import restored
from mtseg.inference.scoring import Wanted, score_run
from mtseg.metrics import Confusion
from mtseg.models.smp import Smp
from mtseg.results import seen
from mtseg.run.logged import read
from mtseg.settings.checked import dump
from mtseg.settings.strict_yaml import to_yaml
from mtseg.settings.words import gather
from mtseg.trainer import fit
from mtseg.views import Views

ODD = "data.size=[70, 91]"  # no multiples of the network's stride
LOOK = ("eval.gallery=1", "data.val=6", ODD, "steps=6")


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "run"
    fit(tiny(out, *LOOK), quiet=True)
    formats = "hf,torch,onnx" if ONNX else "hf,torch"
    assert cli.main(["export", str(out), "--to", formats]) == 0
    return out


def counted(splits, classes_of) -> list[list[int]]:
    """The confusion matrix of what `classes_of` names for each image."""
    confusion = Confusion(len(splits.classes))
    for index in range(len(splits.val)):
        label = torch.tensor(splits.val.label(index))
        confusion.update(torch.as_tensor(classes_of(splits.val.image(index))).long(), label)
    return confusion.counts.tolist()


def test_trainer_eval_and_the_folder_count_the_same_pixels(run):
    config, splits, networks, _ = restored(run)
    trained = seen.kept(run)["confusion"]["teacher"]
    ways = {"views": config.views, "batch": config.eval.batch, "device": torch.device("cpu"), "classes": 7}
    assert evaluate(networks["teacher"], splits.val, **ways).confusion.counts.tolist() == trained
    folder = mtseg.load(run / "export/hf")
    ways |= {"views": folder.views}
    assert evaluate(folder.network, splits.val, **ways).confusion.counts.tolist() == trained
    assert counted(splits, lambda image: folder.predict(image).classes) == trained
    found = score_run(run, (), Wanted())
    matrix = np.array(trained)
    iou = matrix.diagonal() / np.maximum(matrix.sum(0) + matrix.sum(1) - matrix.diagonal(), 1)
    assert found["teacher"]["IoU"] == pytest.approx(
        {
            n: (v if matrix[:, i].sum() + matrix[i].sum() else None)
            for i, (n, v) in enumerate(zip(splits.classes, iou, strict=True))
        }
    )
    assert sum(map(sum, trained)) == sum(int((splits.val.label(n) != IGNORE).sum()) for n in range(6))


def test_the_folder_is_that_of_the_last_step_and_of_its_own_and_of_no_other(run):
    folder, step = run / "export/hf", mtseg.load(run).step
    assert mtseg.load(folder).step == mtseg.load(folder, at=str(step)).step == step
    with pytest.raises(ValueError, match="step"):
        mtseg.load(folder, at=str(step + 1))


@pytest.mark.parametrize(
    "image", [np.zeros((16, 16, 3), np.float32), np.zeros((0, 32, 3), np.uint8), [[0, 0, 0]], None]
)
def test_what_is_no_image_of_the_run_is_refused(image, run):
    """Floats might be in [0, 1] or in [0, 255]."""
    with pytest.raises(ValueError, match=r"an image of .*; give "):
        mtseg.load(run).predict(image)
    with pytest.raises(ValueError, match="network: 'pupil' is none"):
        mtseg.load(run, network="pupil")


def test_smp_loads_the_folder_and_gives_the_same_logits_by_what_the_card_says(run):
    model, (folder, handed) = smp.from_pretrained(run / "export/hf").eval(), hub.read(run / "export/hf")
    image = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    pixels = (torch.tensor(image) / 255 - torch.tensor(handed.views.mean)) / torch.tensor(handed.views.std)
    with torch.no_grad():
        ours, theirs = folder.answer(torch.tensor(image)[None]), model(pixels.permute(2, 0, 1)[None])
    assert torch.allclose(ours, theirs, atol=1e-5)
    card = (run / "export/hf/README.md").read_text()
    assert all(word in card for word in (*folder.classes, str(list(handed.views.mean)), "whole images"))
    last = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()][-1]
    assert f"mIoU {100 * last['val_teacher/mIoU']:.2f} %" in card


def test_the_folder_names_no_place_of_this_machine(run, tmp_path):
    texts = [path.read_text() for path in (run / "export/hf").iterdir() if path.suffix in (".json", ".md")]
    assert len(texts) == 3
    assert not [text for text in texts if str(run.parent) in text or "/home" in text or "/tmp" in text]


def test_the_torch_program_takes_any_batch_and_size_and_knows_its_classes(run):
    extra = {hub.FILE: ""}
    program = torch.export.load(run / "export/model.pt2", extra_files=extra).module()
    trained = mtseg.load(run)
    for size in ((1, 16, 16, 3), (3, 41, 130, 3), (2, 70, 91, 3)):
        pixels = torch.from_numpy(np.random.default_rng(1).integers(0, 256, size, dtype=np.uint8))
        with torch.no_grad():
            assert torch.allclose(program(pixels), trained.answer(pixels), atol=1e-5)
    said = json.loads(extra[hub.FILE])
    assert said["classes"] == list(trained.classes)
    assert said["weights"].startswith("teacher ")


@pytest.mark.parametrize("size", [(33, 47), (32, 64), (5, 9)])
def test_the_pixels_of_a_graph_are_normalised_and_padded_as_the_networks(size):
    options = {"encoder_depth": 3, "decoder_channels": [8, 8, 4]}
    network = Smp(arch="unet", encoder="tu-test_resnet", weights=Path("none"), options=options).build(4).eval()
    views = Views(crop=(32, 32), mean=(0.1, 0.5, 0.9), std=(0.2, 0.3, 0.4))
    pixels = torch.randint(0, 256, (2, *size, 3), dtype=torch.uint8)
    images = ((pixels / 255 - torch.tensor(views.mean)) / torch.tensor(views.std)).permute(0, 3, 1, 2)
    down, right = -size[0] % network.stride, -size[1] % network.stride
    with torch.no_grad():
        expected = network.network(F.pad(images, (0, right, 0, down), mode="replicate"))[..., : size[0], : size[1]]
        assert torch.allclose(Pixels(network, views)(pixels), expected, atol=1e-4)


@pytest.mark.skipif(not ONNX, reason="needs mtseg[export] and torch 2.7")
def test_onnx_names_the_networks_classes_at_any_size_and_counts_what_the_trainer_counted(run):
    import onnxruntime

    session = onnxruntime.InferenceSession(str(run / "export/model.onnx"), providers=["CPUExecutionProvider"])
    said = {key: json.loads(value) for key, value in session.get_modelmeta().custom_metadata_map.items()}
    _, splits, _, _ = restored(run)
    assert said["classes"] == list(splits.classes)
    assert "normalised and padded inside" in said["input"]

    def classes_of(image: np.ndarray) -> np.ndarray:
        return session.run(["logits"], {"pixels": image[None]})[0][0].argmax(0)

    apart = np.abs(np.array(counted(splits, classes_of)) - seen.kept(run)["confusion"]["teacher"]).sum()
    assert apart <= 2 * 1e-4 * 6 * 70 * 91
    trained = mtseg.load(run)
    for size in ((16, 16), (130, 41), (200, 333)):
        image = splits.val.image(0).repeat(4, 0).repeat(4, 1)[: size[0], : size[1]]
        assert (classes_of(image) == trained.predict(image).classes).mean() >= 0.9999
    batch = np.stack([splits.val.image(n) for n in range(5)])
    both = session.run(None, {"pixels": batch})[0].argmax(1)
    assert (both == [classes_of(image) for image in batch]).mean() >= 0.9999


def test_a_graph_that_names_other_classes_is_refused(run, tmp_path, monkeypatch):
    monkeypatch.setattr(exporting.Views, "normalise", lambda self, image: image.float().permute(0, 3, 1, 2) / 255)
    network = exporting._ready(mtseg.load(run))
    with pytest.raises(ValueError, match="names another class"):
        exporting._compare(network, lambda pixels: network(255 - pixels).flip(1), tmp_path / "x")


def test_predictions_come_from_the_folder_as_from_the_run(run, tmp_path):
    Image.fromarray(np.random.default_rng(3).integers(0, 256, (60, 50, 3), dtype=np.uint8)).save(tmp_path / "a.png")
    for source, out in ((run, "one"), (run / "export/hf", "two")):
        assert cli.main(["predict", str(source), str(tmp_path / "a.png"), "--out", str(tmp_path / out)]) == 0
    masks = [(tmp_path / out / "mask/a.png").read_bytes() for out in ("one", "two")]
    assert masks[0] == masks[1]
    claims = [json.loads((tmp_path / out / "prediction.json").read_text()) for out in ("one", "two")]
    assert [claim["weights"].split()[0] for claim in claims] == ["teacher", "teacher"]


def data_of(run: Path, path: Path, **changed: object) -> str:
    """A file that describes the run's data and nothing else."""
    path.write_text(to_yaml({"data": dump(of_run(run).data) | changed}))
    return str(path)


def written(folder: Path) -> str:
    """The newest evaluation in a folder."""
    return max(folder.glob("eval_*.json"), key=lambda path: path.stat().st_mtime_ns).read_text()


@pytest.mark.parametrize("how", [[], ["eval.predictor={kind: slide, window: [32, 48]}"], ["eval.split=test"]])
def test_eval_of_the_folder_counts_what_eval_of_the_run_counts(how, run, tmp_path, monkeypatch, capsys):
    counts: list[list[list[int]]] = []
    whole = scoring.evaluate_all

    def watched(*args: object, **options: object) -> object:
        tallies = whole(*args, **options)
        counts.append(tallies["teacher"].confusion.counts.tolist())
        return tallies

    monkeypatch.setattr(scoring, "evaluate_all", watched)
    folder = Path(shutil.copytree(run / "export/hf", tmp_path / "hf"))
    data = data_of(run, tmp_path / "data.yaml", images=99)
    assert cli.main(["eval", str(folder), data, "data.images=6", *how, "--images", "--boundary"]) == 0
    assert cli.main(["eval", str(run), "--network", "teacher", *how, "--images", "--boundary"]) == 0
    assert counts[0] == counts[1]
    ours, runs = (json.loads(written(place)) for place in (folder, run))
    assert "student" not in ours
    same = ("teacher", "step", "split", "images", "sha256", "protocol", "resolution", "classes")
    assert {key: ours[key] for key in same} == {key: runs[key] for key in same}
    assert ours["at"] == "exported"
    assert f"step {runs['step']} (exported)" in capsys.readouterr().out


def test_scores_of_other_images_lie_beside_those_that_a_folder_has(run, tmp_path):
    folder = Path(shutil.copytree(run / "export/hf", tmp_path / "hf"))
    data = data_of(run, tmp_path / "data.yaml")
    for words in (["data.images=9"], ["data.images=9", "data.seed=5"], ["data.images=9"]):
        assert cli.main(["eval", str(folder), data, *words]) == 0
    files = {path.name: json.loads(path.read_text())["sha256"] for path in folder.glob("eval_*.json")}
    assert len(files) == len(set(files.values())) == 2
    assert {"eval_val.json"} < files.keys()
    assert all(name in ("eval_val.json", f"eval_val_{images[:12]}.json") for name, images in files.items())


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "without data to score it on; name them"),
        (["DATA", "--network", "student"], "holds the teacher of step 6 and nothing else"),
        (["DATA", "--at", "best"], "holds the teacher of step 6 and nothing else"),
        (["DATA", "views.mean=[0.1, 0.2, 0.3]"], "by which the network was trained"),
        (["DATA", "steps=5"], "steps: unknown key"),
        (["data={kind: small, set: cifar10, root: nowhere}"], "nowhere"),
    ],
)
def test_data_that_are_not_the_networks_are_refused(words, says, run, tmp_path, capsys):
    words = [data_of(run, tmp_path / "data.yaml") if word == "DATA" else word for word in words]
    assert cli.main(["eval", str(run / "export/hf"), *words]) == 1
    assert says in capsys.readouterr().err


def test_data_of_other_classes_or_channels_are_refused_with_both(run, tmp_path, capsys):
    trees.own(tmp_path)
    trees.rgbd(tmp_path / "rgbd")
    config = Path(__file__).parent.parent / "configs/data"
    assert cli.main(["eval", str(run / "export/hf"), str(config / "own.yaml"), f"data.root={tmp_path}"]) == 1
    said = capsys.readouterr().err
    assert "background, road, car" in said
    assert ", ".join(of_run(run).data.build().classes) in said
    names = f"data.classes=[{', '.join(of_run(run).data.build().classes)}]"
    words = [str(config / "rgbd.yaml"), f"data.root={tmp_path / 'rgbd'}", names, "views={}"]
    tree = tmp_path / "channels.yaml"
    tree.write_text(to_yaml({"data": gather(words)["data"]}))
    assert cli.main(["eval", str(run / "export/hf"), str(tree)]) == 1
    assert "data.channels" in capsys.readouterr().err


def test_the_student_is_handed_on_where_it_is_asked_for_and_settings_with_it(run, tmp_path):
    slide = "eval.predictor={kind: slide, window: [32, 32]}"
    assert cli.main(["export", str(run), slide, "--to", "hf", "--network", "student", "--out", str(tmp_path)]) == 0
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    ours, theirs = mtseg.load(run, [slide], network="student"), mtseg.load(tmp_path / "hf")
    assert (ours.predict(image).confidence == theirs.predict(image).confidence).all()
    assert mtseg.load(tmp_path / "hf", ["eval.predictor={kind: whole}"]).predictor.kind == "whole"


def test_what_cannot_be_handed_on_is_told(run, tmp_path, capsys, monkeypatch):
    copy = tmp_path / "copy"
    shutil.copytree(run / "export/hf", copy)
    (copy / hub.WEIGHTS).write_bytes(b"x" * 100)
    cases = [
        (["export", str(run), "--to", "tflite"], "choose among hf, torch, onnx"),
        (["predict", str(copy), "a.png", "--out", str(tmp_path / "o")], "export the run again"),
        (
            ["predict", str(run / "export/hf"), "a.png", "--network", "student", "--out", "o"],
            "name the run's own folder",
        ),
    ]
    for words, says in cases:
        assert cli.main(words) == 1
        assert says in capsys.readouterr().err
    monkeypatch.setattr(exporting, "import_module", lambda name: (_ for _ in ()).throw(ImportError(name)))
    assert cli.main(["export", str(run), "--to", "onnx"]) == 1
    assert "pip install 'mtseg[export]'" in capsys.readouterr().err


def test_a_network_that_torch_does_not_write_as_onnx_is_told_with_what_to_do(run, tmp_path, capsys, monkeypatch):
    pytest.importorskip("onnxruntime")

    def fails(*_: object, **__: object) -> None:
        raise torch.onnx.errors.OnnxExporterError("no graph") from RuntimeError("SymInts expected\nto be ints")

    monkeypatch.setattr(torch.onnx, "export", fails)
    assert cli.main(["export", str(run), "--to", "torch,onnx", "--out", str(tmp_path)]) == 1
    said = capsys.readouterr().err
    assert f"--to onnx: torch {torch.__version__} does not write" in said
    assert "(SymInts expected); update torch (pip install -U torch torchvision), or use --to torch" in said
    assert [path.name for path in tmp_path.iterdir()] == ["model.pt2"]


@pytest.fixture(scope="module")
def ensemble(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "ensemble"
    fit(tiny(out, ODD, "steps=3", "eval.every=3", "method.teacher={kind: ensemble, every: 1}"), quiet=True)
    return out


def test_an_ensemble_is_no_network_of_smp_and_its_folder_is_refused_before_anything_is_written(
    ensemble, tmp_path, capsys
):
    for formats in ("hf", "torch,hf"):
        assert cli.main(["export", str(ensemble), "--to", formats, "--out", str(tmp_path / "out")]) == 1
        said = " ".join(capsys.readouterr().err.split())
        assert "an ensemble's mean is several networks; use --network student, or --to torch or onnx" in said
        assert not (tmp_path / "out").exists()
    assert cli.main(["export", str(ensemble), "--network", "student", "--out", str(tmp_path / "out")]) == 0


def test_the_graph_of_an_ensemble_is_the_mean_of_its_members(ensemble, tmp_path):
    formats = ["torch", "onnx"] if ONNX else ["torch"]
    assert cli.main(["export", str(ensemble), "--to", ",".join(formats), "--out", str(tmp_path)]) == 0
    trained = mtseg.load(ensemble)
    pixels = torch.from_numpy(np.random.default_rng(1).integers(0, 256, (2, 70, 91, 3), dtype=np.uint8))
    with torch.no_grad():
        each = [replace(trained, network=member).answer(pixels).softmax(1) for member in trained.network.members]
        mean = torch.stack(each).mean(0)
        assert not torch.allclose(each[0], each[1], atol=1e-4)
        torch.testing.assert_close(torch.export.load(tmp_path / "model.pt2").module()(pixels).softmax(1), mean)
    if "onnx" in formats:
        import onnxruntime

        session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
        said = torch.from_numpy(session.run(None, {"pixels": pixels.numpy()})[0]).softmax(1)
        torch.testing.assert_close(said, mean, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("norm", ["group", "frozen", "sync"])
def test_the_folder_answers_as_the_run_for_every_normalisation_and_advises_smp_where_smp_can_load_it(
    norm, tmp_path, monkeypatch
):
    out = tmp_path / "run"
    fit(tiny(out, f"norm={norm}", ODD, "steps=2", "eval.every=2"), quiet=True)
    assert cli.main(["export", str(out), "--to", "hf"]) == 0
    image = np.random.default_rng(0).integers(0, 256, (61, 50, 3), dtype=np.uint8)
    ours = mtseg.load(out)
    monkeypatch.setattr("mtseg.models.norm.world", lambda: 2)  # `sync` would now want GPUs
    theirs = mtseg.load(out / "export/hf")
    assert torch.equal(ours.answer(torch.tensor(image)[None]), theirs.answer(torch.tensor(image)[None]))
    assert (ours.predict(image).confidence == theirs.predict(image).confidence).all()
    card = (out / "export/hf/README.md").read_text()
    assert ("smp.from_pretrained" in card) == holds_for_smp(out / "export/hf")


def test_the_card_has_what_was_scored_of_the_network_that_is_handed_on(run, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(run, copy, ignore=shutil.ignore_patterns("eval_*"))
    for words in (["eval.split=test"], ["--network", "student"]):
        assert cli.main(["eval", str(copy), *words]) == 0
    found = json.loads((copy / "eval_test.json").read_text())
    (copy / "eval_test_2.json").write_text(json.dumps(found | {"step": 2, "at": "2"}))  # of another network
    assert cli.main(["export", str(copy), "--out", str(tmp_path / "out")]) == 0
    card = (tmp_path / "out/hf/README.md").read_text()
    assert f"mIoU {100 * found['teacher']['mIoU']:.2f} % on test: step {found['step']} (last)" in card
    assert f"{100 * read(copy)[-1]['val_teacher/mIoU']:.2f} % on val of " in card
    assert card.count("mIoU ") == 2
    assert str(copy) not in card


SCALED = "eval.predictor={kind: whole, augment: {scales: [0.5]}}"


@pytest.mark.parametrize(("words", "told"), [([], False), ([SCALED], True)])
@pytest.mark.parametrize("formats", ["hf", "torch"])
def test_a_run_that_asks_otherwise_says_that_bare_networks_do_not(formats, words, told, run, tmp_path, capsys):
    assert cli.main(["export", str(run), *words, "--to", formats, "--out", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert ("asks for whole images, scale 0.5" in said) == told
    assert ("model.pt2 takes" in said) == (told and formats == "torch")
    assert ("the bare network of hf takes" in said) == (told and formats == "hf")
    if formats == "hf":
        card = (tmp_path / "hf/README.md").read_text()
        assert ("images as they are" in card) == told


def test_the_folder_says_nothing_of_the_views_that_the_run_was_shown(run):
    said = json.loads((run / "export/hf/mtseg.json").read_text())["views"]
    assert not {"labelled", "teacher", "student"} & said.keys()
    assert {"crop", "mean", "std"} <= said.keys()


def test_the_cards_own_score_is_said_as_it_was_asked_for_whatever_is_handed_on(run, tmp_path):
    otherwise = "eval.predictor={kind: whole, augment: {scales: [0.5, 1]}}"
    assert cli.main(["export", str(run), otherwise, "eval.split=test", "--out", str(tmp_path / "out")]) == 0
    card = (tmp_path / "out/hf/README.md").read_text()
    own = next(line for line in card.splitlines() if line.startswith("mIoU") and " on val of " in line)
    assert of_run(run).eval.predictor.sentence() in own
    assert "scales 0.5, 1" not in own
    assert "scales 0.5, 1" in card


def test_a_data_file_with_the_views_of_training_describes_data_for_an_exported_folder(run, tmp_path):
    data = {"data": dump(of_run(run).data), "views": {"labelled": {"colour": "student"}, "crop": [32, 32]}}
    (tmp_path / "data.yaml").write_text(to_yaml(data))
    folder = Path(shutil.copytree(run / "export/hf", tmp_path / "hf"))
    assert (
        cli.main(["eval", str(folder), str(tmp_path / "data.yaml"), f"views.crop={list(of_run(run).views.crop)}"]) == 0
    )


def test_the_card_says_how_pixels_are_normalised_where_it_is_by_each_image(tmp_path):
    fit(tiny(tmp_path / "run", "views.standard={kind: image}", "steps=1", "eval.every=1"), quiet=True)
    assert cli.main(["export", str(tmp_path / "run"), "--to", "hf"]) == 0
    card = (tmp_path / "run/export/hf/README.md").read_text()
    assert "[0.485" not in card
    assert "minus the mean of all its pixels and channels, divided by their standard deviation" in card
    model, folder = smp.from_pretrained(tmp_path / "run/export/hf").eval(), mtseg.load(tmp_path / "run/export/hf")
    image = np.random.default_rng(0).integers(0, 200, (64, 96, 3), dtype=np.uint8)
    pixels = torch.tensor((image - image.mean()) / image.std(), dtype=torch.float32)
    with torch.no_grad():
        ours, theirs = folder.answer(torch.tensor(image)[None]), model(pixels.permute(2, 0, 1)[None])
    assert torch.allclose(ours, theirs, atol=1e-5)


def test_a_network_of_whitened_images_is_not_exported(tmp_path, capsys):
    np.savez(tmp_path / "zca.npz", mean=np.zeros(12, np.float32), matrix=np.eye(12, dtype=np.float32))
    fit(tiny(tmp_path / "run", "steps=1", "eval.every=1"), quiet=True)
    words = [f"views.standard={{kind: zca, file: {tmp_path / 'zca.npz'}}}"]
    assert cli.main(["export", str(tmp_path / "run"), *words, "--to", "hf"]) == 1
    assert "views.standard: whitening is of images of one size" in capsys.readouterr().err
    assert not (tmp_path / "run/export/hf").exists()


@pytest.mark.parametrize("encoder", ["tu-vit_small_patch14_dinov2", "tu-test_vit"])
def test_a_folder_of_dpt_advises_smp_where_smp_builds_the_same_network(encoder, tmp_path):
    options = "{decoder_fusion_channels: 8, decoder_intermediate_channels: [8, 8, 8, 8]}"
    words = [f"model={{arch: dpt, encoder: {encoder}, options: {options}}}", "steps=2", "eval.every=2"]
    fit(tiny(tmp_path / "run", *words), quiet=True)
    assert cli.main(["export", str(tmp_path / "run"), "--to", "hf"]) == 0
    card = (tmp_path / "run/export/hf/README.md").read_text()
    assert ("smp.from_pretrained" in card) == holds_for_smp(tmp_path / "run/export/hf")


def test_a_run_and_its_export_are_for_whoever_may_read_new_files(run, tmp_path):
    (tmp_path / "new").touch()
    wanted = (tmp_path / "new").stat().st_mode
    written = [path for path in run.rglob("*") if path.is_file()]
    assert {path for path in written if path.stat().st_mode != wanted} == set()
    assert len([path for path in written if path.suffix == ".safetensors"]) >= 3


def holds_for_smp(folder: Path) -> bool:
    try:
        smp.from_pretrained(folder)
    except RuntimeError:
        return False
    return True


def test_a_folder_from_before_norm_was_written_into_it_is_read_as_it_was(run, tmp_path):
    old = Path(shutil.copytree(run / "export/hf", tmp_path / "old"))
    said = json.loads((old / hub.FILE).read_text())
    assert said.pop("norm") == "process"
    (old / hub.FILE).write_text(json.dumps(said))
    image = np.random.default_rng(0).integers(0, 256, (61, 50, 3), dtype=np.uint8)
    folders = (mtseg.load(place) for place in (run / "export/hf", old))
    assert len({folder.predict(image).confidence.tobytes() for folder in folders}) == 1


@pytest.mark.parametrize("fault", ["a tensor is not written", "other tensors are written"])
def test_a_folder_that_does_not_give_the_networks_answers_back_is_refused_and_is_none(
    fault, run, tmp_path, monkeypatch
):
    write = smp.Unet.save_pretrained

    def spoilt(self: smp.Unet, folder: Path) -> None:
        write(self, folder)
        tensors = load_file(folder / hub.WEIGHTS)
        if fault == "a tensor is not written":
            tensors.popitem()
        else:
            tensors = {name: 1 - tensor for name, tensor in tensors.items()}
        save_file(tensors, folder / hub.WEIGHTS)

    monkeypatch.setattr(smp.Unet, "save_pretrained", spoilt)
    with pytest.raises(ValueError, match=r"is of no use; take another\s+format") as caught:
        exporting.export(run, tmp_path, ["hf"], at="last", network="teacher")
    assert "export the run again" not in str(caught.value)  # which would say the same
    assert not hub.holds(tmp_path / "hf")
