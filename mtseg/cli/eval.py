"""Score student and teacher of a run by class and in the mean: a table, a JSON file and a CSV file."""

import argparse
import json
from collections.abc import Sequence

from mtseg.cli.common import add_choice, answer


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(prog="eval", description=__doc__)
    parser.add_argument("run", help="the run's folder (its out=)")
    parser.add_argument("words", nargs="*", help="settings to change, such as eval.split=test or data.root=PATH")
    add_choice(parser, both="both")
    parser.add_argument(
        "--boundary", nargs="?", type=float, const=0.02, metavar="RATIO", help="boundary IoU too, within RATIO (0.02) "
        "of the diagonal"
    )  # fmt: skip
    parser.add_argument("--images", action="store_true", help="each image's mIoU, and a 95 %% interval over images")
    parsed = parser.parse_intermixed_args(arguments)
    return answer(lambda: _evaluate(parsed))


def _evaluate(parsed: argparse.Namespace) -> None:
    from pathlib import Path

    from mtseg.checkpoint import write_whole
    from mtseg.evaluate import Also
    from mtseg.scoring import Wanted, file_name, images_csv, print_table, score_run, table_csv

    if parsed.boundary is not None and not 0 < parsed.boundary <= 1:
        raise ValueError(f"--boundary: {parsed.boundary} is no share of the diagonal; give one in (0, 1], such as 0.02")
    networks = ("student", "teacher") if parsed.network == "both" else (parsed.network,)
    wanted = Wanted(parsed.at, networks, Also(parsed.boundary, parsed.images))
    found = score_run(Path(parsed.run), parsed.words, wanted)
    print_table(found)
    name = file_name(Path(parsed.run), found)
    texts = {f"{name}.json": json.dumps(found, indent=1), f"{name}.csv": table_csv(found)}
    if parsed.images:
        texts[f"{name}_images.csv"] = images_csv(found)
    for file, text in texts.items():
        write_whole(Path(parsed.run) / file, text)
    print(f"written to {parsed.run}: {', '.join(texts)}")
