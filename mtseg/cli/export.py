"""Hand a run's teacher on: a folder for Hugging Face's hub, torch.export, ONNX."""

import argparse
from collections.abc import Sequence

from mtseg.cli.common import add_choice, answer, read


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(prog="export", description=__doc__)
    parser.add_argument("run", help="the run's folder (its out=)")
    parser.add_argument("words", nargs="*", help="settings to change, such as an eval.predictor to hand on")
    parser.add_argument("--to", default="hf", help="some of hf,torch,onnx (hf)")
    parser.add_argument("--out", help="the folder that gets them (RUN/export)")
    add_choice(parser)
    parsed = read(parser, arguments)
    return answer(lambda: _export(parsed))


def _export(parsed: argparse.Namespace) -> None:
    from pathlib import Path

    from mtseg.inference.export import export

    run = Path(parsed.run)
    out = Path(parsed.out) if parsed.out else run / "export"
    otherwise = export(run, out, parsed.to.split(","), parsed.words, at=parsed.at, network=parsed.network)
    print(f"written to {out}: {', '.join(sorted(path.name for path in out.iterdir()))}")
    if otherwise:
        print(otherwise)
