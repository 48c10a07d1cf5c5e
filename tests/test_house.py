"""The house: no two rooms lean on each other, and what is heavy is carried in where it is used."""

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "mtseg"
ROOMS = ["settings", "models", "data", "run", "inference", "results", "doctor", "bench", "cli"]
# Seconds to import, or not installed everywhere: no module imports them before they are needed.
HEAVY = {"albumentations", "matplotlib", "mlflow", "onnx", "onnxruntime", "tensorboard", "trackio", "wandb"}


def module_of(path: Path, package: Path) -> str:
    inside = path.relative_to(package.parent).with_suffix("").parts
    return ".".join(inside[:-1] if inside[-1] == "__init__" else inside)


def imported(tree: ast.AST) -> Iterator[str]:
    """All that is imported anywhere in it, inside functions too; of `from a import b` both `a` and `a.b`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{name.name}" for name in node.names)


def leaning(package: Path) -> dict[str, set[str]]:
    """Which modules of a package each imports."""
    trees = {module_of(path, package): ast.parse(path.read_text()) for path in package.rglob("*.py")}
    faces = {module_of(path, package) for path in package.rglob("__init__.py")}  # which anything inside imports
    return {name: ({*imported(tree)} & trees.keys()) - faces - {name} for name, tree in trees.items()}


def test_no_modules_import_each_other() -> None:
    order = list(TopologicalSorter(leaning(PACKAGE)).static_order())
    assert order.index("mtseg.config") < order.index("mtseg.trainer")
    assert len(order) > 100


def test_no_room_leans_on_one_that_comes_after_it() -> None:
    """What stands in `mtseg/` itself is between them: a run is put together there."""
    found = leaning(PACKAGE)
    assert {name.split(".")[1] for name in found if name.count(".") > 1} == {*ROOMS}
    for name, others in found.items():
        room, *rest = name.split(".")[1:] or [""]
        after = ROOMS[ROOMS.index(room) + 1 :] if rest else []
        assert not {other for other in others if other.count(".") > 1 and other.split(".")[1] in after}, name


def test_two_modules_that_import_each_other_are_found(tmp_path: Path) -> None:
    """What the test above would say."""
    (package := tmp_path / "mtseg").mkdir()
    (package / "__init__.py").touch()
    (package / "one.py").write_text("def late():\n    from mtseg import two\n")
    (package / "two.py").write_text("from mtseg.one import late\n")
    with pytest.raises(CycleError):
        TopologicalSorter(leaning(package)).prepare()


def test_what_is_heavy_is_imported_where_it_is_used() -> None:
    early = {
        f"{module_of(path, PACKAGE)}: {name}"
        for path in PACKAGE.rglob("*.py")
        for node in ast.parse(path.read_text()).body
        for name in imported(node)
        if isinstance(node, ast.Import | ast.ImportFrom) and name.partition(".")[0] in HEAVY
    }
    assert early == set()
