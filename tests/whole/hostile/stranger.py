"""A peer that shares no line of code with the hub: aioquic, as client and as attacker.

Argument: a JSON object with the hub's address and CA and the identities to use, all DER files,
and the frames to send, in hex. For each thing it tries it prints one JSON line:
{"what": ..., "end": code of the close or null, "by": "tls" | "transport" | "application" | null, "heard": hex}
"""

import asyncio
import json
import os
import socket
import sys

from aioquic import tls
from aioquic.asyncio.client import connect
from aioquic.asyncio.protocol import QuicConnectionProtocol
from aioquic.buffer import encode_uint_var
from aioquic.quic import events
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection
from aioquic.quic.packet import QuicPacketType
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, load_der_private_key

GIVEN = json.loads(sys.argv[1])
HOST, PORT = GIVEN["host"], GIVEN["port"]
AGENT, STAFF, ENROLL = "fernwart-agent/1", "fernwart-staff/1", "fernwart-enroll/1"
NAME = "hub.fernwart.internal"


def der(path):
    with open(path, "rb") as file:
        return file.read()


CA = x509.load_der_x509_certificate(der(GIVEN["ca"])).public_bytes(Encoding.PEM)


class Peer(QuicConnectionProtocol):
    """Keeps what it hears and how it ends."""

    def __init__(self, *arguments, **named):
        super().__init__(*arguments, **named)
        self.heard, self.ended, self.end = {}, set(), None
        self.news, self.shaken = asyncio.Event(), False

    def quic_event_received(self, event):
        if isinstance(event, events.StreamDataReceived):
            self.heard.setdefault(event.stream_id, bytearray()).extend(event.data)
            if event.end_stream:
                self.ended.add(event.stream_id)
        elif isinstance(event, events.HandshakeCompleted):
            self.shaken = True
        elif isinstance(event, events.ConnectionTerminated):
            self.end = event
        self.news.set()

    async def until(self, so, patience=5):
        async def wait():
            while not so():
                self.news.clear()
                await self.news.wait()

        try:
            await asyncio.wait_for(wait(), patience)
        except TimeoutError:
            pass

    def raw(self, frame):
        """Puts one frame of our own making into a packet that is otherwise in order."""
        quic, write = self._quic, self._quic._write_application

        def patched(builder, network_path, now):
            quic._write_application = write
            builder.start_packet(QuicPacketType.ONE_RTT, quic._cryptos[tls.Epoch.ONE_RTT])
            buffer = builder.start_frame(frame[0], capacity=len(frame))
            buffer.push_bytes(frame[1:])
            write(builder, network_path, now)

        quic._write_application = patched
        self.transmit()


def configuration(door, who=None, **more):
    doors = [door] if door else None
    quic = QuicConfiguration(is_client=True, alpn_protocols=doors, server_name=NAME, **more)
    quic.load_verify_locations(cadata=CA)
    if who:
        chain = [x509.load_der_x509_certificate(der(path)) for path in GIVEN[who]["chain"]]
        quic.certificate, quic.certificate_chain = chain[0], chain[1:]
        quic.private_key = load_der_private_key(der(GIVEN[who]["key"]), password=None)
    return quic


def told(what, peer=None, **more):
    line = {"what": what, "end": None, "by": None, "heard": ""}
    if peer is not None and peer.end is not None:
        code = peer.end.error_code
        # A close of the application names no frame (RFC 9000, 19.19).
        by = "application" if peer.end.frame_type is None else "tls" if 0x100 <= code < 0x200 else "transport"
        line.update(end=code, by=by)
    line.update(more)
    print(json.dumps(line), flush=True)


async def meet(quic, work):
    """A link with its end; work is only done once hands are shaken."""
    async with connect(HOST, PORT, configuration=quic, create_protocol=Peer, wait_connected=False) as peer:
        peer.transmit()
        await peer.until(lambda: peer.shaken or peer.end)
        if peer.shaken and not peer.end:
            await work(peer)
        return peer


async def closed(peer):
    await peer.until(lambda: peer.end)


async def as_client():
    """An honest one: asks for all machines and gets them, also after a change of keys."""

    async def ask(peer):
        for turn in range(2):
            stream = peer._quic.get_next_available_stream_id()
            peer._quic.send_stream_data(stream, bytes.fromhex(GIVEN["ask"]), end_stream=True)
            peer.transmit()
            await peer.until(lambda: stream in peer.ended or peer.end)
            told(f"asks, turn {turn}", peer, heard=bytes(peer.heard.get(stream, b"")).hex())
            peer._quic.request_key_update()

    await meet(configuration(STAFF, "staff"), ask)


async def at_doors():
    """Who comes with what to which door."""
    for what, door, who in [
        ("no door", None, "staff"),
        ("another door", "h3", "staff"),
        ("agent door, no certificate", AGENT, None),
        ("staff door, no certificate", STAFF, None),
        ("agent door, staff's certificate", AGENT, "staff"),
        ("staff door, a certificate of one's own making", STAFF, "forged"),
        ("agent door, a certificate of one's own making", AGENT, "forged"),
    ]:
        told(what, await meet(configuration(door, who), closed))


async def early():
    """A ticket lets nobody speak before the handshake is over."""
    tickets = []
    quic = configuration(STAFF, "staff")

    async def rest(peer):
        await peer.until(lambda: tickets, 3)

    async with connect(
        HOST, PORT, configuration=quic, create_protocol=Peer, session_ticket_handler=tickets.append
    ) as peer:
        await rest(peer)
    told("tickets", heard=str(len(tickets)), early=[ticket.max_early_data_size for ticket in tickets])


def stream(kind, stream_id, offset=None):
    frame = bytes([kind]) + encode_uint_var(stream_id)
    if offset is not None:
        frame += encode_uint_var(offset)
    return frame + encode_uint_var(1) + b"x"


FRAMES = {
    "a stream beyond the limit": stream(0x0A, 4 * 5000),
    "a stream of one direction": stream(0x0A, 2),
    "a stream that is the hub's to open": stream(0x0A, 1),
    "data beyond the window": stream(0x0E, 0, 64 * 1024 * 1024),
    "handshake bytes far ahead": b"\x06" + encode_uint_var(1 << 20) + encode_uint_var(1) + b"x",
    "a frame that does not exist": b"\x3f",
    "a datagram that nobody agreed on": b"\x31" + encode_uint_var(1) + b"x",
    "handshake done, from a client": b"\x1e",
    "a new token, from a client": b"\x07" + encode_uint_var(1) + b"x",
    "an acknowledgement of what was never sent": b"\x02" + encode_uint_var(1 << 20) + b"\x00\x00\x00",
    "more streams than can be": b"\x12" + encode_uint_var((1 << 60) + 1),
    "an id retired that was never given": b"\x19" + encode_uint_var(77),
}


async def with_frames():
    for what, frame in FRAMES.items():

        async def send(peer, frame=frame):
            peer.raw(frame)
            await closed(peer)

        told(what, await meet(configuration(STAFF, "staff"), send))


class Crooked(QuicConnection):
    """Says something in its transport parameters that no client may say."""

    extra = b""

    def _serialize_transport_parameters(self):
        return super()._serialize_transport_parameters() + self.extra


def parameter(number, value):
    return encode_uint_var(number) + encode_uint_var(len(value)) + value


async def with_parameters():
    import aioquic.asyncio.client as client

    honest = client.QuicConnection
    for what, extra in {
        "a parameter that is the server's": parameter(0x00, b"12345678"),
        "a reset token, from a client": parameter(0x02, b"r" * 16),
        "packets smaller than QUIC's": parameter(0x7F00, b"") + parameter(0x03, encode_uint_var(600)),
        "a parameter twice": parameter(0x0E, encode_uint_var(4)) * 2,
    }.items():
        Crooked.extra = extra
        client.QuicConnection = Crooked
        try:
            told(what, await meet(configuration(STAFF, "staff"), closed))
        finally:
            client.QuicConnection = honest


def with_datagrams():
    """Bare datagrams: no version of ours, and too short a beginning (RFC 9000, 6 and 14.1)."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as port:
        port.settimeout(1)

        def send(what, version, length):
            ids = b"\x08" + os.urandom(8) + b"\x08" + os.urandom(8)
            port.sendto((b"\xc3" + version + ids + b"\x00").ljust(length, b"\x55"), (HOST, PORT))
            try:
                heard = port.recv(2048).hex()
            except TimeoutError:
                heard = ""
            told(what, heard=heard)

        send("another version", b"\x1a\x2a\x3a\x4a", 1200)
        send("another version, too short", b"\x1a\x2a\x3a\x4a", 400)
        send("a beginning that is too short", b"\x00\x00\x00\x01", 400)


async def main():
    await as_client()
    await at_doors()
    await early()
    await with_frames()
    await with_parameters()
    with_datagrams()
    await as_client()


asyncio.run(main())
