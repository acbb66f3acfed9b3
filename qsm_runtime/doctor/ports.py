"""The ports that the servers would listen on."""

import errno
import os
import socket

from qsm_runtime.doctor.finding import Finding

PORTS = {"MRD": 9002, "DICOM": 11112, "DICOM's well-known": 104}
PRIVILEGED = "serve DICOM on 11112, or let users have it: sysctl net.ipv4.ip_unprivileged_port_start=104"


def ports() -> list[Finding]:
    """Whether each of PORTS can be had, tried on loopback."""
    return [_port(name, number) for name, number in PORTS.items()]


def _port(name: str, number: int) -> Finding:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as trial:
        if os.name == "posix":  # on Windows the option lets two servers share a port
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trial.bind(("127.0.0.1", number))
        except OSError as error:
            if error.errno == errno.EACCES:
                return Finding(f"port {name}", "note", f"{number} is for administrators", PRIVILEGED)
            remedy = "end the program that has it (ss -ltnp), or serve on another port"
            return Finding(f"port {name}", "warning", f"127.0.0.1:{number}: {error.strerror}", remedy)
    return Finding(f"port {name}", "ok", f"127.0.0.1:{number} is free")
