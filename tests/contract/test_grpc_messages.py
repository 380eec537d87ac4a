"""Our .proto files say what the field tables of the contract say, and generated code is what they give."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor, FileDescriptor

from hack.protogen import REPOSITORY, generate
from plugin.pb.dra.v1 import api_pb2 as dra
from plugin.pb.dra.v1alpha1 import api_pb2 as single
from plugin.pb.dra.v1alpha3 import api_pb2 as strings
from plugin.pb.health.v1alpha1 import health_pb2 as health
from plugin.pb.pluginregistration import registration_pb2 as registration
from tests.contract_files import read_text

_SECTION = re.compile(
    r"^### package `(?P<package>[^`]+)`: Kubernetes (?P<releases>[^\n]+)\n(?P<body>.*?)(?=^###|\Z)", re.M | re.S
)
_METHOD = re.compile(r"^- `/(?P<path>\S+)`: `(?P<asked>\w+)` -> (?P<stream>stream of )?`(?P<answer>\w+)`", re.M)
_ROW = re.compile(
    r"^\| (?P<message>[\w ]+) \| (?P<number>\d+) \| (?P<field>\w+) \| (?P<type>[^|]+) \| (?P<label>\w*) *\|", re.M
)
_TYPES = {
    "string": FieldDescriptor.TYPE_STRING,
    "bool": FieldDescriptor.TYPE_BOOL,
    "int64": FieldDescriptor.TYPE_INT64,
}

Fields = set[tuple[str, int, str, str, str]]
"""Message, number, field, type, label."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    fields: Fields
    methods: set[tuple[str, str, bool, str]]


def table(package: str, release: str, about: str) -> Table:
    """The table of a package in one release; ``about`` is a word of its methods (packages share names)."""
    for section in _SECTION.finditer(read_text("kubelet-grpc.md")):
        releases = re.findall(r"1\.\d+", section["releases"].partition("(the Go")[0])
        if section["package"] == package and release in releases and about in section["body"]:
            return Table(
                fields={
                    (row["message"], int(row["number"]), row["field"], row["type"].strip(), row["label"])
                    for row in _ROW.finditer(section["body"])
                },
                methods={
                    (m["path"].rpartition("/")[2], m["asked"], bool(m["stream"]), m["answer"])
                    for m in _METHOD.finditer(section["body"])
                },
            )
    raise AssertionError(f"no table of {package} for {release}")


def fields_of(file: FileDescriptor) -> Fields:
    found: Fields = set()
    for message in file.message_types_by_name.values():
        found |= {(message.name, one.number, one.name, _type(one), _label(one)) for one in message.fields}
    for enum in file.enum_types_by_name.values():
        found |= {(f"enum {enum.name}", value.number, value.name, "enum value", "") for value in enum.values}
    return found


def methods_of(file: FileDescriptor) -> set[tuple[str, str, bool, str]]:
    return {
        (method.name, method.input_type.name, method.server_streaming, method.output_type.name)
        for service in file.services_by_name.values()
        for method in service.methods
    }


def _entry(field: FieldDescriptor) -> Descriptor | None:
    message: Descriptor | None = field.message_type
    return message if message is not None and message.GetOptions().map_entry else None


def _type(field: FieldDescriptor) -> str:
    if (entry := _entry(field)) is not None:
        value = entry.fields_by_name["value"].message_type
        assert value is not None
        return f"map<string,{value.name}>"
    if field.message_type is not None:
        return str(field.message_type.name)
    if field.enum_type is not None:
        return str(field.enum_type.name)
    return next(name for name, number in _TYPES.items() if number == field.type)


def _label(field: FieldDescriptor) -> str:
    if _entry(field) is not None:
        return "singular"
    if field.is_repeated:
        return "repeated"
    return "optional" if field.containing_oneof is not None else "singular"


@pytest.mark.parametrize(
    ("package", "about", "file"),
    [
        ("pluginregistration", "GetInfo", registration.DESCRIPTOR),
        ("k8s.io.kubelet.pkg.apis.dra.v1", "DRAPlugin", dra.DESCRIPTOR),
        ("v1alpha1", "DRAResourceHealth", health.DESCRIPTOR),
    ],
)
def test_messages_are_those_of_the_newest_kubelet(package: str, about: str, file: FileDescriptor) -> None:
    for release in ("1.36", "1.37"):
        contract = table(package, release, about)
        assert file.package == package
        assert fields_of(file) == contract.fields
        assert methods_of(file) == contract.methods


@pytest.mark.parametrize("release", ["1.32", "1.33", "1.34", "1.35", "1.36", "1.37"])
def test_v1beta1_is_v1_without_share_ids(release: str) -> None:
    contract = table("k8s.io.kubelet.pkg.apis.dra.v1beta1", release, "DRAPlugin")
    assert contract.fields == {row for row in fields_of(dra.DESCRIPTOR) if row[2] != "share_id"}
    assert contract.methods == methods_of(dra.DESCRIPTOR)


@pytest.mark.parametrize("release", ["1.31", "1.32", "1.33"])
def test_v1alpha3_is_v1_without_share_ids(release: str) -> None:
    contract = table("v1alpha3", release, "NodePrepareResources")
    assert contract.fields == {row for row in fields_of(dra.DESCRIPTOR) if row[2] != "share_id"}
    assert contract.methods == methods_of(dra.DESCRIPTOR)


@pytest.mark.parametrize("release", ["1.28", "1.29", "1.30"])
def test_v1alpha3_was_something_else_before(release: str) -> None:
    contract = table("v1alpha3", release, "NodePrepareResources")
    listing = {row for row in contract.fields if row[0].startswith("NodeListAndWatch")}
    unread = {row for row in contract.fields if row[2] == "structured_resource_handle"}
    assert contract.fields - listing - unread == fields_of(strings.DESCRIPTOR)
    assert {one[0] for one in contract.methods - methods_of(strings.DESCRIPTOR)} <= {"NodeListAndWatchResources"}
    assert bool(listing) == bool(unread) == (release == "1.30")
    assert ("NodePrepareResourceResponse", 1, "cdi_devices", "string", "repeated") in contract.fields


def test_v1alpha1_is_that_of_1_26() -> None:
    contract = table("v1alpha1", "1.26", "NodePrepareResource")
    assert contract.fields == fields_of(single.DESCRIPTOR)
    assert contract.methods == methods_of(single.DESCRIPTOR)


@pytest.mark.parametrize("release", ["1.27", "1.28", "1.29", "1.30"])
def test_v1alpha2_is_v1alpha1_in_all_that_is_read(release: str) -> None:
    """Field 4 of unprepare is one string or several: the same on the wire."""
    contract = table("v1alpha2", release, "NodePrepareResource")
    ours = fields_of(single.DESCRIPTOR)
    assert ours - contract.fields == {("NodeUnprepareResourceRequest", 4, "cdi_devices", "string", "repeated")}
    more = {row for row in contract.fields - ours if row[2] != "structured_resource_handle"}
    assert more == {("NodeUnprepareResourceRequest", 4, "resource_handle", "string", "singular")}
    assert contract.methods == methods_of(single.DESCRIPTOR)


def test_health_v1_is_v1alpha1() -> None:
    contract = table("v1", "1.37", "DRAResourceHealth")
    assert contract.fields == fields_of(health.DESCRIPTOR)
    assert contract.methods == methods_of(health.DESCRIPTOR)


@pytest.mark.parametrize(
    ("package", "release", "about", "file"),
    [
        ("k8s.io.kubelet.pkg.apis.dra.v1", "1.34", "DRAPlugin", dra.DESCRIPTOR),
        ("v1alpha1", "1.34", "DRAResourceHealth", health.DESCRIPTOR),
        ("v1alpha1", "1.35", "DRAResourceHealth", health.DESCRIPTOR),
        ("pluginregistration", "1.26", "GetInfo", registration.DESCRIPTOR),
    ],
)
def test_older_kubelets_know_a_part_of_it(package: str, release: str, about: str, file: FileDescriptor) -> None:
    contract = table(package, release, about)
    assert contract.fields <= fields_of(file)
    assert contract.methods == methods_of(file)


def test_generated_code_is_fresh(tmp_path: Path) -> None:
    generate(tmp_path)
    fresh = {path.relative_to(tmp_path): path.read_text() for path in tmp_path.rglob("*_pb2.py*")}
    assert len(fresh) == 2 * len(list((REPOSITORY / "proto").rglob("*.proto")))
    kept = REPOSITORY / "plugin" / "pb"
    assert fresh == {path.relative_to(REPOSITORY): path.read_text() for path in kept.rglob("*_pb2.py*")}


def test_proto_is_never_imported() -> None:
    assert not list((REPOSITORY / "proto").rglob("*.py"))
