"""Protocol ids: what a stream is for is said by the name it is opened under.

A new version gets a new name.
"""

from __future__ import annotations

KADEMLIA = "/p2phub/kad/1"
SWARM = "/p2phub/swarm/1"  # sessions: haves, requests, offers, lane tickets
CHUNK = "/p2phub/chunk/1"  # documents and single chunks by digest
META = "/p2phub/meta/1"  # a publisher's TUF metadata by publisher id and file name
SPAN = "/p2phub/span/1"  # span bytes where no lane can be opened
