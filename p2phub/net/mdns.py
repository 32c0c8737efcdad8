"""Peers on the same local network, without anyone's help: DNS service discovery over multicast.

Says our peer id and addresses, hears those of others. All of it happens in zeroconf's own threads;
the event loop only ever takes an address out of a bounded queue. What is heard is a hint, as from
anyone.
Source: RFC 6762, RFC 6763.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import trio
from zeroconf import Error as ZeroconfError
from zeroconf import IPVersion, ServiceBrowser, ServiceInfo, ServiceStateChange, Zeroconf

from p2phub.errors import UsageError
from p2phub.net.addresses import endpoint_from_text
from p2phub.net.base import Network, PeerAddress, PeerId, parse_address, parse_peer_id
from p2phub.proto.limits import ADDRESSES_PER_PEER_MAX

SERVICE_TYPE = "_p2phub._udp.local."
_ID, _ADDRESS = "id", "a"  # keys of the text record: the peer id, then a0, a1 ... one address each
_ADDRESSES_SAID_MAX = 8  # the whole record has to fit one packet
_HEARD_MAX = 64  # addresses that wait for the event loop; more are dropped and heard again later
_QUESTION_MS = 3000  # for the text record of a name that was heard
_CHECK_S = 60.0  # interfaces come and go
_RETRY_S = 120.0  # no multicast here, at the moment
_GOODBYE_S = 2.0

log = logging.getLogger(__name__)


async def find_local_peers(
    network: Network,
    on_found: Callable[[PeerAddress], None],
    *,
    interfaces: Sequence[str] | None = None,
) -> None:
    """Never returns. `on_found` is told of each peer that says where it is, us excepted.

    interfaces: IPs of those to speak on; None: all of them.
    """
    while True:
        try:
            await _speak_and_listen(network, on_found, interfaces)
        except OSError as error:
            log.info("local peers cannot be looked for now: %s", error)
        await trio.sleep(_RETRY_S)


async def _speak_and_listen(
    network: Network, on_found: Callable[[PeerAddress], None], interfaces: Sequence[str] | None
) -> None:
    token = trio.lowlevel.current_trio_token()
    send, receive = trio.open_memory_channel[PeerAddress](_HEARD_MAX)

    def put(address: PeerAddress) -> None:
        try:
            send.send_nowait(address)
        except (trio.WouldBlock, trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # Too many at once, or the end: whoever was heard says so again.

    def on_heard(address: PeerAddress) -> None:
        """Called in a thread of zeroconf's."""
        try:
            token.run_sync_soon(put, address)
        except trio.RunFinishedError:
            pass  # The event loop is gone, and soon this thread.

    said = network.addresses()
    voice = await trio.to_thread.run_sync(
        _Voice, network.peer_id, said, interfaces, on_heard, abandon_on_cancel=False
    )
    try:
        while True:
            with trio.move_on_after(_CHECK_S):
                async for address in receive:
                    on_found(address)
            if network.addresses() != said:
                said = network.addresses()
                await trio.to_thread.run_sync(voice.say, said)
    finally:
        with trio.move_on_after(_GOODBYE_S, shield=True):
            await trio.to_thread.run_sync(voice.close, abandon_on_cancel=True)


class _Voice:
    """Our name in the local network, and an ear for others. Every method blocks."""

    def __init__(
        self,
        peer: PeerId,
        addresses: list[str],
        interfaces: Sequence[str] | None,
        on_heard: Callable[[PeerAddress], None],
    ) -> None:
        self._peer = peer
        self._on_heard = on_heard
        if interfaces is None:
            self._zeroconf = Zeroconf(ip_version=IPVersion.V4Only)
        else:
            self._zeroconf = Zeroconf(interfaces=list(interfaces), ip_version=IPVersion.V4Only)
        try:
            self._info = _service_info(peer, addresses)
            self._zeroconf.register_service(self._info, allow_name_change=True)
            self._browser = ServiceBrowser(self._zeroconf, SERVICE_TYPE, handlers=[self._on_change])
        except BaseException:
            self._zeroconf.close()
            raise

    def say(self, addresses: list[str]) -> None:
        self._info = _service_info(self._peer, addresses)
        self._zeroconf.update_service(self._info)

    def close(self) -> None:
        self._zeroconf.close()

    def _on_change(
        self, zeroconf: Zeroconf, service_type: str, name: str, state_change: ServiceStateChange
    ) -> None:
        if state_change is ServiceStateChange.Removed:
            return
        try:
            info = zeroconf.get_service_info(service_type, name, timeout=_QUESTION_MS)
        except (ZeroconfError, AssertionError):
            # It is being closed, the machine is too busy, or a stranger's name is none: whatever
            # leaves this method ends zeroconf's thread, and nobody is heard any more.
            return
        address = None if info is None else peer_address_of(info.decoded_properties)
        if address is not None and address.peer != self._peer:
            self._on_heard(address)


def peer_address_of(properties: dict[str, str | None]) -> PeerAddress | None:
    """Who a text record speaks of; None if it is not a peer's, or has no address we can dial."""
    try:
        peer = parse_peer_id(properties.get(_ID) or "")
    except UsageError:
        return None
    addresses = []
    for index in range(ADDRESSES_PER_PEER_MAX):
        text = properties.get(f"{_ADDRESS}{index}")
        if text is None:
            break
        try:
            addresses.append(parse_address(text))
        except UsageError:
            continue
    return PeerAddress(peer, tuple(addresses)) if addresses else None


def _service_info(peer: PeerId, addresses: list[str]) -> ServiceInfo:
    bare = [address.rpartition("/p2p/")[0] for address in addresses[:_ADDRESSES_SAID_MAX]]
    endpoints = [endpoint_from_text(address) for address in bare]
    properties = {_ID: peer} | {f"{_ADDRESS}{index}": text for index, text in enumerate(bare)}
    return ServiceInfo(
        SERVICE_TYPE,
        f"{peer}.{SERVICE_TYPE}",
        parsed_addresses=[found.host for found in endpoints if found.kind == "ip4"],
        port=endpoints[0].port if endpoints else 0,
        properties=properties,
        server=f"{peer}.local.",
    )
