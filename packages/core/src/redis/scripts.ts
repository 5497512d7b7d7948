/**
 * One hash per account, all instants in milliseconds:
 *
 * - `drained_at`: when the bucket would be empty if no further slot were taken
 * - `paused_until`: end of the last pause
 * - `generation`: drawn anew whenever the history before is unknown
 * - `written_at`: when the two above were written; later than now after the clock was set back, and then they come along
 * - `server`: `run_id` of the server that wrote the row. Another one may have read an old snapshot, or be a replica that
 *   missed the last writes, so what it holds is not the history.
 */
const preamble = `
local now = tonumber(ARGV[1])
if not now then
  local time = redis.call("TIME")
  now = time[1] * 1000 + math.floor(time[2] / 1000)
end
local info = redis.pcall("INFO", "server")
local server = type(info) == "string" and string.match(info, "run_id:(%w+)") or "unknown"
local function text(number)
  return string.format("%.17g", number)
end
local function keepUntil(instant)
  redis.call("PEXPIRE", KEYS[1], math.ceil(math.max(0, instant - now)) + 86400000)
end
`;

/** Values: now, interval, bucket (interval × capacity), pause, a new generation. Gives the wait and the generation. */
export const reserveScript = `${preamble}
local interval, bucket, pause = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local row = redis.call("HMGET", KEYS[1], "drained_at", "paused_until", "generation", "server", "written_at")
local setBack = math.max(0, (tonumber(row[5]) or 0) - now)
local drainedAt, pausedUntil, generation = tonumber(row[1]), (tonumber(row[2]) or 0) - setBack, row[3]
drainedAt = drainedAt and drainedAt - setBack
if not drainedAt or row[4] ~= server then
  drainedAt, generation = now + bucket, ARGV[5]
end
if pause > 0 then
  pausedUntil = math.max(pausedUntil, now + pause)
end
-- After a pause the bucket counts as full: the first slot is its end, the next ones follow at the pace.
drainedAt = math.max(drainedAt, now, pausedUntil + bucket - interval) + interval
redis.call("HSET", KEYS[1], "drained_at", text(drainedAt), "paused_until", text(pausedUntil),
  "generation", generation, "server", server, "written_at", text(now))
keepUntil(drainedAt)
return { math.ceil(math.max(0, drainedAt - bucket - now)), generation }
`;

/** Values: now, pause. */
export const penalizeScript = `${preamble}
local row = redis.call("HMGET", KEYS[1], "drained_at", "paused_until", "written_at")
local setBack = math.max(0, (tonumber(row[3]) or 0) - now)
local pausedUntil = math.max((tonumber(row[2]) or 0) - setBack, now + tonumber(ARGV[2]))
if row[1] and setBack > 0 then
  redis.call("HSET", KEYS[1], "drained_at", text(tonumber(row[1]) - setBack))
end
redis.call("HSET", KEYS[1], "paused_until", text(pausedUntil), "written_at", text(now))
keepUntil(pausedUntil)
return 1
`;

/** Values: now. Gives the generation, or nil when the history is unknown. */
export const generationScript = `${preamble}
local row = redis.call("HMGET", KEYS[1], "generation", "server")
return row[2] == server and row[1] or false
`;

/** Values: now. Forgets the account: it starts with a full bucket, and slots that were handed out are void. */
export const forgetScript = `return redis.call("DEL", KEYS[1])`;
