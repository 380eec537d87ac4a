"""The data files shipped with the product against the facts they are made from; and pci.ids."""

from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.node import tables
from reconciler.node.tables import Tables, decode_pci_ids, load_pci_ids, load_tables
from state.models import Model
from state.profiles import Quota
from tests.contract_files import read_yaml

NAMES_OF_PCI_IDS = (0x0B69, 0x0BD6)
"""Where the existing driver's table contradicts pci.ids, pci.ids is right."""

PCI_IDS = b"""\
# a comment
8085  Somebody
\t56c0  Not ours
8086  Intel Corporation
\t0bd5  Ponte Vecchio XT (2 Tile) [Data Center GPU Max 1550]
\t\t8086 0000  A subsystem
# another comment
\t56c0  Data Center GPU Flex 170

\t9a49  TigerLake-LP GT2 [Iris Xe Graphics]
8088  Beijing
\t0bd5  Not ours either
C 03  Display controller
"""


@pytest.fixture(scope="module")
def loaded() -> Tables:
    return load_tables("/nonexistent")


def test_models_carry_the_names_that_users_select_on(loaded: Tables) -> None:
    upstream = read_yaml("hardware/upstream-models.yaml")
    for text, row in (upstream["models"] | upstream["added_after_snapshot"]).items():
        model = loaded.models.of(int(text, 16))
        assert (model.family, model.drm_driver) == (row["family"], row["driver"]), text
        if int(text, 16) not in NAMES_OF_PCI_IDS:
            assert model.name == row["model"], text


def test_models_agree_with_the_facts_about_devices(loaded: Tables) -> None:
    devices = read_yaml("hardware/devices.yaml")["devices"]
    assert len(devices) > 100
    for row in devices:
        model = loaded.models.of(int(row["id"], 16))
        assert model.drm_driver == row["driver"], row["id"]
        assert model.tiles == row["tiles"], row["id"]
        assert model.integrated is (row["local_memory_mib"] == 0), row["id"]


def test_pci_ids_names_win_over_the_two_swapped_ones(loaded: Tables) -> None:
    assert [loaded.models.of(device).name for device in NAMES_OF_PCI_IDS] == ["Max 1450", "Max 1550"]


def test_every_model_is_one_of_the_facts(loaded: Tables) -> None:
    upstream = read_yaml("hardware/upstream-models.yaml")
    known = {row["id"] for row in read_yaml("hardware/devices.yaml")["devices"]}
    known |= upstream["models"].keys() | upstream["added_after_snapshot"].keys()
    assert loaded.models.by_device_id.keys() == {int(text, 16) for text in known}


def test_profiles_are_those_published_last(loaded: Tables) -> None:
    published = read_yaml("hardware/sriov-profiles.yaml")["tables"][-1]
    models = published["profiles_per_device_id"]
    assert loaded.profiles.by_device_id.keys() == {int(text, 16) for text in models}
    for text, names in models.items():
        profiles = loaded.profiles.of(int(text, 16))
        assert [profile.name for profile in profiles] == names
        for profile in profiles:
            row = published["profiles"][profile.name]
            assert profile.count == row["numvfs"]
            assert profile.quota == Quota(
                contexts=row["contexts_quota"],
                doorbells=row["doorbells_quota"],
                exec_quantum_ms=row["exec_quantum_ms"],
                preempt_timeout_us=row["preempt_timeout_us"],
                ggtt=row["ggtt_quota"],
                lmem=row["lmem_quota"],
                lmem_ecc_on=row["lmem_quota_ecc_on"],
            )


def test_profiles_are_in_order_and_their_modes_unique(loaded: Tables) -> None:
    for profiles in loaded.profiles.by_device_id.values():
        counts = [profile.count for profile in profiles]
        assert counts == sorted(set(counts))
        assert len({profile.mode for profile in profiles}) == len(profiles)


def test_a_damaged_data_file_is_an_error_that_names_the_place(monkeypatch: pytest.MonkeyPatch) -> None:
    row = b'models: [{id: "0x56c0", name: Flex 170, family: F, driver: nouveau, integrated: false}]'
    monkeypatch.setattr(tables, "_shipped", lambda name: row)
    with pytest.raises(msgspec.ValidationError, match=r"models\[0\]\.driver|models.*driver"):
        load_tables("/nonexistent")


def test_pci_ids_of_intel_only_with_marketing_names() -> None:
    assert decode_pci_ids(PCI_IDS) == {
        0x0BD5: "Data Center GPU Max 1550",
        0x56C0: "Data Center GPU Flex 170",
        0x9A49: "Iris Xe Graphics",
    }


@pytest.mark.parametrize("content", [b"", b"8086", b"\t56c0  x\n", b"8087  Other\n\t56c0  x\n"])
def test_pci_ids_without_intel_give_no_names(content: bytes) -> None:
    assert decode_pci_ids(content) == {}


@given(st.binary())
def test_pci_ids_survive_any_bytes(noise: bytes) -> None:
    assert decode_pci_ids(PCI_IDS[:60] + noise).keys() <= set(range(0x10000))
    decode_pci_ids(noise + PCI_IDS)


def test_pci_ids_file_is_read_where_it_is(tmp_path: Path) -> None:
    (tmp_path / "pci.ids").write_bytes(PCI_IDS)
    assert load_pci_ids(str(tmp_path / "pci.ids"))[0x9A49] == "Iris Xe Graphics"
    assert load_pci_ids(str(tmp_path)) == {}
    assert load_pci_ids(str(tmp_path / "absent")) == {}


def test_unknown_models_are_named_after_pci_ids(tmp_path: Path) -> None:
    (tmp_path / "pci.ids").write_bytes(PCI_IDS)
    models = load_tables(str(tmp_path / "pci.ids")).models
    assert models.of(0x9A49) == Model(name="Iris Xe Graphics", family="Unknown")
    assert models.of(0x56C0).name == "Flex 170"
    assert models.of(0xFFFF) == Model(name="Unknown", family="Unknown")
