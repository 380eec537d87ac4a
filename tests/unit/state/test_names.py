"""Names of devices and the devices they name are one to one."""

from hypothesis import given, settings
from hypothesis import strategies as st

from state.ids import LogicalDevice, Use, device_name, parse_device_name, parse_logical_device, parse_pci_address

addresses = st.builds(
    lambda domain, bus, slot, function: parse_pci_address(f"{domain:04x}:{bus:02x}:{slot:02x}.{function}"),
    st.integers(0, 0xFFFFFFFF),
    st.integers(0, 0xFF),
    st.integers(0, 0x1F),
    st.integers(0, 7),
)
names = st.builds(device_name, addresses, st.integers(0, 0xFFFF))
modes = st.from_regex(r"\A(m|c|fs)[1-9][0-9]?\Z")
devices = st.one_of(
    st.builds(LogicalDevice, pf=names, use=st.sampled_from((Use.WHOLE, Use.SHARED, Use.MONITOR))),
    st.builds(LogicalDevice, pf=names, use=st.just(Use.VF), mode=modes, index=st.none() | st.integers(0, 9999)),
)


@given(devices)
@settings(max_examples=200)
def test_a_device_is_read_back_from_its_name(device: LogicalDevice) -> None:
    assert parse_logical_device(str(device)) == device


@given(devices)
@settings(max_examples=200)
def test_a_name_is_written_back_from_its_device(device: LogicalDevice) -> None:
    assert str(parse_logical_device(str(device))) == str(device)


@given(addresses, st.integers(0, 0xFFFF))
@settings(max_examples=200)
def test_a_gpu_is_read_back_from_its_name(address: str, device_id: int) -> None:
    address = parse_pci_address(address)
    assert parse_device_name(device_name(address, device_id)) == (address, device_id)
