"""Pictures, plots and the HTML report of `validate`."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ET
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest

from aim_edge.export.diagnosis import Diagnosis, Finding
from aim_edge.export.parity import Examination, compare_steps, find_state_failures, first_parting
from aim_edge.export.parity_report import GATES, STATE_GATES, ParityReport
from aim_edge.export.pictures import psnr, ssim
from aim_edge.export.report import render_report
from aim_edge.export.states import StateParity, similarity
from aim_edge.export.svg import heat_map, line_plot
from golden.cases import load_case

RNG = np.random.default_rng(0)


def picture(value: int, side: int = 16) -> np.ndarray:
    return np.full((1, side, side, 3), value, np.uint8)


def test_ssim_of_flat_images_is_the_luminance_term() -> None:
    c1 = (0.01 * 255) ** 2
    expected = (2 * 100 * 140 + c1) / (100**2 + 140**2 + c1)
    assert ssim(picture(100), picture(140)) == pytest.approx(expected, rel=1e-9)
    assert ssim(picture(7, side=4), picture(7, side=4)) == pytest.approx(1)


def test_ssim_falls_with_noise_and_psnr_with_it() -> None:
    clean = RNG.integers(0, 256, (2, 24, 24, 3), np.uint8)
    noisy = [np.clip(clean + RNG.normal(0, sigma, clean.shape), 0, 255).astype(np.uint8) for sigma in (4, 16, 64)]
    assert ssim(clean, clean) == pytest.approx(1) and psnr(clean, clean) > 100
    for measure in (ssim, psnr):
        values = [measure(clean, image) for image in noisy]
        assert values == sorted(values, reverse=True)
    assert psnr(picture(100), picture(101)) == pytest.approx(20 * math.log10(255))


def test_similarity_of_zeros_and_nan() -> None:
    zero, one = np.zeros(3), np.ones(3)
    assert similarity(zero, zero) == (1.0, 1.0, 0.0)
    assert similarity(one, 2 * one) == pytest.approx((1.0, 2.0, 1.0))
    assert similarity(zero, one)[0] == 0
    assert math.isnan(similarity(one, np.array([1, np.nan, 1]))[0])


def test_top_5_and_the_first_parting() -> None:
    reference = np.tile(np.arange(16, dtype=np.float32), (3, 2, 1))
    engine = reference.copy()
    engine[1, 0, 11] = -1  # of five the least, in one of two rows
    engine[2, :, 0] = 99
    steps = compare_steps(reference, engine)
    assert [s.top5 for s in steps] == [1, 0.9, 0.8] and [s.top1 for s in steps] == [1, 1, 0]
    assert first_parting(reference, engine, 2.0) == 2
    assert first_parting(reference, reference, 2.0) is None


def test_state_gates_name_the_first_and_let_no_nan_pass() -> None:
    good = StateParity(0, 0, "conv", 1.0, 1.0, 0.0, 1.0)
    states = [good, replace(good, layer=1, cosine=math.nan), replace(good, layer=2, norm_ratio=1.5, step=16)]
    assert not find_state_failures([good], STATE_GATES["float32"])
    (failure,) = find_state_failures(states, STATE_GATES["float32"])
    assert failure.startswith("states: 2 of 3 leave") and "the first conv_state_1 at step 0" in failure


def test_plots_are_well_formed_whatever_the_values() -> None:
    values = [(0, 0.0), (1, 1e-20), (2, math.nan), (3, math.inf), (4, 5.0)]
    for share in (False, True):
        root = ET.fromstring(line_plot("a < b", {"x": values, "y & z": []}, 1e-3, share=share))
        assert root.tag.endswith("svg") and "nan" not in ET.tostring(root, "unicode")
    cells = {(layer, step): (math.nan if step else 0.0, bool(step)) for layer in range(48) for step in (0, 16)}
    assert len(ET.fromstring(heat_map("states", cells)).findall(".//{*}rect")) == 96
    for empty in (line_plot("none", {}), heat_map("none", {})):
        ET.fromstring(empty)


class Seen(HTMLParser):
    """What a page would load or run, and its pictures."""

    def __init__(self) -> None:
        super().__init__()
        self.scripts, self.links, self.pictures = 0, list[str](), 0

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.scripts += tag == "script" or any(name.startswith("on") for name, _ in attributes)
        for name, value in attributes:
            if name in ("src", "href"):
                self.pictures += str(value).startswith("data:image/png;base64,")
                self.links += [] if str(value).startswith("data:") else [str(value)]


@pytest.mark.parametrize("drawn", [True, False])
def test_the_page_holds_everything_and_fetches_nothing(drawn: bool) -> None:
    reference = RNG.standard_normal((4, 2, 16)).astype(np.float32)
    report = ParityReport(
        bundle="<script>alert(1)</script>", backend="ort-cpu", lowering="onnx", precision="float32",
        state_dtype="float32", images=1, steps=compare_steps(reference, reference), image_max_abs=0.0,
        image_psnr=126.0, gates=GATES["float32"], failures=("cosine: bad",), image_ssim=1.0,
        states=tuple(StateParity(0, i, kind, 1.0, 1.0, 0.0, 1.0) for i in range(2) for kind in ("conv", "ssm")),
        diagnosis=Diagnosis((Finding("weight-sign", "x", "certain", "layer 1 & its weight", "export again"),), ("n",)),
        versions=(("aim-edge", "1"),),
    )  # fmt: skip
    image = picture(9)
    seen = Examination(
        report, load_case("mamba2_mlp").checkpoint(), np.array([2], np.int32), np.zeros((1, 9), np.int32),
        image if drawn else None, image,
    )  # fmt: skip
    page = render_report(seen)
    parser = Seen()
    parser.feed(page)
    assert (parser.scripts, parser.links, parser.pictures) == (0, [], 3 if drawn else 1)
    assert page.count("<svg") == 11 and "&lt;script&gt;" in page
    for text in (
        "FAIL", "cosine: bad", "layer 1 &amp; its weight", "export again", "class 2", "states: cosine",
        "drift, first to last",
    ):  # fmt: skip
        assert text in page
    assert ("holds NaN" in page) != drawn
