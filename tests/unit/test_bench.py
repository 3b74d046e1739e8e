"""aim-edge bench on the toy, on ONNX Runtime and on the fake TensorRT. No test looks at how long anything took."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Run
from fake_cuda import FakeCuda
from toy_bundle import DIMS, make_bundle
from trt_case import Make, make_case  # noqa: F401

from aim_edge.runtime import EngineError, Generator
from aim_edge.runtime.backends.tensorrt import TrtBackend
from aim_edge.runtime.bench import BenchSettings, run_bench
from aim_edge.runtime.bench_cold import allowed_classes, measure_first_images
from aim_edge.runtime.bench_figures import PARTS
from aim_edge.runtime.bundle import read_manifest, record_files, write_manifest
from aim_edge.runtime.floor import state_bytes
from aim_edge.runtime.policy import POLICY
from aim_edge.runtime.provenance import bundle_digest

T = DIMS.num_tokens


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("toy") / "bundle")


@pytest.fixture(autouse=True)
def _small_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aim_edge.runtime.floor._COPY_BYTES", 4096)


def test_the_whole_command(folder: Path, tmp_path: Path, run: Run) -> None:
    json_file, html = tmp_path / "b.json", tmp_path / "b.html"
    status, said, told = run("bench", folder, "--batch", "1,3", "--repeats", 2, "--warmup", 0, "--option", "threads=1",
                             "--json", json_file, "--html", html)  # fmt: skip
    assert status == 0, told
    assert "first image of a new process" in told and "batch 3: tokens (1/2)" in told
    assert "p99 of 2 runs is the slowest of them" in said and "no floor: the floor is a GPU's; ort-cpu" in said
    assert "first image of a new process: " in said and "peak of host memory" in said
    found = json.loads(json_file.read_text())
    assert found["bundle"]["digest"] == bundle_digest(read_manifest(folder)) and found["bundle"]["name"] == "bundle"
    assert found["backend"]["options"] == {"threads": 1} and "onnxruntime" in found["backend"]["description"]
    assert found["settings"]["batches"] == [1, 3] and found["settings"]["sampling"]["guidance_scale"] == 2.0
    assert found["machine"]["gpu"] == "" and found["machine"]["cpu"] and found["versions"]["numpy"] == np.__version__
    first = found["first_image"]
    assert len(first["samples"]) == 2 and first["median"] == min(first["samples"])
    assert sum(first["parts"].values()) == pytest.approx(first["median"])
    assert list(first["parts"])[:: len(first["parts"]) - 1] == ["start of Python", "PNG"]
    for one, batch in zip(found["batches"], (1, 3), strict=True):
        assert one["batch"] == batch and one["not_run"] == "" and one["floor"] is None and one["profile"] is None
        assert one["graph_nodes"] is None and one["memory"]["by_use"] == {} and one["memory"]["host_peak"] > 0
        for part in PARTS:
            samples = one[part]["samples"]
            assert len(samples) == one[part]["repeats"] == 2 and one[part]["p99"] == max(samples)
            assert one[part]["images_per_second"] == pytest.approx(batch / np.median(samples))
        assert one["tokens"]["ms_per_step"] == pytest.approx(1e3 * one["tokens"]["median"] / T)
    page = html.read_text(encoding="utf-8")
    check_page(page)
    assert found["bundle"]["digest"] in page and "Seconds a batch of images" in page and page.count("<svg") == 2


def check_page(page: str) -> None:
    """Self-contained, and its elements are closed in order."""
    assert "<script" not in page and not re.search(r"""(src|href)=["']?(?!data:)""", page)
    open_tags: list[str] = []

    class Walk(HTMLParser):
        def handle_starttag(self, tag: str, attributes: Any) -> None:
            if tag != "meta":
                open_tags.append(tag)

        def handle_endtag(self, tag: str) -> None:
            assert open_tags.pop() == tag

        def handle_startendtag(self, tag: str, attributes: Any) -> None:
            pass

    Walk().feed(page)
    assert open_tags == []


def test_what_is_timed_is_what_generate_draws(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded = []
    original = Generator.decode_tokens

    def decode_tokens(self: Generator, tokens: Any) -> Any:
        decoded.append(np.array(tokens))
        return original(self, tokens)

    monkeypatch.setattr(Generator, "decode_tokens", decode_tokens)
    run_bench(folder, "ort-cpu", {"threads": 1}, BenchSettings((3,), repeats=2, warmup=1, cold_start=False))
    with Generator.open(folder, threads=1) as generator:
        wanted = generator.generate([0, 1, 2], seed=0)[1]
    assert len(decoded) == 7  # pixels alone and in generate, three times each, and the one above
    for tokens in decoded[:-1]:
        np.testing.assert_array_equal(tokens, wanted)


def test_tokens_alone(folder: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of the image decoder runs, and nothing of it is told as if it should have."""
    monkeypatch.setattr(Generator, "decode_tokens", None)
    json_file, html = tmp_path / "b.json", tmp_path / "b.html"
    status, said, told = run("bench", folder, "--batch", "2", "--repeats", 1, "--no-pixels", "--json", json_file,
                             "--html", html)  # fmt: skip
    assert status == 0 and "first image" not in told + said and "not run" not in said
    found = json.loads(json_file.read_text())
    one = found["batches"][0]
    assert one["tokens"] and one["pixels"] is one["generate"] is found["first_image"] is None
    page = html.read_text(encoding="utf-8")
    check_page(page)
    assert "not run" not in page and "pixels" not in page.split("<h2>")[1]
    bundle = found["bundle"]
    assert bundle["family"] == "aim" and bundle["state_bytes_per_image"] == state_bytes(read_manifest(folder).contract)
    assert f"states float32 of {bundle['state_bytes_per_image']} bytes an image of {T} codes" in said


def test_ratios_to_a_baseline(folder: Path, tmp_path: Path, run: Run) -> None:
    old, new, html = tmp_path / "old.json", tmp_path / "new.json", tmp_path / "new.html"
    common = ("bench", folder, "--repeats", 1, "--warmup", 0, "--option", "threads=1")
    assert run(*common, "--batch", "1,3", "--no-cold-start", "--json", old)[0] == 0
    changed = json.loads(old.read_text())
    assert changed["first_image"] is None and changed["baseline"] is None
    changed["machine"]["gpu"] = "Other GPU"
    for part in PARTS:
        for name in ("median", "p50", "p90", "p99"):
            changed["batches"][1][part][name] = 1e-9
    old.write_text(json.dumps(changed))
    status, said, _ = run(
        *common, "--batch", "2,3", "--no-cold-start", "--baseline", old, "--json", new, "--html", html
    )
    assert status == 0 and said.count("to baseline") == 4  # three rows and the line that explains them
    assert "warning: not measured alike: GPU: none here, Other GPU in the baseline" in said
    found = json.loads(new.read_text())
    assert set(found["baseline"]["ratios"]) == {"3"}
    three = found["batches"][1]["tokens"]
    assert found["baseline"]["ratios"]["3"]["tokens"]["median"] == pytest.approx(three["median"] / 1e-9)
    assert "Other GPU in the baseline" in html.read_text(encoding="utf-8")
    status, _, told = run(*common, "--batch", "2", "--baseline", old)
    assert status == 2 and "at least one must be in both" in told and "tokens (" not in told


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--batch", "1,x"], "--batch is '1,x'; expected integers"),
        (["--batch", "0"], r"batches are (0,); allowed: integers >= 1, each once"),
        (["--batch", "2,2"], "allowed: integers >= 1, each once"),
        (["--backend", "cuda"], "backend is 'cuda'; known"),
        (["--option", "colour=red"], "option 'colour=red' is none of ort-cpu's"),
        (["--json", "nowhere/b.json"], "there is no folder"),
        (["--html", "nowhere/b.html"], "there is no folder"),
        (["--baseline", "nowhere.json"], "nowhere.json"),
    ],
)
def test_bad_arguments(folder: Path, arguments: list[str], message: str, run: Run) -> None:
    status, _, told = run("bench", folder, *arguments)
    assert status == 2 and message in told and "Traceback" not in told and "tokens (" not in told


def test_settings_name_every_bad_field() -> None:
    with pytest.raises(ValueError, match=r"batches are \(\).*repeats is 0.*warmup is -1"):
        BenchSettings((), 0, -1)


BLOCKED = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "onnx", "onnx_ir", "jinja2", "safetensors", "huggingface_hub", "tomli"):
            raise ImportError(f"{name} is blocked", name=name)
sys.meta_path.insert(0, Block())
from aim_edge.cli import main
sys.exit(main(sys.argv[1:]))
"""


def test_it_runs_without_what_exports(folder: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-c", BLOCKED, "bench", str(folder), "--batch", "1", "--repeats", "1", "--option",
               "threads=1", "--no-cold-start"]  # fmt: skip
    done = subprocess.run([*command, "--json", str(tmp_path / "b.json")], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "b.json").read_text())["batches"][0]["tokens"]["repeats"] == 1
    done = subprocess.run([*command, "--html", str(tmp_path / "b.html")], capture_output=True, text=True, timeout=120)
    assert done.returncode == 2 and 'pip install "aim-edge[export]"' in done.stderr and "jinja2" in done.stderr
    assert "tokens (" not in done.stderr and not (tmp_path / "b.html").exists()


def test_a_first_image_that_fails_tells_why(folder: Path, tmp_path: Path, run: Run) -> None:
    def fail(backend: str, **options: Any) -> str:
        with pytest.raises(EngineError) as error:
            measure_first_images(folder, backend, options, 1, lambda what, done, total: None)
        return str(error.value)

    assert "optimization is 'most'" in fail("ort-cpu", optimization="most") and "--no-cold-start" in fail("no")
    bundle = make_bundle(tmp_path / "bundle")
    (bundle / "step.onnx").write_bytes(b"no graph")
    write_manifest(bundle, read_manifest_with_files(bundle))
    status, said, told = run("bench", bundle, "--batch", "1")
    assert status == 2 and "step.onnx" in told and "ended with 1" in told and said == ""


def read_manifest_with_files(bundle: Path) -> Any:
    """The manifest with its files as they are now."""
    return replace(read_manifest(bundle), files=record_files(bundle))


def deny(bundle: Path, classes: list[int | str]) -> None:
    (bundle / POLICY).write_text(json.dumps({"denied_classes": classes}))
    write_manifest(bundle, read_manifest_with_files(bundle))


def test_only_classes_that_may_be_drawn_are_drawn(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle")
    deny(bundle, [0, "c"])
    with Generator.open(bundle, threads=1) as generator:
        assert allowed_classes(generator).tolist() == [1, 3]
    found = run_bench(bundle, "ort-cpu", {"threads": 1}, BenchSettings((4,), repeats=1, warmup=0))
    assert found["batches"][0]["not_run"] == "" and len(found["first_image"]["samples"]) == 1
    deny(bundle, [0, 1, 2, 3])
    with pytest.raises(ValueError, match="denies every class"):
        run_bench(bundle, "ort-cpu", {"threads": 1}, BenchSettings((4,), cold_start=False))


def test_a_gpu_has_a_floor_memory_graphs_and_layers(make: Make, tmp_path: Path, run: Run) -> None:
    case = make(layout=("float16", False))
    json_file, html = tmp_path / "b.json", tmp_path / "b.html"
    status, said, told = run("bench", case.root, "--backend", "tensorrt", "--batch", "1,2,7", "--repeats", 2,
                             "--no-cold-start", "--json", json_file, "--html", html)  # fmt: skip
    assert status == 1, told
    found = json.loads(json_file.read_text())
    assert found["machine"]["gpu"] == "Fake GPU" and found["machine"]["sm"] == "sm90"
    assert found["machine"]["cuda_driver"] == "12.8" and found["backend"]["engines"]["target"] == "trt:sm90"
    bandwidth = found["bandwidth"]
    weights = 4 * (2 * (15 * 8 + 8 * 6) + 23 * 8)
    assert (bandwidth["weight_bytes"], bandwidth["state_bytes_per_row"]) == (weights, 2 * 2 * 2 * 30)
    one, two, seven = found["batches"]
    least = two["floor"]
    assert least["step_bytes"] == weights + 4 * 240
    assert least["step_seconds"] == pytest.approx(least["step_bytes"] / bandwidth["bytes_per_second"])
    assert least["measured_over_floor"] == pytest.approx(two["tokens"]["median"] / (T * least["step_seconds"]))
    assert one["graph_nodes"] == [{"kernel": 2}, {"kernel": 2}]
    assert one["memory"]["by_use"]["states"] > 0 and one["memory"]["device_total"] == 1 << 30
    assert one["memory"]["device_free"] < 1 << 30
    assert one["profile"]["layers"] == [["first", 1.0], ["second", 2.0], ["first", 3.0]]
    assert one["profile"]["kinds"] == [["first", 2, 4.0], ["second", 1, 2.0]]
    assert seven["not_run"].startswith("tokens: ") and "7" in seven["not_run"]
    assert all(seven[part] is None for part in (*PARTS, "floor", "memory", "profile"))
    assert "batch 7 not run: tokens: " in said and "nodes of the CUDA graphs of a step: 2 kernel" in said
    assert "3 layers of a step, 6 us launch by launch" in said and "x floor" in said and "TB/s" in said
    page = html.read_text(encoding="utf-8")
    check_page(page)
    assert page.count("<svg") == 2 + 2 * 2 and "Slowest layers" in page and "floor of tokens" in page
    assert "not run" in page and "launch by launch" in page
    assert case.cuda.is_clean


def test_one_session_is_held_at_a_time(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU two sessions may not fit where one does."""
    case, made = make(), list[Any]()
    original = TrtBackend.session

    def session(self: TrtBackend, batch: int) -> Any:
        assert all(other._closed for other in made)
        made.append(original(self, batch))
        return made[-1]

    monkeypatch.setattr(TrtBackend, "session", session)
    settings = BenchSettings((1, 2, 4), repeats=1, profile=False, cold_start=False)
    found = run_bench(case.root, "tensorrt", {}, settings)
    assert [one["not_run"] for one in found["batches"]] == ["", "", ""] and [s.batch for s in made] == [1, 2, 4]
    assert all(one["profile"] is None for one in found["batches"])


def test_what_is_out_of_device_memory_is_told_and_the_rest_goes_on(make: Make) -> None:
    case = make(cuda=FakeCuda(limit=15_000))
    found = run_bench(case.root, "tensorrt", {}, BenchSettings((6, 1), repeats=1, profile=False, cold_start=False))
    assert "out of device memory" in found["batches"][0]["not_run"] and found["batches"][0]["tokens"] is None
    assert found["batches"][1]["tokens"]["repeats"] == 1


def test_no_room_for_the_copy_leaves_the_floor_out(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aim_edge.runtime.floor._COPY_BYTES", 1 << 30)
    found = run_bench(make().root, "tensorrt", {}, BenchSettings((1,), repeats=1, cold_start=False))
    assert found["bandwidth"] is None and "out of device memory" in found["floor_reason"]
    assert found["batches"][0]["floor"] is None and found["batches"][0]["tokens"] is not None


def test_a_profile_that_fails_is_told(make: Make, monkeypatch: pytest.MonkeyPatch, run: Run) -> None:
    def profile_step(self: TrtBackend, batch: int, repeats: int) -> Any:
        raise EngineError("no layers")

    monkeypatch.setattr(TrtBackend, "profile_step", profile_step)
    case = make(step={"capturable": False})
    status, said, _ = run(
        "bench", case.root, "--backend", "tensorrt", "--batch", "1", "--repeats", 1, "--no-cold-start"
    )
    assert status == 0 and "batch 1: no profile: no layers" in said and "nodes of the CUDA graphs" not in said


def test_the_template_is_in_the_package() -> None:
    root = Path(__file__).parents[2]
    named = re.search(r'"aim_edge.export" = \[(.*)\]', (root / "pyproject.toml").read_text(encoding="utf-8"))
    assert named is not None
    templates = sorted(path.name for path in (root / "export").glob("*.jinja"))
    assert sorted(re.findall(r'"([^"]+)"', named[1])) == templates and "bench.html.jinja" in templates
