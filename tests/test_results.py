"""The overview of docs/results.md says what the tables below it say."""

import re
from pathlib import Path

import pytest

TEXT = (Path(__file__).parent.parent / "docs" / "results.md").read_text(encoding="utf-8")
OF_METHODS = r"\| `(\w+)` \| (.*) \|"


def sections() -> dict[str, str]:
    """Their text by their anchors."""
    parts = re.split(r"^##+ (.*)$", TEXT, flags=re.M)
    return {
        re.sub(r"[^\w -]", "", t.lower()).replace(" ", "-"): b for t, b in zip(parts[1::2], parts[2::2], strict=True)
    }


def tables(text: str, head: str) -> list[dict[str, list[str]]]:
    """Those whose head begins so: the cells of each row, by the first."""
    found: list[dict[str, list[str]]] = []
    for block in re.findall(rf"^\| {head}[^\n]*\n\|[ -|]*\n((?:\|[^\n]*\n)+)", text, flags=re.M):
        rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in block.strip().split("\n")]
        found.append({row[0]: row[1:] for row in rows})
    return found


SECTIONS = sections()
SHORT = SECTIONS["in-short"]
BUDGETS = re.findall(r"^\| [^|]*\| \d+ \| \[[\d,]+\]\(#([\w-]+)\) \| (.*) \|$", SHORT, flags=re.M)
SCENES, ELEVEN, TWENTY_TWO = re.findall(r"\(#([\w-]+)\)", SHORT[SHORT.index("| method |") :])[:3]


@pytest.mark.parametrize(("section", "cells"), BUDGETS, ids=[section for section, _ in BUDGETS])
def test_a_budget_of_the_overview_is_its_section(section, cells):
    student, teacher, full, ahead, gap, least = cells.split(" | ")
    scores, steps = tables(SECTIONS[section], "method \\| student")[0], tables(SECTIONS[section], "method \\| \\d")[0]
    names = {name.split("_pasted")[0]: name for name in scores}
    row = scores[names["default"]]
    of_all = next(name for name in ("supervised_all_plain", "supervised_all", "all") if name in names)
    means = scores[names["supervised"]][0], row[1], scores[names[of_all]][1]
    assert [mean.split(" ")[0] for mean in means] == [student, teacher, full]
    assert (row[3], row[4], steps[names["default"]][-1]) == (ahead, gap, least)


def test_the_overview_has_a_budget_for_each_table_of_three_seeds_that_compares_the_row_with_both():
    def compares(text: str) -> bool:
        of = tables(text, "method \\| student")
        names = {name.split("_pasted")[0] for name in of[0]} if of else set()
        leads = of[0].get("default", of[0].get("default_pasted", [""] * 4))[3] if of else ""
        return {"default", "supervised"} <= names and len(leads.split(", ")) == 3 and "gap closed" in text

    aside = {
        "the-default-row-part-by-part",  # at half of the scenes' steps
        "every-method-on-the-embedded-scenes",  # is in the other table
        *("a-higher-weight", "labelled-images-chosen-by-their-classes"),  # have the row of another section
    }
    assert {name for name, text in SECTIONS.items() if compares(text)} - aside == {section for section, _ in BUDGETS}


@pytest.mark.parametrize(("name", "cells"), re.findall(OF_METHODS, SHORT))
def test_a_method_of_the_overview_is_its_sections(name, cells):
    cells = [cell.strip() for cell in cells.split("|")]
    for cell, section in zip(cells, (SCENES, ELEVEN, TWENTY_TWO), strict=True):
        of = [table[name][3] for table in tables(SECTIONS[section], "method \\| student") if name in table]
        assert cell == (of[-1] if of else "")  # the last: where a row was run again
