"""`proxyless validate`: check files of documents without any server, for editors, hooks and pipelines."""

from __future__ import annotations

from dataclasses import asdict

from proxyless.cli import screen
from proxyless.cli.options import Files, Format, Output
from proxyless.cli.screen import GOOD


def validate(files: Files, output: Output = Format.table) -> int:
    """Check documents without any server; all findings at once."""
    from proxyless.cli.files import drafts
    from proxyless.cli.review import review

    given = drafts(files)
    found = review(given)
    for told in (*found.assumed, *map(str, found.idle)):
        screen.note(told)
    if output is Format.json:
        findings = [asdict(finding) for finding in found.findings]
        notes = [asdict(finding) for finding in found.idle]
        screen.as_json({"documents": [draft.key for draft in given], "findings": findings, "notes": notes})
    elif found.findings:
        for finding in found.findings:
            screen.line(str(finding))
    else:
        number = len(given)
        screen.line(("valid", GOOD), f": {number} document{'' if number == 1 else 's'}")
    return int(bool(found.findings))
