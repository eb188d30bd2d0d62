"""Commands that run in the process of the tests leave its log alone."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def log_of_pytest(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep commands from setting the levels of a log that is pytest's here."""
    monkeypatch.setattr("lattica.cli._session._set_up_log", lambda _levels: None)
