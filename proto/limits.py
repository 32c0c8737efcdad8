"""Every bound on what a stranger can make grow, with its unit and its reason.

Sections: content, documents, wire, session, lanes, network, trust, control. A format's limits are part of the format: raising
one needs a new version of it.
"""

from __future__ import annotations

KIB = 1 << 10
MIB = 1 << 20

# ---- content ----------------------------------------------------------------------------------------------------------
CHUNK_BYTES_MAX = 1 * MIB  # the most a liar can make us receive before we know
CDC_BYTES_MIN, CDC_BYTES_AVERAGE, CDC_BYTES_MAX = 4 * KIB, 16 * KIB, 64 * KIB  # cdc-16k/1
TENSOR_JOIN_BYTES = 64 * KIB  # tensor-1m/1: whole tensors below this are joined with their neighbours
SEGMENT_CHUNKS_MAX = 8192  # a have page stays within 1 KiB
SEGMENT_CHUNKS_MIN = 2048  # below it no content-defined border: a 1 TB object keeps its record under 1 MiB
SEGMENT_BORDER_MASK = 0x0FFF  # a border every 4096 chunks on average after the minimum
FILE_PAGE_RECORDS_MAX = 8192  # one have page
FILE_PAGE_RECORDS_MIN = 512  # below it no content-defined border between file pages
FILE_PAGE_BORDER_MASK = 0x07FF  # a border every 2048 files on average after the minimum
OBJECT_BYTES_MAX = 1 << 44  # 16 TiB: sums of sizes stay far below 2**63
HEADER_BYTES_MAX = 100_000_000  # safetensors' own cap on its JSON header
TENSORS_MAX = 1_000_000  # tensors in one file; more falls back to cdc-16k/1

# ---- documents --------------------------------------------------------------------------------------------------------
MANIFEST_BYTES_MAX = 64 * KIB
DOCUMENT_BYTES_MAX = CHUNK_BYTES_MAX  # a document is a chunk
DOCUMENT_DEPTH_MAX = 6
FILES_MAX = 4_000_000  # files in a release: pages of 512 records or more fit the root
RELEASE_BYTES_MAX = 1 << 50  # 1 PiB
PATH_BYTES_MAX = 1024
PATH_COMPONENTS_MAX = 32
COMPONENT_BYTES_MAX = 255  # what file systems allow
TAGS_MAX, TAG_BYTES_MAX = 64, 64
REFERENCES_MAX, REFERENCE_BYTES_MAX = 64, 512  # base models and training datasets named by a manifest
LICENSE_BYTES_MAX = 256
CARD_PATH_BYTES_MAX = PATH_BYTES_MAX

# ---- wire -------------------------------------------------------------------------------------------------------------
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

# ---- trust ------------------------------------------------------------------------------------------------------------
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
METADATA_DEPTH_MAX = 10  # nesting of JSON; TUF itself needs 6
METADATA_INTEGER_MAX = (1 << 53) - 1  # what every JSON reader keeps exact
ANSWERS_MAX = 16  # distinct answers to one question that are looked at
PETNAMES_MAX = 10_000
EVIDENCE_ROWS_MAX = 1024  # equivocations kept; one is enough to halt a publisher
ATTESTATIONS_MAX = 16  # per release
