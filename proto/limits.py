"""Every bound on what a stranger can make grow, with its unit and its reason.

Sections: content, documents, wire, session, lanes, network, trust, control. A format's limits are
part of the format: raising one needs a new version of it.
"""

from __future__ import annotations

KIB = 1 << 10
MIB = 1 << 20

# ---- content ------------------------------------------------------------------------------------
CHUNK_BYTES_MAX = 1 * MIB  # the most a liar can make us receive before we know
CDC_BYTES_MIN, CDC_BYTES_AVERAGE, CDC_BYTES_MAX = 4 * KIB, 16 * KIB, 64 * KIB  # cdc-16k/1
# For tensor-1m/1: whole tensors below this are joined with their neighbours.
TENSOR_JOIN_BYTES = 64 * KIB
SEGMENT_CHUNKS_MAX = 8192  # a have page stays within 1 KiB
# Below it no content-defined border: a 1 TB object keeps its record under 1 MiB.
SEGMENT_CHUNKS_MIN = 2048
SEGMENT_BORDER_MASK = 0x0FFF  # a border every 4096 chunks on average after the minimum
FILE_PAGE_RECORDS_MAX = 8192  # one have page
FILE_PAGE_RECORDS_MIN = 512  # below it no content-defined border between file pages
FILE_PAGE_BORDER_MASK = 0x07FF  # a border every 2048 files on average after the minimum
OBJECT_BYTES_MAX = 1 << 44  # 16 TiB: sums of sizes stay far below 2**63
HEADER_BYTES_MAX = 32 * MIB  # of a GGUF file: a vocabulary of half a million words is 20 MB
# Of a safetensors file: TENSORS_MAX long names; 0.5 s and 150 MiB to parse.
JSON_HEADER_BYTES_MAX = 16 * MIB
TENSORS_MAX = 100_000  # tensors in one file; more falls back to cdc-16k/1
GGUF_VALUES_MAX = 2_000_000  # strings, pairs and tensors in one GGUF header: 0.5 s to walk
GGUF_ALIGNMENT_MAX = 1 * MIB  # of tensors; the default is 32
# A file up to this is one chunk under every rule: cutting it would cost more than it saves.
SMALL_FILE_BYTES = 64 * KIB

# ---- documents ----------------------------------------------------------------------------------
MANIFEST_BYTES_MAX = 64 * KIB
DOCUMENT_BYTES_MAX = CHUNK_BYTES_MAX  # a document is a chunk
DOCUMENT_DEPTH_MAX = 6
# A full file page has 49,152 below its lists, an object record 81,920: 8 MiB of memory.
DOCUMENT_VALUES_MAX = 131_072
# Rows of an object record that fit DOCUMENT_BYTES_MAX; also the longest have page.
OBJECT_SEGMENTS_MAX = 16_384
FILES_MAX = 2_000_000  # in a release: pages of 2,560 records on average fit the root
RELEASE_BYTES_MAX = 1 << 50  # 1 PiB
PATH_BYTES_MAX = 1024
PATH_COMPONENTS_MAX = 32
COMPONENT_BYTES_MAX = 255  # what file systems allow
TAGS_MAX, TAG_BYTES_MAX = 64, 64
# Base models and training datasets named by a manifest.
REFERENCES_MAX, REFERENCE_BYTES_MAX = 64, 512
LICENSE_BYTES_MAX = 256
CARD_PATH_BYTES_MAX = PATH_BYTES_MAX

# ---- wire ---------------------------------------------------------------------------------------
FRAME_BYTES_MAX = 64 * KIB  # one session message
RUNS_PER_SPAN_MAX = 256  # a span may cross this many file borders
SPAN_CHUNKS_MAX = 8192
SPAN_BYTES_MAX = 8 * MIB
PAYLOAD_BYTES_MAX = CHUNK_BYTES_MAX  # one frame on a lane
PAGES_PER_ASK_MAX = 512
INDEXES_PER_DELTA_MAX = 8192
MANIFESTS_PER_PEER_MAX = 1024  # swarms one session may join
ADDRESSES_PER_PEER_MAX = 16
ADDRESS_BYTES_MAX = 256
PEERS_PER_EXCHANGE_MAX = 32
AGENT_BYTES_MAX = 64
CHUNKS_PER_FETCH_MAX = 256  # digests in one /p2phub/chunk/1 request
FETCH_BYTES_MAX = 16 * MIB  # the most one /p2phub/chunk/1 answer may hold

# ---- trust --------------------------------------------------------------------------------------
NAME_LENGTH_MAX = 96  # what the Hub allows for a repository name
PETNAME_LENGTH_MAX = 40  # below the length of any id, so that none can look like one
VERSION_LENGTH_MAX = 64
REFERENCE_LENGTH_MAX = 8 * KIB  # a link with 16 escaped addresses
ROOT_BYTES_MAX = 64 * KIB
TIMESTAMP_BYTES_MAX = 8 * KIB  # 0.5 KiB of its own and 16 addresses
SNAPSHOT_BYTES_MAX = 2_000_000  # about 14,000 names at 130 bytes each
TARGETS_BYTES_MAX = 5_000_000
ROOT_ROTATIONS_MAX = 256
DELEGATIONS_VISITED_MAX = 32  # roles asked about one release
DELEGATIONS_MAX = 16_384  # names of one publisher; the sizes above end first
RELEASES_PER_NAME_MAX = 16_384
SIGNATURES_MAX = 64  # on one file: old, new and committed keys of a large organisation
ROLE_KEYS_MAX = 64
METADATA_DEPTH_MAX = 8  # nesting inside fields that this version does not know
METADATA_INTEGER_MAX = (1 << 53) - 1  # what every JSON reader keeps exact
# JSON objects and arrays in one file: 16,384 names or releases, at 8 MB of memory.
METADATA_CONTAINERS_MAX = 120_000
ANSWERS_MAX = 16  # distinct answers to one question that are looked at
PETNAMES_MAX = 10_000
EVIDENCE_ROWS_MAX = 1024  # equivocations kept; one is enough to halt a publisher
ATTESTATIONS_MAX = 16  # per release
REASON_LENGTH_MAX = 256  # characters of why a release was withdrawn

# ---- fetch: requests by digest and for metadata -------------------------------------------------
FETCH_REQUEST_BYTES_MAX = 16 * KIB  # CHUNKS_PER_FETCH_MAX digests and their framing

# ---- network: connections and streams -----------------------------------------------------------
CONNECTIONS_MAX = 320  # live connections; about 100 KiB each
# Strangers' share of them: dialling out stays possible however many come in.
CONNECTIONS_INBOUND_MAX = 240
CONNECTIONS_PER_PEER_MAX = 2  # two, as both ends may dial at the same moment
# Per remote IP or /64 of IPv6, this machine's own excepted: an office behind one address fits.
CONNECTIONS_PER_HOST_MAX = 64
HANDSHAKES_PENDING_MAX = 64  # inbound, not yet authenticated
# Of them per remote IP or /64, so that one host cannot take all; this machine's own excepted.
HANDSHAKES_PER_HOST_MAX = 16
STREAMS_INBOUND_MAX = 256  # open streams one peer may have with us over one connection
# Resets in the life of one connection before it is closed: whoever goes on is flooding.
STREAMS_REFUSED_MAX = 1024
STREAMS_OUTBOUND_MAX = 192  # ours over one connection: below the inbound cap of the other end
# Streams of one protocol served for one peer at once, unless the protocol says otherwise.
STREAMS_PER_PEER_MAX = 16
STREAM_WINDOW_BYTES = 256 * KIB  # yamux's initial credit per stream
STREAM_WINDOW_BYTES_MAX = 8 * MIB  # credit grows up to this for a reader that keeps up
CONNECTION_WINDOW_BYTES_MAX = 32 * MIB  # growth of the streams of one connection together
# Received and not yet read over all connections; beyond it the fullest is closed.
NETWORK_BUFFERED_BYTES_MAX = 256 * MIB
# Bulk data queued per connection: keeps small messages ahead of it within milliseconds.
SEND_QUEUE_BYTES_MAX = 256 * KIB
# Frames queued per connection: a peer that makes us answer without reading is cut off.
SEND_QUEUE_FRAMES_MAX = 4096
PROTOCOLS_OFFERED_MAX = 16  # names a peer may try on one stream before we give up on it
IDENTIFY_BYTES_MAX = 8 * KIB  # a key, 16 addresses and some 30 protocol names
PEERS_KNOWN_MAX = 4096  # peers whose addresses are remembered in memory

# ---- network: the distributed hash table --------------------------------------------------------
DHT_KEY_BYTES_MAX = 80  # keys are 32 bytes; other networks use multihashes
DHT_MESSAGE_BYTES_MAX = 64 * KIB  # 40 peers of 16 addresses
# 20 closer peers and 20 providers; the rest of a message is not read.
DHT_PEERS_PER_MESSAGE_MAX = 40
DHT_STREAMS_PER_PEER_MAX = 8  # more than one lookup and one announcement need at once
DHT_STREAMS_MAX = 512  # over all peers
DHT_QUERIES_PER_10_S = 1000  # per sender: ten lookups a second, some 3 ms each here
DHT_ANNOUNCEMENTS_PER_10_S = 200  # per sender: a publisher's objects in minutes, a flood in no time
# The first stay, later ones are refused, unless one network has more places than its share.
DHT_PROVIDERS_PER_KEY_MAX = 20
DHT_RECORDS_MAX = 100_000  # about 30 MB
DHT_RECORDS_PER_SENDER_MAX = 10_000  # one node's objects of 8 MiB or more: some 80 GB at the least
DHT_CANDIDATES_MAX = 256  # peers one lookup weighs; farther ones are forgotten

# ---- lanes: the sockets and streams that carry chunk bytes --------------------------------------
LANES_EACH_WAY_MAX = 32  # lanes that send, and lanes that receive; each has a thread while it lives
LANE_STRANDS_MAX = 2  # sockets and threads of one lane: one cannot keep two cores busy
LANE_BUFFERS_BYTES_MAX = 64 * MIB  # one frame for every lane there can be
SPAN_STREAM_BUFFERS_BYTES_MAX = 32 * MIB  # their own, so that slow streams cannot starve the lanes
LANE_RECORDS_BYTES = 256 * KIB  # ciphertext moved by one system call: 16 TLS records
# TCP, TLS and ticket together: four round trips, two of them lost once.
LANE_HANDSHAKE_TIMEOUT_S = 5.0
LANE_TICKET_LIFETIME_S = 30.0  # the opener dials at once; the rest is its busy uplink
LANE_TICKETS_MAX = 64  # tickets not yet shown, and accepted sockets that have not shown one
LANE_TICK_S = 1.0  # a blocked lane looks this often whether its time is up
LANE_CANCEL_S = 1.0  # a lane's thread is gone this long after `close` at the latest
LANE_PATIENCE_S = 30.0  # no progress for this long ends a lane that owes bytes
LANE_RATE_MIN_BYTES_PER_S = 4 * KIB  # below it a frame counts as no progress: 1 MiB in 256 s
LANE_UNUSED_S = 60.0  # a lane without a span for this long gives its slot back
# 256 GiB, then another lane: what AES-GCM keys are good for (RFC 8446 5.5), with slack.
LANE_BYTES_MAX = 1 << 38
LANE_SPANS_MAX = 256  # spans expected or queued on one channel
LANE_FORGOTTEN_MAX = 256  # cancelled spans whose late bytes are still tolerated
LANE_CREDIT_BYTES = 64 * KIB  # the most that one step moves under a rate limit
LANE_EVENTS_MAX = 4096  # reports waiting for the event loop; beyond it lanes wait
LANE_WAKEUPS_PER_S_MAX = 200  # of the event loop by all lanes together
SPAN_SLICE_BYTES = 65_507  # one Noise message of a libp2p stream, with its tag and yamux's header
