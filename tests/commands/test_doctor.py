"""The doctor: what is well is said, what is ill comes with a cure and an exit code, a broken check is no crash."""

import json
import sys
from types import SimpleNamespace

import pytest

from analysis import memory, paths
from analysis.cli import main
from analysis.commands import doctor
from analysis.study import machine


@pytest.fixture(autouse=True)
def quick(tmp_path, monkeypatch):
    """No timing, an empty place for results."""
    monkeypatch.setenv("ANALYSIS_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(machine, "this_machine", lambda device: machine.SLOW)


def kernel_of(monkeypatch, argv: list[str] | None) -> None:
    from jupyter_client import kernelspec

    def spec(manager, name):
        if argv is None:
            raise kernelspec.NoSuchKernel(name)
        return SimpleNamespace(argv=argv)

    monkeypatch.setattr(kernelspec.KernelSpecManager, "get_kernel_spec", spec)


def looked_at(capsys) -> tuple[int, dict[str, dict]]:
    code = main(["doctor", "--json"])
    document = json.loads(capsys.readouterr().out)
    assert document["well"] is (code == 0)
    return code, {one["what"]: one for one in document["findings"]}


def test_it_looks_at_everything_and_tells_it_as_lines_and_as_json(capsys, monkeypatch):
    kernel_of(monkeypatch, [sys.executable, "-m", "ipykernel_launcher"])
    monkeypatch.setattr(memory, "available", lambda: 8 * 2**30)
    code, found = looked_at(capsys)
    named = {"python", "package", "device", "threads", "speed", "memory", "disk", "store", "lab", "network", "kernel"}
    assert code == 0 and named <= set(found)
    assert found["memory"]["found"] == "8.0 GiB free to this process" and found["kernel"]["state"] == "well"
    assert found["speed"]["found"].startswith("float32 products 10.0 GFLOP/s (width 1024)")
    assert main(["doctor"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("well  memory") for line in lines) and lines[-1].startswith("0 ill")


def test_what_is_ill_has_a_cure_and_an_exit_code(capsys, monkeypatch):
    kernel_of(monkeypatch, ["/elsewhere/python", "-m", "ipykernel_launcher"])
    monkeypatch.setattr(memory, "available", lambda: 2**30)
    monkeypatch.setattr(doctor, "_lab", lambda: 1 / 0)
    monkeypatch.setattr(doctor, "CHECKS", (doctor._memory, doctor._kernel, doctor._lab))
    assert main(["doctor"]) == 7
    said = capsys.readouterr()
    assert "ill   memory" in said.out and "-> end other programs" in said.out
    assert f"{sys.executable} -m ipykernel install" in said.out
    assert "ZeroDivisionError" in said.out and "memory, kernel" in said.err
    kernel_of(monkeypatch, None)
    monkeypatch.setattr(doctor, "CHECKS", (doctor._kernel,))
    code, found = looked_at(capsys)
    assert code == 7 and found["kernel"]["found"] == "there is no kernel python3"


def test_requirements_are_compared_with_what_is_installed():
    wanted = ["numpy>=2", "numpy>=99", "no-such-package>=1", "no-such-extra; extra == 'ray'"]
    assert [text.partition(" (")[0].split()[0] for text in doctor._unmet(wanted, None)] == ["numpy", "no-such-package"]
    assert doctor._unmet(wanted, "ray") == ["no-such-extra is missing (wanted any)"]


def test_weights_that_are_none_are_seen(tmp_path, monkeypatch):
    (tmp_path / "small").mkdir()
    (tmp_path / "small" / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1")
    monkeypatch.setattr(paths, "lab", lambda: tmp_path)
    (found,) = doctor._lab()
    assert (found.state, found.found, found.cure) == ("ill", "no weights in small", "git checkout -- data/lab")


def test_a_place_that_cannot_be_written_is_ill(monkeypatch):
    def refused(**options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(doctor.tempfile, "TemporaryFile", refused)
    *_, found = doctor._disk()
    assert (found.what, found.state) == ("store", "ill") and "Permission denied" in found.found


@pytest.mark.slow
def test_a_shell_can_ask_what_comes_next(tmp_path):
    """As argcomplete's shell function does it: the line so far in the environment, the words on file descriptor 8."""
    import os
    import subprocess

    pytest.importorskip("argcomplete", reason="the extra 'completion' is not installed")
    out = tmp_path / "words"
    for line, wanted in {"analysis doc": {"doctor"}, "analysis list ": {"models", "runs"}}.items():
        variables = {"_ARGCOMPLETE": "1", "_ARGCOMPLETE_IFS": "\n", "COMP_LINE": line, "COMP_POINT": str(len(line))}
        command = f"exec 8>{out} 9>/dev/null; {sys.executable} -m analysis"
        subprocess.run(["bash", "-c", command], env=os.environ | variables, cwd=paths.ROOT, check=True)
        assert wanted <= {word.strip() for word in out.read_text().split("\n")}
