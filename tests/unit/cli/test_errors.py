"""What goes wrong is said on one line, and ends in an exit code."""

import io
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from reconciler.cli import entry, main
from reconciler.cli.options import Options
from reconciler.cli.terminal import Terminal
from reconciler.runtime.locks import FileLock

MANIFEST = "apiVersion: gpu.dra.intel.com/v1alpha1\nkind: GpuNodeState\n"
TAKES_FILE = ("plan", "apply", "assert", "explain")


@pytest.fixture
def empty(tmp_path: Path) -> list[str]:
    """Flags for a machine without any GPU, whose files are in tmp_path."""
    (tmp_path / "sys/bus/pci/devices").mkdir(parents=True)
    kernel = tmp_path / "proc/sys/kernel/random"
    kernel.mkdir(parents=True)
    (kernel / "boot_id").write_text("11111111-2222-3333-4444-555555555555\n")
    places = {"sysfs-root": "sys", "procfs-root": "proc", "cdi-root": "cdi", "run-dir": "run", "state-dir": "lib"}
    return [word for flag, name in places.items() for word in (f"--{flag}", f"{tmp_path}/{name}")]


def said(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """The one line on stderr of a command that fails without a result."""
    assert main(words) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("gpu-reconciler: ")
    assert err.count("\n") == 1
    return err.removeprefix("gpu-reconciler: ").rstrip("\n")


@pytest.mark.parametrize("command", TAKES_FILE)
@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a: [", ":2:1: while parsing a flow node, did not find expected node content"),
        ("[]", ": the document: must be an object, not a list"),
        (f"{MANIFEST}spec: {{pausd: true}}", ": spec.pausd: is not a known field; did you mean 'paused'?"),
        (f"{MANIFEST}spec: {{overrides: [{{device: d, mode: No}}]}}", ": spec.overrides[0].mode: "),
        ("\0", ":1:1: is no text: byte 0 is NUL"),
    ],
)
def test_a_bad_file_is_named_with_the_place_in_it(
    command: str, content: str, message: str, empty: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "node.yaml"
    file.write_text(content)
    name = ["gpu"] if command == "explain" else []
    assert said(capsys, *empty, command, *name, "-f", str(file)).startswith(f"{file}{message}")


@pytest.mark.parametrize("command", ["plan", "apply", "assert"])
def test_no_file(command: str, empty: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    missing = tmp_path / "missing.yaml"
    assert said(capsys, *empty, command, "-f", str(missing)) == f"{missing}: No such file or directory"
    assert said(capsys, *empty, command, "-f", str(tmp_path)) == f"{tmp_path}: is a directory"


def test_standard_input_is_named_as_such(
    empty: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"a: [")))
    assert said(capsys, *empty, "plan", "-f", "-").startswith("standard input:2:1: ")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(f"{MANIFEST}spec: 1".encode())))
    assert said(capsys, *empty, "plan", "-f", "-").startswith("standard input: spec: ")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"#" * (2 * 1024 * 1024 + 1))))
    assert said(capsys, *empty, "plan", "-f", "-").startswith("standard input: ")
    monkeypatch.setattr(sys, "stdin", None)
    assert said(capsys, *empty, "plan", "-f", "-") == "standard input: is closed"
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(MANIFEST.encode())))
    assert main([*empty, "plan", "-f", "-"]) == 0


def test_a_daemon_cant_follow_standard_input(empty: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert said(capsys, *empty, "run", "-f", "-").startswith("-f/--file: a daemon follows a file")


def test_another_agent_is_at_work(empty: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "node.yaml"
    file.write_text(MANIFEST)
    lock = tmp_path / "run/lock/agent"
    lock.parent.mkdir(parents=True)
    with FileLock(lock, owner="somebody").hold():
        message = said(capsys, *empty, "apply", "-f", str(file))
    assert message == f"{lock}: another agent is at work here, held by somebody"
    assert main([*empty, "apply", "-f", str(file)]) == 0


def test_directories_that_cant_be_made(
    empty: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "node.yaml"
    file.write_text(MANIFEST)
    message = said(capsys, *empty, "--run-dir", f"{file}/run", "apply", "-f", str(file))
    assert message.startswith(str(file))


def test_no_gpu_is_no_error(empty: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sentence = f"gpu-reconciler: no Intel GPU on this machine (looked in {tmp_path}/sys/bus/pci/devices)\n"
    for format, shown in (("table", ""), ("wide", ""), ("json", "[]\n"), ("yaml", "[]\n")):
        assert main([*empty, "discover", "-o", format]) == 0
        assert capsys.readouterr() == (shown, sentence)
    assert main([*empty, "export"]) == 0
    assert capsys.readouterr() == (MANIFEST, sentence)


def test_a_bus_that_cant_be_read_is_not_an_empty_one(
    empty: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "sys/bus/pci/devices/no-address").mkdir()
    assert main([*empty, "discover"]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        f"gpu-reconciler: {tmp_path}/sys/bus/pci/devices: 'no-address' is no PCI address (dddd:bb:dd.f)",
        "gpu-reconciler: whether there are GPUs can't be told: PCI devices can't be read",
    ]


def ends(error: BaseException) -> Callable[[str], Callable[[Options, Terminal], int]]:
    def command(options: Options, screen: Terminal) -> int:
        raise error

    return lambda name: command


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (KeyboardInterrupt(), 130, "gpu-reconciler: interrupted\n"),
        (BrokenPipeError(), 141, ""),
        (PermissionError(13, "Permission denied", "/x"), 1, "gpu-reconciler: /x: Permission denied\n"),
        (OSError("no more\nof it"), 1, "gpu-reconciler: no more\\nof it\n"),
    ],
)
def test_how_commands_end(
    error: BaseException,
    code: int,
    line: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(entry, "_command", ends(error))
    assert main(["discover"]) == code
    assert capsys.readouterr() == ("", line)


def test_a_bug_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(entry, "_command", ends(ZeroDivisionError("bug")))
    with pytest.raises(ZeroDivisionError):
        main(["discover"])


def test_closed_streams(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    assert main(["--help"]) == 0
    assert main(["fly"]) == 1
