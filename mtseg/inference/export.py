"""A run's network as a file for other programs: pixels in, logits out, with normalisation and padding inside."""

import io
import json
import warnings
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from mtseg.atomic import aside
from mtseg.config import Config, of_run
from mtseg.data.channels import PLAIN, Channels
from mtseg.data.provenance import recorded
from mtseg.ensemble import Ensemble, Panel
from mtseg.inference import hub
from mtseg.inference.restored import configured, load, refuse_whole, weights_of
from mtseg.inference.scored import kept, sentence
from mtseg.inference.trained import Name, Trained
from mtseg.models.smp import Padded, Smp
from mtseg.predictors import Predictor, Whole
from mtseg.run.logged import read
from mtseg.tally import percent
from mtseg.views import Views
from mtseg.whiten import Zca

FORMATS = ("hf", "torch", "onnx")
SIZES = ((2, 97, 61), (1, 64, 96), (1, 33, 128))  # (images, height, width) on which a graph is compared
AGREE = 0.9999  # of the pixels must have the same class


class Pixels(nn.Module):
    """Pixels (B, H, W, C) in [0, 255] of any size -> logits (B, K, H, W) float32; the same values as the network's."""

    def __init__(self, network: nn.Module, views: Views, channels: Channels = PLAIN) -> None:
        super().__init__()
        self.network, self.stride = _bare(network)
        self.views, self.channels = views, channels

    def forward(self, pixels: Tensor) -> Tensor:
        images = self.views.normalise(pixels)
        h, w = images.shape[-2:]
        # By indices: padding and slicing would bind the graph to sizes that need them, or to those that do not.
        logits: Tensor = self.network(_taken(images, self._padded(h), self._padded(w)))
        return _taken(logits, torch.arange(h), torch.arange(w))

    def _padded(self, side: int) -> Tensor:
        return torch.arange((side + self.stride - 1) // self.stride * self.stride).clamp(max=side - 1)


def _bare(network: nn.Module) -> tuple[nn.Module, int]:
    """What is asked of padded images, and the stride to which they are padded: of an ensemble that of all members."""
    if isinstance(network, Padded):
        return network.network, network.stride
    if not isinstance(network, Panel):
        return network, 1
    members = [_bare(member) for member in network.members]
    return Panel(member for member, _ in members), members[0][1]


def _taken(maps: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    return maps.index_select(2, rows.to(maps.device)).index_select(3, columns.to(maps.device))


def export(run: Path, out: Path, formats: Sequence[str], words: Sequence[str] = (), *, at: str, network: Name) -> str:
    """Write a run's network in `formats`, some of FORMATS, into `out`; returns what to know of how they are asked.

    Raises ValueError for a format that is not known, where its libraries are not installed, for a network that answers
    for whole images, for the folder of an ensemble, and for a graph that does not give the network's classes on AGREE
    of the pixels.
    """
    unknown = [name for name in formats if name not in FORMATS]
    if unknown or not formats:
        raise ValueError(f"--to: {', '.join(unknown) or 'nothing'} is not known; choose among {', '.join(FORMATS)}")
    if "onnx" in formats:
        _need("onnx", "onnxruntime", "onnxscript")
    config = configured(run, [*words, "device=cpu"])
    refuse_whole(run, config, "is not exported")
    if isinstance(config.views.standard, Zca):
        raise ValueError(f"{run}: views.standard: whitening is of images of one size, so the network is not exported")
    if "hf" in formats and not isinstance(config.model, Smp):
        raise ValueError(
            f"{run}: --to hf is of networks of segmentation_models_pytorch, and model.kind is {config.model.kind}; use "
            "--to torch or onnx"
        )
    if "hf" in formats and network == "teacher" and isinstance(config.method.teacher, Ensemble):
        raise ValueError(
            f"{run}: an ensemble's mean is several networks; use --network student, or --to torch or onnx for the mean"
        )
    trained = load(run, [*words, "device=cpu"], at=at, network=network)
    facts = _facts(trained, weights_of(run, trained.step, network))
    out.mkdir(parents=True, exist_ok=True)
    if "hf" in formats:
        scores = _scores(run, of_run(run), trained.step, network)
        _read_back(hub.write(trained, config, out / "hf", network=network, scores=scores), trained)
    if set(formats) & {"torch", "onnx"}:
        ready = _ready(trained)
        program = torch.export.export(ready, (_pixels(SIZES[0], trained.channels),), dynamic_shapes=(_any_size(),))
        for name, write in (("torch", to_torch), ("onnx", to_onnx)):
            if name in formats:
                write(program, ready, out, facts)
    return _asked_otherwise(out, trained.predictor, formats)


def _asked_otherwise(out: Path, predictor: Predictor, formats: Sequence[str]) -> str:
    """What to know where the run asks its network otherwise than about whole images at once; empty: nothing."""
    names = {"hf": "the bare network of hf", "torch": "model.pt2", "onnx": "model.onnx"}
    bare = [name for kind, name in names.items() if kind in formats]
    if predictor == Whole():
        return ""
    takes = "takes images as they are" if len(bare) == 1 else "take images as they are"
    whole = f"; mtseg.load({str(out / 'hf')!r}) asks as the run does" if "hf" in formats else ""
    return f"the run asks for {predictor.sentence()}; {' and '.join(bare)} {takes}: do the like before and after{whole}"


def _read_back(folder: Path, trained: Trained) -> None:
    """Load what was written into `folder`, and compare. One that is not the network is no export: FILE is removed."""
    try:
        apart = _apart(_ready(trained), hub.read(folder, ["device=cpu"])[0].answer)
    except ValueError as error:
        apart = " ".join(str(error.__cause__ or error).split())[:300]
    if apart:
        (folder / hub.FILE).unlink()
        raise ValueError(
            f"{folder}: does not give back the network that was written ({apart}), so it is of no use; take another "
            "format, such as --to torch"
        )


def to_torch(program: ExportedProgram, network: Pixels, out: Path, facts: dict[str, Any]) -> None:
    """Write model.pt2: `torch.export.load(path).module()` is the function; the facts are its extra file mtseg.json."""
    path = out / "model.pt2"
    _compare(network, program.module(), path)
    written = io.BytesIO()  # torch, writing to a disk that is full, ends the program
    torch.export.save(program, written, extra_files={hub.FILE: json.dumps(facts)})
    with aside(path) as place:
        place.write_bytes(written.getbuffer())


def to_onnx(program: ExportedProgram, network: Pixels, out: Path, facts: dict[str, Any]) -> None:
    """Write model.onnx, a graph from `pixels` to `logits`; the facts are its metadata, each as JSON."""
    import onnx
    import onnxruntime

    path, graph = out / "model.onnx", _graph(program)
    onnx.helper.set_model_props(graph, {key: json.dumps(value) for key, value in facts.items()})
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    _compare(network, lambda pixels: torch.from_numpy(session.run(None, {"pixels": pixels.numpy()})[0]), path)
    with aside(path) as place:
        onnx.save(graph, str(place))


def _graph(program: ExportedProgram) -> Any:
    inputs, outputs = ["pixels"], ["logits"]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the exporter about itself
            made = torch.onnx.export(program, input_names=inputs, output_names=outputs, dynamo=True, verbose=False)
    except torch.onnx.errors.OnnxExporterError as error:
        cause = str(error.__cause__ or error).partition("\n")[0][:200]
        raise ValueError(
            f"--to onnx: torch {torch.__version__} does not write this network as a graph, as torch 2.6 does none that "
            f"takes any size ({cause}); update torch (pip install -U torch torchvision), or use --to torch"
        ) from error
    assert made is not None
    return made.model_proto


def _need(*libraries: str) -> None:
    for name in libraries:
        try:
            import_module(name)
        except ImportError as error:
            raise ValueError(f"--to onnx: {name} is not installed; pip install 'mtseg[export]'") from error


def _facts(trained: Trained, weights: str) -> dict[str, Any]:
    """What a program must know of a graph."""
    return {
        "input": f"pixels: {_kind(trained.channels)} of any size; normalised and padded inside",
        "output": "logits: float32 (batch, classes, height, width); the class is the argmax over axis 1",
        "classes": list(trained.classes),
        "palette": [bytes(colour.tolist()).hex() for colour in trained.palette],
        "weights": weights,
        "step": trained.step,
        "protocol": f"{trained.predictor.sentence()}, in the run; the graph takes what it is given at once",
    }


def _scores(run: Path, config: Config, step: int, network: str) -> str:
    """What the run's evaluation of that step says, and what `tools/eval.py` has scored of it."""
    split = config.eval.split
    name, sha256, _ = recorded(run, split)
    images = f" of {name} ({sha256[:12]})" if sha256 else ""
    lines = [line for line in read(run) if line["step"] == step]
    own = [score for line in lines if (score := line.get(f"{split}_{network}/mIoU")) is not None]
    asked = f"{config.eval.predictor.sentence()}, labels of their own size"
    said = [f"mIoU {percent(own[-1])} % on {split}{images}, {asked}."] if own else []
    for found in kept(run).values():
        if found["step"] == step and network in found:
            said.append(f"mIoU {percent(found[network]['mIoU'])} % on {found['split']}: {sentence(found)}.")
    return "\n\n".join(said) or "It was not scored at this step."


def _ready(trained: Trained) -> Pixels:
    return Pixels(trained.network.cpu(), trained.views, trained.channels).eval()


def _any_size() -> dict[int, Any]:
    return {axis: torch.export.Dim.DYNAMIC for axis in range(3)}


def _kind(channels: Channels) -> str:
    if channels == PLAIN:
        return "uint8 (batch, height, width, 3), RGB,"
    where = "0 to 255 where the range says 0 to 1" if channels.scaled else "8 bits"
    return f"{'float32' if channels.scaled else 'uint8'} (batch, height, width, {channels.count}), {where},"


def _pixels(size: tuple[int, int, int], channels: Channels) -> Tensor:
    """Noise of all frequencies, so that classes differ."""
    draw = torch.Generator().manual_seed(0)
    coarse = torch.rand(size[0], channels.count, 5, 7, generator=draw)
    smooth = nn.functional.interpolate(coarse, size[1:], mode="bilinear").permute(0, 2, 3, 1)
    pixels = (smooth + 0.3 * torch.rand(smooth.shape, generator=draw)) / 1.3 * 255
    return pixels if channels.scaled else pixels.to(torch.uint8)


def _compare(network: Pixels, exported: Callable[[Tensor], Tensor], path: Path) -> None:
    if apart := _apart(network, exported):
        raise ValueError(
            f"{path}: the exported graph names {apart}, so it is of no use; take another format, or another model.arch"
        )


@torch.no_grad()
def _apart(network: Pixels, exported: Callable[[Tensor], Tensor]) -> str:
    """Where `exported` does not give the network's classes; empty where it does on AGREE of the pixels."""
    for size in SIZES:
        pixels = _pixels(size, network.channels)
        same = float((network(pixels).argmax(1) == exported(pixels).argmax(1)).float().mean())
        if same < AGREE:
            return f"another class than the network on {100 * (1 - same):.2f} % of the pixels of {size[1]}x{size[2]}"
    return ""
