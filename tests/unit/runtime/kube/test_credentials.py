"""Credentials that change: by themselves, by refusals, by several threads at once."""

from pathlib import Path

import pytest

from reconciler.runtime.kube.credentials import NoToken, Renewable, TokenFile, checked


class Plugin:
    """Counts how often it was asked for something new, and may fail."""

    def __init__(self) -> None:
        self.runs = 0
        self.failure: Exception | None = None
        self.token = "first"

    def header(self) -> str:
        if self.failure is not None:
            raise self.failure
        return f"Bearer {self.token}"

    def renew(self) -> None:
        self.runs += 1
        if self.failure is not None:
            raise self.failure
        self.token = f"renewed-{self.runs}"


def test_without_a_token_there_is_nothing_to_renew() -> None:
    assert NoToken().header() is None
    assert not NoToken().renew(None)


def test_a_refusal_asks_for_a_new_token_but_only_once_for_all_who_were_refused() -> None:
    plugin = Plugin()
    credentials = Renewable(plugin.header, plugin.renew)
    old = credentials.header()
    assert credentials.renew(old)
    assert credentials.renew(old)  # another thread, refused with the same token
    assert plugin.runs == 1
    assert credentials.header() == "Bearer renewed-1"


@pytest.mark.parametrize("failure", [OSError("no such program"), ValueError("nonsense")])
def test_while_a_plugin_fails_the_last_token_is_used(failure: Exception) -> None:
    plugin = Plugin()
    credentials = Renewable(plugin.header, plugin.renew)
    plugin.failure = failure
    assert credentials.header() == "Bearer first"
    assert not credentials.renew("Bearer first")
    plugin.failure = None
    assert credentials.renew("Bearer first")


def test_a_token_file_is_read_once_for_all_who_were_refused(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text("one")
    credentials = TokenFile(path, lambda: 0.0)
    path.write_text("two")
    assert credentials.renew("Bearer one")
    path.write_text("three")
    assert credentials.renew("Bearer one")
    assert credentials.header() == "Bearer two"
    assert credentials.renew("Bearer two")
    assert not credentials.renew("Bearer three")


@pytest.mark.parametrize("header", ["", " \n", "Bearer a\nb", "Bearer \x00", "Bearer é"])
def test_what_cannot_be_sent_is_refused_and_not_shown(header: str) -> None:
    with pytest.raises(ValueError, match="the token is empty, or holds characters"):
        checked(header)
    assert checked(" Bearer x\n") == "Bearer x"
