-- What every script of a session begins with.
-- KEYS[1]: the bucket's name; its braces are the hash tag of every key that is derived from it here,
-- so that all of them lie in one slot. ARGV[1]: the session's key.
--
-- h: the head, a hash. s the state (below), m metadata, w the library's own metadata.
-- r: the rows, a list of "<ordinal> <message>".   i: message id -> ordinal, a hash.
-- c0, c1: commands and their answers, strings of fixed records (command.lua).
-- x: command id -> what its record has no room for: the rows it removed, why it was refused; and
--    of every retry, so that it is found at once when its first attempt comes late.
-- Of a bucket: k its sessions by key, t by the minute of the last write, e by expiry, sorted sets.
--
-- The state is packed doubles: they cost a third of as many hash fields and hold whole numbers up
-- to 2^53. dead and repeats (ids may) are 0 or 1. half says which of c0 and c1 takes commands, since
-- when and from which version on; forgotten when the newest forgotten command was done; overtaken
-- until when a first attempt may come after its own retry.
local STATE = '<ddddddddddddd'
local RECORD, RECORD_BYTES = '<c8dI4I4B', 25  -- of a command: id, version, added, cleared, more
local REMEMBER_MS = 60000  -- how long a command is remembered, if not
local REMEMBER = 65536     -- so many changes follow it before
local MINUTE = 60000000

local bucket, key = KEYS[1], ARGV[1]
local head, rows, ids = bucket .. ':h:' .. key, bucket .. ':r:' .. key, bucket .. ':i:' .. key
local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]
local now_ms = math.floor(now / 1000)

local packed = redis.call('HGET', head, 's')
