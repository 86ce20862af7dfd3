"""The wrapper edits the configuration that Ray would write and hands over to HAProxy."""

import subprocess
import sys
from pathlib import Path

import pytest

from serve import haproxy

CONFIG = """\
global
    log 127.0.0.1:514 local0 info
defaults
    mode http
    timeout client 60s
    log global
    option httplog
    option redispatch 1
    errorfile 503 /tmp/ray/500.http
frontend prometheus
    bind *:9101
frontend stats
    bind *:8404
frontend http_frontend
    bind *:8000
backend default
    option redispatch 1
"""


@pytest.fixture
def edited(tmp_path: Path) -> str:
    """The configuration as the HAProxy behind the wrapper would read it."""
    real = tmp_path / "real"
    real.write_text('#!/bin/sh\ncat "$3"\n')
    real.chmod(0o755)
    config = tmp_path / "haproxy.cfg"
    config.write_text(CONFIG)
    haproxy.write(tmp_path / "haproxy", str(real))
    command = [str(tmp_path / "haproxy"), "-db", "-f", str(config)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def test_statistics_and_metrics_are_private_and_requests_are_not(edited: str) -> None:
    assert "bind 127.0.0.1:9101\n" in edited
    assert "bind 127.0.0.1:8404\n" in edited
    assert "bind *:8000\n" in edited


def test_errors_are_ours_and_nothing_is_logged(edited: str, tmp_path: Path) -> None:
    assert f"errorfile 503 {tmp_path / 'unavailable.http'}\n" in edited
    head, _, body = (tmp_path / "unavailable.http").read_bytes().partition(b"\r\n\r\n")
    assert f"content-length: {len(body)}".encode() in head
    assert " log " not in edited
    assert "httplog" not in edited


def test_slow_heads_are_cut_off_and_requests_named(edited: str) -> None:
    defaults, _, rest = edited.partition("frontend http_frontend")
    assert "timeout http-request 10s" in defaults
    assert "option http-buffer-request" in defaults
    assert "unique-id-format" in rest
    assert "unique-id-format" not in defaults


def test_an_image_makes_its_own(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "serve.haproxy"]
    subprocess.run([*command, str(tmp_path / "haproxy")], check=True)
    version = subprocess.run([haproxy.find() or "", "-v"], capture_output=True, check=True)
    assert b"HAProxy" in version.stdout
    assert (tmp_path / "haproxy").stat().st_mode & 0o111 == 0o111
    assert subprocess.run(command, capture_output=True).returncode == 2
