"""Every row of configs/method/ teaches the student, by its unlabelled images alone, and leaves the teacher alone."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from runs import TINY, taught
from torch import Tensor, nn

from mtseg.config import Config, dump, load
from mtseg.data.source import IGNORE
from mtseg.data.stream import Stream
from mtseg.models.smp import Smp
from mtseg.results.alike import OF_A_METHOD
from mtseg.settings.checked import validate
from mtseg.settings.differences import differences, under
from mtseg.settings.merge import merge
from mtseg.state import State, build
from mtseg.step import train_step

ROOT = Path(__file__).parent.parent / "configs"
ROWS = sorted(path for path in (ROOT / "method").glob("*.yaml") if path.stem != "supervised")
STEPS = 12


def config_of(path: Path, folder: Path) -> Config:
    """The row on the tiny run; of two heads, without what holds them together, which labels nothing either."""
    row = dump(load([str(ROOT / "demo.yaml"), str(path), f"out={folder}"]))
    heads = row["model"].get("heads", 1)
    method = row["method"] | ({"logit_distance": 0.0} if heads == 2 else {})
    student = TINY["views"]["student"] | {"geometry": row["views"]["student"]["geometry"]}
    tree = merge(dict(TINY), {"views": {"student": student}, "model": {"heads": heads}, "out": str(folder)})
    if path.stem == "distil":
        method["teacher"]["runs"] = [str(taught())]
    return validate(Config, tree | {"method": method, "steps": STEPS})


@pytest.mark.parametrize("path", ROWS, ids=lambda path: path.stem)
def test_a_row_says_nothing_but_what_makes_a_method(path: Path) -> None:
    """So that tables take rows on one recipe for methods, and nothing else lies between them."""
    without, row = (load([str(ROOT / "demo.yaml"), str(file)]) for file in (ROOT / "method/supervised.yaml", path))
    keys = [line.partition(":")[0] for line in differences(without, row)]
    assert keys
    assert [key for key in keys if not under(key, OF_A_METHOD)] == []


@pytest.fixture
def sure_of_themselves(monkeypatch):
    """Untrained networks whose logits are spread as a trained one's, so that thresholds keep some of their answers."""
    build_model = Smp.build

    def spread(*arguments, **more) -> nn.Module:
        network = build_model(*arguments, **more)
        images = torch.randn((2, 3, 48, 64), generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            scale = 8 / network(images).std()
            for name, parameter in network.named_parameters():
                if "head" in name:
                    parameter.mul_(scale)
        return network

    monkeypatch.setattr(Smp, "build", spread)


def networks_of(teacher: object) -> list[nn.Module]:
    """Every network that a teacher holds, also inside of other teachers."""
    held = [value for value in vars(teacher).values() for value in (value if isinstance(value, list) else [value])]
    inner = [network for value in held if hasattr(value, "answer") for network in networks_of(value)]
    return [value for value in held if isinstance(value, nn.Module)] + inner


def gradients(state: State) -> Tensor:
    return torch.cat([p.grad.flatten() for p in state.student.parameters() if p.grad is not None])


@pytest.mark.parametrize("path", ROWS, ids=lambda path: path.stem)
def test_a_row_has_a_finite_gradient_to_the_student_without_any_label_and_none_to_the_teacher(
    path, tmp_path, sure_of_themselves
):
    config = config_of(path, tmp_path)
    splits = config.data.build()
    state = build(config, splits, torch.device("cpu"), pretrained=False)
    views = config.method.views_of_student
    stream = Stream(splits, views=config.views, sizes=config.batch, students=views, seed=0)
    norms = []
    for step in range(STEPS):
        batch = stream[step]
        unknown = torch.full_like(batch.labelled.label, IGNORE)
        train_step(config, state, replace(batch, labelled=replace(batch.labelled, label=unknown)))
        norms.append(gradients(state).norm().item())
        for network in set(networks_of(state.teacher)) - {learner.student for learner in state.learners}:
            assert all(parameter.grad is None and not parameter.requires_grad for parameter in network.parameters())
    assert state.skipped == 0
    assert torch.isfinite(torch.tensor(norms)).all()
    assert sum(norm > 1e-6 for norm in norms) >= STEPS / 2, norms
