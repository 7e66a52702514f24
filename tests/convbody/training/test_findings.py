"""All that keeps a run from starting is told at once, and by every process alike."""

from pathlib import Path

import pytest
from ranks import run_ranks

from convbody.training import distributed
from convbody.training.findings import Findings, PreflightError
from registry import ConfigError, ConvbodyError


def failing(message, kind=ConvbodyError, **options):
    raise kind(message, **options)


def test_nothing_found_is_no_error():
    findings = Findings()
    assert findings.attempt(max, 3, 4) == 4 and not findings
    findings.stop_if_any()


def test_one_finding_is_raised_as_it_is():
    findings = Findings()
    assert findings.attempt(failing, "wrong", ConfigError) is None and findings
    with pytest.raises(ConfigError, match=r"^wrong$"):
        findings.stop_if_any()


def test_several_are_listed_a_line_each_and_none_twice():
    findings = Findings()
    for message in ("first", "second", "first"):
        findings.attempt(failing, message)
    findings.attempt(failing, "a report", details=["two images", "three boxes"])
    with pytest.raises(PreflightError) as caught:
        findings.stop_if_any()
    assert caught.value.message == "3 findings before the first iteration:"
    assert caught.value.details == ("first", "second", "a report", "  two images", "  three boxes")


def test_any_error_of_a_rehearsal_is_a_finding_in_one_line_that_says_where():
    findings = Findings()
    with findings.rehearsing("scoring"):
        raise TypeError("no\nnumber")
    with pytest.raises(
        ConvbodyError, match=r"^scoring fails: TypeError: no number \(test_findings.py:\d+\)$"
    ):
        findings.stop_if_any()
    with pytest.raises(KeyboardInterrupt), findings.rehearsing("scoring"):
        raise KeyboardInterrupt


def find_on_one(folder):
    """For another process: rank 1 finds something of its own, both the same, and each leaves its error."""
    findings = Findings()
    findings.attempt(failing, "everywhere")
    if distributed.rank() == 1:
        findings.attempt(failing, "no data here")
    try:
        findings.stop_if_any()
    except ConvbodyError as error:
        (folder / f"{distributed.rank()}.txt").write_text(str(error))


def test_every_process_stops_for_a_finding_of_one(tmp_path):
    run_ranks(2, find_on_one, tmp_path)
    texts = [Path(tmp_path / f"{rank}.txt").read_text() for rank in range(2)]
    assert texts == ["2 findings before the first iteration:\n  everywhere\n  no data here [rank 1]"] * 2
