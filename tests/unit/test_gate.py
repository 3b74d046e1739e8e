"""aim-edge gate: rules, what breaks them, exit codes, and the files that CI reads."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from test_engine_header import engine

from aim_edge.cli import main
from aim_edge.cli.gate_files import write_junit, write_markdown
from aim_edge.export import GATES, GateReport, ParityReport, Rules, export_bundle, validate
from aim_edge.export.gate import FAILED, NOT_RUN, PASSED, Verdict
from aim_edge.export.gate_rules import ParityRules
from aim_edge.runtime.bundle import read_manifest, sha256_of, write_manifest
from aim_edge.runtime.engines import TENSORRT_RTX
from aim_edge.runtime.manifest import EngineFile, EngineRecord

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo with files of 1 MB that are engines by their heads: a condition and a step for sm86."""
    path = export_bundle("demo", tmp_path_factory.mktemp("gate") / "bundle")
    manifest, files = read_manifest(path), {}
    for graph in ("condition", "step"):
        name = f"engines/rtx-1.7/sm86/{graph}.engine"
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(engine(body=bytes(1_000_000 - 64)))
        source = manifest.files[f"{graph}.onnx"].sha256
        files[graph] = EngineFile(name, 1_000_000, sha256_of(path / name), source)
    record = EngineRecord(
        "rtx:sm86", TENSORRT_RTX, "1.7.1.116", ("sm86",), "float32", ((2, 2, 8),), (1, 128, 256), files
    )
    write_manifest(path, replace(manifest, engines={"rtx:sm86": record}))
    return path


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    """Runs the gate with a text of rules: exit status, stdout and stderr."""

    def call(bundle: Path, rules: str, *options: object) -> tuple[int, str, str]:
        (tmp_path / "gates.toml").write_text(rules)
        capsys.readouterr()
        status = main(["gate", str(bundle), "--rules", str(tmp_path / "gates.toml"), *map(str, options)])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return call


def statuses(report: GateReport) -> dict[str, str]:
    return {f"{verdict.group}: {verdict.name}": verdict.status for verdict in report.verdicts}


GOOD = """
[parity]
images = 1
steps = 8
max_abs = 1e-4
[engines]
targets = ["rtx:sm86"]
graphs = ["condition", "step"]
batch = 8
[max_megabytes]
graphs = 30
engines = 2
bundle = 30
"""


def test_a_bundle_that_keeps_the_rules(made: Path, run: Run, tmp_path: Path) -> None:
    status, out, err = run(made, GOOD, "--junit", tmp_path / "j.xml", "--markdown", tmp_path / "m.md")
    assert status == 0, out + err
    assert "10 passed, 0 FAILED, 0 not run" in out and "parity PASS" in out
    assert "decoding with PyTorch" in err
    root = ElementTree.parse(tmp_path / "j.xml").getroot()
    assert (root.get("tests"), root.get("failures"), root.get("skipped")) == ("10", "0", "0")
    names = [f"{case.get('classname')}.{case.get('name')}" for case in root.iter("testcase")]
    assert names == [
        "gate.bundle.integrity", "gate.engines.rtx:sm86", "gate.size.graphs", "gate.size.engines of rtx:sm86",
        "gate.size.bundle", "gate.parity.cosine", "gate.parity.norm_ratio", "gate.parity.max_abs", "gate.parity.top1",
        "gate.parity.image_max_abs",
    ]  # fmt: skip
    assert sum(float(case.get("time", "")) for case in root.iter("testcase")) > 0.05
    text = (tmp_path / "m.md").read_text()
    assert text.startswith("### gate PASS: ") and "| size: engines of rtx:sm86 | \\<= 2 MB | 2.00 MB | passed |" in text
    assert "| parity: max\\_abs | \\<= 0.0001 |" in text


@pytest.mark.parametrize(
    ("rules", "broken", "said"),
    [
        ("[parity]\nimages = 1\nsteps = 4\nmax_abs = 1e-9", "parity: max_abs", "4 of 4 steps outside 1e-09"),
        ("[parity]\nimages = 1\nsteps = 4\ncosine = 1.1", "parity: cosine", "outside 1.1, the first 0"),
        ('[engines]\ntargets = ["rtx:sm89"]', "engines: rtx:sm89", "no engines of rtx:sm89 are recorded (there are: "),
        ('[engines]\ntargets = ["rtx:sm86"]', "engines: rtx:sm86", "no engine of vq_decode"),
        ('[engines]\ntargets = ["rtx:sm86"]\ngraphs = ["step"]', "engines: rtx:sm86", "its engines take batch 2 to 8"),
        ("[max_megabytes]\nengines = 1.9", "size: engines of rtx:sm86", "2000000 bytes"),
        ("[max_megabytes]\ngraphs = 1", "size: graphs", " bytes"),
        ("[max_megabytes]\nbundle = 1", "size: bundle", " bytes"),
    ],
)
def test_what_breaks_a_gate(rules: str, broken: str, said: str, made: Path, run: Run, tmp_path: Path) -> None:
    status, out, _ = run(made, rules, "--junit", tmp_path / "j.xml", "--markdown", tmp_path / "m.md")
    assert status == 1
    assert f"{broken.replace(':', '', 1)}: FAILED: " in out and said in out
    assert "1 FAILED" in out
    failures = list(ElementTree.parse(tmp_path / "j.xml").getroot().iter("failure"))
    assert len(failures) == 1 and said in (failures[0].text or "")
    assert "### gate FAIL" in (tmp_path / "m.md").read_text()


def test_what_validate_finds_beyond_the_rules_breaks_a_gate(
    made: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def more(*arguments: Any, **options: Any) -> ParityReport:
        return replace(validate(*arguments, **options), failures=("states: 3 of 12 leave cosine 0.99",))

    monkeypatch.setattr("aim_edge.export.gate.validate", more)
    status, out, _ = run(made, "[parity]\nimages = 1\nsteps = 4")
    assert status == 1 and "parity states: FAILED: states: 3 of 12 leave cosine 0.99" in out


def test_a_bundle_that_is_not_whole_breaks_a_gate_and_the_others_are_not_run(
    made: Path, run: Run, tmp_path: Path
) -> None:
    path = Path(shutil.copytree(made, tmp_path / "b"))
    (path / "engines/rtx-1.7/sm86/step.engine").write_bytes(engine(body=bytes(1_000_000 - 65) + b"x"))
    status, out, _ = run(path, GOOD, "--junit", tmp_path / "j.xml")
    assert status == 1
    assert "step.engine: altered; SHA-256" in out and "0 passed, 1 FAILED, 3 not run" in out
    root = ElementTree.parse(tmp_path / "j.xml").getroot()
    assert (root.get("failures"), root.get("skipped")) == ("1", "3")


@pytest.mark.parametrize(
    ("rules", "said"),
    [
        ("[parity]\ncosin = 1", "unknown key 'cosin' in [parity] (known: backend, images, steps, seed, cosine"),
        ("[paritty]", "unknown key 'paritty' (known: parity, engines, max_megabytes)"),
        ("", "it rules nothing; expected one or more of [parity], [engines], [max_megabytes]"),
        ("[parity", "gates.toml: "),
        ("parity = 1", "parity is 1; expected a table [parity]"),
        ("[parity]\nmax_abs = 'x'", "max_abs in [parity] is 'x'; expected a number >= 0"),
        ("[parity]\nmax_abs = nan", "max_abs in [parity] is nan"),
        ("[parity]\nimages = true", "images in [parity] is True; expected an integer >= 0"),
        ("[parity]\nbackend = 1", "backend in [parity] is 1; expected a text"),
        ("[parity]\nbackend = 'abacus'", "backend is 'abacus'; known: ["),
        ("[parity]\nsteps = 1000", "steps 1000; allowed"),
        ("[engines]", "[engines] has no targets"),
        ("[engines]\ntargets = 'rtx:sm86'", "targets in [engines] is 'rtx:sm86'; expected a list of texts"),
        ("[engines]\ntargets = ['rtx:sm90']", "targets in [engines]: target is 'rtx:sm90'; known: rtx:sm80"),
        ("[engines]\ntargets = ['rtx:sm86']\ngraphs = ['draw']", "graphs in [engines] are ['draw']; known: condition"),
        ("[parity]\na = 1\n[engines]\nb = 2", "unknown key 'b' in [engines]"),
    ],
)
def test_bad_rules_are_named(rules: str, said: str, made: Path, run: Run) -> None:
    status, _, err = run(made, rules)
    assert status == 2 and said in err and "Traceback" not in err


def test_what_cannot_be_told_is_exit_2(made: Path, run: Run, tmp_path: Path) -> None:
    assert run(tmp_path / "absent", GOOD)[0] == 2
    status, _, err = run(made, "[max_megabytes]\nbundle = 1", "--backend", "ort-cuda")
    assert status == 2 and "has no [parity] that would use it" in err
    status, _, err = run(made, GOOD, "--backend", "abacus")
    assert status == 2 and "backend is 'abacus'" in err
    assert main(["gate", str(made), "--rules", str(tmp_path / "none.toml")]) == 2


def test_limits_that_are_left_out_are_the_precisions() -> None:
    assert ParityRules().gates("float16") == GATES["float16"]
    assert ParityRules(max_abs=2.0).gates("float16") == replace(GATES["float16"], max_abs=2.0)
    rules = Rules.from_dict({"parity": {"top1": 1}, "engines": {"targets": ["rtx:sm86,sm89"]}})
    assert rules.parity == ParityRules(top1=1) and rules.engines is not None
    assert rules.engines.targets == ("rtx:sm86,sm89",) and rules.max_megabytes is None


def test_nothing_breaks_the_files(tmp_path: Path) -> None:
    """Paths and messages may hold what XML and Markdown cannot."""
    odd = "a\x00b\x1b <|*_`\n&\ud800"
    report = GateReport(odd, (
        Verdict("size", "x", FAILED, "<= 1", "2 | 3", odd), Verdict("parity", "y", NOT_RUN, why=odd),
        Verdict("bundle", "z", PASSED),
    ))  # fmt: skip
    write_junit(tmp_path / "j.xml", report)
    cases = ElementTree.parse(tmp_path / "j.xml").getroot().iter("testcase")
    assert [case.get("name") for case in cases] == ["x", "y", "z"]
    write_markdown(tmp_path / "m.md", report)
    rows = [line for line in (tmp_path / "m.md").read_text().splitlines() if line.startswith("| size")]
    assert rows == ["| size: x | \\<= 1 | 2 \\| 3 | FAILED |"]
    assert not report.passed and report.count(PASSED) == 1


def test_the_example_rules_are_rules() -> None:
    folder = Path(__file__).parents[2] / "examples" / "ci"
    rules: Any = Rules.read(folder / "gates.toml")
    assert None not in (rules.parity, rules.engines, rules.max_megabytes)
    assert Rules.read(folder / "jetson.toml").engines is None
