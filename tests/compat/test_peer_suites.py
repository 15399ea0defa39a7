"""The table of another library's tests: what passed, and why the others cannot."""

from __future__ import annotations

from benchmarks import peer_suites


def test_the_table_counts_and_gives_reasons(tmp_path):
    report = tmp_path / "report.xml"
    report.write_text(
        '<testsuites><testsuite><testcase classname="tests.test_a" name="test_one[1]"/>'
        '<testcase classname="tests.test_a" name="test_one[2]"><failure message="E: no&#10;more"/></testcase>'
        '<testcase classname="tests.test_b" name="test_finercam_htcore_is_single_underscore"><error message="x"/>'
        "</testcase></testsuite></testsuites>",
        encoding="utf-8",
    )
    ours, peer = peer_suites.outcomes(report), peer_suites.PEERS["grad-cam"]
    assert ours["test_a::test_one[1]"] == ("passed", "") and ours["test_a::test_one[2]"] == ("failed", "E: no")
    text = peer_suites.summary(ours, {"test_a::test_one[2]": ("passed", "")}, peer)
    assert "| `test_a::test_one` | 2 | 1 | 1 |" in text and "1 of 3 passed." in text
    assert "- `test_a::test_one[2]` failed: E: no" in text and "failed: reads the library's source text" in text
    assert peer_suites.listing(ours, {}, peer).count("\n") == 5
