"""Hosts made of network namespaces: a bridge in a namespace of its own, and one namespace a host on it.

Everything that is made here is named for this process and removed again; nothing of the machine's own network changes.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

NETWORK = "10.79.61"
CLIENT = 254


class Hosts:
    """``count`` hosts, numbered from 1, with the address ``NETWORK.number``. The client's place is the bridge."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._name = f"lg{os.getpid()}"
        self._made: list[str] = []

    def make(self) -> None:
        """Raises ``PermissionError`` with the kernel's words where it does not let us."""
        bridge = self._add("b")
        self.ip("-n", bridge, "link", "add", "br0", "type", "bridge")
        self.ip("-n", bridge, "addr", "add", f"{NETWORK}.{CLIENT}/24", "dev", "br0")
        self.ip("-n", bridge, "link", "set", "br0", "up")
        self.ip("-n", bridge, "link", "set", "lo", "up")
        for number in range(1, self.count + 1):
            host = self._add(str(number))
            self.ip("link", "add", "eth0", "netns", host, "type", "veth", "peer", "name", f"p{number}", "netns", bridge)
            self.ip("-n", bridge, "link", "set", f"p{number}", "master", "br0", "up")
            self.ip("-n", host, "addr", "add", f"{self.address(number)}/24", "dev", "eth0")
            self.ip("-n", host, "link", "set", "eth0", "up")
            self.ip("-n", host, "link", "set", "lo", "up")

    def _add(self, what: str) -> str:
        name = f"{self._name}-{what}"
        self.ip("netns", "add", name)
        self._made.append(name)
        return name

    def ip(self, *arguments: str) -> str:
        """Run ``ip``; raises ``PermissionError`` with what it says."""
        try:
            done = subprocess.run(["ip", *arguments], capture_output=True, text=True, timeout=10, check=False)
        except FileNotFoundError as error:
            raise PermissionError("there is no ip command (iproute2)") from error
        if done.returncode:
            raise PermissionError(f"ip {' '.join(arguments)}: {done.stderr.strip()}")
        return done.stdout

    def address(self, number: int) -> str:
        """Where this host is."""
        return f"{NETWORK}.{number}"

    def inside(self, number: int, *command: str) -> list[str]:
        """The command, in this host; 0 is the client's place."""
        return ["ip", "netns", "exec", f"{self._name}-{number or 'b'}", *command]

    def cut(self, number: int) -> None:
        """The cable of this host is pulled: silence, on both sides."""
        self.ip("-n", f"{self._name}-b", "link", "set", f"p{number}", "down")

    def heal(self, number: int) -> None:
        """The cable is back."""
        self.ip("-n", f"{self._name}-b", "link", "set", f"p{number}", "up")

    def pids(self, number: int) -> list[int]:
        """All processes of this host."""
        return [int(pid) for pid in self.ip("netns", "pids", f"{self._name}-{number}").split()]

    def remove(self) -> None:
        """Everything that was made; its processes have ended before."""
        for name in reversed(self._made):
            self.ip("netns", "del", name)
            assert not Path(f"/run/netns/{name}").exists()
        self._made.clear()
