"""A run over two nodes, each a network namespace with a host name and an address of its own.

Where namespaces are not permitted, two launchers meet over the loopback device instead.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from megascale.formats.run_log import RunData
from tests.multiprocess.launching import end, launch, logged_step, until, workers
from tests.tiny_run import log_of, run_ranks, tiny_config

pytestmark = pytest.mark.slow

ADDRESSES = ("10.213.77.1", "10.213.77.2")


@dataclass(frozen=True)
class Nodes:
    """How to run a command on each node, and where they meet."""

    inside: tuple[list[str], list[str]]
    head: str


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


def _may_make_namespaces() -> bool:
    if shutil.which("ip") is None or shutil.which("unshare") is None or os.geteuid() != 0:
        return False
    probe = f"megascale-probe-{os.getpid()}"
    if subprocess.run(["ip", "netns", "add", probe], check=False, capture_output=True).returncode:
        return False
    _ip("netns", "del", probe)
    return True


@pytest.fixture
def nodes() -> Iterator[Nodes]:
    """Two nodes; what was made of the system for them is taken away again."""
    if not _may_make_namespaces():
        yield Nodes(([], []), f"localhost:{29400 + os.getpid() % 1000}")
        return
    names = [f"megascale-{number}-{os.getpid()}" for number in (1, 2)]
    links = [f"ms{number}-{os.getpid()}"[:15] for number in (1, 2)]
    hosts = "127.0.0.1 localhost\n" + "".join(
        f"{address} node-{number}\n" for number, address in enumerate(ADDRESSES, start=1)
    )
    try:
        for name in names:
            _ip("netns", "add", name)
            Path(f"/etc/netns/{name}").mkdir(parents=True)
            Path(f"/etc/netns/{name}/hosts").write_text(hosts)
        ends = (links[0], "netns", names[0], "type", "veth")
        _ip("link", "add", *ends, "peer", "name", links[1], "netns", names[1])
        for name, link, address in zip(names, links, ADDRESSES, strict=True):
            _ip("-n", name, "address", "add", f"{address}/24", "dev", link)
            _ip("-n", name, "link", "set", link, "up")
            _ip("-n", name, "link", "set", "lo", "up")
        inside = tuple(
            [
                *("ip", "netns", "exec", name, "unshare", "--uts"),
                *("sh", "-c", f'hostname node-{number} && exec "$@"', "sh"),
            ]
            for number, name in enumerate(names, start=1)
        )
        yield Nodes(inside, "node-1:29400")
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)
            shutil.rmtree(f"/etc/netns/{name}", ignore_errors=True)


@pytest.mark.parametrize("killed", [False, True], ids=["undisturbed", "a worker killed"])
def test_two_nodes_train_what_one_process_trains(tmp_path, nodes, killed):
    """A worker killed on the second node makes both nodes start again from the checkpoint."""
    whole = tiny_config(tmp_path, name="one-process")
    assert run_ranks(whole) == [0]
    config = tiny_config(tmp_path, name="two-nodes")
    environment = {"NNODES": "2", "HEAD_NODE": nodes.head, "NPROC_PER_NODE": "1"}
    launchers = []
    try:
        for number, inside in enumerate(nodes.inside, start=1):
            output = tmp_path / f"node-{number}.txt"
            launchers.append(launch(config, output, environment=environment, inside=inside))
        if killed:
            until(lambda: logged_step(config) >= 5, launchers[0])
            os.kill(workers(launchers[1])[0], signal.SIGKILL)
        codes = [launcher.wait(200) for launcher in launchers]
    finally:
        end(launchers)
    assert codes == [0, 0], (tmp_path / "node-1.txt").read_text()[-3000:]
    expected, found = log_of(whole), log_of(config)
    assert found.header["world_size"] == 2
    assert found.column("token_hash") == expected.column("token_hash")
    assert found.column("loss") == pytest.approx(expected.column("loss"), rel=1e-6)
    resumed = [event["kind"] for event in found.events].count("resume")
    assert resumed == int(killed)


def test_a_lost_node_comes_back(tmp_path, nodes):
    """A node's launcher and ranks are killed and started again: bitwise the undisturbed run."""
    environment = {"NNODES": "2", "HEAD_NODE": nodes.head, "NPROC_PER_NODE": "1"}
    found = {}
    for name in ("undisturbed", "lost"):
        config = tiny_config(tmp_path, name=name, log={"noise_scale": {"interval_steps": None}})
        launchers = []
        try:
            for number, inside in enumerate(nodes.inside, start=1):
                output = tmp_path / f"{name}-{number}.txt"
                launchers.append(launch(config, output, environment=environment, inside=inside))
            if name == "lost":
                until(lambda config=config: logged_step(config) >= 7, launchers[0])
                end(launchers[1:])
                launchers[1] = launch(
                    config, tmp_path / "again.txt", environment=environment, inside=nodes.inside[1]
                )
            codes = [launcher.wait(250) for launcher in launchers]
        finally:
            end(launchers)
        assert codes == [0, 0], (tmp_path / f"{name}-1.txt").read_text()[-3000:]
        found[name] = log_of(config)
    assert trajectory_of(found["lost"]) == trajectory_of(found["undisturbed"])
    assert [event["kind"] for event in found["lost"].events].count("resume") == 1


def trajectory_of(log: RunData) -> list[tuple]:
    keys = ("step", "tokens", "loss_sum", "grad_norm", "token_hash")
    return [tuple(record[key] for key in keys) for record in log.records]
