"""From words and variables to options."""

import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from reconciler.cli.arguments import HelpAsked, parse
from reconciler.cli.locations import LOCATIONS
from reconciler.cli.options import Format, Options
from reconciler.cli.problems import UsageError
from reconciler.cli.teaching import LESSONS
from reconciler.node.roots import Roots
from state.manifest import BindingConditions, Layout

LINGER = "(allowed: whole seconds from 0 to 86400)"
OWN = {
    "explain": ["gpu"],
    "node": ["--node-name", "a"],
    "plugin": ["--node-name", "a"],
    **{name: ["-f", "node.yaml"] for name in ("plan", "apply", "assert", "run")},
}


def refused(words: list[str], environment: Mapping[str, str] | None = None) -> str:
    with pytest.raises(UsageError) as caught:
        parse(words, environment or {})
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("command", LESSONS)
def test_defaults(command: str) -> None:
    options = parse([command, *OWN.get(command, [])], {})
    assert (options.command, options.roots, options.notes) == (command, Roots(), ())
    assert options.format is (Format.YAML if command == "export" else Format.TABLE)
    assert options.linger_seconds == (30 if command in ("run", "node") else 0)
    assert (options.timeout, options.resync_seconds, options.processes) == (60, 60, "auto")
    assert options.force_release == frozenset()


def test_the_same_options_before_and_after_the_command() -> None:
    before = parse(["--cdi-root", "/c", "-o", "json", "discover"], {})
    after = parse(["discover", "--cdi-root", "/c", "-o", "json"], {})
    assert before == after
    assert (after.roots.cdi, after.format) == ("/c", Format.JSON)
    both = parse(["--cdi-root", "/c", "--run-dir", "/r", "discover", "--cdi-root", "/d"], {})
    assert (both.roots.cdi, both.roots.run) == ("/d", "/r")


def test_everything_a_command_takes() -> None:
    words = "-f x --linger-seconds 7 --force-release a --force-release b --processes hidden --timeout 1.5"
    assert parse(["apply", *words.split()], {}) == Options(
        command="apply",
        roots=Roots(),
        file="x",
        linger_seconds=7,
        force_release=frozenset({"a", "b"}),
        processes="hidden",
        timeout=1.5,
    )
    words = "-f x --resync-seconds 5 --uevents off --metrics-listen [::1]:9 --log-format json --log-level debug"
    run = parse(["run", *words.split()], {})
    assert (run.resync_seconds, run.uevents, run.metrics_listen) == (5, "off", "[::1]:9")
    assert (run.log_format, run.log_level) == ("json", "debug")


def test_flags_win_over_the_environment(tmp_path: Path) -> None:
    (tmp_path / "sys/bus/pci/devices").mkdir(parents=True)
    (tmp_path / "dev/vfio").mkdir(parents=True)
    places = {"SYSFS_ROOT": f"{tmp_path}/sys", "DEVFS_ROOT": f"{tmp_path}/dev", "PROCFS_ROOT": "/p"}
    places |= {"CDI_ROOT": "/c", "RUN_DIR": "/r", "STATE_DIR": "/s", "PCI_IDS": "/i"}
    assert set(places) == {location.variable for location in LOCATIONS}
    roots = Roots(
        sysfs=f"{tmp_path}/sys", devfs=f"{tmp_path}/dev", procfs="/p", cdi="/c", run="/r", state="/s", pci_ids="/i"
    )
    assert parse(["discover"], places).roots == roots
    flags = [word for location in LOCATIONS for word in (location.flag, f"{tmp_path}/sys")]
    assert parse(["discover", *flags], places).roots == Roots(
        **{place.field: f"{tmp_path}/sys" for place in LOCATIONS}
    )


@pytest.mark.parametrize("variable", ["SYSFS_ROOT", "DEVFS_ROOT"])
def test_a_variable_without_the_sub_path_is_said_not_to_be_honoured(variable: str, tmp_path: Path) -> None:
    options = parse(["discover"], {variable: str(tmp_path)})
    assert options.roots == Roots()
    (note,) = options.notes
    assert note.startswith(f"{variable}: {tmp_path} has no ")


def test_an_empty_variable_is_none() -> None:
    assert parse(["discover"], {location.variable: "" for location in LOCATIONS}).roots == Roots()


def test_relative_roots_are_made_absolute() -> None:
    assert parse(["discover", "--cdi-root", "cdi"], {}).roots.cdi == os.path.abspath("cdi")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("", "COMMAND: is required (see gpu-reconciler --help)"),
        ("fly", f"COMMAND: 'fly' is unknown (allowed: {', '.join(LESSONS)})"),
        ("plan", "-f/--file: is required (see gpu-reconciler plan --help)"),
        ("explain", "DEVICE|CLAIM|ALLOCATION: is required (see gpu-reconciler explain --help)"),
        ("discover --fast", "--fast: not known here (see gpu-reconciler --help)"),
        ("discover -f x", "-f x: not known here (see gpu-reconciler --help)"),
        ("discover --out json", "--out json: not known here (see gpu-reconciler --help)"),
        ("discover -o xml", "-o/--output: 'xml' is unknown (allowed: table, wide, yaml, json)"),
        ("export -o wide", "-o/--output: export has no wide output (allowed: yaml, json)"),
        ("-o json run -f x", "-o/--output: run has no output, it only logs"),
        ("apply -f x --timeout 0", "--timeout: '0' is no time (allowed: seconds above 0, up to 7 days)"),
        ("apply -f x --timeout nan", "--timeout: 'nan' is no time (allowed: seconds above 0, up to 7 days)"),
        ("apply -f x --timeout", "--timeout: expected one argument"),
        ("plan -f x --linger-seconds -1", f"--linger-seconds: '-1' is no time {LINGER}"),
        ("plan -f x --linger-seconds 1.5", f"--linger-seconds: '1.5' is no time {LINGER}"),
        ("plan -f x --processes no", "--processes: 'no' is unknown (allowed: auto, visible, hidden)"),
        ("run -f x --uevents dbus", "--uevents: 'dbus' is unknown (allowed: kernel, udev, off)"),
        ("--sysfs-root /nowhere discover", "--sysfs-root: /nowhere has no bus/pci/devices in it"),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_said(words: str, said: str) -> None:
    assert refused(words.split()) == said


def test_what_is_empty_is_said() -> None:
    assert refused(["plan", "-f", ""]) == "-f/--file: must not be empty"
    assert refused(["discover", "--cdi-root", ""]) == "--cdi-root: must not be empty"
    assert refused(["run", "-f", "x", "--metrics-listen", "port"]).startswith(
        "--metrics-listen: 'port': want PORT"
    )


@pytest.mark.parametrize("command", LESSONS)
def test_help_teaches(command: str) -> None:
    with pytest.raises(HelpAsked) as caught:
        parse([command, "--help"], {})
    text = str(caught.value)
    lesson = LESSONS[command]
    assert text.startswith(f"usage: gpu-reconciler {command} ")
    assert " ".join(lesson.about.split()) in " ".join(text.split())
    for code, meaning in lesson.exits:
        assert f"  {code}  {meaning}\n" in text
    for location in LOCATIONS:
        matters = location.field in lesson.places
        assert (location.flag in text, location.variable in text) == (matters, matters)
    assert ("--output" in text) == bool(lesson.formats)
    assert "NO_COLOR" in text
    assert "\nexamples:\n  gpu-reconciler " in text


@pytest.mark.parametrize("command", LESSONS)
def test_examples_of_the_help_are_right(command: str, tmp_path: Path) -> None:
    for line in LESSONS[command].example:
        for part in line.replace("||", "|").split("|"):
            words = part.partition(">")[0].split()
            assert words[0] == "gpu-reconciler"
            parse(words[1:], {})


def test_help_of_the_whole_names_every_command() -> None:
    with pytest.raises(HelpAsked) as caught:
        parse(["-h"], {})
    for command, lesson in LESSONS.items():
        assert command in str(caught.value)
        assert lesson.summary in str(caught.value)


def test_version() -> None:
    with pytest.raises(HelpAsked, match=r"^gpu-reconciler \S+\n$"):
        parse(["--version"], {})


def test_the_node_comes_from_the_flag_or_the_environment() -> None:
    assert parse(["node"], {"NODE_NAME": "b"}).node_name == "b"
    assert parse(["node", "--node-name", "a"], {"NODE_NAME": "b"}).node_name == "a"
    assert refused(["node"]).startswith("--node-name: is required, unless NODE_NAME says it")


def test_what_a_node_offers() -> None:
    words = (
        "--layout Pinned --profiles m4,fs2 --shared-memory false --binding-conditions OnReconfigure --reorder true"
    )
    options = parse(["node", "--node-name", "a", *words.split()], {})
    assert (options.layout, options.profiles) == ("Pinned", ("m4", "fs2"))
    assert (options.shared_memory, options.binding_conditions, options.reorder) == (False, "OnReconfigure", True)
    for layout in Layout:
        assert parse(["node", "--node-name", "a", "--layout", layout.value], {}).layout == layout.value
    for when in BindingConditions:
        words = f"--binding-conditions {when.value}"
        assert parse(["node", "--node-name", "a", *words.split()], {}).binding_conditions == when.value
    assert "allowed: Auto, Dynamic" in refused(["node", "--node-name", "a", "--layout", "x"])
    assert "'4m' is no mode" in refused(["node", "--node-name", "a", "--profiles", "m4,4m"])
    assert "allowed: true, false" in refused(["node", "--node-name", "a", "--reorder", "yes"])
