"""The contract's clauses, in order, each with the words that remind of it."""

from __future__ import annotations

__all__ = ["CLAUSES", "clause_of"]

CLAUSES = {
    "K1": "any text is a key, and no two share data",
    "K2": "what is no key is refused before anything is sent",
    "K3": "namespaces are disjoint",
    "K4": "keys are listed once, in byte order, by literal prefix",
    "K5": "sessions are listed by last write",
    "W0": "expected_version comes first; no-ops change nothing",
    "W1": "one order for every reader",
    "W2": "a batch is atomic and contiguous",
    "W3": "a set is atomic for readers",
    "W4": "no message of concurrent writers is lost",
    "W5": "each pop gets another message",
    "W6": "one message is deleted by index or id",
    "W7": "a session is deleted whole",
    "W8": "adding a message again adds nothing",
    "W9": "versions, and writes that name one",
    "W10": "a failed write happened wholly or not at all, once",
    "W11": "trimming from either end",
    "W12": "a message is replaced in place",
    "W13": "a session's facts and metadata",
    "R1": "reading creates nothing and gives copies",
    "R2": "what was written is read",
    "R3": "n messages move n messages",
    "R4": "a walk sees each message once",
    "R5": "what was acknowledged is there in a new process",
    "M1": "every message comes back equal",
    "M2": "what would not is refused",
    "M3": "large messages and batches",
    "M4": "unreadable records are never passed over in silence",
    "L1": "a session's ttl",
    "L2": "purging",
    "L3": "setting up",
    "U1": "threads, loops, forks",
    "U2": "closing",
    "U3": "a server that is away or silent",
    "U4": "no secret is shown",
    "U5": "wrong URLs are explained",
    "U6": "every error is a ChatStoreError and a builtin",
    "S1": "persist and load between any two stores",
    "S2": "snapshot files are whole, and checked",
    "S3": "files of LlamaIndex",
}


def clause_of(name: str) -> str:
    """The clause that a part belongs to: ``W4`` for ``W4.processes``."""
    return name.partition(".")[0]
