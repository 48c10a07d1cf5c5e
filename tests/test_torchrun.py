"""The command under torchrun: two processes on a CPU, killed, restarted and asked to stop."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from runs import TINY
from safetensors.torch import load_file

from mtseg.settings.strict_yaml import to_yaml

ROOT = Path(__file__).parent.parent
WORDS = ("norm=group", "batch={labelled: 4, unlabelled: 4}", "steps=8", "eval.every=8", "method.branches=[{}]")
# A process that does something after its fifth step, when it is started for the first time.
SCRIPT = """
import os, signal, sys, time
import mtseg.trainer as trainer
from mtseg.cli.train import main

taken, how = trainer.train_step, sys.argv.pop(1)

def step(config, state, batch, **options):
    terms = taken(config, state, batch, **options)
    if state.step == 5 and os.environ["RANK"] == "1" and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
        {"kill": lambda: os.kill(os.getpid(), signal.SIGKILL), "go on": lambda: None}[how]()
    if how == "slowly":
        time.sleep(0.2)
    return terms

trainer.train_step = step
sys.exit(main())
"""


def launched(tmp: Path, how: str, out: str, *options: str) -> subprocess.Popen[str]:
    (tmp / "config.yaml").write_text(to_yaml(TINY))
    (tmp / "script.py").write_text(SCRIPT)
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--local-addr", "127.0.0.1"),
            *(*options, tmp / "script.py"),
            *(how, tmp / "config.yaml", *WORDS, f"out={tmp / out}"),
        ],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=tmp,
    )


def end(process: subprocess.Popen[str], seconds: float = 180) -> tuple[int, str]:
    said, _ = process.communicate(timeout=seconds)
    return process.returncode, said


def weights(run: Path) -> dict[str, object]:
    return load_file(run / "checkpoints/step-00000008/teacher.safetensors")


@pytest.mark.slow
def test_4_13_20_killed_restarted_and_stopped_runs_end_as_the_undisturbed_one(tmp_path):
    code, said = end(launched(tmp_path, "go on", "whole", "--standalone"))
    assert code == 0, said
    assert said.count("step 8/8") == 2, "one process speaks"

    begun = time.monotonic()
    code, said = end(launched(tmp_path, "kill", "killed", "--standalone", "--max-restarts=0"))
    assert code != 0
    assert "another process of this run has ended or hangs" in said or "Signal 9" in said
    assert time.monotonic() - begun < 120
    assert (tmp_path / "killed/checkpoints/step-00000004").is_dir()
    code, said = end(launched(tmp_path, "go on", "killed", "--standalone"))
    assert (code, "continuing" in said) == (0, True), said

    code, said = end(launched(tmp_path, "kill", "restarted", "--standalone", "--max-restarts=1"))
    assert (code, "continuing" in said) == (0, True), said

    for name in ("killed", "restarted"):
        whole, other = weights(tmp_path / "whole"), weights(tmp_path / name)
        assert all((other[key] == value).all() for key, value in whole.items()), name  # type: ignore[attr-defined]
