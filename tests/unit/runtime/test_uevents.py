"""Genuine kernel events: the kernel broadcasts what a privileged sender asks it to.

In a network namespace of our own, as a running udev would act on them elsewhere.
"""

import ctypes
import errno
import gc
import os
import queue
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.runtime import uevents
from reconciler.runtime.uevents import Source, Uevent, UeventListener, UeventsUnavailable, to_uevent

CLONE_NEWNET = 0x40000000
NETLINK_KOBJECT_UEVENT = 15
NLM_F_REQUEST = 1
NLMSG_MIN_TYPE = 16
LOST = "lost"

PCI = "/devices/pci0000:b0/0000:b3:00.0"


@dataclass
class Kernel:
    """A listener and a way to make the kernel speak, both in one private network namespace."""

    heard: "queue.Queue[Uevent | str]" = field(default_factory=queue.Queue)
    listener: UeventListener = field(init=False)
    sender: socket.socket = field(init=False)

    def open(self, buffer_bytes: int | None = None) -> None:
        if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), "unshare")
        self.listener = UeventListener(self.heard.put, lambda: self.heard.put(LOST), buffer_bytes=buffer_bytes)
        self.sender = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_KOBJECT_UEVENT)
        self.sender.bind((0, 0))

    def say(self, action: str, devpath: str, **properties: str) -> None:
        pairs = {"ACTION": action, "DEVPATH": devpath, **properties}
        payload = "\0".join([f"{action}@{devpath}", *(f"{k}={v}" for k, v in pairs.items()), ""]).encode()
        header = struct.pack("=IHHII", 16 + len(payload), NLMSG_MIN_TYPE, NLM_F_REQUEST, 0, 0)
        self.sender.sendto(header + payload, (0, 0))

    def next(self) -> Uevent | str:
        return self.heard.get(timeout=10)


def in_new_thread(action: Callable[[], None]) -> None:
    """The namespace belongs to a thread, the sockets made in it may be used by all."""
    errors: list[OSError] = []

    def run() -> None:
        try:
            action()
        except OSError as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]


def open_kernel(buffer_bytes: int | None = None) -> Kernel:
    kernel = Kernel()
    try:
        in_new_thread(lambda: kernel.open(buffer_bytes))
    except PermissionError as error:
        pytest.skip(f"needs a network namespace of its own and its uevents: {error}")
    return kernel


@pytest.fixture
def kernel() -> Iterator[Kernel]:
    kernel = open_kernel()
    thread = threading.Thread(target=kernel.listener.run)
    thread.start()
    yield kernel
    kernel.listener.stop()
    thread.join()
    kernel.listener.close()
    kernel.sender.close()


@pytest.mark.root
def test_an_event_of_a_function_carries_all_the_kernel_said(kernel: Kernel) -> None:
    kernel.say("bind", PCI, SUBSYSTEM="pci", DRIVER="xe", PCI_SLOT_NAME="0000:b3:00.0", PCI_ID="8086:56C0")
    event = kernel.next()
    assert isinstance(event, Uevent)
    assert (event.action, event.subsystem, event.devpath) == ("bind", "pci", PCI)
    assert (event.driver, event.pci_slot_name) == ("xe", "0000:b3:00.0")
    assert event.properties["PCI_ID"] == "8086:56C0"
    assert event.properties["SEQNUM"].isdigit()  # added by the kernel: the event came from nowhere else


@pytest.mark.root
def test_only_the_chosen_subsystems_and_device_types_are_heard(kernel: Kernel) -> None:
    kernel.say("add", "/devices/virtual/net/dummy0", SUBSYSTEM="net")
    kernel.say("change", PCI + "/drm/card0/card0-DP-1", SUBSYSTEM="drm", DEVTYPE="drm_connector")
    kernel.say("add", PCI + "/drm/card0", SUBSYSTEM="drm", DEVTYPE="drm_minor")
    kernel.say("remove", PCI, SUBSYSTEM="pci")
    heard = [kernel.next(), kernel.next()]
    assert [(event.action, event.subsystem) for event in heard if isinstance(event, Uevent)] == [
        ("add", "drm"),
        ("remove", "pci"),
    ]


@pytest.mark.root
def test_a_burst_of_events_arrives_whole_and_in_order(kernel: Kernel) -> None:
    for number in range(500):
        kernel.say("change", f"{PCI}/{number}", SUBSYSTEM="pci")
    heard = [kernel.next() for _ in range(500)]
    assert [event.devpath for event in heard if isinstance(event, Uevent)] == [
        f"{PCI}/{number}" for number in range(500)
    ]


@pytest.mark.root
def test_an_overflow_says_so_and_listening_goes_on() -> None:
    kernel = open_kernel(buffer_bytes=1)  # the kernel rounds up to room for two
    kernel.say("change", "no path", SUBSYSTEM="pci")  # libudev drops it and then looks as if there were no more
    for number in range(200):
        kernel.say("change", f"{PCI}/{number}", SUBSYSTEM="pci")
    thread = threading.Thread(target=kernel.listener.run)
    thread.start()
    try:
        heard: list[Uevent | str] = []
        while LOST not in heard:
            heard.append(kernel.next())
        kernel.say("add", f"{PCI}/after", SUBSYSTEM="pci")
        after = kernel.next()
        assert isinstance(after, Uevent)
        assert after.devpath == f"{PCI}/after", "said to be lost before the rest was read"
    finally:
        kernel.listener.stop()
        thread.join()
        kernel.listener.close()
        kernel.sender.close()
    assert len(heard) < 200


def test_stop_before_run_and_twice_and_after_close() -> None:
    listener = UeventListener(lambda event: None, lambda: None)
    listener.stop()
    listener.stop()
    listener.run()
    listener.close()
    listener.close()
    listener.stop()


def test_without_libudev_the_error_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def not_found(name: str) -> None:
        return None

    monkeypatch.setattr("pyudev._ctypeslib.utils.find_library", not_found)
    with pytest.raises(UeventsUnavailable, match="no device events: No library named udev") as caught:
        UeventListener(lambda event: None, lambda: None)
    assert isinstance(caught.value, OSError)
    assert isinstance(caught.value.__cause__, ImportError)


def test_without_descriptors_the_errno_is_kept() -> None:
    import resource

    import pyudev

    pyudev.Context()  # what is loaded lazily must not be what fails
    gc.collect()  # what is closed later makes room
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with open(os.devnull) as lowest_free:
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free.fileno(), hard))
    try:
        with pytest.raises(UeventsUnavailable) as caught:
            UeventListener(lambda event: None, lambda: None)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert caught.value.errno in (errno.EMFILE, errno.ENOENT, errno.EIO)
    assert caught.value.__cause__ is not None


@given(properties=st.dictionaries(st.sampled_from(["ACTION", "DRIVER", "SEQNUM", "X"]), st.text()))
def test_reading_properties_never_fails(properties: dict[str, str]) -> None:
    event = to_uevent(properties)
    assert event.action == properties.get("ACTION", "")
    assert event.driver == properties.get("DRIVER")
    assert event.pci_slot_name is None
    assert dict(event.properties) == properties
    assert list(event.properties) == sorted(properties)


def test_the_sources_are_the_ones_libudev_knows() -> None:
    assert {source.value for source in Source} == {"kernel", "udev"}
    for source in Source:
        listener = uevents.UeventListener(lambda event: None, lambda: None, source=source)
        listener.close()
