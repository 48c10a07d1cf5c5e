"""Say what settings there are: what each takes, its default, and what it does."""

import argparse
from collections.abc import Sequence

from mtseg.cli.common import answer


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(prog="settings", description=__doc__)
    parser.add_argument("names", nargs="*", help="a part (method.target), a kind (cutmix) or a key (threshold)")
    parser.add_argument("--page", action="store_true", help="print all of them in Markdown (docs/settings.md)")
    parsed = parser.parse_args(arguments)
    return answer(lambda: _settings(parsed))


def _settings(parsed: argparse.Namespace) -> None:
    from mtseg.reference import asked, page, plain, sections

    if parsed.page and parsed.names:
        raise ValueError("--page: prints all settings; leave the names out, or --page")
    if parsed.page:
        print(page(), end="")
    elif parsed.names:
        print("\n".join(map(plain, asked(parsed.names))), end="")
    else:
        print("\n".join(f"{one.title}: {', '.join(key for key in one.keys if key != 'kind')}" for one in sections()))
