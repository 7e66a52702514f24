"""The page as a reader and as a browser sees it."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
import subprocess

import pytest
from html_page import Page
from oracle_detector import EVERYTHING, OracleDetector, open_shapes, shapes_config
from PIL import Image

from convbody.detection.evaluation import evaluate_all
from convbody.detection.report import write_report
from registry import ConvbodyError


@pytest.fixture(scope="module")
def run_folder(shapes, tmp_path_factory):
    """A finished run with a report, and its evaluation."""
    folder = tmp_path_factory.mktemp("run")
    cfg = shapes_config(shapes, *EVERYTHING)
    with open(folder / "metrics.jsonl", "w") as file:
        for iteration in range(20, 401, 20):
            terms = {"loss_classifier": 40 / iteration, "loss_box_reg": 20 / iteration}
            row = {"iteration": iteration, "lr": 0.01, "loss": sum(terms.values()), "losses": terms}
            file.write(json.dumps(row) + "\n")
        file.write(json.dumps({"iteration": 400, "eval": {"bbox/AP": 0.4, "bbox/AP50": 0.7}}) + "\n")
    dataset = open_shapes(shapes, cfg)
    results = evaluate_all(OracleDetector(dataset, blind_to=(1,)), cfg, {"shapes": dataset}, folder)
    write_report(
        folder, cfg, results, {"shapes": dataset}, seconds=212, facts={"Parameters": "1 < 2 million"}
    )
    return folder, results["shapes"]


@pytest.fixture(scope="module")
def page(run_folder):
    return Page((run_folder[0] / "report.html").read_text())


def test_the_numbers_of_the_evaluation_are_there(run_folder, page):
    metrics = run_folder[1].metrics
    for name in ("bbox/AP", "bbox/AP50", "bbox/AP75", "segm/AP", "keypoints/AP"):
        assert f"{metrics[name]:.3f}" in page.text
    for row in run_folder[1].per_class:
        assert row["class"] in page.text


def test_the_run_is_described(page):
    for fact in ("Command", "Machine", "torch", "0:03:32", "1 < 2 million", "CONV_BODY: R-50-C4"):
        assert fact in page.text


def test_charts_tell_their_content_in_words(page):
    labels = [svg["aria-label"] for svg in page.all("svg") if svg.get("role") == "img"]
    assert len(labels) == 3 + 3
    assert any(label.startswith("Training loss: total from 3 to 0.15") for label in labels)
    assert any(label.startswith("Evaluation: bbox/AP from 0.4") for label in labels)
    assert sum("precision and recall: IoU 0.50" in label for label in labels) == 3


def test_images_show_truth_beside_predictions_with_a_description(page):
    images = page.all("img")
    assert len(images) == 2 * 6
    for truth, predictions in zip(images[::2], images[1::2], strict=True):
        name = truth["alt"].split()[0]
        assert name in page.text
        assert "ground truth" in truth["alt"]
        assert predictions["alt"].startswith(f"{name} with its predictions")
    worst = page.text.split("Worst")[1]
    assert "000002.png" in worst
    assert "F1 0.00" in worst
    decoded = [Image.open(io.BytesIO(base64.b64decode(image["src"].split(",")[1]))) for image in images[:2]]
    assert all(picture.size == (560, 560) for picture in decoded)


def test_nothing_is_loaded_from_elsewhere(run_folder, page):
    for _, attributes in page.elements:
        for key in ("src", "href", "srcset", "action", "data"):
            assert attributes.get(key, "data:").startswith(("data:", "#"))
    source = (run_folder[0] / "report.html").read_text()
    assert not re.search(r"@import|url\(|<script|<iframe", source)


def test_a_run_without_training_has_no_curves_and_no_empty_headings(shapes, tmp_path):
    cfg = shapes_config(shapes, "MODEL.RPN_ONLY", True)
    sets = {"shapes": open_shapes(shapes, cfg)}
    results = evaluate_all(OracleDetector(sets["shapes"]), cfg, sets)
    page = Page(write_report(tmp_path, cfg, results, sets).read_text())
    assert "Training" not in page.text
    assert "AR@100" in page.text
    assert [svg for svg in page.all("svg") if svg.get("role") == "img"] == []


def test_finding_nothing_still_makes_a_page(shapes, tmp_path):
    cfg = shapes_config(shapes, *EVERYTHING)
    sets = {"shapes": open_shapes(shapes, cfg)}
    results = evaluate_all(OracleDetector(sets["shapes"], blind_to=tuple(range(7))), cfg, sets)
    assert "0 detections" in write_report(tmp_path, cfg, results, sets).read_text()


def test_broken_metrics_are_named_by_file_and_line(shapes, tmp_path):
    cfg = shapes_config(shapes)
    sets = {"shapes": open_shapes(shapes, cfg)}
    results = evaluate_all(OracleDetector(sets["shapes"]), cfg, sets)
    (tmp_path / "metrics.jsonl").write_text('{"iteration": 1, "lr": 1, "loss": 1, "losses": {}}\n{"iter')
    with pytest.raises(ConvbodyError, match=r"metrics\.jsonl:2"):
        write_report(tmp_path, cfg, results, sets)


def test_a_browser_shows_it_without_errors_or_requests(run_folder, tmp_path):
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no chromium to look at the page with")
    report = run_folder[0] / "report.html"
    # What the browser itself sees goes into the title, which is in the dump.
    probe = """<script>addEventListener("load", () => {
        const small = [...document.images].filter(image => image.naturalWidth < 100).length;
        const charts = [...document.querySelectorAll("figure.chart > svg")];
        const flat = charts.filter(svg => svg.clientHeight < 100).length;
        const entries = performance.getEntriesByType("resource");
        const asked = entries.filter(entry => !entry.name.startsWith("data:")).length;
        const wide = document.documentElement.scrollWidth > innerWidth ? 1 : 0;
        document.title = `small ${small} flat ${flat} asked ${asked} wide ${wide}`; })</script>"""
    probed = tmp_path / "probed.html"
    probed.write_text(report.read_text().replace("</body>", probe + "</body>"))
    for width in (500, 1280):
        done = subprocess.run(
            [
                chromium, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
                "--disable-background-networking", "--disable-component-update", "--disable-sync",
                "--enable-logging=stderr", f"--user-data-dir={tmp_path / str(width)}",
                f"--window-size={width},900", "--dump-dom", probed.as_uri(),
            ],
            capture_output=True, text=True, timeout=120, check=True,
        )  # fmt: skip
        assert "<title>small 0 flat 0 asked 0 wide 0</title>" in done.stdout
        assert "CONSOLE" not in done.stderr
