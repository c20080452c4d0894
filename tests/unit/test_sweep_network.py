"""The cluster that a sweep starts is for this machine alone."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from typing import Any

import psutil

from toolkit_ext.experiments import sweep as engine
from toolkit_ext.experiments.sweep import Workers


def listening() -> Iterator[str]:
    """The addresses that this process and its children listen on."""
    here = psutil.Process()
    for process in [here, *here.children(recursive=True)]:
        for socket in process.net_connections(kind="inet"):
            if socket.status == psutil.CONN_LISTEN:
                yield f"{socket.laddr.ip} {socket.laddr.port}"


def test_scheduler_workers_and_dashboards_listen_on_loopback() -> None:
    before = set(listening())
    with engine._client(Workers(2)) as client:
        client.wait_for_workers(2)
        opened = set(listening()) - before
        told: dict[str, Any] = client.scheduler_info()
    addresses = [ipaddress.ip_address(entry.split()[0]) for entry in opened]
    assert len(addresses) > 2
    assert [str(address) for address in addresses if not address.is_loopback] == []
    assert all(address.startswith("tcp://127.0.0.1:") for address in told["workers"])
