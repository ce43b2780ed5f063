"""A Ray that is started here is its owner's alone, whatever stands in the environment."""

import logging
import os
import stat
from pathlib import Path

import pytest

from cluster.guard import auth_mode, guard_folder, guard_token, private_folder


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for key in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(key, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("cluster.guard._MAX_FOLDER_CHARS", 200)
    monkeypatch.setenv("RAY_TMPDIR", str(private_folder()))
    return tmp_path


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("word", [None, "", " ", "token", "TOKEN", " Token\n"])
def test_tokens_are_the_rule_unless_the_user_says_disabled(
    monkeypatch: pytest.MonkeyPatch, word: str | None
) -> None:
    """Ray itself takes all but the two in the middle for `disabled`."""
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    if word is not None:
        monkeypatch.setenv("RAY_AUTH_MODE", word)
    assert auth_mode() == "token"


@pytest.mark.parametrize("word", ["yes", "tokens", "none", "0", "k8s"])
def test_a_word_that_ray_would_take_for_disabled_is_refused(
    monkeypatch: pytest.MonkeyPatch, word: str
) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", word)
    with pytest.raises(ValueError, match=f"RAY_AUTH_MODE is '{word}': unset it"):
        auth_mode()


def test_disabled_is_the_users_word_and_is_said_aloud(
    home: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "Disabled")
    guard_token()
    assert "every user of this machine can run code as you" in caplog.text
    assert not (home / ".ray").exists()


def test_a_token_is_made_once_and_for_its_owner_only(
    home: Path, caplog: pytest.LogCaptureFixture
) -> None:
    old = os.umask(0)
    try:
        guard_token()
    finally:
        os.umask(old)
    path = home / ".ray" / "auth_token"
    token = path.read_text()
    assert len(bytes.fromhex(token)) == 32
    assert (_mode(path), _mode(path.parent)) == (0o600, 0o700)
    guard_token()
    assert path.read_text() == token
    assert [one.name for one in path.parent.iterdir()] == ["auth_token"]
    assert not caplog.records


def test_a_token_that_ray_left_open_is_closed(home: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = home / ".ray" / "auth_token"
    path.parent.mkdir()
    path.write_text("old")
    path.chmod(0o644)
    guard_token()
    assert (path.read_text(), _mode(path)) == ("old", 0o600)
    assert "remove it for a new token" in caplog.text


@pytest.mark.parametrize("key", ["RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"])
def test_a_token_of_the_users_own_is_left_alone(
    home: Path, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    monkeypatch.setenv(key, str(home / "mounted"))
    guard_token()
    assert list(home.iterdir()) == []


def test_the_folder_is_private_and_may_be_there_already(
    home: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG):
        guard_folder()
        guard_folder()
    assert _mode(private_folder()) == 0o700
    assert not caplog.records


def test_a_folder_that_another_user_could_have_laid_out_is_refused(home: Path) -> None:
    private_folder().mkdir(mode=0o755)
    with pytest.raises(ValueError, match=r"open to other users.*RAY_TMPDIR"):
        guard_folder()
    private_folder().rmdir()
    (home / "mine").mkdir(mode=0o700)
    private_folder().symlink_to(home / "mine")
    with pytest.raises(ValueError, match="open to other users"):
        guard_folder()


def test_a_folder_of_the_users_own_is_left_alone(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_TMPDIR", str(home / "ray"))
    guard_folder()
    assert list(home.iterdir()) == []


def test_a_long_tmpdir_leaves_room_for_the_names_of_sockets(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TMPDIR", "/var/folders/zz/zyxvpxvq6csfxvn_n0000000000000/T")
    assert str(private_folder()).startswith("/tmp/pairloom-")
    monkeypatch.setenv("TMPDIR", "/scratch/me")
    assert str(private_folder()).startswith("/scratch/me/pairloom-")
