"""What the doctor says: findings, each with its severity, its code, a sentence and the files it is about."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Severity = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")


@dataclass(frozen=True)
class Finding:
    """One thing found. An `error` stops a run or spoils its result, a `warning` may, a `note` is to be known.

    `text` has the value, the rule and the remedy. `files` are all that it is about, the worst first, as the data set
    names them. `suggestion` is a word for the command line, which would mend it if it is what the user means;
    `also` is a second one that is taken with it, as what the first changes would else be warned of.
    """

    severity: Severity
    code: str
    text: str
    files: tuple[str, ...] = ()
    suggestion: str = ""
    also: str = ""

    @property
    def words(self) -> str:
        """What is suggested, as it is typed in a shell; empty: nothing is."""
        return shlex.join(filter(None, (self.suggestion, self.also)))


def counted(findings: Sequence[Finding]) -> dict[str, int]:
    """How many findings there are of each severity."""
    return {severity: sum(finding.severity == severity for finding in findings) for severity in SEVERITIES}


def amount(count: int, what: str) -> str:
    """`1 image`, `2 images`."""
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def megabytes(count: float) -> str:
    """A number of bytes in MB, or in GB from a thousand on."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"


def key_of(number: int, code: str) -> str:
    """What the picture of a report's finding `number` is called: `03-labels-outside`."""
    return f"{number:02d}-{code}"
