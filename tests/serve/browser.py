"""Fixtures for tests of pages in a real browser."""

import shutil

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
ALICE, METRICS = "aigc_secret_of_alice", "aigc_secret_of_m"
