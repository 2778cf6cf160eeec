"""What memory is left: of the machine, of control groups in either version of their files, of the address space."""

from types import SimpleNamespace

import pytest

from analysis import memory

MIB = 2**20


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """A machine with 1,000 MiB free, in no control group until the function it gives writes one."""
    monkeypatch.setattr(memory.psutil, "virtual_memory", lambda: SimpleNamespace(available=1000 * MIB))
    monkeypatch.setattr(memory, "CGROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(memory, "MEMBERSHIP", tmp_path / "membership")
    monkeypatch.setattr(memory, "_address_space", lambda: iter(()))

    def groups(membership, files):
        (tmp_path / "membership").write_text(membership)
        for name, value in files.items():
            file = tmp_path / "cgroup" / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(str(value))

    return groups


V1, V2 = ("memory.limit_in_bytes", "memory.usage_in_bytes"), ("memory.max", "memory.current")


@pytest.mark.parametrize(
    "membership, files, left",
    [
        ("0::/\n", {}, 1000),
        ("0::/\n", {V2[0]: "max\n", V2[1]: 5}, 1000),
        ("0::/\n", {V2[0]: 700 * MIB, V2[1]: 300 * MIB}, 400),
        ("0::/\n", {V2[0]: 700 * MIB, V2[1]: 300 * MIB, "memory.stat": f"anon 5\ninactive_file {100 * MIB}\n"}, 500),
        ("0::/a/b\n", {f"a/b/{V2[0]}": 700 * MIB, f"a/{V2[0]}": 600 * MIB, f"a/{V2[1]}": 50 * MIB}, 550),
        ("0::/elsewhere\n", {V2[0]: 700 * MIB, V2[1]: 300 * MIB}, 400),
        ("5:cpu:/a\n3:memory:/a\n0::/\n", {f"memory/a/{V1[0]}": 90 * MIB, f"memory/a/{V1[1]}": 40 * MIB}, 50),
        ("3:memory:/docker/x\n", {f"memory/{V1[0]}": 90 * MIB, f"memory/{V1[1]}": 40 * MIB}, 50),
        ("3:memory:/\n", {f"memory/{V1[0]}": 2**63 - 4096, f"memory/{V1[1]}": 40}, 1000),
        ("0::/\n", {V2[0]: 10 * MIB, V2[1]: 30 * MIB}, 0),
        ("nonsense\n", {V2[0]: 10 * MIB}, 1000),
    ],
)
def test_limits_of_control_groups_are_seen(machine, membership, files, left):
    machine(membership, files)
    assert memory.available() == left * MIB


def test_without_control_groups_the_machine_s_memory_counts(machine):
    assert memory.available() == 1000 * MIB


@pytest.mark.skipif(memory.resource is None, reason="no such limits there")
def test_a_limit_of_the_address_space_is_seen(monkeypatch):
    taken = memory.psutil.Process().memory_info().vms
    monkeypatch.setattr(memory.resource, "getrlimit", lambda which: (taken + 100 * MIB, -1))
    (left,) = memory._address_space()
    assert 0 < left <= 120 * MIB
    monkeypatch.setattr(memory.resource, "getrlimit", lambda which: (memory.resource.RLIM_INFINITY, -1))
    assert list(memory._address_space()) == []
