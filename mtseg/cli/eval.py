"""Score student and teacher of a run by class and in the mean: a table, a JSON file and a CSV file."""

import argparse
import json
from collections.abc import Sequence

from mtseg.cli.common import answer, read


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(prog="eval", description=__doc__)
    parser.add_argument("run", help="the run's folder (its out=), or an exported one")
    parser.add_argument(
        "words", nargs="*", help="settings to change, such as eval.split=test or data.root=PATH; of an exported folder "
        "the data: configs/data/own.yaml data.root=PATH"
    )  # fmt: skip
    parser.add_argument(
        "--at", help="last, best (of the evaluations while it trained), holdout, a step, or several: last,best "
        "(default last; where images were held out, all three)"
    )  # fmt: skip
    parser.add_argument("--network", choices=("both", "student", "teacher"), default="both")
    parser.add_argument(
        "--boundary", nargs="?", type=float, const=0.02, metavar="RATIO", help="boundary IoU too, within RATIO (0.02) "
        "of the diagonal"
    )  # fmt: skip
    parser.add_argument("--images", action="store_true", help="each image's mIoU, and a 95 %% interval over images")
    parsed = read(parser, arguments)
    return answer(lambda: _evaluate(parsed))


def _evaluate(parsed: argparse.Namespace) -> None:
    from pathlib import Path

    from mtseg.atomic import write_whole
    from mtseg.config import of_run
    from mtseg.inference.score_table import images_csv, print_table, table_csv
    from mtseg.inference.scored import CHECKPOINTS, with_former
    from mtseg.inference.scoring import Wanted, file_name, score_checkpoints, unlike_the_runs
    from mtseg.inference.side_by_side import called, files, print_side_by_side
    from mtseg.results import run_page
    from mtseg.tally import NETWORKS, Also

    if parsed.boundary is not None and not 0 < parsed.boundary <= 1:
        raise ValueError(f"--boundary: {parsed.boundary} is no share of the diagonal; give one in (0, 1], such as 0.02")
    networks = NETWORKS if parsed.network == "both" else (parsed.network,)
    wanted = Wanted(networks=networks, also=Also(parsed.boundary, parsed.images))
    run = Path(parsed.run)
    usual = called(run, parsed.words)
    ats = tuple(parsed.at.split(",")) if parsed.at else usual
    checkpoints = score_checkpoints(run, parsed.words, wanted, ats)
    found = checkpoints[ats[0]]
    print_table(found)
    if said := unlike_the_runs(run, found):
        print(said)
    name = file_name(run, found)
    found = with_former(run / f"{name}.json", found)
    texts = {f"{name}.json": json.dumps(found, indent=1), f"{name}.csv": table_csv(found)}
    if len(checkpoints) > 1:
        print_side_by_side(run, checkpoints)
        which = CHECKPOINTS if ats == usual else f"{CHECKPOINTS}_{'-'.join(checkpoints)}"
        beside = file_name(run, found | {"at": which})
        texts |= {f"{beside}{suffix}": text for suffix, text in files(run, checkpoints).items()}
    if parsed.images:
        texts[f"{name}_images.csv"] = images_csv(found)
    for file, text in texts.items():
        write_whole(run / file, text)
    print(f"written to {run}: {', '.join(texts)}")
    if (run / run_page.FILE).is_file():  # an exported folder has none
        run_page.refresh(run, of_run(run))
