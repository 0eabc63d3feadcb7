-- The state, taken apart; zeros if the session never was.
-- One table, not thirteen locals: each local that a function below holds is paid at every call.
local S = {}
if packed then
  S.version, S.epoch, S.last_ordinal, S.born, S.updated, S.expires, S.dead, S.repeats, S.half,
    S.since, S.since_version, S.forgotten, S.overtaken = struct.unpack(STATE, packed)
else
  S.version, S.epoch, S.last_ordinal, S.born, S.updated, S.expires, S.dead, S.repeats, S.half,
    S.since, S.since_version, S.forgotten, S.overtaken = 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0
end
local live = S.version > 0 and S.dead == 0 and not (S.expires > 0 and now_ms > S.expires)
