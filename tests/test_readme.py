"""What the README and the guides say exists, and the README's Python runs."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).parent.parent
GUIDES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def test_the_python_of_the_readme_runs(tmp_path):
    (block,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    short = block.replace('"steps=200"', '"steps=2", "data.val=2", "workers=0", "device=cpu"')
    assert short != block
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    Image.new("RGB", (53, 41), "green").save(tmp_path / "photo.jpg")
    check = "\nassert prediction.classes.shape == prediction.confidence.shape == (41, 53)"
    ran = subprocess.run([sys.executable, "-c", short + check], cwd=tmp_path, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert 0 <= float(ran.stdout.splitlines()[-1]) <= 1
    assert (tmp_path / "runs/api/config.yaml").is_file()


@pytest.mark.parametrize("guide", GUIDES, ids=lambda path: path.name)
def test_every_file_of_the_project_that_a_guide_names_is_there(guide):
    text = guide.read_text()
    named = re.findall(r"\b((?:mtseg|configs|tools|datasets|docs|tests)/[\w./-]*\w\.(?:py|yaml|md))\b", text)
    missing = [name for name in named if not (ROOT / name).is_file()]
    assert missing == []


def test_every_method_row_is_in_the_readme():
    text = (ROOT / "README.md").read_text()
    assert [path.name for path in (ROOT / "configs/method").glob("*.yaml") if f"`{path.name}`" not in text] == []


def test_the_new_method_of_the_guide_trains_as_it_stands_there(tmp_path):
    """Its part is put into a copy of the package, its row laid on the demo: two steps, and a consistency."""
    text = (ROOT / "CONTRIBUTING.md").read_text()
    (part,) = re.findall(r"```python\n(@part.*?)```", text, re.DOTALL)
    (row,) = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    assert len((part + row).splitlines()) < 30
    shutil.copytree(ROOT / "mtseg", tmp_path / "mtseg", ignore=shutil.ignore_patterns("__pycache__"))
    targets = tmp_path / "mtseg" / "targets.py"
    before, union, after = re.split(r"(?m)^(Target = .*\n)", targets.read_text())
    assert set(re.findall(r"\w+", union)) < set(re.findall(r"\w+", part))  # as there, and one more
    targets.write_text(before + part + after)
    (tmp_path / "confident.yaml").write_text(row)
    words = [str(ROOT / "configs/demo.yaml"), "confident.yaml", "steps=2", "data.val=2", "workers=0", "device=cpu"]
    code = f"from mtseg.cli.train import main; raise SystemExit(main({[*words, 'out=run']!r}))"
    ran = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert "kind: confident" in (tmp_path / "run/config.yaml").read_text()
