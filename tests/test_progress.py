"""Bars: drawn, silent, or written to a file that another process reads."""

from analysis.progress import bar, enabled, last_line


def test_the_environments_word_decides(monkeypatch, capsys):
    for wish, drawn in (("0", False), ("1", True)):
        monkeypatch.setenv("ANALYSIS_PROGRESS", wish)
        assert enabled() is drawn
        for _ in bar(range(3), desc="counting"):
            pass
        assert ("counting" in capsys.readouterr().err) is drawn


def test_a_headless_process_writes_its_bars_to_a_file(monkeypatch, tmp_path, capsys):
    file = tmp_path / "progress"
    assert last_line(file) == ""
    monkeypatch.setenv("ANALYSIS_PROGRESS_FILE", str(file))
    with bar(total=4, desc="runs", unit="run") as progress:
        progress.update(3)
        progress.refresh()
        assert "runs" in last_line(file) and "3/4" in last_line(file)
    assert capsys.readouterr().err == ""
