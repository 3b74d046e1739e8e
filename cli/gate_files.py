"""A gate's report for machines and for pull requests: JUnit XML and Markdown."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree import ElementTree

if TYPE_CHECKING:
    from aim_edge.export import GateReport

# What XML 1.0 cannot hold, escaped or not, and UTF-8 in part; a file's name may.
_NOT_XML = re.compile("[^\t\n\r -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def write_junit(path: Path, report: GateReport) -> None:
    """One test suite, a case a gate."""
    from aim_edge.export.gate import FAILED, NOT_RUN

    counts = {
        "tests": str(len(report.verdicts)), "failures": str(report.count(FAILED)), "errors": "0",
        "skipped": str(report.count(NOT_RUN)), "time": f"{sum(v.seconds for v in report.verdicts):.3f}",
    }  # fmt: skip
    root = ElementTree.Element("testsuites", counts)
    suite = ElementTree.SubElement(root, "testsuite", {"name": _clean(f"aim-edge gate {report.bundle}")} | counts)
    for verdict in report.verdicts:
        case = ElementTree.SubElement(
            suite, "testcase",
            {"classname": f"gate.{verdict.group}", "name": verdict.name, "time": f"{verdict.seconds:.3f}"},
        )  # fmt: skip
        told = f"found {verdict.found or 'nothing'}, limit {verdict.limit or 'none'}"
        if verdict.status == FAILED:
            failure = ElementTree.SubElement(case, "failure", {"message": _clean(told), "type": "gate"})
            failure.text = _clean(verdict.why)
        elif verdict.status == NOT_RUN:
            ElementTree.SubElement(case, "skipped", {"message": _clean(verdict.why)})
        else:
            ElementTree.SubElement(case, "system-out").text = _clean(told)
    ElementTree.indent(root)
    path.write_bytes(ElementTree.tostring(root, encoding="utf-8", xml_declaration=True) + b"\n")


def write_markdown(path: Path, report: GateReport) -> None:
    """A heading, a table with a row a gate, and why gates broke."""
    rows = [
        f"| {' | '.join(map(_cell, (f'{v.group}: {v.name}', v.limit, v.found, v.status)))} |" for v in report.verdicts
    ]
    lines = [f"### {_plain(report.line())}", "", "| gate | limit | found | |", "|---|---|---|---|", *rows]
    why = [f"- {v.group} {v.name}: {_plain(v.why)}" for v in report.verdicts if v.why]
    lines += ["", *why] if why else []
    lines += ["", _plain(report.parity.line())] if report.parity is not None else []
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _clean(text: str) -> str:
    return _NOT_XML.sub("?", text)


def _plain(text: str) -> str:
    """One line, in which nothing is markup."""
    return re.sub(r"([\\`*_<>\[\]|])", r"\\\1", " ".join(_clean(text).split()))


def _cell(text: str) -> str:
    return _plain(text) or " "
