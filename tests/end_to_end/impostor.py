"""A peer of a test, in a process of its own, that answers for a publisher with any files it has.

    python -m tests.end_to_end.impostor FOLDER

FOLDER holds what is answered for each metadata file, whoever's it is. Prints its address.
"""

from __future__ import annotations

import random
import sys
from pathlib import Path

import trio

from p2phub.net.base import Stream
from p2phub.net.identity import identity_from_seed
from p2phub.net.libp2p import Libp2pNetwork
from p2phub.proto import protocols
from p2phub.proto.fetch import MetaWanted, reply_header
from p2phub.proto.frames import FrameReader


async def main(folder: Path) -> None:
    rng = random.Random(folder.as_posix())
    network = Libp2pNetwork(identity_from_seed(rng.randbytes(32)), ["/ip4/127.0.0.1/tcp/0"])

    async def answer(stream: Stream) -> None:
        frames = FrameReader()
        while data := await stream.receive():
            for request in frames.feed(data):
                path = folder / MetaWanted.decode(request).file_name
                if path.exists():
                    await stream.send(reply_header(path.stat().st_size) + path.read_bytes())
                else:
                    await stream.send(reply_header(None))

    network.serve(protocols.META, answer)
    async with trio.open_nursery() as nursery:
        await nursery.start(network.run)
        print(network.addresses()[0], flush=True)
        await trio.sleep_forever()


if __name__ == "__main__":
    trio.run(main, Path(sys.argv[1]))
