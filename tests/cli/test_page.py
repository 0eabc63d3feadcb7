"""The recorded session of docs/command-line.md is what the commands print."""

from __future__ import annotations

import re

from tests.cli.page import PAGE, normal, recorded
from tests.cli.test_commands import COMMANDS


def test_the_page_shows_what_the_commands_print():
    page = PAGE.read_text()
    # If they differ on purpose: python -m tests.cli.page
    assert normal(recorded(page)) == normal(page)


def test_the_page_shows_every_command_with_good_and_bad_input():
    page = PAGE.read_text()
    lines = [line for line in page.splitlines() if line.startswith("$ ")]
    bad = [line for line in lines if line.endswith("; echo $?")]
    for command in COMMANDS:
        pattern = re.compile(rf"chatstores {command}\b")
        assert any(pattern.search(line) for line in lines if line not in bad), command
        if command not in ("setup", "purge"):  # which take no input
            assert any(pattern.search(line) for line in bad), command
